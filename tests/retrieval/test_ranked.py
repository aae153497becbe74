"""Rankings on disk against plain numpy in float64, their formats and scores, and the command that makes them."""

import gzip
import json

import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks import ranking
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval import ranked
from bert_jax.retrieval.documents import scan
from tests.commands import run_lines
from tests.inference.conftest import make_model
from tests.inference.test_multi_vector import MARKERS
from tests.inference.test_multi_vector import make as multi_vector_model
from tests.retrieval.conftest import DOCUMENTS, QUERIES, cosines, make_reranker, write_beir, write_lines

IDS = tuple(f"d{i}" for i in range(len(DOCUMENTS)))


@pytest.fixture(scope="module")
def index(embedder, tmp_path_factory):
    documents = list(zip(IDS, DOCUMENTS, strict=True))
    folder = tmp_path_factory.mktemp("index")
    return index_lib.build(folder, "--index", embedder, documents, scan(documents, ""), "")


def queries_of(**more):
    return ranked.Queries([f"q{i}" for i in range(len(QUERIES))], QUERIES, **more)


def test_rankings_are_those_of_float64(embedder, index, monkeypatch):
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    monkeypatch.setattr(ranked, "_QUERIES", 4)
    asked = np.concatenate([embedder.encode(QUERIES[:4], prompt="cd "), embedder.encode(QUERIES[4:], prompt="cd ")])
    scores = cosines(asked, index.vectors)
    order = np.argsort(-scores, axis=1, kind="stable")
    for depth in (1, 7, 100):
        counts = []
        rankings = list(ranked.rank(embedder, index, queries_of(), depth, "cd ", counts.append))
        assert counts == [4, 2]
        for i, (places, row_scores) in enumerate(rankings):
            np.testing.assert_array_equal(places, order[i, :depth])
            np.testing.assert_allclose(row_scores, scores[i, places], rtol=1e-12)
    same = [int(row[1]) for row in order]  # each query's second document is left out
    same[2] = -1
    for i, (places, _) in enumerate(ranked.rank(embedder, index, queries_of(same=same), 5, "cd ")):
        np.testing.assert_array_equal(places, [place for place in order[i] if place != same[i]][:5])


def test_formats(tmp_path):
    queries = ranked.Queries(["q 0", "q1"], ["a", "b"])
    rankings = [(np.array([2, 0]), np.array([0.5, -0.25])), (np.array([1, 2]), np.array([1.0, 0.125]))]
    ids = ("x", "y", "z")
    ranked.write(tmp_path / "run.jsonl.gz", rankings, queries, ids, 1)
    with gzip.open(tmp_path / "run.jsonl.gz", "rt") as file:
        assert [json.loads(line) for line in file] == [
            {"query": "q 0", "document": "z", "rank": 1, "score": 0.5},
            {"query": "q1", "document": "y", "rank": 1, "score": 1.0},
        ]
    ranked.write(tmp_path / "run.tsv", rankings, queries, ids, 2)
    assert (tmp_path / "run.tsv").read_text() == (
        "query-id\tdocument-id\trank\tscore\nq 0\tz\t1\t0.5\nq 0\tx\t2\t-0.25\nq1\ty\t1\t1.0\nq1\tz\t2\t0.125\n"
    )
    with pytest.raises(UserError, match="run.trec: id 'q 0' is empty or holds a space"):
        ranked.write(tmp_path / "run.trec", rankings, queries, ids, 2)
    ranked.write(tmp_path / "run.trec", rankings, ranked.Queries(["q0", "q1"], ["a", "b"]), ids, 1, "name")
    assert (tmp_path / "run.trec").read_text() == "q0 Q0 z 1 0.5 name\nq1 Q0 y 1 1.0 name\n"
    with pytest.raises(UserError, match=r"--output=run.csv: unknown kind of file; expected .jsonl, .tsv or .trec"):
        ranked.kind_of("run.csv")


def test_queries_and_judgements(tmp_path):
    folder = write_beir(tmp_path / "task", [("q3", "d0", 2), ("q1", "d7", 1), ("q3", "d4", 0)])
    queries = ranked.read_queries(folder, IDS, "", "", "")
    assert (queries.ids, queries.texts) == (("q3", "q1"), (QUERIES[3], QUERIES[1]))
    assert queries.relevance == ({0: 2.0, 4: 0.0}, {7: 1.0}) and queries.same == (-1, -1)
    alone = ranked.read_queries(folder / "queries.jsonl", IDS, "", "", "")
    assert alone.ids == tuple(f"q{i}" for i in range(6)) and not alone.relevance
    (tmp_path / "trec.txt").write_text("q2 0 d5 1\n")
    judged = ranked.read_queries(folder / "queries.jsonl", IDS, tmp_path / "trec.txt", "", "")
    assert judged.ids == alone.ids and judged.relevance == ({}, {}, {5: 1.0}, {}, {}, {}) and judged.same == ()
    (folder / "qrels" / "test.tsv").unlink()
    assert len(ranked.read_queries(folder, IDS, "", "", "").ids) == 6
    for line, message in (
        ("q1\td99\t1", "bad.tsv line 1: document 'd99' is not in --corpus"),
        ("q9\td1\t1", "bad.tsv line 1: query 'q9' is not in --queries"),
        ("q1\td1", "bad.tsv: no line; expected query-id, corpus-id and a score"),
        ("q1\td1\t1\nq1\td1", "bad.tsv line 2: found"),
    ):
        (tmp_path / "bad.tsv").write_text(f"{line}\n")
        with pytest.raises(UserError, match=message):
            ranked.read_queries(folder, IDS, tmp_path / "bad.tsv", "", "")
    write_lines(tmp_path / "empty.jsonl", [{"text": "a"}, {"text": " "}])
    with pytest.raises(UserError, match="empty.jsonl:2: empty; expected the text of a query"):
        ranked.read_queries(tmp_path / "empty.jsonl", IDS, "", "", "")


def test_scores_are_those_of_the_whole_matrix(embedder, index):
    relevance = tuple({(7 * i + j) % 45: float(j % 3) for j in range(1, 5)} for i in range(len(QUERIES)))
    queries = queries_of(relevance=relevance)
    rankings = list(ranked.rank(embedder, index, queries, ranking.DEPTH, ""))
    order = np.argsort(-cosines(embedder.encode(QUERIES), index.vectors), axis=1, kind="stable")
    assert ranked.score(rankings, queries) == pytest.approx(ranking.score(order, relevance))


def test_a_reranker_orders_the_nearest_documents(embedder, reranker, index, monkeypatch):
    monkeypatch.setattr(ranked, "_RERANKED", 4)
    documents, counts = list(zip(IDS, DOCUMENTS, strict=True)), []
    queries = queries_of()
    rankings = list(ranked.rank(embedder, index, queries, 30, ""))
    for depth in (1, 7, 100):
        counts.clear()
        reranked = ranked.rerank(reranker, documents, queries, iter(rankings), depth, counts.append)
        for query, (places, _), (found, scores) in zip(QUERIES, rankings, reranked, strict=True):
            expected = reranker.scores(query, [DOCUMENTS[place] for place in places[:depth]])
            order = np.argsort(-expected, kind="stable")
            np.testing.assert_array_equal(found, places[:depth][order])
            np.testing.assert_allclose(scores, expected[order], rtol=1e-5, atol=1e-6)
        assert counts == [1] * len(QUERIES)
    with pytest.raises(UserError, match="--corpus: has changed while it was read"):
        next(ranked.rerank(reranker, documents[:3], queries, rankings, 30))
    monkeypatch.setattr(reranker, "stream", lambda pairs, *_, **__: iter([{"score": float("nan")}] * len(pairs)))
    with pytest.raises(UserError, match="--rerank: a score of query q0 is not finite"):
        next(ranked.rerank(reranker, documents, queries, rankings, 2))


def test_what_a_search_returned_is_reranked(embedder, reranker):
    hits = embedder.search(QUERIES, DOCUMENTS, 8)
    reranked = reranker.rerank(QUERIES, hits, top_k=3)
    for query, before, after in zip(QUERIES, hits, reranked, strict=True):
        best = reranker.rank(query, [hit["text"] for hit in before], 3)
        assert [(hit["text"], hit["score"]) for hit in after] == [(hit["text"], hit["score"]) for hit in best]
        assert all(DOCUMENTS[hit["index"]] == hit["text"] for hit in after)
    assert reranker.rerank(QUERIES[0], hits[0], 3) == reranked[0] and reranker.rerank("ab", []) == []
    with pytest.raises(UserError, match="hits: found those of 6 queries; expected 2, as queries"):
        reranker.rerank(QUERIES[:2], hits)
    with pytest.raises(UserError, match="hits: found one without a text; expected those of a search among texts"):
        reranker.rerank("ab", embedder.search("ab", embedder.encode(DOCUMENTS)))


def test_the_command(embedder, tokenizer, tmp_path):
    huggingface.write(embedder.model, tmp_path / "model")
    huggingface.write(make_model(tokenizer, seed=1), tmp_path / "other")
    huggingface.write(make_reranker(tokenizer), tmp_path / "reranker")
    folder = write_beir(tmp_path / "task", [("q3", "d0", 2), ("q1", "d7", 1)])
    write_lines(tmp_path / "asked.jsonl", [{"question": text} for text in QUERIES])
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "asked.tsv").symlink_to(tmp_path / "asked.jsonl")
    (tmp_path / "bad.tsv").write_text("q1\td99\t1\n")
    model, corpus = f"--model={tmp_path}/model", f"--corpus={folder}/corpus.jsonl"
    asked = [f"--queries={tmp_path}/asked.jsonl", "--query_column=question"]
    lines = {
        "folder": [model, f"--corpus={folder}/", f"--output={tmp_path}/run.trec", "--top_k=2"],
        "files": [model, corpus, *asked, f"--index={folder}.index", f"--output={tmp_path}/run.tsv", "--top_k=3"],
        "printed": [model, corpus, *asked, f"--index={folder}.index"],
        "reranked": [
            model,
            f"--corpus={folder}/",
            f"--output={tmp_path}/reranked.tsv",
            "--top_k=2",
            "--rerank_top=4",
            f"--rerank={tmp_path}/reranker",
        ],
        "bits": [
            model,
            corpus,
            *asked,
            f"--index={folder}.index",
            f"--output={tmp_path}/bits.tsv",
            "--top_k=3",
            "--precision=binary",
            "--rescore_multiplier=15",
        ],
        # and mistakes
        "rescore": [model, corpus, *asked, "--rescore=int8"],
        "multiplier": [model, corpus, *asked, "--precision=int8", "--rescore=none", "--rescore_multiplier=2"],
        "uint8": [model, corpus, *asked, "--precision=uint8"],
        "no reranker": [model, corpus, *asked, "--rerank_top=4"],
        "few reranked": [model, corpus, *asked, f"--rerank={tmp_path}/reranker", "--rerank_top=4"],
        "embedder reranks": [model, corpus, *asked, f"--rerank={tmp_path}/model"],
        "top_k": [model, corpus, *asked, "--top_k=0"],
        "no corpus": [model, *asked],
        "no queries": [model, corpus],
        "other model": [f"--model={tmp_path}/other", f"--corpus={folder}"],
        "prompt": [model, f"--corpus={folder}", "--document_prompt=ab "],
        "empty": [model, f"--corpus={tmp_path}/none.txt", *asked],
        "qrels": [model, corpus, f"--queries={folder}/queries.jsonl", f"--qrels={tmp_path}/bad.tsv"],
        "absent qrels": [model, corpus, f"--queries={folder}/queries.jsonl", f"--qrels={tmp_path}/bda.tsv"],
        "column": [model, corpus, f"--queries={tmp_path}/asked.jsonl"],
        "input": [model, corpus, *asked, "--input=x.txt"],
        "flag of another": [model, corpus, *asked, "--merge=max"],
        "output": [model, corpus, *asked, "--output=x.csv"],
        "itself": [model, corpus, *asked, f"--output={tmp_path}/asked.tsv"],
        "in the folder": [model, f"--corpus={folder}", f"--output={folder}/qrels/test.tsv"],
        "no folder": [model, corpus, *asked, f"--output={tmp_path}/absent/x.tsv"],
    }
    done = run_lines("predict", {name: ["search", *arguments] for name, arguments in lines.items()}, "module.run()")
    codes, outs, said = ({name: parts[i] for name, parts in done.items()} for i in range(3))
    succeeding = {"folder", "files", "printed", "reranked", "bits"}
    assert {name for name, code in codes.items() if code == 0} == succeeding, said
    assert "ndcg@10" in outs["folder"] and "recall@100" in outs["folder"]
    assert [line.split()[0] for line in (tmp_path / "run.trec").read_text().splitlines()] == ["q3", "q3", "q1", "q1"]
    order = np.argsort(-cosines(embedder.encode(QUERIES), embedder.encode(DOCUMENTS)), axis=1, kind="stable")
    rows = [line.split("\t") for line in (tmp_path / "run.tsv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        [str(i), f"d{place}", str(rank)] for i in range(6) for rank, place in enumerate(order[i, :3], 1)
    ]
    hits = [json.loads(line) for line in outs["printed"].splitlines() if line.startswith("{")]
    assert len(hits) == 60 and [hit["document"] for hit in hits[:10]] == [f"d{place}" for place in order[0, :10]]
    metrics = [line.split() for line in outs["reranked"].splitlines()]
    assert ["search", "reranked"] in metrics
    assert [len(line) for line in metrics if line and line[0] in ranking.METRICS] == [3] * len(ranking.METRICS)
    reranker = bert_jax.Reranker(tmp_path / "reranker")
    lines = [line.split("\t") for line in (tmp_path / "reranked.tsv").read_text().splitlines()[1:]]
    for query in (3, 1):
        nearest = [DOCUMENTS[place] for place in order[query, :4]]
        best = [f"d{order[query, hit['index']]}" for hit in reranker.rank(QUERIES[query], nearest, 2)]
        assert [line[1] for line in lines if line[0] == f"q{query}"] == best
    assert (tmp_path / "bits.tsv").read_text() == (tmp_path / "run.tsv").read_text()
    for name, message in (
        ("rescore", "error: --rescore: does nothing for --precision=float32; expected int8 or binary"),
        ("multiplier", "error: --rescore_multiplier: does nothing with --rescore=none; expected float32 or int8"),
        ("uint8", "error: --precision=uint8: search knows float32, int8, binary"),
        ("no reranker", "error: --rerank_top: does nothing without --rerank; expected --rerank=MODEL"),
        ("few reranked", "error: --rerank_top=4: expected at least 10, the --top_k that is written"),
        ("embedder reranks", "reranking needs a model"),
        ("top_k", "error: --top_k=0: expected at least 1"),
        ("no corpus", "error: --corpus: missing; expected --corpus=FILE"),
        ("no queries", "error: --queries: missing; expected --queries=FILE"),
        ("other model", "holds vectors of the model"),
        ("prompt", "its documents have the prompt ''; found 'ab '"),
        ("empty", "none.txt: empty; expected one text a line or more"),
        ("qrels", "bad.tsv line 1: document 'd99' is not in --corpus"),
        (
            "absent qrels",
            f"/bda.tsv: no such file; expected a .tsv of query-id, corpus-id, score; did you mean {tmp_path}/",
        ),
        ("column", "asked.jsonl:1: no `text` string"),
        ("input", "error: --input: not a flag of search; expected --corpus and --queries"),
        ("flag of another", "error: --merge: not a flag of search; expected with classify"),
        ("output", "error: --output=x.csv: unknown kind of file"),
        ("no folder", "absent/x.tsv: no such folder"),
        ("itself", "asked.tsv: is --queries itself; expected another file"),
        ("in the folder", "qrels/test.tsv: is --corpus itself; expected another file"),
    ):
        assert codes[name] == 2 and message in said[name] and len(said[name].strip().splitlines()) <= 3, said[name]


@pytest.mark.more
def test_late_interaction_by_the_command(tmp_path):
    """A model with a vector for each token searches without an index, and reranks."""
    huggingface.write(multi_vector_model(**MARKERS), tmp_path / "late")
    folder = write_beir(tmp_path / "task", [("q3", "d0", 2), ("q1", "d7", 1)])
    write_lines(tmp_path / "pairs.jsonl", [{"query": QUERIES[0], "document": text} for text in DOCUMENTS[:3]])
    model, corpus = f"--model={tmp_path}/late", f"--corpus={folder}"
    pairs = [f"--input={tmp_path}/pairs.jsonl", f"--output={tmp_path}/scored.jsonl"]
    lines = {
        "search": ["search", model, corpus, f"--output={tmp_path}/run.tsv", "--top_k=3"],
        "rerank": ["rerank", model, *pairs],
        "index": ["search", model, corpus, f"--index={tmp_path}/index"],
        "precision": ["search", model, corpus, "--precision=int8"],
        "normalize": ["search", model, corpus, "--normalize"],
        "embed": ["embed", model, "--text=ab"],
    }
    done = run_lines("predict", lines, "module.run()")
    codes, outs, said = ({name: parts[i] for name, parts in done.items()} for i in range(3))
    assert {name for name, code in codes.items() if code == 0} == {"search", "rerank"}, said
    assert "ndcg@10" in outs["search"] and not list(folder.parent.glob("*.index"))
    embedder = bert_jax.MultiVectorEmbedder(tmp_path / "late")
    rows = [line.split("\t") for line in (tmp_path / "run.tsv").read_text().splitlines()[1:]]
    for query in (3, 1):
        expected = [f"d{hit['index']}" for hit in embedder.search(QUERIES[query], DOCUMENTS, 3)]
        assert [row[1] for row in rows if row[0] == f"q{query}"] == expected
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    expected = embedder.similarity(QUERIES[0], DOCUMENTS[:3])[0]
    assert [row["score"] for row in scored] == pytest.approx(expected.tolist(), rel=1e-5)
    for name, message in (("index", "which are not kept; expected no --index"), ("precision", "expected float32"),
                          ("normalize", "error: --normalize: not for --model="),
                          ("embed", "has a vector for each token of a text; expected one")):  # fmt: skip
        assert codes[name] == 2 and message in said[name], (name, said[name])


@pytest.mark.more
def test_sparse_vectors_by_the_command(tokenizer, tmp_path):
    """A sparse model searches without an index."""
    settings = {"sparse": ("max", "relu"), "prompts": {"query": "cd "}}
    huggingface.write(make_model(tokenizer, settings=settings, language_model=True), tmp_path / "sparse")
    folder = write_beir(tmp_path / "task", [("q3", "d0", 2), ("q1", "d7", 1)])
    model, corpus = f"--model={tmp_path}/sparse", f"--corpus={folder}"
    lines = {
        "search": ["search", model, corpus, f"--output={tmp_path}/run.tsv", "--top_k=3"],
        "index": ["search", model, corpus, f"--index={tmp_path}/index"],
        "precision": ["search", model, corpus, "--precision=int8"],
        "normalize": ["search", model, corpus, "--normalize"],
    }
    done = run_lines("predict", lines, "module.run()")
    codes, outs, said = ({name: parts[i] for name, parts in done.items()} for i in range(3))
    assert codes["search"] == 0 and "ndcg@10" in outs["search"] and not list(folder.parent.glob("*.index")), said
    embedder = bert_jax.SparseEmbedder(tmp_path / "sparse")
    rows = [line.split("\t") for line in (tmp_path / "run.tsv").read_text().splitlines()[1:]]
    for query in (3, 1):
        expected = [f"d{hit['index']}" for hit in embedder.search(QUERIES[query], DOCUMENTS, 3)]
        assert [row[1] for row in rows if row[0] == f"q{query}"] == expected
    for name, message in (("index", "which are not kept; expected no --index"), ("precision", "expected float32"),
                          ("normalize", "error: --normalize: not for --model=")):  # fmt: skip
        assert codes[name] == 2 and message in said[name], (name, said[name])
