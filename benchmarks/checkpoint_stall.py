"""Goal 10: what saving costs: the share of training time that checkpoints take, written in the background and in the
foreground.

Two ranks train a model on random tokens under ZeRO 1. Rounds without a save, with one in the background and with one
in the foreground (training waits for the commit) take turns, all of as many steps as a background save lasts. The
cost of a save is what its round took longer than the one without; medians over rounds; the share is of 1000 steps.
"""

from __future__ import annotations

import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.records import Record
from mux.manifest import Identity
from mux.model import MuxConfig, MuxForPreTraining
from mux.train.checkpoint import Checkpoints, Saved
from mux.train.engine import Engine, Ranks

RANKS, GROUPS = 2, 4  # groups per rank and step
SAVE_EVERY, GOAL = 1000, 1.0  # steps; per cent of their time
LENGTH, N = 128, 2
KINDS = ("none", "background", "foreground")


def measure(device: str, short: bool) -> Iterator[Record]:
    size, rounds = "SMALL", 3 if short else 7
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        agent = [sys.executable, "-m", "launcher.agent", f"--devices={','.join(map(str, range(RANKS)))}",
                 f"--port={port}", "--"]
        rank = [sys.executable, "-m", "benchmarks.checkpoint_stall", folder, size, str(rounds)]
        # The pipe stays open: it is how the agent knows that someone waits.
        with subprocess.Popen([*agent, *rank], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as ranks:
            if code := ranks.wait():
                raise SystemExit(f"the ranks ended with {code}")
        yield from records(size, json.loads((Path(folder) / "measured.json").read_text()))


def records(size: str, measured: dict) -> Iterator[Record]:
    medians = {kind: statistics.median(seconds) for kind, seconds in measured["seconds"].items()}
    step = medians["none"] / measured["steps"]
    conditions = (f"{RANKS} ranks, {GROUPS} groups each, {LENGTH} tokens, ZeRO 1, {step:.2f} s a step, "
                  f"{measured['bytes'] / 1e6:.0f} MB in {measured['lasting']:.1f} s, "
                  f"{len(measured['seconds']['none'])} rounds of {measured['steps']} steps")
    for kind in KINDS[1:]:
        goal = GOAL if kind == "background" else None
        for what, seconds in (("standing still", statistics.median(measured["stalls"][kind][1:])),
                              ("cost in all", medians[kind] - medians["none"])):
            yield Record("checkpoint_stall", f"{size}, saved in the {kind}, {what}", f"{SAVE_EVERY} steps",
                         round(100 * seconds / (SAVE_EVERY * step), 4), goal, unit="%", at_most=True,
                         conditions=conditions, more={"seconds": round(seconds, 4)})


def run_rank(folder: Path, size: str, rounds: int) -> None:
    """One rank: rounds of each kind in turn."""
    torch.set_num_threads(max(1, torch.get_num_threads() // RANKS))
    ranks = Ranks(600)
    torch.manual_seed(0)
    config = {"train_micro_batch_size_per_gpu": GROUPS, "gradient_accumulation_steps": 1,
              "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True}
    model = MuxForPreTraining(MuxConfig.from_size(size, num_instances=N))
    engine = Engine(model, config, weight_decay=0.01, betas=(0.9, 0.999), epsilon=1e-6)
    identity = Identity("benchmark", "benchmark", RANKS, 1, "fp32")
    checkpoints = Checkpoints(folder / "checkpoints", ranks, identity, keep=1)
    ids = torch.randint(5, 1000, (GROUPS * N, LENGTH))
    saved: list[Saved] = []

    def steps(count: int) -> float:
        ranks.barrier()
        started = time.monotonic()
        for _ in range(count):
            engine.backward(engine.forward(ids, labels=torch.where(ids < 150, ids, -100)).loss)
            engine.step(1e-4)
        ranks.barrier()
        return time.monotonic() - started

    def save(kind: str, number: int) -> None:
        if kind != "none":
            checkpoints.save(engine, number, {}, saved.append)
        if kind == "foreground":
            checkpoints.wait()

    steps(2)  # the optimizer's state is made in the first
    save("background", 0)
    each = steps(3) / 3
    checkpoints.wait()
    ranks.barrier()
    lasting = ranks.from_first(saved[-1].seconds if ranks.first else None)
    count = max(3, math.ceil(1.5 * lasting / each))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    stalls: dict[str, list[float]] = {kind: [0.0] for kind in KINDS}
    for number in range(1, rounds + 1):
        for kind in KINDS:
            ranks.barrier()
            started = time.monotonic()
            save(kind, 10 * number + KINDS.index(kind))
            stalls[kind].append(time.monotonic() - started)
            seconds[kind].append(stalls[kind][-1] + steps(count))
            checkpoints.wait()
    if ranks.first:
        (folder / "measured.json").write_text(json.dumps({
            "bytes": saved[-1].bytes,
            "steps": count, "lasting": lasting, "seconds": seconds, "stalls": stalls}))
    ranks.leave(0)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
