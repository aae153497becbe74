"""Reads the labels of sequence classification: one class, several labels, or a number for each record.

What a file means is never guessed: a form that transformers trains on is understood, and one that looks like another
(text that holds a list, names of missing values, fractions as classes) is refused with its place.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bert_jax.data.tasks import cells, label_forms, metrics, records
from bert_jax.errors import UserError, shortened

_PERHAPS_MISSING = ("NA", "N/A", "n/a")  # also names of classes, such as that of no relation
_IGNORED = -100


class Labels(Protocol):
    """Describes the labels of a sequence classification task: how they are read, scored and shown.

    Attributes:
      names: names of the model's outputs, in the order of ids.
    """

    names: tuple[str, ...]

    def read(self, table: records.Table, labelled: bool) -> np.ndarray | None:
        """Reads the labels of a table.

        Args:
          table: the records.
          labelled: whether a missing label is an error.

        Returns:
          Labels, [records] or [records, labels]; None if one is missing.

        Raises:
          UserError: a label cannot be read, or is missing though `labelled`.
        """
        ...

    def zeros(self, number: int) -> np.ndarray:
        """Returns labels of `number` records without any, in the dtype and shape of `read`."""
        ...

    def commonest(self, labels: np.ndarray) -> np.ndarray | None:
        """Returns logits that predict the commonest label, [outputs]; None for a regression."""
        ...

    def score(self, labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        """Returns the metrics of logits [records, outputs]."""
        ...

    def gold(self, label: np.ndarray) -> Any:
        """Returns the label of one record, scalar or [labels], as JSON has it."""
        ...

    def answer(self, logits: np.ndarray) -> dict:
        """Returns the prediction for one record, float64 [outputs], as fields of a JSON object."""
        ...


class SingleLabel(Labels):
    """Describes the labels of a task with one class per example: int32 [records], ids.

    Attributes:
      names: the classes, in the order of their ids.
    """

    def __init__(self, train: records.Table, columns: Sequence[str], names: Sequence[str]):
        (self._column,) = columns
        check_names(names)
        declared = names or train.names.get(self._column, ())
        self._declared = tuple(map(str, declared))
        values = [_class_name(train, i, self._column, self._declared) for i in range(len(train))]
        occurring = dict.fromkeys(value for value in values if value is not None)
        self._numbers_too = bool(declared)
        if not declared:
            label_forms.check_written(train, self._column, values)
            label_forms.check_classes(train, self._column, values)
            label_forms.check_types(
                train, self._column, enumerate(zip(train.columns[self._column], values, strict=True))
            )
            label_forms.check_joined(train, values, occurring)
        self.names = self._declared or _sorted_names(occurring)
        self._ids = {name: i for i, name in enumerate(self.names)}
        if len(self.names) < 2:
            if None in values:
                raise _no_label(train, values.index(None), self._column, self.names)
            raise UserError(f"{train.where(0)}: every label is {self.names[0]!r}; expected two or more different ones")

    def read(self, table: records.Table, labelled: bool) -> np.ndarray | None:
        """Returns the class ids, int32 [records]; see Labels."""
        if self._column not in table.columns:
            return None
        ids = self.zeros(len(table))
        for i in range(len(table)):
            name = _class_name(table, i, self._column, self._declared)
            if not labelled and (name is None or (name == "-1" and name not in self._ids)):
                return None
            if name is None:
                raise _no_label(table, i, self._column, self.names)
            ids[i] = class_id(name, self._ids, self._numbers_too, table.where(i))
        return ids

    def zeros(self, number):
        return np.zeros(number, np.int32)

    def commonest(self, labels: np.ndarray) -> np.ndarray:
        """Returns logits that predict the commonest class, [classes]."""
        counts = np.bincount(labels, minlength=len(self.names))
        return np.eye(len(self.names))[counts.argmax()]

    def score(self, labels, logits):
        return metrics.single_label(labels, logits.argmax(-1), len(self.names))

    def gold(self, label):
        return self.names[label]

    def answer(self, logits):
        weights = np.exp(logits - logits.max())
        scores = dict(zip(self.names, (weights / weights.sum()).tolist(), strict=True))
        label = self.names[int(logits.argmax())]
        return {"label": label, "score": scores[label], "scores": scores}


class MultiLabel(Labels):
    """Describes labels of a task with any number of labels per example: float32 [records, labels], 0 or 1.

    Attributes:
      names: the labels, in the order of their ids.
    """

    def __init__(self, train: records.Table, columns: Sequence[str], names: Sequence[str]):
        self._columns = columns
        check_names(names)
        self._has_columns = len(columns) > 1  # one for each label
        if self._has_columns:
            if names and tuple(names) != tuple(columns):
                raise UserError(f"config.task.labels: found {tuple(names)}; with several columns these are the labels")
            self.names = tuple(columns)
            return
        texts = [value for value in train.columns[columns[0]] if isinstance(value, str)]
        self._separator = "|" if any("|" in value for value in texts) else ","
        declared = tuple(map(str, names or train.names.get(columns[0], ())))
        self._declared = declared
        self._vector_size = _vector_size(train, columns[0], declared)
        if self._vector_size:
            self.names = declared or tuple(f"LABEL_{i}" for i in range(self._vector_size))  # as transformers calls them
            return
        record_names = [self._label_names(train, i) or () for i in range(len(train))]
        occurring = dict.fromkeys(name for record in record_names for name in record)
        self._numbers_too = bool(declared)
        if texts and len(declared) == 2 and all(sorted(record) == ["0", "1"] for record in record_names):
            raise UserError(
                f"{train.where(0)}: {columns[0]!r} is {shortened(texts[0])!r}, in every record a 0 and a 1; expected "
                "names, lists in JSONL or Parquet, or a column of 0 and 1 for each label"
            )
        if not declared:
            label_forms.check_vectors(train, columns[0], record_names)
            pairs = (
                (i, pair)
                for i, (value, names) in enumerate(zip(train.columns[columns[0]], record_names, strict=True))
                for pair in zip(value if isinstance(value, list) else names, names, strict=True)
            )
            label_forms.check_types(train, columns[0], pairs)
            label_forms.check_separators(train, record_names, occurring)
            label_forms.check_spaces(train, columns[0], record_names)
            label_forms.check_placeholders(train, columns[0], record_names)
            if set(occurring) <= {"0", "1"} and all(len(record) == 1 for record in record_names):
                raise UserError(
                    f"{train.where(0)}: {columns[0]!r} is 0 or 1 in every record; expected labels, or a column of 0 "
                    "and 1 for each label (config.task.label=x,y), or config.task.problem=single_label"
                )
        self.names = declared or _sorted_names(occurring)
        self._ids = {name: i for i, name in enumerate(self.names)}
        if not self.names:
            raise UserError(f"{train.where(0)}: no label in {columns[0]!r} here or after; expected labels")

    def read(self, table: records.Table, labelled: bool) -> np.ndarray | None:
        """Returns 0 or 1 for each label, float32 [records, labels]; see Labels."""
        if any(name not in table.columns for name in self._columns):
            return None
        labels = self.zeros(len(table))
        for i in range(len(table)):
            if self._has_columns:
                values = [_zero_or_one(table, i, name, labelled) for name in self._columns]
                if None in values:
                    return None
                labels[i] = values
                continue
            if self._vector_size:
                vector = self._vector(table, i, labelled)
                if vector is None:
                    return None
                labels[i] = vector
                continue
            names = self._label_names(table, i)
            if names is None and not labelled:
                return None
            if names is None:
                raise UserError(
                    f"{table.where(i)}: no labels in {self._columns[0]!r}; expected a list, if an empty one"
                )
            for name in names:
                labels[i, class_id(name, self._ids, self._numbers_too, table.where(i))] = 1
        return labels

    def _vector(self, table, i, labelled):
        """Returns a record's vector of 0 and 1; None where it is missing and `labelled` is False."""
        value = table.columns[self._columns[0]][i]
        if value is None and not labelled:
            return None
        if not _is_vector(value) or len(value) != self._vector_size:
            raise UserError(
                f"{table.where(i)}: {self._columns[0]!r} is {shortened(repr(value))}; expected {self._vector_size} "
                "values, each 0 or 1, as in config.task.train"
            )
        return value

    def _label_names(self, table, i):
        """Returns the names of a record's labels; None where the column is empty."""
        column = self._columns[0]
        value = table.columns[column][i]
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        if isinstance(value, str):
            return self._names_in_text(value, column, table.where(i))
        if not isinstance(value, list):
            raise UserError(
                f"{table.where(i)}: {column!r} holds {cells.kind_of(value)}; expected a list of labels or text"
            )
        names = [_label_name(label, table.names.get(column), table.where(i), self._declared) for label in value]
        if None in names:
            raise UserError(f"{table.where(i)}: {column!r} is {shortened(repr(value))}; expected a name for each label")
        if any(isinstance(label, float) and not label.is_integer() for label in value) and not self._declared:
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(repr(value))}; expected names, ids, or vectors of 0 and 1"
            )
        if len(set(names)) < len(names) and _all_numbers(names):
            raise UserError(
                f"{table.where(i)}: {column!r} is {shortened(repr(value))}, which names a label twice; expected each "
                "id once, or in every record a vector of 0 and 1 of the same length"
            )
        return names

    def _names_in_text(self, value, column, where):
        """Returns the labels that a text names. Raises UserError for text that looks like another form."""
        text = value.strip()
        names = [name.strip() for name in text.split(self._separator) if name.strip()]
        if all(name in self._declared for name in names) and self._declared:
            return names
        if label_forms.is_missing(text):
            return None
        problem = ""
        if form := label_forms.form_of_text(text):
            problem = form
        elif re.fullmatch(r"[01](\.0*)?(\s+[01](\.0*)?)+|0[01]+", text) or (
            len(names) > len(set(names)) and set(names) <= {"0", "1", "0.0", "1.0"}
        ):
            problem = "0 and 1 written as text"
        elif re.fullmatch(r"\d+(\s+\d+)+", text) or text.count("__label__") > 1:  # ids, or fastText's form
            problem = "labels with spaces between them"
        elif match := re.search(r"[;\uff1b\t\n\r]", text):
            problem = f"which holds {match[0]!r}"
        if problem:
            raise UserError(
                f"{where}: {column!r} is {shortened(value)!r}, {problem}; expected names with | or commas between "
                "them (x|y), lists in JSONL or Parquet, a column of 0 and 1 for each label, or the name in "
                "config.task.labels"
            )
        return names

    def zeros(self, number):
        return np.zeros((number, len(self.names)), np.float32)

    def commonest(self, labels):
        """Returns logits that predict the labels of more than half of the records, [labels]."""
        return labels.mean(axis=0) - 0.5  # over 0 where more than half of the examples have the label

    def score(self, labels, logits):
        return metrics.multi_label(labels, logits > 0)

    def gold(self, label):
        return [name for name, is_set in zip(self.names, label, strict=True) if is_set]

    def answer(self, logits):
        scores = 1.0 / (1.0 + np.exp(-logits))
        return {"label": self.gold(logits > 0), "scores": dict(zip(self.names, scores.tolist(), strict=True))}


class Number(Labels):
    """Describes the labels of a regression task, a number per example: float32 [records]."""

    names = ("score",)

    def __init__(self, train: records.Table, columns: Sequence[str], names: Sequence[str]):
        (self._column,) = columns

    def read(self, table: records.Table, labelled: bool) -> np.ndarray | None:
        """Returns the numbers, float32 [records]; see Labels."""
        if self._column not in table.columns:
            return None
        values = table.columns[self._column]
        if not labelled and any(value is None or value == "" for value in values):
            return None
        return np.array([self._number(table, i, value) for i, value in enumerate(values)], np.float32)

    def _number(self, table, i, value):
        try:
            is_plain = not isinstance(value, bool) and "_" not in str(value)  # Python reads 1_000 as a number
            number = float(value) if is_plain else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise UserError(f"{table.where(i)}: {self._column!r} is {value!r}; expected a number")
        return number

    def zeros(self, number):
        return np.zeros(number, np.float32)

    def commonest(self, labels):
        return None

    def score(self, labels, logits):
        return metrics.regression(labels, logits.reshape(len(labels)))

    def gold(self, label):
        return float(label)

    def answer(self, logits):
        return {"score": float(logits.reshape(()))}


def class_id(name: str, ids: dict[str, int], numbers_too: bool, where: str) -> int:
    """Returns the id of a label.

    Args:
      name: its name, or with `numbers_too` its id as text.
      ids: id of each name.
      numbers_too: whether ids are accepted.
      where: the record, for messages.

    Raises:
      UserError: there is no such label.
    """
    if name in ids:
        return ids[name]
    integer = re.fullmatch(r"(-?\d+)\.0+", name)
    if numbers_too and integer:  # as pandas writes whole numbers in a column that lacks some
        name = integer[1]
    if numbers_too and _all_numbers([name]):
        if 0 <= int(name) < len(ids):
            return int(name)
        raise UserError(f"{where}: class id {name} is out of range; expected 0 to {len(ids) - 1}, or a name")
    raise UserError(
        f"{where}: label {name!r} is not among those of config.task.train or config.task.labels; expected one of "
        f"{_shortened(ids)}"
    )


def _class_name(table, i, column, declared):
    """Returns the name of a record's label; None where there is none."""
    return _label_name(table.columns[column][i], table.names.get(column), table.where(i), declared)


def _label_name(value, class_names, where, declared):
    """Returns the name of a label that the data has as a name, a number or an index in class_names.

    Returns None for a missing one: nothing, NaN, -100, or a text that stands for these and is not among `declared`.
    """
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if class_names and isinstance(value, int):  # an index, even where names are numbers; -1 is no label
        if value == _IGNORED:
            return None
        if not -1 <= value < len(class_names):
            raise UserError(f"{where}: class id {value} is out of range; expected 0 to {len(class_names) - 1}")
        return None if value == -1 else class_names[value]
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        name = str(value).strip()
        return None if label_forms.is_missing(name) and name not in declared else name
    raise UserError(f"{where}: the label is {cells.kind_of(value)}; expected a name or a number")


def _no_label(table, i, column, names):
    """Returns the error for a record without a label."""
    value = table.columns[column][i]
    value_text = f" (found {value!r})" if value not in (None, "") else ""
    also = ", or config.task.labels with this name" if value_text and isinstance(value, str) else ""
    expected = f"one of {_shortened(names)}" if names else "a name or a number"
    return UserError(f"{table.where(i)}: no label in {column!r}{value_text}; expected {expected}{also}")


def doubts(names: Sequence[str]) -> list[str]:
    """Returns notes about names of classes that may be no classes of their own: missing values, or other spellings."""
    missing = [name for name in names if name in _PERHAPS_MISSING]
    return label_forms.similar(names) + [
        f"the label {name!r} is a class; leave records out whose label is missing" for name in missing
    ]


def check_names(names: Sequence[str]) -> None:
    """Raises UserError if a name occurs twice in config.task.labels."""
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"config.task.labels: found {twice!r} twice; expected each name once")


def _is_vector(value):
    """Returns whether a value is a list of numbers or truths that are 0 or 1."""
    return isinstance(value, list) and all(isinstance(x, int | float) and x in (0, 1) for x in value)


def _vector_size(table, column, declared):
    """Returns the length of the vectors of 0 and 1 in a column; 0 where it holds lists of labels, or text.

    Vectors have the same length in every record, and repeat a value, which ids do not, or are fractions or truths. Two
    ids that are 0 and 1 in every record would say nothing either.
    """
    values = table.columns[column]
    if not all(_is_vector(value) for value in values if value is not None):
        return 0
    vectors = [value for value in values if value is not None]
    sizes = {len(value) for value in vectors}
    typed = any(isinstance(x, bool | float) for value in vectors for x in value)
    if len(sizes) != 1 or max(sizes) < (1 if typed or len(declared) == 1 else 2):
        return 0
    (size,) = sizes
    repeats = any(len(set(value)) < size for value in vectors)
    if declared and len(declared) != size and not (typed or repeats):
        return 0  # the first two of more labels
    if declared and len(declared) != size:
        raise UserError(
            f"{table.where(0)}: {column!r} is a vector of {size} values; expected {len(declared)}, one for each label"
        )
    return size


def _zero_or_one(table, i, column, labelled):
    """Returns a record's 0.0 or 1.0 in a column; None where it is missing and `labelled` is False."""
    value = table.columns[column][i]
    if not labelled and value in (None, "", -1, "-1"):
        return None
    if str(value).strip().lower() in ("0", "0.0", "false", "1", "1.0", "true"):
        return float(str(value).strip().lower() in ("1", "1.0", "true"))
    raise UserError(f"{table.where(i)}: {column!r} is {value!r}; expected 0 or 1")


def _all_numbers(names):
    return all(name.removeprefix("-").isdecimal() for name in names)


def _sorted_names(names):
    return tuple(sorted(names, key=int if _all_numbers(names) else None))


def _shortened(names, max_names=10):
    """Returns a list of names for a message: the first ones, and how many there are."""
    names = list(map(str, names))
    return ", ".join(names[:max_names]) + (f" ... ({len(names)} in all)" if len(names) > max_names else "")
