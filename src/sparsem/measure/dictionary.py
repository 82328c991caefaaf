"""The data dictionary: what every measured column means, its unit and its source. Tables, help, docs and the report read it from here."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

PAPER = "Machireddy et al. 2023"


class ColumnDescription(NamedTuple):
    """What a column holds.

    Attributes:
        meaning: in words a biologist knows.
        unit: of its numbers; empty for names, counts and yes or no.
        source: equation and paper, or the definition that is followed.
        feature: whether it is a number by which objects are compared (strip plots show these).
        cut_by: the column that tells whose number is spoilt by the border of the volume.
    """

    meaning: str
    unit: str = ""
    source: str = ""
    feature: bool = False
    cut_by: str = "cut_by_edge"


def _f(meaning: str, unit: str, source: str, cut_by: str = "cut_by_edge") -> ColumnDescription:
    return ColumnDescription(meaning, unit, source, feature=True, cut_by=cut_by)


NEAREST = "between the centers of the nearest voxels: an edge of a voxel where they touch"
HULL = "voxel centers in the convex hull of the object's voxel centers"
GLCM = (
    "co-occurrence of gray levels at neighboring voxels, 26 offsets added, levels numbered from 1"
)
ZONES = "zones: 26-connected voxels of one gray level, levels numbered from 1"

IDENTITY = {
    "object": ColumnDescription("number of the object in the labels that it was measured in"),
    "cell": ColumnDescription(
        "number of the cell; of an object, the cell that holds most of its voxels, 0 for none"
    ),
    "annotated": ColumnDescription(
        "the cell was annotated: it has an id of yours; others are fragments, or cells that were not annotated"
    ),
    "cell_share": ColumnDescription("part of the object's voxels that lies in that cell", "ratio"),
    "nucleus": ColumnDescription(
        "number of the nucleus that holds most of the nucleolus, 0 for none"
    ),
    **{
        f"{end}_{axis}": ColumnDescription(
            f"{end} voxel along {axis}; the first of the volume is 0"
        )
        for axis in "yx"
        for end in ("first", "last")
    },
    "cut_by_edge": ColumnDescription(
        "the object touches the border of the volume: it goes on beyond it, and its measures are those of the part"
    ),
    "voxels": ColumnDescription("voxels at full resolution", "voxels"),
    "first_z": ColumnDescription("first slice; the first slice of the volume is 0"),
    "last_z": ColumnDescription("last slice"),
    **{
        f"centroid_{axis}_um": ColumnDescription(
            f"centroid along {axis}, from the volume's corner", "µm"
        )
        for axis in "zyx"
    },
    **{
        f"extent_{axis}_um": ColumnDescription(f"length of the bounding box along {axis}", "µm")
        for axis in "zyx"
    },
}
SHAPE = {
    "volume_um3": _f("volume", "µm³", "voxels times the volume of a voxel"),
    "surface_um2": _f(
        "surface area",
        "µm²",
        "voxel faces weighted by the local normal (digital surface integration, Lachaud and Vialard 2003)",
    ),
    "equivalent_diameter_um": _f(
        "diameter of the ball of the same volume", "µm", "(6 V / pi)^(1/3)"
    ),
    "axis_major_um": _f(
        "longest axis of the ellipsoid with the same second moments",
        "µm",
        "2 sqrt(5 lambda_1), full length",
    ),
    "axis_middle_um": _f("middle axis of that ellipsoid", "µm", "2 sqrt(5 lambda_2)"),
    "axis_minor_um": _f("shortest axis of that ellipsoid", "µm", "2 sqrt(5 lambda_3)"),
    **{
        f"axis_major_{axis}": ColumnDescription(
            f"direction of the longest axis, {axis} of the unit vector", "1"
        )
        for axis in "zyx"
    },
    "convex_volume_um3": _f("volume of the convex hull", "µm³", HULL),
    "solidity": _f(
        "volume (in pictures area) over convex volume: 1 without concavities",
        "ratio",
        f"equation 5, {PAPER}; {HULL}",
    ),
    "sphericity": _f(
        "area of the ball of the same volume over surface area: 1 for a ball",
        "ratio",
        f"equation 6, {PAPER} (Wadell 1935)",
    ),
    "circular_variance": _f(
        "variance of the distance of the surface (in pictures the outline) from the centroid over its squared mean: 0 for a ball",
        "ratio",
        f"equation 7, {PAPER}; every part of the surface weighs as much as its area",
    ),
    "box_fill": _f(
        "volume (in pictures area) over that of the bounding box", "ratio", "extent of regionprops"
    ),
}
PICTURE = {
    "picture": ColumnDescription(
        "slice of the sample that is the object's picture; the first is 0"
    ),
    "pixels": ColumnDescription("pixels at full resolution", "pixels"),
    "area_um2": _f("area", "µm²", "pixels times the area of a pixel"),
    "perimeter_um": _f(
        "length of the outline",
        "µm",
        "edges of pixels weighted by the local normal, as surface areas are",
    ),
    "circle_diameter_um": _f("diameter of the circle of the same area", "µm", "2 sqrt(A / pi)"),
    "ellipse_major_um": _f(
        "longer axis of the ellipse with the same second moments",
        "µm",
        "4 sqrt(lambda_1), full length",
    ),
    "ellipse_minor_um": _f("shorter axis of that ellipse", "µm", "4 sqrt(lambda_2)"),
    "elongation": _f(
        "longer over shorter axis: 1 for a circle", "ratio", "sqrt(lambda_1 / lambda_2)"
    ),
    "convex_area_um2": _f(
        "area of the convex hull",
        "µm²",
        "pixel centers in the convex hull of the object's pixel centers",
    ),
    "circularity": _f(
        "area over that of the circle of the same perimeter: 1 for a circle", "ratio", "4 pi A / P²"
    ),
}
NUCLEOLUS = {
    "filled_volume_um3": _f(
        "volume with its cavities filled",
        "µm³",
        f"{PAPER}; cavities that no path connects to the outside",
    ),
    "fenestrated_percent": _f("cavities in the filled volume", "%", f"equation 8, {PAPER}"),
    "solidity_filled": _f(
        "filled volume over convex volume", "ratio", f"equation 5, {PAPER}, as in its figure 11"
    ),
    "proximity_to_membrane": _f(
        "0 in the middle of the nucleus, towards 1 at its membrane",
        "ratio",
        f"equation 9, {PAPER}",
        "nucleus_cut_by_edge",
    ),
    "centroid_to_membrane_um": _f(
        "from its centroid to the nearest point of the nucleus' surface",
        "µm",
        f"d_s of equation 9, {PAPER}",
        "nucleus_cut_by_edge",
    ),
    "nucleus_cut_by_edge": ColumnDescription(
        "the nucleus touches the border of the volume: its middle and its membrane are those of the part seen"
    ),
    "membrane_level": ColumnDescription(
        "level of the pyramid at which distances to the membrane were measured, 0 is full resolution"
    ),
    "fill_level": ColumnDescription(
        "level of the pyramid at which cavities were measured, 0 is full resolution"
    ),
}
NUCLEUS = {
    "nucleoli": _f("nucleoli in this nucleus", "count", f"figure 11C, {PAPER}"),
    "nucleoli_volume_um3": _f("volume of its nucleoli", "µm³", "sum over them"),
}
TEXTURE = {
    "gray_mean": _f("mean gray level of the image", "gray levels", ""),
    "gray_deviation": _f("standard deviation of the gray level", "gray levels", ""),
    "glcm_homogeneity": _f("1 where neighbors are alike", "1", f"equation 10, {PAPER}; {GLCM}"),
    "glcm_correlation": _f(
        "how well a voxel's gray level predicts its neighbor's",
        "1",
        f"equation 11, {PAPER}; {GLCM}",
    ),
    "glcm_variance": _f(
        "spread of gray levels, sum of (i - mu)^2 p",
        "levels²",
        f"Haralick 1973; equation 12 of {PAPER} is printed as the contrast",
    ),
    "glcm_contrast": _f(
        "mean squared step between neighbors", "levels²", f"equation 13, {PAPER}; {GLCM}"
    ),
    "zone_percentage": _f(
        "zones per voxel: 1 for the finest texture", "ratio", f"equation 14, {PAPER}; {ZONES}"
    ),
    "small_zone_high_gray": _f(
        "small bright zones, sum of P i² / j² over zones",
        "levels²",
        f"equation 15, {PAPER}, with the 1/j² missing in print",
    ),
    "zone_mean_level": _f(
        "mean gray level of zones", "levels", f"centroid of the size-zone matrix, {PAPER}"
    ),
    "zone_mean_size_voxels": _f(
        "mean size of zones", "voxels", f"centroid of the size-zone matrix, {PAPER}"
    ),
    "pattern_mean": _f(
        "mean size of structures: negative where dark ones prevail",
        "sizes",
        f"first moment of the pattern spectrum, equation 16, {PAPER}",
    ),
    "pattern_deviation": _f(
        "spread of the sizes of structures", "sizes", "square root of its second central moment"
    ),
    "pattern_skewness": _f(
        "asymmetry of the sizes of structures", "1", "its third standardized moment"
    ),
    "pattern_entropy": _f(
        "variety of the sizes of structures: 0 for a single size",
        "nats",
        "- sum p ln p of the normalized spectrum",
    ),
    "texture_level": ColumnDescription(
        "level of the pyramid at which texture was measured; one for all objects of a structure"
    ),
    "texture_voxel_nm": ColumnDescription(
        "longest edge of a voxel of that level: compare texture only where it is the same", "nm"
    ),
}
PLACE = {
    "distance_to_nucleus_um": _f(
        "from the object to the nearest nucleus of its cell", "µm", NEAREST, "cell_cut_by_edge"
    ),
    "distance_to_membrane_um": _f(
        "from the object to the outside of its cell", "µm", NEAREST, "cell_cut_by_edge"
    ),
    "cell_cut_by_edge": ColumnDescription(
        "the cell of the object touches the border of the volume: distances are to the part that is seen"
    ),
    "distance_level": ColumnDescription(
        "level of the pyramid at which distances and protrusions were measured"
    ),
}
CELL = {
    "cytoplasm_volume_um3": _f(
        "volume of the cell outside its nuclei", "µm³", "voxels in the cell and in no nucleus"
    ),
    "protrusions": _f(
        "parts thinner than the set width that stand out",
        "count",
        "opening with a ball; parts that the border cuts off count",
    ),
    "protrusion_length_um": _f(
        "length of all protrusions", "µm", "from foot to tip within each, summed"
    ),
    "longest_protrusion_um": _f("length of the longest", "µm", "from foot to tip within it"),
    "protrusion_volume_um3": _f(
        "volume of all protrusions", "µm³", "voxels outside the opened cell"
    ),
}
OF_ORGANELLE = {
    "{}_count": _f(
        "{} objects whose larger part lies in the cell",
        "count",
        "each object counts in one cell only",
    ),
    "{}_volume_um3": _f("volume of {} in the cell", "µm³", "voxels that lie in the cell"),
    "{}_volume_fraction": _f(
        "volume of {} over volume of the cell", "ratio", "voxels that lie in the cell"
    ),
    "{}_density_per_um3": _f(
        "{} objects per volume of the cell", "1/µm³", "count over volume of the cell"
    ),
    "{}_distance_to_nucleus_um": _f(
        "distance of its {} objects to its nearest nucleus, median", "µm", NEAREST
    ),
    "{}_distance_to_membrane_um": _f(
        "distance of its {} objects to the outside of the cell, median", "µm", NEAREST
    ),
}
OBJECT = {**IDENTITY, **PICTURE, **SHAPE, **NUCLEOLUS, **NUCLEUS, **PLACE, **TEXTURE, **CELL}


def describe_column(column: str) -> ColumnDescription | None:
    """What a column of an object's or a cell's table means; None for one that is not measured here."""
    if column in OBJECT:
        return OBJECT[column]
    for pattern, of in OF_ORGANELLE.items():
        ending = pattern.removeprefix("{}")
        if column.endswith(ending):
            return of._replace(meaning=of.meaning.format(column.removesuffix(ending)))
    return None


def feature_columns(columns: Iterable[str]) -> list[str]:
    """Those of the columns by which objects are compared."""
    return [one for one in columns if (found := describe_column(one)) is not None and found.feature]


def dictionary_table(columns: Iterable[str]) -> pa.Table:
    """One row a column: column, meaning, unit, source."""
    known = {one: describe_column(one) or ColumnDescription("") for one in columns}
    rows = {
        name: [getattr(one, name) for one in known.values()]
        for name in ("meaning", "unit", "source")
    }
    return pa.table({"column": list(known), **rows})


def dictionary_sections() -> dict[str, dict[str, ColumnDescription]]:
    """The whole dictionary by the kind of table that columns stand in."""
    of_organelle = {
        name.format("ORGANELLE"): one._replace(meaning=one.meaning.format("ORGANELLE"))
        for name, one in OF_ORGANELLE.items()
    }
    return {
        "Every object": {**IDENTITY, **SHAPE},
        "Objects in pictures": PICTURE,
        "Nucleoli": NUCLEOLUS,
        "Nuclei": NUCLEUS,
        "Organelles in cells": PLACE,
        "Texture": TEXTURE,
        "Cells": {**CELL, **of_organelle},
    }


def dictionary_markdown() -> str:
    """The dictionary as Markdown, for the docs."""
    lines = []
    for title, columns in dictionary_sections().items():
        lines += [f"## {title}", "", "| column | meaning | unit | source |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {one.meaning} | {one.unit} | {one.source} |"
            for name, one in columns.items()
        ]
        lines.append("")
    return "\n".join(lines)
