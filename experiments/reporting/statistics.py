"""Computes means, standard deviations, and paired differences with confidence intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Summary:
    """Holds mean and spread of an arm's values.

    Attributes:
      n: number of values.
      mean: their mean; nan without values.
      deviation: sample standard deviation (n - 1); None for fewer than two values.
    """

    n: int
    mean: float
    deviation: float | None


@dataclasses.dataclass(frozen=True)
class Paired:
    """Holds statistics of the differences of pairs.

    Attributes:
      n: number of pairs.
      mean: mean difference; nan without pairs.
      deviation: standard deviation of the differences; None for fewer than two pairs.
      low, high: 95 % confidence interval of the mean difference by Student's t; None if the spread is unknown: there
        are fewer than two pairs, or all differences are equal.
      p: two-sided p value of the paired t-test; None without an interval.
    """

    n: int
    mean: float
    deviation: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def half_width(self) -> float | None:
        """Returns the smallest mean difference whose interval, with this spread, would exclude 0."""
        return None if self.low is None else (self.high - self.low) / 2

    @property
    def leaves_out_zero(self) -> bool:
        """Returns whether the interval excludes 0."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def summarize(values: Sequence[float]) -> Summary:
    """Returns the mean and spread of an arm's values."""
    if not values:
        return Summary(0, math.nan, None)
    return Summary(len(values), float(np.mean(values)), _deviation(values))


def compare(first: Sequence[float], other: Sequence[float]) -> Paired:
    """Returns the statistics of the differences `other` - `first`.

    Args:
      first, other: values of two arms; the i-th values of both have the same seed.
    """
    differences = np.subtract(other, first, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return Paired(0, math.nan, None)
    mean, deviation = float(differences.mean()), _deviation(differences)
    # Differences are considered equal up to the rounding of the values they are computed from.
    rounding = 1e-12 * float(np.abs([first, other]).max())
    if deviation is None or deviation <= rounding:
        return Paired(n, 0.0 if abs(mean) <= rounding else mean, deviation)
    error = deviation / math.sqrt(n)
    half_width = t_quantile(n) * error
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, n - 1))
    return Paired(n, mean, deviation, mean - half_width, mean + half_width, p)


@dataclasses.dataclass(frozen=True)
class Components:
    """Holds the spread of scores from pre-training and from fine-tuning, as standard deviations of single runs.

    Attributes:
      jobs: number of pre-trained models.
      seeds: smallest number of fine-tuning seeds of a model.
      pretraining: deviation between models, that of fine-tuning taken out; None for fewer than two models.
      fine_tuning: deviation between fine-tuning seeds of one model, pooled over models.
    """

    jobs: int
    seeds: int
    pretraining: float | None
    fine_tuning: float


def components(scores: Sequence[Sequence[float]]) -> Components | None:
    """Returns the variance components of scores [models][fine-tuning seeds], by the moments of a nested design.

    The variance of fine-tuning is the mean variance within models; that of pre-training is the variance between the
    models' means minus what fine-tuning adds to it, or 0 where that is negative (Searle et al. 1992, "Variance
    components", section 3.5).

    Returns:
      None where no model has two finite scores.
    """
    finite = [[score for score in model if math.isfinite(score)] for model in scores]
    several = [model for model in finite if len(model) > 1]
    if not several:
        return None
    within = float(np.average([np.var(model, ddof=1) for model in several], weights=[len(m) - 1 for m in several]))
    between = None
    if len(several) > 1:
        added = within * float(np.mean([1 / len(model) for model in several]))
        between = math.sqrt(max(0.0, float(np.var([np.mean(model) for model in several], ddof=1)) - added))
    return Components(len(several), min(map(len, several)), between, math.sqrt(within))


def t_quantile(n: int) -> float:
    """Returns the half-width of the confidence interval of n pairs, in standard errors of the mean."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Returns p values adjusted for multiple tests.

    If no arms differ, the chance that any adjusted value is below 0.05 is at most 0.05, whatever their dependence (Holm
    1979, "A simple sequentially rejective multiple test procedure").
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
