"""The command line: ``sparsem COMMAND ...``.

Exit codes: 0 done, 2 something that the user can correct, 130 stopped by the user.
"""

import errno
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sparsem import __version__
from sparsem.cli.console import accept_every_character
from sparsem.cli.help import Command
from sparsem.errors import MissingExtraError, SparsemError
from sparsem.extras import EXTRAS, require
from sparsem.settings import nearest

# Name -> (module, help). A module is imported when one of its commands is called: some load torch,
# some VTK.
COMMANDS = {
    "demo": ("pipeline", "Run the whole study on a synthetic tumor volume, in a few minutes."),
    "phantom": ("data", "Make a synthetic tumor volume with exact ground truth."),
    "import": ("data", "Import a stack."),
    "open": ("window", "Open a window to look at a sample, label, train and review."),
    "annotate": ("annotate", "Import hand-labeled slices, and suggest which to label next."),
    "align": ("preprocess", "Register every slice to those before it; report drift and jumps."),
    "equalize": ("preprocess", "Equalize brightness between slices, or contrast within slices."),
    "denoise": (
        "preprocess",
        "Remove noise, by a network that is trained on the sample or without.",
    ),
    "quality": ("quality", "Measure image quality, list slices to review, compare protocols."),
    "train": ("segment", "Train a segmentation network on the labeled slices."),
    "predict": ("segment", "Predict the structures in every slice."),
    "cells": ("cells", "Separate touching cells in every slice, from a few labeled slices."),
    "track": ("cells", "Assign every protrusion to its cell, and list places to review."),
    "detect": ("detect", "Detect organelles in boxes, in images of any size; count and score."),
    "objects": ("results", "Number the objects of a structure; separate those that touch."),
    "review": ("review", "List the places of a result where a correction helps most."),
    "correct": ("edit", "Import labels of a result that were corrected in another program."),
    "edit": ("edit", "Merge, split, delete and fill objects of a result, and undo it."),
    "score": ("results", "Compare labels with ground truth."),
    "experiment": (
        "experiment",
        "Compare numbers of labeled slices, networks, separations of cells.",
    ),
    "constrain": ("results", "Apply biological constraints, such as nucleoli in nuclei."),
    "measure": ("results", "Measure every object and every cell."),
    "contacts": ("results", "Measure the contacts between objects: area, sites, distance."),
    "skeletons": ("results", "Measure the center lines of objects: length, branches, radii."),
    "compare": ("results", "Compare groups of samples by their measures."),
    "report": ("results", "Write a page with slices, 3D, plots and tables."),
    "render": ("results", "Render structures in 3D, as an image or a video."),
    "export": ("results", "Write TIFF stacks, tables and meshes for other programs."),
    "info": ("samples", "Show what a sample contains, and how it was made."),
    "remove": ("samples", "Remove a part of a sample."),
    "run": ("pipeline", "Run the whole study that a study.toml describes."),
    "doctor": ("doctor", "Show versions, device, memory, and which optional parts are installed."),
}

# Commands with commands of their own.
GROUPS = {
    "annotate": ("import", "suggest"),
    "edit": ("merge", "split", "delete", "keep", "relabel", "fill", "undo", "clear"),
    "experiment": ("cells", "slices", "models"),
    "detect": ("import", "train", "predict", "constrain", "masks", "score", "count", "export"),
    "quality": ("sample", "images", "compare"),
}

RESUMES = "the same command then resumes where it stopped"


class SampleFirst(TyperGroup):
    """A group whose command ``sample`` needs no name, as in ``sparsem quality liver.zarr``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the name of the command where it is missing."""
        has_name = bool(args) and args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if has_name or not args else ["sample", *args])


class LazyCommands(TyperGroup):
    """A group that lists its commands without importing them."""

    is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; while commands are listed, return its name and help only."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # shell completion
                return None
            ctx.fail(f"There is no command '{cmd_name}'{nearest(cmd_name, COMMANDS)}")
        if self.is_listing:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        return _load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        self.is_listing = True
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their whole help, which click would cut at the first line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete names of commands without importing them."""
        self.is_listing = True
        return super().shell_complete(ctx, incomplete)


def _load(name: str) -> Any:
    """Import the module of a command, and return the command."""
    module_name, help_text = COMMANDS[name]
    module = import_module(f"sparsem.cli.{module_name}")
    group = SampleFirst if "sample" in GROUPS.get(name, ()) else None
    commands = typer.Typer(
        cls=group, add_completion=False, rich_markup_mode=None, no_args_is_help=True
    )
    if name in GROUPS:
        for subcommand in GROUPS[name]:
            function = getattr(module, f"{name}_{subcommand}_command")
            commands.command(subcommand, cls=Command)(function)
        commands.callback(help=help_text)(lambda: None)
    else:
        commands.command(name, cls=Command)(getattr(module, f"{name}_command"))
    return typer.main.get_command(commands)


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode=None,
    no_args_is_help=True,
    help=(
        "From a raw volume-EM stack and a few labeled slices to every organelle and every cell. "
        "The usual order: import, "
        "annotate import, train, predict, measure, report. Every command can be stopped and run "
        "again: it resumes where it "
        "stopped."
    ),
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="print the version")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def describe_os_error(error: OSError) -> str:
    """Return what a file system refused, and what to do about it."""
    path = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        location = f" at{path}" if path else ""
        return f"There is no space left on the disk{location}; free some: {RESUMES}."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"Permission denied for{path or ' a file'}; choose another folder, or ask for "
            f"permission: {RESUMES}."
        )
    if isinstance(error, FileNotFoundError):  # zarr's have no number
        name = path.strip() or str(error).removesuffix(" does not exist") or "A file"
        return (
            f"{name} is missing; if the sample was moved or renamed during the work, move it back: "
            f"{RESUMES}."
        )
    return str(error)


def _missing_extra(error: ModuleNotFoundError) -> str:
    """Return the sentence about an optional part whose library is missing.

    Empty for other modules.
    """
    for extra, (module, _) in EXTRAS.items():
        if error.name and error.name.split(".")[0] == module:
            try:
                require(extra)
            except MissingExtraError as missing:
                return str(missing)
    return ""


def run_command_line() -> None:
    """Run the ``sparsem`` command."""
    accept_every_character()
    try:
        app()
    except (SparsemError, MemoryError) as error:
        _exit_with(str(error) or "out of memory")
    except ModuleNotFoundError as error:
        message = _missing_extra(error)
        if not message:
            raise
        _exit_with(message)
    except OSError as error:
        _exit_with(describe_os_error(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's error for the memory of a GPU
            raise
        _exit_with(
            "The memory of the GPU is exhausted; use --device cpu, or a smaller --batch if the "
            "command has one."
        )


def _exit_with(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)
    sys.exit(2)
