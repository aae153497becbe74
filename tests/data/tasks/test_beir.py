"""Retrieval tasks in BEIR's layout: read as they are, and refused in one line."""

import gzip
import json

import pytest

from bert_jax.data.tasks import beir
from bert_jax.errors import UserError


def write(folder, qrels="query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nd3\td2\t1\n", packed=False):
    folder.mkdir(exist_ok=True)
    corpus = [{"_id": "d1", "title": "Cats", "text": "sleep."}, {"_id": "d2", "title": "", "text": "Dogs run."}]
    corpus += [{"_id": "d3", "text": "Birds sing."}]
    queries = [
        {"_id": "q1", "text": "who sleeps"},
        {"_id": "q2", "text": "unused"},
        {"_id": "d3", "text": "Birds sing."},
    ]
    for name, records in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return str(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_read(tmp_path, packed):
    task = beir.read(write(tmp_path / "task", packed=packed), "config.task.held_out")
    assert task.queries == ["who sleeps", "Birds sing."]
    assert task.documents == ["Cats sleep.", "Dogs run.", "Birds sing."]
    assert task.relevance == [{0: 2.0, 1: 0.0}, {1: 1.0}]
    assert task.same == [-1, 2]  # a query that is a document too does not find itself


@pytest.mark.parametrize(
    ("query", "judged", "expected"),
    [
        ("Birds sing.", "d2", 2),
        ("sleep.", "d2", -1),  # of another document
        ("birds that sing", "d2", -1),  # numbered alike, as in Cranfield
        ("Birds sing.", "d3", -1),  # judged, so it counts
    ],
)
def test_only_a_document_that_is_the_query_is_left_out(tmp_path, query, judged, expected):
    folder = write(tmp_path / "task", f"query-id\tcorpus-id\tscore\nd3\t{judged}\t1\n")
    (tmp_path / "task" / "queries.jsonl").write_text(json.dumps({"_id": "d3", "text": query}) + "\n")
    task = beir.read(folder, "key")
    assert task.same == [expected]
    note = "1 of 1 queries are documents of the corpus, left out of their own rankings"
    assert beir.same_note(task.same) == (note if expected >= 0 else "")
    (tmp_path / "task" / "queries.jsonl").write_text(json.dumps({"_id": "d1", "text": "sleep."}) + "\n")
    (tmp_path / "task" / "qrels" / "test.tsv").write_text("d1\td2\t1\n")
    assert beir.read(folder, "key").same == [0]  # behind the document's title


def test_an_id_twice_is_refused(tmp_path):
    folder = write(tmp_path / "task")
    with (tmp_path / "task" / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d2", "text": "again"}) + "\n")
    with pytest.raises(UserError, match="corpus.jsonl line 4: id 'd2' is that of an earlier line too; expected one"):
        beir.read(folder, "key")


def test_splits_to_choose_by(tmp_path):
    folder = write(tmp_path / "task")
    assert beir.is_folder(folder) and not beir.is_folder(tmp_path) and beir.held_out_split(folder) == "test"
    (tmp_path / "task" / "qrels" / "dev.tsv").write_text("q2\td1\t1\n")
    assert beir.held_out_split(folder) == "dev" and beir.read(folder, "key", "dev").queries == ["unused"]


def test_trec_columns_without_a_header(tmp_path):
    task = beir.read(write(tmp_path / "task", "q1\t0\td1\t1\n"), "key")
    assert task.queries == ["who sleeps"] and task.relevance == [{0: 1.0}]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("query-id\tcorpus-id\tscore\nq9\td1\t1\n", "line 2: query 'q9' is not in queries.jsonl"),
        ("query-id\tcorpus-id\tscore\nq1\td9\t1\n", "line 2: document 'd9' is not in corpus.jsonl"),
        ("q1\td1\tnan\n", "line 1: score nan; expected a finite number"),
        ("q1\td1\t1\nq1\td1\t0\n", "line 2: query 'q1' and document 'd1' have the score 0, and 1 before; expected"),
        ("query-id\tcorpus-id\tscore\nq1 d1 1\n", "line 2: found 'q1 d1 1'; expected query-id"),
        ("query-id\tcorpus-id\tscore\n", "no line"),
    ],
)
def test_mistakes_in_qrels(tmp_path, qrels, message):
    with pytest.raises(UserError, match=message):
        beir.read(write(tmp_path / "task", qrels), "config.task.held_out")


@pytest.mark.parametrize(
    ("key", "value"), [("title", 3), ("title", ["a"]), ("title", 0), ("_id", ["a"]), ("_id", True)]
)
def test_titles_and_ids_of_other_types(tmp_path, key, value):
    folder = write(tmp_path / "task")
    (tmp_path / "task" / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "text": "a", key: value}) + "\n")
    with pytest.raises(UserError, match=f"corpus.jsonl line 1: {key.strip('_')}: found .*; expected a string"):
        beir.read(folder, "config.task.held_out")


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        beir.read(str(tmp_path / "absent"), "config.task.held_out")
    folder = write(tmp_path / "task")
    (tmp_path / "task" / "qrels" / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"has no qrels/test\.tsv"):
        beir.read(folder, "config.task.held_out")
    (tmp_path / "task" / "corpus.jsonl").write_text('{"_id": "d1", "body": "x"}\n')
    with pytest.raises(UserError, match=r"corpus\.jsonl line 1: expected _id and text; found _id, body"):
        beir.read(folder, "config.task.held_out")


def test_qrels_of_trec_and_blank_lines_are_read(tmp_path):
    (tmp_path / "trec.txt").write_text("q1 0 d1 2\n\nq1 0 d2 0\n")
    (tmp_path / "beir.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    for name in ("trec.txt", "beir.tsv"):
        assert beir.read_qrels(tmp_path / name, {"q1"}, {"d1": 0, "d2": 1}) == {"q1": {0: 2.0, 1: 0.0}}
    with pytest.raises(UserError, match=r"absent.tsv: No such file or directory; expected a readable file"):
        beir.read_qrels(tmp_path / "absent.tsv", {"q1"}, {})
    with pytest.raises(UserError, match=r"bier.tsv: .*; expected a readable file; did you mean .*/beir.tsv\?$"):
        beir.read_qrels(tmp_path / "bier.tsv", {"q1"}, {})
    with pytest.raises(UserError, match="beir.tsv line 2: query 'q1' is not in --queries"):
        beir.read_qrels(tmp_path / "beir.tsv", {"q2"}, {}, ("--queries", "--corpus"))
