"""Rerankers: the order of documents, and what `predict rerank` writes."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import rerank
from bert_jax.interop import huggingface
from bert_jax.model import Task
from tests.commands import finish, start
from tests.inference import conftest as tiny

DOCUMENTS = ["ab cd ef", "be ca", "da ab cd", "be ca"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Returns the path of a small random cross-encoder, whose scores are sigmoids."""
    path = tmp_path_factory.mktemp("models") / "one"
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    settings = {"activation": "Sigmoid", "max_length": 16}
    head = Task("sequence_classification", 1)
    huggingface.write(tiny.make_model(tokenizer, head, ("score",), problem="regression", settings=settings), path)
    return path


def test_documents_in_the_order_of_their_scores(model):
    reranker, classify = bert_jax.Reranker(model), bert_jax.Classifier(model)
    scores = np.array([answer["score"] for answer in classify([("ab", document) for document in DOCUMENTS])])
    np.testing.assert_allclose(reranker.scores("ab", DOCUMENTS), scores, rtol=1e-6)
    assert reranker.max_length == 16 and scores.min() > 0 and scores.max() < 1 and scores[1] == scores[3]
    ranked = reranker.rank("ab", DOCUMENTS)
    assert [hit["index"] for hit in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert ranked[0]["text"] == DOCUMENTS[ranked[0]["index"]] and ranked[:2] == reranker.rank("ab", DOCUMENTS, top_k=2)
    assert reranker.rank("ab", []) == []
    assert reranker({"query": "ab", "document": DOCUMENTS[0]}) == {"score": pytest.approx(scores[0])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["ab"], DOCUMENTS), "query: found list; expected a text"),
        (("ab", "cd"), "documents: found a text; expected a list of texts"),
        (("ab", DOCUMENTS, 0), "top_k: found 0; expected a number of at least 1"),
        (("ab", DOCUMENTS, "3"), "top_k: found '3'; expected a number of at least 1"),
        (("ab", ["cd", " "]), "document 1: .*empty"),
    ],
)
def test_mistakes(model, arguments, message):
    with pytest.raises(UserError, match=message):
        bert_jax.Reranker(model).rank(*arguments)


def test_a_model_with_several_labels_is_no_reranker(tmp_path):
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    huggingface.write(tiny.make_model(tokenizer, Task("sequence_classification", 2), ("no", "yes")), tmp_path / "two")
    with pytest.raises(UserError, match="reranking needs a model with one score, but this one has 2 labels"):
        bert_jax.Reranker(tmp_path / "two")


def test_ranks_among_the_answers_of_a_query():
    answers = [{"score": score} for score in (0.1, 0.9, 0.1, 0.5, 0.7)]
    ranked = list(rerank.with_ranks(["a", "a", "a", "b", "b"], answers))
    assert [answer["rank"] for answer in ranked] == [2, 1, 3, 2, 1] and [
        dict(score=a["score"]) for a in ranked
    ] == answers


@pytest.mark.more
def test_files_of_queries_and_documents(model, tmp_path):
    records = [
        {"id": i, "query": query, "document": text} for query in ("ab", "cd") for i, text in enumerate(DOCUMENTS)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("out.jsonl", "out.csv"):
        arguments = f"--model={model}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / name}"
        finish(start("bert_jax.predict", "rerank", *arguments))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    reranker = bert_jax.Reranker(model)
    for query, own in (("ab", rows[:4]), ("cd", rows[4:])):
        assert [row["query"] for row in own] == [query] * 4
        np.testing.assert_allclose([row["score"] for row in own], reranker.scores(query, DOCUMENTS), rtol=1e-5)
        assert [own[hit["index"]]["rank"] for hit in reranker.rank(query, DOCUMENTS)] == [1, 2, 3, 4]
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,query,document,score,rank"


def test_on_the_terminal(model):
    arguments = ["--query=ab", *(f"--document={text}" for text in DOCUMENTS[:2])]
    lines = finish(start("bert_jax.predict", "rerank", f"--model={model}", *arguments)).splitlines()
    assert sorted(json.loads(line)["rank"] for line in lines if line.startswith("{")) == [1, 2]
    said = finish(start("bert_jax.predict", "rerank", f"--model={model}", "--query=ab"), code=2)
    assert "--document: missing; expected --query and --document" in said
