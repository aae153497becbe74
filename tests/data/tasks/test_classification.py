"""Texts and pairs with one label, several, or a number."""

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.errors import UserError
from tests.data.awkward import shared


def tsv(folder, name, lines, header="text\tlabel"):
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return path


def jsonl(folder, name, records):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def logits_of(labels, count):
    return list(np.eye(count)[labels])


def test_rows_of_a_batch(tmp_path, load, tokenizer):
    train = tsv(tmp_path, "a.tsv", ["hello\tb\t1", "a b c d\te\t0", "a\t\t1"], "x\ty\tlabel")
    task = load(train=train, held_out=train, text="x", text_pair="y", length=6)
    batch = task.train.batch(np.array([1, 0, -1]), 8)
    ids = {token: tokenizer.encode([token])[0][0] for token in ("hello", "a", "b", "e")}
    a, b, sep, pad = ids["a"], ids["b"], tokenizer.sep_id, tokenizer.pad_id
    assert batch["input_ids"].tolist() == [
        [tokenizer.cls_id, a, b, sep, ids["e"], sep, pad, pad],
        [tokenizer.cls_id, ids["hello"], sep, b, sep, pad, pad, pad],
        [tokenizer.cls_id] + [pad] * 7,
    ]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0], [0] * 8]
    assert batch["attention_mask"].sum(1).tolist() == [6, 5, 1]
    assert (batch["labels"].tolist(), batch["weights"].tolist()) == ([0, 1, 0], [1.0, 1.0, 0.0])
    assert {array.dtype.name for name, array in batch.items() if name != "weights"} == {"int32"}
    assert task.train.lengths.tolist() == [5, 6, 4]
    assert task.notes == [
        f"train: 1 texts are empty, the first at {train} line 4",
        "train: 1 of 3 examples are longer than config.data.sequence_length=6 and were cut",
        f"held out: 1 texts are empty, the first at {train} line 4",
        "held out: 1 of 3 examples are longer than config.data.sequence_length=6 and were cut",
    ]


def test_order_of_labels(tmp_path, load):
    numbers = tsv(tmp_path, "n.tsv", ["a\t10", "b\t9", "c\t10"])
    assert load(train=numbers, held_out=numbers).labels == ("9", "10")
    names = tsv(tmp_path, "s.tsv", ["a\tno", "b\tyes", "c\tmaybe"])
    assert load(train=names, held_out=names).labels == ("maybe", "no", "yes")
    given = load(train=names, held_out=names, labels=("yes", "no", "maybe"))
    assert given.train.labels.tolist() == [1, 0, 2]
    ids = jsonl(tmp_path, "i.jsonl", [{"text": "a", "label": i} for i in (0, 2, 1.0)])
    mixed = load(train=ids, held_out=names, labels=("yes", "no", "maybe"))
    assert (mixed.train.labels.tolist(), mixed.held_out[""].labels.tolist()) == ([0, 2, 1], [1, 0, 2])
    truths = jsonl(tmp_path, "t.jsonl", [{"text": "a", "label": i} for i in (True, False)])
    assert load(train=truths, held_out=truths).labels == ("false", "true")


def test_class_names_in_a_parquet_file(tmp_path, load):
    names = {"label": {"names": ["negative", "positive"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": names}}).encode()}
    for name, labels in (("train", [1, 0]), ("test", [-1, -1])):
        table = pyarrow.table({"text": ["a", "b"], "label": labels}).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    task = load(train=tmp_path / "train.parquet", held_out=tmp_path / "train.parquet", test=tmp_path / "test.parquet")
    assert task.labels == ("negative", "positive") and task.train.labels.tolist() == [1, 0]
    assert not task.test.labelled


def test_single_label_scores_and_predictions(tmp_path, load):
    train = tsv(tmp_path, "a.tsv", ["a\tno", "b\tyes", "c\tyes"])
    test = tsv(tmp_path, "b.tsv", ["x y", "z"], "text")
    task = load(train=train, held_out=train, test=test)
    assert (task.metric, task.baseline, task.problem, task.scheme) == ("accuracy", 2 / 3, "single_label", "")
    assert task.score(task.held_out[""], logits_of([0, 1, 0], 2))["accuracy"] == pytest.approx(2 / 3)
    first, _, last = task.predictions(task.held_out[""], logits_of([0, 1, 0], 2))
    score = np.e / (np.e + 1)
    assert first == {
        "text": "a", "gold": "no", "label": "no", "score": pytest.approx(score),
        "scores": {"no": pytest.approx(score), "yes": pytest.approx(1 - score)},
    }  # fmt: skip
    assert (last["gold"], last["label"]) == ("yes", "no")
    assert [row["text"] for row in task.predictions(task.test, logits_of([0, 1], 2))] == ["x y", "z"]
    assert "gold" not in next(task.predictions(task.test, logits_of([0, 1], 2)))
    json.dumps(first)


def test_the_baseline_is_the_better_of_two_constant_answers(tmp_path, load):
    train = tsv(tmp_path, "a.tsv", ["a\tno", "b\tyes", "c\tyes"])
    held_out = tsv(tmp_path, "b.tsv", ["a\tno", "b\tno", "c\tno", "d\tyes"])
    assert load(train=train, held_out=held_out).baseline == 3 / 4


def test_several_held_out_sets(tmp_path, load):
    train = tsv(tmp_path, "a.tsv", ["a\t0", "b\t1"])
    other = tsv(tmp_path, "b.tsv", ["c\t1"])
    task = load(train=train, held_out=f"matched={train},mismatched={other},{train}")
    assert {name: len(examples.lengths) for name, examples in task.held_out.items()} == {"matched": 2, "mismatched": 3}


@pytest.mark.parametrize("kind", ["list", "bars", "commas", "columns", "ids"])
def test_multi_label(tmp_path, load, kind):
    sets = [["rude"], [], ["insult", "rude"]]
    settings = {"problem": "multi_label"}
    if kind == "columns":
        lines = [f"a\t{int('insult' in labels)}\t{int('rude' in labels)}" for labels in sets]
        path = tsv(tmp_path, "a.tsv", lines, "text\tinsult\trude")
        settings["label"] = "insult,rude"
    elif kind in ("bars", "commas"):
        path = tsv(tmp_path, "a.tsv", ["a\t" + {"bars": "|", "commas": ", "}[kind].join(labels) for labels in sets])
    elif kind == "ids":
        order = ["insult", "rude"]
        path = jsonl(tmp_path, "a.jsonl", [{"text": "a", "label": [order.index(x) for x in s]} for s in sets])
        settings["labels"] = tuple(order)
    else:
        path = jsonl(tmp_path, "a.jsonl", [{"text": "a", "label": labels} for labels in sets])
    task = load(train=path, held_out=path, **settings)
    assert task.labels == ("insult", "rude")
    labels = task.train.batch(np.arange(3), 16)["labels"]
    assert labels.tolist() == [[0, 1], [0, 0], [1, 1]] and labels.dtype == np.float32
    outputs = list(labels * 4 - 2)
    assert task.score(task.held_out[""], outputs)["micro_f1"] == 1.0
    rows = list(task.predictions(task.held_out[""], outputs))
    assert [row["label"] for row in rows] == [["rude"], [], ["insult", "rude"]] == [row["gold"] for row in rows]
    assert task.metric == "micro_f1" and task.baseline == pytest.approx(2 * 2 / (3 + 3))


def test_regression(tmp_path, load):
    path = tsv(tmp_path, "a.tsv", ["a\t1.5", "b\t0", "c\t3e0"])
    task = load(train=path, held_out=path, problem="regression", test=tsv(tmp_path, "b.tsv", ["d"], "text"))
    assert (task.labels, task.metric) == (("score",), "pearson") and np.isnan(task.baseline)
    assert task.train.batch(np.array([2, -1]), 16)["labels"].tolist() == [3.0, 0.0]
    outputs = [np.array([value]) for value in (1.5, 0.0, 3.0)]
    assert task.score(task.held_out[""], outputs) == pytest.approx({"pearson": 1, "spearman": 1, "mse": 0})
    assert next(task.predictions(task.held_out[""], outputs)) == {"text": "a", "gold": 1.5, "score": 1.5}


GOOD = ["a\tx", "b\ty"]


@pytest.mark.parametrize(
    ("train", "held_out", "settings", "message"),
    [
        (
            GOOD,
            ["c\tx", "d\tz"],
            {},
            r"held\.tsv line 3: label 'z' is not among those of .*; expected one of x, y",
        ),
        (GOOD, ["c\t"], {}, r"held\.tsv line 2: no label in 'label'; expected one of x, y"),
        (["a\tx", "b\tx"], GOOD, {}, r"train\.tsv line 2: every label is 'x'; expected two or more"),
        (
            ["a\t0", "b\t2"],
            GOOD,
            {"labels": ("n", "y")},
            r"train\.tsv line 3: class id 2 is out of range; expected 0 to 1",
        ),
        (
            ["a\t1", "b\tgood"],
            GOOD,
            {"problem": "regression"},
            r"train\.tsv line 3: 'label' is 'good'; expected a number",
        ),
        (["a\tnan"], GOOD, {"problem": "regression"}, r"train\.tsv line 2: 'label' is 'nan'"),
        (GOOD, ["c\tx|z"], {"problem": "multi_label"}, r"held\.tsv line 2: label 'x|z' is not among"),
        (
            ["a\t2"],
            GOOD,
            {"problem": "multi_label", "label": "label,text"},
            r"train\.tsv line 2: 'label' is '2'; expected 0",
        ),
        (GOOD, GOOD, {"label": "label,text"}, "only config.task.problem=multi_label has several"),
        (["a\tx", "b\ty", "c\tz"], GOOD, {"metric": "f1"}, "f1 is of two labels, but there are 3"),
        (GOOD, GOOD, {"length": 2}, "config.data.sequence_length: 2 leaves no room"),
        (GOOD, GOOD, {"train": ""}, "config.task.train: empty"),
    ],
)
def test_bad_labels_are_named(tmp_path, load, train, held_out, settings, message):
    files = {"train": tsv(tmp_path, "train.tsv", train), "held_out": tsv(tmp_path, "held.tsv", held_out)}
    with pytest.raises(UserError, match=message) as error:
        load(**files | settings)
    assert "\n" not in str(error.value)


def test_values_that_are_no_text_are_named(tmp_path, load):
    path = jsonl(tmp_path, "a.jsonl", [{"text": "a", "label": 0}, {"text": None, "label": 1}])
    with pytest.raises(UserError, match=r"a\.jsonl line 2: 'text' holds nothing; expected text"):
        load(train=path, held_out=path)


def test_a_null_second_text_is_a_single_text_as_in_predict(tmp_path, load, tokenizer):
    records = [
        {"a": "x y", "b": "z", "label": 0},
        {"a": "x y", "b": None, "label": 1},
        {"a": "x y", "b": "", "label": 0},
    ]
    path = jsonl(tmp_path, "a.jsonl", records)
    task = load(train=path, held_out=path, text="a", text_pair="b")
    batch = task.train.batch(np.arange(3), 16)
    single = load(train=path, held_out=path, text="a").train.batch(np.arange(1), 16)
    assert batch["input_ids"][1].tolist() == single["input_ids"][0].tolist()
    assert batch["input_ids"][2].tolist() != batch["input_ids"][1].tolist()
    used = (batch["input_ids"] != tokenizer.pad_id).sum(1)
    assert task.train.lengths.tolist() == used.tolist()
    assert any("1 records have no b and are read as single texts, the first at" in note for note in task.notes)


def test_special_tokens_in_text_become_them(tmp_path, load, tokenizer):
    path = tsv(tmp_path, "a.tsv", ["a [SEP] b\t0", "c\t1"])
    task = load(train=path, held_out=path)
    assert task.train.batch(np.array([0]), 16)["input_ids"][0].tolist().count(tokenizer.sep_id) == 2


def test_glue_files(load, uncased):
    path = shared("sst2/glue_dev.tsv")
    sst2 = load(train=path, held_out=path, text="sentence", tokenizer=uncased)
    assert len(sst2.train.lengths) == 872 and sst2.baseline == pytest.approx(444 / 872)
    mrpc = load(
        train=shared("mrpc/msr_paraphrase_test.txt"),
        text="#1 String", text_pair="#2 String", label="Quality", tokenizer=uncased, length=64,
    )  # fmt: skip
    assert len(mrpc.train.lengths) + len(mrpc.held_out[""].lengths) == 1725
    assert mrpc.train.labels.sum() + mrpc.held_out[""].labels.sum() == 1147
    stsb = load(
        train=shared("stsb/stsb-en-dev.csv"), columns=("a", "b", "score"), text="a", text_pair="b", label="score",
        problem="regression", tokenizer=uncased,
    )  # fmt: skip
    assert len(stsb.train.lengths) + len(stsb.held_out[""].lengths) == 1500
    assert stsb.train.labels.min() >= 0 and stsb.train.labels.max() == 5
