"""Detects how tags mark entities (IOB1, BIO also called IOB2, BIOES), and converts them to BIO or BIOES.

Sequences that a scheme does not allow are read as conlleval reads them, and reported. Letters of BILOU, BMES and BMEWO
are read as those of BIOES. Lower-case letters (b-per) are a spelling of capitals, and tags may be letters alone
(B, I, O) where all entities are of one type.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bert_jax import _moved

OUTSIDE = "O"
_SYNONYMS = {"L": "E", "U": "S", "W": "S", "M": "I"}  # letters of BILOU, BMES and BMEWO
_LETTERS = "BIESLUWM"
_TAG = re.compile(rf"([{_LETTERS}])-(\S.*)")
_BARE = ({"B", "I"}, {"B", "M", "E", "S"})  # letters, one of which sets tags without types hold
# Labels of positions that are no words, which early fine-tuned models have beside their tags.
_MARKS = {"X", "PAD", "_", "-"}
_NESTED = re.compile(r"[BIESLUMW][-_].+[|,;/+]\s*[BIESLUMW][-_].+")  # entities over one word, in one field
# Entity tags as transformers does not write them: B_PER, B:PER, B PER, BPER, B with a longer dash, B- alone; PER-B,
# PER_B, PER B.
_OTHER_FORMS = (
    re.compile(rf"([{_LETTERS}])(?:\s*(?:[^\w\s-]|_)\s*(?=\S)|\s+-?\s*(?=\S)|-\s+(?=\S)|-$|(?=\w\w\S*$))(.*)"),
    re.compile(rf"(\S|\S.*\S)\s*(?:[^\w\s]|_|\s)\s*([{_LETTERS}])"),
)
_FURTHER = "IELM"  # letters of words that go on with an entity
_OUTSIDES = {"O", "0", "OUT", "OUTSIDE", "OTHER", "NONE"}
_WRAP = re.compile(
    r"(?:[bBuU](?=['\"]))?[\W_]*(\w(?:.*\w)?)[\W_]*"
)  # 'B-PER', [B-PER], <B-PER>, ['B-PER', and b'B-PER'
_EMBEDDED = re.compile(rf".*[^\w-]([{_LETTERS}])-(\w.*)")  # behind something else: ner=B-PER, NNP/B-PER
# Letters as words: begin-PER, Inside_PER, and PER:begin.
_WORDS = {
    "BEGIN": "B", "BEGINNING": "B", "BEG": "B", "START": "B", "INSIDE": "I", "INNER": "I", "IN": "I",
    "INTERMEDIATE": "I", "MIDDLE": "I", "MID": "I", "CONTINUE": "I", "CONT": "I", "INTERIOR": "I",
}  # fmt: skip
_WORD_FORMS = (
    re.compile(rf"({'|'.join(_WORDS)})(?:\s*(?:[^\w\s]|_)\s*|\s+)(\S.*)"),
    re.compile(rf"(\S|\S.*\S)(?:\s*(?:[^\w\s]|_)\s*|\s+)({'|'.join(_WORDS)})"),
)

Place = tuple[int, int]  # index of a sentence and of a word in it


class Tag(NamedTuple):
    """Holds an entity tag: a letter of BIOES, and the type of the entity, "" for tags that are letters alone."""

    letter: str
    kind: str


class Spelling(NamedTuple):
    """States how a set of tags writes its letters: in lower case, and without types."""

    lower: bool = False
    bare: bool = False


def spelling(tags: Iterable[str]) -> Spelling:
    """Returns how a set of tags writes its letters; capitals with types where nothing else fits every tag."""
    names = set(tags)
    for lower in (False, True):
        capitals = {_capital(name) for name in names} if lower else names
        letters = {name for name in capitals if name != OUTSIDE}
        if not letters or (lower and letters & names):
            continue
        if all(_TAG.fullmatch(name) for name in letters):
            return Spelling(lower and any(name[0] in "BI" for name in letters))
        if letters <= set(_LETTERS) and any(needed <= letters for needed in _BARE):
            return Spelling(lower, bare=True)
    return Spelling()


def canonical(tag: str, written: Spelling) -> str:
    """Returns a tag with a capital letter and O in capitals, if its set has lower-case ones."""
    return _capital(tag) if written.lower else tag


def parse(tag: str, written: Spelling = Spelling()) -> Tag | None:  # noqa: B008 immutable
    """Returns the letter (of BIOES) and type of an entity tag; None for O and tags that mark no entity."""
    tag = canonical(tag, written)
    match = _TAG.fullmatch(tag)
    letter, kind = match.groups() if match else (tag, "")
    if not match and not (written.bare and letter in set(_LETTERS)):
        return None
    return Tag(_SYNONYMS.get(letter, letter), kind)


def of_labels(labels: Sequence[str]) -> tuple[str, Spelling]:
    """Returns the scheme of a model's labels, "BIO" or "BIOES", and their spelling; ("", ...) for plain tags.

    Decided by the labels that are entity tags: others may stand beside them, such as X or [CLS].
    """
    words = [label for label in labels if label != OUTSIDE and not is_mark(label)]
    for written in (spelling([OUTSIDE, *words]), Spelling(), Spelling(lower=True)):
        letters = {tag.letter for tag in (parse(label, written) for label in words) if tag}
        is_whole = letters and not written.lower and all(re.fullmatch(r"[BIES]-\S.*", label) for label in words)
        if "B" in letters or "I" in letters or is_whole:
            return ("BIOES" if letters & set("ES") else "BIO"), written
    return "", Spelling()


def is_mark(label: str) -> bool:
    """Returns whether a label stands for positions that are no words, such as X, [CLS] or <pad>, beside entity tags."""
    return label.upper() in _MARKS or bool(re.fullmatch(r"\[\w+\]|</?\w+>", label))


def first_non_entity_tag(
    sentences: Sequence[Sequence[str]], expected: bool = False, written: Spelling | None = None
) -> Place | None:
    """Returns the place of the first tag that marks no entity, where others do, or where they are `expected` to.

    Returns None if every tag is of an entity scheme, or none is but "O".
    """
    names = {tag for tags in sentences for tag in tags}
    written = spelling(names) if written is None else written
    others = {tag for tag in names if canonical(tag, written) != OUTSIDE and not parse(tag, written)}
    if not others or not (expected or any(parse(tag, written) for tag in names)):
        return None
    return next((i, j) for i, tags in enumerate(sentences) for j, tag in enumerate(tags) if tag in others)


def look_alike(sentences: Sequence[Sequence[str]]) -> Place | None:
    """Returns the place of the first tag in another form of entity tags, such as B_PER, 'B-PER'; None for others.

    Forms are: entity tags in quotes, brackets or other marks; B and a letter that goes on, with one type, in another
    order, with another mark between them, in words (begin-PER) or behind something (ner=B-PER); and brackets, (PER* and
    *), as in CoNLL-2005 and 2012. Forms of which plain tags may consist too (BPER, B PER) need a tag that is O.
    """
    names = {tag for tags in sentences for tag in tags}
    brackets = {tag for tag in names if re.fullmatch(r"\([^\s()*]+\*?\)?", tag)}
    odd = brackets if names & {"*", "*)", "-"} else set()
    inner = {tag: _unwrapped(tag) for tag in names}
    odd = odd or _wrapped(inner) or _words(inner) or _pairs(inner)
    return next(((i, j) for i, tags in enumerate(sentences) for j, tag in enumerate(tags) if tag in odd), None)


def _unwrapped(tag):
    """Returns a tag in capitals, without marks around it."""
    match = _WRAP.fullmatch(tag)
    return match[1].upper() if match else tag.upper()


def _wrapped(inner):
    """Returns the tags that are entity tags but for marks around them; `inner` has each tag without these."""
    wrapped = {tag: text for tag, text in inner.items() if text != tag.upper() and not _TAG.fullmatch(tag.upper())}
    typed = {tag for tag, text in wrapped.items() if _TAG.fullmatch(text)}
    if any(wrapped[tag][0] in "BI" for tag in typed):
        return typed
    letters = set(inner.values()) - {OUTSIDE}
    is_bare = letters <= set(_LETTERS) and any(needed <= letters for needed in _BARE)
    return set(wrapped) if is_bare and OUTSIDE in wrapped.values() else set()


def _words(inner):
    """Returns the tags with words for B and I: with one type, with one of I beside "outside", or without types."""
    has_outside = "OUTSIDE" in inner.values()
    for form, is_swapped in zip(_WORD_FORMS, (False, True), strict=True):
        pairs = _split(form, is_swapped, inner)
        kinds = {letter: {kind for word, kind in pairs.values() if _WORDS[word] == letter} for letter in "BI"}
        if kinds["B"] & kinds["I"] or (kinds["I"] and has_outside):
            return set(pairs)
    letters = {_WORDS.get(text, "") for text in inner.values() if text != "OUTSIDE"}
    return set(inner) if has_outside and letters == {"B", "I"} else set()


def _pairs(inner):
    """Returns the tags of B in another form, where a letter of words that go on occurs in it with the same type."""
    capitals = {tag: tag.upper() for tag in inner}
    has_outside = not _OUTSIDES.isdisjoint([*capitals.values(), *inner.values()])
    embedded = {tag: text for tag, text in inner.items() if not _TAG.fullmatch(capitals[tag])}
    for form, is_swapped, texts in (
        (_OTHER_FORMS[0], False, capitals),
        (_OTHER_FORMS[0], False, inner),
        (_OTHER_FORMS[1], True, inner),
        (_EMBEDDED, False, embedded),
    ):
        pairs = _split(form, is_swapped, texts)
        kinds = {kind for letter, kind in pairs.values() if letter in _FURTHER}
        odd = {tag for tag, (letter, kind) in pairs.items() if letter == "B" and kind in kinds}
        is_marked = all(re.search(r"[^\w\s]|_", texts[tag].replace(pairs[tag][1], "")) for tag in odd)
        if odd and (has_outside or (is_marked and len(inner) - len(pairs) <= 1)):
            return odd
    return set()


def _split(form, is_swapped, texts):
    """Returns {tag: (letter or word, type)} of the texts of tags that have a form."""
    matches = {tag: form.fullmatch(text) for tag, text in texts.items()}
    return {tag: match.groups()[:: -1 if is_swapped else 1] for tag, match in matches.items() if match}


def first_nested(sentences: Sequence[Sequence[str]]) -> Place | None:
    """Returns the place of the first field with several entity tags, such as B-PER|B-LOC; None where there is none."""
    for i, tags in enumerate(sentences):
        for j, tag in enumerate(tags):
            if _NESTED.fullmatch(tag.upper()):
                return i, j
    return None


def detect(sentences: Sequence[Sequence[str]], written: Spelling | None = None) -> str:
    """Returns "IOB1", "BIO" or "BIOES"; "" for tags that mark no entities; "BIO" where nothing decides.

    Args:
      sentences: tags of each sentence.
      written: their spelling; None: as these tags show it.
    """
    names = {tag for tags in sentences for tag in tags}
    written = spelling(names) if written is None else written
    parsed = {tag: parse(tag, written) for tag in names}
    if any(tag is None and canonical(name, written) != OUTSIDE for name, tag in parsed.items()):
        return ""
    if any(tag and (tag.letter in "ES" or name[0] in "Mm") for name, tag in parsed.items()):
        return "BIOES"
    against_bio = against_iob1 = 0
    for tags in sentences:
        before = None
        for name in tags:
            tag = parsed[name]
            if tag:
                follows = before is not None and before.kind == tag.kind
                against_bio += tag.letter == "I" and not follows
                against_iob1 += tag.letter == "B" and not follows
            before = tag
    return "IOB1" if against_bio > against_iob1 else "BIO"


def convert(
    sentences: Sequence[Sequence[str]], scheme: str, written: Spelling | None = None
) -> tuple[list[list[str]], list[Place]]:
    """Converts tags to BIOES if that is their scheme, else to BIO.

    Args:
      sentences: tags of each sentence.
      scheme: their scheme, as `detect` returns it.
      written: their spelling; None: as these tags show it.

    Returns:
      (converted tags of each sentence, the place of the first invalid tag of each sentence that has one)
    """
    converted, invalid = [], []
    written = spelling(tag for tags in sentences for tag in tags) if written is None else written
    for i, names in enumerate(sentences):
        parsed = [parse(name, written) for name in names]
        tags = [_name(*tag) if tag else canonical(name, written) for name, tag in zip(names, parsed, strict=True)]
        converted.append(_encode(_entities(tags), len(tags), "BIOES" if scheme == "BIOES" else "BIO"))
        wrong = [j for j, (tag, right) in enumerate(zip(tags, converted[-1], strict=True)) if tag != right]
        if wrong and scheme != "IOB1":  # IOB1 allows every sequence
            invalid.append((i, wrong[0]))
    return converted, invalid


def labels(types: Sequence[str], scheme: str) -> tuple[str, ...]:
    """Returns every tag of a scheme ("BIO" or "BIOES") for the given types of entities, "O" first."""
    letters = "BIES" if scheme == "BIOES" else "BI"
    return (OUTSIDE, *(_name(letter, kind) for kind in sorted(types) for letter in letters))


def _capital(tag):
    """Returns a tag with its letter in upper case."""
    return tag[:1].upper() + tag[1:] if len(tag) == 1 or tag[1:2] == "-" else tag


def _name(letter, kind):
    return f"{letter}-{kind}" if kind else letter


def _entities(tags):
    """Returns (type, first word, last word) of each entity in a sentence's tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    bare = all(len(tag) == 1 for tag in tags)
    return [("" if bare else kind, first, last) for kind, first, last in get_entities(tags)]


def _encode(entities, length, scheme):
    """Returns the tags of a sentence of `length` words with these entities."""
    tags = [OUTSIDE] * length
    for kind, first, last in entities:
        letters = ["I"] * (last - first + 1)
        if scheme == "BIOES":
            letters[-1] = "E"
        letters[0] = "B"
        if scheme == "BIOES" and first == last:
            letters[0] = "S"
        for word, letter in zip(range(first, last + 1), letters, strict=True):
            tags[word] = _name(letter, kind)
    return tags


def __getattr__(name):
    return _moved.find("data.tasks.schemes", name)
