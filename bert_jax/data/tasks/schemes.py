"""How tags mark entities: IOB1, BIO (IOB2) and BIOES; recognised by looking, and made uniform.

Sequences that a scheme does not allow are read as conlleval reads them, and counted.
"""

import re
from collections.abc import Sequence

_TAG = re.compile(r"O|[BIESLUM]-\S+")
_SAME = {"L": "E", "U": "S", "M": "I"}  # BILOU's and BMES's letters

Place = tuple[int, int]  # sentence and word


def first_that_marks_none(sentences: Sequence[Sequence[str]]) -> Place | None:
    """The first tag that is not one of an entity scheme, where others are; None if all are, or none is but "O"."""
    others = [(i, j) for i, tags in enumerate(sentences) for j, tag in enumerate(tags) if not _TAG.fullmatch(tag)]
    marks = any(tag != "O" and _TAG.fullmatch(tag) for tags in sentences for tag in tags)
    return others[0] if others and marks else None


def detect(sentences: Sequence[Sequence[str]]) -> str:
    """ "IOB1", "BIO" or "BIOES"; "" for tags that mark no entities; "BIO" where nothing decides."""
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


def uniform(sentences: Sequence[Sequence[str]], scheme: str) -> tuple[list[list[str]], list[Place]]:
    """(the tags as BIO, or as BIOES where `scheme` is; the first place of each sentence with an invalid sequence)."""
    made, invalid = [], []
    for i, tags in enumerate(sentences):
        tags = [_SAME.get(tag[0], tag[0]) + tag[1:] for tag in tags]
        found = _entities(tags)
        made.append(_encode(found, len(tags), "BIOES" if scheme == "BIOES" else "BIO"))
        wrong = [j for j, (tag, right) in enumerate(zip(tags, made[-1], strict=True)) if tag != right]
        if wrong and scheme != "IOB1":  # which no sequence is against
            invalid.append((i, wrong[0]))
    return made, invalid


def labels(types: Sequence[str], scheme: str) -> tuple[str, ...]:
    """Every tag of a scheme for these types of entities, "O" first."""
    letters = "BIES" if scheme == "BIOES" else "BI"
    return ("O", *(f"{letter}-{kind}" for kind in sorted(types) for letter in letters))


def _entities(tags):
    """(type, first word, last word) of each entity."""
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities(tags)


def _encode(entities, length, scheme):
    tags = ["O"] * length
    for kind, first, last in entities:
        letters = ["I"] * (last - first + 1)
        if scheme == "BIOES":
            letters[-1] = "E"
        letters[0] = "B"
        if scheme == "BIOES" and first == last:
            letters[0] = "S"
        for place, letter in zip(range(first, last + 1), letters, strict=True):
            tags[place] = f"{letter}-{kind}"
    return tags
