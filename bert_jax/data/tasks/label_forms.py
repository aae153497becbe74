"""Refuses labels that are written in another form than config.task.problem reads, with the place of the first."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from bert_jax import _moved
from bert_jax.errors import UserError, shortened

# Between labels that other programs write as one text: any mark but a hyphen and an apostrophe.
_OTHER_SEPARATORS = re.compile(r"\s*(?:[^\w\s'\u2019-]|_|\band\b|\s)\s*")
_MARKS_BETWEEN = re.compile(r"\s*[|+/&,;]\s*")  # those that stand between labels much more often than inside one
# Kinds of values that are not labels of one task.
_NOT_TOGETHER = (
    {"a truth", "a number"},
    {"a truth", "text of a number"},
    {"a truth", "a name"},
    {"a number", "a name"},
)
# Pairs of words for true and false: they are values of labels, not names of labels.
_TRUTH = ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"}, {"t", "f"}, {"yes", "no"}, {"y", "n"})
# A list as Python writes it, or an array as numpy, torch, jax, pandas, TensorFlow, polars and pyarrow do.
LIST = re.compile(
    r"[\w.]*\(?\[.*\]\)?|[\w.]*\(?\{.*\}\)?|[\w.]+\(\s*[\[{].*\)"  # ['x'], [0. 1.], array(['x'], dtype=object)
    r"|\(.*,.*\)|\(\)|(?:set|frozenset|list|tuple|dict)\(\)"
    r"|<(?:tf|pyarrow)\.\w.*>|.*\bdtype: \w+|shape: \(\d+,\).*",
    re.DOTALL,
)
_SHOWN = 10  # names in a note
_UNSEEN = re.compile(r"[\u034f\u115f\u1160\u3164\ufe00-\ufe0f]")  # joiners, fillers, variants of a sign
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'}
_ELEMENT = re.compile(r"(?:(?:torch|np|numpy|jnp)\.)?(?:tensor|array|Array)\(.*\)|(?:np|numpy)\.\w+\(.*\)", re.DOTALL)


def form_of_text(text: str) -> str:
    """Returns what a text is that a program wrote instead of a label, such as "a list written as text"; "" for others.

    Such are lists and arrays, and single values as numpy and torch write them: tensor(1), np.str_('x').
    """
    if LIST.fullmatch(text):
        return "a list written as text"
    return "a value of numpy or torch written as text" if _ELEMENT.fullmatch(text) else ""


def check_classes(table, column, names):
    """Raises UserError for names that cannot all be classes: fractions, numbers beside names, a number in two forms."""
    numbers: dict[float, str] = {}
    composed: dict[str, str] = {}
    is_number = [
        name is not None and isinstance(value, int | float) and not isinstance(value, bool)
        for name, value in zip(names, table.columns[column], strict=True)
    ]
    for i, name in enumerate(names):
        if name is None:
            continue
        form = form_of_text(name)
        if form:
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(name)!r}, {form}; expected one class, or "
                "config.task.problem=multi_label with lists (JSONL, Parquet) or names between | (CSV, TSV), or "
                "config.task.labels that name it"
            )
        if composed.setdefault(unicodedata.normalize("NFC", name), name) != name:
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(name)!r} in two forms of Unicode (NFC and NFD); expected "
                "one form of it, or config.task.labels"
            )
        number = number_of(name)
        if number is not None and not number.is_integer():
            raise UserError(
                f"{table.where(i)}: {column!r} is {name}, a fraction; expected classes, or "
                "config.task.problem=regression, or config.task.labels that name it"
            )
        if number is None and any(is_number):
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(name)!r}, but a number at "
                f"{table.where(is_number.index(True))}; expected names or numbers in all records, or config.task.labels"
            )
        if number is not None and numbers.setdefault(number, name) != name:
            raise UserError(
                f"{table.where(i)}: {column!r} is {name!r}, the same number as {numbers[number]!r} before; expected "
                "one form of it, or config.task.labels"
            )


def check_types(table, column, values):
    """Raises UserError for labels of several types, such as true beside "yes", or of truths in two spellings.

    Args:
      table: the records.
      column: the labels' column.
      values: (record, (value, its name or None)) of each label.
    """
    first: dict[str, tuple[int, Any]] = {}
    spelled: dict[str, str] = {}
    for i, (value, name) in values:
        if name is None:
            continue
        is_truth = name.lower() in ("true", "false")
        kind = (
            "a truth" if isinstance(value, bool) else "text of a truth" if is_truth else
            "a number" if isinstance(value, int | float) else
            "text of a number" if number_of(name) is not None else "a name"
        )  # fmt: skip
        first.setdefault(kind, (i, value))
        clash = next((other for other in first if {kind, other} in _NOT_TOGETHER), None)
        if is_truth and spelled.setdefault(name.lower(), name) != name:
            clash, first[kind] = kind, (i, value)
            place, other = table.where(i), spelled[name.lower()]
        elif clash:
            place, other = table.where(first[clash][0]), first[clash][1]
        else:
            continue
        raise UserError(
            f"{table.where(i)}: {column!r} is {shortened(repr(value))}, but {shortened(repr(other))} at {place}; "
            "expected labels of one type and spelling in all records, or config.task.labels"
        )


def check_joined(table, names, occurring):
    """Raises UserError for a class such as "x|y" where x and y are classes too: several labels in one text."""
    for i, name in enumerate(names):
        parts = [part for part in _MARKS_BETWEEN.split(name or "") if part]
        if len(parts) > 1 and all(part in occurring for part in parts):
            raise UserError(
                f"{table.where(i)}: label {name!r} joins {' and '.join(map(repr, parts))}, which are labels too; "
                "expected one label in each record, or config.task.problem=multi_label, or config.task.labels that "
                "name it"
            )


@_moved.renamed_arguments(of_records="record_names")
def check_vectors(table, column, record_names):
    """Raises UserError where every record has as many words for true and false, which are no names."""
    sizes = {len(record) for record in record_names}
    words = {name.casefold() for record in record_names for name in record}
    if len(sizes) == 1 and sizes.pop() > 1 and any(words <= pair for pair in _TRUTH):
        raise UserError(
            f"{table.where(0)}: {column!r} is {shortened(str(table.columns[column][0]))}, words for true and false in "
            "every record, as many in each; expected names, lists of numbers 0 and 1, or a column of 0 and 1 for each "
            "label (config.task.label=x,y)"
        )


@_moved.renamed_arguments(of_records="record_names")
def check_separators(table, record_names, occurring):
    """Raises UserError for a label such as "x / y" where x and y are labels too, or parts of other such labels."""
    joined_by_part: dict[str, set[str]] = {}
    for name in occurring:
        for part in _MARKS_BETWEEN.split(name):
            joined_by_part.setdefault(part, set()).add(name)
    for i, names in enumerate(record_names):
        for name in names:
            parts = [part for part in _OTHER_SEPARATORS.split(name) if part]
            joined = [part for part in _MARKS_BETWEEN.split(name) if part]
            if len(parts) > 1 and all(part in occurring for part in parts):
                relation = "which are labels too"
            elif len(joined) > 1 and all(part in occurring or len(joined_by_part[part]) > 1 for part in joined):
                parts, relation = joined, "which other labels join too"
            else:
                continue
            raise UserError(
                f"{table.where(i)}: label {name!r} joins {' and '.join(map(repr, parts))}, {relation}; "
                "expected | or commas between labels, or config.task.labels that name it"
            )


def check_spaces(table, column, record_names):
    """Raises UserError where labels seem to be joined by spaces: no record has several, and words of names are shared.

    That is, each word of every name with a space is a label too, or a word of another such name. So "x y" is refused
    beside "y z", but "identity hate" is not beside "severe toxic".
    """
    if not all(isinstance(value, str) for value in table.columns[column] if value is not None):
        return  # a list says where its labels end
    if any(len(names) > 1 for names in record_names):
        return
    names_by_word: dict[str, set[str]] = {}
    for names in record_names:
        for name in names:
            for word in name.split():
                names_by_word.setdefault(word, set()).add(name)
    spaced = {name for names in record_names for name in names if len(name.split()) > 1}
    if len(spaced) > 1 and all(len(names_by_word[word] - {name}) for name in spaced for word in name.split()):
        i = next(i for i, names in enumerate(record_names) if spaced & set(names))
        raise UserError(
            f"{table.where(i)}: label {record_names[i][0]!r} and others with spaces consist of words that other labels "
            "have too; expected | or commas between labels, or config.task.labels that name it"
        )


def similar(names: Sequence[str]) -> list[str]:
    """Returns notes about classes whose names look the same to a reader, or differ in case alone."""
    by_look: dict[str, list[str]] = {}
    for name in names:
        look = " ".join("".join(map(_plain, name)).split())
        by_look.setdefault(unicodedata.normalize("NFC", look).casefold(), []).append(name)
    notes = []
    for spellings in by_look.values():
        if len(spellings) > 1:
            by_case = len({name.casefold() for name in spellings}) == 1
            difference = "in case alone" if by_case else "in characters that look alike or do not show"
            shown = [*map(_visible, spellings[:_SHOWN]), *(["..."] if len(spellings) > _SHOWN else [])]
            notes.append(f"the labels {', '.join(shown)} differ {difference}, and are classes of their own")
    return notes


def _plain(character):
    """Returns a character without what a reader hardly sees: widths, kinds of spaces, dashes and quotes."""
    if _UNSEEN.fullmatch(character) or unicodedata.category(character) == "Cf":  # such as the zero-width space
        return ""
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Pd":
        return "-"
    width, *codes = unicodedata.decomposition(character).split() or [""]
    return chr(int(codes[0], 16)) if width in ("<wide>", "<narrow>") else _QUOTES.get(character, character)


def _visible(name):
    """Returns a name with the codes of characters that a reader cannot tell from ASCII, or cannot see."""
    return "".join(
        c if c.isascii() and c.isprintable() or _plain(c) == c else c.encode("unicode_escape").decode() for c in name
    )


def number_of(name):
    """Returns the number that a name writes, also with a decimal comma; None for other names."""
    if not re.fullmatch(r"[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?", name):
        return None
    return float(name.replace(",", "."))
