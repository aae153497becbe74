"""The command, each verb of it on files: order, every line, formats, and mistakes in one line."""

import csv
import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import bert_jax
from bert_jax.data.vocabularies import hugging_face
from bert_jax.interop import huggingface
from bert_jax.model import Task
from tests.commands import run_lines
from tests.inference.conftest import VOCABULARY, make_model, texts

TASKS = {
    "classify": Task("sequence_classification", 3),
    "tag": Task("token_classification", 5),
    "answer": Task("question_answering", 2),
}
LABELS = {
    "classify": ("bad", "good", "so so"),
    "tag": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "answer": ("start", "end"),
}
CLASSES = {"classify": bert_jax.Classifier, "tag": bert_jax.TokenTagger, "answer": bert_jax.QuestionAnswerer}
ASKED = texts(40, seed=9, most=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face directory for each verb, and inputs."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = hugging_face.wordpiece(VOCABULARY, True, "test")
    for verb, task in TASKS.items():
        model = make_model(tokenizer, task, LABELS[verb], problem="single_label" * (verb == "classify"))
        huggingface.write(model, folder / verb)
    huggingface.write(make_model(tokenizer), folder / "plain")
    masked = [f"{text} [MASK]" for text in ASKED]
    (folder / "masked.txt").write_text("".join(f"{text}\r\n" for text in masked), newline="")
    with gzip.open(folder / "texts.txt.gz", "wt") as file:
        file.writelines(f"{text}\n" for text in ASKED)
    pairs = [{"text": text} | ({"text_pair": "ab cd"} if i % 3 else {}) for i, text in enumerate(ASKED)]
    asked = [{"question": "ab cd", "context": text} for text in ASKED]
    for name, rows in {"pairs": pairs, "asked": asked}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bad.jsonl").write_text('{"text": "the [MASK]"}\nthe\n')
    (folder / "no_text.jsonl").write_text('{"text": "the [MASK]"}\n{"txet": 1}\n')
    (folder / "blank.txt").write_text("ab\n\ncd\n")
    (folder / "half.csv").write_text("text_pair,text\nab,cd\n,ab\n", "utf-8")
    (folder / "half.jsonl").write_text('{"text": "cd", "text_pair": "ab"}\n{"text": "ab", "text_pair": ""}\n')
    words = [{"words": text.split()} if i % 2 else {"text": text} for i, text in enumerate(ASKED)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    (folder / "nothing.txt").write_text("\n\n")
    (folder / "empty.txt").write_text("")
    (folder / "none.txt").write_text("ab [MASK]\nab\n")
    (folder / "older.jsonl").write_text("older\n")
    for name, content in {"header.csv": "id,text\n", "header.tsv": "text\ttext_pair\n\n", "empty.csv": ""}.items():
        (folder / name).write_text(content)
    (folder / "empty.jsonl").write_text("\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), folder / "no_row.parquet")
    (folder / "corpus" / "tokenizer").mkdir(parents=True)
    (folder / "corpus" / "manifest.json").write_text("{}")
    table = {"id": range(40), "text": [f'{text}, "x"' for text in ASKED], "label": ["good", "bad"] * 20}
    table["when"] = [f"2026-01-01T00:00:00.{i:09d}" for i in range(40)]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
    arrays = {
        "id": pyarrow.array(table["id"], pyarrow.int16()), "text": pyarrow.array(table["text"]),
        "label": pyarrow.array(table["label"]).dictionary_encode(),
        "when": pyarrow.array(table["when"]).cast(pyarrow.timestamp("ns")),
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(arrays), folder / "table.parquet", row_group_size=7)
    return folder


def commands(folder):
    def files(verb, model, source, output, *more):
        return [verb, f"--model={folder / model}", f"--input={folder / source}", f"--output={folder / output}", *more]

    return {
        "fill-mask": files("fill-mask", "plain", "masked.txt", "masks.jsonl", "--top_k=3"),
        "classify": files("classify", "classify", "pairs.jsonl", "labels.jsonl.gz"),
        "tag": files("tag", "tag", "texts.txt.gz", "tags.jsonl"),
        "answer": files("answer", "answer", "asked.jsonl", "answers.jsonl", "--null_threshold=0"),
        "embed": files("embed", "plain", "texts.txt.gz", "vectors.npy", "--pooling=mean,max", "--normalize"),
        "embed lines": files("embed", "plain", "texts.txt.gz", "vectors.jsonl", "--pooling=mean,max", "--normalize"),
        "embed int8": files("embed", "plain", "texts.txt.gz", "int8.npy", "--pooling=mean,max", "--normalize",
                            "--precision=int8", f"--calibration={folder}/vectors.npy"),
        "embed bits": files("embed", "plain", "texts.txt.gz", "bits.parquet", "--pooling=mean,max", "--normalize",
                            "--precision=binary"),
        "embed uint8 lines": files("embed", "plain", "texts.txt.gz", "uint8.jsonl", "--precision=uint8"),
        "typed": ["answer", f"--model={folder}/answer", "--question=ab", "--context=cd ef"],
        "to standard output": files("classify", "classify", "pairs.jsonl", "-")[:-1] + ["--output=-"],
        "to a device": [*files("classify", "classify", "pairs.jsonl", "-")[:-1], "--output=/dev/stdout"],
        "blank": files("embed", "plain", "blank.txt", "blank.npy"),
        "half pairs": files("classify", "classify", "half.csv", "half_of_csv.jsonl"),
        "half pairs in lines": files("classify", "classify", "half.jsonl", "half_of_lines.jsonl"),
        "fields": files("classify", "classify", "asked.jsonl", "fields.jsonl", "--fields=text=context"),
        "column": files("classify", "classify", "asked.jsonl", "column.jsonl", "--text_column=context",
                        "--nokeep_columns"),
        "words": files("tag", "tag", "words.jsonl", "words_out.jsonl"),
        "table csv": files("classify", "classify", "table.csv", "out.csv"),
        "table tsv": files("classify", "classify", "table.csv", "out.tsv"),
        "table parquet": files("classify", "classify", "table.parquet", "out.parquet"),
        "table standard csv": [
            "classify", f"--model={folder}/classify", f"--input={folder}/table.csv", "--output=-", "--output_format=csv"
        ],
        "table txt": files("classify", "classify", "table.parquet", "out.txt"),
        # and mistakes
        "no field": files("fill-mask", "plain", "no_text.jsonl", "older.jsonl"),
        "not json": files("classify", "classify", "bad.jsonl", "older.jsonl"),
        "nothing": files("embed", "plain", "nothing.txt", "older.jsonl"),
        "no mask": files("fill-mask", "plain", "none.txt", "older.jsonl"),
        "empty": files("tag", "tag", "empty.txt", "older.jsonl"),
        "no head": files("classify", "plain", "pairs.jsonl", "older.jsonl"),
        "no file": files("tag", "tag", "absent.txt", "older.jsonl"),
        "txt": files("answer", "answer", "texts.txt.gz", "older.jsonl"),
        "same": files("tag", "tag", "asked.jsonl", "asked.jsonl"),
        "npy": files("tag", "tag", "texts.txt.gz", "out.npy"),
        "folder": files("tag", "tag", "texts.txt.gz", "absent/out.jsonl"),
        "other's flag": files("tag", "tag", "texts.txt.gz", "older.jsonl", "--top_k=3"),
        "fields of another": files("tag", "tag", "asked.jsonl", "older.jsonl", "--fields=question=context"),
        "half": ["tag", f"--model={folder}/tag", f"--input={folder}/texts.txt.gz"],
        "half typed": ["answer", f"--model={folder}/answer", "--question=ab"],
        "top_k": files("fill-mask", "plain", "masked.txt", "older.jsonl", "--top_k=0"),
        "verb": ["guess"],
        "size": files("embed", "plain", "texts.txt.gz", "older.jsonl", "--precision=int8",
                      f"--calibration={folder}/vectors.npy"),
        "calibration of bits": files("embed", "plain", "texts.txt.gz", "older.jsonl", "--precision=binary",
                                     f"--calibration={folder}/vectors.npy"),
        "one text's ranges": ["embed", f"--model={folder}/plain", "--text=ab", "--precision=int8"],
        "precision of tags": files("tag", "tag", "texts.txt.gz", "older.jsonl", "--precision=int8"),
        "xlsx": files("tag", "tag", "texts.txt.gz", "out.xlsx"),
        "json": files("embed", "plain", "texts.txt.gz", "out.json"),
        "json of labels": files("classify", "classify", "texts.txt.gz", "out.JSON"),
        "json.gz": files("tag", "tag", "texts.txt.gz", "out.json.gz"),
        "input json": files("tag", "tag", "absent.json", "older.jsonl"),
        "header": files("tag", "tag", "header.csv", "older.jsonl"),
        "header.tsv": files("classify", "classify", "header.tsv", "older.jsonl"),
        "no row": files("embed", "plain", "no_row.parquet", "older.jsonl"),
        "empty table": files("embed", "plain", "empty.csv", "older.jsonl"),
        "empty jsonl": files("embed", "plain", "empty.jsonl", "older.jsonl"),
        "in a corpus": files("embed", "plain", "texts.txt.gz", "corpus/out.csv"),
        "in a corpus's folder": files("tag", "tag", "texts.txt.gz", "corpus/tokenizer/out.jsonl"),
        "xz": files("tag", "tag", "texts.txt.gz", "out.jsonl.xz"),
        "line of tags": files("tag", "tag", "texts.txt.gz", "out.txt"),
        "parquet.gz": files("tag", "tag", "texts.txt.gz", "out.parquet.gz"),
        "column of another": files("tag", "tag", "texts.txt.gz", "older.jsonl", "--context_column=text"),
        "no parquet column": files("tag", "tag", "table.parquet", "older.jsonl", "--text_column=txt"),
        "no pair's column": files("classify", "classify", "table.csv", "older.jsonl", "--text_pair_column=titel"),
        "column of typed": ["classify", f"--model={folder}/classify", "--text=ab", "--text_column=b"],
        "two columns": files("tag", "tag", "table.csv", "older.jsonl", "--text_column=a", "--fields=text=b"),
    }  # fmt: skip


MISTAKES = {
    "no field": "no_text.jsonl:2: no `text` string",
    "not json": "bad.jsonl:2: not JSON",
    "nothing": "nothing.txt: empty; expected one text a line or more",
    "no mask": "none.txt:2: no [MASK] in 'ab'",
    "empty": "empty.txt: empty; expected one text a line or more",
    "no head": "classify needs a model fine-tuned for sequence classification, but this one has a masked-lang",
    "no file": "absent.txt: no such file",
    "txt": "one text a line; expected .jsonl or .csv with `question` and `context`",
    "same": "asked.jsonl: is --input itself",
    "npy": "only embed writes .npy",
    "folder": "absent/out.jsonl: no such folder",
    "other's flag": "--top_k: not a flag of tag; expected with fill-mask",
    "fields of another": "--fields=question=context: expected FIELD=NAME with a field of text",
    "half": "--input and --output belong together",
    "half typed": "--context: missing",
    "top_k": "top_k: found 0; expected 1 to",
    "xlsx": ".xlsx is not written; expected .jsonl, .csv, .tsv, .parquet, .txt, .npy",
    "json": "out.json: .json is not written; expected .jsonl, .csv, .tsv, .parquet, .txt, .npy",
    "json of labels": ".json is not written; expected .jsonl, .csv",
    "json.gz": "out.json.gz: .json is not written; expected .jsonl",
    "input json": "absent.json: unknown kind of file; expected a name in .txt, .jsonl, .csv, .tsv, .parquet, or --inpu",
    "header": "header.csv: no row under its header; expected one or more",
    "header.tsv": "header.tsv: no row under its header; expected one or more",
    "no row": "no_row.parquet: no row under its header; expected one or more",
    "empty table": "empty.csv: empty; expected a header, and a row or more under it",
    "empty jsonl": "empty.jsonl: empty; expected one object a line or more",
    "in a corpus": "corpus/out.csv: inside a prepared corpus (",
    "in a corpus's folder": "expected a file elsewhere, such as --output=",
    "xz": "out.jsonl.xz: .xz is not written; expected .jsonl",
    "line of tags": "tag has no answer of one line; expected .jsonl, .csv, .tsv or .parquet",
    "parquet.gz": ".parquet is not written as .gz",
    "column of another": "--context_column: not a flag of tag; expected --text_column",
    "no parquet column": "table.parquet: no column 'txt'; found id, text, label, when",
    "no pair's column": "table.csv: no column 'titel'; found id, text",
    "column of typed": "--text_column: does not go with --text; expected with --input and --output",
    "two columns": "--text_column=a: expected --fields=text=b or this",
    "size": "vectors.npy: vectors of 64 numbers; expected 32, as --model's",
    "calibration of bits": "vectors.npy: goes with --precision=int8 or uint8; found binary",
    "one text's ranges": "--precision=int8: one text has no ranges; expected more texts, or --calibration",
    "precision of tags": "--precision: not a flag of tag; expected with embed or search",
    "verb": "guess: expected bert-jax predict fill-mask|classify|tag|answer|embed",
}


@pytest.fixture(scope="module")
def done(folder):
    """name -> (exit code, what it printed, what it said) of each command."""
    return run_lines("predict", commands(folder), "module.run()")


def lines_of(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return [json.loads(line) for line in file]


def assert_alike(actual, expected):
    """Equal but for rounding in the scores."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_alike(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_alike(one, other)
    else:
        assert actual == (pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else expected)


def test_fill_mask(folder, done):
    assert done["fill-mask"][0] == 0
    answers = lines_of(folder / "masks.jsonl")
    assert_alike(answers, bert_jax.FillMask.from_pretrained(folder / "plain")([f"{t} [MASK]" for t in ASKED], top_k=3))
    assert "40/40" not in done["fill-mask"][2], "bars are for terminals"


@pytest.mark.parametrize(
    ("verb", "output", "arguments"),
    [("classify", "labels.jsonl.gz", ()), ("tag", "tags.jsonl", ()), ("answer", "answers.jsonl", (0.0,))],
)
def test_lines_are_the_answers_in_order(folder, done, verb, output, arguments):
    assert done[verb][0] == 0, done[verb]
    predictor = CLASSES[verb].from_pretrained(folder / verb, **dict.fromkeys(["null_threshold"][: len(arguments)], 0.0))
    if verb == "classify":
        expected = [predictor(text, "ab cd" if i % 3 else None) for i, text in enumerate(ASKED[:9])]
    elif verb == "tag":
        expected = predictor(ASKED)
    else:
        expected = predictor(["ab cd"] * len(ASKED), ASKED)
        assert any(answer["start"] is None for answer in expected)
    answers = lines_of(folder / output)
    assert len(answers) == len(ASKED)
    records = {"classify": "pairs.jsonl", "answer": "asked.jsonl"}.get(verb)
    given = lines_of(folder / records) if records else [{}] * len(ASKED)
    expected = [record | answer for record, answer in zip(given, expected, strict=False)]
    assert_alike(answers[: len(expected)], expected)


def test_embed(folder, done):
    assert done["embed"][0] == done["embed lines"][0] == 0
    vectors = np.load(folder / "vectors.npy")
    assert vectors.dtype == np.float32 and vectors.shape == (40, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    lines = lines_of(folder / "vectors.jsonl")
    assert (np.array([line["embedding"] for line in lines], np.float32) == vectors).all()
    embedder = bert_jax.Embedder.from_pretrained(folder / "plain", pooling=["mean", "max"], normalize=True)
    np.testing.assert_allclose(vectors, embedder.encode(ASKED), rtol=1e-4, atol=1e-6)


def test_embed_in_fewer_bits(folder, done):
    vectors = np.load(folder / "vectors.npy")
    assert [done[name][0] for name in ("embed int8", "embed bits", "embed uint8 lines")] == [0, 0, 0], done
    codes = np.load(folder / "int8.npy")
    assert codes.dtype == np.int8
    np.testing.assert_allclose(codes, bert_jax.quantize(vectors, "int8").astype(int), atol=1)
    table = pyarrow.parquet.read_table(folder / "bits.parquet")
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.int8())
    assert table["embedding"].to_pylist() == bert_jax.quantize(vectors, "binary").tolist()
    lines = np.array([line["embedding"] for line in lines_of(folder / "uint8.jsonl")])
    expected = bert_jax.Embedder.from_pretrained(folder / "plain").encode(ASKED, precision="uint8")
    np.testing.assert_allclose(lines, expected.astype(int), atol=1)


def test_on_the_terminal(folder, done):
    code, out, _ = done["typed"]
    assert code == 0
    assert_alike(json.loads(out), bert_jax.QuestionAnswerer.from_pretrained(folder / "answer")("ab", "cd ef"))


@pytest.mark.parametrize("name", ["to standard output", "to a device"])
def test_lines_on_standard_output_are_those_of_a_file(folder, done, name):
    code, out, said = done[name]
    assert code == 0 and not said
    assert_alike([json.loads(line) for line in out.splitlines() if line], lines_of(folder / "labels.jsonl.gz"))


def test_lines_that_hold_nothing_are_skipped_and_empty_seconds_are_read(folder, done):
    code, _, said = done["blank"]
    assert (
        code == 0 and f"note: {folder}/blank.txt: 1 lines hold nothing and were skipped, the first being line 2" in said
    )
    assert np.load(folder / "blank.npy").shape == (2, 32)
    for name, output, line in (
        ("half pairs", "half_of_csv.jsonl", "half.csv:3"),
        ("half pairs in lines", "half_of_lines.jsonl", "half.jsonl:2"),
    ):
        code, _, said = done[name]
        assert code == 0 and f"1 lines have an empty text, the first at {folder}/{line}" in said
        assert len(lines_of(folder / output)) == 2
    assert lines_of(folder / "half_of_csv.jsonl") == lines_of(folder / "half_of_lines.jsonl")


def test_fields_by_other_names(folder, done):
    assert done["fields"][0] == 0 and len(lines_of(folder / "fields.jsonl")) == len(ASKED)
    plain = [{name: line[name] for name in ("label", "score", "scores")} for line in lines_of(folder / "fields.jsonl")]
    assert done["column"][0] == 0, done["column"]
    assert lines_of(folder / "column.jsonl") == plain


def test_a_table_comes_back_with_the_predictions_in_it(folder, done):
    """A CSV's columns and a Parquet file's types come back; a gold label beside the prediction has another name."""
    for name in ("csv", "tsv", "parquet", "standard csv"):
        assert done[f"table {name}"][0] == 0, done[f"table {name}"]
        note = "its column 'label' comes back as 'input_label', as 'label' is the prediction"
        assert note in done[f"table {name}"][2]
    rows = list(csv.DictReader((folder / "out.csv").open(newline="")))
    assert list(rows[0]) == [
        *("id", "text", "input_label", "when"), *("label", "score", "scores.bad", "scores.good", "scores.so so")
    ]  # fmt: skip
    given = list(csv.DictReader((folder / "table.csv").open(newline="")))
    assert [(r["id"], r["text"], r["input_label"], r["when"]) for r in rows] == [tuple(r.values()) for r in given]
    answers = bert_jax.Classifier(folder / "classify")([row["text"] for row in given])
    assert [row["label"] for row in rows] == [answer["label"] for answer in answers]
    assert list(csv.DictReader((folder / "out.tsv").open(newline=""), delimiter="\t")) == rows
    assert done["table standard csv"][1].strip() == (folder / "out.csv").read_text().strip()
    before, after = (pyarrow.parquet.read_table(folder / name) for name in ("table.parquet", "out.parquet"))
    assert after.column_names == ["id", "text", "input_label", "when", "label", "score", "scores"]
    assert [str(f.type) for f in after.schema][:4] == [
        "int16",
        "string",
        "dictionary<values=string, indices=int32, ordered=0>",
        "timestamp[ns]",
    ]
    for name, new in zip(before.column_names, after.column_names, strict=False):
        assert after[new].combine_chunks().equals(before[name].combine_chunks())
    assert after["label"].to_pylist() == [answer["label"] for answer in answers]
    assert (folder / "out.txt").read_text().splitlines() == [answer["label"] for answer in answers]


def test_words_give_tags_and_texts_entities(folder, done):
    assert done["words"][0] == 0, done["words"]
    tagger = bert_jax.TokenTagger.from_pretrained(folder / "tag")
    expected = [tagger(words=text.split()) if i % 2 else {"text": text} | tagger(text) for i, text in enumerate(ASKED)]
    assert_alike(lines_of(folder / "words_out.jsonl"), expected)


def test_a_pipeline(folder):
    command = f'"{sys.executable}" -m bert_jax.predict classify --model={folder}/classify'
    script = f"cut -c 1-400 {folder}/pairs.jsonl | {command} --input=- --output=- | head -2; echo ${{PIPESTATUS[1]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=600)
    *lines, code = result.stdout.splitlines()
    assert code in ("0", "141") and not result.stderr, result
    assert_alike([json.loads(line) for line in lines], lines_of(folder / "labels.jsonl.gz")[:2])


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_change_nothing(folder, done, name):
    code, out, said = done[name]
    assert code == 2 and not out.strip()
    assert MISTAKES[name] in said and len(said.strip().splitlines()) == 1 and said.startswith("error: "), said
    assert (folder / "older.jsonl").read_text() == "older\n"
    assert not list(folder.glob("*.partial"))


READ = {
    "fill-mask": {"top_k", "text", "input", "text_column"},
    "classify": {"text", "text_pair", "text_pair_column", "merge", "long", "prompt"},
    "tag": {"text", "text_column", "keep_columns", "packing"},
    "answer": {"question", "context", "null_threshold", "max_answer_length", "context_column"},
    "embed": {"pooling", "normalize", "precision", "calibration", "prompt_name"},
    "search": {"corpus", "queries", "index", "rerank", "top_k", "qrels", "text_column", "id_column"},
    "rerank": {"query", "document", "query_column", "document_column", "prompt"},
}
NOT_READ = {
    "fill-mask": {"pooling", "text_pair", "corpus", "merge"},
    "classify": {"top_k", "question", "pooling"},
    "tag": {"prompt", "top_k", "long"},
    "answer": {"text", "text_column", "prompt"},
    "embed": {"top_k", "query", "merge", "text_pair"},
    "search": {"input", "text", "query", "document", "fields", "keep_columns", "prompt"},
    "rerank": {"text", "corpus", "pooling", "top_k"},
}


def test_the_help_of_a_verb_has_the_flags_that_it_reads():
    helps = {
        verb: subprocess.run([sys.executable, "-m", "bert_jax.predict", *words], capture_output=True, text=True)
        for verb, words in {"": ["--help"], **{verb: [verb, "--help"] for verb in READ}}.items()
    }
    every = set(re.findall(r"^  --(?:\[no\])?(\w+):", helps[""].stdout, re.M))
    for verb in READ:
        text = helps[verb].stdout
        assert helps[verb].returncode == 0 and not helps[verb].stderr
        shown = set(re.findall(r"^  --(?:\[no\])?(\w+):", text, re.M))
        named = set(re.findall(r"--(\w+)", text[text.index(f"Not read by {verb}: ") :])) - {"helpfull"}
        assert shown | named == every and not shown & named
        assert READ[verb] | {"model", "step", "dtype", "output"} <= shown and NOT_READ[verb] <= named
        assert f"bert_jax.predict {verb} --model=MODEL --" in text and f"\nflags of {verb}:\n" in text
        rows = [line.split()[0] for line in text.partition("VERB  ")[2].partition("\n\n")[0].splitlines()[1:]]
        assert rows[0] == verb and not set(rows) & (set(READ) - {verb})


def test_a_flag_that_a_verb_does_not_read_is_refused():
    """What --help says is what happens."""
    texts = {"answer": ["--question=a", "--context=b"], "rerank": ["--query=a", "--document=b"],
             "search": ["--corpus=c.txt", "--queries=q.txt"]}  # fmt: skip
    values = {"merge": "max", "top_k": 3}
    lines = {
        f"{verb} --{name}": [verb, "--model=absent/model/x", *texts.get(verb, ["--text=a"]), f"--{name}={value}"]
        for verb, names in NOT_READ.items()
        for name in sorted(names)
        for value in [values.get(name, "False" if name == "keep_columns" else "mean")]
    }
    for name, (code, _, error) in run_lines("predict", lines, "module.run()").items():
        assert code == 2 and "error: --" in error and "no such directory" not in error, (name, error)
