"""Scores of labelled tasks: GLUE's, entity-level F1, and SQuAD's exact match and F1.

SQuAD's are percentages, as its official scripts print them; all others are shares or correlations. Where a correlation
is undefined (constant predictions) it counts as 0.
"""

import collections
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.config import listed
from bert_jax.errors import UserError

OF_PROBLEM = {
    "single_label": ("accuracy", "f1", "macro_f1", "matthews"),
    "multi_label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
    "entities": ("f1", "precision", "recall", "accuracy", "strict_f1", "strict_precision", "strict_recall"),
    "tags": ("accuracy", "macro_f1"),
    "answers": ("f1", "exact_match"),
}
SMALLER_IS_BETTER = ("mse",)
_STRICT = {"BIO": "IOB2", "BIOES": "IOBES"}


def chosen(task: Any, kind: str) -> tuple[tuple[str, ...], str]:
    """(config.task.metrics, or all of this kind; the one that chooses the best checkpoint).

    Raises:
      UserError: a metric that this kind of task has not, or one that cannot choose.
    """
    known = OF_PROBLEM[kind]
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
    """Of class ids [n]: accuracy; f1 of class 1, where there are two; macro_f1; matthews.

    macro_f1 is over the classes that occur in either, as scikit-learn has it.
    """
    scores = {"accuracy": float(np.mean(labels == predicted))}
    f1 = _f1_of_columns(_one_hot(labels, num_labels), _one_hot(predicted, num_labels))
    if num_labels == 2:
        scores["f1"] = float(f1[1])
    occurs = np.union1d(labels, predicted)
    return scores | {"macro_f1": float(f1[occurs].mean()), "matthews": matthews(labels, predicted, num_labels)}


def multi_label(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Of 0/1 [n, labels]: micro_f1 over all decisions, macro_f1 over labels, accuracy of whole rows."""
    labels, predicted = labels.astype(bool), predicted.astype(bool)
    return {
        "micro_f1": float(_f1_of_columns(labels.reshape(-1, 1), predicted.reshape(-1, 1))[0]),
        "macro_f1": float(_f1_of_columns(labels, predicted).mean()),
        "accuracy": float(np.mean((labels == predicted).all(axis=1))),
    }


def regression(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation, and the mean squared error, of [n]."""
    from scipy import stats

    labels, predicted = labels.astype(np.float64), predicted.astype(np.float64)
    defined = len(labels) > 1 and np.ptp(labels) > 0 and np.ptp(predicted) > 0
    return {
        "pearson": float(stats.pearsonr(labels, predicted)[0]) if defined else 0.0,
        "spearman": float(stats.spearmanr(labels, predicted)[0]) if defined else 0.0,
        "mse": float(np.mean((labels - predicted) ** 2)),
    }


def matthews(labels: np.ndarray, predicted: np.ndarray, num_labels: int) -> float:
    """Matthews' correlation of class ids; for more than two classes Gorodkin's (2004); 0 where it is undefined."""
    confusion = np.zeros((num_labels, num_labels))
    np.add.at(confusion, (labels, predicted), 1)
    of_labels, of_predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    covariance = np.trace(confusion) * total - of_labels @ of_predicted
    spread = (total**2 - of_labels @ of_labels) * (total**2 - of_predicted @ of_predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, by seqeval, and accuracy of tags.

    Args:
      gold, predicted: the tags of each sentence.
      scheme: "BIO" or "BIOES", which the strict scores ask for; the others read tags as conlleval does.
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
    """Accuracy and macro_f1 of tags that mark no entities, such as parts of speech."""
    names = {name: i for i, name in enumerate(sorted({tag for tags in (*gold, *predicted) for tag in tags}))}
    ids = [np.array([names[tag] for tags in side for tag in tags], np.int64) for side in (gold, predicted)]
    scores = single_label(*ids, len(names))
    return {"accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"]}


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(character for character in answer.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_scores(golds: Sequence[str], answer: str, version_2: bool) -> tuple[float, float]:
    """(exact match, F1) of an answer with the gold answer that suits it best, each in [0, 1].

    Args:
      golds: the gold answers; none of a question without an answer.
      answer: "" for none.
      version_2: by the rules of evaluate-v2.0.py, where no answer is right for no answer, not of evaluate-v1.1.py.
    """
    if version_2:
        golds = [gold for gold in golds if normalised(gold)] or [""]
    pairs = [(normalised(gold), normalised(answer)) for gold in golds]
    exact = max((float(gold == found) for gold, found in pairs), default=0.0)
    return exact, max((_word_f1(gold.split(), found.split(), version_2) for gold, found in pairs), default=0.0)


def best_threshold(
    scores: Sequence[float], odds: Sequence[float], answerable: Sequence[bool], answered: Sequence[bool]
) -> tuple[float, float]:
    """The null threshold with the best mean score, as evaluate-v2.0.py finds it.

    Args:
      scores: of each question's answer, in [0, 1].
      odds: of the null answer.
      answerable: whether the question has an answer; where it has none, giving none scores 1 and any other 0.
      answered: whether there is an answer to give.

    Returns:
      (percentage, threshold): a question whose odds are over the threshold gets no answer.
    """
    odds, answerable = np.asarray(odds, float), np.asarray(answerable, bool)
    order = np.argsort(odds, kind="stable")
    gains = np.where(answerable, scores, -np.asarray(answered, float))[order]
    totals = np.cumsum([np.count_nonzero(~answerable), *gains])
    best = int(np.argmax(totals))
    threshold = odds[order[best - 1]] if best else odds.min(initial=0.0) - 1.0
    return 100.0 * float(totals[best]) / max(1, len(odds)), float(threshold)


_PUNCTUATION = set(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _word_f1(gold, found, version_2):
    if version_2 and not (gold and found):
        return float(gold == found)
    same = sum((collections.Counter(gold) & collections.Counter(found)).values())
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _one_hot(ids, num_labels):
    return ids[:, None] == np.arange(num_labels)


def _f1_of_columns(labels, predicted):
    both = 2.0 * (labels & predicted).sum(0)
    either = labels.sum(0) + predicted.sum(0)
    return np.divide(both, either, out=np.zeros(len(both)), where=either > 0)


def _tag_accuracy(gold, predicted):
    pairs = [one == other for a, b in zip(gold, predicted, strict=True) for one, other in zip(a, b, strict=True)]
    return float(np.mean(pairs)) if pairs else 0.0
