"""Events survive the way to disk and back, and old readers survive new writers."""

import errno
import json
import resource
from contextlib import contextmanager

import pytest

from mux.event import Event, Notice, StepDone
from mux.journal import EventReader, EventWriter, decode, encode


def test_every_kind_comes_back(tmp_path):
    step = StepDone(stage="pretrain", step=3, steps=8, loss=1.5, host="a", rank=1, time=1.25)
    assert decode(encode(step)) == step
    assert {"RunStarted", "StepDone", "Heartbeat", "RunFinished"} <= set(Event.kinds)


def test_what_json_has_no_word_for_is_null():
    line = encode(StepDone(stage="s", step=1, steps=1, loss=float("nan"), grad_norm=float("inf")))
    assert json.loads(line)["loss"] is None and json.loads(line)["grad_norm"] is None


def test_unknown_keys_kinds_versions_and_torn_lines_are_passed_over():
    line = json.loads(encode(Notice(text="x")))
    assert decode(json.dumps(line | {"colour": "red"})).text == "x"
    for bad in (json.dumps(line | {"event": "Later"}), json.dumps(line | {"v": 2}), "{", "[]", "null", ""):
        assert decode(bad) is None


def test_a_reader_takes_whole_lines_only(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert list(reader.read()) == []
    writer = EventWriter(path, host="h", rank=2)
    writer.write(Notice(text="one\ntwo"))
    with open(path, "a") as file:
        file.write('{"v": 1, "time": 1, "event": "Notice", ')
        file.flush()
        (first,) = reader.read()
        assert (first.text, first.host, first.rank) == ("one\ntwo", "h", 2)
        assert list(reader.read()) == []
        file.write('"text": "three"}\n')
    assert [event.text for event in reader.read()] == ["three"]


@contextmanager
def room_for(size: int):
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_found_no_room_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    writer, reader = EventWriter(path), EventReader(path)
    writer.write(Notice(text="one"))
    with room_for(path.stat().st_size + 10):
        with pytest.raises(OSError, match="No space left"):
            writer.write(Notice(text="lost"))
        with pytest.raises(OSError) as refused:
            writer.write(Notice(text="lost, too"))
        assert refused.value.errno == errno.EFBIG
    writer.write(Notice(text="two"))
    assert [event.text for event in reader.read()] == ["one", "two"]
