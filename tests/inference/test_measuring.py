"""Scores of an embedder on files, those that fine-tuning gives, and the command."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks import metrics, ranking
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from tests.commands import finish, start
from tests.inference.conftest import make_model, texts
from tests.inference.test_multi_vector import MARKERS
from tests.inference.test_multi_vector import make as multi_vector_model


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, settings={"prompts": {"query": "ab: ", "document": "cd: "}})


def cosines(first, second):
    first, second = (v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    return (first * second).sum(1)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def graded(path):
    rng = np.random.default_rng(0)
    rows = [
        {"one": a, "two": b, "gold": float(rng.random())}
        for a, b in zip(texts(20, seed=1, most=6), texts(20, seed=2, most=6), strict=True)
    ]
    return write(path, rows), rows


def test_scores_are_those_of_the_vectors(model, tmp_path):
    embedder = bert_jax.Embedder(model)
    path, rows = graded(tmp_path / "graded.jsonl")
    sides = [embedder.encode([row[name] for row in rows]) for name in ("one", "two")]
    gold = np.array([row["gold"] for row in rows])
    columns = {"anchor": "one", "positive": "two"}
    scores = bert_jax.measure(embedder, f"sts:{path}", columns=columns, widths=(8,))
    expected = metrics.regression(gold, cosines(*sides))
    cut = metrics.regression(gold, cosines(*(side[:, :8] for side in sides)))
    assert scores == pytest.approx(
        {"spearman": expected["spearman"], "pearson": expected["pearson"],
         "spearman_8": cut["spearman"], "pearson_8": cut["pearson"]}, abs=1e-5)  # fmt: skip


def test_a_file_without_a_header(model, tmp_path):
    embedder, (path, rows) = bert_jax.Embedder(model), graded(tmp_path / "graded.jsonl")
    expected = bert_jax.measure(embedder, f"sts:{path}", columns={"anchor": "one", "positive": "two"})
    plain = tmp_path / "plain.tsv"  # the STS benchmark's own form
    plain.write_text("".join(f"main\t{i}\t{row['gold']}\t{row['one']}\t{row['two']}\n" for i, row in enumerate(rows)))
    header = ("genre", "number", "score", "sentence1", "sentence2")
    assert bert_jax.measure(embedder, f"sts:{plain}", header=header) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="--columns=sentence1,sentence2,score names those of a file without a header"):
        bert_jax.measure(embedder, f"sts:{plain}")


def test_queries_and_documents_have_their_prompts(model, tmp_path):
    embedder, documents = bert_jax.Embedder(model), texts(12, seed=3, most=6)
    rows = [{"query": f"q{text}", "positive": documents[i : i + 2], "negative": documents[6:]}
            for i, text in enumerate(texts(4, seed=4, most=6))]  # fmt: skip
    scores = bert_jax.measure(embedder, f"rerank:{write(tmp_path / 'ranked.jsonl', rows)}")
    precisions = []
    for row in rows:
        vectors = embedder.encode([*row["positive"], *row["negative"]], prompt="cd: ")
        similar = cosines(np.repeat(embedder.encode([row["query"]], prompt="ab: "), len(vectors), 0), vectors)
        precisions.append(metrics.average_precision(np.arange(len(vectors)) < 2, similar))
    assert scores["map"] == pytest.approx(np.mean(precisions), abs=1e-6)


def test_the_command(model, tmp_path):
    huggingface.write(model, tmp_path / "model")
    pairs = [{"sentence1": a, "sentence2": b, "label": i % 2}
             for i, (a, b) in enumerate(zip(texts(8, seed=5), texts(8, seed=6), strict=True))]  # fmt: skip
    write(tmp_path / "pairs.jsonl", pairs)
    write(tmp_path / "classes.jsonl", [{"text": text, "label": i % 3} for i, text in enumerate(texts(9, seed=7))])
    sets = f"same=pairs:{tmp_path}/pairs.jsonl,topics=clusters:{tmp_path}/classes.jsonl"
    command = ["bert_jax.evaluate", f"--model={tmp_path}/model", f"--held_out={sets}", "--widths=8"]
    out = finish(start(*command, f"--output={tmp_path}/scores.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    embedder = bert_jax.Embedder(tmp_path / "model")
    for row, spec in zip(rows, (f"pairs:{tmp_path}/pairs.jsonl", f"clusters:{tmp_path}/classes.jsonl"), strict=True):
        for name, value in bert_jax.measure(embedder, spec, widths=(8,)).items():
            assert row[name] == pytest.approx(value, abs=1e-5) and name in out
    assert [row["name"] for row in rows] == ["same", "topics"]


def test_mistakes(model, tmp_path):
    embedder = bert_jax.Embedder(model)
    path, _ = graded(tmp_path / "graded.jsonl")
    for arguments, message in (
        (("x.csv",), "held_out=x.csv: expected one of sts:, pairs:, clusters:, rerank:, ir: with a file"),
        (("sts:absent.csv",), "held_out=?.*absent.csv"),
        ((f"sts:{path}", {"text": "one"}), "columns: found 'text'; expected anchor, positive, negatives, score, label"),
        ((f"sts:{path}", {"anchor": "one", "positive": "two"}, (64,)), "widths: found 64; expected from 1 to 32"),
    ):
        names = dict(zip(("columns", "widths"), arguments[1:], strict=False))
        with pytest.raises(UserError, match=message):
            bert_jax.measure(embedder, arguments[0], **names)


def test_retrieval_is_that_of_a_plain_search(model, tmp_path):
    embedder = bert_jax.Embedder(model)
    documents, queries = texts(30, seed=8, most=6), texts(5, seed=9, most=6)
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{3 * i}\t1\n" for i in range(5)))
    hits = embedder.search(queries, documents, 30)
    ranked = np.array([[hit["index"] for hit in row] for row in hits])
    expected = ranking.score(ranked, [{3 * i: 1.0} for i in range(5)])
    assert bert_jax.measure(embedder, f"ir:{tmp_path}") == pytest.approx(expected)


def test_late_interaction(tmp_path):
    """Rankings by MaxSim, those of the vectors of each text, and at a width."""
    embedder = bert_jax.MultiVectorEmbedder(multi_vector_model(**MARKERS))
    rows = [
        {"query": a, "positive": [b], "negative": [c, d]}
        for a, b, c, d in zip(*(texts(12, seed=i, most=6) for i in range(4)), strict=True)
    ]
    path = write(tmp_path / "ranked.jsonl", rows)
    scores = bert_jax.measure(embedder, f"rerank:{path}", widths=(3,))
    similarities = [embedder.similarity(row["query"], row["positive"] + row["negative"])[0] for row in rows]
    expected = np.mean([metrics.average_precision(np.array([True, False, False]), row) for row in similarities])
    assert scores["map"] == pytest.approx(expected) and 0 < scores["map_3"] <= 1
    with pytest.raises(UserError, match="held_out=sts:x.csv: test compares queries with documents; expected"):
        bert_jax.measure(embedder, "sts:x.csv")
