"""Searches by int8 and binary copies of an index against plain numpy, and what is made, kept and refused."""

import json

import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.inference import quantization
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval import quantised
from bert_jax.retrieval.documents import scan
from tests.retrieval.conftest import DOCUMENTS, QUERIES, cosines

PAIRS = [(f"d{i}", text) for i, text in enumerate(DOCUMENTS)]


@pytest.fixture
def index(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    return index_lib.build(tmp_path / "index", "--index", embedder, PAIRS, scan(PAIRS, ""), "")


def opened(tmp_path, index, *options):
    return quantised.open_quantised(tmp_path / "index", "--index", index, quantised.Options(*options))


def ordered(scores, places, top_k):
    """Returns the best of some places of each query, and their scores."""
    places = np.sort(places, axis=1)
    scores = np.take_along_axis(scores, places, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("rescore", quantised.RESCORES)
@pytest.mark.parametrize("top_k", [2, 5, 100])
def test_bits_find_and_floats_order(embedder, index, tmp_path, rescore, top_k, monkeypatch):
    monkeypatch.setattr(quantised, "_SCORED", 300)
    queries, vectors = embedder.encode(QUERIES), np.asarray(index.vectors)
    differing = ((queries > 0)[:, None] != (vectors > 0)[None]).sum(-1)
    int8 = quantization.quantize(vectors, "int8")
    near = quantization.dequantized(int8, "int8", quantization.ranges_of(vectors))
    count = top_k if rescore == "none" else 3 * top_k
    places = np.argsort(differing, axis=1, kind="stable")[:, :count]
    scores = {"float32": cosines(queries, vectors), "int8": cosines(queries, near), "none": 1 - differing / 16}[rescore]
    expected, expected_scores = ordered(scores, places, top_k)
    found, found_scores = opened(tmp_path, index, "binary", rescore, 3).nearest(queries, top_k, "cosine")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found_scores, expected_scores, rtol=1e-9)


@pytest.mark.parametrize("rescore", ["float32", "none"])
def test_int8_finds_what_float32_does_nearly(embedder, index, tmp_path, rescore):
    queries, vectors = embedder.encode(QUERIES), np.asarray(index.vectors)
    near = quantization.dequantized(quantization.quantize(vectors, "int8"), "int8", quantization.ranges_of(vectors))
    approximate, exact = cosines(queries, near), cosines(queries, vectors)
    places = np.argsort(-approximate, axis=1, kind="stable")[:, : 10 if rescore == "float32" else 5]
    expected, scores = ordered(exact if rescore == "float32" else approximate, places, 5)
    found, found_scores = opened(tmp_path, index, "int8", rescore, 2).nearest(queries, 5, "cosine")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-9)
    best = index.nearest(queries, 5, "cosine")[0]
    assert np.mean([len({*ours} & {*theirs}) / 5 for ours, theirs in zip(found, best, strict=True)]) > 0.9


def test_copies_are_made_once_and_again_for_other_vectors(embedder, index, tmp_path, monkeypatch):
    folder, made = tmp_path / "index", []
    make = quantised._make
    monkeypatch.setattr(quantised, "_make", lambda *arguments: made.append(arguments[1]) or make(*arguments))
    opened(tmp_path, index, "binary", "int8")
    opened(tmp_path, index, "int8", "none")
    assert made == ["binary", "int8"]
    assert json.loads((folder / "index.json").read_text())["quantised"] == ["binary", "int8"]
    np.testing.assert_array_equal(np.load(folder / "binary.npy"), np.packbits(index.vectors > 0, axis=1))
    index_lib.build(folder, "--index", embedder, PAIRS, scan(PAIRS, ""), "")  # an index with copies is still one
    (folder / "int8.npy").write_bytes(b"noise")
    (folder / "binary.npy").unlink()
    opened(tmp_path, index, "binary", "int8")
    assert made == ["binary", "int8"] * 2
    for name in ("index.json", "vectors.npy"):
        (folder / name).unlink()
    (folder / "index.json").with_name("int8_ranges.npy").unlink()
    for name in ("int8.npy", "binary.npy"):
        (folder / name).unlink()
    other = index_lib.build(folder, "--index", embedder, PAIRS, scan(PAIRS, ""), "cd ")
    opened(tmp_path, other, "binary", "float32")
    np.testing.assert_array_equal(np.load(folder / "binary.npy"), np.packbits(other.vectors > 0, axis=1))


def test_damaged_copies_are_refused(embedder, index, tmp_path):
    queries = embedder.encode(QUERIES)
    by_bits, by_int8 = opened(tmp_path, index, "binary"), opened(tmp_path, index, "int8")
    vectors, codes = (np.load(tmp_path / "index" / name, mmap_mode="r+") for name in ("vectors.npy", "int8.npy"))
    codes[16:32] = 0
    with pytest.raises(UserError, match="--index: int8.npy is damaged: document d16 has nothing but zeros"):
        by_int8.nearest(queries, 5, "cosine")
    vectors[:] = np.nan
    with pytest.raises(UserError, match="--index: vectors.npy is damaged: a vector is not finite"):
        by_bits.nearest(queries, 5, "cosine")


def test_other_codes_than_were_written_are_noticed(embedder, index, tmp_path):
    queries = embedder.encode(QUERIES)
    for precision in ("int8", "binary"):
        opened(tmp_path, index, precision).nearest(queries, 5, "cosine")
        codes = np.load(tmp_path / "index" / f"{precision}.npy", mmap_mode="r+")
        codes[17, 0] ^= 1
        codes.flush()
        with pytest.raises(UserError, match=rf"--index: {precision}.npy is damaged: it has other bytes .* d16 to d31"):
            opened(tmp_path, index, precision).nearest(queries, 5, "cosine")


def test_options_that_do_not_go_together():
    for options, message in (
        (("uint8",), "--precision=uint8: search knows float32, int8, binary"),
        (("int8", "int8"), "--rescore=int8: --precision=int8 has these scores already"),
        (("binary", "float32", 0), "--rescore_multiplier=0: expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            quantised.check(quantised.Options(*options))
