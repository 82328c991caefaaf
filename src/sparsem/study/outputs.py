"""Files that a study writes outside of the sample.

A file is written again only if what it shows has changed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsem import __version__
from sparsem.errors import ResumeError
from sparsem.labels.results import result_labels
from sparsem.report.export import export
from sparsem.report.report import report
from sparsem.report.scene3d.render import render
from sparsem.report.settings import ExportSettings, RenderSettings, ReportSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.store.volume import json_bytes, write_atomically
from sparsem.study.settings import (
    ExportStep,
    RenderStep,
    ReportStep,
    ScoreStep,
    resolve_path,
    stage_settings,
)
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import fingerprint_of


def export_labels(sample: Sample, name: str, folder: Path, step: ExportStep, on: Execution) -> Path:
    """Export the resulting labels of a structure as TIFF, and return the file."""
    path = folder / step.folder / f"{name}.tif"
    settings = ExportSettings(onto=step.onto)
    fingerprint = result_labels(sample, name).fingerprint
    if step.onto is not None:
        image = sample.image(step.onto).fingerprint
        fingerprint = fingerprint_of({"labels": fingerprint, "onto": step.onto, "image": image})
    again = replace(on, overwrite=True)

    def write() -> None:
        export(sample, [name], path, settings, on=again)

    return _write_once(sample, name, path, fingerprint, write, on)


def render_scene(sample: Sample, folder: Path, step: RenderStep, on: Execution) -> Path:
    """Render the structures, again whenever labels have changed, and return the file."""
    path = folder / step.out
    settings = stage_settings(RenderSettings, step)
    labels = {name: sample.volume("labels", name).fingerprint for name in sample.names("labels")}
    fingerprint = fingerprint_of(
        {"labels": labels, "settings": settings.model_dump(mode="json"), "version": __version__}
    )
    again = replace(on, overwrite=True)

    def write() -> None:
        render(sample, path, settings, on=again)

    return _write_once(sample, f"render-{path.stem}", path, fingerprint, write, on)


def write_report(
    sample: Sample, folder: Path, score: Mapping[str, ScoreStep], step: ReportStep, on: Execution
) -> Path:
    """Write the report, again whenever the sample has changed, and return the file."""
    path = folder / step.out
    settings = _with_ground_truth(stage_settings(ReportSettings, step), folder, score, step)
    history = [[entry["stage"], entry["fingerprint"]] for entry in sample.history()]
    fingerprint = fingerprint_of(
        {"history": history, "settings": settings.model_dump(mode="json"), "version": __version__}
    )
    again = replace(on, overwrite=True)

    def write() -> None:
        report([sample.path], path, settings, on=again)

    return _write_once(sample, f"report-{path.stem}", path, fingerprint, write, on)


def _with_ground_truth(
    settings: ReportSettings, folder: Path, score: Mapping[str, ScoreStep], step: ReportStep
) -> ReportSettings:
    """Return settings of a report that shows the ground truth of the study's scores.

    Ground truth of which only some numbers are the structure cannot be shown over a slice as it is.
    """
    paths = {}
    slices = {}
    for name, scored in score.items():
        is_partial = scored.ids or scored.dataset or scored.box or scored.ignore is not None
        if is_partial:
            continue
        paths[name] = scored.truth
        if scored.slices:
            slices[name] = scored.slices
    truth = {name: resolve_path(folder, path) for name, path in {**paths, **step.truth}.items()}
    return changed(settings, {"truth": truth, "truth_slices": {**slices, **step.truth_slices}})


def _write_once(
    sample: Sample,
    name: str,
    path: Path,
    fingerprint: str,
    write: Callable[[], None],
    on: Execution,
) -> Path:
    """Write a file unless it is up to date.

    A file that a person changed is replaced only with ``on.overwrite``.

    Raises:
        ResumeError: the file was not written by this study, or was changed since.
    """
    record_file = sample.path / ".sparsem" / "exports" / f"{name}.json"
    record: dict[str, Any] = {}
    if record_file.exists():
        record = json.loads(record_file.read_text(encoding="utf-8"))
    is_ours = path.exists() and record.get("file") == _identity(path)
    if is_ours and record["fingerprint"] == fingerprint:
        return path
    if path.exists() and not is_ours and not on.overwrite:
        raise ResumeError(
            f"{path} was not written by this study, or was changed since; move it away, or use "
            "--overwrite to replace it."
        )
    write()
    record_file.parent.mkdir(exist_ok=True)
    content = json_bytes({"fingerprint": fingerprint, "file": _identity(path)})
    write_atomically(record_file, content)
    return path


def _identity(path: Path) -> list[Any]:
    """Return what shows that a file is the same: path, size and time of the last change."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]
