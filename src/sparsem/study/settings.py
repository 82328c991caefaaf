"""The contents of a study.toml: a table for each stage, with the settings of its command."""

from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, Field

from sparsem.annotation.labeled_slices import outputs_of_cells
from sparsem.annotation.settings import AnnotationSettings
from sparsem.cells.settings import CellsSettings, TrackSettings
from sparsem.detect.pipeline import DetectStep
from sparsem.errors import SettingsError
from sparsem.io.settings import ImportSettings
from sparsem.labels.settings import ConstrainSettings, ObjectSettings
from sparsem.measure.settings import ContactSettings, MeasureSettings, SkeletonSettings
from sparsem.preprocess.settings import AlignSettings, DenoiseSettings, EqualizeSettings
from sparsem.quality.settings import QualitySettings
from sparsem.report.settings import RenderSettings, ReportSettings
from sparsem.score.settings import ScoreSettings
from sparsem.segment.settings import PredictSettings
from sparsem.settings import Settings, StructureNames, nearest, parse, read_toml
from sparsem.training.settings import TrainSettings

S = TypeVar("S", bound=Settings)


class ImportStep(ImportSettings):
    """The table [import]: the stack."""

    source: str = Field(description="file, folder or glob of the stack")


class AnnotateStep(AnnotationSettings):
    """A table [annotate.NAME]: labeled slices of a structure."""

    source: str = Field(description="folder of masks, or labeled volume")


class TrainStep(TrainSettings):
    """The table [train]: the network."""

    out: str = Field("model.safetensors", description="the checkpoint to write")


class ScoreStep(ScoreSettings):
    """A table [score.NAME]: ground truth of a structure."""

    truth: str = Field(description="labeled volume")


class ReportStep(ReportSettings):
    """The table [report]: the page."""

    out: str = Field("report.html", description="the page to write")


class ContactStep(ContactSettings):
    """The table [contacts]: pairs of structures whose contacts are measured."""

    pairs: tuple[tuple[str, str], ...] = Field(
        description='pairs of structures, as [["mitochondrion", "cells"]]'
    )


class SkeletonStep(SkeletonSettings):
    """The table [skeletons]: structures whose center lines are measured."""

    structures: StructureNames = Field(description="structures, such as mitochondrion")


class ExportStep(Settings):
    """The table [export]: labels as TIFF."""

    folder: str = Field("results", description="folder for the files NAME.tif")
    onto: str | None = Field(
        None,
        description="move voxels onto the pixels of this image, such as raw, if alignment moved "
        "them",
    )


class RenderStep(RenderSettings):
    """The table [render]: a rendering in 3D."""

    out: str = Field("render.png", description="the image NAME.png or the video NAME.mp4 to write")


class StudySettings(Settings):
    """A study.toml; its paths are relative to the file."""

    model_config = ConfigDict(populate_by_name=True)

    sample: str = Field(description="the sample to make, NAME.zarr")
    import_: ImportStep = Field(alias="import", description="the stack")
    align: AlignSettings | None = Field(
        None, description="register every slice to those before it; annotations move along"
    )
    equalize: EqualizeSettings | None = Field(None, description="equalize brightness")
    denoise: DenoiseSettings | None = Field(
        None, description="remove noise; stages then read the denoised image"
    )
    quality: QualitySettings | None = Field(
        None, description="measure every slice of the raw image, unless another is named"
    )
    annotate: dict[str, AnnotateStep] = Field({}, description="labeled slices by structure")
    train: TrainStep = Field(TrainStep(), description="training of the network")
    predict: PredictSettings = Field(PredictSettings(), description="prediction")
    cells: CellsSettings | None = Field(
        None, description="separation of cells; runs where [train] has cells = NAME"
    )
    track: TrackSettings | None = Field(None, description="tracking of protrusions")
    detect: DetectStep | None = Field(
        None, description="detection in boxes; without [annotate.NAME] nothing else is predicted"
    )
    score: dict[str, ScoreStep] = Field({}, description="ground truth by structure")
    constrain: ConstrainSettings | None = Field(None, description="biological constraints")
    objects: dict[str, ObjectSettings] = Field(
        {}, description="numbered objects by structure; those of [train] objects in any case"
    )
    measure: MeasureSettings | None = Field(
        None, description="measurements of every object and cell"
    )
    contacts: ContactStep | None = Field(None, description="contacts between objects")
    skeletons: SkeletonStep | None = Field(None, description="center lines of objects")
    export: ExportStep | None = Field(None, description="TIFF files")
    render: RenderStep | None = Field(None, description="a rendering in 3D")
    report: ReportStep | None = Field(None, description="the page with everything")


def read_study(path: str | Path) -> StudySettings:
    """Read and check a study file.

    Raises:
        SettingsError: the file cannot be read, has an unknown key or a value out of range, or its
            tables do not fit each other.
    """
    path = Path(path)
    study = parse(StudySettings, read_toml(path), path.name)
    if not (study.annotate or study.detect):
        raise SettingsError(
            f"{path.name}: there is nothing to predict; name labeled slices, [annotate.NAME], or "
            "boxes, [detect]."
        )
    _check_cells(study, path.name)
    _check_objects(study, path.name)
    _check_scores(study, path.name)
    return study


def _check_cells(study: StudySettings, file: str) -> None:
    cells = study.train.cells
    if (study.cells or study.track) and not cells:
        raise SettingsError(
            f"{file}: [cells] and [track] need a network that knows cells; add cells = 'cells' to "
            "[train]."
        )
    if study.cells and study.cells.cells != cells:
        raise SettingsError(
            f"{file}: [cells] separates '{study.cells.cells}', but [train] is trained on "
            f"'{cells}'; give both one name."
        )
    separated = separation_of(study).name
    if study.track and study.track.cells not in (TrackSettings().cells, separated):
        raise SettingsError(
            f"{file}: [track] follows '{study.track.cells}', but cells are separated as "
            f"'{separated}'."
        )


def _check_objects(study: StudySettings, file: str) -> None:
    """Check that every structure with objects, contacts or skeletons is predicted."""
    known = [*trained_structures(study), *mask_structures(study)]
    pairs = study.contacts.pairs if study.contacts else ()
    thinned = study.skeletons.structures if study.skeletons else ()
    named = [*study.objects, *(name for pair in pairs for name in pair), *thinned]
    for name in named:
        if study.detect is None and name not in known:
            raise SettingsError(
                f"{file}: [objects], [contacts] or [skeletons] names '{name}', which is not "
                f"predicted{nearest(name, known)}"
            )


def _check_scores(study: StudySettings, file: str) -> None:
    """Check that every structure with ground truth is predicted."""
    has_masks = study.detect is not None and study.detect.masks is not None
    if has_masks and not mask_structures(study):
        return  # the boxes decide which structures get masks
    known = [*trained_structures(study), *mask_structures(study)]
    missing = [name for name in study.score if name not in known]
    if missing:
        raise SettingsError(
            f"{file}: [score.{missing[0]}] has no structure to score; predicted are "
            f"{', '.join(known)}."
        )


def trained_structures(study: StudySettings) -> list[str]:
    """Return the structures and outputs of the network of a study."""
    cells = study.train.cells
    names = list(dict.fromkeys([*study.train.structures, *study.train.objects]))
    if not names and not cells:
        names = annotated_names(study)
    if cells:
        names += [*outputs_of_cells(cells), separation_of(study).name]
    return names


def mask_structures(study: StudySettings) -> list[str]:
    """Return the structures whose boxes become masks, as far as the study names them."""
    if study.detect is None or study.detect.masks is None:
        return []
    return list(study.detect.masks.structures or study.detect.train.structures)


def annotated_names(study: StudySettings) -> list[str]:
    """Return every structure that a study annotates."""
    names: list[str] = []
    for key, step in study.annotate.items():
        names += list(step.classes) or [key]
    return names


def separation_of(study: StudySettings) -> CellsSettings:
    """Return how a study separates cells."""
    return study.cells or CellsSettings(cells=study.train.cells or "cells")


def stage_settings(model: type[S], step: Settings) -> S:
    """Return the settings of a stage, without the fields that the study adds to them."""
    return model(**{name: getattr(step, name) for name in model.model_fields})


def resolve_path(folder: Path, path: str) -> str:
    """Return a path of a study, which is relative to the folder of the study file."""
    return path if Path(path).is_absolute() else str(folder / path)
