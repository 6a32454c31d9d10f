"""Lines for logs, silence when quiet, bars on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select

import pytest

from trueint8 import progress
from trueint8.progress import Bars, Lines, Silence, progress_for


def test_lines_tell_the_start_and_the_end() -> None:
    stream = io.StringIO()
    with Lines(stream).step("calibrate", total=2) as advance:
        advance(1)
        advance(1)
    assert re.fullmatch(r"calibrate \.\.\.\ncalibrate: done in 0\.\d s\n", stream.getvalue())


def test_lines_count_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    stream = io.StringIO()
    with Lines(stream).step("calibrate", total=5) as advance:
        advance(2)
        advance(3)
    with Lines(stream).step("train") as advance:
        advance(7)
    assert stream.getvalue().splitlines()[1:3] == [
        "calibrate: 2/5 after 0 s",
        "calibrate: 5/5 after 0 s",
    ]
    assert "train: 7 after 0 s" in stream.getvalue()


def test_a_step_that_fails_is_not_done() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Lines(stream).step("calibrate"):
        raise RuntimeError
    assert stream.getvalue() == "calibrate ...\n"


def test_silence_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silence = progress_for(quiet=True)
    assert isinstance(silence, Silence)
    with silence.step("calibrate", total=2) as advance:
        advance(2)
        silence.say("line")
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_lines_and_a_terminal_gets_bars() -> None:
    assert isinstance(progress_for(stream=io.StringIO()), Lines)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        shown = progress_for(stream=terminal)
        assert isinstance(shown, Bars)
        with shown.step("calibrate", total=2) as advance:
            advance(2)
        shown.say("[bold]as it is[/bold]")
    printed = b""
    while select.select([master], [], [], 0.5)[0]:
        try:
            printed += os.read(master, 1 << 16)
        except OSError:  # what a terminal says once its other end is closed and read to the end
            break
    os.close(master)
    shown_text = printed.decode()
    assert "calibrate" in shown_text and "2/2" in shown_text
    assert "[bold]as it is[/bold]" in shown_text
