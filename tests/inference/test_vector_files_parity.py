"""Indexes that `predict embed` writes, opened and searched by FAISS."""

import dataclasses

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference.vector_files import Storage
from bert_jax.interop import huggingface
from tests.commands import run_lines
from tests.inference import conftest as tiny

pytestmark = pytest.mark.parity
TEXTS = tiny.texts(40, seed=3, most=9)


@pytest.fixture(scope="module")
def model():
    return tiny.make_model(tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test"))


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_faiss_finds_what_search_finds(model, kind, tmp_path):
    import faiss

    embedder = bert_jax.Embedder(dataclasses.replace(model, settings={"similarity": kind}))
    storage = Storage(str(tmp_path / "texts.faiss"), "faiss")
    storage.check(embedder)
    storage.write(embedder, storage.stored(embedder, embedder.stream([(text,) for text in TEXTS])), len(TEXTS))
    index = faiss.read_index(str(tmp_path / "texts.faiss"))
    assert index.ntotal == len(TEXTS)
    queries = embedder.encode(TEXTS[:5])
    if kind == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores, places = index.search(queries, 3)
    for i, hits in enumerate(embedder.search(TEXTS[:5], TEXTS, top_k=3)):
        expected = [hit["score"] for hit in hits]
        signed = {"euclidean": -np.sqrt(np.maximum(scores[i], 0)), "manhattan": -scores[i]}.get(kind, scores[i])
        np.testing.assert_allclose(signed, expected, atol=2e-3)
        assert expected[0] > expected[1] or places[i, 0] == hits[0]["index"]


def test_by_the_command(model, tmp_path):
    import faiss

    huggingface.write(model, tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    embed = ["embed", f"--model={tmp_path}/model", f"--input={tmp_path}/texts.txt"]
    lines = {
        "floats": [*embed, f"--output={tmp_path}/floats.faiss"],
        "bits": [*embed, f"--output={tmp_path}/bits.faiss", "--precision=ubinary"],
        "int8": [*embed, f"--output={tmp_path}/int8.faiss", "--precision=int8"],
        "fill": ["fill-mask", *embed[1:], f"--output={tmp_path}/masks.faiss"],
    }
    done = run_lines("predict", lines, "module.run()")
    assert {name: parts[0] for name, parts in done.items()} == {"floats": 0, "bits": 0, "int8": 2, "fill": 2}, done
    assert "not in an index of FAISS; expected float32 or ubinary" in done["int8"][2]
    assert "only embed writes .faiss" in done["fill"][2]
    embedder = bert_jax.Embedder(tmp_path / "model")
    vectors = embedder.encode(TEXTS)
    index = faiss.read_index(str(tmp_path / "floats.faiss"))
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index.reconstruct_n(0, len(TEXTS)), expected, atol=1e-5)
    bits = faiss.read_index_binary(str(tmp_path / "bits.faiss"))
    distances, places = bits.search(bert_jax.quantize(vectors, "ubinary"), 1)
    assert (distances == 0).all() and bits.ntotal == len(places) == len(TEXTS)


def test_bits_come_by_eights(model):
    embedder = bert_jax.Embedder(dataclasses.replace(model, settings={"truncate_dim": 12}))
    with pytest.raises(UserError, match="an index of FAISS has bits by eights; found vectors of 12"):
        Storage("x.faiss", "faiss", "ubinary").check(embedder)
