"""The path of boxes in one call, as a study walks it: bring in, learn, find, hold to biology, mask, score. What is done stays done."""

from pathlib import Path

from pydantic import Field, model_validator

from sparsem.boxes.constrain import constrain_boxes, remove_constrained_boxes, structures_with_roles
from sparsem.boxes.importing import BoxesSettings, import_boxes
from sparsem.boxes.tables import annotated_box_structures, read_annotated_boxes
from sparsem.detect.masks.masks import MasksSettings, box_masks
from sparsem.detect.predict import detect
from sparsem.detect.score import BoxEvaluation, can_be_scored, score_boxes
from sparsem.detect.settings import DetectSettings, DetectTrainSettings
from sparsem.detect.training.train import train_detector
from sparsem.labels.constrain import StructureRoles
from sparsem.progress import tell
from sparsem.settings import Settings, changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution


class DetectStep(Settings):
    """[detect]: boxes around organelles, by a detector that is trained here or was before."""

    model: str | None = Field(
        None, description="a detector that exists; without it one is trained from the boxes"
    )
    out: str = Field("detector.safetensors", description="the detector to write")
    boxes: BoxesSettings | None = Field(
        None, description="annotated boxes, to learn from and to score against"
    )
    train: DetectTrainSettings = Field(
        DetectTrainSettings(split="image"), description="the detector"
    )
    predict: DetectSettings = Field(DetectSettings(), description="finding boxes")
    constrain: bool = Field(False, description="hold boxes to biology")
    masks: MasksSettings | None = Field(None, description="objects pixel by pixel, as labels")

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "DetectStep":
        if self.model is None and self.boxes is None:
            raise ValueError(
                "needs boxes to learn from, [detect.boxes], or a model that knows them, model = NAME.safetensors"
            )
        return self


def run_detection(
    sample: Sample,
    here: Path,
    step: DetectStep,
    image: str,
    rules: StructureRoles,
    on: Execution = HERE,
) -> tuple[list[str], BoxEvaluation | None]:
    """Find boxes in a sample, and what follows from them.

    Args:
        sample: as it is prepared.
        here: folder that paths are relative to.
        step: what is done.
        image: to look at; that which boxes were drawn on, if its pixels lie elsewhere.
        rules: of biology, if boxes are held to it.
        on: how the work is spread.

    Returns:
        Paths of the labels that were made, and how good the boxes are, if any were annotated that nobody learnt from.
    """
    if step.boxes:
        source = None if step.boxes.source is None else str(here / step.boxes.source)
        import_boxes([sample], changed(step.boxes, {"source": source}), on=on)
    drawn = [read_annotated_boxes(sample, name).image for name in annotated_box_structures(sample)]
    if drawn and sample.drawn_on(image) != sample.drawn_on(drawn[0]):
        image = drawn[0]
    model = here / (step.model or step.out)
    if step.model is None:
        weights = (
            str(here / step.train.weights)
            if (here / step.train.weights).exists()
            else step.train.weights
        )
        training = changed(step.train, {"image": step.train.image or image, "weights": weights})
        train_detector([sample], model, training, on=on)
    detect(sample, model, changed(step.predict, {"image": step.predict.image or image}), on=on)
    if step.constrain and len(structures_with_roles(sample, rules)) < 2:
        tell(
            "Note: rules are between two structures, and no two that they know were looked for; nothing is constrained.",
            on.quiet,
        )
        remove_constrained_boxes(sample)
    elif step.constrain:
        constrain_boxes(sample, rules)
    else:
        remove_constrained_boxes(sample)
    made = []
    if step.masks:
        folder = step.masks.sam and here / step.masks.sam
        own = str(folder) if folder and folder.exists() else step.masks.sam
        made = box_masks(sample, changed(step.masks, {"sam": own}), on=on).volumes
    if step.boxes and not can_be_scored(sample):
        tell(
            "Note: the detector learnt from every annotated picture, so how good its boxes are cannot be told.",
            on.quiet,
        )
        return made, None
    return made, score_boxes([sample]) if step.boxes else None
