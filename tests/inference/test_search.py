"""The nearest vectors of a corpus: the order of float64, ties, blocks, and what may be passed."""

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import search
from tests.inference.conftest import make_model, texts


def scores_of(queries, corpus, kind):
    queries, corpus = queries.astype(np.float64), corpus.astype(np.float64)
    if kind == "cosine":
        queries, corpus = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (queries, corpus))
    if kind in ("cosine", "dot"):
        return (queries[:, None] * corpus[None]).sum(-1)
    difference = queries[:, None] - corpus[None]
    return -np.abs(difference).sum(-1) if kind == "manhattan" else -np.sqrt(np.square(difference).sum(-1))


def corpora(rng):
    """Corpora in which float32 alone orders wrongly: near and equal vectors, lengths far apart, zeros."""
    plain = rng.standard_normal((500, 24)).astype(np.float32)
    yield "plain", plain
    yield "near", (plain[:1] + 1e-6 * rng.standard_normal((300, 24))).astype(np.float32)
    yield "equal", np.repeat(plain[:3], 100, axis=0)
    yield "lengths", plain * 10.0 ** rng.integers(-6, 6, (500, 1)).astype(np.float32)
    yield "zeros", np.where(rng.random((200, 1)) < 0.5, 0, plain[:200]).astype(np.float32)
    yield "doubles", rng.standard_normal((100, 24))
    yield "tiny", plain * np.float32(1e-30)
    yield "huge", plain.astype(np.float64) * 1e30
    yield "few", plain[:3]


@pytest.mark.parametrize("kind", search.SIMILARITIES)
def test_order_and_scores_are_those_of_float64(kind, monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 128)
    monkeypatch.setattr(search, "_QUERIES", 4)
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((7, 24)).astype(np.float32)
    for name, corpus in corpora(rng):
        queries[0] = corpus[-1]
        expected = scores_of(queries, corpus, kind)
        for top_k in (1, 10, 1000):
            blocks = (corpus[i : i + 200] for i in range(0, len(corpus), 200))
            *_, (places, scores) = search.nearest(queries, blocks, top_k, kind)
            order = np.argsort(-expected, axis=1, kind="stable")[:, :top_k]
            np.testing.assert_array_equal(places, order, err_msg=f"{name} {top_k}")
            np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), rtol=1e-12)


def test_similarities_by_every_kind():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((9, 8)).astype(np.float32)
    for kind in search.SIMILARITIES:
        expected = scores_of(first, second, kind)
        np.testing.assert_allclose(search.similarities(first, second, kind), expected, rtol=1e-6)
        np.testing.assert_allclose(search.similarities(first, second[:5], kind, True), np.diag(expected), rtol=1e-6)


@pytest.fixture(scope="module")
def embedder(tokenizer):
    return bert_jax.Embedder(make_model(tokenizer))


def test_texts_and_vectors_are_searched_alike(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 16)
    corpus, queries = texts(40, seed=5, most=8), texts(3, seed=6, most=8)
    corpus[7] = corpus[31]
    vectors, asked = embedder.encode(corpus), embedder.encode(queries)
    np.save(tmp_path / "vectors.npy", vectors)
    expected = embedder.search(asked, vectors, 5)
    assert [[hit["index"] for hit in row] for row in expected] == np.argsort(
        -scores_of(asked, vectors, "cosine"), axis=1, kind="stable"
    )[:, :5].tolist()
    for given in (np.load(tmp_path / "vectors.npy", mmap_mode="r"), vectors.tolist(), list(vectors)):
        assert embedder.search(asked, given, 5) == expected
    for given in (corpus, np.array(corpus), [{"text": text} for text in corpus], (text for text in corpus)):
        hits = embedder.search(queries, given, 5)
        assert [[hit["index"] for hit in row] for row in hits] == [[hit["index"] for hit in row] for row in expected]
        assert all(hit["text"] == corpus[hit["index"]] for row in hits for hit in row)
    single = embedder.search(queries[0], corpus, 100)
    assert len(single) == 40 and [hit["index"] for hit in single[:5]] == [hit["index"] for hit in expected[0]]
    assert [hit["index"] for hit in single if hit["index"] in (7, 31)] == [7, 31]  # equal vectors, in order
    assert embedder.search(asked[0], vectors, 5) == expected[0]
    assert embedder.search(queries, []) == [[], [], []] and embedder.search([], corpus) == []


def test_similarity_reads_texts_and_vectors_and_what_the_model_says(tokenizer, embedder):
    both = texts(4, seed=7)
    vectors = embedder.encode(both)
    np.testing.assert_allclose(embedder.similarity(both, vectors), scores_of(vectors, vectors, "cosine"), atol=1e-6)
    assert embedder.similarity(both[0], both).shape == (1, 4)
    assert embedder.similarity(both, both, pairwise=True).shape == (4,)
    recorded = bert_jax.Embedder(make_model(tokenizer, settings={"similarity": "euclidean"}))
    np.testing.assert_allclose(
        recorded.similarity(vectors, vectors), scores_of(vectors, vectors, "euclidean"), rtol=1e-5, atol=1e-5
    )


def test_queries_and_documents_have_their_prompts(tokenizer):
    prompts = {"query": "ab: ", "document": "cd: "}
    embedder = bert_jax.Embedder(make_model(tokenizer, settings={"prompts": prompts}))
    corpus = texts(5, seed=8)
    expected = embedder.search(
        embedder.encode("ef", prompt_name="query"), embedder.encode(corpus, prompt_name="document")
    )
    hits = embedder.search("ef", corpus)
    assert [hit["index"] for hit in hits] == [hit["index"] for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected], rel=1e-5)


def test_mistakes_of_search(embedder):
    vectors = np.ones((3, embedder.size), np.float32)
    for arguments, message in (
        ((["ab"], vectors[:, :5]), r"corpus: found an array of shape \[3, 5\]; expected vectors \[n, 32\]"),
        ((["ab"], vectors * np.nan), "corpus: vector 0 is not finite"),
        ((["ab"], ["cd", None]), "text 2: found None; expected a string"),
        ((["ab"], ["cd", ""]), "corpus: text 2: empty"),
        ((None, vectors), "text: found None"),
        ((["ab"], vectors, 0), "top_k: found 0"),
    ):
        with pytest.raises(UserError, match=message):
            embedder.search(*arguments)
    with pytest.raises(UserError, match="similarity: found 'cos'; expected cosine, dot, euclidean, manhattan"):
        embedder.similarity(["ab"], ["cd"], kind="cos")
    with pytest.raises(UserError, match="second: found 2 vectors; expected 1"):
        embedder.similarity(["ab"], ["cd", "ef"], pairwise=True)
    with pytest.raises(UserError, match="second: vectors of 5 numbers; expected 32"):
        embedder.similarity(["ab"], vectors[:, :5])
