"""The commands that make numbers, pages and pictures from what was found; as thin as the others."""

from pathlib import Path
from typing import Annotated

import typer

from sparsem.cli.options import Outcome, SamplePath, command, in_shell
from sparsem.labels.constrain import ConstrainSettings, ConstrainSummary, remove_constrained
from sparsem.labels.constrain import constrain as _constrain
from sparsem.measure.measure import measure as _measure
from sparsem.measure.object_checks import object_warnings
from sparsem.measure.settings import MeasureSettings
from sparsem.report.export import ExportSettings
from sparsem.report.export import export as _export
from sparsem.report.report import report as _report
from sparsem.report.scene3d.render import RenderSettings
from sparsem.report.scene3d.render import render as _render
from sparsem.report.settings import ReportSettings
from sparsem.report.viewers import viewers
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution


@command(ConstrainSettings, spread=True)
def constrain(
    path: SamplePath,
    undo: Annotated[
        bool, typer.Option("--undo", help="take the constrained labels away again")
    ] = False,
    *,
    settings: ConstrainSettings,
    on: Execution,
) -> Outcome:
    """Hold the structures to biology: nucleoli in nuclei; mitochondria, endosomes, lysosomes in cells and in nothing else.

    Where that is broken the more probable structure wins. What was predicted stays as it is.
    Example: sparsem constrain liver.zarr, and sparsem constrain liver.zarr --undo
    """
    sample = Sample.open(path)
    if undo:
        removed = remove_constrained(sample)
        lines = [f"Removed {path}/{one}; what was predicted counts again" for one in removed] or [
            "There was nothing to take away."
        ]
        return Outcome(lines, data={"removed": removed})
    found = _constrain(sample, settings, on=on)
    if not {settings.cells, "nucleus"} & {*found.before, *sample.names("labels")}:
        lines = [f"No rule applies: {path} has neither {settings.cells} nor nuclei."]
    else:
        lines = _rule_lines(found)
    lines += [
        *(f"Wrote {path}/labels/{name}-constrained" for name in found.before),
        f"Wrote {path}/tables/constrained",
    ]
    data = {
        "rules": [rule._asdict() for rule in found.rules],
        "before": dict(found.before),
        "after": dict(found.after),
    }
    return Outcome(lines, f"sparsem measure {in_shell(path)}", data)


def _rule_lines(found: ConstrainSummary) -> list[str]:
    lines = []
    for rule in found.rules:
        if rule.conflicts:
            part = f"{rule.removed / max(1, found.before[rule.structure]):.2%} of it"
            lines.append(
                f"{rule.structure} {rule.reason}: {rule.conflicts} voxels, {rule.removed} taken away ({part})"
            )
    return lines or ["No voxel broke a rule."]


@command(MeasureSettings, spread=True)
def measure(path: SamplePath, *, settings: MeasureSettings, on: Execution) -> Outcome:
    """Measure every object and every cell: size, shape, texture, where it lies. One table a structure, units in the columns' names.

    tables/dictionary says what every column means. Example: sparsem measure liver.zarr
    """
    sample = Sample.open(path)
    found = _measure(sample, settings, on=on)
    lines = []
    for row in found.summary.to_pylist():
        lost = f", {row['in_no_cell']} in no cell" if row["in_no_cell"] else ""
        specks = (
            f", {row['small_components']} specks left out (--min-volume-um3 {row['structure']}=... says below which size)"
            if row["small_components"]
            else ""
        )
        cut = f"{row['cut_by_edge']} cut by the border"
        size = (
            f"{row['volume_um3']:.4g} um3" if "volume_um3" in row else f"{row['area_um2']:.4g} um2"
        )
        lines.append(f"{row['structure']}: {row['objects']} objects, {size}; {cut}{lost}{specks}")
        lines += object_warnings(sample, row["structure"], settings.cells)
    lines.append(f"Wrote {path}/tables/ {', '.join(found.tables)} (.parquet and .csv)")
    return Outcome(
        lines,
        f"sparsem report {in_shell(path)} -o report.html",
        {"objects": dict(found.objects), "tables": found.tables},
    )


@command(ReportSettings)
def report(
    samples: Annotated[
        list[Path],
        typer.Argument(metavar="SAMPLE...", help="one or more samples, which are compared"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page to write, NAME.html")] = Path(
        "report.html"
    ),
    *,
    settings: ReportSettings,
    on: Execution,
) -> Outcome:
    """Put everything on one page that can be sent by mail: slices to leaf through, a 3D scene, every plot with its data, warnings.

    Example: sparsem report biopsy1.zarr biopsy2.zarr -o biopsies.html
    """
    made = _report(list(samples), out, settings, on=on)
    told = [
        f"{name}: {one.text}" for name, some in made.notices.items() for one in some if one.warning
    ]
    lines = [*told, f"Wrote {made.path} ({made.size / 1e6:.1f} MB)"]
    return Outcome(
        lines,
        f"open {made.path} in a browser",
        {"file": made.path, "bytes": made.size, "warnings": told},
    )


@command(RenderSettings)
def render(
    path: SamplePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="NAME.png, or NAME.mp4 for a turntable")
    ],
    *,
    settings: RenderSettings,
    on: Execution,
) -> Outcome:
    """Draw structures in 3D, as a picture or as a turntable video; needs no screen.

    Examples: sparsem render liver.zarr liver.png
    or sparsem render liver.zarr inside.png --structure nucleus --structure nucleolus --object nucleus=3 --cut z
    """
    return Outcome(
        [f"Wrote {_render(Sample.open(path), out, settings, on=on)}"], data={"file": out}
    )


@command(ExportSettings)
def export(
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
            help="NAME.tif, .nrrd, .seg.nrrd, .h5, .model, .csv, .parquet, .glb, .stl or .obj",
        ),
    ] = None,
    *,
    settings: ExportSettings,
    on: Execution,
) -> Outcome:
    """Write a piece of a sample for other programs: voxels, a table, meshes. Without a name, tell how viewers open the sample.

    Examples: sparsem export liver.zarr nucleus nuclei.tif
    or sparsem export liver.zarr nucleus nucleolus -o nuclei.glb
    or, for Microscopy Image Browser and 3D Slicer, sparsem export liver.zarr nucleus nucleolus -o liver.model
    """
    sample = Sample.open(path)
    wanted = list(names or [])
    if not wanted and out is None:
        known = viewers(sample, settings.cells)
        return Outcome([f"{program}: {how}" for program, how in known.items()], data=known)
    target = out or Path(wanted.pop())
    return Outcome(
        [f"Wrote {_export(sample, wanted, target, settings, on=on)}"], data={"file": target}
    )
