"""Drawing of meshes with VTK, without a screen: stills and turntable videos."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.extras import require
from sparsem.progress import Meter
from sparsem.report.plots.colors import RGB, unit_rgb
from sparsem.report.scene3d.solids import Solid

# Background of the legend, whose names are written in their colors: one is white, one is black.
LEGEND_BACKGROUND = "#7d8791"
DARK_BACKGROUND = 1.5  # sum of red, green and blue (0 to 1) below which text is white


@dataclass(frozen=True)
class Rendering:
    """Meshes and the view of them.

    Attributes:
        solids: name of the structure and mesh.
        opacity: structure -> 0 to 1.
        legend: structure -> color.
        size_um: size (z, y, x) of the part that is drawn, µm.
        width: of the rendering, pixels.
        height: of the rendering, pixels.
        background: name or hexadecimal code of a color.
        azimuth: rotation around the vertical axis, degrees.
        elevation: of the view, degrees.
    """

    solids: Sequence[tuple[str, Solid]]
    opacity: Mapping[str, float]
    legend: Mapping[str, RGB]
    size_um: NDArray[np.float64]
    width: int
    height: int
    background: str
    azimuth: float
    elevation: float


def draw_still(rendering: Rendering, path: Path, meter: Meter) -> None:
    """Write a rendering as PNG."""
    with _opened_plotter(rendering) as plotter:
        plotter.screenshot(str(path))
        meter.step()


def draw_turntable(
    rendering: Rendering, path: Path, n_frames: int, frames_per_second: int, meter: Meter
) -> None:
    """Write a video of one turn around the vertical axis as MP4."""
    with _opened_plotter(rendering) as plotter:
        frames = _turn(plotter, n_frames, meter)
        _write_video(path, frames, (rendering.width, rendering.height), frames_per_second)


@contextmanager
def _opened_plotter(rendering: Rendering) -> Iterator[Any]:
    """Yield a plotter that shows the rendering."""
    require("render")
    import pyvista

    window: dict[str, Any] = {
        "off_screen": True,
        "window_size": [rendering.width, rendering.height],
        "lighting": "none",
    }
    # Without a screen VTK tries several methods of drawing, and would complain of each.
    with pyvista.vtk_verbosity("off"), closing(pyvista.Plotter(**window)) as opened:
        plotter: Any = opened
        # A light at the camera: every surface that faces the viewer is bright, cut ones too.
        plotter.add_light(pyvista.Light(light_type="headlight"))
        plotter.set_background(rendering.background)
        for name, solid in rendering.solids:
            if len(solid.mesh.triangles):
                _add_solid(plotter, solid, rendering.opacity[name])
        _add_texts(plotter, rendering)
        plotter.enable_depth_peeling(8)
        plotter.enable_anti_aliasing("ssaa")
        _place_camera(plotter, rendering)
        yield plotter


def _place_camera(plotter: Any, rendering: Rendering) -> None:
    """Place the camera so that everything is in view."""
    plotter.camera_position = "xz"
    plotter.camera.azimuth, plotter.camera.elevation = rendering.azimuth, rendering.elevation
    plotter.reset_camera(bounds=None)


def _add_solid(plotter: Any, solid: Solid, opacity: float) -> None:
    """Add a colored mesh."""
    require("render")
    import pyvista

    vertices = _to_vtk_axes(solid.mesh.vertices)
    surface = pyvista.PolyData.from_regular_faces(vertices, solid.mesh.triangles.astype(int))
    plotter.add_mesh(
        surface,
        color=list(unit_rgb(solid.color)),
        opacity=opacity,
        smooth_shading=True,
        ambient=0.2,
        specular=0.25,
    )


def _add_texts(plotter: Any, rendering: Rendering) -> None:
    """Add the size of the part that is drawn, and the names of colors."""
    require("render")
    import pyvista

    brightness = sum(pyvista.Color(rendering.background).float_rgb)
    text_color = "white" if brightness < DARK_BACKGROUND else "black"
    font_size = max(6, rendering.height // 100)
    z, y, x = (f"{length:.3g}" for length in rendering.size_um)
    size = f" {x} x {y} x {z} um (x y z)"
    plotter.add_text(size, position="lower_left", font_size=font_size, color=text_color)
    if rendering.legend:
        _add_legend(plotter, rendering)


def _add_legend(plotter: Any, rendering: Rendering) -> None:
    """Add the names of colors."""
    entries = [[name, list(unit_rgb(color))] for name, color in rendering.legend.items()]
    plotter.add_legend(
        entries,
        size=(0.2, 0.045 * len(entries)),
        bcolor=LEGEND_BACKGROUND,
        face="rectangle",
        loc="upper left",
        border=False,
    )


def _to_vtk_axes(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert (z, y, x) to (x, z, -y): slices appear from the front, with y upward."""
    return np.column_stack([vertices[:, 2], vertices[:, 0], -vertices[:, 1]])


def _turn(plotter: Any, n_frames: int, meter: Meter) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (y, x, 3) of one turn."""
    start = plotter.camera.azimuth
    for frame in range(n_frames):
        plotter.camera.azimuth = start + 360 * frame / n_frames
        plotter.render()
        image = plotter.screenshot(return_img=True)
        yield np.ascontiguousarray(image[..., :3])
        meter.step()


def _write_video(
    path: Path,
    frames: Iterator[NDArray[np.uint8]],
    size: tuple[int, int],
    frames_per_second: int,
) -> None:
    """Write frames as H.264, which every browser and presentation program plays."""
    require("render")
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=frames_per_second, quality=8, macro_block_size=2
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(frame)
    finally:
        writer.close()
