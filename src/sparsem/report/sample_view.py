"""Everything that the page shows of one sample, read from its volumes, tables and history."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from sparsem.annotation.labeled_slices import annotated_structures
from sparsem.annotation.settings import GroundTruthSettings
from sparsem.boxes.tables import (
    annotated_box_structures,
    are_scores_outdated,
    detected_box_structures,
)
from sparsem.errors import SparsemError
from sparsem.geometry import evenly_spaced
from sparsem.labels.objects import recorded_object_settings
from sparsem.labels.results import is_outdated, result_names
from sparsem.measure.joined_columns import pairs_in_contact
from sparsem.progress import Meter
from sparsem.report.box_layers import BoxLayer, box_layer_colors, read_box_layers
from sparsem.report.dice import score_text
from sparsem.report.layers import StructureLayer, layer_colors, read_layers, with_object_meshes
from sparsem.report.notices import Notice, notices
from sparsem.report.object_rows import contact_summaries, outdated_of_objects, rows_of_objects
from sparsem.report.scene3d.scene import encode_scene
from sparsem.report.settings import ReportSettings
from sparsem.report.slices import encode_slices
from sparsem.report.summary import labeled_slices_text, sample_facts
from sparsem.report.view import SampleView
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume

# Mail accepts 15 MB. Overlays and meshes take 3 MB of a page, plots as much.
MAX_IMAGE_BYTES = 6_000_000  # slices of all samples
MIN_SLICES = 3  # of every sample, however many samples there are
STEPS = 3  # progress steps of one sample


def view_sample(
    path: str | Path,
    settings: ReportSettings,
    n_samples: int,
    fallback_names: Sequence[str],
    meter: Meter,
) -> SampleView:
    """Return everything that the page shows of a sample; what is missing becomes a notice.

    Args:
        path: of the sample.
        settings: contents of the page.
        n_samples: number of samples on the page, which divide its size among them.
        fallback_names: structures without a color of the papers, of all samples.
        meter: advanced by ``STEPS`` steps.
    """
    try:
        sample = Sample.open(path)
    except SparsemError as error:
        for _ in range(STEPS):
            meter.step()
        return SampleView(Path(path).stem, {}, [Notice(f"{path}: {error}", True)])
    problems: list[Notice] = []
    context = _ViewContext(sample, settings, n_samples, fallback_names, problems)
    layers = _read_layers(context)
    shown = _image_of(sample, layers, problems)
    meter.step("slices")

    image = shown.volume if shown else None
    view = SampleView(sample.name, sample_facts(sample, image, layers), [])
    view.structures = [layer.name for layer in layers]
    view.colors = layer_colors(layers)
    view.history = sample.history()
    _add_labeled_slices(view, sample)
    if shown is not None:
        _add_alignment(view, sample, shown)
        _add_slices(view, context, shown, layers)
    meter.step("3D scene")

    view.tables = _current_tables(sample, layers, problems)
    _add_objects(view, sample, layers)
    _add_scores(view, layers)
    triangles = settings.triangles // n_samples
    view.scene = encode_scene(with_object_meshes(layers), triangles, view.tables)
    with_labels = [layer.name for layer in layers if layer.labels]
    view.notices = [*problems, *notices(sample, with_labels, settings.cells)]
    meter.step("tables")
    return view


class _ViewContext(NamedTuple):
    """A sample that is viewed, and its place on the page.

    Attributes:
        sample: the sample.
        settings: contents of the page.
        n_samples: number of samples on the page, which divide its size among them.
        fallback_names: structures without a color of the papers, of all samples.
        problems: notices about what cannot be shown, added while the sample is read.
    """

    sample: Sample
    settings: ReportSettings
    n_samples: int
    fallback_names: Sequence[str]
    problems: list[Notice]


def _read_layers(context: _ViewContext) -> list[StructureLayer]:
    """Return the structures of a sample, and note those that cannot be shown."""
    settings = context.settings
    truth = {}
    for name, source in settings.truth.items():
        slices = settings.truth_slices.get(name)
        truth[name] = (source, GroundTruthSettings(slices=slices))
    structures = _structures_without_boxes_only(context.sample, settings.structures)
    if settings.structures and not structures:
        return []
    layers, sentences = read_layers(
        context.sample, structures, settings.cells, truth, context.fallback_names
    )
    context.problems.extend(Notice(sentence, True) for sentence in sentences)
    return layers


def _structures_without_boxes_only(sample: Sample, names: Sequence[str]) -> list[str]:
    """Return the names of structures without those that have boxes and no labels."""
    boxed = {*annotated_box_structures(sample), *detected_box_structures(sample)}
    labeled = {*sample.names("labels"), *sample.names("truth")}
    return [name for name in names if name in labeled or name not in boxed]


def _add_labeled_slices(view: SampleView, sample: Sample) -> None:
    """Add the labeled slices of every structure, as numbers and as text."""
    for name, slices in annotated_structures(sample).items():
        view.labeled[name] = list(slices)
        view.labeled_text[name] = labeled_slices_text(sample, name, slices)


def _add_objects(view: SampleView, sample: Sample, layers: Sequence[StructureLayer]) -> None:
    """Add where the rows of objects are, and contacts."""
    renumbered = [layer.name for layer in layers if is_outdated(sample, layer.name, "measure")]
    tables = {name: table for name, table in view.tables.items() if name not in renumbered}
    pairs = _pairs_with_tables(view, sample, layers)
    view.objects = rows_of_objects(layers, tables, pairs)
    view.contacts = contact_summaries(view.tables, pairs)
    # Objects that touch differ in their colors only.
    methods = [recorded_object_settings(sample, layer.name).method for layer in layers]
    view.own_colors = "agglomeration" in methods


def _pairs_with_tables(
    view: SampleView, sample: Sample, layers: Sequence[StructureLayer]
) -> list[tuple[str, str]]:
    """Return the pairs of structures whose contacts the page shows."""
    numbered = [layer.name for layer in layers if layer.numbered]
    readable = view.tables.keys()
    return [
        pair
        for pair in pairs_in_contact(sample, numbered)
        if f"contacts_{'_'.join(pair)}" in readable
    ]


def _add_scores(view: SampleView, layers: Sequence[StructureLayer]) -> None:
    """Add the scores of every structure that was scored, as text."""
    texts = {layer.name: score_text(view.tables, layer.name) for layer in layers}
    view.dice = {name: text for name, text in texts.items() if text}


class ShownImage(NamedTuple):
    """The image of which the page shows slices.

    Attributes:
        volume: of the image.
        name: of the image.
        made_from: the image itself, the image that it was made from, and so on.
    """

    volume: Volume
    name: str
    made_from: list[str]


def _image_of(
    sample: Sample, layers: Sequence[StructureLayer], problems: list[Notice]
) -> ShownImage | None:
    """Return the image on which the labels were made; None, and a notice, without one."""
    labels = next((layer.labels for layer in layers if layer.labels), None)
    try:
        name = sample.name_of_image(labels)
        return ShownImage(sample.image(name), name, sample.lineage(name))
    except SparsemError as error:
        problems.append(Notice(f"{error} Its slices are not shown.", True))
        return None


def _add_alignment(view: SampleView, sample: Sample, shown: ShownImage) -> None:
    """Name the image whose table of alignment is shown: the first one that has such a table."""
    for name in shown.made_from:
        if f"alignment_{name}" in sample.tables:
            view.aligned = name
            return


def _read_boxes(context: _ViewContext, shown: ShownImage) -> list[BoxLayer]:
    """Return the boxes on the shown image, and note those that cannot be shown."""
    boxes, sentences = read_box_layers(
        context.sample, shown.name, context.settings.structures, context.fallback_names
    )
    context.problems.extend(Notice(sentence, True) for sentence in sentences)
    return boxes


def _add_slices(
    view: SampleView, context: _ViewContext, shown: ShownImage, layers: Sequence[StructureLayer]
) -> None:
    """Add slices of the image with structures and boxes over them."""
    settings, n_samples = context.settings, context.n_samples
    drawable = _layers_of_shape(layers, shown.volume.shape, context.problems)
    boxes = _read_boxes(context, shown)
    view.structures += [layer.name for layer in boxes]
    view.colors = {**view.colors, **box_layer_colors(boxes)}
    view.slices = encode_slices(
        shown.volume,
        drawable,
        boxes,
        _slices_to_show(layers, shown, settings.n_slices // n_samples),
        settings.pixels,
        MAX_IMAGE_BYTES // n_samples,
        context.sample.image("raw").names,
    )
    view.has_truth = any(entry["truth"] for entry in view.slices)


def _layers_of_shape(
    layers: Sequence[StructureLayer], shape: tuple[int, ...], problems: list[Notice]
) -> list[StructureLayer]:
    """Return the layers that can be drawn over an image of that shape, and note the others."""
    drawable = []
    for layer in layers:
        if layer.labels is None or layer.labels.shape == shape:
            drawable.append(layer)
        else:
            text = (
                f"{layer.name} is not drawn over the slices: its shape is {layer.labels.shape}, "
                f"that of its image is {shape}."
            )
            problems.append(Notice(text, True))
    return drawable


def _slices_to_show(layers: Sequence[StructureLayer], shown: ShownImage, count: int) -> list[int]:
    """Return about ``count`` slice numbers: evenly spaced ones, and slices with ground truth.

    Slices of ground truth that labels all slices are not preferred.
    """
    n_slices = shown.volume.shape[0]
    count = max(MIN_SLICES, count)
    labeled_slices = _sparsely_labeled(layers, n_slices)
    if len(labeled_slices) > count:
        indices = evenly_spaced(len(labeled_slices), count)
        labeled_slices = [labeled_slices[index] for index in indices]
    n_spaced = max(count - len(labeled_slices), MIN_SLICES)
    spaced = evenly_spaced(n_slices, min(n_slices, n_spaced))
    return sorted({*labeled_slices, *spaced})


def _sparsely_labeled(layers: Sequence[StructureLayer], n_slices: int) -> list[int]:
    """Return the slices of ground truth that does not label all slices, ascending."""
    labeled: set[int] = set()
    for layer in layers:
        if layer.truth and len(layer.truth.z) < n_slices:
            labeled.update(layer.truth.z)
    return sorted(labeled)


def _current_tables(
    sample: Sample, layers: Sequence[StructureLayer], problems: list[Notice]
) -> dict[str, pa.Table]:
    """Return all tables but outdated ones; a damaged table becomes a notice."""
    outdated_tables = _outdated_tables(sample, layers, problems)
    tables = {}
    for name in sample.tables:
        try:
            table = sample.read_table(name)
        except (pa.ArrowException, OSError) as error:
            text = f"The table {name}.parquet is damaged and not shown ({error})."
            problems.append(Notice(text, True))
            continue
        if name not in outdated_tables:
            tables[name] = table
    return tables


def _outdated_tables(
    sample: Sample, layers: Sequence[StructureLayer], problems: list[Notice]
) -> set[str]:
    """Return the tables whose inputs have changed since.

    Those of boxes, contacts and skeletons are noted.
    """
    outdated_tables = {
        f"scores_{layer.name}" for layer in layers if is_outdated(sample, layer.name, "score")
    }
    for name in sample.images:
        if is_outdated(sample, name, "quality"):
            outdated_tables.add(f"quality_{name}")
    pairs = pairs_in_contact(sample, result_names(sample))
    for command, tables in outdated_of_objects(sample, pairs).items():
        text = (
            f"The objects have changed since the table {tables[0]} was written, so it is not "
            f"shown; run 'sparsem {command} --overwrite'."
        )
        problems.append(Notice(text, True))
        outdated_tables.update(tables)
    if are_scores_outdated(sample):
        text = (
            "The boxes have changed since they were scored, so their scores are not shown; "
            "run 'sparsem detect score' again."
        )
        problems.append(Notice(text, True))
        outdated_tables.update(name for name in sample.tables if name.startswith("box_"))
    return outdated_tables
