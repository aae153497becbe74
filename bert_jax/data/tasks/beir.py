"""Reads retrieval tasks in BEIR's layout (Thakur et al. 2021): queries, a corpus, and which documents answer a query.

DIR/corpus.jsonl       {"_id": ..., "title": ..., "text": ...} a line
DIR/queries.jsonl      {"_id": ..., "text": ...} a line
DIR/qrels/SPLIT.tsv    query-id, corpus-id, score, with a header

Each file may be compressed (.gz).
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from bert_jax import files
from bert_jax.data.tasks import text_files
from bert_jax.errors import UserError, shortened


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Holds a retrieval task.

    Attributes:
      queries: text of each query.
      documents: text of each document, its title in front.
      relevance: for each query, grade by number of the document.
      same: for each query, the number of the document that is the query itself (`own_document`), which is left out of
        its ranking; -1 where there is none.
    """

    queries: list[str]
    documents: list[str]
    relevance: list[dict[int, float]]
    same: list[int]


def read(directory: str, key: str, split: str = "test") -> Retrieval:
    """Reads the queries of a split, and the whole corpus.

    Args:
      directory: directory in BEIR's layout.
      key: what names it, for messages.
      split: which file of qrels.

    Raises:
      UserError: a file is missing or damaged, or names a query or document that is not there.
    """
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        near = files.closest_path(folder, is_folder=True)
        raise UserError(
            f"{key}: {directory} is no folder; expected BEIR's corpus.jsonl, queries.jsonl and qrels/{near}"
        )
    corpus, queries = (_records(_file(folder, name, key)) for name in ("corpus.jsonl", "queries.jsonl"))
    numbers = {name: i for i, name in enumerate(corpus)}
    relevance = read_qrels(_file(folder, f"qrels/{split}.tsv", key), queries, numbers)
    documents = list(corpus.values())
    asked = [(query, queries[query], grades) for query, grades in relevance.items()]
    same = [own_document(text, numbers.get(query, -1), documents.__getitem__, grades) for query, text, grades in asked]
    return Retrieval([text for _, text, _ in asked], documents, list(relevance.values()), same)


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether a folder holds what BEIR's layout has: a corpus and queries."""
    files_of = ([pathlib.Path(path) / f"{name}.jsonl{end}" for end in ("", ".gz")] for name in ("corpus", "queries"))
    return all(any(map(pathlib.Path.is_file, names)) for names in files_of)


def held_out_split(path: str | os.PathLike) -> str:
    """Returns the split that models are chosen by: dev where there is one, else test."""
    names = (pathlib.Path(path) / "qrels" / f"dev.tsv{end}" for end in ("", ".gz"))
    return "dev" if any(name.is_file() for name in names) else "test"


def own_document(query: str, number: int, text_of: Callable[[int], str], grades: Container[int]) -> int:
    """Returns the number of a document of a query's id if it is the query itself and not judged, or -1.

    In some tasks of BEIR the queries are documents of the corpus; it leaves out every document of the query's id. In
    others, such as Cranfield, queries and documents are numbered alike, and mean nothing by it.

    Args:
      query: text of the query.
      number: number of the document of its id; -1 for none.
      text_of: returns the text of a document, perhaps behind its title.
      grades: the documents that are judged for the query.
    """
    if number < 0 or number in grades:
        return -1
    query, document = query.strip(), text_of(number).strip()
    return number if document == query or document.endswith(f" {query}") else -1


def same_note(same: Sequence[int]) -> str:
    """Returns a line about queries that are documents themselves; "" if there are none."""
    count = sum(number >= 0 for number in same)
    if not count:
        return ""
    return f"{count:,} of {len(same):,} queries are documents of the corpus, left out of their own rankings"


def read_qrels(
    path: str | os.PathLike,
    queries: Container[str],
    documents: Mapping[str, int],
    names: tuple[str, str] = ("queries.jsonl", "corpus.jsonl"),
) -> dict[str, dict[int, float]]:
    """Returns which documents answer a query: for each query, grade by number of the document.

    Args:
      path: a file of query-id, corpus-id and score, perhaps with a header, or trec's, with a column between the first
        two. Columns are separated by tabs, trec's four by any white space.
      queries: ids of the queries.
      documents: number of each document by its id.
      names: what messages call the queries and the documents.

    Raises:
      UserError: a line is none of these, or names a query or document that is not there; or there is no line.
    """
    relevance: dict[str, dict[int, float]] = {}
    with text_files.reporting(str(path)):
        for number, line in text_files.lines(str(path)):
            cells = line.rstrip("\r\n").split("\t")
            cells = line.split() if len(cells) == 1 and len(line.split()) == 4 else cells
            if not line.strip() or (number == 1 and not _is_number(cells[-1])):
                continue
            if len(cells) not in (3, 4) or not _is_number(cells[-1]):
                raise UserError(
                    f"{path} line {number}: found {line.strip()!r}; expected query-id, corpus-id and a score"
                )
            query, document = cells[0], cells[-2]  # trec's files have a column between
            if query not in queries:
                raise UserError(f"{path} line {number}: query {query!r} is not in {names[0]}")
            if document not in documents:
                raise UserError(f"{path} line {number}: document {document!r} is not in {names[1]}")
            grades, grade = relevance.setdefault(query, {}), float(cells[-1])
            if not math.isfinite(grade):
                raise UserError(f"{path} line {number}: score {cells[-1].strip()}; expected a finite number")
            if grades.setdefault(documents[document], grade) != grade:
                raise UserError(
                    f"{path} line {number}: query {query!r} and document {document!r} have the score {grade:g}, and "
                    f"{grades[documents[document]]:g} before; expected one"
                )
    if not relevance:
        raise UserError(f"{path}: no line; expected query-id, corpus-id and a score")
    return relevance


def titled(record: Mapping[str, Any], text: str, where: str) -> str:
    """Returns the text of a document behind its `title`, if it has one. Raises UserError if the title is no string."""
    title = record.get("title")
    if title is None or title != title:  # pandas writes NaN for what is not there
        return text
    if not isinstance(title, str):
        raise UserError(
            f"{where}: title: found {shortened(repr(title))}; expected a string, which stands before the text"
        )
    return f"{title} {text}".strip() if title.strip() else text


def id_text(value: Any, where: str) -> str:
    """Returns the id of a document or query as text. Raises UserError if it is neither a string nor a number."""
    value = files.jsonable(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: id: found {shortened(repr(value))}; expected a string or a number")
    return str(value)


def _file(folder, name, key):
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{key}: {folder} has no {name}; expected BEIR's corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv")


def _records(path):
    """Returns text by id; a title stands before the text, with a space between, as in BEIR."""
    texts: dict[str, str] = {}
    for number, line in text_files.lines(str(path)):
        if not line.strip():
            continue
        try:
            record = files.parse_object(line)
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}; expected an object with _id and text") from error
        name, text = record.get("_id"), record.get("text")
        if name is None or not isinstance(text, str):
            raise UserError(f"{path} line {number}: expected _id and text; found {', '.join(record)}")
        name = id_text(name, f"{path} line {number}")
        if name in texts:
            raise UserError(f"{path} line {number}: id {name!r} is that of an earlier line too; expected one of each")
        texts[name] = titled(record, text, f"{path} line {number}").strip()
    if not texts:
        raise UserError(f"{path}: no record; expected one object a line, with _id and text")
    return texts


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
