"""Reads and writes the files of `python -m bert_jax.predict`, line by line."""

import bisect
import contextlib
import dataclasses
import gzip
import os
import pathlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import files
from bert_jax.data.tasks import text_files
from bert_jax.errors import UserError, shortened
from bert_jax.inference.predictor import Example, check_texts

KINDS = ("txt", "jsonl", "csv", "tsv")
_ENDINGS = ", ".join(f".{kind}" for kind in KINDS)
_MARK = ":"  # between the name of a file and the number of a line
_WORDS = ("words", "tokens")  # fields that hold a list of words instead of a text


@dataclasses.dataclass
class _Counts:
    """What a pass over a file came across.

    Attributes:
      blank, first_blank: number of lines that hold nothing, and the first one's number.
      empty, first_empty: number of examples with an empty text, and the first one's place.
    """

    blank: int = 0
    first_blank: int = 0
    empty: int = 0
    first_empty: str = ""


class Records:
    """Iterates over the examples of a file, one a line; may be iterated repeatedly.

    Lines that hold nothing are no examples. A text of an example may be empty.

    Args:
      path: a .txt, .jsonl, .csv or .tsv file, which may be .gz; "-" for standard input, or a pipe, which are read once
        into a temporary file.
      fields: keys of the objects of a JSONL file, and columns of CSV and TSV. A .txt holds one text a line.
      optional: how many of the last fields may be missing.
      kind: one of KINDS; "": as the file's name says, or for standard input and pipes JSONL if the first line is a JSON
        object, else text.
      words: whether an object may have a list of words, as `words`, `tokens` or in the place of its text.
      columns: field -> its key or column in this file, where that has another name.

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
    ):
        self.path = pathlib.Path(path)
        self._fields, self._required, self._words = fields, len(fields) - optional, words
        self._columns = tuple((columns or {}).get(field, field) for field in fields)
        is_standard = os.fspath(path) == files.STANDARD
        self._name = "standard input" if is_standard else str(path)
        self._source = self.path
        ending = self.path.name.lower().removesuffix(".gz").rpartition(".")[2]
        kind = kind or (ending if ending in KINDS else "")
        if is_standard or _is_pipe(self.path):
            self._spooled = _spooled(path, self._name)
            self._source = pathlib.Path(self._spooled.name)
            kind = kind or self._kind_by_content()
        if not kind and not self.path.is_dir():
            raise UserError(f"--input={path}: unknown kind of file; expected a name in {_ENDINGS}, or --input_format")
        if not self._source.is_file():
            problem = "not a file" if self.path.exists() else "no such file"
            raise UserError(f"--input={path}: {problem}; expected texts, in a name in {_ENDINGS}")
        if kind == "txt" and self._required > 1:
            raise UserError(f"--input={path}: one text a line; expected .jsonl or .csv with {_named(fields)}")
        self._kind = kind
        self._shifts: list[tuple[int, int]] = []  # (example, lines before it that are no examples), where that changes
        self._counts = _Counts()

    def where(self, index: int) -> str:
        """Returns the name of the example of an index (from 0) for messages: file and line number."""
        at = bisect.bisect_right(self._shifts, (index, sys.maxsize)) - 1
        return self._place(index + 1 + (self._shifts[at][1] if at >= 0 else 0))

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what the last whole pass skipped or found empty."""
        counts, notes = self._counts, []
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
        return notes

    def __iter__(self) -> Iterator[Example]:
        counts, shifts = _Counts(), []
        read = {"txt": self._texts, "jsonl": self._objects}.get(self._kind, self._rows)
        index = 0
        with text_files.reporting(self._name):
            for number, example in read(counts):
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
                index += 1
                yield example
        self._counts, self._shifts = counts, shifts

    def _place(self, number):
        return f"{self._name}{_MARK}{number}"

    def _check(self, example, where):
        for text, name in zip(example, self._fields, strict=False):
            if isinstance(text, list):
                for i, word in enumerate(text):
                    check_texts((word,), (name,), f"{where}, word {i + 1}", allow_empty=True)
        if not any(isinstance(text, list) for text in example):
            check_texts(example, self._fields[: len(example)], where, allow_empty=True)

    def _kind_by_content(self):
        first = next((text for _, text in text_files.lines(self._source, self._name, _MARK) if text.strip()), "")
        with contextlib.suppress(ValueError):
            files.parse_object(first)
            return "jsonl"
        return "txt"

    def _texts(self, counts) -> Iterator[tuple[int, Example | None]]:
        for number, text in text_files.lines(self._source, self._name, _MARK):
            text = text.rstrip("\r\n")
            yield number, ((text,) if text.strip() else None)

    def _objects(self, counts) -> Iterator[tuple[int, Example | None]]:
        for number, text in text_files.lines(self._source, self._name, _MARK):
            yield number, (self._example(text.rstrip("\r\n"), self._place(number)) if text.strip() else None)

    def _rows(self, counts) -> Iterator[tuple[int, Example | None]]:
        required = self._columns[: self._required]
        layout = text_files.layout(self._source, self._kind, required, name=self._name, mark=_MARK)
        if layout is None:
            return
        given = [name for name in self._columns if name in layout.columns]
        places = [layout.columns.index(name) for name in given]
        for number, row in text_files.rows(self._source, layout, self._name, _MARK):
            yield number, (tuple(row[place] for place in places) if "".join(row).strip() else None)

    def _example(self, line, where) -> Any:
        try:
            record = files.parse_object(line)
        except ValueError as error:
            raise UserError(
                f"{where}: {error} in {shortened(line)!r}; expected an object with {_named(self._columns)}"
            ) from error
        required, optional = self._columns[: self._required], self._columns[self._required :]
        if self._words:
            words = next((record[name] for name in (*_WORDS, *required) if isinstance(record.get(name), list)), None)
            if words is not None:
                if not all(isinstance(word, str) for word in words):
                    raise UserError(f"{where}: found {shortened(str(words))}; expected a list of words")
                return (words,)
        for name in required:
            if not isinstance(record.get(name), str):
                also = f", or with a list of words as `{_WORDS[0]}`" if self._words else ""
                expected = f"expected an object with {_named(required)}{also}"
                raise UserError(f"{where}: no `{name}` string in {shortened(line)!r}; {expected}")
        given = [name for name in optional if record.get(name) is not None]
        return tuple(record[name] for name in (*required, *given))


@contextlib.contextmanager
def line_writer(path: str | os.PathLike) -> Iterator[Callable[[str], object]]:
    """Yields a function that adds a line to a file, which appears only once it is complete. A .gz is compressed.

    "-" is standard output, which gets each line at once, as pipes do.
    """
    with _replacing(path) as file:
        if not str(path).endswith(".gz"):
            yield lambda line: file.write(f"{line}\n".encode())
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="") as compressed:
            yield lambda line: compressed.write(f"{line}\n".encode())


@contextlib.contextmanager
def vector_writer(path: str | os.PathLike, rows: int, size: int) -> Iterator[Callable[[np.ndarray], object]]:
    """Yields a function that adds a vector to a .npy file, float32 [rows, size], which appears once it is complete."""
    with _replacing(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda vector: file.write(np.ascontiguousarray(vector, "<f4").tobytes())


def vector_line(vector: np.ndarray) -> str:
    """Returns a vector [size] as JSON; each number has the fewest digits that give back the same float32."""
    return f'{{"embedding": [{", ".join(map(str, vector))}]}}'


@contextlib.contextmanager
def _replacing(path):
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
    """Returns a temporary file with the content of standard input or a pipe."""
    with text_files.reporting(name), files.open_input(path) as source:
        start = source.read(2)
        spooled = tempfile.NamedTemporaryFile(suffix=".gz" if start == b"\x1f\x8b" else "")  # noqa: SIM115 lives on
        spooled.write(start)
        shutil.copyfileobj(source, spooled)
        spooled.flush()
    return spooled


def _named(fields: Sequence[str]) -> str:
    return " and ".join(f"`{field}`" for field in fields)
