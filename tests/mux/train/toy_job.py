"""Real trainings of a small network by real ranks, for tests of the loop, the checkpoints and the engine together.

`run(2, one, other)` starts two ranks, which do one training after the other, and gives back what was said in each. The
network is fed numbers, so that a batch can be poisoned.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

OPTIONS: dict[str, Any] = {
    "zero_stage": 1, "precision": "fp32", "dropout": 0.1, "micro_batch": 2, "steps": 12, "save_every": 5,
    "log_every": 1, "limits": {}, "learning_rate": 1e-2,
    "poisoned": [],  # batches that hold NaN
    "louder": [],  # ... that hold large numbers
    "edges": [],  # ... whose loss is a number and whose gradient is none
    "overflow": False,  # all of them overflow fp16
    "die_at": None,  # the step at which the training is dropped, and all but its checkpoints forgotten
    "stop_at": None,  # the step at which the last rank is asked to stop
}
GROUPS, N, FEATURES, CLASSES = 8, 2, 6, 5

Said = list[dict[str, Any]]


def job(folder: Path, **options: Any) -> dict[str, Any]:
    """A training with its checkpoints in `folder`."""
    assert options.keys() <= OPTIONS.keys()
    return OPTIONS | options | {"folder": str(folder)}


def run(ranks: int, *jobs: dict[str, Any]) -> list[Said]:
    """The events of each training as dicts, and as its last one {"end": ..., "weights": {name: numbers}}."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(
            [sys.executable, "-m", "tests.mux.train.toy_job", json.dumps(jobs)], cwd=Path(__file__).parents[3],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        printed = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, printed[0][1][-4000:]
    said: list[Said] = [[]]
    for line in printed[0][0].splitlines():
        if line.startswith("SAID"):
            said[-1].append(json.loads(line.removeprefix("SAID")))
            if "end" in said[-1][-1]:
                said.append([])
    assert len(said) == len(jobs) + 1
    return said[:-1]


def of(kind: str, said: Said) -> Said:
    return [event for event in said if event.get("event") == kind]


def losses(said: Said) -> dict[int, float]:
    """step -> loss, the last time the step was logged."""
    return {event["step"]: event["loss"] for event in of("StepDone", said)}


class Died(Exception):
    pass


def main() -> None:
    os.umask(0o077)
    from deepspeed.accelerator import get_accelerator

    from mux.train.engine import Ranks

    type(get_accelerator()).is_fp16_supported = lambda self: True  # tests only
    ranks = Ranks(60)
    for options in json.loads(sys.argv[1]):
        train_toy(ranks, SimpleNamespace(**options))
    ranks.leave(0)


def train_toy(ranks: Any, options: Any) -> None:
    import torch

    from mux.event import Event
    from mux.journal import encode
    from mux.manifest import Identity
    from mux.stages.training import resume
    from mux.train.checkpoint import Checkpoints
    from mux.train.engine import Engine
    from mux.train.health import Limits, LossError
    from mux.train.loop import Stopped, Training, train
    from mux.train.objective import CLASSES as ANSWERS
    from mux.train.objective import Objective
    from mux.train.schedule import Schedule

    def say(event: Event | dict[str, Any]) -> None:
        """A line at once: the thread that commits checkpoints speaks, too."""
        if ranks.first:
            sys.stdout.write("SAID" + (encode(event) if isinstance(event, Event) else json.dumps(event)) + "\n")
            sys.stdout.flush()

    def moved(step: int) -> None:
        where["step"] = step
        if step == options.die_at:
            raise Died

    where, end = {"step": 0}, "finished"
    torch.manual_seed(0)
    engine = Engine(network(options.dropout), config(options, ranks.size), weight_decay=0.1, betas=(0.9, 0.999),
                    epsilon=1e-6)
    identity = Identity("digest", "toy", ranks.size, options.zero_stage, options.precision)
    checkpoints = Checkpoints(Path(options.folder), ranks, identity, keep=3)
    context: Any = SimpleNamespace(ranks=ranks, say=say, progress_together=lambda *words: None)
    training = Training(
        stage="toy", steps=options.steps, batches=batches(options, ranks), objective=Objective({"task": 1.0}, ANSWERS),
        schedule=Schedule(options.learning_rate, 0, options.steps), groups=GROUPS, N=N, seed=1,
        log_every=options.log_every, save_every=options.save_every, limits=Limits(**options.limits))

    def again() -> Any:
        return resume(context, checkpoints, engine, "toy")

    try:
        train(training, engine, ranks, checkpoints, again(), again, say,
              lambda: options.stop_at == where["step"] and ranks.rank == ranks.size - 1, moved)
    except (LossError, Stopped, ValueError, Died) as error:
        end = f"{type(error).__name__}: {error}"
    checkpoints.wait()
    say({"end": end, "weights": {name: tensor.flatten().tolist() for name, tensor in engine.whole_weights().items()}})
    engine.close()
    ranks.barrier()


def config(options: Any, ranks: int) -> dict[str, Any]:
    precisions: dict[str, Any] = {
        "fp32": {}, "bf16": {"bf16": {"enabled": True}},
        "fp16": {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 20, "hysteresis": 1}}}
    return {"train_micro_batch_size_per_gpu": options.micro_batch, "gradient_clipping": 1.0,
            "gradient_accumulation_steps": GROUPS // ranks // options.micro_batch,
            "zero_optimization": {"stage": options.zero_stage}, "zero_allow_untested_optimizer": True,
            **precisions[options.precision]}


def batches(options: Any, ranks: Any) -> Callable[[int], list[dict[str, Any]]]:
    import torch

    from mux.data.batches import Share

    share = Share(ranks.rank, ranks.size, GROUPS, options.micro_batch)

    def batches(index: int) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(index % 5)  # an epoch is shorter than the training
        numbers = torch.randn(GROUPS * N, FEATURES, generator=generator)
        numbers *= float("nan") if index in options.poisoned else 1e4 if index in options.louder else 1.0
        numbers *= 0.0 if index in options.edges else 1.0
        if options.overflow:
            numbers *= 1e7
        labels = torch.randint(0, CLASSES, (GROUPS * N,), generator=generator)
        return [{"numbers": numbers[rows], "labels": labels[rows], "attention_mask": torch.ones_like(labels[rows])}
                for rows in (slice(groups.start * N, groups.stop * N) for groups in share)]

    return batches


def network(dropout: float) -> Any:
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(FEATURES, 17), torch.nn.Linear(17, CLASSES)
            self.dropout = torch.nn.Dropout(dropout)

        def forward(self, numbers: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            hidden = torch.nn.functional.gelu(self.first(numbers.to(self.first.weight.dtype)))
            logits = self.second(self.dropout(hidden))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            # Adds nothing; but where all numbers are zero, the slope of the root is infinite.
            loss = loss + 0.0 * (numbers.abs().sum() * self.first.weight.float().sum()).abs().sqrt()
            return SequenceClassifierOutput(loss=loss, logits=logits)

    return Toy()


if __name__ == "__main__":
    main()
