from __future__ import annotations

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from launcher.dashboard import Lines, Screen, choose, screen
from mux.event import Event, Heartbeat, Notice

TERMINAL = {"TERM": "xterm-256color"}


class Pty:
    """A terminal whose screen is read through `text`."""

    def __init__(self, columns: int) -> None:
        self.master, slave = os.openpty()
        self.resize(columns)
        os.set_blocking(self.master, False)
        self.stream: TextIO = open(slave, "w", encoding="utf-8")  # noqa: SIM115

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def text(self) -> str:
        read = b""
        try:
            while piece := os.read(self.master, 65536):
                read += piece
        except BlockingIOError:
            pass
        return read.decode()


@pytest.fixture
def pty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pty]:
    monkeypatch.setenv("TERM", "xterm-256color")
    pty = Pty(90)
    yield pty
    pty.stream.close()


def closed_pipe() -> TextIO:
    """A pipe that nobody reads from any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", encoding="utf-8")


def test_a_terminal_gets_a_screen_and_everything_else_lines(pty: Pty) -> None:
    assert isinstance(choose(pty.stream, environment=TERMINAL), Screen)
    assert isinstance(choose(pty.stream, plain=True, environment=TERMINAL), Lines)
    assert isinstance(choose(pty.stream, environment={"TERM": "dumb"}), Lines)
    assert isinstance(choose(pty.stream, environment={}), Lines)
    assert isinstance(choose(io.StringIO(), environment=TERMINAL), Lines)
    assert isinstance(choose(None, environment=TERMINAL), Lines)
    pty.resize(59)
    assert isinstance(choose(pty.stream, environment=TERMINAL), Lines)
    pty.resize(60)
    assert isinstance(choose(pty.stream, environment=TERMINAL), Screen)


def test_a_terminal_that_is_not_utf_8_gets_lines(pty: Pty) -> None:
    with open(os.dup(pty.stream.fileno()), "w", encoding="latin-1") as stream:
        assert isinstance(choose(stream, environment=TERMINAL), Lines)


def test_a_closed_stream_gets_lines_and_is_silent() -> None:
    stream = closed_pipe()
    with pytest.raises(BrokenPipeError):
        print("x", file=stream, flush=True)
    os.close(stream.fileno())
    with choose(stream, environment=TERMINAL) as display:
        display.show(Notice(text="nobody reads this"))
    with choose(None) as display:
        display.show(Notice(text="nobody reads this"))


def test_the_screen_is_drawn_and_left_as_it_was(pty: Pty, story: list[Event]) -> None:
    with Screen(pty.stream, clock=lambda: story[-1].time) as display:
        for event in story:
            display.show(event)
        assert "quickstart" not in pty.text()
        display.tick(story[-1].time)
        text = pty.text()
        assert "quickstart" in text and "instances/s" not in text and "majority" in text
    text = pty.text()
    assert text.endswith("\x1b[?25h") and "finished" in text  # the cursor is back, the last picture stays
    assert sys.stdout is not None and type(sys.stdout).__name__ != "FileProxy"


def test_the_screen_is_drawn_four_times_a_second_and_again_when_the_clock_goes_back(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(screen, "render", lambda state, now, width, height: drawn.append(now) or "")
    with Screen(pty.stream, clock=lambda: 7.0) as display:
        for tenth in range(11):
            display.tick(100 + tenth / 10)
        display.tick(50.0)
        assert drawn == [100.0, 100.3, 100.6, 100.9, 50.0]
        display.tick(50.1)
    assert drawn[5:] == [50.1]  # leaving draws what came since
    with Screen(pty.stream, clock=lambda: 7.0):
        pass
    assert drawn[-1] == 7.0


def test_a_resized_terminal_is_drawn_anew(pty: Pty, story: list[Event]) -> None:
    with Screen(pty.stream) as display:
        display.show(story[0])
        display.tick(1.0)
        pty.text()
        pty.resize(70)
        display.tick(2.0)
        text = pty.text()
        assert "\x1b[2J" in text and text.rstrip("\x1b[0m").endswith("│\x1b[0m\r\n\x1b[90m╰" + "─" * 68 + "╯")
        display.tick(3.0)
        assert "\x1b[2J" not in pty.text()


def test_a_screen_tells_the_age_of_heartbeats_by_its_own_clock(pty: Pty) -> None:
    display = Screen(pty.stream, clock=lambda: 1000.0)
    beat = Heartbeat(time=5.0, host="a", rank=0, stage=None, step=0, memory_bytes=0)
    display.show(beat)
    assert display.state.hosts["a"][0].seen == 1000.0
    display.show(beat, seen=5.0)
    assert display.state.hosts["a"][0].seen == 5.0


def test_a_terminal_that_is_gone_ends_nothing(pty: Pty, story: list[Event]) -> None:
    with Screen(pty.stream) as display:
        display.show(story[0])
        display.tick(1.0)
        os.close(pty.master)
        for now, event in enumerate(story):
            display.show(event)
            display.tick(now + 2.0)
        assert display.state.status == "finished"


def test_a_broken_pipe_ends_nothing(story: list[Event]) -> None:
    stream = closed_pipe()
    with Lines(stream) as display:
        for event in story:
            display.show(event)
    assert display.state.status == "finished"
    stream.close()  # what is buffered goes nowhere, without an error


def test_a_screen_on_a_broken_pipe_ends_nothing(story: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich draws although it is no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = closed_pipe()
    with Screen(stream) as display:
        display.show(story[0])
        display.tick(1.0)
        display.show(story[1])
        display.tick(2.0)
    stream.close()


def test_a_program_whose_reader_leaves_still_exits_with_0() -> None:
    program = """
import sys
from launcher.dashboard import choose
from mux.event import Notice
with choose(sys.stdout) as display:
    for number in range(20_000):
        display.show(Notice(text=f"line {number}"))
print("and after")
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert b"line 0" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_lines_replace_what_the_stream_cannot_hold() -> None:
    raw = io.BytesIO()
    with Lines(io.TextIOWrapper(raw, encoding="ascii")) as display:
        display.show(Notice(time=0.0, text="α ± half \ud800."))
    assert raw.getvalue() == b"00:00:00 ? ? half .\n"


def test_importing_the_dashboard_imports_neither_torch_nor_rich() -> None:
    program = """
import sys, launcher.dashboard
print([name for name in ("torch", "deepspeed", "rich") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
