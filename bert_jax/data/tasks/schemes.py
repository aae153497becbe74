"""Detects how tags mark entities (IOB1, BIO also called IOB2, BIOES), and converts them to BIO or BIOES.

Sequences that a scheme does not allow are read as conlleval reads them, and reported.
"""

import re
from collections.abc import Sequence

from bert_jax import _moved

_TAG = re.compile(r"O|[BIESLUM]-\S+")
_SYNONYMS = {"L": "E", "U": "S", "M": "I"}  # letters of BILOU and BMES

Place = tuple[int, int]  # index of a sentence and of a word in it


def first_non_entity_tag(sentences: Sequence[Sequence[str]]) -> Place | None:
    """Returns the place of the first tag that marks no entity, where others do.

    Returns None if every tag is of an entity scheme, or none is but "O".
    """
    others = [(i, j) for i, tags in enumerate(sentences) for j, tag in enumerate(tags) if not _TAG.fullmatch(tag)]
    has_entities = any(tag != "O" and _TAG.fullmatch(tag) for tags in sentences for tag in tags)
    return others[0] if others and has_entities else None


def detect(sentences: Sequence[Sequence[str]]) -> str:
    """Returns "IOB1", "BIO" or "BIOES"; "" for tags that mark no entities; "BIO" where nothing decides."""
    if any(not _TAG.fullmatch(tag) for tags in sentences for tag in tags):
        return ""
    against_bio = against_iob1 = 0
    for tags in sentences:
        before = "O"
        for tag in tags:
            if tag[0] in "ESLUM":
                return "BIOES"
            follows = before[2:] == tag[2:] and before != "O"
            against_bio += tag[0] == "I" and not follows
            against_iob1 += tag[0] == "B" and not follows
            before = tag
    return "IOB1" if against_bio > against_iob1 else "BIO"


def convert(sentences: Sequence[Sequence[str]], scheme: str) -> tuple[list[list[str]], list[Place]]:
    """Converts tags to BIOES if that is their scheme, else to BIO.

    Args:
      sentences: tags of each sentence.
      scheme: their scheme, as `detect` returns it.

    Returns:
      (converted tags of each sentence, the place of the first invalid tag of each sentence that has one)
    """
    converted, invalid = [], []
    for i, tags in enumerate(sentences):
        tags = [_SYNONYMS.get(tag[0], tag[0]) + tag[1:] for tag in tags]
        converted.append(_encode(_entities(tags), len(tags), "BIOES" if scheme == "BIOES" else "BIO"))
        wrong = [j for j, (tag, right) in enumerate(zip(tags, converted[-1], strict=True)) if tag != right]
        if wrong and scheme != "IOB1":  # IOB1 allows every sequence
            invalid.append((i, wrong[0]))
    return converted, invalid


def labels(types: Sequence[str], scheme: str) -> tuple[str, ...]:
    """Returns every tag of a scheme ("BIO" or "BIOES") for the given types of entities, "O" first."""
    letters = "BIES" if scheme == "BIOES" else "BI"
    return ("O", *(f"{letter}-{kind}" for kind in sorted(types) for letter in letters))


def _entities(tags):
    """Returns (type, first word, last word) of each entity in a sentence's tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities(tags)


def _encode(entities, length, scheme):
    """Returns the tags of a sentence of `length` words with these entities."""
    tags = ["O"] * length
    for kind, first, last in entities:
        letters = ["I"] * (last - first + 1)
        if scheme == "BIOES":
            letters[-1] = "E"
        letters[0] = "B"
        if scheme == "BIOES" and first == last:
            letters[0] = "S"
        for word, letter in zip(range(first, last + 1), letters, strict=True):
            tags[word] = f"{letter}-{kind}"
    return tags


def __getattr__(name):
    return _moved.find("data.tasks.schemes", name)
