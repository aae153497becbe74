"""Compiler options by kind of device, version of libtpu and mesh, and a step that needs one to compile."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.training import compiler
from bert_jax.training import step as step_lib

DOT_DOT, WINDOWED = "xla_tpu_dot_dot_fusion", "xla_jf_spmd_threshold_for_windowed_einsum_mib"


@pytest.mark.parametrize(
    ("kind", "libtpu", "devices", "expected"),
    [
        ("TPU v6 lite", "0.0.42.1", 1, {DOT_DOT}),
        ("TPU v6 lite", "0.0.42.1", 4, {DOT_DOT, WINDOWED}),
        ("TPU v6 lite", "0.0.43.2", 1, set()),
        ("TPU v6 lite", "0.1", 2, {WINDOWED}),
        ("TPU v5 lite", "0.0.42.1", 1, set()),
        ("TPU v5 lite", "0.0.42.1", 2, {WINDOWED}),
        ("cpu", "0.0.42.1", 8, set()),
        ("NVIDIA H200", "0.0.42.1", 8, set()),
    ],
)
def test_each_option_where_it_is_needed(kind, libtpu, devices, expected):
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(device_kind=kind)] * devices), size=devices)
    assert {option.name for option in compiler.needed(mesh, libtpu)} == expected


def test_a_cpu_needs_none():
    mesh = Mesh(np.array(jax.devices()).reshape(1, -1, 1), ("data", "fsdp", "tensor"))
    assert compiler.options_for(mesh) is None and compiler.lines(mesh) == []


@pytest.mark.full
@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_step_that_computes_attention_with_dropout_again_compiles_for_v6e(tpu_devices, fsdp):
    """libtpu 0.0.42.1 ends in a segmentation fault without the option."""
    config = config_lib.base()
    config.model.update(hidden_size=256, num_layers=2, num_heads=4, intermediate_size=512, max_positions=128)
    config.model.update(scan_layers=True, remat="dots_no_batch", attention_kernel="xla")
    mesh = sharding.make_mesh({"data": 4 // fsdp, "fsdp": fsdp, "tensor": 1}, tpu_devices("v6e:2x2"))
    names = {option.name for option in compiler.needed(mesh, "0.0.42.1")}
    assert names == {DOT_DOT, WINDOWED}
    model = model_lib.build(config.model, 64, platform="tpu")

    def described(*shape, dtype=np.int32):
        spec = P(("data", "fsdp")) if shape else P()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    batch = {name: described(16, 128) for name in ("input_ids", "attention_mask", "token_type_ids")}
    batch |= {name: described(16, 20) for name in ("masked_positions", "masked_labels")}
    batch |= {"masked_weights": described(16, 20, dtype=np.float32), "next_sentence_label": described(16)}
    key = jax.eval_shape(lambda: step_lib.dropout_key(config))
    whole = described(), described(dtype=key.dtype)
    train_step = step_lib.make_train_step(config, model, mesh, 10)
    compiled = train_step.lower(step_lib.abstract_state(config, model, mesh, 10), batch, *whole).compile()
    memory = compiled.memory_analysis()  # whose temporaries may all lie in the chip's own memory
    assert memory.peak_memory_in_bytes > memory.argument_size_in_bytes > 0
