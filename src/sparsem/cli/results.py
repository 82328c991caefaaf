"""The commands that compute numbers, pages and renderings from labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import sparsem
from sparsem.cli.format import MAX_LISTED, in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.cli.score_format import score_data, score_lines
from sparsem.labels.settings import ConstrainSettings, ObjectSettings
from sparsem.measure.settings import ContactSettings, MeasureSettings, SkeletonSettings
from sparsem.report.settings import ExportSettings, RenderSettings, ReportSettings
from sparsem.score.settings import ScoreSettings
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.labels.constrain import ConstrainSummary
    from sparsem.measure.comparison import MeasureTest
    from sparsem.store.sample import Sample


@command(ScoreSettings, spread=True)
def score_command(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRUTH]", help="a labeled volume; the sample's own ground truth if not given"
        ),
    ] = None,
    *,
    settings: ScoreSettings,
    on: Execution,
) -> Outcome:
    """Compare labels with ground truth: Dice, precision and recall of each slice, averaged, and in
    3D.

    sparsem score liver.zarr nucleus all_nuclei.tif
    """
    scores = sparsem.score(sparsem.Sample.open(path), name, truth, settings, on=on)
    lines = [*score_lines({name: scores}), f"Wrote {path}/tables/scores_{name}.parquet and .csv"]
    if scores.cells:
        lines.append(f"Wrote {path}/tables/dice_{name}.parquet and .csv")
    return Outcome(lines, data={name: score_data(scores)})


@command(ConstrainSettings, spread=True)
def constrain_command(
    path: SamplePath,
    undo: Annotated[bool, typer.Option("--undo", help="remove the constrained labels")] = False,
    *,
    settings: ConstrainSettings,
    on: Execution,
) -> Outcome:
    """Apply biological constraints: nucleoli lie in nuclei; mitochondria, endosomes and lysosomes
    in cells and outside nuclei.

    Where labels contradict a constraint, the more probable structure wins. The predicted labels
    stay as they are.

    sparsem constrain liver.zarr
    sparsem constrain liver.zarr --undo
    """
    from sparsem.labels.constrain import remove_constrained

    sample = sparsem.Sample.open(path)
    if undo:
        removed = remove_constrained(sample)
        lines = [f"Removed {path}/{name}; the predicted labels count again" for name in removed]
        return Outcome(lines or ["There was nothing to remove."], data={"removed": removed})
    summary = sparsem.constrain(sample, settings, on=on)
    lines = _constraint_lines(sample, summary, settings)
    lines += [f"Wrote {path}/labels/{name}-constrained" for name in summary.before]
    lines.append(f"Wrote {path}/tables/constrained")
    data = {
        "rules": [rule._asdict() for rule in summary.rules],
        "before": dict(summary.before),
        "after": dict(summary.after),
    }
    return Outcome(lines, f"sparsem measure {in_shell(path)}", data)


def _constraint_lines(
    sample: "Sample", summary: "ConstrainSummary", settings: ConstrainSettings
) -> list[str]:
    names = {*summary.before, *sample.names("labels")}
    if settings.cells not in names and settings.nucleus not in names:
        return [
            f"No constraint applies: {sample.path.name} has neither {settings.cells} nor nuclei."
        ]
    lines = []
    for rule in summary.rules:
        if rule.conflicts:
            fraction = rule.removed / max(1, summary.before[rule.structure])
            lines.append(
                f"{rule.structure} {rule.reason}: {rule.conflicts} voxels, {rule.removed} removed "
                f"({fraction:.2%} of it)"
            )
    return lines or ["No voxel contradicts a constraint."]


@command(ObjectSettings, spread=True)
def objects_command(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    *,
    settings: ObjectSettings,
    on: Execution,
) -> Outcome:
    """Number the objects of a structure; those that touch are separated where a network predicted a
    boundary between them.

    sparsem objects liver.zarr mitochondrion
    sparsem objects liver.zarr nucleus --method components
    """
    result = sparsem.objects(sparsem.Sample.open(path), name, settings, on=on)
    line = f"{name}: {result.objects} objects ({result.settings.method})"
    if result.small_objects:
        line += f"; {result.small_objects} smaller than the minimum were left out"
    data = {
        "written": result.written,
        "method": result.settings.method,
        "objects": result.objects,
        "small_objects": result.small_objects,
        "small_voxels": result.small_voxels,
    }
    lines = [line, f"Wrote {path}/{result.written[0]}"]
    return Outcome(lines, f"sparsem measure {in_shell(path)} --structure {name}", data)


@command()
def compare_command(
    path: Annotated[Path, typer.Argument(metavar="GROUPS.toml", help="the groups of samples")],
    *,
    on: Execution,
) -> Outcome:
    """Compare groups of measured samples: tests and effect sizes of every measure.

    A sample, or a cell, is one value; objects of one cell are not independent of each other.

    sparsem compare groups.toml
    """
    from sparsem.quality.comparison_tests import SIGNIFICANCE

    result = sparsem.compare(path, on=on)
    significant = [test for test in result.tests if test.corrected < SIGNIFICANCE]
    lines = [_test_line(test) for test in significant[:MAX_LISTED]]
    if len(significant) > MAX_LISTED:
        lines.append(f"and {len(significant) - MAX_LISTED} more, in tests.csv")
    lines = lines or [f"No difference is significant in {len(result.tests)} tests."]
    lines += [f"Note: {text}" for text in result.notices]
    lines += [f"Wrote {file}" for file in result.written]
    data = {"files": result.written, "tests": len(result.tests), "significant": len(significant)}
    return Outcome(lines, data={**data, "notices": result.notices})


def _test_line(test: "MeasureTest") -> str:
    """Return a significant difference as a sentence."""
    first, second = (f"{value:.3g}" for value in test.difference.medians)
    effect = f"Cliff's delta {test.difference.delta:+.2f}, p = {test.corrected:.2g}, corrected"
    return (
        f"{test.structure} {test.measure}: median {first} in {test.groups[0]}, {second} in "
        f"{test.groups[1]} ({effect})"
    )


@command(ContactSettings, spread=True)
def contacts_command(
    path: SamplePath,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="a structure")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="the other one, or the same")],
    *,
    settings: ContactSettings,
    on: Execution,
) -> Outcome:
    """Measure the contacts of the objects of two structures: area, sites and distance of every
    pair, and the fraction of every surface that is in contact.

    sparsem contacts liver.zarr mitochondrion endosome
    sparsem contacts liver.zarr mitochondrion mitochondrion --distance-nm 20
    sparsem contacts liver.zarr mitochondrion cells
    """
    result = sparsem.contacts(sparsem.Sample.open(path), first, second, settings, on=on)
    pairs, sites, area = result.pairs, result.sites, result.area_um2
    data = {"pairs": pairs, "sites": sites, "area_um2": area}
    numbers = f"{pairs} pairs in contact, {sites} sites, {area:.4g} um2"
    lines = [f"{first} and {second}: {numbers} within {settings.distance_nm:g} nm"]
    lines += [f"Wrote {path}/{table}.parquet and .csv" for table in result.written]
    return Outcome(lines, f"sparsem report {in_shell(path)} -o report.html", data)


@command(SkeletonSettings, spread=True)
def skeletons_command(
    path: SamplePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the structure")],
    *,
    settings: SkeletonSettings,
    on: Execution,
) -> Outcome:
    """Measure the center lines of every object: length, branches, ends, tortuosity, radii.

    sparsem skeletons liver.zarr mitochondrion
    """
    result = sparsem.skeletons(sparsem.Sample.open(path), name, settings, on=on)
    line = f"{name}: {result.objects} objects, center lines of {result.length_um:.4g} um"
    if result.level:
        line += f", thinned at level {result.level} of the pyramid"
    lines = [line, *(f"Wrote {path}/{table}.parquet and .csv" for table in result.written)]
    data = {"objects": result.objects, "length_um": result.length_um, "level": result.level}
    return Outcome(lines, f"sparsem report {in_shell(path)} -o report.html", data)


@command(MeasureSettings, spread=True)
def measure_command(path: SamplePath, *, settings: MeasureSettings, on: Execution) -> Outcome:
    """Measure every object and every cell: size, shape, texture, position. One table per structure,
    units in the column names.

    tables/dictionary explains every column.

    sparsem measure liver.zarr
    """
    from sparsem.measure.object_checks import object_warnings

    sample = sparsem.Sample.open(path)
    measurements = sparsem.measure(sample, settings, on=on)
    lines = []
    for row in measurements.summary.to_pylist():
        lines.append(_measured_line(row))
        lines += object_warnings(sample, row["structure"], settings.cells)
    tables = ", ".join(measurements.tables)
    lines.append(f"Wrote {path}/tables/ {tables} (.parquet and .csv)")
    data = {"objects": dict(measurements.objects), "tables": measurements.tables}
    return Outcome(lines, f"sparsem report {in_shell(path)} -o report.html", data)


def _measured_line(row: dict[str, Any]) -> str:
    """Return number and size of the objects of a structure, and what was left out."""
    if "volume_um3" in row:
        size = f"{row['volume_um3']:.4g} um3"
    else:
        size = f"{row['area_um2']:.4g} um2"
    name = row["structure"]
    line = f"{name}: {row['objects']} objects, {size}; {row['cut_by_edge']} cut by the border"
    if row["in_no_cell"]:
        line += f", {row['in_no_cell']} in no cell"
    if row["small_components"]:
        line += (
            f", {row['small_components']} small components left out "
            f"(--min-volume-um3 {name}=... sets the minimum size)"
        )
    return line


@command(ReportSettings)
def report_command(
    samples: Annotated[
        list[Path],
        typer.Argument(metavar="SAMPLE...", help="one or more samples, which are compared"),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PAGE", help="the page to write, NAME.html")
    ] = Path("report.html"),
    *,
    settings: ReportSettings,
    on: Execution,
) -> Outcome:
    """Write one page that can be sent by mail: slices to leaf through, a 3D scene, every plot with
    its data, warnings.

    sparsem report biopsy1.zarr biopsy2.zarr -o biopsies.html
    """
    page = sparsem.report(list(samples), out, settings, on=on)
    warnings = [
        f"{name}: {notice.text}"
        for name, notices in page.notices.items()
        for notice in notices
        if notice.warning
    ]
    lines = [*warnings, f"Wrote {page.path} ({page.size / 1e6:.1f} MB)"]
    data = {"file": page.path, "bytes": page.size, "warnings": warnings}
    return Outcome(lines, f"open {page.path} in a browser", data)


@command(RenderSettings)
def render_command(
    path: SamplePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.png, or NAME.mp4 for a turntable")
    ],
    *,
    settings: RenderSettings,
    on: Execution,
) -> Outcome:
    """Render structures in 3D, as an image or as a turntable video; needs no screen.

    sparsem render liver.zarr liver.png
    sparsem render liver.zarr inside.png --structure nucleus,nucleolus --object nucleus=3 --cut z
    """
    result = sparsem.render(sparsem.Sample.open(path), out, settings, on=on)
    return Outcome([f"Wrote {file}" for file in result.written], data={"file": out})


@command(ExportSettings)
def export_command(
    path: SamplePath,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="a structure, annotations/NAME, probabilities/NAME, images/NAME, raw, or a table",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="NAME.tif, .nrrd, .seg.nrrd, .h5, .model, .csv, .parquet, .glb, .stl or .obj",
        ),
    ] = None,
    *,
    settings: ExportSettings,
    on: Execution,
) -> Outcome:
    """Write a part of a sample for other programs: voxels, a table, meshes. Without a name, show
    how viewers open the sample.

    The last example is for Microscopy Image Browser and 3D Slicer.

    sparsem export liver.zarr nucleus nuclei.tif
    sparsem export liver.zarr nucleus nucleolus -o nuclei.glb
    sparsem export liver.zarr mitochondrion -o one.glb --object 17
    sparsem export liver.zarr nucleus nucleolus -o liver.model
    """
    from sparsem.report.viewers import viewers

    sample = sparsem.Sample.open(path)
    pieces = list(names or [])
    if not pieces and out is None:
        programs = viewers(sample)
        lines = [f"{program}: {instruction}" for program, instruction in programs.items()]
        return Outcome(lines, data=programs)
    target = out or Path(pieces.pop())
    result = sparsem.export(sample, pieces, target, settings, on=on)
    lines = [result.simplification] if result.simplification else []
    lines += [f"Wrote {file}" for file in result.written]
    data = {"file": target, "meshes": result.meshes, "triangles": result.triangles}
    return Outcome(lines, data=data)
