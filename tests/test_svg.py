"""Tests what pictures have in common: round numbers of axes, short numbers, places of labels."""

import pytest

from bert_jax import svg


@pytest.mark.parametrize(
    ("low", "high", "integers", "expected"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (0.72, 0.75, False, [0.72, 0.725, 0.73, 0.735, 0.74, 0.745, 0.75]),
        (1, 3, True, [1, 2, 3]),
        (-1.2, 1.3, False, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (0, 27_000, True, [0, 5000, 10_000, 15_000, 20_000, 25_000]),
    ],
)
def test_round_numbers(low, high, integers, expected):
    assert svg.round_numbers(low, high, integers=integers) == pytest.approx(expected)


def test_short_numbers():
    numbers = [0, 0.00123456, 12.3456, 999, 1500, 22_654, 4.7e6, 2e9, 1.5e12]
    assert [svg.short(number) for number in numbers] == [
        "0", "0.001235", "12.35", "999", "1.5k", "22.65k", "4.7M", "2B", "1.5T",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "gap", "expected"),
    [
        ([0.5], 0.1, [0.5]),
        ([0.2, 0.8], 0.1, [0.2, 0.8]),
        ([0.5, 0.5], 0.1, [0.45, 0.55]),
        ([1.0, 0.99, 0.0], 0.1, [1.0, 0.9, 0.0]),
        ([0.5, 0.5, 0.5], 1.0, [0.0, 0.5, 1.0]),
        ([0.3, 0.31, 0.4], 0.1, [0.236667, 0.336667, 0.436667]),
    ],
)
def test_spread(wanted, gap, expected):
    assert svg.spread(wanted, gap) == pytest.approx(expected, abs=1e-6)
