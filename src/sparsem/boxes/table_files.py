"""Tables of boxes, a row a box: CSV as programs and spreadsheets write it, and the same rows in JSON as pandas writes them."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsem.boxes.box_file import BoxCorners, BoxFile, FileBox, image_stem
from sparsem.boxes.numbers import Decimal, decimal_mark, parse_number
from sparsem.errors import InputError

# Names of columns as letters and digits in lower case.
IMAGE_KEYS = ("image", "picture", "file", "filename", "imageid")
SLICE_KEYS = ("z", "slice")
CLASS_KEYS = ("class", "label", "structure", "name", "category")
CORNER_KEYS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
EXTENT_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"))
UNIT = re.compile(r"[\s_]*[(\[]?\b(?:px|pixels?)[)\]]?$|_px$")
SEPARATOR_LINE = re.compile(
    r"sep=([,;|\t])[ ]*(?:\r?\n|$)", re.IGNORECASE
)  # by which Excel is given the separator of a file

Row = tuple[str, list[str]]  # position for messages, and values


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        InputError: it cannot be read, or is of another encoding, which only its author knows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be read as text ({error.strerror or error})."
        ) from None
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = (
            "UTF-16" if is_utf16 else f"UTF-8 (byte 0x{content[error.start]:02x} in line {line})"
        )
        raise InputError(
            f"{path.name} cannot be read as text: it is not in {found}; save it as UTF-8, in Excel as 'CSV UTF-8'."
        ) from None
    if "\0" in text:
        raise InputError(
            f"{path.name} cannot be read as text: it holds bytes of 0; save it as UTF-8, in Excel as 'CSV UTF-8'."
        )
    return text


def column_separator(text: str) -> str:
    """Return what separates the values of a table: the most frequent of ``, ; tab`` in its first line, outside of quotes."""
    first = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    return max(",;\t", key=first.count)


def read_csv(path: Path) -> BoxFile:
    """Read a table with a header and a row a box.

    Raises:
        InputError: it is no such table.
    """
    text = read_text(path)
    line = SEPARATOR_LINE.match(text)
    separator = line[1] if line else column_separator(text)
    first_line = 2 if line else 1
    reader = csv.reader(
        io.StringIO(text[line.end() :] if line else text, newline=""),
        delimiter=separator,
        skipinitialspace=True,
    )
    rows: list[Row] = []
    try:
        rows += [
            (f"line {reader.line_num + first_line - 1}", [word.strip() for word in values])
            for values in reader
        ]
    except csv.Error as error:
        raise InputError(
            f"{path.name} cannot be read as CSV ({error}); is a quotation mark left open?"
        ) from None
    rows = [row for row in rows if any(row[1])]
    if not rows:
        raise InputError(
            f"{path.name} is empty; expected a header such as image,class,x0,y0,x1,y1 and a row a box."
        )
    return _read(path, rows[0][1], rows[1:], separator)


def read_records(path: Path, records: Sequence[Any]) -> BoxFile:
    """Read rows of JSON: each a dictionary of the columns of a table.

    Raises:
        InputError: they lack columns.
    """
    header = list(
        dict.fromkeys(str(key) for record in records if isinstance(record, dict) for key in record)
    )
    rows: list[Row] = []
    for number, record in enumerate(records, 1):
        values = [record.get(key) for key in header] if isinstance(record, dict) else []
        rows.append(
            (f"row {number}", ["" if value is None else str(value).strip() for value in values])
        )
    return _read(path, header, rows, ",")


@dataclass(frozen=True)
class _Columns:
    """Positions of columns in a row, and how its numbers are written."""

    image: int | None
    slice: int | None
    kind: int
    numbers: tuple[int, ...]
    are_corners: bool
    count: int
    decimal: Decimal

    def corners(self, values: Sequence[str]) -> BoxCorners | None:
        """The four corners in a row; None if they are no numbers."""
        numbers = [parse_number(values[column], self.decimal) for column in self.numbers]
        a, b, c, d = (math.nan if number is None else number for number in numbers)
        if None in numbers:
            return None
        return (a, b, c, d) if self.are_corners else (a, b, a + c, b + d)

    def image_of(self, values: Sequence[str]) -> tuple[str, int | None]:
        """Name and slice number that a row states of its image, as far as it goes."""
        name = (
            image_stem(values[self.image])
            if self.image is not None and self.image < len(values)
            else ""
        )
        if self.slice is None or self.slice >= len(values):
            return name, None
        number = parse_number(values[self.slice], self.decimal)
        is_slice = number is not None and number >= 0 and number.is_integer()
        return name, int(number) if is_slice and number is not None else None

    def may_be_thousands(self, values: Sequence[str]) -> bool:
        """Return True if a number of a row can be read in two ways."""
        words = [values[column] for column in self.numbers]
        return self.decimal == "?" and any(
            parse_number(word, "?") is None and parse_number(word, ".") is not None
            for word in words
        )


def _read(path: Path, header: Sequence[str], rows: Sequence[Row], separator: str) -> BoxFile:
    columns = _columns(path, header, rows, separator)
    out, images = BoxFile(path), dict[tuple[str, int | None], int]()
    for where, cells in rows:
        values = (
            cells if any(cells[columns.count :]) else cells[: columns.count]
        )  # spreadsheets add empty cells
        name = _class_name(values[columns.kind]) if columns.kind < len(values) else ""
        called, z = columns.image_of(values)
        image = None
        if called or z is not None:
            image = images.setdefault((called, z), len(out.images))
        if image == len(out.images):
            out.images.append(called)
            out.numbers |= {} if z is None else {image: z}
        if name and name not in out.names and len(values) == columns.count:
            out.names.append(name)
        _read_row(out, columns, values, where, image, name)
    if not out.boxes and not out.faults:
        raise InputError(
            f"{path.name} holds no box; expected a row for each under the header {', '.join(header)[:200]}."
        )
    return out


def _read_row(
    out: BoxFile, columns: _Columns, values: Sequence[str], where: str, image: int | None, name: str
) -> None:
    """Add the box of a row, or its fault."""
    if len(values) != columns.count:
        out.lose(
            "rows of another length than the header",
            f"{where}: {len(values)} of {columns.count} values",
            image,
            None,
        )
    elif image is None or not name:
        out.lose("rows without image or class", where, image, name or None)
    elif columns.may_be_thousands(values):
        out.lose(
            "rows whose numbers may be thousands or decimals; write them without separators",
            where,
            image,
            name,
        )
    elif (corners := columns.corners(values)) is None:
        out.lose("rows whose corners are no numbers", where, image, name)
    else:
        out.boxes.append(FileBox(image, name, corners, where))


def _columns(path: Path, header: Sequence[str], rows: Sequence[Row], separator: str) -> _Columns:
    keys = [re.sub(r"[\W_]", "", UNIT.sub("", word.strip().lower())) for word in header]
    image, number, kind = (_first(names, keys) for names in (IMAGE_KEYS, SLICE_KEYS, CLASS_KEYS))
    corners, extent = (
        next((names for names in choices if set(names) <= set(keys)), ())
        for choices in (CORNER_KEYS, EXTENT_KEYS)
    )
    listed = ", ".join(header)[:200]
    if (image is None and number is None) or kind is None or not (corners or extent):
        raise InputError(
            f"{path.name} has the columns {listed}; expected an image (image or z), a class, and x0, y0, x1, y1 or x, y, width, height."
        )
    numbers = tuple(keys.index(name) for name in corners or extent)
    for column in (image, number, kind, *numbers):
        if column is not None and keys.count(keys[column]) > 1:
            raise InputError(
                f"{path.name} has two columns called '{header[column]}' ({listed}); remove one of them."
            )
    words = [
        values[column] for _, values in rows if len(values) >= len(header) for column in numbers
    ]
    return _Columns(
        image,
        number,
        kind,
        numbers,
        bool(corners),
        len(header),
        decimal_mark(filter(None, words), separator),
    )


def _first(names: Sequence[str], keys: Sequence[str]) -> int | None:
    return next((keys.index(name) for name in names if name in keys), None)


def _class_name(word: str) -> str:
    """A class; numbers of classes that were saved as 1.0 are 1."""
    return word.removesuffix(".0") if re.fullmatch(r"\d+\.0", word) else word


def rows_of_json_table(value: Any) -> list[Any] | None:
    """Return the rows of a table in JSON, as pandas writes it: records, split, or columns; None of what is no table."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        return [
            dict(zip(map(str, columns), row, strict=False)) if isinstance(row, list) else row
            for row in data
        ]
    if value and all(isinstance(column, dict) for column in value.values()):
        return list(_rows_of_columns(value))
    return None


def _rows_of_columns(columns: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        yield {name: column.get(row) for name, column in columns.items()}
