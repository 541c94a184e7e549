"""What ranks have said that no launcher has heard."""

import pytest

from launcher import last_words
from mux import journal
from mux.event import Event, Heartbeat, Notice, RankEnded, RunStarted, StepDone
from mux.journal import EventWriter
from mux.run import RunDirectory


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create()
    launcher_says(made, start())
    return made


def start() -> RunStarted:
    return RunStarted(name="x", directory="/x", model="m", N=2, stages=[], hosts=[])


def step(number: int, time: float) -> StepDone:
    return StepDone(stage="pretrain", step=number, steps=9, loss=1.0, time=time)


def beat(time: float) -> Heartbeat:
    return Heartbeat(stage="pretrain", step=1, memory_bytes=1, time=time)


def launcher_says(run: RunDirectory, *said: Event) -> None:
    writer = EventWriter(run.events)
    for event in said:
        writer.write(event)


def rank_says(run: RunDirectory, rank: int, *said: Event) -> None:
    writer = EventWriter(run.rank_events("a.b", rank), "a.b", rank)
    for event in said:
        writer.write(event)


def test_what_was_not_merged_is_heard_in_the_order_of_clocks(run):
    heard = [step(1, 1.0), step(2, 2.0)]
    rank_says(run, 0, *heard, beat(2.5), step(3, 3.0), step(4, 5.0))
    rank_says(run, 1, Notice(text="never heard", time=4.0))
    launcher_says(run, *heard, Notice(text="a launcher's", time=2.2))
    assert [(event.rank, event.time) for event in last_words.unheard(run)] == [(0, 3.0), (1, 4.0), (0, 5.0)]


def test_what_an_agent_says_of_a_rank_is_none_of_its_words(run):
    rank_says(run, 0, step(1, 1.0), step(2, 2.0))
    words = last_words.unheard(run)
    launcher_says(run, *words, RankEnded(host="a.b", rank=0, code=-9, time=3.0))
    assert len(words) == 2 and last_words.unheard(run) == []


def test_nothing_is_heard_twice(run):
    """However often a launcher is killed, also before it has put the files away."""
    rank_says(run, 0, step(1, 1.0), step(2, 2.0))
    for left in (2, 0, 0):
        words = last_words.unheard(run)
        assert len(words) == left
        launcher_says(run, *words)
    last_words.put_away(run)
    launcher_says(run, start())
    assert last_words.unheard(run) == [] and not list(run.logs.glob("*.events.jsonl"))


def test_a_rank_that_was_put_away_is_heard_from_its_new_beginning(run):
    rank_says(run, 0, step(1, 1.0))
    launcher_says(run, *last_words.unheard(run))
    last_words.put_away(run)
    launcher_says(run, start())
    rank_says(run, 0, step(1, 1.0))
    assert [event.time for event in last_words.unheard(run)] == [1.0]


def test_a_long_run_is_read_from_its_end(run, monkeypatch):
    """10,000 lines of which the last three were not heard."""
    said = [step(number, float(number)) for number in range(10_000)]
    rank_says(run, 0, *said)
    launcher_says(run, *said[:-3])
    decoded = []
    monkeypatch.setattr(journal, "decode", lambda line, real=journal.decode: decoded.append(line) or real(line))
    assert [event.step for event in last_words.unheard(run)] == [9997, 9998, 9999]
    assert len(decoded) < 10
