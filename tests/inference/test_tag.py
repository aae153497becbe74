"""Entities: labels of words, schemes, long texts, and the CRF."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import special

import bert_jax
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import metrics, schemes
from bert_jax.data.tasks import words as words_lib
from bert_jax.data.vocabularies import training
from bert_jax.errors import UserError
from bert_jax.inference.tag import Word, entities
from bert_jax.model import Task
from tests.data.tasks.test_words import CONVENTIONS, UNSEEN
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
    """Returns the reference's logits of the tokens of a text, without the special ones."""
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
        ("BIOES", "B-A I-A L-A U-A U-A", [("A", 0, 3), ("A", 3, 4), ("A", 4, 5)]),  # BILOU
        ("BIOES", "B-A M-A E-A W-A", [("A", 0, 3), ("A", 3, 4)]),  # BMEWO
        ("BIO", "[CLS] B-A X I-A B-B X [SEP] <pad>", [("A", 1, 2), ("A", 3, 4), ("B", 4, 5)]),
        ("BIO", "B-A I-A MISC MISC", [("A", 0, 2), ("MISC", 2, 3), ("MISC", 3, 4)]),
        ("BIO", "b-a i-a o i-a b-a", [("a", 0, 2), ("a", 3, 4), ("a", 4, 5)]),
        ("BIO", "B I O B B", [("_", 0, 2), ("_", 3, 4), ("_", 4, 5)]),
        ("", "X X O", [("X", 0, 1), ("X", 1, 2)]),  # parts of speech
    ],
)
def test_entities_of_tags(scheme, tags, expected):
    words = [Word(i, i + 1, tag, 1.0) for i, tag in enumerate(tags.split())]
    written = schemes.of_labels([*tags.split(), "O" if tags.isupper() else "o"])[1]
    assert [(kind, some[0].start, some[-1].end) for kind, some in entities(words, scheme, written)] == expected


def test_words_have_the_labels_that_they_had_in_training(tokenizer):
    """Each word has the label of its first sub-word, however the tokenizer would cut the text that they make."""
    every = tagger(tokenizer, labels=("NOUN", "VERB", "ADJ", "O"), scheme="")
    sentence = ["ab.", "\u200b", "ab-cd,ef", "?", "abc"]
    answer = every(words=sentence)
    assert list(answer) == ["words", "tags", "entities"] and answer["words"] == sentence
    pieces = [tokenizer.encode([word])[0] for word in sentence]
    firsts = np.cumsum([0, *map(len, pieces)])
    chosen = logits(every, [i for piece in pieces for i in piece]).argmax(-1)
    labels = [every.model.labels[chosen[first]] if piece else "O" for first, piece in zip(firsts, pieces, strict=False)]
    assert answer["tags"] == labels
    found = {(one["start"], one["text"]): one["label"] for one in answer["entities"]}
    text = " ".join(sentence)
    assert all(text[start : start + len(word)] == word for start, word in found)
    expected = [label for word, label in zip(sentence, labels, strict=True) if label != "O" and word != "\u200b"]
    assert list(found.values()) == expected
    assert every([sentence, text])[0] == every(words=[sentence])[0] == answer
    assert every([sentence, text])[1] == every(text)
    assert every(words=[]) == [] and every(words=[[]]) == [{"words": [], "tags": [], "entities": []}]
    long = [word for some in texts(8, seed=5) for word in some.split()]
    assert len(every(words=long)["tags"]) == len(long) > LONGEST


@pytest.mark.parametrize(
    "given", [{}, {"text": "a", "words": ["a"]}, {"words": [["a", 1]]}, {"words": [3]}, {"text": [3]}]
)
def test_what_is_neither_a_text_nor_words_is_refused(names, given):
    with pytest.raises((UserError, TypeError)):
        names(**given)


def test_a_text_is_cut_as_training_was(tokenizer):
    cutting = words_lib.cutting([["ab", "."], ["cd", "'s", "ab."], ["ef", ","], ["gh", "."], ["a.b."], ["."]])
    tagged = tagger(tokenizer, labels=("A", "B"), scheme="")
    settings = {"words": cutting, "max_length": 20}
    tagged = bert_jax.TokenTagger(dataclasses.replace(tagged.model, settings=settings))
    for text, expected in (
        ("cd's, ef ab. gh-ef gh.", ["cd", "'s", ",", "ef", "ab.", "gh-ef", "gh", "."]),
        ("gh. cd's . ef", ["gh.", "cd's", ".", "ef"]),  # cut already
        ("ab\u4e2d\u6587.", ["ab", "\u4e2d", "\u6587", "."]),
    ):
        entities_of_text = tagged(text)["entities"]
        assert [one["text"] for one in entities_of_text] == expected
        by_words = tagged(words=expected)["entities"]
        assert [one["label"] for one in by_words] == [one["label"] for one in entities_of_text]
    assert tagged.max_length == 20


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_raw_text_scores_as_its_words_do_in_training(tokenizer, convention):
    """The F1 of predictions for raw text is that of fine-tuning's evaluation, which reads the words of the data."""
    pairs = [(text, cut.split("|")) for text, cut in CONVENTIONS[convention] + UNSEEN[convention]]
    cutting = words_lib.cutting([words for _, words in pairs[: len(CONVENTIONS[convention])]] + [["?"], [","], ["x"]])
    if convention == "white space":
        cutting = words_lib.cutting([words for _, words in pairs[: len(CONVENTIONS[convention])]])
    tagged = tagger(tokenizer, labels=("A", "B", "C"), scheme="")
    settings = {"words": cutting, "max_length": 64}
    tagged = bert_jax.TokenTagger(dataclasses.replace(tagged.model, settings=settings))
    rng = np.random.default_rng(0)
    gold = [rng.choice(["A", "B", "C"], len(words)).tolist() for _, words in pairs]
    in_training = [answer["tags"] for answer in tagged(words=[words for _, words in pairs])]
    by_text = tagged([text for text, _ in pairs])
    placed, predicted = set(), set()
    for i, ((text, words), labels) in enumerate(zip(pairs, gold, strict=True)):
        place = 0
        for word, label in zip(words, labels, strict=True):
            place = text.index(word, place)
            placed.add((i, place, place + len(word), label))
            place += len(word)
        predicted |= {(i, one["start"], one["end"], one["label"]) for one in by_text[i]["entities"]}
    f1 = 2 * len(placed & predicted) / (len(placed) + len(predicted))
    assert f1 == pytest.approx(metrics.tags(gold, in_training)["accuracy"]) and 0 < f1 < 1


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
