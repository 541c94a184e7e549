"""Runs as the stages write them, with numbers drawn from a seed: the paper's models, and smaller ones."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from mux.report.writer import write

GLUE = {"mnli": ("accuracy", 9815, 3), "qqp": ("accuracy", 40430, 2), "qnli": ("accuracy", 5463, 2),
        "sst2": ("accuracy", 872, 2), "cola": ("matthews", 1043, 2), "mrpc": ("accuracy", 408, 2),
        "stsb": ("spearman", 1500, 0), "rte": ("accuracy", 277, 2), "wnli": ("accuracy", 71, 2)}
TOKEN = {"ner": ("entity_f1", 3250, 9), "pos": ("accuracy", 2001, 17)}
TASKS = GLUE | TOKEN
STEPS = {"rte": 2000, "wnli": 2000, "mrpc": 10_000, "cola": 10_000, "stsb": 10_000, "mnli": 100_000, "qqp": 100_000}
OTHERS = {"qqp": ["f1"], "mrpc": ["f1"], "stsb": ["pearson"], "ner": ["accuracy"], "pos": ["entity_f1", "f1"]}


def statistics_of(values: list[float]) -> dict:
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))
    return {"mean": mean, "std": std, "max": max(values), "min": min(values)}


class Maker:
    """Writes run directories below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def scores(self, draw: random.Random, task: str, mean: float, N: int, tickets: int = 5, copies: int = 1,
               rate: float = 900.0, composition: str = "random") -> dict:
        metric, rows, classes = TASKS.get(task, ("accuracy", 500, 4))
        values = [min(max(mean + draw.gauss(0, 0.004 * math.log2(N)), 0), 1)
                  for _ in range(tickets)]
        labels = [f"class {index}" for index in range(classes)]
        counts = [[int(rows / max(classes, 1) * (mean if row == column else (1 - mean) / max(classes - 1, 1)))
                   for column in range(classes)] for row in range(classes)]
        slots = [{"slot": slot, "score": (0.4 if not classes else mean) + draw.gauss(0, 0.01), "count": rows * 5 // N}
                 for slot in range(1, N + 1)] if copies == 1 else []
        bins = [{"confidence": 0.05 + index / 10, "accuracy": max(0.0, index / 10 - 0.02), "count": index * 40}
                for index in range(10)]
        also = {"mismatched": {"metric": metric, **statistics_of(values), "tickets": values, "majority": 0.35,
                               "others": {}, "test_rows": 9832}} if task == "mnli" else {}
        return {
            "metric": metric, **statistics_of(values), "tickets": values, "majority": None if not classes else 0.5,
            "others": {other: statistics_of([value + 0.01 for value in values]) for other in OTHERS.get(task, [])},
            "words": task in TOKEN, "also": also, "test_rows": rows, "instances_per_second": rate * N / copies,
            "padding": 0.12 if composition == "length" else 0.45, "predictions": f"finetune/{task}/predictions.parquet",
            "diagnostics": {
                "confusion": {"labels": labels, "counts": counts} if classes else None, "slots": slots,
                "slot_p": 0.31 if N > 1 else None,
                "companions": {"changed": 0.01 * N, "same_slot": 0.008 * N} if N > 1 else None,
                "calibration": {"error": 0.04, "bins": bins} if classes else None}}

    def curve(self, draw: random.Random, steps: int) -> dict:
        at = list(range(steps // 100, steps + 1, max(steps // 100, 1)))
        return {"step": at, "loss": [7 * math.exp(-3 * step / steps) + 1.5 + draw.gauss(0, 0.05) for step in at],
                "accuracy": [None if index % 10 else 0.7 - 0.6 * math.exp(-4 * step / steps)
                             for index, step in enumerate(at)]}

    def tuned(self, draw: random.Random, tasks: list[str], accuracy: float, N: int, share: float = 1.0) -> dict:
        found = {}
        for task in tasks:
            steps = max(1, int(STEPS.get(task, 20_000) * share))
            mean = accuracy - (0.4 if task == "cola" else 0.2 if task in ("rte", "wnli") else 0)
            mean += 0.1 if task in TOKEN else 0
            found[task] = self.scores(draw, task, min(mean, 0.97), N) | {
                "model": f"finetune/{task}/model", "labels": ["a", "b"], "train_rows": 5000, "steps": steps,
                "training_loss": 0.2, "curve": self.curve(draw, max(steps, 100)), "seeds": {"0": mean},
                "chosen": {"learning_rate": 5e-5, "batch": 32, "on": "held-out train rows (10 %)"},
                "search": [{"learning_rate": rate, "batch": 32, "mean": mean} for rate in (2e-5, 5e-5)]}
        return found

    def timed(self, draw: random.Random, model: dict, ratio: float, device: str) -> list[dict]:
        rows = []
        for head in ("sequence", "token"):
            for batches_of in ("instances", "groups", "one_group"):
                N = model["N"]
                batch = {"instances": -(-128 // N) * N, "groups": 128 * N, "one_group": N}[batches_of]
                speed = ratio * (1.0 if head == "sequence" else 0.93) * (0.4 if batches_of == "one_group" else 1)
                rows.append({
                    "model": f"{model['family']} {model['size']}, N = {N}", **{key: model[key] for key in (
                        "family", "size", "N", "source")},
                    "multiplexer": model["multiplexer"] if N > 1 else None,
                    "demultiplexer": model["demultiplexer"] if N > 1 else None, "head": head,
                    "batches_of": batches_of, "mode": "eager", "instances_per_second": 480 * speed,
                    "trials_instances_per_second": [480 * speed] * 3,
                    "ratio_to_bert_base": speed, "ratio_to_bert_base_quartiles": [speed * 0.96, speed * 1.03],
                    "ratio_to_n1": float(N), "ratio_to_n1_quartiles": [N * 0.97, N * 1.02],
                    "milliseconds_per_batch": 1000 * batch / (480 * speed), "batch": batch, "sequence_length": 128,
                    "trials": 3, "batches": 200, "device": device, "dtype": "fp32", "threads": 16, "cpus": 16,
                    "torch": "2.13.0"})
        return rows

    def run(self, name: str, N: int, *, family: str = "bert", size: str = "BASE", multiplexer: str = "gaussian",
            demultiplexer: str = "rsa", accuracy: float = 0.8, ratio: float | None = None,
            tasks: list[str] | None = None, steps: int = 1_000_000, share: float = 1.0, status: str = "finished",
            retrieval_rate: float = 0.0, device: str = "NVIDIA V100", pretrained: bool = True) -> Path:
        draw = random.Random(name)
        tasks = list(TASKS) if tasks is None else tasks
        layers = {"TINY": 2, "SMALL": 4, "BASE": 12, "LARGE": 24}.get(size, 4)
        model = {"family": family, "source": None, "size": size, "layers": layers, "hidden": 768, "N": N,
                 "multiplexer": multiplexer, "demultiplexer": demultiplexer, "compat": None, "parameters": 110_000_000}
        stages: list[dict] = []
        if N > 1:
            stages.append({"id": "retrieval", "kind": "retrieval", "status": "done", "seconds": 900.0,
                           "steps": steps if not pretrained else 10_000, "loss": 0.1, "accuracy": 0.99,
                           "retrieval_rate": 1.0, "instances_per_second": 3000.0, "model": "retrieval/model",
                           "curve": self.curve(draw, 10_000)})
        if pretrained:
            stages.append({"id": "pretrain", "kind": "pretrain", "status": "done", "seconds": 90_000.0, "steps": steps,
                           "loss": 1.9, "accuracy": 0.61, "retrieval_rate": retrieval_rate,
                           "instances_per_second": 3000.0, "model": "pretrain/model", "curve": self.curve(draw, steps),
                           "profile": {"data": 1e-4, "backbone": 0.2, "backward pass": 0.41, "optimizer": 0.05}})
        tuned = self.tuned(draw, tasks, accuracy, N, share)
        stages.append({"id": "finetune", "kind": "finetune", "status": "done", "seconds": 9000.0, "tasks": tuned,
                       "averages": {}})
        if N > 1:
            shift = {"random": 0, "length": 0.003, "similar": -0.01, "dissimilar": 0.004}
            stages.append({"id": "evaluate", "kind": "evaluate", "status": "done", "seconds": 60.0,
                           "source": "finetune", "compositions": {
                composition: {"tasks": {task: self.scores(draw, task, tuned[task]["mean"] + by, N,
                                                          composition=composition) for task in tasks[:3]}}
                for composition, by in shift.items()}})
        if N > 1:
            stages.append({"id": "ensemble", "kind": "ensemble", "status": "done", "seconds": 60.0,
                           "source": "finetune", "copies": {
                str(k): {"tasks": {
                    task: self.scores(draw, task, tuned[task]["mean"] + 0.006 * math.log2(k), N, copies=k)
                    for task in tasks}} for k in sorted({1, 2, N})}})
        stages.append({"id": "throughput", "kind": "throughput", "status": "done", "seconds": 30.0,
                       "rows": self.timed(draw, model, ratio or 0.98 * N, device), "ratio": 0.98 * N})
        stages.append({"id": "muxology", "kind": "muxology", "status": "done", "seconds": 30.0, "models": [
            {"source": "pretrain", "name": f"{family} {size}, N = {N}", "N": N, "family": family, "rows": 400,
             "tokens": 200_000, "corpus": "wikitext-103 validation", "layers": [
                 {"layer": layer, "mean_abs": 0.4 + 0.01 * layer + (0.1 * N if layer == layers else 0),
                  "attention_entropy": 3.2 - 0.08 * layer - 0.03 * N} for layer in range(1, layers + 1)]}]})
        plan = {"name": name, "cluster": {"device": "cuda", "source": "this host",
                                          "hosts": [{"name": "a", "slots": 8, "local": True}]},
                "stages": self.planned([stage["kind"] for stage in stages],
                                       512 - (N if demultiplexer == "prefix" else 0))}
        return self.write(name, {"schema": 1, "name": name, "status": status, "model": model, "stages": stages}, plan)

    def planned(self, kinds: list[str], length: int) -> list[dict]:
        """Each stage starts from the nearest one before it that it can."""
        training = [kind for kind in kinds if kind in ("retrieval", "pretrain")]
        sources: dict[str, str | None] = dict(zip(training, [None, *training], strict=False))
        sources |= {"finetune": training[-1], "muxology": training[-1], "evaluate": "finetune", "ensemble": "finetune"}
        return [{"id": kind, "kind": kind, "source": sources.get(kind), "batch": 256,
                 "sequence_length": length if kind in training else 128} for kind in kinds]

    def write(self, name: str, results: dict, plan: dict | None = None) -> Path:
        path = self.folder / name
        path.mkdir(parents=True)
        (path / "results.json").write_text(json.dumps(results))
        if plan is not None:
            (path / "plan.json").write_text(json.dumps(plan))
            events = [{"v": 1, "time": 1_760_000_000.0 + 3600 * hour, "event": event}
                      for hour, event in ((0, "RunStarted"), (40, "RunFinished"))]
            (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        return path


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path / "runs")


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """The folder of a report on two runs of the paper's models, a small one and one that is still running."""
    made = Maker(tmp_path_factory.mktemp("runs"))
    tasks = ["sst2", "stsb"]
    runs = [made.run("bert_base_n1", 1, tasks=tasks, accuracy=0.88), made.run("bert_base_n5", 5, tasks=tasks),
            made.run("tiny_n2", 2, size="TINY", tasks=["sst2"], steps=900, ratio=40.0, device="cpu"),
            made.run("bert_base_n10", 10, tasks=["sst2"], accuracy=0.7, status="running")]
    return write(runs, tmp_path_factory.mktemp("report")).parent
