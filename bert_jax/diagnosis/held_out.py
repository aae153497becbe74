"""Checks of the held-out loss: compared with the training loss, and whether it is measured at all."""

import dataclasses
import math

from bert_jax import _moved
from bert_jax.config import objective
from bert_jax.diagnosis import causes, curves
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import command_line

# Without overfitting both losses agree within a few hundredths of a nat; two halves of a small text may differ in
# difficulty by up to a fifth of a nat.
WORSE_NATS, WORSE_SHARE = 0.2, 0.1
BETTER_NATS, BETTER_SHARE = 0.2, 0.1
ERRORS = 3.0  # a gap must also exceed so many standard errors
RISEN_NATS = 0.1  # rise of the held-out loss above its minimum that counts as overfitting
MANY_PASSES = 20  # passes after which a small text is memorized, even with new masks; BERT made 40 over a large one
FORGOTTEN_NATS = 0.3  # rise of the held-out loss of the old text in continued pre-training
SHARED = 0.1  # share of held-out sentences that also occur in the training text; usual phrases are fewer
MOSTLY_SHARED = 0.5  # so many that the held-out loss measures memorized text
FEW_DOCUMENTS = 20  # with fewer held-out documents each of them moves the loss


@dataclasses.dataclass(frozen=True)
class Gap:
    """Compares training loss and held-out loss at one evaluation, in nats.

    Attributes:
      step: step of the evaluation.
      train, held_out: the losses.
      unigram: unigram loss of the held-out text; infinite if unknown.
      easier: by how much the unigram loss of the held-out text is lower than that of the training text; 0 if unknown.
      slack: difference that chance explains: standard errors of both losses, and the fall of the training loss
        around this step.
    """

    step: int
    train: float
    held_out: float
    unigram: float
    easier: float
    slack: float

    @property
    def worse(self) -> float:
        """Returns by how many nats the held-out loss is higher, beyond what token frequencies explain."""
        return self.held_out - self.train + min(0.0, self.easier)

    @property
    def better(self) -> float:
        """Returns by how many nats the held-out loss is lower, beyond what token frequencies explain."""
        return self.train - self.held_out - max(0.0, self.easier)


def gaps(run: Run) -> list[Gap]:
    """Returns both losses for each evaluation of the last phase that has training rows around it."""
    rows = run.rows_of(run.phase)
    if run.config.train.eval_mask_rate not in (0, run.phase.data.mask_rate):
        return []  # fewer masks are easier: the losses cannot be compared
    points, pairs = curves.curve(rows, "mlm_loss"), []
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
        pairs.append(
            Gap(step, level.value, row["eval/mlm_loss"], math.inf if unigram is None else unigram, easier, slack)
        )
    return pairs


def _spread(loss):
    """Returns the standard deviation of the loss of single tokens: about their mean, up to TOKEN_SPREAD."""
    return min(curves.TOKEN_SPREAD, 0.5 + loss)


def _held_out_predictions(run):
    """Returns the approximate number of tokens that an evaluation predicts."""
    settings, data = run.config.train, run.phase.data
    rows = settings.eval_batches * (settings.eval_batch_size or data.batch_size)
    predictions = rows * run.predictions / data.batch_size
    if run.texts and len(run.readable_texts) == len(run.texts):
        available = sum(text.tokens("eval") for text in run.texts)
        predictions = min(predictions, available * objective.facts(run.config).predicted_share(data.mask_rate))
    return max(1.0, predictions)


def overfits(run: Run) -> bool:
    """Returns whether the held-out loss of the last evaluations is clearly higher than the training loss."""
    last = gaps(run)[-2:]
    return bool(last) and all(gap.worse > max(WORSE_NATS, WORSE_SHARE * gap.held_out, gap.slack) for gap in last)


def evaluation_worse(run: Run) -> Finding | None:
    """Checks whether the held-out loss is higher than the training loss: overfitting, or a different kind of text."""
    if not overfits(run):
        return None
    evaluations = gaps(run)
    end, best = evaluations[-1], min(evaluations, key=lambda gap: gap.held_out)
    message = (
        f"Evaluation is worse than training: at step {end.step:,} the held-out loss is {end.held_out:.4f} nats, the "
        f"training loss {end.train:.4f}."
    )
    risen = end.held_out - best.held_out
    if risen > RISEN_NATS:
        message += f" It was {best.held_out:.4f} at step {best.step:,} and has risen by {risen:.4f} since."
    useless = end.held_out >= end.unigram
    if useless:
        message += f" By now token frequencies alone ({end.unigram:.4f}) would predict held-out text better."
    metrics = _metrics(run, end) | {"best_eval_loss": best.held_out, "best_step": best.step, "risen": risen}
    return Finding(
        "evaluation_worse", "error" if useless else "warning", message, _causes_of_worse(run, end, best, risen), metrics
    )


def _causes_of_worse(run, end, best, risen):
    passes, tokens, ranked = run.passes, _tokens(run), []
    if passes is not None:
        text = f"the model memorizes the text: {passes:,.1f} passes over {tokens:,} tokens; use more text, fewer steps"
        if risen > RISEN_NATS:
            text += f" (--config.train.num_steps={best.step})"
        dropout = run.config.model.hidden_dropout
        text += ", a smaller model" if dropout else ", or --config.model.hidden_dropout=0.1"
        likelihood = 0.9 if passes >= MANY_PASSES or risen > RISEN_NATS else 0.5 if passes > 4 else 0.2
        ranked.append((likelihood, text))
    duplicates = causes.duplicate_share(run)
    if duplicates is not None and duplicates >= causes.DUPLICATES:
        text = f"duplicates in the training text: {percent(duplicates)} of the documents equal an earlier one; "
        likelihood = 0.85 if duplicates >= causes.MOSTLY_DUPLICATES else 0.6
        ranked.append((likelihood, text + "prepare it with --drop_duplicates"))
    data = run.phase.data
    if data.masking == "static" and passes is not None and passes > data.dupe_factor:
        text = (
            f"repeated masks: data.masking=static with {data.dupe_factor} masks for each instance, over {passes:,.1f} "
        )
        ranked.append((0.55, text + "passes; use --config.data.masking=dynamic"))
    documents = _documents(run)
    if documents is not None:
        harder = f", with a unigram loss {-end.easier:.2f} nats higher" if end.easier < -0.05 else ""
        text = f"the held-out text is of a different kind: its {documents:,} documents were drawn by hash{harder}; "
        text += "prepare with a larger --eval_share" if documents < FEW_DOCUMENTS else "look at them with show_batch"
        ranked.append((0.65 if documents < FEW_DOCUMENTS and (passes or 0) < MANY_PASSES else 0.15, text))
    ranked = ranked or [(0.5, "the text is small for so many steps and is memorized: use fewer steps or more text")]
    return [text for _, text in sorted(ranked, key=lambda reason: -reason[0])]


def evaluation_better(run: Run) -> Finding | None:
    """Checks whether the held-out loss is lower than the training loss: usual with dropout, suspicious without."""
    last = gaps(run)[-2:]
    if not last or any(gap.better <= max(BETTER_NATS, BETTER_SHARE * gap.train, gap.slack) for gap in last):
        return None
    end = last[-1]
    dropout = max(run.config.model.hidden_dropout, run.config.model.attention_dropout)
    message = (
        f"Evaluation is better than training: at step {end.step:,} the held-out loss is {end.held_out:.4f} nats, the "
        f"training loss {end.train:.4f}."
    )
    shared, duplicates = _shared_sentences(run), causes.duplicate_share(run)
    metrics = {"dropout": dropout, "duplicate_share": duplicates, "shared_sentences": shared}
    reasons = _causes_of_better(run, end, dropout, shared)
    is_usual = 0 < dropout < causes.HIGH_DROPOUT and (shared or 0) < SHARED and (duplicates or 0) < causes.DUPLICATES
    severity = "note" if is_usual else "warning"
    return Finding("evaluation_better", severity, message, reasons, _metrics(run, end) | metrics)


def held_out_in_training(run: Run) -> Finding | None:
    """Checks whether most held-out sentences also occur in the training text, so that copying lowers the loss."""
    shared = _shared_sentences(run) if any("eval/mlm_loss" in row for row in run.rows) else None
    if shared is None or shared < MOSTLY_SHARED or evaluation_better(run) is not None:
        return None
    message = (
        f"The held-out text repeats the training text: {percent(shared)} of its sentences occur there verbatim, so "
        "that the held-out loss does not distinguish learning from memorization."
    )
    # Not a warning: a text with few different sentences, such as commands, is like this by nature.
    fix = ["if documents are near duplicates of each other: remove them, then prepare with --drop_duplicates"]
    return Finding("held_out_in_training", "note", message, fix, {"shared_sentences": shared})


def _causes_of_better(run, end, dropout, shared):
    ranked = []
    if dropout:
        text = f"dropout of {dropout:g} is on in training and off in evaluation, so this alone is no problem; python "
        text += (
            f"-m bert_jax.evaluate --model={run.workdir} --split=train --corpus=... shows the training loss without it"
        )
        ranked.append((0.7, text))
    duplicates = causes.duplicate_share(run)
    copies = "held-out text that also occurs in the training text"
    if duplicates is None:
        ranked.append((0.4, f"{copies}: how much is unknown, since the corpus cannot be read"))
    else:
        verbatim = "" if shared is None else f"{percent(shared)} of the held-out sentences do, verbatim, and "
        text = f"{copies}: {verbatim}{percent(duplicates)} of all documents are duplicates; remove near duplicates, "
        text += "then prepare the text with --drop_duplicates"
        copied = (shared or 0) >= SHARED or duplicates >= causes.DUPLICATES
        ranked.append((0.9 if (shared or 0) >= SHARED else 0.6 if copied else 0.25, text))
    documents = _documents(run)
    if documents is not None:
        easier = f", with a unigram loss {end.easier:.2f} nats lower" if end.easier > 0.05 else ""
        text = f"held-out text that is easier: {documents:,} documents{easier}; prepare with a larger --eval_share"
        ranked.append((0.75 if documents < FEW_DOCUMENTS else 0.2, text))
    if run.phase.data.packing or run.phase.data.mask_unit != "token":
        unit = run.phase.data.mask_unit
        text = f"masks that are easier in evaluation: data.mask_unit={unit}, data.packing={run.phase.data.packing}; "
        ranked.append((0.15, f"{text}compare with {command_line('evaluate')} --split=train"))
    return [text for _, text in sorted(ranked, key=lambda reason: -reason[0])]


def no_evaluation(run: Run) -> Finding | None:
    """Checks whether there is a held-out loss, without which learning and memorization look the same."""
    if any("eval/mlm_loss" in row for row in run.rows) or (run.nonfinite and not run.finished):
        return None
    every, metrics = run.config.train.eval_every, {"eval_every": run.config.train.eval_every, "steps": run.done}
    name, head = "no_evaluation", f"Nothing was evaluated in {run.done:,} steps: "
    if not every:
        return Finding(name, "warning", head + "config.train.eval_every=0.", ["set --config.train.eval_every"], metrics)
    documents = _documents(run)
    if documents == 0:
        fix = ["prepare the corpus again with --eval_share above 0, from two documents or more"]
        return Finding(name, "warning", head + "no document of the corpus is held out.", fix, metrics)
    if run.done < every and not run.finished:
        message = f"{head}the first evaluation is after {every:,}."
        fix = [f"for one sooner, --config.train.eval_every={max(1, every // 10)}"]
        return Finding(name, "note", message, fix, metrics)
    message = f"{head}config.train.eval_every={every}, but no row has a held-out loss."
    return Finding(name, "warning", message, ["no document of the corpus is held out (--eval_share)"], metrics)


def forgetting(run: Run) -> Finding | None:
    """Checks whether continued pre-training has raised the loss of the old text."""
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
    reasons.append(
        "the old text is not in the mixture; add it: --config.data.corpus=NEW,OLD --config.data.weights=0.8,0.2"
    )
    metrics = {"before": before, "after": old[-1], "learning_rate": rate, "passes": passes}
    return Finding("forgetting", "warning", message, reasons, metrics)


def _tokens(run):
    return sum(text.tokens("train") for text in run.readable_texts)


def _shared_sentences(run):
    """Returns the mean over the corpora whose files can be read; None without any."""
    shares = [share for text in run.readable_texts if (share := text.shared_sentences) is not None]
    return sum(shares) / len(shares) if shares else None


def _documents(run):
    """Returns the number of held-out documents of all corpora; None if a manifest is missing."""
    if not run.texts or len(run.readable_texts) < len(run.texts):
        return None
    return sum(text.held_out_documents() for text in run.texts)


def _metrics(run, end):
    return {
        "eval_loss": end.held_out,
        "train_loss": end.train,
        "step": end.step,
        "easier_by_frequencies": end.easier,
        "passes": run.passes,
        "held_out_documents": _documents(run),
    }


def __getattr__(name):
    return _moved.find("diagnosis.held_out", name)
