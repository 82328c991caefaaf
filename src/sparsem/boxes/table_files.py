"""Tables of boxes with a row for each box.

CSV as programs and spreadsheets write it, and the same rows in JSON as pandas writes them.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
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
# Line by which Excel is given the separator of a file.
SEPARATOR_LINE = re.compile(r"sep=([,;|\t])[ ]*(?:\r?\n|$)", re.IGNORECASE)
MAX_SHOWN = 200  # characters of a header in a message

Row = tuple[str, list[str]]  # position for messages, and values
ImageKey = tuple[str, int | None]  # name of an image, and its slice number


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        InputError: the file cannot be read, or has another encoding, which only its author knows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be read as text ({error.strerror or error})."
        ) from None
    text = _decode(path, content)
    if "\0" in text:
        raise InputError(
            f"{path.name} cannot be read as text: it holds bytes of 0; save it as UTF-8, in Excel "
            "as 'CSV UTF-8'."
        )
    return text


def _decode(path: Path, content: bytes) -> str:
    """Return bytes in UTF-8, or in UTF-16 with a byte order mark, as text."""
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        encoding = f"UTF-8 (byte 0x{content[error.start]:02x} in line {line})"
        if is_utf16:
            encoding = "UTF-16"
        raise InputError(
            f"{path.name} cannot be read as text: it is not in {encoding}; save it as UTF-8, in "
            "Excel as 'CSV UTF-8'."
        ) from None


def column_separator(text: str) -> str:
    """Return the separator of a table: the most frequent of ``, ; tab`` in its first line.

    Text in quotes is not counted.
    """
    first_line = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    return max(",;\t", key=first_line.count)


def read_csv(path: Path) -> BoxFile:
    """Read a table with a header and a row for each box.

    Raises:
        InputError: the file is no such table.
    """
    text = read_text(path)
    first_line = 1
    separator_line = SEPARATOR_LINE.match(text)
    if separator_line:
        separator = separator_line[1]
        text = text[separator_line.end() :]
        first_line = 2
    else:
        separator = column_separator(text)
    rows = _csv_rows(path, text, separator, first_line)
    if not rows:
        raise InputError(
            f"{path.name} is empty; expected a header such as image,class,x0,y0,x1,y1 and a row "
            "for each box."
        )
    _, header = rows[0]
    return _read_rows(path, header, rows[1:], separator)


def _csv_rows(path: Path, text: str, separator: str, first_line: int) -> list[Row]:
    """Return the rows of a CSV that hold any text, the header included.

    Raises:
        InputError: the text is no CSV.
    """
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    rows: list[Row] = []
    try:
        for values in reader:
            words = [word.strip() for word in values]
            if any(words):
                rows.append((f"line {reader.line_num + first_line - 1}", words))
    except csv.Error as error:
        raise InputError(
            f"{path.name} cannot be read as CSV ({error}); is a quotation mark left open?"
        ) from None
    return rows


def read_records(path: Path, records: Sequence[Any]) -> BoxFile:
    """Read rows of JSON, each a dictionary of the columns of a table.

    Raises:
        InputError: columns are missing.
    """
    keys: dict[str, None] = {}  # in the order of their appearance
    for record in records:
        if isinstance(record, dict):
            keys |= dict.fromkeys(map(str, record))
    header = list(keys)
    rows: list[Row] = []
    for number, record in enumerate(records, 1):
        values = [record.get(key) for key in header] if isinstance(record, dict) else []
        words = ["" if value is None else str(value).strip() for value in values]
        rows.append((f"row {number}", words))
    return _read_rows(path, header, rows, ",")


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns in a row, and the form of its numbers.

    Attributes:
        image: column of the name of the image, if there is one.
        slice: column of the slice number, if there is one.
        kind: column of the class.
        numbers: columns of the four numbers of a box.
        are_corners: the numbers are x0 y0 x1 y1, and not x y width height.
        count: number of columns of the header.
        decimal: decimal mark of the numbers.
    """

    image: int | None
    slice: int | None
    kind: int
    numbers: tuple[int, ...]
    are_corners: bool
    count: int
    decimal: Decimal

    def corners(self, values: Sequence[str]) -> BoxCorners | None:
        """Return the four corners in a row; None if they are not numbers."""
        numbers = [parse_number(values[column], self.decimal) for column in self.numbers]
        if None in numbers:
            return None
        first, second, third, fourth = (
            math.nan if number is None else number for number in numbers
        )
        if self.are_corners:
            return first, second, third, fourth
        return first, second, first + third, second + fourth

    def image_of(self, values: Sequence[str]) -> tuple[str, int | None]:
        """Return the name and the slice number that a row states for its image."""
        name = ""
        if self.image is not None and self.image < len(values):
            name = image_stem(values[self.image])
        if self.slice is None or self.slice >= len(values):
            return name, None
        number = parse_number(values[self.slice], self.decimal)
        if number is None or number < 0 or not number.is_integer():
            return name, None
        return name, int(number)

    def class_of(self, values: Sequence[str]) -> str:
        """Return the class in a row; empty if the row is too short."""
        return _class_name(values[self.kind]) if self.kind < len(values) else ""

    def may_be_thousands(self, values: Sequence[str]) -> bool:
        """Return True if the marks in a number of a row may be thousands or decimals."""
        if self.decimal != "?":
            return False
        words = [values[column] for column in self.numbers]
        return any(
            parse_number(word, "?") is None and parse_number(word, ".") is not None
            for word in words
        )


def _read_rows(path: Path, header: Sequence[str], rows: Sequence[Row], separator: str) -> BoxFile:
    """Return the boxes and faults of the rows below a header."""
    columns = _columns(path, header, rows, separator)
    file = BoxFile(path)
    images: dict[ImageKey, int] = {}
    for position, cells in rows:
        values = cells
        if not any(cells[columns.count :]):  # spreadsheets add empty cells
            values = cells[: columns.count]
        image = _image_index(file, images, columns.image_of(values))
        class_name = columns.class_of(values)
        is_complete = len(values) == columns.count
        if class_name and class_name not in file.class_names and is_complete:
            file.class_names.append(class_name)
        _read_row(file, columns, values, position, image, class_name)
    if not file.boxes and not file.faults:
        raise InputError(
            f"{path.name} holds no box; expected a row for each box under the header "
            f"{_listed(header)}."
        )
    return file


def _image_index(file: BoxFile, images: dict[ImageKey, int], key: ImageKey) -> int | None:
    """Return the index of an image, which is added to the file if it is new; None without a key."""
    name, z = key
    if not name and z is None:
        return None
    image = images.setdefault(key, len(file.images))
    if image == len(file.images):
        file.images.append(name)
        if z is not None:
            file.numbers[image] = z
    return image


def _read_row(
    file: BoxFile,
    columns: _Columns,
    values: Sequence[str],
    position: str,
    image: int | None,
    class_name: str,
) -> None:
    """Add the box of a row, or its fault."""
    if len(values) != columns.count:
        kind = "rows of another length than the header"
        position = f"{position}: {len(values)} of {columns.count} values"
        file.add_lost_box(kind, position, image, None)
        return
    if image is None or not class_name:
        kind = "rows without image or class"
        file.add_lost_box(kind, position, image, class_name or None)
        return
    if columns.may_be_thousands(values):
        kind = "rows whose numbers may be thousands or decimals; write them without separators"
        file.add_lost_box(kind, position, image, class_name)
        return
    corners = columns.corners(values)
    if corners is None:
        file.add_lost_box("rows whose corners are not numbers", position, image, class_name)
    else:
        file.boxes.append(FileBox(image, class_name, corners, position))


def _columns(path: Path, header: Sequence[str], rows: Sequence[Row], separator: str) -> _Columns:
    """Return the columns that a header names.

    Raises:
        InputError: a column is missing, or occurs twice.
    """
    keys = [_column_key(word) for word in header]
    image = _first_column(IMAGE_KEYS, keys)
    number = _first_column(SLICE_KEYS, keys)
    kind = _first_column(CLASS_KEYS, keys)
    corner_keys = _first_present(CORNER_KEYS, keys)
    box_keys = corner_keys or _first_present(EXTENT_KEYS, keys)
    if (image is None and number is None) or kind is None or not box_keys:
        raise InputError(
            f"{path.name} has the columns {_listed(header)}; expected an image (image or z), a "
            "class, and x0, y0, x1, y1 or x, y, width, height."
        )
    numbers = tuple(keys.index(name) for name in box_keys)
    _refuse_double_columns(path, header, keys, (image, number, kind, *numbers))
    words = _words_of_numbers(rows, numbers, len(header))
    decimal = decimal_mark(words, separator)
    return _Columns(image, number, kind, numbers, bool(corner_keys), len(header), decimal)


def _column_key(word: str) -> str:
    """Return the letters and digits of a name of a column in lower case, without a unit."""
    without_unit = UNIT.sub("", word.strip().lower())
    return re.sub(r"[\W_]", "", without_unit)


def _listed(header: Sequence[str]) -> str:
    """Return the names of columns for messages."""
    return ", ".join(header)[:MAX_SHOWN]


def _refuse_double_columns(
    path: Path, header: Sequence[str], keys: Sequence[str], columns: Sequence[int | None]
) -> None:
    """Raise an InputError if another column has the name of one of some columns."""
    for column in columns:
        if column is not None and keys.count(keys[column]) > 1:
            raise InputError(
                f"{path.name} has two columns called '{header[column]}' ({_listed(header)}); "
                "remove one of them."
            )


def _words_of_numbers(rows: Sequence[Row], columns: Sequence[int], n_columns: int) -> list[str]:
    """Return all words in the columns of numbers, of rows that are as long as the header."""
    words: list[str] = []
    for _, values in rows:
        if len(values) >= n_columns:
            words += [values[column] for column in columns if values[column]]
    return words


def _first_column(names: Sequence[str], keys: Sequence[str]) -> int | None:
    """Return the column with the first of some names that occurs; None if none does."""
    return next((keys.index(name) for name in names if name in keys), None)


def _first_present(choices: Sequence[tuple[str, ...]], keys: Sequence[str]) -> tuple[str, ...]:
    """Return the first group of names that all occur; empty if there is none."""
    return next((names for names in choices if set(names) <= set(keys)), ())


def _class_name(word: str) -> str:
    """Return a class; a number that was saved as 1.0 is 1."""
    return word.removesuffix(".0") if re.fullmatch(r"\d+\.0", word) else word


def rows_of_json_table(value: Any) -> list[Any] | None:
    """Return the rows of a table in JSON, as pandas writes it: records, split, or columns.

    The result is None if this is no table.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    columns = value.get("columns")
    data = value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        names = [str(column) for column in columns]
        return [
            dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in data
        ]
    if value and all(isinstance(column, dict) for column in value.values()):
        return _rows_of_columns(value)
    return None


def _rows_of_columns(columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    row_names = dict.fromkeys(row for column in columns.values() for row in column)
    return [{name: column.get(row) for name, column in columns.items()} for row in row_names]
