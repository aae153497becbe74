"""Entities: labels of words, schemes, long texts, and the CRF."""

import itertools

import numpy as np
import pytest
from scipy import special

import bert_jax
from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies import training
from bert_jax.inference.tag import Word, entities
from bert_jax.model import Task
from tests.inference.conftest import LONGEST, make_model, reference, texts

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def tagger(tokenizer, crf=False, labels=LABELS, scheme="BIO", seed=0):
    task = Task("token_classification", len(labels), crf=crf)
    model = make_model(tokenizer, task, labels, seed=seed, scheme=scheme)
    if crf:
        rng = np.random.default_rng(0)
        for name in ("transitions", "first", "last"):
            leaf = model.params["task"][name]
            model.params["task"][name] = rng.normal(size=leaf.shape).astype(np.float32) * 2
    return bert_jax.TokenTagger(model)


@pytest.fixture(scope="module")
def names(tokenizer):
    return tagger(tokenizer)


def logits(model, ids):
    """Of the tokens of a text, without the special ones."""
    return reference(model.model, *rows_lib.join(model.tokenizer, ids))["logits"][1 : len(ids) + 1]


def test_entities_have_offsets_in_code_points(names):
    asked = [*texts(40, most=12), "\U0001f600 Ab\u0301c  def, ab"]
    answers = names(asked)
    count = 0
    for text, answer in zip(asked, answers, strict=True):
        end = 0
        for one in answer["entities"]:
            assert set(one) == {"label", "start", "end", "text", "score"} and one["label"] in ("PER", "LOC")
            assert one["text"] == text[one["start"] : one["end"]] == one["text"].strip() != ""
            assert one["start"] >= end and 0 < one["score"] <= 1
            end = one["end"]
            count += 1
    assert count > 40
    for i in (0, 20, 40):  # alone as in a batch (P6)
        alone = names(asked[i])["entities"]
        assert [one["score"] for one in alone] == pytest.approx([x["score"] for x in answers[i]["entities"]], rel=1e-5)
        assert [one["start"] for one in alone] == [x["start"] for x in answers[i]["entities"]]


def test_a_word_has_the_label_of_its_first_subword(tokenizer):
    parts_of_speech = tagger(tokenizer, labels=("NOUN", "VERB", "ADJ", "ADV", "O"), scheme="")
    text = "ab  éabxyz, abc"
    (ids,) = tokenizer.encode([text])
    tokens = [tokenizer.token(i) for i in ids]
    firsts = [i for i, token in enumerate(tokens) if not token.startswith("##")]
    chances = special.softmax(logits(parts_of_speech, ids), axis=-1)[firsts]
    expected = [
        (parts_of_speech.model.labels[label], word, pytest.approx(float(chance), rel=1e-4))
        for label, chance, word in zip(chances.argmax(-1), chances.max(-1), ["ab", "éabxyz", ",", "abc"], strict=True)
        if label != 4
    ]
    entities_of_text = parts_of_speech(text)["entities"]
    assert [(one["label"], one["text"], one["score"]) for one in entities_of_text] == expected and expected


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("BIO", "B-A I-A O B-A B-A I-A", [("A", 0, 2), ("A", 3, 4), ("A", 4, 6)]),
        ("BIO", "I-A I-A I-B B-B I-B O", [("A", 0, 2), ("B", 2, 3), ("B", 3, 5)]),
        ("BIO", "B-A O I-A", [("A", 0, 1), ("A", 2, 3)]),
        ("BIOES", "B-A I-A E-A S-A S-A", [("A", 0, 3), ("A", 3, 4), ("A", 4, 5)]),
        ("BIOES", "B-A E-A E-A I-B S-B B-B", [("A", 0, 2), ("A", 2, 3), ("B", 3, 4), ("B", 4, 5), ("B", 5, 6)]),
        ("", "A A B O", [("A", 0, 1), ("A", 1, 2), ("B", 2, 3)]),
        ("BIO", "", []),
    ],
)
def test_entities_of_tags(scheme, tags, expected):
    words = [Word(i, i + 1, tag, 1.0) for i, tag in enumerate(tags.split())]
    assert [(kind, some[0].start, some[-1].end) for kind, some in entities(words, scheme)] == expected


def test_words_of_a_long_text_are_labelled_where_they_have_the_most_context(tokenizer):
    every = tagger(tokenizer, labels=("A", "B", "C"), scheme="")
    words = [word for text in texts(8, seed=5) for word in text.replace(".", "").split()]
    text = " ".join(words)
    entities_of_text = every(text)["entities"]
    assert [one["text"] for one in entities_of_text] == words
    # Words near the beginning and the end are read in the first and the last window, the rest further inside.
    (ids,) = tokenizer.encode([text])
    assert len(ids) > 3 * LONGEST
    first = ids[: LONGEST - 2]  # whole words
    while tokenizer.token(ids[len(first)]).startswith("##"):
        first.pop()
    chances = special.softmax(logits(every, first), axis=-1)
    assert entities_of_text[0]["score"] == pytest.approx(float(chances[0].max()), rel=1e-4)


def test_words_longer_than_the_model(tokenizer):
    every = tagger(tokenizer, labels=("A", "B"), scheme="")
    text = "ab " + "abcdefgh" * 12 + " cd"
    assert [one["text"] for one in every(text)["entities"]] == text.split()


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_other_vocabularies_find_the_same_words(kind):
    vocabulary = training.train(kind, [text.lower() for text in texts(200)], 400 if kind == "bpe" else 150)
    every = tagger(vocabulary, labels=("A", "B"), scheme="")
    asked = [text.replace(".", "") for text in texts(6, seed=7, most=4)]
    for text, answer in zip(asked, every(asked), strict=True):
        assert [one["text"] for one in answer["entities"]] == text.split()
    if kind == "bpe":  # a word at the beginning is encoded as it is elsewhere, as in fine-tuning
        (row,), _ = every._rows([("ab cd",)], None, {})
        assert list(row.ids[1:-1]) == vocabulary.encode([" ab cd"])[0]


def test_a_crf_gives_the_likeliest_chain_and_its_marginals(tokenizer):
    """Held against all chains of a short text."""
    chained = tagger(tokenizer, crf=True, labels=("A", "B", "C"), scheme="")
    text = "ab éabxyz ab abc"
    (ids,) = tokenizer.encode([text])
    firsts = [i for i, token in enumerate(ids) if not tokenizer.token(token).startswith("##")]
    emitted = logits(chained, ids)[firsts]
    head = {name: np.asarray(leaf) for name, leaf in chained.model.params["task"].items() if name != "output"}
    scores = {
        chain: sum(emitted[i, label] for i, label in enumerate(chain))
        + sum(head["transitions"][a, b] for a, b in itertools.pairwise(chain))
        + head["first"][chain[0]] + head["last"][chain[-1]]
        for chain in itertools.product(range(3), repeat=len(firsts))
    }  # fmt: skip
    chances = dict(zip(scores, special.softmax(list(scores.values())), strict=True))
    best = max(scores, key=scores.get)
    marginals = [sum(c for chain, c in chances.items() if chain[i] == label) for i, label in enumerate(best)]
    entities_of_text = chained(text)["entities"]
    assert [one["label"] for one in entities_of_text] == ["ABC"[label] for label in best]
    assert [one["score"] for one in entities_of_text] == pytest.approx(marginals, rel=1e-4)
    assert best != tuple(emitted.argmax(-1))
