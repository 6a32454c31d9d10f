"""The report in its formats; as HTML, sections of plain data that one template renders."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from deploy.harness.results import TaskRow
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison, summarize
from deploy.reporting.document import Section
from deploy.reporting.downloads import downloads
from deploy.reporting.markdown import MARK, markdown_report
from deploy.reporting.published import json_report, report_document
from deploy.reporting.tasks_section import tasks_section
from trueint8 import __version__
from trueint8.artifacts import write_atomically
from trueint8.errors import DataError, MissingDependency
from trueint8.registry import Registry

SECTIONS = Registry("section", "deploy.reporting.sections", "section")

Format = Literal["html", "md", "json"]

STARTS: dict[Format, str] = {
    "html": "<!doctype html",
    "md": MARK,
    "json": '{\n  "schema": "trueint8/report/',
}
"""How a report begins, in lower case: what may be written over."""

_TEMPLATE = "template.html.j2"
_MOST_BYTES = 2_900_000
"""Of a page with its raw samples; one that would be larger goes without."""
_REQUIRED = {"jinja2": "jinja2", "altair": "altair", "vl_convert": "vl-convert-python"}


def write_report(
    rows: Sequence[Row],
    path: Path,
    *,
    title: str | None = None,
    format: Format = "html",
    more: Sequence[tuple[str, Section]] = (),
    tasks: Sequence[TaskRow] = (),
) -> None:
    """Write a report of the rows of a results file; as HTML one page that loads nothing else.

    The same rows give the same file: it holds the rows' times and not the time
    it was written at.

    Args:
        rows: Rows of one or more sessions.
        path: The file to write, whole or not at all.
        title: Heading; the models' names unless given.
        format: HTML, Markdown for a pull request, or JSON by :mod:`.published`.
        more: Named sections of other files than the rows', which HTML has too.
        tasks: Of ``deploy lm-eval``; in every format.

    Raises:
        DataError: If there are no rows, or rows that ran side by side do not pair.
        MissingDependency: If HTML is wanted and the extra ``report`` is not installed.
        StorageError: If the disk is full or not writable.
    """
    if not rows:
        raise DataError(
            "there are no rows to report", fix="pass a file that `deploy profile` wrote"
        )
    title = _title(rows) if title is None else title
    if format == "html":
        _require_extra()
    try:
        if format == "html":
            text = _html(rows, title, more, tasks)
        else:
            text = _WRITERS[format](rows, title, tasks)
        write_atomically(path, text)
    except ValueError as err:
        raise DataError(
            f"rows of one session cannot be compared: {err}", fix="run `deploy profile` again"
        ) from err


def _require_extra() -> None:
    absent = [
        name for module, name in _REQUIRED.items() if importlib.util.find_spec(module) is None
    ]
    if absent:
        raise MissingDependency(
            f"the HTML report needs {' and '.join(absent)}", fix="pip install 'trueint8[report]'"
        )


def _json(rows: Sequence[Row], title: str, tasks: Sequence[TaskRow]) -> str:
    return json_report(report_document(rows, title, tasks=tasks))


def _html(
    rows: Sequence[Row],
    title: str,
    more: Sequence[tuple[str, Section]],
    tasks: Sequence[TaskRow],
) -> str:
    import jinja2

    comparisons = summarize(rows)
    if tasks:
        more = [*more, ("tasks", tasks_section(tasks))]
    sections = _sections(rows, comparisons, more)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["script_json"] = _script_json
    page = partial(
        environment.get_template(_TEMPLATE).render,
        title=title,
        summary=_summary(rows),
        sections=sections,
        models=list(dict.fromkeys(row.model for row in rows)),
        engines=list(dict.fromkeys(row.engine for row in rows)),
        baselines=list(dict.fromkeys(label for c in comparisons for label in c.speed_ups)),
        many=len(comparisons) > 1,
        drawing=_drawing_script() if any(section.charts for _, section in sections) else "",
        version=__version__,
    )
    whole = page(downloads=downloads(rows, title, comparisons, tasks))
    if len(whole.encode()) <= _MOST_BYTES:
        return whole
    return page(downloads=downloads(rows, title, comparisons, tasks, small=True))


def _sections(
    rows: Sequence[Row], comparisons: Sequence[Comparison], more: Sequence[tuple[str, Section]]
) -> list[tuple[str, Section]]:
    """Return what every section makes of the rows, in order; some have nothing to say."""
    made = [(name, SECTIONS.load(name)(rows, comparisons)) for name in SECTIONS.names()]
    found = [*((name, section) for name, section in made if section is not None), *more]
    return sorted(found, key=lambda named: (named[1].order, named[0]))


def _title(rows: Sequence[Row]) -> str:
    models = dict.fromkeys(row.model for row in rows)
    return f"INT8 report: {', '.join(models)}"


def _summary(rows: Sequence[Row]) -> str:
    counted = {
        "model": {row.model for row in rows},
        "engine": {row.engine for row in rows},
        "session": {row.session for row in rows},
        "row": range(len(rows)),
    }
    counts = [f"{len(found)} {noun}{'s' * (len(found) != 1)}" for noun, found in counted.items()]
    return f"{', '.join(counts)} · profiled {min(row.time for row in rows)}"


def _script_json(value: Any) -> Any:
    """Return JSON that no string inside can turn into markup, for a ``<script>`` element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, sort_keys=True)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _drawing_script() -> Any:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version Altair writes for."""
    import altair
    import vl_convert
    from markupsafe import Markup

    version = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    # inside a <script> element these would end it, or hide its end
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


_WRITERS: dict[Format, Callable[[Sequence[Row], str, Sequence[TaskRow]], str]] = {
    "md": markdown_report,
    "json": _json,
}
