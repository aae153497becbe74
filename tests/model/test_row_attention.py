"""Tests that the kernel of whole rows gives what float64 gives, with the bits of dropout that plain XLA has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import sharding
from bert_jax.model import kernels
from bert_jax.model.dropout import dropout
from bert_jax.model.kernels import AttentionMask
from bert_jax.model.positions import apply_rotary, rotary_angles
from bert_jax.model.row_attention import row_attention
from tests.model import unit_kernels
from tests.model.test_kernels import (
    assert_trees_agree,
    interpreted,  # noqa: F401
    logits_and_gradient,
    make_batch,
    make_mask,
)
from tests.model.unit_kernels import FAMILIES, MESHES, SEED, draw, losses, make_model


@pytest.mark.parametrize(
    ("sequence", "heads", "kv_heads", "size", "kind", "causal", "window", "rotary", "rate"),
    [
        (128, 2, 2, 64, "anywhere", False, None, False, 0.1),
        # grouped heads in one program
        pytest.param(256, 4, 2, 64, "packed", True, None, True, 0.1, marks=pytest.mark.more),
        # all heads in one program; a window in one block
        pytest.param(384, 3, 3, 32, "left", False, 100, False, 0.3, marks=pytest.mark.more),
        (1280, 1, 1, 8, "right", True, 200, False, 0.0),  # several blocks, each with the keys near to it
        (77, 2, 1, 16, "packed", False, None, True, 0.2),  # rows that are filled up
        pytest.param(1280, 2, 1, 16, "packed", False, 40, True, 0.2, marks=pytest.mark.full),
        pytest.param(640, 2, 2, 24, "whole", True, None, True, 0.5, marks=pytest.mark.full),
        pytest.param(300, 2, 2, 64, "anywhere", False, 30, True, 0.1, marks=pytest.mark.full),
    ],
)
def test_outputs_and_gradients(interpreted, sequence, heads, kv_heads, size, kind, causal, window, rotary, rate):  # noqa: F811
    arguments = sequence, heads, kv_heads, size, kind, causal, window, rotary, rate
    unit_kernels.assert_gives_what_float64_gives(row_attention, *arguments)


@pytest.mark.parametrize(
    ("sequence", "heads", "kv_heads", "size", "window", "rotary"),
    [
        (512, 4, 4, 64, None, False),
        (300, 6, 2, 32, None, True),  # rows that are filled up; grouped heads
        (1280, 2, 1, 64, 40, True),  # blocks with the keys near to them
        (4096, 2, 2, 64, None, True),  # blocks of a few queries with all keys
    ],
)
def test_a_kernel_says_what_it_multiplies(sequence, heads, kv_heads, size, window, rotary):
    """A plan reads it, as a compiled program does not show the products inside a kernel."""
    query, key, value, _ = (
        jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in draw(3, sequence, heads, kv_heads, size)
    )
    rotation = rotary_angles(jnp.arange(sequence)[None], size, 100.0) if rotary else None
    mask = AttentionMask(jnp.ones((3, sequence), bool), window=window)

    def gradients(query, key, value):
        def total(*arrays):
            return row_attention(*arrays, mask, size, rotation, 0.1, jnp.asarray(SEED)).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    counted = unit_kernels.kernel_products(gradients, query, key, value)
    assert counted == unit_kernels.kernel_estimates(gradients, query, key, value)
    assert set(counted) == {"row_attention", "row_attention_backward"}
    if sequence == 512:
        pair = 2 * 3 * heads * sequence**2 * size
        assert counted == {"row_attention": 2 * pair, "row_attention_backward": 5 * pair}


def test_a_part_of_a_batch_drops_what_the_whole_does(interpreted):  # noqa: F811
    unit_kernels.assert_a_part_drops_what_the_whole_does(row_attention, 128, 64)


def test_bfloat16(interpreted):  # noqa: F811
    unit_kernels.assert_bfloat16_is_near_to_float64(row_attention)


@pytest.mark.more
def test_windows_of_plain_xla_drop_the_same_weights():
    """`windowed_attention`, which scores blocks, has the bits of all pairs."""
    random = jax.random.normal(jax.random.key(0), (3, 2, 2, 300, 8))
    mask = dataclasses.replace(make_mask("packed", False, 2, 300), window=20)
    rows = jnp.concatenate([jnp.asarray(SEED), jnp.array([5, 2], jnp.uint32)])
    for seed in (jnp.asarray(SEED), rows):
        weights = dropout(kernels.attention_weights(*random[:2], mask), 0.3, seed)
        expected = jnp.einsum("bnqk,bnkd->bnqd", weights, random[2])
        one = kernels.windowed_attention(*random, mask, 0.3, seed)
        there = mask.present[:, None, :, None]
        np.testing.assert_allclose(jnp.where(there, one, 0), jnp.where(there, expected, 0), atol=2e-6)


@pytest.mark.full
@pytest.mark.parametrize(("family", "axes", "changes"), [(family, *mesh) for family in FAMILIES for mesh in MESHES])
def test_a_model_is_the_same_on_every_mesh(interpreted, family, axes, changes):  # noqa: F811
    if axes["tensor"] > 1 and family == "windows":
        changes = {**changes, "num_kv_heads": 1}
    switches = FAMILIES[family] | {key: value for key, value in changes.items() if key == "num_kv_heads"}
    by_rows = make_model("tpu", attention_kernel="row", **(switches | changes))
    batch = make_batch(rows=4, length=256, packed=True)
    devices = jax.devices()[: axes["data"] * axes["fsdp"] * axes["tensor"]]
    mesh = sharding.make_mesh(axes, devices)
    expected = logits_and_gradient(make_model("cpu", **switches), batch)
    assert_trees_agree(logits_and_gradient(by_rows, batch, mesh), expected)


@pytest.mark.full
@pytest.mark.parametrize("i", range(len(MESHES)))
def test_twenty_steps_have_the_losses_of_plain_xla(interpreted, i):  # noqa: F811
    """With dropout: on one device by XLA, and by the kernel on meshes, with what layers keep computed again."""
    axes, changes = MESHES[i]

    expected = losses("cpu", {"data": 1, "fsdp": 1, "tensor": 1})
    assert len(set(expected)) == 20 and np.isfinite(expected).all()
    np.testing.assert_allclose(losses("tpu", axes, attention_kernel="row", **changes), expected, rtol=1e-5)


@pytest.mark.full
def test_several_seeds_side_by_side(interpreted):  # noqa: F811
    batch = make_batch(rows=2, length=256)
    one, other = (
        logits_and_gradient(make_model(platform), batch, seeds=2) for platform in ("tpu", "cpu")
    )  # fmt: skip
    assert_trees_agree(one, other)


OTHER_TOPOLOGIES = ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2")


@pytest.mark.full
@pytest.mark.parametrize("topology", ["v5e:2x2", *OTHER_TOPOLOGIES])
def test_the_kernels_compile_for_a_pod(tpu_devices, topology):
    """Forward and backward, with dropout, rotary positions, grouped heads and a window, on a mesh."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, tpu_devices(topology)[:4])

    def described(shape, dtype=jnp.bfloat16):
        spec = P(("data", "fsdp"), None, "tensor") if len(shape) == 3 else P(("data", "fsdp"))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def step(query, key, value, read, segments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            mask = AttentionMask(segments != 0, segments, window=100)
            rotation = rotary_angles(jnp.arange(512)[None], 64, 10000.0)
            run = lambda *x: row_attention(*x, mask, 64, rotation, 0.1, jnp.asarray(SEED))  # noqa: E731
            output, pull_back = jax.vjp(run, query, key, value)
            return output, pull_back(read)

    wide, narrow = described((2, 512, 512)), described((2, 512, 256))
    lowered = jax.jit(step).lower(wide, narrow, narrow, wide, described((2, 512), jnp.int32))
    program = lowered.compile().as_text()
    assert "row_attention_backward" in program and "all-gather" not in program


def test_rotary_positions_are_those_of_the_other_kernels(interpreted):  # noqa: F811
    """To the bit where nothing else differs: one token sees itself alone, and then its neighbour's value."""
    query, key, value, _ = draw(1, 128, 2, 2, 16)
    rotation = rotary_angles(jnp.arange(128)[None], 16, 100.0)
    mask = AttentionMask(jnp.ones((1, 128), bool))

    def heads(x):
        return jnp.asarray(x).reshape(1, 128, 2, 16).swapaxes(1, 2)

    turned = [apply_rotary(heads(x), rotation) for x in (query, key)]
    expected = kernels.xla(*turned, heads(value), mask).swapaxes(1, 2).reshape(1, 128, 32)
    np.testing.assert_allclose(row_attention(query, key, value, mask, 16, rotation), expected, atol=3e-6)
