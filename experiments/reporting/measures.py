"""Draws the final measures of an experiment: the values of every arm, and the differences with their intervals."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .comparisons import Compared
from .drawing import FONT_SIZE, STYLE, Picture, look, png, text_width
from .results import Results
from .sentences import direction, interval, number

_ROW, _ABOVE, _BELOW = 0.34, 0.45, 0.5  # inches
_VALUES, _DIFFERENCES, _PAD = 3.4, 2.6, 0.12
_GREY, _BETTER, _WORSE = "#777777", "#009e73", "#d55e00"


def draw(results: Results, compared: Sequence[Compared]) -> list[Picture]:
    """Draws one picture of all measures that have values; none without values.

    Each measure has two panels. The left one has a dot for each seed and a bar at the mean; where arms form a path,
    each compared with one before it, a step leads from that arm's mean to its own. The right one has the mean paired
    difference and its 95 % interval.
    """
    shown = [measured for measured in compared if any(measured.values.values())]
    if not shown:
        return []
    path = bool(results.against)
    with matplotlib.rc_context(STYLE):
        content = png(figure(list(results.arms), shown, path))
    caption = (
        "Final measures by arm: on the left a dot for each seed, a bar at the mean and the mean's value"
        + (", with a step from the arm that it is compared with" if path else "")
        + "; on the right the mean difference over pairs of seeds with its 95 % interval, green where that favours the "
        "arm, red where it does not, grey where it includes 0"
    )
    return [Picture("measures.png", caption, content)]


def figure(arms: Sequence[str], shown: Sequence[Compared], path: bool) -> Figure:
    """Draws the panels of the measures, one measure below the other.

    Args:
      arms: names of all arms of the experiment, which decide their looks.
      shown: the measures, with a value of some arm each.
      path: whether arms are compared with one before them, rather than all with the first.
    """
    names = [f"{arm} (n = {len(values)})" for measured in shown for arm, values in measured.values.items()]
    means = [_mean_text(values) for measured in shown for values in measured.values.values()]
    tests = [_test_text(test, path) for measured in shown for test in measured.comparisons]
    widths = [text_width(names) + 2 * _PAD, _VALUES, text_width(means) + 3 * _PAD, _DIFFERENCES]
    width = sum(widths) + text_width(tests) + 3 * _PAD
    heights = [_ABOVE + _ROW * len(measured.values) + _BELOW for measured in shown]
    height = sum(heights)
    drawing = Figure(figsize=(width, height))
    top = height
    for measured, own in zip(shown, heights, strict=True):
        bottom, tall = (top - own + _BELOW) / height, _ROW * len(measured.values) / height
        left = drawing.add_axes((widths[0] / width, bottom, _VALUES / width, tall))
        right = drawing.add_axes((sum(widths[:3]) / width, bottom, _DIFFERENCES / width, tall))
        _draw_values(left, arms, measured, path)
        _draw_differences(right, arms, measured, path)
        top -= own
    return drawing


def _mean_text(values):
    return number(float(np.mean(list(values.values())))) if values else "-"


def _test_text(test, path):
    if test.paired.n == 0:
        return "-"
    against = f" from {test.first}" if path else ""
    return f"{number(test.paired.mean, True)}  ({interval(test.paired)}){against}"


def _rows(axes, measured):
    """Prepares axes with a row for each arm, the first on top."""
    count = len(measured.values)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(count), [])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_values(axes, arms, measured, path):
    _rows(axes, measured)
    places = {arm: row for row, arm in enumerate(measured.values)}
    means = {arm: float(np.mean(list(values.values()))) for arm, values in measured.values.items() if values}
    label_style = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "clip_on": False}
    for test in measured.comparisons if path else ():
        if test.first in means and test.arm in means:
            before, after = means[test.first], means[test.arm]
            rows = places[test.first], places[test.arm]
            axes.plot([before, before], rows, "-", color=_GREY, linewidth=0.7)
            axes.plot([before, after], [rows[1]] * 2, "-", color=_colour(test), linewidth=3, solid_capstyle="butt")
    for arm, values in measured.values.items():
        style, row, scores = look(arms, arm), places[arm], list(values.values())
        axes.text(-_PAD / _VALUES, row, f"{arm} (n = {len(values)})", ha="right", **label_style)
        axes.text(1 + _PAD / _VALUES, row, _mean_text(values), **label_style)
        # One below the other in the order of seeds, so that equal values stay visible.
        offsets = (0.09 * (np.arange(len(scores)) - (len(scores) - 1) / 2)).clip(-0.36, 0.36)
        axes.plot(scores, row + offsets, style.marker, color=style.colour, markersize=4, alpha=0.8)
        if scores:
            axes.vlines(means[arm], row - 0.38, row + 0.38, color=style.colour, linewidth=2)
    axes.margins(x=0.06)
    axes.set_xlabel(f"{measured.measure.label} ({direction(measured.measure)})")
    axes.set_title("values", fontsize=FONT_SIZE)
    axes.annotate("mean", (1 + _PAD / _VALUES, 1), (0, 6), "axes fraction", "offset points", va="baseline")


def _draw_differences(axes, arms, measured, path):
    if not measured.comparisons:
        axes.set_axis_off()
        return
    _rows(axes, measured)
    rows = {arm: row for row, arm in enumerate(measured.values)}
    axes.axvline(0, color=_GREY, linewidth=1)
    for test in measured.comparisons:
        row, style = rows[test.arm], look(arms, test.arm)
        label_style = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "clip_on": False}
        axes.text(1 + _PAD / _DIFFERENCES, row, _test_text(test, path), **label_style)
        if test.paired.n == 0:
            continue
        if test.paired.low is not None:
            axes.hlines(row, test.paired.low, test.paired.high, color=_colour(test), linewidth=2.5)
        axes.plot(test.paired.mean, row, style.marker, color=style.colour, markersize=5)
    axes.margins(x=0.06)
    first = next(iter(measured.values))
    axes.set_xlabel("difference from the arm it is compared with" if path else f"difference from {first}")
    axes.set_title("paired differences, 95 % intervals", fontsize=FONT_SIZE)


def _colour(test):
    if not test.paired.leaves_out_zero:
        return _GREY
    return _BETTER if test.better else _WORSE
