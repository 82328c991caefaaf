"""Output where not every character can be shown."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numba import njit

from sparsem.cli.console import HANDLER, accept_every_character
from sparsem.compiled import compiled
from sparsem.progress import time_left


def sparsem(*words: str, encoding: str, folder: Path) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "sparsem", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_help_is_text_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    shown = sparsem("align", "--help", encoding=encoding, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert ("≥" if encoding == "utf-8" else ">=") in shown.stdout.decode(encoding)


def test_a_path_outside_of_the_encoding_is_written_as_escapes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 32, 32), np.uint8), photometric="minisblack")
    shown = sparsem(
        "import", "a.tif", "Ω.zarr", "--voxel-nm", "8", "4", "4", encoding="cp1252", folder=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "Wrote \\u03a9.zarr" in shown.stdout.decode("cp1252")
    refused = sparsem("info", "Ψ.zarr", encoding="cp1252", folder=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr.decode("cp1252")


def test_characters_become_plain_ones_and_others_escapes() -> None:
    accept_every_character()
    assert "2 µm³ ≥ 1 → ‘x’ Ω\udcff".encode("ascii", HANDLER) == b"2 um3 >= 1 -> 'x' \\u03a9\\udcff"
    assert "µm³ ≥".encode("cp1252", HANDLER).decode("cp1252") == "µm³ >="


def test_what_cannot_be_cached_is_compiled_in_every_process() -> None:
    names: dict[str, object] = {}
    exec(
        "def double(values):\n    return 2 * values", names
    )  # of no file, beside which compiled code could lie
    double = names["double"]
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(double, cache=True)
    np.testing.assert_array_equal(compiled()(double)(np.arange(3)), [0, 2, 4])  # type: ignore[arg-type]


def test_a_path_with_a_space_is_shown_as_it_is_typed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 32, 32), np.uint8), photometric="minisblack")
    shown = sparsem(
        "import",
        "a.tif",
        "my liver.zarr",
        "--voxel-nm",
        "8",
        "4",
        "4",
        encoding="utf-8",
        folder=tmp_path,
    )
    following = next(
        line for line in shown.stdout.decode().splitlines() if line.startswith("Next: ")
    )
    words = shlex.split(following.partition(";")[0].removeprefix("Next: "))
    assert words[:4] == ["sparsem", "annotate", "suggest", "my liver.zarr"]
    assert sparsem(*words[1:], encoding="utf-8", folder=tmp_path).returncode == 0


def test_debug_shows_where_an_error_arose(tmp_path: Path) -> None:
    for words, shown in ((["info", "s.zarr"], False), (["info", "s.zarr", "--debug"], True)):
        refused = sparsem(*words, encoding="utf-8", folder=tmp_path)
        assert refused.returncode == 2
        assert ("Traceback" in refused.stderr.decode()) is shown
        assert (
            refused.stderr.decode()
            .splitlines()[-1]
            .startswith("Error: There is no sample at s.zarr")
        )


@pytest.mark.parametrize(
    ("done", "undone", "seconds", "expected"),
    [
        (1, 9, 60.0, ""),  # one step is no basis
        (10, 10, 2.0, ""),  # nor are two seconds
        (10, 0, 60.0, ""),
        (10, 10, 60.0, "60 s left"),
        (10, 50, 60.0, "5 min left"),
        (10, 5000, 60.0, "8.3 h left"),
    ],
)
def test_time_left_has_a_basis(done: int, undone: int, seconds: float, expected: str) -> None:
    assert time_left(done, undone, seconds) == expected
