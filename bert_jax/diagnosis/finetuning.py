"""Checks of fine-tuning: failed seeds, a score near chance, a falling score, seeds that disagree, an unusual rate.

The findings of one run do not contradict each other: none asks for a lower learning rate where another asks for a
higher one, and none for more steps where the score has fallen.
"""

import collections
import json
import math
import statistics

from bert_jax import _moved, storage
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.schema import is_number
from bert_jax.data.tasks import ranking
from bert_jax.diagnosis import curves
from bert_jax.diagnosis.finding import Finding
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import UserError
from bert_jax.runs import checkpoint_files

FELL_SHARE = 0.1  # of the best score; a smaller fall is a few examples of a small held-out set
SPREAD = 0.1  # of the score: difference between the best and the worst seed that did not fail
FEW_STEPS = 100  # a new head learns little in fewer
NEAR_CHANCE = 0.15  # of the way from chance to a perfect score
SAME_ANSWER = 0.99  # share of the predictions that are one and the same
_CORRELATIONS = ("matthews", "pearson", "spearman")  # whose chance is 0
_READ_PREDICTIONS = 1 << 14


def failed_seeds(run: Run) -> Finding | None:
    """Checks for seeds whose loss was not finite or whose score is not above always giving the commonest answer."""
    seeds = run.summary.get("seeds", ())
    failed = [seed for seed in seeds if seed.get("failure")]
    if not failed:
        return None
    failures = "; ".join(f"seed {seed['seed']}: {seed['failure']}" for seed in failed[:5])
    message = f"{len(failed)} of {len(seeds)} seeds failed ({run.summary['metric']}): {failures}."
    figures = {"failed": len(failed), "seeds": len(seeds), "baseline": run.summary.get("baseline")}
    severity = "error" if 2 * len(failed) >= len(seeds) else "warning"
    return Finding("failed_seeds", severity, message, _causes(run), figures | _figures(run))


def near_chance(run: Run) -> Finding | None:
    """Checks for a score that is close to chance, and for a model that gives nearly every example the same answer.

    Chance is what the best constant answer scores; of a correlation it is 0. Near is what is less than NEAR_CHANCE of
    the way from chance to a perfect score (but less than twice chance, so that a tenth of a hundred classes is not), or
    what two standard errors of the held-out rows, sampled as shares of right answers are, do not tell from chance.
    """
    seeds = run.summary.get("seeds", ())
    if seeds and 2 * len([seed for seed in seeds if seed.get("failure")]) >= len(seeds):
        return None  # `failed_seeds` reports it
    score, metric = _score(run)
    if score is None:
        return None
    kind, best = metric.rpartition("/")[2], 100.0 if run.config.task.name == "question_answering" else 1.0
    rows = _predictions(run)
    chance, chance_name = _chance(run, kind, rows)
    number = next((rows[0] for name, rows in run.run["data"].items() if name.startswith("held out")), 0)
    noise = 2 * best * _deviation(kind, chance / best, score / best) / math.sqrt(max(1, number))
    near = NEAR_CHANCE * (best - chance)
    margin = max(min(near, chance) if chance > 0 else near, noise)
    answer, share = _same_answer(run, rows)
    figures = {"score": score, "chance": chance, "margin": margin, "same_answer_share": share} | _figures(run)
    same = f"{share:.1%} of the held-out examples get the answer {answer!r}"
    if score - chance < margin:
        message = f"The score is close to chance: {metric} is {score:.4f}, and {chance_name} scores {chance:.4f}"
        message += f"; {same}." if share >= SAME_ANSWER else "."
        if score - chance < noise:
            message += f" {number:,} held-out examples do not tell them apart."
        return Finding("near_chance", "warning", message, _causes(run, chance=True), figures)
    if share >= SAME_ANSWER:
        message = f"The model gives one answer: {same}, while {metric} is {score:.4f}."
        return Finding("near_chance", "warning", message, _causes(run, chance=True), figures)
    return None


def _chance(run, kind, rows):
    """Returns (the score of the best constant answer, what it is in words).

    Args:
      run: a run.
      kind: name of the metric without that of a held-out set.
      rows: predictions of a held-out set with their gold labels; [] where there are none.
    """
    if kind in _CORRELATIONS:
        return 0.0, "chance"
    if kind in ranking.METRICS and run.config.task.name == "embedding":
        # One relevant text of all held-out ones is among the first ten of a random order so often.
        number = next((rows[0] for name, rows in run.run["data"].items() if name.startswith("held out")), 1)
        return min(1.0, 10 / max(1, number)), "a random order"
    baseline = run.summary.get("baseline")
    if baseline is None and not run.summary:
        baseline = _saved_baseline(run)
    if baseline is None:
        return (1 / max(1, len(run.run["labels"])), "chance") if kind == "accuracy" else (0.0, "chance")
    labels = run.run["labels"]
    if kind == "f1" and run.config.task.name == "sequence_classification" and len(labels) == 2 and rows:
        share = sum(str(row["gold"]) == str(labels[1]) for row in rows) / len(rows)
        always = 2 * share / (1 + share)  # precision `share`, recall 1; its other constant answer has none
        if always > baseline:
            return always, f"always answering {labels[1]!r}"
    if run.config.task.name == "reranking":
        return baseline, "a random order"
    return baseline, "always giving the commonest answer"


def _saved_baseline(run):
    """Returns the baseline in the newest checkpoint of a run that is not finished; None where there is none."""
    try:
        step = checkpoint_files.find_step(run.workdir, None)
        baseline = checkpoint_files.load_record(run.workdir, step)["baseline"]
    except (UserError, OSError, ValueError, KeyError):
        return None
    return baseline if is_number(baseline) else None


def _deviation(kind, chance, score):
    """Returns the standard deviation of one example's part in a score in [0, 1], at chance or at the score."""
    if kind in _CORRELATIONS:
        return 1.0
    return math.sqrt(max(share * (1 - share) for share in (min(max(chance, 0.0), 1.0), min(max(score, 0.0), 1.0))))


def _score(run):
    """Returns (the score of a run, its name): the median over seeds, or the last of a run in its second half."""
    if run.summary:
        return run.summary.get("median"), run.summary["metric"]
    if run.done < run.num_steps / 2:
        return None, ""
    for row in reversed(run.rows):
        names = curves.score_names(row)
        if names:
            return row[names[0]], names[0].removeprefix("eval/")
    return None, ""


def _predictions(run):
    """Returns the beginning of the predictions of a finished run's first held-out set that have gold labels."""
    written = next(iter(run.summary.get("predictions", {}).values()), None)
    if not written:
        return []
    try:
        lines = storage.read(str(run.workdir / written["file"])).split(b"\n")[:_READ_PREDICTIONS]
        rows = [json.loads(line) for line in lines if line]
    except (OSError, ValueError):  # moved or cut
        return []
    return [row for row in rows if "gold" in row]


def _same_answer(run, rows):
    """Returns (the commonest prediction of a held-out set, its share of them); ("", 0) where the gold ones are so too.

    Of scores (regression) all count as one that differ by less than a hundredth of what the gold ones do.
    """
    if not rows or (run.config.task.name == "reranking" and "rank" in rows[0]):
        return "", 0.0  # equal scores of all documents rank them wrongly, which is near chance
    predicted, gold = (
        [row.get("tags", row.get("answer", row.get("label"))) for row in rows],
        [row["gold"] for row in rows],
    )
    if run.config.task.name == "token_classification":
        predicted, gold = ([tag for tags in side for tag in tags] for side in (predicted, gold))
    elif run.config.task.name == "question_answering":
        gold = [answers[0] if answers else "" for answers in gold]
    elif run.config.task.name == "embedding" and "rank" in rows[0]:
        predicted = [row["nearest"][0]["text"] for row in rows]  # the same document for every query
        gold = [texts[0] if texts else "" for texts in gold]
    elif run.run.get("problem") == "regression" or run.config.task.name == "embedding":
        scores = [row["score"] for row in rows]
        if len(rows) > 1 and statistics.pstdev(scores) < 0.01 * statistics.pstdev(gold):
            return f"{statistics.fmean(scores):.3g}", 1.0
        return "", 0.0
    if not predicted:
        return "", 0.0
    counts, others = (collections.Counter(map(str, side)) for side in (predicted, gold))
    answer, count = counts.most_common(1)[0]
    if others.most_common(1)[0][1] >= SAME_ANSWER * len(gold):
        return "", 0.0
    return answer, count / len(predicted)


def _causes(run, chance=False):
    """Returns usual causes of failed seeds, or with `chance` of a score near chance, the likeliest first."""
    width, reasons = run.run["model"]["hidden_size"], []
    low, high = finetune_config.rate_range(run.config, width)
    rate, (lowest, highest) = run.config.optimizer.learning_rate, finetune_config.suitable_rates(run.config, width)
    if rate > high:
        text = f"learning rate too high: {rate:g}, published ones are {low:.3g} to {high:.3g}; "
        reasons.append((0.9, text + f"try --config.optimizer.learning_rate={high / 2:.1g}"))
    elif finetune_config.rate_is_low(run.config, width):
        reasons.append((0.9, _low_rate(run)))
    elif rate < low:
        text = f"learning rate too low: {rate:g}, published ones are {low:.3g} to {high:.3g}; "
        reasons.append((0.9, text + f"try --config.optimizer.learning_rate={lowest:.1g}"))
    elif rate / 2 >= lowest and not chance:
        text = f"learning rate {rate:g} is high for some seeds; "
        reasons.append((0.4, text + f"try --config.optimizer.learning_rate={rate / 2:.1g}"))
    else:
        text = f"learning rate {rate:g}: search {lowest:.1g} to {highest:.1g}, in which rates for "
        reasons.append((0.4, text + f"{_adapters(run)}a model of width {width} are published"))
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


def _adapters(run):
    return "LoRA adapters of " if run.config.tuning.lora_rank else ""


def _low_rate(run):
    rate, width = run.config.optimizer.learning_rate, run.run["model"]["hidden_size"]
    low, high = finetune_config.suitable_rates(run.config, width)
    return (
        f"learning rate of {rate:g}, below the {low:.1g} to {high:.1g} that {_adapters(run)}a model of width {width} "
        f"needs; try --config.optimizer.learning_rate={high:.1g}"
    )


def rate_out_of_range(run: Run) -> Finding | None:
    """Checks whether the peak learning rate is in the published range; a note, as adapters and small models differ."""
    width, rate = run.run["model"]["hidden_size"], run.config.optimizer.learning_rate
    low, high = finetune_config.rate_range(run.config, width)
    if not finetune_config.rate_warning(run.config, width):
        return None
    lowest, highest = finetune_config.suitable_rates(run.config, width)
    if finetune_config.rate_is_low(run.config, width):
        if run.nonfinite and run.done <= run.nonfinite[-1]:
            return None  # `nonfinite` asks for a lower one
        message = f"The learning rate of {rate:g} is low for {_adapters(run)}a model of width {width}."
        figures = {"learning_rate": rate, "low": lowest, "high": highest}
        return Finding("rate_out_of_range", "note", message, [_low_rate(run)], figures)
    message = (
        f"The learning rate of {rate:g} is outside the published range of {low:.3g} to {high:.3g} "
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
        reasons.append(f"learning rate of {rate:g}; try --config.optimizer.learning_rate={lower:.1g}")
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
    ours, theirs = _scores(run), _scores(scratch)
    if not ours or not theirs:
        return None
    means = statistics.fmean(ours), statistics.fmean(theirs)
    gain = means[0] - means[1]
    low, high = _welch(ours, theirs)
    metric = run.summary["metric"]
    message = (
        f"{metric} is {means[0]:.4f} fine-tuned from {run.config.init_from} and {means[1]:.4f} from scratch (means of "
        f"{len(ours)} and {len(theirs)} seeds): a gain of {gain:+.4f}"
    )
    figures = {"gain": gain, "low": low, "high": high, "pretrained": means[0], "scratch": means[1]}
    figures["learning_rate"] = run.config.optimizer.learning_rate
    if low is None or high is None:
        message += "; one seed tells no interval."
        return Finding(
            "no_better_than_scratch", "note", message, ["judge by several seeds of each: --config.seeds=5"], figures
        )
    message += f", 95 % interval {low:+.4f} to {high:+.4f}."
    if low > 0:
        return Finding("better_than_scratch", "note", message, (), figures)
    words = "worse than" if high < 0 else "no better than"
    message = f"Fine-tuned {words} from scratch, as far as these seeds tell: {message}"
    return Finding("no_better_than_scratch", "warning", message, _scratch_causes(run, scratch), figures)


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


def _welch(first, other):
    """Returns the 95 % interval of mean(first) - mean(other), for unequal variances; (None, None) for single seeds."""
    from scipy import stats  # here, because it is slow to import

    if min(len(first), len(other)) < 2:
        return None, None
    errors = [statistics.variance(scores) / len(scores) for scores in (first, other)]
    gain, total = statistics.fmean(first) - statistics.fmean(other), sum(errors)
    if total == 0:
        return gain, gain
    # Welch-Satterthwaite
    freedom = total**2 / sum(error**2 / (len(s) - 1) for error, s in zip(errors, (first, other), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    return gain - half, gain + half


def _scratch_causes(run, scratch):
    rate, width = run.config.optimizer.learning_rate, run.run["model"]["hidden_size"]
    low, high = finetune_config.suitable_rates(run.config, width)
    reasons = []
    if rate < low:
        reasons.append((0.9, _low_rate(run)))
    elif rate == scratch.config.optimizer.learning_rate:
        text = f"one learning rate, {rate:g}, for both runs; the best one of each start is another: search both, "
        reasons.append((0.4, text + f"between {low:.1g} and {high:.1g}, on examples that no score is reported on"))
    if run.config.tuning.freeze:
        text = f"frozen parameters: config.tuning.freeze={run.config.tuning.freeze}, which a fresh model did without"
        reasons.append((0.6, text))
    if run.done < FEW_STEPS and score_fell(run) is None:
        text = f"too few steps: {run.done:,}; more --config.train.num_epochs"
        reasons.append((0.7, text + f" (now {run.config.train.num_epochs:g})"))
    reasons.append((0.3, "too little pre-training: compare its eval/mlm_loss with eval/unigram_loss; more steps"))
    reasons.append(
        (0.2, "pre-trained on text of another kind; continue on the task's own: --config=continue_pretraining")
    )
    return [text for _, text in sorted(reasons, key=lambda reason: -reason[0])]


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
    return Finding("loss_stays", "warning", message, _causes(run), {"first": first, "last": last} | _figures(run))


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


def _figures(run):
    return {
        "learning_rate": run.config.optimizer.learning_rate,
        "steps": run.done,
        "warmup_steps": run.warmup_steps,
    }


def __getattr__(name):
    return _moved.find("diagnosis.finetuning", name)
