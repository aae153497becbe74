"""The analytic count against XLA's own of the same forward pass."""

import types

import jax
import pytest

from bert_jax import model as model_lib
from bert_jax.training import flops


@pytest.mark.parametrize("slots", [5, 20])
def test_step_flops_against_the_compiler(config, slots):
    config.model.hidden_size, config.model.intermediate_size = 128, 512
    model = model_lib.build(config.model, 1000, next_sentence=True)
    shape = jax.ShapeDtypeStruct((4, 32), jax.numpy.int32)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), shape)
    batch["masked_positions"] = jax.ShapeDtypeStruct((4, slots), jax.numpy.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    counted = jax.jit(model.apply).lower(params, batch).compile().cost_analysis()["flops"]
    assert flops.step_flops(model.spec, 4, 32, slots) / 3 == pytest.approx(counted, rel=0.1)


def test_peaks():
    def peak(kind):
        return flops.peak_flops(types.SimpleNamespace(device_kind=kind))

    assert peak("NVIDIA H200") == peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("TPU v5 lite") == 197e12 and peak("TPU v5p") == 459e12
    assert peak("cpu") is None


def test_step_flops_by_hand(config):
    config.model.update(hidden_size=4, num_layers=2, num_heads=2, intermediate_size=6)
    spec = model_lib.build(config.model, 10, next_sentence=True).spec
    # Multiplications of a row of 3 tokens in one layer: four projections, up and down, scores and their values.
    layer = 4 * (3 * 4 * 4) + 2 * (3 * 4 * 6) + 2 * (3 * 3 * 4)
    heads = 2 * (4 * 4 + 4 * 10) + 4 * 4 + 4 * 2  # two slots' transform and decoder, pooler, pair
    assert flops.step_flops(spec, 5, 3, 2) == 3 * 2 * 5 * (2 * layer + heads)
