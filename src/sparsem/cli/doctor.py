"""The command that shows what sparsem finds on this machine."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from sparsem import __version__
from sparsem.cli.options import Outcome, command
from sparsem.extras import EXTRAS, is_installed
from sparsem.workflow.execution import Execution

LIBRARIES = (
    "numpy",
    "zarr",
    "numba",
    "opencv-python-headless",
    "scikit-image",
    "torch",
    "openvino",
    "distributed",
)


@command()
def doctor_command(*, on: Execution) -> Outcome:
    """Show versions, device, memory, disk, and which optional parts are installed.

    Copy the output into a question or a bug report:

    sparsem doctor
    """
    data = examine()
    lines = [
        f"sparsem {data['sparsem']}, Python {data['python']}, {data['system']}",
        f"processor: {data['cores']} cores",
        f"memory: {data['memory_gb']:.1f} GB, {data['memory_free_gb']:.1f} GB free",
        f"disk: {data['disk_free_gb']:.1f} GB free in {data['folder']}",
        f"device: {data['device']}",
        f"compiled code is kept in: {data['numba_cache']}",
    ]
    for name, version in data["libraries"].items():
        lines.append(f"{name}: {version or 'not installed'}")
    for extra, is_present in data["extras"].items():
        purpose = EXTRAS[extra][1]
        state = "installed" if is_present else f'missing; pip install "sparsem[{extra}]"'
        lines.append(f"[{extra}] ({purpose}): {state}")
    return Outcome(lines, data=data)


def examine() -> dict[str, Any]:
    """Return versions, memory, device and extras of this machine."""
    memory = psutil.virtual_memory()
    folder = Path.cwd()
    return {
        "sparsem": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": psutil.cpu_count() or 1,
        "memory_gb": memory.total / 1e9,
        "memory_free_gb": memory.available / 1e9,
        "folder": folder,
        "disk_free_gb": psutil.disk_usage(str(folder)).free / 1e9,
        "device": _device(),
        "numba_cache": os.environ.get("NUMBA_CACHE_DIR", "the installation, or else memory"),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "extras": {extra: is_installed(extra) for extra in EXTRAS},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    """Return the device that networks would use."""
    if not is_installed("train"):
        return "none: torch is not installed"
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return f"cuda ({name}, {memory:.0f} GB)"
    if torch.backends.mps.is_available():
        return "mps (Apple GPU)"
    return f"cpu ({torch.get_num_threads()} threads)"
