"""The commands of boxes: bring them in, learn, find, mask, hold to biology, score, count."""

from pathlib import Path
from typing import Annotated

import typer

from sparsem.boxes.constrain import constrain_boxes, remove_constrained_boxes
from sparsem.boxes.counts import CountSettings, count_boxes
from sparsem.boxes.exporting import export_boxes
from sparsem.boxes.importing import BoxesSettings, import_boxes
from sparsem.cli.options import Outcome, SamplePath, command, in_shell
from sparsem.cli.score_format import box_data, box_lines
from sparsem.detect.masks.masks import MasksSettings
from sparsem.detect.masks.masks import box_masks as _masks
from sparsem.detect.predict import detect
from sparsem.detect.score import DetectScoreSettings, can_be_scored, score_boxes
from sparsem.detect.settings import DetectSettings, DetectTrainSettings
from sparsem.detect.training.train import train_detector
from sparsem.errors import InputError
from sparsem.io.writers import atomic_output
from sparsem.labels.constrain import StructureRoles
from sparsem.store.sample import Sample, save_table
from sparsem.training.files import log_path
from sparsem.workflow.execution import Execution

Samples = Annotated[
    list[Path], typer.Argument(metavar="SAMPLE...", help="one or more samples, NAME.zarr")
]


@command(BoxesSettings)
def detect_import(samples: Samples, *, settings: BoxesSettings, on: Execution) -> Outcome:
    """Bring boxes in: drawn by somebody, from a file, or around the objects of labels, so that what was segmented teaches detectors.

    Examples: sparsem detect import S01.zarr S02.zarr --source boxes.json
    or, around the objects of labeled slices, sparsem detect import liver.zarr --from-labels mitochondrion
    """
    found = import_boxes([Sample.open(path) for path in samples], settings, on=on)
    lines = [f"{count} boxes of {name}" for name, count in found.boxes.items()]
    small = (
        f"; {found.small} boxes of less than {settings.min_px:g} px were dropped (--min-px)"
        if found.small
        else ""
    )
    lines.append(f"in {found.images} annotated images{small}")
    for name, count in found.incomplete.items():
        lines.append(
            f"without {count} image{'s' if count != 1 else ''} not completely annotated with {name}"
        )
    given = " ".join(map(in_shell, samples))
    data = {
        "boxes": found.boxes,
        "images": found.images,
        "small": found.small,
        "left_out": found.left_out,
    }
    data["incomplete"] = found.incomplete
    parted = " --split image" if len(samples) == 1 else ""
    return Outcome(lines, f"sparsem detect train {given}{parted} --out detector.safetensors", data)


@command(DetectTrainSettings)
def detect_train(
    samples: Samples,
    out: Annotated[Path, typer.Option("--out", help="the detector to write, NAME.safetensors")],
    *,
    settings: DetectTrainSettings,
    on: Execution,
) -> Outcome:
    """Teach a detector from annotated boxes. Stop it any time; the same command goes on.

    Examples: sparsem detect train S*.zarr --structure mitochondrion --out mitochondria.safetensors
    or, of a single stack, with its last slices held out, sparsem detect train liver.zarr --split image --out liver.safetensors
    """
    recipe = train_detector([Sample.open(path) for path in samples], out, settings, on=on)
    held = recipe.training.get("validation_ap50", {})
    told = "".join(
        f"; AP50 of {name} {value:.3f} on held-out pictures" for name, value in held.items()
    )
    lines = [f"Wrote {out}: finds {', '.join(recipe.structures)}{told}", f"Wrote {log_path(out)}"]
    data = {
        "detector": out,
        "structures": recipe.structures,
        "training": recipe.training,
        "counts_from": recipe.counts_from,
    }
    return Outcome(lines, f"sparsem detect predict {in_shell(samples[0])} {in_shell(out)}", data)


@command(DetectSettings, spread=True)
def detect_predict(
    path: SamplePath,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="what detect train wrote")],
    *,
    settings: DetectSettings,
    on: Execution,
) -> Outcome:
    """Find the structures in every picture, in boxes. Stop it any time; the same command goes on.

    Example: sparsem detect predict S01.zarr mitochondria.safetensors
    """
    sample = Sample.open(path)
    found = detect(sample, model, settings, on=on)
    objects = {name: int(kept.counts.sum()) for name, kept in found.items()}
    lines = [
        f"Wrote {path}/tables/boxes_{name}.parquet and .csv: {objects[name]} objects, of {len(kept.boxes)} boxes those of a score of "
        f"{kept.metadata['counts_from']:.3g} or more"
        for name, kept in found.items()
    ]
    following = "score" if can_be_scored(sample) else "masks" if any(objects.values()) else "count"
    return Outcome(
        lines, f"sparsem detect {following} {in_shell(path)}", {"sample": path, "objects": objects}
    )


@command(DetectScoreSettings)
def detect_score(samples: Samples, *, settings: DetectScoreSettings, on: Execution) -> Outcome:
    """Compare found boxes with annotated ones, on pictures that the detector did not learn from: mAP, AR, AP50, counts, confusion.

    Example: sparsem detect score S*.zarr
    """
    found = score_boxes([Sample.open(path) for path in samples], settings)
    return Outcome(
        [
            *box_lines(found),
            *(f"Wrote {path}/tables/box_scores.parquet and .csv" for path in samples),
        ],
        data=box_data(found),
    )


@command(MasksSettings, spread=True)
def detect_masks(path: SamplePath, *, settings: MasksSettings, on: Execution) -> Outcome:
    """Find the objects in boxes pixel by pixel, by a Segment Anything Model or, without one, as outlines; they become labels.

    Examples: sparsem detect masks S01.zarr
    or sparsem detect masks S01.zarr --sam facebook/sam-vit-large
    """
    sample = Sample.open(path)
    made = _masks(sample, settings, on=on)
    way = f"by {settings.sam}" if settings.sam else "outlines: no model was given, --sam"
    lines = [
        f"Wrote {path}/{volume} ({way}): {_visible(made.boxes[name], made.visible[name])}"
        for volume, name in zip(made.volumes, made.boxes, strict=True)
    ]
    data = {"sample": path, "volumes": made.volumes, "boxes": made.boxes, "visible": made.visible}
    return Outcome(lines, f"sparsem measure {in_shell(path)}", data)


def _visible(boxes: int, visible: int) -> str:
    hidden = (
        f"; {boxes - visible} boxes have none, as they lie under surer ones"
        if visible < boxes
        else ""
    )
    return f"masks of {visible} objects{hidden}"


@command(StructureRoles)
def detect_constrain(
    path: SamplePath,
    undo: Annotated[bool, typer.Option("--undo", help="take the constrained boxes away")] = False,
    *,
    settings: StructureRoles,
    on: Execution,
) -> Outcome:
    """Hold boxes to biology: nucleoli in nuclei, organelles in no nucleus; the less confident goes. What was found is kept.

    Example: sparsem detect constrain S01.zarr
    """
    sample = Sample.open(path)
    if undo:
        removed = remove_constrained_boxes(sample)
        return Outcome(
            [f"Removed tables/{name}" for name in removed] or ["There was nothing to undo"],
            data={"removed": removed},
        )
    gone = constrain_boxes(sample, settings)
    lines = [
        f"{name}: {count} objects contradict biology and do not count"
        for name, count in gone.items()
    ]
    return Outcome(lines, f"sparsem detect score {in_shell(path)}", {"gone": gone})


@command(CountSettings)
def detect_count(
    samples: Samples,
    out: Annotated[Path, typer.Option("--out", help="the table to write, .csv or .parquet")] = Path(
        "counts.csv"
    ),
    *,
    settings: CountSettings,
    on: Execution,
) -> Outcome:
    """Count and measure the objects of every sample, beside what is known of the samples: one table.

    Example: sparsem detect count S*.zarr --metadata samples.csv --out counts.csv
    """
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"A table is written as .csv or .parquet; got {out}.")
    table = count_boxes([Sample.open(path) for path in samples], settings)
    with atomic_output(out, on.overwrite) as unfinished:
        save_table(table, unfinished)
    rows = table.to_pylist()
    lines = [
        f"{row['sample']}: {row['objects']} of {row['structure']} in {row['images']} images"
        for row in rows
    ]
    return Outcome([*lines, f"Wrote {out}"], data={"rows": rows})


@command()
def detect_export(
    path: SamplePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.json (COCO), NAME.csv, or a folder (YOLO)")
    ],
    drawn: Annotated[
        bool,
        typer.Option(
            "--annotated", help="the boxes that somebody drew, and not those that were found"
        ),
    ] = False,
    *,
    on: Execution,
) -> Outcome:
    """Write boxes for other programs: COCO JSON, CSV or YOLO.

    Example: sparsem detect export S01.zarr boxes.json
    """
    count = export_boxes(Sample.open(path), out, drawn, on.overwrite)
    return Outcome([f"Wrote {out}: {count} boxes"], data={"file": out, "boxes": count})
