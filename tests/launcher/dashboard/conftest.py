"""A run as its events tell it, and golden texts to compare with."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mux.event import (
    CheckpointSaved,
    Evaluated,
    Event,
    Heartbeat,
    JobEnded,
    JobStarted,
    ModelSaved,
    Notice,
    Progress,
    RankStarted,
    RunFinished,
    RunStarted,
    StageDone,
    StageStarted,
    StepDone,
)

START = 1_800_000_000.0  # 08:00:00 UTC
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is drawn depends on nothing around the tests. Local times are those of Greenwich."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a file of golden/; MUX_UPDATE_GOLDEN=1 writes the file instead."""

    def compare(name: str, text: str) -> None:
        if os.environ.get("MUX_UPDATE_GOLDEN"):
            (GOLDEN / name).write_text(text, encoding="utf-8")
        assert text == (GOLDEN / name).read_text(encoding="utf-8")

    return compare


@pytest.fixture
def story() -> list[Event]:
    return list(tell())


def tell() -> Iterator[Event]:
    """A whole run of two training stages and an ensemble on one host with two ranks."""
    stages = [
        {"id": id, "kind": id, "steps": steps, "done": False}
        for id, steps in (("retrieval", 200), ("pretrain", 400), ("finetune", None), ("ensemble", None))
    ]
    hosts = [{"name": "localhost", "ranks": [0, 1]}]
    yield RunStarted(
        time=START,
        name="quickstart",
        directory="/runs/quickstart",
        model="bert TINY, N = 2",
        N=2,
        stages=stages,
        hosts=hosts,
    )
    yield JobStarted(time=START + 0.1, job=0, stages=["retrieval", "pretrain"], hosts=hosts)
    for rank in (0, 1):
        yield RankStarted(time=START + 5, host="localhost", rank=rank, pid=4000 + rank, device="cpu", job=0)
    for done in range(0, 2001, 500):
        yield Progress(
            time=START + 6 + done / 500,
            host="localhost",
            rank=0,
            stage=None,
            what="tokenising",
            done=done,
            total=2000,
            unit="documents",
        )
    now = START + 12
    for id, steps, last in (("retrieval", 200, 0.2), ("pretrain", 400, 4.9)):
        yield from training(id, steps, last, now)
        now += steps * 0.05 + 1
    yield JobEnded(time=now, job=0, code=0)
    yield JobStarted(
        time=now, job=1, stages=["finetune", "ensemble"], hosts=[{"name": "localhost", "ranks": [0]}]
    )
    yield StageStarted(time=now + 0.5, host="localhost", rank=0, stage="ensemble", kind="ensemble")
    for copies, mean in ((1, 0.431), (2, 0.447)):
        yield Evaluated(
            time=now + copies,
            host="localhost",
            rank=0,
            stage="ensemble",
            task="topic",
            metric="accuracy",
            mean=mean,
            std=0.008,
            majority=0.212,
            copies=copies,
        )
    yield RunFinished(time=now + 3, seconds=now + 3 - START)


def training(stage: str, steps: int, last: float, start: float) -> Iterator[Event]:
    yield StageStarted(time=start, host="localhost", rank=0, stage=stage, kind=stage, steps=steps)
    for step in range(10, steps + 1, 10):
        now = start + step * 0.05
        loss = last + (8 - last) * math.exp(-5 * step / steps)
        yield StepDone(
            time=now,
            host="localhost",
            rank=0,
            stage=stage,
            step=step,
            steps=steps,
            loss=loss,
            task_loss=loss,
            retrieval_loss=0.21,
            accuracy=step / steps / 2,
            learning_rate=1e-3 * (1 - step / steps),
            grad_norm=1.25,
            instances_per_second=1204.4,
            groups_per_second=602.2,
            tokens_per_second=77_081.6,
            seconds_data=0.002,
            seconds_compute=0.046,
            seconds_save=0.002,
        )
        if step % 50 == 0:
            for rank in (0, 1):
                yield Heartbeat(
                    time=now,
                    host="localhost",
                    rank=rank,
                    stage=stage,
                    step=step,
                    memory_bytes=(700 + rank) * 2**20,
                )
        if step % 100 == 0:
            yield CheckpointSaved(
                time=now,
                host="localhost",
                rank=0,
                stage=stage,
                step=step,
                path="x",
                bytes=54_000_000,
                seconds=0.31,
            )
    now = start + steps * 0.05
    yield ModelSaved(time=now, host="localhost", rank=0, stage=stage, path=f"/runs/quickstart/{stage}/model")
    yield Notice(time=now, text="loss is fine", level="warning", stage=stage)
    yield StageDone(
        time=now,
        host="localhost",
        rank=0,
        stage=stage,
        seconds=now - start,
        result={"loss": last, "accuracy": 0.5, "steps": steps},
    )
