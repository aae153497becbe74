"""Searches a corpus on disk for queries: embeds it, ranks its documents, reranks the first, scores the rankings."""

import dataclasses
import os
import sys
from collections.abc import Callable

from bert_jax import files, interruption, outputs, progress
from bert_jax.data.tasks import beir, ranking
from bert_jax.errors import UserError
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorEmbedder, MultiVectorReranker
from bert_jax.inference.rerank import Reranker
from bert_jax.inference.sparse import SparseEmbedder
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval import quantised, ranked
from bert_jax.retrieval.documents import Documents, scan


@dataclasses.dataclass(frozen=True)
class Request:
    """Says what is searched for what; the fields are the flags of `predict search`, which say more.

    Attributes:
      corpus, queries: files, or folders in BEIR's layout.
      output: file of the rankings; "": standard output, or none where rankings are scored.
      index: folder of the vectors; "": CORPUS.index.
      qrels: file of judgements; "": the folder's own, or none.
      text_column, query_column, id_column: columns; "": the usual ones.
      query_prompt, document_prompt: texts put before each; None: the model's own.
      top_k: documents of each query that are written.
      rerank_top: documents of each query that are reranked.
      precision: how the vectors are compared.
    """

    corpus: str
    queries: str
    output: str = ""
    index: str = ""
    qrels: str = ""
    text_column: str = ""
    query_column: str = ""
    id_column: str = ""
    query_prompt: str | None = None
    document_prompt: str | None = None
    top_k: int = 10
    rerank_top: int = 100
    precision: quantised.Options = quantised.Options()


def run(
    request: Request,
    open_embedder: Callable[[], Embedder | MultiVectorEmbedder | SparseEmbedder],
    open_reranker: Callable[[], Reranker | MultiVectorReranker] | None = None,
) -> None:
    """Writes the rankings of a request, and prints their scores where it is known which documents answer a query.

    Args:
      request: what is searched.
      open_embedder, open_reranker: open the models, once the files are known to be right; None: nothing is reranked.

    Raises:
      UserError: a file, column, model or index does not fit.
    """
    if request.output:
        ranked.kind_of(request.output)
        outputs.check_file("output", request.output)
        _check_not_read(request)
    folder = request.index or f"{os.path.normpath(request.corpus)}.index"
    index_lib.check_folder(folder, f"--index={folder}")
    documents = Documents(request.corpus, "corpus", request.text_column, request.id_column)
    contents = scan(documents, f"--corpus={request.corpus}")
    columns = request.query_column, request.id_column
    queries = ranked.read_queries(request.queries, contents.ids, request.qrels, *columns, documents)
    for note in filter(None, (*documents.notes, beir.same_note(queries.same))):
        print(f"note: {note}", file=sys.stderr)
    embedder = open_embedder()
    if note := head_note(embedder):
        print(f"note: {note}", file=sys.stderr)
    reranker = open_reranker() if open_reranker else None
    index = None
    if isinstance(embedder, Embedder):
        index = _opened_index(request, folder, embedder, documents, contents)
    else:
        _check_without_index(request, embedder)
    depth = max(request.top_k, request.rerank_top if reranker else 0, ranking.DEPTH if queries.relevance else 0)
    before = None  # the rankings that are reranked
    with progress.bar(len(queries.ids), "query") as bar:
        done = (lambda count: None) if reranker else bar.update
        if not isinstance(embedder, Embedder):
            prompts = request.query_prompt, request.document_prompt
            rankings = ranked.rank_anew(embedder, documents, queries, depth, *prompts, done)
        else:
            assert index is not None
            prompt = embedder.prompt_for("query") if request.query_prompt is None else request.query_prompt
            rankings = ranked.rank(embedder, index, queries, depth, prompt, done)
        if reranker:
            before = rankings = list(rankings) if queries.relevance else rankings
            rankings = ranked.rerank(reranker, documents, queries, rankings, request.rerank_top, bar.update)
        if not queries.relevance:
            ranked.write(request.output or files.STANDARD, rankings, queries, contents.ids, request.top_k)
            return
        rankings = list(rankings)
    if request.output:
        ranked.write(request.output, rankings, queries, contents.ids, request.top_k)
    scores = {"": ranked.score(rankings, queries)}
    if isinstance(before, list):
        scores = {"search": ranked.score(before, queries), "reranked": scores[""]}
    _print_scores(scores, sys.stderr if files.is_stream(request.output or "x") else sys.stdout)


def head_note(embedder: Embedder | MultiVectorEmbedder | SparseEmbedder) -> str:
    """Returns a line about a model that was fine-tuned for something else than comparing vectors; "" for others."""
    task = embedder.model.model.spec.task
    if task is None or "pooling" in embedder.model.settings:
        return ""
    return (
        f"{embedder.model.name} was fine-tuned for {task.name.replace('_', ' ')}, not to compare vectors: their "
        "neighbours and scores may mean little; expected an embedder"
    )


def _check_without_index(request, embedder):
    """Raises UserError for what the search of a model whose vectors of documents are not kept does not have."""
    holds = "weights of the vocabulary's tokens" if isinstance(embedder, SparseEmbedder) else "a vector for each token"
    name = f"{embedder.model.name} has {holds}"
    if request.index:
        raise UserError(
            f"--index={request.index}: {name} of a text, which are not kept; expected no --index, as the corpus is "
            "embedded anew"
        )
    if request.precision.precision != "float32":
        raise UserError(f"--precision={request.precision.precision}: {name} of a text; expected float32")


def _check_not_read(request):
    """Raises UserError for an output that is one of the files that are read."""
    for flag, path in (("corpus", request.corpus), ("queries", request.queries), ("qrels", request.qrels)):
        names = ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "queries.jsonl.gz", "qrels/test.tsv")
        for name in (path, *(os.path.join(path, name) for name in names)):
            if os.path.isfile(name) and os.path.exists(request.output) and os.path.samefile(name, request.output):
                raise UserError(f"--output={request.output}: is --{flag} itself; expected another file")


def _opened_index(request, folder, embedder, documents, contents):
    """Returns the index of the corpus, made or continued."""
    prompt = embedder.prompt_for("document") if request.document_prompt is None else request.document_prompt
    name = f"--index={folder}"
    with (
        interruption.end_message(f"{name}: ended; the same command continues it"),
        progress.bar(len(contents.ids), "document") as bar,
    ):
        index = index_lib.build(folder, name, embedder, documents, contents, prompt, bar.update)
        if request.precision.precision == "float32":
            return index
        return quantised.open_quantised(folder, name, index, request.precision)


def _print_scores(scores, stream):
    """Prints a column of ranking.METRICS for each name."""
    if len(scores) > 1:
        print(f"  {'':<14}{''.join(f'{name:<10}' for name in scores)}".rstrip(), file=stream)
    for metric in ranking.METRICS:
        values = "".join(f"{column[metric]:<10.4f}" for column in scores.values())
        print(f"  {metric:<14}{values}".rstrip(), file=stream)
