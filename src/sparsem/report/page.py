"""The stage ``report``: one page, from one sample or several side by side, that loads nothing and can be sent by mail."""

import base64
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, field_validator

from sparsem import __version__
from sparsem.annotations import annotated_structures
from sparsem.errors import InputError, SampleError, SparsemError
from sparsem.execution import HERE, Execution
from sparsem.geometry import evenly_spaced
from sparsem.measure.dictionary import dictionary_page_rows, features
from sparsem.measure.settings import results_of
from sparsem.progress import Meter
from sparsem.report.figures import COLOURS
from sparsem.report.layers import Layer, layers_of, legend
from sparsem.report.plots import Strip, dice_curves, drift_curves, organelles_per_cell, spectra, strips
from sparsem.report.scene import scene
from sparsem.report.slices import slice_pictures
from sparsem.report.warnings import Notice, notices
from sparsem.settings import Settings, named_values
from sparsem.store.sample import Sample, now
from sparsem.store.volume import Volume, write_atomically

# A page is to stay under 15 MB, which mail takes. Its parts, in bytes; overlays and meshes take 3 MB, plots as much.
IMAGES = 6_000_000  # slices of all samples
TABLES = 2_500_000  # tables to download; larger ones are named, and lie in the sample


class ReportSettings(Settings):
    """What the page shows."""

    title: str = Field("sparsem report", description="title of the page")
    structure: tuple[str, ...] = Field((), description="structure to show; repeat it for each; every result if not given")
    cells: str = Field("cells", description="name of the cells")
    truth: dict[str, str] = Field({}, description="NAME=VOLUME, true labels to show beside what was found; repeat it for each")
    slices: int = Field(24, ge=1, description="slices to leaf through, of all samples together")
    pixels: int = Field(900, ge=64, description="longest edge of a slice")
    triangles: int = Field(240_000, ge=100, description="triangles of the 3D scenes, of all samples together")

    @field_validator("truth", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_values(value, "nucleus=all_nuclei.tif")


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


@dataclass
class View:
    """A sample on the page."""

    name: str
    facts: dict[str, str]
    notices: list[Notice]
    structures: list[str] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    labelled: dict[str, list[int]] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    aligned: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure and the data behind it."""

    title: str
    about: str
    svg: str
    file: str
    data: pa.Table


def report(samples: Sequence[str | Path], path: str | Path, settings: ReportSettings = ReportSettings(), on: Execution = HERE) -> Report:
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
    path = Path(path)
    if settings.truth and len(samples) > 1:
        raise InputError("A truth belongs to one sample; show it on a page of its own, or copy it into the sample as truth/NAME.")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is an HTML page; expected a name that ends in .html, got '{path.name}'.")
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    if not samples:
        raise InputError("A report needs at least one sample.")
    views = []
    others = sorted({name for one in samples for name in _results(one, settings)} - {settings.cells, *COLOURS})
    with Meter("report", 3 * len(samples) + 2, quiet=on.quiet) as meter:
        for place, one in enumerate(samples):
            views.append(_view(one, settings, len(samples), others, meter))
            views[-1].name = _unlike(views[-1].name, [view.name for view in views[:-1]], place)
        if not any(view.facts for view in views):
            raise SampleError("; ".join(notice.text for view in views for notice in view.notices))
        plots = list(_plots(views, settings))
        meter.step("plots")
        page = _page(views, plots, settings).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
        meter.step()
    return Report(path, len(page), {view.name: view.notices for view in views})


def _results(path: str | Path, settings: ReportSettings) -> list[str]:
    try:
        return list(settings.structure) or results_of(Sample.open(path), settings.cells)
    except SparsemError:  # told where the sample is looked at
        return []


def _view(path: str | Path, settings: ReportSettings, of: int, others: Sequence[str], meter: Meter) -> View:
    """Everything of one sample; what is missing becomes a notice."""
    try:
        sample = Sample.open(path)
    except SparsemError as error:
        for _ in range(3):
            meter.step()
        return View(Path(path).stem, {}, [Notice(f"{path}: {error}", True)])
    image: Volume | None = None
    line: list[str] = []
    layers, sentences = layers_of(sample, settings.structure, settings.cells, settings.truth, others)
    problems = [Notice(one, True) for one in sentences]
    try:
        name = sample.name_of_image(next((one.labels for one in layers if one.labels), None))
        image, line = sample.image(name), sample.line_of(name)
    except SparsemError as error:
        problems.append(Notice(f"{error} Its slices are not shown.", True))
    meter.step("slices")
    shown = [one.name for one in layers]
    view = View(sample.name, _facts(sample, image, layers), [], shown, colours=legend(layers), history=sample.history())
    view.labelled = {name: list(z) for name, z in annotated_structures(sample).items()}
    if image:
        view.aligned = next((one for one in line if f"alignment_{one}" in sample.tables), "")
        numbers = evenly_spaced(image.shape[0], min(image.shape[0], max(3, settings.slices // of)))
        fitting = [one for one in layers if one.labels is None or one.labels.shape == image.shape]
        problems += [
            Notice(f"{one.name} has the shape {one.labels.shape}, its image {image.shape}: it is not laid over the slices.", True)
            for one in layers
            if one.labels is not None and one not in fitting
        ]
        view.slices = slice_pictures(image, fitting, numbers, settings.pixels, IMAGES // of)
    meter.step("3D scene")
    view.scene = scene(layers, settings.triangles // of)
    view.tables = _tables(sample, problems)
    view.notices = [*problems, *notices(sample, [one.name for one in layers if one.labels], settings.cells)]
    meter.step("tables")
    return view


def _facts(sample: Sample, image: Volume | None, layers: Sequence[Layer]) -> dict[str, str]:
    """The first lines about a sample."""
    labels = next((one.labels for one in layers if one.labels), None)
    volume = image or labels
    if volume is None:
        return {"holds": "nothing to show yet"}
    voxel, shape = volume.voxel_size, volume.shape
    return {
        "voxel": " × ".join(f"{edge:g}" for edge in voxel) + " nm (z y x)",
        "size": " × ".join(map(str, shape)) + " voxels",
        "extent": " × ".join(f"{n * edge / 1000:.3g}" for n, edge in zip(shape, voxel, strict=True)) + " µm",
        "image": sample.name_of_image(labels) if image else "none",
    }


def _tables(sample: Sample, problems: list[Notice]) -> dict[str, pa.Table]:
    """All tables; a damaged one becomes a notice."""
    found = {}
    for name in sample.tables:
        try:
            found[name] = sample.read_table(name)
        except (pa.ArrowException, OSError) as error:
            problems.append(Notice(f"The table {name}.parquet is damaged and not shown ({error}).", True))
    return found


def _plots(views: Sequence[View], settings: ReportSettings) -> Iterator[Plot]:
    """Every figure that the tables hold."""
    names = list(dict.fromkeys(name for view in views for name in view.structures))
    _note_other_textures(views, names)
    for view in views:
        yield from _drifts(view)
        yield from _curves(view, names)
    for view in views:
        yield from _bars(view, settings.cells)
    for name in names:
        tables = {view.name: view.tables[name] for view in views if name in _measured(view) and view.tables[name].num_rows}
        columns = features(dict.fromkeys(column for one in tables.values() for column in one.column_names))
        if columns:
            about = (
                "A mark an object; thick line: median, thin lines: quartiles. Hollow: cut by the border of the volume, and in no median."
            )
            yield Plot(f"{name}: every feature", about, strips(_strips(tables), columns), f"{name}.csv", _together(tables, "sample"))
        measured = {
            view.name: _spectra(view.tables[f"pattern_{name}"])
            for view in views
            if f"pattern_{name}" in view.tables and name in _measured(view)
        }
        if measured:
            data = _together({view.name: view.tables[f"pattern_{name}"] for view in views if view.name in measured}, "sample")
            about = "How much of the brightness lies in structures of each size. Line: median of all objects, band: quartiles."
            yield Plot(f"{name}: pattern spectrum", about, spectra(measured), f"pattern_{name}.csv", data)


def _measured(view: View) -> list[str]:
    """Structures of the last run of measure; tables of other runs are not shown as if they belonged to it."""
    return [name for name in view.tables["measured"]["structure"].to_pylist() if name in view.tables] if "measured" in view.tables else []


def _note_other_textures(views: Sequence[View], names: Sequence[str]) -> None:
    """Texture of samples that was measured with other voxels cannot be compared, though it stands side by side."""
    for name in names:
        sizes = {view.name: view.tables[name]["texture_voxel_nm"][0].as_py() for view in views if _has_texture(view, name)}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{sample} {size:g} nm" for sample, size in sizes.items())
            for view in views:
                view.notices.insert(0, Notice(f"Texture of {name} cannot be compared: its voxels differ ({told}); set --texture-nm.", True))


def _has_texture(view: View, name: str) -> bool:
    return name in view.tables and "texture_voxel_nm" in view.tables[name].column_names and view.tables[name].num_rows > 0


def _drifts(view: View) -> Iterator[Plot]:
    """Where alignment put the slices of the image on the page."""
    table = view.tables.get(f"alignment_{view.aligned}")
    if table is None:
        return
    shifts = {axis: table[f"shift_{axis}_px"].to_numpy() for axis in "yx"}
    remarks = [remark.split() for remark in table["remark"].to_pylist()]
    marked = {what: [z for z, told in enumerate(remarks) if what in told] for what in sorted({one for told in remarks for one in told})}
    about = "How far alignment moved the centre of every slice, in pixels down (y) and to the right (x)."
    yield Plot(f"Alignment: {view.name}", about, drift_curves(shifts, marked), f"drift_{view.name}.csv", table)


def _curves(view: View, names: Sequence[str]) -> Iterator[Plot]:
    scores = {name: view.tables[f"scores_{name}"] for name in names if f"scores_{name}" in view.tables}
    if scores:
        curves = {name: (one["dice"].to_numpy(), np.flatnonzero(one["annotated"].to_numpy()).tolist()) for name, one in scores.items()}
        title, data = f"Dice along z: {view.name}", _together(scores, "structure")
        yield Plot(title, "Agreement with the truth, slice by slice.", dice_curves(curves), f"dice_{view.name}.csv", data)


def _bars(view: View, cells: str) -> Iterator[Plot]:
    table = view.tables.get(cells) if cells in _measured(view) else None
    if table is None or not table.num_rows or "cell" not in table.column_names:
        return
    columns = {column.removesuffix("_volume_um3"): column for column in table.column_names if column.endswith("_volume_um3")}
    chosen = {
        name: column for name, column in columns.items() if f"{name}_count" in table.column_names and name not in ("nucleus", "nucleolus")
    }
    if chosen:
        volumes = {name: table[column].to_numpy() for name, column in chosen.items()}
        about = "Every bar is a cell; of organelles that lie in two cells each part counts where it lies."
        svg = organelles_per_cell([str(cell) for cell in table["cell"].to_pylist()], volumes, view.colours)
        yield Plot(
            f"Organelle volume per cell: {view.name}", about, svg, f"organelles_{view.name}.csv", table.select(["cell", *chosen.values()])
        )


def _strips(tables: Mapping[str, pa.Table]) -> list[Strip]:
    made = []
    for name, table in tables.items():
        numbers = {column: table[column] for column in table.column_names if not pa.types.is_string(table[column].type)}
        values = {column: one.to_numpy().astype(np.float64) for column, one in numbers.items()}
        cut = {column: table[column].to_numpy().astype(bool) for column in table.column_names if column.endswith("cut_by_edge")}
        made.append(Strip(name, values, cut))
    return made


def _spectra(table: pa.Table) -> tuple[Any, Any]:
    sizes = np.unique(table["size_nm"].to_numpy())
    return sizes, table["part"].to_numpy().astype(np.float64).reshape(-1, len(sizes))


def _together(tables: Mapping[str, pa.Table], column: str) -> pa.Table:
    """Several tables as one, with a first column that says which."""
    parts = [
        one.add_column(0, column, pa.array([name] * one.num_rows, pa.string())).replace_schema_metadata() for name, one in tables.items()
    ]
    return pa.concat_tables(parts, promote_options="permissive")


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
        loader=jinja2.PackageLoader("sparsem.report", "template"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    data = {"samples": [{"name": one.name, "slices": one.slices, "scene": one.scene, "labelled": one.labelled} for one in views]}
    # Inside a script element only "<" could end it.
    script_data = json.dumps(data).replace("<", "\\u003c")
    tables = [(view.name, name, table) for view in views for name, table in view.tables.items()]
    packed = _within([_csv(one.data) for one in plots] + [_csv(table) for _, _, table in tables], TABLES)
    figures = [{"title": one.title, "about": one.about, "svg": one.svg, "file": one.file, "data": packed[k]} for k, one in enumerate(plots)]
    downloads = [(sample, name, table.num_rows, packed[len(plots) + k]) for k, (sample, name, table) in enumerate(tables)]
    return environment.get_template("page.html").render(
        title=settings.title,
        views=views,
        figures=figures,
        downloads=downloads,
        dictionary=dictionary_page_rows(),
        data=script_data,
        made=now(),
        version=__version__,
        history=[(view.name, entry, json.dumps(entry["settings"], indent=1)) for view in views for entry in view.history],
    )
