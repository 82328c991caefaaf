"""Surfaces of structures as meshes in one file: GLB, STL or OBJ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.labels.object_index import object_index
from sparsem.progress import Meter
from sparsem.report.layers import (
    StructureLayer,
    read_layers,
    refuse_montage,
    require_numbers,
    with_object_meshes,
)
from sparsem.report.mesh_file import MeshFile
from sparsem.report.scene3d.solids import Solid, full_solids, solids_of, volume_box
from sparsem.report.settings import ExportSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import Execution
from sparsem.workflow.result import FileResult

# A file of meshes can be sent by mail. What a mesh and a triangle take in a GLB file:
MAX_BYTES = 4_900_000
MESH_BYTES = 900
TRIANGLE_BYTES = 18.5


@dataclass(frozen=True)
class ExportResult(FileResult):
    """The result of ``export``.

    Attributes:
        meshes: number of meshes; 0 for voxels and tables.
        triangles: triangles of all meshes.
        simplification: how meshes were simplified, as a sentence; empty if they were not.
    """

    meshes: int = 0
    triangles: int = 0
    simplification: str = ""


def write_meshes(
    sample: Sample, names: Sequence[str], path: Path, settings: ExportSettings, on: Execution
) -> ExportResult:
    """Write the surfaces of structures into one file.

    Args:
        sample: with labels of the structures.
        names: of the structures.
        path: the file, which is replaced; its ending names the format.
        settings: which object, and how fine meshes are.
        on: ``overwrite`` replaces the colors of an OBJ, ``quiet`` shows no progress.

    Raises:
        InputError: there is no such object, or the file of colors exists.
        SampleError: there are no labels, they are empty, or their objects have no numbers.
    """
    layers = with_object_meshes(_layers_with_labels(sample, names, settings))
    plans = [_plan_meshes(sample, layer, settings, on.quiet) for layer in layers]
    n_meshes = sum(plan.n_meshes for plan in plans)
    n_triangles = _triangle_limit(n_meshes, len(plans), settings)
    file = MeshFile(path)
    with Meter(f"export {path.name}", n_meshes + 1, quiet=on.quiet) as meter:
        for plan in plans:
            for solid in plan.solids(n_triangles, settings.max_mvoxels * 1e6):
                file.add(solid, plan.name_of(solid))
                meter.step(plan.layer.name)
        if not file.n_meshes:
            raise SampleError(
                f"There is nothing to write: no voxel of {sample.path.name} is labeled as "
                f"{' or '.join(names)}."
            )
        simplification = _simplification(file)
        file.write(simplification, on.overwrite)
        meter.step()
    return ExportResult(
        path,
        file.n_meshes,
        file.n_triangles,
        simplification,
        sample=sample,
        written=(str(path),),
    )


def _triangle_limit(n_meshes: int, n_structures: int, settings: ExportSettings) -> int:
    """Return the number of triangles of the meshes of a structure; 0 for no limit."""
    if settings.triangles == 0:
        return 0
    as_in_mail = int((MAX_BYTES - n_meshes * MESH_BYTES) / TRIANGLE_BYTES)
    n_triangles = as_in_mail if settings.triangles is None else settings.triangles
    return max(1, n_triangles // n_structures)


class _MeshPlan(NamedTuple):
    """The meshes of a structure.

    Attributes:
        layer: the structure.
        labels: its labels.
        objects: boxes and voxels of its objects, see ``object_boxes``; None for a mask.
    """

    layer: StructureLayer
    labels: Volume
    objects: NDArray[np.int64] | None

    @property
    def n_meshes(self) -> int:
        """Number of meshes."""
        return 1 if self.objects is None else len(self.objects)

    def name_of(self, solid: Solid) -> str:
        """Return the name of a mesh in the file."""
        return f"{self.layer.name} {solid.name}" if self.layer.separate else self.layer.name

    def solids(self, n_triangles: int, max_voxels: float) -> Iterator[Solid]:
        """Return the meshes, with about so many triangles together; 0 for no limit."""
        if self.objects is None:
            return solids_of(self.layer, volume_box(self.labels), max_voxels, n_triangles)
        return full_solids(self.labels, self.objects, max_voxels, n_triangles)


def _plan_meshes(
    sample: Sample, layer: StructureLayer, settings: ExportSettings, quiet: bool
) -> _MeshPlan:
    """Return the meshes that a layer with labels gets.

    Raises:
        InputError: ``settings.object`` is no object of it.
    """
    labels = layer.labels
    assert labels is not None
    if settings.object is not None:
        require_numbers(sample, layer)
    if not layer.separate:
        return _MeshPlan(layer, labels, None)
    index = object_index(sample, labels.directory.name, quiet)
    objects = index.objects()
    if settings.object is not None:
        index.of([settings.object])
        objects = objects[objects[:, 0] == settings.object]
    return _MeshPlan(layer, labels, objects)


def _simplification(file: MeshFile) -> str:
    """Return how the meshes of a file were simplified, as a sentence; empty if they were not."""
    if file.n_triangles == file.n_full_triangles:
        return ""
    return (
        f"Simplified from {file.n_full_triangles} to {file.n_triangles} triangles; every object "
        "keeps the volume of its voxels within 1 %."
    )


def _layers_with_labels(
    sample: Sample, names: Sequence[str], settings: ExportSettings
) -> list[StructureLayer]:
    """Return the structures of a stack that have labels, at least one."""
    layers, problems = read_layers(sample, names, settings.cells, {})
    layers = [layer for layer in layers if layer.labels]
    if problems:
        raise SampleError(problems[0])
    if not layers:
        raise SampleError(f"{sample.path.name} has no labels; run 'sparsem predict' first.")
    for layer in layers:
        if layer.labels:
            refuse_montage(sample, layer.labels)
    return layers
