"""Makes the devices of a TPU topology for ahead-of-time compilation: libtpu compiles for them, and nothing runs."""

import importlib.util
import os
from typing import Any

from bert_jax.errors import UserError
from bert_jax.planning.chips import Topology
from bert_jax.processes import private_jax

# Read by libtpu when it is loaded: ask no machine about its TPUs, load beside another process, say nothing but errors.
# Without a type and a host libtpu complains, though no topology depends on them.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def prepare_environment() -> None:
    """Sets up this process to compile alone; to be called before jax is used."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import jax

    jax.config.update("jax_platforms", "cpu")


def devices(topology: Topology) -> list:
    """Returns the topology's devices, as jax.devices() returns them on its hosts.

    Raises:
      UserError: libtpu is not installed, in use by another process, or knows no such topology.
    """
    from jax.errors import JaxRuntimeError

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
