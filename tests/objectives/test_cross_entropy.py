"""The vocabulary's cross-entropy in chunks: equal to all at once, in less memory, without moving rows."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import sharding
from bert_jax.model.heads import decode
from bert_jax.model.layers import add_bias
from bert_jax.objectives.cross_entropy import chunked_cross_entropy, chunks_of, token_cross_entropy

ROWS, SLOTS, HIDDEN, VOCABULARY = 8, 9, 8, 50


def inputs(rows=ROWS, slots=SLOTS, vocabulary=VOCABULARY, dtype=np.float32):
    random = np.random.default_rng(0)
    features = random.normal(size=(rows, slots, HIDDEN)).astype(dtype)
    embedding = random.normal(size=(vocabulary, HIDDEN)).astype(np.float32)
    bias = random.normal(size=vocabulary).astype(np.float32)
    labels = random.integers(0, vocabulary, (rows, slots)).astype(np.int32)
    labels[0] = (features[0].astype(np.float32) @ embedding.T + bias).argmax(-1)  # some that are right
    weights = random.integers(0, 3, (rows, slots)).astype(np.float32)
    return (features, embedding, bias), (labels, weights)


def at_once(features, embedding, bias, labels, weights, _=0):
    losses, behind = token_cross_entropy(add_bias(decode(features, embedding), bias), labels)
    return (losses * weights).sum(), ((behind == 0).astype(jnp.float32) * weights).sum()


def gradients(function, chunk, mesh=None):
    """A jitted function of (learned, targets) to ((loss, correct), gradients), of a loss scaled by 0.25."""

    def run(learned, targets):
        def loss(learned):
            total, correct = function(*learned, *targets, chunk)
            return 0.25 * total, (total, correct)

        gradient, sums = jax.grad(loss, has_aux=True)(learned)
        return sums, gradient

    if mesh is None:
        return jax.jit(run)

    def on_mesh(learned, targets):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return run(learned, targets)

    rows, table = sharding.batch_sharding(mesh), NamedSharding(mesh, P("tensor", "fsdp"))
    learned = rows, table, NamedSharding(mesh, P("tensor"))
    everywhere = sharding.replicated(mesh)
    return jax.jit(on_mesh, in_shardings=(learned, (rows, rows)), out_shardings=((everywhere, everywhere), learned))


@functools.cache
def reference():
    return jax.device_get(gradients(at_once, 0)(*inputs()))


def assert_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), jax.device_get(actual), expected)


@pytest.mark.parametrize("chunk", [1, 7, 24, ROWS * SLOTS - 1])
def test_chunks_change_nothing(chunk):
    assert_same(gradients(chunked_cross_entropy, chunk)(*inputs()), reference())
    (learned, targets) = inputs()
    assert_same(jax.jit(chunked_cross_entropy, static_argnums=5)(*learned, *targets, chunk), reference()[0])


def largest(text, *dimensions):
    """The most elements in front of `dimensions` that any array of a compiled program has."""
    shapes = re.findall(rf"\w+\[((?:\d+,)*){','.join(map(str, dimensions))}\]", text)
    return max((int(np.prod([int(size) for size in sizes.split(",") if size])) for sizes in shapes), default=0)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_shards_take_chunks_of_their_own_rows(sizes):
    """No row travels, each device holds few logits, and the parts of the gradients meet behind the loop."""
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)))
    rows, tensor = mesh.size // sizes[2], sizes[2]
    compiled = gradients(chunked_cross_entropy, 3, mesh).lower(*inputs()).compile()
    assert_same(compiled(*inputs()), reference())
    text = compiled.as_text()
    assert 0 < largest(text, VOCABULARY // tensor) <= max(3, rows * HIDDEN)
    assert not re.findall(rf"all-gather[^=]*= f32\[[\d,]*{SLOTS},{HIDDEN}\]", text)
    assert not re.search(r"all-to-all|collective-permute", text)
    for loop in re.findall(r"\n%?[\w.]*body[^\n]*\{\n(.*?)\n\}", text, re.DOTALL):
        moved = re.findall(r"= f32\[([\d,]*)\]\S* all-(?:reduce|gather)\(", loop)
        assert all(int(np.prod([int(size) for size in shape.split(",")])) <= 3 for shape in moved), moved


def test_the_embedding_gradient_is_summed_in_float32():
    """Over chunks too: in bfloat16 the sum of a thousand equal parts would stop growing at a few hundred."""
    features, weights = jnp.ones((1, 4096, HIDDEN), jnp.bfloat16), jnp.ones((1, 4096))
    embedding, labels = jnp.zeros((4, HIDDEN)), jnp.zeros((1, 4096), jnp.int32)
    for function, chunk in ((chunked_cross_entropy, 4), (at_once, 0)):
        _, (by_features, by_embedding, _) = gradients(function, chunk)(
            (features, embedding, jnp.zeros(4)), (labels, weights)
        )
        assert by_embedding.dtype == jnp.float32 and by_features.dtype == jnp.bfloat16
        np.testing.assert_allclose(by_embedding[:, 0], 0.25 * 4096 * np.array([-0.75, 0.25, 0.25, 0.25]), rtol=1e-6)


def test_bfloat16_agrees_with_float32():
    learned, targets = inputs(dtype=jnp.bfloat16)
    exact = gradients(at_once, 0)((learned[0].astype(np.float32), *learned[1:]), targets)
    for function, chunk in ((chunked_cross_entropy, 5), (at_once, 0)):
        sums, gradient = gradients(function, chunk)(learned, targets)
        assert sums[0].dtype == jnp.float32
        np.testing.assert_allclose(sums[0], exact[0][0], rtol=2e-3)
        for one, other in zip(gradient, exact[1], strict=True):
            np.testing.assert_allclose(one.astype(np.float32), other, atol=0.02 * np.abs(other).max())


def test_less_memory_for_more_chunks():
    rows, slots, vocabulary = 8, 64, 4096
    learned, targets = inputs(rows, slots, vocabulary)
    spent = {
        chunk: gradients(chunked_cross_entropy if chunk else at_once, chunk)
        .lower(learned, targets)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for chunk in (0, 128, 16)
    }
    logits = 4 * rows * slots * vocabulary
    assert spent[0] > logits and spent[128] < logits * 0.8 and spent[16] < logits * 0.25, spent


def test_chunks_are_of_one_size():
    assert chunks_of(8, 9, 0) == (1, 1, 72) == chunks_of(8, 9, 100)
    assert chunks_of(8, 9, 71) == (1, 2, 36)
    assert chunks_of(8, 9, 1) == (1, 72, 1)
    with jax.sharding.use_abstract_mesh(sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}).abstract_mesh):
        assert chunks_of(8, 9, 7) == (4, 3, 6) and chunks_of(8, 9, 18) == (4, 1, 18)
