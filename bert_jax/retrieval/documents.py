"""Reads the documents of a corpus, and queries, with their ids."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bert_jax.data.tasks import beir
from bert_jax.errors import UserError, shortened
from bert_jax.inference.records import Records

IDS = ("_id", "id")  # columns of ids, where none is named


class Documents:
    """Iterates over (id, text) of the documents of a corpus, or of queries; may be iterated repeatedly.

    An id is the record's `_id` or `id`, else its place in the file, from 0. The text of a document begins with its
    `title`, where it has one, as in BEIR (Thakur et al. 2021).

    Args:
      path: a .txt, .jsonl, .csv, .tsv or .parquet file, as `Records` reads it, or a directory in BEIR's layout.
      flag: the flag that names it, "corpus" or "queries", for messages. It says which file of a directory is read, and
        only a corpus has titles.
      column: column of the text; "": `text`.
      id_column: column of the ids; "": one of IDS, or none.

    Raises:
      UserError: in the constructor, if there is no such file or its kind is unknown; while iterating, if a record
        cannot be read.
    """

    def __init__(self, path: str | os.PathLike, flag: str, column: str = "", id_column: str = ""):
        self._flag, self._id_column, self._has_titles = flag, id_column, flag == "corpus"
        columns = {"text": column} if column else None
        self._records = Records(
            _file_of(path, flag), ("text",), columns=columns, flag=flag, has_columns=bool(id_column)
        )
        self._path = str(path)

    @property
    def notes(self) -> list[str]:
        """Returns lines for the user about what the last whole pass skipped or found empty."""
        return self._records.notes

    @property
    def nothing_read(self) -> str:
        """Returns the end of a message about a file in which a whole pass found no document."""
        return self._records.nothing_read

    def where(self, number: int) -> str:
        """Returns the place of the document of a number, from 0, for messages: file and line."""
        return self._records.where(number)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        examples = iter(self._records)
        for number, record in enumerate(self._records.rows()):
            example = next(examples, None)
            if example is None:
                break
            yield self._id(record, number), self._text(record, example[0], number)
        for _ in examples:  # so that what follows the last one happens
            pass

    def _id(self, record: Mapping, number: int) -> str:
        names = (self._id_column,) if self._id_column else IDS
        value: Any = next((record[name] for name in names if record.get(name) not in (None, "")), None)
        if value is None and self._id_column:
            raise UserError(
                f"{self.where(number)}: no {self._id_column!r}; found {', '.join(record) or 'a text'}; expected an id "
                "(--id_column)"
            )
        name = beir.id_text(number if value is None else value, self.where(number))
        if any(end in name for end in "\t\n\r"):
            raise UserError(f"{self.where(number)}: id {shortened(name)!r}: holds a tab or a line end; expected none")
        return name

    def _text(self, record, text, number):
        return beir.titled(record, text, self.where(number)) if self._has_titles else text


@dataclasses.dataclass(frozen=True)
class Contents:
    """Lists the documents of a corpus.

    Attributes:
      ids: id of each document, in order.
      digest: a hash of ids and texts.
    """

    ids: Sequence[str]
    digest: str


def scan(documents: Iterable[tuple[str, str]], name: str) -> Contents:
    """Returns the ids and the digest of documents, reading all of them once.

    Args:
      documents: pairs of id and text.
      name: what the user calls them, such as "--corpus=FILE", for messages.

    Raises:
      UserError: there is none, or two have the same id.
    """
    digest, ids = hashlib.blake2b(digest_size=16), {}
    for number, (key, text) in enumerate(documents):
        if key in ids:
            raise UserError(
                f"{name}: id {key!r} of record {ids[key] + 1} and of record {number + 1}; expected each once"
            )
        ids[key] = number
        digest.update(json.dumps([key, text]).encode())
    if not ids:
        raise UserError(f"{name}: {getattr(documents, 'nothing_read', 'empty; expected one text or more')}")
    return Contents(tuple(ids), digest.hexdigest())


def is_beir(path: str | os.PathLike) -> bool:
    """Returns whether a path is a folder, which is then read as a retrieval task in BEIR's layout."""
    return pathlib.Path(path).is_dir()


def _file_of(path, flag):
    """Returns the file to read: the path itself, or of a directory in BEIR's layout its corpus or queries."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        return path
    for name in (f"{flag}.jsonl", f"{flag}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"--{flag}={path}: a folder without {flag}.jsonl; expected a file, or a folder in BEIR's layout")
