"""Masked places in text of many scripts, from the text through the vocabulary to the row."""

import random

import numpy as np
import pytest

from bert_jax.data import hashing
from bert_jax.data.masking import Masking
from bert_jax.data.preparation.sentences import sentences_of
from bert_jax.data.vocabularies import training, word_pieces
from tests.data.awkward import shared
from tests.data.test_masking import chi_square_quantile

UNITS = ("token", "whole_word", "span", "ngram")
ROWS = 5000
# Letters of a script, the space between its words, and its full stop.
SCRIPTS = {
    "Latin": ("abcdefghijklmnoprstuvwz", " ", ". "),
    "Cyrillic": ("абвгдежзиклмнопрстуфхцч", " ", ". "),
    "Han": ("的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年", "", "。"),
    "kana": ("あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめも", "", "。"),
    "Thai": ("กขคงจชซญดตถทนบปผพฟมยรลวสหอ", "", " "),
    "Hangul": ("가나다라마바사아자차카타파하고노도로모보소오조", " ", ". "),
    "Devanagari": ("कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह", " ", "। "),
}


# Syllables and endings of languages with long words, of which a small vocabulary knows the parts.
LONG_WORDS = {
    "Finnish": (
        "ka la ta ki ni sa tu pää vuo ry hmi työ oi ke us ra hoi väl mää",
        "ssa sta lla lle nsa mme kin ko ista",
    ),
    "Turkish": (
        "ba ka sı gel git yap çö zü hak la öz gür dü şün kay nak",
        "lar ler ın de den imiz ların dır mış sınız",
    ),
    "Georgian": ("და ბა კა თი მო უფ ლე ცხო ვრე გან სხვა მშვი დო", "ობა ების ისა თვის შია დან ებული ული"),
    "Tamil": ("உரி மை மனி த சுத ந்தி ர பிற வி சம கௌ ர வ", "கள் களின் யும் த்தில் ப்பட்ட வர்கள் க்கும்"),
}


def made_text(script):
    """Returns sentences of made-up words; frequent ones are short, as in languages."""
    letters, space, stop = SCRIPTS[script]
    draw = random.Random(script)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(300)]
    return sentences_of_words(draw, words, space, stop)


def made_text_of_long_words(language):
    """Returns sentences of made-up words of up to six syllables and three endings; frequent ones are rather short."""
    syllables, endings = (parts.split() for parts in LONG_WORDS[language])
    draw = random.Random(language)
    words = [
        "".join(draw.choices(syllables, k=draw.randint(1, 6)) + draw.choices(endings, k=draw.randint(0, 3)))
        for _ in range(1500)
    ]
    return sentences_of_words(draw, sorted(words, key=lambda word: len(word) + draw.randint(0, 12)), " ", ". ")


def sentences_of_words(draw, words, space, stop):
    """Returns 600 sentences of words, the first of which are the most frequent."""
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return [space.join(draw.choices(words, weights, k=draw.randint(4, 25))) + stop.strip() for _ in range(600)]


def chi_squares(tokenizer, sentences, sequence=64, num_slots=9, num_rows=ROWS, units=UNITS):
    """Returns the chi-square of one masked place of each row, for each unit; rows are cut from the text at random."""
    ids, starts, _ = tokenizer.encode_flat(sentences)
    starts |= word_pieces.begins_word(tokenizer)[ids]
    special = np.isin(ids, tokenizer.special_ids)
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(ids) - sequence, num_rows)[:, None] + np.arange(sequence)
    rows, maskable, starts = ids[places].astype(np.int32), ~special[places], starts[places]
    maskable[:, [0, -1]] = False
    keys = hashing.draw(hashing.fold("scripts"), np.arange(num_rows))
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
    results = {}
    for unit in units:
        mask = Masking(unit, 0.15, 0.8, 0.1, slots=num_slots, mask_id=tokenizer.mask_id, ordinary_ids=ordinary)
        _, positions, _, weights = mask(rows, maskable, None if unit == "token" else starts, keys)
        assert abs(weights.sum() / maskable.sum() - 0.15) < 0.03
        masked = np.flatnonzero(weights.sum(1))
        one = positions[masked, (rng.random(len(masked)) * weights[masked].sum(1)).astype(int)]
        columns = maskable.any(0)
        counts = np.bincount(one, minlength=sequence)[columns]
        results[unit] = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    return results, chi_square_quantile(int(columns.sum()) - 1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_masked_places_are_uniform_in_made_text(script, kind):
    sentences = made_text(script)
    results, most = chi_squares(training.train(kind, sentences, 600), sentences)
    assert max(results.values()) < most, results


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("sequence", "num_slots"), [(64, 10), pytest.param(128, 20, marks=pytest.mark.full)])
@pytest.mark.parametrize(("language", "kind", "size"), [
    ("Finnish", "wordpiece", 120), ("Finnish", "bpe", 400), ("Turkish", "wordpiece", 120),
    ("Georgian", "wordpiece", 120), ("Georgian", "bpe", 400), ("Tamil", "wordpiece", 150), ("Tamil", "bpe", 500),
])  # fmt: skip
def test_masked_places_are_uniform_in_made_text_of_long_words(language, kind, size, sequence, num_slots):
    sentences = made_text_of_long_words(language)
    tokenizer = training.train(kind, sentences, size)
    results, most = chi_squares(tokenizer, sentences, sequence, num_slots, 20_000, UNITS[1:])
    assert max(results.values()) < most, results


def declaration(language):
    """Returns the sentences of the declaration of human rights in a language."""
    lines = [line.strip() for line in shared(f"udhr/{language}.txt").read_text("utf-8").split("\n") if line.strip()]
    return [sentence for line in lines for sentence in sentences_of([line], "split", language)]


@pytest.mark.full
@pytest.mark.parametrize(("language", "kind", "size", "sequence", "num_slots"), [
    ("fi", "wordpiece", 200, 64, 10), ("fi", "wordpiece", 300, 128, 20), ("tr", "wordpiece", 300, 64, 10),
    ("tr", "bpe", 400, 128, 20), ("ka", "wordpiece", 400, 128, 20), ("ka", "bpe", 400, 128, 20),
    ("ta", "wordpiece", 500, 128, 20), ("th", "wordpiece", 1000, 128, 20), ("km", "wordpiece", 1000, 128, 20),
    ("ko", "wordpiece", 700, 128, 20), ("de", "wordpiece", 300, 64, 10), ("sw", "wordpiece", 200, 64, 10),
])  # fmt: skip
def test_masked_places_are_uniform_with_a_small_vocabulary(language, kind, size, sequence, num_slots):
    sentences = declaration(language)
    tokenizer = training.train(kind, sentences, size)
    results, most = chi_squares(tokenizer, sentences, sequence, num_slots, 20_000, UNITS[1:])
    assert max(results.values()) < most, results


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@pytest.mark.parametrize("language", ["zh", "ja", "th", "km", "hi", "en"])
def test_masked_places_are_uniform_in_the_declaration_of_human_rights(language, kind):
    sentences = declaration(language)
    results, most = chi_squares(training.train(kind, sentences, 700), sentences)
    assert max(results.values()) < most, results
