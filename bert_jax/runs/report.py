"""Writes WORKDIR/report.html: a run's curves, metrics, changed settings, samples and environment in one file.

The file needs no network and no script: pictures are SVG inside it. It is written whole or not at all, and from the
workdir's own files, so that it can be made again at any time.
"""

import html
import importlib.metadata
import itertools
import json
import math
import pathlib
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files, storage, svg
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.schema import is_number
from bert_jax.runs import workdir as workdir_lib

NAME = "report.html"
_POINTS = 300  # on a curve; more are not seen
_PREDICTIONS, _LETTERS = 8, 160  # shown of a finished fine-tuning run, and letters of each value
_SHARE = 0.01  # share of a run's time that reports may take; the last one is always written
_PACKAGES = ("bert_jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "4 4")
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 640, 260, 14, 34
_LABEL, _DIGIT = 20, 13  # height of a label and width of a digit, of the size that they have on a narrow screen
# Pictures: a title, the unit of its axis, and the keys of metrics.jsonl that it shows; those alone that were logged.
_PICTURES = (
    ("Loss", "nats", ("loss", "mlm_loss", "eval/mlm_loss", "eval/unigram_loss", "eval_old/mlm_loss")),
    ("Accuracy", "share", ("mlm_accuracy", "eval/mlm_accuracy", "nsp_accuracy", "eval/nsp_accuracy", "sop_accuracy",
                           "eval/sop_accuracy")),
    ("Scores", "", ()),
    ("Learning rate", "", ("learning_rate",)),
    ("Gradient norm", "", ("grad_norm",)),
    ("Speed", "tokens/s", ("tokens_per_second",)),
)  # fmt: skip
_STYLE = """
:root { color-scheme: light dark; --text: #222; --faint: #666; --line: #ddd; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --faint: #999; --line: #444; --page: #181818; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto; padding: 1rem;
  max-width: 72rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } .faint { color: var(--faint); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--text); font-size: 13px; } .axis { stroke: var(--line); }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; } .legend svg { width: 1.8rem; height: .6rem;
  display: inline; vertical-align: middle; margin-right: .3rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td, th { overflow-wrap: normal; } th { white-space: nowrap; } .samples td:first-child { min-width: 15rem; }
@media (max-width: 40rem) { figure svg text { font-size: 18px; } }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


class Reports:
    """Writes a run's report after its evaluations, as long as that costs a small share of its time.

    Args:
      workdir: the run's workdir.
      config: the run's config.
      recipe: the config of the recipe as it was before it was changed; None where that is not known.
      num_steps: number of steps of the whole run.
      device: the devices in words.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: ml_collections.ConfigDict,
        recipe: ml_collections.ConfigDict | None,
        num_steps: int,
        device: str,
    ):
        self._arguments = workdir, config, recipe, num_steps, device
        self._began, self._spent = time.monotonic(), 0.0

    def write(self, last: bool, samples: Sequence[Mapping] = ()) -> str:
        """Writes the report. Returns "", or a warning in words where that failed.

        Args:
          last: whether the run is over; other reports are left out where the earlier ones have taken too long.
          samples: predictions to show; see `render`.
        """
        began = time.monotonic()
        if not last and self._spent > _SHARE * (began - self._began):
            return ""
        try:
            write(*self._arguments, samples)
        except Exception as error:  # a report must not end a run
            return f"warning: {self._arguments[0] / NAME}: {type(error).__name__}: {str(error)[:200]}; not written"
        finally:
            self._spent += time.monotonic() - began
        return ""


def write(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    recipe: ml_collections.ConfigDict | None,
    num_steps: int,
    device: str,
    samples: Sequence[Mapping] = (),
) -> None:
    """Writes WORKDIR/report.html from the workdir's files; see Reports for the arguments."""
    rows = list(files.whole_objects(storage.read(str(workdir / "metrics.jsonl"))))
    run = workdir_lib.read(workdir)[0]
    samples = samples or _predictions(workdir)
    text = render(workdir.name, config, recipe, run, rows, num_steps, device, samples)
    storage.write_text(workdir / NAME, text)


def render(
    name: str,
    config: ml_collections.ConfigDict,
    recipe: ml_collections.ConfigDict | None,
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    num_steps: int,
    device: str,
    samples: Sequence[Mapping] = (),
) -> str:
    """Returns a run's report as one HTML file.

    Args:
      name: the run's name.
      config: its config.
      recipe: the config that its settings are compared with; None for the defaults of all keys.
      run: content of run.json.
      rows: rows of metrics.jsonl.
      num_steps: number of steps of the whole run.
      device: the devices in words.
      samples: predictions, dicts of short texts with the same keys.
    """
    tuned = run.get("kind") == "finetune"
    done = max((row["step"] for row in rows), default=0)
    kind = "fine-tuning" if tuned else "pre-training"
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    parts = [
        f"<h1>{_text(name)}</h1>",
        f'<p class="faint">{kind}, step {done:,} of {num_steps:,}; written {written}</p>',
        "<h2>Curves</h2>",
        f'<div class="pictures">{"".join(_pictures(rows))}</div>',
        "<h2>Metrics</h2>",
        _table(("metric", "last value", "at step"), _last_metrics(rows)),
    ]
    if samples:
        columns = tuple(samples[0])
        table = _table(columns, [tuple(sample.get(column, "") for column in columns) for sample in samples])
        parts += ["<h2>Sample predictions</h2>", f'<div class="samples">{table}</div>']
    elif done >= num_steps and not tuned:
        reason = "the run evaluates nothing" if not config.train.eval_every else "no held-out text has a place for them"
        parts += ["<h2>Sample predictions</h2>", f'<p class="faint">none: {reason}</p>']
    changes = list(_changes(config, recipe))
    compared = "the recipe" if recipe is not None else "the defaults"
    parts.append(f"<h2>Settings that differ from {compared}</h2>")
    parts.append(_table(("key", compared, "this run"), changes) if changes else '<p class="faint">none</p>')
    parts += ["<h2>Environment</h2>", _table(("", ""), _environment(run, device))]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _pictures(rows):
    scores = [
        key for key in dict.fromkeys(itertools.chain.from_iterable(rows))
        if key.startswith("eval/") and not any(key in keys for _, _, keys in _PICTURES) and "/seed_" not in key
        and not key.endswith("_perplexity")
    ]  # fmt: skip
    for title, unit, keys in _PICTURES:
        curves = {}
        for key in keys or scores[: len(svg.COLOURS)]:
            points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
            if points and not (key == "mlm_loss" and curves.get("loss") == points):
                curves[key] = points
        if curves:
            yield _picture(title, unit, curves)


def _picture(title, unit, curves):
    curves = {name: _fewer(points) for name, points in curves.items()}
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    first, last = min(min(steps), max(steps) - 1), max(steps)  # a single step stands beside its label
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if low else (0.0, 1.0)

    levels = svg.round_numbers(low, high, count=4)
    left = _margin(levels)
    right = _WIDTH - _margin([points[-1][1] for points in curves.values()])

    def across(step):
        return left + (step - first) / (last - first) * (right - left)

    def up(value):
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts, legend = [], []
    for value in levels:
        y = up(value)
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for step in svg.round_numbers(first, last, count=4, integers=True):
        x = across(step)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{step:,.0f}</text>')
    ends: list[tuple[float, float, str]] = []
    for (name, points), colour, dash in zip(curves.items(), svg.COLOURS, _DASHES, strict=False):
        line = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in points)
        look = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{line}" {look}/>')
        if len(points) == 1:
            parts.append(f'<circle cx="{across(points[0][0]):.1f}" cy="{up(points[0][1]):.1f}" r="3" fill="{colour}"/>')
        ends.append((up(points[-1][1]), points[-1][1], colour))
        sample = f'<svg viewBox="0 0 30 10"><line x1="0" x2="30" y1="5" y2="5" {look}/></svg>'
        legend.append(f"<span>{sample}{_text(name)}</span>")
    heights = svg.spread([end[0] for end in ends], _LABEL, _TOP, _HEIGHT - _BOTTOM)
    for y, (_, value, colour) in zip(heights, ends, strict=True):
        parts.append(f'<text x="{right + 6}" y="{y + 4:.1f}" style="fill:{colour}">{_short(value)}</text>')
    caption = f'{title}{f" ({unit})" if unit else ""} <span class="faint">over steps</span>'
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="legend">{"".join(legend)}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_text(title)}">{"".join(parts)}</svg></figure>'
    )


def _margin(values):
    """Returns the width of the labels of values, on a narrow screen too, where they are largest."""
    return 10 + _DIGIT * max((len(_short(value)) for value in values), default=0)


def _fewer(points):
    """Returns at most _POINTS of a curve, the last one among them."""
    every = max(1, math.ceil(len(points) / _POINTS))
    return points[(len(points) - 1) % every :: every]


def _last_metrics(rows):
    last = {}
    for row in rows:
        last |= {key: (value, row["step"]) for key, value in row.items() if key != "step" and is_number(value)}
    order = sorted(last, key=lambda key: (not key.startswith("eval"), key.startswith("time/"), key))
    return [(key, _Number(_short(last[key][0])), _Number(f"{last[key][1]:,}")) for key in order]


def _changes(config, recipe):
    """Yields (key, value of the recipe, value of the run) of what differs; paths and the run's own additions too."""
    base = config_lib.flat(finetune_config.schema_of(config) if recipe is None else recipe)
    for key, value in config_lib.flat(config).items():
        if not key.startswith("search.") and _plain(base.get(key)) != _plain(value):
            yield key, _shown(base.get(key)), _shown(value)


def _plain(value):
    return json.loads(json.dumps(value, default=str))


def _shown(value):
    text = str(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _environment(run, device):
    rows = [("devices", device), ("Python", platform.python_version()), ("system", platform.platform(terse=True))]
    for package in _PACKAGES:
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    for corpus in run.get("corpora", ()):
        rows.append(("corpus", f"{corpus['path']}, fingerprint {corpus['fingerprint'][:12]}"))
    return rows


def _predictions(workdir):
    """Returns the first predictions of a finished fine-tuning run; [] without any."""
    try:
        names = [
            record["file"] for record in json.loads((workdir / "summary.json").read_text())["predictions"].values()
        ]
        text = (workdir / names[0]).read_text() if names else ""
    except (OSError, ValueError, KeyError, TypeError):
        return []
    records = [json.loads(line) for line in text.splitlines()[:_PREDICTIONS]]
    records = [_tagged(record) if {"words", "tags"} <= record.keys() else record for record in records]
    return [{key: _brief(value) for key, value in record.items() if not isinstance(value, dict)} for record in records]


def _tagged(record):
    """Returns a prediction of tags as text: the sentence, and the words that have a tag other than O."""

    def in_words(tags):
        return ", ".join(f"{word} {tag}" for word, tag in zip(record["words"], tags, strict=False) if tag != "O")

    sides = {name: in_words(record[key]) for name, key in (("gold", "gold"), ("predicted", "tags")) if key in record}
    return {"text": " ".join(record["words"])} | sides


def _brief(value):
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "; ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


class _Number(str):
    """Marks a cell that is aligned to the right."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cell(value):
        return f"<td{' class=number' if isinstance(value, _Number) else ''}>{_text(value)}</td>"

    first = f"<tr>{''.join(f'<th>{_text(name)}</th>' for name in head)}</tr>" if any(head) else ""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="table"><table>{first}{body}</table></div>'


def _text(value):
    return html.escape(str(value))


def _short(value):
    if value and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
