"""Files of examples and answers: lines, objects, and errors by line number."""

import gzip
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.inference import records


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def read(path, fields=("text",), optional=0, **options):
    return list(records.Records(path, fields, optional, **options))


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
        with pytest.raises(
            UserError, match="a.jsonl.*:2: found `text` with `text_pair`, of which one text would be rea"
        ):
            read(path)
        assert read(path, columns={"text": "text"}) == [("é",), ("b",), ("d",)]
    asked = write(tmp_path / "b.jsonl", b'{"context": "x", "question": "y"}\n')
    assert read(asked, ("question", "context")) == [("y", "x")]


def test_a_second_text_is_never_left_out_in_silence(tmp_path):
    rows = [{"id": "D1", "text": "a", "label": "good", "context": ""}, {"id": "D2", "text": "b", "context": "c d"}]
    lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    table = write(tmp_path / "a.csv", b"id,text,label,context\nD1,a,good,\nD2,b,bad,c d\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path, place in ((lines, "a.jsonl:2"), (table, "a.csv:3"), (tmp_path / "a.parquet", "a.parquet:2")):
        with pytest.raises(
            UserError, match=f"{place}: found `text` with `context`.*--text_column=text where it is all"
        ):
            read(path)
        assert read(path, columns={"text": "text"}) == [("a",), ("b",)]
        with pytest.raises(
            UserError, match="`context`, but no `text_pair`; .*--text_pair_column=NAME names the second"
        ):
            read(path, ("text", "text_pair"), 1)
        assert read(path, ("text", "text_pair"), 1, columns={"text": "text"}) == [("a",), ("b",)]
        assert read(path, ("text", "text_pair"), 1, columns={"text": "text"}, own=("text",)) == [("a",), ("b",)]
    with pytest.raises(UserError, match="--query_column=text where it is all"):
        read(lines, flag="queries")
    second = write(tmp_path / "b.csv", b"sentence1,sentence2\na b,c d\n")
    with pytest.raises(UserError, match="`sentence2`, but no `text_pair`"):  # it may have been forgotten
        read(second, ("text", "text_pair"), 1, columns={"text": "sentence1"})
    assert read(second, columns={"text": "sentence1"}) == [("a b",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\nb\xff\n", "a.txt:2: not UTF-8: 0xff at byte 1 of the line; expected UTF-8 text"),
        ("a.txt", "one\n".encode("utf-16"), r"a.txt:1: not UTF-8: 0xff \(UTF-16\?\)"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl:3: not JSON .* expected an object with `text`"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: a JSON list in '\[1\]'; expected an object with `text`"),
        ("a.jsonl", b'{"txet": "a"}\n', "a.jsonl:1: no `text` string in .*; expected an object with `text`"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: no `text` string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: half a surrogate pair at character 0"),
        ("a.csv", b"txet,b\na,b\n", "a.csv: no column 'text'; found txet, b; expected it in the header"),
        ("a.csv", b'text,b\n"a\nb",c\nd\n', "a.csv:4: found 1 columns; expected 2"),
        ("a.csv", b'text,b\n"a\nb,c\n', "a.csv:2: not CSV"),
        ("a.xlsx", b"text\n", "a.xlsx: unknown kind of file; expected a name in .txt, .jsonl, .csv, .tsv, .pa"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / name, content))


def test_lines_that_hold_nothing_are_skipped_and_noted(tmp_path):
    for name, content, places in (
        ("a.txt", b"\none\n\n \t\r\nthree\n\n", (2, 5)),
        ("a.jsonl", b'\n{"text": "one"}\n\n\n{"text": "three"}\n\n', (2, 5)),
        ("a.tsv", b"text\tb\none\t1\n\t\n\t\nthree\t\n\t\n", (2, 5)),
    ):
        source = records.Records(write(tmp_path / name, content), ("text",))
        assert not source.notes
        for _ in range(2):
            iterator = iter(source)
            assert next(iterator) == ("one",) and source.where(0).endswith(f"{name}:{places[0]}")
            assert [*iterator] == [("three",)] and source.where(1).endswith(f"{name}:{places[1]}")
        (note,) = source.notes
        assert re.search(r": [34] lines hold nothing and were skipped, the first being line [13]; they have no", note)


def test_empty_texts_are_examples_and_noted(tmp_path):
    path = write(tmp_path / "a.csv", b"label,text_pair,text\n1,b,a\n0,,c\n1,d,\n")
    source = records.Records(path, ("text", "text_pair"), 1)
    assert list(source) == [("a", "b"), ("c", ""), ("", "d")]
    assert source.notes == [
        f"{path}: 2 lines have an empty text, the first at {path}:3; it is read as an empty one, as in fine-tuning"
    ]


def test_tables_of_other_programs(tmp_path):
    for name, content in (
        ("a.csv", b'text;n\n"a;""b""";1\n'), ("b.tsv", b'n\ttext\n1\t"a;""b"""\n'), ("c.csv.gz", b'text\n"a;""b"""\n'),
        ("d.tsv", b'text\tn\na;"b"\t1\n'),
    ):  # fmt: skip
        assert read(write(tmp_path / name, content)) == [('a;"b"',)]
    pairs = write(tmp_path / "e.csv", b"question,context\na,b\n")
    assert read(pairs, ("question", "context")) == [("a", "b")]
    assert read(write(tmp_path / "table", b"text\na\n"), ("text",), kind="csv") == [("a",)]


def test_fields_by_other_names(tmp_path):
    columns = {"text": "review", "text_pair": "title"}
    path = write(tmp_path / "a.csv", b"title,text,review\nb,x,a\n")
    assert read(path, ("text", "text_pair"), 1, columns=columns) == [("a", "b")]
    path = write(tmp_path / "a.jsonl", b'{"review": "a", "text": "x"}\n{"review": ["a", "b"]}\n')
    assert read(path, words=True, columns=columns) == [("a",), (["a", "b"],)]
    with pytest.raises(UserError, match="a.jsonl:1: no `title` string .*; expected an object with `title`"):
        read(path, columns={"text": "title"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,heading\na,b\n", "a.csv: no column 'headin'; found text, heading; did you mean heading?"),
        ("a.tsv", b"text\tx\na\tb\n", "a.tsv: no column 'headin'; found text, x"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b", "heading": "c"}\n',
            "a.jsonl: no column 'headin'; found text, heading",
        ),
        ("a.txt", b"a\nb\n", "one text a line, which has no column 'headin'; expected a table or JSONL"),
    ],
)
def test_a_column_that_was_named_must_be_one(tmp_path, name, content, message):
    """A pair whose second column is mistyped is no single text."""
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=re.escape(message)):
        read(path, ("text", "text_pair"), 1, columns={"text_pair": "headin"})
    assert read(path, ("text", "text_pair"), 1)[0][0] == "a"
    if name == "a.jsonl":
        assert read(path, ("text", "text_pair"), 1, columns={"text_pair": "heading"}) == [("a",), ("b", "c")]


def test_lists_of_words(tmp_path):
    rows = [{"words": ["a", "b."]}, {"tokens": ["c"]}, {"text": ["d", ""]}, {"text": "e f"}, {"words": []}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert read(path, words=True) == [(["a", "b."],), (["c"],), (["d", ""],), ("e f",), ([],)]
    for row, message in (
        ({"words": ["a", 1]}, r"a.jsonl:1: found \['a', 1\]; expected a list of words"),
        ({"words": ["\ud800"]}, "a.jsonl:1, word 1: half a surrogate pair"),
        ({"word": ["a"]}, "no `text` string .*, or with a list of words as `words`"),
    ):
        with pytest.raises(UserError, match=message):
            read(write(path, json.dumps(row).encode()), words=True)
    with pytest.raises(UserError, match="no `text` string"):
        read(write(path, b'{"words": ["a"]}'))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a\n\nb\n", ""),
        (b'{"text": "a"}\n{"text": "b"}', ""),
        (b"text\na\nb", "csv"),
        (b"id;text\n1;a\n2;b", ""),
        (b"\xef\xbb\xbftext,id\r\na,1\r\nb,2\r\n", ""),
        (b"id\ttext\n1\ta\n2\tb\n", ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_pipes_are_read_once_and_may_be_iterated_again(tmp_path, content, kind, packed):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["dd", f"of={pipe}", "status=none"], stdin=subprocess.PIPE) as writer:
        writer.stdin.write(gzip.compress(content) if packed else content)
        writer.stdin.close()
        source = records.Records(pipe, ("text",), kind=kind)
    assert list(source) == list(source) == [("a",), ("b",)]
    assert source.where(1) == f"{pipe}:{2 if content[:1] == b'{' else 3}"


@pytest.mark.parametrize("content", [b"text\nb", b"a text, an id\nb", b"id,label\n1,b", b"text,text\na,b"])
def test_lines_without_a_header_are_texts(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert len(list(records.Records("-", ("text",)))) == 2


def stream(monkeypatch, content, fields=("text",), **options):
    """Returns the records of standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return records.Records("-", fields, **options)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"review\na b\nc\n", "csv"), (b'"review"\r\n"a b"\r\n"c"\r\n', "csv"),
        (b"\xef\xbb\xbfreview\na b\nc\n", "csv"),
        (b"id;review\n1;a b\n2;c\n", "csv"), (b"id\treview\n1\ta b\n2\tc\n", "tsv"),
        (b"id,review,text\n1,a b,x\n2,c,x\n", "csv"), (b'{"review": "a b"}\n{"review": "c"}\n', "jsonl"),
    ],
)  # fmt: skip
def test_a_named_column_makes_standard_input_a_table(monkeypatch, content, kind, pack):
    source = stream(monkeypatch, pack(content), columns={"text": "review"})
    assert source.kind == kind and list(source) == list(source) == [("a b",), ("c",)] and not source.notes
    assert [row["review"] for row in source.rows()] == ["a b", "c"]


def test_a_named_column_that_standard_input_lacks_is_told(monkeypatch):
    for content, found in ((b"A text.\nb", "A text."), (b"id,body\n1,a", "id, body")):
        with pytest.raises(
            UserError, match=f"standard input: no column 'review'; found {found}; expected it in the header"
        ):
            list(stream(monkeypatch, content, columns={"text": "review"}))
    assert list(stream(monkeypatch, b"", columns={"text": "review"})) == []
    second = stream(
        monkeypatch, b"text,title\na,b\n", ("text", "text_pair"), optional=1, columns={"text_pair": "title"}
    )
    assert list(second) == [("a", "b")]


@pytest.mark.parametrize(("content", "kind"), [(b"text\na b\n", "csv"), (b"text\tno\na b\t1\n", "tsv")])
def test_a_column_of_ids_makes_standard_input_a_table(monkeypatch, content, kind):
    source = stream(monkeypatch, content, has_columns=True)
    assert source.kind == kind and list(source) == [("a b",)]


HEADERS = [
    (b"review\na fine film\nso bad, so long\n", "csv"), (b'"review"\n"a fine film"\n"so bad"\n', "csv"),
    (b"Review\r\na fine film\r\n", "csv"), (b"text\nb\n", "csv"), (b"Sentence\nb\nc d\n", "csv"),
    (b"id,label\n1,b\n", "csv"), (b"stars;Review text\n5;a fine film\n", "csv"),
    (b"id\tbody\n1\ta fine film\n", "tsv"),
    (b'stars,body\n5,"good, so good"\n', "csv"), (b"\n\nreview\na fine film\n", "csv"), (b"kritik\nb\n", "csv"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "kind"), HEADERS)
def test_texts_whose_first_may_be_a_header_are_told(monkeypatch, content, kind):
    source = stream(monkeypatch, content, ("text", "text_pair"), optional=1, own=("kritik",))
    examples = list(source)
    assert source.kind == "txt" and len(examples) == content.strip().count(b"\n") + 1
    assert [note for note in source.notes if "hold nothing" not in note] == [
        f"standard input: read as one text a line, the first of which is {examples[0][0]!r}; if that is the header of "
        f"a table, --input_format={kind} reads it as one, and --text_column=NAME reads its column NAME"
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert records.Records("-", ("text",), kind="txt").notes == []
    queries = stream(monkeypatch, content, flag="queries")
    assert "table, --query_column=NAME reads" in queries.notes[0] if b"kritik" not in content else not queries.notes


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text\n", b"A fine film.\nSo bad.\n", b"Hello\nHow are you?\nFine\n", b"cat\ndog\n",
        b"Yes, sir\nNo, sir\n", b"yes,no\na fine film\n", b"What?\nA fine film.\n", b"1,2\n3,4\n",
        b"Good.\nSo good.\n", b"a fine film\nb c\n",
        b"a, b\nc, d\n",
    ],
)  # fmt: skip
def test_texts_that_begin_as_no_header_are_read_without_a_note(monkeypatch, content):
    source = stream(monkeypatch, content)
    assert source.kind == "txt" and source.notes == [] and len(list(source)) == content.count(b"\n")


def test_columns_that_a_model_was_trained_on_make_a_header(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Nr.;Satz\n1;a\n")))
    assert list(records.Records("-", ("text", "text_pair"), optional=1, own=("Satz",))) == [("a",)]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb")))
    source = records.Records("-", ("text",))
    assert list(source) == list(source) == [("a",), ("b",)] and source.where(1) == "standard input:2"


def test_pairs_and_damaged_files(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "text_pair": 3}\n')
    with pytest.raises(UserError, match="a.jsonl:1: text_pair: found int; expected a string"):
        read(path, ("text", "text_pair"), 1)
    with pytest.raises(UserError, match="one text a line; expected .jsonl or .csv with `question` and `context`"):
        read(write(tmp_path / "a.txt", b"x\n"), ("question", "context"))
    whole = gzip.compress(b"one\n" * 100_000)
    (tmp_path / "a.txt.gz").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"a.txt.gz: truncated or damaged .gz .*; expected a whole file"):
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


FAILING = """
import io, shutil, sys, types
from bert_jax.inference import records
if sys.argv[1] == "full":
    def fail(source, target):
        target.write(b"left in the buffer")
        raise OSError(28, "No space left on device")
    shutil.copyfileobj = fail
list(records.Records("-", ("text",), kind="csv"))
"""


@pytest.mark.parametrize("failure", ["full", "quote"])
def test_what_standard_input_was_written_to_is_removed_where_an_error_ends_the_program(failure, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FAILING, failure], input=b'text\na\n"b\n', capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1 and b"UserError: standard input" in done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from bert_jax.inference import records
file = records.Records("-", ("text",))
print(list(file), list(file), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files without a name that open again")
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_leaves_nothing_where_the_program_is_killed(pack, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED], input=pack(b"a\nb\n"), capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=100,
    )  # fmt: skip
    assert done.stdout.strip() == b"[('a',), ('b',)] [('a',), ('b',)]", done.stderr
    assert list(tmp_path.iterdir()) == []
