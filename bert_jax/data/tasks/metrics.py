"""Computes the metrics of labelled tasks: GLUE's, entity-level F1, and SQuAD's exact match and F1.

SQuAD's are percentages, as its official scripts print them; all others are shares or correlations. A correlation that
is undefined (constant predictions) is 0.
"""

import collections
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax import _moved
from bert_jax.config import listed
from bert_jax.errors import UserError

METRICS = {  # kind of task -> its metrics; the first chooses the best checkpoint unless config.task.metric does
    "single_label": ("accuracy", "f1", "macro_f1", "matthews"),
    "multi_label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
    "entities": ("f1", "precision", "recall", "accuracy", "strict_f1", "strict_precision", "strict_recall"),
    "tags": ("accuracy", "macro_f1"),
    "answers": ("f1", "exact_match"),
    "ranked": ("ndcg@10", "mrr@10", "map@100", "accuracy@1"),  # documents of a query
    "relevant": ("average_precision", "accuracy"),  # pairs of a query and a document, relevant or not
    "graded": ("spearman", "pearson"),  # and with grades
}
SMALLER_IS_BETTER = ("mse",)
_STRICT = {"BIO": "IOB2", "BIOES": "IOBES"}


def choose(task: Any, kind: str) -> tuple[tuple[str, ...], str]:
    """Returns the metrics that config.task asks for, and the one that chooses the best checkpoint.

    Args:
      task: config.task; where its `metrics` is empty, all of this kind are computed.
      kind: a key of METRICS.

    Raises:
      UserError: this kind of task has no such metric, or the metric cannot choose because smaller values are better.
    """
    known = METRICS[kind]
    metrics = listed(task.metrics) or known
    for key, names in (("metrics", metrics), ("metric", (task.metric,) if task.metric else ())):
        for name in names:
            if name not in known:
                raise UserError(f"config.task.{key}: found {name!r}; expected of {', '.join(known)}")
    metric = task.metric or metrics[0]
    if metric in SMALLER_IS_BETTER:
        raise UserError(f"config.task.metric: {metric} is better when smaller; expected one that is better when larger")
    return tuple(dict.fromkeys((*metrics, metric))), metric


def single_label(labels: np.ndarray, predicted: np.ndarray, num_labels: int) -> dict[str, float]:
    """Returns accuracy, macro_f1, matthews and, for two classes, f1 of class 1.

    As in scikit-learn, macro_f1 averages over the classes that occur in labels or predictions.

    Args:
      labels, predicted: int [n], class ids.
      num_labels: number of classes.
    """
    scores = {"accuracy": float(np.mean(labels == predicted))}
    f1 = _f1_of_columns(_one_hot(labels, num_labels), _one_hot(predicted, num_labels))
    if num_labels == 2:
        scores["f1"] = float(f1[1])
    occurs = np.union1d(labels, predicted)
    return scores | {"macro_f1": float(f1[occurs].mean()), "matthews": matthews(labels, predicted, num_labels)}


def multi_label(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Returns micro_f1 over all decisions, macro_f1 over labels, and accuracy of whole rows.

    Args:
      labels, predicted: 0 or 1, [n, labels].
    """
    labels, predicted = labels.astype(bool), predicted.astype(bool)
    return {
        "micro_f1": float(_f1_of_columns(labels.reshape(-1, 1), predicted.reshape(-1, 1))[0]),
        "macro_f1": float(_f1_of_columns(labels, predicted).mean()),
        "accuracy": float(np.mean((labels == predicted).all(axis=1))),
    }


def regression(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Returns Pearson's and Spearman's correlation and the mean squared error of numbers [n]."""
    from scipy import stats

    labels, predicted = labels.astype(np.float64), predicted.astype(np.float64)
    defined = len(labels) > 1 and np.ptp(labels) > 0 and np.ptp(predicted) > 0
    return {
        "pearson": float(stats.pearsonr(labels, predicted)[0]) if defined else 0.0,
        "spearman": float(stats.spearmanr(labels, predicted)[0]) if defined else 0.0,
        "mse": float(np.mean((labels - predicted) ** 2)),
    }


def average_precision(relevant: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean precision at the relevant examples, as scikit-learn's `average_precision_score`.

    Examples of equal scores are found together: precision is counted after all of them.

    Args:
      relevant: bool [n].
      scores: float [n].
    """
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(relevant[order]), scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last with an equal score
    precision, new_hits = hits[last] / (last + 1), np.diff(hits[last], prepend=0)
    return float((precision * new_hits).sum() / max(1, hits[-1]))


def best_f1(relevant: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Returns the best F1 that a threshold on scores reaches, and the threshold: what is at least as high is relevant.

    The threshold lies in the middle between two scores; infinity where nothing is relevant.

    Args:
      relevant: bool [n].
      scores: float [n].
    """
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(relevant[order]), scores[order].astype(np.float64)
    if not len(ranked) or not hits[-1]:
        return 0.0, float("inf")
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last with an equal score
    f1 = 2 * hits[last] / (last + 1 + hits[-1])
    best = int(np.argmax(f1))
    after = ranked[last[best] + 1] if last[best] + 1 < len(ranked) else ranked[last[best]]
    return float(f1[best]), float((ranked[last[best]] + after) / 2)


def pairs(relevant: np.ndarray, scores: np.ndarray, half: np.ndarray) -> dict[str, float]:
    """Returns average_precision, f1 and max_f1 of pairs that are classified by a threshold on scores.

    Args:
      relevant: bool [n].
      scores: float [n].
      half: bool [n]; f1 takes the best threshold of the other half for each half, max_f1 the best one of all.
    """
    thresholds = {part: best_f1(relevant[half == part], scores[half == part])[1] for part in (False, True)}
    predicted = scores >= np.where(half, thresholds[False], thresholds[True])
    return {
        "average_precision": average_precision(relevant, scores),
        "f1": float(_f1_of_columns(relevant[:, None], predicted[:, None])[0]),
        "max_f1": best_f1(relevant, scores)[0],
    }


def v_measure(classes: Sequence[Any] | np.ndarray, clusters: Sequence[Any] | np.ndarray) -> float:
    """Returns the harmonic mean of homogeneity and completeness of clusters (Rosenberg & Hirschberg 2007).

    Args:
      classes, clusters: class and cluster of each example, [n].
    """
    sides = [np.unique(np.asarray(side), return_inverse=True)[1] for side in (classes, clusters)]
    table = np.zeros((sides[0].max(initial=0) + 1, sides[1].max(initial=0) + 1))
    np.add.at(table, tuple(sides), 1)
    joint = table / max(1, len(sides[0]))
    of_classes, of_clusters = joint.sum(1), joint.sum(0)
    class_entropy, cluster_entropy = _entropy(of_classes), _entropy(of_clusters)
    shared = class_entropy + cluster_entropy - _entropy(joint.ravel())
    homogeneity = shared / class_entropy if class_entropy else 1.0
    completeness = shared / cluster_entropy if cluster_entropy else 1.0
    total = homogeneity + completeness
    return float(2 * homogeneity * completeness / total) if total > 0 else 0.0


def matthews(labels: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    """Returns Matthews' correlation of class ids, int [n]; 0 where it is undefined.

    For more than two classes it is Gorodkin's (2004).
    """
    confusion = np.zeros((num_labels, num_labels))
    np.add.at(confusion, (labels, predicted), 1)
    label_counts, predicted_counts, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    covariance = np.trace(confusion) * total - label_counts @ predicted_counts
    spread = (total**2 - label_counts @ label_counts) * (total**2 - predicted_counts @ predicted_counts)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str) -> dict[str, float]:
    """Returns precision, recall and F1 of whole entities, by seqeval, and accuracy of tags.

    Args:
      gold, predicted: the tags of each sentence.
      scheme: "BIO" or "BIOES": strict_* count entities that follow it exactly; the others read tags as conlleval does.
    """
    from seqeval import scheme as schemes
    from seqeval.metrics import sequence_labeling, v1

    gold, predicted = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    support = {"average": "micro", "zero_division": 0}
    precision, recall, f1, _ = sequence_labeling.precision_recall_fscore_support(gold, predicted, **support)
    scores = {"precision": precision, "recall": recall, "f1": f1}
    precision, recall, f1, _ = v1.precision_recall_fscore_support(
        gold, predicted, scheme=getattr(schemes, _STRICT[scheme]), **support
    )
    scores |= {"strict_precision": precision, "strict_recall": recall, "strict_f1": f1}
    return {name: float(value) for name, value in scores.items()} | {"accuracy": _tag_accuracy(gold, predicted)}


def tags(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns accuracy and macro_f1 of tags that mark no entities, such as parts of speech."""
    names = {name: i for i, name in enumerate(sorted({tag for tags in (*gold, *predicted) for tag in tags}))}
    ids = [np.array([names[tag] for tags in side for tag in tags], np.int64) for side in (gold, predicted)]
    scores = single_label(ids[0], ids[1], len(names))
    return {"accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"]}


def normalised(answer: str) -> str:
    """Returns an answer as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(character for character in answer.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_scores(golds: Sequence[str], answer: str, version_2: bool) -> tuple[float, float]:
    """Returns (exact match, F1) of an answer, each in [0, 1] and for the gold answer that gives the most.

    Args:
      golds: the gold answers; empty for a question without an answer.
      answer: "" where none is given.
      version_2: whether to follow evaluate-v2.0.py, where no answer is right for a question without one, instead of
        evaluate-v1.1.py.
    """
    if version_2:
        golds = [gold for gold in golds if normalised(gold)] or [""]
    pairs = [(normalised(gold), normalised(answer)) for gold in golds]
    exact = max((float(gold == predicted) for gold, predicted in pairs), default=0.0)
    return exact, max((_word_f1(gold.split(), predicted.split(), version_2) for gold, predicted in pairs), default=0.0)


def best_threshold(
    scores: Sequence[float], odds: Sequence[float], answerable: Sequence[bool], answered: Sequence[bool]
) -> tuple[float, float]:
    """Finds the null threshold with the best mean score, as evaluate-v2.0.py does.

    Args:
      scores: [questions], the score of each question's answer, in [0, 1].
      odds: [questions], the odds of the null answer.
      answerable: [questions], whether the question has an answer; where it has none, the null answer scores 1 and any
        other 0.
      answered: [questions], whether the model has an answer other than the null answer.

    Returns:
      (mean score as a percentage, threshold): a question whose odds exceed the threshold gets the null answer.
    """
    null_odds, has_answer = np.asarray(odds, float), np.asarray(answerable, bool)
    order = np.argsort(null_odds, kind="stable")
    gains = np.where(has_answer, scores, -np.asarray(answered, float))[order]
    totals = np.cumsum([np.count_nonzero(~has_answer), *gains])
    best = int(np.argmax(totals))
    threshold = null_odds[order[best - 1]] if best else null_odds.min(initial=0.0) - 1.0
    return 100.0 * float(totals[best]) / max(1, len(null_odds)), float(threshold)


_PUNCTUATION = set(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _word_f1(gold, predicted, version_2):
    """Returns the F1 of an answer's words, as lists."""
    if version_2 and not (gold and predicted):
        return float(gold == predicted)
    same = sum((collections.Counter(gold) & collections.Counter(predicted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _entropy(shares):
    """Returns the entropy of shares [n], in nats."""
    shares = shares[shares > 0]
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def _one_hot(ids, num_labels):
    """Returns bool [n, num_labels] for ids [n]."""
    return ids[:, None] == np.arange(num_labels)


def _f1_of_columns(labels, predicted):
    """Returns the F1 of each column of bool arrays [n, columns]; 0 where a column has no True in either."""
    true_positives = 2.0 * (labels & predicted).sum(0)
    positives = labels.sum(0) + predicted.sum(0)
    return np.divide(true_positives, positives, out=np.zeros(len(true_positives)), where=positives > 0)


def _tag_accuracy(gold, predicted):
    pairs = zip(gold, predicted, strict=True)
    right = [tag == other for tags, others in pairs for tag, other in zip(tags, others, strict=True)]
    return float(np.mean(right)) if right else 0.0


def __getattr__(name):
    return _moved.find("data.tasks.metrics", name)
