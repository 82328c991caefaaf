"""Settings: frozen models that reject unknown keys and name the nearest known one.

Every stage has one subclass, in the module ``settings`` of its room, which imports nothing that
takes long. TOML files, the command line and the viewer are generated from it, so a default, its
range and its help text exist once.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from sparsem.errors import SettingsError

MAX_SLICES = 1_000_000
RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
FINGERPRINT = re.compile(r"[0-9a-f]{32}.*")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SLICES = " slices"  # ending of the keys of a record that hold a fingerprint for each slice
INPUT = "input "  # beginning of the keys of a record that hold the fingerprint of an input
MAX_SHOWN = 60  # characters of a value in a message


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error.

    ``OPTION_GROUPS`` sorts the options of the command line: title of a group -> names of fields.
    """

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {}

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _accept_paths(cls, value: Any) -> Any:
        """Return a ``Path`` as text, so that a field that holds a file or an address takes both."""
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, list | tuple) and any(isinstance(part, os.PathLike) for part in value):
            return tuple(map(os.fspath, value))
        return value


S = TypeVar("S", bound=Settings)

Precision = Literal["auto", "float32", "bfloat16"]  # of a network on its device
PredictPrecision = Precision | Literal["int8"]
Optimizer = Literal["muon", "adam"]  # of the weights of a pixel network
Engine = Literal["auto", "openvino", "torch"]  # what computes networks on a processor
Interpolation = Literal["nearest", "linear", "cubic"]  # between the pixels of an image


def named_values(value: Any, example: str) -> Any:
    """Return ``["a=1", "b=2"]``, as a command line gives it, as a dictionary.

    Return other values as they are.

    Raises:
        ValueError: a part is not NAME=VALUE; the message shows the example.
    """
    if not isinstance(value, list | tuple):
        return value
    named = {}
    for part in value:
        name, _, content = str(part).partition("=")
        if not name or not content:
            raise ValueError(f"expected NAME=VALUE, for example {example}")
        named[name] = content
    return named


def parse(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Validate ``values`` as ``model``; ``where`` (a file, a command) opens the error message.

    Raises:
        SettingsError: a key is unknown (the message names the nearest known one), a type is wrong,
            or a value out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        sentences = [_sentence(model, detail, where) for detail in error.errors()]
        raise SettingsError("; ".join(sentences)) from None


def changed(settings: S, changes: Mapping[str, Any], where: str = "settings") -> S:
    """Return settings with some of their fields replaced, and validated anew.

    Raises:
        SettingsError: a name is no field, or a value is out of range.
    """
    return parse(type(settings), {**dict(settings), **changes}, where)


def resolve_settings(model: type[S], settings: S | None, changes: Mapping[str, Any]) -> S:
    """Return the settings of a stage that is called as ``stage(sample, settings, **changes)``.

    Without ``settings`` the defaults of ``model`` count; ``changes`` replace single fields.

    Raises:
        SettingsError: a name is no field, a value is out of range, or a required field is missing.
    """
    if settings is None:
        return parse(model, changes, model.__name__)
    if not changes:
        return settings
    return changed(settings, changes, model.__name__)


def _sentence(model: type[BaseModel], detail: ErrorDetails, where: str) -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known_keys = _known_keys(model, location[:-1])
        return f"{where}: unknown key '{key}'{nearest(str(location[-1]), known_keys)}"
    if detail["type"] == "missing":
        return f"{where}: the key '{key}' is required and was not given"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: '{key}' was given as {detail['input']!r}: {message[:1].lower()}{message[1:]}"


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """Return the keys of the model at a location within nested settings."""
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        field = fields.get(str(part))
        if field is not None:  # else ``part`` is a key of a dictionary of models
            model = _model_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the settings model of a field: itself, optional, or the values of a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        model = _model_in(argument)
        if model is not None:
            return model
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: what was probably meant, and what exists.

    >>> nearest("strcture", ["structure", "seed"])
    "; did you mean 'structure'? Known: seed, structure."
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else "."
    return f"{guess} Known: {', '.join(names) if names else 'none'}."


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SettingsError: the file is missing or is not TOML.
    """
    try:
        content = path.read_bytes()
        # Windows' editors and PowerShell open a file with a byte order mark, which TOML does not
        # know.
        encoding = "utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig"
        return tomllib.loads(content.decode(encoding))
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"Cannot read the settings file {path}: {reason}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the keys in which two flat records differ: ``another image, batch: 5 -> 8``.

    Fingerprints are not shown, since they say nothing to a reader. Next to the fingerprint ``NAME``
    of an annotation a record may hold ``NAME slices``, slice to fingerprint: then the slices that
    differ are named instead.
    """
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    explained = set()  # keys that another key explains
    for key in keys:
        if not key.endswith(SLICES):
            continue
        name = key.removesuffix(SLICES)
        names_slices = isinstance(before.get(key), Mapping) and isinstance(now.get(key), Mapping)
        if names_slices:
            explained.add(name)
        elif name in keys:
            explained.add(key)
    sentences = [
        _difference(key, before.get(key), now.get(key)) for key in keys if key not in explained
    ]
    return ", ".join(sentences)


def _difference(key: str, before: Any, now: Any) -> str:
    if key.endswith(SLICES) and isinstance(before, Mapping) and isinstance(now, Mapping):
        return _different_slices(key.removesuffix(SLICES), before, now)
    name = key.removeprefix(INPUT)
    if not _is_fingerprint(before) and not _is_fingerprint(now):
        return f"{name}: {_shorten(before)} -> {_shorten(now)}"
    if now is None:
        return f"without {name}"
    if before is None:
        return f"now with {name}"
    is_plural = name.split()[0].endswith("s")
    return f"other {name}" if is_plural else f"another {name}"


def _different_slices(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    slices = [z for z in {**before, **now} if before.get(z) != now.get(z)]
    noun = "slice" if len(slices) == 1 else "slices"
    return f"other labels of {name} on {noun} {', '.join(sorted(slices, key=int))}"


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and FINGERPRINT.fullmatch(value) is not None


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def parsed_slices(text: str) -> list[int]:
    """Return slice numbers in the order in which they are given; ranges are inclusive.

    >>> parsed_slices("1-3,9")
    [1, 2, 3, 9]

    Raises:
        ValueError: the text is no list of numbers, a range runs backwards or is too long, or a
            slice is given twice.
    """
    without_spaces = re.sub(r"\s*-\s*", "-", text.strip())
    numbers: list[int] = []
    for part in re.split(r"[,\s]+", without_spaces):
        if not part:
            continue
        match = RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"expected numbers and ranges such as 0,13,26 or 10-20; got '{text}'")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"the range {part} runs backwards; write {last}-{first}")
        if len(numbers) + last - first >= MAX_SLICES:
            raise ValueError(f"{part} is too long; expected at most {MAX_SLICES} slices")
        numbers += range(first, last + 1)
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            raise ValueError(f"slice {number} is given twice in '{text}'")
        seen.add(number)
    return numbers


def _as_text(value: Any) -> Any:
    """Return a number, or a list of numbers and ranges, as one text.

    Return other values as they are.
    """
    parts = [value] if isinstance(value, int) else value
    is_list = isinstance(parts, list | tuple)
    if not is_list or not all(isinstance(part, int | str) for part in parts):
        return value
    return ",".join(map(str, parts))


def _as_numbers(value: Any) -> Any:
    text = _as_text(value)
    return tuple(parsed_slices(text)) if isinstance(text, str) else value


def _as_names(value: Any) -> Any:
    """Return names that are separated by commas, or a list of such texts, as a tuple of names."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    names = [name.strip() for part in parts for name in part.split(",")]
    return tuple(name for name in names if name)


@dataclass(frozen=True)
class OptionName:
    """The name of a field on the command line, where it differs from the name of the field.

    ``structures`` is ``--structure``, which can be repeated.
    """

    name: str


@dataclass(frozen=True)
class Metavar:
    """The word for the value of a field in the help of the command line, such as ``LOW HIGH``."""

    text: str


# Every field of settings that takes slices has one of these types, so that all take 5, [0, 9] and
# "10-20,40".
SliceNumbers = Annotated[tuple[int, ...], BeforeValidator(_as_numbers), Metavar("SLICES")]
# A word is possible too, such as "non-empty" or "all".
SliceChoice = Annotated[str, BeforeValidator(_as_text), Metavar("SLICES")]

# Every field of settings that takes structures has this type, so that all take "nucleus", ["a",
# "b"] and "a,b".
StructureNames = Annotated[
    tuple[str, ...], BeforeValidator(_as_names), OptionName("structure"), Metavar("NAME")
]

ObjectNames = Annotated[tuple[str, ...], BeforeValidator(_as_names), Metavar("NAME")]

# Pairs and triples of numbers, by the words for them in the help.
Range = Annotated[tuple[float, float], Metavar("LOW HIGH")]
VoxelNm = Annotated[tuple[float, float, float], Metavar("Z Y X")]
