"""The hosts that the other tests here stand on are hosts: a name, a network and an sshd of their own."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.multihost


def ssh(hosts, name, *words):
    return subprocess.run(["ssh", "-o", "ConnectTimeout=2", "-o", "BatchMode=yes", name, *words], text=True,
                          capture_output=True, env=os.environ | hosts.environment)


def test_each_has_a_name_and_a_network_of_its_own(hosts):
    found = [ssh(hosts, name, "hostname; ip -o -4 addr show eth0").stdout for name in hosts.names]
    assert [text.split()[0] for text in found] == [hosts.namespace(name) for name in hosts.names]
    assert all(name in text for name, text in zip(hosts.names, found, strict=True))
    assert [line.split()[0] for line in hosts.hostfile.read_text().splitlines()] == list(hosts.names)


def test_a_host_can_be_cut_off_and_emptied(whole):
    first, second = whole.names
    with subprocess.Popen(["ssh", second, "exec sleep 300"], env=os.environ | whole.environment) as sleeper:
        while not whole.processes(second):
            assert sleeper.poll() is None
        whole.cut(second)
        assert ssh(whole, second, "true").returncode == 255
        assert ssh(whole, first, "true").returncode == 0 and not whole.processes(first)
        whole.mend(second)
        for process in whole.processes(second):
            process.kill()
        assert sleeper.wait(30) != 0
    assert ssh(whole, second, "true").returncode == 0


def test_mounts_are_a_hosts_own(whole, tmp_path):
    (tmp_path / "file").write_text("all have it")
    whole.inside(whole.names[1], "mount", "-t", "tmpfs", "none", str(tmp_path))
    try:
        assert ssh(whole, whole.names[0], f"cat {tmp_path}/file").stdout == "all have it"
        assert "No such file" in ssh(whole, whole.names[1], f"cat {tmp_path}/file").stderr
    finally:
        whole.inside(whole.names[1], "umount", str(tmp_path))
