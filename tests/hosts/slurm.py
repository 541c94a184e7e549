"""A SLURM cluster for tests: real daemons, each node in a network namespace of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.hosts import namespaces
from tests.hosts.namespaces import Namespaces

HERE = Path(__file__).parent
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
DAEMONS = ("slurmd", "slurmstepd")


def unavailable() -> str | None:
    """Why there can be no such cluster here; None if there can."""
    missing = [tool for tool in NEEDED if not shutil.which(tool, path=PATH)]
    return namespaces.unavailable() or (
        f"there is no {', no '.join(missing)} here (Debian: apt install slurmctld slurmd slurm-client munge)"
        if missing else None)


@dataclass(frozen=True)
class Slurm:
    """A cluster that is up, of two nodes with two cores each and what SLURM takes for two GPUs."""

    hosts: Namespaces

    @classmethod
    def up(cls, folder: Path) -> Slurm:
        made = cls(Namespaces.up(folder, letter="s"))
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        net = made.hosts.names[0].rpartition(".")[0]
        words = [HERE / "slurm_up.sh", folder, made.hosts.prefix, net, str(len(made.hosts.names)), str(port)]
        try:
            subprocess.run(words, check=True, env=os.environ | {"PATH": PATH})
            made.wait_until(lambda: made.ask("sinfo", "-h", "-o", "%T").split() == ["idle"], "the nodes are idle")
        except BaseException:
            made.down()
            raise
        return made

    def down(self) -> None:
        subprocess.run([HERE / "slurm_down.sh", self.hosts.folder], check=True)
        self.hosts.down()

    @property
    def environment(self) -> dict[str, str]:
        """What sbatch and all others need to reach it."""
        return {"SLURM_CONF": str(self.hosts.folder / "slurm.conf")}

    @property
    def nodes(self) -> list[str]:
        return [self.hosts.namespace(name) for name in self.hosts.names]

    def ask(self, *argv: str) -> str:
        done = subprocess.run(argv, env=os.environ | self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job: JobState, Restarts, ExitCode and so on."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_until(self, true: Callable[[], object], what: str, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, f"not so in {seconds} s: {what}\n{self.ask('squeue')}"
            time.sleep(0.2)

    def wait_for(self, number: str, *states: str) -> dict[str, str]:
        """The job as it is when it has come to one of these states."""
        self.wait_until(lambda: self.job(number)["JobState"] in states, f"job {number} is {' or '.join(states)}")
        return self.job(number)

    def processes(self) -> list[psutil.Process]:
        """What jobs have running, on any node."""
        return [process for name in self.hosts.names for process in self.hosts.processes(name)
                if process.name() not in DAEMONS]

    def kill_node(self, name: str) -> None:
        """As if its power were off: everything on it is gone at once."""
        for _ in range(2):  # what is being started while we look is found the next time
            for process in self.hosts.processes(name):
                process.kill()

    def start_node(self, name: str) -> None:
        subprocess.run([HERE / "slurm_node_up.sh", self.hosts.folder, self.hosts.namespace(name)], check=True,
                       env=os.environ | {"PATH": PATH})
        self.wait_until(lambda: self.ask("sinfo", "-h", "-o", "%T").split() == ["idle"], "the nodes are idle")

    def empty(self) -> None:
        """Cancel every job, and wait until the nodes are free again."""
        self.ask("scancel", "--user=root")
        self.wait_until(lambda: not self.ask("squeue", "-h"), "no job is left")
