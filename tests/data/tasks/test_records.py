"""Labelled data of every kind of file gives the same records; what is wrong is named with file and line."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.config import finetuning as finetune_config
from bert_jax.data.tasks import records
from bert_jax.errors import UserError
from tests.data.tasks.conftest import config

ROWS = [("one, two", "a\u2028b", "yes"), ('say "three"', "  ", "no"), ("four", "five", "yes")]


def write(folder):
    """Writes the same rows in every kind of file."""
    header = ("text", "other", "label")
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row) for row in (header, *ROWS)]
    (folder / "a.csv").write_text("\r\n".join(quoted), "utf-8", newline="")
    (folder / "a.tsv").write_text("\ufeff" + "".join("\t".join(row) + "\n" for row in (header, *ROWS)), "utf-8")
    objects = [dict(zip(header, row, strict=True)) for row in ROWS]
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in objects), "utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(objects), folder / "a.parquet")
    for kind in ("csv", "tsv", "jsonl"):
        (folder / f"b.{kind}.gz").write_bytes(gzip.compress((folder / f"a.{kind}").read_bytes()))


def read(spec, wanted=("text", "other", "label"), optional=(), **task):
    return records.read(str(spec), "config.task.train", config(**task).task, wanted, optional)


def as_rows(table):
    return list(zip(*table.columns.values(), strict=True))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "b.csv.gz", "b.tsv.gz", "b.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    write(tmp_path)
    table = read(tmp_path / name)
    assert as_rows(table) == ROWS
    assert len(table.take(np.array([2, 0]))) == 2
    first = "row 1" if "parquet" in name else "line 1" if "jsonl" in name else "line 2"
    assert table.where(0) == f"{tmp_path}/{name} {first}"


def test_globs_and_several_files(tmp_path):
    write(tmp_path)
    table = read(f"{tmp_path}/*.csv*,{tmp_path}/a.jsonl", optional=("absent",))
    assert as_rows(table) == [*ROWS] * 3
    assert "absent" not in table.columns
    assert table.where(4) == f"{tmp_path}/b.csv.gz line 3"
    assert table.where(8) == f"{tmp_path}/a.jsonl line 5"


def test_other_columns_are_kept_with_their_types(tmp_path):
    rows = [{"id": i, "text": f"t{i}", "label": "x", "meta": {"a": [i, None]}, "when": None} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name, end in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [["id", "text", "label", "note"], *([str(i), f"t{i}", "x", ""] for i in range(3))]
        (tmp_path / name).write_text("".join(end.join(line) + "\n" for line in lines))

    def others(spec, keep=True):
        return records.read(str(spec), "config.task.held_out", config().task, ("text", "label"), keep=keep).others

    expected = [{name: row[name] for name in ("id", "meta", "when")} for row in rows]
    assert others(tmp_path / "a.jsonl") == others(tmp_path / "a.parquet") == expected
    assert others(tmp_path / "a.csv") == others(tmp_path / "a.tsv") == [{"id": str(i), "note": ""} for i in range(3)]
    assert list(others(tmp_path / "a.csv")[0]) == ["id", "note"]
    assert others(f"{tmp_path}/a.jsonl,{tmp_path}/a.parquet") == [*expected, *expected]
    assert not others(tmp_path / "a.jsonl", keep=False)
    settings = config(train=str(tmp_path / "a.jsonl"), held_out_share=0.4)
    train, held_out, _ = records.splits(settings, ("text",), ("label",))
    assert not train.others and [row["id"] for row in held_out[""].others] == [
        int(text[1:]) for text in held_out[""].columns["text"]
    ]


def test_names_beside_an_answer():
    assert records.output_names(("id", "label", "input_label"), ("label", "score")) == {
        "id": "id", "label": "input_input_label", "input_label": "input_label"
    }  # fmt: skip


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].csv").write_text("text,label\na,1\n")
    assert as_rows(read(tmp_path / "a[1].csv", ("text", "label"))) == [("a", "1")]


def test_quoted_line_ends_count_as_lines(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines",1\n\nx,2\n')
    table = read(tmp_path / "a.csv", ("text", "label"))
    assert as_rows(table) == [("two\nlines", "1"), ("x", "2")]
    assert [table.where(i).split()[-1] for i in range(2)] == ["2", "5"]


def test_columns_of_a_file_without_header(tmp_path):
    (tmp_path / "a.tsv").write_text('0\t"quotes stay\n1\tb\n')
    for columns in (("label", "text"), ("label,text",)):  # the second is what --config.task.columns=label,text makes
        table = read(tmp_path / "a.tsv", ("text", "label"), columns=columns)
        assert as_rows(table) == [('"quotes stay', "0"), ("b", "1")]


def test_halves_of_surrogate_pairs_become_replacement_characters(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ["a \\ud800 b \\ud83d\\ude00"], "label": 1}\n')
    assert as_rows(read(tmp_path / "a.jsonl", ("text", "label"))) == [(["a \ufffd b \U0001f600"], 1)]


CONLL = """-DOCSTART- -X- O

# sent_id = 3
EU NNP I-ORG
# NN O
rejects VBZ O

# 1 I-PER
\u00a0 X O


"""


def test_conll_columns(tmp_path):
    (tmp_path / "eng.testa").write_text(CONLL)
    table = read(tmp_path / "eng.testa", ("words",), ("tags",), name="token_classification")
    assert table.columns["words"] == [["EU", "#", "rejects"], ["#", "\u00a0"]]
    assert table.columns["tags"] == [["I-ORG", "O", "O"], ["I-PER", "O"]]
    assert table.where(0, 2).endswith("line 6") and table.where(1).endswith("line 8")
    (tmp_path / "tabs.tsv").write_text("# text = New York is\n1\tNew York\tB-LOC\t_\n2\tis\tO\t_")
    task = {"name": "token_classification", "token_column": 1, "label_column": 2}
    table = read(tmp_path / "tabs.tsv", ("words",), ("tags",), **task)
    assert as_rows(table) == [(["New York", "is"], ["B-LOC", "O"])]
    (tmp_path / "words").write_text("EU\nrejects\n")
    table = read(tmp_path / "words", ("words",), ("tags",), name="token_classification")
    assert as_rows(table) == [(["EU", "rejects"],)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"body,label\nx,1\n", r"a\.csv: no column 'text'; found body, label; expected it in the header"),
        ("a.csv", b"text,label\nx\n", r"a\.csv line 2: found 1 columns; expected 2"),
        ("a.csv", b'text,label\n"x,1\n', r"a\.csv line 2: not CSV \(unexpected end of data\)"),
        ("a.csv", b"text,label\n", r"a\.csv: found no record"),
        ("a.tsv", b"", r"a\.tsv: found no record"),
        ("a.tsv", b"text\tlabel\nx\t1\n\xe9\t1\n", r"a\.tsv line 3: not UTF-8: 0xe9"),
        ("a.tsv", "text\tlabel\nx\t1\n".encode("utf-16"), r"a\.tsv line 1: not UTF-8: 0xff \(UTF-16\?\)"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', r"a\.jsonl line 2: not JSON \(Expecting value"),
        ("a.jsonl", b"[\n]", r"a\.jsonl line 1: not JSON .*is it a list\? expected one object a line"),
        ("a.jsonl", b"3\n", r"a\.jsonl line 1: a JSON int; expected an object"),
        ("a.jsonl", b'\n{"body": "x", "label": 1}\n', r"a\.jsonl line 2: no field 'text'; found body, label"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a whole Parquet file"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 9, mtime=0)[:-9], r"a\.csv\.gz: truncated or damaged \.gz"),
        ("a.csv.gz", b"text,label\nx,1\n", r"a\.csv\.gz: Not a gzipped file"),
        ("a.xlsx", b"PK", r"a\.xlsx: unknown kind of file for sequence_classification; expected \.csv, \.json"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name, ("text", "label"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU NNP O\nrejects O\n", r"line 2: found 2 columns in 'rejects O'; expected 3 as in line 1"),
        ("EU NNP O\n\na b c d\n", r"line 3: found 4 columns"),
        ("EU O\n", r"line 1: found 2 columns; expected one for config\.task\.label_column=2"),
    ],
)
def test_bad_conll_lines_are_named(tmp_path, content, message):
    (tmp_path / "a.conll").write_text(content)
    task = {"label_column": 2} if "label_column" in message else {}
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.conll", ("words",), ("tags",), name="token_classification", **task)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}/no.csv", "no such file"),
        ("{}", "it is a folder"),
        (" , ", "config.task.train: empty"),
        ("tfds:glue", "expected tfds:NAME"),
        ("tfds:no_such_dataset:train", "config.task.train=tfds:no_such_dataset: no dataset of this name"),
    ],
)
def test_specs_that_name_nothing(tmp_path, spec, message):
    with pytest.raises(UserError, match=message):
        read(spec.format(tmp_path), data_dir=str(tmp_path))


def test_half_of_train_is_held_out_by_groups(tmp_path):
    rows = "".join(f"{i // 3}\t{i}\n" for i in range(60))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + rows)
    settings = config(train=tmp_path / "a.tsv", held_out_share=0.25)
    train, held_out, test = records.splits(settings, ("text",), ("label",), together="text")
    assert (len(train), len(held_out[""]), test) == (45, 15, None)
    assert not set(train.columns["text"]) & set(held_out[""].columns["text"])
    settings.task.held_out_share = 0.001
    with pytest.raises(UserError, match="leaves none on one side"):
        records.splits(settings, ("text",), ("label",))


TFDS = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

text, sequence = tfds.features.Text(), tfds.features.Sequence
LABEL = tfds.features.ClassLabel(names=["not_equivalent", "equivalent"])
GLUE = {"sentence1": text, "sentence2": text, "label": LABEL, "idx": np.int32}
NER = {"tokens": sequence(text), "ner": sequence(tfds.features.ClassLabel(names=["O", "B-PER", "I-PER"]))}
SQUAD = {"id": text, "context": text, "question": text, "answers": sequence({"text": text, "answer_start": np.int32})}

def builder(dataset, features, splits):
    class Tiny(tfds.core.GeneratorBasedBuilder):
        name = dataset
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="tiny")]
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}
        def _generate_examples(self, examples):
            raise NotImplementedError
    return Tiny

flags.FLAGS.mark_as_parsed()
pair = lambda i, label: {"sentence1": f"a {i}", "sentence2": "\u00e9", "label": label, "idx": i}
question = {"context": "a b", "question": "q", "answers": {"text": ["b"], "answer_start": [2]}}
for name, features, splits in (
    ("my_glue", GLUE, {"train": [pair(i, i % 2) for i in range(6)], "test": [pair(i, -1) for i in range(2)]}),
    ("my_ner", NER, {"train": [{"tokens": ["ab", "c"], "ner": [1, 0]}, {"tokens": ["d"], "ner": [0]}]}),
    ("my_squad", SQUAD, {"train": [question | {"id": str(i)} for i in (1, 2)]}),
):
    builder(name, features, splits)(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def test_tfds(tmp_path, load):
    subprocess.run([sys.executable, "-c", TFDS, str(tmp_path)], check=True, capture_output=True)
    settings = {"data_dir": str(tmp_path), "held_out_share": 0.5}
    splits = {"held_out": "tfds:my_glue/tiny:train[:50%]", "test": "tfds:my_glue/tiny:test"}
    glue = load(train="tfds:my_glue/tiny:train", text="sentence1", text_pair="sentence2", **splits, **settings)
    assert glue.labels == ("not_equivalent", "equivalent")
    assert sorted(glue.train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert (len(glue.held_out[""].lengths), glue.test.labelled) == (3, False)
    rows = list(glue.predictions(glue.test, [np.zeros(2)] * 2))
    assert {row["text"] for row in rows} == {"a 0", "a 1"}
    assert rows[0]["text_pair"] == "\u00e9" and "gold" not in rows[0]

    ner = load("token_classification", train="tfds:my_ner/tiny:train", text="tokens", label="ner", **settings)
    assert ner.labels == ("O", "B-PER", "I-PER")

    both = dict.fromkeys(("train", "held_out"), "tfds:my_squad/tiny:train")
    squad = load("question_answering", length=80, **both, **settings)
    assert [question.answers for question in squad.train.questions] == [(("b", 2),)] * 2

    with pytest.raises(UserError, match="my_glue/tiny:train: no feature 'text'; found .*sentence1"):
        load(train="tfds:my_glue/tiny:train", **settings)


def test_records_are_divided_by_values_of_any_kind(tmp_path):
    rows = [{"text": ["a", i // 2], "label": 1} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = finetune_config.base()
    settings.task.update(train=str(tmp_path / "a.jsonl"), held_out_share=0.2)
    train, held_out, _ = records.splits(settings, ("text",), ("label",), together="text")
    apart = [{tuple(text) for text in table.columns["text"]} for table in (train, held_out[""])]
    assert len(held_out[""]) == 4 and not apart[0] & apart[1]
