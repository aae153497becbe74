"""Every attention kernel gives what the reference gives, wherever padding stands and whatever a row holds."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from bert_jax.model import kernels
from bert_jax.model.kernels import Visibility

ROWS, HEADS = 2, 2


@pytest.fixture
def interpreted(monkeypatch):
    """The TPU kernels run on this machine."""
    compiled = pallas.pallas_call
    monkeypatch.setattr(pallas, "pallas_call", lambda *args, **kw: compiled(*args, **(kw | {"interpret": True})))


@pytest.fixture
def cudnn_by_xla(monkeypatch):
    """jax.nn's attention does in XLA what it is asked to do by cuDNN."""
    whole = jax.nn.dot_product_attention

    def attention(*args, implementation, **kw):
        assert implementation == "cudnn"
        return whole(*args, implementation="xla", **kw)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)


def make_visibility(kind, causal, rows, length, seed=0):
    random = np.random.default_rng(seed)
    if kind == "packed":
        ids = np.sort(random.integers(0, 5, (rows, length)))[:, ::-1]  # in order, padding (0) at the end
        return Visibility(jnp.asarray(ids != 0), jnp.asarray(np.where(ids, 5 - ids, 0), jnp.int32), causal)
    lengths = random.integers(length // 2, length, (rows, 1))
    present = {
        "whole": np.ones((rows, length)),
        "right": np.arange(length) < lengths,
        "left": np.arange(length) >= length - lengths,
        "anywhere": random.random((rows, length)) < 0.7,
    }[kind]
    return Visibility(jnp.asarray(present, bool), causal=causal)


def output_and_gradients(kernel, visibility, length, head_size, dtype=jnp.float32, rows=ROWS):
    """Of a loss that reads the tokens that are present."""
    drawn = jax.random.normal(jax.random.key(1), (4, rows, HEADS, length, head_size))
    *arrays, read = drawn.astype(dtype)
    there = visibility.present[:, None, :, None]

    def loss(query, key, value):
        found = jnp.where(there, kernels.attend(kernel, query, key, value, visibility), jnp.zeros((), dtype))
        return (found * read).astype(jnp.float32).sum(), found

    gradients, found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float32) for x in (found, *gradients)]


def assert_same(one, other, tolerance=2e-5):
    for name, a, b in zip(("output", "query", "key", "value"), one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(b).max(), err_msg=name)


@pytest.mark.parametrize("kernel", ["splash", "flash"])
@pytest.mark.parametrize(("kind", "causal"), [("anywhere", False), ("packed", False), ("packed", True), ("left", True)])
def test_tpu_kernels_agree_with_the_reference(interpreted, kernel, kind, causal):
    length = 256 if kind == "packed" else 128
    visibility = make_visibility(kind, causal, ROWS, length)
    one, other = (output_and_gradients(name, visibility, length, 16) for name in (kernel, "xla"))
    assert_same(one, other)


@pytest.mark.parametrize("causal", [False, True])
def test_splash_over_several_blocks_of_keys(interpreted, causal):
    visibility = make_visibility("packed", causal, 1, 1536)  # not one block: two kernels for the gradients
    one, other = (output_and_gradients(name, visibility, 1536, 8, rows=1) for name in ("splash", "xla"))
    assert_same(one, other)


def test_splash_in_bfloat16(interpreted):
    visibility = make_visibility("anywhere", False, ROWS, 128)
    one = output_and_gradients("splash", visibility, 128, 48, jnp.bfloat16)
    assert_same(one, output_and_gradients("xla", visibility, 128, 48), 0.03)
