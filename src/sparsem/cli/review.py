"""The command that lists the places to review, and how such a place is printed."""

from typing import TYPE_CHECKING, Annotated

import typer

import sparsem
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.review.settings import ReviewSettings
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.review.places import ReviewPlace

MAX_PLACES = 10  # places to review that are printed; the table has all


@command(ReviewSettings, spread=True)
def review_command(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure, or the cells")],
    *,
    settings: ReviewSettings,
    on: Execution,
) -> Outcome:
    """List the places of a result where a correction helps most.

    Of a structure, these are the places where its prediction is least certain; of cells, those that
    track found. Places that were accepted in the window are left out.

    sparsem review liver.zarr nucleus
    """
    result = sparsem.review(sparsem.Sample.open(path), name, settings, on=on)
    accepted = f", {result.accepted} accepted" if result.accepted else ""
    lines = [
        f"{len(result.places)} places to review{accepted} (tables/review_{name}.csv)",
        *map(place_line, result.places[:MAX_PLACES]),
    ]
    data = {
        "places": [review_place._asdict() for review_place in result.places],
        "accepted": result.accepted,
    }
    return Outcome(lines, f"sparsem open {in_shell(path)}", data)


def place_line(review_place: "ReviewPlace") -> str:
    """Return a place to review as a line."""
    position = f"slice {review_place.z}, y {review_place.y}, x {review_place.x}"
    return f"  {position}: {_reason(review_place)} ({review_place.area_um2:.3g} um2)"


def _reason(review_place: "ReviewPlace") -> str:
    if review_place.kind == "uncertain":
        predicted = "the structure" if review_place.first else "background"
        return f"the prediction, {predicted}, is uncertain"
    cells_there = f"cell {review_place.first}"
    if review_place.second:
        cells_there = f"cells {review_place.first} and {review_place.second}"
    if review_place.kind == "disagreement":
        return f"the two propagations disagree about {cells_there}"
    return f"the area changes of {cells_there}"
