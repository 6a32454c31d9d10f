"""``docs/what-ran-where.md`` has a row for every engine, and each row is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.engines import ENGINES

PAGE = (Path(__file__).parents[1] / "docs" / "what-ran-where.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| engine")
]
MACHINES = re.findall(r"^- \*\*(\w+)\*\*:", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ENGINES.names())
def test_every_engine_has_a_row(name: str) -> None:
    assert [row for row in ROWS if row[0] == name]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1][:30]}")
def test_a_row_says_where_and_when_or_never(row: list[str]) -> None:
    _, path, state, machine, date, version = row
    assert path
    if state == "never":
        assert [machine, date, version] == ["–"] * 3
        return
    assert state in ("ran", "BUILT")
    assert machine in MACHINES
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", date)
    assert re.match(r"\d+\.\d+", version)


def test_nothing_ran_on_a_gpu_that_no_machine_has() -> None:
    assert all("no GPU" in PAGE.split(f"**{name}**")[1].split("\n\n")[0] for name in MACHINES)
    ran = {row[0] for row in ROWS if row[2] == "ran"}
    assert not ran & {"tensorrt", "tensorrt-rtx"}
