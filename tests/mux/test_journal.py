"""Files of events that are read from their end, or for a few kinds alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mux import journal
from mux.event import CheckpointSaved, Heartbeat, Notice, RunFinished
from mux.journal import EventReader, EventWriter, backwards, encode


@given(st.lists(st.text(max_size=40), max_size=12), st.integers(1, 400), st.text(max_size=20))
def test_backwards_is_forwards_reversed(tmp_path_factory, texts, block, torn):
    """Whatever the size of a block is, and whatever a killed writer has left behind the last newline."""
    path: Path = tmp_path_factory.mktemp("log") / "events.jsonl"
    path.write_bytes("".join(f"{encode(Notice(text=text))}\n" for text in texts).encode() + torn.encode().strip())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "BLOCK", block)
        assert list(backwards(path)) == list(EventReader(path).read())[::-1]


def test_a_file_without_events(tmp_path):
    assert list(backwards(tmp_path / "none")) == []
    (tmp_path / "empty").touch()
    assert list(backwards(tmp_path / "empty")) == []
    (tmp_path / "torn").write_text(encode(RunFinished(seconds=1.0)))
    assert list(backwards(tmp_path / "torn")) == [], "its writer was killed before it was whole"


def test_other_kinds_are_not_even_decoded(tmp_path, monkeypatch):
    writer = EventWriter(tmp_path / "events.jsonl")
    saved = CheckpointSaved(stage="pretrain", step=3, path="x", bytes=1, seconds=1.0, time=2.5)
    for event in (Heartbeat(stage="pretrain", step=1, memory_bytes=1), saved, Notice(text="CheckpointSaved")):
        writer.write(event)
    decoded = []
    monkeypatch.setattr(journal, "decode", lambda line, real=journal.decode: decoded.append(line) or real(line))
    assert list(EventReader(tmp_path / "events.jsonl").only(CheckpointSaved)) == [saved]
    assert len(decoded) == 2 and not any("Heartbeat" in line for line in decoded)


def test_logs_of_older_versions_are_read():
    """A key that RankFailed once had."""
    event = journal.decode('{"v": 1, "time": 1.0, "event": "RankFailed", "host": "a", "rank": 0, "error": "x", '
                           '"input_at_fault": true, "kind": "input"}')
    assert (event.error, event.kind) == ("x", "input")
