"""Reads labelled data as tables: TFDS, `datasets`, CSV, TSV, JSONL, Parquet, CoNLL columns, SQuAD's JSON.

Text formats may be compressed (.gz). Errors name the file and line of the record.
"""

import contextlib
import dataclasses
import functools
import glob
import gzip
import json
import os
import pathlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import _moved, files
from bert_jax.config import listed
from bert_jax.config.finetuning_keys import COLUMN_KEYS, TASKS, TASKS_OF
from bert_jax.config.named_sets import named_sets
from bert_jax.config.schema import closest
from bert_jax.data import hashing, hf_source, parquet, tfds_source
from bert_jax.data.tasks import beir, conll, text_files
from bert_jax.errors import UserError

_AT_ONCE = 1024  # records of a dataset that are read together
# Kinds of file by suffix, for every task, for files with a text or a pair of texts in each record, and for files that
# one task reads besides; "" stands for any suffix that is not in _NOT_CONLL.
_KINDS = {".jsonl": "jsonl", ".parquet": "parquet"}
_TABLE_KINDS = {".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".json": "jsonl"}
_TASK_KINDS = {
    "sequence_classification": _TABLE_KINDS,
    "token_classification": {".json": "jsonl", "": "conll"},
    "question_answering": {".json": "squad"},
    "embedding": _TABLE_KINDS,
    "reranking": _TABLE_KINDS,
}
_NOT_CONLL = (".csv", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".xls", ".xlsx", ".arrow", ".pkl", ".npy", ".npz")


@dataclasses.dataclass
class Table:
    """Holds records as columns.

    Attributes:
      columns: name -> a value for each record; an optional column that the data lacks is absent.
      names: column -> class names, where the data declares them.
      places: for each record, (index in `sources`, its number or name there).
      sources: where records come from, such as "train.csv line".
      word_lines: whether each word of a sentence has a line of its own (CoNLL).
      notes: lines for the user about how the files were read.
      others: what else each record holds, by column, as JSON has it; () where that was not asked for.
      set_names: names of the sets that the records are of; () where they are of one.
      sets: number of the set of each record, int [records]; () where they are of one.
    """

    columns: dict[str, list]
    names: dict[str, tuple[str, ...]]
    places: list[tuple[int, int | str]]
    sources: list[str]
    word_lines: bool = False
    notes: tuple[str, ...] = ()
    others: Sequence[Mapping[str, Any]] = ()
    set_names: tuple[str, ...] = ()
    sets: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.places)

    def where(self, record: int, word: int | None = None) -> str:
        """Returns the place of a record, or of a word of a sentence, for messages."""
        source, number = self.places[record]
        if word is not None and self.word_lines:
            return f"{self.sources[source]} {number + word}"
        return f"{self.sources[source]} {number}" + ("" if word is None else f", word {word + 1}")

    def take(self, records: np.ndarray) -> "Table":
        """Returns a table of the given records, int [n]."""
        columns = {name: [values[i] for i in records] for name, values in self.columns.items()}
        others = [self.others[i] for i in records] if self.others else ()
        sets = [self.sets[i] for i in records] if self.sets else ()
        places = [self.places[i] for i in records]
        return dataclasses.replace(self, columns=columns, places=places, others=others, sets=sets)


def read(
    spec: str, key: str, task: Any, wanted: Sequence[str], optional: Sequence[str] = (), keep: bool = False
) -> Table:
    """Reads the records of a spec.

    Args:
      spec: tfds: or hf:NAME[/CONFIG]:SPLIT, globs of files, or for embedders folders in BEIR's layout; several are
        separated by commas.
      key: the config key that has it, for messages.
      task: config.task.
      wanted: columns that must exist. A CoNLL file gives its words and tags, a SQuAD file its question, context and
        answers, whatever names these columns have here.
      optional: columns that may be absent; a SQuAD file gives its id and is_impossible.
      keep: whether the table has the other columns too, as `others`.

    Raises:
      UserError: nothing matches, a file is of another kind or cannot be read, a column is missing, or there is no
        record.
    """
    parts = []
    for item in filter(None, (item.strip() for item in spec.split(","))):
        parts += (
            [_read_tfds(item, key, task, wanted, optional, keep)]
            if item.startswith("tfds:")
            else [_read_hf(item, key, wanted, optional, keep)]
            if item.startswith("hf:")
            else [_read_file(path, key, task, wanted, optional, keep) for path in _matching(item, key)]
        )
    if not parts:
        raise UserError(f"{key}: empty; expected files, or tfds: or hf:NAME[/CONFIG]:SPLIT")
    return _joined(parts)


def check_files(spec: str, key: str, task: Any) -> None:
    """Raises UserError if a file that a spec names does not exist or is of an unknown kind; opens none.

    Args:
      spec: specs as `read` takes them, with or without names.
      key: the config key that has it, for messages.
      task: config.task.
    """
    is_named = task.name == "embedding" or key.endswith("held_out")
    for part in named_sets(spec, key).values() if is_named else [spec]:
        for item in filter(None, (item.strip() for item in part.split(","))):
            if not re.match(r"[a-z]+:", item):  # tfds:, hf:, and sets of embedders, such as sts:FILE
                for path in _matching(item, key):
                    _kind(path, task.name)


def read_sets(
    spec: str, key: str, task: Any, wanted: Sequence[str], optional: Sequence[str] = (), keep: bool = False
) -> Table:
    """Reads the records of a spec that may name several sets, such as "qa=qa.jsonl,nli=nli.jsonl"; see `read`.

    A set may lack optional columns of the others; its records then have None there.
    """
    sets = named_sets(spec, key)
    if len(sets) < 2:
        return read(next(iter(sets.values()), spec), key, task, wanted, optional, keep)
    parts = [read(part, key, task, wanted, optional, keep) for part in sets.values()]
    for name in {name for part in parts for name in part.columns}:
        for part in parts:
            part.columns.setdefault(name, [None] * len(part))
    numbers = [number for number, part in enumerate(parts) for _ in range(len(part))]
    return dataclasses.replace(_joined(parts), set_names=tuple(sets), sets=numbers)


def splits(
    config: Any, columns: Sequence[str], labels: Sequence[str], optional: Sequence[str] = (), together: str = ""
) -> tuple[Table, dict[str, Table], Table | None]:
    """Reads the splits of config.task; where it names no held-out set, a share of train is held out.

    Args:
      config: a fine-tuning config.
      columns: columns that every split must have.
      labels: columns that train and the held-out sets must have, too.
      optional: columns that may be absent anywhere.
      together: a column: records with the same value in it are not separated when train is divided.

    Returns:
      (train, held-out sets by name, test or None)

    Raises:
      UserError: see `read`; or train is empty or too small to be divided.
    """
    task = config.task
    if not task.train:
        raise UserError("config.task.train: empty; expected files, or tfds: or hf:NAME[/CONFIG]:SPLIT")
    read_train = read_sets if task.name == "embedding" else read
    with naming_keys(task):
        train = read_train(task.train, "config.task.train", task, (*columns, *labels), optional, keep=not task.held_out)
        held_out = {
            name: read(spec, "config.task.held_out", task, (*columns, *labels), optional, keep=True)
            for name, spec in (named_sets(task.held_out, "config.task.held_out") if task.held_out else {}).items()
        }
    if not task.held_out:
        size = len(train)
        train, held_out = _divided(train, task.held_out_share, together)
        train.others = ()
        train.notes = (
            *train.notes,
            f"held out: {len(held_out['']):,} of {size:,} records of config.task.train "
            f"(config.task.held_out_share={task.held_out_share:g}), as config.task.held_out is empty",
        )
    test = None
    if task.test:
        test = read(task.test, "config.task.test", task, columns, (*labels, *optional), keep=True)
    return train, held_out, test


@contextlib.contextmanager
def naming_keys(task: Any) -> Iterator[None]:
    """Adds the key of config.task that names a column to an error about a file that lacks it."""
    try:
        yield
    except UserError as error:
        for key in COLUMN_KEYS:
            is_read = task.name in TASKS_OF.get(key, TASKS)
            if (
                is_read
                and task[key]
                and re.search(f"no (field|column|feature) {re.escape(repr(task[key]))}", str(error))
            ):
                raise UserError(f"{error} (config.task.{key})") from error
        raise


def notes_of(train: Table, held_out: Mapping[str, Table], test: Table | None) -> list[str]:
    """Returns the notes about how the files of all splits were read, each once."""
    tables = [train, *held_out.values(), *([test] if test else [])]
    return list(dict.fromkeys(note for table in tables for note in table.notes))


def output_names(names: Iterable[str], taken: Sequence[str]) -> dict[str, str]:
    """Returns the name under which each column of a record comes back beside an answer.

    Args:
      names: the record's columns.
      taken: names of the answer's parts; a column of such a name comes back as input_NAME.
    """
    names, kept = tuple(names), {}
    for name in names:
        new = name
        while new in taken or (new != name and (new in names or new in kept.values())):
            new = f"input_{new}"
        kept[name] = new
    return kept


def check_columns(task: Any, names: Sequence[str]) -> None:
    """Raises UserError if one column of config.task is named for two things, or none."""
    for i, name in enumerate(names):
        if not name or name in names[:i]:
            raise UserError(
                f"config.task.text={task.text}, text_pair={task.text_pair}, label={task.label}: found {name!r} "
                f"{'for nothing' if not name else 'twice'}; expected a column of its own for each"
            )


def _divided(table, share, together):
    """Divides a table: returns (the rest, {"": about `share` of the records}).

    The choice depends on the number of groups of records alone; see `splits` for `together`.
    """
    groups = table.columns[together] if together else range(len(table))
    groups = [group if isinstance(group, Hashable) else repr(group) for group in groups]
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    rank = hashing.permute(np.arange(len(numbers)), len(numbers), hashing.fold("held out"))
    held = rank[[numbers[group] for group in groups]] < round(share * len(numbers))
    if held.all() or not held.any():
        raise UserError(
            f"config.task.held_out_share: {share} of {len(table)} records leaves none on one side; expected a larger "
            "set, or config.task.held_out"
        )
    return table.take(np.flatnonzero(~held)), {"": table.take(np.flatnonzero(held))}


def _joined(parts):
    """Concatenates tables, which must have the same columns and class names."""
    if len(parts) == 1:
        return parts[0]
    for name in {name for part in parts for name in part.columns}:
        lacking = [part for part in parts if name not in part.columns]
        if lacking:
            raise UserError(f"{lacking[0].where(0)}: no column {name!r}, which other files have; expected all alike")
    if any(part.names != parts[0].names for part in parts):
        raise UserError(f"{parts[0].where(0)}: other class names than in the other files; expected all alike")
    columns = {name: [value for part in parts for value in part.columns[name]] for name in parts[0].columns}
    starts = np.cumsum([0, *(len(part.sources) for part in parts)]).tolist()
    places = [(start + i, number) for start, part in zip(starts, parts, strict=False) for i, number in part.places]
    sources = [source for part in parts for source in part.sources]
    notes = tuple(note for part in parts for note in part.notes)
    others = [record for part in parts for record in part.others or [{}] * len(part)]
    words = any(part.word_lines for part in parts)
    return Table(columns, parts[0].names, places, sources, words, notes, others if any(others) else ())


def _matching(pattern, key):
    if os.path.isfile(pattern) or beir.is_folder(pattern):  # a name that contains [ and ] is no glob
        return [pattern]
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        hint = "it is a folder; name its files" if os.path.isdir(pattern) else "no such file"
        if files.is_stream(pattern):
            hint = "a pipe or a device, which cannot be read again after a restart"
        near = files.closest_path(pattern, is_folder=False) if hint == "no such file" else ""
        raise UserError(f"{key}={pattern}: {hint}; expected a file, a glob, or tfds: or hf:NAME[/CONFIG]:SPLIT{near}")
    return paths


def _kind(path, task_name):
    if os.path.isdir(path):
        if task_name == "embedding":
            return "beir"
        raise UserError(f"{path}: a folder in BEIR's layout, for embedders; expected a file for {task_name}")
    suffix = pathlib.Path(path.lower().removesuffix(".gz")).suffix
    kinds = _KINDS | _TASK_KINDS[task_name]
    kind = kinds.get(suffix) or (kinds.get("") if suffix not in _NOT_CONLL else None)
    if kind is None:
        names = ", ".join(sorted(name for name in kinds if name))
        columns = " or CoNLL columns" if "" in kinds else ""
        raise UserError(f"{path}: unknown kind of file for {task_name}; expected {names}{columns}")
    return kind


def _read_file(path, key, task, wanted, optional, keep):
    kind = _kind(path, task.name)
    readers: dict[str, Callable] = {
        "csv": functools.partial(_delimited, kind="csv", header=listed(task.columns), keep=keep),
        "tsv": functools.partial(_delimited, kind="tsv", header=listed(task.columns), keep=keep),
        "jsonl": functools.partial(_jsonl, keep=keep),
        "parquet": functools.partial(_parquet, keep=keep),
        "conll": functools.partial(conll.read, task=task),
        "squad": _squad,
        "beir": functools.partial(_beir, key=key, task=task),
    }
    notes: list[str] = []
    with text_files.reporting(path):
        records = list(readers[kind](path, wanted=wanted, optional=optional, notes=notes))
        names = _parquet_names(path) if kind == "parquet" else {}
    if not records:
        raise UserError(f"{path}: found no record ({key}); expected at least one")
    unit = {"parquet": "row", "squad": "question", "beir": "pair"}.get(kind, "line")
    table = _table(records, wanted, optional, names, f"{path} {unit}", kind == "conll")
    return dataclasses.replace(table, notes=tuple(notes))


def _beir(path, wanted, optional, notes, key, task):
    """Yields the pairs of a split of a folder in BEIR's layout; of its corpus alone where no positives are read."""
    split = "train" if key.endswith("train") else "test" if key.endswith("test") else beir.held_out_split(path)
    data = beir.read(path, key, split)
    pairs = (
        (query, data.documents[number])
        for query, grades in zip(data.queries, data.relevance, strict=True)
        for number, grade in grades.items()
        if grade > 0
    )
    alone = ((document, None) for document in data.documents if document.strip())
    for i, (anchor, positive) in enumerate(pairs if task.positive else alone, 1):
        values = {task.anchor: anchor, task.positive: positive}
        yield i, [values.get(name) for name in (*wanted, *optional)]


def _table(records, wanted, optional, names, source, word_lines=False):
    """Returns the table of records (number, values of the wanted and optional columns, perhaps the other columns)."""
    columns = {name: [record[1][i] for record in records] for i, name in enumerate((*wanted, *optional))}
    for name in optional:
        if all(value is None for value in columns[name]):
            del columns[name]
    others = [files.jsonable(record[2]) for record in records if len(record) > 2]
    places = [(0, record[0]) for record in records]
    return Table(columns, names, places, [source], word_lines, others=others if any(others) else ())


def _delimited(path, kind, header, wanted, optional, notes, keep):
    otherwise = ", or in config.task.columns for a file that has none"
    layout = text_files.layout(path, kind, wanted, header, otherwise=otherwise)
    if layout is None:
        return
    notes += layout.notes
    columns = layout.columns
    places = [columns.index(name) if name in columns else None for name in (*wanted, *optional)]
    others = [(name, place) for place, name in enumerate(columns) if name not in (*wanted, *optional)] if keep else []
    empty = []
    for number, row in text_files.rows(path, layout):
        if len(row) > 1 and not "".join(row).strip():
            empty.append(number)
            continue
        values = tuple(None if place is None else row[place] for place in places)
        yield number, values, {name: row[place] for name, place in others}
    if empty:
        notes.append(f"{path}: {len(empty):,} rows without any value were skipped, the first in line {empty[0]}")


def _jsonl(path, wanted, optional, notes, keep):
    del notes
    names = (*wanted, *optional)
    for number, text in text_files.lines(path):
        if not text.strip():
            continue
        try:
            record = _encodable(text, files.parse_object(text))
        except ValueError as error:
            hint = "is it a list? expected one object a line" if text.lstrip()[:1] == "[" else "expected an object"
            raise UserError(f"{path} line {number}: {error}; {hint}") from error
        missing = [name for name in wanted if name not in record]
        if missing:
            fields = ", ".join(map(str, record)) or "none"
            near = closest(missing[0], map(str, record))
            raise UserError(f"{path} line {number}: no field {missing[0]!r}; found {fields}{near}")
        others = {name: value for name, value in record.items() if name not in names} if keep else {}
        yield number, tuple(record.get(name) for name in names), others


def _encodable(text, value):
    """Returns the value of JSON text with each half of a surrogate pair replaced, which no UTF-8 can hold."""
    return _without_halves(value) if re.search(r"\\u[dD][89a-fA-F]", text) else value


def _without_halves(value):
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(part) for name, part in value.items()}
    return [_without_halves(part) for part in value] if isinstance(value, list) else value


def _parquet(path, wanted, optional, notes, keep):
    with parquet.opened(path) as file:
        existing = file.schema_arrow.names
        missing = [name for name in wanted if name not in existing]
        if missing:
            raise UserError(
                f"{path}: no column {missing[0]!r}; found {', '.join(existing)}{closest(missing[0], existing)}"
            )
        names = [name for name in (*wanted, *optional) if name in existing]
        others = [name for name in existing if name not in names] if keep else []
        number, binary = 0, parquet.binary_columns(file, others)
        if binary:
            notes.append(
                f"{path}: columns with bytes that are not UTF-8 are kept in base64: {', '.join(sorted(binary))}"
            )
        for batch in file.iter_batches(_AT_ONCE, columns=[*names, *others]):
            columns = {name: parquet.values(batch.column(name), name in binary) for name in (*names, *others)}
            for i in range(batch.num_rows):
                number += 1
                values = (columns[name][i] if name in columns else None for name in (*wanted, *optional))
                yield number, tuple(values), {name: columns[name][i] for name in others}


def _parquet_names(path):
    """Returns the class names that the `datasets` package wrote in a Parquet file's metadata."""
    with parquet.opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = {name: kind.get("names") or kind.get("feature", {}).get("names") for name, kind in features.items()}
    except (AttributeError, ValueError):
        return {}
    return {name: tuple(classes) for name, classes in names.items() if classes}


def _squad(path, wanted, optional, notes):
    """Yields the questions of a SQuAD file, 1.1 or 2.0; answers are {"text": [...], "answer_start": [...]}."""
    del wanted, optional, notes
    with gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
        articles = _encodable(text, json.loads(text))["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                context = paragraph["context"]
                for question in paragraph["qas"]:
                    name = str(question["id"])
                    impossible = bool(question.get("is_impossible"))
                    yield name, (question["question"], context, _flat_answers(question), name, impossible)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path} line {line}: not UTF-8: 0x{content[error.start]:02x}; expected UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg}); expected SQuAD's format") from error
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "another structure"
        raise UserError(
            f"{path}: {missing}; expected SQuAD's format: data, paragraphs, context, qas, question, id, answers, "
            "text, answer_start"
        ) from error


def _flat_answers(question):
    if "answers" not in question:
        return None
    answers = question["answers"]
    return {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}


def _read_tfds(item, key, task, wanted, optional, keep):
    match = tfds_source.SPEC.fullmatch(item)
    if not match:
        raise UserError(f"{key}={item}: expected tfds:NAME[/CONFIG]:SPLIT, such as tfds:glue/sst2:train")
    source, _ = tfds_source.open_split(
        match["name"], match["split"], task.data_dir or None, flag=key, folder="config.task.data_dir"
    )
    features = source.dataset_info.features
    missing = [name for name in wanted if name not in features]
    if missing:
        raise UserError(
            f"{key}={item}: no feature {missing[0]!r}; found {', '.join(features)}{closest(missing[0], features)}"
        )
    columns = [name for name in (*wanted, *optional) if name in features]
    names = {}
    for name in columns:
        feature = getattr(features[name], "feature", features[name])  # a sequence has the feature of its elements
        if hasattr(feature, "int2str"):
            names[name] = tuple(feature.names)
    records = []
    for start in range(0, len(source), _AT_ONCE):
        indices = range(start, min(start + _AT_ONCE, len(source)))
        for index, record in zip(indices, source.__getitems__(indices), strict=True):
            values = (_plain(record[name]) if name in features else None for name in (*wanted, *optional))
            others = {name: _plain(value) for name, value in record.items() if name not in columns} if keep else {}
            records.append((index, tuple(values), others))
    if not records:
        raise UserError(f"{key}={item}: found no record; expected at least one")
    return _table(records, wanted, optional, names, f"{item} record")


def _read_hf(item, key, wanted, optional, keep):
    source = hf_source.open_split(item, key)
    source.check_columns(wanted, key)
    asked = [name for name in (*wanted, *optional) if name in source.columns]
    others = [name for name in source.columns if name not in asked] if keep else []
    records = []
    for index, record in source.records([*asked, *others]):
        values = (record.get(name) for name in (*wanted, *optional))
        records.append((index, tuple(values), {name: record[name] for name in others}))
    if not records:
        raise UserError(f"{key}={item}: found no record; expected at least one")
    names = {name: classes for name, classes in source.class_names.items() if name in asked}
    return _table(records, wanted, optional, names, f"{item} record")


def _plain(value):
    """Returns numpy values and UTF-8 bytes as plain Python values."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def __getattr__(name):
    return _moved.find("data.tasks.records", name)
