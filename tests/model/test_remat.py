"""Tests that every remat policy gives the same loss and gradient and keeps less memory."""

import functools

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.config.keys import MODEL
from bert_jax.model.stack import REMAT

ROWS, LENGTH = 4, 16


def loss_of(remat, scan_layers):
    config = config_lib.base().model
    config.update(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_positions=LENGTH)
    config.update(remat=remat, scan_layers=scan_layers, hidden_dropout=0.2, attention_dropout=0.2)
    model = model_lib.build(config, 32)
    random = np.random.default_rng(0)
    batch = {
        "input_ids": random.integers(0, 32, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": (np.arange(LENGTH) < random.integers(8, 17, (ROWS, 1))).astype(np.int32),
        "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
    }
    return model, lambda params: model.apply(params, batch, dropout_key=jax.random.key(3))["mlm_logits"].std()


@functools.cache
def loss_and_gradient(remat, scan_layers):
    model, loss = loss_of(remat, scan_layers)
    return jax.device_get(jax.jit(jax.value_and_grad(loss))(jax.jit(model.init)(jax.random.key(0))))


def kept(remat, scan_layers=True):
    """Returns the bytes kept between the forward and the backward pass."""
    model, loss = loss_of(remat, scan_layers)
    params = jax.eval_shape(model.init, jax.random.key(0))
    pullback = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [("full", True)]
    + [
        pytest.param(name, scan_layers, marks=pytest.mark.full)
        for name, scan_layers in (("dots", True), ("dots_no_batch", True), ("attention", True), ("full", False))
    ],
)
def test_every_policy_gives_the_same_loss_and_gradient(remat, scan_layers):
    (loss, gradient), (expected, expected_gradient) = (loss_and_gradient(name, scan_layers) for name in (remat, "none"))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max() + 1e-9),
        gradient,
        expected_gradient,
    )


def test_policies_keep_less_one_after_the_other():
    sizes = {name: kept(name) for name in REMAT}
    assert sizes["none"] > sizes["dots"] > sizes["dots_no_batch"] > sizes["full"], sizes
    assert sizes["none"] > sizes["attention"] > sizes["full"], sizes


def test_recipes_know_the_policies():
    assert set(MODEL["remat"].choices) == set(REMAT)
