"""The table of two trainings that began alike: its means, differences, distances of losses and interval."""

import numpy as np
import pytest

from experiments import agreement

SIDES = {
    "ours": {"scores": [0.50, 0.52, 0.54], "loss": [2.0, 1.0, 1.0, 0.5]},
    "theirs": {"scores": [0.51, 0.55, 0.59], "loss": [2.0, 1.1, 1.0, 0.3]},
}


def test_a_table():
    lines = list(agreement.report(SIDES, "4 steps", "accuracy", dropout=False))
    assert lines[0].strip() == "4 steps" and lines[1].startswith("| accuracy | seed 0 | seed 1 | seed 2 | mean |")
    assert lines[3] == "| ours | 50.00 | 52.00 | 54.00 | 52.00 | 2.00 |"
    assert lines[4] == "| theirs | 51.00 | 55.00 | 59.00 | 55.00 | 4.00 |"
    assert lines[5] == "| difference | +1.00 | +3.00 | +5.00 | +3.00 | |"
    assert "0.0e+00, 1.0e-01, 0.0e+00, 2.0e-01 (at its end the loss is 1.113)" in lines[6] and len(lines) == 7


def test_an_interval_of_means_where_each_side_draws_its_own():
    *_, line = agreement.report(SIDES, "4 steps", "accuracy", dropout=True)
    low, high = map(float, line.removesuffix(".").split("means: ")[1].split(" to "))
    ours, theirs = (np.array(side["scores"]) * 100 for side in SIDES.values())
    error = np.sqrt(ours.var(ddof=1) / 3 + theirs.var(ddof=1) / 3)
    assert (low + high) / 2 == pytest.approx(3.0, abs=0.01) and high - low > 2 * 1.96 * error
