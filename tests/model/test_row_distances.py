"""Tests that the kernel of whole rows adds the scores of relative distances as plain XLA does, forward and backward."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config import kernels as kernel_choice
from bert_jax.model import row_distances
from bert_jax.model.attention import choose_kernel
from bert_jax.model.dropout import dropout
from bert_jax.model.kernels import AttentionMask
from bert_jax.model.positions import relative_rows, relative_table_size, rotary_angles
from bert_jax.model.row_attention import row_attention
from bert_jax.model.row_distances import Distances, DistanceScores, by_distance
from tests.model import unit_kernels
from tests.model.test_kernels import (
    assert_trees_agree,
    interpreted,  # noqa: F401
    logits_and_gradient,
    make_batch,
    make_mask,
)

SEED = np.array([123456789, 987654321], np.uint32)


def rolled_by_reshape(x, shift):
    """Does what the kernel's rolls do in fewer operations, which are compiled sooner."""
    rows, width = x.shape
    longer = jnp.pad(jnp.concatenate([x, x], 1), [(0, 0), (0, 1)])
    return longer.reshape(-1)[: 2 * rows * width].reshape(rows, -1)[:, width - shift : 2 * width - shift]


@pytest.fixture
def rolling(interpreted, monkeypatch):  # noqa: F811
    """Lets the kernel run on this machine, interpreted, with a roll that is compiled sooner."""
    monkeypatch.setattr(row_distances, "rolled_by_steps", rolled_by_reshape)


@pytest.mark.parametrize("shift", [0, 1])
def test_all_rolls_agree(shift):
    x = jnp.arange(128 * 256, dtype=jnp.float32).reshape(128, 256)
    expected = np.stack([np.roll(row, shift + i) for i, row in enumerate(np.asarray(x))])
    for roll in (row_distances.rolled_by_stride, row_distances.rolled_by_steps, rolled_by_reshape):
        np.testing.assert_array_equal(jax.jit(functools.partial(roll, shift=shift))(x), expected)


def test_chips_without_strides():
    """This machine is one, and a TPU v4; a kernel that is compiled for a mesh asks the mesh."""
    assert not row_distances.chip_has_strides()


def test_shifts():
    """Scores by the other token, and from their gradient that of scores by distance."""
    random = np.random.default_rng(0)
    content, table = (jnp.asarray(random.normal(size=(size, 8)), jnp.float32) for size in (128, 384))
    scores = DistanceScores({}, 256, 128, 0, False)
    own, other = np.ogrid[:128, :256]
    by_place = jax.jit(scores._by_place)(content, table)
    np.testing.assert_allclose(by_place, (content @ table.T)[own, 128 - own + other], rtol=0, atol=1e-5)
    gradient = random.normal(size=(128, 256)).astype(np.float32)
    expected = np.zeros((128, 384), np.float32)
    np.put_along_axis(expected, 128 - own + other, gradient, 1)
    turned = row_distances._reversed(jnp.asarray(gradient))
    np.testing.assert_array_equal(turned, gradient[::-1])
    np.testing.assert_array_equal(jax.jit(scores._by_distance)(turned), expected[::-1])
    of_columns = row_distances._reversed(jnp.asarray(gradient.T), row_distances.TRANSPOSED)
    np.testing.assert_array_equal(of_columns, gradient[::-1])


def test_tables_by_distance():
    rows = relative_rows(types.SimpleNamespace(relative_buckets=0, relative_span=3), 5)  # -4 ... 4 are rows 0 ... 5
    table = jnp.arange(6, dtype=jnp.float32)[:, None]
    ascending = [0] * 6 + [1, 2, 3, 4] + [5] * 6  # -8 ... 7
    np.testing.assert_array_equal(by_distance(table, rows, "p2c", 8)[:, 0], ascending)
    np.testing.assert_array_equal(by_distance(table, rows, "c2p", 8)[:, 0], [5, *ascending[:0:-1]])


def draw(batch, sequence, heads, kv_heads, size, table_size):
    """Returns queries, keys, values, keys and queries of distances, and a gradient of the output, float32."""
    random = np.random.default_rng(0)
    wide, narrow = heads * size, kv_heads * size
    shapes = [(batch, sequence, units) for units in (wide, narrow, narrow)]
    shapes += [(table_size, narrow), (table_size, wide), (batch, sequence, wide)]
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def reference(arrays, mask, size, terms, rows, rotation, rate, seed):
    """Returns outputs and gradients in float64, from scores that are gathered by distance."""
    batch, sequence = mask.present.shape
    allowed = np.broadcast_to(mask.to_array(), (batch, 1, sequence, sequence))
    heads, there = arrays[0].shape[2] // size, np.asarray(mask.present)[..., None]
    ones = jnp.ones((batch, heads, sequence, sequence), jnp.float32)
    factor = np.asarray(dropout(ones, rate, None if seed is None else jnp.asarray(seed)), np.float64)
    positions = np.arange(sequence)
    row = rows[positions[:, None] - positions + sequence - 1]  # [query, key]
    with jax.enable_x64(True):

        def split(x):
            x = x.reshape(*x.shape[:-1], -1, size).swapaxes(-3, -2)
            return jnp.repeat(x, heads // x.shape[-3], -3)

        def turn(x):
            if rotation is None:
                return x
            cosine, sine = (np.asarray(angle, np.float64)[:, None] for angle in rotation)
            first, second = jnp.split(x, 2, -1)
            return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)

        def loss(query, key, value, distance_keys, distance_queries):
            query, key, value = turn(split(query)), turn(split(key)), split(value)
            scores = query @ key.swapaxes(2, 3)
            if "c2p" in terms:
                scores += jnp.einsum("bnqd,nqkd->bnqk", query, split(distance_keys)[:, row])
            if "p2c" in terms:
                scores += jnp.einsum("bnkd,nqkd->bnqk", key, split(distance_queries)[:, row])
            scores = jnp.where(allowed, scores / (size * (1 + len(terms))) ** 0.5, -1e30)
            mixed = (jax.nn.softmax(scores, -1) * factor) @ value
            mixed = jnp.where(there, mixed.swapaxes(1, 2).reshape(batch, sequence, -1), 0)
            return (mixed * read).sum(), mixed

        *inputs, read = (jnp.asarray(array, jnp.float64) for array in arrays)
        gradients, output = jax.grad(loss, argnums=range(5), has_aux=True)(*inputs)
        return [np.asarray(x) for x in (output, *gradients)]


def actual(arrays, mask, size, terms, rows, rotation, rate, seed):
    *inputs, read = map(jnp.asarray, arrays)
    seed = None if seed is None else jnp.asarray(seed)

    def loss(query, key, value, distance_keys, distance_queries):
        distances = Distances(
            rows, distance_keys if "c2p" in terms else None, distance_queries if "p2c" in terms else None
        )
        mixed = row_attention(query, key, value, mask, size, rotation, rate, seed, distances)
        mixed = jnp.where(mask.present[..., None], mixed, 0)
        return (mixed * read).sum(), mixed

    gradients, output = jax.jit(jax.grad(loss, argnums=range(5), has_aux=True))(*inputs)
    return [np.asarray(x) for x in (output, *gradients)]


def table_rows(sequence, span, buckets=0):
    spec = types.SimpleNamespace(relative_span=span, relative_buckets=buckets)
    return relative_rows(spec, sequence), relative_table_size(spec)


NAMES = ("output", "query", "key", "value", "distance keys", "distance queries")


@pytest.mark.parametrize("terms", [("c2p", "p2c"), ("c2p",), ("p2c",)])
@pytest.mark.parametrize(("sequence", "heads", "kv_heads", "size"), [(512, 4, 4, 64), (300, 2, 1, 32)])
def test_a_kernel_says_what_it_multiplies(sequence, heads, kv_heads, size, terms):
    rows, table_size = table_rows(sequence, 64)
    arrays = draw(2, sequence, heads, kv_heads, size, table_size)

    def gradients(*arrays):
        def total(query, key, value, keys, queries):
            distances = Distances(rows, keys if "c2p" in terms else None, queries if "p2c" in terms else None)
            mask = AttentionMask(jnp.ones((2, sequence), bool))
            return row_attention(query, key, value, mask, size, None, 0.1, jnp.asarray(SEED), distances).sum()

        return jax.grad(total, argnums=range(5))(*arrays)

    counted = unit_kernels.kernel_products(gradients, *arrays[:5])
    assert counted == unit_kernels.kernel_estimates(gradients, *arrays[:5])
    assert len(counted) == 2 and min(counted.values()) > 0


@pytest.mark.parametrize(
    ("sequence", "heads", "kv_heads", "size", "kind", "terms", "span", "buckets", "rotary", "rate"),
    [
        # logarithmic buckets
        pytest.param(256, 2, 2, 64, "anywhere", ("c2p", "p2c"), 256, 32, False, 0.1, marks=pytest.mark.more),
        # three blocks; distances beyond the span
        pytest.param(384, 3, 3, 8, "packed", ("c2p", "p2c"), 100, 0, False, 0.1, marks=pytest.mark.full),
        # rows that are filled up; grouped heads
        pytest.param(77, 2, 1, 16, "packed", ("p2c",), 512, 0, False, 0.2, marks=pytest.mark.full),
        (131, 2, 2, 16, "right", ("c2p",), 40, 0, False, 0.0),
        pytest.param(512, 4, 2, 64, "left", ("c2p", "p2c"), 512, 256, False, 0.1, marks=pytest.mark.full),
        pytest.param(200, 2, 2, 64, "packed", ("c2p", "p2c"), 64, 0, True, 0.3, marks=pytest.mark.full),
        pytest.param(640, 2, 1, 16, "anywhere", ("p2c",), 300, 64, False, 0.1, marks=pytest.mark.full),
    ],
)
def test_outputs_and_gradients(
    rolling, sequence, heads, kv_heads, size, kind, terms, span, buckets, rotary, rate
):  # fmt: skip
    rows, table_size = table_rows(sequence, span, buckets)
    rotation = rotary_angles(jnp.arange(sequence)[None], size, 10000.0) if rotary else None
    mask = make_mask(kind, False, 2, sequence)
    arguments = mask, size, terms, rows, rotation, rate, SEED if rate else None
    arrays = draw(2, sequence, heads, kv_heads, size, table_size)
    for name, one, other in zip(NAMES, actual(arrays, *arguments), reference(arrays, *arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * abs(other).max(), err_msg=name)


@pytest.mark.full
def test_by_steps_and_in_bfloat16(interpreted):  # noqa: F811
    """With the roll that runs on a TPU v4."""
    rows, table_size = table_rows(128, 30)
    arrays, mask = draw(2, 128, 1, 1, 64, table_size), make_mask("packed", False, 2, 128)
    halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    arguments = mask, 64, ("c2p", "p2c"), rows, None, 0.1, SEED
    for one, other in zip(actual(halves, *arguments), reference(arrays, *arguments), strict=True):
        assert np.linalg.norm(one.astype(np.float64) - other) < 0.01 * np.linalg.norm(other)


def make_model(platform, **changes):
    config = config_lib.base().model
    config.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=24, max_positions=256)
    config.update(attention_dropout=0.1, dtype="float32", positions="relative", **changes)
    return model_lib.build(config, 64, platform=platform, next_sentence=False)


VERSIONS = {
    "v1": {"relative_span": 100},
    "v3": {"relative_buckets": 32, "relative_shared": True, "relative_norm": True, "mask_decoder": "enhanced"},
    "grouped heads": {"num_kv_heads": 2, "relative_terms": "p2c"},  # in more parts than heads of keys
    "keys of distances": {"num_kv_heads": 2, "relative_terms": "c2p"},
}
MESHES = [
    ({"data": 1, "fsdp": 1, "tensor": 1}, {"remat": "attention"}),
    ({"data": 4, "fsdp": 1, "tensor": 1}, {"scan_layers": True, "remat": "dots_no_batch"}),
    ({"data": 1, "fsdp": 2, "tensor": 4}, {"remat": "full"}),
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("version", "axes", "changes"),
    [(version, *mesh) for version in VERSIONS for mesh in (MESHES if version == "v3" else MESHES[-1:])],
)
def test_a_model_is_the_same_on_every_mesh(rolling, version, axes, changes):
    """The gradients of the tables too, which are summed over all rows."""
    by_rows = make_model("tpu", attention_kernel="row", **VERSIONS[version], **changes)
    batch = make_batch(rows=4, length=256, packed=True)
    mesh = sharding.make_mesh(axes, jax.devices()[: axes["data"] * axes["fsdp"] * axes["tensor"]])
    expected = logits_and_gradient(make_model("cpu", **VERSIONS[version]), batch)
    assert_trees_agree(logits_and_gradient(by_rows, batch, mesh), expected)


@pytest.mark.full
def test_several_seeds_side_by_side(rolling):
    batch = make_batch(rows=2, length=256)
    one, other = (
        logits_and_gradient(make_model(platform, **VERSIONS["v1"]), batch, seeds=2) for platform in ("tpu", "cpu")
    )
    assert_trees_agree(one, other)


def test_auto_takes_the_kernel():
    mask = AttentionMask(np.ones((1, 256), bool))
    assert [choose_kernel(make_model("tpu").spec, length, mask, True) for length in (128, 256, 300)] == [
        "xla",
        "row",
        "xla",
    ]
    assert choose_kernel(make_model("cpu").spec, 256, mask, True) == "xla"
    assert [name for name, limits in kernel_choice.LIMITS.items() if limits.longest_relative] == ["row"]


OTHER_TOPOLOGIES = ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2")


@pytest.mark.full
@pytest.mark.parametrize("topology", ["v5e:2x2", *OTHER_TOPOLOGIES])
def test_the_kernels_compile_for_a_pod(tpu_devices, topology):
    """Forward and backward, with dropout and packed rows, on a mesh; the longest rows that the kernel takes."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, tpu_devices(topology)[:4])
    rows, table_size = table_rows(512, 512, 256)

    def described(shape, spec, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def step(query, key, value, keys, queries, read, segments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            assert row_distances.chip_has_strides() == (not topology.startswith("v4"))
            mask = AttentionMask(segments != 0, segments)

            def run(query, key, value, keys, queries):
                distances = Distances(rows, keys, queries)
                return row_attention(query, key, value, mask, 64, None, 0.1, jnp.asarray(SEED), distances)

            output, pull_back = jax.vjp(run, query, key, value, keys, queries)
            return output, pull_back(read)

    hidden = described((2, 512, 256), P(("data", "fsdp"), None, "tensor"))
    table = described((table_size, 256), P(None, "tensor"))
    segments = described((2, 512), P(("data", "fsdp")), jnp.int32)
    lowered = jax.jit(step).lower(hidden, hidden, hidden, table, table, hidden, segments)
    program = lowered.compile().as_text()
    assert "row_attention_backward" in program and "all-gather" not in program
