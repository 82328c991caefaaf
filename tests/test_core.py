"""The core runs in an environment of its own, without any extra.

A missing extra is one sentence.
"""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / ".venv-core"  # 'make test' builds it


@pytest.fixture(scope="module")
def python() -> Path:
    candidates = [CORE / "bin" / "python", CORE / "Scripts" / "python.exe"]
    present = [path for path in candidates if path.exists()]
    if not present:
        pytest.skip("'make test' builds the environment of the core")
    return present[0]


def test_the_core_imports_measures_scores_exports_and_reports(python: Path, tmp_path: Path) -> None:
    script = ROOT / "tests" / "core_only.py"
    run = subprocess.run(
        [python, script, tmp_path], capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "s.zarr", "--out", "m.safetensors"], "train"),
        (["predict", "s.zarr", "m.safetensors"], "train"),
        (["detect", "train", "s.zarr", "--out", "d.safetensors"], "train"),
        (["run", "study.toml"], "train"),
        (["demo"], "train"),
    ],
)
def test_a_command_of_a_missing_extra_is_one_sentence(
    python: Path, tmp_path: Path, words: list[str], extra: str
) -> None:
    run = subprocess.run(
        [python, "-m", "sparsem", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert f'pip install "sparsem[{extra}]"' in run.stderr


def test_the_doctor_names_what_is_missing(python: Path) -> None:
    run = subprocess.run(
        [python, "-m", "sparsem", "doctor"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "device: none: torch is not installed" in run.stdout
    assert "[render]" in run.stdout
    assert 'pip install "sparsem[render]"' in run.stdout
