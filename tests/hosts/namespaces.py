"""Hosts for tests: network namespaces of this machine, with their own sshd, host key, hostname, link and mounts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
NEEDED = ("ip", "ssh", "ssh-keygen", "/usr/sbin/sshd", "nsenter", "unshare")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def unavailable() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if os.geteuid() != 0:
        return "hosts as network namespaces need root"
    if missing := [tool for tool in NEEDED if not shutil.which(tool)]:
        return f"there is no {', no '.join(missing)} here (Debian: apt install openssh-server iproute2)"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return f"no namespaces can be made here: {done.stderr.strip()}" if done.returncode else None


def prefix(letter: str) -> str:
    """Of this process alone, 6 characters at most; another letter for each set of hosts that it makes."""
    number, text = os.getpid(), ""
    while number:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return letter + text


def subnet() -> str:
    """Three numbers of a /24 that no interface here is in."""
    taken = {address.address.rpartition(".")[0] for found in psutil.net_if_addrs().values() for address in found}
    free = (f"10.{77 + (os.getpid() + more) // 256 % 100}.{(os.getpid() + more) % 256}" for more in range(25_600))
    return next(one for one in free if one not in taken)


@dataclass(frozen=True)
class Namespaces:
    """Hosts that are up. Hosts go by their addresses, which is what `hostfile` names them by."""

    folder: Path  # keys, known_hosts, hostfile, bin/ssh
    prefix: str
    names: tuple[str, ...]  # 10.77.3.1, 10.77.3.2, ...

    @classmethod
    def up(cls, folder: Path, letter: str = "m", count: int = 2) -> Namespaces:
        made = cls(folder, prefix(letter), tuple(f"{net}.{i}" for net in [subnet()] for i in range(1, count + 1)))
        net = made.names[0].rpartition(".")[0]
        subprocess.run([HERE / "namespaces_up.sh", folder, made.prefix, net, str(count)], check=True)
        return made

    def down(self) -> None:
        subprocess.run([HERE / "namespaces_down.sh", self.prefix], check=True)

    @property
    def hostfile(self) -> Path:
        return self.folder / "hostfile"

    @property
    def environment(self) -> dict[str, str]:
        """What a launcher needs to reach them: their ssh."""
        return {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def namespace(self, name: str) -> str:
        """The namespace of a host, which is its hostname, too."""
        return f"{self.prefix}{self._number(name)}"

    def cut(self, name: str) -> None:
        """Pull the plug of its network."""
        subprocess.run(["ip", "link", "set", f"{self.prefix}v{self._number(name)}", "down"], check=True)

    def mend(self, name: str) -> None:
        subprocess.run(["ip", "link", "set", f"{self.prefix}v{self._number(name)}", "up"], check=True)

    def processes(self, name: str) -> list[psutil.Process]:
        """What lives on a host, beside its sshd."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace(name)], capture_output=True, text=True, check=True)
        found = []
        for pid in map(int, done.stdout.split()):
            try:
                process = psutil.Process(pid)
                if process.name() != "sshd" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def emptied(self, *names: str, seconds: float = 10) -> bool:
        """Whether nothing but sshd lives on these hosts, all by default, after so long at most."""
        until = time.monotonic() + seconds
        while left := any(map(self.processes, names or self.names)):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        return not left

    def inside(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run something on a host, in its network and with its mounts."""
        return subprocess.run(["nsenter", f"--target={self._sshd(name)}", "--net", "--uts", "--mount", "--", *argv],
                              capture_output=True, text=True, check=True)

    def stop_sshd(self, name: str) -> None:
        os.kill(self._sshd(name), signal.SIGSTOP)

    def continue_sshd(self, name: str) -> None:
        os.kill(self._sshd(name), signal.SIGCONT)

    def _sshd(self, name: str) -> int:
        return int((self.folder / f"sshd_{self._number(name)}.pid").read_text())

    @staticmethod
    def _number(name: str) -> str:
        return name.rpartition(".")[2]
