"""Checks of embedders: vectors that are all alike, no better than guessing, negatives left out, odd temperatures."""

import math
import statistics
from collections.abc import Callable

from bert_jax.config.finetuning_keys import LATE_POOLING, SPARSE_POOLING
from bert_jax.diagnosis import curves, finetuning
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

ALIKE = 0.05  # vectors are alike if positives are more similar than negatives by less than this,
NEAR = 0.9  # and negatives at least this similar
GUESS = 3.0  # an embedder that learns finds the positive at least so many times as often as guessing does
MASKED = 0.2  # share of the negatives that are left out of the loss, from which a run is reported
TEMPERATURES = (0.005, 0.5)  # the lowest and the highest that are not reported
TRAIN_ONLY = 0.9  # in-batch accuracy in training at which a held-out score should have risen
_LAST = 5  # rows of the log that are averaged


def collapsed(run: Run) -> Finding | None:
    """Checks whether all vectors have become alike: negatives are as near as positives, and both are near."""
    positive, negative = _recent(run, "positive_similarity"), _recent(run, "negative_similarity")
    if positive is None or negative is None or negative < NEAR or positive - negative >= ALIKE:
        return None
    message = (
        f"The vectors are alike: positives have a similarity of {positive:.3f} and negatives one of {negative:.3f}."
    )
    rate, temperature = run.config.optimizer.learning_rate, run.config.loss.temperature
    reasons = [
        f"learning rate of {rate:g}; try --config.optimizer.learning_rate={finetuning.lower_rate(run, 5):.2g}",
        f"a temperature of {temperature:g} that tells near vectors apart too little; lower --config.loss.temperature",
        "anchors and positives that do not belong together: look at the data",
    ]
    return Finding("collapsed", "error", message, reasons, {"positive": positive, "negative": negative})


def at_chance(run: Run) -> Finding | None:
    """Checks whether positives are found no more often than by guessing, in the second half of a run."""
    accuracy, loss = _recent(run, "in_batch_accuracy"), _recent(run, "loss")
    if accuracy is None or loss is None or run.done < run.num_steps / 2 or collapsed(run):
        return None
    size = run.config.data.batch_size
    if accuracy >= min(GUESS / size, (1 + 1 / size) / 2):  # among few examples a guess is often right
        return None
    message = (
        f"Positives are found as by guessing: in {percent(accuracy)} of the anchors, where one in {size} would be by "
        f"chance; the loss is {loss:.3f}, and log({size}) is {math.log(size):.3f}."
    )
    reasons = [
        "anchors and positives that do not belong together, or swapped columns: look at the data",
        f"learning rate of {run.config.optimizer.learning_rate:g}: try others",
    ]
    return Finding("at_chance", "error", message, reasons, {"accuracy": accuracy, "loss": loss})


def many_masked(run: Run) -> Finding | None:
    """Checks whether many negatives are left out of the loss: duplicates, or a margin that takes too many."""
    share = _recent(run, "masked_negatives")
    if share is None or share < MASKED:
        return None
    message = f"{percent(share)} of the negatives of a batch are left out as known or likely positives."
    reasons = []
    margin = run.config.loss.false_negative_margin
    if margin >= 0:
        reasons.append(f"the margin of {margin:g}; lower --config.loss.false_negative_margin, or -1 for none")
    if run.config.task.relevance_id:
        reasons.append("large groups of --config.task.relevance_id")
    reasons.append("positives that occur in many examples: remove duplicates from the data")
    return Finding("many_masked", "warning", message, reasons, {"share": share})


def odd_temperature(run: Run) -> Finding | None:
    """Checks whether the temperature, learned or not, is outside of what published models have."""
    if run.run.get("problem") != "info_nce" or _has_large_scores(run):
        return None
    temperature = _recent(run, "temperature")
    temperature = run.config.loss.temperature if temperature is None else temperature
    low, high = TEMPERATURES
    if low <= temperature <= high:
        return None
    message = f"The temperature is {temperature:.3g}; published models have 0.01 to 0.1."
    reasons = ["set --config.loss.temperature=0.05", "keep it fixed: --config.loss.learn_temperature=False"]
    return Finding("odd_temperature", "warning", message, reasons, {"temperature": temperature})


def _has_large_scores(run):
    """Returns whether scores are sums over tokens or terms, which temperatures of cosines do not suit."""
    return run.config.task.pooling in (LATE_POOLING, *SPARSE_POOLING)


def train_only(run: Run) -> Finding | None:
    """Checks whether positives are found among the batch in training, while the held-out score has not risen."""
    accuracy = _recent(run, "in_batch_accuracy")
    name = next((name for row in run.rows for name in curves.score_names(row)), None)
    if accuracy is None or accuracy < TRAIN_ONLY or name is None:
        return None
    scores = [row[name] for row in run.rows if name in row]
    if len(scores) < 3 or max(scores[1:]) > scores[0]:
        return None
    message = (
        f"Training finds {percent(accuracy)} of the positives of a batch, but {name.removeprefix('eval/')} has not "
        f"risen over {scores[0]:.4f}, its first value."
    )
    reasons = [
        "negatives that are too easy: add hard ones (--config.task.negatives) or a larger --config.data.batch_size",
        "a held-out set of another kind than the training pairs",
    ]
    return Finding("train_only", "warning", message, reasons, {"accuracy": accuracy, "first": scores[0]})


CHECKS: tuple[Callable[[Run], Finding | None], ...] = (
    collapsed, at_chance, many_masked, odd_temperature, train_only,
)  # fmt: skip


def _recent(run, name):
    """Returns the mean of a metric over the last rows of the log; None where it is not logged."""
    values = [row[name] for row in run.rows if name in row][-_LAST:]
    return statistics.fmean(values) if values else None
