"""Reads and scores sequence classification of texts and pairs: one label, several, or a number.

An empty text, or one of only spaces, is an example like any other (GLUE's QQP has some); a note reports how many.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import _moved
from bert_jax import config as config_lib
from bert_jax.data import long_texts
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import cells, metrics, records
from bert_jax.data.tasks.labels import MultiLabel, Number, SingleLabel, doubts
from bert_jax.data.tasks.text_names import unread_note
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_AT_ONCE = 4096  # texts that are tokenized together


class Examples:
    """Holds texts, or pairs of texts, one per row; see data.tasks.Examples.

    Attributes:
      labels: int32 [rows], float32 [rows, labels] or float32 [rows]; 0 where the data has none.
      labelled: whether the data has labels.
      table: the records; those of train without their texts, to save memory.
      others: what else each record holds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        first: rows_lib.Ragged,
        second: rows_lib.Ragged | None,
        labels: np.ndarray,
        labelled: bool,
        table: records.Table,
        is_alone: np.ndarray | None = None,
        reading: long_texts.LongReading | None = None,
    ):
        self.tokenizer, self._first, self._second = tokenizer, first, second
        self._reading = reading
        self.labels, self.labelled, self.table = labels, labelled, table
        self.lengths = first.lengths + (0 if second is None else second.lengths)
        # A record whose second text is null is a single text, as in predict.
        alone = np.zeros(len(first), bool) if second is None or is_alone is None else is_alone
        self._is_pair = ~alone & (second is not None)
        if reading is not None and second is None:
            self.lengths = reading.lengths(tokenizer, first.lengths)
        else:
            single, pair = (rows_lib.num_special(tokenizer, pair=pair) for pair in (False, True))
            self.lengths += np.where(self._is_pair, pair, single).astype(np.int32)
        self.others = table.others

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
        if self._reading is not None and self._second is None:
            return self._reading.row(self.tokenizer, self._first[row].tolist())
        second = self._second[row].tolist() if self._second is not None and self._is_pair[row] else None
        return rows_lib.join(self.tokenizer, self._first[row].tolist(), second)


class SequenceTask:
    """Holds a sequence classification or regression task; see data.tasks.TaskData.

    Labels of a single-label task are names or ids. The order of ids is that of config.task.labels; else of the class
    names that the data set declares; else the names in train, sorted (whole numbers as numbers). A number is an id
    where names are known beforehand and it is not one of them.

    Labels of a multi-label task are lists of names or ids, or vectors of 0 and 1 as transformers takes them (JSONL,
    Parquet, TFDS); text, separated by "|" or, where no label of train holds one, by commas (CSV, TSV); or, with several
    columns named in config.task.label, a 0 or 1 in each. Text that looks like another form is refused.

    A label that is empty, NaN, or what other programs write for a missing value is none.
    """

    scheme = ""

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        self.problem = task.problem
        self._reading = long_texts.LongReading.from_config(config)
        self.settings: Mapping[str, Any] = long_texts.settings(self._reading)
        self._texts = (task.text, task.text_pair) if task.text_pair else (task.text,)
        self._label_columns = tuple(name.strip() for name in task.label.split(","))
        if len(self._label_columns) > 1 and self.problem != "multi_label":
            raise UserError(
                f"config.task.label: found {len(self._label_columns)} columns; only config.task.problem=multi_label "
                "has several"
            )
        several = len(self._label_columns) > 1  # columns of 0 and 1, which a text is refused to be
        records.check_columns(task, self._texts if several else (*self._texts, *self._label_columns))
        records.check_columns(task, self._label_columns)
        train, held_out, test = records.splits(config, self._texts, self._label_columns)
        self.metrics, self.metric = metrics.choose(task, self.problem)
        self.notes = records.notes_of(train, held_out, test)
        if not task.text_pair:
            self.notes += unread_note(next(iter(held_out.values())).others, self._texts, "text_pair")
        self._labels = {
            "single_label": SingleLabel, "multi_label": MultiLabel, "regression": Number,
        }[self.problem](train, self._label_columns, config_lib.listed(task.labels))  # fmt: skip
        self.labels = self._labels.names
        self.notes += [] if task.labels else doubts(self.labels)
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
        is_alone = np.array([text is None for text in columns[-1]], bool) if len(columns) > 1 else None
        if is_alone is not None and is_alone.any():
            columns[1] = ["" if text is None else text for text in columns[1]]
            self.notes.append(
                f"{split}: {is_alone.sum():,} records have no {self._texts[-1]} and are read as single texts, the "
                f"first at {table.where(int(is_alone.argmax()))}"
            )
        empty = []
        for i, texts in enumerate(zip(*columns, strict=True)):
            for text, name in zip(texts, self._texts, strict=True):
                if not isinstance(text, str):
                    raise UserError(f"{table.where(i)}: {name!r} holds {cells.kind_of(text)}; expected text")
            if not all(text.strip() for text in texts[: 1 if is_alone is not None and is_alone[i] else None]):
                empty.append(i)
        if empty:
            self.notes.append(f"{split}: {len(empty):,} texts are empty, the first at {table.where(empty[0])}")
        first, second, cut = encode_texts(tokenizer, columns, self._reading, is_alone)
        if cut:
            self.notes.append(
                f"{split}: {cut:,} of {len(table):,} examples are longer than config.data.sequence_length="
                f"{self._reading.length} and were cut"
            )
        labels = self._labels.read(table, labelled)
        if labels is None:
            return Examples(
                tokenizer, first, second, self._labels.zeros(len(table)), False, table, is_alone, self._reading
            )
        return Examples(tokenizer, first, second, labels, True, table, is_alone, self._reading)


def encode_texts(
    tokenizer: Tokenizer,
    columns: Sequence[Sequence[str]],
    reading: long_texts.LongReading,
    is_alone: np.ndarray | None = None,
) -> tuple[rows_lib.Ragged, rows_lib.Ragged | None, int]:
    """Encodes texts, cut to what is read of them, of a pair the longer one first.

    Args:
      tokenizer: encodes them.
      columns: the texts, or the first and the second text of each pair.
      reading: how long texts are read; pairs have one row.
      is_alone: which examples have no second text, bool [examples]; None: none of them.

    Returns:
      (first texts, second texts or None, how many examples were cut)
    """
    room = reading.length - rows_lib.num_special(tokenizer, pair=True) if len(columns) > 1 else reading.room(tokenizer)
    if room < len(columns):
        raise UserError(f"config.data.sequence_length: {reading.length} leaves no room for {len(columns)} texts")
    more = rows_lib.num_special(tokenizer, pair=True) - rows_lib.num_special(tokenizer, pair=False)
    rooms = np.full(len(columns[0]), room) if is_alone is None else room + more * is_alone
    cut = 0

    def examples():
        nonlocal cut
        for start in range(0, len(columns[0]), _AT_ONCE):
            encoded = [tokenizer.encode(list(texts[start : start + _AT_ONCE]), special=True) for texts in columns]
            for texts_ids, room in zip(zip(*encoded, strict=True), rooms[start:].tolist(), strict=False):
                sizes = list(map(len, texts_ids))
                cut += sum(sizes) > room
                if len(sizes) == 1:
                    yield [reading.kept(texts_ids[0], room)]
                else:
                    kept = rows_lib.truncate_pair(sizes[0], sizes[1], room)
                    yield [ids[:size] for ids, size in zip(texts_ids, kept, strict=True)]

    flat = rows_lib.Ragged(ids for example in examples() for ids in example)
    if len(columns) == 1:
        return flat, None, cut
    return flat.strided(0, 2), flat.strided(1, 2), cut


def __getattr__(name):
    return _moved.find("data.tasks.classification", name)
