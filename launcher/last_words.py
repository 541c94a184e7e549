"""What ranks said after their launcher was killed: the next one finds it in their own files."""

from __future__ import annotations

from mux.event import Event, Heartbeat, RankEnded, RunStarted
from mux.journal import backwards
from mux.run import RunDirectory

Speaker = tuple[str | None, int | None]  # host and rank


def unheard(run: RunDirectory) -> list[Event]:
    """What is in the ranks' files and not in the run's, in the order of their clocks; read from the ends: a run that
    has lasted for days has said much. Heartbeats are no news any more."""
    speakers = {path: (newest.host, newest.rank) for path in run.logs.glob("*.events.jsonl")
                for newest in [next(backwards(path), None)] if newest is not None}
    merged = _last_merged(run, set(speakers.values()))
    said: list[Event] = []
    for path, speaker in speakers.items():
        for event in backwards(path):
            if event == merged.get(speaker):
                break
            if not isinstance(event, Heartbeat):
                said.append(event)
    return sorted(said, key=lambda event: event.time)


def put_away(run: RunDirectory) -> None:
    """Start over with no files of ranks. A rank that still lives, out of reach, has the old one open and goes on
    writing where nobody reads."""
    for path in run.logs.glob("*.events.jsonl"):
        path.unlink()


def _last_merged(run: RunDirectory, speakers: set[Speaker]) -> dict[Speaker, Event]:
    """What each has said last, as far as it was heard. No farther back than the last start: it found no files."""
    merged: dict[Speaker, Event] = {}
    for event in backwards(run.events):
        if isinstance(event, RunStarted) or len(merged) == len(speakers):
            break
        speaker = event.host, event.rank
        if speaker in speakers and not isinstance(event, RankEnded):  # that is said of a rank, by its agent
            merged.setdefault(speaker, event)
    return merged
