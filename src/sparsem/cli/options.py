"""The adapter from a settings model to command-line options.

So an option exists once, with its default, range and help.
"""

import inspect
import json
import math
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sparsem.settings import Metavar, OptionName, Settings, parse
from sparsem.workflow.execution import Execution

COMMON_OPTIONS = "Common options"

# Name -> type, default, help. They mean the same in every command.
SHARED: dict[str, tuple[Any, Any, str]] = {
    "workers": (int, 0, "local worker processes; 0 works in this process"),
    "scheduler": (str | None, None, "address of a running Dask scheduler, such as tcp://node:8786"),
    "cluster": (
        Path | None,
        None,
        "file of a batch system (SLURM, PBS, SGE, LSF), whose jobs do the work",
    ),
    "overwrite": (bool, False, "replace a result that was computed with other settings"),
    "quiet": (bool, False, "show no progress"),
    "debug": (bool, False, "show where in the program an error arose"),
    "json": (bool, False, "print one JSON object on standard output, for scripts"),
}
SPREADING = ("workers", "scheduler", "cluster")
EXECUTION = ("workers", "scheduler", "cluster", "overwrite", "quiet")

# Ends of the names of fields that say the unit of their number.
UNITS = ("NM", "PX", "UM", "UM2", "UM3", "NM2", "MVOXELS", "S", "DEGREES", "MINUTES")

LIMITS = (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))


@dataclass(frozen=True)
class Outcome:
    """The result of a command.

    Attributes:
        lines: text for a person.
        following: the next command to try.
        data: the same as data, for a script.
    """

    lines: list[str]
    following: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def show(self, as_json: bool) -> None:
        """Print the result on standard output."""
        if as_json:
            plain = json.loads(json.dumps(self.data, default=_plain_value))
            typer.echo(json.dumps(_without_nan(plain), allow_nan=False))
            return
        for line in self.lines:
            typer.echo(line)
        if self.following:
            typer.echo(f"Next: {self.following}")


Command = Callable[..., Outcome]
SamplePath = Annotated[Path, typer.Argument(metavar="SAMPLE", help="a sample, NAME.zarr")]


def command(
    model: type[Settings] | None = None, spread: bool = False
) -> Callable[[Command], Callable[..., None]]:
    """Return a decorator that turns ``function(arguments..., settings, on)`` into a command.

    The command has an option for each field of ``model``, and the common options. The function's
    parameters other than ``settings`` and ``on`` stay as they are.

    Args:
        model: the settings of the stage.
        spread: the work can be given to workers.
    """
    fields = dict(model.model_fields) if model else {}
    common = [name for name in SHARED if spread or name not in SPREADING]

    def wrap(function: Command) -> Callable[..., None]:
        def run(**values: Any) -> None:
            execution = Execution(
                **{name: values.pop(name) for name in EXECUTION if name in common}
            )
            as_json = values.pop("json")
            show_traceback = values.pop("debug")
            given = {name: values.pop(name) for name in fields}
            settings = {"settings": _parse_options(model, given)} if model else {}
            try:
                function(**values, **settings, on=execution).show(as_json)
            except Exception:
                if show_traceback:
                    traceback.print_exc()
                raise

        arguments = inspect.signature(function).parameters.values()
        parameters = [
            *_keyword_only(arguments),
            *(_field_option(name, info, _group_of(model, name)) for name, info in fields.items()),
            *(_shared_option(name) for name in common),
        ]
        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return wrap


def _keyword_only(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters
        if parameter.name not in ("settings", "on")
    ]


def _parse_options(model: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Return settings from the options of a command line.

    Options that were not given have the value None.
    """
    fields = model.model_fields
    values = {
        name: _split_numbers(value, fields[name])
        for name, value in given.items()
        if value is not None
    }
    return parse(model, values, "command line")


def _group_of(model: type[Settings] | None, name: str) -> str:
    """Return the group of an option in the help; empty for an option outside of groups."""
    for base in model.__mro__ if model else ():
        for title, names in vars(base).get("OPTION_GROUPS", {}).items():
            if name in names:
                return str(title)
    return ""


def _field_option(name: str, info: FieldInfo, group: str) -> inspect.Parameter:
    """Return the option of a field."""
    kind = _command_line_type(info.annotation)
    default = None if info.default is PydanticUndefined else info.default
    if kind == list[str]:
        default = None  # such an option is repeated; without it the model's default counts
    limits = [text for constraint in info.metadata if (text := _limit(constraint))]
    help_text = info.description or ""
    if limits:
        help_text += f" [{', '.join(limits)}]"
    option = typer.Option(
        *_flags(name, info, kind),
        help=help_text,
        show_default=default is not None,
        metavar=_metavar(name, info, kind),
        rich_help_panel=group or None,
    )
    annotation: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _flags(name: str, info: FieldInfo, kind: Any) -> list[str]:
    """Return the names of an option: ``-n``, ``--max-shift-nm`` or ``--texture/--no-texture``."""
    for metadata in info.metadata:
        if isinstance(metadata, OptionName):
            return [f"--{metadata.name}"]
    if len(name) == 1:
        return [f"-{name}"]
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return [f"{flag}/--no-{flag.removeprefix('--')}"]
    return [flag]


def _metavar(name: str, info: FieldInfo, kind: Any) -> str | None:
    """Return the word for the value of an option in the help; None for a choice of words."""
    for metadata in (*info.metadata, *_metadata_within(info.annotation)):
        if isinstance(metadata, Metavar):
            return metadata.text
    if typing.get_origin(_without_none(info.annotation)) is dict:
        return "NAME=VALUE"
    word = name.rpartition("_")[2].upper()
    if typing.get_origin(kind) is tuple:
        return " ".join([word] * len(typing.get_args(kind)))
    if kind is bool or typing.get_origin(kind) is typing.Literal:
        return None
    if kind in (int, float) and word not in UNITS:
        return "N" if kind is int else "VALUE"
    return word


def _metadata_within(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of the parts of a type, such as ``Annotated[...] | None``."""
    yield from getattr(annotation, "__metadata__", ())
    for part in typing.get_args(annotation):
        yield from _metadata_within(part)


def _without_none(annotation: Any) -> Any:
    """Return a type without ``| None``; of other unions the first type."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation


def _split_numbers(value: Any, info: FieldInfo) -> Any:
    """Return numbers that were given one by one, or with commas between them, as a list."""
    types_within = typing.get_args(info.annotation)
    is_open_tuple = len(types_within) == 2 and types_within[1] is Ellipsis
    if not is_open_tuple:
        return value
    is_number = typing.get_origin(types_within[0]) is Annotated or types_within[0] in (int, float)
    if not is_number:
        return value
    return [number for text in value for number in text.split(",") if number]


def _command_line_type(annotation: Any) -> Any:
    """Return the type of a field in a shell.

    Tuples of fixed length are as many words, other collections repeat the option.
    """
    if typing.get_origin(annotation) is Annotated:
        return _command_line_type(typing.get_args(annotation)[0])
    not_none = _without_none(annotation)
    if not_none is not annotation:
        return _command_line_type(not_none)
    if typing.get_origin(annotation) is dict:
        return list[str]
    if typing.get_origin(annotation) is tuple and Ellipsis in typing.get_args(annotation):
        return list[str]
    return annotation


def _limit(constraint: Any) -> str:
    for sign, key in LIMITS:
        if hasattr(constraint, key):
            return f"{sign} {getattr(constraint, key)}"
    return ""


def _shared_option(name: str) -> inspect.Parameter:
    kind, default, help_text = SHARED[name]
    metavar = {"workers": "N", "scheduler": "ADDRESS", "cluster": "FILE.toml"}.get(name)
    option = typer.Option(
        f"--{name}", help=help_text, metavar=metavar, rich_help_panel=COMMON_OPTIONS
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _without_nan(value: Any) -> Any:
    """Return JSON data with null in place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _plain_value(value: Any) -> Any:
    """Return a path as text and an array or number of numpy as plain Python."""
    return str(value) if isinstance(value, Path) else value.tolist()
