"""The law of layers, and the page that shows it.

A row is a room: a folder of the package, or a few files of its root. A module imports only from
earlier rows, or from its own row as long as no two modules import each other, directly or through
others. ``docs/architecture.md`` is written from this list by ``python -m tests.layers``.
"""

import ast
import graphlib
from pathlib import Path

import sparsem

SOURCE = Path(sparsem.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "architecture.md"

# Name of the row -> what it holds. A root module is named in the row "root" or at the end.
ROWS = {
    "root": "what everything uses: errors, voxel sizes and z-blocks, settings, progress, compiled loops",
    "store": "what is on disk: volumes, samples, coordinate transforms",
    "workflow": "how work is run: stages, blocks, local workers, a cluster, interruption",
    "io": "files of other programs: readers, writers, import of a stack",
    "image": "primitives of one image",
    "phantom": "synthetic tumor volumes with exact ground truth",
    "annotation": "hand-labeled slices and ground truth",
    "labels": "label volumes: overlaps, objects, biological constraints",
    "boxes": "boxes around objects: files, tables, constraints, counts",
    "models": "network architectures, checkpoints, device and memory",
    "preprocess": "alignment, equalization, denoising",
    "quality": "how good the images are",
    "score": "comparison with ground truth",
    "training": "the training loop, shared by pixel networks and detectors",
    "segment": "pixel networks: sampling, training, tiled prediction",
    "review": "places to review, and those that a person accepted",
    "cells": "single cells and their protrusions",
    "measure": "measurements of objects and cells",
    "detect": "detection of objects in boxes, and their masks",
    "report": "pages, plots, 3D, export",
    "experiment": "questions that are answered by measuring",
    "study": "a whole study from one file: the only room that knows all stages",
    "viewer": "the window: a napari plugin",
    "cli": "the command line",
}
ROOT_MODULES = ("sparsem", "errors", "extras", "geometry", "settings", "progress", "compiled")
FACE = "sparsem"  # imports every public name, but lazily: rooms import only its version
LAST_MODULES = ("arrays", "__main__")


def modules() -> dict[str, Path]:
    """Return every module of the package, by its full name."""
    paths = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        paths[name] = path
    return paths


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, at the top or lazily."""
    known = modules()
    if path == known[FACE]:
        return set()
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                names.add(full_name if full_name in known else node.module)
    return {name for name in names if name.split(".")[0] == "sparsem"}


def row_of(module: str) -> int:
    """Return the number of the row in which a module stands.

    Raises:
        KeyError: the module has no row.
    """
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ROWS and (SOURCE / parts[1]).is_dir():
        return list(ROWS).index(parts[1])
    name = parts[-1]
    if name in ROOT_MODULES:
        return 0
    if name in LAST_MODULES:
        return len(ROWS)
    raise KeyError(f"{module} has no row; add it to tests/layers.py")


def ordered(row: int) -> list[str]:
    """Return the modules of a row, each after those that it imports.

    Raises:
        graphlib.CycleError: two modules import each other.
    """
    members = {name: path for name, path in modules().items() if row_of(name) == row}
    graph = {name: imports_of(path) & set(members) - {name} for name, path in members.items()}
    return list(graphlib.TopologicalSorter(graph).static_order())


def page() -> str:
    """Return the text of ``docs/architecture.md``."""
    lines = [
        "# Architecture",
        "",
        "Every row is a room. **A module imports only from earlier rows, or from modules before",
        "it in its own row.** A test reads all imports, lazy ones included, and this page is",
        "written from the list that the test enforces: `python -m tests.layers`.",
        "",
    ]
    for number, (name, description) in enumerate(ROWS.items()):
        short_names = [module.removeprefix("sparsem.") for module in sorted(ordered(number))]
        prefix = f"{name}."
        shown = [module.removeprefix(prefix) for module in short_names if module != name]
        packages = {path.parent.name for path in modules().values() if path.name == "__init__.py"}
        files = [module for module in shown if module not in packages]
        lines += [f"## {number + 1}. {name}", "", f"{description[0].upper()}{description[1:]}.", ""]
        lines += [f"`{'` `'.join(files)}`", ""]
    lines += [
        f"## {len(ROWS) + 1}. faces",
        "",
        "The lazy public names (`sparsem`), single steps on arrays, and the program.",
        "",
        "`arrays` `__main__`",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
