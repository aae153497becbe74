"""Compares the arms of an experiment, pair by pair."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ..experiment import Measure
from . import statistics
from .results import Results

# Data settings that change neither the rows nor the masks of a run's own evaluation.
_SAME_ROWS = {"data.masking", "data.dupe_factor", "data.batch_size"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Holds the comparison of an arm with the first one, or the one it names, over the seeds that both have finished.

    Attributes:
      measure: the measure.
      first, arm: names of the arms; differences are `arm` - `first`.
      paired: statistics of the differences.
      seeds: seeds of the pairs.
      left_out: seeds of the experiment without a pair.
      adjusted_p: paired.p adjusted for all comparisons of the report (Holm); None without a p.
    """

    measure: Measure
    first: str
    arm: str
    paired: statistics.Paired
    seeds: Sequence[int]
    left_out: Sequence[int]
    adjusted_p: float | None = None

    @property
    def better(self) -> bool:
        """Returns whether the mean difference favours the arm."""
        return (self.paired.mean > 0) == self.measure.higher_is_better


@dataclasses.dataclass(frozen=True)
class Compared:
    """Holds the results of a measure in all arms that it applies to.

    Attributes:
      measure: the measure.
      values: {arm: {seed: finite value}}.
      missing: names of finished jobs without a finite value.
      comparisons: one for each arm but the first.
    """

    measure: Measure
    values: Mapping[str, Mapping[int, float]]
    missing: Sequence[str]
    comparisons: Sequence[Comparison]


def compare(results: Results) -> list[Compared]:
    """Compares the arms by every measure of an experiment, as far as its jobs are done."""
    measures = [_compared(results, measure) for measure in results.measures]
    tested = [test for compared in measures for test in compared.comparisons if test.paired.p is not None]
    adjusted = dict(zip(map(id, tested), statistics.holm([test.paired.p for test in tested]), strict=True))
    return [
        dataclasses.replace(
            compared,
            comparisons=[dataclasses.replace(test, adjusted_p=adjusted.get(id(test))) for test in compared.comparisons],
        )
        for compared in measures
    ]


def own_questions(results: Results, compared: Compared) -> list[str]:
    """Returns the keys changed by arms that make a run's own evaluation differ between arms: other rows or masks."""
    if not compared.measure.key.startswith("eval"):
        return []
    changed = [results.arms[arm] for arm in compared.values]
    keys = sorted(
        {key for changes in changed for key in changes if key.startswith(("data.", "objective."))} - _SAME_ROWS
    )
    return [key for key in keys if any(changes.get(key) != changed[0].get(key) for changes in changed)]


def _compared(results, measure):
    arms = [arm for arm in results.arms if arm in measure.only or not measure.only]
    values, missing = {}, []
    for arm in arms:
        metrics = {job.seed: job.metrics.get(measure.key, math.nan) for job in results.done(arm)}
        values[arm] = {seed: value for seed, value in metrics.items() if math.isfinite(value)}
        missing += [f"{arm}/seed-{seed}" for seed in metrics if seed not in values[arm]]
    comparisons = []
    for arm in arms[1:]:
        against = results.against.get(arm, arms[0])
        first, other = values.get(against, {}), values[arm]
        seeds = [seed for seed in results.seeds if seed in first and seed in other]
        paired = statistics.compare([first[seed] for seed in seeds], [other[seed] for seed in seeds])
        left_out = [seed for seed in results.seeds if seed not in seeds]
        comparisons.append(Comparison(measure, against, arm, paired, seeds, left_out))
    return Compared(measure, values, missing, comparisons)
