"""Token classification: rows, labels, scores and predictions of sentences."""

import json

import numpy as np
import pytest

from bert_jax.errors import UserError
from tests.data.awkward import shared

BIO = [["B-PER", "I-PER", "B-PER", "O"], ["B-LOC", "B-PER"]]
BIOES = [["B-PER", "E-PER", "S-PER", "O"], ["S-LOC", "S-PER"]]


def conll(folder, name, sentences, tags):
    lines = ["\n".join(f"{w} {t}" for w, t in zip(*pair, strict=True)) for pair in zip(sentences, tags, strict=True)]
    path = folder / name
    path.write_text("\n\n".join(lines) + "\n", "utf-8")
    return path


def certain(task, examples, per_row=True):
    """Returns outputs that give each word its gold label."""
    outputs = []
    for row in range(len(examples.lengths)):
        labels = examples.batch(np.array([row]), int(examples.lengths[row]))["labels"][0]
        outputs.append(np.eye(len(task.labels))[np.maximum(labels, 0)] if per_row else np.maximum(labels, 0))
    return outputs


def test_rows_of_a_batch(tmp_path, load, tokenizer):
    path = conll(tmp_path, "a.txt", [["hello", "\u200b", "abc", "b"]], [["I-PER", "O", "I-PER", "O"]])
    task = load("token_classification", length=16, train=path, held_out=path)
    assert (task.scheme, task.labels, task.metric, task.baseline) == ("BIO", ("O", "B-PER", "I-PER"), "f1", 0.0)
    batch = task.train.batch(np.array([0, -1]), 8)
    pieces = tokenizer.encode(["hello", "abc", "b"])
    ids = [tokenizer.cls_id, *pieces[0], *pieces[1], *pieces[2], tokenizer.sep_id]
    assert batch["input_ids"][0, : len(ids)].tolist() == ids and len(pieces[1]) == 3
    assert batch["first_subwords"].tolist() == [[0, 1, 1, 0, 0, 1, 0, 0], [0] * 8]
    assert batch["labels"].tolist() == [[-100, 1, 1, -100, -100, 0, -100, -100], [-100] * 8]
    assert batch["weights"].tolist() == [1.0, 0.0]
    rows = list(task.predictions(task.held_out[""], certain(task, task.held_out[""])))
    assert rows == [{
        "words": ["hello", "\u200b", "abc", "b"],
        "gold": ["B-PER", "O", "B-PER", "O"],
        "tags": ["B-PER", "O", "B-PER", "O"],  # the word without sub-words has a tag too
    }]  # fmt: skip


def test_long_sentences_lose_no_word(tmp_path, load):
    rng = np.random.default_rng(0)
    sentences = [["".join(rng.choice(list("abc"), rng.integers(1, 40))) for _ in range(n)] for n in (3, 50, 200)]
    tags = [rng.choice(["O", "B-PER", "B-LOC"], len(sentence)).tolist() for sentence in sentences]
    path = conll(tmp_path, "a.txt", sentences, tags)
    task = load("token_classification", length=24, train=path, held_out=path)
    examples = task.held_out[""]
    assert examples.lengths.max() <= 24 and len(examples.lengths) > 20
    for per_row in (True, False):  # logits, and labels that a CRF chose
        outputs = certain(task, examples, per_row)
        assert [row["tags"] for row in task.predictions(examples, outputs)] == tags
        assert task.score(examples, outputs)["strict_f1"] == 1.0
    assert "were divided into overlapping rows (3 sentences" in task.notes[0]


def test_every_word_has_its_leading_space(tmp_path, load):
    from bert_jax.data.vocabularies import loading
    from tests.data.awkward import bpe_files

    bpe_files(tmp_path)
    tokenizer = loading.load(tmp_path)
    path = conll(tmp_path, "a.conll", [["hello", "hello"]], [["B-A", "O"]])
    task = load("token_classification", train=path, held_out=path, tokenizer=tokenizer)
    ids = task.train.batch(np.array([0]), 16)["input_ids"][0]
    assert ids[1] == ids[2] == tokenizer.encode([" hello"])[0][0]


def test_lists_in_jsonl(tmp_path, load):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"tokens": ["a", "b"], "tags": tags}) + "\n" for tags in (["NN", "VB"], ["X", "NN"]))
    )
    task = load("token_classification", train=path, held_out=path, text="tokens", label="tags")
    assert (task.scheme, task.labels, task.metric, task.baseline) == ("", ("NN", "VB", "X"), "accuracy", 0.5)
    path.write_text(json.dumps({"tokens": ["a", "b"], "tags": [1, 0]}) + "\n")
    settings = {"text": "tokens", "label": "tags", "labels": ("O", "B-PER", "I-PER")}
    assert load("token_classification", train=path, held_out=path, **settings).train.tags == [["B-PER", "O"]]
    test = tmp_path / "b.jsonl"
    test.write_text(json.dumps({"tokens": ["a"]}) + "\n")
    task = load("token_classification", train=path, held_out=path, test=test, **settings)
    assert list(task.predictions(task.test, [np.zeros((3, 3))])) == [{"words": ["a"], "tags": ["O"]}]


@pytest.mark.parametrize(
    ("train", "held_out", "message"),
    [
        (BIO, [["B-ORG"]], r"held line 1: label 'B-ORG' is not among those of .*; expected one of O, B-LOC"),
        ([["B-A", "I_A"]], BIO, r"train line 2: tag 'I_A' beside entity tags"),
        (BIO, BIOES, "its tags look like BIOES, those of config.task.train like BIO"),
        ([["NN", "NN"]], [["NN"]], r"train line 1: every tag is NN"),
    ],
)
def test_bad_tags_are_named(tmp_path, load, train, held_out, message):
    paths = [conll(tmp_path, name, tags, tags) for name, tags in (("train", train), ("held", held_out))]
    with pytest.raises(UserError, match=message):
        load("token_classification", train=paths[0], held_out=paths[1])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": ["a", "b"], "label": ["O"]}, "line 1: found 2 words and 1 tags"),
        ({"text": "a b", "label": ["O"]}, "line 1: no list of words; found a str"),
        ({"text": ["a"], "label": None}, "line 1: no list of tags; found nothing"),
        ({"text": ["a"], "label": [None]}, "line 1, word 1: the tag is None"),
    ],
)
def test_bad_lists_are_named(tmp_path, load, record, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        load("token_classification", train=path, held_out=path)


def test_conll_2003(load, uncased):
    paths = {name: shared(f"conll2003/eng.{name}") for name in ("testa", "testb")}
    task = load(
        "token_classification", length=48, train=paths["testb"], held_out=paths["testa"], tokenizer=uncased
    )  # fmt: skip
    examples = task.held_out[""]
    counts = [sum(tag[0] == "B" for tags in split.tags for tag in tags) for split in (examples, task.train)]
    assert counts == [5942, 5648]
    assert [sum(map(len, split.tags)) for split in (examples, task.train)] == [51362, 46435]
    assert task.labels == ("O", *(f"{letter}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for letter in "BI"))
    scores = task.score(examples, certain(task, examples))
    assert (scores["f1"], scores["strict_f1"], scores["accuracy"]) == (1.0, 1.0, 1.0)


def sentences(folder, rows, **names):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": words, "label": tags}) + "\n" for words, tags in rows))
    return path


@pytest.mark.parametrize("marks", [(-100, 1, 2, 0), ("-100", "B-A", "I-A", "O"), (-100.0, 1.0, 2.0, 0.0)])
def test_words_that_are_not_labelled_are_neither_learned_nor_scored(tmp_path, load, marks):
    none, begin, inside, outside = marks
    path = sentences(tmp_path, [(["a", "b", "c", "d"], [begin, none, outside, begin]), (["a", "b"], [begin, inside])])
    task = load("token_classification", train=path, held_out=path, labels=("O", "B-A", "I-A"))
    assert task.train.tags == [["B-A", None, "O", "B-A"], ["B-A", "I-A"]]
    assert task.train.batch(np.array([0]), 8)["labels"][0].tolist() == [-100, 1, -100, 0, 1, -100, -100, -100]
    assert task.train.batch(np.array([0]), 8)["first_subwords"][0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    outputs = certain(task, task.held_out[""])
    scores = task.score(task.held_out[""], outputs)
    assert scores["f1"] == scores["accuracy"] == 1.0
    assert [row["gold"] for row in task.predictions(task.held_out[""], outputs)] == task.train.tags


@pytest.mark.parametrize(
    ("tags", "labels", "metric"),
    [
        (["b-per", "i-per", "o"], ("O", "B-per", "I-per"), "f1"),
        (["B", "I", "O"], ("O", "B", "I"), "f1"),
        (["B", "M", "E"], ("O", "B", "I", "E", "S"), "f1"),
        (["U-A", "B-A", "L-A"], ("O", "B-A", "I-A", "E-A", "S-A"), "f1"),
        (["PRON", "X", "VERB"], ("PRON", "VERB", "X"), "accuracy"),
        ([0, 1, 2], ("0", "1", "2"), "accuracy"),
    ],
)
def test_spellings_of_tags(tmp_path, load, tags, labels, metric):
    tags = tags if "M" not in tags else [*tags, "S"]
    words = list("abcd")[: len(tags)]
    path = sentences(tmp_path, [(words, tags), (words, tags)])
    task = load("token_classification", train=path, held_out=path)
    assert (task.labels, task.metric) == (labels, metric)
    scores = task.score(task.held_out[""], certain(task, task.held_out[""]))
    assert scores[metric] == 1.0 and scores.get("strict_f1", 1.0) == 1.0
    assert any("numbers without names" in note for note in task.notes) == (0 in tags)
    few = tmp_path / "few.conll"  # a held-out set that shows less of the spelling
    few.write_text("".join(f"{word} {tag}\n" for word, tag in zip("ab", (tags[0], tags[-1]), strict=True)))
    load("token_classification", train=path, held_out=few)


@pytest.mark.parametrize(
    "tags", [["NN", "NN\u200b", "VB"], ["O", "B-PER", "B-PER\u200b"], ["O", "B-a b", "I-a\u00a0b"]]
)
def test_tags_that_look_alike_are_told(tmp_path, load, tags):
    path = sentences(tmp_path, [(list("abc"), tags)] * 2)
    notes = load("token_classification", train=path, held_out=path).notes
    assert len([note for note in notes if "look alike or do not show" in note]) == 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            ["O", "B_PER", "I_PER"],
            r"line 1, word 2: tag 'B_PER' looks like an entity's in another form; expected a prefix",
        ),
        (["O", "PER-B", "PER-I"], "tag 'PER-B' looks like"),
        (["'O'", "'B-PER'", "'I-PER'"], "line 1, word 2: tag \"'B-PER'\" looks like"),
        (["['O',", "'B-PER',", "'I-PER']"], "line 1, word 2: tag .* looks like"),
        (["O", "begin-PER", "inside-PER"], "word 2: tag 'begin-PER' looks like"),
        (["O,", "B-PER,", "I-PER,"], "word 1: tag 'O,' beside entity tags"),
        (["O", "B PER", "I PER"], "tag 'B PER' looks like"),
        (["O", "B-PER", "I-PER", "X"], "line 1, word 4: tag 'X' beside entity tags"),
        (["[CLS]", "B-PER", "I-PER"], r"word 1: tag '\[CLS\]' beside entity tags"),
        (["O", "B-PER", "b-per"], "word 3: tag 'b-per' beside entity tags"),
        (["O", "B-PER", "B-"], "word 3: tag 'B-' beside entity tags"),
    ],
)
def test_tags_of_another_form_are_refused(tmp_path, load, tags, message):
    path = sentences(tmp_path, [(list("abcd")[: len(tags)], tags)] * 2)
    with pytest.raises(UserError, match=message):
        load("token_classification", train=path, held_out=path)
    assert load("token_classification", train=path, held_out=path, scheme="none").labels == tuple(sorted(tags))
    with pytest.raises(UserError, match="beside entity tags"):
        load("token_classification", train=path, held_out=path, scheme="BIO")


def test_a_held_out_set_without_the_scheme_is_refused(tmp_path, load):
    train, held_out = (conll(tmp_path, n, t, t) for n, t in (("train", BIO), ("held", [["NN", "VB"]])))
    with pytest.raises(UserError, match="held line 1: tag 'NN' beside entity tags"):
        load("token_classification", train=train, held_out=held_out)
