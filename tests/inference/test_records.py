"""Files of examples and answers: lines, objects, and errors by line number."""

import gzip
import json

import numpy as np
import pytest

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.inference import records


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def read(path, fields=("text",), optional=0):
    return list(records.Records(path, fields, optional))


def test_lines_of_text(tmp_path):
    lines = b"\xef\xbb\xbfone\r\ntw\xe2\x80\xa8o \rx\nthree"
    for name in ("a.txt", "a.txt.gz"):
        source = records.Records(write(tmp_path / name, lines), ("text",))
        assert list(source) == list(source) == [("one",), ("tw\u2028o \rx",), ("three",)]
        assert source.where(2).endswith(f"{name}:3")
    assert read(write(tmp_path / "empty.txt", b"")) == []


def test_objects(tmp_path):
    rows = [{"text": "é", "other": 1}, {"text": "b", "text_pair": "c"}, {"text": "d", "text_pair": None}]
    for name in ("a.jsonl", "a.jsonl.gz"):
        path = write(tmp_path / name, "\n".join(map(json.dumps, rows)).encode())
        assert read(path, ("text", "text_pair"), 1) == [("é",), ("b", "c"), ("d",)]
        assert read(path) == [("é",), ("b",), ("d",)]
    asked = write(tmp_path / "b.jsonl", b'{"context": "x", "question": "y"}\n')
    assert read(asked, ("question", "context")) == [("y", "x")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\n\nthree\n", "a.txt:2: empty; expected text"),
        ("a.txt", b"one\n \t\n", r"a.txt:2: empty \(only white space\); expected text"),
        ("a.txt", b"one\nb\xff\n", "a.txt:2: not UTF-8 at byte 1 of the line; expected UTF-8 text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl:2: not JSON .* expected an object with `text`"),
        ("a.jsonl", b'{"text": "a"}\n\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: a JSON list in '\[1\]'; expected an object with `text`"),
        ("a.jsonl", b'{"txet": "a"}\n', "a.jsonl:1: no `text` string in .*; expected an object with `text`"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: no `text` string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: half a surrogate pair at character 0"),
        ("a.jsonl", b'{"text": ""}\n', "a.jsonl:1: empty"),
        ("a.csv", b"text\n", "a.csv: unknown kind of file; expected a name in .txt, .txt.gz, .jsonl, .jsonl.gz"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / name, content))


def test_pairs_and_damaged_files(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "text_pair": 3}\n')
    with pytest.raises(UserError, match="a.jsonl:1: text_pair: found int; expected a string"):
        read(path, ("text", "text_pair"), 1)
    with pytest.raises(UserError, match="one text a line; expected .jsonl with `question` and `context`"):
        read(write(tmp_path / "a.txt", b"x\n"), ("question", "context"))
    whole = gzip.compress(b"one\n" * 100_000)
    (tmp_path / "a.txt.gz").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"a.txt.gz:\d+: cannot be read: .*; expected a whole file"):
        read(tmp_path / "a.txt.gz")
    with pytest.raises(UserError, match="none.txt: no such file"):
        read(tmp_path / "none.txt")


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("older\n")
    with pytest.raises(UserError, match="half-way"), records.line_writer(path) as put:
        put("new")
        raise UserError("half-way")
    assert path.read_text() == "older\n" and list(tmp_path.iterdir()) == [path]
    with records.line_writer(path) as put:
        put(files.json_line({"a": "é"}))
        assert path.read_text() == "older\n"
    assert path.read_text("utf-8") == '{"a": "é"}\n' and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot be written"), records.line_writer(tmp_path / "no" / "out.jsonl"):
        pass


def test_vectors(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with records.vector_writer(tmp_path / "out.npy", 3, 5) as put:
        for vector in vectors:
            put(vector)
    saved = np.load(tmp_path / "out.npy")
    assert saved.dtype == np.float32 and (saved == vectors).all()
    for vector in vectors:
        line = records.vector_line(vector)
        assert (np.array(json.loads(line)["embedding"], np.float32) == vector).all()
        assert len(line) < 90


def test_an_answer_is_one_line_however_lines_are_told_apart():
    answer = {"text": "é\u2028\u2029\x85\x0b\x1c\r\n"}
    line = files.json_line(answer)
    assert len(line.splitlines()) == 1 and json.loads(line) == answer and "é" in line
