"""Reads what callers pass as examples: texts, pairs and records, alone or in lists, arrays, tables and generators."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.config.schema import closest
from bert_jax.data.tasks.text_names import bare, is_identifier, is_second, unread_texts
from bert_jax.errors import UserError, shortened

Example = tuple[Any, ...]  # texts; of a tagger also one list of words

WORDS = ("words", "tokens")  # keys that hold a list of words instead of a text
_NOT_ITEMS = (bytes, bytearray, memoryview, set, frozenset)  # they can be iterated, but hold no texts in an order


@dataclasses.dataclass(frozen=True)
class Reader:
    """Says what an example may be, and reads examples.

    Attributes:
      fields: names of an example's texts.
      required: how many of the first of them must be there.
      words: whether a list of words may stand for the text.
      columns: names that the model's own training data has for the fields; () where they are not known.
      noun: what a record is called in messages.
      refused: which texts of a record that would not be read are refused, by their names: "all", those that are called
        a "second" one, or "none", where the caller has said which one is read.
      column_flags: for each field the flag that names its column; () outside of commands.
      choice: ends the message about a text that would not be read: how a caller says that one is all.
      choice_of_two: the same where two texts are read.
    """

    fields: tuple[str, ...]
    required: int
    words: bool = False
    columns: tuple[str, ...] = ()
    noun: str = "a dict"
    refused: str = "all"
    column_flags: tuple[str, ...] = ()
    choice: str = "pass the text itself where it is all"
    choice_of_two: str = "pass the two texts as a tuple where they are all"

    def read(self, given: Any) -> tuple[Iterator[Example], bool]:
        """Returns the examples of what a caller passed, read as they are asked for, and whether it is a single one.

        A string and a record are one example; so is a tuple where an example may have two texts. A list, an array, a
        generator, a column or a table holds several, and so does a dict of columns.

        Raises:
          UserError: at once, if it is none of these; while iterating, if an example cannot be read, with its number.
        """
        given = _plain(given, self._names())
        if isinstance(given, str) or self._is_single(given):
            return self._examples([given]), True
        if isinstance(given, Mapping):
            self.check_unread(given, self.names_in(given, "text"), "text")
            return self._examples(self._rows_of(given)), False
        if not isinstance(given, Iterable) or isinstance(given, _NOT_ITEMS):
            raise UserError(f"text: found {_kind(given)}; expected {self._expected()}, or a list of them")
        return self._examples(given), False

    def pairs(self, first: Any, second: Any) -> tuple[Iterator[Example], bool]:
        """Returns the examples of texts and second texts that are passed beside each other, as `read` does.

        Raises:
          UserError: their numbers differ, or the first ones are records, which hold their own second texts.
        """
        name = self.fields[1]
        first, second = _plain(first), _plain(second)
        sides = []
        for field, side in zip(self.fields, (first, second), strict=True):
            if isinstance(side, Mapping):
                raise UserError(f"{field}: found a record beside the other texts; expected a string or a list of them")
            if not isinstance(side, str) and (not isinstance(side, Iterable) or isinstance(side, _NOT_ITEMS)):
                raise UserError(f"{field}: found {_kind(side)}; expected a string or a list of strings")
            sides.append([side] if isinstance(side, str) else list(side))
        firsts, seconds = sides
        if len(firsts) != len(seconds):
            raise UserError(
                f"{name}: found {len(seconds)} texts; expected {len(firsts)}, one for each {self.fields[0]}"
            )
        return self._examples(zip(firsts, seconds, strict=True)), isinstance(first, str)

    def example(self, item: Any, where: str) -> Example:
        """Reads one example: a string, a pair, a list of words or a record.

        Raises:
          UserError: it is none of these; the message begins with `where`.
        """
        item = _plain(item, self._names(), is_example=True)
        if isinstance(item, str):
            if self.required > 1:
                raise UserError(f"{where}: found a string alone; expected {self._expected()}")
            return (str(item),)  # also of numpy's strings
        if isinstance(item, Mapping):
            return self.record(item, where)
        if isinstance(item, list | tuple):
            if self.words:
                return ([_text(word, f"{where}, word {i + 1}") for i, word in enumerate(item)],)
            if len(self.fields) > 1 and len(item) == len(self.fields):
                texts = zip(self.fields, map(_plain, item), strict=True)
                return tuple(
                    _text(text, f"{where}: {name}")
                    for i, (name, text) in enumerate(texts)
                    if i < self.required or text is not None
                )
            if len(self.fields) > 1:
                raise UserError(
                    f"{where}: found a {type(item).__name__} of {len(item)}; expected {self._expected()}; several "
                    "examples go into a list"
                )
        raise UserError(f"{where}: found {_kind(item)}; expected {self._expected()}")

    def record(self, record: Mapping, where: str, shown: str = "") -> Example:
        """Reads a record: its texts by the names of the fields, or of the columns of the model's own training data.

        Args:
          record: other entries of it, such as ids and labels, are left alone; a text that would not be read is refused.
          where: begins a message.
          shown: the record as it stands in a file, for a message.
        """
        names = self.names_in(record, where)
        if self.words:
            for name in (*WORDS, *names[: self.required]):
                words = _plain(record.get(name))
                if isinstance(words, list | tuple):
                    if not all(isinstance(word, str) for word in words):
                        raise UserError(f"{where}: found {shortened(str(list(words)))}; expected a list of words")
                    self.check_unread(record, (name,), where, beside_words=True)
                    return ([str(word) for word in words],)
        texts = []
        for i, name in enumerate(names):
            text = _plain(record.get(name))
            if i >= self.required and text is None:
                continue
            if isinstance(text, Mapping) and self.noun == "a dict":
                raise UserError(
                    f"{where}: {name}: found a dict of {len(text)} entries, a column by its rows as pandas' to_dict() "
                    "makes it; expected the table itself, or a dict of lists, to_dict('list')"
                )
            if not isinstance(text, str) and i >= self.required:
                raise UserError(f"{where}: {name}: found {_kind(text)}; expected a string")
            if not isinstance(text, str):
                also = f", or with a list of words as `{WORDS[0]}`" if self.words else ""
                wanted = " and ".join(f"`{key}`" for key in names[: max(self.required, i + 1)])
                near = "" if name in record else self._near(i, name, record)
                raise UserError(
                    f"{where}: no `{name}` string in {shown or shortened(str(dict(record)))!r}; expected {self.noun} "
                    f"with {wanted}{also}{'' if self.columns[:1] == names[:1] else self._own()}{near}"
                )
            texts.append(str(text))
        self.check_unread(record, names[: len(texts)], where)
        return tuple(texts)

    def check_unread(self, record: Mapping, names: Sequence[str], where: str, beside_words: bool = False) -> None:
        """Raises UserError if a record has, by its name, one more text than is read.

        Args:
          record: the record, or a dict of columns.
          names: names of the texts that are read; the second may be absent where an example may have one text.
          where: begins the message.
          beside_words: whether a list of words is read, which may stand beside the text that it was cut from.
        """
        has_both = len(names) > 1 and all(name in record for name in names)
        if self.refused == "none" or (has_both and self.refused == "second"):
            return
        for name in unread_texts(record, names):
            value = _plain(record[name])
            is_pair = is_second(name) and not has_both
            if (beside_words or self.refused == "second") and not is_pair:
                continue
            if isinstance(value, list | tuple):
                value = next((item for item in value if isinstance(item, str) and item.strip()), None)
            if not isinstance(value, str) or not value.strip():
                continue
            if not is_pair and is_identifier(value.strip()):
                continue
            extra, choice = f"`{shortened(str(name), 30)}`", self.choice
            if has_both:
                keys = f"`{names[0]}` and `{names[1]}` with {extra}, of which two texts would be read"
                choice = self.choice_of_two
            elif len(self.fields) > 1:
                keys = f"`{names[0]}` with {extra}, but no `{self.fields[1]}`"
            else:
                keys = f"`{names[0]}` with {extra}, of which one text would be read"
            raise UserError(f"{where}: found {keys}; expected {self._expected()} ({choice})")

    def names_in(self, record: Mapping | Sequence[str], where: str) -> tuple[str, ...]:
        """Returns the names of the texts in a record, or in a table of some columns: the model's own, else the fields.

        Raises:
          UserError: it has some of the one and some of the other; the message begins with `where`.
        """
        own = (*self.columns, *self.fields[len(self.columns) :])
        needed = max(self.required, len(self.columns))
        if own == self.fields or all(name in record for name in own[:needed]):
            return own
        is_standard = all(name in record for name in self.fields[: self.required])
        mixed = [name for name in own[:needed] if name in record and name not in self.fields]
        if mixed and (needed > 1 or not is_standard):
            names = (self.fields[:needed], own[:needed])
            expected = " or ".join(" and ".join(f"`{name}`" for name in pair) for pair in names)
            raise UserError(f"{where}: found {_listed(record)}; expected {expected}")
        return self.fields

    def _near(self, place, name, record):
        """Returns the end of a message about a missing text: the key that was meant, and how a command reads it."""
        texts = [key for key, value in record.items() if isinstance(key, str) and isinstance(value, str)]
        begins = [key for key in texts if name.startswith(bare(key)) and len(key) > 1]
        near = closest(name, texts) or (f"; did you mean {begins[0]}?" if begins else "")
        key = near.removeprefix("; did you mean ").removesuffix("?")
        if near and self.column_flags and " or " not in key:
            near += f" (--{self.column_flags[place]}={key})"
        return near

    def _names(self):
        return {*self.fields, *self.columns, *(WORDS if self.words else ())}

    def _is_single(self, given):
        """Returns whether a record, or a tuple where an example may have two texts, is one example."""
        if isinstance(given, Mapping):
            return not any(_is_column(given.get(name), self.words) for name in self._names())
        if not isinstance(given, tuple) or len(self.fields) == 1:
            return False
        return not given or not all(isinstance(_plain(item, is_example=True), Mapping | tuple) for item in given)

    def _rows_of(self, columns):
        """Yields the records of a dict of columns."""
        names = [name for name in columns if name in self._names()]
        sizes = {name: len(columns[name]) if _is_column(columns[name], False) else -1 for name in names}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{name} {size if size >= 0 else 'none'}" for name, size in sizes.items())
            raise UserError(f"text: columns of different lengths ({shown}); expected as many entries in each")
        lists = [list(_plain(columns[name])) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    def _examples(self, items):
        return (self.example(item, f"text {i + 1}") for i, item in enumerate(items))

    def _expected(self):
        """Returns in words what an example may be."""
        names = " and ".join(f"`{name}`" for name in self.fields[: self.required])
        also = f" and perhaps `{self.fields[-1]}`" if self.required < len(self.fields) else ""
        forms = [] if self.required > 1 else ["a string"]
        forms += ["a pair of strings"] if len(self.fields) > 1 else []
        forms += ["a list of words"] if self.words else []
        return f"{', '.join(forms)} or {self.noun} with {names}{also}{self._own()}"

    def _own(self):
        """Returns the end of a message: the columns of the model's own data, where they have other names."""
        if not self.columns or self.columns == self.fields[: len(self.columns)]:
            return ""
        return f" (or {' and '.join(f'`{name}`' for name in self.columns)})"


def check_count(name: str, value: Any, at_most: int | None = None) -> int:
    """Returns an argument that says how many are wanted. Raises UserError if it is no whole number from 1 on."""
    is_count = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_count or value < 1 or (at_most is not None and value > at_most):
        expected = "a number of at least 1" if at_most is None else f"1 to {at_most}"
        raise UserError(f"{name}: found {value!r}; expected {expected}")
    return int(value)


def check_texts(example: Example, fields: Sequence[str], where: str, allow_empty: bool = False) -> None:
    """Raises UserError if a text of an example is not a string, is empty or blank, or is not valid Unicode.

    Args:
      example: the texts.
      fields: their names, for the message if there are several.
      where: name of the example, such as "text 3" or "file.jsonl:3".
      allow_empty: whether a text may be empty or blank.
    """
    if len(fields) != len(example):
        raise UserError(f"{where}: found {len(example)} texts; expected {' and '.join(fields)}")
    for name, text in zip(fields, example, strict=True):
        place = where if len(fields) == 1 else f"{where}: {name}"
        if not isinstance(text, str):
            raise UserError(f"{place}: found {type(text).__name__}; expected a string")
        if not allow_empty and (not text or text.isspace()):
            raise UserError(f"{place}: empty{' (only white space)' if text else ''}; expected text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{place}: half a surrogate pair at character {error.start}; expected Unicode") from error


def _plain(value: Any, names: Iterable[str] = (), is_example: bool = False) -> Any:
    """Returns what other packages' containers hold as Python's own; everything else as it is.

    Args:
      value: a numpy array becomes a list, or the value that it holds; one with named fields a list of records, or one
        record; a table of pandas, polars or pyarrow a list of records; a named tuple, and a struct of pyarrow, a
        record; a Series of pandas, which is a column or a row, a record if its index has one of `names`.
      names: see there.
      is_example: whether the value is one example, so that a Series with names in its index is a row of a table.
    """
    if isinstance(value, str | bytes) or value is None or type(value) in (dict, list):
        return value
    if isinstance(value, np.ndarray | np.void) and value.dtype.names:
        if value.ndim:
            return [_plain(item) for item in value]
        return dict(zip(value.dtype.names, value.item(), strict=True))
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim else value.item()
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", ())
        return dict(zip(fields, value, strict=True)) if fields else value
    if hasattr(value, "to_pylist"):  # pyarrow
        return value.to_pylist()
    if hasattr(value, "to_dicts"):  # polars
        return value.to_dicts()
    if hasattr(value, "itertuples"):  # pandas
        return value.to_dict("records")
    if hasattr(value, "to_dict") and hasattr(value, "index") and not isinstance(value, Mapping):  # a Series
        is_row = is_example and all(isinstance(name, str) for name in value.index)
        return value.to_dict() if is_row or any(name in value.index for name in names) else list(value)
    if hasattr(value, "as_py"):  # a scalar of pyarrow
        return value.as_py()
    return value


def _is_column(value, words):
    """Returns whether a value of a dict holds the texts of several examples; `words` may be those of one."""
    value = _plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    return not words or (bool(value) and all(isinstance(_plain(item), list | tuple) for item in value))


def _text(value, where):
    value = _plain(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: found {_kind(value)}; expected a string")
    return str(value)


def _kind(value):
    """Returns what a value is, for messages."""
    if value is None:
        return "None"
    name = type(value).__name__
    return name + {"bytes": " (decode them)", "set": ", which has no order"}.get(name, "")


def _listed(record):
    return ", ".join(f"`{shortened(str(name), 30)}`" for name in record) or "nothing"
