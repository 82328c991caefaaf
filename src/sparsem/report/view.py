"""What a page is made of: samples as it shows them, and figures with the data behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sparsem.report.warnings import Notice


@dataclass
class View:
    """A sample on the page."""

    name: str
    facts: dict[str, str]
    notices: list[Notice]
    structures: list[str] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    has_truth: bool = False  # on any of its slices
    labeled: dict[str, list[int]] = field(default_factory=dict)
    labeled_words: dict[str, str] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    aligned: str = ""
    dice: Mapping[str, str] = field(
        default_factory=dict
    )  # of structures that were compared with a truth, in words


@dataclass(frozen=True)
class Plot:
    """A figure and the data behind it."""

    title: str
    about: str
    svg: str
    file: str
    data: pa.Table
    lines: Sequence[Mapping[str, str]] = ()  # what is also shown as a table, column -> text
