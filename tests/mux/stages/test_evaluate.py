"""The stages that evaluate tuned models again: with other companions, with copies, and after an interruption."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mux.event import Evaluated
from mux.journal import EventReader
from mux.plan import StagePlan
from mux.rank import Voice
from mux.recipe.stages import EnsembleStage, EvaluateStage
from mux.run import read_json, write_json
from mux.stages import ensemble, evaluate
from mux.stages.context import Context
from mux.stages.evaluation import open_task
from mux.stages.predictions import read_predictions
from mux.train.loop import Stopped

COMPOSITIONS = ("random", "length", "similar", "dissimilar")


@pytest.fixture
def tuned(context) -> Context:
    """A run whose fine-tuning stage has left a model for the embedded task, of new weights."""
    made: Context = context()
    tuning = made.recipe.stages[0]
    torch.manual_seed(0)
    model = made.encoder.starting(tuning, open_task(made, "topic", "finetune"), None)
    model.save_pretrained(made.run.model("finetune"))
    write_json(made.run.stage_result("finetune"), {"tasks": {"topic": {"model": "finetune/model"}}})
    made.plan = SimpleNamespace(stage=lambda name: StagePlan(id=name, kind=name, source="finetune", devices=1))
    made.voice = Voice(made.run.path / "rank.events.jsonl", "here", 0)
    made.ranks.barrier = lambda: None
    return made


def heard(context: Context) -> list[tuple[str, str, int, float]]:
    events = EventReader(context.run.path / "rank.events.jsonl").read()
    return [(event.task, event.composition, event.copies, event.mean) for event in events
            if isinstance(event, Evaluated)]


def test_every_composition_of_the_recipe(tuned):
    evaluate.run(tuned, EvaluateStage(kind="evaluate", id="evaluate", tickets=2, compositions=COMPOSITIONS))
    result = read_json(tuned.run.stage_result("evaluate"))
    assert result["source"] == "finetune"
    found = {name: entry["tasks"]["topic"] for name, entry in result["compositions"].items()}
    assert tuple(found) == COMPOSITIONS
    assert found["length"]["padding"] < found["random"]["padding"]
    for name, scores in found.items():
        assert scores["predictions"] == f"evaluate/topic/{name}.parquet" and scores["test_rows"] == 901
        table = read_predictions(tuned.run.path / scores["predictions"])
        right = (table.label == table.prediction).groupby(table.ticket).mean()
        assert scores["tickets"] == pytest.approx(right.tolist())
    assert heard(tuned) == [("topic", name, 1, found[name]["mean"]) for name in COMPOSITIONS]


@pytest.mark.parametrize(("copies", "expected"), [((2,), ["2"]), (None, ["1", "2"])])
def test_any_number_of_copies(tuned, copies, expected):
    ensemble.run(tuned, EnsembleStage(kind="ensemble", id="ensemble", tickets=2, copies=copies))
    result = read_json(tuned.run.stage_result("ensemble"))
    assert list(result["copies"]) == expected
    scores = result["copies"]["2"]["tasks"]["topic"]
    assert scores["predictions"] == "ensemble/topic/copies2.parquet" and scores["diagnostics"]["slots"] == []
    assert [event[2] for event in heard(tuned)] == list(map(int, expected))


def test_an_interrupted_stage_goes_on_with_what_is_left(tuned):
    stage = EvaluateStage(kind="evaluate", id="evaluate", tickets=1, compositions=COMPOSITIONS)
    tuned.stop = lambda: len(heard(tuned)) == 2
    with pytest.raises(Stopped):
        evaluate.run(tuned, stage)
    assert not tuned.run.stage_result("evaluate").exists()
    tuned.stop = lambda: False
    evaluate.run(tuned, stage)
    events, result = heard(tuned), read_json(tuned.run.stage_result("evaluate"))
    assert [event[1] for event in events] == list(COMPOSITIONS)  # each once
    assert [event[3] for event in events] == [result["compositions"][name]["tasks"]["topic"]["mean"]
                                              for name in COMPOSITIONS]
