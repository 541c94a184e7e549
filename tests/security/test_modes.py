"""A run is its owner's alone, whatever umask it was started under."""

from __future__ import annotations

import stat

import pytest

pytestmark = pytest.mark.processes


def test_every_file_and_folder_is_private(guarded) -> None:
    """The run, the folder of runs that it made, and the cache; started under umask 000."""
    place = guarded.path.parent.parent
    found = [path for root in (place / "runs", place / "cache") for path in (root, *root.rglob("*"))]
    assert {"checkpoints", "model", "logs", "cache", "trainings"} <= {path.name for path in found}
    assert any(path.suffix == ".pt" for path in found) and any(path.suffix == ".parquet" for path in found)
    odd = {str(path): oct(path.lstat().st_mode) for path in found if not path.is_symlink()
           and stat.S_IMODE(path.lstat().st_mode) != (0o700 if path.is_dir() else 0o600)}
    assert odd == {}
