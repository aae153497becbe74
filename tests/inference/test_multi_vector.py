"""Late interaction: the tokens that have a vector, MaxSim, what is nearest by it, directories, and what is refused."""

import dataclasses
import pathlib

import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks.late_interaction import Reading
from bert_jax.errors import UserError
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.interop import huggingface
from bert_jax.model.projection import Projection
from tests.inference import conftest as tiny

QUERIES = ["ab cd ef", "ba", "ka. ba, fa ghijk ab ca da ea fa ga ha ia ja"]
DOCUMENTS = [
    "ab cd, ef. ga ? ha ea",
    "xa",
    "de fe ge he. je ke le ba be ce da ab ac ad ae af ag ah ai aj",
    "ab. cd, . ?",
]
MARKERS = {"markers": ("[Q] ", "[D] ")}
# What tests read of golden_multi_vector.npz, which make_golden_multi_vector.py writes.
GOLDEN = {"markers": MARKERS, "attended": {"attends_to_expansion": True}, "unexpanded": {"expansion_length": 0}}


def make(**changes):
    """Returns a random model that reads queries of 12 tokens and documents of 16; `changes` are of its Reading."""
    given = {"query_length": 12, "document_length": 16, "expansion_length": 12, "skiplist": (".", ",")} | changes
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    if changes.get("markers"):
        tokenizer = tiny.hugging_face.with_special_tokens(tokenizer, changes["markers"])
    kernel = np.random.default_rng(5).standard_normal((32, 6)).astype(np.float32)
    settings = {
        "late_interaction": Reading(**given).to_json(),
        "late_layers": (Projection("dense", {"kernel": kernel}), Projection("normalize")),
    }
    return tiny.make_model(tokenizer, language_model=False, settings=settings)


@pytest.fixture(scope="module")
def model():
    return make(**MARKERS)


@pytest.fixture(scope="module")
def embedder(model):
    return bert_jax.MultiVectorEmbedder(model)


def reference(model, text, is_query, longest):
    """Returns the vectors of one text, float64 [tokens, 6], from a row of its own."""
    tokenizer = model.tokenizer
    marker = tokenizer.token_id("[Q] " if is_query else "[D] ")
    ids = [tokenizer.cls_id, marker, *tokenizer.encode([text])[0]][: longest - 1] + [tokenizer.sep_id]
    skipped = {tokenizer.token_id("."), tokenizer.token_id(",")}
    scored = [is_query or token not in skipped for token in ids]
    present = len(ids)
    if is_query:
        ids += [tokenizer.mask_id] * (longest - present)
        scored += [True] * (longest - present)
    batch = tiny.rows_lib.pad(tokenizer, [(ids, [0] * len(ids))], tiny.LONGEST)
    batch["attention_mask"][0, present:] = 0
    hidden = np.asarray(tiny._apply(model.model, model.params, batch)["hidden"][0, : len(ids)], np.float64)
    vectors = hidden @ model.settings["late_layers"][0].arrays["kernel"].astype(np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[scored]


def test_vectors_of_texts_of_any_length(model, embedder):
    assert embedder.size == 6 and embedder.similarity_kind == "maxsim"
    queries, documents = embedder.encode_query(QUERIES), embedder.encode_document(DOCUMENTS)
    assert [len(array) for array in queries] == [12, 12, 12]
    assert len(documents[3]) == len(model.tokenizer.encode([DOCUMENTS[3]])[0]) + 3 - 3  # "." twice and "," once
    for made, texts, is_query, longest in ((queries, QUERIES, True, 12), (documents, DOCUMENTS, False, 16)):
        for array, text in zip(made, texts, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, reference(model, text, is_query, longest), atol=2e-5)
    np.testing.assert_allclose(
        embedder.encode_query("ba", batch_size=2, show_progress_bar=False), queries[1], atol=1e-6
    )
    assert embedder.encode_document([]) == []


def test_what_is_nearest(embedder):
    queries, documents = embedder.encode_query(QUERIES), embedder.encode_document(DOCUMENTS)
    scores = np.array([[(q.astype(float) @ d.T).max(1).sum() for d in documents] for q in queries])
    np.testing.assert_allclose(embedder.similarity(QUERIES, documents), scores, rtol=1e-5)
    np.testing.assert_allclose(embedder.similarity(queries[0], DOCUMENTS), scores[:1], rtol=1e-5)
    np.testing.assert_allclose(embedder.similarity(queries, DOCUMENTS, kind="meanmaxsim"), scores / 12, rtol=1e-5)
    pairs = embedder.similarity(QUERIES, documents[:3], pairwise=True)
    np.testing.assert_allclose(pairs, np.diag(scores), rtol=1e-5)
    order = np.argsort(-scores, axis=1)
    for corpus in (DOCUMENTS, documents):
        hits = embedder.search(QUERIES, corpus, top_k=3)
        assert [[hit["index"] for hit in row] for row in hits] == order[:, :3].tolist()
    hits = embedder.search(QUERIES[0], iter(DOCUMENTS), top_k=9)
    assert [hit["text"] for hit in hits] == [DOCUMENTS[i] for i in order[0]]
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores[0])[::-1].tolist(), rel=1e-5)
    copies = embedder.search(QUERIES[1], ["ab cd", "ba", "ab cd"], top_k=3)
    assert [hit["index"] for hit in copies if hit["text"] == "ab cd"] == [0, 2]


def test_a_reranker(model, embedder):
    reranker = MultiVectorReranker(model)
    expected = embedder.similarity(QUERIES, DOCUMENTS)
    np.testing.assert_allclose(reranker.scores(QUERIES[0], DOCUMENTS), expected[0], rtol=1e-6)
    hits = embedder.search(QUERIES, DOCUMENTS, top_k=4)
    again = reranker.rerank(QUERIES, hits, top_k=2)
    assert [[hit["index"] for hit in row] for row in again] == [[hit["index"] for hit in row[:2]] for row in hits]
    pairs = [(query, document) for document in DOCUMENTS for query in QUERIES]  # not grouped by query
    answers = [answer["score"] for answer in reranker.stream(pairs)]
    np.testing.assert_allclose(answers, expected.T.ravel(), rtol=1e-6)
    assert [answer["score"] for answer in reranker(pairs)] == answers and len(reranker(pairs[1])) == 1
    np.testing.assert_array_equal(reranker.predict(pairs), np.array(answers, np.float32))
    np.testing.assert_allclose(reranker.predict(pairs[0], batch_size=2), answers[0], rtol=1e-6)
    with pytest.raises(UserError, match="^text 1: "):
        reranker([("a", "")])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name):
    """What sentence-transformers gave for the directory that is written of each model."""
    golden = np.load(pathlib.Path(__file__).with_name("golden_multi_vector.npz"))
    embedder = bert_jax.MultiVectorEmbedder(make(**GOLDEN[name]))
    queries, documents = embedder.encode_query(QUERIES), embedder.encode_document(DOCUMENTS)
    for kind, arrays in (("query", queries), ("document", documents)):
        for i, array in enumerate(arrays):
            np.testing.assert_allclose(array, golden[f"{name}/{kind}{i}"], atol=1e-5)
    np.testing.assert_allclose(embedder.similarity(queries, documents), golden[f"{name}/scores"], rtol=1e-5)


def test_a_directory_and_back(model, embedder, tmp_path):
    huggingface.write(model, tmp_path / "first")
    read = huggingface.read(tmp_path / "first")
    huggingface.write(read, tmp_path / "second")
    for folder in ("first", "second"):
        again = bert_jax.MultiVectorEmbedder(tmp_path / folder)
        assert again.reading == embedder.reading
        for texts, encode in ((QUERIES, "encode_query"), (DOCUMENTS, "encode_document")):
            for one, other in zip(getattr(again, encode)(texts), getattr(embedder, encode)(texts), strict=True):
                np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="a vector for each token of a text; expected bert_jax.MultiVectorEmbedder"):
        bert_jax.Embedder(tmp_path / "first")
    assert bert_jax.Embedder(tmp_path / "first", pooling="mean").encode("ab").shape == (32,)


def test_prompts_and_lengths(model):
    shorter = bert_jax.MultiVectorEmbedder(model, query_length=6, document_length=5)
    assert {len(array) for array in shorter.encode_query(QUERIES)} == {6}
    assert max(map(len, shorter.encode_document(DOCUMENTS))) == 5
    prompted = make(**MARKERS)
    prompted.settings["prompts"] = {"query": "ga ", "other": "ha "}
    embedder = bert_jax.MultiVectorEmbedder(prompted)
    plain = bert_jax.MultiVectorEmbedder(model)
    np.testing.assert_array_equal(embedder.encode_query("ab"), plain.encode_query("ga ab"))
    np.testing.assert_array_equal(embedder.encode_query("ab", prompt_name="other"), plain.encode_query("ha ab"))
    np.testing.assert_array_equal(embedder.encode_document("ab", prompt="ia "), plain.encode_document("ia ab"))


def test_mistakes(model, embedder):
    tokenizer = model.tokenizer
    spec = dataclasses.replace(model.model.spec, positions="relative")
    deberta = dataclasses.replace(model, model=dataclasses.replace(model.model, spec=spec))
    for make_it, message in (
        (lambda: bert_jax.MultiVectorEmbedder(deberta), "DeBERTa makes zeros of the .MASK. tokens behind a query"),
        (lambda: bert_jax.MultiVectorEmbedder(tiny.make_model(tokenizer)), "has no vectors for late interaction; exp"),
        (lambda: bert_jax.MultiVectorEmbedder(model, query_length=99), "query_length: found 99; expected from 3 to 40"),
        (lambda: embedder.encode_query(["ab", ""]), "text 2"),
        (lambda: embedder.encode_query("ab", prompt_name="query"), "prompt_name: found 'query'"),
        (lambda: embedder.encode_query("ab", prompt="ab " * 20), "leaves no room for text in a row of 12"),
        (lambda: embedder.similarity(QUERIES, DOCUMENTS, kind="dot"), "kind: found 'dot'; expected maxsim or"),
        (lambda: embedder.similarity(QUERIES, DOCUMENTS, pairwise=True), "documents: found 4; expected 3"),
        (lambda: embedder.search("ab", DOCUMENTS, top_k=0), "top_k"),
        (lambda: embedder.similarity([np.zeros((2, 5))], DOCUMENTS), r"queries: item 0: found an array of shape"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            make_it()
