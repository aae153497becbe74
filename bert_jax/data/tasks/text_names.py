"""Knows the names that columns of texts have in well-known data, so that a text is not left out in silence."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Without signs and capitals: names of a second text, of any text, and of negatives.
_ORDINAL = "(2|b|two|second|other|pair|right)"
_TEXT = "(text|sentence|question|premise|hypothesis|context|passage|document|paragraph|query)"
_SECOND = re.compile(
    f"{_TEXT}s?{_ORDINAL}|sent(2|b)|(second|other|next){_TEXT}|pair(ed)?(text|sentence)?|hypothesis|s2|q2"
)
_ANY = re.compile(f"(first)?{_TEXT}(1|a|one|first|left)?")
_NEGATIVE = re.compile(r"(hard)?neg(ative)?s?(text|passage|document)?s?\d*")
_IDENTIFIER = re.compile(r"[\x21-\x7e]*[\d/._:-][\x21-\x7e]*")  # a word with a digit or a sign in it, such as D12
_LOOKED_AT = 20  # records in which a column is looked for texts


def unread_texts(names: Iterable[Any], read: Sequence[str]) -> list[str]:
    """Returns those of the names of a record or table that are a text's, without the ones that are read."""
    return [
        name
        for name in names
        if isinstance(name, str) and name not in read and (is_second(name) or _ANY.fullmatch(bare(name)))
    ]


def is_second(name: str) -> bool:
    """Returns whether a name is that of a second text, such as text_pair, sentence2 or hypothesis."""
    return bool(_SECOND.fullmatch(bare(name)))


def is_identifier(text: str) -> bool:
    """Returns whether what a column of texts holds is rather an id, such as D12 or a path."""
    return bool(_IDENTIFIER.fullmatch(text))


def bare(name: str) -> str:
    """Returns a name without signs and capitals: text_pair, textPair and "Text pair" are one name."""
    return re.sub(r"[\W_]", "", name).lower()


def unread_note(others: Sequence[Mapping[str, Any]], read: Sequence[str], key: str) -> list[str]:
    """Returns a line about a column of texts that fine-tuning does not read; [] where there is none.

    Args:
      others: what the first records hold beside what is read, by column.
      read: names of the columns that are read.
      key: the key of config.task that would read it: "text_pair" or "negatives".
    """
    for name in dict.fromkeys(name for record in others[:_LOOKED_AT] for name in record):
        is_meant = _NEGATIVE.fullmatch(bare(name)) if key == "negatives" else unread_texts([name], read)
        values = [record.get(name) for record in others[:_LOOKED_AT]]
        texts = [value[0] if isinstance(value, list) and value else value for value in values]
        if is_meant and any(isinstance(text, str) and text.strip() and not is_identifier(text) for text in texts):
            return [f"the data has a column {name!r}, which is not read: config.task.{key}={name} reads it"]
    return []
