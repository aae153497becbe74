"""All diagnoses of a run, the most serious first, as text and as JSON values."""

import dataclasses
import textwrap
from collections.abc import Sequence

from bert_jax.diagnosis import causes, course, curves, finetuning, held_out, learning, text
from bert_jax.diagnosis.finding import SEVERITIES, Finding, percent
from bert_jax.diagnosis.plans import Plan
from bert_jax.diagnosis.reading import Run

# Of findings that are equally serious the first is said first: what makes the rest of the run worthless leads.
_PRETRAINING = (
    learning.nonfinite,
    learning.diverged,
    learning.over_unigram,
    learning.stuck_at_unigram,
    text.unknown_tokens,
    learning.nsp_without_mlm,
    text.duplicates,
    course.peak_never_reached,
    held_out.evaluation_worse,
    held_out.evaluation_better,
    held_out.held_out_in_training,
    held_out.forgetting,
    course.starved,
    course.spikes,
    course.clipped,
    text.padding,
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
    finetuning.loss_stays,
    course.peak_never_reached,
    finetuning.score_fell,
    course.starved,
    course.spikes,
    course.time_elsewhere,
    course.stopped_early,
    finetuning.seeds_differ,
    finetuning.rate_out_of_range,
)


def diagnose(run: Run, plan: Plan | None = None) -> list[Finding]:
    """What is wrong with a run, the most serious first; of a healthy one nothing, or notes.

    Args:
      run: as reading.read gives it.
      plan: that its speed is compared with.
    """
    found = [diagnosis(run) for diagnosis in (_FINE_TUNING if run.fine_tuning else _PRETRAINING)]
    found += [course.under_plan(run, plan)] if plan else []
    return sorted((one for one in found if one), key=lambda one: SEVERITIES.index(one.severity))


def as_json(findings: Sequence[Finding]) -> list[dict]:
    """The findings as JSON values."""
    return [dataclasses.asdict(one) | {"causes": list(one.causes), "figures": dict(one.figures)} for one in findings]


def in_words(run: Run, findings: Sequence[Finding], plan: Plan | None = None) -> str:
    """The findings for people, after a line on the run; where nothing is wrong, the figures that say so."""
    kind = "fine-tuning" if run.fine_tuning else "pre-training"
    lines = [f"{run.workdir}: {kind}, step {run.done:,} of {run.num_steps:,}" + (", training now" * bool(run.training))]
    wrong = [one for one in findings if one.severity != "note"]
    if not wrong:
        lines += ["", *_wrapped(f"nothing wrong found: {'; '.join(_healthy(run, plan))}")]
    for number, one in enumerate(findings, 1):
        lines += ["", *_wrapped(f"{number}. {one.severity}: {one.message}", "   ")]
        head = "what to do:" if len(one.causes) == 1 else "usual causes, the likeliest here first:"
        lines += [f"   {head}"] * bool(one.causes)
        for cause in one.causes:
            lines += [f"   {line}" for line in _wrapped(f"- {cause}", "  ")]
    return "\n".join(lines)


def _wrapped(line, indent=""):
    return textwrap.wrap(line, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _healthy(run, plan):
    """The figures that say that nothing is wrong."""
    parts = [finetuning.headline(run)] if run.fine_tuning else [_loss(run), *_text(run)]
    waits = course.data_share(run)
    if waits:
        parts.append(f"{percent(waits[0])} of the training time waits for data")
    speeds = [row["tokens_per_second"] for row in run.rows if "tokens_per_second" in row]
    if speeds:
        parts.append(f"{sorted(speeds)[len(speeds) // 2]:,.0f} tokens/s at the median{_planned(run, plan)}")
    return [part for part in parts if part]


def _planned(run, plan):
    bound = plan and plan.tokens_per_second(run.phase.data.batch_size, run.phase.data.sequence_length)
    return f", {bound:,.0f} is the bound of {plan.name}" if bound else ""


def _loss(run):
    found = learning.now(run)
    if found is None:
        return "no loss of predicted tokens was logged"
    parts = [f"{found.what} {found.loss:.4f} nats"]
    if found.baseline is not None:
        side = "under" if found.loss < found.baseline else "over"
        parts.append(f"{abs(found.baseline - found.loss):.4f} {side} the unigram baseline of {found.baseline:.4f}")
    level = curves.level(run, curves.curve(run.rows_of(run.phase), "mlm_loss"))
    if level and found.what != "training loss":
        parts.append(f"training loss {level.value:.4f} (mean of {level.points} rows)")
    return ", ".join(parts)


def _text(run):
    found = {
        "passes over the text": run.passes and f"{run.passes:,.1f}",
        "unknown tokens": causes.unknown_share(run),
        "duplicate documents": causes.duplicate_share(run),
        "padding": run.padding,
    }
    for name, value in found.items():
        if value is not None:
            yield f"{name} {value if isinstance(value, str) else percent(value)}"
