"""Colors of structures, samples and cells.

A color is (red, green, blue), each 0 to 255. A CSS color is text such as ``#0072b2``.
"""

from matplotlib.colors import hsv_to_rgb

RGB = tuple[int, int, int]

# Machireddy et al. 2023, figure 4.
STRUCTURE_COLORS: dict[str, RGB] = {
    "nucleus": (240, 228, 66),
    "nucleolus": (213, 40, 30),
    "mitochondrion": (255, 105, 180),
    "mitochondria": (255, 105, 180),
    "endosome": (255, 255, 255),
    "lysosome": (0, 0, 0),
}

# The colors of Okabe and Ito that the paper leaves free; other structures take them in turn.
FALLBACK_COLORS: tuple[RGB, ...] = (
    (86, 180, 233),
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (204, 121, 167),
)

# Okabe and Ito: readers with any form of color vision can distinguish them.
SERIES_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Fraction of the circle of hues between consecutive numbers, so that their colors differ clearly.
GOLDEN_RATIO = 0.61803398875

# Number of different colors of cells, without background and outline.
N_CELL_COLORS = 47


def structure_color(structure: str, fallback_index: int = 0) -> RGB:
    """Return the papers' color of a structure.

    Args:
        structure: name of the structure.
        fallback_index: which of the fallback colors to take for a structure without a color of
            the papers.
    """
    fallback = FALLBACK_COLORS[fallback_index % len(FALLBACK_COLORS)]
    return STRUCTURE_COLORS.get(structure, fallback)


def cell_color(cell_id: int) -> RGB:
    """Return the color of a cell: pseudo-random, and the same in every image and scene."""
    number = cell_id % N_CELL_COLORS
    hue = number * GOLDEN_RATIO % 1
    brightness = 0.78 + 0.11 * (number * 7 % 3)
    red, green, blue = hsv_to_rgb((hue, 0.62, brightness))
    return int(red * 255), int(green * 255), int(blue * 255)


def series_color(index: int) -> str:
    """Return the CSS color of the ``index``-th series of a plot."""
    return SERIES_COLORS[index % len(SERIES_COLORS)]


def series_marker(index: int) -> str:
    """Return matplotlib's name of the marker of the ``index``-th series of a plot."""
    return SERIES_MARKERS[index % len(SERIES_MARKERS)]


def css_color(color: RGB) -> str:
    """Return a color as CSS text, such as ``#f0e442``."""
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def unit_rgb(color: RGB) -> tuple[float, float, float]:
    """Return a color with parts of 0 to 1, as matplotlib and VTK expect it."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255
