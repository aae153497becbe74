"""Plans for NVIDIA GPUs, compiled without one: in make test-triton, whose environment has JAX's plug-in for CUDA."""

import importlib.util

import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.model import flops
from bert_jax.planning import chips, compilation, devices, report

GPUS = [chip for chip in chips.CHIPS if chip.is_gpu]


@pytest.fixture(scope="module")
def plugin():
    devices.prepare_environment()


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="there is a plug-in")
def test_without_the_plug_in_one_line_says_what_to_install():
    with pytest.raises(UserError, match=r"plug-in for CUDA is not installed.*'bert_jax\[plan-gpu\]'") as error:
        devices.devices(chips.parse("h100:8"))
    assert "\n" not in str(error.value)


@pytest.mark.triton
@pytest.mark.parametrize("chip", GPUS, ids=lambda chip: chip.name)
def test_devices_are_those_of_machines(plugin, chip):
    machines = devices.devices(chips.parse(f"{chip.name}:8", 2))
    assert len(machines) == 16 and {device.device_kind for device in machines} == {chip.kind}
    assert [device.process_index for device in machines] == [0] * 8 + [1] * 8
    assert flops.peak_flops_of_kind(chip.kind) == chip.flops


@pytest.mark.triton
@pytest.mark.parametrize(
    ("name", "machines", "link"), [("a100:4", 1, "ici"), ("h100:4", 2, "dcn"), ("b200:4", 1, "ici")]
)
def test_a_step_compiles(plugin, config, name, machines, link):
    topology = chips.parse(name, machines)
    config.model.attention_kernel = "xla"
    (phase,) = config_lib.phases(config)
    step = compilation.compile_phase(config, topology, phase)
    assert step.fits and step.attention_kernel == "xla" and not step.unknown_loops
    # To the last product, what the model's count says.
    assert topology.num_devices * step.products == flops.step_flops(step.spec, 256, 128, 8) == step.model_flops
    assert {one.link for one in step.collectives} == {link}
    held = {one.kind: 0 for one in step.collectives}
    for one in step.collectives:
        held[one.kind] += one.count * one.bytes
    parameters, gathered = step.memory.parameters, held.pop("all-gather")
    assert gathered == pytest.approx(parameters, rel=0.02)  # behind the update of each device's part
    assert parameters / 2 <= sum(held.values()) <= parameters + 4096, held  # in bfloat16 or float32
    text = report.text(report.plan(config, topology, name="tiny", search=False))
    assert f"all-reduce over {'NVLink' if link == 'ici' else 'network'}" in text and "operation by operation" in text


@pytest.mark.triton
def test_the_kernel_of_tiles_compiles_within_a_step(plugin, config):
    config.model.update(attention_dropout=0.1, attention_kernel="tile")
    (phase,) = config_lib.phases(config)
    step = compilation.compile_phase(config, chips.parse("h100:4"), phase)
    assert step.attention_kernel == "tile" and step.kernels == 3  # forward, and the gradients of queries and of keys


@pytest.mark.triton
def test_a_kernel_of_cudnn_is_refused_in_one_line(plugin, config):
    (phase,) = config_lib.phases(config)
    config.model.attention_kernel = "cudnn"
    with pytest.raises(UserError, match="config.model.attention_kernel: cudnn is cuDNN's kernel here.*tile or xla"):
        compilation.compile_phase(config, chips.parse("h100:4"), phase)
