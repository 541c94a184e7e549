"""The disk that checkpoints take where some stay for ever."""

import pytest

from launcher import footprint, memory, plan
from tests.launcher.test_plan import cluster, recipe


@pytest.mark.parametrize(("every", "kept"), [
    (None, 2), (20, 2 + 2),  # steps 20 .. 40 of 50, saved each 10
    (15, 2 + 1),  # of its multiples only 30 is saved
    (10, 5),  # all that are saved
    (1000, 2)])
def test_disk_with_checkpoints_that_stay(tmp_path, every, kept):
    keys = [] if every is None else [f"stages.pretrain.keep_every={every}"]
    loaded = recipe(tmp_path, "stages.pretrain.steps=50", "stages.pretrain.save_every=10", *keys)
    size = memory.pretraining(loaded.recipe.model, 1000)
    needs = footprint.disk(loaded.recipe, plan.make(loaded, cluster(2), tmp_path).stages, 2)
    assert needs["stage pretrain"] == (kept + 1) * (14 * size.trained + 2 * size.frozen) + 4 * size.total
