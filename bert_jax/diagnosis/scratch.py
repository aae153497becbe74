"""Compares a fine-tuned checkpoint with the same architecture trained from fresh weights."""

import math
import statistics

from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import finetuning
from bert_jax.diagnosis.finding import Finding
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import UserError


def no_better_than_scratch(run: Run, scratch: Run) -> Finding | None:
    """Reports a fine-tuned checkpoint that does not beat the same architecture trained from fresh weights.

    The seeds' scores are compared by Welch's interval for a difference of two means, at 95 %.

    Args:
      run: a finished fine-tuning run.
      scratch: a finished one with config.from_scratch, of the same architecture and data.

    Returns:
      A warning where the interval does not lie above 0, a note where it does; None where a run has no score.

    Raises:
      UserError: the two runs cannot be compared.
    """
    _check_comparable(run, scratch)
    run_scores, scratch_scores = _scores(run), _scores(scratch)
    if not run_scores or not scratch_scores:
        return None
    means = statistics.fmean(run_scores), statistics.fmean(scratch_scores)
    gain = means[0] - means[1]
    low, high = _welch(run_scores, scratch_scores)
    metric = run.summary["metric"]
    message = (
        f"{metric} is {means[0]:.4f} fine-tuned from {run.config.init_from} and {means[1]:.4f} from scratch (means of "
        f"{len(run_scores)} and {len(scratch_scores)} seeds): a gain of {gain:+.4f}"
    )
    metrics = {"gain": gain, "low": low, "high": high, "pretrained": means[0], "scratch": means[1]}
    metrics["learning_rate"] = run.config.optimizer.learning_rate
    if low is None or high is None:
        message += "; one seed tells no interval."
        return Finding(
            "no_better_than_scratch", "note", message, ["judge by several seeds of each: --config.seeds=5"], metrics
        )
    message += f", 95 % interval {low:+.4f} to {high:+.4f}."
    if low > 0:
        return Finding("better_than_scratch", "note", message, (), metrics)
    words = "worse than" if high < 0 else "no better than"
    message = f"Fine-tuned {words} from scratch, as far as these seeds tell: {message}"
    return Finding("no_better_than_scratch", "warning", message, _scratch_causes(run, scratch), metrics)


def _check_comparable(run, scratch):
    for name, compared in (("WORKDIR", run), ("--scratch", scratch)):
        if not compared.fine_tuning or not compared.summary:
            unfinished = "a run that is not done: it has no summary.json"
            kind = unfinished if compared.fine_tuning else "a run of pre-training"
            raise UserError(f"{name}={compared.workdir}: {kind}; expected a finished run of bert_jax.finetune")
    if run.config.from_scratch or not scratch.config.from_scratch:
        raise UserError(
            f"--scratch={scratch.workdir}: found config.from_scratch={scratch.config.from_scratch}, and "
            f"{run.config.from_scratch} in {run.workdir}; expected --config.from_scratch=True in --scratch alone"
        )
    dropout = ("hidden_dropout", "attention_dropout")  # each start may have its own
    models = [
        {key: value for key, value in compared.run["model"].items() if key not in dropout}
        for compared in (run, scratch)
    ]
    different = sorted(key for key in models[0] if models[0][key] != models[1].get(key))
    if different:
        raise UserError(
            f"--scratch={scratch.workdir}: its model is another in {', '.join(different)}; expected the same "
            "--config.init_from in both runs"
        )
    held_out = [
        {name: data for name, data in compared.run["data"].items() if name.startswith("held out")}
        for compared in (run, scratch)
    ]
    if held_out[0] != held_out[1] or run.summary["metric"] != scratch.summary["metric"]:
        raise UserError(
            f"--scratch={scratch.workdir}: it was scored on other data than {run.workdir}; expected the same"
        )


def _scores(run):
    return [seed["score"] for seed in run.summary["seeds"] if seed.get("score") is not None]


def _welch(first, second):
    """Returns the 95 % interval of mean(first) - mean(second), for unequal variances; (None, None) for single seeds."""
    from scipy import stats  # here, because it is slow to import

    if min(len(first), len(second)) < 2:
        return None, None
    errors = [statistics.variance(scores) / len(scores) for scores in (first, second)]
    gain, total = statistics.fmean(first) - statistics.fmean(second), sum(errors)
    if total == 0:
        return gain, gain
    # Welch-Satterthwaite
    freedom = total**2 / sum(
        error**2 / (len(scores) - 1) for error, scores in zip(errors, (first, second), strict=True)
    )
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    return gain - half, gain + half


def _scratch_causes(run, scratch):
    rate, width = run.config.optimizer.learning_rate, run.run["model"]["hidden_size"]
    low, high = finetune_config.suitable_rates(run.config, width)
    reasons = []
    if rate < low:
        reasons.append((0.9, finetuning.low_rate_advice(run)))
    elif rate == scratch.config.optimizer.learning_rate:
        text = f"one learning rate, {rate:g}, for both runs; the best one of each start is another: search both, "
        reasons.append((0.4, text + f"between {low:.2g} and {high:.2g}, on examples that no score is reported on"))
    if run.config.tuning.freeze:
        text = f"frozen parameters: config.tuning.freeze={run.config.tuning.freeze}, which a fresh model did without"
        reasons.append((0.6, text))
    if run.done < finetuning.FEW_STEPS and finetuning.score_fell(run) is None:
        text = f"too few steps: {run.done:,}; more --config.train.num_epochs"
        reasons.append((0.7, text + f" (now {run.config.train.num_epochs:g})"))
    reasons.append((0.3, "too little pre-training: compare its eval/mlm_loss with eval/unigram_loss; more steps"))
    reasons.append(
        (0.2, "pre-trained on text of another kind; continue on the task's own: --config=continue_pretraining")
    )
    return [text for _, text in sorted(reasons, key=lambda reason: -reason[0])]
