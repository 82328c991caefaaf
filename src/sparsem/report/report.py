"""The stage ``report``: one self-contained HTML page about one or several samples.

The page loads nothing and is small enough to be sent by mail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsem.errors import InputError, SampleError, SparsemError
from sparsem.labels.results import result_names
from sparsem.progress import Meter
from sparsem.report.charts import report_plots
from sparsem.report.notices import Notice
from sparsem.report.page import report_page
from sparsem.report.plots.colors import STRUCTURE_COLORS
from sparsem.report.sample_view import STEPS, view_sample
from sparsem.report.settings import ReportSettings
from sparsem.report.view import SampleView
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample, names_of_paths, refuse_repeated_samples
from sparsem.store.volume import write_atomically
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

SampleOrPath = Sample | str | Path


@dataclass(frozen=True)
class Report(StageResult):
    """The page that ``report`` wrote.

    Attributes:
        path: of the page.
        size: of the page in bytes.
        notices: sample -> sentences that a reader should know.
    """

    path: Path
    size: int
    notices: Mapping[str, Sequence[Notice]]


def report(
    sample: SampleOrPath | Sequence[SampleOrPath],
    path: str | Path,
    settings: ReportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Report:
    """Write one self-contained HTML page.

    The page shows everything that can be shown; a sentence on it names what cannot.

    Args:
        sample: a sample, or several, which are compared; samples or their paths.
        path: the page, NAME.html; it appears when it is complete.
        settings: contents of the page.
        on: ``overwrite`` replaces a page, ``quiet`` shows no progress.

    Raises:
        InputError: no sample is given, the page exists, or its name is not that of a page.
        SampleError: none of the samples can be opened.
    """
    settings = resolve_settings(ReportSettings, settings, changes)
    path = Path(path)
    samples = _paths_of(sample)
    _check_arguments(samples, path, settings, on)
    with Meter("report", STEPS * len(samples) + 2, quiet=on.quiet) as meter:
        views = _view_samples(samples, settings, meter)
        plots = list(report_plots(views, settings.cells))
        meter.step("plots")
        content = report_page(views, plots, settings.title).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        meter.step()
    notices = {view.name: view.notices for view in views}
    return Report(path, len(content), notices, written=(str(path),))


def _view_samples(
    samples: Sequence[Path], settings: ReportSettings, meter: Meter
) -> list[SampleView]:
    """Return the views of all samples.

    Raises:
        SampleError: none of them can be opened.
    """
    fallback_names = _names_without_color(samples, settings)
    views: list[SampleView] = []
    for name, sample_path in zip(names_of_paths(samples), samples, strict=True):
        view = view_sample(sample_path, settings, len(samples), fallback_names, meter)
        view.name = name
        views.append(view)
    if not any(view.facts for view in views):
        texts = [notice.text for view in views for notice in view.notices]
        raise SampleError("; ".join(texts))
    return views


def _paths_of(sample: SampleOrPath | Sequence[SampleOrPath]) -> list[Path]:
    """Return the paths of one or more samples; refuse one that is given twice."""
    samples = [sample] if isinstance(sample, Sample | str | Path) else sample
    paths = [item.path if isinstance(item, Sample) else Path(item) for item in samples]
    refuse_repeated_samples(paths)
    return paths


def _check_arguments(
    samples: Sequence[Path], path: Path, settings: ReportSettings, on: Execution
) -> None:
    """Raise an InputError if the arguments do not fit together, or the page exists."""
    if settings.truth and len(samples) > 1:
        raise InputError(
            "--truth belongs to one sample, but the page shows several. Show that sample on a "
            "page of its own, or copy its ground truth into the sample as truth/NAME."
        )
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"A report is an HTML page; expected a name that ends in .html, got '{path.name}'."
        )
    if path.exists() and not on.overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    if not samples:
        raise InputError("A report needs at least one sample.")


def _names_without_color(samples: Sequence[Path], settings: ReportSettings) -> list[str]:
    """Return the structures of all samples that have no color of the papers, sorted."""
    names: set[str] = set()
    for path in samples:
        try:
            names.update(settings.structures or result_names(Sample.open(path)))
        except SparsemError:  # reported when the sample is viewed
            continue
    return sorted(names - {settings.cells, *STRUCTURE_COLORS})
