"""The commands of boxes: import, train, predict, mask, constrain, score, count, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sparsem
from sparsem.boxes.settings import BoxesSettings, CountSettings
from sparsem.cli.format import in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.cli.score_format import box_data, box_lines
from sparsem.detect.settings import (
    DetectScoreSettings,
    DetectSettings,
    DetectTrainSettings,
    MasksSettings,
)
from sparsem.errors import InputError
from sparsem.labels.settings import StructureRoles
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.store.sample import Sample

Samples = Annotated[
    list[Path], typer.Argument(metavar="SAMPLE...", help="one or more samples, NAME.zarr")
]


def _open_all(paths: list[Path]) -> "list[Sample]":
    return [sparsem.Sample.open(path) for path in paths]


@command(BoxesSettings)
def detect_import_command(samples: Samples, *, settings: BoxesSettings, on: Execution) -> Outcome:
    """Import boxes from a file, or put boxes around the objects of labels, so that detectors are
    trained on segmented data.

    sparsem detect import S01.zarr S02.zarr --source boxes.json
    sparsem detect import liver.zarr --from-labels mitochondrion
    """
    summary = sparsem.import_boxes(_open_all(samples), settings, on=on)
    lines = [f"{count} boxes of {name}" for name, count in summary.boxes.items()]
    line = f"in {summary.images} annotated images"
    if summary.small:
        size = f"less than {settings.min_px:g} px"
        line += f"; {summary.small} boxes of {size} were dropped (--min-px)"
    lines.append(line)
    for name, count in summary.incomplete.items():
        noun = "image" if count == 1 else "images"
        lines.append(f"without {count} {noun} not completely annotated with {name}")
    data = {
        "boxes": summary.boxes,
        "images": summary.images,
        "small": summary.small,
        "left_out": summary.left_out,
        "incomplete": summary.incomplete,
    }
    paths = " ".join(map(in_shell, samples))
    split = " --split image" if len(samples) == 1 else ""
    return Outcome(lines, f"sparsem detect train {paths}{split} --out detector.safetensors", data)


@command(DetectTrainSettings)
def detect_train_command(
    samples: Samples,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DETECTOR", help="the detector to write, NAME.safetensors"),
    ],
    *,
    settings: DetectTrainSettings,
    on: Execution,
) -> Outcome:
    """Train a detector on annotated boxes. It can be stopped any time; the same command resumes.

    The second example holds out the last slices of a single stack.

    sparsem detect train S*.zarr --structure mitochondrion --out mitochondria.safetensors
    sparsem detect train liver.zarr --split image --out liver.safetensors
    """
    from sparsem.training.files import log_path

    recipe = sparsem.train_detector(_open_all(samples), out, settings, on=on).recipe
    held_out = recipe.training.get("validation_ap50", {})
    scores = "".join(
        f"; AP50 of {name} {value:.3f} on held-out images" for name, value in held_out.items()
    )
    lines = [
        f"Wrote {out}: detects {', '.join(recipe.structures)}{scores}",
        f"Wrote {log_path(out)}",
    ]
    data = {
        "detector": out,
        "structures": recipe.structures,
        "training": recipe.training,
        "counts_from": recipe.counts_from,
    }
    return Outcome(lines, f"sparsem detect predict {in_shell(samples[0])} {in_shell(out)}", data)


@command(DetectSettings, spread=True)
def detect_predict_command(
    path: SamplePath,
    model: Annotated[
        Path, typer.Argument(metavar="DETECTOR", help="a detector that detect train wrote")
    ],
    *,
    settings: DetectSettings,
    on: Execution,
) -> Outcome:
    """Detect the structures in every image, in boxes. It can be stopped any time; the same command
    resumes.

    sparsem detect predict S01.zarr mitochondria.safetensors
    """
    from sparsem.detect.score import can_be_scored

    sample = sparsem.Sample.open(path)
    detected = sparsem.detect(sample, model, settings, on=on).boxes
    objects = {name: int(boxes.counts.sum()) for name, boxes in detected.items()}
    lines = []
    for name, boxes in detected.items():
        min_score = boxes.metadata["counts_from"]
        lines.append(
            f"Wrote {path}/tables/boxes_{name}.parquet and .csv: {objects[name]} objects, "
            f"which are those of {len(boxes.boxes)} boxes with a score of {min_score:.3g} or more"
        )
    if can_be_scored(sample):
        following = "score"
    elif any(objects.values()):
        following = "masks"
    else:
        following = "count"
    data = {"sample": path, "objects": objects}
    return Outcome(lines, f"sparsem detect {following} {in_shell(path)}", data)


@command(DetectScoreSettings)
def detect_score_command(
    samples: Samples, *, settings: DetectScoreSettings, on: Execution
) -> Outcome:
    """Compare detected boxes with annotated ones, on images that the detector was not trained on:
    mAP, AR, AP50, counts, confusion.

    sparsem detect score S*.zarr
    """
    evaluation = sparsem.score_boxes(_open_all(samples), settings, on=on)
    lines = box_lines(evaluation)
    lines += [f"Wrote {path}/tables/box_scores.parquet and .csv" for path in samples]
    return Outcome(lines, data=box_data(evaluation))


@command(MasksSettings, spread=True)
def detect_masks_command(path: SamplePath, *, settings: MasksSettings, on: Execution) -> Outcome:
    """Segment the objects in boxes, by a Segment Anything Model or, without one, as outlines; they
    become labels.

    sparsem detect masks S01.zarr
    sparsem detect masks S01.zarr --sam facebook/sam-vit-large
    """
    masks = sparsem.box_masks(sparsem.Sample.open(path), settings, on=on)
    method = f"by {settings.sam}" if settings.sam else "outlines: no model was given, --sam"
    lines = []
    for volume, name in zip(masks.volumes, masks.boxes, strict=True):
        objects = _mask_counts(masks.boxes[name], masks.visible[name])
        lines.append(f"Wrote {path}/{volume} ({method}): {objects}")
    data = {
        "sample": path,
        "volumes": masks.volumes,
        "boxes": masks.boxes,
        "visible": masks.visible,
    }
    return Outcome(lines, f"sparsem measure {in_shell(path)}", data)


def _mask_counts(boxes: int, visible: int) -> str:
    text = f"masks of {visible} objects"
    if visible < boxes:
        text += f"; {boxes - visible} boxes have none, as they lie under boxes with higher scores"
    return text


@command(StructureRoles)
def detect_constrain_command(
    path: SamplePath,
    undo: Annotated[bool, typer.Option("--undo", help="remove the constrained boxes")] = False,
    *,
    settings: StructureRoles,
    on: Execution,
) -> Outcome:
    """Apply biological constraints to boxes: nucleoli in nuclei, organelles outside nuclei; the
    less confident box is removed.

    The detected boxes stay as they are.

    sparsem detect constrain S01.zarr
    """
    from sparsem.boxes.constrain import constrain_boxes, remove_constrained_boxes

    sample = sparsem.Sample.open(path)
    if undo:
        removed = remove_constrained_boxes(sample)
        lines = [f"Removed tables/{name}" for name in removed]
        return Outcome(lines or ["There was nothing to remove."], data={"removed": removed})
    contradicting = constrain_boxes(sample, settings, on=on).removed
    lines = [
        f"{name}: {count} objects contradict a constraint and do not count"
        for name, count in contradicting.items()
    ]
    data = {"contradicting": contradicting}
    return Outcome(lines, f"sparsem detect score {in_shell(path)}", data)


@command(CountSettings)
def detect_count_command(
    samples: Samples,
    out: Annotated[
        Path, typer.Option("--out", metavar="TABLE", help="the table to write, .csv or .parquet")
    ] = Path("counts.csv"),
    *,
    settings: CountSettings,
    on: Execution,
) -> Outcome:
    """Count and measure the objects of every sample, in one table with what else is known of the
    samples.

    sparsem detect count S*.zarr --metadata samples.csv --out counts.csv
    """
    from sparsem.io.writers import atomic_output
    from sparsem.store.sample import save_table

    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"A table is written as .csv or .parquet; got {out}.")
    table = sparsem.count_boxes(_open_all(samples), settings, on=on).counts
    with atomic_output(out, on.overwrite) as unfinished:
        save_table(table, unfinished)
    rows = table.to_pylist()
    lines = [
        f"{row['sample']}: {row['objects']} of {row['structure']} in {row['images']} images"
        for row in rows
    ]
    return Outcome([*lines, f"Wrote {out}"], data={"rows": rows})


@command()
def detect_export_command(
    path: SamplePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.json (COCO), NAME.csv, or a folder (YOLO)")
    ],
    annotated: Annotated[
        bool, typer.Option("--annotated", help="export annotated boxes, not detected ones")
    ] = False,
    *,
    on: Execution,
) -> Outcome:
    """Write boxes for other programs: COCO JSON, CSV or YOLO.

    sparsem detect export S01.zarr boxes.json
    """
    from sparsem.boxes.exporting import export_boxes

    count = export_boxes(sparsem.Sample.open(path), out, annotated, on.overwrite)
    return Outcome([f"Wrote {out}: {count} boxes"], data={"file": out, "boxes": count})
