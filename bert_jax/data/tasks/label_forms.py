"""Refuses labels that are written in another form than config.task.problem reads, with the place of the first."""

import collections
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
# What other programs write for a missing value; no class has such a name unless config.task.labels says so.
_MISSING = {
    "nan", "-nan", "+nan", "<nan>", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "1.#snan", "<na>", "<null>", "null",
    "(null)", "<none>", "<missing>", "\\n", "#na", "#n/a", "#n/a n/a",
    "-100",  # transformers ignores -100
}  # fmt: skip
_MISSING_AS_WRITTEN = {"None", "NaT"}  # "none" is often a class
# Errors of a spreadsheet's formulas, in any language: #VALUE!, #NAME?, #DIV/0!, #WERT!, Err:502.
_FORMULA_ERROR = re.compile(r"#\u00a1?[A-Z\u00c0-\u00de][A-Z\u00c0-\u00de0-9/_]*[!?]|#NV|#GETTING_DATA|Err:\d{3}")
_PLACEHOLDER = re.compile(r"\?+|[-\u2013\u2014]+|\.+|\*+|_+|/|#")  # for a missing value, unless marks are the classes
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\s*[,;|]\s*{_NUMBER}|\s+{_NUMBER})+")  # a vector, scores or ids
_BITS = re.compile(r"[01]{2,}")
_STRONG = re.compile(r"[;\uff1b|\uff5c\t\n\r]")  # marks that hardly stand inside the name of a class
_BETWEEN_CLASSES = (
    re.compile(r"\s*(?:[|+/&,;#\uff5c\uff0b\uff0f\uff06\uff0c\uff1b\u3001\u060c]|\band\b|\s)\s*"),
    *(re.compile(rf"\s*{re.escape(mark)}\s*") for mark in "|+/&,;"),  # alone: C/C++ are C and C++
)
_CHARACTER_REFERENCE = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[0-9a-fA-F]+);")
_SHOWN = 10  # names in a note
_UNSEEN = re.compile(r"[\u034f\u115f\u1160\u3164\ufe00-\ufe0f]")  # joiners, fillers, variants of a sign
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'}
_ELEMENT = re.compile(r"(?:(?:torch|np|numpy|jnp)\.)?(?:tensor|array|Array)\(.*\)|(?:np|numpy)\.\w+\(.*\)", re.DOTALL)
# b'x', u'x', Decimal('1'), <Label.GOOD: 1>, <__main__.Label object at 0x7f12ab34cd56>
_PYTHON = re.compile(
    r"(?:[bB]|[uU]|[rR][bB]|[bB][rR])(?:'.*'|\".*\")|[^\W\d][\w.]*\((?:'[^']*'|\"[^\"]*\")\)"
    r"|<[^\W\d]\w*\.\w+: .+>|<.* at 0x[0-9a-fA-F]+>",
    re.DOTALL,
)


def form_of_text(text: str) -> str:
    """Returns what a text is that a program wrote instead of a label, such as "a list written as text"; "" for others.

    Such are lists and arrays, and single values as numpy, torch and Python write them: tensor(1), np.str_('x'), b'x'.
    """
    if LIST.fullmatch(text):
        return "a list written as text"
    if _ELEMENT.fullmatch(text):
        return "a value of numpy or torch written as text"
    return "a value of Python written as text" if _PYTHON.fullmatch(text) else ""


def is_missing(text: str) -> bool:
    """Returns whether a text is what other programs write for a missing value, such as nan, NULL or #VALUE!."""
    return text.lower() in _MISSING or text in _MISSING_AS_WRITTEN or bool(_FORMULA_ERROR.fullmatch(text))


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


def check_written(table, column, names):
    """Raises UserError for a class that is a text of several values, or that stands for a missing one.

    Such are vectors and ids (1,0,0; 1 0 0; 010 beside 110), words for true and false in each record (yes,no), labels of
    fastText, and a placeholder such as ?.
    """
    occurring = [name for name in dict.fromkeys(names) if name is not None]
    form_by_name = {name: form for name in occurring if (form := _form_of_several(name))}
    words = [re.split(r"\s*[,;|\s]\s*", name.casefold()) for name in occurring]
    sizes = {len(parts) for parts in words}
    values = {word for parts in words for word in parts}
    is_vectors = len(sizes) == 1 and sizes != {1} and any(values <= pair for pair in _TRUTH)
    is_bits = len({len(name) for name in occurring}) == 1 and all(map(_BITS.fullmatch, occurring))
    if is_vectors or (is_bits and any(name.startswith("0") for name in occurring)):
        form_by_name = dict.fromkeys(occurring, "as many words for true and false in every record") | form_by_name
    for i, name in enumerate(names):
        if name in form_by_name:
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(name)!r}, {form_by_name[name]}; expected one class, or "
                "config.task.problem=multi_label with lists (JSONL, Parquet), names between | (CSV, TSV) or a column "
                "of 0 and 1 for each label (config.task.label=x,y), or config.task.labels that name it"
            )
    check_placeholders(table, column, [[] if name is None else [name] for name in names])


def check_placeholders(table, column, record_names):
    """Raises UserError for a label such as ?, which stands for a missing value, where no other is of marks alone."""
    occurring = dict.fromkeys(name for names in record_names for name in names)
    marks = [name for name in occurring if not re.search(r"\w", name)]
    if len(marks) == 1 and len(occurring) > 1 and _PLACEHOLDER.fullmatch(marks[0]):
        i = next(i for i, names in enumerate(record_names) if marks[0] in names)
        raise UserError(
            f"{table.where(i)}: {column!r} is {marks[0]!r}, as programs write a missing value; expected a label, or "
            "config.task.labels that name it"
        )


def _form_of_several(name):
    """Returns what a text of several labels is, such as "numbers with marks between them"; "" for others."""
    if _NUMBERS.fullmatch(name) and number_of(name) is None:
        return "several numbers written as text"
    return "labels with spaces between them" if name.count("__label__") > 1 else ""


def check_joined(table, names, occurring):
    """Raises UserError for classes that seem to be several labels in one text.

    Such are "x|y" and "x y" where x and y are classes too; "x+y" where its parts are classes, or parts of other such
    names; and "x;y" where one part is a class, or several classes have such a mark.
    """
    parts_by_name = {name: _parts(_MARKS_BETWEEN, name) for name in occurring}
    counts = collections.Counter(part for parts in parts_by_name.values() for part in set(parts))
    marked = {name: parts for name in occurring if (parts := _marked_parts(name))}
    reason_by_name = {}
    for name, parts in parts_by_name.items():
        ways = (_parts(pattern, name) for pattern in _BETWEEN_CLASSES)
        way = next((way for way in ways if len(set(way)) > 1 and all(part in occurring for part in way)), None)
        is_shared = len(set(parts)) > 1 and all(part in occurring or counts[part] > 1 for part in parts)
        if way:
            reason_by_name[name] = f"joins {' and '.join(map(repr, way))}, which are labels too"
        elif is_shared and any(number_of(part) is None for part in parts):  # 1/2 and 2/3 are fractions
            reason_by_name[name] = f"joins {' and '.join(map(repr, parts))}, which other labels join too"
        elif name in marked and (len(marked) > 1 or any(part in occurring for part in marked[name])):
            reason_by_name[name] = (
                f"holds {_STRONG.findall(_without_references(name))[0]!r} between words that may be labels of their own"
            )
    for i, name in enumerate(names):
        if name in reason_by_name:
            raise UserError(
                f"{table.where(i)}: label {shortened(name)!r} {reason_by_name[name]}; expected one label in each "
                "record, or config.task.problem=multi_label, or config.task.labels that name it"
            )


def _parts(pattern, name):
    """Returns the parts of a name between separators, without empty ones."""
    return [part for part in pattern.split(_without_references(name)) if part]


def _without_references(name):
    """Returns a name without HTML's references to characters, such as &amp;, whose marks separate nothing."""
    return _CHARACTER_REFERENCE.sub("", name)


def _marked_parts(name):
    """Returns the words between marks that hardly stand inside a name; [] without such marks, or for marks alone."""
    if not _STRONG.search(_without_references(name)):
        return []
    parts = [part.strip() for part in _parts(_STRONG, name)]
    return parts if all(re.search(r"\w", part) for part in parts) else []


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
