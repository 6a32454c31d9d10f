"""One self-contained HTML page: sections are plain data, one template renders them all."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.profiling.results import Row
from deploy.reporting.document import Section
from trueint8 import __version__
from trueint8.artifacts import write_atomically
from trueint8.errors import DataError, MissingDependency
from trueint8.registry import Registry

SECTIONS = Registry("section", "deploy.reporting.sections", "section")

_TEMPLATE = "template.html.j2"
_REQUIRED = {"jinja2": "jinja2", "altair": "altair", "vl_convert": "vl-convert-python"}


def write_report(rows: Sequence[Row], path: Path, *, title: str | None = None) -> None:
    """Write the rows of a results file as one HTML page that loads nothing else.

    The same rows give the same page: it holds the rows' times and not the time
    it was written at.

    Args:
        rows: Rows of one or more sessions.
        path: The file to write, whole or not at all.
        title: Heading; the models' names unless given.

    Raises:
        DataError: If there are no rows, or rows that ran side by side do not pair.
        MissingDependency: If the extra ``report`` is not installed.
        StorageError: If the disk is full or not writable.
    """
    if not rows:
        raise DataError(
            "there are no rows to report", fix="pass a file that `deploy profile` wrote"
        )
    _require_extra()
    write_atomically(path, _rendered(rows, title))


def _require_extra() -> None:
    absent = [
        name for module, name in _REQUIRED.items() if importlib.util.find_spec(module) is None
    ]
    if absent:
        raise MissingDependency(
            f"the HTML report needs {' and '.join(absent)}", fix="pip install 'trueint8[report]'"
        )


def _rendered(rows: Sequence[Row], title: str | None) -> str:
    import jinja2

    sections = _sections(rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["script_json"] = _script_json
    return environment.get_template(_TEMPLATE).render(
        title=title or _title(rows),
        summary=_summary(rows),
        sections=sections,
        drawing=_drawing_script() if any(section.charts for _, section in sections) else "",
        version=__version__,
    )


def _sections(rows: Sequence[Row]) -> list[tuple[str, Section]]:
    try:
        made = [(name, SECTIONS.load(name)(rows)) for name in SECTIONS.names()]
    except ValueError as err:
        raise DataError(
            f"rows of one session cannot be compared: {err}", fix="run `deploy profile` again"
        ) from err
    return sorted(made, key=lambda named: (named[1].order, named[0]))


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
