"""The one training loop: retrieval, pretrain and finetune differ by the values handed to it."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mux import manifest as manifests
from mux.event import CheckpointSaved, Event, RolledBack, StepDone
from mux.journal import decode, encode
from mux.model.muxed import placed
from mux.model.parts import part
from mux.trace import Curve
from mux.train.checkpoint import Checkpoints, Saved
from mux.train.engine import Engine, Ranks, Step
from mux.train.health import Health, Limits, LossError
from mux.train.interval import Interval
from mux.train.objective import Batch, Objective
from mux.train.profile import Profile
from mux.train.schedule import Schedule


class Stopped(Exception):
    """A stop was asked for; everything needed to go on is on disk."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass(frozen=True)
class Training:
    """One training, as values.

    `batches(index)` gives this rank's micro-batches, a pure function. Optimizer step i (counted from 0) takes those of
    index i, or of a later one after batches were passed over.
    """

    stage: str
    steps: int
    batches: Callable[[int], list[Batch]]
    objective: Objective
    schedule: Schedule
    groups: int  # per optimizer step, over all ranks
    N: int
    seed: int
    log_every: int
    save_every: int
    task: str | None = None
    name: str | None = None  # of a training of a fine-tuning stage, which has several
    limits: Limits = field(default_factory=Limits)
    profile: Callable[[], Profile] | None = None  # begins one; None: this rank's steps are not recorded


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch that is ready: counted, and, for a GPU, in memory that it copies from while the host goes on."""

    tensors: Batch
    counted: dict[str, int]  # items of each part of the objective
    tokens: int  # without padding


@dataclass(frozen=True)
class Position:
    """Where a training stands: at its beginning, where a checkpoint left it, or at its end."""

    step: int = 0
    last: StepDone | None = None
    curve: Curve = field(default_factory=Curve)
    interval: dict[str, Any] | None = None  # the sums since the last StepDone, as Interval has them
    health: Health = field(default_factory=Health)
    shift: int = 0  # batches that were passed over: step i takes those of index i + shift
    rollbacks: int = 0

    def progress(self) -> dict[str, Any]:
        """As a checkpoint's manifest keeps it, beside its step."""
        return {"last": encode(self.last) if self.last else None, "curve": self.curve.to_json(),
                "interval": self.interval, "health": self.health.to_json(), "shift": self.shift,
                "rollbacks": self.rollbacks}

    @classmethod
    def from_progress(cls, step: int, progress: dict[str, Any]) -> Position:
        last = decode(progress["last"] or "")
        return cls(step, last if isinstance(last, StepDone) else None, Curve.from_json(progress["curve"]),
                   progress["interval"], Health.from_json(progress["health"]), progress["shift"],
                   progress["rollbacks"])


def train(training: Training, engine: Engine, ranks: Ranks, checkpoints: Checkpoints, position: Position,
          resume: Callable[[], Position], log: Callable[[Event], None], stop_requested: Callable[[], bool],
          moved: Callable[[int], None]) -> Position:
    """Run from `position` to the end, which is returned. `moved` is told each step as it begins.

    All ranks agree on a stop at the same step, save one checkpoint and raise Stopped. Where the loss is not what it
    should be (mux.train.health), no weights are saved: raises LossError, or, if the limits say so, goes back with
    `resume`, which loads the newest checkpoint, and on with other batches.
    """
    if training.limits.policy == "rollback" and not ranks.from_first(manifests.steps(checkpoints.folder)):
        save(checkpoints, engine, training, position, log)  # there is always a place to go back to
    with profiled(training) as stepped:
        while True:
            try:
                return run(training, engine, ranks, checkpoints, position, log, stop_requested, moved, stepped)
            except LossError as fault:
                position = rolled_back(training, ranks, checkpoints, position, fault, resume, log)


def rolled_back(training: Training, ranks: Ranks, checkpoints: Checkpoints, position: Position, fault: LossError,
                resume: Callable[[], Position], log: Callable[[Event], None]) -> Position:
    """Where to go on after a fault of the part that began at `position`: behind its batches. Raises LossError if the
    limits allow no way on.

    A pure function of the checkpoint and the faults since then: who is killed now comes here again.
    """
    checkpoints.wait()
    limits, name = training.limits, training.name or training.stage
    if limits.policy != "rollback" or position.rollbacks >= limits.rollbacks:
        steps = ranks.from_first(manifests.steps(checkpoints.folder))
        good = f"the last good checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint"
        tried = f", after {position.rollbacks} rollbacks" if position.rollbacks else ""
        raise LossError(f"{name}: {fault.reason}", fault.step, f"{tried}; {good}") from None
    back = resume()
    # Batches up to index fault.step - 1 + shift led here.
    position = replace(back, shift=position.shift + fault.step - back.step, rollbacks=position.rollbacks + 1)
    log(RolledBack(stage=training.stage, step=fault.step, to_step=back.step, reason=fault.reason,
                   rollbacks=position.rollbacks, training=training.name))
    return position


def run(training: Training, engine: Engine, ranks: Ranks, checkpoints: Checkpoints, position: Position,
        log: Callable[[Event], None], stop_requested: Callable[[], bool], moved: Callable[[int], None],
        stepped: Callable[[], None]) -> Position:
    """`train`, until a fault."""
    engine.model.train()
    interval = Interval.from_json(position.interval, ranks) if position.interval else Interval()
    first_step, shift = position.step, position.shift
    saved_at = first_step if first_step > 0 else None
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as loader:
        prepare = functools.partial(ready, training, ranks)
        ahead = loader.submit(prepare, first_step + shift) if first_step < training.steps else None
        for step in range(first_step, training.steps):
            waited = time.monotonic()
            assert ahead is not None
            moved(step)
            checkpoints.check()
            with part("data"):
                micro_batches = ahead.result()
            ahead = loader.submit(prepare, step + 1 + shift) if step + 1 < training.steps else None
            interval.data += time.monotonic() - waited

            with part("agreement"):
                stop, totals = agree(micro_batches, ranks, stop_requested())
            if stop:
                if step != saved_at:
                    refuse_nan(engine, ranks, interval, step, saving=True)
                    position = replace(position, interval=interval.to_json(ranks))
                    save(checkpoints, engine, training, position, log)
                checkpoints.wait()
                raise Stopped(step)
            outcome = optimizer_step(training, engine, ranks, micro_batches, totals, step, shift, interval)

            done = step + 1
            position = replace(position, step=done, health=position.health.stepped(outcome.at_smallest_scale))
            judge(position.health.too_many_overflows(training.limits), done)
            saving = done % training.save_every == 0 or done == training.steps
            logging = done % training.log_every == 0 or done == training.steps
            if saving or logging:
                refuse_nan(engine, ranks, interval, done, saving)
            if logging:
                last = report(training, ranks, interval, outcome, done)
                log(last)
                judge(position.health.spike(last.loss, training.limits), done)
                position = replace(position, last=last, curve=position.curve.add(done, last.loss, last.accuracy),
                                   health=position.health.logged(last.loss))
                interval = Interval()
            if saving:
                position = replace(position, interval=interval.to_json(ranks))
                with part("save"):
                    interval.save += save(checkpoints, engine, training, position, log)
                saved_at = done
            stepped()
    checkpoints.wait()
    return position


@contextmanager
def profiled(training: Training) -> Iterator[Callable[[], None]]:
    """What is to be told that a step is over."""
    if training.profile is None:
        yield lambda: None
        return
    profile = training.profile()
    try:
        yield profile.step
    finally:
        profile.close()


def ready(training: Training, ranks: Ranks, index: int) -> list[MicroBatch]:
    """This rank's micro-batches of an index. In a thread of its own, while the device works on the ones before."""
    on_gpu = ranks.device.type == "cuda"
    return [MicroBatch(tensors={name: tensor.pin_memory() if on_gpu else tensor for name, tensor in batch.items()},
                       counted=training.objective.counts(batch), tokens=int(batch["attention_mask"].sum()))
            for batch in training.batches(index)]


def agree(micro_batches: list[MicroBatch], ranks: Ranks, stop: bool) -> tuple[bool, dict[str, float]]:
    """One small sum over all ranks: whether anyone was asked to stop, and the items of each part in the whole step."""
    names = list(micro_batches[0].counted)
    stops, *totals = ranks.sum([float(stop), *(sum(one.counted[name] for one in micro_batches) for name in names)])
    return stops > 0, dict(zip(names, totals, strict=True))


def optimizer_step(training: Training, engine: Engine, ranks: Ranks, micro_batches: list[MicroBatch],
                   totals: dict[str, float], step: int, shift: int, interval: Interval) -> Step:
    """Forward and backward of every micro-batch, then one update. Every item of the step weighs the same."""
    outcome = None
    for first_group, one in zip(first_groups(training, ranks, len(micro_batches)), micro_batches, strict=True):
        # Dropout, the same whichever rank has the groups.
        torch.manual_seed(seed_of(training.seed, training.stage, training.task, step + shift, first_group))
        interval.tokens += one.tokens
        with part("rest of the forward pass"):
            batch = placed(engine.model, one.tensors, ranks.device)
            parts = training.objective(engine.forward, batch, one.counted)
        loss = torch.zeros((), device=ranks.device)
        for name, answer in parts.items():
            share = answer.count / max(totals[name], 1.0) * ranks.size * engine.accumulation
            loss = loss + training.objective.weights[name] * share * answer.loss
            interval.add(name, answer.loss.detach().float() * answer.count, answer.correct)
        with part("backward pass"):
            engine.backward(loss)
        with part("optimizer"):
            outcome = engine.step(training.schedule(step))
    interval.add_step(totals)
    assert outcome is not None
    return outcome


def first_groups(training: Training, ranks: Ranks, micro_batches: int) -> range:
    """Of each of this rank's micro-batches: which of the step's groups is its first."""
    share = training.groups // ranks.size
    return range(ranks.rank * share, (ranks.rank + 1) * share, share // micro_batches)


def judge(problem: str | None, step: int) -> None:
    if problem:
        raise LossError(problem, step)


def refuse_nan(engine: Engine, ranks: Ranks, interval: Interval, step: int, saving: bool) -> None:
    """Raise LossError on all ranks if a loss of the interval was not finite on any of them, or, before a checkpoint,
    a weight.

    With fp16 losses may be so, until the loss scaler has skipped enough steps; weights never.
    """
    total, broken = ranks.sum([sum(float(loss) for loss in interval.loss.values()), saving and not engine.finite()])
    if not math.isfinite(total) and not engine.fp16:
        raise LossError(f"the loss is not finite ({total})", step)
    judge("there are weights that are not finite" if broken else None, step)


def report(training: Training, ranks: Ranks, interval: Interval, outcome: Step, done: int) -> StepDone:
    """Sum the interval over all ranks; all ranks must call it."""
    names = list(training.objective.weights)
    sums = ranks.sum([*(float(interval.loss[name]) for name in names),
                      *(float(interval.correct[name]) for name in names), interval.tokens])
    losses = {name: value / max(interval.count[name], 1.0) for name, value in zip(names, sums, strict=False)}
    accuracy = sums[len(names)] / max(interval.count[names[0]], 1.0)
    seconds = time.monotonic() - interval.started
    per_second = interval.steps / (seconds - interval.save)
    return StepDone(
        stage=training.stage, step=done, steps=training.steps, task=training.task, training=training.name,
        loss=sum(training.objective.weights[name] * losses[name] for name in names),
        task_loss=losses.get("task"), retrieval_loss=losses.get("retrieval"),
        teacher_loss=losses.get("teacher"),
        accuracy=accuracy if math.isfinite(accuracy) else None,
        learning_rate=training.schedule(done - 1), loss_scale=outcome.loss_scale,
        grad_norm=None if outcome.grad_norm is None else float(outcome.grad_norm),
        skipped=outcome.skipped, groups_per_second=training.groups * per_second,
        instances_per_second=training.groups * training.N * per_second,
        tokens_per_second=sums[-1] / interval.steps * per_second, seconds_data=interval.data / interval.steps,
        seconds_compute=(seconds - interval.data - interval.save) / interval.steps,
        seconds_save=interval.save / interval.steps)


def save(checkpoints: Checkpoints, engine: Engine, training: Training, position: Position,
         log: Callable[[Event], None]) -> float:
    """Have a checkpoint written; the seconds for which training stood still. It is told when it is on disk."""

    def committed(saved: Saved) -> None:
        log(CheckpointSaved(stage=training.stage, training=training.name, step=position.step, path=str(saved.path),
                            bytes=saved.bytes, seconds=saved.seconds, stalled=saved.stalled))

    instances = position.step * training.groups * training.N
    return checkpoints.save(engine, position.step, {"instances_seen": instances} | position.progress(), committed)


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that is a pure function of its parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
