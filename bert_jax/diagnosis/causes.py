"""Ranks the usual causes of a model that does not learn masked tokens by the metrics of the run."""

import dataclasses
import math
from collections.abc import Iterator

from bert_jax import _moved
from bert_jax.config import objective
from bert_jax.config.keys import PRETRAINING
from bert_jax.data.vocabularies import fit
from bert_jax.diagnosis.finding import percent
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import command_line

# A peak learning rate of AdamW that is high for a hidden size of 768; it scales with 1 / sqrt(hidden size). Published
# rates are lower (RoBERTa: 6e-4 at 768, 4e-4 at 1024), and so are the recipes' (1e-3 at 256, 2e-3 at 128).
HIGH_RATE, HIGH_RATE_WIDTH = 1e-3, 768
LAMB_FACTOR = 10  # LAMB takes rates about this much higher: its steps are relative to a parameter's norm
LOW_RATE_SHARE = 1 / 50  # share of the high rate: a rate for fine-tuning, at which a new model learns next to nothing
SHORT_WARMUP_SHARE, SHORT_WARMUP_STEPS = 0.01, 10  # BERT warms up for 1 % of its steps, RoBERTa for 5 %
SHORT_RUN_STEPS = 1000  # the small recipes leave the unigram plateau after some 800 steps
DUPLICATES = 0.1  # share of the documents; usual corpora have a few in a hundred
MOSTLY_DUPLICATES = 0.5
UNKNOWN = fit.UNKNOWN  # share of the text; a vocabulary made for it leaves next to none
ALTERED, JOINERS = fit.ALTERED, fit.JOINERS  # shares of the letters and words
MOSTLY_UNKNOWN = 0.2
PADDING = 0.5  # paragraphs at 128 tokens have 36 %
MOSTLY_PADDING = 0.8
FEW_PREDICTIONS = 100  # predicted tokens in a step: with fewer, its gradient is mostly noise
NARROW_INIT_SHARE = 0.5  # share of the initializer range that corresponds to 0.02 at a hidden size of 768
HIGH_DROPOUT, HIGH_DECAY = 0.3, 0.3  # published: 0.1 and 0.01

LIKELY = 0.2  # less likely causes are listed in one line, each with its number


@_moved.renamed_members(figure="number")
@dataclasses.dataclass(frozen=True)
class Cause:
    """Describes a possible cause of a problem.

    Attributes:
      likelihood: how likely it is in this run, from 0 to 1; causes are sorted by it.
      text: the cause, with its number and what to change.
      number: the number alone, for the line of unlikely causes.
    """

    likelihood: float
    text: str
    number: str


def describe(run: Run, *, diverged: bool = False, falling: bool = False) -> list[str]:
    """Returns the causes in words, the likeliest first; the last entry lists the unlikely ones with their numbers.

    Args:
      run: a run whose loss is not under the unigram baseline.
      diverged: whether the loss was lower before.
      falling: whether the loss is still falling.
    """
    ranked = sorted(_causes(run, diverged, falling), key=lambda cause: -cause.likelihood)
    texts = [cause.text for cause in ranked if cause.likelihood >= LIKELY]
    others = [cause.number for cause in ranked if cause.likelihood < LIKELY and cause.number]
    if not diverged:
        texts.append(
            ("" if texts else "no setting stands out: ")
            + "text whose word order carries no information (lists, shuffled or generated text) has nothing to learn "
            f"beyond frequencies; look at what the model sees: {command_line('show_batch')}"
        )
    return [*texts, f"unlikely, by their numbers: {'; '.join(others)}"] if others else texts


def metrics(run: Run) -> dict[str, float | int | None]:
    """Returns the metrics and settings that the causes are based on."""
    settings = run.config.optimizer
    return {
        "learning_rate": settings.learning_rate,
        "high_learning_rate": high_rate(run),
        "warmup_steps": run.warmup_steps,
        "steps": run.done,
        "num_steps": run.num_steps,
        "duplicate_share": duplicate_share(run),
        "unknown_token_share": unknown_share(run),
        "unknown_character_share": unknown_character_share(run),
        "padding_share": run.padding,
    }


def high_rate(run: Run) -> float:
    """Returns the peak learning rate above which a rate is suspicious for the run's optimizer and hidden size."""
    factor = LAMB_FACTOR if run.config.optimizer.name == "lamb" else 1
    return factor * HIGH_RATE * math.sqrt(HIGH_RATE_WIDTH / run.config.model.hidden_size)


def unusual_rate(run: Run) -> str:
    """Returns what is unusual about the peak learning rate of a new model; "" if nothing is.

    A run that starts from another model may have a low one.
    """
    cause = _rate(run, diverged=bool(run.config.init_from), falling=False)
    is_high = run.config.optimizer.learning_rate > high_rate(run)
    return cause.text if cause.likelihood >= LIKELY and (is_high or not run.config.init_from) else ""


def few_predictions(run: Run) -> str:
    """Returns what is wrong with the number of tokens that a step predicts; "" if nothing is."""
    if run.predictions >= FEW_PREDICTIONS:
        return ""
    size = run.phase.data.batch_size
    return f"too few predictions in a step: about {run.predictions:,.0f} tokens; raise --config.data.batch_size={size}"


def lower_rate(run: Run) -> str:
    """Returns the flag that sets a third of the learning rate, or of the highest plausible one if that is lower."""
    return f"--config.optimizer.learning_rate={min(run.config.optimizer.learning_rate, high_rate(run)) / 3:.1g}"


def duplicate_share(run: Run) -> float | None:
    """Returns the share of duplicates among the documents of all corpora; None without a manifest."""
    texts = run.readable_texts
    if not texts:
        return None
    return sum(text.duplicates for text in texts) / max(1, sum(text.documents for text in texts))


def unknown_share(run: Run) -> float | None:
    """Returns the share of unknown tokens in all corpora; None without a manifest."""
    return _mean(run, "tokens", "unknown_token_share")


def unknown_character_share(run: Run) -> float | None:
    """Returns the share of the characters in unknown tokens in all corpora; None if a manifest does not say."""
    return _mean(run, "characters", "unknown_character_share")


def _mean(run, weight, share):
    """Returns the mean of a share in the manifests of all corpora, weighted by a count there; None if one lacks it."""
    manifests = [text.manifest for text in run.readable_texts]
    if not manifests or any(key not in manifest for manifest in manifests for key in (weight, share)):
        return None
    return sum(m[share] * m[weight] for m in manifests) / max(1, sum(m[weight] for m in manifests))


def _causes(run, diverged, falling) -> Iterator[Cause]:
    yield from _length(run, diverged, falling)
    yield _rate(run, diverged, falling)
    yield _warmup(run, diverged)
    yield from _text(run)
    yield from _others(run, diverged)


def _length(run, diverged, falling):
    steps, warmup = run.done, run.warmup_steps
    if diverged:
        return
    if steps < warmup:
        yield Cause(
            0.9,
            f"the warm-up is not over: {steps:,} of its {warmup:,} steps are done, so the learning rate has been "
            f"at most {_highest_rate(run):.2g} of {run.config.optimizer.learning_rate:g}: "
            + ("set --config.optimizer.warmup_steps to a few percent of the run" if run.finished else "wait"),
            "",
        )
    elif steps < SHORT_RUN_STEPS or falling:
        course = ", and the loss is still falling" if falling else ""
        plateau = f"; small recipes leave the unigram plateau after some {SHORT_RUN_STEPS:,}"
        plateau = plateau if steps < SHORT_RUN_STEPS else ""
        yield Cause(
            0.88 if falling else 0.55 if steps < SHORT_RUN_STEPS / 2 else 0.4,
            f"too few steps: {steps:,}{course}{plateau}: "
            + ("raise --config.train.num_steps" if run.finished else "wait"),
            "",
        )


def _highest_rate(run):
    settings = run.config.optimizer
    logged = [row["learning_rate"] for row in run.rows if "learning_rate" in row]
    return max(logged) if logged else settings.learning_rate * min(1.0, run.done / max(1, run.warmup_steps))


def _rate(run, diverged, falling):
    rate, high = run.config.optimizer.learning_rate, high_rate(run)
    name, width = run.config.optimizer.name, run.config.model.hidden_size
    where = f"{name} at a hidden size of {width}"
    shown = f"learning rate {rate:g} ({where}: more than {high:.1g} is high)"
    if rate > high:
        likelihood = min(0.95, 0.6 + 0.2 * math.log10(rate / high))
        text = f"learning rate too high: {rate:g}, {rate / high:.3g} times what is already high for {where}; "
        return Cause(likelihood, text + f"try {lower_rate(run)}", shown)
    if rate < high * LOW_RATE_SHARE and not diverged:
        text = f"learning rate too low: {rate:g}, {high / 3:.1g} would be usual for {where}; "
        return Cause(
            0.92 if not rate or falling else 0.85,
            text + f"try --config.optimizer.learning_rate={high / 3:.1g}",
            shown,
        )
    if diverged:
        text = f"learning rate {rate:g} is high for this run, though not for {where}; "
        return Cause(0.5, text + f"try {lower_rate(run)}", shown)
    return Cause(0.1, "", shown)


def short_warmup(run: Run) -> bool:
    """Returns whether the warm-up is short for a run of this length; a branch that takes moments needs none."""
    default = PRETRAINING["init_state"].default
    if run.config.get("init_state", default) != default:
        return False
    few_steps = min(SHORT_WARMUP_STEPS, run.num_steps / 10)
    return run.warmup_steps < max(few_steps, SHORT_WARMUP_SHARE * run.num_steps)


def _warmup(run, diverged):
    steps, high = run.warmup_steps, high_rate(run)
    shown = f"warm-up of {steps:,} of {run.num_steps:,} steps"
    if not short_warmup(run):
        return Cause(0.1, "", shown)
    # How much a short warm-up harms a new model depends on the peak learning rate.
    likelihood = 0.25 + 0.45 * min(1.0, run.config.optimizer.learning_rate / high) + 0.1 * diverged
    wanted = max(100, round(0.05 * run.num_steps))
    wanted = min(wanted, max(1, run.num_steps // 5))
    text = f"warm-up too short: {steps:,} of {run.num_steps:,} steps, to a rate of "
    text += f"{run.config.optimizer.learning_rate:g}"
    return Cause(likelihood, f"{text}; try --config.optimizer.warmup_steps={wanted}", shown)


def _text(run):
    duplicates, padding = duplicate_share(run), run.padding
    by_token, by_character = unknown_share(run), unknown_character_share(run)
    if by_token is not None:
        unknown, unit = max((by_token, "tokens"), (by_character or 0.0, "characters"), key=lambda share: share[0])
        text = f"a vocabulary that does not fit the text: {percent(unknown)} of the {unit} are unknown; "
        text += "prepare the text with --tokenizer=train:wordpiece:N, or with a model of its language"
        likelihood = 0.97 if unknown >= MOSTLY_UNKNOWN else 0.5 if unknown >= UNKNOWN else 0.0
        yield Cause(likelihood, text, f"unknown {unit} {percent(unknown)}")
    if padding is not None:
        text = f"rows that are mostly padding: {percent(padding)} of their positions; {padding_advice(run)}"
        likelihood = 0.6 if padding >= MOSTLY_PADDING else 0.35 if padding >= PADDING else 0.0
        yield Cause(likelihood, text, f"padding {percent(padding)}")
    if duplicates is not None:
        text = f"duplicate text: {percent(duplicates)} of the documents equal an earlier one; "
        text += "prepare it again with --drop_duplicates"
        likelihood = 0.5 if duplicates >= MOSTLY_DUPLICATES else 0.3 if duplicates >= DUPLICATES else 0.0
        yield Cause(likelihood, text, f"duplicate documents {percent(duplicates)}")


def padding_advice(run: Run) -> str:
    """Returns what to change so that rows hold less padding."""
    data = run.phase.data
    pairs = [f"objective.{key}" for key in ("next_sentence", "sentence_order") if run.config.objective[key]]
    packing = "" if data.packing else "--config.data.packing=True"
    if pairs:
        change = (
            f"{packing and f'try {packing}, '}prepare longer documents (--documents=file), shorten "
            f"--config.data.sequence_length={data.sequence_length}, or leave out pairs: --config.{pairs[0]}=False "
            "--config.data.format=full_sentences"
        )
    elif data.format != "full_sentences":
        change = f"try --config.data.format=full_sentences{packing and f' or {packing}'}"
    else:
        change = f"shorten --config.data.sequence_length={data.sequence_length}"
    return change


def _others(run, diverged):
    model, data, settings = run.config.model, run.phase.data, run.config.optimizer
    if few_predictions(run):
        yield Cause(0.3, few_predictions(run), "")
    equivalent_range = 0.02 * math.sqrt(HIGH_RATE_WIDTH / model.hidden_size)
    if model.initializer_range < NARROW_INIT_SHARE * equivalent_range and not run.config.init_from and not diverged:
        text = f"a narrow initialization for a hidden size of {model.hidden_size}: config.model.initializer_range="
        text += f"{model.initializer_range:g}; try --config.model.initializer_range={equivalent_range:.1g}"
        yield Cause(0.35, text, "")
    if objective.facts(run.config).masked and not 0.05 <= data.mask_rate <= 0.5:
        text = f"{percent(data.mask_rate)} of the tokens are masked; try --config.data.mask_rate=0.15"
        yield Cause(0.6 if data.mask_rate > 0.5 else 0.3, text, "")
    dropout = max(model.hidden_dropout, model.attention_dropout)
    if dropout >= HIGH_DROPOUT:
        text = f"dropout of {dropout:g}; try --config.model.hidden_dropout=0.1 --config.model.attention_dropout=0.1"
        yield Cause(0.4 if dropout < 0.5 else 0.65, text, "")
    if settings.weight_decay >= HIGH_DECAY:
        text = f"weight decay of {settings.weight_decay:g}; try --config.optimizer.weight_decay=0.01"
        yield Cause(0.45 if settings.weight_decay < 3 else 0.75, text, "")
    if settings.epsilon >= 1e-3:
        text = f"config.optimizer.epsilon={settings.epsilon:g} makes steps small; "
        yield Cause(0.5, text + "try --config.optimizer.epsilon=1e-6", "")


def __getattr__(name):
    return _moved.find("diagnosis.causes", name)
