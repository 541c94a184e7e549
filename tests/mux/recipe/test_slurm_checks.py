"""Times as sbatch reads them."""

import pytest

from mux.recipe.slurm_checks import seconds

DAY, HOUR = 24 * 3600, 3600


@pytest.mark.parametrize(("time", "expected"), [
    ("30", 1800), ("30:15", 1815), ("12:00:00", 12 * HOUR), ("1-0", DAY), ("1-12", DAY + 12 * HOUR),
    ("1-12:30", DAY + 12 * HOUR + 1800), ("1-00:00:01", DAY + 1), ("0", 0)])
def test_seconds(time, expected):
    assert seconds(time) == expected
