"""Statistics over a million tokens; what must hold, holds for every row."""

import numpy as np
import pytest

from bert_jax.data import hashing
from bert_jax.data.masking import Masking

VOCABULARY, SPECIAL, MASK = 1000, np.array([0, 1, 2, 3, 4]), 4
ORDINARY = np.setdiff1d(np.arange(VOCABULARY), SPECIAL)


def masking(unit="token", rate=0.15, slots=None, sequence=128, **changes):
    settings = {"mask_token_share": 0.8, "random_token_share": 0.1} | changes
    slots = slots or max(1, int(np.rint(rate * (sequence - 2))))
    return Masking(unit=unit, rate=rate, slots=slots, mask_id=MASK, ordinary_ids=ORDINARY, **settings)


def rows(batch=2000, sequence=128, seed=0, subwords=0.4):
    """Returns text with special tokens at both ends and inside, padding, and words of one or more tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(ORDINARY, (batch, sequence)).astype(np.int32)
    length = rng.integers(3, sequence + 1, batch)
    length[: batch // 2] = sequence
    maskable = np.arange(sequence)[None] < length[:, None] - 1
    maskable[:, 0] = False
    maskable[np.arange(batch), length // 2] = False  # a separator
    ids[~maskable] = 2
    starts = rng.random((batch, sequence)) >= subwords
    keys = hashing.draw(hashing.fold("rows", seed), np.arange(batch))
    return ids, maskable, starts, keys


def chosen_of(positions, weights, shape):
    chosen = np.zeros(shape, bool)
    r, s = np.nonzero(weights)
    chosen[r, positions[r, s]] = True
    return chosen


@pytest.mark.parametrize("unit", ["token", "whole_word", "span", "ngram"])
def test_invariants_of_every_row(unit):
    ids, maskable, starts, keys = rows()
    m = masking(unit)
    masked, positions, labels, weights = m(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    assert not (chosen & ~maskable).any(), "a special token or padding was chosen"
    assert (masked[~chosen] == ids[~chosen]).all(), "a token that is not predicted changed"
    r, s = np.nonzero(weights)
    assert (labels[r, s] == ids[r, positions[r, s]]).all()
    assert chosen.sum() == len(r), "a position was predicted twice"
    unused = weights == 0
    assert not positions[unused].any() and not labels[unused].any()
    assert (np.diff(np.where(unused, 10_000, positions), axis=1) >= 0).all(), "slots are not in order"
    assert chosen.any(1)[maskable.any(1)].all(), "a row predicts nothing"
    replaced = masked[chosen]
    assert np.isin(replaced, np.append(ORDINARY, MASK)).all(), "a special token was drawn"
    count = chosen.sum(1)
    wanted = np.maximum(maskable.any(1), np.rint(0.15 * maskable.sum(1)))
    if unit == "token":
        assert (count == wanted).all()
    else:
        fits = count <= wanted
        assert fits.mean() > 0.95  # the others are short rows whose shortest word is over the budget
        assert abs(count[:1000].mean() / wanted[:1000].mean() - 1) < 0.03


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_share_mix_and_uniformity_over_a_million_tokens(rate):
    ids, maskable, starts, keys = rows(batch=10_000)
    masked, positions, labels, weights = masking(rate=rate)(ids, maskable, None, keys)
    total = int(weights.sum())
    assert ids.size > 1_000_000
    assert abs(total / maskable.sum() - rate) < 0.003
    r, s = np.nonzero(weights)
    after, before = masked[r, positions[r, s]], labels[r, s]
    is_mask, is_same = after == MASK, after == before
    is_random = ~is_mask & ~is_same
    sigma = 4 * np.sqrt(0.25 / total)
    assert abs(is_mask.mean() - 0.8) < sigma
    assert abs(is_random.mean() - 0.1 * (1 - 1 / len(ORDINARY))) < sigma
    assert abs(is_same.mean() - 0.1) < sigma + 0.001
    counts = np.bincount(after[is_random], minlength=VOCABULARY)[ORDINARY]
    expected = counts.mean()
    assert ((counts - expected) ** 2 / expected).sum() < 1.3 * len(ORDINARY)
    # Every place of a full row is as likely as any other.
    full = maskable[:5000]
    per_column = chosen_of(positions, weights, ids.shape)[:5000].sum(0)[full.all(0)]
    assert ((per_column - per_column.mean()) ** 2 / per_column.mean()).sum() < 1.5 * len(per_column)


@pytest.mark.parametrize("mix", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.8, 0.2)])
def test_shares_of_mask_random_and_kept_tokens(mix):
    ids, maskable, _, keys = rows(batch=1000)
    m = masking(mask_token_share=mix[0], random_token_share=mix[1])
    masked, positions, labels, weights = m(ids, maskable, None, keys)
    r, s = np.nonzero(weights)
    after, before = masked[r, positions[r, s]], labels[r, s]
    assert abs((after == MASK).mean() - mix[0]) < 0.02
    assert abs(((after != MASK) & (after != before)).mean() - mix[1]) < 0.02


def word_lengths(maskable, starts):
    """Returns how many tokens the word of each token has, int64 [batch, sequence]; 0 where none is maskable."""
    before = np.pad(maskable, ((0, 0), (1, 0)))[:, :-1]
    words = np.cumsum((maskable & (starts | ~before)).ravel()).reshape(maskable.shape)
    return np.where(maskable, np.bincount(words[maskable])[np.where(maskable, words, 0)], 0)


def is_longer(maskable, starts, wanted, share):
    """Returns whether each token is of a word of several tokens, more than a share of those that its row predicts."""
    lengths = word_lengths(maskable, starts)
    return (lengths > 1) & (lengths > share * wanted[:, None])


@pytest.mark.parametrize("unit", ["whole_word", "span", "ngram"])
def test_words_are_whole_unless_they_are_long(unit):
    ids, maskable, starts, keys = rows(seed=1)
    m = masking(unit)
    _, positions, _, weights = m(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    long = is_longer(maskable, starts, m.wanted(maskable.sum(1)), 1 / 2)
    assert 0.005 < long[maskable].mean() < 0.2
    partly = []  # words of each row that are masked in part: where others are too few to make up the number
    for row in range(len(ids)):
        ring = chosen[row, long[row]]  # a run, which may go on at the beginning
        assert (ring & ~np.roll(ring, 1)).sum() <= 1, f"row {row}: several runs of the long words"
        words, before = [], False
        for column in range(ids.shape[1]):
            if maskable[row, column] and (starts[row, column] or not before):
                words.append([])
            if maskable[row, column] and not long[row, column]:
                words[-1].append(bool(chosen[row, column]))
            before = maskable[row, column]
        partly.append(sum(len(set(word)) > 1 for word in words))
    assert max(partly) <= (2 if unit == "whole_word" else 3)
    assert np.mean(np.array(partly) > 0) < (0.01 if unit == "whole_word" else 0.3)
    only_short = ~is_longer(maskable, starts, m.wanted(maskable.sum(1)), 1 / 4).any(1)
    assert only_short.mean() > 0.1 and (unit == "whole_word" or not np.array(partly)[only_short].any())


@pytest.mark.parametrize("unit", ["whole_word", "span", "ngram"])
@pytest.mark.parametrize(("sequence", "subwords"), [(64, 0.25), (64, 0.6), (128, 0.4), (128, 0.6)])
def test_long_words_are_masked_as_often_as_short_ones(unit, sequence, subwords):
    ids, maskable, starts, keys = rows(8000, sequence, seed=4, subwords=subwords)
    ids, maskable, starts, keys = (x[:4000] for x in (ids, maskable, starts, keys))  # the rows without padding
    m = masking(unit, sequence=sequence)
    _, positions, _, weights = m(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    lengths = word_lengths(maskable, starts)
    long = is_longer(maskable, starts, m.wanted(maskable.sum(1)), 1 / 4)
    rate = chosen[maskable].mean()
    assert abs(rate - 0.15) < 0.005
    assert abs(chosen[long].mean() / rate - 1) < 0.03
    for length in range(1, 7):  # with spans and n-grams, of the short ones the shortest fill up what others leave
        if (lengths == length).sum() > 20_000:
            apart = 0.06 if unit == "whole_word" else 0.25
            assert 1 - apart < chosen[lengths == length].mean() / rate < 1 + apart, length


@pytest.mark.parametrize("unit", ["whole_word", "span", "ngram"])
def test_words_of_every_length_and_both_ends_of_a_row_in_a_script_without_spaces(unit):
    """Words of one token that stand among longer ones, as where WordPiece knows few pieces of a phrase."""
    batch, sequence = 8000, 128
    rng = np.random.default_rng(1)
    lengths = rng.choice([1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 8, 9, 12, 18], (batch, sequence))
    lengths[:, 0] = rng.integers(1, lengths[:, 0] + 1)  # the row's beginning cuts a word
    begins = np.concatenate([np.ones((batch, 1), int), 1 + np.cumsum(lengths, 1)], 1)
    starts = np.zeros((batch, begins.max() + 1), bool)
    np.put_along_axis(starts, begins, True, 1)
    starts = starts[:, :sequence]
    maskable = np.ones((batch, sequence), bool)
    maskable[:, [0, -1]] = False
    ids, keys = np.full((batch, sequence), 7, np.int32), hashing.draw(hashing.fold("a script"), np.arange(batch))
    _, positions, _, weights = masking(unit, sequence=sequence)(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    rate = chosen[maskable].mean()
    assert abs(rate - 19 / 126) < 0.001
    deviation = np.sqrt((1 - rate) / rate / batch)
    assert abs(chosen[:, [1, 2, -3, -2]].mean(0) / rate - 1).max() < 4.5 * deviation
    found = word_lengths(maskable, starts)
    for length in (1, 2, 3, 4, 5, 7, 12, 18):
        assert abs(chosen[found == length].mean() / rate - 1) < (0.06 if unit == "whole_word" else 0.12), length


def test_span_lengths_are_the_clipped_geometric():
    batch, sequence = 3000, 512
    ids = np.full((batch, sequence), 7, np.int32)
    maskable = np.ones(ids.shape, bool)
    starts = np.ones(ids.shape, bool)
    keys = hashing.draw(hashing.fold("spans"), np.arange(batch))
    m = masking("span", rate=0.05, sequence=sequence)
    _, positions, _, weights = m(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    # SpanBERT, section 3.1: the mean is 3.8; touching spans lengthen it, the cut at the budget shortens it.
    assert 3.2 < lengths.mean() < 4.2
    assert lengths.max() <= 20


def test_tokens_of_a_span_are_replaced_alike():
    ids, maskable, starts, keys = rows(batch=1000)
    masked, positions, labels, weights = masking("span", sequence=128)(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    is_mask = (masked == MASK) & chosen
    both = chosen[:, 1:] & chosen[:, :-1]
    same = (is_mask[:, 1:] == is_mask[:, :-1])[both].mean()
    assert same > 0.9  # 0.68 if each token had its own fate


def reference_ngrams(maskable, starts, key, wanted, longest):
    """Returns the columns that the published procedure masks in one row: n-grams at its words in random order.

    One that reaches the end of the text goes on at its beginning.
    """
    runs, before = [], False
    for column in range(len(maskable)):
        if maskable[column]:
            if not before:
                runs.append([])
            if starts[column] or not before:
                runs[-1].append([])
            runs[-1][-1].append(column)
        before = maskable[column]
    places = [(run, i) for run in runs for i in range(len(run))]
    firsts = np.array([run[i][0] for run, i in places])
    taken, used = set(), 0
    shares = np.cumsum(1 / np.arange(1, longest + 1)) / (1 / np.arange(1, longest + 1)).sum()
    for w in np.argsort(hashing.draw(key, firsts)).tolist():
        if used >= wanted:
            break
        number = 1 + int((hashing.uniform(hashing.draw(key, np.uint64((3 << 20) + firsts[w]))) >= shares[:-1]).sum())
        run, i = places[w]
        gram = [run[(i + step) % len(run)] for step in range(min(number, len(run)))]
        while gram and used + sum(map(len, gram)) > wanted:
            gram.pop()
        columns = {column for word in gram for column in word}
        if gram and not columns & taken:
            taken |= columns
            used += len(columns)
    return taken


@pytest.mark.parametrize("longest", [1, 3, 5])
def test_ngrams_are_the_published_procedure(longest):
    ids, maskable, starts, keys = rows(batch=1000, seed=3, subwords=0.2)
    m = masking("ngram", ngram_max=longest)
    _, positions, _, weights = m(ids, maskable, starts, keys)
    chosen = chosen_of(positions, weights, ids.shape)
    compared = 0
    long = is_longer(maskable, starts, m.wanted(maskable.sum(1)), 1 / 4).any(1)
    for row, wanted in enumerate(m.wanted(maskable.sum(1)).tolist()):
        if long[row]:
            continue
        expected = reference_ngrams(maskable[row], starts[row], keys[row], wanted, longest)
        assert set(np.flatnonzero(chosen[row]).tolist()) == expected
        compared += 1
    assert compared > 250


def test_ngram_lengths_and_independent_replacements():
    """Words of one token, few of them wanted: p(n) ~ 1/n, and each token is replaced independently."""
    batch, sequence = 4000, 512
    ids = np.full((batch, sequence), 7, np.int32)
    everywhere = np.ones(ids.shape, bool)
    keys = hashing.draw(hashing.fold("ngrams"), np.arange(batch))
    masked, positions, _, weights = masking("ngram", rate=3 / sequence, sequence=sequence)(
        ids, everywhere, everywhere, keys
    )
    chosen = chosen_of(positions, weights, ids.shape)
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
    begins, lengths = np.nonzero(edges == 1), np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    # Three tokens a row: what is drawn first is not shortened. Which was first, the row's smallest score says.
    scores = hashing.draw(keys[:, None], np.arange(sequence)[None])
    first = dict(zip(range(batch), scores.argmin(1).tolist(), strict=True))
    of_first = lengths[[first[row] == column for row, column in zip(*(x.tolist() for x in begins), strict=True)]]
    shares = np.bincount(of_first, minlength=4)[1:4] / len(of_first)
    assert len(of_first) > 0.95 * batch
    np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=0.03)
    is_mask = (masked == MASK) & chosen
    both = chosen[:, 1:] & chosen[:, :-1]
    same = (is_mask[:, 1:] == is_mask[:, :-1])[both].mean()
    assert abs(same - (0.8**2 + 0.2**2)) < 0.03


def test_a_row_depends_on_its_own_key_alone():
    ids, maskable, starts, keys = rows(batch=64)
    for unit in ("token", "whole_word", "span", "ngram"):
        whole = masking(unit)(ids, maskable, starts, keys)
        for begin in (0, 10, 63):
            part = masking(unit)(ids[begin:], maskable[begin:], starts[begin:], keys[begin:])
            for a, b in zip(whole, part, strict=True):
                np.testing.assert_array_equal(a[begin:], b)
        other = masking(unit)(ids, maskable, starts, keys + np.uint64(1))
        assert (whole[1] != other[1]).any(1).mean() > 0.9


def chi_square_quantile(freedom):
    """Returns the value that a chi-square variable exceeds once in a thousand times (Wilson and Hilferty 1931)."""
    share = 2 / (9 * freedom)
    return freedom * (1 - share + 3.09 * share**0.5) ** 3


SCRIPTS = {  # share of the tokens that continue a word
    "one token a word": 0.0,
    "English": 0.25,
    "no spaces": 0.93,
    "few spaces": 0.97,
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("unit", ["token", "whole_word", "span", "ngram"])
@pytest.mark.parametrize("script", [*SCRIPTS, "one endless word"])
@pytest.mark.parametrize("separator", [None, 20])
def test_every_place_of_a_row_is_as_likely_to_be_masked(unit, script, separator):
    """Chi-square of one masked place of each row: the places of a row are masked together and so not independent."""
    batch, sequence = 20_000, 64
    rng = np.random.default_rng(5)
    ids = np.full((batch, sequence), 7, np.int32)
    maskable = np.ones(ids.shape, bool)
    maskable[:, [0, -1, *([separator] if separator else [])]] = False
    endless = script == "one endless word"
    starts = np.zeros(ids.shape, bool) if endless else rng.random(ids.shape) >= SCRIPTS[script]
    keys = hashing.draw(hashing.fold("places", script), np.arange(batch))
    _, positions, _, weights = masking(unit, sequence=sequence)(ids, maskable, starts, keys)
    assert abs(weights.sum() / maskable.sum() - 0.15) < 0.02
    one = positions[np.arange(batch), (rng.random(batch) * weights.sum(1)).astype(int)]
    counts = np.bincount(one, minlength=sequence)[maskable[0]]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < chi_square_quantile(len(counts) - 1), counts


def test_a_row_of_one_endless_word_and_an_empty_row():
    ids = np.full((2, 32), 7, np.int32)
    maskable = np.zeros(ids.shape, bool)
    maskable[0, 1:-1] = True
    starts = np.zeros(ids.shape, bool)
    keys = np.array([1, 2], np.uint64)
    for unit in ("whole_word", "span", "ngram"):
        _, _, _, weights = masking(unit, sequence=32)(ids, maskable, starts, keys)
        assert weights.sum(1).tolist() == [4.0, 0.0]
