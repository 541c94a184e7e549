from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.dashboard import FAREWELLS, Lines, follow
from launcher.dashboard.__main__ import main
from mux.event import Event, Notice, RunFinished, RunStarted, RunStopped
from mux.journal import EventWriter, encode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def write(path: Path, events: list[Event]) -> None:
    with open(path, "a") as file:
        file.writelines(encode(event) + "\n" for event in events)


def watch(path: Path, **options: object) -> tuple[str, str]:
    """How following ended, and what was printed. It is left after 10,000 looks, so that nothing hangs."""
    stream, looks = io.StringIO(), itertools.count()
    given = {"stop": lambda: next(looks) > 10_000, "pause": 0.001, **options}
    ending = follow(path, Lines(stream), **given)  # type: ignore[arg-type]
    assert ending in FAREWELLS
    return ending, stream.getvalue()


def test_a_run_that_is_over_is_replayed(
    path: Path, story: list[Event], golden: Callable[[str, str], None]
) -> None:
    write(path, story)
    ending, text = watch(path)
    assert ending == "finished"
    golden("lines.txt", text)


def test_a_run_is_followed_to_its_end(
    path: Path, story: list[Event], golden: Callable[[str, str], None]
) -> None:
    def append() -> None:
        writer = EventWriter(path)  # the file is not there yet when following begins
        for event in story:
            writer.write(event)
        writer.close()

    appending = threading.Timer(0.05, append)
    appending.start()
    ending, text = watch(path)
    appending.join()
    assert ending == "finished"
    golden("lines.txt", text)


def test_an_end_that_was_followed_by_another_start_is_no_end(path: Path, story: list[Event]) -> None:
    assert isinstance(story[0], RunStarted)
    write(path, [*story[:10], RunStopped(reason="SIGTERM"), *story, RunStopped(reason="again")])
    ending, text = watch(path)
    assert ending == "stopped" and text.count("run stopped") == 2 and "stopped: again" in text


def test_a_run_without_an_end_whose_launcher_is_gone_is_lost(path: Path, story: list[Event]) -> None:
    write(path, story[:20])
    ending, text = watch(path, alive=lambda: False)
    assert ending == "lost" and len(text.splitlines()) > 3 and "killed" in FAREWELLS["lost"]


def test_the_last_words_of_a_launcher_are_read(path: Path, story: list[Event]) -> None:
    """It may end between two looks: what it wrote before it was gone counts."""
    write(path, story[:20])

    def alive() -> bool:
        write(path, [RunFinished(seconds=1.0)])
        return False

    assert watch(path, alive=alive)[0] == "finished"


def test_no_events_at_all(path: Path) -> None:
    assert watch(path, alive=lambda: False) == ("lost", "")
    assert watch(path, until_end=False) == ("replayed", "")


def test_leaving_touches_nothing(path: Path, story: list[Event]) -> None:
    write(path, story[:20])
    before = path.read_bytes(), sorted(path.parent.iterdir())
    looks = iter([False, False, True])
    assert watch(path, stop=lambda: next(looks))[0] == "left"

    def interrupt() -> bool:
        raise KeyboardInterrupt

    assert watch(path, stop=interrupt)[0] == "left"
    assert watch(path, alive=interrupt)[0] == "left"
    assert "goes on" in FAREWELLS["left"]
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before


def test_replayed_heartbeats_have_the_age_they_had_and_new_ones_that_of_now(
    path: Path, story: list[Event]
) -> None:
    seen: list[float | None] = []

    class Recorder(Lines):
        def show(self, event: Event, seen_at: float | None = None) -> None:
            seen.append(seen_at)

    write(path, story[:2])
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            write(path, [Notice(text="new")])
        return looks == 2

    follow(path, Recorder(None), stop=stop, pause=0.001)
    assert seen == [story[0].time, story[1].time, None]


def test_a_picture_of_a_run(
    path: Path, story: list[Event], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(path, story)
    target = tmp_path / "dashboard.svg"
    assert main([str(tmp_path), str(target), "0.5"]) == 0
    svg = target.read_text()
    assert svg.startswith("<svg") and "instances/s" in svg and "mux-launch" in svg
    assert "http://" not in svg.split(">", 1)[1]  # it fetches nothing
    assert main([str(tmp_path), str(target), "0.5"]) == 0 and target.read_text() == svg
    assert main([]) == 2 and "RUN_DIRECTORY" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no events"):
        main([str(tmp_path / "nowhere"), str(target)])
