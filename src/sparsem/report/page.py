"""The HTML page of a report: templates filled with views, plots and tables to download."""

import base64
import io
import json
import zlib
from collections.abc import Sequence
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.csv

from sparsem import __version__
from sparsem.measure.dictionary import dictionary_sections
from sparsem.report.object_rows import color_cycle
from sparsem.report.view import Plot, SampleView
from sparsem.store.sample import now

# Size of all tables that the page offers to download. Larger tables are named: they are in the
# sample. See ``sample_view.MAX_IMAGE_BYTES``.
MAX_TABLE_BYTES = 2_500_000


def template_environment() -> jinja2.Environment:
    """Return the environment of the page templates: it escapes texts and refuses unknown names."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sparsem.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def report_page(views: Sequence[SampleView], plots: Sequence[Plot], title: str) -> str:
    """Return the HTML of a report.

    Args:
        views: samples on the page.
        plots: plots of all samples.
        title: title of the page.
    """
    tables = [(view.name, name, table) for view in views for name, table in view.tables.items()]
    contents = [_compressed_csv(plot.data) for plot in plots]
    contents += [_compressed_csv(table) for _, _, table in tables]
    contents = _within_budget(contents, MAX_TABLE_BYTES)
    plot_contents, table_contents = contents[: len(plots)], contents[len(plots) :]
    downloads = [
        (sample, name, table.num_rows, content)
        for (sample, name, table), content in zip(tables, table_contents, strict=True)
    ]
    template = template_environment().get_template("page.html")
    return template.render(
        title=title,
        views=views,
        figures=_figures(plots, plot_contents),
        downloads=downloads,
        dictionary=dictionary_sections(),
        data=_script_data(views),
        made=now(),
        version=__version__,
        history=_history(views),
    )


def _history(views: Sequence[SampleView]) -> list[tuple[str, Any, str]]:
    """Return the steps of all samples: sample, entry of the history, and settings as text."""
    history = []
    for view in views:
        for entry in view.history:
            history.append((view.name, entry, json.dumps(entry["settings"], indent=1)))
    return history


def _figures(plots: Sequence[Plot], contents: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the template shows of every plot."""
    figures = []
    for plot, content in zip(plots, contents, strict=True):
        figure = {
            "title": plot.title,
            "caption": plot.caption,
            "svg": plot.svg,
            "file": plot.file.replace("/", "-"),  # samples of equal names are a/NAME and b/NAME
            "data": content,
            "rows": plot.rows,
        }
        figures.append(figure)
    return figures


def _script_data(views: Sequence[SampleView]) -> str:
    """Return the JSON that the scripts of the page read."""
    samples = [
        {
            "name": view.name,
            "slices": view.slices,
            "scene": view.scene,
            "labeled": view.labeled,
            "objects": view.objects,
        }
        for view in views
    ]
    content = {"samples": samples, "colors": color_cycle()}
    # Inside a script element only "<" could end it.
    return json.dumps(content).replace("<", "\\u003c")


def _compressed_csv(table: pa.Table) -> str:
    """Return a table as CSV with seven digits, compressed and in base64."""
    types = [
        pa.float32() if pa.types.is_float64(column.type) else column.type for column in table.schema
    ]
    schema = pa.schema(list(zip(table.column_names, types, strict=True)))
    shorter = table.replace_schema_metadata().cast(schema, safe=False)
    sink = io.BytesIO()
    pyarrow.csv.write_csv(shorter, sink)
    return base64.b64encode(zlib.compress(sink.getvalue(), 9)).decode()


def _within_budget(contents: Sequence[str], budget: int) -> list[str]:
    """Return the smallest contents that fit into the budget, and empty text for the others."""
    kept_contents = [""] * len(contents)
    for index in sorted(range(len(contents)), key=lambda k: len(contents[k])):
        budget -= len(contents[index])
        if budget >= 0:
            kept_contents[index] = contents[index]
    return kept_contents
