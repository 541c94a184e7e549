"""Which hosts a run goes on with."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from launcher import dashboard, plan
from launcher.phase import Outcome, Regroup
from launcher.regrouping import TooFewHosts, regroup
from launcher.supervisor import Supervisor
from mux.event import Event, HostDropped, Resized, Restarting
from mux.journal import EventReader
from mux.plan import Cluster, Host, Plan
from mux.recipe import Problem, Refusal
from mux.run import RunDirectory
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


# --- a host that comes back with another commit, as ssh and git tell it -----------------------------------------------
LOCAL = Host(name="localhost", slots=1, local=True)
THERE = Host(name="there", slots=1)
GIT = """#!/bin/sh
case "$*" in *rev-parse*) echo {commit};; esac
"""
SSH = """#!/bin/sh
for last; do :; done
PATH={tools}:$PATH exec sh -c "$last"
"""
OTHER_COMMIT = f"its project is at commit {'b' * 7}, the launcher's at {'a' * 7}"


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@pytest.fixture
def updated(tmp_path, monkeypatch) -> Path:
    """A folder for a run over this host and one that has another commit by now."""
    here, there = tmp_path / "here", tmp_path / "there"
    tool(here, "git", GIT.format(commit="a" * 40))
    tool(here, "ssh", SSH.format(tools=there))
    tool(there, "git", GIT.format(commit="b" * 40))
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def after_a_failure(folder: Path, *changes: str, replan=None) -> tuple[Supervisor, Outcome, list[Event]]:
    """What the supervisor makes of a job that has failed and may start again at once."""
    both = Cluster(hosts=(LOCAL, THERE), device="cpu", source="hosts.txt")
    make = partial(plan.make, recipe(folder, *changes), directory=folder / "runs" / "case")
    made, run = make(cluster=both), RunDirectory(folder / "runs" / "case")
    run.create()
    run.write_plan(made)
    supervisor = Supervisor(run, made, dashboard.choose(sys.stdout, True), False,
                            replan or (lambda cluster: make(cluster=cluster)))
    outcome, job = Outcome(), made.jobs[0]
    supervisor._regroup(outcome, Regroup(job, Restarting(job=job.id, seconds=0.0, failures=1, most=3), None))
    return supervisor, outcome, list(EventReader(run.events).read())


@pytest.mark.processes
def test_it_is_left_out_where_the_recipe_allows_that(updated) -> None:
    supervisor, outcome, events = after_a_failure(updated, "cluster.min_hosts=1")
    assert outcome.failed is None and supervisor.plan.cluster.hosts == (LOCAL,)
    assert supervisor.run.read_plan() == supervisor.plan
    dropped, _ = events
    assert isinstance(dropped, HostDropped) and (dropped.name, dropped.reason) == ("there", OTHER_COMMIT)


@pytest.mark.processes
def test_it_ends_the_run_where_all_are_needed(updated) -> None:
    """As soon as no further start is allowed; until then somebody may set it right."""
    supervisor, outcome, events = after_a_failure(updated)
    assert outcome.failed is not None and outcome.failed.kind == "host"
    assert outcome.failed.text == f"1 of 2 hosts are well, 2 are needed: there: {OTHER_COMMIT}"
    assert supervisor.plan.cluster.hosts == (LOCAL, THERE) and events == []


@pytest.mark.processes
def test_a_plan_that_is_refused_ends_the_run_whatever_may_start_again(updated) -> None:
    def refused(cluster: Cluster) -> Plan:
        raise Refusal(Problem("the recipe fits no single host"))

    changes = ("cluster.min_hosts=1", "cluster.max_restarts=3")
    supervisor, outcome, events = after_a_failure(updated, *changes, replan=refused)
    assert outcome.failed is not None and outcome.failed.text == "the recipe fits no single host"
    assert supervisor.plan.cluster.hosts == (LOCAL, THERE) and events == []
