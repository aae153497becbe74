"""Checks whether a fine-tuned model scores no better than a constant answer, or gives one."""

import collections
import json
import math
import statistics

from bert_jax import storage
from bert_jax.config.schema import is_number
from bert_jax.data.tasks import ranking
from bert_jax.diagnosis import curves, finetuning
from bert_jax.diagnosis.finding import Finding
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import UserError
from bert_jax.runs import checkpoint_files

NEAR_CHANCE = 0.15  # share of the way from chance to a perfect score
SAME_ANSWER = 0.99  # share of the predictions that are equal, from which a model is said to give one answer
_CORRELATIONS = ("matthews", "pearson", "spearman")  # whose chance is 0
_READ_PREDICTIONS = 1 << 14


def near_chance(run: Run) -> Finding | None:
    """Checks for a score that is close to chance, and for a model that gives nearly every example the same answer.

    Chance is what the best constant answer scores; for a correlation it is 0. A score is close to chance if it is less
    than NEAR_CHANCE of the way from there to a perfect score and less than twice chance (0.1 is far from the 0.01 of a
    hundred classes), or if it is within two standard errors of chance, as those of a share of right answers among the
    held-out rows.
    """
    seeds = run.summary.get("seeds", ())
    if seeds and 2 * len([seed for seed in seeds if seed.get("failure")]) >= len(seeds):
        return None  # finetuning.failed_seeds reports it
    score, metric = _score(run)
    if score is None:
        return None
    kind, best = metric.rpartition("/")[2], 100.0 if run.config.task.name == "question_answering" else 1.0
    rows = _predictions(run)
    chance, chance_name = _chance(run, kind, rows)
    number = _num_held_out(run)
    noise = 2 * best * _deviation(kind, chance / best, score / best) / math.sqrt(max(1, number))
    distance = NEAR_CHANCE * (best - chance)
    margin = max(min(distance, chance) if chance > 0 else distance, noise)
    answer, share = _same_answer(run, rows)
    metrics = {"score": score, "chance": chance, "margin": margin, "same_answer_share": share}
    metrics |= finetuning.settings_metrics(run)
    same = f"{share:.1%} of the held-out examples get the answer {answer!r}"
    if score - chance < margin:
        message = f"The score is close to chance: {metric} is {score:.4f}, and {chance_name} scores {chance:.4f}"
        message += f"; {same}." if share >= SAME_ANSWER else "."
        if score - chance < noise:
            message += f" {number:,} held-out examples do not tell them apart."
        return Finding("near_chance", "warning", message, finetuning.usual_causes(run), metrics)
    if share >= SAME_ANSWER:
        message = f"The model gives one answer: {same}, while {metric} is {score:.4f}."
        return Finding("near_chance", "warning", message, finetuning.usual_causes(run), metrics)
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
        # In a random order, this is the chance that the relevant text is among the first ten.
        return min(1.0, 10 / max(1, _num_held_out(run))), "a random order"
    baseline = run.summary.get("baseline")
    if baseline is None and not run.summary:
        baseline = _saved_baseline(run)
    if baseline is None:
        return (1 / max(1, len(run.run["labels"])), "chance") if kind == "accuracy" else (0.0, "chance")
    labels = run.run["labels"]
    if kind == "f1" and run.config.task.name == "sequence_classification" and len(labels) == 2 and rows:
        share = sum(str(row["gold"]) == str(labels[1]) for row in rows) / len(rows)
        always = 2 * share / (1 + share)  # precision `share`, recall 1; F1 of the other constant answer is 0
        if always > baseline:
            return always, f"always answering {labels[1]!r}"
    if run.config.task.name == "reranking":
        return baseline, "a random order"
    return baseline, "always giving the commonest answer"


def _num_held_out(run):
    """Returns the number of rows of the first held-out set; 0 where there is none."""
    return next((split[0] for name, split in run.run["data"].items() if name.startswith("held out")), 0)


def _saved_baseline(run):
    """Returns the baseline in the newest checkpoint of a run that is not finished; None where there is none."""
    try:
        step = checkpoint_files.find_step(run.workdir, None)
        baseline = checkpoint_files.load_record(run.workdir, step)["baseline"]
    except (UserError, OSError, ValueError, KeyError):
        return None
    return baseline if is_number(baseline) else None


def _deviation(kind, chance, score):
    """Returns the standard deviation of one example's contribution to a score in [0, 1]: the larger of those at chance
    and at the score.
    """
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
    """Returns (the commonest prediction of a held-out set, its share); ("", 0) where gold labels are as uniform.

    In regression, predictions count as one if their standard deviation is under a hundredth of the gold scores'.
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
    predicted_counts, gold_counts = (collections.Counter(map(str, side)) for side in (predicted, gold))
    answer, count = predicted_counts.most_common(1)[0]
    if gold_counts.most_common(1)[0][1] >= SAME_ANSWER * len(gold):
        return "", 0.0
    return answer, count / len(predicted)
