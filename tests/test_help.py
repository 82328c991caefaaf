"""Help pages: options in groups, values with a word each, and options that messages name."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import sparsem
from sparsem.cli.app import COMMANDS, GROUPS, _load, app

SOURCE = Path(sparsem.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-])")
# Options of other programs: Python, npx serve, napari and Fiji.
OF_OTHERS = {"--plugin", "--cors"}
OF_OTHERS |= {"--nthreads", "--memory-limit", "--lifetime", "--lifetime-stagger"}  # dask worker
OF_OTHERS |= {"--gres", "--constraint", "--nproc-per-node"}  # sbatch, torchrun
OF_OTHERS |= {"--noheader", "--format", "--user"}  # squeue
MAX_UNGROUPED = 12


@cache
def parameters() -> dict[tuple[str, ...], list[Any]]:
    """Return the parameters of every command, by its words."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for name in COMMANDS:
        command = _load(name)
        if name in GROUPS:
            for subcommand in GROUPS[name]:
                found[name, subcommand] = command.commands[subcommand].params
        else:
            found[name,] = command.params
    return found


def option_names() -> set[str]:
    return {
        option
        for params in parameters().values()
        for param in params
        for option in (*param.opts, *param.secondary_opts)
    }


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module and their lines, also the parts of f-strings."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.stem)
def test_options_that_texts_name_exist(file: Path) -> None:
    known = option_names() | OF_OTHERS | {"--version", "--help"}
    unknown = [
        f"{file.name}:{line}: {option}"
        for line, text in texts(file)
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("words", parameters(), ids=" ".join)
def test_long_help_is_in_groups_and_values_have_a_word(words: tuple[str, ...]) -> None:
    options = [param for param in parameters()[words] if isinstance(param, typer.core.TyperOption)]
    ungrouped = [option for option in options if not option.rich_help_panel]
    assert len(ungrouped) <= MAX_UNGROUPED
    text = CliRunner().invoke(app, [*words, "--help"]).stdout
    values = re.findall(r"^  (?:-\w, )?--[\w-]+ (<.*?>)", text, re.MULTILINE)
    assert all("|" in value for value in values), "only a choice of words is in angle brackets"
    assert re.search(r"^  --debug", text, re.MULTILINE)


@pytest.mark.parametrize("words", parameters(), ids=" ".join)
def test_examples_can_be_copied(words: tuple[str, ...]) -> None:
    """Each is a line of its own, names this command, and has options that it knows."""
    text = CliRunner().invoke(app, [*words, "--help"]).stdout
    examples = re.findall(r"^  (sparsem .*)$", text, re.MULTILINE)
    assert examples, "a command has an example"
    known = {name for param in parameters()[words] for name in (*param.opts, *param.secondary_opts)}
    for example in examples:
        given = shlex.split(example)
        assert given.count("sparsem") == 1
        without_sample = given[1:2] if words[1:] == ("sample",) else given[1 : 1 + len(words)]
        assert tuple(without_sample) == (words[:1] if words[1:] == ("sample",) else words)
        assert {word for word in given if word.startswith("--")} <= known


def test_the_list_of_commands_shows_their_whole_help() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "..." not in text.partition("Commands:")[2]
    listed = re.findall(r"^  ([a-z]+) ", text.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


def test_pairs_and_triples_name_their_values() -> None:
    text = CliRunner().invoke(app, ["import", "--help"]).stdout
    assert "--voxel-nm Z Y X" in text
    assert "--intensity-range LOW HIGH" in text
    assert "--ramp START END" in CliRunner().invoke(app, ["train", "--help"]).stdout
    assert "--gray-range LOW HIGH" in CliRunner().invoke(app, ["measure", "--help"]).stdout
