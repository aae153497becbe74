"""Names and figures of TPUs and GPUs."""

import re

import jax
import jax.numpy as jnp
import pytest

from bert_jax.errors import UserError
from bert_jax.planning import chips, devices


@pytest.mark.parametrize(
    "name, slices, chip, number, count",
    [
        ("v5e:4x4", 1, "v5e", 16, 16),
        ("v5e:1x1", 1, "v5e", 1, 1),
        ("v4:2x2x4", 2, "v4", 32, 32),
        ("v5p:8x8x8", 1, "v5p", 512, 512),
        ("tpu7x:2x2x1", 1, "v7x", 4, 8),
        ("v7x:2x2x1", 2, "v7x", 8, 16),
        ("h100:8", 1, "h100", 8, 8),
        ("b200:8", 4, "b200", 32, 32),
    ],
)
def test_topologies(name, slices, chip, number, count):
    topology = chips.parse(name, slices)
    assert (topology.chip.name, topology.num_chips, topology.num_devices) == (chip, number, count)


@pytest.mark.parametrize(
    "name, message",
    [
        ("v9:2x2", "--topology=v9:2x2: no such TPU or GPU; known: .*v5e:4x4.*h100:8.*, or all"),
        ("h10:8", "--topology=h10:8: no such TPU or GPU.*h100"),
        ("a100:16", "16 chips; a slice of a100 has at most 8"),
        ("v5e", "--topology=v5e: expected v5e:AxB, such as v5e:1x1"),
        ("v5p:4x4", "--topology=v5p:4x4: expected v5p:AxBxC"),
        ("v5e:0x4", "expected v5e:AxB"),
        ("v5e:32x32", "1,024 chips; a slice of v5e has at most 256; more are several slices"),
    ],
)
def test_unknown_topologies_are_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as error:
        chips.parse(name)
    assert "\n" not in str(error.value)


def test_slices_are_counted_from_one():
    with pytest.raises(UserError, match="--num_slices=0"):
        chips.parse("v5e:2x2", 0)


@pytest.mark.parametrize("chip", [chip for chip in chips.CHIPS if not chip.is_gpu], ids=lambda chip: chip.name)
def test_a_chips_memory_and_devices_are_what_the_compiler_says(libtpu, chip):
    topology = chips.parse(chip.examples[1 if chip.dimensions == 2 else 0])
    topology_devices = devices.devices(topology)
    assert len(topology_devices) == topology.num_devices and topology_devices[0].device_kind == chip.kind
    one = jax.sharding.SingleDeviceSharding(topology_devices[0])
    huge = jax.ShapeDtypeStruct((2**16, 2**21), jnp.float32, sharding=one)
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    usable = float(re.search(r"available HBM \(([\d.]+)G\)", str(error.value))[1])
    assert usable == pytest.approx(chip.usable_hbm / chips.GIB, abs=0.006)


def test_a_topology_that_libtpu_does_not_know(libtpu):
    with pytest.raises(UserError, match="--topology=v5e:3x3: .*; expected one such as v5e:1x1") as error:
        devices.devices(chips.parse("v5e:3x3"))
    assert "\n" not in str(error.value)


def test_small_slices_have_small_hosts(libtpu):
    assert len(devices.devices(chips.parse("v6e:1x1"))) == 1
    assert {device.slice_index for device in devices.devices(chips.parse("v5e:2x2", 2))} == {0, 1}
