from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from mux.data import cache
from mux.data.cache import built_once


class Stop(Exception):
    pass


def quiet(what: str, done: int, total: int | None, unit: str) -> None:
    pass


def write(text: str):
    return lambda folder: (folder / "file").write_text(text)


def left(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_folder_is_built_once(tmp_path):
    folder = tmp_path / "deep" / "folder"
    assert built_once(folder, write("first"), True, quiet, "it") == folder
    built_once(folder, write("second"), True, quiet, "it")
    assert (folder / "file").read_text() == "first" and left(folder.parent) == ["folder"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_failure_leaves_nothing_and_the_next_build_works(tmp_path):
    def fails(folder: Path) -> None:
        write("half")(folder)
        raise Stop

    with pytest.raises(Stop):
        built_once(tmp_path / "folder", fails, True, quiet, "it")
    assert left(tmp_path) == []
    built_once(tmp_path / "folder", write("whole"), True, quiet, "it")
    assert left(tmp_path) == ["folder"]


def test_of_two_builders_the_first_to_finish_wins(tmp_path):
    """The second is still at work when the first finishes; it must neither fail nor replace anything."""
    folder = tmp_path / "folder"

    def slower(part: Path) -> None:
        write("slower")(part)
        built_once(folder, write("faster"), True, quiet, "it")

    assert built_once(folder, slower, True, quiet, "it") == folder
    assert (folder / "file").read_text() == "faster" and left(tmp_path) == ["folder"]


def test_who_does_not_build_waits_for_the_whole_folder(tmp_path):
    folder, waited = tmp_path / "folder", threading.Event()
    seen: list[str] = []

    def progress(what: str, done: int, total: int | None, unit: str) -> None:
        assert (what, done, total, unit) == ("waiting for the thing", 0, None, "")
        waited.set()

    def wait() -> None:
        seen.append((built_once(folder, write("not me"), False, progress, "the thing") / "file").read_text())

    thread = threading.Thread(target=wait)
    thread.start()
    assert waited.wait(10)
    built_once(folder, write("whole"), True, quiet, "it")
    thread.join(10)
    assert seen == ["whole"]


def test_a_stop_ends_the_waiting(tmp_path):
    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        built_once(tmp_path / "never", write(""), False, stop, "it")


def test_parts_of_killed_builders_are_removed_and_those_of_living_ones_kept(tmp_path):
    folder, nobody = tmp_path / "folder", 2**22 + 1  # above the largest process id
    mine = cache._prefix(folder)
    names = {"dead": f"{mine}{nobody}.a.part", "young": f"{mine}{nobody}.b.part", "alive": f"{mine}1.a.part"}
    old = time.time() - 2 * cache.ABANDONED_SECONDS
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for path in (names["dead"], names["dead"] + "/file", names["alive"], names["alive"] + "/file"):
        os.utime(tmp_path / path, (old, old))
    built_once(folder, write("whole"), True, quiet, "it")
    assert left(tmp_path) == sorted([names["alive"], names["young"], "folder"])
