"""Hard negatives that a cross-encoder orders and bounds, against a plain loop over its scores."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.retrieval import mining, rescoring
from tests.inference.conftest import make_model
from tests.inference.test_multi_vector import MARKERS
from tests.inference.test_multi_vector import make as multi_vector_model
from tests.retrieval.conftest import DOCUMENTS, QUERIES, make_reranker, write_lines
from tests.retrieval.test_mining import cosines

CORPUS = [(f"d{i}", text) for i, text in enumerate(DOCUMENTS)]


@pytest.fixture
def pairs(tmp_path):
    rows = [{"anchor": text, "positive": DOCUMENTS[i]} for i, text in enumerate([*QUERIES, QUERIES[0]])]
    return mining.read_pairs(str(write_lines(tmp_path / "pairs.jsonl", rows)), "anchor", "positive")


@pytest.fixture(scope="module")
def late():
    return MultiVectorReranker(multi_vector_model(**MARKERS))


@pytest.mark.parametrize(
    "rule", [{"margin": None}, {"margin": 0.0, "count": 5}, {"margin": 0.1, "skip": 3, "depth": 20}], ids=str
)
def test_the_order_and_the_bounds_are_those_of_its_scores(embedder, reranker, pairs, tmp_path, rule, monkeypatch):
    monkeypatch.setattr(mining, "RERANKED_RECORDS", 4)
    rule = mining.Rule(**rule)
    mining.mine(embedder, pairs, CORPUS, tmp_path / "mined.jsonl", rule, reranker=reranker)
    lines = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    near = cosines(embedder.encode(QUERIES), embedder.encode(DOCUMENTS))
    assert len(lines) == 7
    for number, line in enumerate(lines):
        query = QUERIES[number % 6]
        known = {i for i, anchor in enumerate(pairs.anchors) if anchor == query}
        order = [i for i in np.argsort(-near[number % 6], kind="stable") if i not in known]
        window = order[rule.skip : rule.depth]
        scores = reranker.scores(query, [DOCUMENTS[i] for i in window]).astype(np.float64)
        positives = {i: reranker.scores(query, [DOCUMENTS[i]])[0] for i in known}
        lowest = min(positives.values())
        top = np.inf if rule.margin is None else lowest - rule.margin * abs(lowest)
        taken = [i for i in np.argsort(-scores, kind="stable") if scores[i] <= top][: rule.count]
        assert line["negatives"] == [DOCUMENTS[window[i]] for i in taken]
        np.testing.assert_allclose(line["negative_scores"], scores[taken], rtol=1e-4, atol=1e-5)
        assert line["positive_score"] == pytest.approx(positives[number], rel=1e-4, abs=1e-5)


def test_scores_that_are_no_numbers_are_refused(reranker, monkeypatch):
    monkeypatch.setattr(reranker, "stream", lambda pairs, *_, **__: iter([{"score": float("nan")}] * len(pairs)))
    with pytest.raises(UserError, match="--rerank: a score of 'ab' is not finite"):
        rescoring.scores_of(reranker, ["ab"], [["cd"]])


def test_the_fingerprint_tells_models_apart(tokenizer, reranker):
    again = bert_jax.Reranker(make_reranker(tokenizer))
    assert rescoring.fingerprint(again) == rescoring.fingerprint(reranker)
    sigmoid = make_model(tokenizer, reranker.model.model.spec.task, ("score",), problem="regression")
    assert rescoring.fingerprint(bert_jax.Reranker(sigmoid)) != rescoring.fingerprint(reranker)


def test_late_interaction(embedder, late, pairs, tmp_path):
    """A model with a vector for each token orders what was found, and its scores are a teacher's."""
    mining.mine(embedder, pairs, CORPUS, tmp_path / "mined.jsonl", mining.Rule(margin=None, count=4), reranker=late)
    lines = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["negative_scores"] == sorted(line["negative_scores"], reverse=True) and len(line["negatives"]) == 4
        expected = late.scores(line["anchor"], [line["positive"], *line["negatives"]])
        np.testing.assert_allclose(line["score"], expected, rtol=1e-5)
    other = multi_vector_model(**MARKERS)
    other.settings["late_layers"][0].arrays["kernel"][0, 0] += 1
    assert rescoring.fingerprint(MultiVectorReranker(other)) != rescoring.fingerprint(late)
    assert rescoring.fingerprint(MultiVectorReranker(multi_vector_model(**MARKERS))) == rescoring.fingerprint(late)
