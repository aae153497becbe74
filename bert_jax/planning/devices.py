"""Makes the devices of a topology for ahead-of-time compilation: their compiler runs here, and nothing else.

TPUs are compiled for by libtpu, NVIDIA GPUs by JAX's plug-in for CUDA, neither of which needs a device or a driver.
"""

import importlib.util
import os
from typing import Any

from bert_jax.errors import UserError
from bert_jax.planning.chips import Topology
from bert_jax.processes import private_jax

# Read by compilers when they are loaded: ask no machine about its TPUs, load beside another process, say nothing but
# errors. Without a type and a host libtpu complains, though no topology depends on them.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}

_CUDA_PLUGINS = ("xla_cuda12", "xla_cuda13")


def prepare_environment() -> None:
    """Sets up this process to compile alone; to be called before jax is used."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import jax

    jax.config.update("jax_platforms", "cpu")


def devices(topology: Topology) -> list:
    """Returns the topology's devices, as jax.devices() returns them on its hosts.

    Raises:
      UserError: the compiler is not installed, in use by another process, or knows no such topology.
    """
    from jax.errors import JaxRuntimeError

    if topology.chip.is_gpu:
        return _gpus(topology)

    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed, and compiles for TPUs: pip install 'bert_jax[plan]'")
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.host != (2, 2, 1):
        options["chips_per_host_bounds"] = topology.host
    if topology.num_slices > 1:
        options["num_slices"] = topology.num_slices
    try:
        description = private_jax.topologies().get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "lockfile" in reason:
            raise UserError(
                "libtpu is in use by another process; wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1"
            ) from error
        known = ", ".join(topology.chip.examples)
        raise UserError(f"--topology={topology.name}: {reason}; expected one such as {known}") from error
    return list(description.devices)


def compiler_options(topology: Topology) -> dict[str, bool | str] | None:
    """Returns options that compiling without the devices needs; None for none.

    The compiler for GPUs would try its ways to multiply on a GPU; without one it takes what it takes by default.
    """
    return {"xla_gpu_autotune_level": "0"} if topology.chip.is_gpu else None


def _gpus(topology):
    import jax

    if importlib.util.find_spec("jax_plugins") is None or not any(
        importlib.util.find_spec(f"jax_plugins.{name}") for name in _CUDA_PLUGINS
    ):
        raise UserError(
            "JAX's plug-in for CUDA is not installed, and compiles for GPUs: pip install 'bert_jax[plan-gpu]'"
        )
    jax.devices()  # loads plug-ins
    description = private_jax.topologies().get_topology_desc(
        platform="cuda",
        topology_name=topology.chip.name,
        target_config=_target_config(topology.chip),
        topology=f"1x{topology.num_slices}x{topology.num_chips // topology.num_slices}",
    )
    return list(description.devices)


def _target_config(chip):
    """Returns the text of XLA's GpuTargetConfigProto."""
    target = chip.target
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {target.shared}
  shared_memory_per_block_optin: {target.shared - 1024}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {target.cores} fpus_per_core: {target.units} clock_rate_ghz: {target.clock}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {int(chip.hbm_bandwidth)} l2_cache_size: {target.cache} device_memory_size: {chip.hbm}
  cuda_compute_capability {{ major: {target.capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{chip.kind}"
"""
