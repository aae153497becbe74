"""Vectors in fewer bits: codes, the ranges of dimensions, and the nearest codes against plain numpy."""

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import quantization, search
from tests.inference.conftest import make_model, texts


def vectors_of(seed, count=200, size=20):
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def test_int8_divides_the_range_of_each_dimension():
    vectors = vectors_of(0) * np.arange(1, 21, dtype=np.float32)
    vectors[:, 3] = 0.5  # a constant
    ranges = quantization.ranges_of(vectors)
    codes = bert_jax.quantize(vectors, "uint8")
    assert codes.dtype == np.uint8 and codes[:, 3].tolist() == [0] * 200
    assert (codes.min(0)[[0, 19]] == 0).all() and (codes.max(0)[[0, 19]] == 255).all()
    np.testing.assert_array_equal(bert_jax.quantize(vectors, "int8").astype(int), codes.astype(int) - 128)
    back = quantization.dequantized(bert_jax.quantize(vectors, "int8"), "int8", ranges)
    step = (ranges[1] - ranges[0]) / 255
    assert (np.abs(back - vectors) <= np.where(step == 0, 0.5, 0.501 * step) + 1e-6).all()
    outside = bert_jax.quantize(3 * vectors, "int8", ranges=ranges)  # takes the nearest end
    assert outside.min() == -128 and outside.max() == 127
    alone = bert_jax.quantize(vectors[:1], "int8", calibration=vectors)
    np.testing.assert_array_equal(alone.astype(int), codes[:1].astype(int) - 128)


def test_bits_say_what_is_above_zero():
    vectors = vectors_of(1, size=13)
    vectors[0] = 0.0
    bits = bert_jax.quantize(vectors, "ubinary")
    assert bits.shape == (200, 2) and bits.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1)[:, :13], vectors > 0)
    signed = bert_jax.quantize(vectors, "binary")
    np.testing.assert_array_equal(signed.astype(int), bits.astype(int) - 128)
    assert bert_jax.quantize(vectors[0], "binary").tolist() == [-128, -128]


@pytest.mark.parametrize("precision", quantization.PRECISIONS)
def test_a_stream_gives_the_codes_of_the_array(precision, monkeypatch):
    monkeypatch.setattr(quantization, "_AT_ONCE", 7)
    vectors = vectors_of(2, 30)
    for ranges in (None, quantization.ranges_of(vectors_of(3))):
        codes = np.stack(list(quantization.stream(iter(vectors), precision, 20, ranges)))
        expected = bert_jax.quantize(vectors, precision, ranges)
        np.testing.assert_array_equal(codes, expected)
        assert codes.dtype == expected.dtype == quantization.code_dtype(precision)
        assert codes.shape[1] == quantization.code_size(precision, 20)
    assert bert_jax.quantize(vectors[:0], precision).shape == (0, codes.shape[1])


@pytest.mark.parametrize("size", [5, 32, 77])
def test_nearest_codes_are_those_of_numpy(size, monkeypatch):
    monkeypatch.setattr(quantization, "_QUERIES", 4)
    queries, corpus = vectors_of(4, 7, size), vectors_of(5, 300, size)
    asked, codes = bert_jax.quantize(queries, "ubinary"), bert_jax.quantize(corpus, "ubinary")
    distances = ((queries > 0)[:, None] != (corpus > 0)[None]).sum(-1)
    order = np.argsort(distances, axis=1, kind="stable")
    for top_k in (1, 10, 1000):
        blocks = (codes[i : i + 90] for i in range(0, 300, 90))
        places, differing = quantization.nearest(asked, blocks, top_k)
        np.testing.assert_array_equal(places, order[:, :top_k])
        np.testing.assert_array_equal(differing, np.take_along_axis(distances, order, 1)[:, :top_k])
    assert quantization.nearest(asked, [], 3)[0].shape == (7, 0)


def test_an_embedder_gives_codes(tokenizer):
    embedder, both = bert_jax.Embedder(make_model(tokenizer)), texts(9, seed=7)
    vectors = embedder.encode(both)
    for precision in quantization.PRECISIONS:
        np.testing.assert_array_equal(embedder.encode(both, precision=precision), bert_jax.quantize(vectors, precision))
    alone = embedder.encode(both[0], precision="int8", calibration=vectors)
    np.testing.assert_allclose(alone, bert_jax.quantize(vectors, "int8")[0], atol=1)
    with pytest.raises(UserError, match="precision=int8: one vector has no ranges; expected calibration"):
        embedder.encode(both[0], precision="int8")


def test_mistakes():
    vectors = vectors_of(6)
    for arguments, message in (
        ((vectors, "int4"), "precision: found 'int4'; expected float32, int8, uint8, binary, ubinary"),
        ((vectors.astype(np.int8), "int8"), "vectors: found int8; expected floats"),
        ((vectors, "int8", np.zeros((2, 3))), r"ranges: found float64 \[2, 3\]; expected numbers \[2, 20\]"),
        ((vectors, "int8", np.ones((2, 20)) * [[1], [0]]), "ranges: expected finite numbers, the lowest of each"),
        ((vectors, "int8", None, vectors[:0]), "calibration: found no vector"),
        ((vectors * np.nan, "binary"), "vectors: vector 0 is not finite"),
    ):
        with pytest.raises(UserError, match=message):
            bert_jax.quantize(*arguments)
    with pytest.raises(UserError, match="text 2: its vector is not finite"):
        list(quantization.stream([vectors[0], vectors[1] * np.inf], "binary", 20))
    with pytest.raises(UserError, match="--precision=int8: one text has no ranges"):
        list(quantization.stream([vectors[0]], "int8", 20))


def test_ranges_of_a_file(tmp_path):
    np.save(tmp_path / "vectors.npy", vectors_of(7))
    np.testing.assert_array_equal(
        quantization.read_ranges(str(tmp_path / "vectors.npy")), quantization.ranges_of(vectors_of(7))
    )
    np.save(tmp_path / "codes.npy", np.zeros((3, 2), np.int8))
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "noise.npy").write_bytes(b"noise")
    for name, message in (
        ("absent.npy", "absent.npy: No such file or directory; expected .npy of vectors"),
        ("noise.npy", "noise.npy: no array"),
        ("codes.npy", r"found int8 \[3, 2\]; expected vectors of floats \[n, size\]"),
        ("several.npz", "found NpzFile; expected vectors"),
    ):
        with pytest.raises(UserError, match=message):
            quantization.read_ranges(str(tmp_path / name))


def test_recall_of_codes():
    """Neighbours by codes are nearly those by floats, for vectors of length 1 around 40 centres."""
    rng = np.random.default_rng(8)
    centres = rng.standard_normal((40, 128))
    corpus = (centres[rng.integers(0, 40, 3000)] + 0.7 * rng.standard_normal((3000, 128))).astype(np.float32)
    queries = corpus[:50] + 0.2 * rng.standard_normal((50, 128)).astype(np.float32)
    *_, (exact, _) = search.nearest(queries, [corpus], 10, "cosine")

    def recall(places):
        pairs = zip(places.tolist(), exact.tolist(), strict=True)
        return np.mean([len({*ours} & {*theirs}) / 10 for ours, theirs in pairs])

    codes = bert_jax.quantize(corpus, "int8")
    near = quantization.dequantized(codes, "int8", quantization.ranges_of(corpus))
    *_, (places, _) = search.nearest(queries, [near], 10, "cosine")
    bits = bert_jax.quantize(corpus, "ubinary")
    alone, _ = quantization.nearest(bert_jax.quantize(queries, "ubinary"), [bits], 10)
    four_times, _ = quantization.nearest(bert_jax.quantize(queries, "ubinary"), [bits], 40)
    assert recall(places) > 0.97 and 0.3 < recall(alone) < 0.6 and recall(four_times) > 0.8


@pytest.mark.parametrize("kind", search.SIMILARITIES)
def test_nearest_int8_codes_are_those_of_what_they_stand_for(kind, monkeypatch):
    monkeypatch.setattr(quantization, "_QUERIES", 4)
    queries, corpus = vectors_of(9, 7), vectors_of(10, 300)
    codes, ranges = bert_jax.quantize(corpus, "int8"), quantization.ranges_of(corpus)
    near = quantization.dequantized(codes, "int8", ranges)
    *_, (expected, _) = search.nearest(queries, [near], 300, kind)
    for top_k in (1, 10, 1000):
        blocks = (codes[i : i + 90] for i in range(0, 300, 90))
        places, _ = quantization.nearest_int8(queries, blocks, ranges, top_k, kind)
        np.testing.assert_array_equal(places, expected[:, :top_k])
