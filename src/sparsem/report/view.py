"""Contents of a page: samples as the page shows them, and plots with their data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sparsem.report.notices import Notice


@dataclass
class SampleView:
    """One sample on the page.

    Attributes:
        name: of the sample, different from the names of the other samples on the page.
        facts: first lines about the sample, title -> text.
        notices: sentences that a reader should know.
        structures: names of layers of structures and boxes, in the order in which they are drawn.
        slices: see ``slices.encode_slices``.
        has_truth: whether any of these slices has ground truth.
        labeled: structure -> slices that were labeled by hand.
        labeled_text: structure -> number and use of these slices, as text.
        colors: layer -> CSS color; empty for cells.
        scene: see ``scene3d.scene.encode_scene``.
        objects: see ``object_rows.rows_of_objects``.
        own_colors: whether objects are shown in their own colors at first.
        contacts: see ``object_rows.contact_summaries``.
        tables: name -> table.
        history: records of the stages that ran.
        aligned: the image whose table of alignment is shown; empty without alignment.
        dice: structure -> its scores, as text.
    """

    name: str
    facts: dict[str, str]
    notices: list[Notice]
    structures: list[str] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    has_truth: bool = False
    labeled: dict[str, list[int]] = field(default_factory=dict)
    labeled_text: dict[str, str] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    own_colors: bool = False
    contacts: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    aligned: str = ""
    dice: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """A plot and its data.

    Attributes:
        title: heading of the plot.
        caption: what it shows.
        svg: an ``<svg>`` element.
        file: name of the CSV file with the data.
        data: table behind the plot.
        rows: rows of a small table below the plot, column -> text.
    """

    title: str
    caption: str
    svg: str
    file: str
    data: pa.Table
    rows: Sequence[Mapping[str, str]] = ()
