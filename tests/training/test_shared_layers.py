"""Layers that share parameters have them once, and still do after training."""

import jax
import numpy as np
import pytest

from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.training import step as step_lib
from tests.training.test_step import VOCAB, make_batch, make_config


@pytest.mark.more
def test_shared_layers_stay_one_after_100_steps():
    config = make_config()
    config.model.update(num_layers=3, layer_groups=1, pooler=False)
    config.objective.next_sentence = False
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    model = model_lib.build(config.model, VOCAB, next_sentence=False)
    state = step_lib.init_state(config, model, mesh, 100)
    before = jax.device_get(state["params"])
    train_step, key = step_lib.make_train_step(config, model, mesh, 100), step_lib.dropout_key(config)
    for step in range(100):
        state, _ = train_step(state, make_batch(), np.int32(step), key)
    params = jax.device_get(state["params"])
    assert list(params["encoder"]["layers"]) == ["0"]
    up = [tree["encoder"]["layers"]["0"]["mlp"]["up"]["kernel"] for tree in (params, before)]
    assert np.any(up[0] != up[1])

    # It computes what three layers of their own do that are all alike.
    apart = model_lib.build(config.model.to_dict() | {"layer_groups": 0}, VOCAB, next_sentence=False)
    layers = {str(i): params["encoder"]["layers"]["0"] for i in range(3)}
    copied = params | {"encoder": params["encoder"] | {"layers": layers}}
    shared, single = (jax.jit(m.apply)(p, make_batch())["mlm_logits"] for m, p in ((model, params), (apart, copied)))
    np.testing.assert_allclose(shared, single, atol=1e-5)
