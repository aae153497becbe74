"""Embedders learn from batches of groups of texts, and are scored on several kinds of held-out sets."""

import json

import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import batches, vector_measures
from bert_jax.data.vocabularies import loading
from bert_jax.errors import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "ask", *"abcdefghij"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS))
    return loading.load(path)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def load(tokenizer, **changes):
    config = finetune_config.base()
    config.task.name, config.init_from = "embedding", "model"
    config.data.update(sequence_length=12, batch_size=4, buckets=(6, 8))
    config.update_from_flattened_dict(changes)
    return tasks.load(config, tokenizer), config


PAIRS = [{"anchor": f"{a} {b}", "positive": f"{b} {a} {a}", "no": [f"{b}"] if i % 2 else [f"{b}", "j j"], "id": i // 2}
         for i, (a, b) in enumerate(zip("abcdefgh", "hgfedcba", strict=True))]  # fmt: skip


def test_batches_hold_each_row_once(tokenizer, tmp_path):
    path = write(tmp_path / "train.jsonl", PAIRS)
    task, config = load(tokenizer, **{"task.train": path, "task.held_out": path, "task.negatives": ("no",),
                                      "task.relevance_id": "id"})  # fmt: skip
    assert (task.loss, task.metric, task.labels) == ("info_nce", "ndcg@10", ())
    seen = []
    for step in range(2):
        batch = batches.train_batch(config, task, [5], step)
        assert batch["input_ids"].shape == (1, 4, 6) and batch["other_input_ids"].shape == (1, 4, 3, 6)
        assert batch["groups"].shape == (1, 4) and (batch["weights"] == 1).all()
        seen += batch["texts"][0].tolist()
        parts = [batches.train_batch(config, task, [5], step, host, 2) for host in range(2)]
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], 1), array)
    assert len(set(seen)) == 8
    absent = batch["other_texts"][..., 2] < 0
    assert absent.sum() == sum(len(PAIRS[i]["no"]) == 1 for i in batches.batch_rows(config, task.train, 5, 1))


def vectors_for(examples, score):
    """Returns a unit vector for each text, chosen by its letters if `score` is true, else by its place."""
    vectors = np.zeros((len(examples.texts), 12), np.float32)
    for i, text in enumerate(examples.texts):
        vectors[i, sum(map(ord, set(text.replace(" ", "")))) % 12 if score else i % 12] = 1
    return vectors


def test_retrieval_of_held_out_positives(tokenizer, tmp_path):
    path = write(tmp_path / "train.jsonl", PAIRS)
    task, _ = load(tokenizer, **{"task.train": path, "task.held_out": path, "task.relevance_id": "id"})
    examples = task.held_out[""]
    assert isinstance(examples, vector_measures.Retrieval) and len(examples.texts) == 16
    rows = list(task.predictions(examples, list(vectors_for(examples, True))))
    assert [row["text"] for row in rows] == [record["anchor"] for record in PAIRS]
    assert all(len(row["gold"]) == 2 for row in rows)  # two records share an id
    assert set(task.score(examples, list(vectors_for(examples, True)))) == set(examples.metrics)


@pytest.mark.parametrize(
    "names", [("sentence1", "sentence2", "score"), ("sentence_A", "sentence_B", "relatedness_score")]
)
def test_graded_pairs_by_their_usual_names(tokenizer, tmp_path, names):
    train = write(tmp_path / "train.jsonl", PAIRS)
    graded = [dict(zip(names, (f"{a} b", f"{a} c", str(i)), strict=True)) for i, a in enumerate("abcdef")]
    path = write(tmp_path / "graded.jsonl", graded)
    task, _ = load(tokenizer, **{"task.train": train, "task.held_out": f"sts:{path}", "loss.matryoshka": (6,)})
    assert (task.metric, task.baseline) == ("spearman", 0.0)
    scores = task.score(task.held_out[""], list(np.random.default_rng(0).normal(size=(12, 12))))
    assert set(scores) == {"spearman", "pearson", "spearman_6", "pearson_6"}
    with pytest.raises(UserError, match="sts:.*: no columns of two texts and a score"):
        load(tokenizer, **{"task.train": train, "task.held_out": f"sts:{train}", "task.positive": ""})


@pytest.mark.parametrize(
    ("changes", "is_retrieval"),
    [
        ({}, True),  # a column that happens to have the name, or one of scores of each text, as mine --rerank writes it
        ({"task.score": "scores", "task.negatives": ("no",)}, True),
        ({"loss.name": "triplet", "task.negatives": ("no",)}, True),
        ({"loss.name": "cosent"}, False),
        ({"loss.name": "softmax", "task.label": "id"}, False),
    ],
)
def test_scores_beside_pairs_are_those_of_a_loss_that_reads_them(tokenizer, tmp_path, changes, is_retrieval):
    records = [record | {"score": i / 8, "scores": [1.0, 0.5]} for i, record in enumerate(PAIRS)]
    path = write(tmp_path / "train.jsonl", records)
    task, _ = load(tokenizer, **{"task.train": path, "task.held_out": path, "loss.name": "info_nce"} | changes)
    assert isinstance(task.held_out[""], vector_measures.Retrieval) == is_retrieval
    assert (task.metric == "ndcg@10") == is_retrieval


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_a_column_that_two_keys_name_may_be_absent(tokenizer, tmp_path, name):
    """embedding/sts reads scores in `label`, which is also the key of classes."""
    path = tmp_path / name
    write(path, [{"anchor": record["anchor"], "positive": record["positive"], "grade": 1} for record in PAIRS])
    if name.endswith("csv"):
        path.write_text("anchor,positive,grade\n" + "".join(f"a {x},{x} b,1\n" for x in "abcdef"))
    with pytest.raises(UserError, match="cosent needs a score, but config.task.train has no column 'label'"):
        load(tokenizer, **{"task.train": str(path), "task.held_out": str(path), "task.score": "label",
                           "loss.name": "cosent"})  # fmt: skip


def test_texts_with_the_same_tokens_are_one(tokenizer, tmp_path):
    """They differ in white space and case, which the vocabulary lacks: no model can tell them apart."""
    records = [{"anchor": f"{x} j", "positive": f"j {x}"} for x in "abcdef"]
    records += [
        {"anchor": "g", "positive": "h i"},
        {"anchor": " g ", "positive": "h  i"},
        {"anchor": "G", "positive": "H I"},
    ]
    path = write(tmp_path / "train.jsonl", records)
    task, _ = load(tokenizer, **{"task.train": path, "task.held_out": path, "data.batch_size": 3})
    batch = task.train.batch(np.array([6, 7, 8, 0]), 8)
    texts, positives = batch["texts"].tolist(), batch["other_texts"][:, 0].tolist()
    assert texts[0] == texts[1] == texts[2] != texts[3] and positives[0] == positives[1] == positives[2] != positives[3]
    for rows in task.train.order(3, 0, 0):
        assert sum(row in (6, 7, 8) for row in rows) == 1
    assert [len(grades) for grades in task.held_out[""]._relevance] == [1] * len(task.held_out[""]._relevance)
    unknown = write(tmp_path / "unknown.jsonl", [{"anchor": f"x{i} a", "positive": f"y{i}"} for i in range(6)])
    task, _ = load(tokenizer, **{"task.train": unknown, "task.held_out": unknown, "data.batch_size": 3})
    assert len(set(task.train.batch(np.arange(6), 8)["texts"].tolist())) == 6  # what is lost may have been anything
    with pytest.raises(UserError, match="line 2: the negative 'C  B ' has the tokens of the positive; expected anoth"):
        rows = [{"anchor": "a", "positive": "b", "no": "c"}, {"anchor": "d", "positive": "c b", "no": "C  B "}]
        path = write(tmp_path / "negatives.jsonl", [*rows, *({"anchor": x, "positive": f"{x} {x}"} for x in "efg")])
        load(tokenizer, **{"task.train": path, "task.held_out": path, "task.negatives": ("no",)})


def test_folders_in_the_layout_of_beir(tokenizer, tmp_path):
    (tmp_path / "task" / "qrels").mkdir(parents=True)
    write(tmp_path / "task" / "corpus.jsonl", [{"_id": f"d{x}", "title": "j", "text": f"{x} {x}"} for x in "abcdefg"])
    write(tmp_path / "task" / "queries.jsonl", [{"_id": f"q{x}", "text": f"{x} i"} for x in "abcdefg"])
    judged = "".join(f"q{x}\td{x}\t2\n" for x in "abcde") + "qa\tdb\t1\nqa\tdc\t0\n"
    (tmp_path / "task" / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    (tmp_path / "task" / "qrels" / "test.tsv").write_text("qf\tdf\t1\n")
    folder = str(tmp_path / "task")
    task, _ = load(tokenizer, **{"task.train": folder, "task.held_out": folder})
    assert (len(task.train.lengths), task.metric) == (6, "ndcg@10")
    batch = task.train.batch(np.array([0, 1]), 8)  # qa with da and db, which are both known
    assert batch["texts"][0] == batch["texts"][1] and set(batch["known"][0]) == set(batch["other_texts"][:, 0])
    rows = list(task.predictions(task.held_out[""], list(vectors_for(task.held_out[""], True))))
    assert [row["text"] for row in rows] == ["f i"]
    (tmp_path / "task" / "qrels" / "dev.tsv").write_text("qg\tdg\t1\n")
    task, _ = load(tokenizer, **{"task.train": folder, "task.held_out": folder})
    rows = list(task.predictions(task.held_out[""], list(vectors_for(task.held_out[""], True))))
    assert [row["text"] for row in rows] == ["g i"]
    alone, _ = load(tokenizer, **{"task.train": folder, "task.held_out": f"ir:{folder}", "task.positive": ""})
    assert len(alone.train.lengths) == 7
    with pytest.raises(UserError, match="config.task.relevance_id: config.task.train has nothing in a column 'x'"):
        load(tokenizer, **{"task.train": folder, "task.held_out": f"ir:{folder}", "task.relevance_id": "x"})
    (tmp_path / "task" / "qrels" / "train.tsv").unlink()
    with pytest.raises(UserError, match="config.task.train: .* has no qrels/train.tsv"):
        load(tokenizer, **{"task.train": folder})


def test_texts_alone_need_another_held_out_set(tokenizer, tmp_path):
    path = write(tmp_path / "texts.jsonl", [{"anchor": record["anchor"]} for record in PAIRS])
    with pytest.raises(UserError, match="without config.task.positive nothing can be held out of train"):
        load(tokenizer, **{"task.train": path, "task.positive": ""})


def test_all_positives_of_an_anchor_are_known(tokenizer, tmp_path):
    """An anchor with two positives, in different records: neither is a negative of the other record's anchor."""
    records = [{"anchor": "a b", "positive": "c"}, {"anchor": "a b", "positive": "d"}, {"anchor": "e", "positive": "f"}]
    path = write(tmp_path / "train.jsonl", records)
    task, _ = load(tokenizer, **{"task.train": path, "task.held_out": path, "data.batch_size": 2})
    batch = task.train.batch(np.array([0, 1, 2, -1]), 8)
    positives = batch["other_texts"][:, 0].tolist()
    assert batch["known"].tolist() == [[positives[0], positives[1]]] * 2 + [[positives[2], -1], [-1, -1]]
