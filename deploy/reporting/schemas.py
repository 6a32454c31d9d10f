"""JSON Schemas of what is written for other programs, as published under ``docs/schema``."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from deploy.harness import results as task_results
from deploy.profiling import results
from deploy.reporting import published
from trueint8.artifacts import write_atomically

PUBLISHED: dict[str, type[BaseModel]] = {
    published.SCHEMA: published.ReportDocument,
    results.SCHEMA: results.Row,
    task_results.SCHEMA: task_results.TaskRow,
}


def schema_text(name: str) -> str:
    """Return the schema of a document by the name that the document carries."""
    found = PUBLISHED[name].model_json_schema(by_alias=True)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, **found}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def schema_file(name: str) -> str:
    """Return the file's name, such as ``report-1.json``."""
    _, kind, version = name.split("/")
    return f"{kind}-{version}.json"


def write_schemas(folder: Path) -> None:
    """Write every schema into a folder."""
    for name in PUBLISHED:
        write_atomically(folder / schema_file(name), schema_text(name))
