"""The held-out loss beside the training loss, and whether there is one at all."""

import dataclasses
import math

from bert_jax.config import objective
from bert_jax.diagnosis import causes, curves
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

# Runs that learn the language and not the text have both losses within a few hundredths of each other; how hard two
# halves of a small text are differs by up to a fifth of a nat.
WORSE_NATS, WORSE_SHARE = 0.2, 0.1
BETTER_NATS, BETTER_SHARE = 0.2, 0.1
ERRORS = 3.0  # standard errors that a gap must have too
RISEN_NATS = 0.1  # of the held-out loss, over its best: it is being unlearned
MANY_PASSES = 20  # a text read so often with fresh masks is known; BERT read its own 40 times, with 2.5 times the words
FORGOTTEN_NATS = 0.3  # of the old text, in continued pre-training
SHARED = 0.1  # of the held-out sentences, in the training text too: more than commonplaces are
MOSTLY_SHARED = 0.5  # so many that the held-out loss is of training text, whatever its figure
FEW_DOCUMENTS = 20  # held out: each of them moves the figure


@dataclasses.dataclass(frozen=True)
class Gap:
    """Two losses at one step.

    Attributes:
      step: of the evaluation.
      train, held_out: nats.
      unigram: the held-out text's by word frequencies, infinite where that is not known.
      easier: how much less the held-out text costs by word frequencies, 0 where that is not known.
      slack: what chance explains: standard errors of both, and what the training loss fell meanwhile.
    """

    step: int
    train: float
    held_out: float
    unigram: float
    easier: float
    slack: float

    @property
    def worse(self) -> float:
        """How much the held-out loss is over the training loss, beyond what frequencies explain."""
        return self.held_out - self.train + min(0.0, self.easier)

    @property
    def better(self) -> float:
        """How much it is under it, beyond what frequencies explain."""
        return self.train - self.held_out - max(0.0, self.easier)


def gaps(run: Run) -> list[Gap]:
    """Of each evaluation of the last phase that has training rows around it."""
    rows = run.rows_of(run.phase)
    points, found = curves.curve(rows, "mlm_loss"), []
    for row in rows:
        if "eval/mlm_loss" not in row:
            continue
        step = int(row["step"])
        level = curves.level(run, points, step) if points and points[0][0] <= step else None
        if level is None:
            continue
        unigram = row.get("eval/unigram_loss")
        known = unigram is not None and run.train_unigram_loss is not None
        easier = run.train_unigram_loss - unigram if known else 0.0
        error = math.hypot(level.error, _spread(row["eval/mlm_loss"]) / math.sqrt(_held_out_predictions(run)))
        slack = ERRORS * error + max(0.0, -level.drift)
        found.append(
            Gap(step, level.value, row["eval/mlm_loss"], math.inf if unigram is None else unigram, easier, slack)
        )
    return found


def _spread(loss):
    """Standard deviation of single tokens' losses: about as large as their mean, up to that of word frequencies."""
    return min(curves.TOKEN_SPREAD, 0.5 + loss)


def _held_out_predictions(run):
    """How many tokens an evaluation asks for, about."""
    settings, data = run.config.train, run.phase.data
    rows = settings.eval_batches * (settings.eval_batch_size or data.batch_size)
    asked = rows * run.predictions / data.batch_size
    if run.texts and len(run.readable_texts) == len(run.texts):
        there = sum(text.tokens("eval") for text in run.texts)
        asked = min(asked, there * objective.facts(run.config).predicted_share(data.mask_rate))
    return max(1.0, asked)


def is_worse(run: Run) -> bool:
    """Whether the held-out loss of the last evaluations is clearly over the training loss."""
    last = gaps(run)[-2:]
    return bool(last) and all(one.worse > max(WORSE_NATS, WORSE_SHARE * one.held_out, one.slack) for one in last)


def evaluation_worse(run: Run) -> Finding | None:
    """The text is learned by heart, or the held-out text is another kind of text."""
    if not is_worse(run):
        return None
    found = gaps(run)
    end, best = found[-1], min(found, key=lambda one: one.held_out)
    message = (
        f"Evaluation is worse than training: at step {end.step:,} the held-out loss is {end.held_out:.4f} nats, the "
        f"training loss {end.train:.4f}."
    )
    risen = end.held_out - best.held_out
    if risen > RISEN_NATS:
        message += f" It was {best.held_out:.4f} at step {best.step:,} and has risen by {risen:.4f} since."
    useless = end.held_out >= end.unigram
    if useless:
        message += f" By now word frequencies alone ({end.unigram:.4f}) would do better on text that was not learned."
    figures = _figures(run, end) | {"best_eval_loss": best.held_out, "best_step": best.step, "risen": risen}
    return Finding(
        "evaluation_worse", "error" if useless else "warning", message, _causes_of_worse(run, end, best, risen), figures
    )


def _causes_of_worse(run, end, best, risen):
    passes, tokens, found = run.passes, _tokens(run), []
    if passes is not None:
        text = f"the text is learned by heart: {passes:,.1f} passes over {tokens:,} tokens; more text, fewer steps"
        if risen > RISEN_NATS:
            text += f" (--config.train.num_steps={best.step})"
        dropout = run.config.model.hidden_dropout
        text += ", a smaller model" if dropout else ", or --config.model.hidden_dropout=0.1"
        likelihood = 0.9 if passes >= MANY_PASSES or risen > RISEN_NATS else 0.5 if passes > 4 else 0.2
        found.append((likelihood, text))
    duplicates = causes.duplicate_share(run)
    if duplicates is not None and duplicates >= causes.DUPLICATES:
        text = f"the training text repeats itself: {percent(duplicates)} of the documents equal an earlier one; "
        likelihood = 0.85 if duplicates >= causes.MOSTLY_DUPLICATES else 0.6
        found.append((likelihood, text + "prepare it with --drop_duplicates"))
    data = run.phase.data
    if data.masking == "static" and passes is not None and passes > data.dupe_factor:
        text = f"the same masks again: data.masking=static with {data.dupe_factor} masks each, over {passes:,.1f} "
        found.append((0.55, text + "passes; --config.data.masking=dynamic"))
    documents = _documents(run)
    if documents is not None:
        harder = f" and cost {-end.easier:.2f} nats more by their frequencies alone" if end.easier < -0.05 else ""
        text = f"the held-out text is another kind: its {documents:,} documents were drawn by hash{harder}; "
        text += "prepare with a larger --eval_share" if documents < FEW_DOCUMENTS else "look at them with show_batch"
        found.append((0.65 if documents < FEW_DOCUMENTS and (passes or 0) < MANY_PASSES else 0.15, text))
    found = found or [(0.5, "the text is small for so many steps and learned by heart: fewer steps, or more text")]
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


def evaluation_better(run: Run) -> Finding | None:
    """The held-out loss is lower than the training loss: rarely wrong with dropout, seldom right without."""
    found = gaps(run)
    last = found[-2:]
    if not last or any(one.better <= max(BETTER_NATS, BETTER_SHARE * one.train, one.slack) for one in last):
        return None
    end = found[-1]
    dropout = max(run.config.model.hidden_dropout, run.config.model.attention_dropout)
    message = (
        f"Evaluation is better than training: at step {end.step:,} the held-out loss is {end.held_out:.4f} nats, the "
        f"training loss {end.train:.4f}."
    )
    shared, duplicates = _shared_sentences(run), causes.duplicate_share(run)
    figures = {"dropout": dropout, "duplicate_share": duplicates, "shared_sentences": shared}
    reasons = _causes_of_better(run, end, dropout, shared)
    usual = 0 < dropout < causes.HIGH_DROPOUT and (shared or 0) < SHARED and (duplicates or 0) < causes.DUPLICATES
    severity = "note" if usual else "warning"
    return Finding("evaluation_better", severity, message, reasons, _figures(run, end) | figures)


def held_out_in_training(run: Run) -> Finding | None:
    """Most held-out sentences stand in the training text: the held-out loss tells nothing apart from copying."""
    shared = _shared_sentences(run) if any("eval/mlm_loss" in row for row in run.rows) else None
    if shared is None or shared < MOSTLY_SHARED or evaluation_better(run) is not None:
        return None
    message = (
        f"The held-out text is like the training text: {percent(shared)} of its sentences stand there to the letter, "
        "so that the held-out loss does not tell what was learned from what was learned by heart."
    )
    # Of a text of few different sentences, such as commands, that is as it should be: no warning.
    fix = ["if documents are near duplicates of each other: take them out, then prepare with --drop_duplicates"]
    return Finding("held_out_in_training", "note", message, fix, {"shared_sentences": shared})


def _causes_of_better(run, end, dropout, shared):
    found = []
    if dropout:
        text = (
            f"dropout of {dropout:g} is on in training and off in evaluation, so this alone is nothing wrong; python "
        )
        text += (
            f"-m bert_jax.evaluate --model={run.workdir} --split=train --corpus=... shows the training loss without it"
        )
        found.append((0.7, text))
    duplicates = causes.duplicate_share(run)
    copies = "held-out text that stands in the training text too"
    if duplicates is None:
        found.append((0.4, f"{copies}: how much is not known, since the corpus is not there"))
    else:
        some = "" if shared is None else f"{percent(shared)} of the held-out sentences do, to the letter, and "
        text = f"{copies}: {some}{percent(duplicates)} of all documents are duplicates; take near duplicates out, then "
        text += "prepare the text with --drop_duplicates"
        copied = (shared or 0) >= SHARED or duplicates >= causes.DUPLICATES
        found.append((0.9 if (shared or 0) >= SHARED else 0.6 if copied else 0.25, text))
    documents = _documents(run)
    if documents is not None:
        easier = f", which cost {end.easier:.2f} nats less by their frequencies alone" if end.easier > 0.05 else ""
        text = f"held-out text that is easier: {documents:,} documents{easier}; prepare with a larger --eval_share"
        found.append((0.75 if documents < FEW_DOCUMENTS else 0.2, text))
    if run.phase.data.packing or run.phase.data.mask_unit != "token":
        unit = run.phase.data.mask_unit
        text = f"masks that are easier in evaluation: data.mask_unit={unit}, data.packing={run.phase.data.packing}; "
        found.append((0.15, text + "compare with python -m bert_jax.evaluate --split=train"))
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


def no_evaluation(run: Run) -> Finding | None:
    """No held-out loss, so nothing tells learning from learning by heart."""
    if any("eval/mlm_loss" in row for row in run.rows) or (run.nonfinite and not run.finished):
        return None
    every, figures = run.config.train.eval_every, {"eval_every": run.config.train.eval_every, "steps": run.done}
    name, head = "no_evaluation", f"Nothing was evaluated in {run.done:,} steps: "
    if not every:
        return Finding(name, "warning", head + "config.train.eval_every=0.", ["set --config.train.eval_every"], figures)
    documents = _documents(run)
    if documents == 0:
        fix = ["prepare the corpus again with --eval_share over 0, of two documents or more"]
        return Finding(name, "warning", head + "no document of the corpus is held out.", fix, figures)
    if run.done < every and not run.finished:
        message = f"{head}the first evaluation is after {every:,}."
        fix = [f"for one sooner, --config.train.eval_every={max(1, every // 10)}"]
        return Finding(name, "note", message, fix, figures)
    message = f"{head}config.train.eval_every={every}, but no row has figures of held-out text."
    return Finding(name, "warning", message, ["no document of the corpus is held out (--eval_share)"], figures)


def forgetting(run: Run) -> Finding | None:
    """Continued pre-training has unlearned the old text."""
    old = [row["eval_old/mlm_loss"] for row in run.rows if "eval_old/mlm_loss" in row]
    before = run.adaptation.get("old", {}).get("before", {}).get("mlm_loss")
    if not old or before is None or old[-1] - before <= FORGOTTEN_NATS:
        return None
    rate, passes = run.config.optimizer.learning_rate, run.passes
    message = (
        f"The old text is being forgotten: its held-out loss has risen by {old[-1] - before:.4f} nats, from "
        f"{before:.4f} before the first step to {old[-1]:.4f}."
    )
    reasons = [f"a rate of {rate:g}; try --config.optimizer.learning_rate={rate / 3:.1g}"]
    reasons.append("no old text among the new; add it: --config.data.corpus=NEW,OLD --config.data.weights=0.8,0.2")
    figures = {"before": before, "after": old[-1], "learning_rate": rate, "passes": passes}
    return Finding("forgetting", "warning", message, reasons, figures)


def _tokens(run):
    return sum(text.tokens("train") for text in run.readable_texts)


def _shared_sentences(run):
    """The mean over the corpora whose files are at hand; None without any."""
    shares = [share for text in run.readable_texts if (share := text.shared_sentences) is not None]
    return sum(shares) / len(shares) if shares else None


def _documents(run):
    """Held-out documents of all corpora; None where a manifest is not there."""
    if not run.texts or len(run.readable_texts) < len(run.texts):
        return None
    return sum(text.held_out_documents() for text in run.texts)


def _figures(run, end):
    return {
        "eval_loss": end.held_out,
        "train_loss": end.train,
        "step": end.step,
        "easier_by_frequencies": end.easier,
        "passes": run.passes,
        "held_out_documents": _documents(run),
    }
