"""The stage ``report``: one page, from one sample or several side by side, that loads nothing and can be sent by mail."""

import base64
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, field_validator

from sparsem import __version__
from sparsem.annotation.ground_truth import GroundTruthSettings
from sparsem.annotation.labeled_slices import annotated_structures, corrected_slices
from sparsem.boxes.tables import are_scores_outdated
from sparsem.errors import InputError, SampleError, SparsemError
from sparsem.geometry import evenly_spaced
from sparsem.labels.results import is_outdated
from sparsem.labels.slice_roles import slice_use_of
from sparsem.measure.dictionary import dictionary_sections
from sparsem.measure.settings import result_names
from sparsem.progress import Meter
from sparsem.report.boxes import box_layers_of, legend_of_boxes
from sparsem.report.charts import plots
from sparsem.report.layers import Layer, layers_of, legend
from sparsem.report.plots.figures import COLORS
from sparsem.report.scene3d.scene import scene
from sparsem.report.slices import slice_pictures
from sparsem.report.view import Plot, View
from sparsem.report.warnings import Notice, dice_of, notices
from sparsem.settings import Settings, SliceChoice, named_values, resolve_settings
from sparsem.store.sample import Sample, now
from sparsem.store.slice_use import ROLES
from sparsem.store.volume import Volume, write_atomically
from sparsem.workflow.execution import HERE, Execution

# A page is to stay under 15 MB, which mail takes. Its parts, in bytes; overlays and meshes take 3 MB, plots as much.
IMAGES = 6_000_000  # slices of all samples
ROLE_WORDS = {
    "unseen": "unseen",
    "validated": "validation",
    "trained": "training",
    "unknown": "compared",
}
TABLES = 2_500_000  # tables to download; larger ones are named, and lie in the sample


class ReportSettings(Settings):
    """What the page shows."""

    title: str = Field("sparsem report", description="title of the page")
    structure: tuple[str, ...] = Field(
        (), description="structure to show; repeat it for each; every result if not given"
    )
    cells: str = Field("cells", description="name of the cells")
    truth: dict[str, str] = Field(
        {}, description="NAME=VOLUME, ground truth to show next to the result; repeat it for each"
    )
    truth_slices: dict[str, SliceChoice] = Field(
        {},
        description="NAME=SLICES, the slices that it labels: 3,10,17, 'non-empty', or 'all'; not needed if every slice holds a label",
    )
    n_slices: int = Field(24, ge=1, description="slices to leaf through, of all samples together")
    pixels: int = Field(900, ge=64, description="longest edge of a slice")
    triangles: int = Field(
        240_000, ge=100, description="triangles of the 3D scenes, of all samples together"
    )

    @field_validator("truth", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_values(value, "nucleus=all_nuclei.tif")

    @field_validator("truth_slices", mode="before")
    @classmethod
    def _named_slices(cls, value: Any) -> Any:
        return named_values(value, "nucleus=3,10,17")


@dataclass(frozen=True)
class Report:
    """What ``report`` wrote.

    Attributes:
        path: of the page.
        size: in bytes.
        notices: by sample, what a reader should know.
    """

    path: Path
    size: int
    notices: Mapping[str, Sequence[Notice]]


def report(
    samples: Sequence[str | Path],
    path: str | Path,
    settings: ReportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Report:
    """Write one self-contained HTML page.

    What cannot be shown is told on the page, in a sentence; the rest is shown.

    Args:
        samples: paths of samples; several are compared.
        path: the page, NAME.html; it appears when it is complete.
        settings: what is shown.
        on: ``overwrite`` replaces a page, ``quiet`` shows no progress.

    Raises:
        InputError: no sample is given, the page exists, or its name is not that of a page.
        SampleError: none of the samples can be opened.
    """
    settings = resolve_settings(ReportSettings, settings, changes)
    path = Path(path)
    if settings.truth and len(samples) > 1:
        raise InputError(
            "A truth belongs to one sample; show it on a page of its own, or copy it into the sample as truth/NAME."
        )
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"A report is an HTML page; expected a name that ends in .html, got '{path.name}'."
        )
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    if not samples:
        raise InputError("A report needs at least one sample.")
    views = []
    others = sorted(
        {name for one in samples for name in _results(one, settings)} - {settings.cells, *COLORS}
    )
    with Meter("report", 3 * len(samples) + 2, quiet=on.quiet) as meter:
        for place, one in enumerate(samples):
            views.append(_view(one, settings, len(samples), others, meter))
            views[-1].name = _unlike(views[-1].name, [view.name for view in views[:-1]], place)
        if not any(view.facts for view in views):
            raise SampleError("; ".join(notice.text for view in views for notice in view.notices))
        figures = list(plots(views, settings.cells))
        meter.step("plots")
        page = _page(views, figures, settings).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
        meter.step()
    return Report(path, len(page), {view.name: view.notices for view in views})


def _results(path: str | Path, settings: ReportSettings) -> list[str]:
    try:
        return list(settings.structure) or result_names(Sample.open(path), settings.cells)
    except SparsemError:  # told where the sample is looked at
        return []


def _view(
    path: str | Path, settings: ReportSettings, of: int, others: Sequence[str], meter: Meter
) -> View:
    """Everything of one sample; what is missing becomes a notice."""
    try:
        sample = Sample.open(path)
    except SparsemError as error:
        for _ in range(3):
            meter.step()
        return View(Path(path).stem, {}, [Notice(f"{path}: {error}", True)])
    image: Volume | None = None
    line: list[str] = []
    truth = {
        name: (source, GroundTruthSettings(slices=settings.truth_slices.get(name)))
        for name, source in settings.truth.items()
    }
    layers, sentences = layers_of(sample, settings.structure, settings.cells, truth, others)
    problems = [Notice(one, True) for one in sentences]
    try:
        name = sample.name_of_image(next((one.labels for one in layers if one.labels), None))
        image, line = sample.image(name), sample.line_of(name)
    except SparsemError as error:
        problems.append(Notice(f"{error} Its slices are not shown.", True))
    meter.step("slices")
    shown = [one.name for one in layers]
    view = View(
        sample.name,
        _facts(sample, image, layers),
        [],
        shown,
        colors=legend(layers),
        history=sample.history(),
    )
    view.labeled = {name: list(z) for name, z in annotated_structures(sample).items()}
    view.labeled_words = {
        name: _labeled_in_words(sample, name, z) for name, z in view.labeled.items()
    }
    if image:
        view.aligned = next((one for one in line if f"alignment_{one}" in sample.tables), "")
        numbers = _shown_slices(image.shape[0], max(3, settings.n_slices // of), layers)
        fitting = [one for one in layers if one.labels is None or one.labels.shape == image.shape]
        problems += [
            Notice(
                f"{one.name} has the shape {one.labels.shape}, its image {image.shape}: it is not laid over the slices.",
                True,
            )
            for one in layers
            if one.labels is not None and one not in fitting
        ]
        boxes, sentences = box_layers_of(sample, name, settings.structure, others)
        problems += [Notice(one, True) for one in sentences]
        view.structures, view.colors = (
            [*shown, *(one.name for one in boxes)],
            {**view.colors, **legend_of_boxes(boxes)},
        )
        view.slices = slice_pictures(
            image, fitting, boxes, numbers, settings.pixels, IMAGES // of, sample.image("raw").names
        )
        view.has_truth = any(one["truth"] for one in view.slices)
    meter.step("3D scene")
    view.scene = scene(layers, settings.triangles // of)
    old = [f"scores_{one.name}" for one in layers if is_outdated(sample, one.name, "score")]
    old += [f"quality_{name}" for name in sample.images if is_outdated(sample, name, "quality")]
    if are_scores_outdated(sample):
        problems.append(
            Notice(
                "Boxes have changed since they were scored; their scores are not shown. Run 'sparsem detect score' again.",
                True,
            )
        )
        old += [name for name in sample.tables if name.startswith("box_")]
    view.tables = {
        name: table for name, table in _tables(sample, problems).items() if name not in old
    }
    view.dice = {
        one.name: told for one in layers if (told := _scores_in_words(view.tables, one.name))
    }
    view.notices = [
        *problems,
        *notices(sample, [one.name for one in layers if one.labels], settings.cells),
    ]
    meter.step("tables")
    return view


def _shown_slices(n_slices: int, count: int, layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of evenly spaced slices; where ground truth labels few slices, these are among them."""
    labeled = sorted(
        {z for one in layers if one.truth and len(one.truth.z) < n_slices for z in one.truth.z}
    )
    if len(labeled) > count:
        labeled = [labeled[place] for place in evenly_spaced(len(labeled), count)]
    spaced = evenly_spaced(n_slices, min(n_slices, max(count - len(labeled), 3)))
    return sorted({*labeled, *spaced})


def _facts(sample: Sample, image: Volume | None, layers: Sequence[Layer]) -> dict[str, str]:
    """The first lines about a sample."""
    labels = next((one.labels for one in layers if one.labels), None)
    volume = image or labels
    if volume is None:
        return {"holds": "nothing to show yet"}
    voxel, shape = volume.voxel_size, volume.shape
    if volume.sizes:
        smallest, largest = (pick(volume.sizes, key=math.prod) for pick in (min, max))
        return {
            "pixel": f"{voxel.y:g} × {voxel.x:g} nm (y x)",
            "pictures": f"{shape[0]}, of {smallest[0]} × {smallest[1]} to {largest[0]} × {largest[1]} pixels",
            "area": f"{sum(map(math.prod, volume.sizes)) * voxel.y * voxel.x * 1e-6:.4g} µm²",
            "image": sample.name_of_image(labels) if image else "none",
        }
    return {
        "voxel": " × ".join(f"{edge:g}" for edge in voxel) + " nm (z y x)",
        "size": " × ".join(map(str, shape)) + " voxels",
        "extent": " × ".join(f"{n * edge / 1000:.3g}" for n, edge in zip(shape, voxel, strict=True))
        + " µm",
        "image": sample.name_of_image(labels) if image else "none",
    }


def _labeled_in_words(sample: Sample, name: str, z: Sequence[int]) -> str:
    """How many slices are labeled, what training made of them, and how many began as a prediction."""
    words = [f"{len(z)} {'slice' if len(z) == 1 else 'slices'}"]
    use = slice_use_of(sample, name) if name in sample.names("labels") else None
    if use is not None:
        counts = {role: sum(use.role(one) == role for one in z) for role in ROLES}
        if counts["trained"] != len(z):
            told = {"trained": "trained on", "validated": "held out", "unseen": "not used"}
            words.append(
                ", ".join(
                    f"{counts[role]} {told[role]}" for role in reversed(ROLES) if counts[role]
                )
            )
    corrected = len(corrected_slices(sample, name))
    if corrected:
        words.append(f"{corrected} corrected predictions")
    return words[0] + (f" ({'; '.join(words[1:])})" if len(words) > 1 else "")


def _scores_in_words(tables: Mapping[str, pa.Table], name: str) -> str:
    """Return the Dice of a structure; of objects that were compared one by one first that of objects, and of islands."""
    scores = tables.get(f"scores_{name}")
    foreground = _dice(scores)
    if scores is None or not foreground:
        return ""
    objects = tables.get(f"dice_{name}")
    if objects is None or "island_px" not in scores.column_names:  # or of an earlier comparison
        return foreground
    is_unseen = scores["use"].to_numpy(zero_copy_only=False) == "unseen"
    column = "dice_unseen" if is_unseen.any() else "dice"
    known = [one for one in objects[column].to_pylist() if one is not None]
    words = (
        [
            f"{sum(known) / len(known):.3f} per object ({len(known)} objects{', unseen slices' if is_unseen.any() else ''})"
        ]
        if known
        else []
    )
    chosen = is_unseen if is_unseen.any() else ~is_unseen
    pixels, right = (
        int(scores[one].to_numpy()[chosen].sum()) for one in ("island_px", "island_right_px")
    )
    words += [f"{right / pixels:.3f} of the area of islands right"] if pixels else []
    return "; ".join([*words, f"foreground {foreground}"])


def _dice(scores: pa.Table | None) -> str:
    """Return the 3D Dice by what slices were to the training; empty without scores, or with nothing to find."""
    if scores is None:
        return ""
    use = scores["use"].to_numpy(zero_copy_only=False)
    words = []
    for role in (*ROLES, "unknown"):
        chosen = use == role
        dice = dice_of(scores, chosen) if chosen.any() else math.nan
        if not math.isnan(dice):
            words.append(
                f"{dice:.3f} on {chosen.sum()} {ROLE_WORDS[role]} {'slice' if chosen.sum() == 1 else 'slices'}"
            )
    return "; ".join(words)


def _tables(sample: Sample, problems: list[Notice]) -> dict[str, pa.Table]:
    """All tables; a damaged one becomes a notice."""
    found = {}
    for name in sample.tables:
        try:
            found[name] = sample.read_table(name)
        except (pa.ArrowException, OSError) as error:
            problems.append(
                Notice(f"The table {name}.parquet is damaged and not shown ({error}).", True)
            )
    return found


def _unlike(name: str, others: Sequence[str], place: int) -> str:
    return f"{name} ({place + 1})" if name in others else name


def _csv(table: pa.Table) -> str:
    """A table as CSV to seven digits, compressed, for the page."""
    sink = io.BytesIO()
    shorter = [pa.float32() if pa.types.is_float64(one.type) else one.type for one in table.schema]
    schema = pa.schema(list(zip(table.column_names, shorter, strict=True)))
    pyarrow.csv.write_csv(table.replace_schema_metadata().cast(schema, safe=False), sink)
    return base64.b64encode(zlib.compress(sink.getvalue(), 9)).decode()


def _within(contents: Sequence[str], budget: int) -> list[str]:
    """The contents, the smallest first as long as the budget lasts; empty text for those that are too much."""
    out = [""] * len(contents)
    for place in sorted(range(len(contents)), key=lambda one: len(contents[one])):
        budget -= len(contents[place])
        if budget >= 0:
            out[place] = contents[place]
    return out


def _page(views: Sequence[View], plots: Sequence[Plot], settings: ReportSettings) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsem.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    data = {
        "samples": [
            {"name": one.name, "slices": one.slices, "scene": one.scene, "labeled": one.labeled}
            for one in views
        ]
    }
    # Inside a script element only "<" could end it.
    script_data = json.dumps(data).replace("<", "\\u003c")
    tables = [(view.name, name, table) for view in views for name, table in view.tables.items()]
    packed = _within(
        [_csv(one.data) for one in plots] + [_csv(table) for _, _, table in tables], TABLES
    )
    figures = [
        {
            "title": one.title,
            "about": one.about,
            "svg": one.svg,
            "file": one.file,
            "data": packed[k],
            "lines": one.lines,
        }
        for k, one in enumerate(plots)
    ]
    downloads = [
        (sample, name, table.num_rows, packed[len(plots) + k])
        for k, (sample, name, table) in enumerate(tables)
    ]
    return environment.get_template("page.html").render(
        title=settings.title,
        views=views,
        figures=figures,
        downloads=downloads,
        dictionary=dictionary_sections(),
        data=script_data,
        made=now(),
        version=__version__,
        history=[
            (view.name, entry, json.dumps(entry["settings"], indent=1))
            for view in views
            for entry in view.history
        ],
    )
