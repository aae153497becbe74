"""Reads and scores sequence classification of texts and pairs: one label, several, or a number.

An empty text, or one of only spaces, is an example like any other (GLUE's QQP has some); a note reports how many.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from bert_jax import config as config_lib
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import metrics, records
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_AT_ONCE = 4096  # texts that are tokenized together


class Examples:
    """Texts, or pairs of texts, one per row; see data.tasks.Examples.

    Attributes:
      labels: int32 [rows], float32 [rows, labels] or float32 [rows]; 0 where the data has none.
      labelled: whether the data has labels.
      table: the records; those of train without their texts, to save memory.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        first: rows_lib.Ragged,
        second: rows_lib.Ragged | None,
        labels: np.ndarray,
        labelled: bool,
        table: records.Table,
    ):
        self.tokenizer, self._first, self._second = tokenizer, first, second
        self.labels, self.labelled, self.table = labels, labelled, table
        self.lengths = first.lengths + (0 if second is None else second.lengths)
        self.lengths += rows_lib.num_special(tokenizer, pair=second is not None)

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns inputs, [batch, length], and labels, [batch] or [batch, labels]; see data.tasks.Examples."""
        rows = np.asarray(rows)
        real = rows >= 0
        inputs = [self._row(row) for row in rows]
        batch = rows_lib.pad(self.tokenizer, inputs, length)
        labels = np.zeros((len(rows), *self.labels.shape[1:]), self.labels.dtype)
        labels[real] = self.labels[rows[real]]
        return batch | {"weights": real.astype(np.float32), "labels": labels}

    def _row(self, row):
        if row < 0:
            return [self.tokenizer.cls_id], [0]
        second = None if self._second is None else self._second[row].tolist()
        return rows_lib.join(self.tokenizer, self._first[row].tolist(), second)


class SequenceTask:
    """A sequence classification or regression task; see data.tasks.TaskData.

    Labels of a single-label task are names or ids. The order of ids is that of config.task.labels; else of the class
    names that the data set declares; else the names in train, sorted (whole numbers as numbers). A number is an id
    where names are known beforehand and it is not one of them.

    Labels of a multi-label task are lists (JSONL, Parquet, TFDS); text, separated by "|" or, where no label of train
    holds one, by commas (CSV, TSV); or, with several columns named in config.task.label, a 0 or 1 in each.
    """

    scheme = ""

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        self.problem = task.problem
        self._texts = (task.text, task.text_pair) if task.text_pair else (task.text,)
        self._label_columns = tuple(name.strip() for name in task.label.split(","))
        if len(self._label_columns) > 1 and self.problem != "multi_label":
            raise UserError(
                f"config.task.label: found {len(self._label_columns)} columns; only config.task.problem=multi_label "
                "has several"
            )
        train, held_out, test = records.splits(config, self._texts, self._label_columns)
        self.metrics, self.metric = metrics.choose(task, self.problem)
        self.notes: list[str] = []
        self._length = config.data.sequence_length
        self._labels = {
            "single_label": SingleLabel, "multi_label": MultiLabel, "regression": Number,
        }[self.problem](train, self._label_columns, config_lib.listed(task.labels))  # fmt: skip
        self.labels = self._labels.names
        if (
            "f1" in (*config_lib.listed(task.metrics), self.metric)
            and self.problem == "single_label"
            and len(self.labels) != 2
        ):
            raise UserError(f"config.task.metrics: f1 is of two labels, but there are {len(self.labels)}; try macro_f1")
        self.train = self._examples(tokenizer, train, "train", labelled=True)
        for name in self._texts:
            del train.columns[name]
        self.held_out = {
            name: self._examples(tokenizer, table, f"held out {name}".rstrip(), labelled=True)
            for name, table in held_out.items()
        }
        self.test = self._examples(tokenizer, test, "test", labelled=False) if test else None
        first = next(iter(self.held_out.values()))
        # A constant prediction may be the commonest label of train, or happen to be that of the held-out set.
        constants = [self._labels.commonest(examples.labels) for examples in (self.train, first)]
        constants = [logits for logits in constants if logits is not None]
        scores = [self.score(first, [logits] * len(first.lengths))[self.metric] for logits in constants]
        self.baseline = max(scores, default=float("nan"))

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of logits, [labels] for each row."""
        scores = self._labels.score(examples.labels, np.stack(outputs))
        return {name: scores[name] for name in self.metrics if name in scores}

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object per example: text (and text_pair), gold where it is known, and the prediction.

        The prediction of single_label: label, score (its probability), scores (of every label); of multi_label: label
        (a list), scores; of regression: score.

        Args:
          examples: one of the splits.
          outputs: logits of each row, [labels].
        """
        table = examples.table
        for i, logits in enumerate(outputs):
            texts = {key: table.columns[name][i] for key, name in zip(("text", "text_pair"), self._texts, strict=False)}
            gold = {"gold": self._labels.gold(examples.labels[i])} if examples.labelled else {}
            yield texts | gold | self._labels.answer(np.asarray(logits, np.float64))

    def _examples(self, tokenizer, table, split, labelled):
        """Encodes a table; `labelled` says whether a missing label is an error."""
        columns = [table.columns[name] for name in self._texts]
        empty = []
        for i, texts in enumerate(zip(*columns, strict=True)):
            for text, name in zip(texts, self._texts, strict=True):
                if not isinstance(text, str):
                    raise UserError(f"{table.where(i)}: {name!r} holds {_kind_of(text)}; expected text")
            if not all(text.strip() for text in texts):
                empty.append(i)
        if empty:
            self.notes.append(f"{split}: {len(empty):,} texts are empty, the first at {table.where(empty[0])}")
        first, second, cut = _encoded(tokenizer, columns, self._length)
        if cut:
            self.notes.append(
                f"{split}: {cut:,} of {len(table):,} examples are longer than config.data.sequence_length="
                f"{self._length} and were cut"
            )
        labels = self._labels.read(table, labelled)
        if labels is None:
            return Examples(tokenizer, first, second, self._labels.zeros(len(table)), False, table)
        return Examples(tokenizer, first, second, labels, True, table)


def _encoded(tokenizer, columns, length):
    """Encodes texts, cut to fit rows of `length` tokens.

    Returns:
      (first texts, second texts or None, how many examples were cut)
    """
    room = length - rows_lib.num_special(tokenizer, pair=len(columns) > 1)
    if room < len(columns):
        raise UserError(f"config.data.sequence_length: {length} leaves no room for {len(columns)} texts")
    cut = 0

    def examples():
        nonlocal cut
        for start in range(0, len(columns[0]), _AT_ONCE):
            encoded = [tokenizer.encode(texts[start : start + _AT_ONCE], special=True) for texts in columns]
            for texts_ids in zip(*encoded, strict=True):
                sizes = list(map(len, texts_ids))
                kept = rows_lib.truncate_pair(sizes[0], sizes[1], room) if len(sizes) == 2 else (min(sizes[0], room),)
                cut += sum(kept) < sum(sizes)
                yield [ids[:size] for ids, size in zip(texts_ids, kept, strict=True)]

    flat = rows_lib.Ragged(ids for example in examples() for ids in example)
    if len(columns) == 1:
        return flat, None, cut
    return flat.strided(0, 2), flat.strided(1, 2), cut


class Labels(Protocol):
    """The labels of a sequence classification task: how they are read, scored and shown.

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
    """The labels of a task with one class per example: int32 [records], ids.

    Attributes:
      names: the classes, in the order of their ids.
    """

    def __init__(self, train: records.Table, columns: Sequence[str], names: Sequence[str]):
        (self._column,) = columns
        declared = names or train.names.get(self._column, ())
        values = [_class_name(train, i, self._column) for i in range(len(train))]
        occurring = dict.fromkeys(value for value in values if value is not None)
        self._numbers_too = bool(declared)
        self.names = tuple(map(str, declared)) or _sorted_names(occurring)
        self._ids = {name: i for i, name in enumerate(self.names)}
        if len(self.names) < 2:
            raise UserError(f"{train.where(0)}: every label is {self.names}; expected two or more different ones")

    def read(self, table: records.Table, labelled: bool) -> np.ndarray | None:
        """Returns the class ids, int32 [records]; see Labels."""
        if self._column not in table.columns:
            return None
        ids = self.zeros(len(table))
        for i in range(len(table)):
            name = _class_name(table, i, self._column)
            missing = name is None or (name == "-1" and name not in self._ids and not labelled)
            if missing and not labelled:
                return None
            if missing:
                names = _shortened(self.names)
                raise UserError(f"{table.where(i)}: no label in {self._column!r}; expected one of {names}")
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
    """The labels of a task with any number of labels per example: float32 [records, labels], 0 or 1.

    Attributes:
      names: the labels, in the order of their ids.
    """

    def __init__(self, train: records.Table, columns: Sequence[str], names: Sequence[str]):
        self._columns = columns
        self._has_columns = len(columns) > 1  # one for each label
        if self._has_columns:
            if names and tuple(names) != tuple(columns):
                raise UserError(f"config.task.labels: found {tuple(names)}; with several columns these are the labels")
            self.names = tuple(columns)
            return
        texts = [value for value in train.columns[columns[0]] if isinstance(value, str)]
        self._separator = "|" if any("|" in value for value in texts) else ","
        declared = names or train.names.get(columns[0], ())
        occurring = dict.fromkeys(name for i in range(len(train)) for name in self._label_names(train, i) or ())
        self._numbers_too = bool(declared)
        self.names = tuple(map(str, declared)) or _sorted_names(occurring)
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

    def _label_names(self, table, i):
        """Returns the names of a record's labels; None where the column is empty."""
        column = self._columns[0]
        value = table.columns[column][i]
        if value is None:
            return None
        if isinstance(value, str):
            return [name.strip() for name in value.split(self._separator) if name.strip()]
        if not isinstance(value, list):
            raise UserError(f"{table.where(i)}: {column!r} holds {_kind_of(value)}; expected a list of labels or text")
        return [_label_name(label, table.names.get(column), table.where(i)) for label in value]

    def zeros(self, number):
        return np.zeros((number, len(self.names)), np.float32)

    def commonest(self, labels):
        """Returns logits that predict the labels of more than half of the records, [labels]."""
        return labels.mean(axis=0) - 0.5  # over 0 where more than half of the examples have the label

    def score(self, labels, logits):
        return metrics.multi_label(labels, logits > 0)

    def gold(self, label):
        return [name for name, on in zip(self.names, label, strict=True) if on]

    def answer(self, logits):
        scores = 1.0 / (1.0 + np.exp(-logits))
        return {"label": self.gold(logits > 0), "scores": dict(zip(self.names, scores.tolist(), strict=True))}


class Number(Labels):
    """The labels of a regression task, a number per example: float32 [records]."""

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
            number = float(value) if not isinstance(value, bool) else float("nan")
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
    if numbers_too and _all_numbers([name]):
        if 0 <= int(name) < len(ids):
            return int(name)
        raise UserError(f"{where}: class id {name} is out of range; expected 0 to {len(ids) - 1}, or a name")
    raise UserError(
        f"{where}: label {name!r} is not among those of config.task.train or config.task.labels; expected one of "
        f"{_shortened(ids)}"
    )


def _class_name(table, i, column):
    """Returns the name of a record's label; None where there is none."""
    return _label_name(table.columns[column][i], table.names.get(column), table.where(i))


def _label_name(value, class_names, where):
    """Returns the name of a label that the data has as a name, a number or an index in class_names."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if class_names and isinstance(value, int):  # an index, even where names are numbers; -1 is no label
        if not -1 <= value < len(class_names):
            raise UserError(f"{where}: class id {value} is out of range; expected 0 to {len(class_names) - 1}")
        return None if value == -1 else class_names[value]
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise UserError(f"{where}: the label is {_kind_of(value)}; expected a name or a number")


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


def _shortened(names, most=10):
    """Returns a list of names for a message: the first ones, and how many there are."""
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" ... ({len(names)} in all)" if len(names) > most else "")


def _kind_of(value):
    return "nothing" if value is None else f"a {type(value).__name__}"
