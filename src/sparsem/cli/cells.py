"""The commands that separate cells and follow their protrusions."""

from typing import TYPE_CHECKING

import sparsem
from sparsem.cells.settings import CellsSettings, TrackSettings
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.cli.review import MAX_PLACES, place_line
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.cells.track import TrackResult


@command(CellsSettings, spread=True)
def cells_command(path: SamplePath, *, settings: CellsSettings, on: Execution) -> Outcome:
    """Separate touching cells that look similar, in every slice, from a few labeled slices and the
    network's boundaries.

    Before, train with --cells NAME and predict. After a labeled slice was corrected or added,
    --overwrite computes only the slices up to its labeled neighbors again.

    sparsem cells tumor.zarr
    """
    volumes = sparsem.cells(sparsem.Sample.open(path), settings, on=on).written
    is_default = settings.name == TrackSettings().cells
    cells_option = "" if is_default else f" --cells {settings.name}"
    return Outcome(
        [f"Wrote {path}/{volume}" for volume in volumes],
        f"sparsem track {in_shell(path)}{cells_option}",
        {"volumes": volumes},
    )


@command(TrackSettings, spread=True)
def track_command(path: SamplePath, *, settings: TrackSettings, on: Execution) -> Outcome:
    """Assign every island, the cross-section of a protrusion, to its cell, and list places to
    review.

    sparsem track tumor.zarr
    """
    tracking = sparsem.track(sparsem.Sample.open(path), settings, on=on)
    name = settings.cells
    tables = ", ".join(f"tables/{kind}_{name}" for kind in ("tracks", "links", "review"))
    lines = [
        f"{tracking.cells} cells, {tracking.islands} tracks of islands",
        *_unassigned_lines(tracking),
        f"Wrote {path}/labels/{name}, {tables}",
    ]
    if tracking.review:
        n_places = len(tracking.review)
        lines += ["", f"Places to review first ({n_places} in tables/review_{name}.csv):"]
        lines += map(place_line, tracking.review[:MAX_PLACES])
    data = {
        "cells": tracking.cells,
        "islands": tracking.islands,
        "unassigned": dict(tracking.unassigned),
        "left_out": tracking.left_out,
        "left_out_um3": tracking.left_out_um3,
        "review": [review_place._asdict() for review_place in tracking.review],
    }
    return Outcome(lines, f"sparsem export {in_shell(path)} {name} {name}.tif", data)


def _unassigned_lines(tracking: "TrackResult") -> list[str]:
    """Return lines about objects that meet no annotated cell.

    They may be cells that were not annotated.
    """
    lines = []
    volumes = tracking.unassigned
    if volumes:
        largest = max(volumes, key=lambda identity: volumes[identity])
        objects = "object meets" if len(volumes) == 1 else "objects meet"
        lines.append(
            f"{len(volumes)} {objects} no annotated cell ({sum(volumes.values()):.3g} um3; the "
            f"largest, {largest}, {volumes[largest]:.3g} um3): fragments, or cells that were not "
            "annotated"
        )
    if tracking.left_out:
        lines.append(
            f"{tracking.left_out} smaller ones ({tracking.left_out_um3:.3g} um3) were left out "
            "(--min-volume-um3)"
        )
    return lines
