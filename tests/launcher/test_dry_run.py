"""Every recipe of the repository dry-runs on every hostfile and on this host."""

import subprocess
import sys
from pathlib import Path

import pytest

from launcher import start
from mux.recipe import load

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
HOSTFILES = [None, *sorted((ROOT / "hostfiles").glob("*.txt"))]


def name(recipe: Path) -> str:
    """results/hub/n5.toml is results_hub_n5."""
    return "_".join(recipe.relative_to(ROOT / "recipes").with_suffix("").parts)


def test_there_is_something_to_try():
    assert len(RECIPES) >= 90 and len(HOSTFILES) >= 3


@pytest.mark.parametrize("hostfile", HOSTFILES, ids=lambda path: path.stem if path else "this host")
@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_dry_run(recipe, hostfile, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stages = load(recipe).recipe.stages
    overrides = ()
    if name(recipe).startswith(("quickstart", "offline", "results")) and hostfile and hostfile.stem.startswith("8x"):
        trained = [stage.id for stage in stages if stage.kind in ("retrieval", "pretrain")]
        overrides = tuple(f"stages.{stage}.batch=64" for stage in trained)  # 16 groups for 64 devices
    text = start.preview(start.Request(recipe, hostfile, overrides, None, None, "auto", False))
    assert f"{name(recipe)}: dry run, nothing was started" in text
    assert "launcher.agent" in text and "mux.worker" in text
    only_timed = all(stage.kind == "throughput" for stage in stages)  # no optimizer, so no ZeRO and no batches
    assert ("ZeRO" in text and "groups = " in text) == (not only_timed)
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_batch_that_does_not_fit_is_refused_with_the_numbers_that_do():
    command = [str(Path(sys.executable).parent / "mux-launch"), "recipes/quickstart.toml",
               "--hostfile", "hostfiles/8x_a100.txt", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "batch 16 is not a multiple of 64 devices" in done.stderr and "Traceback" not in done.stderr
