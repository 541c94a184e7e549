"""Two hosts for the tests with the mark `multihost`. Where there can be none they are skipped; in CI they fail."""

import os
from collections.abc import Iterator

import pytest

from tests.hosts.namespaces import Namespaces, unavailable


@pytest.fixture(scope="session")
def hosts(tmp_path_factory) -> Iterator[Namespaces]:
    """Two hosts, reached over ssh, with one slot each in their hostfile."""
    if reason := unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    made = Namespaces.up(tmp_path_factory.mktemp("hosts"))
    yield made
    made.down()


@pytest.fixture
def whole(hosts) -> Iterator[Namespaces]:
    """The hosts, mended and empty again after a test that harms them."""
    yield hosts
    for name in hosts.names:
        hosts.mend(name)
        hosts.continue_sshd(name)
        for process in hosts.processes(name):
            process.kill()
