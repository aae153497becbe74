"""Measures how well a vocabulary fits a text: what is unknown to it, and what its normalizer takes away."""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from bert_jax.data.vocabularies.tokenizer import Tokenizer

# Shares of the text's characters that are unknown, from which a user is warned, and a trained vocabulary is refused.
UNKNOWN, TOO_MUCH_UNKNOWN = 0.02, 0.1
ALTERED = 0.01  # share of the text's letters that change in more than their case, from which a user is warned
JOINERS = 0.005  # share of the text's words whose joiners are lost, from which a user is warned
_JOINER = re.compile("[\u200c\u200d]")
_EXAMPLES = 4
_MOST_WORDS = 1 << 17  # some 10 MB
_LONG_WORD = 100  # characters; longer words are unknown to WordPiece


@dataclasses.dataclass(frozen=True)
class Fit:
    """States how well a vocabulary fits a text.

    Attributes:
      characters: number of characters, white space aside.
      unknown_characters: how many of them are in unknown tokens.
      unknown_examples: frequent characters that the vocabulary lacks.
      long_words: whether most of what is unknown is in words that are too long for WordPiece.
      letters: number of letters.
      altered_letters: how many of them the normalizer changes in more than their case.
      altered_examples: frequent ones, as "before to after".
      lost_joiner_share: share of the words in which the normalizer drops a joiner or non-joiner (U+200D, U+200C).
    """

    characters: int
    unknown_characters: int
    unknown_examples: tuple[str, ...]
    long_words: bool
    letters: int
    altered_letters: int
    altered_examples: tuple[str, ...]
    lost_joiner_share: float

    @property
    def unknown_share(self) -> float:
        """Returns the share of the characters that are in unknown tokens."""
        return self.unknown_characters / max(1, self.characters)

    @property
    def altered_share(self) -> float:
        """Returns the share of the letters that change in more than their case."""
        return self.altered_letters / max(1, self.letters)


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Fit:
    """Returns how a vocabulary reads texts, which are best few: each is encoded with its offsets."""
    words = collections.Counter(word for text in texts for word in text.split())
    spans = UnknownWords(tokenizer).spans(words)
    unknown = sum(count * len(span) for span, count in spans.items())
    long = sum(count * len(span) for span, count in spans.items() if len(span) > _LONG_WORD)
    letters, changes = 0, collections.Counter()
    normal = _Normal(tokenizer)
    for cluster, count in _letters(words).items():
        letters += count
        after = normal.changed(cluster)
        if after is not None:
            changes[f"{cluster} to {after or 'nothing'}"] += count
    joined = sum(count for word, count in words.items() if _JOINER.search(word))
    loses_joiners = joined and not _JOINER.search(tokenizer.normalized("\u0646\u200c\u0646 \u0915\u094d\u200d"))
    missing = collections.Counter()
    for span, count in spans.most_common(1000):
        for character in set(span):
            missing[character] += count
    lacking = (character for character, _ in missing.most_common(200) if _is_unknown(tokenizer, character))
    return Fit(
        sum(len(word) * count for word, count in words.items()),
        unknown,
        tuple(character for character, _ in zip(lacking, range(_EXAMPLES), strict=False)),
        2 * long > unknown,
        letters,
        sum(changes.values()),
        tuple(change for change, _ in changes.most_common(_EXAMPLES)),
        joined / max(1, sum(words.values())) if loses_joiners else 0.0,
    )


class UnknownWords:
    """Finds the characters that are unknown to a vocabulary, word by word, and remembers words without any."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._known: set[str] = set()

    def spans(self, words: collections.Counter) -> collections.Counter:
        """Counts the parts of words that are unknown.

        Args:
          words: how often each word occurs; no word holds white space.
        """
        new = sorted(words.keys() - self._known)
        if self._tokenizer.unk_id is None or not new:
            return collections.Counter()
        tokens, _, lengths = self._tokenizer.encode_flat(new)
        places = np.flatnonzero(tokens == self._tokenizer.unk_id)
        unknown = [new[i] for i in np.unique(np.searchsorted(np.cumsum(lengths), places, "right"))]
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        self._known.update(word for word in set(new).difference(unknown) if len(word) <= _LONG_WORD)
        counts = collections.Counter()
        for word in unknown:
            for span in self._spans_of(word):
                counts[span] += words[word]
        return counts

    def _spans_of(self, word):
        ids, offsets = self._tokenizer.encode_with_offsets(word, special=False)
        return [word[start:stop] for i, (start, stop) in zip(ids, offsets, strict=True) if i == self._tokenizer.unk_id]


def _is_unknown(tokenizer, character):
    return tokenizer.unk_id in list(tokenizer.encode([character])[0])


def _letters(words):
    """Counts the letters of words, each with the marks behind it; those of private use are letters of some font."""
    counts = collections.Counter()
    for word, count in words.items():
        if word.isascii():
            counts["a"] += count * sum(map(str.isalpha, word))
            continue
        clusters = []
        for character in word:
            if _is_letter(character):
                clusters.append(character)
            elif unicodedata.category(character)[0] != "M":
                clusters.append("")
            elif clusters:
                clusters[-1] += character
        for cluster in clusters:
            if cluster and _is_letter(cluster[0]):
                counts[cluster] += count
    return counts


def _is_letter(character):
    category = unicodedata.category(character)
    return category[0] == "L" or category == "Co"


class _Normal:
    """Tells what a normalizer makes of letters, each looked at once."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._known = tokenizer, {}

    def changed(self, cluster: str) -> str | None:
        """Returns what becomes of a letter with its marks; None where it changes at most in case."""
        if cluster not in self._known:
            after = "".join(self._tokenizer.normalized(cluster).split())
            self._known[cluster] = None if _folded(after) == _folded(cluster) else unicodedata.normalize("NFC", after)
        return self._known[cluster]


def _folded(text):
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
