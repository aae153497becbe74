"""Files that vectors are scored by: their columns, and what is refused."""

import json

import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import vector_files, vector_measures
from bert_jax.errors import UserError


class Store:
    """Numbers texts in the order in which they come."""

    tokenizer, lengths = None, np.zeros(0)

    def __init__(self):
        self.keys = []

    def add(self, text, prompt="", is_query=False):
        assert is_query == (prompt == "q: "), (prompt, text)
        if (prompt, text) not in self.keys:
            self.keys.append((prompt, text))
        return self.keys.index((prompt, text))

    def encode(self):
        self.texts = [text for _, text in self.keys]


def read(spec, **task):
    config = finetune_config.base()
    config.task.name = "embedding"
    config.task.update(anchor_prompt="q: ", positive_prompt="d: ", **task)
    store = Store()
    return *vector_files.read(spec, "--held_out", config.task, store), store


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("labels", [(1, 0), ("1", "0"), (True, False), ("true", "False"), (1.0, 0.0)])
@pytest.mark.parametrize("names", [("sentence1", "sentence2", "label"), ("question1", "question2", "is_duplicate")])
def test_labelled_pairs(tmp_path, names, labels):
    rows = [dict(zip(names, (f"a{i}", f"b{i}", labels[i % 2]), strict=True)) for i in range(4)]
    examples, notes, store = read(f"pairs:{write(tmp_path / 'p.jsonl', rows)}")
    assert isinstance(examples, vector_measures.PairClassification) and not notes
    rows = list(examples.predictions(np.eye(8, dtype=np.float32)))
    assert [(row["text"], row["text_pair"], row["gold"]) for row in rows[:2]] == [("a0", "b0", 1), ("a1", "b1", 0)]
    assert examples.metrics == ("average_precision", "f1", "max_f1") and store.keys[0] == ("", "a0")


def sem_eval(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"STS.{name.replace('_', '.')}.txt").write_text(content, "utf-8")
    return f"sts:{folder}"


def test_a_folder_of_semeval(tmp_path):
    """Files of a year are one set; pairs without a score, columns behind the texts and a file of all are left out."""
    spec = sem_eval(tmp_path / "2016", input_one="a \tb\tx\ty\n\"c\td\n", gs_one="4.5\n\n", input_two="a\te\n",
                    gs_two="0", input_ALL="z\tz\n", gs_ALL="5\n")  # fmt: skip
    examples, notes, store = read(spec)
    rows = list(examples.predictions(np.eye(len(store.texts), dtype=np.float32)))
    assert [(row["text"], row["text_pair"], row["gold"]) for row in rows] == [("a", "b", 4.5), ("a", "e", 0.0)]
    assert notes == [f"{tmp_path / '2016'}: 1 pairs have no score and are left out"]
    for name in ("input", "gs"):  # as they were published in 2016
        path = tmp_path / "2016" / f"STS.{name}.one.txt"
        path.rename(path.with_name(f"STS2016.{name}.one.txt"))
    again = read(spec)[0]
    assert [row["gold"] for row in again.predictions(np.eye(len(store.texts), dtype=np.float32))] == [0.0, 4.5]
    for files, message in (
        ({}, "no file STS.input.NAME.txt; expected a file, or a folder"),
        ({"input_a": "a\tb\n"}, "no STS.gs.a.txt, the scores of STS.input.a.txt"),
        ({"input_a": "a\tb\n", "gs_a": "1\n2\n"}, "STS.gs.a.txt: 2 lines; expected 1, as STS.input.a.txt has"),
        ({"input_a": "a b\n", "gs_a": "1\n"}, "STS.input.a.txt: line 1: 'a b.n'; expected two texts with a tab"),
        ({"input_a": "a\tb\n", "gs_a": "one\n"}, "STS.gs.a.txt: line 1: 'one.n'; expected a number, or nothing"),
        ({"input_a": "a\tb\n", "gs_a": "\n"}, "no pair has a score; expected some"),
    ):
        with pytest.raises(UserError, match=message):
            read(sem_eval(tmp_path / message[:12].replace("/", ""), **files))


def test_texts_with_classes(tmp_path):
    flat = [{"text": f"t{i}", "label": i % 2} for i in range(4)]
    examples, _, store = read(f"clusters:{write(tmp_path / 'flat.jsonl', flat)}")
    rows = list(examples.predictions(np.eye(4, dtype=np.float32)))
    assert [(row["text"], row["gold"]) for row in rows] == [("t0", "0"), ("t1", "1"), ("t2", "0"), ("t3", "1")]
    sets = [{"sentences": ["a", "b", "c"], "labels": ["x", "y", "x"]}, {"sentences": ["a", "d"], "labels": [1, 2]}]
    examples, _, store = read(f"clusters:{write(tmp_path / 'sets.jsonl', sets)}")
    rows = list(examples.predictions(np.eye(4, dtype=np.float32)))
    assert [row["gold"] for row in rows] == ["x", "y", "x", "1", "2"] and store.texts == ["a", "b", "c", "d"]
    (tmp_path / "own.csv").write_text('body,kind\n"[1]",x\ntwo,y\n')
    examples, _, _ = read(f"clusters:{tmp_path / 'own.csv'}", anchor="body", label="kind")
    assert [row["text"] for row in examples.predictions(np.eye(2, dtype=np.float32))] == ["[1]", "two"]


def test_queries_with_documents(tmp_path):
    rows = [
        {"query": "q0", "positive": ["a", "b", "a"], "negative": ["c", "a"]},
        {"query": "q1", "positive": "c", "negative": ["a"]},
        {"query": "q2", "positive": [], "negative": ["a"]},
    ]
    examples, notes, store = read(f"rerank:{write(tmp_path / 'r.jsonl', rows)}")
    assert store.keys == [("q: ", "q0"), ("d: ", "a"), ("d: ", "b"), ("d: ", "c"), ("q: ", "q1")]
    assert notes == [f"{tmp_path / 'r.jsonl'}: 1 queries do not have both kinds of documents, and are left out"]
    predictions = list(examples.predictions(np.eye(5, dtype=np.float32)))
    assert [(row["text"], row["gold"]) for row in predictions] == [("q0", ["a", "b"]), ("q1", ["c"])]
    other = [{"question": "q", "answer": "a", "wrong": "b"}]
    examples, _, _ = read(f"rerank:{write(tmp_path / 'o.jsonl', other)}", positive="answer", negatives=("wrong",))
    assert examples.score(np.eye(3, dtype=np.float32))["mrr@10"] == 0.5  # equal scores are the wrong order


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("sts", [{"text": "a"}], "--held_out=sts:.*: no columns of two texts and a score; expected some of anchor/pos"),
        ("sts", [{"sentence1": "a", "sentence2": "b", "score": "x"}], "line 1: 'score' holds 'x'; expected a number"),
        ("pairs", [{"sentence1": "a", "sentence2": "b"}], "pairs:.*: no columns of two texts and a label"),
        ("pairs", [{"sentence1": "a", "sentence2": "b", "label": 2}], "line 1: 'label' holds 2; expected 1, the same"),
        ("pairs", [{"sentence1": "a", "sentence2": "b", "label": 1}] * 2, "'label' is 1 everywhere; expected 0 and 1"),
        ("pairs", [{"sentence1": " ", "sentence2": "b", "label": 1}], "line 1: 'sentence1' is empty; expected text"),
        ("clusters", [{"text": "a"}], "clusters:.*: no column label or labels or class.*; expected a text and its cl"),
        ("clusters", [{"text": "a", "label": "x"}] * 3, "every text has the class 'x'; expected two or more"),
        ("clusters", [{"text": "a", "label": ""}], "line 1: 'label' holds .*; expected the class of the text"),
        ("clusters", [{"text": ["a", "b"], "label": ["x"]}], "line 1: 2 texts and 1 classes; expected one for each"),
        ("rerank", [{"query": "a", "positive": ["b"]}], "rerank:.*: no column negative or negatives; expected a query"),
        ("rerank", [{"query": "a", "positive": ["b"], "negative": []}], "no query has both 'positive' and 'negative'"),
        ("rerank", [{"query": "a", "positive": [3], "negative": ["b"]}], "line 1: 'positive' holds"),
    ],
)
def test_mistakes(tmp_path, kind, rows, message):
    with pytest.raises(UserError, match=message):
        read(f"{kind}:{write(tmp_path / 'rows.jsonl', rows)}")


def test_they_are_held_out_sets_of_fine_tuning(tokenizer, tmp_path):
    train = write(tmp_path / "train.jsonl", [{"anchor": f"{a} b", "positive": f"{a} c"} for a in "abcdef"])
    pairs = write(tmp_path / "p.jsonl", [{"sentence1": a, "sentence2": "b", "label": int(a > "c")} for a in "abcdef"])
    classes = write(tmp_path / "c.jsonl", [{"text": f"{a} {a}", "label": a > "c"} for a in "abcdef"])
    ranked = write(tmp_path / "r.jsonl", [{"query": "a", "positive": ["b"], "negative": ["c", "d"]}])
    config = finetune_config.base()
    config.task.name, config.init_from = "embedding", "model"
    config.data.update(sequence_length=12, batch_size=4, buckets=(6, 8))
    config.task.train = str(train)
    config.task.held_out = f"same=pairs:{pairs},topics=clusters:{classes},ranked=rerank:{ranked}"
    task = tasks.load(config, tokenizer)
    assert task.metric == "average_precision" and task.baseline == 0.5
    for name, metrics in (("same", "average_precision"), ("topics", "v_measure"), ("ranked", "map")):
        examples = task.held_out[name]
        vectors = np.random.default_rng(0).standard_normal((len(examples.lengths), 5)).astype(np.float32)
        assert metrics in task.score(examples, list(vectors)) and list(task.predictions(examples, list(vectors)))
        batch = examples.batch(np.array([0, -1]), 8)
        assert batch["input_ids"].shape == (2, 8) and batch["weights"].tolist() == [1.0, 0.0]
    config.task.name = "reranking"
    with pytest.raises(UserError, match="pairs:.*: not for reranking, which ranks the documents"):
        tasks.load(config, tokenizer)
