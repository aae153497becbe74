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
