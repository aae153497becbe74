"""Pictures of reports: labels beside the data, every arm with a look of its own, whole-number steps."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.reporting import comparisons, curves, drawing, measures, results
from tests.experiments import made_folders

ARMS = [f"arm {number}, with a name that takes its place" for number in range(15)]


def assert_texts_are_apart(figure):
    """Asserts that labels are within the picture, outside of the data, and not on each other."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert texts
    for text, box in zip(texts, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert not any(axes.get_window_extent(renderer).padded(-1).overlaps(box) for axes in figure.axes), text
    for (one, box), (other, its_box) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not box.padded(-1).overlaps(its_box.padded(-1)), (one, other)


@pytest.mark.parametrize("ends", ["equal", "crowded at the top", "spread"])
@pytest.mark.parametrize("number", [1, 2, 15, 40])
def test_the_labels_of_curves(ends, number):
    last = {"equal": np.zeros(number), "crowded at the top": 1 - np.arange(number) / 1e3, "spread": np.arange(number)}
    arms = [f"arm {place}" for place in range(number)]
    lines = {
        arm: curves.Curve(np.arange(1, 4 - place % 2), end + np.ones((2, 3 - place % 2)))
        for place, (arm, end) in enumerate(zip(arms, last[ends], strict=True))
    }
    figure = curves.figure(arms, "training loss (nats)", lines)
    assert_texts_are_apart(figure)
    assert {text.get_text().split("  ")[1] for text in figure.axes[0].texts} == {f"{arm} (n = 2)" for arm in arms}
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


@pytest.mark.parametrize("against", [{}, dict(itertools.pairwise(reversed(ARMS)))])
def test_the_labels_of_measures(tmp_path, against):
    made_folders.write(tmp_path, {arm: [5.0 + place, 5.1, 5.2] for place, arm in enumerate(ARMS)}, against=against)
    experiment = results.read(tmp_path)
    figure = measures.figure(ARMS, comparisons.compare(experiment), bool(against))
    assert_texts_are_apart(figure)
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert len(texts) == len(ARMS) - 1
    assert all((" from arm" in text) == bool(against) for text in texts)


def test_intervals_of_measures_are_those_of_the_table(tmp_path):
    made_folders.write(tmp_path, {"static": [5.10, 5.30, 5.20], "dynamic": [5.00, 5.21, 5.09]})
    compared = comparisons.compare(results.read(tmp_path))
    (interval,) = measures.figure(["static", "dynamic"], compared, False).axes[1].collections
    np.testing.assert_allclose(interval.get_segments()[0][:, 0], [-0.12484, -0.07516], atol=1e-5)


def test_no_two_arms_look_the_same():
    arms = [str(number) for number in range(28)]
    looks = [drawing.look(arms, arm) for arm in arms]
    assert (
        len({(look.colour, look.line) for look in looks}) == len({(look.colour, look.marker) for look in looks}) == 28
    )
