"""What every run scores on every task, against the first one without multiplexing, and which differences are noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from mux.report.measures import MEASURES, title
from mux.report.points import estimate, own_row
from mux.report.results import Run
from mux.report.scores import Scores
from mux.report.section import Section
from mux.report.tables import MINUS, NONE, Cell, Table, number, spread, text

LEAD = ("Mean ± one standard deviation over seeds, or over tickets where there is one seed; then the difference from "
        "{base}, in brackets if within noise: the 95 % interval of Student's t over seeds (or tickets) and test rows, "
        "which knows nothing of other pre-trainings, nor, of a task with one seed, of other fine-tunings.")
NONE_YET = "A finetune stage fills this, e.g. `mux-launch recipes/results/n2.toml`."


@dataclass(frozen=True)
class Score:
    """A task's score over the trainings of one run, as shares of 1."""

    mean: float
    spread: float | None  # one standard deviation over seeds, or of a single one over tickets; None: there is one value
    drawn: int  # how many seeds, or tickets
    sampling: float  # one standard deviation over sets of as many test rows

    @property
    def variance(self) -> float:
        """Of the mean, as far as seeds or tickets go."""
        return (self.spread or 0.0) ** 2 / self.drawn

    def noise(self, other: Score) -> float:
        """The largest difference of the two that may be chance, in 95 of 100 cases (Welch's test)."""
        variance = self.variance + other.variance + self.sampling**2 + other.sampling**2
        spent = sum(one.variance**2 / (one.drawn - 1) for one in (self, other) if one.drawn > 1)
        freedom = variance**2 / spent if spent else math.inf
        return float(student.ppf(0.975, freedom)) * math.sqrt(variance)


def section(runs: Sequence[Run]) -> Section:
    scored = {run: found for run in runs if (found := scores_of(run))}
    tasks = sorted({task for found in scored.values() for task in found}, key=_order)
    base = next((run for run in scored if run.model.N == 1), next(iter(scored), None))
    rows = [[text(run.label), number(run.model.N), *_speeds(run),
             *(_cell(found.get(task), scored[base].get(task) if base not in (None, run) else None) for task in tasks)]
            for run, found in scored.items()]
    table = Table("scores", "Scores in percent", ["run", "N", "times BERT BASE", "times own N = 1",
                                                  *map(title, tasks)], rows)
    return Section("scores", "Scores of these runs", LEAD.format(base=base.label if base else ""), NONE_YET,
                   tables=[table] if rows else [])


def scores_of(run: Run) -> dict[str, Score]:
    """By task; of a task that two stages tuned, the last."""
    return {task: score for task, scores in run.tuned.items() if (score := score_of(scores))}


def score_of(scores: Scores) -> Score | None:
    """None where nothing was measured."""
    kept = estimate(scores, scores.metric)
    if kept is None:
        return None
    seeds = [mean for mean in scores.seeds.values() if mean is not None]
    values = seeds if len(seeds) > 1 else [value for value in scores.tickets if value is not None]
    if len(set(values)) < 2:  # at N = 1 tickets do not differ: there is nothing to differ in
        return Score(statistics.fmean(values) if values else kept.mean, None, 1, kept.sampling)
    return Score(statistics.fmean(values), statistics.stdev(values), len(values), kept.sampling)


def _order(task: str) -> tuple[int, str]:
    """As the paper orders them, then others."""
    known = list(MEASURES)
    return (known.index(task) if task in known else len(known)), task


def _cell(score: Score | None, base: Score | None) -> Cell:
    if score is None:
        return Cell(NONE)
    words = spread(score.mean, score.spread).text
    if base is not None:
        difference = score.mean - base.mean
        signed = f"{100 * difference:+.1f}"
        words += f" ({signed})" if abs(difference) <= score.noise(base) else f" {signed}"
    return Cell(words.replace("-", MINUS), 100 * score.mean)


def _speeds(run: Run) -> tuple[Cell, Cell]:
    """Of classifiers of texts, as the run's own throughput stage timed them."""
    rows = [row for stage in run.stages("throughput") for row in stage.rows]
    own = own_row(run.model, rows, "sequence", "instances")
    return (number(own.ratio_to_bert_base if own else None, 2, "×"), number(own.ratio_to_n1 if own else None, 2, "×"))
