"""All steps of detection in one call, as a study runs them.

Import boxes, train, detect, constrain, make masks, score. Finished steps are not repeated.
"""

from pathlib import Path

from pydantic import Field, model_validator

from sparsem.boxes.constrain import (
    constrain_boxes,
    remove_constrained_boxes,
    structures_with_roles,
)
from sparsem.boxes.importing import import_boxes
from sparsem.boxes.settings import BoxesSettings
from sparsem.boxes.tables import annotated_box_structures, read_annotated_boxes
from sparsem.detect.masks.masks import box_masks
from sparsem.detect.predict import detect
from sparsem.detect.score import BoxEvaluation, can_be_scored, score_boxes
from sparsem.detect.settings import DetectSettings, DetectTrainSettings, MasksSettings
from sparsem.detect.training.train import train_detector
from sparsem.labels.settings import StructureRoles
from sparsem.progress import print_note
from sparsem.settings import Settings, changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution


class DetectStep(Settings):
    """Boxes around organelles ([detect] in a study), by a new or an existing detector."""

    model: str | None = Field(
        None, description="an existing detector; if not given, one is trained on the boxes"
    )
    out: str = Field("detector.safetensors", description="the detector to write")
    boxes: BoxesSettings | None = Field(
        None, description="annotated boxes, for training and for scores"
    )
    train: DetectTrainSettings = Field(
        DetectTrainSettings(split="image"), description="training of the detector"
    )
    predict: DetectSettings = Field(DetectSettings(), description="detection")
    constrain: bool = Field(False, description="apply biological constraints to the boxes")
    masks: MasksSettings | None = Field(
        None, description="masks of the objects in boxes, as labels"
    )

    @model_validator(mode="after")
    def _has_model_or_boxes(self) -> "DetectStep":
        if self.model is None and self.boxes is None:
            raise ValueError(
                "needs boxes to train on, [detect.boxes], or a trained detector, model = "
                "NAME.safetensors"
            )
        return self


def run_detection(
    sample: Sample,
    study_folder: Path,
    step: DetectStep,
    image: str,
    rules: StructureRoles,
    on: Execution = HERE,
) -> tuple[list[str], BoxEvaluation | None]:
    """Run all steps of detection on a sample.

    Args:
        sample: sample after preprocessing.
        study_folder: folder that paths are relative to.
        step: settings of all steps.
        image: image to search. If its pixels lie elsewhere than those of the image that boxes were
            drawn on, that one is searched.
        rules: roles of the structures in biological constraints.
        on: how the work is distributed.

    Returns:
        Paths of the label volumes of masks, and the scores of the boxes, if images were annotated
        that the detector was not trained on.
    """
    if step.boxes:
        source = None if step.boxes.source is None else str(study_folder / step.boxes.source)
        import_boxes([sample], changed(step.boxes, {"source": source}), on=on)
    image = _image_of_boxes(sample, image)
    model = study_folder / (step.model or step.out)
    if step.model is None:
        _train(
            sample,
            study_folder,
            model,
            changed(step.train, {"image": step.train.image or image}),
            on,
        )
    detect(sample, model, changed(step.predict, {"image": step.predict.image or image}), on=on)
    _constrain(sample, step.constrain, rules, on.quiet)
    volumes = _make_masks(sample, study_folder, step.masks, on) if step.masks else []
    scores = _score_if_possible(sample, on.quiet) if step.boxes else None
    return volumes, scores


def _make_masks(
    sample: Sample, study_folder: Path, settings: MasksSettings, on: Execution
) -> list[str]:
    """Make masks in boxes, and return the paths of their volumes."""
    sam = settings.sam and _in_folder(study_folder, settings.sam)
    return box_masks(sample, changed(settings, {"sam": sam}), on=on).volumes


def _train(
    sample: Sample, study_folder: Path, model: Path, settings: DetectTrainSettings, on: Execution
) -> None:
    """Train a detector on a sample; initial weights may lie in the folder of the study."""
    weights = _in_folder(study_folder, settings.weights)
    train_detector([sample], model, changed(settings, {"weights": weights}), on=on)


def _score_if_possible(sample: Sample, quiet: bool) -> BoxEvaluation | None:
    """Return the scores of the boxes, if images were annotated that were not trained on."""
    if can_be_scored(sample):
        return score_boxes([sample])
    print_note(
        "Note: the detector was trained on every annotated image, so its boxes cannot be scored.",
        quiet,
    )
    return None


def _image_of_boxes(sample: Sample, image: str) -> str:
    """Return ``image``, or the image of the annotated boxes if these lie on other pixels."""
    structures = annotated_box_structures(sample)
    images = [read_annotated_boxes(sample, name).image for name in structures]
    if images and sample.grid_image(image) != sample.grid_image(images[0]):
        return images[0]
    return image


def _in_folder(folder: Path, name: str) -> str:
    """Return the path of a file or folder in ``folder``; a name that is none stays."""
    path = folder / name
    return str(path) if path.exists() else name


def _constrain(sample: Sample, is_asked: bool, rules: StructureRoles, quiet: bool) -> None:
    """Constrain boxes, or remove constraints of an earlier run."""
    if not is_asked:
        remove_constrained_boxes(sample)
    elif len(structures_with_roles(sample, rules)) < 2:
        print_note(
            "Note: biological constraints need boxes of two structures with a role; no box was "
            "constrained.",
            quiet,
        )
        remove_constrained_boxes(sample)
    else:
        constrain_boxes(sample, rules)
