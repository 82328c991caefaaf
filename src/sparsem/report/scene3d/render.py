"""The stage ``render``: stills and turntable videos of structures in 3D."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError, SampleError
from sparsem.progress import Meter
from sparsem.report.layers import StructureLayer, read_layers, refuse_montage, with_object_meshes
from sparsem.report.scene3d.drawing import Rendering, draw_still, draw_turntable
from sparsem.report.scene3d.single_object import (
    box_around_object,
    parse_object,
    select_object_alone,
    select_object_layers,
)
from sparsem.report.scene3d.solids import Box, Cut, Solid, solids_of, volume_box
from sparsem.report.settings import RenderSettings
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import FileResult

# Structures around others are transparent. Where nothing else is drawn, they are opaque.
AROUND_OTHERS = ("cells", "nucleus")
CELL_OPACITY = 0.2
AROUND_OPACITY = 0.35

# Triangles of a structure, if the settings name no number. A frame of a video is drawn in half
# the time with fewer, of which each still covers a few pixels.
STILL_TRIANGLES = 2_000_000
VIDEO_TRIANGLES = 300_000


def render(
    sample: Sample,
    path: str | Path,
    settings: RenderSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> FileResult:
    """Draw structures of a sample: a still (PNG) or a turntable video (MP4).

    Colors are those of the papers: nuclei yellow, nucleoli red, mitochondria pink, endosomes
    white, lysosomes black; every cell has its own, and with ``object_colors`` every object.

    Args:
        sample: the sample to draw.
        path: NAME.png or NAME.mp4; it appears when it is complete.
        settings: structures and view.
        on: ``overwrite`` replaces a file, ``quiet`` shows no progress.

    Raises:
        InputError: the file exists, its ending is not known, or the object does not exist.
        SampleError: there is nothing to draw.
    """
    settings = resolve_settings(RenderSettings, settings, changes)
    path = Path(path)
    ending = path.suffix.lower()
    _check_path(path, on.overwrite)
    layers, box, voxel_um = _layers_to_draw(sample, settings)
    is_video = ending == ".mp4"
    n_video_frames = max(1, round(settings.seconds * settings.frames_per_second))
    n_frames = n_video_frames if is_video else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.partial{ending}")
    with Meter(f"render {path.name}", len(layers) + n_frames, quiet=on.quiet) as meter:
        default_triangles = VIDEO_TRIANGLES if is_video else STILL_TRIANGLES
        n_triangles = default_triangles if settings.triangles is None else settings.triangles
        solids = _solids(layers, box, settings, n_triangles, meter)
        if not any(len(solid.mesh.triangles) for _, solid in solids):
            raise SampleError(_nothing_to_draw(sample, layers, settings))
        size_um = (box[1] - box[0]) * np.array(voxel_um)
        rendering = _rendering_of(layers, solids, size_um, settings)
        if is_video:
            draw_turntable(rendering, unfinished, n_frames, settings.frames_per_second, meter)
        else:
            draw_still(rendering, unfinished, meter)
    unfinished.replace(path)
    return FileResult(path, sample=sample, written=(str(path),))


def _check_path(path: Path, overwrite: bool) -> None:
    """Raise an InputError if a path has another ending, or exists and must not be replaced."""
    if path.suffix.lower() not in (".png", ".mp4"):
        raise InputError(
            f"'render' writes a still NAME.png or a turntable NAME.mp4; got '{path.name}'."
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")


def _rendering_of(
    layers: Sequence[StructureLayer],
    solids: list[tuple[str, Solid]],
    size_um: NDArray[np.float64],
    settings: RenderSettings,
) -> Rendering:
    """Return meshes with their opacity, legend and view."""
    return Rendering(
        solids=solids,
        opacity=_opacities(layers, settings),
        legend=_legend(layers),
        size_um=size_um,
        width=settings.width,
        height=settings.height,
        background=settings.background,
        azimuth=settings.azimuth,
        elevation=settings.elevation,
    )


def _layers_to_draw(
    sample: Sample, settings: RenderSettings
) -> tuple[list[StructureLayer], Box, Sequence[float]]:
    """Return the structures to draw, the box that is drawn, and the voxel size in µm."""
    layers, first = _layers_with_labels(sample, settings)
    refuse_montage(sample, first)
    voxel_um = first.voxel_size.micrometers
    if settings.object_colors:
        layers = with_object_meshes(layers)
    if settings.object is None:
        return layers, volume_box(first), voxel_um
    single = parse_object(settings.object)
    if not single.structure:
        layer, box = select_object_alone(sample, layers, single.number)
        return [layer], box, voxel_um
    box = box_around_object(sample, single)
    return select_object_layers(sample, layers, single, settings.cells), box, voxel_um


def _layers_with_labels(
    sample: Sample, settings: RenderSettings
) -> tuple[list[StructureLayer], Volume]:
    """Return the structures that have labels, at least one, and the labels of the first one."""
    layers, problems = read_layers(sample, settings.structures, settings.cells, {})
    layers = [layer for layer in layers if layer.labels]
    first = layers[0].labels if layers else None
    if first is None:
        no_labels = f"{sample.path.name} has no labels to draw; run 'sparsem predict' first."
        raise SampleError(problems[0] if problems else no_labels)
    return layers, first


def _solids(
    layers: Sequence[StructureLayer],
    box: Box,
    settings: RenderSettings,
    n_triangles: int,
    meter: Meter,
) -> list[tuple[str, Solid]]:
    """Return the meshes of all structures, with the names of their structures."""
    cut = Cut(settings.cut, settings.cut_at) if settings.cut else None
    max_voxels = settings.max_mvoxels * 1e6
    solids = []
    for layer in layers:
        own_solids = solids_of(layer, box, max_voxels, n_triangles, cut)
        solids += [(layer.name, solid) for solid in own_solids]
        meter.step(layer.name)
    return solids


def _nothing_to_draw(
    sample: Sample, layers: Sequence[StructureLayer], settings: RenderSettings
) -> str:
    """Return the message that no structure lies in the part to draw."""
    names = " or ".join(layer.name for layer in layers)
    where = "the part to draw"
    if settings.cut:
        where = "the part that --cut leaves; choose another --cut-at, or leave --cut out"
    return f"There is nothing to draw in {sample.path.name}: no {names} lies in {where}."


def _legend(layers: Sequence[StructureLayer]) -> dict[str, tuple[int, int, int]]:
    """Return the colors that the legend explains; no legend for a single structure."""
    if len(layers) <= 1:
        return {}
    return {layer.name: layer.color for layer in layers if not layer.separate}


def _opacities(layers: Sequence[StructureLayer], settings: RenderSettings) -> dict[str, float]:
    """Return the opacity of every structure; structures around others are transparent."""
    names = {layer.name for layer in layers}
    opacities = {}
    for name in names:
        others = names - {settings.cells, name}
        if name in settings.opacity:
            opacities[name] = settings.opacity[name]
        elif name == settings.cells:
            opacities[name] = CELL_OPACITY if others else 1.0
        else:
            opacities[name] = AROUND_OPACITY if name in AROUND_OTHERS and others else 1.0
    return opacities
