"""Which hosts a run goes on with."""

from functools import partial
from pathlib import Path

import pytest

from launcher import plan
from launcher.regrouping import TooFewHosts, regroup
from mux.event import HostDropped, Resized
from mux.recipe import Refusal
from mux.run import Plan, RunDirectory
from tests.launcher.test_plan import cluster, planned, recipe

DOWN = ("no route to host", "and more")


def regrouped(folder: Path, made: Plan, *lost: str, changes: tuple[str, ...]):
    replan = partial(plan.make, recipe(folder, *changes), directory=folder / "runs" / "case")
    problems = {host.name: DOWN if host.name in lost else () for host in made.cluster.everyone}
    return regroup(RunDirectory(folder / "runs" / "case"), made, problems, lambda cluster: replan(cluster=cluster))


@pytest.fixture
def four(tmp_path):
    """A plan for four hosts of eight devices, and what its recipe was changed by."""
    changes = ("cluster.min_hosts=1", "stages.retrieval.batch=64", "stages.pretrain.batch=64")
    return planned(tmp_path, *changes, slots=(8, 8, 8, 8)), changes


def test_hosts_that_are_all_well_change_nothing(tmp_path, four) -> None:
    made, changes = four
    found = regrouped(tmp_path, made, changes=changes)
    assert found.plan is made and found.events == ()


def test_the_most_hosts_that_divide_the_batch(tmp_path, four) -> None:
    """Three hosts of 8 do not divide 64; the first two do, and the third is named as idle."""
    made, changes = four
    found = regrouped(tmp_path, made, "h1", changes=changes)
    dropped, resized = found.events
    assert isinstance(dropped, HostDropped) and (dropped.name, dropped.reason) == ("h1", "no route to host; and more")
    assert isinstance(resized, Resized)
    assert (resized.hosts, resized.idle, resized.devices, resized.before) == (["h0", "h2"], ["h3"], 16, 32)
    assert [host.name for host in found.plan.cluster.hosts] == ["h0", "h2"]
    assert found.plan.stage("pretrain").devices == 16 and found.plan.recipe_digest == made.recipe_digest


def test_a_cluster_as_large_as_the_papers(tmp_path) -> None:
    """8 hosts of 8 at batch 256, of which 6 must be well: 7 are, 4 of them divide the batch, 3 wait; at the next loss
    one of those takes its place."""
    changes = ("cluster.min_hosts=6", "stages.retrieval.batch=256", "stages.pretrain.batch=256")
    found = regrouped(tmp_path, planned(tmp_path, *changes, slots=(8,) * 8), "h2", changes=changes)
    for lost, taken, idle in (("h2", ["h0", "h1", "h3", "h4"], 3), ("h1", ["h0", "h3", "h4", "h5"], 2)):
        found = found if lost == "h2" else regrouped(tmp_path, found.plan, "h2", lost, changes=changes)
        assert [host.name for host in found.plan.cluster.hosts] == taken
        assert len(found.events[-1].idle) == idle and found.plan.cluster.devices == 32
    same = regrouped(tmp_path, found.plan, "h2", "h1", "h7", changes=changes)
    assert same.plan is found.plan, "whoever is not taken may be lost"
    with pytest.raises(TooFewHosts, match="5 of 8 hosts are well, 6 are needed"):
        regrouped(tmp_path, found.plan, "h2", "h1", "h0", changes=changes)


def test_too_few_hosts(tmp_path) -> None:
    """Without a word about it, all are needed."""
    for changes, least in (((), 2), (("cluster.min_hosts=2",), 2)):
        made = plan.make(recipe(tmp_path, *changes), cluster(1, 1), tmp_path / "runs" / "case")
        with pytest.raises(TooFewHosts, match=f"1 of 2 hosts are well, {least} are needed: h1: no route to host"):
            regrouped(tmp_path, made, "h1", changes=changes)


def test_a_recipe_that_fits_no_other_hosts(tmp_path) -> None:
    changes = ("cluster.min_hosts=1", "stages.retrieval.batch=3", "stages.pretrain.batch=3",
               "stages.finetune.batch=3")
    made = planned(tmp_path, *changes, slots=(1, 2))
    with pytest.raises(Refusal, match="not a multiple of 2 devices") as refused:
        regrouped(tmp_path, made, "h0", changes=changes)
    assert not isinstance(refused.value, TooFewHosts)
