"""Writes the sentences of a report, which claim no more than the intervals do."""

import math
from collections.abc import Sequence

from ..experiment import Measure
from . import statistics
from .comparisons import Compared, Comparison

ALPHA = 1 - statistics.CONFIDENCE


def number(value: float | None, signed: bool = False) -> str:
    """Formats a value with four decimals, or with two significant digits if it is smaller than 0.001."""
    if value is None or math.isnan(value):
        return "-"
    sign = "+" if signed and value else ""
    return f"{value:{sign}.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:{sign}.1e}"


def interval(paired: statistics.Paired) -> str:
    """Formats a 95 % confidence interval as "LOW to HIGH", or "-" without one."""
    return "-" if paired.low is None else f"{number(paired.low, True)} to {number(paired.high, True)}"


def direction(measure: Measure) -> str:
    """Returns "higher is better" or "lower is better"."""
    return f"{'higher' if measure.higher_is_better else 'lower'} is better"


def listed(words: Sequence) -> str:
    """Returns "a, b and c"."""
    *first, last = [str(word) for word in words]
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, noun: str) -> str:
    """Returns "1 pair" or "2 pairs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def comparison(test: Comparison, number_of_intervals: int) -> str:
    """Returns the result of a comparison of two arms in words.

    Args:
      test: the comparison.
      number_of_intervals: number of intervals in the whole report, this one included.
    """
    return f"{_finding(test, number_of_intervals)}{_left_out(test)}"


def _finding(test, number_of_intervals):
    paired, arms = test.paired, f"{test.arm} against {test.first}"
    difference = f"{number(paired.mean, True)} ({direction(test.measure)})"
    if paired.n == 0:
        return f"{arms}: no seed has a value in both, so they cannot be compared."
    if paired.n == 1:
        return (
            f"{arms}: a difference of {difference} in the one pair (seed {test.seeds[0]}). One pair has no spread, so "
            "there is no interval, and it is unknown whether this is more than noise."
        )
    if paired.low is None:
        same = "no difference in any" if paired.mean == 0 else f"a difference of {difference}, the same in all"
        return (
            f"{arms}: {same} of {paired.n} pairs. Differences without a spread give no interval, so it is unknown "
            "whether this would hold for other seeds."
        )
    pairs = f"over {paired.n} pairs, with a 95 % interval from {interval(paired)}"
    if not paired.leaves_out_zero:
        return (
            f"{arms}: no difference shown: a mean difference of {difference} {pairs}, which includes 0. That does not "
            "show that they are equal: with this spread, only a mean difference of more than "
            f"{number(paired.half_width)} would have excluded 0."
        )
    return (
        f"{arms}: {'better' if test.better else 'worse'}, by a mean difference of {difference} {pairs}, which "
        f"excludes 0: {_significance(test, number_of_intervals)}"
    )


def _significance(test, number_of_intervals):
    noise = "the difference is larger than the noise between these seeds"
    few = " Two pairs have one degree of freedom: treat this as a hint." if test.paired.n == 2 else ""
    if number_of_intervals == 1:
        return f"{noise} (p = {_p(test.paired.p)}).{few}"
    adjusted = f"Holm-adjusted p = {_p(test.adjusted_p)}"
    if test.adjusted_p < ALPHA:
        return f"{noise}, also when adjusted for the {number_of_intervals} intervals of this report ({adjusted}).{few}"
    return (
        f"taken alone, {noise}; adjusted for the {number_of_intervals} intervals of this report it is not "
        f"({adjusted}), so it may be chance.{few}"
    )


def _p(p):
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _left_out(test):
    if not test.left_out or not test.seeds:
        return ""
    return f" (Without {_seeds(test.left_out)}, which {'has' if len(test.left_out) == 1 else 'have'} no value in both.)"


def _seeds(seeds):
    return f"seed{'' if len(seeds) == 1 else 's'} {listed(seeds)}"


def how_to_read(compared: Sequence[Compared]) -> list[str]:
    """Returns sentences about all comparisons: how intervals are computed, how wide and how many they are."""
    tests = [test for measure in compared for test in measure.comparisons]
    with_interval = [test for test in tests if test.paired.low is not None]
    lines = [
        "A pair is two runs with the same seed; a difference is the arm's value minus the value of the arm that it is "
        "compared with. The interval is that of a paired t-test, which assumes normally distributed differences; a "
        "handful of pairs cannot show whether they are.",
        "The noise is what seeds change: initial parameters, order of the data, masks and dropout. It does not include "
        "the effect of another corpus, another held-out text or another model size.",
    ]
    for pairs in sorted({test.paired.n for test in with_interval}):
        t = statistics.t_quantile(pairs)
        lines.append(
            f"With {pairs} pairs an interval reaches {t / math.sqrt(pairs):.1f} standard deviations of the differences "
            f"to either side (t = {t:.2f} at {counted(pairs - 1, 'degree')} of freedom)"
            + ("; only differences much larger than the spread can be seen." if pairs < 5 else ".")
        )
    if len(with_interval) > 1:
        lines.append(
            f"The report has {len(with_interval)} intervals. If arms do not differ at all, about one in twenty "
            "excludes 0 by chance; the adjusted p values (Holm) account for that, the intervals do not."
        )
    return lines
