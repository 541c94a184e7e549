"""Folders appear whole or not at all."""

from pathlib import Path

import pytest

from mux.hub.folder import written_whole


def test_a_folder_appears_at_the_end(tmp_path: Path):
    place = tmp_path / "new" / "model"
    with written_whole(place) as part:
        (part / "file").write_text("all of it")
        assert not place.exists()
    assert (place / "file").read_text() == "all of it"
    assert [path.name for path in place.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(error: BaseException, tmp_path: Path):
    with pytest.raises(type(error)), written_whole(tmp_path / "model") as part:
        (part / "file").touch()
        raise error
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="exists already"), written_whole(place):
            pass
    assert (tmp_path / "file").read_text() == "mine"
