"""Checks of fine-tuning: failed seeds, a falling score, seeds that disagree, an unusual rate, a loss that stays.

The findings of one run do not contradict each other: none asks for a lower learning rate where another asks for a
higher one, and none for more steps where the score has fallen.
"""

import statistics

from bert_jax import _moved
from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import causes, curves
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run

FELL_SHARE = 0.1  # share of the best score; a smaller fall is a few examples of a small held-out set
SPREAD = 0.1  # share of the score: difference between the best and the worst seed that did not fail
FEW_STEPS = 100  # a new head learns little in fewer
RISE_ERRORS, RISE_SHARE = 5.0, 0.05  # a training loss has risen if by more than so many errors, and this share of it


def failed_seeds(run: Run) -> Finding | None:
    """Checks for seeds whose loss was not finite or whose score is not above always giving the commonest answer."""
    seeds = run.summary.get("seeds", ())
    failed = [seed for seed in seeds if seed.get("failure")]
    if not failed:
        return None
    failures = "; ".join(f"seed {seed['seed']}: {seed['failure']}" for seed in failed[:5])
    message = f"{len(failed)} of {len(seeds)} seeds failed ({run.summary['metric']}): {failures}."
    metrics = {"failed": len(failed), "seeds": len(seeds), "baseline": run.summary.get("baseline")}
    severity = "error" if 2 * len(failed) >= len(seeds) else "warning"
    return Finding("failed_seeds", severity, message, usual_causes(run), metrics | settings_metrics(run))


def usual_causes(run: Run) -> list[str]:
    """Returns usual causes of failed seeds and of a score near chance, the likeliest first.

    A rate in the usual range is called high only where the run itself shows it: a score at chance is that of a low
    rate, too.
    """
    width, reasons = run.run["model"]["hidden_size"], []
    low, high = finetune_config.rate_range(run.config, width)
    rate, (lowest, highest) = run.config.optimizer.learning_rate, finetune_config.suitable_rates(run.config, width)
    sign = _sign_of_a_high_rate(run)
    if rate > high and run.config.tuning.lora_rank and not sign:
        text = f"learning rate {rate:g} is above {finetune_config.range_in_words(run.config, width)}; "
        reasons.append((0.5, text + f"try --config.optimizer.learning_rate={high / 2:.1g}"))
    elif rate > high:
        adapted = run.config.tuning.lora_rank
        known = f"those for {finetune_config.tuned_part(run.config, width)}" if adapted else "published ones"
        text = f"learning rate too high: {rate:g}, {known} are {low:.3g} to {high:.3g}; "
        reasons.append((0.9, text + f"try --config.optimizer.learning_rate={high / 2:.1g}"))
    elif sign:
        text = f"learning rate {rate:g} is high for this run: {sign}; "
        reasons.append((0.7, text + f"try --config.optimizer.learning_rate={lower_rate(run, 2):.2g}"))
    elif finetune_config.rate_is_low(run.config, width):
        reasons.append((0.9, low_rate_advice(run)))
    elif rate < low:
        text = f"learning rate too low: {rate:g}, published ones are {low:.3g} to {high:.3g}; "
        reasons.append((0.9, text + f"try --config.optimizer.learning_rate={lowest:.1g}"))
    else:
        text = f"learning rate {rate:g}: search {lowest:.2g} to {highest:.2g}, "
        source = "by a rule of thumb" if width <= finetune_config.SMALL_WIDTH else "in which published rates lie,"
        reasons.append((0.4, text + f"{source} for {finetune_config.tuned_part(run.config, width)}"))
    if unknown_tokens(run):
        reasons.append((0.97 if run.run["unknown_token_share"] >= causes.MOSTLY_UNKNOWN else 0.5, unknown_tokens(run)))
    overfits = score_fell(run) is not None
    if run.done < FEW_STEPS and not overfits:
        text = f"too few steps: {run.done:,}; raise --config.train.num_epochs"
        reasons.append((0.8, text + f" (now {run.config.train.num_epochs:g})"))
    if run.warmup_steps < 0.05 * run.num_steps:
        text = f"warm-up of {run.warmup_steps:,} of {run.num_steps:,} steps; "
        reasons.append((0.6, text + "set --config.optimizer.warmup_share=0.1"))
    rows = run.run["data"]["train"][0]
    if rows < 1000:
        advice = "start from" if overfits else "train more epochs, or start from"
        reasons.append((0.5, f"few examples: {rows:,}; {advice} a model fine-tuned on a related task"))
    if run.config.from_scratch:
        reasons.append((0.7, "the model is not pre-trained: config.from_scratch=True"))
    fault = "labels that cannot be derived from the text"
    fault = {"embedding": "pairs that do not belong together", "reranking": "wrong labels"}.get(
        run.config.task.name, fault
    )
    reasons.append((0.2, f"{fault}, or swapped columns: look at the data"))
    return [text for _, text in sorted(reasons, key=lambda reason: -reason[0])]


def unknown_tokens(run: Run) -> str:
    """Returns what is wrong with examples whose tokens the model's vocabulary does not know; "" if nothing is."""
    share = run.run.get("unknown_token_share", 0.0)
    if share < causes.UNKNOWN:
        return ""
    return (
        f"{percent(share)} of the tokens of config.task.train={run.config.task.train} are unknown to the vocabulary of "
        f"{run.config.init_from}: they all look the same to the model; expected text in the language and script of the "
        "model, or another --config.init_from"
    )


def _sign_of_a_high_rate(run):
    """Returns in words what shows that the rate was too high: a number that is not finite, or a loss that rose."""
    failures = [str(seed.get("failure", "")) for seed in run.summary.get("seeds", ())]
    if (run.nonfinite and run.done <= run.nonfinite[-1]) or any(text.startswith("not finite") for text in failures):
        return "the loss, a gradient or a parameter was not finite"
    points = curves.curve(run.rows, "loss")
    quarter = len(points) // 4
    if quarter < 2:
        return ""
    *before, last = (
        statistics.fmean(value for _, value in points[len(points) - number * quarter :][:quarter])
        for number in (4, 3, 2, 1)
    )
    lowest, error = min(before), curves.noise(run, points) / quarter**0.5
    if last <= lowest + max(RISE_ERRORS * error, RISE_SHARE * abs(lowest)):
        return ""
    return f"its training loss rose from {lowest:.4f} to {last:.4f}"


def lower_rate(run: Run, divisor: float) -> float:
    """Returns the learning rate divided by `divisor`, or the lower end of the usual range if that lies between."""
    rate, width = run.config.optimizer.learning_rate, run.run["model"]["hidden_size"]
    low = finetune_config.suitable_rates(run.config, width)[0]
    return max(rate / divisor, low) if rate > low else rate / divisor


def low_rate_advice(run: Run) -> str:
    """Returns in words that the learning rate is low for the model's width, and which one to try."""
    rate, width = run.config.optimizer.learning_rate, run.run["model"]["hidden_size"]
    low, high = finetune_config.suitable_rates(run.config, width)
    return (
        f"learning rate of {rate:g}, below the {low:.2g} to {high:.2g} for "
        f"{finetune_config.tuned_part(run.config, width)}; "
        f"try --config.optimizer.learning_rate={high:.2g}"
    )


def rate_out_of_range(run: Run) -> Finding | None:
    """Checks whether the peak learning rate is in the range for the model or its adapters; a note, as tasks differ."""
    width, rate = run.run["model"]["hidden_size"], run.config.optimizer.learning_rate
    low, high = finetune_config.rate_range(run.config, width)
    if not finetune_config.rate_warning(run.config, width):
        return None
    lowest, highest = finetune_config.suitable_rates(run.config, width)
    if finetune_config.rate_is_low(run.config, width):
        if run.nonfinite and run.done <= run.nonfinite[-1]:
            return None  # `nonfinite` asks for a lower one
        message = f"The learning rate of {rate:g} is low for {finetune_config.tuned_part(run.config, width)}."
        metrics = {"learning_rate": rate, "low": lowest, "high": highest}
        return Finding("rate_out_of_range", "note", message, [low_rate_advice(run)], metrics)
    message = (
        f"The learning rate of {rate:g} is outside {finetune_config.range_in_words(run.config, width)} "
        "(config.optimizer.learning_rate_range)."
    )
    if rate < low and run.nonfinite and run.done <= run.nonfinite[-1]:
        return None
    fix = [f"if scores are bad, try --config.optimizer.learning_rate={lowest if rate < low else high / 2:.1g}"]
    return Finding("rate_out_of_range", "note", message, fix, {"learning_rate": rate, "low": low, "high": high})


def score_fell(run: Run) -> Finding | None:
    """Checks whether the score has fallen since the best checkpoint: the model overfits."""
    seeds = [seed for seed in run.summary.get("seeds", ()) if seed.get("score") and seed.get("last_score") is not None]
    if not seeds:
        return None
    best = statistics.median(seed["score"] for seed in seeds)
    last = statistics.median(seed["last_score"] for seed in seeds)
    step = statistics.median(seed["step"] for seed in seeds)
    if best <= 0 or best - last < FELL_SHARE * best:
        return None
    message = (
        f"The score has fallen: {run.summary['metric']} was {best:.4f} at step {step:,.0f} and is {last:.4f} at the "
        f"last evaluation (medians of {len(seeds)} seeds); the best checkpoint of each seed was kept."
    )
    rate = run.config.optimizer.learning_rate
    reasons = [
        f"the model overfits the examples in {run.config.train.num_epochs:g} epochs; use fewer "
        "--config.train.num_epochs, or --config.train.patience=2",
    ]
    width = run.run["model"]["hidden_size"]
    lower = min(rate, finetune_config.rate_range(run.config, width)[1]) / 2
    if lower >= finetune_config.suitable_rates(run.config, width)[0]:
        reasons.append(f"learning rate of {rate:g}; try --config.optimizer.learning_rate={lower:.2g}")
    return Finding("score_fell", "warning", message, reasons, {"best": best, "last": last, "step": step})


def seeds_differ(run: Run) -> Finding | None:
    """Checks whether the scores of the seeds that did not fail are far apart."""
    scores = [seed["score"] for seed in run.summary.get("seeds", ()) if seed.get("score") and not seed.get("failure")]
    if len(scores) < 2 or max(scores) - min(scores) < SPREAD * abs(max(scores)):
        return None
    message = (
        f"The seeds differ widely: {run.summary['metric']} from {min(scores):.4f} to {max(scores):.4f} over "
        f"{len(scores)} seeds."
    )
    reasons = ["a small held-out set or few steps: use more of either", "judge by the median of more --config.seeds"]
    return Finding("seeds_differ", "note", message, reasons, {"min": min(scores), "max": max(scores)})


def loss_stays(run: Run) -> Finding | None:
    """Checks whether the training loss of an unfinished run has fallen."""
    points = curves.curve(run.rows, "loss")
    if run.summary or len(points) < 8 or run.done < FEW_STEPS:
        return None
    quarter = len(points) // 4
    first = statistics.fmean(value for _, value in points[:quarter])
    last = statistics.fmean(value for _, value in points[-quarter:])
    error = curves.noise(run, points) / quarter**0.5
    if last < first - max(3 * error, 0.02 * abs(first)):
        return None
    message = f"The training loss has not fallen: {first:.4f} in the first quarter of the rows, {last:.4f} in the last."
    return Finding(
        "loss_stays", "warning", message, usual_causes(run), {"first": first, "last": last} | settings_metrics(run)
    )


def score_summary(run: Run) -> str:
    """Returns the score in words, or the training loss before there is one; "" without either."""
    summary = run.summary
    if summary.get("median") is not None:
        number = len(summary["scores"])
        spread = f", the median of {number} seeds, {summary['min']:.4f} to {summary['max']:.4f}" if number > 1 else ""
        baseline = summary.get("baseline")
        compared = f"; always giving the commonest answer scores {baseline:.4f}" if baseline is not None else ""
        return f"{summary['metric']} {summary['median']:.4f}{spread}{compared}"
    points = curves.curve(run.rows, "loss")
    return f"training loss {points[-1][1]:.4f}" if points else ""


def settings_metrics(run: Run) -> dict[str, float]:
    """Returns the run's learning rate and its numbers of steps, as metrics of a finding."""
    return {
        "learning_rate": run.config.optimizer.learning_rate,
        "steps": run.done,
        "warmup_steps": run.warmup_steps,
    }


def __getattr__(name):
    return _moved.find("diagnosis.finetuning", name)
