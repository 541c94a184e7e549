"""A host that is lost in the middle of a run: it is left out, and the run goes on with the others to the same end."""

import pytest

from tests.conftest import Run

pytestmark = [pytest.mark.multihost, pytest.mark.processes]

ALONE = "tests/recipes/pretrain_alone.toml"
OPTIONS = ("--set=model.dropout=0.0", "--set=model.attention_dropout=0.0", "--set=stages.pretrain.steps=300")
SURVIVES = ("--set=cluster.max_restarts=2", "--set=cluster.min_hosts=1")


def test_a_host_that_is_lost_is_left_out(whole, tmp_path, cache) -> None:
    first, second = whole.names
    quiet = Run(tmp_path / "quiet", cache)
    assert quiet.launch(*OPTIONS, recipe=ALONE).returncode == 0
    run = Run(tmp_path / "run", cache)
    run.environment |= whole.environment
    process = run.start(*OPTIONS, *SURVIVES, "--hostfile", str(whole.hostfile), recipe=ALONE)
    run.wait_for(lambda event: event["event"] == "CheckpointSaved", process)
    whole.cut(second)
    assert process.wait(timeout=300) == 0, run.output()
    failed, dropped, resized = (run.events(kind)[0] for kind in ("JobFailed", "HostDropped", "Resized"))
    assert (failed["kind"], failed["on"], dropped["name"]) == ("host", second, second), run.output()
    assert (resized["hosts"], resized["idle"], resized["devices"], resized["before"]) == ([first], [], 1, 2)
    assert run.events("JobStarted")[-1]["hosts"] == [{"name": first, "ranks": [0]}]
    assert f"the run goes on without host {second}" in run.output()
    resumed = run.events("StageStarted")[-1]["from_step"]
    assert resumed > 0
    expected, losses = quiet.losses("pretrain"), run.losses("pretrain")
    assert losses.keys() == expected.keys()
    for step, (loss, _) in expected.items():
        assert losses[step][0] == pytest.approx(loss, rel=1e-4), step
    assert whole.emptied(first) and whole.emptied(second, seconds=60)
