"""Chooses the tokens that are predicted and what replaces them, for a whole batch at once.

Everything random is a function of the row's key and the token's position, so static and dynamic masking are the
same function, called with keys that repeat or do not (BERT, section 3.1; RoBERTa, section 4.1).
"""

import dataclasses

import numpy as np

from bert_jax.config.keys import PRETRAINING
from bert_jax.data import hashing

# Counters of a row's draws; positions are below 1 << 20.
_CHOICE, _REPLACEMENT, _RANDOM_TOKEN, _SPAN, _LONG_WORDS = (i << 20 for i in range(5))
_SPAN_ROUNDS = 64  # spans that are tried in each row, or as many as tokens are wanted
# Shares of a row's wanted tokens, from which on a word is long: see _long_words and _part_of_longest_words.
_LONG_WORD, _LONGEST_WORD = 1 / 4, 1 / 2


@dataclasses.dataclass(frozen=True)
class Masking:
    """Masks the batches of a phase when it is called.

    Every maskable place of a row is as likely to be predicted as any other, for each unit. Two things therefore differ
    from the published procedures. Spans and n-grams that reach the end of the text, or a special token, go on at its
    beginning; where they are cut off, the first words of a text are covered by fewer spans than the others. And longer
    words are not masked "if they still fit" beside others, which favours short words, among them those that a row's
    ends cut off. Words of several tokens (with "span" and "ngram", of more than a quarter of the tokens that a row is
    to predict) are drawn first, with equal chances, and the others make up the number. Where they are too few for
    that, as in scripts without spaces, one to three words of a row are masked in part. Words of more than half of the
    tokens that a row is to predict (ten or more in a row of 128 tokens, which predicts 19) have a random run masked.

    Attributes:
      unit: "token"; "whole_word", all of a word's tokens or none; "span", runs of whole words whose number is
        geometric, all tokens of a run being replaced alike (SpanBERT, section 3.1); or "ngram", runs of n whole words,
        p(n) ~ 1/n, each token being replaced independently (ALBERT, section 3.1, and google-research/albert's
        create_pretraining_data.py).
      rate: share of the maskable tokens that is predicted, rounded, at least one token per row.
      mask_token_share: share of the predicted tokens that becomes the mask token.
      random_token_share: share of the predicted tokens that becomes a random ordinary token; the rest stay.
      slots: prediction slots of a row; no row predicts more.
      mask_id: id of the mask token.
      ordinary_ids: int64 [n], the vocabulary without its special tokens.
      span_p, span_max_words: the clipped geometric distribution of a span's number of words.
      ngram_max: words of the longest n-gram.
    """

    unit: str
    rate: float
    mask_token_share: float
    random_token_share: float
    slots: int
    mask_id: int
    ordinary_ids: np.ndarray
    span_p: float = PRETRAINING["data.span_p"].default
    span_max_words: int = PRETRAINING["data.span_max_words"].default
    ngram_max: int = PRETRAINING["data.ngram_max"].default

    def __call__(self, input_ids: np.ndarray, maskable: np.ndarray, word_starts: np.ndarray | None, keys: np.ndarray):
        """Masks a batch.

        Args:
          input_ids: int32 [batch, sequence].
          maskable: bool [batch, sequence], False on special tokens and padding.
          word_starts: bool [batch, sequence], True on a word's first token; None for unit "token".
          keys: uint64 [batch]; equal rows with equal keys get equal masks.

        Returns:
          (input_ids with replacements, int32 [batch, sequence]; masked_positions int32 [batch, slots], ascending;
          masked_labels int32 [batch, slots]; masked_weights float32 [batch, slots]); unused slots are zero in all.
        """
        wanted = self.wanted(maskable.sum(1))
        if self.unit == "token":
            return self._replace(input_ids, _smallest(_scores(keys, maskable), wanted, self.slots), keys, None)
        words = _Words(maskable, word_starts, wanted, self.unit == "whole_word")
        chosen = _part_of_longest_words(words, keys, wanted)
        chosen |= _long_words(words, keys, wanted, wanted - chosen.sum(1))
        rest = wanted - chosen.sum(1)
        anchor_column = None
        if self.unit == "whole_word":
            picked = _pick_words(words, keys, rest)
        elif self.unit == "ngram":
            picked, last = self._pick_ngrams(words, keys, rest)
            chosen |= _part_of_last_words(words, keys, picked, last, rest)
        else:
            picked, last, anchor = self._pick_spans(words, keys, rest)
            chosen |= _part_of_last_words(words, keys, picked, last, rest)
            anchor_column = words.spread(words.start_column[anchor])
        _pick_at_least_one(words, picked, (wanted > 0) & ~chosen.any(1), keys)
        chosen |= words.to_tokens(picked)
        return self._replace(input_ids, chosen, keys, anchor_column)

    def wanted(self, maskable: np.ndarray) -> np.ndarray:
        """Returns how many tokens are to be predicted of `maskable` ones (int, any shape), int64 of the same shape."""
        share = np.rint(self.rate * maskable).astype(np.int64)
        return np.minimum(np.maximum(share, maskable > 0), self.slots)

    def _pick_spans(self, words, keys, wanted):
        """Picks spans that begin at random words until the budget is used.

        A span ends where another one begins. None crosses a special token (see `_Words.after`).

        Returns:
          (bool [words], whether each is picked; int64 [batch], the word of each row that exceeds the budget and ends
          it, see _part_of_last_words, -1 for none; int64 [words], the first word of the span that each is in)
        """
        lengths = np.arange(1, self.span_max_words + 1)
        weights = self.span_p * (1 - self.span_p) ** (lengths - 1)
        cumulative = np.cumsum(weights / weights.sum())
        picked = np.zeros(words.count, bool)
        anchor = np.arange(words.count)
        last = np.full(len(keys), -1)
        used = np.zeros(len(keys), np.int64)
        rows = np.flatnonzero((wanted > 0) & (words.others_per_row > 0))
        for turn in range(max(_SPAN_ROUNDS, int(wanted.max(initial=0)))):
            rows = rows[(used[rows] < wanted[rows]) & (last[rows] < 0)]
            if not len(rows):
                break
            bits = hashing.draw(keys[rows], np.uint64(_SPAN + 2 * turn))
            first = words.other(rows, hashing.below(bits, words.others_per_row[rows]))
            length = hashing.uniform(hashing.draw(keys[rows], np.uint64(_SPAN + 2 * turn + 1)))
            length = 1 + np.minimum(np.searchsorted(cumulative, length, side="right"), self.span_max_words - 1)
            going = np.ones(len(rows), bool)
            for step in range(int(length.max())):
                word = words.after(first, step)
                going &= (step < length) & ~picked[word]
                fits = used[rows] + words.cost[word] <= wanted[rows]
                is_last = going & ~fits & words.may_be_cut[word]
                last[rows[is_last]] = word[is_last]
                anchor[word[is_last]] = first[is_last]
                going &= fits
                picked[word[going]] = True
                anchor[word[going]] = first[going]
                used[rows[going]] += words.length[word[going]]
        return picked, last, anchor

    def _pick_ngrams(self, words, keys, wanted):
        """Picks n-grams that begin at words in random order, each if it still fits, as the published code does.

        An n-gram over the budget is shortened, and one that overlaps another is left out. Unlike in the published code,
        none crosses a special token, and one that reaches the end of the text is not shortened (see `_Words.after`).

        Returns:
          (bool [words], whether each is picked; int64 [batch], the word of each row that exceeds the budget and ends
          it, see _part_of_last_words, -1 for none)
        """
        weights = 1 / np.arange(1, self.ngram_max + 1)
        cumulative = np.cumsum(weights / weights.sum())
        drawn = hashing.uniform(hashing.draw(keys[words.row], _SPAN + words.start_column))
        drawn = 1 + np.minimum(np.searchsorted(cumulative, drawn, side="right"), self.ngram_max - 1)
        drawn = np.minimum(drawn, words.run_length)
        picked = np.zeros(words.count, bool)
        last = np.full(len(keys), -1)
        used = np.zeros(len(keys), np.int64)
        for column in _in_random_order(words, keys).T:
            rows = np.flatnonzero((column >= 0) & (used < wanted) & (last < 0))
            if not len(rows):
                break
            rows = rows[words.is_other[column[rows]]]
            first = column[rows]
            gram = words.after(first[:, None], np.arange(self.ngram_max))
            is_drawn = np.arange(self.ngram_max) < drawn[first][:, None]
            fits = np.cumsum(words.cost[gram], 1) <= (wanted - used)[rows][:, None]
            overlaps = (is_drawn & fits & picked[gram]).any(1, keepdims=True)
            in_gram = is_drawn & fits & ~overlaps
            picked[gram[in_gram]] = True
            used[rows] += np.where(in_gram, words.length[gram], 0).sum(1)
            exceeds = is_drawn & ~fits & ~overlaps & (np.cumsum(~fits, 1) == 1) & ~picked[gram] & words.may_be_cut[gram]
            row, place = np.nonzero(exceeds)
            last[rows[row]] = gram[row, place]
        return picked, last

    def _replace(self, input_ids, chosen, keys, anchor_column):
        """Replaces the chosen tokens, bool [batch, sequence], and lists them in slots; see `__call__`.

        Whether a token becomes the mask token, a random one or stays is drawn for its own column, or for
        `anchor_column` [batch, sequence], which the tokens of a span share.
        """
        batch = len(input_ids)
        rows, columns = np.nonzero(chosen)
        count = np.bincount(rows, minlength=batch)
        slot = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        positions = np.zeros((batch, self.slots), np.int32)
        labels = np.zeros((batch, self.slots), np.int32)
        weights = np.zeros((batch, self.slots), np.float32)
        originals = input_ids[rows, columns]
        positions[rows, slot] = columns
        labels[rows, slot] = originals
        weights[rows, slot] = 1.0

        counters = columns if anchor_column is None else anchor_column[rows, columns]
        share = hashing.uniform(hashing.draw(keys[rows], _REPLACEMENT + counters))
        bits = hashing.draw(keys[rows], _RANDOM_TOKEN + columns)
        random_ids = self.ordinary_ids[hashing.below(bits, len(self.ordinary_ids))]
        random_until = self.mask_token_share + self.random_token_share
        replaced = np.where(
            share < self.mask_token_share, self.mask_id, np.where(share < random_until, random_ids, originals)
        )
        masked = input_ids.copy()
        masked[rows, columns] = replaced
        return masked, positions, labels, weights


class _Words:
    """Holds the words of a batch, numbered row by row: runs of maskable tokens between two word starts.

    Args:
      maskable, word_starts, wanted: see `Masking`.
      all_are_long: whether `_long_words` sees to all words of several tokens.

    Attributes:
      count: number of words.
      row, start_column: int64 [count], where each word begins.
      length: int64 [count], tokens of each word.
      is_long, is_longest: bool [count], whether `_long_words` and `_part_of_longest_words` see to each word.
      is_other: bool [count], whether neither does.
      cost: int64 [count], what each word takes of the wanted tokens elsewhere: its length, or more than there are.
      may_be_cut: bool [count], whether a word that exceeds what is left of the wanted tokens is masked in part: where
        long words share its row, few tokens are left to the others, and often only the shortest would fit.
      run_first, run_length: int64 [count], the number of the first word, and how many words there are, of the run that
        each word is in: the words with only maskable tokens between them; only words that are not long are numbered.
      per_row, row_first: int64 [batch], words of each row, and the number of its first.
      tokens: int64 [batch], maskable tokens of each row.
      others_per_row: int64 [batch], words of each row that are not long.
    """

    def __init__(self, maskable, word_starts, wanted, all_are_long):
        before = np.zeros_like(maskable)
        before[:, 1:] = maskable[:, :-1]
        starts = maskable & (word_starts | ~before)
        flat = np.flatnonzero(starts)
        sequence = maskable.shape[1]
        self.count = len(flat)
        self.row = flat // sequence
        self.start_column = flat % sequence
        self.per_row = np.bincount(self.row, minlength=len(maskable))
        self.row_first = np.cumsum(self.per_row) - self.per_row
        self.tokens = maskable.sum(1)
        self._maskable = maskable
        self._word_of_token = np.cumsum(starts.ravel()) - 1
        self.length = np.bincount(self._word_of_token[maskable.ravel()], minlength=self.count)
        share = self.length / np.maximum(wanted[self.row], 1)
        self.is_longest = (share > _LONGEST_WORD) & (self.length > 1)
        self.is_long = (all_are_long | (share > _LONG_WORD)) & (self.length > 1) & ~self.is_longest
        self.is_other = ~self.is_long & ~self.is_longest
        self.cost = np.where(self.is_other, self.length, sequence + 1)
        has_long = np.bincount(self.row[~self.is_other], minlength=len(maskable)) > 0
        self.may_be_cut = has_long[self.row] & self.is_other
        self._others = np.flatnonzero(self.is_other)
        self._rank = np.searchsorted(self._others, np.arange(self.count))
        run = np.cumsum((maskable & ~before).ravel())[flat]
        others = run[self._others]
        self.others_per_row = np.bincount(self.row[self._others], minlength=len(maskable))
        self.run_first = np.searchsorted(others, run)
        self.run_length = np.searchsorted(others, run, side="right") - self.run_first

    def after(self, word, steps):
        """Returns the word that is `steps` words after `word` in its run, whose first word follows its last one.

        Long words are passed over, and `word` is not long. So every other word of a run is reached from as many others,
        wherever in the run it stands.
        """
        first = self.run_first[word]
        return self._others[first + (self._rank[word] - first + steps) % self.run_length[word]]

    def other(self, rows, number):
        """Returns the word with this number, from 0, among those of its row that are not long."""
        return self._others[np.searchsorted(self._others, self.row_first[rows]) + number]

    def spread(self, values):
        """Returns the value of each token's word, [batch, sequence]; undefined on tokens that are not maskable."""
        if not self.count:
            return np.zeros(self._maskable.shape, values.dtype)
        return values[np.maximum(self._word_of_token, 0)].reshape(self._maskable.shape)

    def to_tokens(self, picked):
        """Returns whether each token is part of a picked word, bool [batch, sequence]."""
        return self._maskable & self.spread(picked)


def _scores(keys, maskable):
    """Returns a random number for each token, uint64 [batch, sequence]; the largest number where it is not maskable."""
    scores = hashing.draw(keys[:, None], _CHOICE + np.arange(maskable.shape[1])[None])
    return np.where(maskable, scores, np.uint64(2**64 - 1))


def _smallest(scores, wanted, slots):
    """Returns whether each score is one of its row's `wanted` smallest, at most `slots`, bool [batch, sequence]."""
    slots = min(slots, scores.shape[1])
    best = np.argpartition(scores, slots - 1, axis=1)[:, :slots]
    rank = np.argsort(np.take_along_axis(scores, best, 1), axis=1)
    best = np.take_along_axis(best, rank, 1)
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, best, np.arange(slots)[None] < wanted[:, None], 1)
    return chosen


def _in_random_order(words, keys):
    """Returns the numbers of each row's words, shuffled, int64 [batch, most words of a row]; -1 fills up a row."""
    scores = hashing.draw(keys[words.row], _CHOICE + words.start_column)
    order = np.lexsort((scores, words.row))
    rank = np.arange(words.count) - words.row_first[words.row]
    table = np.full((len(keys), int(words.per_row.max(initial=0))), -1)
    table[words.row, rank] = order  # sorted by row first, so words.row[order] equals words.row
    return table


def _pick_words(words, keys, wanted):
    """Picks words that are not long, in random order, each if it still fits; bool [words]."""
    picked = np.zeros(words.count, bool)
    used = np.zeros(len(keys), np.int64)
    for column in _in_random_order(words, keys).T:
        rows = np.flatnonzero((column >= 0) & (used < wanted))
        if not len(rows):
            break
        word = column[rows]
        fits = used[rows] + words.cost[word] <= wanted[rows]
        picked[word[fits]] = True
        used[rows[fits]] += words.length[word[fits]]
    return picked


def _pick_at_least_one(words, picked, rows, keys):
    """Picks the shortest word in those of `rows`, bool [batch], that have none, as none fits; changes `picked`."""
    has_word = np.bincount(words.row[picked], minlength=len(rows)) > 0
    for row in np.flatnonzero(rows & ~has_word):
        candidates = np.arange(words.row_first[row], words.row_first[row] + words.per_row[row])
        shortest = candidates[words.length[candidates] == words.length[candidates].min()]
        picked[shortest[hashing.below(hashing.draw(keys[row], np.uint64(_CHOICE)), len(shortest))]] = True


def _part_of_longest_words(words, keys, wanted):
    """Chooses a random run of the tokens of words that are too long to be masked whole, bool [batch, sequence].

    A word is too long if it has several tokens, more than half of the row's wanted ones. These words get their share of
    the wanted tokens.
    """
    is_longest = words.to_tokens(words.is_longest)
    if not words.is_longest.any():
        return is_longest
    start, rounding = (hashing.draw(keys, np.uint64(_LONG_WORDS + i)) for i in range(2))
    share = wanted * is_longest.sum(1) / np.maximum(words.tokens, 1) + hashing.uniform(rounding)
    return _is_in_run(is_longest, start, np.floor(share).astype(np.int64))


def _part_of_last_words(words, keys, picked, last, wanted):
    """Chooses a random run of the tokens of words that exceed a row's budget, so that it is used up; see _Words.

    Args:
      picked: bool [words], the words that are masked as a whole.
      last: int64 [batch], the word of each row; -1 for none.
      wanted: int64 [batch], the budget.

    Returns:
      bool [batch, sequence].
    """
    is_last = np.zeros(words.count, bool)
    is_last[last[last >= 0]] = True
    left = wanted - np.bincount(words.row[picked], words.length[picked], len(keys)).astype(np.int64)
    return _is_in_run(words.to_tokens(is_last), hashing.draw(keys, np.uint64(_LONG_WORDS + 5)), left)


def _long_words(words, keys, wanted, left):
    """Chooses long words, and leaves to the others about their share of the wanted tokens; bool [batch, sequence].

    The words are a systematic sample by length, in which each has the chance that every token is to have. By so much as
    they differ from their share of the `left` tokens, int64 [batch], the other words may take up to twice their share,
    or none. Beyond that, a random run of the sampled words' tokens is left out, or one that was not sampled is added.
    """
    chosen = words.to_tokens(_sample_long_words(words, keys, wanted))
    if not words.is_long.any():
        return chosen
    is_long = words.to_tokens(words.is_long)
    is_other = words.to_tokens(words.is_other)
    start, rounding = (hashing.draw(keys, np.uint64(_LONG_WORDS + i)) for i in (3, 4))
    others = is_other.sum(1)
    share = np.floor(wanted * others / np.maximum(words.tokens, 1) + hashing.uniform(rounding)).astype(np.int64)
    change = left - chosen.sum(1) - share
    change -= np.clip(change, -share, np.minimum(share, others - share))
    changeable = np.where(change[:, None] < 0, chosen, is_long & ~chosen)
    return chosen ^ (changeable & _is_in_run(changeable, start, np.abs(change)))


def _is_in_run(tokens, start, number):
    """Returns whether each of `tokens`, bool [batch, sequence], is in a random run of `number` of them, int64 [batch].

    A run that reaches the end of them goes on at their beginning.
    """
    count = np.maximum(tokens.sum(1), 1)
    place = np.cumsum(tokens, 1) - 1 - hashing.below(start, count)[:, None]
    return tokens & (place % count[:, None] < number[:, None])


def _sample_long_words(words, keys, wanted):
    """Returns whether each word is in the systematic sample of `_long_words`, bool [words]."""
    picked = np.zeros(words.count, bool)
    word = np.flatnonzero(words.is_long)
    if not len(word):
        return picked
    scores = hashing.draw(keys[words.row[word]], _CHOICE + words.start_column[word])
    word = word[np.lexsort((scores, -words.length[word], words.row[word]))]
    row = words.row[word]
    chance = (wanted / np.maximum(words.tokens, 1))[row]
    place = _place_in_group(row)
    begin = hashing.uniform(hashing.draw(keys, np.uint64(_LONG_WORDS + 2)))[row]
    picked[word[np.floor((place + 1) * chance + begin) > np.floor(place * chance + begin)]] = True
    return picked


def _place_in_group(groups):
    """Returns how many equal numbers stand before each of ascending ones, int64 [n]."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)
