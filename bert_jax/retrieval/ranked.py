"""Finds the documents of a corpus that are nearest to queries, reranks them, and writes and scores these rankings."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from bert_jax import files
from bert_jax.data.tasks import beir, ranking
from bert_jax.errors import UserError
from bert_jax.inference import records
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorEmbedder, MultiVectorReranker
from bert_jax.inference.rerank import Reranker
from bert_jax.inference.sparse import SparseEmbedder
from bert_jax.retrieval.documents import Documents, is_beir, scan
from bert_jax.retrieval.index import Index
from bert_jax.retrieval.quantised import QuantisedIndex

KINDS = ("jsonl", "tsv", "trec")
_QUERIES = 4096  # queries that are ranked together: the vectors are read once for each so many
_RERANKED = 512  # queries that are reranked together: the texts of the corpus are read once for each so many


@dataclasses.dataclass(frozen=True)
class Queries:
    """Holds queries, and perhaps which documents answer them.

    Attributes:
      ids, texts: id and text of each query.
      relevance: for each query, grade by number of the document, {} for one without judgements; () where there are
        none at all.
      same: for each query, the number of the document that is the query itself (beir.own_document), which is left out
        of its ranking, or -1; () where none is left out.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    relevance: Sequence[Mapping[int, float]] = ()
    same: Sequence[int] = ()


def read_queries(
    path: str | os.PathLike,
    ids: Sequence[str],
    qrels: str,
    column: str,
    id_column: str,
    corpus: Iterable[tuple[str, str]] = (),
) -> Queries:
    """Reads queries, and which documents answer them.

    Args:
      path: a file, or a folder in BEIR's layout, of which the queries with judgements alone are read, if there are any.
      ids: ids of the documents.
      qrels: the file of judgements; "": that of the folder (qrels/test.tsv), or none.
      column, id_column: see `Documents`.
      corpus: pairs of id and text of the documents, read where queries of BEIR's layout have ids of documents.

    Raises:
      UserError: there is no query, one is empty, two have the same id, or the judgements name an unknown one.
    """
    documents = Documents(path, "queries", column, id_column)
    texts = {}
    for number, (key, text) in enumerate(documents):
        if not text.strip():
            raise UserError(f"{documents.where(number)}: empty; expected the text of a query")
        texts.setdefault(key, text)
    scan(documents, f"--queries={path}")
    folder_file = next(filter(pathlib.Path.is_file, _qrels_of(path)), None) if is_beir(path) else None
    judged = qrels or folder_file
    if not judged:
        return Queries(tuple(texts), tuple(texts.values()))
    if qrels and not os.path.exists(qrels):
        near = files.closest_path(qrels, is_folder=False)
        raise UserError(f"--qrels={qrels}: no such file; expected a .tsv of query-id, corpus-id, score{near}")
    numbers = {key: number for number, key in enumerate(ids)}
    relevance = beir.read_qrels(judged, texts, numbers, ("--queries", "--corpus"))
    if not is_beir(path):
        return Queries(tuple(texts), tuple(texts.values()), tuple(relevance.get(key, {}) for key in texts))
    shared = {numbers[key] for key in relevance if key in numbers}
    own_texts = _texts_at(corpus, shared) if shared else {}
    same = tuple(
        beir.own_document(texts[key], numbers.get(key, -1), own_texts.__getitem__, grades)
        for key, grades in relevance.items()
    )
    return Queries(tuple(relevance), tuple(texts[key] for key in relevance), tuple(relevance.values()), same)


def rank(
    embedder: Embedder,
    index: Index | QuantisedIndex,
    queries: Queries,
    depth: int,
    prompt: str,
    done: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the nearest documents of each query, in order: their numbers, int64 [k], and scores, float64 [k].

    Args:
      embedder: the model that made the index.
      index: the vectors of the corpus.
      queries: the queries.
      depth: how many documents are wanted; all, where there are fewer.
      prompt: text put before each query.
      done: called with the number of newly ranked queries.
    """
    excluded = queries.same or [-1] * len(queries.texts)
    for first in range(0, len(queries.texts), _QUERIES):
        texts = [(text,) for text in queries.texts[first : first + _QUERIES]]
        names = queries.ids[first : first + _QUERIES]
        vectors = np.stack(list(embedder.stream(texts, lambda i, names=names: f"query {names[i]}", prompt=prompt)))
        spare = int(any(number >= 0 for number in excluded[first : first + _QUERIES]))
        places, scores = index.nearest(vectors, depth + spare, embedder.similarity_kind)
        for row, row_scores, own in zip(places, scores, excluded[first:], strict=False):
            kept = row != own
            yield row[kept][:depth], row_scores[kept][:depth]
        done(len(texts))


def rank_anew(
    embedder: MultiVectorEmbedder | SparseEmbedder,
    documents: Iterable[tuple[str, str]],
    queries: Queries,
    depth: int,
    query_prompt: str | None,
    document_prompt: str | None,
    done: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the nearest documents of each query without an index: numbers, int64 [k], and scores, float64 [k].

    All documents are embedded for it, and their vectors are not kept: late interaction, and sparse vectors.

    Args:
      embedder: the model.
      documents: pairs of id and text of the corpus, which are iterated once.
      queries: the queries, whose vectors are held meanwhile.
      depth: how many documents are wanted; all, where there are fewer.
      query_prompt, document_prompt: texts put before queries and documents; None: the model's own.
      done: called with the number of newly ranked queries.
    """
    texts, names = [(text,) for text in queries.texts], queries.ids
    excluded = queries.same or [-1] * len(texts)
    wanted = depth + int(any(number >= 0 for number in excluded))
    if isinstance(embedder, MultiVectorEmbedder):
        vectors = list(embedder.stream(texts, lambda i: f"query {names[i]}", is_query=True, prompt=query_prompt))
        places, scores = embedder.rank(vectors, documents, wanted, prompt=document_prompt)
    else:
        query_prompt = embedder.prompt_for("query") if query_prompt is None else query_prompt
        matrix = embedder.matrix(embedder.stream(texts, lambda i: f"query {names[i]}", prompt=query_prompt))
        places, scores = embedder.rank(matrix, documents, wanted, prompt=document_prompt)
    for row, row_scores, own in zip(places, scores, excluded, strict=True):
        kept = row != own
        yield row[kept][:depth], row_scores[kept][:depth]
        done(1)


def rerank(
    reranker: Reranker | MultiVectorReranker,
    documents: Iterable[tuple[str, str]],
    queries: Queries,
    rankings: Iterable[tuple[np.ndarray, np.ndarray]],
    depth: int,
    done: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the first documents of each ranking in the order that a cross-encoder gives them, with its scores.

    Args:
      reranker: the model.
      documents: pairs of id and text of the corpus, which are iterated once for some hundred queries; the texts of
        documents that are reranked are held meanwhile.
      queries: the queries.
      rankings: for each query the numbers of documents, int64 [k], and their scores, float64 [k]; see `rank`.
      depth: how many documents of a ranking are reranked; the others are left out.
      done: called with the number of newly reranked queries.

    Yields:
      numbers, int64 [k], and scores, float64 [k], where k is `depth` or, where they are fewer, all; equal scores stay
      in the order of the ranking.

    Raises:
      UserError: a score is not finite, or the corpus is not what it was.
    """
    of_query = zip(queries.ids, queries.texts, (places[:depth] for places, _ in rankings), strict=True)
    while block := list(itertools.islice(of_query, _RERANKED)):
        texts = _texts_at(documents, {place for _, _, places in block for place in places.tolist()})
        pairs = [(query, texts[place]) for _, query, places in block for place in places.tolist()]
        names = [f"query {key}, document {place}" for key, _, places in block for place in places.tolist()]
        answers = reranker.stream(pairs, names.__getitem__, allow_empty=True)
        for key, _, places in block:
            scores = np.array([answer["score"] for answer in itertools.islice(answers, len(places))], np.float64)
            if not np.isfinite(scores).all():
                raise UserError(f"--rerank: a score of query {key} is not finite; expected numbers (--dtype=float32?)")
            order = np.argsort(-scores, kind="stable")
            yield places[order], scores[order]
            done(1)


def kind_of(output: str | os.PathLike) -> str:
    """Returns the format of a file of rankings by its name, one of KINDS; JSONL for "-".

    Raises:
      UserError: the ending is none of theirs.
    """
    if files.is_stream(output):
        return "jsonl"
    ending = pathlib.Path(os.fspath(output).lower().removesuffix(".gz")).suffix.removeprefix(".")
    kind = {"run": "trec"}.get(ending, ending)
    if kind not in KINDS:
        raise UserError(f"--output={output}: unknown kind of file; expected .jsonl, .tsv or .trec, which may be .gz")
    return kind


def write(
    output: str | os.PathLike,
    rankings: Iterable[tuple[np.ndarray, np.ndarray]],
    queries: Queries,
    ids: Sequence[str],
    top_k: int,
    tag: str = "bert_jax",
) -> None:
    """Writes the first documents of rankings, a line each, to a file that appears once it is whole; "-" prints them.

    Args:
      output: the file; its ending says the format: .jsonl, .tsv (with a header) or .trec.
      rankings: for each query the numbers of documents, int64 [k], and their scores, float64 [k]; see `rank`.
      queries: the queries.
      ids: ids of the documents.
      top_k: documents of each query that are written.
      tag: name of the run in trec's format.

    Raises:
      UserError: the file cannot be written, or the format cannot hold an id.
    """
    kind = kind_of(output)
    if kind == "trec":
        for name in itertools.chain(queries.ids, ids):
            if not name or any(character.isspace() for character in name):
                raise UserError(
                    f"--output={output}: id {name!r} is empty or holds a space, which stands between trec's columns; "
                    "expected .jsonl or .tsv"
                )
    with records.line_writer(output) as put:
        if kind == "tsv":
            put("query-id\tdocument-id\trank\tscore")
        for query, (places, scores) in zip(queries.ids, rankings, strict=True):
            pairs = zip(places[:top_k].tolist(), scores[:top_k].tolist(), strict=True)
            for number, (place, score) in enumerate(pairs, 1):
                if kind == "jsonl":
                    line = {"query": query, "document": ids[place], "rank": number, "score": score}
                    put(files.json_line(files.jsonable(line)))
                elif kind == "tsv":
                    put(f"{query}\t{ids[place]}\t{number}\t{score}")
                else:
                    put(f"{query} Q0 {ids[place]} {number} {score} {tag}")


def score(rankings: Sequence[tuple[np.ndarray, np.ndarray]], queries: Queries) -> dict[str, float]:
    """Returns ranking.METRICS of rankings that are ranking.DEPTH documents deep, or hold the whole corpus.

    Args:
      rankings: for each query the numbers of documents, int64 [k], and their scores, float64 [k]; see `rank`.
      queries: the queries, with `relevance`.
    """
    ranked = np.full((len(rankings), ranking.DEPTH), -1, np.int64)
    for row, (places, _) in zip(ranked, rankings, strict=True):
        row[: len(places)] = places[: ranking.DEPTH]
    return ranking.score(ranked, queries.relevance)


def _texts_at(documents, numbers):
    """Returns the texts of documents of some numbers, by number, reading the corpus once."""
    texts = {number: text for number, (_, text) in enumerate(documents) if number in numbers}
    if len(texts) < len(numbers):
        raise UserError("--corpus: has changed while it was read; expected a file at rest")
    return texts


def _qrels_of(folder):
    return (pathlib.Path(folder) / "qrels" / name for name in ("test.tsv", "test.tsv.gz"))
