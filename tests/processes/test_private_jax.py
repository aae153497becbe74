"""Tests that the parts of jax without promises which bert_jax uses exist, and take the arguments it gives."""

import inspect
import pathlib
import re

import jax
import pytest

from bert_jax.processes import private_jax

ROOT = pathlib.Path(__file__).parents[2]


def test_this_version_of_jax_was_tried():
    assert jax.__version__ in private_jax.TRIED, (
        f"jax {jax.__version__} is new here: if `make test-full` passes but for this, add it to private_jax.TRIED"
    )


def test_nothing_else_uses_what_jax_does_not_promise():
    pattern = re.compile(r"^\s*(from|import) jax(lib)?[.\w]*(\._src|\.experimental)|^from jaxlib|^import jaxlib", re.M)
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in ("bert_jax", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if pattern.search(path.read_text("utf-8"))
    ]
    assert users == ["bert_jax/processes/private_jax.py"]


def test_coordination():
    from jax._src.lib import _jax

    state = private_jax.coordination_state()
    assert {"client", "process_id", "num_processes"} <= set(dir(state)) and state.process_id == 0
    client = _jax.DistributedRuntimeClient
    for name, arguments in {
        "key_value_set": "key: str, value: str, allow_overwrite: bool = False",
        "key_value_try_get": "key: str",
        "key_value_dir_get": "key: str",
        "blocking_key_value_get": "key: str, timeout_in_ms: int",
        "wait_at_barrier": "barrier_id: str, timeout_in_ms: int",
    }.items():
        assert getattr(client, name).__doc__.startswith(f"{name}(self, {arguments}")


def test_clusters():
    cluster = private_jax.kubernetes_cluster()
    inspect.signature(cluster.is_env_present).bind()
    inspect.signature(cluster.get_process_count).bind()
    inspect.signature(cluster.get_coordinator_address).bind(60, None)
    assert private_jax.is_cloud_tpu() in (True, False)


def test_devices_and_compilation():
    meshes = private_jax.mesh_utils()
    inspect.signature(meshes.create_device_mesh).bind((1,), [], allow_split_physical_axes=True)
    inspect.signature(meshes.create_hybrid_device_mesh).bind((1,), (1,), [], allow_split_physical_axes=True)
    describe = inspect.signature(private_jax.topologies().get_topology_desc)
    describe.bind(platform="tpu", topology_name="v5e:2x2", num_slices=2)
    private_jax.reset_compilation_cache()


def test_pallas():
    pallas, tpu = private_jax.pallas()
    inspect.signature(pallas.pallas_call).bind(None, grid_spec=None, out_shape=[], compiler_params=None, name="name")
    names = ("BlockSpec", "ds", "multiple_of", "program_id", "num_programs", "when")
    assert all(callable(getattr(pallas, name)) for name in names)
    inspect.signature(pallas.BlockSpec).bind((1,), None, pipeline_mode=pallas.Buffered(1))
    inspect.signature(tpu.roll).bind(None, 0, 1, stride=1, stride_axis=0)
    inspect.signature(tpu.PrefetchScalarGridSpec).bind(
        num_scalar_prefetch=3, grid=(1,), in_specs=[], out_specs=[], scratch_shapes=[]
    )
    tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=1 << 20)
    assert tpu.VMEM((8, 128), jax.numpy.float32).shape == (8, 128)
    triton = private_jax.triton()
    triton.CompilerParams(num_warps=4, num_stages=2)
    inspect.signature(triton.dot).bind(None, None, precision=None, trans_a=True)


def test_attention_kernels():
    library, masks = private_jax.splash_attention()
    sizes = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    inspect.signature(library.BlockSizes).bind(
        **dict.fromkeys((*sizes, "block_q_dq", "block_kv_dq"), 128), use_fused_bwd_kernel=True
    )
    inspect.signature(library.make_splash_mha).bind(
        None, head_shards=1, q_seq_shards=1, block_sizes=None, residual_checkpoint_name="name"
    )
    inspect.signature(masks.LocalMask).bind((8, 8), window_size=(4, 4), offset=0)
    for mask in (masks.CausalMask, masks.FullMask):
        assert mask((8, 8)).shape == (8, 8)
    assert masks.MultiHeadMask([masks.FullMask((8, 8))] * 2).shape == (2, 8, 8)
    flash = private_jax.flash_attention()
    inspect.signature(flash.flash_attention).bind(
        None, None, None, segment_ids=None, causal=True, sm_scale=1.0, block_sizes=None
    )
    for module in (library, flash):
        inspect.signature(module.SegmentIds).bind(None, None)


@pytest.mark.parametrize("name", ["is_cloud_tpu", "mesh_utils", "topologies"])
def test_nothing_is_imported_before_it_is_asked_for(name):
    assert not inspect.ismodule(getattr(private_jax, name))
