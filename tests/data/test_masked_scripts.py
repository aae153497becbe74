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
SEQUENCE, ROWS = 64, 3000
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


def made_text(script):
    """Returns sentences of made-up words; frequent ones are short, as in languages."""
    letters, space, stop = SCRIPTS[script]
    draw = random.Random(script)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(300)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return [space.join(draw.choices(words, weights, k=draw.randint(4, 25))) + stop.strip() for _ in range(600)]


def chi_squares(tokenizer, sentences):
    """Returns the chi-square of one masked place of each row, for each unit; rows are cut from the text at random."""
    ids, starts, _ = tokenizer.encode_flat(sentences)
    starts |= word_pieces.begins_word(tokenizer)[ids]
    special = np.isin(ids, tokenizer.special_ids)
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(ids) - SEQUENCE, ROWS)[:, None] + np.arange(SEQUENCE)
    rows, maskable, starts = ids[places].astype(np.int32), ~special[places], starts[places]
    maskable[:, [0, -1]] = False
    keys = hashing.draw(hashing.fold("scripts"), np.arange(ROWS))
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
    results = {}
    for unit in UNITS:
        mask = Masking(unit, 0.15, 0.8, 0.1, slots=9, mask_id=tokenizer.mask_id, ordinary_ids=ordinary)
        _, positions, _, weights = mask(rows, maskable, None if unit == "token" else starts, keys)
        assert abs(weights.sum() / maskable.sum() - 0.15) < 0.03
        masked = np.flatnonzero(weights.sum(1))
        one = positions[masked, (rng.random(len(masked)) * weights[masked].sum(1)).astype(int)]
        columns = maskable.any(0)
        counts = np.bincount(one, minlength=SEQUENCE)[columns]
        results[unit] = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    return results, chi_square_quantile(int(columns.sum()) - 1)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_masked_places_are_uniform_in_made_text(script, kind):
    sentences = made_text(script)
    results, most = chi_squares(training.train(kind, sentences, 600), sentences)
    assert max(results.values()) < most, results


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@pytest.mark.parametrize("language", ["zh", "ja", "th", "km", "hi", "en"])
def test_masked_places_are_uniform_in_the_declaration_of_human_rights(language, kind):
    lines = [line.strip() for line in shared(f"udhr/{language}.txt").read_text("utf-8").split("\n") if line.strip()]
    sentences = [sentence for line in lines for sentence in sentences_of([line], "split", language)]
    results, most = chi_squares(training.train(kind, sentences, 700), sentences)
    assert max(results.values()) < most, results
