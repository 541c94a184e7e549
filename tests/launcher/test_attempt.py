"""What is done with a job's logs once it has ended; starts of jobs themselves are in test_runs.py and tests/faults."""

from pathlib import Path

import pytest

from launcher import attempt

TOKEN = "ghp_0123456789abcdefghij"


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "gpu-01.0.node.log"


def test_secrets_are_taken_out_of_a_log(log, monkeypatch):
    """Wherever they stand; all other bytes stay as they are."""
    monkeypatch.setattr(attempt, "LOG_BLOCK", 100)
    around = b"a line\r\n\xff\x00 another\n" * 20
    log.write_bytes(around + f"set {TOKEN}\n".encode() + around + TOKEN.encode())
    attempt.redact(log)
    assert log.read_bytes() == around + b"set [redacted]\n" + around + b"[redacted]"
    assert log.stat().st_mode & 0o777 == 0o600 and list(log.parent.iterdir()) == [log]


def test_a_log_without_any_is_left_alone(log):
    """A rank that is out of reach may still write to it."""
    log.write_bytes(b"all is well \xff\r\n" * 1000)
    before = log.stat()
    attempt.redact(log)
    after = log.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
