"""What a lower precision costs in accuracy: the quickstart's models, trained here, on the test rows of their task.

Speeds of the same precisions: `python -m benchmarks stacking`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.records import Record
from mux.data.tasks import load_task
from mux.model.precision import PRECISIONS
from mux.predict import Predictor
from mux.predict.heads import Text
from mux.recipe.tasks import TASKS

NS, TASK = (2, 5), "topic"
RECIPE = """name = "precision"
extends = "{quickstart}"
drop = ["ensemble", "evaluate", "throughput", "muxology"]
[model]
N = {N}
"""
SHORT = ("--set=stages.retrieval.steps=60", "--set=stages.retrieval.warmup_steps=6", "--set=stages.pretrain.steps=60",
         "--set=stages.pretrain.warmup_steps=6", "--set=stages.finetune.steps=200")


def measure(device: str, short: bool) -> Iterator[Record]:
    task = load_task(TASK, TASKS[TASK])
    rows, right = task.test, [task.labels[number] for number in task.test.labels]
    texts = [Text(str(text)) for text in rows.texts]
    with tempfile.TemporaryDirectory() as name:
        for N in NS[:1] if short else NS:
            folder = trained(Path(name), N, short)
            plain: list[str] = []
            for precision in PRECISIONS:
                answers = predictions(Predictor(folder, device=device, precision=precision), texts)
                plain = plain or answers
                accuracy = sum(map(str.__eq__, answers, right)) / len(right)
                same = sum(map(str.__eq__, answers, plain)) / len(right)
                what = f"TINY, N = {N}, {precision}: accuracy ({same:.1%} of the answers as in fp32)"
                yield Record("precision", what, f"the truth of {len(right)} texts", round(100 * accuracy, 2), unit="%",
                             conditions="quickstart, shortened" if short else "quickstart", more={"same": same})


def trained(folder: Path, N: int, short: bool) -> Path:
    """The model folder of the quickstart's task at N."""
    recipe, run = folder / f"n{N}.toml", folder / f"n{N}"
    recipe.write_text(RECIPE.format(quickstart=Path(__file__).parent.parent / "recipes" / "quickstart.toml", N=N))
    command = [str(Path(sys.executable).with_name("mux-launch")), str(recipe), "--plain", "--run-dir", str(run)]
    subprocess.run([*command, *(SHORT if short else ())], check=True, stdout=subprocess.DEVNULL,
                   env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"})
    return run / "finetune" / "model"


def predictions(predictor: Predictor, texts: list[Text]) -> list[str]:
    window = predictor.window
    return [str(answer["prediction"]) for first in range(0, len(texts), window)
            for answer in predictor.predict(texts[first : first + window])]
