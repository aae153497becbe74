"""Gathers what bert_jax uses of jax and jax does not promise to keep: `jax._src` and `jax.experimental`.

Nothing else in bert_jax imports these. `tests/processes/test_private_jax.py` checks that each is there, with the
arguments that bert_jax gives it. Modules are imported where they are asked for, because some are slow to import, and
some import only where their accelerator's packages are.
"""

import types
from typing import Any

TRIED = ("0.10.2",)  # versions of jax that the tests have passed with


def coordination_state() -> Any:
    """Returns the state of jax.distributed: `client` (None for one process alone), `process_id`, `num_processes`.

    The client's methods that are used are key_value_set, key_value_try_get, key_value_dir_get, blocking_key_value_get
    and wait_at_barrier.
    """
    from jax._src import distributed

    return distributed.global_state


def kubernetes_cluster() -> type:
    """Returns the class that asks Kubernetes for the size of an indexed Job and the address of its first pod."""
    from jax._src.clusters.k8s_cluster import K8sCluster

    return K8sCluster


def is_cloud_tpu() -> bool:
    """Returns whether this machine has TPUs of Google Cloud."""
    from jax._src import cloud_tpu_init

    return cloud_tpu_init.running_in_cloud_tpu_vm


def mesh_utils() -> types.ModuleType:
    """Returns the module that orders devices so that neighbours in a mesh are neighbours in the machine."""
    from jax.experimental import mesh_utils as module

    return module


def topologies() -> types.ModuleType:
    """Returns the module that describes devices for ahead-of-time compilation."""
    from jax.experimental import topologies as module

    return module


def reset_compilation_cache() -> None:
    """Makes jax open jax_compilation_cache_dir again: it keeps the first directory that it was given."""
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def splash_attention() -> tuple[types.ModuleType, types.ModuleType]:
    """Returns the modules of the Pallas splash attention for TPUs: its kernel, and the masks that it knows."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    return splash_attention_kernel, splash_attention_mask


def pallas() -> tuple[types.ModuleType, types.ModuleType]:
    """Returns the modules of Pallas, which compiles kernels: what all platforms share, and what TPUs have."""
    from jax.experimental import pallas as module
    from jax.experimental.pallas import tpu

    return module, tpu


def triton() -> types.ModuleType:
    """Returns the module of Pallas for GPUs, by Triton."""
    from jax.experimental.pallas import triton as module

    return module


def flash_attention() -> types.ModuleType:
    """Returns the module of the Pallas flash attention for TPUs."""
    from jax.experimental.pallas.ops.tpu import flash_attention as module

    return module
