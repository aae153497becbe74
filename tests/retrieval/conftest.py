"""A tiny embedder, a corpus and queries, and the nearest documents by plain numpy in float64."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.data.vocabularies import hugging_face
from bert_jax.model import Task
from tests.compiled_programs import programs_in
from tests.inference.conftest import VOCABULARY, make_model, texts

DOCUMENTS = [f"ab {text}" for text in texts(45, seed=1, most=9)]
QUERIES = texts(6, seed=2, most=6)


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    """Programs compiled once for all tests."""
    with programs_in(programs):
        yield


@pytest.fixture(scope="session")
def tokenizer():
    return hugging_face.wordpiece(VOCABULARY, True, "test")


def make_reranker(tokenizer):
    """Returns a tiny cross-encoder whose scores are its logits."""
    head, settings = Task("sequence_classification", 1), {"activation": "Identity"}
    return make_model(tokenizer, head, ("score",), problem="regression", settings=settings)


@pytest.fixture(scope="module")
def reranker(tokenizer):
    return bert_jax.Reranker(make_reranker(tokenizer))


@pytest.fixture(scope="module")
def embedder(tokenizer):
    return bert_jax.Embedder(make_model(tokenizer))


def write_lines(path, rows):
    """Writes rows as JSON Lines, and returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_beir(folder, qrels):
    """Writes a retrieval task in BEIR's layout: documents d0, ..., queries q0, ..., and lines of judgements."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": t} for i, t in enumerate(DOCUMENTS)])
    write_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(QUERIES)])
    lines = "".join("\t".join(map(str, line)) + "\n" for line in qrels)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def cosines(first, second):
    """Returns the cosines of all pairs of vectors, float64 [n, m]."""
    first, second = (np.asarray(vectors, np.float64) for vectors in (first, second))
    first, second = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (first, second))
    return (first[:, None] * second[None]).sum(-1)
