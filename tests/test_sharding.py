"""Tests the mesh and the table of partition rules."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config.mesh import OPTIMIZER_STATE
from bert_jax.errors import UserError
from bert_jax.model import STACKED
from bert_jax.training import optimizer as optimizer_lib


def mesh(data, fsdp, tensor):
    return sharding.make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor})


def state_shapes(name="adamw", vocab_size=64):
    config = config_lib.base()
    config.model.update(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=32, max_positions=8)
    config.optimizer.name = name
    model = model_lib.build(config.model, vocab_size)
    params = jax.eval_shape(model.init, jax.random.key(0))
    opt_state = jax.eval_shape(optimizer_lib.make_optimizer(config.optimizer, 10).init, params)
    return {"params": params, "opt_state": opt_state}


def test_there_are_eight_devices():
    assert jax.device_count() == 8


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh(8, 1, 1).shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (16, 1, 1), (-1, -1, 1), (-1, 0, 1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(UserError, match=r"config.mesh: found data=.* for 8 devices"):
        mesh(*sizes)


@dataclasses.dataclass(frozen=True)
class Device:
    """A stand-in for a device of a TPU slice."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "made up"
    process_index: int = 0


@pytest.mark.parametrize(
    ("sizes", "across", "slices_of_data", "slices_of_fsdp"),
    [((4, 2, 2), "data", [0, 0, 1, 1], [0, 0]), ((1, 8, 2), "fsdp", [0], [0, 0, 0, 0, 1, 1, 1, 1])],
)
def test_one_axis_spans_slices(sizes, across, slices_of_data, slices_of_fsdp):
    devices = [Device(i, i % 2) for i in range(16)]  # in any order
    made = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True), across_slices=across), devices)
    slices = np.vectorize(lambda device: device.slice_index)(made.devices)
    assert slices[:, 0, 0].tolist() == slices_of_data and slices[0, :, 0].tolist() == slices_of_fsdp
    assert (slices[..., :1] == slices).all()  # the other axes stay within a slice


def test_an_axis_that_cannot_span_the_slices_is_refused():
    with pytest.raises(UserError) as caught:
        sharding.make_mesh({"data": 1, "fsdp": 8, "tensor": 1}, [Device(i, i // 4) for i in range(8)])
    assert str(caught.value) == (
        "config.mesh.data: found 1, but config.mesh.across_slices=data spans 2 slices of 4 devices; expected a "
        "multiple of 2"
    )


def test_hosts_of_gpus_are_no_slices():
    devices = [Device(i, i // 4, platform="gpu") for i in range(8)]
    made = sharding.make_mesh({"data": 1, "fsdp": 8, "tensor": 1}, devices)
    assert made.devices.flat[:].tolist() == devices


def test_a_process_that_has_all_rows():
    assert sharding.hosts_of_rows(mesh(2, 2, 2)) == ((0,), 1)


def test_rows_on_the_mesh():
    """Places rows on eight devices of one process; tests/training/test_hosts.py does so for several processes."""
    batch = {"rows": np.arange(16).reshape(8, 2)}
    placed = sharding.put_rows(batch, mesh(2, 2, 2))["rows"]
    assert placed.sharding == sharding.batch_sharding(mesh(2, 2, 2))
    np.testing.assert_array_equal(placed, batch["rows"])


@pytest.mark.parametrize("name", ["adamw", "lamb", "stable_adamw"])
def test_every_leaf_has_one_rule_and_moments_lie_like_their_parameters(name):
    shapes = state_shapes(name)
    names = [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    for leaf in names:
        assert sum(bool(re.search(f"(^|/)({pattern})$", leaf)) for pattern, *_ in sharding.RULES) == 1, leaf
    layouts = sharding.tree_shardings(shapes, mesh(2, 2, 2))
    specs = dict(zip(names, (leaf.spec for leaf in jax.tree.leaves(layouts)), strict=True))
    for leaf, spec in specs.items():
        if "/mu/" in leaf or "/nu/" in leaf:
            assert spec == specs["params/" + re.split("/(mu|nu)/", leaf)[-1]]
    assert specs["params/encoder/layers/1/attention/query/kernel"] == P("fsdp", "tensor")
    assert specs["params/encoder/layers/1/mlp/down/kernel"] == P("tensor", "fsdp")


@pytest.mark.parametrize("sizes", [(8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 4, 2)])
def test_moments_are_split_over_data_too(sizes):
    shapes = state_shapes()
    plain, split = sharding.tree_shardings(shapes, mesh(*sizes)), sharding.state_shardings(shapes, mesh(*sizes), True)
    assert split["params"] == plain["params"]
    for (path, leaf), layout, other in zip(
        jax.tree_util.tree_leaves_with_path(shapes["opt_state"]),
        *(jax.tree.leaves(layouts["opt_state"]) for layouts in (split, plain)),
        strict=True,
    ):
        size, expected = (np.prod(place.shard_shape(leaf.shape)) for place in (layout, other))
        assert size in (expected, expected // sizes[0]), path
        if leaf.ndim == 2 and leaf.shape != (2, 16):  # two segments cannot be split in eight and hold few numbers
            assert size == expected // sizes[0], path


def test_layers_that_are_stacked_are_split_within_each():
    shapes = {"layers": {STACKED: {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((8, 16, 64), np.float32)}}}}}
    plain = sharding.tree_shardings(shapes, mesh(8, 1, 1))
    (layout,) = jax.tree.leaves(sharding.split_over_data(plain, shapes))
    assert layout.shard_shape((8, 16, 64)) == (8, 2, 64)


def test_moments_are_split_on_accelerators_unless_told():
    made = mesh(8, 1, 1)
    assert [sharding.splits_optimizer_state(setting, made) for setting in OPTIMIZER_STATE] == [False, False, True]


def test_no_large_leaf_is_whole_on_a_sharded_mesh():
    shapes = state_shapes()["params"]
    layouts = sharding.tree_shardings(shapes, mesh(1, 4, 2))
    for (path, leaf), layout in zip(jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(layouts), strict=True):
        if leaf.size > 64:
            assert layout.num_devices == 8 and not layout.is_fully_replicated, path


def test_axes_in_front_are_not_split():
    shapes = state_shapes()
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), shapes)
    plain, layouts = sharding.tree_shardings(shapes, mesh(2, 2, 2)), sharding.tree_shardings(stacked, mesh(2, 2, 2), 1)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(layouts), strict=True):
        assert other.spec == (P(None, *one.spec) if len(one.spec) else P())
    assert sharding.batch_sharding(mesh(2, 2, 2), leading=1).spec == P(None, ("data", "fsdp"))


def test_a_vocabulary_that_does_not_divide_is_sharded_on_its_hidden_dimension():
    params = state_shapes(vocab_size=61)["params"]
    layouts = sharding.tree_shardings(params, mesh(1, 4, 2))
    assert layouts["encoder"]["embeddings"]["word"]["embedding"].spec == P(None, ("fsdp", "tensor"))
    assert layouts["mlm"]["bias"].spec == P()


def test_an_axis_that_divides_nothing_is_refused_by_name():
    leaf = jax.ShapeDtypeStruct((4, 12), "float32")
    with pytest.raises(UserError, match=r"config.mesh: .*, tensor=8 does not divide .*/embedding .*; expected"):
        sharding.tree_shardings({"embeddings": {"position": {"embedding": leaf}}}, mesh(1, 1, 8))


def test_a_leaf_without_a_rule_is_refused_by_name():
    leaf = jax.ShapeDtypeStruct((4,), "float32")
    with pytest.raises(UserError, match="encoder/rotary/table: no rule"):
        sharding.tree_shardings({"encoder": {"rotary": {"table": leaf}}}, mesh(8, 1, 1))
