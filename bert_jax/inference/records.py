"""Reads the files of `python -m bert_jax.predict`, and writes lines and vectors; tables are written by tables.py."""

import bisect
import contextlib
import dataclasses
import gzip
import itertools
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from bert_jax import files, interruption
from bert_jax.config.schema import closest
from bert_jax.data import parquet
from bert_jax.data.tasks import text_files
from bert_jax.data.tasks.text_names import unread_texts
from bert_jax.errors import UserError, shortened
from bert_jax.inference.examples import WORDS, Example, Reader, check_texts

KINDS = ("txt", "jsonl", "csv", "tsv", "parquet")
AT_ONCE = 1024  # rows of Parquet that are read together
_ENDINGS = ", ".join(f".{kind}" for kind in KINDS)
_MARK = ":"  # between the name of a file and the number of a line
_LOOKED_AT = 20  # lines below the first one that say whether it may be a header


@dataclasses.dataclass
class _Counts:
    """Counts what a pass over a file came across.

    Attributes:
      blank, first_blank: number of lines that hold nothing, and the first one's number.
      empty, first_empty: number of examples with an empty text, and the first one's place.
      names: the columns of the records, in the order in which they occur first.
      words: whether an example is a list of words.
    """

    blank: int = 0
    first_blank: int = 0
    empty: int = 0
    first_empty: str = ""
    names: dict[str, None] = dataclasses.field(default_factory=dict)
    words: bool = False


class Records:
    """Iterates over the examples of a file, one a line or row; may be iterated repeatedly.

    Lines that hold nothing are no examples. A text of an example may be empty.

    Args:
      path: a .txt, .jsonl, .csv or .tsv file, which may be .gz, or a .parquet; "-" for standard input, or a pipe, which
        are read once into a temporary file.
      fields: keys of the objects of a JSONL file, and columns of CSV, TSV and Parquet. A .txt holds one text a line.
      optional: how many of the last fields may be missing.
      kind: one of KINDS; "": as the file's name says, or for standard input and pipes Parquet, JSONL or CSV if the
        content begins so (CSV: with a header of several columns, those of `fields` among them), else CSV or TSV where
        `columns` or `has_columns` say that it is a table, else text.
      words: whether an object may have a list of words, as `words`, `tokens` or in the place of its text.
      columns: field -> its key or column in this file, where that has another name; one or more records must have it.
      own: names that the fields have in the model's own training data; they are read too where `columns` is empty.
      flag: the flag that names the file, for messages.
      has_columns: whether another column of the file has been named, such as that of ids.

    Raises:
      UserError: in the constructor, if there is no such file or its kind is unknown; while iterating, if a line cannot
        be read or lacks a field: the message names the file and the line number.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fields: tuple[str, ...],
        optional: int = 0,
        kind: str = "",
        words: bool = False,
        columns: Mapping[str, str] | None = None,
        own: tuple[str, ...] = (),
        flag: str = "input",
        has_columns: bool = False,
    ):
        self.path = pathlib.Path(path)
        self._fields, self._required = fields, len(fields) - optional
        self._given = [name for field, name in (columns or {}).items() if field in fields]
        named = tuple((columns or {}).get(field, field) for field in fields)
        flags = tuple("query_column" if flag == "queries" else f"{field}_column" for field in fields)
        refused = "all"
        if self._given:  # the user has named what is read; a second text may have been forgotten where there can be one
            refused = "none" if 1 in (len(fields), len(own)) else "second"
        self._reader = Reader(
            named, self._required, words, () if columns else own, "an object", refused, flags,
            _choice(flags, own or named), _choice_of_two(flags, named),
        )  # fmt: skip
        self._header_note = ""
        is_standard = os.fspath(path) == files.STANDARD
        self._name = "standard input" if is_standard else str(path)
        self._source = self.path
        ending = self.path.name.lower().removesuffix(".gz").rpartition(".")[2]
        kind = kind or (ending if ending in KINDS else "")
        if is_standard or _is_pipe(self.path):
            self._spooled, self._source = _spooled(path, self._name)
            has_kind = bool(kind)
            kind = kind or self._kind_by_content(bool(self._given) or has_columns)
            if kind == "txt" and not has_kind:
                self._header_note = self._note_on_header(flags[0], flag == "input")
        if not kind and not self.path.is_dir():
            also = ", or --input_format" if flag == "input" else ""
            near = "" if self.path.exists() else files.closest_path(self.path, is_folder=False)
            raise UserError(f"--{flag}={path}: unknown kind of file; expected a name in {_ENDINGS}{also}{near}")
        if not self._source.is_file():
            problem = "not a file" if self.path.exists() else "no such file"
            near = files.closest_path(self.path, is_folder=False) if problem == "no such file" else ""
            raise UserError(f"--{flag}={path}: {problem}; expected texts, in a name in {_ENDINGS}{near}")
        if kind == "txt" and self._required > 1:
            raise UserError(f"--{flag}={path}: one text a line; expected .jsonl or .csv with {_named(fields)}")
        if kind == "txt" and self._given:
            raise UserError(
                f"--{flag}={path}: one text a line, which has no column {self._given[0]!r}; expected a table or JSONL"
            )
        self.kind = kind
        self._shifts: list[tuple[int, int]] = []  # (example, lines before it that are no examples), where that changes
        self._counts = _Counts()
        self._binary: frozenset[str] | None = None  # columns of Parquet whose bytes are not texts, once known

    @property
    def nothing_read(self) -> str:
        """Returns the end of a message about an input in which a whole pass found no example."""
        if self.kind in ("txt", "jsonl"):
            return f"empty; expected one {'text' if self.kind == 'txt' else 'object'} a line or more"
        if self._source.stat().st_size == 0:
            return "empty; expected a header, and a row or more under it"
        return "no row under its header; expected one or more"

    def where(self, index: int) -> str:
        """Returns the name of the example of an index (from 0) for messages: file and line number."""
        entry = bisect.bisect_right(self._shifts, (index, sys.maxsize)) - 1
        return self._place(index + 1 + (self._shifts[entry][1] if entry >= 0 else 0))

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the columns of the records, as far as the last whole pass found them; () of a .txt."""
        return tuple(self._counts.names)

    @property
    def has_words(self) -> bool:
        """Returns whether the last whole pass found a list of words."""
        return self._counts.words

    @property
    def notes(self) -> list[str]:
        """Returns lines for the user: how the file is read, and what the last whole pass skipped or found empty."""
        counts, notes = self._counts, [self._header_note] if self._header_note else []
        if counts.blank:
            notes.append(
                f"{self._name}: {counts.blank:,} lines hold nothing and were skipped, the first being line "
                f"{counts.first_blank}; they have no line in the output"
            )
        if counts.empty:
            notes.append(
                f"{self._name}: {counts.empty:,} lines have an empty text, the first at {counts.first_empty}; it is "
                "read as an empty one, as in fine-tuning"
            )
        if self._binary:
            notes.append(
                f"{self._name}: columns with bytes that are not UTF-8 come back in base64 (in .parquet as they are): "
                f"{', '.join(sorted(self._binary))}"
            )
        return notes

    def __iter__(self) -> Iterator[Example]:
        counts, shifts = _Counts(), []
        index = 0
        with text_files.reporting(self._name):
            for number, example, record in self._read():
                where = self._place(number)
                if example is None:
                    counts.blank += 1
                    counts.first_blank = counts.first_blank or number
                    continue
                shift = number - 1 - index
                if shift != (shifts[-1][1] if shifts else 0):
                    shifts.append((index, shift))
                    if len(shifts) > len(self._shifts):
                        self._shifts = shifts
                self._check(example, where)
                if any(isinstance(text, str) and not text.strip() for text in example):
                    counts.empty += 1
                    counts.first_empty = counts.first_empty or where
                if record.keys() - counts.names.keys():
                    counts.names |= dict.fromkeys(record)
                counts.words = counts.words or isinstance(example[0], list)
                index += 1
                yield example
        absent = [name for name in self._given if name not in counts.names]
        if index and absent and not counts.words:
            near = closest(absent[0], list(counts.names))
            raise UserError(f"{self._name}: no column {absent[0]!r}; found {', '.join(counts.names)}{near}")
        self._counts, self._shifts = counts, shifts

    def rows(self, texts: bool = False) -> Iterator[dict[str, Any]]:
        """Yields what came in with each example: its record by column; of a .txt nothing, or with `texts` its text."""
        with text_files.reporting(self._name):
            for _, example, record in self._read():
                if example is not None:
                    yield {"text": example[0]} if texts and self.kind == "txt" else record

    @contextlib.contextmanager
    def parquet_file(self) -> Iterator[Any]:
        """Opens the file, which is Parquet, as a pyarrow.parquet.ParquetFile."""
        with text_files.reporting(self._name), parquet.opened(self._source, self._name) as file:
            yield file

    def _read(self) -> Iterator[tuple[int, Example | None, dict]]:
        """Yields (number of a line or row, its example or None, its record)."""
        readers = {"txt": self._texts, "jsonl": self._objects, "parquet": self._parquet_rows}
        return readers.get(self.kind, self._rows)()

    def _place(self, number):
        return f"{self._name}{_MARK}{number}"

    def _check(self, example, where):
        for text, name in zip(example, self._fields, strict=False):
            if isinstance(text, list):
                for i, word in enumerate(text):
                    check_texts((word,), (name,), f"{where}, word {i + 1}", allow_empty=True)
        if not any(isinstance(text, list) for text in example):
            check_texts(example, self._fields[: len(example)], where, allow_empty=True)

    def _lines(self, number):
        """Returns the first lines of a file of texts that hold something."""
        with text_files.reporting(self._name):
            texts = (text.rstrip("\r\n") for _, text in text_files.lines(self._source, self._name, _MARK))
            return list(itertools.islice((text for text in texts if text.strip()), number))

    def _note_on_header(self, column_flag, has_format):
        """Returns a line for the user where the first of the texts may be the header of a table; else ""."""
        first, *following = self._lines(1 + _LOOKED_AT) or [""]
        reader = self._reader
        known = {name.lower() for name in (*reader.fields, *reader.columns)}
        known |= {name.lower() for name in unread_texts([first.strip().strip('"')], ())}
        if not text_files.may_be_header(first, following, known):
            return ""
        choice = f"--{column_flag}=NAME reads its column NAME"
        if has_format:
            choice = f"--input_format={self.kind} reads it as one, and {choice}"
        return (
            f"{self._name}: read as one text a line, the first of which is {shortened(first)!r}; if that is the header "
            f"of a table, {choice}"
        )

    def _kind_by_content(self, is_table):
        with open(self._source, "rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
        first = next(iter(self._lines(1)), "")
        with contextlib.suppress(ValueError):
            files.parse_object(first)
            return "jsonl"
        self.kind = "tsv" if "\t" in first else "csv"
        if is_table:
            return self.kind
        with contextlib.suppress(UserError):  # the first line is no header with the columns of the texts
            layout, _ = self._layout()
            if layout and len(layout.columns) > 1:
                return self.kind
        return "txt"

    def _texts(self):
        for number, text in text_files.lines(self._source, self._name, _MARK):
            text = text.rstrip("\r\n")
            yield number, ((text,) if text.strip() else None), {}

    def _objects(self):
        for number, text in text_files.lines(self._source, self._name, _MARK):
            if not text.strip():
                yield number, None, {}
                continue
            line, where = text.rstrip("\r\n"), self._place(number)
            try:
                record = files.parse_object(line)
            except ValueError as error:
                raise UserError(
                    f"{where}: {error} in {shortened(line)!r}; expected an object with {_named(self._reader.fields)}"
                ) from error
            yield number, self._reader.record(record, where, shortened(line)), record

    def _rows(self):
        layout, names = self._layout()
        if layout is None:
            return
        columns = _distinct(layout.columns)
        names = [name for name in names if name in layout.columns]
        places = [layout.columns.index(name) for name in names]
        may_drop = unread_texts(columns, names)
        for number, row in text_files.rows(self._source, layout, self._name, _MARK):
            example = tuple(row[place] for place in places) if "".join(row).strip() else None
            record = dict(zip(columns, row, strict=True))
            if may_drop and example is not None:
                self._reader.check_unread(record, names, self._place(number))
            yield number, example, record

    def _layout(self):
        """Returns (the layout of a delimited file or None, the columns of its texts)."""
        reader = self._reader
        if reader.columns:
            with contextlib.suppress(UserError):
                layout = text_files.layout(self._source, self.kind, reader.columns, name=self._name, mark=_MARK)
                return layout, reader.names_in(layout.columns, self._name) if layout else ()
        required = reader.fields[: self._required]
        layout = text_files.layout(self._source, self.kind, required, name=self._name, mark=_MARK)
        return layout, reader.names_in(layout.columns, self._name) if layout else ()

    def _parquet_rows(self):
        reader, number = self._reader, 0
        with parquet.opened(self._source, self._name) as file:
            existing = file.schema_arrow.names
            names = reader.names_in(existing, self._name)
            missing = [name for name in names[: self._required] if name not in existing]
            missing = [] if reader.words and {*WORDS} & {*existing} else missing
            if missing:
                near = closest(missing[0], existing)
                raise UserError(f"{self._name}: no column {missing[0]!r}; found {', '.join(existing)}{near}")
            if self._binary is None:
                others = [name for name in existing if name not in names and not (reader.words and name in WORDS)]
                self._binary = parquet.binary_columns(file, others)
            for batch in file.iter_batches(AT_ONCE):
                for record in _as_records(batch, self._binary):
                    number += 1
                    yield number, reader.record(record, self._place(number)), record


def _as_records(batch, binary):
    """Returns the rows of a batch as dicts; the columns that `binary` names are in base64."""
    names = batch.schema.names
    columns = [parquet.values(column, name in binary) for name, column in zip(names, batch.columns, strict=True)]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _distinct(names):
    """Returns names of columns of which no two are the same, as pandas tells them apart: x, x.1."""
    taken: dict[str, None] = {}
    for name in names:
        number = 0
        while (new := f"{name}.{number}" if number else name) in taken:
            number += 1
        taken[new] = None
    return tuple(taken)


@contextlib.contextmanager
def line_writer(path: str | os.PathLike) -> Iterator[Callable[[str], object]]:
    """Yields a function that adds a line to a file, which appears only once it is complete. A .gz is compressed.

    "-" is standard output, which gets each line at once, as pipes do.
    """
    with replacing(path) as file:
        if not str(path).endswith(".gz"):
            yield lambda line: file.write(f"{line}\n".encode())
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="") as compressed:
            yield lambda line: compressed.write(f"{line}\n".encode())


@contextlib.contextmanager
def vector_writer(
    path: str | os.PathLike, rows: int, size: int, dtype: str | np.dtype = "<f4"
) -> Iterator[Callable[[np.ndarray], object]]:
    """Yields a function that adds a vector to a .npy file, [rows, size], which appears once it is complete."""
    with replacing(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda vector: file.write(np.ascontiguousarray(vector, dtype).tobytes())


def vector_line(vector: np.ndarray) -> str:
    """Returns a vector [size] as JSON; each number has the fewest digits that give back the same float32."""
    return f'{{"embedding": [{", ".join(map(str, vector))}]}}'


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Yields a binary file that takes the place of `path` at the end; a failure leaves an older file as it was."""
    try:
        with files.open_output(path) as file:
            yield file
    except BrokenPipeError:
        raise  # the reader has ended: see cli.output_to_pipes
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


def _is_pipe(path):
    """Returns whether a path exists and can be read only once, as a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _spooled(path, name):
    """Returns a temporary file with the content of standard input or a pipe, and the path to open it by.

    On Linux the file has no name, so that nothing is left of it however the program ends.
    """
    with text_files.reporting(name), files.open_input(path) as source, contextlib.ExitStack() as on_error:
        nameless = pathlib.Path("/proc/self/fd").is_dir()
        spooled: Any = tempfile.TemporaryFile() if nameless else tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115
        on_error.callback(_close, spooled)
        if not nameless:
            # Also where an error ends the program: by then its traceback holds the file.
            remove = weakref.finalize(spooled, _remove, spooled.name)
            interruption.always_before_end(remove)
            on_error.callback(remove)
        shutil.copyfileobj(source, spooled)
        spooled.flush()
        on_error.pop_all()
    return spooled, pathlib.Path(f"/proc/self/fd/{spooled.fileno()}" if nameless else spooled.name)


def _close(file):
    with contextlib.suppress(OSError):  # what its buffer holds has no place on the disk
        file.close()


def _remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def _choice(flags, names):
    """Returns how the command line says which texts of a record are read."""
    if len(flags) > 1 and len(names) > 1:
        return f"--{flags[1]}=NAME names the second text"
    return f"--{flags[0]}={names[0]} where it is all"


def _choice_of_two(flags, names):
    """Returns how the command line says that two texts of a record are all."""
    pairs = zip(flags, names, strict=True)
    return f"{' '.join(f'--{flag}={name}' for flag, name in pairs)} where they are all"


def _named(fields: Sequence[str]) -> str:
    return " and ".join(f"`{field}`" for field in fields)
