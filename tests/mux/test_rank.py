"""What a rank does beside its work."""

import signal
import subprocess
import sys
import threading

import pytest

from mux.event import Notice
from mux.journal import EventReader
from mux.rank import StopFlag, Voice, main_thread
from tests.mux.test_event import room_for

# Its main thread is inside C, where no Python handler runs, until another thread lets it go.
WAITING = """
import sys, threading
from pathlib import Path
from mux.rank import StopFlag

stop, held = StopFlag(Path(sys.argv[1])), threading.Lock()
held.acquire()
stop.listen(lambda name: (print(name, flush=True), held.release()))
print("ready", flush=True)
held.acquire()
assert stop() and not Path(sys.argv[1]).exists()
"""


def test_what_cannot_be_told_is_told_later(tmp_path):
    path = tmp_path / "events.jsonl"
    voice, reader = Voice(path, "h", 3), EventReader(path)
    voice(Notice(text="one"))
    with room_for(path.stat().st_size + 10):
        voice(Notice(text="two"))
        voice(Notice(text="three"))
    assert [event.text for event in reader.read()] == ["one"]
    voice(Notice(text="four"))
    assert [(event.text, event.rank) for event in reader.read()] == [("two", 3), ("three", 3), ("four", 3)]


def test_where_the_main_thread_is():
    """The innermost line of the project; what it has called elsewhere does not count."""
    seen = []

    class Request:
        def exists(self) -> bool:
            asking = threading.Thread(target=lambda: seen.append(main_thread()))
            asking.start()
            asking.join()
            return False

    StopFlag(Request())()
    (place,) = seen
    file, function = place.split()
    assert file.startswith("rank.py:") and function == "__call__"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_is_heard_while_the_main_thread_waits(tmp_path, name):
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path / "stop")], text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[name])
    assert process.stdout.readline() == f"{name}\n"
    assert process.wait(10) == 0
