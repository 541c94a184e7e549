"""Why a job failed, from what was seen of its end."""

from pathlib import Path

import pytest

from launcher.failure import Ended, of_end, of_silence, of_stall, signal_name
from mux.event import RankFailed
from mux.run import RunDirectory

RUN = RunDirectory(Path("/runs/x"))
PEER = "RuntimeError: [gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:1"
SSH = "ssh: connect to host b port 22: No route to host"


def said(rank: int, error: str, kind: str = "error") -> RankFailed:
    return RankFailed(host="a" if rank < 2 else "b", rank=rank, error=error, kind=kind)


@pytest.mark.parametrize(("failed", "mute", "host", "remote", "code", "kind", "by", "words"), [
    ([said(0, PEER), said(1, "it is not text", "input")], {}, "a", False, 1, "input", 1, "it is not text"),
    ([said(0, PEER), said(1, "nan at step 3", "loss")], {("b", 2): -9}, "a", False, 1, "loss", 1, "nan at step 3"),
    ([said(0, PEER), said(1, "OutOfMemoryError: x")], {("a", 0): -6}, "a", False, 1, "rank", 1, "OutOfMemoryError"),
    ([said(0, PEER)], {("a", 1): -9}, "a", False, 137, "killed", 1, "without a word (SIGKILL)"),
    ([], {("b", 2): -9, ("a", 1): -6}, "a", False, 134, "killed", 2, "rank 2 on b ended without a word (SIGKILL)"),
    ([said(0, PEER), said(1, PEER)], {}, "a", False, 1, "rank", 0, "closed by peer"),
    ([said(0, PEER)], {("b", 2): 1}, "b", True, 255, "host", None, f"b is out of reach: {SSH}"),
    ([said(0, PEER)], {("b", 2): 3}, "b", True, 3, "killed", 2, "rank 2 on b ended without a word (exit code 3)"),
    ([], {}, "a", False, -9, "host", None, "the process that holds the ranks on a was killed (SIGKILL)"),
    ([], {}, "a", False, 0, "processes", None, "ended without finishing their stages"),
    ([], {}, "a", False, 3, "processes", None, f"exit code 3: {SSH}"),
])
def test_judgement(failed, mute, host, remote, code, kind, by, words) -> None:
    failure = of_end(Ended(RUN, failed, mute, host, remote, code, SSH))
    assert (failure.kind, failure.rank) == (kind, by) and words in failure.text
    assert failure.code == (next(iter(mute.values())) if kind == "killed" else code)  # the process's own, where known
    if by is not None:
        place = "a" if by < 2 else "b"
        assert failure.host == place and str(RUN.rank_log(place, by)) in failure.text
    told = failure.event(7)
    assert (told.job, told.kind, told.on, told.by) == (7, kind, failure.host, by)


def test_the_most_silent_rank_is_named_first() -> None:
    failure = of_silence({("a", 1): 31.0, ("b", 3): 33.4, ("b", 2): 33.0}, {("b", 3): "loop.py:7 agree"}, RUN)
    assert (failure.kind, failure.host, failure.rank) == ("silent", "b", 3)
    assert failure.text == ("ranks 2, 3 on b have sent no heartbeat for 33 s, nor have ranks on a; last seen at "
                            f"loop.py:7 agree (see {RUN.rank_log('b', 3)})")


def test_those_that_stand_elsewhere_are_named_first() -> None:
    places = {("a", rank): "loop.py:137 agree" for rank in range(7)} | {("b", 7): "batches.py:40 take"}
    failure = of_stall(1800.4, places, RUN)
    assert (failure.kind, failure.host, failure.rank) == ("stalled", "b", 7)
    assert "for 1800 s: rank 7 on b is at batches.py:40 take, ranks 0, 1, 2, 3, 4, 5, 6 on a are at" in failure.text


@pytest.mark.parametrize("places", [{}, {("a", 0): "x.py:1 f", ("a", 1): "x.py:1 f"}])
def test_a_stall_that_no_rank_stands_out_in(places) -> None:
    failure = of_stall(60, places, RUN)
    assert (failure.host, failure.rank) == (None, None) and str(RUN.logs) in failure.text


@pytest.mark.parametrize(("code", "name"), [
    (-9, "SIGKILL"), (255, "exit code 255"), (137, "SIGKILL"), (143, "SIGTERM"), (1, "exit code 1")])
def test_names_of_codes(code, name) -> None:
    assert signal_name(code) == name
