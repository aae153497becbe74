"""Means, spreads, and paired differences with their intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of one arm's figures.

    Attributes:
      n: how many.
      mean: nan where there is none.
      deviation: the sample's standard deviation (n - 1); None for fewer than two.
    """

    n: int
    mean: float
    deviation: float | None


@dataclasses.dataclass(frozen=True)
class Paired:
    """Of the differences of pairs.

    Attributes:
      n: pairs.
      mean: of the differences; nan without pairs.
      deviation: of the differences; None for fewer than two.
      low, high: the 95 % confidence interval of the mean difference by Student's t; None where the pairs say nothing of
        the spread: there are fewer than two, or all differ by the same.
      p: two-sided, of the paired t-test; None without an interval.
    """

    n: int
    mean: float
    deviation: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def half_width(self) -> float | None:
        """How large a mean difference had to be, with this spread, for the interval to leave out 0."""
        return None if self.low is None else (self.high - self.low) / 2

    @property
    def leaves_out_zero(self) -> bool:
        return self.low is not None and (self.low > 0 or self.high < 0)


def summarize(values: Sequence[float]) -> Summary:
    """The mean and spread of an arm's figures."""
    if not values:
        return Summary(0, math.nan, None)
    return Summary(len(values), float(np.mean(values)), _deviation(values))


def compare(first: Sequence[float], other: Sequence[float]) -> Paired:
    """The differences `other` - `first`, pair by pair.

    Args:
      first, other: figures of the two arms, the i-th of both of the same seed.
    """
    differences = np.subtract(other, first, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return Paired(0, math.nan, None)
    mean, deviation = float(differences.mean()), _deviation(differences)
    # Equal differences are equal to the rounding of the figures that they are taken of.
    rounding = 1e-12 * float(np.abs([first, other]).max())
    if deviation is None or deviation <= rounding:
        return Paired(n, 0.0 if abs(mean) <= rounding else mean, deviation)
    error = deviation / math.sqrt(n)
    reach = t_quantile(n) * error
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, n - 1))
    return Paired(n, mean, deviation, mean - reach, mean + reach, p)


def t_quantile(n: int) -> float:
    """How many standard errors of the mean the interval of n pairs reaches to either side."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted for there being several (Holm 1979, "A simple sequentially rejective multiple test procedure"): the
    chance that any of them falls under 0.05 where no arms differ is 0.05, whatever their dependence."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
