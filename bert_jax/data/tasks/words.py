"""Rows of words: their sub-words, windows that are cut between words, and which window labels a word."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer

T = TypeVar("T")


class Window(NamedTuple):
    """Words [start, stop) of a text stand in one row; [own_start, own_stop) of them are labelled from it."""

    start: int
    stop: int
    own_start: int
    own_stop: int


def encode(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], length: int) -> Iterator[list[list[int]]]:
    """For each sentence, the ids of each of its words; a word that the vocabulary does not see at all has none.

    Where the vocabulary keeps a word's leading space in its token, every word has one, as in a text. In a sentence that
    does not fit a row of `length` tokens, words are cut to `longest_word`. Equal words are encoded once.
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
    """Sub-words of a word that are read where rows have `length` tokens: the rest of a row is left to its context."""
    return max(1, (length - 2) // 4)


def windows(counts: Sequence[int], room: int) -> list[Window]:
    """Overlapping windows of a text, cut between words; each word is labelled once, where it has the most context.

    Args:
      counts: sub-words of each word; none over `room`.
      room: sub-words of a window. Neighbours share up to a quarter of it.

    Returns:
      Windows in order, whose own words follow one another and are together all the words.
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
    return [Window(*span, *own) for span, own in zip(spans, zip(cuts, cuts[1:], strict=False), strict=True)]


def make_row(tokenizer: Tokenizer, words: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """(ids, segments, position of each word's first sub-word, -1 of a word without any) of a window's words."""
    ids, types = rows_lib.join(tokenizer, [i for word in words for i in word])
    sizes = [len(word) for word in words]
    places = 1 + np.cumsum([0, *sizes[:-1]]) if words else np.zeros(0, np.int64)
    return ids, types, [int(place) if size else -1 for place, size in zip(places, sizes, strict=True)]


def merge(parts: Sequence[Window], values: Sequence[Sequence[T]]) -> list[T]:
    """One value for each word of a text, from `values`: for each window, one for each word that stands in it."""
    return [
        value
        for part, found in zip(parts, values, strict=True)
        for value in found[part.own_start - part.start : part.own_stop - part.start]
    ]
