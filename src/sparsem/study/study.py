"""A study: the whole path of one sample from one TOML file. The only module that knows all stages.

Every stage resumes on its own, so running a study again does what is left and nothing else.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparsem import __version__
from sparsem.annotation.ground_truth import read_ground_truth
from sparsem.annotation.importing import AnnotationSettings, import_annotation
from sparsem.annotation.labeled_slices import UNKNOWN, outputs_of_cells
from sparsem.cells.cells import cells
from sparsem.cells.track import TrackResult, TrackSettings, track
from sparsem.detect.pipeline import run_detection
from sparsem.detect.score import BoxEvaluation
from sparsem.errors import ResumeError
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.io.writers import write_tiff
from sparsem.labels.constrain import StructureRoles, constrain, remove_constrained
from sparsem.labels.results import CONSTRAINED, result_labels
from sparsem.measure.measure import measure
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.preprocess.align import Alignment, align
from sparsem.preprocess.denoise import denoise
from sparsem.preprocess.equalize import equalize
from sparsem.quality.quality import quality
from sparsem.report.export import ExportSettings, export
from sparsem.report.plots.figures import (
    ComparedCells,
    ComparedSlice,
    write_cell_comparison,
    write_dice_along_z,
    write_slice_comparison,
)
from sparsem.report.report import report
from sparsem.report.scene3d.render import RenderSettings, render
from sparsem.report.settings import ReportSettings
from sparsem.score.score import Scores, ScoreSettings, score
from sparsem.segment.cross_validation import CrossValidation, train_and_cross_validate
from sparsem.segment.predict import predict
from sparsem.settings import Settings, changed
from sparsem.store.sample import Sample
from sparsem.store.volume import json_bytes, write_atomically
from sparsem.study.settings import (
    ExportStep,
    RenderStep,
    ReportStep,
    ScoreStep,
    StudySettings,
    read_study,
    separation_of,
)
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.stage import fingerprint_of


@dataclass(frozen=True)
class StudyResult:
    """What a study made."""

    sample: Sample
    model: Path | None
    volumes: tuple[str, ...]
    cells: TrackResult | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    alignment: Alignment | None = None
    promises: tuple[CrossValidation, ...] = ()
    boxes: BoxEvaluation | None = None


def run(path: str | Path, *, on: Execution = HERE) -> StudyResult:
    """Walk the whole path of a study.toml, from import, align and equalize to measure, export and report.

    What is done stays done.

    Raises:
        SettingsError: the file is not a study.
        SparsemError: whatever a stage raises.
    """
    path = Path(path).resolve()
    study, here = read_study(path), path.parent
    sample = import_stack(
        _source(here, study.import_.source),
        here / study.sample,
        _plain(ImportSettings, study.import_),
        on=on,
    )
    for (
        name,
        step,
    ) in (
        study.score.items()
    ):  # what is wrong with ground truth is reported before a night of training
        read_ground_truth(sample, name, sample.image("raw"), _source(here, step.truth), step)
    _annotate(sample, here, study, on, drawn_on_raw=True)
    image, alignment = _prepared(sample, study, on)
    _annotate(sample, here, study, on, drawn_on_raw=False)
    model, volumes, promises = (
        _pixel_by_pixel(sample, here, study, image, on) if study.annotate else (None, [], ())
    )
    rules = study.constrain or StructureRoles()
    masked, judged = (
        run_detection(sample, here, study.detect, image, rules, on) if study.detect else ([], None)
    )
    volumes += masked
    tracked = None
    if study.train.cells:
        separation = separation_of(study)
        volumes += cells(sample, separation, on=on)
        tracked = track(
            sample,
            changed(study.track or TrackSettings(), {"cells": separation.name}),
            on=on,
        )
        volumes.append(f"labels/{separation.name}")
    names = [volume.removeprefix("labels/") for volume in volumes if volume.startswith("labels/")]
    cell = study.train.cells
    on_the_way = (
        {*outputs_of_cells(cell), f"{separation_of(study).name}-regions"} if cell else set()
    )
    results = [name for name in names if name not in on_the_way]
    called = {"cells": separation_of(study).name} if study.train.cells else {}
    if study.constrain:
        constrain(sample, changed(study.constrain, called), on=on)
    elif any(name.endswith(CONSTRAINED) for name in sample.names("labels")):
        remove_constrained(sample)  # what an earlier version of the study constrained
    if study.measure:
        measure(sample, changed(study.measure, called), on=on)
    scores = {name: _scored(sample, here, name, step, on) for name, step in study.score.items()}
    files = (
        [_exported(sample, name, here, study.export, on) for name in results]
        if study.export
        else []
    )
    if study.render:
        files.append(_rendered(sample, here, changed(study.render, called), on))
    if study.report:
        files.append(_report(sample, here, study, changed(study.report, called), on))
    return StudyResult(
        sample,
        model,
        tuple(volumes),
        tracked,
        scores,
        tuple(files),
        alignment,
        tuple(promises),
        judged,
    )


def _pixel_by_pixel(
    sample: Sample, here: Path, study: StudySettings, image: str, on: Execution
) -> tuple[Path, list[str], Sequence[CrossValidation]]:
    """What a network finds that learnt from the labeled slices."""
    model = here / study.train.out
    training: TrainSettings = _plain(TrainSettings, study.train)
    _, promises = train_and_cross_validate(
        [sample], model, changed(training, {"image": training.image or image}), on=on
    )
    volumes = predict(
        sample, model, changed(study.predict, {"image": study.predict.image or image}), on=on
    )
    return model, volumes, promises


def _prepared(sample: Sample, study: StudySettings, on: Execution) -> tuple[str, Alignment | None]:
    """The image that the study works on, whatever other images the sample holds, and how it was aligned."""
    image, alignment = "raw", None
    if study.align:
        alignment = align(
            sample, changed(study.align, {"image": study.align.image or image}), on=on
        )
        image = alignment.image
    if study.equalize:
        image = equalize(
            sample, changed(study.equalize, {"image": study.equalize.image or image}), on=on
        )
    if study.denoise:
        image = denoise(
            sample, changed(study.denoise, {"image": study.denoise.image or image}), on=on
        )
    if study.quality:
        quality(sample, study.quality, on=on)
    return image, alignment


def _annotate(
    sample: Sample, here: Path, study: StudySettings, on: Execution, drawn_on_raw: bool
) -> None:
    """Bring in what was drawn on the stack as it came, or on an image made from it."""
    for name, step in study.annotate.items():
        settings: AnnotationSettings = _plain(AnnotationSettings, step)
        image = settings.image or "raw"
        if (image == "raw") is drawn_on_raw:
            import_annotation(
                sample,
                name,
                _source(here, step.source),
                changed(settings, {"image": image}),
                on=on,
            )


def _scored(sample: Sample, here: Path, name: str, step: ScoreStep, on: Execution) -> Scores:
    """Scores of the labels that count."""
    return score(sample, name, _source(here, step.truth), _plain(ScoreSettings, step), on=on)


def _exported(sample: Sample, name: str, here: Path, step: ExportStep, on: Execution) -> Path:
    """Export the labels that count, as TIFF."""
    path, settings = here / step.folder / f"{name}.tif", ExportSettings(onto=step.onto)
    made_from = result_labels(sample, name).fingerprint
    if step.onto is not None:
        made_from = fingerprint_of(
            {"labels": made_from, "onto": step.onto, "image": sample.image(step.onto).fingerprint}
        )
    again = replace(on, overwrite=True)
    return _written_once(
        sample, name, path, made_from, lambda: export(sample, [name], path, settings, on=again), on
    )


def _rendered(sample: Sample, here: Path, step: RenderStep, on: Execution) -> Path:
    """The picture, made again when any labels were."""
    settings: RenderSettings = _plain(RenderSettings, step)
    path, again = here / step.out, replace(on, overwrite=True)
    labels = {name: sample.volume("labels", name).fingerprint for name in sample.names("labels")}
    made_from = fingerprint_of(
        {"labels": labels, "settings": settings.model_dump(mode="json"), "version": __version__}
    )
    return _written_once(
        sample,
        f"render-{path.stem}",
        path,
        made_from,
        lambda: render(sample, path, settings, on=again),
        on,
    )


def _report(
    sample: Sample, here: Path, study: StudySettings, step: ReportStep, on: Execution
) -> Path:
    """The page, made again when anything was done to the sample since."""
    # Ground truth of which only some numbers are the structure cannot be laid over a slice as it is.
    whole = {
        name: one
        for name, one in study.score.items()
        if not (one.ids or one.dataset or one.box or one.ignore is not None)
    }
    paths = {name: one.truth for name, one in whole.items()} | step.truth
    slices = {name: one.slices for name, one in whole.items() if one.slices} | step.truth_slices
    truth = {name: _source(here, path) for name, path in paths.items()}
    settings = changed(_plain(ReportSettings, step), {"truth": truth, "truth_slices": slices})
    done = [[entry["stage"], entry["fingerprint"]] for entry in sample.history()]
    made_from = fingerprint_of(
        {"done": done, "settings": settings.model_dump(mode="json"), "version": __version__}
    )
    path = here / step.out
    again = replace(on, overwrite=True)
    return _written_once(
        sample,
        f"report-{path.stem}",
        path,
        made_from,
        lambda: report([sample.path], path, settings, on=again),
        on,
    )


def _written_once(
    sample: Sample, what: str, path: Path, made_from: str, write: Callable[[], Any], on: Execution
) -> Path:
    """Write a file unless that was done; one that somebody changed since is only replaced on request."""
    note = sample.path / ".sparsem" / "exports" / f"{what}.json"
    before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    untouched = path.exists() and before.get("file") == [
        str(path),
        path.stat().st_size,
        path.stat().st_mtime_ns,
    ]
    if untouched and before["labels"] == made_from:
        return path
    if path.exists() and not untouched and not on.overwrite:
        raise ResumeError(
            f"{path} was not written by this study, or was changed since; move it away, or use --overwrite to replace it."
        )
    write()
    note.parent.mkdir(exist_ok=True)
    file = [str(path), path.stat().st_size, path.stat().st_mtime_ns]
    write_atomically(note, json_bytes({"labels": made_from, "file": file}))
    return path


def _source(here: Path, source: str) -> str:
    return source if Path(source).is_absolute() else str(here / source)


def _plain(model: type[Any], step: Settings) -> Any:
    """The stage's own settings, without what the study adds to them."""
    return model(**{name: getattr(step, name) for name in model.model_fields})


DEMO_STRUCTURES = ("nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")
DEMO_PHANTOM = PhantomSettings(shape=(64, 512, 512), voxel_nm=(16, 16, 16), cells=6, seed=1)
DEMO_LEAST_UM3 = {
    "nucleus": 0.05,
    "nucleolus": 0.005,
}  # specks of a network's doubt, in tissue of which a nucleus measures 2 µm³
DEMO_TRAINING = TrainSettings(structure=DEMO_STRUCTURES, cells="cells", updates=2200)


def demo(
    folder: str | Path,
    tissue: PhantomSettings = DEMO_PHANTOM,
    training: TrainSettings = DEMO_TRAINING,
    labeled: int = 7,
    *,
    on: Execution = HERE,
) -> StudyResult:
    """The main job on a phantom, as a microscopist would do it, in a folder that can be looked at.

    Writes a raw TIFF stack, a folder of masks of ``labeled`` slices for each structure and for cells, and a study.toml that leads
    from them to labels of every slice, cells with their protrusions, scores against the exact truth, and pictures.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    truth = phantom(folder / "phantom.zarr", tissue, on=on)
    if not (folder / "raw.tif").exists():
        write_tiff(truth.image("raw"), folder / "raw.tif", quiet=on.quiet)
    slices = evenly_spaced(tissue.shape[0], labeled)
    for name in (*training.structure, *([training.cells] if training.cells else [])):
        _write_masks(truth, name, slices, folder / "masks" / name, name == training.cells)
    if not (folder / "study.toml").exists():
        (folder / "study.toml").write_text(_demo_study(training), encoding="utf-8")
    result = run(folder / "study.toml", on=on)
    dice = {
        name: ([one.dice for one in found.slices], found.group("trained"))
        for name, found in result.scores.items()
        if not found.cells
    }
    files = [
        write_slice_comparison(
            _compared(result.sample, truth, training.structure, slices), folder / "overlays.png"
        ),
        write_dice_along_z(dice, folder / "dice.png"),
    ]
    if training.cells and result.cells:
        files.append(
            write_cell_comparison(
                _compared_cells(result, truth, training.cells, slices), folder / "cells.png"
            )
        )
    return replace(result, files=(*result.files, *files))


def _write_masks(truth: Sample, name: str, slices: list[int], folder: Path, cells: bool) -> None:
    """A picture a labeled slice: white on black, or the numbers of cells in 16 bit."""
    folder.mkdir(parents=True, exist_ok=True)
    for z in slices:
        file = folder / f"{name}_z{z:04d}.png"
        if file.exists():
            continue  # somebody may have improved it
        labels = truth.volume("truth", name).read(slice(z, z + 1))[0]
        cv2.imwrite(
            str(file),
            labels.astype(np.uint16) if cells else (labels > 0).astype(np.uint8) * UNKNOWN,
        )


def _demo_study(training: TrainSettings) -> str:
    changed = {
        key: value
        for key, value in training.model_dump().items()
        if value != TrainSettings.model_fields[key].default
    }
    lines = ['sample = "sample.zarr"', "", "[import]", 'source = "raw.tif"', ""]
    for name in (*training.structure, *([training.cells] if training.cells else [])):
        lines += [f"[annotate.{name}]", f'source = "masks/{name}"', ""]
    lines += ["[train]", *(f"{key} = {_toml(value)}" for key, value in changed.items()), ""]
    for name in training.structure:
        lines += [f"[score.{name}]", f'truth = "phantom.zarr/truth/{name}"', 'slices = "all"', ""]
    if training.cells:
        truth = f'truth = "phantom.zarr/truth/{training.cells}"'
        lines += [
            f"[score.{training.cells}]",
            truth,
            'slices = "all"',
            "instances = true",
            "min_voxels = 5000",
            "",
        ]
    least = f"min_volume_um3 = {{ {', '.join(f'{name} = {size}' for name, size in DEMO_LEAST_UM3.items() if name in training.structure)} }}"
    lines += ["[constrain]", "", "[measure]", least, ""]
    return "\n".join(
        [*lines, "[export]", 'folder = "results"', "", "[report]", 'out = "report.html"', ""]
    )


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _unseen(seen: list[int]) -> tuple[int, int]:
    """Two slices that no training saw, as far from labeled ones as any."""
    middles = [(first + second) // 2 for first, second in pairwise(seen) if second - first > 1]
    return middles[len(middles) // 3], middles[-1 - len(middles) // 3]


def _compared(
    sample: Sample, truth: Sample, structures: tuple[str, ...], seen: list[int]
) -> list[ComparedSlice]:
    rows = []
    for z in _unseen(seen):
        own = slice(z, z + 1)
        true = {name: truth.volume("truth", name).read(own)[0] > 0 for name in structures}
        ours = {name: sample.volume("labels", name).read(own)[0] > 0 for name in structures}
        rows.append(
            ComparedSlice(f"slice {z}, not labeled", sample.image().read(own)[0], true, ours)
        )
    return rows


def _compared_cells(
    result: StudyResult, truth: Sample, name: str, seen: list[int]
) -> list[ComparedCells]:
    rows = []
    for z in _unseen(seen):
        own = slice(z, z + 1)
        image, ours = (
            result.sample.image().read(own)[0],
            result.sample.volume("labels", name).read(own)[0],
        )
        places = [
            (one.y, one.x) for one in (result.cells.review if result.cells else ()) if one.z == z
        ]
        rows.append(
            ComparedCells(
                f"slice {z}, not labeled",
                image,
                truth.volume("truth", name).read(own)[0],
                ours,
                places,
            )
        )
    return rows
