"""The commands. Each is one call of one public function; what it prints names what was written and what to try next."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsem.annotations import annotated_structures
from sparsem.cells.identify import TrackSettings
from sparsem.cells.identify import track as _track
from sparsem.cells.look import Look
from sparsem.cells.segment import CellsSettings
from sparsem.cells.segment import cells as _cells
from sparsem.cli.options import Outcome, SamplePath, command, lengths_in_words, size_in_words
from sparsem.execution import Execution
from sparsem.experiment import ExperimentSettings
from sparsem.experiment import cells_compared as _experiment
from sparsem.ingest import ImportSettings, import_stack
from sparsem.labelling import AnnotationSettings
from sparsem.labelling import import_annotation as _import_annotation
from sparsem.learn.supervised import TrainSettings
from sparsem.learn.train import train as _train
from sparsem.phantom import PhantomSettings
from sparsem.phantom import phantom as _phantom
from sparsem.predict import PredictSettings
from sparsem.predict import predict as _predict
from sparsem.score.against import Scores, ScoreSettings
from sparsem.score.against import score as _score
from sparsem.score.instances import SCORES
from sparsem.store.sample import Sample
from sparsem.study import StudyResult
from sparsem.study import demo as _demo
from sparsem.study import run as _run


@command(spread=True)
def demo(folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to put it all")] = Path("demo"), *, on: Execution) -> Outcome:
    """Show the whole job on a synthetic tumour volume: stack and seven labelled slices in, every organelle out.

    Takes a few minutes. DIR then holds what you would start from (raw.tif, masks/, study.toml) and what came out.
    """
    result = _demo(folder, on=on)
    lines = [
        *_score_lines(result.scores),
        "",
        *(f"Wrote {path}" for path in result.files),
        f"The sample, for any OME-Zarr viewer: {result.sample.path}",
    ]
    return Outcome(
        lines,
        f"look at {folder}/overlays.png and cells.png, then read {folder}/study.toml: it is all you need for a stack of your own",
        _study_data(result),
    )


@command(PhantomSettings, spread=True)
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")], *, settings: PhantomSettings, on: Execution
) -> Outcome:
    """Make a synthetic tumour volume with exact truth, to try things on and to test.

    Example: sparsem phantom toy.zarr --shape 48 512 512 --voxel-nm 8 8 8 --cells 6 --seed 1
    """
    sample = _phantom(out, settings, on)
    truth = [f"truth/{name}" for name in sample.names("truth")]
    return Outcome(
        [f"Wrote {out} with {', '.join(truth)} and tables/phantom_slices"], f"sparsem info {out}", {"sample": sample.path, "truth": truth}
    )


@command(ImportSettings, spread=True)
def import_(
    source: Annotated[str, typer.Argument(metavar="SRC", help="a TIFF, a folder of slices, a 'glob*.tif' in quotes, a Zarr")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the sample to make, NAME.zarr")],
    *,
    settings: ImportSettings,
    on: Execution,
) -> Outcome:
    """Bring a stack in: TIFF, BigTIFF, OME-TIFF, a folder or glob of TIFF or PNG slices, Zarr or OME-Zarr.

    Example: sparsem import slices/ liver.zarr --voxel-nm 8 4 4
    """
    sample = import_stack(source, out, settings, on)
    image = sample.image("raw")
    return Outcome(
        [f"Wrote {out}: {size_in_words(image.shape)} voxels of {lengths_in_words(image.voxel_size)} nm"],
        f"sparsem annotate import {out} NAME MASKS",
        {"sample": sample.path, "shape": image.shape, "voxel_nm": list(image.voxel_size)},
    )


@command(AnnotationSettings)
def annotate_import(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure, such as mitochondrion; or a set that --classes names")],
    source: Annotated[str, typer.Argument(metavar="SRC", help="a folder of masks with slice numbers in their names, or a labelled volume")],
    *,
    settings: AnnotationSettings,
    on: Execution,
) -> Outcome:
    """Bring hand-labelled slices in. A slice that you did not label is not background: it is not known.

    Examples: sparsem annotate import liver.zarr nucleus masks/nuclei
    or sparsem annotate import liver.zarr organelles labels.tif --slices 0,40,80 --classes nucleus=1,2 --classes nucleolus=2
    """
    sample = Sample.open(path)
    _import_annotation(sample, name, source, settings, on.overwrite)
    found = annotated_structures(sample)
    lines = [f"{structure}: {len(z)} labelled slices ({', '.join(map(str, z))}; the first slice is 0)" for structure, z in found.items()]
    separated = f"{name}-regions" in sample.names("labels")
    learn = f" --cells {name}" if name == CellsSettings().cells else ""
    following = f"sparsem cells {path} --overwrite" if separated else f"sparsem train {path}{learn} --out model.safetensors"
    return Outcome([f"Wrote annotations/{name}", *lines], following, {"annotations": found})


@command(TrainSettings)
def train(
    samples: Annotated[list[Path], typer.Argument(metavar="SAMPLE...", help="one or more annotated samples")],
    out: Annotated[Path, typer.Option("--out", help="the model to write, NAME.safetensors")],
    *,
    settings: TrainSettings,
    on: Execution,
) -> Outcome:
    """Teach a network the structures from the labelled slices. Stop it any time; the same command goes on.

    Example: sparsem train liver.zarr --structure nucleus --structure nucleolus --out liver.safetensors
    """
    recipe = _train([Sample.open(path) for path in samples], out, settings, on)
    held = recipe.training["held out"]
    told = f"; Dice {recipe.training['validation dice']:.3f} on the held-out {', '.join(held)}" if held else ""
    lines = [
        f"Wrote {out}: knows {', '.join(recipe.structures)} from {len(recipe.training['learnt from'])} slices{told}",
        f"Wrote {out.with_suffix('.csv')}",
    ]
    return Outcome(
        lines, f"sparsem predict {samples[0]} {out}", {"model": out, "structures": recipe.structures, "training": recipe.training}
    )


@command(PredictSettings, spread=True)
def predict(
    path: SamplePath,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="what train wrote")],
    *,
    settings: PredictSettings,
    on: Execution,
) -> Outcome:
    """Find the structures in every slice. Stop it any time; the same command goes on.

    Example: sparsem predict liver.zarr liver.safetensors
    """
    sample = Sample.open(path)
    written = _predict(sample, model, settings, on)
    name = written[0].rsplit("/", 1)[-1]
    of_cells = [one.removesuffix("-boundary").rsplit("/", 1)[-1] for one in written if one.endswith("-boundary")]
    return Outcome(
        [f"Wrote {path}/{volume}" for volume in written],
        f"sparsem cells {path} --cells {of_cells[0]}" if of_cells else f"sparsem export {path} {name} {name}.tif",
        {"sample": sample.path, "volumes": written},
    )


@command(CellsSettings, spread=True)
def cells(path: SamplePath, *, settings: CellsSettings, on: Execution) -> Outcome:
    """Tell cells apart that touch and look alike, in every slice, from a few labelled ones and what the network sees of borders.

    Train with --cells NAME and predict before. After a labelled slice was corrected or added, --overwrite does only the slices up to
    its labelled neighbours again. Example: sparsem cells tumour.zarr
    """
    written = _cells(Sample.open(path), settings, on)
    name = f" --cells {settings.name}" if settings.name != TrackSettings().cells else ""
    return Outcome([f"Wrote {path}/{volume}" for volume in written], f"sparsem track {path}{name}", {"volumes": written})


@command(TrackSettings, spread=True)
def track(path: SamplePath, *, settings: TrackSettings, on: Execution) -> Outcome:
    """Give every island, the cut end of a protrusion, the identity of its cell, and list where to look.

    Example: sparsem track tumour.zarr
    """
    found = _track(Sample.open(path), settings, on)
    name = settings.cells
    tables = ", ".join(f"tables/{kind}_{name}" for kind in ("tracks", "links", "look"))
    lines = [
        f"{found.cells} cells, {found.islands} tracks of islands; {found.orphans} objects never meet a cell",
        f"Wrote {path}/labels/{name}, {tables}",
    ]
    if found.look:
        lines += ["", f"Where to look first ({len(found.look)} places in tables/look_{name}.csv):", *map(_place_line, found.look[:10])]
    data = {"cells": found.cells, "islands": found.islands, "orphans": found.orphans, "look": [one._asdict() for one in found.look]}
    return Outcome(lines, f"sparsem export {path} {name} {name}.tif", data)


def _place_line(place: Look) -> str:
    what = f"cells {place.first} and {place.second}" if place.second else f"cell {place.first}"
    reason = "two sides disagree about" if place.kind == "disagreement" else "the area changes of"
    return f"  slice {place.z}, y {place.y}, x {place.x}: {reason} {what} ({place.area_um2:.3g} um2)"


@command(ExperimentSettings, spread=True)
def experiment_cells(
    path: SamplePath,
    truth: Annotated[str | None, typer.Argument(metavar="[TRUTH]", help="a labelled volume; the sample's own truth if not given")] = None,
    *,
    settings: ExperimentSettings,
    on: Execution,
) -> Outcome:
    """Run every way of separating cells, track, score on the slices that nobody labelled, and print them side by side (Table 2).

    Example: sparsem experiment cells tumour.zarr all_cells.tif --least-voxels 5000
    """
    rows = _experiment(Sample.open(path), truth, settings, on)
    head = ("way", "Dice of cells", "ARAND 3D", "VOI split", "VOI merge", "PQ 3D", "AP50 3D", "ARAND 2D")
    keys = ("dice_cells", "arand_3d", "voi_split_3d", "voi_merge_3d", "pq_3d", "ap50_3d", "arand_2d")
    lines = ["  ".join(f"{word:>13}" for word in head)]
    for way, numbers in rows.items():
        values = ("--" if numbers[key] is None else f"{numbers[key]:.3f}" for key in keys)
        lines.append("  ".join(f"{word:>13}" for word in (way, *values)))
    return Outcome([*lines, f"Wrote {path}/tables/experiment_{settings.cells}.parquet and .csv"], data=rows)


@command(ScoreSettings, spread=True)
def score(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Annotated[str | None, typer.Argument(metavar="[TRUTH]", help="a labelled volume; the sample's own truth if not given")] = None,
    *,
    settings: ScoreSettings,
    on: Execution,
) -> Outcome:
    """Compare labels with truth: Dice, precision and recall a slice, averaged, and in 3D.

    Example: sparsem score liver.zarr nucleus all_nuclei.tif
    """
    found = _score(Sample.open(path), name, truth, settings, on)
    lines = [*_score_lines({name: found}), f"Wrote {path}/tables/scores_{name}.parquet and .csv"]
    lines += [f"Wrote {path}/tables/dice_{name}.parquet and .csv"] if found.cells else []
    return Outcome(lines, data={name: _score_data(found)})


@command(spread=True)
def run(study: Annotated[Path, typer.Argument(metavar="STUDY", help="study.toml")], *, on: Execution) -> Outcome:
    """Walk the whole path from one file: import, annotate, train, predict, cells, track, score, export. What is done stays done.

    'sparsem demo' writes a study.toml to start from.
    """
    result = _run(study, on)
    lines = [*_score_lines(result.scores), f"Wrote {result.sample.path}", *(f"Wrote {path}" for path in result.files)]
    return Outcome(lines, f"sparsem info {result.sample.path}", _study_data(result))


def _score_lines(scores: dict[str, Scores]) -> list[str]:
    width = max((len(name) for name in scores), default=0)
    lines = []
    for name, found in scores.items():
        some = [("unseen slices", found.summary(only_unseen=True))] if 0 < len(found.seen) < len(found.slices) else []
        for which, summary in [*some, ("all slices", found.summary(only_unseen=False))]:
            dice, precision, recall, average = (
                "--" if summary[key] is None else f"{summary[key]:.3f}" for key in ("dice_3d", "precision_3d", "recall_3d", "dice_slices")
            )
            pooled = f"3D Dice {dice}, precision {precision}, recall {recall}"
            lines.append(f"{name:{width}}  {which:13}  {pooled}; mean over {summary['slices']} slices {average}")
            lines += _cell_lines(found.of_cells(only_unseen=which != "all slices"), f"{name:{width}}  {which:13}")
    return lines


def _cell_lines(numbers: dict[str, float | None], title: str) -> list[str]:
    """Scores of instances, if they were asked for."""
    if not numbers:
        return []
    shown = {key: "--" if value is None else f"{value:.3f}" for key, value in numbers.items()}
    ways = []
    for where in ("3d", "2d"):
        arand, split, merge, quality, half, mean = (shown[f"{key}_{where}"] for key in SCORES)
        errors = f"adapted Rand error {arand}, VOI {split} split + {merge} merge"
        ways.append(f"{where.upper()}: {errors}, PQ {quality}, AP50 {half}, mAP {mean}")
    return [f"{title}  Dice of {numbers['cells']} cells {shown['dice_cells']}; {ways[0]}", f"{title}  {ways[1]}"]


def _score_data(found: Scores) -> dict[str, Any]:
    both = {"unseen": True, "all": False}
    return {which: found.summary(only_unseen) | found.of_cells(only_unseen) for which, only_unseen in both.items()}


def _study_data(result: StudyResult) -> dict[str, Any]:
    scores = {name: _score_data(found) for name, found in result.scores.items()}
    return {"sample": result.sample.path, "model": result.model, "volumes": result.volumes, "scores": scores, "files": list(result.files)}
