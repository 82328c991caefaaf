"""The commands that tell cells apart and follow their protrusions."""

from sparsem.cells.cells import cells as _cells
from sparsem.cells.review import ReviewPlace
from sparsem.cells.settings import CellsSettings
from sparsem.cells.track import TrackResult, TrackSettings
from sparsem.cells.track import track as _track
from sparsem.cli.options import Outcome, SamplePath, command, in_shell
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution


@command(CellsSettings, spread=True)
def cells(path: SamplePath, *, settings: CellsSettings, on: Execution) -> Outcome:
    """Tell cells apart that touch and look alike, in every slice, from a few labeled ones and what the network sees of borders.

    Train with --cells NAME and predict before. After a labeled slice was corrected or added, --overwrite does only the slices up to
    its labeled neighbors again. Example: sparsem cells tumor.zarr
    """
    written = _cells(Sample.open(path), settings, on=on)
    name = f" --cells {settings.name}" if settings.name != TrackSettings().cells else ""
    return Outcome(
        [f"Wrote {path}/{volume}" for volume in written],
        f"sparsem track {in_shell(path)}{name}",
        {"volumes": written},
    )


@command(TrackSettings, spread=True)
def track(path: SamplePath, *, settings: TrackSettings, on: Execution) -> Outcome:
    """Give every island, the cut end of a protrusion, the identity of its cell, and list where to look.

    Example: sparsem track tumor.zarr
    """
    found = _track(Sample.open(path), settings, on=on)
    name = settings.cells
    tables = ", ".join(f"tables/{kind}_{name}" for kind in ("tracks", "links", "review"))
    lines = [
        f"{found.cells} cells, {found.islands} tracks of islands",
        *_unassigned_lines(found),
        f"Wrote {path}/labels/{name}, {tables}",
    ]
    if found.review:
        lines += [
            "",
            f"Where to look first ({len(found.review)} places in tables/review_{name}.csv):",
            *map(_place_line, found.review[:10]),
        ]
    data = {"cells": found.cells, "islands": found.islands, "unassigned": dict(found.unassigned)}
    data |= {
        "left_out": found.left_out,
        "left_out_um3": found.left_out_um3,
        "review": [place._asdict() for place in found.review],
    }
    return Outcome(lines, f"sparsem export {in_shell(path)} {name} {name}.tif", data)


def _unassigned_lines(found: TrackResult) -> list[str]:
    """Return what is reported of objects that meet no annotated cell: they may be cells that were not annotated."""
    lines = []
    if found.unassigned:
        largest = max(found.unassigned, key=lambda identity: found.unassigned[identity])
        count, total = len(found.unassigned), sum(found.unassigned.values())
        lines.append(
            f"{count} {'object meets' if count == 1 else 'objects meet'} no annotated cell ({total:.3g} um3; the largest, "
            f"{largest}, {found.unassigned[largest]:.3g} um3): fragments, or cells that were not annotated"
        )
    if found.left_out:
        lines.append(
            f"{found.left_out} smaller ones ({found.left_out_um3:.3g} um3) were left out (--min-volume-um3)"
        )
    return lines


def _place_line(place: ReviewPlace) -> str:
    what = f"cells {place.first} and {place.second}" if place.second else f"cell {place.first}"
    reason = "two sides disagree about" if place.kind == "disagreement" else "the area changes of"
    return (
        f"  slice {place.z}, y {place.y}, x {place.x}: {reason} {what} ({place.area_um2:.3g} um2)"
    )
