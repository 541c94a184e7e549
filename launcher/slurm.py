"""Starting processes on the other nodes of a SLURM allocation: `srun` in the place of ssh."""

from __future__ import annotations

from mux.run import Host

# What a login to a node would set, and what environment modules do. All else that crosses is named by the launcher.
LOGIN = ("HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER")

# One process on one node, beside all other steps of the job, with all that the job has of the node. Its stdin, which
# is the launcher's lease, is ours; when it fails nothing waits.
STEP = ("--nodes=1", "--ntasks=1", "--overlap", "--mem=0", "--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=1",
        "--quiet")


def srun_command(host: Host, argv: list[str], variables: dict[str, str], directory: str) -> list[str]:
    """`argv` on another node of this job. No shell is between; of our environment only LOGIN goes along."""
    settings = [f"{name}={value}" for name, value in sorted(variables.items())]
    return ["srun", *STEP, f"--nodelist={host.name}", f"--export={','.join(LOGIN)}", f"--chdir={directory}",
            "env", *settings, *argv]
