"""The files of `python -m bert_jax.predict`: examples read line by line, answers written beside the target."""

import contextlib
import gzip
import pathlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.inference.predictor import Example, check_texts, shortened

_KINDS = {".txt": "text", ".txt.gz": "text", ".jsonl": "jsonl", ".jsonl.gz": "jsonl"}


class Records:
    """The examples of a file, one a line: .txt or .jsonl, each may be .gz. Can be iterated again and again.

    Args:
      path: the file.
      fields: of an object of JSONL. A .txt has room for one text alone.
      optional: how many of the last fields may be missing.

    Raises:
      UserError: here, no such file or one of another kind; while iterating, a line that cannot be read, is not what
        was expected or is empty, by file and line number.
    """

    def __init__(self, path: pathlib.Path, fields: tuple[str, ...], optional: int = 0):
        kind = next((kind for ending, kind in _KINDS.items() if path.name.endswith(ending)), None)
        if kind is None:
            raise UserError(f"--input={path}: unknown kind of file; expected a name in {', '.join(_KINDS)}")
        if not path.is_file():
            found = "not a file" if path.exists() else "no such file"
            raise UserError(f"--input={path}: {found}; expected texts, in a name in {', '.join(_KINDS)}")
        if kind == "text" and len(fields) - optional > 1:
            raise UserError(f"--input={path}: one text a line; expected .jsonl with {_named(fields)}")
        self.path, self._kind, self._fields, self._required = path, kind, fields, len(fields) - optional

    def where(self, index: int) -> str:
        """How the example of an index, from 0, is called."""
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
        """Bytes of each line, without its end and without a byte-order mark."""
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
def line_writer(path: pathlib.Path) -> Iterator[Callable[[str], None]]:
    """A function that adds a line to a file that appears, whole, at the end. A .gz is compressed."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with _replacing(path) as partial, opened(partial, "wt", encoding="utf-8", newline="\n") as file:
        yield lambda line: file.write(line + "\n")


@contextlib.contextmanager
def vector_writer(path: pathlib.Path, rows: int, size: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a vector to a .npy of float32 [rows, size] that appears, whole, at the end."""
    with _replacing(path) as partial, open(partial, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda vector: file.write(np.ascontiguousarray(vector, "<f4").tobytes())


def vector_line(vector: np.ndarray) -> str:
    """A vector as JSON, its numbers with the fewest digits that give back the same float32."""
    return f'{{"embedding": [{", ".join(map(str, vector))}]}}'


@contextlib.contextmanager
def _replacing(path):
    """A path beside `path` to write to, which replaces it in the end; a failure leaves what was there."""
    try:
        with files.atomic_path(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


def _named(fields):
    return " and ".join(f"`{field}`" for field in fields)
