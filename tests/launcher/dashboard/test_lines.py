from __future__ import annotations

from collections.abc import Callable

from launcher.dashboard import PlainLines, State, fold, plain
from mux.event import (
    Event,
    Heartbeat,
    JobEnded,
    Notice,
    Progress,
    RankStarted,
    RunFailed,
    StageDone,
    StepDone,
)

START = 1_800_000_000.0


def line(event: Event) -> str | None:
    return plain(fold(State(), event), event)


def step(number: int, time: float, steps: int = 100) -> StepDone:
    return StepDone(time=START + time, stage="pretrain", step=number, steps=steps, loss=4.1234)


def printed(*events: Event) -> list[str]:
    lines = PlainLines()
    return [line.split(" ", 1)[1] for event in events for line in lines.lines(event)]


def test_a_whole_run(story: list[Event], golden: Callable[[str, str], None]) -> None:
    lines = PlainLines()
    golden("lines.txt", "".join(f"{line}\n" for event in story for line in lines.lines(event)))


def test_the_line_of_a_step() -> None:
    event = StepDone(
        time=START,
        stage="pretrain",
        step=120,
        steps=800,
        loss=4.1234,
        accuracy=0.312,
        learning_rate=9.1e-4,
        grad_norm=1.2,
        instances_per_second=1204.3,
        seconds_compute=0.05,
    )
    assert (
        line(event) == "08:00:00 pretrain 120/800 loss 4.12 acc .31 lr 9.1e-04 |g| 1.20 1,204 inst/s eta 0:34"
    )


def test_noise_has_no_line() -> None:
    assert line(Heartbeat(host="a", rank=0, stage=None, step=0, memory_bytes=0)) is None
    assert line(RankStarted(host="a", rank=0, pid=1, device="cpu", job=0)) is None
    assert line(JobEnded(job=0, code=0)) is None


def test_faults_say_so_and_cannot_steer_the_terminal() -> None:
    assert line(JobEnded(time=START, job=3, code=-9)) == "08:00:00 error: job 3 was killed by signal 9"
    assert (
        line(RunFailed(time=START, code=1, reason="a\n\x1b[2Jb"))
        == "08:00:00 error: run failed (code 1): a b"
    )
    assert line(Notice(time=START, text="[b]", level="warning", stage="s")) == "08:00:00 warning: s: [b]"


def test_steps_are_thinned_out_by_event_time_and_the_last_is_printed() -> None:
    lines = printed(*(step(number, number / 10) for number in range(1, 101)))
    assert [text.split()[1] for text in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]


def test_the_step_before_another_line_is_printed() -> None:
    done = StageDone(time=START + 2, stage="pretrain", result={}, seconds=2.0)
    lines = printed(step(1, 0), step(2, 0.1), step(3, 0.2), done)
    assert [text.split()[1] for text in lines] == ["1/100", "3/100", "done"]


def test_a_clock_that_went_back_does_not_hold_lines_back() -> None:
    assert len(printed(step(1, 1000), step(2, 1), step(3, 2), step(4, 3.5))) == 3


def test_progress_is_thinned_out_and_ends_where_it_began() -> None:
    def progress(what: str, done: int, time: float) -> Progress:
        return Progress(time=START + time, stage="finetune", what=what, done=done, total=10, unit="rows")

    lines = printed(
        *(progress("tokenising", done, done / 2) for done in range(11)),
        progress("short", 0, 5.1),
        progress("short", 10, 5.2),
    )
    assert lines == [
        "finetune tokenising 0/10 rows",
        "finetune tokenising 4/10 rows eta 0:03",
        "finetune tokenising 8/10 rows eta 0:01",
        "finetune tokenising 10/10 rows",
    ]
