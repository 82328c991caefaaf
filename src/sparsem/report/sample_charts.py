"""Plots of a single sample for the page, from its tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.boxes.tables import table_metadata
from sparsem.report.dice import slices_used_as
from sparsem.report.plots.curves import (
    DiceCurve,
    dice_curves,
    drift_curves,
    network_comparison,
    organelles_per_cell,
)
from sparsem.report.plots.detection_plots import counted_and_annotated, precision_and_recall
from sparsem.report.plots.quality_plots import quality_along_z
from sparsem.report.view import Plot, SampleView

QUALITY_TABLES = "quality_"  # followed by the name of the image
NETWORK_TABLES = "experiment_models_"  # followed by the name of the structure
NOT_IN_BARS = ("nucleus", "nucleolus")  # measured per cell, but no organelles of the bars
MINUTES_FROM_S = 120  # durations from here on are shown in minutes

Row = Mapping[str, Any]


def sample_plots(view: SampleView, structures: Sequence[str]) -> Iterator[Plot]:
    """Yield image quality, alignment, Dice, networks and boxes of a sample."""
    yield from _quality_plots(view)
    yield from _alignment_plots(view)
    yield from _dice_plots(view, structures)
    yield from _network_plots(view)
    yield from _box_plots(view)


def _quality_plots(view: SampleView) -> Iterator[Plot]:
    """Yield the image quality of every image that was judged."""
    for name, table in view.tables.items():
        if not name.startswith(QUALITY_TABLES):
            continue
        image = name.removeprefix(QUALITY_TABLES)
        caption = (
            f"The image {image}, slice by slice. Vertical bands mark amber and red slices. "
            "Brightness, contrast, noise, stripes and charging are fractions of the range of gray "
            "levels."
        )
        svg = quality_along_z(_floating_columns(table), table["light"].to_pylist())
        title = f"Image quality: {view.name}, {image}"
        yield Plot(title, caption, svg, f"{name}_{view.name}.csv", table)


def _floating_columns(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a table that hold floating-point numbers."""
    columns = {}
    for column in table.column_names:
        if pa.types.is_floating(table[column].type):
            columns[column] = table[column].to_numpy().astype(np.float64)
    return columns


def _alignment_plots(view: SampleView) -> Iterator[Plot]:
    """Yield the drift that alignment corrected."""
    table = view.tables.get(f"alignment_{view.aligned}")
    if table is None:
        return
    shifts = {axis: table[f"shift_{axis}_px"].to_numpy() for axis in "yx"}
    caption = (
        "How far alignment moved the center of every slice, in pixels: down (y) and to the right "
        "(x)."
    )
    svg = drift_curves(shifts, _slices_by_remark(table))
    yield Plot(f"Alignment: {view.name}", caption, svg, f"drift_{view.name}.csv", table)


def _slices_by_remark(table: pa.Table) -> dict[str, list[int]]:
    """Return remark -> slices with that remark, sorted."""
    remarks = [text.split() for text in table["remark"].to_pylist()]
    marked = {}
    for remark in sorted({remark for of_slice in remarks for remark in of_slice}):
        marked[remark] = [z for z, of_slice in enumerate(remarks) if remark in of_slice]
    return marked


def _dice_plots(view: SampleView, structures: Sequence[str]) -> Iterator[Plot]:
    """Yield the Dice of the structures that were scored, slice by slice."""
    scores = {}
    for name in structures:
        if f"scores_{name}" in view.tables:
            scores[name] = view.tables[f"scores_{name}"]
    curves = {name: _dice_curve(table) for name, table in scores.items()}
    if not any(np.isfinite(curve.dice).sum() > 1 for curve in curves.values()):
        return
    caption = (
        "Agreement with the ground truth in every slice that it labels; slices in which both masks "
        "are empty are left out."
    )
    data = concatenate_tables(scores, "structure")
    title, file = f"Dice along z: {view.name}", f"dice_{view.name}.csv"
    yield Plot(title, caption, dice_curves(curves), file, data)


def _dice_curve(scores: pa.Table) -> DiceCurve:
    """Return the curve of a table of scores."""
    z, dice = scores["z"].to_numpy(), scores["dice"].to_numpy()
    return DiceCurve(z, dice, slices_used_as(scores, "trained"))


def _network_plots(view: SampleView) -> Iterator[Plot]:
    """Yield comparisons of networks that were trained on the same slices."""
    for table_name, table in view.tables.items():
        if not table_name.startswith(NETWORK_TABLES):
            continue
        runs_by_network = _runs_by_network(table)
        caption = (
            "3D Dice on slices that were not used for training, by number of labeled slices and "
            "by training time."
        )
        structure = table_name.removeprefix(NETWORK_TABLES)
        title = f"Networks: {structure} of {view.name}"
        points = {network: _points_of(runs) for network, runs in runs_by_network.items()}
        rows = [_network_row(network, runs) for network, runs in runs_by_network.items()]
        file = f"{table_name}_{view.name}.csv"
        yield Plot(title, caption, network_comparison(points), file, table, rows)


def _runs_by_network(table: pa.Table) -> dict[str, list[Row]]:
    """Return network -> its training runs."""
    runs_by_network: dict[str, list[Row]] = {}
    for run in table.to_pylist():
        runs_by_network.setdefault(run["network"], []).append(run)
    return runs_by_network


def _points_of(runs: Sequence[Row]) -> list[tuple[int, float, float]]:
    """Return (number of labeled slices, seconds of training, 3D Dice) of training runs."""
    return [(run["labeled"], run["training_s"], run["dice_3d"]) for run in runs]


def _network_row(network: str, runs: Sequence[Row]) -> dict[str, str]:
    """Return the row of a network in the table below the plot."""
    mean_training_s = float(np.mean([run["training_s"] for run in runs]))
    worst_slice = np.nanmin([run["worst_slice"] for run in runs])
    dice = {f"{run['labeled']} labeled": f"{run['dice_3d']:.3f}" for run in runs}
    return {
        "network": network,
        "parameters": f"{runs[0]['parameters']:,}",
        "memory": f"{runs[0]['memory_gb']:.1f} GB",
        "training": _duration_text(mean_training_s),
        **dice,
        "worst slice": f"{worst_slice:.3f}",
    }


def _duration_text(seconds: float) -> str:
    """Return a duration in minutes, or in seconds if it is short."""
    return f"{seconds / 60:.1f} min" if seconds >= MINUTES_FROM_S else f"{seconds:.0f} s"


def _box_plots(view: SampleView) -> Iterator[Plot]:
    """Yield precision and recall of boxes, and the counts of objects, from ``tables/box_*``."""
    scores = view.tables.get("box_scores")
    curves = view.tables.get("box_curves")
    counts = view.tables.get("box_counts")
    if scores is not None and curves is not None and counts is not None:
        yield _precision_plot(view, scores, curves)
        yield _count_plot(view, scores, counts)


def _precision_plot(view: SampleView, scores: pa.Table, curves: pa.Table) -> Plot:
    """Return precision and recall of the boxes of every structure."""
    rows = scores.to_pylist()
    includes_training = table_metadata(scores).get("images") == "all"
    images = (
        "images some of which the detector was trained on"
        if includes_training
        else "images that the detector was not trained on"
    )
    caption = (
        "Precision and recall of the boxes above each score: the fraction of the boxes that are "
        f"correct, and the fraction of the objects that they contain, on {images}. A box is "
        "correct if it overlaps an annotated one by at least half (intersection over union)."
    )
    svg = precision_and_recall(_recall_curves(curves, rows), view.colors)
    table_rows = [_box_row(row) for row in rows]
    file = f"box_curves_{view.name}.csv"
    return Plot(f"Boxes: {view.name}", caption, svg, file, curves, table_rows)


def _count_plot(view: SampleView, scores: pa.Table, counts: pa.Table) -> Plot:
    """Return annotated and counted objects of every image."""
    caption = (
        "Each mark is one image: how many objects were annotated, and how many were counted. On "
        "the line, both numbers are equal."
    )
    structures = dict.fromkeys(scores["structure"].to_pylist())
    pairs = {name: _count_pairs(counts, name) for name in structures}
    svg = counted_and_annotated(pairs, view.colors)
    return Plot(f"Counts: {view.name}", caption, svg, f"box_counts_{view.name}.csv", counts)


def _recall_curves(curves: pa.Table, rows: Sequence[Row]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Return (structure, kind of boxes) -> recall (n,) and precision (n,)."""
    points = curves.to_pylist()
    by_boxes = {}
    for row in rows:
        key = (row["structure"], row["boxes"])
        selected = [point for point in points if (point["structure"], point["boxes"]) == key]
        recall = np.array([point["recall"] for point in selected], np.float64)
        precision = np.array([point["precision"] for point in selected], np.float64)
        by_boxes[key] = (recall, precision)
    return by_boxes


def _count_pairs(counts: pa.Table, structure: str) -> list[tuple[int, int]]:
    """Return (annotated, counted) objects of every image."""
    key = (structure, "predicted")
    return [
        (row["annotated"], row["counted"])
        for row in counts.to_pylist()
        if (row["structure"], row["boxes"]) == key
    ]


def _box_row(row: Row) -> dict[str, str]:
    """Return a row of the thesis' table 5, with the numbers of objects."""
    return {
        "structure": row["structure"],
        "boxes": row["boxes"],
        "mAP": f"{row['map']:.3f}",
        "AR": f"{row['ar']:.3f}",
        "AP50": f"{row['ap50']:.3f}",
        "annotated": str(row["annotated"]),
        "counted": str(row["counted"]),
    }


def organelle_plots(view: SampleView, cells: str) -> Iterator[Plot]:
    """Yield the bars of organelle volumes per cell, if the cells were measured."""
    table = view.tables.get(cells) if cells in measured_structures(view) else None
    if table is None or not table.num_rows or "cell" not in table.column_names:
        return
    columns = _organelle_columns(table)
    if columns:
        yield _organelle_plot(view, table, columns)


def _organelle_plot(view: SampleView, table: pa.Table, columns: Mapping[str, str]) -> Plot:
    """Return the bars of a table of cells; ``columns`` are organelle -> column with its volume."""
    volumes = {name: table[column].to_numpy() for name, column in columns.items()}
    cell_names = [str(cell) for cell in table["cell"].to_pylist()]
    caption = (
        "Each bar is one cell. An organelle that lies in two cells counts in each with the part "
        "that lies there."
    )
    svg = organelles_per_cell(cell_names, volumes, view.colors)
    data = table.select(["cell", *columns.values()])
    title = f"Organelle volume per cell: {view.name}"
    return Plot(title, caption, svg, f"organelles_{view.name}.csv", data)


def _organelle_columns(table: pa.Table) -> dict[str, str]:
    """Return organelle -> column with its volume in every cell."""
    columns = {}
    for column in table.column_names:
        name = column.removesuffix("_volume_um3")
        is_counted = f"{name}_count" in table.column_names
        if column.endswith("_volume_um3") and is_counted and name not in NOT_IN_BARS:
            columns[name] = column
    return columns


def measured_structures(view: SampleView) -> list[str]:
    """Return the structures of the last run of ``measure``; tables of other runs are not shown."""
    if "measured" not in view.tables:
        return []
    names = view.tables["measured"]["structure"].to_pylist()
    return [name for name in names if name in view.tables]


def concatenate_tables(tables: Mapping[str, pa.Table], column: str) -> pa.Table:
    """Return tables below each other, with a first column that holds their names."""
    parts = []
    for name, table in tables.items():
        names = pa.array([name] * table.num_rows, pa.string())
        parts.append(table.add_column(0, column, names).replace_schema_metadata())
    return pa.concat_tables(parts, promote_options="permissive")
