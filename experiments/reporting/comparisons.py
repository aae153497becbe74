"""Which figures are compared with which."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ..experiment import Measure
from . import statistics
from .results import Results

# Settings of data that leave the rows of the runs' own evaluation, and what is masked in them, as they are.
_SAME_ROWS = {"data.masking", "data.dupe_factor", "data.batch_size"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm against the first one of a measure, or the one that it names, by seeds that both have a figure of.

    Attributes:
      measure: what is compared.
      first, arm: names; differences are `arm` - `first`.
      paired: the differences.
      seeds: of the pairs.
      left_out: seeds of the experiment that are no pair.
      adjusted_p: paired.p with all comparisons of the report allowed for (Holm); None without a p.
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
        """Whether the mean difference is to the arm's good."""
        return (self.paired.mean > 0) == self.measure.higher_is_better


@dataclasses.dataclass(frozen=True)
class Compared:
    """A measure in the arms that it is for.

    Attributes:
      measure: what was measured.
      values: of each arm, finite ones by seed.
      missing: finished jobs without a finite figure.
      comparisons: one for each arm but the first.
    """

    measure: Measure
    values: Mapping[str, Mapping[int, float]]
    missing: Sequence[str]
    comparisons: Sequence[Comparison]


def compare(results: Results) -> list[Compared]:
    """All measures of an experiment, as far as its jobs are done."""
    found = [_compared(results, measure) for measure in results.measures]
    every = [one for compared in found for one in compared.comparisons if one.paired.p is not None]
    adjusted = dict(zip(map(id, every), statistics.holm([one.paired.p for one in every]), strict=True))
    return [
        dataclasses.replace(
            compared,
            comparisons=[dataclasses.replace(one, adjusted_p=adjusted.get(id(one))) for one in compared.comparisons],
        )
        for compared in found
    ]


def own_questions(results: Results, compared: Compared) -> list[str]:
    """What arms change, by key, that makes a measure of the runs' own evaluation ask each of them something else."""
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
        figures = {job.seed: job.figures.get(measure.key, math.nan) for job in results.done(arm)}
        values[arm] = {seed: value for seed, value in figures.items() if math.isfinite(value)}
        missing += [f"{arm}/seed-{seed}" for seed in figures if seed not in values[arm]]
    comparisons = []
    for arm in arms[1:]:
        against = results.against.get(arm, arms[0])
        first, other = values.get(against, {}), values[arm]
        seeds = [seed for seed in results.seeds if seed in first and seed in other]
        paired = statistics.compare([first[seed] for seed in seeds], [other[seed] for seed in seeds])
        left_out = [seed for seed in results.seeds if seed not in seeds]
        comparisons.append(Comparison(measure, against, arm, paired, seeds, left_out))
    return Compared(measure, values, missing, comparisons)
