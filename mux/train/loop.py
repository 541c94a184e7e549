"""The one training loop: retrieval, pretrain and finetune differ by the values handed to it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mux.event import CheckpointSaved, Event, StepDone, decode, encode
from mux.trace import Curve
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine, Ranks, Step
from mux.train.objective import Batch, Objective
from mux.train.schedule import Schedule


class Stopped(Exception):
    """A stop was asked for; everything needed to go on is on disk."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass(frozen=True)
class Training:
    """One training, as values.

    `batches(step)` gives this rank's micro-batches of optimizer step `step` (counted from 0), a pure function.
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


@dataclass
class Interval:
    """What has been added up since the last StepDone."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    data: float = 0.0  # seconds
    save: float = 0.0
    tokens: int = 0
    loss: dict[str, torch.Tensor] = field(default_factory=dict)  # sums over this rank's items, on the device
    correct: dict[str, torch.Tensor] = field(default_factory=dict)
    count: dict[str, float] = field(default_factory=dict)  # over all ranks


@dataclass(frozen=True)
class Position:
    """Where a training stands: at its beginning, where a checkpoint left it, or at its end."""

    step: int = 0
    last: StepDone | None = None
    curve: Curve = field(default_factory=Curve)

    def progress(self) -> dict[str, Any]:
        """As a checkpoint's manifest keeps it, beside its step."""
        return {"last": encode(self.last) if self.last else None, "curve": self.curve.to_json()}

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Position:
        progress = manifest["progress"]
        last = decode(progress["last"] or "")
        return cls(manifest["step"], last if isinstance(last, StepDone) else None, Curve.from_json(progress["curve"]))


def train(training: Training, engine: Engine, ranks: Ranks, checkpoints: Checkpoints, position: Position,
          log: Callable[[Event], None], stop_requested: Callable[[], bool],
          moved: Callable[[int], None]) -> Position:
    """Run from `position` to the end, which is returned. `moved` is told each step as it begins.

    All ranks agree on a stop at the same step, save one checkpoint and raise Stopped. Raises FloatingPointError if the
    loss is not finite, before such weights are saved (fp16: only the loss scaler may skip steps for a while).
    """
    engine.model.train()
    interval, first_step = Interval(), position.step
    saved_at = first_step if first_step > 0 else None
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as loader:
        ahead = loader.submit(training.batches, first_step) if first_step < training.steps else None
        for step in range(first_step, training.steps):
            waited = time.monotonic()
            assert ahead is not None
            moved(step)
            micro_batches = ahead.result()
            ahead = loader.submit(training.batches, step + 1) if step + 1 < training.steps else None
            interval.data += time.monotonic() - waited

            stop, totals = agree(training.objective, micro_batches, ranks, stop_requested())
            if stop:
                if step != saved_at:
                    refuse_nan(training, engine, ranks, interval, step)
                    save(checkpoints, engine, training, position, log)
                raise Stopped(step)
            outcome = optimizer_step(training, engine, ranks, micro_batches, totals, step, interval)

            done = step + 1
            saving = done % training.save_every == 0 or done == training.steps
            logging = done % training.log_every == 0 or done == training.steps
            if saving or logging:
                refuse_nan(training, engine, ranks, interval, done)
            if logging:
                last = report(training, ranks, interval, outcome, done)
                log(last)
                position = replace(position, last=last, curve=position.curve.add(done, last.loss, last.accuracy))
                interval = Interval()
            position = replace(position, step=done)
            if saving:
                interval.save += save(checkpoints, engine, training, position, log)
                saved_at = done
    return position


def agree(objective: Objective, micro_batches: list[Batch], ranks: Ranks, stop: bool) -> tuple[bool, dict[str, float]]:
    """One small sum over all ranks: whether anyone was asked to stop, and the items of each part in the whole step."""
    counted = {name: 0 for name in objective.weights}
    for batch in micro_batches:
        for name, count in objective.counts(batch).items():
            counted[name] += count
    stops, *totals = ranks.sum([float(stop), *counted.values()])
    return stops > 0, dict(zip(counted, totals, strict=True))


def optimizer_step(training: Training, engine: Engine, ranks: Ranks, micro_batches: list[Batch],
                   totals: dict[str, float], step: int, interval: Interval) -> Step:
    """Forward and backward of every micro-batch, then one update. Every item of the step weighs the same."""
    torch.manual_seed(seed_of(training.seed, training.stage, training.task, step, ranks.rank))  # dropout
    outcome = None
    for batch in micro_batches:
        interval.tokens += int(batch["attention_mask"].sum())  # padding is no token
        batch = {name: tensor.to(ranks.device, non_blocking=True) for name, tensor in batch.items()}
        parts = training.objective(engine.forward, batch)
        loss = torch.zeros((), device=ranks.device)
        for name, part in parts.items():
            share = part.count / max(totals[name], 1.0) * ranks.size * engine.accumulation
            loss = loss + training.objective.weights[name] * share * part.loss
            add(interval.loss, name, part.loss.detach().float() * part.count)
            add(interval.correct, name, part.correct)
        engine.backward(loss)
        outcome = engine.step(training.schedule(step))
    for name, total in totals.items():
        interval.count[name] = interval.count.get(name, 0.0) + total
    interval.steps += 1
    assert outcome is not None
    return outcome


def refuse_nan(training: Training, engine: Engine, ranks: Ranks, interval: Interval, step: int) -> None:
    """Raise FloatingPointError on all ranks if a loss of the interval was not finite on any of them."""
    total = sum(ranks.sum(float(loss) for loss in interval.loss.values()))
    if not math.isfinite(total) and not engine.fp16:
        raise FloatingPointError(f"{training.stage}: the loss is not finite at step {step}: {total}")


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
        accuracy=accuracy if math.isfinite(accuracy) else None,
        learning_rate=training.schedule(done - 1), grad_norm=outcome.grad_norm, loss_scale=outcome.loss_scale,
        skipped=outcome.skipped, groups_per_second=training.groups * per_second,
        instances_per_second=training.groups * training.N * per_second,
        tokens_per_second=sums[-1] / interval.steps * per_second, seconds_data=interval.data / interval.steps,
        seconds_compute=(seconds - interval.data - interval.save) / interval.steps,
        seconds_save=interval.save / interval.steps)


def save(checkpoints: Checkpoints, engine: Engine, training: Training, position: Position,
         log: Callable[[Event], None]) -> float:
    """Commit a checkpoint and return the seconds it took."""
    instances = position.step * training.groups * training.N
    saved = checkpoints.save(engine, position.step, {"instances_seen": instances} | position.progress())
    log(CheckpointSaved(stage=training.stage, step=position.step, path=str(saved.path), bytes=saved.bytes,
                        seconds=saved.seconds))
    return saved.seconds


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that is a pure function of its parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def add(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
