"""Runs all checks on a run and reports their findings, as text or as JSON values."""

import dataclasses
import re
import textwrap
from collections.abc import Sequence

from bert_jax import _moved
from bert_jax import config as config_lib
from bert_jax.config.schema import is_number
from bert_jax.diagnosis import causes, course, curves, embedders, finetuning, held_out, learning, near_chance, text
from bert_jax.diagnosis import scratch as scratch_lib
from bert_jax.diagnosis.finding import SEVERITIES, Finding, percent
from bert_jax.diagnosis.plans import Plan
from bert_jax.diagnosis.reading import Run

# Findings of equal severity are reported in this order: what makes the rest of the run worthless comes first.
_PRETRAINING = (
    learning.nonfinite,
    learning.diverged,
    learning.over_unigram,
    learning.stuck_at_unigram,
    text.unknown_tokens,
    text.altered_letters,
    learning.nsp_without_mlm,
    text.duplicates,
    course.peak_never_reached,
    held_out.evaluation_worse,
    held_out.evaluation_better,
    held_out.held_out_in_training,
    held_out.forgetting,
    course.starved,
    course.slow_host,
    course.spikes,
    course.clipped,
    text.padding,
    text.text_left_out,
    text.uneven_pairs,
    course.low_mfu,
    course.time_elsewhere,
    course.stopped_early,
    held_out.no_evaluation,
    learning.too_young,
    course.slowed,
    text.corpus_missing,
)
_FINE_TUNING = (
    learning.nonfinite,
    finetuning.failed_seeds,
    near_chance.near_chance,
    finetuning.loss_stays,
    course.peak_never_reached,
    finetuning.score_fell,
    course.starved,
    course.slow_host,
    course.spikes,
    course.time_elsewhere,
    course.stopped_early,
    finetuning.seeds_differ,
    finetuning.rate_out_of_range,
)


def diagnose(run: Run, plan: Plan | None = None, scratch: Run | None = None) -> list[Finding]:
    """Returns the findings of all checks, the most serious first; for a healthy run none, or notes alone.

    Args:
      run: the run (`reading.read`).
      plan: a plan that the run's speed is compared with, if any.
      scratch: a fine-tuning run from fresh weights that the run's scores are compared with, if any.

    Raises:
      UserError: the run and `scratch` cannot be compared.
    """
    checks = _FINE_TUNING if run.fine_tuning else _PRETRAINING
    if run.fine_tuning and run.config.task.name == "embedding":
        checks += embedders.CHECKS
    findings = [check(run) for check in checks]
    findings += [course.under_plan(run, plan)] if plan else []
    findings += [scratch_lib.no_better_than_scratch(run, scratch)] if scratch else []
    ranked = sorted(filter(None, findings), key=lambda finding: SEVERITIES.index(finding.severity))
    return _without_contradictions(run, ranked)


def _without_contradictions(run, findings):
    """Returns the findings without causes that ask for the opposite of what one before them asks for.

    A note of which no cause is left is left out.
    """
    directions, kept = {}, []
    for finding in findings:
        reasons = []
        for cause in finding.causes:
            wanted = _directions(run, cause)
            if all(directions.get(key, way) == way for key, way in wanted.items()):
                directions |= wanted
                reasons.append(cause)
        if reasons or not finding.causes or finding.severity != "note":
            kept.append(dataclasses.replace(finding, causes=reasons))
    return kept


def _directions(run, cause):
    """Returns {key: 1 or -1} for what a cause asks to be larger or smaller than it is."""
    values, wanted = config_lib.flat(run.config.to_dict()), {}
    for verb, key, value in re.findall(r"(\w+) --config\.([\w.]+\w)(?:=([\d.e+-]*\d))?", cause):
        current = run.warmup_steps if key == "optimizer.warmup_steps" else values.get(key)
        way = {"raise": 1, "lengthen": 1, "more": 1, "fewer": -1, "lower": -1}.get(verb, 0)
        if value and is_number(current) and float(value) != current:
            way = 1 if float(value) > current else -1
        if way:
            wanted["length" if key in ("train.num_steps", "train.num_epochs") else key] = way
    if "fewer steps" in cause:
        wanted["length"] = -1
    return wanted


def as_json(findings: Sequence[Finding]) -> list[dict]:
    """Returns the findings as JSON values."""
    return [
        {
            "name": finding.name,
            "severity": finding.severity,
            "message": finding.message,
            "causes": list(finding.causes),
            "figures": dict(finding.metrics),
        }
        for finding in findings
    ]


def format_report(run: Run, findings: Sequence[Finding], plan: Plan | None = None) -> str:
    """Returns the report as text: a line about the run, then the findings, or the numbers that show it is healthy."""
    kind = "fine-tuning" if run.fine_tuning else "pre-training"
    lines = [f"{run.workdir}: {kind}, step {run.done:,} of {run.num_steps:,}" + (", training now" * bool(run.training))]
    if all(finding.severity == "note" for finding in findings):
        lines += ["", *_wrapped(f"nothing wrong found: {'; '.join(_healthy(run, plan))}")]
    for number, finding in enumerate(findings, 1):
        lines += ["", *_wrapped(f"{number}. {finding.severity}: {finding.message}", "   ")]
        head = "what to do:" if len(finding.causes) == 1 else "usual causes, the likeliest in this run first:"
        lines += [f"   {head}"] * bool(finding.causes)
        for cause in finding.causes:
            lines += [f"   {line}" for line in _wrapped(f"- {cause}", "  ")]
    return "\n".join(lines)


def _wrapped(line, indent=""):
    return textwrap.wrap(line, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _healthy(run, plan):
    """Returns the numbers that show that the run is healthy."""
    parts = [finetuning.score_summary(run)] if run.fine_tuning else [_loss(run), *_text(run)]
    waits = course.data_share(run)
    if waits:
        parts.append(f"{percent(waits[0])} of the training time waits for data")
    speeds = [row["tokens_per_second"] for row in run.rows if "tokens_per_second" in row]
    if speeds:
        parts.append(f"{sorted(speeds)[len(speeds) // 2]:,.0f} tokens/s at the median{_planned(run, plan)}")
    return [part for part in parts if part]


def _planned(run, plan):
    bound = plan and plan.tokens_per_second(run.phase.data.batch_size, run.phase.data.sequence_length)
    computed = bound and course.computed_speed(run, run.phase)
    return f" ({computed:,.0f} with padding, {bound:,.0f} is the bound of {plan.name})" if computed else ""


def _loss(run):
    current = learning.current_loss(run)
    if current is None:
        return "no loss of predicted tokens was logged"
    parts = [f"{current.source} {current.loss:.4f} nats"]
    if current.baseline is not None:
        side = "under" if current.loss < current.baseline else "over"
        gap = abs(current.baseline - current.loss)
        parts.append(f"{gap:.4f} {side} the unigram baseline of {current.baseline:.4f}")
    level = curves.level(run, curves.curve(run.rows_of(run.phase), "mlm_loss"))
    if level and current.source != "training loss":
        parts.append(f"training loss {level.value:.4f} (mean of {level.points} rows)")
    return ", ".join(parts)


def _text(run):
    shares = {
        "passes over the text": run.passes and f"{run.passes:,.1f}",
        "unknown tokens": causes.unknown_share(run),
        "unknown characters": causes.unknown_character_share(run),
        "duplicate documents": causes.duplicate_share(run),
        "padding": run.padding,
        "text in rows": run.text_share,
    }
    for name, value in shares.items():
        if value is not None:
            yield f"{name} {value if isinstance(value, str) else percent(value)}"


def __getattr__(name):
    return _moved.find("diagnosis.report", name)
