"""Formats of the output: what came in with a record comes back, in its order and with its types."""

import ast
import csv
import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.data.tasks import text_files
from bert_jax.errors import UserError
from bert_jax.inference import records, tables
from tests.commands import ROOT

CLASSES = tables.Answers("classify", ("x", "y|z"))
ANSWER = {"label": "x", "score": 0.75, "scores": {"x": 0.75, "y|z": 0.25}}


def source_of(path, content, **options):
    path.write_text(content, "utf-8")
    source = records.Records(path, options.pop("fields", ("text",)), **options)
    return source, list(source)


def written(folder, name, source, form=CLASSES, answers=None, **options):
    output = str(folder / name)
    examples = list(source)
    answers = [ANSWER] * len(examples) if answers is None else answers
    tables.write(output, tables.kind_of(output, form.verb), source, answers, form, **options)
    return folder / name


def test_objects_come_back_whole(tmp_path):
    rows = [
        {"id": 7, "text": "é", "score": None, "meta": {"a": [1, 2.0, None]}, "ok": True},
        {"z": 1e300, "text": "b", "input_score": "x"}, {"text": "c", "big": 2**70},
    ]  # fmt: skip
    source, _ = source_of(tmp_path / "in.jsonl", "".join(json.dumps(row) + "\n\n" for row in rows))
    lines = [json.loads(line) for line in written(tmp_path, "out.jsonl", source).read_text().splitlines()]
    assert [list(line) for line in lines] == [
        [*("id", "text", "input_input_score", "meta", "ok"), *ANSWER], [*("z", "text", "input_score"), *ANSWER],
        ["text", "big", *ANSWER],
    ]  # fmt: skip
    assert lines[0] == {"id": 7, "text": "é", "input_input_score": None, "meta": rows[0]["meta"], "ok": True} | ANSWER
    assert lines[2]["big"] == 2**70 and type(lines[0]["ok"]) is bool and type(lines[0]["meta"]["a"][1]) is float
    with gzip.open(written(tmp_path, "out.jsonl.gz", source, keep=False), "rt") as file:
        assert [json.loads(line) for line in file] == [ANSWER] * 3
    assert tables.notes(source, CLASSES) == [
        f"{tmp_path}/in.jsonl: its column 'score' comes back as 'input_input_score', as 'score' is the prediction"
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_cells_are_read_back_as_they_were(tmp_path, ending):
    """The project itself, and Python's csv, read the input's cells from the output."""
    rows = [["1", 'a "b", c\td', ""], ["02", "e\nf", "null"], ["", "g", "3.10"]]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text", "x,y"], *rows])
    source = records.Records(tmp_path / "in.csv", ("text",))
    path = written(tmp_path, f"out.{ending}", source)
    layout = text_files.layout(path, ending[:3], ("text",))
    assert layout.columns == ("id", "text", "x,y", "label", "score", "scores.x", "scores.y|z")
    read = [row for _, row in text_files.rows(path, layout)]
    assert [row[:3] for row in read] == rows and {tuple(row[3:]) for row in read} == {("x", "0.75", "0.75", "0.25")}


def test_lines_of_text_come_back_in_tables(tmp_path):
    source, _ = source_of(tmp_path / "in.txt", "a\n\nb\n")
    rows = list(csv.reader(written(tmp_path, "out.csv", source).open(newline="")))
    assert rows[0][:2] == ["text", "label"] and [row[0] for row in rows[1:]] == ["a", "b"]
    assert json.loads(written(tmp_path, "out.jsonl", source).read_text().splitlines()[0]) == ANSWER
    assert pyarrow.parquet.read_table(written(tmp_path, "out.parquet", source))["text"].to_pylist() == ["a", "b"]


def test_objects_become_a_parquet_file_with_their_types(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "AT_ONCE", 2)
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": None}, {"text": "c", "n": 2.5, "more": ["x"]}, {"text": "d"}]
    source, _ = source_of(tmp_path / "in.jsonl", "\n".join(map(json.dumps, rows)))
    table = pyarrow.parquet.read_table(written(tmp_path, "out.parquet", source))
    assert table.column_names == ["text", "n", "more", "label", "score", "scores"]
    assert table["n"].to_pylist() == [1.0, None, 2.5, None] and table["more"].to_pylist() == [None, None, ["x"], None]
    assert table["scores"].to_pylist() == [ANSWER["scores"]] * 4
    for values in ([1, "x"], [{}], [2**70]):
        content = "\n".join(json.dumps({"text": "a", "n": value}) for value in values)
        source, _ = source_of(tmp_path / "in.jsonl", content)
        with pytest.raises(UserError, match="out.parquet: .*(has no type in Parquet|cannot be written)"):
            written(tmp_path, "out.parquet", source)
    assert table.equals(pyarrow.parquet.read_table(tmp_path / "out.parquet"))


def test_a_parquet_file_becomes_lines(tmp_path):
    table = pyarrow.table({
        "text": ["a", "b"], "at": pyarrow.array([1, 2_000_000_001], pyarrow.timestamp("ns")),
        "b": [b"x", b"\xff"], "f": [float("nan"), 1.5], "d": pyarrow.array([1, None], pyarrow.date32()),
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    source = records.Records(tmp_path / "in.parquet", ("text",))
    assert list(source) == [("a",), ("b",)] and source.where(1).endswith("in.parquet:2")
    first, second = (json.loads(line) for line in written(tmp_path, "out.jsonl", source).read_text().splitlines())
    assert first == {
        "text": "a", "at": "1970-01-01 00:00:00.000000001", "b": "eA==", "f": None, "d": "1970-01-02"
    } | ANSWER  # fmt: skip
    assert second["b"] == "/w==" and second["d"] is None
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="in.parquet:2: no `text` string in .*; expected an object with `text`"):
        list(records.Records(tmp_path / "in.parquet", ("text",)))
    (tmp_path / "in.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="in.parquet: not a whole Parquet file"):
        list(records.Records(tmp_path / "in.parquet", ("text",)))


def test_answers_of_every_verb(tmp_path):
    entity = {"label": "PER", "start": 0, "end": 1, "text": "a", "score": 0.5}
    mask = [{"token": "cat", "id": 3, "score": 0.5}, {"token": "dog", "id": 4, "score": 0.25}]
    vector = np.array([0.1, 1e-8, 3], np.float32)
    for form, answer, cells, line in (
        (tables.Answers("fill-mask"), {"masks": [mask, mask]}, [json.dumps([mask, mask])], "cat cat"),
        (tables.Answers("tag"), {"entities": [entity]}, [json.dumps([entity])], None),
        (
            tables.Answers("tag", words=True), {"words": ["a"], "tags": ["B-PER"], "entities": [entity]},
            ['["a"]', '["B-PER"]', json.dumps([entity])], None,
        ),
        (tables.Answers("answer"), {"answer": "a\nb", "start": 0, "end": 3, "score": 0.5},
         ["a\nb", "0", "3", "0.5"], "a b"),
        (tables.Answers("answer"), {"answer": "", "start": None, "end": None, "score": 0.5}, ["", "", "", "0.5"], ""),
        (tables.Answers("classify", ("x", "y"), "texts"),
         {"label": ["y", "x"], "score": 0.5, "scores": {"x": 0.5, "y": 0.5}}, ["y|x", "0.5", "0.5", "0.5"], "y|x"),
        (tables.Answers("classify", ("x",), "none"), {"label": None, "score": 2.5, "scores": {"x": 2.5}},
         ["", "2.5", "2.5"], "2.5"),
        (tables.Answers("embed"), vector, ["[0.1, 1e-08, 3.0]"], None),
    ):  # fmt: skip
        source, _ = source_of(tmp_path / "in.jsonl", '{"id": 1, "text": "a"}\n')
        rows = list(csv.reader(written(tmp_path, "out.csv", source, form, [answer]).open(newline="")))
        assert rows == [["id", "text", *form.columns], ["1", "a", *cells]]
        table = pyarrow.parquet.read_table(written(tmp_path, "out.parquet", source, form, [answer]))
        given = {"id": 1, "text": "a"}
        expected = given | ({"embedding": vector.tolist()} if form.verb == "embed" else answer)
        assert table.to_pylist() == [expected]
        lines = written(tmp_path, "out.jsonl", source, form, [answer]).read_text()
        assert json.loads(lines) == given | ({"embedding": [0.1, 1e-8, 3]} if form.verb == "embed" else answer)
        if line is not None:
            assert written(tmp_path, "out.txt", source, form, [answer]).read_text() == f"{line}\n"


def test_halves_of_surrogate_pairs_become_replacement_characters(tmp_path):
    source, _ = source_of(tmp_path / "in.jsonl", '{"text": "a", "x\\udc00": ["\\ud800", "\\ud83d\\ude00"]}\n')
    line = json.loads(written(tmp_path, "out.jsonl", source).read_text("utf-8"))
    assert line == {"text": "a", "x\ufffd": ["\ufffd", "\U0001f600"]} | ANSWER
    for name in ("out.csv", "out.tsv", "out.parquet"):
        written(tmp_path, name, source)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").column_names[:2] == ["text", "x\ufffd"]


def test_words_are_not_repeated(tmp_path):
    form = tables.Answers("tag", words=True)
    answer = {"words": ["a"], "tags": ["O"], "entities": []}
    source, _ = source_of(tmp_path / "in.jsonl", '{"words": ["a"], "tags": ["X"], "id": 1}\n', words=True)
    assert json.loads(written(tmp_path, "out.jsonl", source, form, [answer]).read_text()) == {
        "input_tags": ["X"], "id": 1
    } | answer  # fmt: skip


def test_the_model_s_own_columns_are_read(tmp_path):
    own = {"fields": ("text", "text_pair"), "optional": 1, "own": ("premise", "hypothesis")}
    table = pyarrow.table({"premise": ["a"], "hypothesis": ["b"]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    assert list(records.Records(tmp_path / "in.parquet", **own)) == [("a", "b")]
    for name, content in (
        ("a.csv", "label,hypothesis,premise\n1,b,a\n"), ("a.tsv", "premise\thypothesis\na\tb\n"),
        ("a.jsonl", '{"premise": "a", "hypothesis": "b"}\n'), ("b.csv", "text,text_pair\na,b\n"),
    ):  # fmt: skip
        assert source_of(tmp_path / name, content, **own)[1] == [("a", "b")]
    for content in ("premise,label\na,b\n", "text,hypothesis\na,b\n"):
        with pytest.raises(UserError, match="no column 'text'|expected `text` and `text_pair` or `premise` and `hyp"):
            source_of(tmp_path / "c.csv", content, **own)


def test_the_flags_of_predict_know_the_kinds_of_file():
    """The command's own names are read from its source: to import it would define its flags in this process."""
    names = {}
    for line in (ROOT / "bert_jax" / "predict.py").read_text("utf-8").splitlines():
        name, _, value = line.partition(" = ")
        if name in ("INPUT_KINDS", "OUTPUT_KINDS"):
            names[name] = ast.literal_eval(value)
    assert names == {"INPUT_KINDS": records.KINDS, "OUTPUT_KINDS": tables.KINDS}
