"""Ids and texts of corpora and queries, and what is refused in them."""

import io
import sys

import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.errors import UserError
from bert_jax.retrieval.documents import Documents, scan
from tests.retrieval.conftest import write_lines


def test_ids_and_texts_of_every_kind_of_file(tmp_path):
    rows = [{"_id": 7, "title": "Head", "text": "ab cd"}, {"_id": "x", "title": "", "text": "ef"}]
    expected = [("7", "Head ab cd"), ("x", "ef")]
    write_lines(tmp_path / "corpus.jsonl", rows)
    assert list(Documents(tmp_path / "corpus.jsonl", "corpus")) == list(Documents(tmp_path, "corpus")) == expected
    (tmp_path / "table.csv").write_text("id,title,text\n7,Head,ab cd\nx,,ef\n")
    assert list(Documents(tmp_path / "table.csv", "corpus")) == expected
    assert list(Documents(tmp_path / "table.csv", "queries")) == [("7", "ab cd"), ("x", "ef")]
    assert list(Documents(tmp_path / "table.csv", "queries", "title", "text"))[0] == ("ab cd", "Head")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[1:]), tmp_path / "table.parquet")
    assert list(Documents(tmp_path / "table.parquet", "corpus")) == expected[1:]
    (tmp_path / "lines.txt").write_text("ab cd\n\nef\n")
    documents = Documents(tmp_path / "lines.txt", "corpus")
    assert list(documents) == list(documents) == [("0", "ab cd"), ("1", "ef")]
    assert documents.where(1).endswith("lines.txt:3") and "1 lines hold nothing" in documents.notes[0]


@pytest.mark.parametrize(
    ("options", "content", "expected"),
    [
        ({"column": "body"}, b"body\nab cd\nef\n", [("0", "ab cd"), ("1", "ef")]),
        ({"id_column": "key", "column": "body"}, b"key;body\nA;ab cd\nB;ef\n", [("A", "ab cd"), ("B", "ef")]),
        ({"id_column": "text"}, b"text\nab cd\nef\n", [("ab cd", "ab cd"), ("ef", "ef")]),
        ({}, b"body\nab cd\nef gh\n", [("0", "body"), ("1", "ab cd"), ("2", "ef gh")]),
    ],
)
def test_a_named_column_makes_standard_input_a_table(monkeypatch, options, content, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    documents = Documents("-", "corpus", **options)
    assert list(documents) == expected
    assert [("--text_column=NAME" in note, "--input_format" in note) for note in documents.notes] == [(True, False)] * (
        not options
    )


@pytest.mark.parametrize("title", [3, 0, False, ["a"], [], {}, {"en": "a"}, 1.5])
def test_a_title_that_is_no_string_is_refused_with_its_line(tmp_path, title):
    write_lines(tmp_path / "corpus.jsonl", [{"_id": 1, "text": "a"}, {"_id": 2, "title": title, "text": "b"}])
    with pytest.raises(UserError, match=r"corpus.jsonl:2: title: found .*; expected a string") as error:
        list(Documents(tmp_path, "corpus"))
    assert "\n" not in str(error.value)


def test_titles_that_are_not_there(tmp_path):
    write_lines(
        tmp_path / "corpus.jsonl", [{"id": i, "title": t, "text": "a"} for i, t in enumerate((None, float("nan"), " "))]
    )
    assert [text for _, text in Documents(tmp_path, "corpus")] == ["a", "a", "a"]
    table = pyarrow.table({"id": [1], "title": [2], "text": ["a"]})
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    with pytest.raises(UserError, match=r"table.parquet:1: title: found 2; expected a string"):
        list(Documents(tmp_path / "table.parquet", "corpus"))
    assert list(Documents(tmp_path / "table.parquet", "queries")) == [("1", "a")]


@pytest.mark.parametrize("value", [True, [1], {"a": 1}])
def test_ids_are_strings_or_numbers(tmp_path, value):
    write_lines(tmp_path / "corpus.jsonl", [{"id": value, "text": "a"}])
    with pytest.raises(UserError, match=r"corpus.jsonl:1: id: found .*; expected a string or a number"):
        list(Documents(tmp_path, "corpus"))


def test_the_digest_is_that_of_ids_and_texts(tmp_path):
    one, other = [("a", "x"), ("b", "y")], [("a", "x"), ("b", "z")]
    contents = scan(one, "--corpus")
    assert contents.ids == ("a", "b") and contents.digest == scan(iter(one), "--corpus").digest
    assert len({contents.digest, scan(other, "").digest, scan([("ab", ""), ("c", "xy")], "").digest}) == 3


def test_mistakes(tmp_path):
    for name, content, message in (
        ("none.txt", "\n\n", "--corpus: empty; expected one text a line or more"),
        ("none.csv", "id,text\n", "--corpus: no row under its header; expected one or more"),
        ("none.jsonl", "", "--corpus: empty; expected one object a line or more"),
        ("twice.jsonl", '{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n{"id": "1", "text": "c"}\n',
         "--corpus: id '1' of record 1 and of record 3; expected each once"),
        ("tab.jsonl", '{"id": "a\\tb", "text": "a"}\n', "tab.jsonl:1: id 'a\\\\tb': holds a tab or a line end"),
        ("no_text.jsonl", '{"id": 1, "body": "a"}\n', "no_text.jsonl:1: no `text` string"),
        ("no_text.csv", "id,body\n1,a\n", "no_text.csv: no column 'text'; found id, body"),
        ("x.pdf", "", "--corpus=.*x.pdf: unknown kind of file; expected a name in .txt, .jsonl, .csv, .tsv, .parquet$"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message):
            scan(Documents(tmp_path / name, "corpus"), "--corpus")
    with pytest.raises(UserError, match=r"--queries=.*: a folder without queries.jsonl"):
        Documents(tmp_path, "queries")
    with pytest.raises(UserError, match=r"--corpus=.*absent.txt: no such file"):
        Documents(tmp_path / "absent.txt", "corpus")
    (tmp_path / "ids.jsonl").write_text('{"key": 1, "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match="ids.jsonl:2: no 'key'; found text; expected an id"):
        scan(Documents(tmp_path / "ids.jsonl", "corpus", id_column="key"), "--corpus")
