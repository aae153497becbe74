"""Scores: by hand, and those of SQuAD's two scripts where they differ."""

import numpy as np
import pytest

from bert_jax.data.tasks import metrics
from bert_jax.errors import UserError
from tests.data.tasks.conftest import config


def test_single_label_by_hand():
    labels, predicted = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 1, 1, 0, 1])
    scores = metrics.single_label(labels, predicted, 2)  # 3 true positives, 1 false, 1 missed, 1 true negative
    assert scores == pytest.approx({"accuracy": 4 / 6, "f1": 0.75, "macro_f1": (0.75 + 0.5) / 2, "matthews": 2 / 8})
    constant = metrics.single_label(labels, np.ones(6, int), 2)
    assert constant["matthews"] == 0 and constant["f1"] == pytest.approx(0.8)
    three = metrics.single_label(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2]), 4)
    assert "f1" not in three
    assert three["macro_f1"] == pytest.approx((1 + 0 + 0.8) / 3)  # the class that never occurs does not count
    assert three["matthews"] == pytest.approx((3 * 4 - 7) / np.sqrt((16 - 6) * (16 - 10)))


def test_multi_label_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    scores = metrics.multi_label(labels, np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]]))
    assert scores == pytest.approx({"micro_f1": 4 / 6, "macro_f1": 1 / 3, "accuracy": 1 / 3})


def test_regression_with_ties_and_without_spread():
    labels = np.array([1.0, 2.0, 2.0, 4.0])
    scores = metrics.regression(labels, np.array([2.0, 1.0, 3.0, 8.0]))
    ranks = np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 3, 4])[0, 1]
    assert scores == pytest.approx(
        {"pearson": np.corrcoef(labels, [2, 1, 3, 8])[0, 1], "spearman": ranks, "mse": 19 / 4}
    )
    assert metrics.regression(labels, np.ones(4))["pearson"] == 0.0


def test_entities_as_conlleval_and_strictly():
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    predicted = [["I-PER", "I-PER", "O"], ["B-LOC", "B-LOC"]]
    scores = metrics.entities(gold, predicted, "BIO")
    assert (scores["precision"], scores["recall"], scores["accuracy"]) == pytest.approx((2 / 3, 1.0, 3 / 5))
    assert (scores["strict_precision"], scores["strict_recall"]) == pytest.approx((1 / 2, 1 / 2))
    nothing = metrics.entities([["O", "O"]], [["O", "O"]], "BIOES")
    assert nothing["f1"] == nothing["strict_f1"] == 0.0 and nothing["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("golds", "answer", "version_1", "version_2"),
    [
        (["the Cat."], "cat", (1, 1), (1, 1)),
        (["a big cat", "dogs"], "the big dog", (0, 0.5), (0, 0.5)),
        (["cat cat dog"], "cat dog dog", (0, 2 / 3), (0, 2 / 3)),
        (["The"], "the", (1, 0), (1, 1)),  # nothing is left of either
        (["The"], "", (1, 0), (1, 1)),
        (["x"], "", (0, 0), (0, 0)),
        ([], "x", (0, 0), (0, 0)),
        ([], "", (0, 0), (1, 1)),
        (["1,000\u20132"], "1000\u20132", (1, 1), (1, 1)),
    ],
)
def test_squad_answers(golds, answer, version_1, version_2):
    assert metrics.answer_scores(golds, answer, False) == pytest.approx(version_1)
    assert metrics.answer_scores(golds, answer, True) == pytest.approx(version_2)


def test_best_threshold_against_every_threshold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        answerable, odds, scores = rng.random(12) < 0.5, rng.normal(size=12), rng.random(12)
        share, threshold = metrics.best_threshold(scores, odds, answerable, [True] * 12)

        def mean(limit, answerable=answerable, odds=odds, scores=scores):
            return 100 * np.where(odds > limit, ~answerable, scores * answerable).mean()

        assert share == pytest.approx(max(mean(limit) for limit in [*odds, odds.min() - 1]))
        assert mean(threshold) == pytest.approx(share)


def test_metrics_that_are_asked_for():
    assert metrics.choose(config().task, "regression") == (("pearson", "spearman", "mse"), "pearson")
    assert metrics.choose(config(metrics=("f1",), metric="accuracy").task, "single_label") == (
        ("f1", "accuracy"),
        "accuracy",
    )
    for task, message in (
        ({"metrics": ("bleu",)}, "config.task.metrics: found 'bleu'"),
        ({"metric": "mse"}, "smaller"),
    ):
        with pytest.raises(UserError, match=message):
            metrics.choose(config(**task).task, "regression")


def test_best_f1_against_every_threshold():
    rng = np.random.default_rng(1)
    for _ in range(20):
        relevant, scores = rng.random(14) < 0.4, rng.integers(0, 8, 14) / 7.0
        relevant[0] = True
        best, threshold = metrics.best_f1(relevant, scores)

        def f1(limit, relevant=relevant, scores=scores):
            return 2 * ((scores >= limit) & relevant).sum() / ((scores >= limit).sum() + relevant.sum())

        assert best == pytest.approx(max(f1(limit) for limit in scores)) and f1(threshold) == pytest.approx(best)
    assert metrics.best_f1(np.zeros(3, bool), np.arange(3.0)) == (0.0, float("inf"))


def test_v_measure_of_known_clusters():
    assert metrics.v_measure(["a", "a", "b", "b"], [1, 1, 0, 0]) == pytest.approx(1)
    assert metrics.v_measure([0, 0, 1, 1], [0, 0, 0, 0]) == 0.0 and metrics.v_measure([0, 0], [0, 0]) == 1.0
    # A class of 2 in one cluster and one of 2 in two: homogeneous, completeness 1 - H(cluster|class) / H(cluster).
    completeness = 1 - 0.5 * np.log(2) / (1.5 * np.log(2))
    assert metrics.v_measure([0, 0, 1, 1], [0, 0, 1, 2]) == pytest.approx(2 * completeness / (1 + completeness))
