"""What saving costs: the share of training time that checkpoints take, written in the background and in the foreground.

    python benchmarks/checkpoint_stall.py --size SMALL --rounds 5

Two ranks train a model on random tokens under ZeRO 1. Rounds without a save, with one in the background and with one
in the foreground (training waits for the commit) take turns, all of as many steps as a background save lasts. The
cost of a save is what its round took longer than the one without; medians over rounds; the share is of 1000 steps.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mux.manifest import Identity
from mux.model import MuxConfig, MuxForPreTraining
from mux.train.checkpoint import Checkpoints, Saved
from mux.train.engine import Engine, Ranks

RANKS = 2
SAVE_EVERY = 1000
LENGTH, N = 128, 2
KINDS = ("none", "background", "foreground")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="SMALL")
    options.add_argument("--groups", type=int, default=4, help="per rank and step")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--folder", type=Path, help="the disk to write to; default: where temporary files are")
    options.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.rank_of:
        measure(chosen.rank_of, chosen.size, chosen.groups, chosen.rounds)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        agent = [sys.executable, "-m", "launcher.agent", f"--devices={','.join(map(str, range(RANKS)))}",
                 f"--port={port}", "--"]
        rank = [sys.executable, __file__, f"--rank-of={folder}", f"--size={chosen.size}", f"--groups={chosen.groups}",
                f"--rounds={chosen.rounds}"]
        # The pipe stays open: it is how the agent knows that someone waits.
        with subprocess.Popen([*agent, *rank], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as ranks:
            if code := ranks.wait():
                raise SystemExit(f"the ranks ended with {code}")
        show(json.loads((Path(folder) / "measured.json").read_text()))


def measure(folder: Path, size: str, groups: int, rounds: int) -> None:
    """One rank: rounds of each kind in turn."""
    torch.set_num_threads(max(1, torch.get_num_threads() // RANKS))
    ranks = Ranks(600)
    torch.manual_seed(0)
    config = {"train_micro_batch_size_per_gpu": groups, "gradient_accumulation_steps": 1,
              "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True}
    model = MuxForPreTraining(MuxConfig.from_size(size, num_instances=N))
    engine = Engine(model, config, weight_decay=0.01, betas=(0.9, 0.999), epsilon=1e-6)
    identity = Identity("benchmark", "benchmark", RANKS, 1, "fp32")
    checkpoints = Checkpoints(folder / "checkpoints", ranks, identity, keep=1)
    ids = torch.randint(5, 1000, (groups * N, LENGTH))
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
            "size": size, "parameters": sum(p.numel() for p in model.parameters()), "bytes": saved[-1].bytes,
            "steps": count, "lasting": lasting, "seconds": seconds, "stalls": stalls}))
    ranks.leave(0)


def show(measured: dict) -> None:
    medians = {kind: statistics.median(seconds) for kind, seconds in measured["seconds"].items()}
    step = medians["none"] / measured["steps"]
    console = Console()
    console.print(f"{measured['size']}, {measured['parameters'] / 1e6:.1f} M parameters, {RANKS} ranks; a step takes "
                  f"{step:.3f} s, a checkpoint of {measured['bytes'] / 1e6:.0f} MB {measured['lasting']:.1f} s in the "
                  f"background; medians of {len(measured['seconds']['none'])} rounds of {measured['steps']} steps")
    table = Table(box=None, pad_edge=False)
    for title in ("save", "stands still, s", f"of {SAVE_EVERY} steps", "costs in all, s", f"of {SAVE_EVERY} steps"):
        table.add_column(title, justify="left" if title == "save" else "right")
    for kind in KINDS[1:]:
        stall, cost = statistics.median(measured["stalls"][kind][1:]), medians[kind] - medians["none"]
        table.add_row(kind, f"{stall:.3f}", share(stall, step), f"{cost:.3f}", share(cost, step))
    console.print(table)


def share(seconds: float, step: float) -> str:
    return f"{100 * seconds / (SAVE_EVERY * step):.3f} %"


if __name__ == "__main__":
    main()
