"""Folders of YOLO labels: a text file for each image, a line for each box.

A line is ``class x y width height`` in fractions of the image.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsem.boxes.box_file import MAX_FRACTION, BoxCorners, BoxFile, FileBox, bounding_box
from sparsem.boxes.numbers import parse_json_integer, parse_number
from sparsem.boxes.table_files import read_text
from sparsem.errors import InputError

CLASSES_FILE = "classes.txt"
BOX_WORDS = (5, 6)  # words of a box, and of a box with its score
MIN_POLYGON_WORDS = 7  # the class and three points; one word more is a score


def read_yolo(path: Path) -> BoxFile:
    """Read label files, and the names of the classes in ``classes.txt`` or a ``*.yaml``.

    An empty label file is an empty image.

    Raises:
        InputError: there are no labels, or no names of classes.
    """
    label_files = _text_files(path / "labels") or _text_files(path)
    if not label_files:
        raise InputError(
            f"{path} holds no YOLO labels: expected .txt files with a line 'class x y width "
            "height' for each box."
        )
    names, has_keypoints = _classes(path)
    out = BoxFile(path, class_names=list(names.values()), in_fractions=True)
    images: dict[str, int] = {}
    for file in label_files:
        position = str(file.relative_to(path))
        if file.stem in images:
            out.add_lost_box("label files of the same name", position, images[file.stem], None)
            continue
        image = len(out.images)
        images[file.stem] = image
        out.images.append(file.stem)
        _read_label_file(out, names, file, position, image, has_keypoints)
    return out


def _read_label_file(
    out: BoxFile,
    names: Mapping[int, str],
    file: Path,
    position: str,
    image: int,
    has_keypoints: bool,
) -> None:
    """Add the boxes and faults of the label file of an image."""
    try:
        lines = read_text(file).splitlines()
    except InputError:
        kind = "label files that cannot be read as text in UTF-8"
        out.add_lost_box(kind, position, image, None)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            position = f"{file.name} line {number}"
            _read_line(out, names, line.split(), position, image, has_keypoints)


def _read_line(
    out: BoxFile,
    names: Mapping[int, str],
    words: Sequence[str],
    position: str,
    image: int,
    has_keypoints: bool,
) -> None:
    """Add the box of a line, or its fault."""
    numbers = [number for number in map(_finite_number, words) if number is not None]
    name = _class_of(numbers, names)
    corners = None
    if len(numbers) == len(words):
        corners = _corners(numbers[1:], has_keypoints)
    if corners is None:
        kind = "lines that are not 'class x y width height'"
        out.add_lost_box(kind, position, image, name)
    elif name is None:
        position = f"{position}: {numbers[0]:g} of {', '.join(map(str, names))}"
        out.add_lost_box("lines of an unknown class", position, image, None)
    elif max(numbers[1:5]) > MAX_FRACTION:
        kind = "lines in pixels, where fractions of the image are expected"
        out.add_lost_box(kind, position, image, name)
    else:
        out.boxes.append(FileBox(image, name, corners, position))


def _class_of(numbers: Sequence[float], names: Mapping[int, str]) -> str | None:
    """Return the class that the first number of a line stands for; None if it is not known."""
    if not numbers:
        return None
    class_number = parse_json_integer(numbers[0])
    return None if class_number is None else names.get(class_number)


def _corners(numbers: Sequence[float], has_keypoints: bool) -> BoxCorners | None:
    """Return the corners of a line, in fractions.

    The line holds a box, with or without a score and keypoints, or a polygon; None if neither.
    """
    n_words = len(numbers) + 1
    if n_words in BOX_WORDS or (has_keypoints and n_words > max(BOX_WORDS)):
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if n_words < MIN_POLYGON_WORDS:
        return None
    return bounding_box(numbers if n_words % 2 else numbers[:-1])


def _finite_number(word: str) -> float | None:
    number = parse_number(word.replace(",", "."))
    return number if number is not None and math.isfinite(number) else None


def _is_visible(file: Path, folder: Path) -> bool:
    """Return True if no part of a path is hidden, as macOS and editors hide their files."""
    return not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)


def _text_files(folder: Path) -> list[Path]:
    """Return the visible label files in a folder and its subfolders, sorted."""
    return sorted(
        file
        for file in folder.rglob("*.txt")
        if file.name != CLASSES_FILE and _is_visible(file, folder) and file.is_file()
    )


def _classes(path: Path) -> tuple[dict[int, str], bool]:
    """Return the names of the classes by their numbers, and True if keypoints follow boxes.

    Raises:
        InputError: no file holds them, two files differ, or a name is missing or occurs twice.
    """
    files, has_keypoints = _files_with_classes(path)
    known = [(file_name, names) for file_name, names in files if names]
    if not known:
        raise InputError(
            f"{path} does not name its classes; expected classes.txt, a name a line, or names in a "
            "data.yaml."
        )
    first_file, names = known[0]
    for other_file, other_names in known[1:]:
        if other_names != names:
            raise InputError(
                f"{first_file} and {other_file} in {path} name the classes differently; correct or "
                "remove one of them."
            )
    if len(set(names.values())) < len(names):
        raise InputError(f"{first_file} names a class twice: {', '.join(names.values())}.")
    return names, has_keypoints


def _files_with_classes(path: Path) -> tuple[list[tuple[str, dict[int, str]]], bool]:
    """Return the names of files with the classes in them, and True if keypoints follow boxes."""
    listings = [file for file in sorted(path.rglob(CLASSES_FILE)) if _is_visible(file, path)]
    files = [(str(file.relative_to(path)), _listed_classes(file)) for file in listings]
    has_keypoints = False
    for file in sorted(path.glob("*.y*ml")):
        content = _read_yaml(file) if _is_visible(file, path) else {}
        has_keypoints |= "kpt_shape" in content
        files.append((file.name, _yaml_classes(file, content.get("names") or [])))
    return files, has_keypoints


def _listed_classes(file: Path) -> dict[int, str]:
    """Return the classes of a file with a name a line; the first is class 0."""
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            f"{file.name} has no name in line {lines.index('') + 1}; expected the name of a class "
            "in every line."
        )
    return dict(enumerate(lines))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError):
        content = []
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"{file.name} is not a YAML file with the names of classes; expected 'names:' and a "
            "list."
        )
    return content


def _yaml_classes(file: Path, names: Any) -> dict[int, str]:
    """Return the classes of a YAML file: a list, or a dictionary by number."""
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    by_number: dict[int, str] = {}
    if isinstance(names, dict):
        for key, name in names.items():
            number = parse_json_integer(key)
            if number is None:
                break
            by_number[number] = str(name)
        else:
            return dict(sorted(by_number.items()))
    raise InputError(
        f"{file.name} is not a YAML file with the names of classes; expected 'names:' and a list, "
        "or a name by number."
    )
