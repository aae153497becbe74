"""Whether a pre-training run learns: its loss beside that of word frequencies, and beside its own past."""

import dataclasses
import math

from bert_jax.diagnosis import causes, curves, held_out
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

# A model that has left the plateau is soon under it by a tenth of the baseline and more; before, its held-out loss is
# within some hundredths of it, and noisy.
STUCK_SHARE, OVER_SHARE = 0.03, 0.05
# What copying gains where the text is not at hand, as a share of the baseline and of the chosen tokens that are not
# masked: as of quickstart's text (0.54 nats of 6.03 with a fifth unmasked).
COPYING_SHARE = 0.45
# A run of which less is done may yet leave the plateau: warm-up and half as much again, and 1,000 steps (causes.py
# says why) or half of a shorter run.
YOUNG_WARMUPS, YOUNG_STEPS, YOUNG_SHARE = 1.5, causes.SHORT_RUN_STEPS, 0.5
# The lowest of some twenty noisy levels lies two errors too low by chance; half a nat is a third of what a run like
# quickstart learns.
DIVERGED_ERRORS, DIVERGED_NATS = 5.0, 0.5
# A coin is right half of the time. A held-out part of a few hundred pairs tells 0.65 from that.
NSP_LEARNED, NSP_ERRORS = 0.65, 3.0
FALLING_SHARE = 0.03  # of the baseline, over the last half of the steps: still on its way


@dataclasses.dataclass(frozen=True)
class Now:
    """Where the loss of predicted tokens stands.

    Attributes:
      loss: nats.
      what: which loss that is, in words.
      step: at which it was found.
      baseline: the loss of word frequencies; None where it is not known.
      plateau: that, less what is gained by copying tokens that were chosen and not masked; None likewise.
    """

    loss: float
    what: str
    step: int
    baseline: float | None
    plateau: float | None

    @property
    def learned(self) -> float | None:
        """The loss under which a model must have looked at what stands around a mask."""
        return self.plateau - STUCK_SHARE * self.baseline


def now(run: Run) -> Now | None:
    """The newest held-out loss, or, where there is none of the last quarter of the steps, the training loss."""
    rows = run.rows_of(run.phase)
    evaluations = [row for row in rows if "eval/mlm_loss" in row]
    of_any = [row for row in run.rows if "eval/unigram_loss" in row]
    baselines = [row["eval/unigram_loss"] for row in [*of_any, *rows] if "eval/unigram_loss" in row]
    baseline = baselines[-1] if baselines else run.train_unigram_loss
    plateau = None if baseline is None else baseline - _copying_gain(run, baseline)
    if evaluations and evaluations[-1]["step"] >= 0.75 * run.done:
        row = evaluations[-1]
        return Now(row["eval/mlm_loss"], "held-out loss", int(row["step"]), baseline, plateau)
    level = curves.level(run, curves.curve(rows, "mlm_loss"))
    return level and Now(level.value, "training loss", run.done, baseline, plateau)


def _copying_gain(run, baseline):
    if run.copying_gain is not None:
        return run.copying_gain
    return COPYING_SHARE * max(0.0, 1 - run.phase.data.mask_token_share) * baseline


def state(run: Run) -> str:
    """One word: "learning", "by heart", "young", "stuck" (at the baseline), "over" (it), "diverged", or "unknown"."""
    if _divergence(run):
        return "diverged"
    found = now(run)
    if found is None or found.baseline is None:
        return "unknown"
    if found.loss < found.learned:
        return "learning"
    training = curves.level(run, curves.curve(run.rows_of(run.phase), "mlm_loss"))
    if held_out.is_worse(run) and training.value < found.learned:
        return "by heart"  # held_out.evaluation_worse says so
    if not run.finished and (_is_young(run) or falling(run)):
        return "young"
    return "over" if found.loss > found.baseline * (1 + OVER_SHARE) else "stuck"


def _is_young(run):
    return run.done < max(YOUNG_WARMUPS * run.warmup_steps, min(YOUNG_STEPS, YOUNG_SHARE * run.num_steps))


def falling(run: Run) -> bool:
    """Whether the training loss has fallen clearly over the last half of the steps that were done."""
    points = curves.curve(run.rows_of(run.phase), "mlm_loss")
    last = [point for point in points if point[0] > run.done / 2]
    if len(last) < 4:
        return False
    half = len(last) // 2
    spread = curves.noise(run, points) * math.sqrt(2 / half)
    fall = sum(value for _, value in last[:half]) / half - sum(value for _, value in last[-half:]) / half
    found = now(run)
    return fall > max(2 * spread, FALLING_SHARE * (found.baseline or found.loss))


def _divergence(run):
    """((step, loss) at its best, the same now, the rise) where the training loss has left its best for good."""
    points = curves.curve(run.rows_of(run.phase), "mlm_loss")
    if len(points) < 3:
        return None
    medians, size = curves.blocks(points)
    best = min(medians, key=lambda point: point[1])
    last = min(medians[-2:], key=lambda point: point[1])  # a spike that is not over yet is no divergence
    rise = last[1] - best[1]
    error = curves.noise(run, points) * math.sqrt(2 / size)
    if last[0] <= best[0] or rise <= max(DIVERGED_NATS, DIVERGED_ERRORS * error):
        return None
    return best, last, rise


def nonfinite(run: Run) -> Finding | None:
    """The run ended because a number was not finite; or it did once, and got past that step later."""
    if not run.nonfinite:
        return None
    step = run.nonfinite[-1]
    name, figures = "nonfinite", {"step": step, **causes.figures(run)}
    if run.done > step:
        message = f"At step {step:,} a loss, gradient or parameter was not finite; the run was started again and is "
        return Finding(name, "note", message + f"at step {run.done:,} now.", (), figures)
    message = (
        f"The run ended at step {step:,}: the loss, a gradient or a parameter was not finite. The rows of that batch "
        f"are listed in nonfinite-{step}.txt."
    )
    norms = [row["grad_norm"] for row in run.rows[-5:] if "grad_norm" in row]
    if norms:
        message += f" The gradient's norm was {norms[-1]:.3g} when it was logged last."
    return Finding(name, "error", message, causes.sentences(run, diverged=True), figures)


def diverged(run: Run) -> Finding | None:
    """The training loss was lower once, by more than its noise, and has not come back."""
    found = _divergence(run)
    if not found:
        return None
    best, last, rise = found
    message = (
        f"The training loss has diverged: it has risen by {rise:.2f} nats, from {best[1]:.2f} at step {best[0]:,} to "
        f"{last[1]:.2f} at step {last[0]:,}, and has not come back."
    )
    if best[0] <= run.warmup_steps < last[0] and run.warmup_steps:
        message += f" It rose while or after the rate warmed up, which took until step {run.warmup_steps:,}."
    figures = {"best_loss": best[1], "best_step": best[0], "loss": last[1], "rise": rise, **causes.figures(run)}
    return Finding("diverged", "error", message, causes.sentences(run, diverged=True), figures)


def stuck_at_unigram(run: Run) -> Finding | None:
    """After enough steps, the loss is that of word frequencies."""
    if state(run) != "stuck":
        return None
    found = now(run)
    gap = found.baseline - found.loss
    side = "under" if gap >= 0 else "over"
    message = (
        f"The loss is stuck at the unigram baseline: after {run.done:,} steps the {found.what} is {found.loss:.4f} "
        f"nats, {abs(gap):.4f} {side} the {found.baseline:.4f} of word frequencies alone"
    )
    if found.plateau < found.baseline:
        message += f" ({found.plateau:.4f} with what copying unmasked tokens gains)"
    message += ". The model has learned which words are frequent, and nothing of what stands around a mask."
    return Finding("stuck_at_unigram", "error", message, _causes(run), _figures(run, found))


def over_unigram(run: Run) -> Finding | None:
    """After enough steps, the loss is worse than that of word frequencies."""
    if state(run) != "over":
        return None
    found = now(run)
    message = (
        f"The model is worse than word frequencies: after {run.done:,} steps the {found.what} is {found.loss:.4f} "
        f"nats, {found.loss - found.baseline:.4f} over the unigram baseline of {found.baseline:.4f}."
    )
    return Finding("over_unigram", "error", message, _causes(run), _figures(run, found))


def too_young(run: Run) -> Finding | None:
    """Not under the baseline, but no run of so few steps would be."""
    if state(run) != "young":
        return None
    found = now(run)
    why = "the loss falls still" if not _is_young(run) else f"the warm-up takes {run.warmup_steps:,} steps"
    message = (
        f"Too young to tell: {run.done:,} of {run.num_steps:,} steps are done and {why}; the {found.what} of "
        f"{found.loss:.4f} nats is not clearly under the unigram baseline of {found.baseline:.4f} yet."
    )
    return Finding("too_young", "note", message, _causes(run), _figures(run, found))


def nsp_without_mlm(run: Run) -> Finding | None:
    """Pairs are told apart, while masked tokens are guessed by their frequency."""
    accuracy, pairs = _nsp_accuracy(run)
    if accuracy is None or state(run) not in ("stuck", "over", "diverged"):
        return None
    random = run.random_pairs
    guessed = 0.5 if random is None else max(random, 1 - random)  # by the commoner answer
    if accuracy < guessed + max(NSP_LEARNED - 0.5, NSP_ERRORS * 0.5 / math.sqrt(pairs)):
        return None
    found = now(run)
    baseline = "" if found.baseline is None else f" (word frequencies alone: {found.baseline:.4f})"
    message = (
        f"Next-sentence pairs are learned, masked tokens are not: {percent(accuracy)} of the pairs are told apart, but "
        f"the {found.what} is {found.loss:.4f} nats{baseline}."
    )
    reason = (
        "the pairs are told apart by topic, style or length, which takes no reading, and the gradient serves them "
        "first; leave them out: --config.objective.next_sentence=False --config.data.format=full_sentences"
    )
    figures = {"nsp_accuracy": accuracy, "random_pairs": random, **_figures(run, found)}
    return Finding("nsp_without_mlm", "error", message, [reason, *_causes(run)], figures)


def _nsp_accuracy(run):
    """(accuracy, how many pairs it is of): held out, or of the last training rows; (None, 0) without pairs."""
    rows = run.rows_of(run.phase)
    settings, data = run.config.train, run.phase.data
    evaluated = [row for row in rows if "eval/nsp_accuracy" in row]
    if evaluated and evaluated[-1]["step"] >= 0.75 * run.done:
        return evaluated[-1]["eval/nsp_accuracy"], settings.eval_batches * (settings.eval_batch_size or data.batch_size)
    level = curves.level(run, curves.curve(rows, "nsp_accuracy"))
    return (level.value, level.points * data.batch_size) if level else (None, 0)


def _causes(run):
    return causes.sentences(run, diverged=state(run) == "diverged", falling=falling(run))


def _figures(run, found):
    gap = None if found.baseline is None else found.baseline - found.loss
    figures = {"loss": found.loss, "loss_of": found.what, "unigram_loss": found.baseline, "under_unigram": gap}
    figures["plateau"] = found.plateau
    return figures | causes.figures(run)
