"""Hard negatives beside sentence-transformers' `mine_hard_negatives`, of the same vectors (make test-parity)."""

import json

import numpy as np
import pytest

from bert_jax.retrieval import mining
from tests.inference.conftest import texts
from tests.retrieval.conftest import write_lines

pytestmark = pytest.mark.parity

ANCHORS = [f"da {text}" for text in dict.fromkeys(texts(30, seed=11, most=6))]
POSITIVES = [f"be {text}" for text in dict.fromkeys(texts(40, seed=12, most=9))]
# The first three anchors have two positives each, as records of their own.
PAIRS = [*zip(ANCHORS, POSITIVES, strict=False), *zip(ANCHORS[:3], POSITIVES[len(ANCHORS) :], strict=False)]
CORPUS = [f"ab {text}" for text in dict.fromkeys(texts(120, seed=13, most=9))]


class SameVectors:
    """An embedder as sentence-transformers asks for one."""

    device = "cpu"

    def __init__(self, embedder):
        self._embedder = embedder

    def encode_query(self, given, **options):
        vectors = self._embedder.encode(list(given))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_document = encode_query

    def similarity(self, first, second):
        from sentence_transformers import util

        return util.cos_sim(first, second)

    def similarity_pairwise(self, first, second):
        from sentence_transformers import util

        return util.pairwise_cos_sim(first, second)


class SameScores:
    """A cross-encoder as sentence-transformers asks for one."""

    def __init__(self, reranker):
        self._reranker = reranker

    def predict(self, pairs, **options):
        import torch

        return torch.tensor([answer["score"] for answer in self._reranker.stream([tuple(pair) for pair in pairs])])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"margin": None}, {}),
        ({"margin": 0.05}, {"relative_margin": 0.05}),
        ({"margin": 0.02, "count": 6}, {"relative_margin": 0.02, "num_negatives": 6}),
        ({"margin": None, "max_score": 0.97, "min_score": 0.95, "count": 8},
         {"max_score": 0.97, "min_score": 0.95, "num_negatives": 8}),
        ({"margin": None, "skip": 4}, {"range_min": 4}),
        ({"margin": 0.0, "max_score": 0.98}, {"relative_margin": 0.0, "max_score": 0.98}),
        ({"margin": 0.1, "count": 5, "rerank": True}, {"relative_margin": 0.1, "num_negatives": 5}),
    ],
    ids=str,
)  # fmt: skip
def test_negatives_are_those_of_mine_hard_negatives(embedder, reranker, tmp_path, ours, theirs):
    import datasets
    from sentence_transformers import util

    ours = dict(ours)
    reranker = reranker if ours.pop("rerank", False) else None
    theirs = theirs | ({"cross_encoder": SameScores(reranker)} if reranker else {})
    anchors, positives = zip(*PAIRS, strict=True)
    depth = len(CORPUS) + len({*positives})  # every document is looked at: there windows begin after the margins
    library = util.mine_hard_negatives(
        datasets.Dataset.from_dict({"anchor": anchors, "positive": positives}), SameVectors(embedder), corpus=CORPUS,
        range_max=depth, output_format="triplet", output_scores=True, verbose=False, **theirs,
    )  # fmt: skip
    expected: dict = {}
    for row in library:
        negatives = expected.setdefault((row["anchor"], row["positive"]), ([], [], row["scores"][0]))
        negatives[0].append(row["negative"])
        negatives[1].append(row["scores"][1])
    path = write_lines(tmp_path / "pairs.jsonl", [{"anchor": anchor, "positive": text} for anchor, text in PAIRS])
    pairs = mining.read_pairs(str(path), "anchor", "positive")
    documents = list(enumerate([*CORPUS, *dict.fromkeys(positives)]))
    corpus = [(str(number), text) for number, text in documents]
    mining.mine(embedder, pairs, corpus, tmp_path / "mined.jsonl", mining.Rule(depth=depth, **ours), reranker=reranker)
    lines = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    assert len(lines) == len(PAIRS) and sum(map(len, (line["negatives"] for line in lines))) == len(library) > 40
    for line in lines:
        negatives, scores, positive = expected.get((line["anchor"], line["positive"]), ([], [], None))
        assert line["negatives"] == negatives
        np.testing.assert_allclose(line["negative_scores"], scores, atol=1e-5)
        assert positive is None or line["positive_score"] == pytest.approx(positive, abs=1e-5)
