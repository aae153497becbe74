"""Rerankers learn from several layouts of records, in lists and batches, and are scored on held-out sets."""

import itertools
import json

import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import batches
from bert_jax.data.vocabularies import loading
from bert_jax.errors import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
LISTS = [("a", [("b", 1), ("c", 0), ("d d", 0)]), ("b", [("a", 0), ("c c", 1)]), ("c", [("a", 1), ("b", 0), ("j", 1)]),
         ("d", [("e", 0), ("f", 0)])]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS))
    return loading.load(path)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def load(tokenizer, path, **changes):
    config = finetune_config.base()
    config.task.name, config.init_from = "reranking", "model"
    config.task.update(train=path, held_out=path, negatives=("negatives",))
    config.data.update(sequence_length=12, batch_size=4, buckets=(6, 8))
    config.update_from_flattened_dict(changes)
    return tasks.load(config, tokenizer), config


def as_pairs(lists):
    return [{"query": query, "document": text, "label": label} for query, judged in lists for text, label in judged]


def as_lists(lists):
    return [
        {"query": query, "document": [text for text, _ in judged], "label": [label for _, label in judged]}
        for query, judged in lists
    ]


def texts_of(tokenizer, batch):
    """Returns {(query, document): (label, relevant)} of a batch's documents, [queries, documents]."""
    answers = {}
    for row, weights, labels, relevant in zip(
        batch["input_ids"], batch["weights"], batch["labels"], batch["relevant"], strict=True
    ):
        for ids, weight, label, is_relevant in zip(row, weights, labels, relevant, strict=True):
            if weight:
                tokens = [TOKENS[i] for i in ids.tolist() if i]
                first, second = " ".join(tokens[1:-1]).split(" [SEP] ")
                answers[first, second] = (float(label), float(is_relevant))
            else:
                assert not ids[1:].any() and label == is_relevant == 0
    return answers


@pytest.mark.parametrize("layout", [as_pairs, as_lists])
def test_lists_are_the_same_from_pairs_and_from_lists(tokenizer, tmp_path, layout):
    task, config = load(tokenizer, write(tmp_path / "train.jsonl", layout(LISTS)), **{"loss.name": "listwise"})
    assert task.train.members.shape == (3, 3) and "1 queries have no documents that differ" in "".join(task.notes)
    batch = batches.train_batch(config, task, [5], 0)
    assert batch["input_ids"].shape == (1, 4, 3, 6) and batch["weights"].sum() == 8
    expected = {(query, text): (label, label) for query, judged in LISTS[:3] for text, label in judged}
    assert texts_of(tokenizer, {name: array[0] for name, array in batch.items()}) == expected
    parts = [batches.train_batch(config, task, [5], 0, host, 2) for host in range(2)]
    for name, array in batch.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], 1), array)


@pytest.mark.parametrize("layout", [as_pairs, as_lists])
def test_pairs_with_several_labels_are_noted(tokenizer, tmp_path, layout):
    twice = [*LISTS, ("a", [("b", 0), ("c", 0), ("e", 1)])]
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", layout(twice)))
    assert "train: 1 of 11 pairs of a query and a document have several labels" in task.notes
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", layout(LISTS)))
    assert not any("several labels" in note for note in task.notes)


def test_pairs_have_rows_of_their_own(tokenizer, tmp_path):
    task, config = load(tokenizer, write(tmp_path / "train.jsonl", as_pairs(LISTS)))
    assert (task.loss, task.metric, task.settings) == ("bce", "ndcg@10", {"activation": "Sigmoid"})
    seen = {}
    for step in range(3):
        batch = batches.train_batch(config, task, [5], step)
        seen |= texts_of(tokenizer, {name: array[0] for name, array in batch.items()})
    assert seen == {(query, text): (label, label) for query, judged in LISTS for text, label in judged}


def test_long_lists_keep_relevant_documents_and_one_other(tokenizer, tmp_path):
    long = [("a", [(text, int(text in "efgh")) for text in "bcdefgh"]), ("b", [("a", 1), ("c", 0)])]
    path = write(tmp_path / "train.jsonl", as_lists(long))
    for size, relevant, others in ((3, 2, 1), (6, 4, 2)):
        task, _ = load(tokenizer, path, **{"task.group_size": size})
        batch = task.train.batch(np.array([0]), 8)
        assert (batch["relevant"].sum(), batch["weights"].sum()) == (relevant, relevant + others)
        assert any(f"1 queries have more documents than config.task.group_size={size}" in note for note in task.notes)


def test_positives_and_negatives(tokenizer, tmp_path):
    records = [{"query": "a", "positive": "b", "negatives": ["c", "d"]}, {"query": "a", "positive": "c", "negatives": ["e"]}]  # fmt: skip # noqa: E501
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", records))
    assert task.loss == "listwise" and "1 negatives are positives of their query elsewhere" in "".join(task.notes)
    batch = task.train.batch(np.array([0, 1]), 8)
    assert texts_of(tokenizer, batch) == {("a", "b"): (1, 1), ("a", "d"): (0, 0), ("a", "c"): (1, 1), ("a", "e"): (0, 0)}  # fmt: skip # noqa: E501
    scores = {"ndcg@10": 1.0, "mrr@10": 1.0, "map@100": 1.0, "accuracy@1": 1.0}  # both positives are one query's
    order = {("a", "b"): 4.0, ("a", "c"): 3.0, ("a", "d"): 2.0, ("a", "e"): 1.0}
    held_out = task.held_out[""]
    outputs = [np.array([order["a", text]]) for text in held_out.judged.documents]
    assert task.score(held_out, outputs) == scores


@pytest.mark.parametrize("score", [[5.0, 2.0, 3.0], [3.0, 2.0]])
def test_a_teachers_scores_or_margins(tokenizer, tmp_path, score):
    records = [{"query": "a", "positive": "b", "negatives": ["c", "d"], "score": score}]
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", records))
    assert task.loss == "margin_mse"
    labels = task.train.batch(np.array([0]), 8)["labels"][0]
    np.testing.assert_array_equal(labels[0] - labels[1:], [3, 2])


def test_rankings_by_hand(tokenizer, tmp_path):
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", as_pairs(LISTS[:3])))
    examples = task.held_out[""]
    order = {"a": "cbd", "b": "ca", "c": "bja"}  # documents by their first letter, the best first
    outputs = [
        np.array([-order[examples.judged.queries[query]].index(text[0])], np.float32)
        for query, text in zip(examples.judged.query, examples.judged.documents, strict=True)
    ]
    scores = task.score(examples, outputs)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert scores["ndcg@10"] == pytest.approx((second + 1 + (second + third) / (1 + second)) / 3)
    assert scores["mrr@10"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert scores["map@100"] == pytest.approx((1 / 2 + 1 + (1 / 2 + 2 / 3) / 2) / 3)
    assert scores["accuracy@1"] == pytest.approx(1 / 3)
    rows = list(task.predictions(examples, outputs))
    assert [row["rank"] for row in rows] == [2, 1, 2] and [row["text"] for row in rows] == ["a", "b", "c"]
    assert [hit["text"] for hit in rows[2]["best"]] == ["b", "j", "a"] and rows[2]["gold"] == ["a", "j"]
    assert rows[0]["best"][0]["score"] == 0.5


def test_equal_scores_are_no_ranking(tokenizer, tmp_path):
    task, _ = load(tokenizer, write(tmp_path / "train.jsonl", as_pairs(LISTS[:3])))
    examples = task.held_out[""]
    scores = task.score(examples, [np.zeros(1)] * len(examples.lengths))
    assert scores["accuracy@1"] == 0 and scores["mrr@10"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    orders = [list(itertools.permutations(range(len(judged)))) for _, judged in LISTS[:3]]
    gains = [[sum(judged[document][1] / np.log2(2 + place) for place, document in enumerate(order)) for order in each]
             for (_, judged), each in zip(LISTS[:3], orders, strict=True)]  # fmt: skip
    assert task.baseline == pytest.approx(np.mean([np.mean(each) / max(each) for each in gains]), abs=0.02)


def test_pairs_without_lists(tokenizer, tmp_path):
    """Most queries have one document: all pairs together are scored."""
    single = [(query, [(text, i % 2)]) for i, (query, text) in enumerate(zip("abcdef", "bcdefa", strict=True))]
    path = write(tmp_path / "pairs.jsonl", [record | {"id": i} for i, record in enumerate(as_pairs(single))])
    task, _ = load(tokenizer, path)
    examples = task.held_out[""]
    assert (task.metric, task.baseline) == ("average_precision", 0.5)
    outputs = [np.array([value]) for value in (-1.0, 2.0, 1.0, 1.0, -3.0, -4.0)]
    scores = task.score(examples, outputs)  # relevant are those of 2, 1 (with another) and -4
    assert scores["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert list(examples.others) == [{"id": i} for i in range(6)]
    rows = list(task.predictions(examples, outputs))
    assert rows[1] == {"text": "b", "text_pair": "c", "gold": 1.0, "score": pytest.approx(1 / (1 + np.exp(-2)))}
    graded = [{"query": query, "document": text, "score": i} for i, (query, text) in enumerate(zip("abc", "bcd", strict=True))]  # fmt: skip # noqa: E501
    task, _ = load(tokenizer, write(tmp_path / "graded.jsonl", graded))
    assert (task.loss, task.metric, task.settings["activation"]) == ("mse", "spearman", "Identity")
    assert task.score(task.held_out[""], [np.array([i]) for i in (1.0, 2.0, 9.0)])["spearman"] == pytest.approx(1)
    task, _ = load(tokenizer, str(tmp_path / "graded.jsonl"), **{"task.score_range": (0, 2)})
    assert task.loss == "bce" and task.train.batch(np.arange(3), 8)["labels"].ravel().tolist() == [0, 0.5, 1]


def test_lists_in_a_csv_file(tokenizer, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('query,document,label\na,"[""b"", ""c d""]","[1, 0]"\nb,"[""a"", ""c""]","[0, 1]"\n')
    task, _ = load(tokenizer, str(path))
    assert task.loss == "listwise" and task.train.members.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"query": "a", "document": "b", "label": "yes"}], "line 1: 'label' holds 'yes'; expected a number"),
        ([{"query": "a", "document": "b", "label": None}, {"query": "a", "document": "c", "label": 1}],
         "line 1: 'label' holds None; expected a number"),
        ([{"query": "a", "document": ["b", "c"], "label": [1]}], "line 1: 1 values in 'label' for 2 documents"),
        ([{"query": "a", "document": [], "label": []}], "line 1: 'document' is an empty list"),
        ([{"query": " ", "document": "b", "label": 1}], "line 1: 'query' is empty; expected text"),
        ([{"query": "a", "document": ["b", 3], "label": [1, 0]}], "line 1: 'document' holds a int; expected text"),
        ([{"query": "a", "document": ["b", "c"], "label": [1, 1]}], "every document has 1; expected relevant"),
        ([{"query": "a", "positive": "b", "negatives": ["b"]}], "line 1: the negative 'b' is the positive"),
        ([{"query": "a", "positive": "b", "negatives": ["c"], "score": [1, 2, 3]}],
         "line 1: 3 values in 'score'; expected 2, a score of each document, or 1, the margins"),
        ([{"query": "a", "document": "b", "label": 2}, {"query": "a", "document": "c", "label": 0}],
         "line 1: found 2; expected from 0 to 1 with config.loss.name=bce"),
    ],
)  # fmt: skip
def test_mistakes_in_the_data(tokenizer, tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        load(tokenizer, write(tmp_path / "data.jsonl", records))


def test_lists_that_teach_nothing_are_refused(tokenizer, tmp_path):
    single = [(query, [(text, i % 2)]) for i, (query, text) in enumerate(zip("abcdef", "bcdefa", strict=True))]
    path = write(tmp_path / "pairs.jsonl", as_pairs(single))
    with pytest.raises(UserError, match="no query has documents that differ, which config.loss.name=ranknet needs"):
        load(tokenizer, path, **{"loss.name": "ranknet"})
