"""Norms by layer: against automatic ones, and the same however the step is run."""

import jax
import numpy as np
import optax
import pytest

from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.training import norms as norms_lib
from bert_jax.training import step as step_lib
from tests.training.test_step import VOCAB, initial_state, make_batch, make_config


def run(config, mesh_sizes):
    sizes = dict(zip(sharding.AXES, mesh_sizes, strict=True))
    mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(mesh_sizes)])
    model = model_lib.build(config.model, VOCAB)
    params = initial_state(VOCAB)["params"]
    params = step_lib.restored(jax.device_put(params, sharding.tree_shardings(params, mesh)), model, mesh)
    norms = norms_lib.make_norms(config, model, mesh)
    return jax.device_get(norms(params, make_batch(), np.int32(3), step_lib.dropout_key(config)))


@pytest.fixture(scope="module")
def expected():
    """By jax.grad of the loss and the model's own hidden states."""
    config, batch = make_config(), make_batch()
    model, params = model_lib.build(config.model, VOCAB), initial_state(VOCAB)["params"]
    objective = objective_lib.make(config, model)
    counts = objective.counts(batch)

    @jax.jit
    def of(params):
        return objective.mean_loss(objective.sums(params, batch), counts)

    gradient = jax.device_get(jax.grad(of)(params))
    hidden = jax.device_get(jax.jit(lambda p: model.apply(p, batch, hidden_states=True)["hidden_states"])(params))
    present = batch["attention_mask"] != 0
    heads = {name: part for name, part in gradient.items() if name != "encoder"}
    layers = gradient["encoder"]["layers"]
    parts = {"embeddings": gradient["encoder"]["embeddings"], "layers/0": layers["0"], "layers/1": layers["1"]}
    norms = {f"grad_norm/{name}": float(optax.tree.norm(part)) for name, part in (parts | {"heads": heads}).items()}
    for i, name in enumerate(parts):
        norms[f"activation_norm/{name}"] = float(np.sqrt(np.square(hidden[i][present]).mean()))
    return norms, float(optax.tree.norm(gradient))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("mesh_sizes", "microbatches", "scan_layers", "chunk"), [((1, 1, 1), 1, False, 0), ((2, 2, 2), 2, True, 5)]
)
def test_norms_against_the_definitions(expected, mesh_sizes, microbatches, scan_layers, chunk):
    norms = run(make_config(0.0, microbatches, scan_layers, logits_chunk=chunk), mesh_sizes)
    parts, whole = expected
    assert list(norms) == sorted(parts)
    for name, value in parts.items():
        np.testing.assert_allclose(norms[name], value, rtol=2e-5, err_msg=name)
    squares = sum(value**2 for name, value in norms.items() if name.startswith("grad_norm/"))
    np.testing.assert_allclose(np.sqrt(squares), whole, rtol=2e-5)
