"""Going on from a checkpoint: bit by bit on as many ranks as before, within rounding on others."""

import pytest

from tests.mux.train.toy_job import job, losses, of, run

pytestmark = pytest.mark.processes

# Epochs of 5 steps, checkpoints every 5, a log line every 3: lines of steps before and after a checkpoint.
SAME = {  # ZeRO stage -> how it ends the first time, and the first line after that
    0: ({"die_at": 7}, 6),
    1: ({"stop_at": 7}, 9),
    2: ({"die_at": 12}, 12),
    3: ({"die_at": 11}, 12),
}
RESIZES = [  # ranks and ZeRO stage before and after, precision
    (2, 1, 1, 2, "fp32"),
    (1, 2, 2, 1, "fp32"),
    (2, 1, 2, 2, "fp32"),
    (2, 0, 1, 0, "fp32"),
    (2, 3, 1, 3, "fp32"),
    (1, 3, 2, 3, "fp32"),
    (2, 1, 1, 1, "fp16"),
    (1, 2, 2, 2, "bf16"),
]
OTHER = "another family"


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What was said, by (case, "whole" | "again"). Processes are started three times for all cases."""
    folder = tmp_path_factory.mktemp("resuming")
    launches: list[tuple[int, dict]] = [(2, {}), (1, {}), (2, {})]
    for stage, (ending, _) in SAME.items():
        options = {"zero_stage": stage, "log_every": 3, "steps": 13}
        launches[0][1][stage, "whole"] = job(folder / f"whole{stage}", **options)
        launches[0][1][stage, "first"] = job(folder / f"same{stage}", **options, **ending)
        launches[2][1][stage, "again"] = job(folder / f"same{stage}", **options)
    for case in RESIZES:
        ranks, stage, then_ranks, then_stage, precision = case
        options = {"precision": precision, "log_every": 2}
        before, after = (0, 1 if then_ranks == 1 else 2) if ranks == 2 else (1, 2)
        launches[before][1][case, "whole"] = job(folder / f"whole{case}", **options, zero_stage=stage)
        launches[before][1][case, "first"] = job(folder / f"[{case}]*", **options, zero_stage=stage, die_at=7)
        launches[after][1][case, "again"] = job(folder / f"[{case}]*", **options, zero_stage=then_stage)
    launches[1][1][OTHER, "first"] = job(folder / "other", zero_stage=1, steps=5)
    launches[1][1][OTHER, "again"] = job(folder / "other", zero_stage=3, steps=5)
    heard = {}
    for ranks, jobs in launches:
        heard |= dict(zip(jobs, run(ranks, *jobs.values()), strict=True))
    return heard | {"folder": folder}


@pytest.mark.parametrize("stage", SAME)
def test_on_as_many_ranks_it_is_bit_equal_from_any_step(said, stage):
    whole, again = said[stage, "whole"], said[stage, "again"]
    assert min(losses(again)) == SAME[stage][1] and max(losses(again)) == 13
    assert losses(again).items() <= losses(whole).items()
    assert again[-1] == whole[-1] and whole[-1]["end"] == "finished"


@pytest.mark.parametrize("case", RESIZES, ids=str)
def test_on_other_ranks_it_goes_on_within_rounding(said, case):
    """With dropout, which does not depend on the ranks; Adam's moments and steps and the loss scale go on, too."""
    ranks, stage, then_ranks, then_stage, precision = case
    whole, again = said[case, "whole"], said[case, "again"]
    [notice] = of("Notice", again)
    assert notice["text"].startswith("goes on from step 5, resized from ")
    assert (f"{ranks} to {then_ranks} rank" in notice["text"]) is (ranks != then_ranks)
    assert (f"ZeRO {stage} to {then_stage}" in notice["text"]) is (stage != then_stage)
    rounding = 1e-5 if precision == "fp32" else 1e-2
    assert set(losses(again)) == {6, 8, 10, 12}
    for step, loss in losses(again).items():
        assert loss == pytest.approx(losses(whole)[step], rel=rounding), step
    for name, values in again[-1]["weights"].items():
        assert values == pytest.approx(whole[-1]["weights"][name], rel=10 * rounding, abs=rounding), name
    scaling = {event["step"]: (event["loss_scale"], event["skipped"]) for event in of("StepDone", whole)}
    assert [(event["loss_scale"], event["skipped"]) for event in of("StepDone", again)] == [
        scaling[step] for step in (6, 8, 10, 12)]
    if precision == "fp16":
        assert scaling[12][1] > 0 and scaling[12][0] != scaling[2][0]  # it had something to forget


def test_another_family_of_zero_stages_is_passed_over_with_the_reason(said):
    """The launcher refuses it before any process starts; here the ranks are asked alone."""
    assert "what ZeRO 1 has saved cannot become ZeRO 3's; --fresh starts over" in said[OTHER, "again"][-1]["end"]


def test_a_conversion_leaves_nothing(said):
    found = {path.name for path in said["folder"].rglob("*") if path.is_dir() and path.parent != said["folder"]}
    assert "step_00000005" in found and all(name.startswith("step_") and name[5:].isdigit() for name in found), found
