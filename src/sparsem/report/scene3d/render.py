"""Stills and turntable videos of structures in 3D, drawn off-screen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sparsem.errors import InputError, SampleError
from sparsem.labels.results import is_outdated, result_labels
from sparsem.progress import Meter
from sparsem.report.layers import Layer, layers_of
from sparsem.report.scene3d.solids import Axis, Box, Cut, Solid, solids_of, whole_box
from sparsem.settings import Settings, named_values, resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution

MARGIN = 0.05  # of an object's box, around it
MIDDLE_GRAY = (
    "#7d8791"  # behind names that are written in their colors, of which one is white and one black
)
AROUND = ("cells", "nucleus")  # seen through where something else is shown


class RenderSettings(Settings):
    """What is drawn, from where."""

    structure: tuple[str, ...] = Field(
        (), description="structure to draw; repeat it for each; every result if not given"
    )
    cells: str = Field("cells", description="name of the cells")
    object: str | None = Field(
        None,
        description="NAME=NUMBER, draw only that object of its table, what lies in it, and what it lies in",
    )
    cut: Axis | None = Field(
        None, description="cut open across this axis, so that one sees inside: z, y or x"
    )
    cut_at: float = Field(0.5, ge=0, le=1, description="where it is cut, as a part of the length")
    opacity: dict[str, float] = Field(
        {},
        description="NAME=OPACITY of a structure, 0 to 1; 0.2 for cells, 0.35 for nuclei around others",
    )
    azimuth: float = Field(30, description="turn of the view around the vertical axis, degrees")
    elevation: float = Field(25, ge=-90, le=90, description="height of the view, degrees")
    width: int = Field(1600, ge=64, le=8192, description="pixels")
    height: int = Field(1200, ge=64, le=8192, description="pixels")
    max_mvoxels: float = Field(
        48,
        gt=0,
        description="million voxels a structure is drawn from; beyond that a coarser level is read",
    )
    triangles: int = Field(2_000_000, ge=0, description="triangles a structure; 0 for all")
    background: str = Field("white", description="a color, such as white, black or #202830")
    seconds: float = Field(8, gt=0, description="length of a turntable video")
    frames_per_second: int = Field(25, ge=1, description="of a video")

    @field_validator("opacity", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return named_values(value, "nucleus=0.3")


def render(
    sample: Sample,
    path: str | Path,
    settings: RenderSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Path:
    """Draw structures of a sample: a still (PNG) or a turntable video (MP4), by the file's ending.

    Colors are the papers': nuclei yellow, nucleoli red, mitochondria pink, endosomes white, lysosomes black, cells each its own.

    Raises:
        InputError: the file exists, its ending is not known, or the object does not exist.
        SampleError: there is nothing to draw.
    """
    settings = resolve_settings(RenderSettings, settings, changes)
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".png", ".mp4"):
        raise InputError(f"A picture is NAME.png, a turntable NAME.mp4; got '{path.name}'.")
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    layers, problems = layers_of(sample, settings.structure, settings.cells, {})
    there = [one for one in layers if one.labels]
    first = there[0].labels if there else None
    if first is None:
        raise SampleError(
            problems[0]
            if problems
            else f"{sample.path.name} has no labels to draw; run 'sparsem predict' first."
        )
    chosen = _chosen(settings)
    box = _box_of(sample, chosen) if chosen else whole_box(first)
    there = with_object(sample, there, chosen, settings.cells) if chosen else there
    cut = Cut(settings.cut, settings.cut_at) if settings.cut else None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.partial{ending}")
    frames = round(settings.seconds * settings.frames_per_second) if ending == ".mp4" else 1
    with Meter(f"render {path.name}", len(there) + frames, quiet=on.quiet) as meter:
        solids = []
        for one in there:
            solids += [
                (one.name, solid)
                for solid in solids_of(
                    one, box, settings.max_mvoxels * 1e6, settings.triangles, cut
                )
            ]
            meter.step(one.name)
        if not any(len(solid.mesh.triangles) for _, solid in solids):
            where = (
                "what is left when it is cut; take another --cut-at, or none"
                if cut
                else "what is looked at"
            )
            names = " or ".join(one.name for one in there)
            raise SampleError(
                f"There is nothing to draw in {sample.path.name}: no {names} lies in {where}."
            )
        legend = {one.name: one.color for one in there if not one.cells} if len(there) > 1 else {}
        size = (box[1] - box[0]) * np.array(first.voxel_size.micrometers)
        _draw(solids, settings, frames, unfinished, meter, legend, size)
    unfinished.replace(path)
    return path


def _box_of(sample: Sample, chosen: tuple[str, int]) -> Box:
    """Around one object, with a margin."""
    name, number = chosen
    row, volume = _row_of(sample, name, number), result_labels(sample, name)
    low, high = (np.array([row[f"{end}_{axis}"] for axis in "zyx"]) for end in ("first", "last"))
    rim = np.ceil(MARGIN * (high - low) + 2).astype(np.int64)
    return np.maximum(low - rim, 0), np.minimum(high + 1 + rim, volume.shape)


def _chosen(settings: RenderSettings) -> tuple[str, int] | None:
    """Structure and number of the one object that is drawn; None if all are."""
    if settings.object is None:
        return None
    name, _, number = settings.object.partition("=")
    if not number.isdigit():
        raise InputError(
            f"--object expects NAME=NUMBER, for example nucleus=3; got '{settings.object}'."
        )
    return name, int(number)


def _row_of(sample: Sample, name: str, number: int) -> Mapping[str, Any]:
    table = sample.read_table(name)
    ids = table["cell" if "object" not in table.column_names else "object"].to_pylist()
    if number not in ids:
        raise InputError(
            f"tables/{name} of {sample.path.name} has no object {number}; it has {len(ids)}, see tables/{name}.csv."
        )
    if is_outdated(sample, name, "measure"):
        raise SampleError(
            f"{name} has changed since it was measured; run 'sparsem measure {sample.path.name} --overwrite' first."
        )
    return dict(table.slice(ids.index(number), 1).to_pylist()[0])


def with_object(
    sample: Sample, layers: Sequence[Layer], chosen: tuple[str, int], cells: str
) -> list[Layer]:
    """Return the layers of an object, of what lies in it, and of what it lies in, by the tables of ``measure``; nothing else."""
    name, number = chosen
    row = _row_of(sample, name, number)
    around = {cells: int(row.get("cell") or 0), "nucleus": int(row.get("nucleus") or 0)}
    holds = {cells: "cell", "nucleus": "nucleus"}.get(name)
    shown = []
    for layer in layers:
        if layer.name == name:
            numbers = [number]
        elif around.get(layer.name, 0):
            numbers = [around[layer.name]]
        else:
            table = sample.read_table(layer.name) if layer.name in sample.tables else None
            is_held = table is not None and holds in table.column_names
            numbers = (
                table["object"].to_numpy()[table[holds].to_numpy() == number].tolist()
                if table is not None and is_held
                else []
            )
        if numbers:
            shown.append(replace(layer, only=tuple(numbers)))
    return shown


def _draw(
    solids: list[tuple[str, Solid]],
    settings: RenderSettings,
    frames: int,
    path: Path,
    meter: Meter,
    legend: Mapping[str, tuple[int, int, int]],
    size_um: NDArray[np.float64],
) -> None:
    """Draw what lies in a box of (z, y, x) micrometers, with a name for every color."""
    import pyvista

    # Without a screen VTK tries one way to draw after the other, and would complain of each.
    look: dict[str, Any] = {
        "off_screen": True,
        "window_size": [settings.width, settings.height],
        "lighting": "none",
    }
    with pyvista.vtk_verbosity("off"), closing(pyvista.Plotter(**look)) as opened:
        plotter: Any = opened
        plotter.add_light(
            pyvista.Light(light_type="headlight")
        )  # whatever faces the eye is bright, cut faces too
        plotter.set_background(settings.background)
        names = {name for name, _ in solids}
        for name, solid in solids:
            if len(solid.mesh.triangles):
                surface = pyvista.PolyData.from_regular_faces(
                    _right_handed(solid.mesh.vertices), solid.mesh.triangles.astype(int)
                )
                color = [part / 255 for part in solid.color]
                plotter.add_mesh(
                    surface,
                    color=color,
                    opacity=_opacity(name, names, settings),
                    smooth_shading=True,
                    ambient=0.2,
                    specular=0.25,
                )
        _explain(plotter, legend, size_um, settings)
        plotter.enable_depth_peeling(8)
        plotter.enable_anti_aliasing("ssaa")
        plotter.camera_position = "xz"
        plotter.camera.azimuth, plotter.camera.elevation = settings.azimuth, settings.elevation
        plotter.reset_camera(bounds=None)
        if frames == 1:
            plotter.screenshot(str(path))
            meter.step()
            return
        _write_video(path, _turned(plotter, frames, meter), settings)


def _explain(
    plotter: Any,
    legend: Mapping[str, tuple[int, int, int]],
    size_um: NDArray[np.float64],
    settings: RenderSettings,
) -> None:
    """Names of colors, and the size of what is seen."""
    import pyvista

    ink = "white" if sum(pyvista.Color(settings.background).float_rgb) < 1.5 else "black"
    font = max(6, settings.height // 100)
    z, y, x = (f"{length:.3g}" for length in size_um)
    plotter.add_text(
        f" {x} x {y} x {z} um (x y z)", position="lower_left", font_size=font, color=ink
    )
    if legend:
        named = [[name, [part / 255 for part in color]] for name, color in legend.items()]
        look: dict[str, Any] = {"face": "rectangle", "loc": "upper left", "border": False}
        plotter.add_legend(named, size=(0.2, 0.045 * len(named)), bcolor=MIDDLE_GRAY, **look)


def _opacity(name: str, names: set[str], settings: RenderSettings) -> float:
    if name in settings.opacity:
        return settings.opacity[name]
    others = names - {settings.cells}
    if name == settings.cells:
        return 0.2 if others else 1.0
    return 0.35 if name in AROUND and others - {name} else 1.0


def _right_handed(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """(z, y, x) -> (x, z, -y): slices lie flat as seen from the front, y up."""
    return np.column_stack([vertices[:, 2], vertices[:, 0], -vertices[:, 1]])


def _turned(plotter: Any, frames: int, meter: Meter) -> Iterator[NDArray[np.uint8]]:
    start = plotter.camera.azimuth
    for frame in range(frames):
        plotter.camera.azimuth = start + 360 * frame / frames
        plotter.render()
        yield np.ascontiguousarray(plotter.screenshot(return_img=True)[..., :3])
        meter.step()


def _write_video(path: Path, frames: Iterator[NDArray[np.uint8]], settings: RenderSettings) -> None:
    """H.264, which every browser and slide program plays."""
    import imageio_ffmpeg

    size = (settings.width, settings.height)
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=settings.frames_per_second, quality=8, macro_block_size=2
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(frame)
    finally:
        writer.close()
