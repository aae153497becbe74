"""Tests that the GPU kernels give what float64 gives, with the bits of dropout that plain XLA has, and compile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import sharding
from bert_jax.model import kernels
from bert_jax.model.kernels import AttentionMask
from bert_jax.model.positions import apply_rotary, rotary_angles
from bert_jax.model.tile_attention import tile_attention
from tests.model import unit_kernels
from tests.model.test_kernels import (
    assert_trees_agree,
    interpreted,  # noqa: F401
    logits_and_gradient,
    make_batch,
)
from tests.model.unit_kernels import FAMILIES, MESHES, draw, losses, make_model


@pytest.mark.parametrize(
    ("sequence", "heads", "kv_heads", "size", "kind", "causal", "window", "rotary", "rate"),
    [
        (128, 2, 2, 64, "anywhere", False, None, False, 0.1),
        (77, 6, 2, 16, "packed", False, None, True, 0.2),  # three query heads for each of keys; rows that are filled up
        pytest.param(192, 2, 2, 128, "left", True, None, True, 0.1, marks=pytest.mark.more),
        (200, 2, 1, 32, "right", False, 40, True, 0.3),  # tiles that the window leaves out
        pytest.param(160, 1, 1, 16, "whole", True, 32, False, 0.0, marks=pytest.mark.more),
        pytest.param(640, 3, 1, 32, "packed", True, 100, True, 0.5, marks=pytest.mark.full),
        pytest.param(300, 2, 2, 64, "anywhere", False, 300, True, 0.1, marks=pytest.mark.full),
    ],
)
def test_outputs_and_gradients(interpreted, sequence, heads, kv_heads, size, kind, causal, window, rotary, rate):  # noqa: F811
    arguments = sequence, heads, kv_heads, size, kind, causal, window, rotary, rate
    unit_kernels.assert_gives_what_float64_gives(tile_attention, *arguments)


def test_a_part_of_a_batch_drops_what_the_whole_does(interpreted):  # noqa: F811
    unit_kernels.assert_a_part_drops_what_the_whole_does(tile_attention, 64, 32)


def test_bfloat16(interpreted):  # noqa: F811
    unit_kernels.assert_bfloat16_is_near_to_float64(tile_attention)


def test_rotary_positions_are_those_of_the_other_kernels(interpreted):  # noqa: F811
    query, key, value, _ = map(jnp.asarray, draw(1, 64, 2, 2, 16))
    rotation = rotary_angles(jnp.arange(64)[None], 16, 100.0)
    mask = AttentionMask(jnp.ones((1, 64), bool))
    heads = [x.reshape(1, 64, 2, 16).swapaxes(1, 2) for x in (query, key, value)]
    expected = kernels.xla(apply_rotary(heads[0], rotation), apply_rotary(heads[1], rotation), heads[2], mask)
    ours = tile_attention(query, key, value, mask, 16, rotation)
    np.testing.assert_allclose(ours, expected.swapaxes(1, 2).reshape(1, 64, 32), atol=3e-6)


@pytest.mark.full
@pytest.mark.parametrize(("family", "axes", "changes"), [(family, *mesh) for family in FAMILIES for mesh in MESHES])
def test_a_model_is_the_same_on_every_mesh(interpreted, family, axes, changes):  # noqa: F811
    switches = {"hidden_size": 64, **FAMILIES[family]}  # heads of 16
    by_tiles = make_model("cuda", attention_kernel="tile", **(switches | changes))
    batch = make_batch(rows=4, length=256, packed=True)
    mesh = sharding.make_mesh(axes, jax.devices()[: axes["data"] * axes["fsdp"] * axes["tensor"]])
    expected = logits_and_gradient(make_model("cpu", **switches), batch)
    assert_trees_agree(logits_and_gradient(by_tiles, batch, mesh), expected)


@pytest.mark.full
@pytest.mark.parametrize("i", range(len(MESHES)))
def test_twenty_steps_have_the_losses_of_plain_xla(interpreted, i):  # noqa: F811
    """With dropout: on one device by XLA, and by the kernel on meshes, with what layers keep computed again."""
    axes, changes = MESHES[i]
    expected = losses("cpu", {"data": 1, "fsdp": 1, "tensor": 1}, hidden_size=64)
    assert len(set(expected)) == 20 and np.isfinite(expected).all()
    ours = losses("cuda", axes, hidden_size=64, attention_kernel="tile", **changes)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.full
def test_several_seeds_side_by_side(interpreted):  # noqa: F811
    batch = make_batch(rows=2, length=256)
    kernel = {"cuda": "tile", "cpu": "xla"}
    one, other = (
        logits_and_gradient(make_model(platform, hidden_size=64, attention_kernel=kernel[platform]), batch, seeds=2)
        for platform in kernel
    )
    assert_trees_agree(one, other)


def lowered(dtype=jnp.bfloat16, heads=4, kv_heads=4, size=64, window=None, causal=False, rate=0.1):
    """Returns a forward and backward pass, lowered for GPUs."""

    def step(query, key, value, read, segments, seed):
        mask = AttentionMask(segments != 0, segments, window=window, causal=causal)
        rotation = rotary_angles(jnp.arange(500)[None], size, 10000.0)
        run = lambda *x: tile_attention(*x, mask, size, rotation, rate, seed)  # noqa: E731
        output, pull_back = jax.vjp(run, query, key, value)
        return output, pull_back(read)

    wide, narrow = (jax.ShapeDtypeStruct((2, 500, count * size), dtype) for count in (heads, kv_heads))
    places = jax.ShapeDtypeStruct((2, 500), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.jit(step).trace(wide, narrow, narrow, wide, *places).lower(lowering_platforms=("cuda",))


SHAPES = {
    "bert": {},
    "without dropout": {"rate": 0.0},
    "modernbert": {"heads": 12, "kv_heads": 12, "window": 64},
    "grouped": {"heads": 12, "kv_heads": 4, "size": 32},
    "large heads": {"heads": 4, "kv_heads": 1, "size": 128, "causal": True},
    "float32": {"dtype": jnp.float32},
}


@pytest.mark.parametrize("name", SHAPES)
def test_lowering_for_gpus(name):
    program = lowered(**SHAPES[name]).as_text()
    for kernel in ("tile_attention", "tile_attention_queries", "tile_attention_keys"):
        assert f'name = "{kernel}"' in program
    assert program.count("xla.gpu.triton") == 3


@pytest.mark.triton
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("name", SHAPES)
def test_triton_compiles_the_kernels(tmp_path, name, architecture):
    """Into machine code, as XLA has it done on a GPU; all but a few of a thread's numbers stay in registers."""
    from tests.model import triton_compiler

    compiled = triton_compiler.compiled(lowered(**SHAPES[name]), architecture, tmp_path)
    assert set(compiled) == {"tile_attention", "tile_attention_queries", "tile_attention_keys"}
    shape = SHAPES[name]
    is_usual = shape.get("size", 64) <= 64 and "dtype" not in shape
    for kernel, facts in compiled.items():
        assert facts.shared_bytes <= 163 << 10, kernel  # what an A100 has, and the others have more
        assert facts.spilled_bytes <= (64 if is_usual else 512), kernel  # of a kibibyte in registers
