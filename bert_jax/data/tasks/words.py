"""Builds rows for token classification: sub-words of words, and windows that are cut between words."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer

T = TypeVar("T")


class Window(NamedTuple):
    """The words [start, stop) of a text, which share a row; [own_start, own_stop) of them take their label from it."""

    start: int
    stop: int
    own_start: int
    own_stop: int


def encode(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], length: int) -> Iterator[list[list[int]]]:
    """Yields, for each sentence, the ids of each of its words; a word that the tokenizer drops has none.

    Where the vocabulary keeps a word's leading space in its token, every word gets one, as in a text. In a sentence
    that does not fit a row of `length` tokens, words are cut to `longest_word(length)` tokens. Equal words are encoded
    once.
    """
    space = " " if tokenizer.leading_space else ""
    different = list(dict.fromkeys(word for words in sentences for word in words))
    ids = tokenizer.encode([space + word for word in different], special=True)
    known = dict(zip(different, ids, strict=True))
    for words in sentences:
        pieces = [known[word] for word in words]
        if sum(map(len, pieces)) > length - 2:
            pieces = [piece[: longest_word(length)] for piece in pieces]
        yield pieces


def longest_word(length: int) -> int:
    """Returns how many sub-words of a word are read in rows of `length` tokens; the rest is left to its context."""
    return max(1, (length - 2) // 4)


def windows(counts: Sequence[int], room: int) -> list[Window]:
    """Cuts a text between words into overlapping windows; each word is labelled once, where it has the most context.

    Args:
      counts: sub-words of each word; none over `room`.
      room: sub-words of a window. Neighbours share up to a quarter of it.

    Returns:
      Windows in order; each word is among the own words of exactly one.
    """
    before = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])
    number = len(counts)
    spans, start = [], 0
    while True:
        stop = int(np.searchsorted(before, before[start] + room, "right")) - 1
        if stop >= number:
            spans.append((start, number))
            break
        spans.append((start, stop))
        start = max(start + 1, int(np.searchsorted(before, before[stop] - room // 4, "left")))

    cuts = [0]
    for (first, first_stop), (second, second_stop) in zip(spans, spans[1:], strict=False):
        shared = np.arange(second, first_stop)
        in_first = np.minimum(before[shared] - before[first], before[first_stop] - before[shared + 1])
        in_second = np.minimum(before[shared] - before[second], before[second_stop] - before[shared + 1])
        cuts.append(max(cuts[-1], second + int(np.count_nonzero(in_first >= in_second))))
    cuts.append(number)
    own = zip(cuts, cuts[1:], strict=False)
    return [Window(start, stop, *bounds) for (start, stop), bounds in zip(spans, own, strict=True)]


def make_row(tokenizer: Tokenizer, words: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """Builds the row of a window.

    Args:
      tokenizer: adds the special tokens.
      words: ids of each word.

    Returns:
      (ids, segments, column of each word's first sub-word, -1 for a word without ids)
    """
    ids, types = rows_lib.join(tokenizer, [i for word in words for i in word])
    sizes = [len(word) for word in words]
    places = 1 + np.cumsum([0, *sizes[:-1]]) if words else np.zeros(0, np.int64)
    return ids, types, [int(place) if size else -1 for place, size in zip(places, sizes, strict=True)]


def merge(parts: Sequence[Window], values: Sequence[Sequence[T]]) -> list[T]:
    """Returns one value for each word of a text.

    Args:
      parts: the windows of the text.
      values: for each window, one value for each of its words.
    """
    return [
        value
        for part, window_values in zip(parts, values, strict=True)
        for value in window_values[part.own_start - part.start : part.own_stop - part.start]
    ]
