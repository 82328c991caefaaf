"""The grammar of names in a sample.

A name is a folder (``labels/NAME``) or a file (``tables/NAME.parquet``), so it consists of letters,
digits, ``_``, ``-`` and ``.``. Some endings and beginnings say how a volume or table was made. The
name of a structure must not use them: its results could not be distinguished from those of another
structure.

    NAME-interior, NAME-boundary     probabilities of the cells of annotation NAME
    NAME-uncertainty                 disagreement of the networks that predicted NAME
    NAME-disagreement                places where the two propagations of cells disagree
    NAME-regions                     regions of cells slice by slice, before ``track`` joins them
    NAME-objects                     numbered objects of the mask NAME, as ``measure`` counts them
    NAME-constrained                 what biological constraints leave of NAME
    NAME-method-METHOD               cells separated by another method (``experiment cells``)
    PREFIX_NAME                      tables about NAME: scores, pattern spectra, boxes and others
"""

import re

from sparsem.errors import InputError

INTERIOR = "-interior"
BOUNDARY = "-boundary"
REGIONS = "-regions"
OBJECTS = "-objects"
CONSTRAINED = "-constrained"
UNCERTAINTY = "-uncertainty"
DISAGREEMENT = "-disagreement"
METHOD = "-method-"

SUFFIXES = (INTERIOR, BOUNDARY, REGIONS, OBJECTS, CONSTRAINED, UNCERTAINTY, DISAGREEMENT)

# Beginnings of the names of tables about a structure or an image.
TABLE_PREFIXES = (
    "alignment_",
    "annotated_boxes_",
    "annotation_ids_",
    "box_",
    "boxes_",
    "contact_fraction_",
    "contacts_",
    "dice_",
    "experiment_",
    "label_ids_",
    "links_",
    "pattern_",
    "quality_",
    "review_",
    "scores_",
    "skeleton_lines_",
    "skeletons_",
    "tracks_",
    "truth_contacts_",
    "truth_ids_",
)

# Tables and columns that `measure` and other stages write for all structures together.
TABLES = ("constrained", "dictionary", "measured", "phantom_slices", "protrusions", "statistics")
COLUMNS = ("cytoplasm", "longest_protrusion", "nucleoli", "protrusion")

RAW = "raw"  # the imported image
PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def checked_name(name: str) -> str:
    """Return a name that may become a folder or file in a sample.

    Raises:
        InputError: the name has other characters than letters, digits, ``_``, ``-`` and ``.``, or
            is ``raw``.
    """
    if not PATTERN.fullmatch(name) or name == RAW:
        raise InputError(
            f"A name consists of letters, digits, '_', '-' and '.', and is not 'raw'; got '{name}'."
        )
    return name


def checked_structure(name: str) -> str:
    """Return a name that may become the name of a structure.

    Raises:
        InputError: ``name`` cannot be a name, or the grammar gives it another meaning.
    """
    checked_name(name)
    meaning = reserved_meaning(name)
    if meaning:
        raise InputError(f"A structure cannot be called '{name}': {meaning}. Choose another name.")
    return name


def checked_separation(name: str) -> str:
    """Return a name that may become the name of separated cells.

    That is the name of a structure, alone or followed by ``-method-METHOD``.

    Raises:
        InputError: see ``checked_structure``.
    """
    structure, _, _ = name.partition(METHOD)
    checked_name(name)
    checked_structure(structure)
    return name


def reserved_meaning(name: str) -> str:
    """Return what a name means if it is reserved, as the end of a sentence; empty if it is free.

    >>> reserved_meaning("cells-interior")
    "names that end in '-interior' are made by sparsem itself"
    """
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return f"names that end in '{suffix}' are made by sparsem itself"
    if METHOD in name:
        return f"names that contain '{METHOD}' are made by 'experiment cells'"
    for prefix in TABLE_PREFIXES:
        if name.startswith(prefix):
            return f"tables whose names begin with '{prefix}' are made by sparsem itself"
    if name in TABLES:
        return "sparsem writes a table of that name for all structures"
    if name in COLUMNS:
        return "tables of cells have a column of that name"
    return ""


def is_step(name: str) -> bool:
    """Return True if labels are an intermediate step or a variant of a result, by their name."""
    return name.endswith(SUFFIXES) or METHOD in name


def base_name(name: str) -> str:
    """Return the name of the structure that a volume belongs to.

    >>> base_name("nucleus-objects")
    'nucleus'
    """
    structure, _, _ = name.partition(METHOD)
    for suffix in SUFFIXES:
        structure = structure.removesuffix(suffix)
    return structure
