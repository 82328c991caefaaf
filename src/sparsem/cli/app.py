"""The command line: ``sparsem VERB ...``. Exit codes: 0 done, 2 something that you can mend, 130 stopped by you."""

import errno
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sparsem import __version__
from sparsem.cli.console import accept_every_character
from sparsem.errors import SparsemError
from sparsem.settings import nearest

# name -> (module.function, what --help lists). A module loads when one of its commands is called: some load torch, some VTK.
COMMANDS = {
    "demo": ("pipeline.demo", "The whole job on a synthetic tumor volume, in a few minutes."),
    "phantom": ("data.phantom", "Make a synthetic tumor volume with exact truth."),
    "import": ("data.import_", "Bring a stack in."),
    "annotate": ("data.annotate", "Bring hand-labeled slices in, and learn which to label next."),
    "align": ("preprocess.align", "Put every slice over its neighbors: drift, jumps, bad slices."),
    "equalize": (
        "preprocess.equalize",
        "Even out brightness from slice to slice, or within slices.",
    ),
    "denoise": (
        "segment.denoise",
        "Take the noise away, by a network that learns on the sample itself, or without learning.",
    ),
    "quality": (
        "quality.quality",
        "Tell how good the images are, and which slices to look at; compare protocols.",
    ),
    "train": ("segment.train", "Teach a network the structures from the labeled slices."),
    "predict": ("segment.predict", "Find the structures in every slice."),
    "cells": ("cells.cells", "Tell touching cells apart in every slice, from a few labeled ones."),
    "track": ("cells.track", "Give every protrusion its cell, and list where to look."),
    "detect": (
        "detect.detect",
        "Find organelles in boxes, in pictures of any size: learn, find, mask, score, count.",
    ),
    "score": ("segment.score", "Compare labels with truth."),
    "experiment": (
        "experiment.experiment",
        "Answer a question by measuring: how many slices to label, which network, which way with cells.",
    ),
    "constrain": (
        "results.constrain",
        "Hold the structures to biology: nucleoli in nuclei, organelles in cells.",
    ),
    "measure": ("results.measure", "Measure every object and every cell."),
    "report": ("results.report", "Put slices, 3D, plots and tables on one page."),
    "render": ("results.render", "Draw structures in 3D, as a picture or a video."),
    "export": ("results.export", "Write TIFF stacks, tables and meshes for other programs."),
    "info": ("data.info", "Tell what a sample holds, and what was done to it."),
    "remove": ("data.remove", "Take a piece of a sample away."),
    "run": ("pipeline.run", "Walk the whole path from one study.toml."),
}

GROUPS = {
    "annotate": {"import": "annotate_import", "suggest": "annotate_suggest"},
    "experiment": {
        "cells": "experiment_cells",
        "slices": "experiment_slices",
        "models": "experiment_models",
    },
    "detect": {
        "import": "detect_import",
        "train": "detect_train",
        "predict": "detect_predict",
        "constrain": "detect_constrain",
        "masks": "detect_masks",
        "score": "detect_score",
        "count": "detect_count",
        "export": "detect_export",
    },
    "quality": {
        "sample": "quality_sample",
        "images": "quality_images",
        "compare": "quality_compare",
    },
}


class SampleFirst(TyperGroup):
    """A group whose command ``sample`` may go without its name: ``sparsem quality liver.zarr``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if named or not args else ["sample", *args])


class Verbs(TyperGroup):
    """Lists the commands without loading them."""

    listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            ctx.fail(f"There is no command '{cmd_name}'{nearest(cmd_name, COMMANDS)}")
        if self.listing:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        return _load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        super().format_help(ctx, formatter)


def _load(name: str) -> Any:
    module, _, only = COMMANDS[name][0].partition(".")
    commands = import_module(f"sparsem.cli.{module}")
    cls = SampleFirst if "sample" in GROUPS.get(name, {}) else None
    one = typer.Typer(cls=cls, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    if name in GROUPS:
        for verb, function in GROUPS[name].items():
            one.command(verb)(getattr(commands, function))
        one.callback(help=COMMANDS[name][1])(lambda: None)
    else:
        one.command(name)(getattr(commands, only))
    return typer.main.get_command(one)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    help=(
        "From a raw volume-EM stack and a few labeled slices to every organelle. The usual way: import, annotate import, train, "
        "predict, export. Every command can be stopped and run again: it goes on where it was."
    ),
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="print the version")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


AGAIN = "the same command then goes on where it was"


def in_words(error: OSError) -> str:
    """What a file system refused, and what to do about it."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"There is no room left on the disk{' at' if where else ''}{where}; make room: {AGAIN}."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"Writing or reading{where or ' a file'} is not allowed here; choose another place, or ask for the right to it: {AGAIN}."
    if isinstance(error, FileNotFoundError):  # zarr's have no number
        what = where.strip() or str(error).removesuffix(" does not exist") or "A file"
        return f"{what} is gone; if the sample was moved or renamed while it was worked on, move it back: {AGAIN}."
    return str(error)


def main() -> None:
    """Entry point of the ``sparsem`` command."""
    accept_every_character()
    try:
        app()
    except OSError as error:
        typer.echo(f"Error: {in_words(error)}", err=True)
        sys.exit(2)
    except (SparsemError, MemoryError) as error:
        typer.echo(f"Error: {error or 'out of memory'}", err=True)
        sys.exit(2)
    except RuntimeError as error:  # torch has its own way to say that memory is out
        if type(error).__name__ != "OutOfMemoryError":
            raise
        typer.echo(
            "Error: the GPU's memory is out; use a smaller --batch, --input-px or --width, or --device cpu.",
            err=True,
        )
        sys.exit(2)
