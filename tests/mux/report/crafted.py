"""results.json of runs that never were, with just what points are made of."""

from __future__ import annotations

from typing import Any


def scores(mean: float, *, metric: str = "accuracy", std: float = 0.01, rows: int = 1000, rate: float = 500.0,
           **more: Any) -> dict[str, Any]:
    extremes = {"max": mean + std, "min": mean - std, "tickets": [mean - std, mean + std]}
    return {"metric": metric, "mean": mean, "std": std, **extremes, "majority": 0.5, "others": {}, "also": {},
            "test_rows": rows, "instances_per_second": rate, "padding": 0.2} | more


def timed(N: int, rate: float, *, head: str = "sequence", batches_of: str = "instances", mode: str = "eager",
          ratio: float = 4.0, quartiles: tuple[float, float] = (3.8, 4.1), milliseconds: float = 50.0,
          **more: Any) -> dict[str, Any]:
    model = {"model": f"bert BASE, N = {N}", "family": "bert", "size": "BASE", "N": N, "source": None}
    keys = {"multiplexer": "gaussian" if N > 1 else None, "demultiplexer": "rsa" if N > 1 else None}
    ratios = {"ratio_to_bert_base": ratio, "ratio_to_bert_base_quartiles": list(quartiles)}
    return {**model, **keys, "head": head, "batches_of": batches_of, "mode": mode, "instances_per_second": rate,
            **ratios, "milliseconds_per_batch": milliseconds, "sequence_length": 128, "device": "cpu",
            "threads": 2} | more


def results(N: int, tasks: dict[str, Any], rows: list[dict[str, Any]] | None = None,
            copies: dict[str, dict[str, Any]] | None = None, **model: Any) -> dict[str, Any]:
    """A finished run of a fine-tuning and, where given, an ensemble and a throughput stage."""
    stages: list[dict[str, Any]] = [
        {"id": "pretrain", "kind": "pretrain", "status": "done", "model": "pretrain/model"},
        {"id": "finetune", "kind": "finetune", "status": "done", "tasks": tasks},
    ]
    if copies is not None:
        entry = {number: {"tasks": of} for number, of in copies.items()}
        stages.append({"id": "ensemble", "kind": "ensemble", "status": "done", "source": "finetune",
                       "copies": entry})
    if rows is not None:
        stages.append({"id": "throughput", "kind": "throughput", "status": "done", "rows": rows})
    multiplexed = {"multiplexer": "gaussian", "demultiplexer": "rsa"} if N > 1 else {}
    return {
        "schema": 1, "name": f"bert_n{N}", "status": "finished", "device": "cpu", "stages": stages,
        "model": {"family": "bert", "source": None, "size": "BASE", "layers": 12, "hidden": 768, "N": N,
                  "multiplexer": None, "demultiplexer": None, "compat": None, "parameters": 1} | multiplexed | model,
    }
