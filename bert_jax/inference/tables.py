"""Writes the answers of `python -m bert_jax.predict` in the format of the output's ending, with their records.

What came in with an example, such as an id, comes back in front of its answer under its own name and type. A column
with the name of a part of the answer comes back as input_NAME.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import files
from bert_jax.data import parquet
from bert_jax.data.tasks.records import output_names
from bert_jax.errors import UserError
from bert_jax.inference import records

KINDS = ("jsonl", "csv", "tsv", "parquet", "txt", "npy", "npz", "faiss")
ARRAYS = ("npy", "npz", "faiss")  # formats of vectors alone; see vector_files
_OTHERS = (
    ".json", ".xlsx", ".xls", ".ods", ".arrow", ".feather", ".pkl", ".pickle", ".html", ".xml", ".yaml", ".doc",
    ".docx", ".db", ".zip", ".bz2", ".xz", ".zst",
)  # fmt: skip
_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclasses.dataclass(frozen=True)
class Answers:
    """Describes the answers of a verb, for the writers of each format.

    Attributes:
      verb: the verb on the command line.
      labels: names of a classifier's scores.
      label_kind: type of a classifier's label: "text", "texts" of several labels, or "none" of a number.
      words: whether an answer may hold the words of its example, and their tags.
      vector_dtype: dtype of a vector's numbers.
      sparse: whether a vector is a mapping of tokens to weights.
    """

    verb: str
    labels: tuple[str, ...] = ()
    label_kind: str = "text"
    words: bool = False
    vector_dtype: str = "float32"
    sparse: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of an answer's parts."""
        return {
            "fill-mask": ("masks",),
            "classify": ("label", "score", "scores"),
            "tag": ("words", "tags", "entities") if self.words else ("entities",),
            "answer": ("answer", "start", "end", "score"),
            "embed": ("embedding",),
            "rerank": ("score", "rank"),
        }[self.verb]

    @property
    def is_array(self) -> bool:
        """Returns whether an answer is an array [size], and no mapping of its parts."""
        return self.verb == "embed" and not self.sparse

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the names of an answer's columns in CSV and TSV, where each score has one of its own."""
        scores = {"scores": [f"scores.{label}" for label in self.labels]}
        return tuple(column for name in self.names for column in scores.get(name, [name]))

    def cells(self, answer: Any) -> list[str]:
        """Returns the cells of an answer's columns in CSV and TSV."""
        if self.is_array:
            return [_vector_cell(answer)]
        cells = []
        for name in self.names:
            value = answer.get(name)
            if name == "scores":
                cells += [_cell(value[label]) for label in self.labels]
            elif name == "label" and isinstance(value, list) and not any("|" in label for label in value):
                cells.append("|".join(value))  # as fine-tuning reads several labels
            else:
                cells.append(_cell(value))
        return cells

    def line(self, answer: Any) -> str:
        """Returns an answer as a line of text: the label, the answer, or the most probable token of each mask."""
        if self.verb == "fill-mask":
            return " ".join(mask[0]["token"] for mask in answer["masks"])
        if self.verb == "answer":
            return " ".join(answer["answer"].split())
        label = answer["score"] if self.label_kind == "none" or self.verb == "rerank" else answer["label"]
        return " ".join(("|".join(label) if isinstance(label, list) else str(label)).split())

    def types(self) -> dict[str, Any]:
        """Returns the pyarrow type of each part."""
        pa = parquet.package()
        text, number, integer = pa.string(), pa.float64(), pa.int64()
        texts = pa.list_(text)
        entity = pa.struct({"label": text, "start": integer, "end": integer, "text": text, "score": number})
        token = pa.struct({"token": text, "id": integer, "score": number})
        vector = pa.map_(text, pa.float32()) if self.sparse else pa.list_(pa.from_numpy_dtype(self.vector_dtype))
        kinds = {
            "masks": pa.list_(pa.list_(token)), "label": texts if self.label_kind == "texts" else text,
            "scores": pa.struct({label: number for label in self.labels}), "score": number, "words": texts,
            "tags": texts, "entities": pa.list_(entity), "answer": text, "start": integer, "end": integer,
            "rank": integer, "embedding": vector,
        }  # fmt: skip
        return {name: kinds[name] for name in self.names}


def kind_of(output: str, verb: str, asked: str = "") -> str:
    """Returns the format of an output, one of KINDS, by its ending; JSONL for another ending.

    Args:
      output: the name of a file, or "-".
      verb: the verb that writes it.
      asked: the format of --output_format; "" where it is not given.

    Raises:
      UserError: the ending is of a format that is not written, or the verb does not write this one.
    """
    name = output.lower()
    ending = os.path.splitext(name.removesuffix(".gz"))[1]
    kind = asked or (ending[1:] if ending[1:] in KINDS else "jsonl")
    if not asked and ending in _OTHERS:
        raise UserError(f"--output={output}: {ending} is not written; expected {', '.join(f'.{k}' for k in KINDS)}")
    if kind in ARRAYS and verb != "embed":
        raise UserError(f"--output={output}: only embed writes .{kind}; expected a .jsonl")
    if kind == "txt" and verb in ("tag", "embed"):
        raise UserError(f"--output={output}: {verb} has no answer of one line; expected .jsonl, .csv, .tsv or .parquet")
    if kind in (*ARRAYS, "parquet") and name.endswith(".gz"):
        raise UserError(f"--output={output}: .{kind} is not written as .gz; expected .{kind}")
    return kind


def write(
    output: str, kind: str, source: records.Records, answers: Iterable[Any], form: Answers, keep: bool = True
) -> None:
    """Writes answers, each with the record that it belongs to.

    Args:
      output: the name of a file, which appears once it is whole, or "-".
      kind: one of KINDS but ARRAYS.
      source: the records, of which a whole pass was made.
      answers: the answer to each, in order.
      form: what an answer holds.
      keep: whether records come back.

    Raises:
      UserError: the file cannot be written, or the records cannot in this format.
    """
    writers: dict[str, Callable] = {
        "jsonl": _write_objects,
        "csv": _write_cells,
        "tsv": _write_cells,
        "txt": _write_lines,
    }
    if kind != "parquet":
        writers[kind](output, kind, source, answers, form, keep)
    elif source.kind == "parquet" and keep:
        _extend_parquet(output, source, answers, form)
    else:
        _write_parquet(output, source, answers, form, keep)


def notes(source: records.Records, form: Answers) -> list[str]:
    """Returns lines for the user about columns that come back under another name."""
    renamed = {name: new for name, new in _kept(source, form).items() if name != new}
    return [
        f"{source.path}: its column {name!r} comes back as {new!r}, as {name!r} is the prediction"
        for name, new in renamed.items()
    ]


def _kept(source, form, texts=False) -> dict[str, str]:
    """Returns the name under which each column of the records comes back; those that the answer repeats do not."""
    names = ("text",) if texts and source.kind == "txt" else source.names
    if form.words:  # which the answer repeats
        names = tuple(name for name in names if name != "words")
    return {name: files.jsonable(new) for name, new in output_names(names, form.names).items()}


def _write_objects(output, kind, source, answers, form, keep):
    kept = _kept(source, form) if keep else {}
    with records.line_writer(output) as put:
        for row, answer in _paired(source.rows() if kept else None, answers):
            record = {kept[name]: value for name, value in row.items() if name in kept}
            if not form.is_array:
                put(files.json_line(files.jsonable(record) | answer))
                continue
            line = records.vector_line(answer)
            put(f"{files.json_line(files.jsonable(record))[:-1]}, {line[1:]}" if record else line)


def _write_cells(output, kind, source, answers, form, keep):
    kept = _kept(source, form, texts=True) if keep else {}

    def line(cells):
        text = io.StringIO()
        csv.writer(text, delimiter=_DELIMITERS[kind]).writerow(cells)
        return text.getvalue().removesuffix("\r\n")

    with records.line_writer(output) as put:
        put(line([*kept.values(), *form.columns]))
        for row, answer in _paired(source.rows(texts=True) if kept else None, answers):
            put(line([*(_cell(row.get(name)) for name in kept), *form.cells(answer)]))


def _write_lines(output, kind, source, answers, form, keep):
    with records.line_writer(output) as put:
        for answer in answers:
            put(form.line(answer))


def _write_parquet(output, source, answers, form, keep):
    """Writes records that are no Parquet themselves; the types of their columns follow from all of them."""
    pa = parquet.package(output)
    kept = _kept(source, form, texts=True) if keep else {}
    schema = pa.schema([])
    with _refusing_types(pa, output):
        for rows in _batches(source.rows(texts=True) if kept else ()):
            part = _as_table(pa, rows, kept).schema
            schema = pa.unify_schemas([schema, part], promote_options="permissive")
    schema = pa.schema([*schema, *(pa.field(name, kind) for name, kind in form.types().items())])
    with records.replacing(output) as file, _parquet_writer(pa, output, file, schema) as writer:
        pairs = _paired(source.rows(texts=True) if kept else None, answers)
        for batch in _batches(pairs):
            rows = [files.jsonable({kept[name]: row[name] for name in row if name in kept}) for row, _ in batch]
            rows = [row | _parts(form, answer) for row, (_, answer) in zip(rows, batch, strict=True)]
            with _refusing_types(pa, output):
                table = pa.Table.from_pylist(rows, schema)
            writer.write_table(table)


def _extend_parquet(output, source, answers, form):
    """Writes the columns of a Parquet file as they are, and those of the answers behind them."""
    pa = parquet.package(output)
    kept, answers = _kept(source, form), iter(answers)
    with source.parquet_file() as file:
        source_fields = [field for field in file.schema_arrow if field.name in kept]
        types = form.types()
        # What pandas and datasets say there about the columns does not hold for the new ones.
        schema = pa.schema(
            [*(field.with_name(kept[field.name]) for field in source_fields), *map(pa.field, types, types.values())]
        )
        with records.replacing(output) as written, _parquet_writer(pa, output, written, schema) as writer:
            for batch in file.iter_batches(records.AT_ONCE):
                rows = [_parts(form, answer) for _, answer in zip(range(batch.num_rows), answers, strict=False)]
                new = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
                columns = [pa.chunked_array([batch.column(field.name)]) for field in source_fields] + new.columns
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            for _ in answers:  # so that what follows the last answer happens
                pass


def _parquet_writer(pa, output, file, schema):
    with _refusing_types(pa, output):
        return pa.parquet.ParquetWriter(file, schema)


@contextlib.contextmanager
def _refusing_types(pa, output):
    """Turns the errors of values that have no type in Parquet into UserError."""
    try:
        yield
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"--output={output}: a column has no type in Parquet ({' '.join(str(error).split())}); expected .jsonl, or "
            "--nokeep_columns"
        ) from error


def _as_table(pa, rows, kept):
    return pa.Table.from_pylist([files.jsonable({new: row.get(name) for name, new in kept.items()}) for row in rows])


def _paired(rows, answers) -> Iterator[tuple[Mapping, Any]]:
    """Yields each record with its answer; {} where there are no records."""
    for answer in answers:
        yield next(rows, {}) if rows is not None else {}, answer


def _batches(items) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == records.AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _parts(form, answer) -> dict[str, Any]:
    if form.is_array:
        return {"embedding": answer}
    return {"embedding": list(answer["embedding"].items())} if form.sparse else dict(answer)


def _cell(value: Any) -> str:
    value = files.jsonable(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _vector_cell(vector: np.ndarray | Sequence[float]) -> str:
    return f"[{', '.join(map(str, vector))}]"
