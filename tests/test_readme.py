"""The README's commands, run as they stand, on what the README's first command makes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("deploy ")]


def test_the_first_block_is_the_makefile() -> None:
    targets = re.findall(r"^make (\w+)", blocks("bash")[0], flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_commands_name_real_options() -> None:
    for command in commands():
        words = shlex.split(command)
        shown = subprocess.run(
            [BIN / "deploy", words[1], "--help"], capture_output=True, text=True, check=True
        ).stdout
        for word in words[2:]:
            assert not word.startswith("-") or re.search(rf"(^|[\s,]){word}\b", shown), command


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    demo = [str(BIN / "deploy"), "demo", "--rounds", "3"]
    subprocess.run(demo, cwd=tmp_path, check=True, timeout=600)
    (study,) = blocks("yaml")
    (tmp_path / "study.yaml").write_text(study, "utf-8")
    for command in commands():
        words = shlex.split(command)
        done = subprocess.run([BIN / words[0], *words[1:]], cwd=tmp_path, timeout=600, check=False)
        assert done.returncode == 0, command
    assert (tmp_path / "my-report.html").stat().st_size > 100_000
    for program in blocks("python"):
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=600)
    assert (tmp_path / "api-report.html").is_file()
