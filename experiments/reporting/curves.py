"""Draws the pictures of a report; the same folders and the same matplotlib give the same bytes."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .comparisons import Compared
from .results import Results
from .sentences import direction

# Colours that colour-blind readers can distinguish (Okabe and Ito 2008, "Color Universal Design"), without the yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", ":", "-.")
# Keys of metrics.jsonl with the labels of their axes. The masked-token loss is drawn if it is not the whole loss.
QUANTITIES = {
    "loss": "training loss",
    "mlm_loss": "training loss of masked tokens (nats)",
    "eval/mlm_loss": "held-out loss (nats)",
    "common/mlm_loss": "held-out loss of kept checkpoints in the evaluation that is the same for all arms (nats)",
}
# Ignores the user's matplotlibrc, and allows any characters in names of arms.
_STYLE = {**matplotlib.rcParamsDefault, "text.parse_math": False}
_STYLE.pop("backend")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
      name: name of the PNG file.
      caption: caption of the picture.
      content: the PNG's bytes.
    """

    name: str
    caption: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Curve:
    """The curves of an arm's runs.

    Attributes:
      steps: steps at which every run has a value, ascending [steps].
      values: the values [seeds, steps].
    """

    steps: np.ndarray
    values: np.ndarray


def draw(results: Results, compared: Sequence[Compared]) -> list[Picture]:
    """Draws a picture for each quantity that the finished runs logged, and one of the final measures."""
    with matplotlib.rc_context(_STYLE):
        pictures = []
        for key, label in QUANTITIES.items():
            curves = curves_of(results, key)
            if curves and not (key == "mlm_loss" and _same(curves, curves_of(results, "loss"))):
                pictures.append(_curves(list(results.arms), key, label, curves))
        return [*pictures, *_measures(results, compared)]


def curves_of(results: Results, key: str) -> dict[str, Curve]:
    """Returns, for each arm with finished runs, their values at the steps that all of them logged."""
    curves = {}
    for arm in results.arms:
        runs = [
            {row["step"]: row[key] for row in job.rows if _is_number(row.get(key)) and _is_number(row.get("step"))}
            for job in results.done(arm)
        ]
        runs = [run for run in runs if run]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if steps:
            values = np.array([[run[step] for step in steps] for run in runs], np.float64)
            curves[arm] = Curve(np.array(steps), values)
    return curves


def _curves(arms, key, label, curves: Mapping[str, Curve]):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{arm} (n = {len(curve.values)})" for arm, curve in curves.items()]
    for arm, curve in curves.items():
        colour, line = _look(arms, arm)
        marker = "." if len(curve.steps) < 30 else ""
        axes.plot(curve.steps, curve.values.mean(0), line, color=colour, marker=marker)
        axes.fill_between(curve.steps, curve.values.min(0), curve.values.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(axes.lines, names)  # a label that begins with "_" would hide its line
    shown = "the mean over the seeds that have finished, and a band from the lowest to the highest of them"
    caption = f"{label[0].upper()}{label[1:]} by step: {shown}"
    return Picture(f"curve-{key.replace('/', '-')}.png", caption, _png(figure))


def _measures(results, compared):
    shown = [measured for measured in compared if any(measured.values.values())]
    if not shown:
        return []
    rows = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(8, 3.5 * rows), layout="constrained")
    all_axes = figure.subplots(rows, min(2, len(shown)), squeeze=False).flatten()
    for axes in all_axes[len(shown) :]:
        axes.set_axis_off()
    for measured, axes in zip(shown, all_axes, strict=False):
        for place, (arm, values) in enumerate(measured.values.items()):
            colour, _ = _look(list(results.arms), arm)
            figures = list(values.values())
            # Side by side, so that equal values stay visible.
            places = place + 0.08 * (np.arange(len(figures)) - (len(figures) - 1) / 2).clip(-4, 4)
            axes.plot(places, figures, "o", color=colour, markersize=5, alpha=0.8)
            if figures:
                axes.hlines(np.mean(figures), place - 0.3, place + 0.3, color=colour)
        arms = list(measured.values)
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(arms) > 3 else {}
        axes.set_xticks(range(len(arms)), arms, **slanted)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.set_title(f"{measured.measure.label}\n({direction(measured.measure)})", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
    caption = "Final measures by arm: a dot for each seed, left to right in the order of seeds, and a line at the mean"
    return [Picture("measures.png", caption, _png(figure))]


def _look(arms, arm):
    place = arms.index(arm)
    return COLOURS[place % len(COLOURS)], LINES[place // len(COLOURS) % len(LINES)]


def _same(some, others):
    return some.keys() == others.keys() and all(
        np.array_equal(some[arm].steps, others[arm].steps) and np.array_equal(some[arm].values, others[arm].values)
        for arm in some
    )


def _is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)


def _png(figure):
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    return content.getvalue()
