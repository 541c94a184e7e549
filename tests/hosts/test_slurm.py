"""`--slurm` on a real SLURM of two nodes: jobs finish, make room, go on; and nothing is left of those that end."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import COMMAND, Run
from tests.hosts.slurm import Slurm, unavailable

pytestmark = [pytest.mark.multihost, pytest.mark.processes, pytest.mark.fault("SLURM")]

RECIPE = "tests/recipes/pretrain_alone.toml"
SECRET = "of-no-concern-to-any-node"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # each rank, whatever its neighbours: losses are compared bit by bit
# Long enough to be met half-way.
LONG = ("--set", "stages.pretrain.steps=300", "--set", "stages.pretrain.save_every=100")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Slurm]:
    if reason := unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    made = Slurm.up(tmp_path_factory.mktemp("slurm"))
    yield made
    made.down()


class Job(Run):
    """A run that is submitted."""

    def __init__(self, path: Path, cache: Path, cluster: Slurm) -> None:
        super().__init__(path, cache)
        self.cluster = cluster
        self.environment |= cluster.environment | ONE_THREAD | {"MY_PASSWORD": SECRET}
        self.number = ""

    def submit(self, *options: str, nodes: int = 2) -> "Job":
        """One rank on each of two nodes, or both on one."""
        done = self.launch("--slurm", "--set", f"slurm.nodes={nodes}", "--set", "slurm.gpus_per_node=0",
                           "--set", f"cluster.processes={2 // nodes}", *options, recipe=RECIPE)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.split()[4].rstrip(",")
        return self

    def meet(self, step: int) -> None:
        """Wait until training has come so far."""
        reached = lambda: any(event["step"] >= step for event in self.events("StepDone"))  # noqa: E731
        self.cluster.wait_until(lambda: reached() or self.over(), f"step {step} of {self.path}")
        assert reached() and not self.over(), self.log()

    def over(self) -> bool:
        return self.cluster.job(self.number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")

    def finish(self) -> dict[str, str]:
        self.cluster.wait_until(self.over, f"{self.path} is over")
        return self.cluster.job(self.number)

    def log(self) -> str:
        return "".join(path.read_text() for path in self.path.glob("logs/slurm-*.log"))

    def started(self) -> int:
        return len(self.events("RunStarted"))


@pytest.fixture
def job(tmp_path, cache, cluster) -> Iterator[Job]:
    yield Job(tmp_path / "a run", cache, cluster)
    cluster.empty()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache, cluster) -> Job:
    made = Job(tmp_path_factory.mktemp("undisturbed") / "run", cache, cluster).submit(*LONG)
    assert made.finish()["ExitCode"] == "0:0", made.log()
    return made


def test_a_job_finishes_on_both_nodes(undisturbed, cluster, tmp_path, cache):
    assert undisturbed.events()[-1]["event"] == "RunFinished"
    assert {event["host"] for event in undisturbed.events("RankStarted")} == set(cluster.nodes)
    assert json.loads((undisturbed.path / "plan.json").read_text())["cluster"]["reach"] == "srun"
    alone = Run(tmp_path / "alone", cache)  # the same on this machine, without SLURM
    alone.environment |= ONE_THREAD
    assert alone.launch(*LONG, recipe=RECIPE).returncode == 0
    assert undisturbed.losses("pretrain") == alone.losses("pretrain") and len(alone.losses("pretrain")) == 300


def test_what_a_job_leaves_is_private(undisturbed):
    shared = [path for path in [undisturbed.path, *undisturbed.path.rglob("*")]
              if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not shared
    assert "slurm" in undisturbed.path.joinpath("batch.sh").read_text() and undisturbed.log()


def signalled(job: Job) -> None:
    """As SLURM does before the time of a job is up."""
    job.cluster.ask("scancel", "--signal=USR1", "--batch", job.number)


def preempted(job: Job) -> None:
    """As SLURM does when others need the nodes: it ends the job, and queues it again itself."""
    job.cluster.ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")


def preempted_in_good_time(job: Job) -> None:
    """The same where the partition has a grace time: the steps alone hear of it."""
    job.cluster.ask("scontrol", "update", "PartitionName=main", "GraceTime=120")
    preempted(job)
    job.cluster.wait_until(lambda: "PENDING" in job.cluster.job(job.number)["JobState"] or job.started() == 2, "")
    job.cluster.ask("scontrol", "update", "PartitionName=main", "GraceTime=0")


@pytest.mark.parametrize("disturbed", [
    signalled, preempted, pytest.param(preempted_in_good_time, marks=pytest.mark.thorough)],
    ids=lambda one: one.__name__)
def test_a_job_that_makes_room_goes_on_by_itself(job, undisturbed, disturbed):
    job.submit(*LONG).meet(step=10)
    disturbed(job)
    ended = job.finish()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), job.log()
    stopped = job.events("RunStopped")
    assert len(stopped) == 1 and "pretrain at step" in stopped[0]["reason"]
    resumed = [event["from_step"] for event in job.events("StageStarted") if event["from_step"]]
    assert len(resumed) == 1 and resumed[0] >= 10 and resumed[0] % 100  # where it stopped, not at a periodic one
    assert job.losses("pretrain") == undisturbed.losses("pretrain")


def test_a_run_that_is_asked_to_stop_is_not_queued_again(job):
    job.submit(*LONG, nodes=1).meet(step=10)
    subprocess.run([Path(COMMAND[0]).with_name("mux"), "stop", job.path], check=True, capture_output=True, timeout=120)
    ended = job.finish()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "75:0", "0")
    assert job.events()[-1]["event"] == "RunStopped"


def test_a_cancelled_job_saves_and_leaves_nothing(job, cluster):
    job.submit(*LONG).meet(step=10)
    ranks = [process for process in cluster.processes() if "mux.worker" in " ".join(process.cmdline())]
    assert {hosts_of(process) for process in ranks} >= set(cluster.nodes)
    assert not [process for process in cluster.processes() if SECRET in "".join(process.environ().values())]
    cluster.ask("scancel", job.number)
    cluster.wait_until(lambda: not cluster.processes(), "nothing of the job is left")
    ended = job.finish()
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert job.events()[-1]["event"] == "RunStopped", job.log()


def hosts_of(process) -> str:
    """The node that a rank is on."""
    return process.environ()["SLURMD_NODENAME"]


@pytest.mark.thorough
def test_a_node_that_fails_ends_the_run(job, cluster):
    job.submit(*LONG).meet(step=10)
    lost = cluster.hosts.names[1]
    cluster.kill_node(lost)
    try:
        cluster.wait_until(lambda: job.events("RunFailed"), "the run has failed")
        # A job whose node SLURM has missed for SlurmdTimeout is queued again; it may have failed before that.
        ended = cluster.wait_for(job.number, "FAILED", "PENDING")
        assert ended["JobState"] == "PENDING" or ended["ExitCode"] == "1:0", job.log()
        cluster.wait_until(lambda: not cluster.processes(), "nothing of the job is left")
    finally:
        cluster.empty()
        cluster.start_node(lost)


def test_what_slurm_refuses_leaves_nothing(job, cluster):
    done = job.launch("--slurm", "--set", "slurm.gpus_per_node=2", "--set", 'slurm.partition="nowhere"', recipe=RECIPE)
    assert done.returncode == 2 and "invalid partition specified: nowhere" in done.stderr
    assert not job.path.exists() and not cluster.ask("squeue", "-h")
