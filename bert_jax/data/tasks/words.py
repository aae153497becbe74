"""Cuts texts into words as training data does, and builds rows of words for token classification.

A row holds the sub-words of its words; long sentences are cut between words into windows. `cutting` learns from the
words of a data set what `cut` does to a text: white space separates words; marks that are words of their own there,
such as a full stop, 's or l', are cut off a word unless the data has it whole (U.S.); each character of a script
without spaces is a word, unless the data has longer ones; slashes and dashes inside words (and/or, 1990-1995) are cut
where the data has them much oftener as words of their own between such neighbours than inside a word. A text that is
cut already, where a full stop or the like stands alone, is left as it is. Where all words are single characters, each
character is one.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bert_jax import _moved
from bert_jax.data import rows as rows_lib
from bert_jax.data.long_texts import LongReading
from bert_jax.data.vocabularies.tokenizer import Tokenizer

T = TypeVar("T")

_OPENING = frozenset("([{<\"'`*#\u00a1\u00bf\u00ab\u2018\u201c\u201e\u2039")
_CLOSING = frozenset(")]}>\"'`*%.,;:!?-\u00bb\u2019\u201d\u2026\u203a\u060c\u061b\u061f\u06d4\u0964\u0589")
_NEITHER = frozenset("\u00a1\u00bf")  # Spanish marks, which end no word
_ELISION = re.compile(r"[^\W\d_]{1,8}['\u2019]")  # l', qu', dell'
_CLITIC = re.compile(r"['\u2019]\w{1,3}|[nN]['\u2019][tT]")
# Categories of Unicode of further marks, of other scripts. A quote that opens here closes there (\u201eJa\u201c).
_OPENING_KINDS, _CLOSING_KINDS = ("Ps", "Pi", "Pf", "Sc"), ("Pd", "Pe", "Pi", "Pf", "Po", "Sc", "So")
_LONGEST_MARK = 4
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")  # initials of a name, such as J.R.R.
# Marks that stand between spaces only in text that is cut already.
_ALONE = frozenset((".", ",", "(", ")", "[", "]", '"', "``", "''", "'s", "n't", "\u3002", "\uff0c", "\u3001"))
_WIDE = re.compile(
    "[\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff65"
    "\U00020000-\U0003ffff]"
)
_MOST_WHOLE = 5_000
# Marks that some conventions cut inside a word too, such as Universal Dependencies, and others never.
_INNER = frozenset("/-+=~\u00d7\u2010\u2011\u2013\u2014\u2026\u2044\u30fb\u00b7")
_UNSPACED = frozenset("/\u2044\u30fb\u00b7")
_OFTENER = 10
_LEAST_INNER = 2  # occurrences from which a mark is known to be a word of its own inside words
_LEAST_LETTERS = 100  # words, all of one character, from which each character of a text is taken for one
_ADDRESS = re.compile(r"\w+://|www\.|\S+@\S+\.\w|\w\.\w{2,}/", re.IGNORECASE)
# Words that Penn Treebank's convention divides without a mark (tokenizer.sed).
_DIVIDED = {
    first + second: (first, second)
    for first, second in map(str.split, (
        "can not", "gon na", "got ta", "wan na", "gim me", "lem me", "'t is", "'t was", "d' ye", "more 'n", "what cha",
    ))
}  # fmt: skip


class Window(NamedTuple):
    """Holds the words [start, stop) of a text, which share a row; [own_start, own_stop) take their label from it."""

    start: int
    stop: int
    own_start: int
    own_stop: int


def cutting(sentences: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Returns how the words of sentences are cut out of text, as JSON values for `cut`.

    Returns:
      "marks": words that are cut off others, at their beginning or end; "whole": words that end or begin with a mark,
      the commonest 5,000, and words with a mark of "inner" inside; "inner": marks that are cut inside words, each with
      the kinds of its neighbours (a letter, a digit); "divided": words without a mark that are two words in the data,
      such as cannot; "longest_wide": characters of the longest word of a script without spaces, 0 without one;
      "letters": true, of data whose words are single characters, such as the residues of proteins.
    """
    sentences = list(sentences)
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    short = {word for word in counts if len(word) <= _LONGEST_MARK}
    candidates = {word for word in short if _is_mark(word) or _CLITIC.fullmatch(word)}
    candidates |= set(filter(_ELISION.fullmatch, counts))
    edges: collections.Counter[str] = collections.Counter()
    for word, count in counts.items():
        if not _is_mark(word):
            edges.update(dict.fromkeys(_edges(word, candidates), count))
    marks = {mark for mark in candidates if counts[mark] >= edges[mark]}
    whole = [word for word, _ in counts.most_common() if not _is_mark(word) and _edges(word, marks)]
    longest_wide = max((len(word) for word in counts if all(map(_WIDE.match, word)) and word), default=0)
    inner = _inner_marks(sentences, counts)
    has_inner = [word for word, _ in counts.most_common() if any(kind in inner for _, _, kind in _inner_places(word))]
    whole = {*whole[:_MOST_WHOLE], *has_inner[:_MOST_WHOLE]}
    divided = _divided_words(sentences, counts) if any(map(_CLITIC.fullmatch, marks)) else []
    rules = {
        "marks": sorted(marks), "whole": sorted(whole), "inner": sorted(inner), "divided": divided,
        "longest_wide": longest_wide,
    }  # fmt: skip
    has_letters_alone = counts.total() >= _LEAST_LETTERS and all(len(word) == 1 for word in counts)
    return rules | ({"letters": True} if has_letters_alone else {})


def _inner_places(word):
    """Returns [start, end) of each mark between two letters or digits, with the mark and its neighbours' kinds."""
    places = []
    for match in re.finditer(r"(?<=\w)[^\w\s]{1,3}(?=\w)", word):
        if set(match[0]) <= _INNER:
            kind = match[0] + _kind(word[match.start() - 1]) + _kind(word[match.end()])
            places.append((match.start(), match.end(), kind))
    return places


def _kind(character):
    return "1" if character.isdigit() else "a"


def _inner_marks(sentences, counts):
    """Returns the marks, each with its neighbours' kinds, that are oftener a word of their own than inside one."""
    inside: collections.Counter[str] = collections.Counter()
    for word, count in counts.items():
        if not _ADDRESS.search(word):
            inside.update({kind: count for _, _, kind in _inner_places(word)})
    alone: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
        for before, word, after in zip(sentence, sentence[1:], sentence[2:], strict=False):
            if word and set(word) <= _INNER and len(word) <= 3 and before[-1:].isalnum() and after[:1].isalnum():
                alone[word + _kind(before[-1]) + _kind(after[0])] += 1
    # Dashes stand alone in prose as well, with spaces around them, so that their being alone says less.
    return {
        kind
        for kind, count in alone.items()
        if count >= _LEAST_INNER and count > inside[kind] * (1 if kind[0] in _UNSPACED else _OFTENER)
    }


def _divided_words(sentences, counts):
    """Returns those of _DIVIDED that the sentences have as two words and never as one, sorted."""
    pairs = {pair: joined for joined, pair in _DIVIDED.items()}
    seen = {
        pairs[pair]
        for sentence in sentences
        for pair in itertools.pairwise(map(str.lower, sentence))
        if pair in pairs
    }  # fmt: skip
    return sorted(seen - {word.lower() for word in counts})


def is_cutting(value: Any) -> bool:
    """Returns whether a JSON value is one that `cutting` returns."""
    if not isinstance(value, dict) or not isinstance(value.get("longest_wide"), int):
        return False
    lists = [value.get(name) for name in ("marks", "whole")]
    lists += [value.get(name, []) for name in ("inner", "divided")]  # earlier versions had neither
    is_right = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
    return is_right and isinstance(value.get("letters", False), bool)


@_moved.renamed_arguments(how="rules")
def cut(text: str, rules: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Returns [start, end) of each word of a text, in code points.

    Args:
      text: the text.
      rules: as `cutting` returns it.
    """
    if rules.get("letters"):
        return [match.span() for match in re.finditer(r"\S", text)]
    marks, whole = set(rules["marks"]), set(rules["whole"])
    inner, divided = set(rules.get("inner", ())), set(rules.get("divided", ()))
    pieces = [match.span() for match in re.finditer(r"\S+", text)]
    is_cut = any(text[start:end] in marks and text[start:end] in _ALONE for start, end in pieces)
    words = []
    for piece in pieces:
        for start, end in _without_wide(text, *piece, rules["longest_wide"]):
            if is_cut:
                words.append((start, end))
                continue
            for place in _without_marks(text, start, end, marks, whole):
                words += _without_inner(text, place, inner, divided, marks, whole)
    return words


def _without_inner(text, place, inner, divided, marks, whole):
    """Returns the words of one whose ends are no marks: the words between marks inside it, and the marks."""
    start, end = place
    word = text[start:end]
    if word.lower() in divided:
        middle = start + len(_DIVIDED[word.lower()][0]) if word.lower() in _DIVIDED else end
        return [(start, middle), (middle, end)] if middle < end else [(start, end)]
    if not inner or word in whole or _ADDRESS.search(word):
        return [(start, end)]
    words = []
    places = [(a, b) for a, b, kind in _inner_places(word) if kind in inner]
    first = start
    for a, b in places:
        words += [*_without_marks(text, start, first + a, marks, whole), (first + a, first + b)]
        start = first + b
    return [*words, *(_without_marks(text, start, end, marks, whole) if places else [(start, end)])]


def _is_mark(word):
    return not any(map(str.isalnum, word))


def _edges(word, marks):
    """Returns the marks that a longer word begins or ends with."""
    ends = {word[-size:] for size in range(1, min(_LONGEST_MARK + 1, len(word)))}
    begins = {word[0]} & marks if len(word) > 1 and _may_begin(word[0]) else set()
    elided = _elided(word, 0, len(word), marks)
    return {end for end in ends & marks if _may_end(end)} | begins | ({elided} - {""})


def _may_begin(mark):
    """Returns whether a mark is cut off at the beginning of a word: a bracket, quote or currency of any script."""
    return mark in _OPENING or mark in "$@" or (not mark.isascii() and unicodedata.category(mark) in _OPENING_KINDS)


def _may_end(mark):
    """Returns whether a mark, or a clitic, is cut off at the end of a word."""
    if mark[0].isascii() or mark[0] in _CLOSING or _CLITIC.fullmatch(mark):
        return mark[0] in _CLOSING or bool(_CLITIC.fullmatch(mark))
    return mark[0] not in _NEITHER and unicodedata.category(mark[0]) in _CLOSING_KINDS


def _elided(text, start, end, marks):
    """Returns the mark such as l' that a word begins with, in the case of `marks`; "" where there is none."""
    match = _ELISION.match(text, start, end)
    if not match or match.end() == end:
        return ""
    return next((mark for mark in (match[0], match[0].lower()) if mark in marks), "")


def _without_wide(text, start, end, longest):
    """Yields the parts of a piece without spaces: each character of a script that writes none, and what is between.

    Characters that make up no more than `longest` stay together where the data has such words.
    """
    run = [match.start() for match in _WIDE.finditer(text, start, end)]
    if not run or (1 < len(run) == end - start <= longest):
        yield start, end
        return
    for place in run:
        if start < place:
            yield start, place
        yield place, place + 1
        start = place + 1
    if start < end:
        yield start, end


def _without_marks(text, start, end, marks, whole):
    """Returns the words of a piece without spaces: marks at its beginning, what remains, and marks at its end."""
    before, after = [], []
    while end - start > 1 and text[start] in marks and _may_begin(text[start]) and text[start:end] not in whole:
        if text[start:end] in marks:
            break
        before.append((start, start + 1))
        start += 1
    while text[start:end] not in whole and (elided := _elided(text, start, end, marks)):
        before.append((start, start + len(elided)))
        start += len(elided)
    while end - start > 1:
        word = text[start:end]
        is_rule = _is_mark(word) and len(set(word)) == 1  # a row of dashes
        if is_rule or word in whole or word in marks or _INITIALS.fullmatch(word):
            break
        sizes = range(min(_LONGEST_MARK, end - start - 1), 0, -1)
        size = next((size for size in sizes if word[-size:] in marks and _may_end(word[-size:])), 0)
        if not size:
            break
        after.append((end - size, end))
        end -= size
    return [*before, (start, end), *after[::-1]]


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


def rows(
    tokenizer: Tokenizer, pieces: Sequence[Sequence[int]], reading: LongReading
) -> Iterator[tuple[Window, list[int], list[int], list[int]]]:
    """Yields the rows of a text: (its words, ids, segments, column of the first sub-word of each word, or -1).

    Without chunks they are overlapping windows. With chunks each holds as many as it has room for, and the words behind
    them begin the next row.

    Args:
      tokenizer: adds the special tokens.
      pieces: ids of each word, as `encode` makes them for rows, or chunks, of that length.
      reading: how long texts are read.
    """
    if not reading.chunk_length:
        room = reading.length - rows_lib.num_special(tokenizer, pair=False)
        for window in windows([len(word) for word in pieces], room):
            yield window, *make_row(tokenizer, pieces[window.start : window.stop])
        return
    start, max_chunks = 0, reading.length // reading.chunk_length
    while start < len(pieces) or not start:
        ids, types, columns = chunked_row(tokenizer, pieces[start:], reading.chunk_length, max_chunks)
        stop = start + len(columns)
        yield Window(start, stop, start, stop), ids, types, columns
        if stop >= len(pieces):
            return
        start = stop


def chunked_row(
    tokenizer: Tokenizer, words: Sequence[Sequence[int]], length: int, max_chunks: int
) -> tuple[list[int], list[int], list[int]]:
    """Builds a row of chunks from the first of a text's words, as many as the row has room for.

    A word is labelled in the first chunk that holds all of it. What is left of a chunk before the next word has room
    is filled with that word's beginning, so that all chunks but the last one are full.

    Args:
      tokenizer: adds the special tokens of each chunk.
      words: ids of each word; none over the room of a chunk.
      length: tokens of a chunk, special ones included.
      max_chunks: the most chunks of a row.

    Returns:
      (ids, segments, column of the first sub-word of each word that the row holds, -1 for a word without ids)
    """
    room = length - rows_lib.num_special(tokenizer, pair=False)
    flat = [i for word in words for i in word]
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    ids: list[int] = []
    types: list[int] = []
    columns: list[int] = []
    for _ in range(max_chunks):
        start = int(ends[len(columns) - 1]) if columns else 0
        column = len(ids) + len(tokenizer.frame.before)
        stop = int(np.searchsorted(ends, start + room, "right"))
        for word in range(len(columns), stop):
            columns.append(int(ends[word]) - len(words[word]) - start + column if words[word] else -1)
        part = rows_lib.join(tokenizer, flat[start : start + room])
        ids, types = ids + part[0], types + part[1]
        if start + room >= len(flat):
            break
    return ids, types, columns


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
