"""Lists and draws the course of a recipe's run: rate, rows and their length, rotary bases, masks. Reads no corpus."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import svg
from bert_jax.config.objective import facts

_POINTS = 200  # at which the rate of a phase is computed
_WIDTH, _LEFT, _RIGHT, _TOP, _PANEL, _GAP = 900, 90, 30, 64, 96, 34  # pixels
_LINE = svg.COLOURS[0]


def schedule(config: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
    """Returns the course of a pre-training run, as values for JSON.

    Args:
      config: a pre-training config.
      name: the recipe's name.

    Returns:
      "recipe", "steps" and "tokens" (rows x length x steps) of the run, and "phases", each with "start" and "stop"
      (steps), "tokens", "rows", "length", "mask_rate" (None where nothing is masked), "rotary_base" and
      "local_rotary_base" (None for a model without), "rotary_scaling" (kind and factor, "" for none), "temperature",
      "weights" and "first_corpora" of the mixture, "weight_decay", and "rates", pairs of a step and its learning rate.

    Raises:
      UserError: the recipe cannot work.
    """
    config_lib.validate(config)
    run_phases = config_lib.phases(config)
    rotary = "rotary" in config.model.positions.split("+")
    described, tokens = [], 0
    for phase, rates in zip(run_phases, _rates(config, run_phases), strict=True):
        settings, data = config_lib.in_phase(config, phase), phase.data
        phase_tokens = (phase.stop - phase.start) * data.batch_size * data.sequence_length
        has_windows = settings.model.local_window or any(settings.model.layer_windows)
        local = config_lib.value(settings, "model.local_rotary_base") if has_windows else None
        described.append(
            {
                "start": phase.start,
                "stop": phase.stop,
                "tokens": phase_tokens,
                "rows": data.batch_size,
                "length": data.sequence_length,
                "mask_rate": data.mask_rate if facts(config).masked else None,
                "rotary_base": settings.model.rotary_base if rotary else None,
                "local_rotary_base": local if rotary else None,
                "rotary_scaling": _scaling_words(settings.model),
                "temperature": data.temperature,
                "weights": list(data.weights),
                "first_corpora": data.first_corpora,
                "weight_decay": settings.optimizer.weight_decay,
                "rates": rates,
            }
        )
        tokens += phase_tokens
    return {"recipe": name, "steps": run_phases[-1].stop, "tokens": tokens, "phases": described}


def _rates(config, run_phases):
    """Returns [step, rate] at steps of each phase, among them its first, its last, and those where the rate turns."""
    import jax

    from bert_jax.training.optimizer import run_schedule, turning_steps

    turning = [
        part.start + turn
        for part in config_lib.schedules(config)
        for turn in turning_steps(part.settings, part.stop - part.start)
    ]
    rate = jax.jit(jax.vmap(run_schedule(config, run_phases[-1].stop)))
    rates = []
    for phase in run_phases:
        last = max(phase.start, phase.stop - 1)
        spaced_steps = np.linspace(phase.start, last, _POINTS).round()
        steps = np.unique([*spaced_steps, *(turn for turn in turning if phase.start < turn < last)]).astype(np.int32)
        rates.append([[int(s), float(r)] for s, r in zip(steps, np.asarray(rate(steps)), strict=True)])
    return rates


def text(report: Mapping) -> str:
    """Returns a report of `schedule` as a table: a line for each phase."""
    phases = report["phases"]
    columns = {
        "phase": lambda phase: str(phases.index(phase) + 1),
        "steps": lambda phase: f"{phase['stop'] - phase['start']:,}",
        "tokens": lambda phase: svg.short(phase["tokens"]),
        "rows": lambda phase: f"{phase['rows']:,}",
        "length": lambda phase: f"{phase['length']:,}",
        "tokens/step": lambda phase: svg.short(phase["rows"] * phase["length"]),
        "rate": _rate_words,
        "weight decay": lambda phase: f"{phase['weight_decay']:.3g}",
        "masks": lambda phase: "-" if phase["mask_rate"] is None else f"{phase['mask_rate']:.0%}",
        "rotary base": lambda phase: "-" if phase["rotary_base"] is None else f"{phase['rotary_base']:,.0f}",
        "local base": lambda phase: "-" if phase["local_rotary_base"] is None else f"{phase['local_rotary_base']:,.0f}",
    }
    if any(phase["rotary_scaling"] for phase in phases):
        columns["scaling"] = lambda phase: phase["rotary_scaling"] or "-"
    if len({(phase["temperature"], phase["first_corpora"], *phase["weights"]) for phase in phases}) > 1:
        columns["mixture"] = _mixture_words
    table = [list(columns)] + [[cell(phase) for cell in columns.values()] for phase in phases]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([_title(report), "", *lines])


def _scaling_words(model):
    return "" if model.rotary_scaling == "none" else f"{model.rotary_scaling}, {model.rotary_factor:g}"


def _title(report):
    return f"{report['recipe']}: {report['steps']:,} steps, {svg.short(report['tokens'])} tokens"


def _rate_words(phase):
    rates = [rate for _, rate in phase["rates"]]
    first, last, top = rates[0], rates[-1], max(rates)
    if math.isclose(first, last, rel_tol=1e-3) and math.isclose(first, top, rel_tol=1e-3):
        return f"{first:.3g}"
    parts = [first, top, last] if top > 1.001 * max(first, last) else [first, last]
    return " to ".join(f"{part:.3g}" for part in parts)


def _mixture_words(phase):
    corpora = f"{phase['first_corpora']} corpora" if phase["first_corpora"] else "all corpora"
    if phase["weights"]:
        return f"{corpora}, {':'.join(f'{weight:g}' for weight in phase['weights'])}"
    return f"{corpora}, temperature {phase['temperature']:.3g}"


def draw(report: Mapping) -> str:
    """Returns a report of `schedule` as an SVG picture: a panel for each quantity, over tokens."""
    phases, panels = report["phases"], []
    ends = np.cumsum([0, *(phase["tokens"] for phase in phases)])
    rates = [
        (start + (step - phase["start"]) * phase["rows"] * phase["length"], rate)
        for phase, start in zip(phases, ends, strict=False)
        for step, rate in [*phase["rates"], [phase["stop"], phase["rates"][-1][1]]]
    ]
    panels.append(("learning rate", rates, False, lambda rate: f"{rate:.3g}"))
    for key, label, form in (
        ("rows", "rows of a batch", "{:,}"),
        ("length", "tokens of a row", "{:,}"),
        ("mask_rate", "share of masks", "{:.0%}"),
        ("rotary_base", "rotary base", "{:,.0f}"),
        ("local_rotary_base", "rotary base of local layers", "{:,.0f}"),
    ):
        values = [phase[key] for phase in phases]
        if None in values or (key.startswith(("local", "mask")) and len(set(values)) == 1):
            continue
        corners = [
            corner for value, start, stop in zip(values, ends, ends[1:], strict=False)
            for corner in ((start, value), (stop, value))
        ]  # fmt: skip
        panels.append((label, corners, key.endswith("base"), form.format))
    return _svg(report, ends, panels)


def _svg(report, ends, panels):
    height = _TOP + len(panels) * (_PANEL + _GAP) + 20
    total = float(ends[-1])

    def across(tokens):
        return _LEFT + tokens / total * (_WIDTH - _LEFT - _RIGHT)

    parts = [svg.label(_LEFT, 24, _title(report), size=15)]
    bottom = _TOP + len(panels) * (_PANEL + _GAP) - _GAP
    for end in ends[1:-1]:  # where a phase ends
        parts.append(svg.polyline([(across(end), _TOP), (across(end), bottom)], "#bbbbbb", 1, "3 3"))
    for i, (name, points, logarithmic, form) in enumerate(panels):
        top = _TOP + i * (_PANEL + _GAP)
        parts += _panel(name, points, logarithmic, form, top, across)
    for tick in svg.round_numbers(0.0, total):
        parts.append(svg.polyline([(across(tick), bottom), (across(tick), bottom + 5)], svg.TEXT, 1))
        parts.append(svg.label(across(tick), bottom + 19, svg.short(tick), anchor="middle"))
    parts.append(svg.label(_WIDTH - _RIGHT, bottom + 36, "tokens", anchor="end"))
    return svg.picture(_WIDTH, height, _title(report), parts)


def _panel(name, points, logarithmic, form, top, across):
    """Returns a panel's elements: its label, lines at the values where it stays or turns, and the curve."""
    values = [value for _, value in points]
    low, high = (min(values), max(values)) if logarithmic else (0.0, max(values))
    scale = math.log if logarithmic else float
    span = scale(high) - scale(low) or 1.0

    def up(value):
        share = (scale(value) - scale(low)) / span if high > low else 0.5
        return top + _PANEL * (1 - share)

    parts = [svg.label(_LEFT, top - 6, name, weight="bold")]
    for value in _ticks(points, low):
        parts.append(svg.polyline([(across(0), up(value)), (_WIDTH - _RIGHT, up(value))], svg.GRID, 1))
        parts.append(svg.label(_LEFT - 8, up(value) + 4, form(value), anchor="end"))
    return [*parts, svg.polyline([(across(tokens), up(value)) for tokens, value in points], _LINE, 2)]


def _ticks(points: Sequence, low: float) -> list:
    """Returns the values to label: both ends, and those at which the curve stays longest, far enough apart."""
    stays: dict = {}
    for (start, a), (stop, b) in itertools.pairwise(points):
        if math.isclose(a, b, rel_tol=1e-6):
            stays[a] = stays.get(a, 0) + stop - start
    high = max(value for _, value in points)
    chosen = list(dict.fromkeys([high, type(high)(low)]))
    for value in sorted(stays, key=lambda value: -stays[value]):
        if stays[value] > 1e-3 * points[-1][0] and all(
            abs(value - other) > 0.12 * high or (low and value < other / 1.5) for other in chosen if other
        ):
            chosen.append(value)
    return chosen
