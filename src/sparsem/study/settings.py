"""What a study.toml may hold: a table for each stage, with the settings of its command."""

from pathlib import Path

from pydantic import ConfigDict, Field

from sparsem.annotation.importing import AnnotationSettings
from sparsem.annotation.labeled_slices import outputs_of_cells
from sparsem.cells.settings import CellsSettings
from sparsem.cells.track import TrackSettings
from sparsem.detect.pipeline import DetectStep
from sparsem.errors import SettingsError
from sparsem.io.ingest import ImportSettings
from sparsem.labels.constrain import ConstrainSettings
from sparsem.measure.settings import MeasureSettings
from sparsem.preprocess.align import AlignSettings
from sparsem.preprocess.denoise import DenoiseSettings
from sparsem.preprocess.equalize import EqualizeSettings
from sparsem.quality.quality import QualitySettings
from sparsem.report.scene3d.render import RenderSettings
from sparsem.report.settings import ReportSettings
from sparsem.score.score import ScoreSettings
from sparsem.segment.predict import PredictSettings
from sparsem.settings import Settings, parse, read_toml
from sparsem.training.settings import TrainSettings


class ImportStep(ImportSettings):
    """[import]: the stack."""

    source: str = Field(description="file, folder or glob of the stack")


class AnnotateStep(AnnotationSettings):
    """[annotate.NAME]: labeled slices of a structure."""

    source: str = Field(description="folder of masks, or labeled volume")


class TrainStep(TrainSettings):
    """[train]: the network."""

    out: str = Field("model.safetensors", description="the checkpoint to write")


class ScoreStep(ScoreSettings):
    """[score.NAME]: truth, where somebody has it."""

    truth: str = Field(description="labeled volume")


class ReportStep(ReportSettings):
    """[report]: the page."""

    out: str = Field("report.html", description="the page to write")


class ExportStep(Settings):
    """[export]: labels as TIFF."""

    folder: str = Field("results", description="where NAME.tif are written")
    onto: str | None = Field(
        None,
        description="carry voxels onto the pixels of this image, such as raw, if alignment moved them",
    )


class RenderStep(RenderSettings):
    """[render]: a picture in 3D."""

    out: str = Field(
        "render.png", description="the picture, NAME.png, or the video, NAME.mp4, to write"
    )


class StudySettings(Settings):
    """A study.toml: paths are relative to the file."""

    model_config = ConfigDict(populate_by_name=True)

    sample: str = Field(description="the sample to make, NAME.zarr")
    import_: ImportStep = Field(alias="import", description="the stack")
    align: AlignSettings | None = Field(
        None, description="every slice put over its neighbors; annotations move along"
    )
    equalize: EqualizeSettings | None = Field(None, description="brightness evened out")
    denoise: DenoiseSettings | None = Field(
        None, description="noise taken away; stages then read the denoised image"
    )
    quality: QualitySettings | None = Field(
        None, description="every slice looked at, of the raw image unless another is named"
    )
    annotate: dict[str, AnnotateStep] = Field({}, description="labeled slices by structure")
    train: TrainStep = Field(TrainStep(), description="the network")
    predict: PredictSettings = Field(PredictSettings(), description="prediction")
    cells: CellsSettings | None = Field(
        None, description="separation of cells; runs where [train] has cells = NAME"
    )
    track: TrackSettings | None = Field(None, description="tracking of protrusions")
    detect: DetectStep | None = Field(
        None, description="organelles in boxes; without [annotate.NAME] nothing else is looked for"
    )
    score: dict[str, ScoreStep] = Field({}, description="truth by structure")
    constrain: ConstrainSettings | None = Field(None, description="biological constraints")
    measure: MeasureSettings | None = Field(None, description="measures of every object and cell")
    export: ExportStep | None = Field(None, description="TIFF files")
    render: RenderStep | None = Field(None, description="a picture in 3D")
    report: ReportStep | None = Field(None, description="everything on one page")


def read_study(path: str | Path) -> StudySettings:
    """Read and check a study file.

    Raises:
        SettingsError: it cannot be read, has an unknown key or a value out of range.
    """
    path = Path(path)
    study = parse(StudySettings, read_toml(path), path.name)
    if not (study.annotate or study.detect):
        raise SettingsError(
            f"{path.name}: nothing is to be found; name labeled slices, [annotate.NAME], or boxes, [detect]."
        )
    cells = study.train.cells
    if (study.cells or study.track) and not cells:
        raise SettingsError(
            f"{path.name}: [cells] and [track] need a network that knows cells; add cells = 'cells' to [train]."
        )
    if study.cells and study.cells.cells != cells:
        raise SettingsError(
            f"{path.name}: [cells] separates '{study.cells.cells}', but [train] learns '{cells}'; give both one name."
        )
    if study.track and study.track.cells not in (TrackSettings().cells, separation_of(study).name):
        raise SettingsError(
            f"{path.name}: [track] follows '{study.track.cells}', but cells are separated as '{separation_of(study).name}'."
        )
    known = list(study.train.structure) or ([] if cells else structures_of(study))
    known += [*outputs_of_cells(cells), separation_of(study).name] if cells else []
    missing = [name for name in study.score if name not in known]
    if missing:
        raise SettingsError(
            f"{path.name}: [score.{missing[0]}] has no structure to score; trained are {', '.join(known)}."
        )
    return study


def separation_of(study: StudySettings) -> CellsSettings:
    """Return how a study separates cells."""
    return study.cells or CellsSettings(cells=study.train.cells or "cells")


def structures_of(study: StudySettings) -> list[str]:
    """Every structure that a study annotates."""
    return [name for key, step in study.annotate.items() for name in (list(step.classes) or [key])]
