"""The window of ``sparsem open``: napari with the layers of a sample, and the dock."""

from typing import Any

from sparsem.extras import require
from sparsem.store.sample import Sample


def make_window(sample: Sample, show: bool = True) -> Any:
    """Return a napari viewer with the layers of a sample and the dock.

    Raises:
        MissingExtraError: napari is not installed.
    """
    require("napari")
    import napari

    from sparsem.viewer.dock import SampleDock
    from sparsem.viewer.layers import sample_layers

    viewer = napari.Viewer(title=f"sparsem: {sample.path.name}", show=show)
    for data, options, kind in sample_layers(sample):
        getattr(viewer, f"add_{kind}")(data, **options)
    viewer.canvas.overlays.scale_bar.visible = True
    dock = SampleDock(viewer, sample)
    viewer.window.add_dock_widget(dock, name="sparsem", area="right")
    return viewer


def open_window(sample: Sample) -> None:
    """Show a sample in a window until it is closed.

    Raises:
        MissingExtraError: napari is not installed.
    """
    make_window(sample)
    import napari

    napari.run()
