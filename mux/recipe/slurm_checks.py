"""What must hold in [slurm] beyond the type of each key: SLURM takes it, and there is time to save in."""

from __future__ import annotations

from collections.abc import Iterator

from mux.recipe.refusal import Finding
from mux.recipe.schema import SlurmSection

MOST_TIME_LETTERS = 20  # millions of years


def findings(slurm: SlurmSection) -> Iterator[Finding]:
    """Everything that does not hold in a section of valid types."""
    if len(slurm.time) > MOST_TIME_LETTERS:
        yield Finding(("slurm", "time"), "is longer than any machine lives", 'such as time = "1-00:00:00", a day')
    elif 0 < seconds(slurm.time) <= slurm.signal_seconds:
        yield Finding(("slurm", "signal_seconds"), f"{slurm.signal_seconds:,} s before its end a job of "
                      f'time = "{slurm.time}" has not begun', "a smaller number, or a longer time",
                      ("slurm", "time"))


def seconds(time: str) -> int:
    """A time as sbatch reads it: minutes[:seconds], hours:minutes:seconds or days-hours[:minutes[:seconds]]; 0 for one
    without end."""
    days, dash, clock = time.rpartition("-")
    numbers = [int(part) for part in clock.split(":")]
    if not dash and len(numbers) < 3:
        numbers.insert(0, 0)  # the clock begins with the minutes
    hours, minutes, rest = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest
