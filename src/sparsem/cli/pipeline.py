"""The commands that walk the whole path."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsem.cli.options import Outcome, command, in_shell
from sparsem.cli.score_format import (
    alignment_lines,
    box_data,
    box_lines,
    promise_line,
    score_data,
    score_lines,
)
from sparsem.study.study import StudyResult
from sparsem.study.study import demo as _demo
from sparsem.study.study import run as _run
from sparsem.workflow.execution import Execution


@command(spread=True)
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to put it all")] = Path(
        "demo"
    ),
    *,
    on: Execution,
) -> Outcome:
    """Show the whole job on a synthetic tumor volume: stack and seven labeled slices in, every organelle out.

    Takes a few minutes. DIR then holds what you would start from (raw.tif, masks/, study.toml) and what came out.
    """
    result = _demo(folder, on=on)
    lines = [
        *score_lines(result.scores),
        "",
        *(f"Wrote {path}" for path in result.files),
        f"The sample, for any OME-Zarr viewer: {result.sample.path}",
    ]
    return Outcome(
        lines,
        f"open {folder}/report.html in a browser, then read {folder}/study.toml: it is all you need for a stack of your own",
        _study_data(result),
    )


@command(spread=True)
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="study.toml")], *, on: Execution
) -> Outcome:
    """Walk the whole path from one file: import, align, equalize, annotate, train, predict, cells, track, score, measure, report.

    What is done stays done.

    'sparsem demo' writes a study.toml to start from.
    """
    result = _run(study, on=on)
    lines = [
        *(alignment_lines(result.alignment) if result.alignment else []),
        *map(promise_line, result.promises),
    ]
    model = f" and {result.model}" if result.model else ""
    lines += [*score_lines(result.scores), *(box_lines(result.boxes) if result.boxes else [])]
    lines += [f"Wrote {result.sample.path}{model}", *(f"Wrote {path}" for path in result.files)]
    pages = [path for path in result.files if path.suffix in (".html", ".htm")]
    following = (
        f"open {pages[-1]} in a browser"
        if pages
        else f"sparsem info {in_shell(result.sample.path)}"
    )
    return Outcome(lines, following, _study_data(result))


def _study_data(result: StudyResult) -> dict[str, Any]:
    scores = {name: score_data(found) for name, found in result.scores.items()}
    data: dict[str, Any] = {
        "sample": result.sample.path,
        "model": result.model,
        "volumes": result.volumes,
        "scores": scores,
    }
    data |= {"files": list(result.files)} | (
        {"boxes": box_data(result.boxes)} if result.boxes else {}
    )
    if result.alignment:
        data["alignment"] = {
            "jumps": result.alignment.jumps,
            "bad": result.alignment.bad,
            "breaks": result.alignment.breaks,
        }
    return data | (
        {"folds": {one.structure: one.dice for one in result.promises}} if result.promises else {}
    )
