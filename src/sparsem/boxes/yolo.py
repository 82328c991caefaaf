"""Folders of YOLO labels: a text file an image, a line ``class x y width height`` in fractions of the image for each box."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsem.boxes.box_file import MAX_FRACTION, BoxCorners, BoxFile, FileBox, bounding_box
from sparsem.boxes.numbers import parse_json_integer, parse_number
from sparsem.boxes.table_files import read_text
from sparsem.errors import InputError

CLASSES = "classes.txt"
BOX_WORDS = (5, 6)  # a box, and with its score
MIN_POLYGON_WORDS = 7  # the class and three points; one word more is a score


def read_yolo(path: Path) -> BoxFile:
    """Read label files, and the names of the classes in ``classes.txt`` or a ``*.yaml``. An empty label file is an empty image.

    Raises:
        InputError: there are no labels, or no names of classes.
    """
    labels = next(
        (files for folder in (path / "labels", path) if (files := _text_files(folder))), None
    )
    if labels is None:
        raise InputError(
            f"{path} holds no YOLO labels: expected .txt files with a line 'class x y width height' for each box."
        )
    names, has_keypoints = _classes(path)
    out = BoxFile(path, names=list(names.values()), in_fractions=True)
    images: dict[str, int] = {}
    for file in labels:
        where = str(file.relative_to(path))
        if file.stem in images:
            out.lose("label files of the same name", where, images[file.stem], None)
            continue
        image = images[file.stem] = len(out.images)
        out.images.append(file.stem)
        try:
            lines = read_text(file).splitlines()
        except InputError:
            out.lose("label files that cannot be read as text in UTF-8", where, image, None)
            continue
        for number, line in enumerate(lines, 1):
            if line.strip():
                _read_line(
                    out, names, line.split(), f"{file.name} line {number}", image, has_keypoints
                )
    return out


def _read_line(
    out: BoxFile,
    names: dict[int, str],
    words: Sequence[str],
    where: str,
    image: int,
    has_keypoints: bool,
) -> None:
    numbers = [number for number in map(_number, words) if number is not None]
    name = (
        names.get(parse_json_integer(numbers[0]) or 0)
        if numbers and parse_json_integer(numbers[0]) is not None
        else None
    )
    corners = _corners(numbers[1:], has_keypoints) if len(numbers) == len(words) else None
    if corners is None:
        out.lose("lines that are not 'class x y width height'", where, image, name)
    elif name is None:
        out.lose(
            "lines of an unknown class",
            f"{where}: {numbers[0]:g} of {', '.join(map(str, names))}",
            image,
            None,
        )
    elif max(numbers[1:5]) > MAX_FRACTION:
        out.lose("lines in pixels, where fractions of the image are expected", where, image, name)
    else:
        out.boxes.append(FileBox(image, name, corners, where))


def _corners(numbers: Sequence[float], has_keypoints: bool) -> BoxCorners | None:
    """Corners in fractions: of a box, with or without a score and keypoints, or around a polygon; None of what is neither."""
    words = len(numbers) + 1
    if words in BOX_WORDS or (has_keypoints and words > max(BOX_WORDS)):
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if words < MIN_POLYGON_WORDS:
        return None
    return bounding_box(numbers if words % 2 else numbers[:-1])


def _number(word: str) -> float | None:
    number = parse_number(word.replace(",", "."))
    return number if number is not None and math.isfinite(number) else None


def _is_visible(file: Path, folder: Path) -> bool:
    """Return True if no part of a path is hidden, as files and folders are that macOS and editors leave behind."""
    return not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)


def _text_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*.txt")
        if file.name != CLASSES and _is_visible(file, folder) and file.is_file()
    )


def _classes(path: Path) -> tuple[dict[int, str], bool]:
    """Names of classes by their numbers, and whether keypoints follow boxes.

    Raises:
        InputError: no file holds them, two differ, or a name is missing or there twice.
    """
    found: list[tuple[str, dict[int, str]]] = []
    has_keypoints = False
    listed = sorted(file for file in path.rglob(CLASSES) if _is_visible(file, path))
    found += [(str(file.relative_to(path)), _listed(file)) for file in listed]
    for file in sorted(path.glob("*.y*ml")):
        content = _yaml(file) if _is_visible(file, path) else {}
        has_keypoints |= "kpt_shape" in content
        found.append((file.name, _named(file, content.get("names") or [])))
    known = [(file, names) for file, names in found if names]
    if not known:
        raise InputError(
            f"{path} does not say what its classes are called; expected classes.txt, a name a line, or names in a data.yaml."
        )
    first, names = known[0]
    for second, other in known[1:]:
        if other != names:
            raise InputError(
                f"{first} and {second} in {path} name the classes differently; correct or remove one of them."
            )
    if len(set(names.values())) < len(names):
        raise InputError(f"{first} names a class twice: {', '.join(names.values())}.")
    return names, has_keypoints


def _listed(file: Path) -> dict[int, str]:
    """Names of a file with one a line; the first is class 0."""
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            f"{file.name} has no name in line {lines.index('') + 1}; expected the name of a class in every line."
        )
    return dict(enumerate(lines))


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError):
        content = []
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"{file.name} is no YAML with the names of classes; expected 'names:' and a list."
        )
    return content


def _named(file: Path, names: Any) -> dict[int, str]:
    """Names of a YAML: a list, or a dictionary by number."""
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    numbers = [parse_json_integer(key) for key in names] if isinstance(names, dict) else [None]
    if None in numbers:
        raise InputError(
            f"{file.name} is no YAML with the names of classes; expected 'names:' and a list, or a name by number."
        )
    by_number = {
        number: str(name)
        for number, name in zip(numbers, names.values(), strict=True)
        if number is not None
    }
    return dict(sorted(by_number.items()))
