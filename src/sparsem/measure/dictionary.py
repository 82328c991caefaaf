"""The data dictionary: meaning, unit and source of every measured column.

Tables, help texts, docs and the report read it from here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

PAPER = "Machireddy et al. 2023"


class ColumnDescription(NamedTuple):
    """The description of a column.

    Attributes:
        meaning: the meaning, in words that a biologist knows.
        unit: unit of the numbers; empty for names, counts and true or false.
        source: equation and paper, or the definition that is followed.
        feature: the column is a number by which objects are compared (strip plots show these).
        cut_by: the column that is true for objects whose number is wrong because the border of the
            volume cuts an object.
    """

    meaning: str
    unit: str = ""
    source: str = ""
    feature: bool = False
    cut_by: str = "cut_by_edge"


Descriptions = dict[str, ColumnDescription]


def _feature(
    meaning: str, unit: str, source: str = "", cut_by: str = "cut_by_edge"
) -> ColumnDescription:
    return ColumnDescription(meaning, unit, source, feature=True, cut_by=cut_by)


NEAREST = "distance between the centers of the nearest voxels: one edge of a voxel where they touch"
FERET = "of the convex hull of the centers of all faces of its voxels"
THINNING = "topology-preserving thinning, see 'sparsem skeletons'"
HULL = "voxel centers in the convex hull of the object's voxel centers"
GLCM = (
    "co-occurrence of gray levels at neighboring voxels, 26 offsets added, levels numbered from 1"
)
ZONES = "zones: 26-connected voxels of one gray level, levels numbered from 1"

IDENTITY_COLUMNS: Descriptions = {
    "object": ColumnDescription("number of the object in the labels in which it was measured"),
    "cell": ColumnDescription(
        "number of the cell; in the table of an organelle, the cell that holds most of the "
        "object's voxels, 0 for none"
    ),
    "annotated": ColumnDescription(
        "true if the cell meets an annotated cell; other cells are fragments, or cells that were "
        "not annotated"
    ),
    "fraction_in_cell": ColumnDescription(
        "fraction of the object's voxels that lie in its cell", "ratio"
    ),
    "nucleus": ColumnDescription(
        "number of the nucleus that holds most voxels of the nucleolus, 0 for none"
    ),
    "first_y": ColumnDescription("first voxel along y; the first voxel of the volume is 0"),
    "last_y": ColumnDescription("last voxel along y; the first voxel of the volume is 0"),
    "first_x": ColumnDescription("first voxel along x; the first voxel of the volume is 0"),
    "last_x": ColumnDescription("last voxel along x; the first voxel of the volume is 0"),
    "cut_by_edge": ColumnDescription(
        "true if the object touches the border of the volume: it continues beyond the border, and "
        "its measures are those of the part inside"
    ),
    "crosses_gap": ColumnDescription(
        "true if slices are lost within the object, as 'quality' and 'import' found them: it is "
        "larger than measured, and may be two objects"
    ),
    "voxels": ColumnDescription("number of voxels at full resolution", "voxels"),
    "first_z": ColumnDescription("first slice; the first slice of the volume is 0"),
    "last_z": ColumnDescription("last slice; the first slice of the volume is 0"),
    "centroid_z_um": ColumnDescription("centroid along z, from the corner of the volume", "µm"),
    "centroid_y_um": ColumnDescription("centroid along y, from the corner of the volume", "µm"),
    "centroid_x_um": ColumnDescription("centroid along x, from the corner of the volume", "µm"),
    "extent_z_um": ColumnDescription("length of the bounding box along z", "µm"),
    "extent_y_um": ColumnDescription("length of the bounding box along y", "µm"),
    "extent_x_um": ColumnDescription("length of the bounding box along x", "µm"),
}
IMAGE_COLUMNS: Descriptions = {
    "image": ColumnDescription(
        "image of the object, as the number of its slice in the sample; the first is 0"
    ),
    "pixels": ColumnDescription("number of pixels at full resolution", "pixels"),
    "area_um2": _feature("area", "µm²", "pixels times the area of a pixel"),
    "perimeter_um": _feature(
        "length of the outline",
        "µm",
        "edges of pixels weighted by the local normal, as surface areas are",
    ),
    "circle_diameter_um": _feature(
        "diameter of the circle of the same area", "µm", "2 sqrt(A / pi)"
    ),
    "ellipse_major_um": _feature(
        "longer axis of the ellipse with the same second moments",
        "µm",
        "4 sqrt(lambda_1), full length",
    ),
    "ellipse_minor_um": _feature("shorter axis of this ellipse", "µm", "4 sqrt(lambda_2)"),
    "elongation": _feature(
        "longer over shorter axis: 1 for a circle", "ratio", "sqrt(lambda_1 / lambda_2)"
    ),
    "convex_area_um2": _feature(
        "area of the convex hull",
        "µm²",
        "pixel centers in the convex hull of the object's pixel centers",
    ),
    "circularity": _feature(
        "area over the area of the circle of the same perimeter: 1 for a circle",
        "ratio",
        "4 pi A / P²",
    ),
}
SHAPE_COLUMNS: Descriptions = {
    "volume_um3": _feature("volume", "µm³", "voxels times the volume of a voxel"),
    "surface_um2": _feature(
        "surface area",
        "µm²",
        "voxel faces weighted by the local normal (digital surface integration, Lachaud and "
        "Vialard 2003)",
    ),
    "surface_to_volume_per_um": _feature(
        "surface area over volume: 6 over the diameter for a ball", "1/µm", "S / V"
    ),
    "equivalent_diameter_um": _feature(
        "diameter of the ball of the same volume", "µm", "(6 V / pi)^(1/3)"
    ),
    "axis_major_um": _feature(
        "longest axis of the ellipsoid with the same second moments",
        "µm",
        "2 sqrt(5 lambda_1), full length",
    ),
    "axis_middle_um": _feature("middle axis of this ellipsoid", "µm", "2 sqrt(5 lambda_2)"),
    "axis_minor_um": _feature("shortest axis of this ellipsoid", "µm", "2 sqrt(5 lambda_3)"),
    "axis_major_z": ColumnDescription(
        "direction of the longest axis, z component of the unit vector", "1"
    ),
    "axis_major_y": ColumnDescription(
        "direction of the longest axis, y component of the unit vector", "1"
    ),
    "axis_major_x": ColumnDescription(
        "direction of the longest axis, x component of the unit vector", "1"
    ),
    "max_feret_um": _feature("largest Feret diameter: length of the object", "µm", FERET),
    "min_feret_um": _feature(
        "smallest Feret diameter: distance of the two parallel planes (in separate images, lines) "
        "between which it just fits",
        "µm",
        f"{FERET}; in 3D at most 0.1 % too large",
    ),
    "convex_volume_um3": _feature("volume of the convex hull", "µm³", HULL),
    "solidity": _feature(
        "volume over the volume of the convex hull (in separate images, area over area): 1 without "
        "concavities",
        "ratio",
        f"equation 5, {PAPER}; {HULL}",
    ),
    "sphericity": _feature(
        "area of the ball of the same volume over the surface area: 1 for a ball",
        "ratio",
        f"equation 6, {PAPER} (Wadell 1935)",
    ),
    "circular_variance": _feature(
        "variance of the distance of the surface (in separate images, of the outline) from the "
        "centroid, over the squared mean distance: 0 for a ball",
        "ratio",
        f"equation 7, {PAPER}; every part of the surface has the weight of its area",
    ),
    "box_fill": _feature(
        "volume over the volume of the bounding box (in separate images, area over area)",
        "ratio",
        "extent of regionprops",
    ),
}
NUCLEOLUS_COLUMNS: Descriptions = {
    "filled_volume_um3": _feature(
        "volume with the cavities filled",
        "µm³",
        f"{PAPER}; cavities that no path connects to the outside",
    ),
    "fenestrated_percent": _feature(
        "fraction of the filled volume that is cavities", "%", f"equation 8, {PAPER}"
    ),
    "solidity_filled": _feature(
        "filled volume over the volume of the convex hull",
        "ratio",
        f"equation 5, {PAPER}, as in its figure 11",
    ),
    "proximity_to_membrane": _feature(
        "proximity to the membrane of the nucleus: 0 in the middle of the nucleus, towards 1 at "
        "the membrane",
        "ratio",
        f"equation 9, {PAPER}",
        "nucleus_cut_by_edge",
    ),
    "centroid_to_membrane_um": _feature(
        "distance from the centroid to the nearest point of the surface of the nucleus",
        "µm",
        f"d_s of equation 9, {PAPER}",
        "nucleus_cut_by_edge",
    ),
    "nucleus_cut_by_edge": ColumnDescription(
        "true if the nucleus touches the border of the volume: its middle and its membrane are "
        "those of the part inside"
    ),
    "membrane_level": ColumnDescription(
        "level of the pyramid at which distances to the membrane were measured; 0 is full "
        "resolution"
    ),
    "fill_level": ColumnDescription(
        "level of the pyramid at which cavities were measured; 0 is full resolution"
    ),
}
NUCLEUS_COLUMNS: Descriptions = {
    "nucleoli": _feature("number of nucleoli in this nucleus", "count", f"figure 11C, {PAPER}"),
    "nucleoli_volume_um3": _feature("volume of the nucleoli in this nucleus", "µm³", "sum"),
}
POSITION_COLUMNS: Descriptions = {
    "distance_to_nucleus_um": _feature(
        "distance from the object to the nearest nucleus of its cell",
        "µm",
        NEAREST,
        "cell_cut_by_edge",
    ),
    "distance_to_membrane_um": _feature(
        "distance from the object to the outside of its cell", "µm", NEAREST, "cell_cut_by_edge"
    ),
    "cell_cut_by_edge": ColumnDescription(
        "true if the cell of the object touches the border of the volume: distances are those to "
        "the part inside"
    ),
    "distance_level": ColumnDescription(
        "level of the pyramid at which distances and protrusions were measured; 0 is full "
        "resolution"
    ),
}
TEXTURE_DESCRIPTIONS: Descriptions = {
    "gray_mean": _feature("mean gray level of the image", "gray levels"),
    "gray_deviation": _feature("standard deviation of the gray level", "gray levels"),
    "glcm_homogeneity": _feature(
        "similarity of neighbors: 1 if all are equal", "1", f"equation 10, {PAPER}; {GLCM}"
    ),
    "glcm_correlation": _feature(
        "correlation between the gray levels of neighbors", "1", f"equation 11, {PAPER}; {GLCM}"
    ),
    "glcm_variance": _feature(
        "spread of gray levels, sum of (i - mu)^2 p",
        "levels²",
        f"Haralick 1973; equation 12 of {PAPER} is printed as the contrast",
    ),
    "glcm_contrast": _feature(
        "mean squared difference between neighbors", "levels²", f"equation 13, {PAPER}; {GLCM}"
    ),
    "zone_percentage": _feature(
        "zones per voxel: 1 for the finest texture", "ratio", f"equation 14, {PAPER}; {ZONES}"
    ),
    "small_zone_high_gray": _feature(
        "emphasis of small bright zones, sum of P i² / j² over the number of zones",
        "levels²",
        f"equation 15, {PAPER}, with the 1/j² that is missing in print",
    ),
    "zone_mean_level": _feature(
        "mean gray level of zones", "levels", f"centroid of the size-zone matrix, {PAPER}"
    ),
    "zone_mean_size_voxels": _feature(
        "mean size of zones", "voxels", f"centroid of the size-zone matrix, {PAPER}"
    ),
    "pattern_mean": _feature(
        "mean size of bright and dark structures: negative if dark ones prevail",
        "sizes",
        f"first moment of the pattern spectrum, equation 16, {PAPER}",
    ),
    "pattern_deviation": _feature(
        "spread of the sizes of bright and dark structures",
        "sizes",
        "square root of the second central moment of the pattern spectrum",
    ),
    "pattern_skewness": _feature(
        "asymmetry of the sizes of bright and dark structures",
        "1",
        "third standardized moment of the pattern spectrum",
    ),
    "pattern_entropy": _feature(
        "variety of the sizes of bright and dark structures: 0 for a single size",
        "nats",
        "- sum p ln p of the normalized pattern spectrum",
    ),
    "texture_level": ColumnDescription(
        "level of the pyramid at which texture was measured, the same for all objects of a "
        "structure; 0 is full resolution"
    ),
    "texture_voxel_nm": ColumnDescription(
        "longest edge of a voxel of this level: compare texture only where it is the same", "nm"
    ),
}
CELL_DESCRIPTIONS: Descriptions = {
    "cytoplasm_volume_um3": _feature(
        "volume of the cell outside its nuclei", "µm³", "voxels in the cell and in no nucleus"
    ),
    "protrusions": _feature(
        "number of protrusions, parts thinner than the set width that stand out",
        "count",
        "opening with a ball; parts that the border cuts off count",
    ),
    "protrusion_length_um": _feature(
        "length of all protrusions", "µm", "from foot to tip within each, summed"
    ),
    "longest_protrusion_um": _feature(
        "length of the longest protrusion", "µm", "from foot to tip within it"
    ),
    "protrusion_volume_um3": _feature(
        "volume of all protrusions", "µm³", "voxels outside the opened cell"
    ),
}
# Columns of the tables of `skeletons`, and of the statistics of a structure.
SKELETON_DESCRIPTIONS: Descriptions = {
    "skeleton_length_um": _feature("length of the center lines of the object", "µm", THINNING),
    "branches": _feature("number of lines between nodes", "count", THINNING),
    "ends": _feature("number of nodes with one line", "count", THINNING),
    "branch_points": _feature("number of nodes with three lines or more", "count", THINNING),
    "tortuosity": _feature(
        "length of the open branches over the distance of their ends", "ratio", THINNING
    ),
    "min_radius_um": _feature(
        "smallest distance from a center line to the surface", "µm", THINNING
    ),
    "mean_radius_um": _feature("mean distance from a center line to the surface", "µm", THINNING),
}
# Statistics of the contacts of an object with those of another structure, whose name replaces {}.
CONTACT_DESCRIPTIONS: Descriptions = {
    "{}_contacts": _feature(
        "number of {} objects in contact with the object", "count", "see 'sparsem contacts'"
    ),
    "{}_contact_fraction": _feature(
        "fraction of the surface in contact with {}", "ratio", "see 'sparsem contacts'"
    ),
}
# Columns of the table of cells for each organelle, whose name replaces {}.
ORGANELLE_DESCRIPTIONS: Descriptions = {
    "{}_count": _feature(
        "number of {} objects in the cell",
        "count",
        "each object counts in the one cell that holds most of it",
    ),
    "{}_volume_um3": _feature("volume of {} in the cell", "µm³", "voxels that lie in the cell"),
    "{}_volume_fraction": _feature(
        "volume of {} over the volume of the cell", "ratio", "voxels that lie in the cell"
    ),
    "{}_density_per_um3": _feature(
        "number of {} objects per volume of the cell", "1/µm³", "count over volume of the cell"
    ),
    "{}_distance_to_nucleus_um": _feature(
        "median distance of the {} objects of the cell to its nearest nucleus", "µm", NEAREST
    ),
    "{}_distance_to_membrane_um": _feature(
        "median distance of the {} objects of the cell to the outside of the cell", "µm", NEAREST
    ),
}
# The order is that of the columns of a table.
OBJECT_COLUMNS: Descriptions = {
    **IDENTITY_COLUMNS,
    **IMAGE_COLUMNS,
    **SHAPE_COLUMNS,
    **NUCLEOLUS_COLUMNS,
    **NUCLEUS_COLUMNS,
    **POSITION_COLUMNS,
    **TEXTURE_DESCRIPTIONS,
    **CELL_DESCRIPTIONS,
    **SKELETON_DESCRIPTIONS,
}


def describe_column(column: str) -> ColumnDescription | None:
    """Describe a column of the table of a structure; None for a column that is not measured."""
    if column in OBJECT_COLUMNS:
        return OBJECT_COLUMNS[column]
    for pattern, description in {**ORGANELLE_DESCRIPTIONS, **CONTACT_DESCRIPTIONS}.items():
        ending = pattern.removeprefix("{}")
        if column.endswith(ending):
            return _for_organelle(description, column.removesuffix(ending))
    return None


def feature_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns by which objects are compared."""
    features = []
    for column in columns:
        description = describe_column(column)
        if description is not None and description.feature:
            features.append(column)
    return features


def dictionary_table(columns: Iterable[str]) -> pa.Table:
    """Return the table of the dictionary, one row a column: column, meaning, unit, source."""
    names = list(columns)
    descriptions = [describe_column(name) or ColumnDescription("") for name in names]
    return pa.table(
        {
            "column": names,
            "meaning": [description.meaning for description in descriptions],
            "unit": [description.unit for description in descriptions],
            "source": [description.source for description in descriptions],
        }
    )


def dictionary_sections() -> dict[str, Descriptions]:
    """Return the whole dictionary, by the kind of table that has the columns."""
    organelle = "ORGANELLE"
    of_organelles = {
        pattern.format(organelle): _for_organelle(description, organelle)
        for pattern, description in ORGANELLE_DESCRIPTIONS.items()
    }
    partner = "STRUCTURE"
    with_partner = {
        pattern.format(partner): _for_organelle(description, partner)
        for pattern, description in CONTACT_DESCRIPTIONS.items()
    }
    return {
        "Every object": {**IDENTITY_COLUMNS, **SHAPE_COLUMNS},
        "Objects in separate images": IMAGE_COLUMNS,
        "Nucleoli": NUCLEOLUS_COLUMNS,
        "Nuclei": NUCLEUS_COLUMNS,
        "Organelles in cells": POSITION_COLUMNS,
        "Texture": TEXTURE_DESCRIPTIONS,
        "Cells": {**CELL_DESCRIPTIONS, **of_organelles},
        "Skeletons and contacts, in statistics": {**SKELETON_DESCRIPTIONS, **with_partner},
    }


def dictionary_markdown() -> str:
    """Return the whole dictionary as Markdown, for the docs."""
    lines = []
    for title, columns in dictionary_sections().items():
        lines += [f"## {title}", "", "| column | meaning | unit | source |", "|---|---|---|---|"]
        for name, column in columns.items():
            lines.append(f"| `{name}` | {column.meaning} | {column.unit} | {column.source} |")
        lines.append("")
    return "\n".join(lines)


def _for_organelle(description: ColumnDescription, organelle: str) -> ColumnDescription:
    return description._replace(meaning=description.meaning.format(organelle))
