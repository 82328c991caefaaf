"""The tests of the window, in a process of their own.

Qt and VTK draw with OpenGL in contexts of their own. In one process, a rendering after a window was
closed ended it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("test_window.py")
NOTHING_RAN = 5  # exit code of pytest


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ, reason="test_window.py runs in this process"
)
def test_the_window() -> None:
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", str(TESTS)]
    result = subprocess.run(
        command,
        cwd=TESTS.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    if result.returncode in (0, NOTHING_RAN) and " passed" not in result.stdout:
        pytest.skip(result.stdout.strip().splitlines()[-2])
    assert result.returncode == 0, result.stdout + result.stderr
