"""Settings: frozen models that reject unknown keys by naming the nearest known one.

Every stage declares one subclass beside its function. TOML files, the command line and the viewer are made from it, so a
default, its range and its help text exist once.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sparsem.errors import SettingsError

MAX_SLICES = 1_000_000
RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SLICES = " slices"  # ending of the keys of a record that hold a fingerprint for each slice


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=Settings)


def named_values(value: Any, example: str) -> Any:
    """``["a=1", "b=2"]``, as a command line gives it, as a dictionary; a dictionary stays.

    Raises:
        ValueError: a part is not NAME=VALUE; the example is shown.
    """
    if not isinstance(value, list | tuple):
        return value
    parts = [str(one).partition("=") for one in value]
    if not all(name and given for name, _, given in parts):
        raise ValueError(f"expected NAME=VALUE, for example {example}")
    return {name: given for name, _, given in parts}


def parse(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Validate ``values`` as ``model``; ``where`` (a file, a command) opens the error message.

    Raises:
        SettingsError: an unknown key (the nearest known one is named), a wrong type, a value out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(
            "; ".join(_sentence(model, detail, where) for detail in error.errors())
        ) from None


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
    return changed(settings, changes, model.__name__) if changes else settings


def _sentence(model: type[BaseModel], detail: ErrorDetails, where: str) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'{nearest(str(detail['loc'][-1]), _known_keys(model, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{where}: the key '{key}' is required and was not given"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: '{key}' was given as {detail['input']!r}: {message[:1].lower()}{message[1:]}"


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    for part in location:
        fields = {about.alias or name: about for name, about in model.model_fields.items()}
        if (
            part in fields
        ):  # else it is the name of an entry in a table of tables, whose model we hold already
            model = _model_in(fields[str(part)].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings model of a field: itself, optional, or the values of a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(one) for one in get_args(annotation))
    return next((one for one in found if one is not None), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """End of an error message: what was probably meant, and what there is.

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
        # Windows' editors and PowerShell open a file with a byte order mark, which TOML does not know.
        return tomllib.loads(
            content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
        )
    except OSError as error:
        raise SettingsError(
            f"Cannot read the settings file {path}: {error.strerror or error}."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the keys in which two flat records differ: ``another image, batch: 5 -> 8``; a fingerprint tells nobody more.

    Next to the fingerprint ``NAME`` of an annotation a record may hold ``NAME slices``, slice -> fingerprint: then the slices that
    differ are named instead.
    """
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    tables = [key for key in keys if key.endswith(SLICES)]
    by_slice = {
        key
        for key in tables
        if isinstance(before.get(key), Mapping) and isinstance(now.get(key), Mapping)
    }
    explained = {key.removesuffix(SLICES) for key in by_slice}
    explained |= {key for key in tables if key not in by_slice and key.removesuffix(SLICES) in keys}
    named = [
        _difference(key, before.get(key), now.get(key)) for key in keys if key not in explained
    ]
    return ", ".join(named)


def _difference(key: str, before: Any, now: Any) -> str:
    if key.endswith(SLICES) and isinstance(before, Mapping) and isinstance(now, Mapping):
        slices = sorted({z for z in {**before, **now} if before.get(z) != now.get(z)}, key=int)
        return f"other labels of {key.removesuffix(SLICES)} on {'slice' if len(slices) == 1 else 'slices'} {', '.join(slices)}"
    prints = [
        re.fullmatch(r"[0-9a-f]{32}.*", value) for value in (before, now) if isinstance(value, str)
    ]
    if any(prints):
        what = key.removeprefix("input ")
        other = "other" if what.split()[0].endswith("s") else "another"
        return (
            f"without {what}"
            if now is None
            else f"now with {what}"
            if before is None
            else f"{other} {what}"
        )
    return f"{key.removeprefix('input ')}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parsed_slices(text: str) -> list[int]:
    """Return the numbers of slices, in the order in which they are given; ranges are inclusive.

    >>> parsed_slices("1-3,9")
    [1, 2, 3, 9]

    Raises:
        ValueError: not a list of numbers, a range that runs backwards or is too long, or a slice
            that is given twice.
    """
    joined = re.sub(r"\s*-\s*", "-", text.strip())
    numbers: list[int] = []
    for part in re.split(r"[,\s]+", joined):
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
    """A number, or a list of numbers and ranges, as one text; anything else stays."""
    parts = [value] if isinstance(value, int) else value
    if not isinstance(parts, list | tuple) or not all(
        isinstance(part, int | str) for part in parts
    ):
        return value
    return ",".join(map(str, parts))


def _as_numbers(value: Any) -> Any:
    text = _as_text(value)
    return tuple(parsed_slices(text)) if isinstance(text, str) else value


# Every field of settings that takes slices has one of these types, so that all take 5, [0, 9] and "10-20,40".
SliceNumbers = Annotated[tuple[int, ...], BeforeValidator(_as_numbers)]
SliceChoice = Annotated[str, BeforeValidator(_as_text)]  # or a word, such as "non-empty" or "all"
