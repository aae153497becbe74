"""Means, intervals and adjusted p values, against figures worked out by hand and against scipy's own tests."""

import math

import numpy as np
import pytest
import scipy.stats

from experiments.reporting import statistics


def test_summary_by_hand():
    assert statistics.summarize([1.0, 2.0, 4.0, 5.0]) == statistics.Summary(4, 3.0, math.sqrt(10 / 3))
    assert statistics.summarize([2.5]) == statistics.Summary(1, 2.5, None)
    nothing = statistics.summarize([])
    assert nothing.n == 0 and math.isnan(nothing.mean) and nothing.deviation is None


def test_paired_interval_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1. Student's t with 2 degrees of freedom has its 97.5 % quantile at
    # 4.302653 (tables), and P(|T| > t) = 1 - t / sqrt(t^2 + 2).
    paired = statistics.compare([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    assert (paired.n, paired.mean, paired.deviation) == (3, 2.0, 1.0)
    assert paired.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert paired.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert paired.p == pytest.approx(1 - math.sqrt(12) / math.sqrt(14), abs=1e-9)
    assert paired.half_width == pytest.approx(2.484138, abs=1e-6)
    assert not paired.leaves_out_zero


def test_two_pairs_have_a_wide_interval():
    # One degree of freedom: the quantile is tan(0.475 pi) = 12.7062.
    paired = statistics.compare([0.0, 0.0], [1.0, 2.0])
    assert paired.half_width == pytest.approx(math.tan(0.475 * math.pi) * 0.5, rel=1e-9)
    assert statistics.t_quantile(2) == pytest.approx(12.7062, abs=1e-4)


def test_agrees_with_scipy():
    random = np.random.default_rng(0)
    for n in (2, 3, 5, 40):
        first, other = random.normal(5, 1, n), random.normal(5.5, 1, n)
        paired, expected = statistics.compare(first, other), scipy.stats.ttest_rel(other, first)
        interval = expected.confidence_interval(0.95)
        assert (paired.p, paired.low, paired.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
        assert paired.leaves_out_zero == (expected.pvalue < 0.05)


@pytest.mark.parametrize(
    ("first", "other", "mean"),
    [
        ([], [], math.nan),
        ([5.0], [5.5], 0.5),
        ([0.5, 0.625, 0.75], [0.5, 0.625, 0.75], 0.0),
        ([0.50, 0.51], [0.51, 0.52], 0.01),  # not to the last bit
        ([0.1 + 0.2, 0.7], [0.3, 0.7], 0.0),
    ],
)
def test_no_interval_where_pairs_say_nothing_of_the_spread(first, other, mean):
    paired = statistics.compare(first, other)
    assert paired.n == len(first) and paired.mean == pytest.approx(mean, nan_ok=True)
    assert (paired.low, paired.high, paired.p, paired.half_width) == (None, None, None, None)
    assert not paired.leaves_out_zero


def test_holm_by_hand():
    # Holm 1979: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, none smaller than the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([0.04]) == [0.04] and statistics.holm([]) == []


def test_spread_of_pretraining_and_of_fine_tuning_are_told_apart():
    """Drawn with deviations 2 and 0.5, and the moments of a small design by hand."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 2, (400, 1)) + random.normal(0, 0.5, (400, 5))
    found = statistics.components(scores.tolist())
    assert (found.jobs, found.seeds) == (400, 5)
    np.testing.assert_allclose([found.pretraining, found.fine_tuning], [2, 0.5], rtol=0.1)
    by_hand = statistics.components([[1.0, 3.0], [5.0, 7.0]])  # variances 2 and 2, means 2 and 6
    np.testing.assert_allclose([by_hand.pretraining**2, by_hand.fine_tuning**2], [8 - 2 / 2, 2])
    assert statistics.components([[1.0, 3.0], [1.0, 3.0]]).pretraining == 0
    assert statistics.components([[1.0, 3.0]]).pretraining is None
    assert statistics.components([[1.0], [2.0]]) is None
    assert statistics.components([[1.0, float("nan")], []]) is None
