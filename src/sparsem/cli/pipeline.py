"""The commands that run a whole study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import sparsem
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, command
from sparsem.cli.score_format import (
    alignment_lines,
    box_data,
    box_lines,
    cross_validation_line,
    score_data,
    score_lines,
)
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.study.study import StudyResult


@command(spread=True)
def demo_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder for the data and the results")
    ] = Path("demo"),
    *,
    on: Execution,
) -> Outcome:
    """Run the whole study on a synthetic tumor volume: a stack and seven labeled slices in, every
    organelle and cell out.

    Takes a few minutes. DIR then contains the input (raw.tif, masks/, study.toml) and the results.

    sparsem demo
    """
    result = sparsem.demo(folder, on=on)
    lines = [
        *score_lines(result.scores),
        "",
        *(f"Wrote {path}" for path in result.files),
        f"The sample, for any OME-Zarr viewer: {result.sample.path}",
    ]
    following = (
        f"open {folder}/report.html in a browser, then read {folder}/study.toml: "
        "your own stack needs nothing else"
    )
    return Outcome(lines, following, _study_data(result))


@command(spread=True)
def run_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="study.toml")], *, on: Execution
) -> Outcome:
    """Run the whole study that a file describes: import, align, equalize, annotate, train, predict,
    cells, track, score, measure, report.

    Steps that are done are not computed again. 'sparsem demo' writes a study.toml to start from.

    sparsem run study.toml
    """
    result = sparsem.run(study, on=on)
    lines = alignment_lines(result.alignment) if result.alignment else []
    lines += map(cross_validation_line, result.validations)
    lines += score_lines(result.scores)
    if result.boxes:
        lines += box_lines(result.boxes)
    model = f" and {result.model}" if result.model else ""
    lines.append(f"Wrote {result.sample.path}{model}")
    lines += [f"Wrote {path}" for path in result.files]
    pages = [path for path in result.files if path.suffix in (".html", ".htm")]
    if pages:
        following = f"open {pages[-1]} in a browser"
    else:
        following = f"sparsem info {in_shell(result.sample.path)}"
    return Outcome(lines, following, _study_data(result))


def _study_data(result: "StudyResult") -> dict[str, Any]:
    data: dict[str, Any] = {
        "sample": result.sample.path,
        "model": result.model,
        "volumes": result.volumes,
        "scores": {name: score_data(scores) for name, scores in result.scores.items()},
        "files": list(result.files),
    }
    if result.boxes:
        data["boxes"] = box_data(result.boxes)
    if result.alignment:
        alignment = result.alignment
        data["alignment"] = {
            "jumps": alignment.jumps,
            "bad": alignment.bad,
            "breaks": alignment.breaks,
        }
    if result.validations:
        data["folds"] = {validation.structure: validation.dice for validation in result.validations}
    return data
