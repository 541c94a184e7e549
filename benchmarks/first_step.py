"""Goal 11: from the command to the first optimizer step, against bare torchrun with the same model and two ranks.

    python -m benchmarks first_step

Bare torchrun runs this file: it imports what a rank needs, joins the ranks, makes model and optimizer, does a step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.protocol import Ratio
from benchmarks.records import Record, record

ROOT = Path(__file__).parent.parent
RANKS, BARE, SECONDS, WITHIN = 2, "bare torchrun", 10.0, 1.2
VOCABULARY = 8_192
RECIPE = f"""name = "first_step"
model.size = "SMALL"
model.N = 2
tokenizer.source = "sentencepiece"
tokenizer.vocabulary = {VOCABULARY}
corpus.sources = ["builtin:wiki_leads"]
corpus.sequence_length = 128
cluster.processes = {RANKS}
[[stages]]
kind = "pretrain"
steps = 1
warmup_steps = 0
batch = 4
log_every = 1
save_every = 1
"""


def measure(device: str, short: bool) -> Iterator[Record]:
    ours, bare, rounds = [], [], 3 if short else 9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE)
        launched(folder, "first")  # the token store is made
        torchrun()
        for number in range(rounds):
            ours.append(launched(folder, str(number)))
            bare.append(torchrun())
    low, median, high = np.quantile(np.array(ours) / bare, (0.25, 0.5, 0.75))
    conditions = f"SMALL, N = 2, {RANKS} ranks, token store there, {rounds} rounds"
    yield record("first_step", "from mux-launch to the first step", BARE,
                 Ratio(float(median), float(low), float(high), None), WITHIN, conditions, at_most=True)
    low, median, high = np.quantile(ours, (0.25, 0.5, 0.75))
    yield Record("first_step", "from mux-launch to the first step", "", round(float(median), 2), SECONDS, unit="s",
                 at_most=True, low=round(float(low), 2), high=round(float(high), 2), conditions=conditions)


def launched(folder: Path, name: str) -> float:
    """Seconds until the first StepDone of a new run is in its events."""
    events = folder / name / "events.jsonl"
    command = [str(Path(sys.executable).with_name("mux-launch")), str(folder / "recipe.toml"), "--plain",
               "--run-dir", str(folder / name)]
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"MUX_CACHE": str(folder / "cache")},
                               stdout=subprocess.DEVNULL)
    while True:
        with suppress(FileNotFoundError):
            if '"StepDone"' in events.read_text():
                break
        if process.poll():
            raise RuntimeError(f"the launch ended with {process.returncode}")
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    if code := process.wait():
        raise RuntimeError(f"the launch ended with {code}")
    return seconds


def torchrun() -> float:
    begun = time.time()
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}", "--standalone",
                           "-m", "benchmarks.first_step"], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    times = [json.loads(line)["done"] for line in done.stdout.splitlines() if line.startswith('{"done"')]
    return max(times) - begun


def rank() -> None:
    """What a bare rank does."""
    import torch

    from mux.model import MuxConfig, MuxForPreTraining
    from mux.train.engine import Engine, Ranks

    ranks = Ranks(600)
    model = MuxForPreTraining(MuxConfig.from_size("SMALL", num_instances=2, vocab_size=VOCABULARY))
    engine = Engine(model, {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
                            "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True},
                    weight_decay=0.01, betas=(0.9, 0.999), epsilon=1e-6)
    ids = torch.randint(1000, VOCABULARY, (4, 128))
    engine.backward(engine.forward(ids, labels=torch.where(ids < 2000, ids, -100)).loss)
    engine.step(1e-4)
    os.write(1, f'{json.dumps({"done": time.time()})}\n'.encode())  # at once: the ranks share the pipe
    ranks.leave(0)


if __name__ == "__main__":
    rank()
