"""The dock: four pages to label, train, get a result, and review it."""

from typing import Any

from qtpy.QtWidgets import QLabel, QTabWidget, QVBoxLayout, QWidget

from sparsem.store.sample import Sample
from sparsem.viewer.canvas import Canvas
from sparsem.viewer.label_page import LabelPage
from sparsem.viewer.result_page import ResultPage
from sparsem.viewer.review_page import ReviewPage
from sparsem.viewer.train_page import TrainPage

NO_SAMPLE = "Drop a sample (NAME.zarr) on the window, or start 'sparsem open NAME.zarr'."


class SampleDock(QWidget):
    """The pages of a sample in a napari viewer.

    Args:
        napari_viewer: the viewer.
        sample: the sample; that of the viewer's layers if not given.
    """

    def __init__(self, napari_viewer: Any, sample: Sample | None = None) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        sample = sample or _sample_of(napari_viewer)
        if sample is None:
            note = QLabel(NO_SAMPLE)
            note.setWordWrap(True)
            layout.addWidget(note)
            return
        self.canvas = Canvas(napari_viewer, sample)
        self.tabs = QTabWidget()
        self.label_page = LabelPage(self.canvas)
        self.train_page = TrainPage(self.canvas, self.label_page)
        self.result_page = ResultPage(self.canvas)
        self.review_page = ReviewPage(self.canvas, self.show_label_page)
        pages = {
            "1 Label": self.label_page,
            "2 Train": self.train_page,
            "3 Result": self.result_page,
            "4 Review": self.review_page,
        }
        for title, page in pages.items():
            self.tabs.addTab(page, title)
        layout.addWidget(self.tabs)
        self.setMinimumWidth(380)
        self.destroyed.connect(self.canvas.close)

    def show_label_page(self, name: str) -> None:
        """Show the page on which slices are labeled, with the brush of a structure."""
        self.tabs.setCurrentWidget(self.label_page)
        if name:
            self.label_page.name.setCurrentText(name)
            self.label_page.paint()

    def closeEvent(self, event: Any) -> None:
        """Save everything that was painted, and end what runs."""
        self.close_all()
        super().closeEvent(event)

    def close_all(self) -> None:
        """Save everything that was painted, and end what runs."""
        self.label_page.work.close()
        self.train_page.stop()
        self.result_page.stop()
        self.canvas.close()


def _sample_of(viewer: Any) -> Sample | None:
    """Return the sample of the layers of a viewer; None if it shows none."""
    for layer in viewer.layers:
        about = layer.metadata.get("sparsem")
        if about:
            return Sample.open(about["sample"])
    return None
