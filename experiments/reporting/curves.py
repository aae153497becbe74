"""Draws the curves of an experiment's runs, one picture for each quantity that they logged."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bert_jax.config.schema import is_number
from bert_jax.svg import spread

from .drawing import FONT_SIZE, STYLE, Picture, look, png, text_width
from .results import Results

# Keys of metrics.jsonl with the labels of their axes. The masked-token loss is drawn if it is not the whole loss.
QUANTITIES = {
    "loss": "training loss (nats)",
    "mlm_loss": "training loss of masked tokens (nats)",
    "eval/mlm_loss": "held-out loss (nats)",
    "common/mlm_loss": "held-out loss of kept checkpoints, the same evaluation for all arms (nats)",
}
_SHOWN = (
    "the mean over the seeds that have finished, and a band from the lowest to the highest of them; beside each curve "
    "its last mean"
)
_LEFT, _AXES, _GAP, _HEIGHT = 0.8, 5.4, 0.55, 3.7  # inches
_BOTTOM, _TOP = 0.55, 0.2


@dataclasses.dataclass(frozen=True)
class Curve:
    """Holds the curves of an arm's runs.

    Attributes:
      steps: steps at which every run has a value, ascending [steps].
      values: the values [seeds, steps].
    """

    steps: np.ndarray
    values: np.ndarray


def draw(results: Results) -> list[Picture]:
    """Draws a picture for each quantity that the finished runs logged."""
    pictures = []
    with matplotlib.rc_context(STYLE):
        for key, label in QUANTITIES.items():
            curves = curves_of(results, key)
            if curves and not (key == "mlm_loss" and _same(curves, curves_of(results, "loss"))):
                name = f"curve-{key.replace('/', '-')}.png"
                caption = f"{label[0].upper()}{label[1:]} by step: {_SHOWN}"
                pictures.append(Picture(name, caption, png(figure(list(results.arms), label, curves))))
    return pictures


def curves_of(results: Results, key: str) -> dict[str, Curve]:
    """Returns, for each arm with finished runs, their values at the steps that all of them logged."""
    curves = {}
    for arm in results.arms:
        runs = [
            {row["step"]: row[key] for row in job.rows if is_number(row.get(key)) and is_number(row.get("step"))}
            for job in results.done(arm)
        ]
        runs = [run for run in runs if run]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if steps:
            values = np.array([[run[step] for step in steps] for run in runs], np.float64)
            curves[arm] = Curve(np.array(steps), values)
    return curves


def figure(arms: Sequence[str], label: str, curves: Mapping[str, Curve]) -> Figure:
    """Draws curves with labels to their right: each near the height of its curve's end, with the last mean.

    Args:
      arms: names of all arms of the experiment, which decide their looks.
      label: name and unit of the quantity.
      curves: the curves by arm.
    """
    labels = [f"{curve.values[:, -1].mean():.4g}  {arm} (n = {len(curve.values)})" for arm, curve in curves.items()]
    line_height = 1.3 * FONT_SIZE / 72
    height = max(_HEIGHT, line_height * (len(labels) - 1))
    width, whole_height = _LEFT + _AXES + _GAP + text_width(labels) + 0.1, _BOTTOM + height + _TOP
    drawing = Figure(figsize=(width, whole_height))
    axes = drawing.add_axes((_LEFT / width, _BOTTOM / whole_height, _AXES / width, height / whole_height))
    for arm, curve in curves.items():
        style = look(arms, arm)
        marker = style.marker if len(curve.steps) < 30 else ""
        means = curve.values.mean(0)
        axes.plot(curve.steps, means, style.line, color=style.colour, marker=marker, markersize=4)
        axes.fill_between(
            curve.steps, curve.values.min(0), curve.values.max(0), color=style.colour, alpha=0.15, linewidth=0
        )
    axes.set(xlabel="step", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    _label_ends(axes, arms, curves, labels, line_height / height)
    return drawing


def _label_ends(axes, arms, curves, labels, gap):
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.set_xlim(*axes.get_xlim())
    ends = [(curve.values[:, -1].mean() - low) / (high - low) for curve in curves.values()]
    in_inches = 1 / _AXES
    for (arm, curve), label, end, place in zip(curves.items(), labels, ends, spread(ends, gap), strict=True):
        style = look(arms, arm)
        x = axes.transLimits.transform((curve.steps[-1], low))[0]
        lines = {"transform": axes.transAxes, "clip_on": False, "color": style.colour}
        axes.plot([x, 1 + 0.15 * in_inches], [end, place], "-", linewidth=0.6, alpha=0.6, **lines)
        sample = [1 + 0.15 * in_inches, 1 + 0.32 * in_inches, 1 + 0.49 * in_inches]
        axes.plot(sample, [place] * 3, style.line, marker=style.marker, markevery=[1], markersize=4, **lines)
        axes.text(1 + _GAP * in_inches, place, label, transform=axes.transAxes, va="center_baseline")


def _same(first: Mapping[str, Curve], second: Mapping[str, Curve]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[arm].steps, second[arm].steps) and np.array_equal(first[arm].values, second[arm].values)
        for arm in first
    )
