"""Checks whether a pre-training run learns: its loss compared with the unigram baseline and with its own past."""

import dataclasses
import math

from bert_jax import _moved
from bert_jax.diagnosis import causes, curves, held_out
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

# A model that has left the plateau is soon a tenth of the baseline or more below it; before, its held-out loss is
# noisy within a few hundredths.
STUCK_SHARE, OVER_SHARE = 0.03, 0.05
# The gain of copying if the text cannot be read, as a share of the baseline times the share of chosen tokens that are
# not masked: measured on quickstart's text (0.54 of 6.03 nats with a fifth unmasked).
COPYING_SHARE = 0.45
# A younger run may still leave the plateau: 1.5 times the warm-up, and 1,000 steps (see causes.SHORT_RUN_STEPS), or
# half the steps of a shorter run.
YOUNG_WARMUPS, YOUNG_STEPS, YOUNG_SHARE = 1.5, causes.SHORT_RUN_STEPS, 0.5
# The lowest of some twenty noisy levels is two standard errors too low by chance; half a nat is a third of what a run
# like quickstart learns.
DIVERGED_ERRORS, DIVERGED_NATS = 5.0, 0.5
# Chance is right half of the time; a few hundred held-out pairs are enough to distinguish 0.65 from that.
NSP_LEARNED, NSP_ERRORS = 0.65, 3.0
FALLING_SHARE = 0.03  # share of the baseline: a fall over the last half of the steps that counts as progress


@_moved.renamed_members(what="source")
@dataclasses.dataclass(frozen=True)
class CurrentLoss:
    """Holds the current loss of predicted tokens, in nats.

    Attributes:
      loss: the loss.
      source: which loss it is, in words: "held-out loss" or "training loss".
      step: the step at which it was measured.
      baseline: unigram loss; None if unknown.
      plateau: the baseline less what copying chosen tokens that were not masked gains; None if unknown.
    """

    loss: float
    source: str
    step: int
    baseline: float | None
    plateau: float | None

    @property
    def learned(self) -> float | None:
        """Returns the loss below which a model must have used the context of a mask."""
        if self.plateau is None or self.baseline is None:
            return None
        return self.plateau - STUCK_SHARE * self.baseline


def current_loss(run: Run) -> CurrentLoss | None:
    """Returns the newest held-out loss, or the training loss if the last quarter of the steps has none."""
    rows = run.rows_of(run.phase)
    evaluations = [row for row in rows if "eval/mlm_loss" in row]
    baselines = [row["eval/unigram_loss"] for row in [*run.rows, *rows] if "eval/unigram_loss" in row]
    baseline = baselines[-1] if baselines else run.train_unigram_loss
    plateau = None if baseline is None else baseline - _copying_gain(run, baseline)
    if evaluations and evaluations[-1]["step"] >= 0.75 * run.done:
        row = evaluations[-1]
        return CurrentLoss(row["eval/mlm_loss"], "held-out loss", int(row["step"]), baseline, plateau)
    level = curves.level(run, curves.curve(rows, "mlm_loss"))
    if level is None:
        return None
    return CurrentLoss(level.value, "training loss", run.done, baseline, plateau)


def _judged_loss(run) -> tuple[CurrentLoss, float, float]:
    """Returns the current loss with its baseline and its plateau, in a state that was judged by them."""
    current = current_loss(run)
    assert current is not None and current.baseline is not None and current.plateau is not None
    return current, current.baseline, current.plateau


def _copying_gain(run, baseline):
    if run.copying_gain is not None:
        return run.copying_gain
    return COPYING_SHARE * max(0.0, 1 - run.phase.data.mask_token_share) * baseline


def learning_state(run: Run) -> str:
    """Returns the state of a run in a word.

    It is "learning", "memorizing", "young", "stuck" (at the baseline), "over" (the baseline), "diverged" or "unknown".
    """
    if _divergence(run):
        return "diverged"
    current = current_loss(run)
    if current is None or current.baseline is None or current.learned is None:
        return "unknown"
    if current.loss < current.learned:
        return "learning"
    training = curves.level(run, curves.curve(run.rows_of(run.phase), "mlm_loss"))
    if held_out.overfits(run) and training is not None and training.value < current.learned:
        return "memorizing"  # reported by held_out.evaluation_worse
    if not run.finished and (_is_young(run) or is_falling(run)):
        return "young"
    return "over" if current.loss > current.baseline * (1 + OVER_SHARE) else "stuck"


def _is_young(run):
    return run.done < max(YOUNG_WARMUPS * run.warmup_steps, min(YOUNG_STEPS, YOUNG_SHARE * run.num_steps))


def is_falling(run: Run) -> bool:
    """Returns whether the training or the held-out loss has clearly fallen over the last half of the steps so far."""
    if _held_out_fall(run) > FALLING_SHARE:
        return True
    points = curves.curve(run.rows_of(run.phase), "mlm_loss")
    last = [point for point in points if point[0] > run.done / 2]
    if len(last) < 4:
        return False
    half = len(last) // 2
    spread = curves.noise(run, points) * math.sqrt(2 / half)
    fall = sum(value for _, value in last[:half]) / half - sum(value for _, value in last[-half:]) / half
    current = current_loss(run)
    assert current is not None  # there are rows with a loss
    return fall > max(2 * spread, FALLING_SHARE * (current.baseline or current.loss))


def _held_out_fall(run):
    """Returns how far the held-out loss fell over the last half of the steps, as a share of the baseline; else 0.

    Its evaluations have the same rows and masks, so that they are less noisy than the training loss.
    """
    rows = [row for row in run.rows_of(run.phase) if "eval/mlm_loss" in row and row.get("eval/unigram_loss")]
    before = [row["eval/mlm_loss"] for row in rows if row["step"] <= run.done / 2]
    if not before or rows[-1]["step"] < 0.75 * run.done:
        return 0.0
    return (before[-1] - rows[-1]["eval/mlm_loss"]) / rows[-1]["eval/unigram_loss"]


def _divergence(run):
    """Returns ((step, loss) at the minimum, (step, loss) now, the rise) of a diverged training loss; else None."""
    points = curves.curve(run.rows_of(run.phase), "mlm_loss")
    if len(points) < 3:
        return None
    medians, size = curves.block_medians(points)
    best = min(medians, key=lambda point: point[1])
    last = min(medians[-2:], key=lambda point: point[1])  # an unfinished spike is no divergence
    rise = last[1] - best[1]
    error = curves.noise(run, points) * math.sqrt(2 / size)
    if last[0] <= best[0] or rise <= max(DIVERGED_NATS, DIVERGED_ERRORS * error):
        return None
    return best, last, rise


def nonfinite(run: Run) -> Finding | None:
    """Checks whether the run ended because a number was not finite, or did so once before it was continued."""
    if not run.nonfinite:
        return None
    step = run.nonfinite[-1]
    name, metrics = "nonfinite", {"step": step, **causes.metrics(run)}
    if run.done > step:
        message = f"At step {step:,} a loss, gradient or parameter was not finite; the run was started again and is "
        return Finding(name, "note", message + f"at step {run.done:,} now.", (), metrics)
    message = (
        f"The run ended at step {step:,}: the loss, a gradient or a parameter was not finite. The rows of that batch "
        f"are listed in nonfinite-{step}.txt."
    )
    norms = [row["grad_norm"] for row in run.rows[-5:] if "grad_norm" in row]
    if norms:
        message += f" The gradient's norm was {norms[-1]:.3g} when it was logged last."
    return Finding(name, "error", message, causes.describe(run, diverged=True), metrics)


def diverged(run: Run) -> Finding | None:
    """Checks whether the training loss has risen by more than its noise and has not come back."""
    divergence = _divergence(run)
    if not divergence:
        return None
    best, last, rise = divergence
    message = (
        f"The training loss has diverged: it has risen by {rise:.2f} nats, from {best[1]:.2f} at step {best[0]:,} to "
        f"{last[1]:.2f} at step {last[0]:,}, and has not come back."
    )
    if best[0] <= run.warmup_steps < last[0] and run.warmup_steps:
        message += f" It rose while or after the rate warmed up, which took until step {run.warmup_steps:,}."
    metrics = {"best_loss": best[1], "best_step": best[0], "loss": last[1], "rise": rise, **causes.metrics(run)}
    return Finding("diverged", "error", message, causes.describe(run, diverged=True), metrics)


def stuck_at_unigram(run: Run) -> Finding | None:
    """Checks whether the loss is at the unigram baseline after enough steps."""
    if learning_state(run) != "stuck":
        return None
    current, baseline, plateau = _judged_loss(run)
    gap = baseline - current.loss
    side = "under" if gap >= 0 else "over"
    message = (
        f"The loss is stuck at the unigram baseline: after {run.done:,} steps the {current.source} is "
        f"{current.loss:.4f} nats, {abs(gap):.4f} {side} the {baseline:.4f} of token frequencies alone"
    )
    if plateau < baseline:
        message += f" ({plateau:.4f} with what copying unmasked tokens gains)"
    message += ". The model has learned which tokens are frequent, and does not use the context of a mask."
    return Finding("stuck_at_unigram", "error", message, _causes(run), _metrics(run, current))


def over_unigram(run: Run) -> Finding | None:
    """Checks whether the loss is above the unigram baseline after enough steps."""
    if learning_state(run) != "over":
        return None
    current, baseline, _ = _judged_loss(run)
    message = (
        f"The model is worse than token frequencies: after {run.done:,} steps the {current.source} is "
        f"{current.loss:.4f} nats, {current.loss - baseline:.4f} over the unigram baseline of "
        f"{baseline:.4f}."
    )
    return Finding("over_unigram", "error", message, _causes(run), _metrics(run, current))


def too_young(run: Run) -> Finding | None:
    """Reports that the run is above the baseline but too young for that to mean anything."""
    if learning_state(run) != "young":
        return None
    current, baseline, _ = _judged_loss(run)
    reason = "the loss is still falling" if not _is_young(run) else f"the warm-up takes {run.warmup_steps:,} steps"
    message = (
        f"Too early to tell: {run.done:,} of {run.num_steps:,} steps are done and {reason}; the {current.source} of "
        f"{current.loss:.4f} nats is not clearly under the unigram baseline of {baseline:.4f} yet."
    )
    return Finding("too_young", "note", message, _causes(run), _metrics(run, current))


def nsp_without_mlm(run: Run) -> Finding | None:
    """Checks whether sentence pairs are learned while masked tokens are not."""
    accuracy, pairs = _nsp_accuracy(run)
    if accuracy is None or learning_state(run) not in ("stuck", "over", "diverged"):
        return None
    random = run.random_pairs
    guessed = 0.5 if random is None else max(random, 1 - random)  # accuracy of always giving the commoner answer
    if accuracy < guessed + max(NSP_LEARNED - 0.5, NSP_ERRORS * 0.5 / math.sqrt(pairs)):
        return None
    current = current_loss(run)
    assert current is not None  # the state says so
    baseline = "" if current.baseline is None else f" (token frequencies alone: {current.baseline:.4f})"
    message = (
        f"Next-sentence pairs are learned, masked tokens are not: {percent(accuracy)} of the pairs are classified "
        f"correctly, but the {current.source} is {current.loss:.4f} nats{baseline}."
    )
    reason = (
        "topic, style or length are enough to classify the pairs, and their gradient dominates; leave the pairs out: "
        "--config.objective.next_sentence=False --config.data.format=full_sentences"
    )
    metrics = {"nsp_accuracy": accuracy, "random_pairs": random, **_metrics(run, current)}
    return Finding("nsp_without_mlm", "error", message, [reason, *_causes(run)], metrics)


def _nsp_accuracy(run):
    """Returns (accuracy, number of pairs) on held-out text, or in the last training rows; (None, 0) without pairs."""
    rows = run.rows_of(run.phase)
    settings, data = run.config.train, run.phase.data
    evaluated = [row for row in rows if "eval/nsp_accuracy" in row]
    if evaluated and evaluated[-1]["step"] >= 0.75 * run.done:
        return evaluated[-1]["eval/nsp_accuracy"], settings.eval_batches * (settings.eval_batch_size or data.batch_size)
    level = curves.level(run, curves.curve(rows, "nsp_accuracy"))
    return (level.value, level.points * data.batch_size) if level else (None, 0)


def _causes(run):
    return causes.describe(run, diverged=learning_state(run) == "diverged", falling=is_falling(run))


def _metrics(run, current):
    gap = None if current.baseline is None else current.baseline - current.loss
    metrics = {"loss": current.loss, "loss_of": current.source, "unigram_loss": current.baseline, "under_unigram": gap}
    metrics["plateau"] = current.plateau
    return metrics | causes.metrics(run)


def __getattr__(name):
    return _moved.find("diagnosis.learning", name)
