"""Schedulers without one: what an allocation's variables mean, and the batch script that `--slurm` writes."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import allocation, batch, reach, start
from mux.plan import Host
from mux.recipe import Refusal

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "recipes" / "tiny.toml"
COMMAND = [str(Path(sys.executable).parent / "mux-launch"), "tests/recipes/tiny.toml", "--slurm"]
CPU = ("slurm.gpus_per_node=0", "slurm.nodes=2", "cluster.processes=2")


# --- an allocation of SLURM -----------------------------------------------------------------------
@pytest.fixture
def variables(tmp_path, monkeypatch) -> dict[str, str]:
    """Those of a job on two nodes; scontrol needs to know of some cluster."""
    if not shutil.which("scontrol"):
        if os.environ.get("CI") == "true":
            pytest.fail("there is no scontrol (Debian: apt install slurm-client)")
        pytest.skip("there is no scontrol (Debian: apt install slurm-client)")
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    return {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "gpu[08-09]", "SLURM_JOB_NUM_NODES": "2"}


def test_hosts_come_from_the_allocation(variables):
    found = allocation.cluster(3, variables | {"SLURMD_NODENAME": "gpu09"})
    assert found.hosts == (Host(name="gpu08", slots=3), Host(name="gpu09", slots=3, local=True))
    assert (found.device, found.source, found.reach) == ("cpu", "SLURM job 12", "srun")


@pytest.mark.parametrize(
    ("gpus", "slots"),
    [
        ({"SLURM_GPUS_PER_NODE": "4"}, 4),
        ({"SLURM_GPUS_PER_NODE": "a100:4,v100:2", "SLURM_GPUS_ON_NODE": "8"}, 6),
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_GPUS": "0,1"}, 8),
        ({"SLURM_JOB_GPUS": "2,3,7"}, 3),
    ],
)
def test_slots_are_the_gpus_that_slurm_gives(variables, gpus, slots):
    found = allocation.cluster(1, variables | gpus)
    assert [host.slots for host in found.hosts] == [slots, slots] and found.device == "cuda"
    without = allocation.cluster(1, variables | gpus | {"CUDA_VISIBLE_DEVICES": ""})
    assert [host.slots for host in without.hosts] == [1, 1] and without.device == "cpu"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"SLURM_JOB_ID": "1\x1b[2J"}, "$SLURM_JOB_ID: is '1\\x1b[2J'"),
        ({"SLURM_JOB_NODELIST": None}, "$SLURM_JOB_NODELIST: is not set"),
        ({"SLURM_JOB_NODELIST": "-oProxyCommand=x"}, "$SLURM_JOB_NODELIST: is '-oProxyCommand=x'"),
        ({"SLURM_JOB_NODELIST": "a;$(touch x)"}, "$SLURM_JOB_NODELIST"),
        ({"SLURM_JOB_NODELIST": "gpu[1"}, "is no list of different nodes"),
        ({"SLURM_JOB_NODELIST": "gpu[9-1]"}, "is no list of different nodes"),
        ({"SLURM_JOB_NODELIST": "gpu[1-99999999]"}, "is no list of different nodes"),
        ({"SLURM_JOB_NODELIST": "gpu1,gpu1"}, "is no list of different nodes"),
        ({"SLURM_JOB_NUM_NODES": "3"}, "names 2 nodes, but SLURM_JOB_NUM_NODES is 3"),
        ({"SLURM_JOB_NUM_NODES": "9" * 5000}, "$SLURM_JOB_NUM_NODES"),
        ({"SLURM_GPUS_PER_NODE": "many"}, "$SLURM_GPUS_PER_NODE: is 'many'"),
        ({"SLURM_GPUS_ON_NODE": "-1"}, "$SLURM_GPUS_ON_NODE: is '-1'"),
        ({"SLURM_GPUS_ON_NODE": "9999"}, "$SLURM_GPUS_ON_NODE: says 9999 GPUs"),
    ],
)
def test_variables_that_no_scheduler_wrote(variables, changed, told):
    wrong = {name: value for name, value in (variables | changed).items() if value is not None}
    with pytest.raises(Refusal) as caught:
        allocation.cluster(1, wrong)
    assert told in str(caught.value) and "--hostfile" in str(caught.value)


def test_a_hostfile_wins_over_the_allocation(variables, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    ask = start.Request(TINY, None, ("cluster.processes=1",), tmp_path / "r", None, "auto", False)
    assert start.planned(ask)[1].cluster.source == "SLURM job 12"
    named = start.Request(TINY, tmp_path / "hosts", (), tmp_path / "r", None, "auto", False)
    assert start.planned(named)[1].cluster.source == str(tmp_path / "hosts")


# --- PBS, LSF -------------------------------------------------------------------------------------
def test_a_node_file_has_a_line_a_slot(tmp_path):
    nodes = tmp_path / "nodes"
    nodes.write_text("n1\nn1\nn2\n\nn2\nlocalhost\n")
    for variable, job, source in (("PBS_NODEFILE", "PBS_JOBID", "PBS job 7.server"),
                                  ("LSB_DJOB_HOSTFILE", "LSB_JOBID", "LSF job 7.server")):
        found = allocation.cluster(5, {variable: str(nodes), job: "7.server"})
        assert [(host.name, host.slots, host.local) for host in found.hosts] == [
            ("n1", 2, False), ("n2", 2, False), ("localhost", 1, True)]
        assert (found.source, found.reach) == (source, "ssh")
    assert allocation.cluster(5, {}) is None


@pytest.mark.parametrize(("text", "told"), [
    (None, "no such"), ("", "names no host"), ("a b\n", "1 lines 'a b'"), ("-oProxyCommand=x\n", "'-oProxyCommand=x'"),
    ("n1\n" * 2000, "2000 lines 'n1'"), ("n1;\x1b[2J\n", "'n1;\\x1b[2J'")])
def test_a_node_file_that_is_none(tmp_path, text, told):
    if text is not None:
        (tmp_path / "nodes").write_text(text)
    with pytest.raises(Refusal) as caught:
        allocation.cluster(1, {"PBS_NODEFILE": str(tmp_path / "nodes")})
    assert told in str(caught.value) and "\x1b" not in str(caught.value)


# --- srun -----------------------------------------------------------------------------------------
def test_srun_takes_words_not_text():
    argv = reach.srun_command(Host(name="n2", slots=1), ["python", "-c", "$(x) `y` %j"], {"A": "1,B=2 $HOME"}, "/a b")
    assert argv[0] == "srun" and argv[-5:] == ["env", "A=1,B=2 $HOME", "python", "-c", "$(x) `y` %j"]
    assert "--nodelist=n2" in argv and "--chdir=/a b" in argv
    exported = next(word for word in argv if word.startswith("--export=")).partition("=")[2].split(",")
    assert not {"ALL", "HF_TOKEN"} & set(exported)


# --- the batch script -----------------------------------------------------------------------------
def launch(*options, cwd=ROOT, environment=None):
    return subprocess.run([*COMMAND, *options], cwd=cwd, capture_output=True, text=True, timeout=60,
                          env=os.environ | (environment or {}))


def dry(*overrides, run_dir="r", recipe=TINY, stages=None) -> str:
    request = start.Request(recipe, None, overrides, Path(run_dir), stages, "auto", False, slurm=True)
    _, made, _ = start.planned(request)
    return batch.script(request, made)


def options(text: str) -> dict[str, str]:
    """As sbatch reads them."""
    words = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in text.splitlines() if line.startswith("#SBATCH")]
    return dict(word.removeprefix("--").partition("=")[::2] for word in words)


def test_a_dry_run_prints_the_script_and_needs_no_slurm(tmp_path):
    done = launch("--dry-run", "--set", "slurm.gpus_per_node=2", "--run-dir", str(tmp_path / "r"),
                  environment={"PATH": "/nonexistent"})
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("#!/bin/bash\n") and not list(tmp_path.iterdir())
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    code = f"""
import sys
from launcher import cli
try:
    cli.launch({[*COMMAND[1:], "--dry-run", "--set", "slurm.gpus_per_node=2"]!r}, standalone_mode=False)
except SystemExit:
    pass
assert not {{"torch", "numpy", "transformers", "deepspeed"}} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_the_script_asks_for_what_the_recipe_says():
    text = dry("slurm.nodes=2", "slurm.gpus_per_node=2", 'slurm.time="12:00:00"', 'slurm.partition="long"',
               'slurm.account="lab+1"', 'slurm.constraint="a100"', "slurm.signal_seconds=300")
    found = options(text)
    assert found | {"export": "", "output": ""} == {
        "job-name": "tiny", "nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "2", "time": "12:00:00",
        "partition": "long", "account": "lab+1", "constraint": "a100", "exclusive": "", "mem": "0",
        "signal": "B:USR1@300", "requeue": "", "open-mode": "append", "output": "", "export": ""}
    assert found["output"] == f"{Path('r').absolute()}/logs/slurm-%j.log"
    assert not [name for name in found["export"].split(",") if "TOKEN" in name or "KEY" in name or name == "ALL"]
    assert "gpus-per-node" not in options(dry(*CPU)) and "CUDA_VISIBLE_DEVICES= " in dry(*CPU)


def test_no_word_of_the_users_is_read_by_sbatch_or_the_shell(tmp_path):
    nasty = "-$(touch pwned) `touch pwned` \"q\" 'q' %j %% #SBATCH --wrap=x; &"
    source = f"corpus.sources=['path:{nasty.replace(chr(39), '')}']"
    text = dry(*CPU, source, run_dir=tmp_path / nasty, stages="pretrain")
    assert options(text)["output"] == f"{tmp_path}/{nasty}".replace("%", "%%") + "/logs/slurm-%j.log"
    words = shlex.split(next(line for line in text.splitlines() if line.endswith("--plain &")).removesuffix(" &"))
    assert words[words.index("--run-dir") + 1] == f"{tmp_path}/{nasty}"
    assert source in words and words[words.index("--stages") + 1] == "pretrain"
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x1bb", "a\u202eb"])
def test_paths_that_a_script_cannot_name(name, tmp_path):
    with pytest.raises(Refusal, match="a batch script cannot name this path"):
        dry(*CPU, run_dir=tmp_path / name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--hostfile", "hostfiles/8x_a100.txt"), "--hostfile: does not go with --slurm"),
        (("--detach",), "--detach: does not go with --slurm"),
        (("--set", "slurm.gpus_per_node=2", "--resume", "required"), "there is no run to go on with"),
        (("--set", "slurm.gpus_per_node=2", "--stages", "nope"), "there is no stage 'nope'"),
        (("--set", "slurm.nodes=3"), "batch 4 is not a multiple of 24 devices"),
        (("--set", "slurm.partition=\"-x\""), "slurm.partition"),
        (("--set", "slurm.partition=\"a\\nb\""), "slurm.partition"),
        (("--set", "slurm.time=\"soon\""), "slurm.time"),
        (("--set", f"slurm.time=\"{'9' * 5000}-1\""), "slurm.time"),
        (("--set", "slurm.time=\"2\""), "slurm.signal_seconds: 120 s before its end"),
        (("--set", "slurm.nodes=1000000000000"), "slurm.nodes: 1,000,000,000,000 are more than 10,000"),
        (("--set", "slurm.signal_seconds=70000", "--set", "slurm.time=\"0\""), "must be at most 65,535"),
        (("--set", "slurm.gpus_per_node=2"), "there is no sbatch here"),
    ],
)
def test_refusals(words, told, tmp_path):
    done = launch("--run-dir", str(tmp_path / "r"), *words, environment={"PATH": "/nonexistent"})
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
