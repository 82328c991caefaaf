"""The adapter from a settings model to command-line options: an option exists once, with its default, range and help."""

import inspect
import json
import math
import os
import shlex
import subprocess
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sparsem.settings import Settings, parse
from sparsem.workflow.execution import Execution

SHARED = {
    "workers": (int, 0, "local worker processes; 0 works in this one"),
    "scheduler": (str | None, None, "address of a running Dask scheduler, such as tcp://node:8786"),
    "overwrite": (bool, False, "replace a result that was made with other settings"),
    "quiet": (bool, False, "no progress"),
    "debug": (bool, False, "show where in the program an error arose"),
    "json": (bool, False, "one JSON object on standard output, for scripts"),
}


SPREADING = ("workers", "scheduler")


@dataclass(frozen=True)
class Outcome:
    """What a command did: lines for a person, the next command to try, and the same as data for a script."""

    lines: list[str]
    following: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def show(self, as_json: bool) -> None:
        """Print it on standard output."""
        if as_json:
            typer.echo(
                json.dumps(
                    _without_nan(json.loads(json.dumps(self.data, default=_plain))), allow_nan=False
                )
            )
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
    """Turn ``function(arguments..., settings, on)`` into a command with an option for each field of ``model``.

    The function's own parameters other than ``settings`` and ``on`` stay as they are. ``spread`` says that its work can be
    given to workers.
    """

    def wrap(function: Command) -> Callable[..., None]:
        own = [
            one
            for one in inspect.signature(function).parameters.values()
            if one.name not in ("settings", "on")
        ]
        fields = dict(model.model_fields) if model else {}
        options = [_option(name, about) for name, about in fields.items()]
        common = [name for name in SHARED if spread or name not in SPREADING]
        shared = [_shared_option(name) for name in common]

        def run(**values: Any) -> None:
            execution = Execution(
                **{name: values.pop(name) for name in common if name not in ("json", "debug")}
            )
            as_json, show_traceback = values.pop("json"), values.pop("debug")
            given = {name: _separated(values.pop(name), about) for name, about in fields.items()}
            settings = (
                {
                    "settings": parse(
                        model,
                        {key: value for key, value in given.items() if value is not None},
                        "command line",
                    )
                }
                if model
                else {}
            )
            try:
                function(**values, **settings, on=execution).show(as_json)
            except Exception:
                if show_traceback:
                    traceback.print_exc()
                raise

        parameters = [
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
            *options,
            *shared,
        ]
        run.__doc__, run.__name__ = function.__doc__, function.__name__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return wrap


def _option(name: str, about: FieldInfo) -> inspect.Parameter:
    kind, default = (
        _command_line_type(about.annotation),
        None if about.default is PydanticUndefined else about.default,
    )
    if kind == list[str]:
        default = None  # given several times; nothing given leaves the model's default
    flags = (
        [f"-{name}"]
        if len(name) == 1
        else [
            f"--{name.replace('_', '-')}"
            + (f"/--no-{name.replace('_', '-')}" if kind is bool else "")
        ]
    )
    limits = [text for one in about.metadata if (text := _limit(one))]
    text = (about.description or "") + (f" [{', '.join(limits)}]" if limits else "")
    words = len(typing.get_args(kind)) if typing.get_origin(kind) is tuple else 1
    # What the library shows of several numbers looks as if commas were asked for.
    metavar = " ".join([name.rpartition("_")[2].upper()] * words) if words > 1 else None
    option = typer.Option(*flags, help=text, show_default=default is not None, metavar=metavar)
    annotation: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _separated(value: Any, about: FieldInfo) -> Any:
    """Several numbers may be given one by one, or with commas between them."""
    kinds = typing.get_args(about.annotation)
    number = (
        typing.get_origin(kinds[0]) is Annotated or kinds[0] in (int, float)
        if len(kinds) == 2 and kinds[1] is Ellipsis
        else False
    )
    return [part for one in value for part in one.split(",") if part] if number and value else value


def _command_line_type(annotation: Any) -> Any:
    """How a field's type is given in a shell: tuples of fixed length as that many words, other collections word by word."""
    if typing.get_origin(annotation) is Annotated:
        return _command_line_type(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return _command_line_type(
            next(one for one in typing.get_args(annotation) if one is not type(None))
        )
    if typing.get_origin(annotation) is dict:
        return list[str]
    if typing.get_origin(annotation) is tuple and Ellipsis in typing.get_args(annotation):
        return list[str]
    return annotation


def _limit(constraint: Any) -> str:
    for sign, key in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt")):
        if hasattr(constraint, key):
            return f"{sign} {getattr(constraint, key)}"
    return ""


def _shared_option(name: str) -> inspect.Parameter:
    kind, default, text = SHARED[name]
    option = typer.Option(f"--{name}", help=text, rich_help_panel="Common options")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _without_nan(value: Any) -> Any:
    """JSON knows no numbers that are none: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.tolist()


def in_shell(path: str | Path) -> str:
    """Return a path as it is typed in a shell: in quotes if it holds a space or another character that means something there."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def size_in_words(shape: Sequence[int]) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape))


def lengths_in_words(lengths: Sequence[float]) -> str:
    """Lengths for people."""
    return " x ".join(f"{length:g}" for length in lengths)
