"""Which figures the tables of samples give."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sparsem.measure.dictionary import feature_columns
from sparsem.report.boxes import box_plots
from sparsem.report.plots.plots import (
    DiceCurve,
    Strip,
    dice_curves,
    drift_curves,
    networks,
    organelles_per_cell,
    spectra,
    strips,
)
from sparsem.report.plots.quality_plots import along_z
from sparsem.report.view import Plot, View
from sparsem.report.warnings import Notice

QUALITY = "quality_"  # and the image
NETWORKS = "experiment_models_"  # and the structure: the table of networks that were compared


def plots(views: Sequence[View], cells: str) -> Iterator[Plot]:
    """Every figure that the tables of samples hold; ``cells`` is the name of theirs."""
    names = list(dict.fromkeys(name for view in views for name in view.structures))
    _note_other_textures(views, names)
    for view in views:
        yield from _qualities(view)
        yield from _drifts(view)
        yield from _curves(view, names)
        yield from _networks(view)
        yield from box_plots(view)
    for view in views:
        yield from _bars(view, cells)
    for name in names:
        tables = {
            view.name: view.tables[name]
            for view in views
            if name in _measured(view) and view.tables[name].num_rows
        }
        columns = feature_columns(
            dict.fromkeys(column for one in tables.values() for column in one.column_names)
        )
        if columns:
            about = "A mark an object; thick line: median, thin lines: quartiles. Hollow: cut by the border of the volume, and in no median."
            yield Plot(
                f"{name}: every feature",
                about,
                strips(_strips(tables), columns),
                f"{name}.csv",
                _together(tables, "sample"),
            )
        measured = {
            view.name: _spectra(view.tables[f"pattern_{name}"])
            for view in views
            if f"pattern_{name}" in view.tables and name in _measured(view)
        }
        if measured:
            data = _together(
                {
                    view.name: view.tables[f"pattern_{name}"]
                    for view in views
                    if view.name in measured
                },
                "sample",
            )
            about = "How much of the brightness lies in structures of each size. Line: median of all objects, band: quartiles."
            yield Plot(
                f"{name}: pattern spectrum", about, spectra(measured), f"pattern_{name}.csv", data
            )


def _measured(view: View) -> list[str]:
    """Structures of the last run of measure; tables of other runs are not shown as if they belonged to it."""
    return (
        [name for name in view.tables["measured"]["structure"].to_pylist() if name in view.tables]
        if "measured" in view.tables
        else []
    )


def _note_other_textures(views: Sequence[View], names: Sequence[str]) -> None:
    """Texture of samples that was measured with other voxels cannot be compared, though it stands side by side."""
    for name in names:
        sizes = {
            view.name: view.tables[name]["texture_voxel_nm"][0].as_py()
            for view in views
            if _has_texture(view, name)
        }
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{sample} {size:g} nm" for sample, size in sizes.items())
            for view in views:
                view.notices.insert(
                    0,
                    Notice(
                        f"Texture of {name} cannot be compared: its voxels differ ({told}); set --texture-nm.",
                        True,
                    ),
                )


def _has_texture(view: View, name: str) -> bool:
    return (
        name in view.tables
        and "texture_voxel_nm" in view.tables[name].column_names
        and view.tables[name].num_rows > 0
    )


def _qualities(view: View) -> Iterator[Plot]:
    """What every slice is like, of every image that was looked at."""
    for name in [name for name in view.tables if name.startswith(QUALITY)]:
        table, image = view.tables[name], name.removeprefix(QUALITY)
        numbers = [
            column for column in table.column_names if pa.types.is_floating(table[column].type)
        ]
        curves = {column: table[column].to_numpy().astype(np.float64) for column in numbers}
        about = (
            f"The image {image}, slice by slice. Bands: slices to look at, amber or red. Brightness, contrast, noise, stripes and charging "
            "are parts of the range of gray levels."
        )
        svg = along_z(curves, table["light"].to_pylist())
        yield Plot(
            f"Image quality: {view.name}, {image}", about, svg, f"{name}_{view.name}.csv", table
        )


def _drifts(view: View) -> Iterator[Plot]:
    """Where alignment put the slices of the image on the page."""
    table = view.tables.get(f"alignment_{view.aligned}")
    if table is None:
        return
    shifts = {axis: table[f"shift_{axis}_px"].to_numpy() for axis in "yx"}
    remarks = [remark.split() for remark in table["remark"].to_pylist()]
    marked = {
        what: [z for z, told in enumerate(remarks) if what in told]
        for what in sorted({one for told in remarks for one in told})
    }
    about = "How far alignment moved the center of every slice, in pixels down (y) and to the right (x)."
    yield Plot(
        f"Alignment: {view.name}",
        about,
        drift_curves(shifts, marked),
        f"drift_{view.name}.csv",
        table,
    )


def _curves(view: View, names: Sequence[str]) -> Iterator[Plot]:
    scores = {
        name: view.tables[f"scores_{name}"] for name in names if f"scores_{name}" in view.tables
    }
    if scores:
        curves = {name: _curve_of(one) for name, one in scores.items()}
        title, data = f"Dice along z: {view.name}", _together(scores, "structure")
        about = "Agreement with the ground truth in every slice that it labels, and both masks are not empty."
        if any(np.isfinite(curve.dice).sum() > 1 for curve in curves.values()):
            yield Plot(title, about, dice_curves(curves), f"dice_{view.name}.csv", data)


def _curve_of(scores: pa.Table) -> DiceCurve:
    z, dice = scores["z"].to_numpy(), scores["dice"].to_numpy()
    trained = scores["use"].to_numpy(zero_copy_only=False) == "trained"
    return DiceCurve(z, dice, trained)


def _networks(view: View) -> Iterator[Plot]:
    """What networks that learnt from the same slices reached."""
    for table_name, table in view.tables.items():
        if not table_name.startswith(NETWORKS):
            continue
        trained = table.to_pylist()
        structure, ways = (
            table_name.removeprefix(NETWORKS),
            list(dict.fromkeys(one["network"] for one in trained)),
        )
        own = {way: [one for one in trained if one["network"] == way] for way in ways}
        lines = [
            {
                "network": way,
                "parameters": f"{runs[0]['parameters']:,}",
                "memory": f"{runs[0]['memory_gb']:.1f} GB",
                "training": _duration(float(np.mean([one["training_s"] for one in runs]))),
                **{f"{one['labeled']} labeled": f"{one['dice_3d']:.3f}" for one in runs},
                "worst slice": f"{np.nanmin([one['worst_slice'] for one in runs]):.3f}",
            }
            for way, runs in own.items()
        ]
        drawn = {
            way: [(one["labeled"], one["training_s"], one["dice_3d"]) for one in runs]
            for way, runs in own.items()
        }
        about = "3D Dice on slices that a network did not learn from, by labeled slices and by the time that its training took."
        yield Plot(
            f"Networks: {structure} of {view.name}",
            about,
            networks(drawn),
            f"{table_name}_{view.name}.csv",
            table,
            lines,
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _bars(view: View, cells: str) -> Iterator[Plot]:
    table = view.tables.get(cells) if cells in _measured(view) else None
    if table is None or not table.num_rows or "cell" not in table.column_names:
        return
    columns = {
        column.removesuffix("_volume_um3"): column
        for column in table.column_names
        if column.endswith("_volume_um3")
    }
    chosen = {
        name: column
        for name, column in columns.items()
        if f"{name}_count" in table.column_names and name not in ("nucleus", "nucleolus")
    }
    if chosen:
        volumes = {name: table[column].to_numpy() for name, column in chosen.items()}
        about = "Every bar is a cell; of organelles that lie in two cells each part counts where it lies."
        svg = organelles_per_cell(
            [str(cell) for cell in table["cell"].to_pylist()], volumes, view.colors
        )
        yield Plot(
            f"Organelle volume per cell: {view.name}",
            about,
            svg,
            f"organelles_{view.name}.csv",
            table.select(["cell", *chosen.values()]),
        )


def _strips(tables: Mapping[str, pa.Table]) -> list[Strip]:
    made = []
    for name, table in tables.items():
        numbers = {
            column: table[column]
            for column in table.column_names
            if not pa.types.is_string(table[column].type)
        }
        values = {column: one.to_numpy().astype(np.float64) for column, one in numbers.items()}
        cut = {
            column: table[column].to_numpy().astype(bool)
            for column in table.column_names
            if column.endswith("cut_by_edge")
        }
        made.append(Strip(name, values, cut))
    return made


def _spectra(table: pa.Table) -> tuple[Any, Any]:
    sizes = np.unique(table["size_nm"].to_numpy())
    return sizes, table["part"].to_numpy().astype(np.float64).reshape(-1, len(sizes))


def _together(tables: Mapping[str, pa.Table], column: str) -> pa.Table:
    """Several tables as one, with a first column that says which."""
    parts = [
        one.add_column(
            0, column, pa.array([name] * one.num_rows, pa.string())
        ).replace_schema_metadata()
        for name, one in tables.items()
    ]
    return pa.concat_tables(parts, promote_options="permissive")
