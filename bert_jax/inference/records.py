"""Reads and writes the files of `python -m bert_jax.predict`, line by line."""

import contextlib
import gzip
import pathlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from bert_jax import files
from bert_jax.errors import UserError, shortened
from bert_jax.inference.predictor import Example, check_texts

_KINDS = {".txt": "text", ".txt.gz": "text", ".jsonl": "jsonl", ".jsonl.gz": "jsonl"}


class Records:
    """Iterates over the examples of a file, one a line; may be iterated repeatedly.

    Args:
      path: a .txt or .jsonl file; either may be .gz.
      fields: keys of the objects of a JSONL file. A .txt holds one text a line.
      optional: how many of the last fields may be missing.

    Raises:
      UserError: in the constructor, if there is no such file or its kind is unknown; while iterating, if a line cannot
        be read, lacks a field or is empty: the message names the file and the line number.
    """

    def __init__(self, path: pathlib.Path, fields: tuple[str, ...], optional: int = 0):
        kind = next((kind for ending, kind in _KINDS.items() if path.name.endswith(ending)), None)
        if kind is None:
            raise UserError(f"--input={path}: unknown kind of file; expected a name in {', '.join(_KINDS)}")
        if not path.is_file():
            problem = "not a file" if path.exists() else "no such file"
            raise UserError(f"--input={path}: {problem}; expected texts, in a name in {', '.join(_KINDS)}")
        if kind == "text" and len(fields) - optional > 1:
            raise UserError(f"--input={path}: one text a line; expected .jsonl with {_named(fields)}")
        self.path, self._kind, self._fields, self._required = path, kind, fields, len(fields) - optional

    def where(self, index: int) -> str:
        """Returns the name of the example of an index (from 0) for messages: file and line number."""
        return f"{self.path}:{index + 1}"

    def __iter__(self) -> Iterator[Example]:
        for number, line in enumerate(self._lines()):
            where = self.where(number)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 at byte {error.start} of the line; expected UTF-8 text") from error
            example = (text,) if self._kind == "text" else self._example(text, where)
            check_texts(example, self._fields[: len(example)], where)
            yield example

    def _lines(self):
        """Yields the bytes of each line, without line end and byte-order mark."""
        opened = gzip.open if self.path.name.endswith(".gz") else open
        number = 0
        try:
            with opened(self.path, "rb") as file:
                for number, line in enumerate(file):
                    yield line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip(b"\r\n")
        except (OSError, EOFError, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.where(number)}: cannot be read: {reason}; expected a whole file") from error

    def _example(self, line, where):
        try:
            record = files.parse_object(line)
        except ValueError as error:
            raise UserError(
                f"{where}: {error} in {shortened(line)!r}; expected an object with {_named(self._fields)}"
            ) from error
        required, optional = self._fields[: self._required], self._fields[self._required :]
        for name in required:
            if not isinstance(record.get(name), str):
                raise UserError(
                    f"{where}: no `{name}` string in {shortened(line)!r}; expected an object with {_named(required)}"
                )
        given = [name for name in optional if record.get(name) is not None]
        return tuple(record[name] for name in (*required, *given))


@contextlib.contextmanager
def line_writer(path: pathlib.Path) -> Iterator[Callable[[str], object]]:
    """Yields a function that adds a line to a file, which appears only once it is complete. A .gz is compressed."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with _replacing(path) as partial, opened(partial, "wt", encoding="utf-8", newline="\n") as file:
        yield lambda line: file.write(line + "\n")


@contextlib.contextmanager
def vector_writer(path: pathlib.Path, rows: int, size: int) -> Iterator[Callable[[np.ndarray], object]]:
    """Yields a function that adds a vector to a .npy file, float32 [rows, size], which appears once it is complete."""
    with _replacing(path) as partial, open(partial, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda vector: file.write(np.ascontiguousarray(vector, "<f4").tobytes())


def vector_line(vector: np.ndarray) -> str:
    """Returns a vector [size] as JSON; each number has the fewest digits that give back the same float32."""
    return f'{{"embedding": [{", ".join(map(str, vector))}]}}'


@contextlib.contextmanager
def _replacing(path):
    """Yields a path beside `path` that replaces it at the end; a failure leaves an older file as it was."""
    try:
        with files.atomic_path(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


def _named(fields):
    return " and ".join(f"`{field}`" for field in fields)
