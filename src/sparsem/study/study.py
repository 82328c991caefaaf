"""The stage order of a study: one sample from a stack to a report, described by one TOML file.

This is the only room that knows all stages. Every stage resumes on its own, so running a study
again computes what is missing and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsem.annotation.ground_truth import read_ground_truth
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import boundary_of_objects, outputs_of_cells
from sparsem.annotation.settings import AnnotationSettings
from sparsem.cells.cells import cells
from sparsem.cells.settings import TrackSettings
from sparsem.cells.track import TrackResult, track
from sparsem.detect.pipeline import run_detection
from sparsem.detect.score import BoxEvaluation
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels.constrain import constrain, remove_constrained
from sparsem.labels.objects import objects
from sparsem.labels.settings import ObjectSettings, StructureRoles
from sparsem.measure.contacts import contacts
from sparsem.measure.measure import measure
from sparsem.measure.settings import ContactSettings, SkeletonSettings
from sparsem.measure.skeletons import skeletons
from sparsem.preprocess.align import Alignment, align
from sparsem.preprocess.denoise import denoise
from sparsem.preprocess.equalize import equalize
from sparsem.quality.quality import quality
from sparsem.score.score import Scores, score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.cross_validation import CrossValidation
from sparsem.segment.predict import predict
from sparsem.segment.train import train
from sparsem.settings import changed
from sparsem.store.names import CONSTRAINED, REGIONS
from sparsem.store.sample import Sample
from sparsem.study.outputs import export_labels, render_scene, write_report
from sparsem.study.settings import (
    ScoreStep,
    StudySettings,
    read_study,
    resolve_path,
    separation_of,
    stage_settings,
)
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution


@dataclass(frozen=True)
class StudyResult:
    """The results of a study.

    Attributes:
        sample: the sample with all volumes and tables.
        model: the network that was trained; None where the study has boxes only.
        volumes: paths of the volumes in the sample that the study wrote.
        cells: cells and their protrusions; None without cells.
        scores: scores by structure.
        files: exported files, renderings and pages.
        alignment: how the stack was aligned; None if it was not.
        validations: the Dice to expect on unlabeled slices, by structure.
        boxes: scores of boxes; None without them.
    """

    sample: Sample
    model: Path | None
    volumes: tuple[str, ...]
    cells: TrackResult | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    alignment: Alignment | None = None
    validations: tuple[CrossValidation, ...] = ()
    boxes: BoxEvaluation | None = None


def run(path: str | Path, *, on: Execution = HERE) -> StudyResult:
    """Run the whole study of a study.toml, from import to measurements and report.

    Steps that are done are not computed again.

    Raises:
        SettingsError: the file is no study.
        SparsemError: a stage raised it.
    """
    path = Path(path).resolve()
    return _Run(read_study(path), path.parent, on).result()


class _Run:
    """One run of a study: its steps, in their order.

    Args:
        study: the settings of all stages.
        folder: folder of the study file, to which its paths are relative.
        on: how the work is run.
    """

    def __init__(self, study: StudySettings, folder: Path, on: Execution) -> None:
        self.study = study
        self.folder = folder
        self.on = on
        source = resolve_path(folder, study.import_.source)
        settings = stage_settings(ImportSettings, study.import_)
        self.sample = import_stack(source, folder / study.sample, settings, on=on)

    def result(self) -> StudyResult:
        """Run all steps."""
        study = self.study
        self._check_ground_truth()
        self._import_annotations(is_on_raw=True)
        image, alignment = self._preprocess()
        self._import_annotations(is_on_raw=False)
        volumes: list[str] = []
        model = None
        validations: Sequence[CrossValidation] = ()
        if study.annotate:
            model, predicted, validations = self._train_and_predict(image)
            volumes += predicted
        boxes = None
        if study.detect:
            rules = study.constrain or StructureRoles()
            masks, boxes = run_detection(
                self.sample, self.folder, study.detect, image, rules, self.on
            )
            volumes += masks
        tracking = None
        if study.train.cells:
            separated, tracking = self._separate_cells()
            volumes += separated
        self._constrain_and_measure()
        scores = {name: self._score(name, step) for name, step in study.score.items()}
        return StudyResult(
            sample=self.sample,
            model=model,
            volumes=tuple(volumes),
            cells=tracking,
            scores=scores,
            files=tuple(self._write_files(volumes)),
            alignment=alignment,
            validations=tuple(validations),
            boxes=boxes,
        )

    def _check_ground_truth(self) -> None:
        """Report faults of the ground truth before a night of training."""
        raw = self.sample.image("raw")
        for name, step in self.study.score.items():
            truth = resolve_path(self.folder, step.truth)
            read_ground_truth(self.sample, name, raw, truth, step)

    def _import_annotations(self, is_on_raw: bool) -> None:
        """Import the annotations drawn on the raw image, or those drawn on derived images."""
        for name, step in self.study.annotate.items():
            settings = stage_settings(AnnotationSettings, step)
            image = settings.image or "raw"
            if (image == "raw") is is_on_raw:
                source = resolve_path(self.folder, step.source)
                settings = changed(settings, {"image": image})
                import_annotation(self.sample, name, source, settings, on=self.on)

    def _preprocess(self) -> tuple[str, Alignment | None]:
        """Return the image that the study works on, and how it was aligned.

        Other images that the sample may hold are not considered.
        """
        study = self.study
        image = "raw"
        alignment = None
        if study.align:
            source = study.align.image or image
            alignment = align(self.sample, study.align, on=self.on, image=source)
            image = alignment.image
        if study.equalize:
            source = study.equalize.image or image
            image = equalize(self.sample, study.equalize, on=self.on, image=source).image
        if study.denoise:
            source = study.denoise.image or image
            image = denoise(self.sample, study.denoise, on=self.on, image=source).image
        if study.quality:
            quality(self.sample, study.quality, on=self.on)
        return image, alignment

    def _train_and_predict(self, image: str) -> tuple[Path, list[str], Sequence[CrossValidation]]:
        """Train a network on the labeled slices, and predict with it."""
        study = self.study
        model = self.folder / study.train.out
        training = stage_settings(TrainSettings, study.train)
        training = changed(training, {"image": training.image or image})
        validations = train(self.sample, model, training, on=self.on).validations
        source = study.predict.image or image
        prediction = predict(self.sample, model, study.predict, on=self.on, image=source)
        return model, list(prediction.written), validations

    def _separate_cells(self) -> tuple[list[str], TrackResult]:
        separation = separation_of(self.study)
        volumes = cells(self.sample, separation, on=self.on).written
        settings = self.study.track or TrackSettings()
        tracking = track(self.sample, settings, on=self.on, cells=separation.name)
        return [*volumes, f"labels/{separation.name}"], tracking

    def _cells_option(self) -> dict[str, str]:
        """Return the name of the cells, as stages that need it take it; empty without cells."""
        return {"cells": separation_of(self.study).name} if self.study.train.cells else {}

    def _constrain_and_measure(self) -> None:
        study = self.study
        if study.constrain:
            constrain(self.sample, study.constrain, on=self.on, **self._cells_option())
        elif any(name.endswith(CONSTRAINED) for name in self.sample.names("labels")):
            remove_constrained(self.sample)  # by an earlier version of the study
        self._number_objects()
        if study.measure:
            measure(self.sample, study.measure, on=self.on, **self._cells_option())
        self._measure_networks()

    def _measure_networks(self) -> None:
        """Measure contacts between objects, and their center lines."""
        study = self.study
        if study.contacts:
            distance = stage_settings(ContactSettings, study.contacts)
            for first, second in study.contacts.pairs:
                contacts(self.sample, first, second, distance, on=self.on)
        if study.skeletons:
            budget = stage_settings(SkeletonSettings, study.skeletons)
            for name in study.skeletons.structures:
                skeletons(self.sample, name, budget, on=self.on)

    def _number_objects(self) -> None:
        """Number the objects of structures that are named, or trained with their boundaries."""
        study = self.study
        steps = dict.fromkeys(study.train.objects, ObjectSettings()) | study.objects
        for name, settings in steps.items():
            objects(self.sample, name, settings, on=self.on)

    def _score(self, name: str, step: ScoreStep) -> Scores:
        truth = resolve_path(self.folder, step.truth)
        return score(self.sample, name, truth, stage_settings(ScoreSettings, step), on=self.on)

    def _write_files(self, volumes: Sequence[str]) -> list[Path]:
        """Export results, and write renderings and the report."""
        study = self.study
        files = []
        if study.export:
            for name in self._result_names(volumes):
                files.append(export_labels(self.sample, name, self.folder, study.export, self.on))
        if study.render:
            scene = changed(study.render, self._cells_option())
            files.append(render_scene(self.sample, self.folder, scene, self.on))
        if study.report:
            page = changed(study.report, self._cells_option())
            files.append(write_report(self.sample, self.folder, study.score, page, self.on))
        return files

    def _result_names(self, volumes: Sequence[str]) -> list[str]:
        """Return the names of the labels that are results, and no steps towards one."""
        steps = {boundary_of_objects(name) for name in self.study.train.objects}
        if self.study.train.cells:
            steps.update(outputs_of_cells(self.study.train.cells))
            steps.add(f"{separation_of(self.study).name}{REGIONS}")
        names = [
            volume.removeprefix("labels/") for volume in volumes if volume.startswith("labels/")
        ]
        return [name for name in names if name not in steps]
