"""Tests that every attention kernel agrees with the reference, wherever padding stands and however rows are packed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config import kernels as kernel_choice
from bert_jax.errors import UserError
from bert_jax.model import kernels
from bert_jax.model.attention import choose_kernel
from bert_jax.model.kernels import AttentionMask
from bert_jax.training import step as step_lib

ROWS, HEADS = 2, 2


@pytest.fixture
def interpreted(monkeypatch):
    """Lets the TPU kernels run on this machine, interpreted."""
    compiled = pallas.pallas_call
    monkeypatch.setattr(pallas, "pallas_call", lambda *args, **kw: compiled(*args, **(kw | {"interpret": True})))


@pytest.fixture
def cudnn_by_xla(monkeypatch):
    """Lets jax.nn's attention compute by XLA what it is asked to compute by cuDNN."""
    whole = jax.nn.dot_product_attention

    def attention(*args, implementation, **kw):
        assert implementation == "cudnn"
        return whole(*args, implementation="xla", **kw)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)


def make_mask(kind, causal, rows, length, seed=0):
    random = np.random.default_rng(seed)
    if kind == "packed":
        ids = np.sort(random.integers(0, 5, (rows, length)))[:, ::-1]  # in order, padding (0) at the end
        return AttentionMask(jnp.asarray(ids != 0), jnp.asarray(np.where(ids, 5 - ids, 0), jnp.int32), causal)
    lengths = random.integers(length // 2, length, (rows, 1))
    present = {
        "whole": np.ones((rows, length)),
        "right": np.arange(length) < lengths,
        "left": np.arange(length) >= length - lengths,
        "anywhere": random.random((rows, length)) < 0.7,
    }[kind]
    return AttentionMask(jnp.asarray(present, bool), causal=causal)


def output_and_gradients(kernel, mask, length, head_size, dtype=jnp.float32, rows=ROWS):
    """Returns outputs and gradients of a loss over the tokens that are present."""
    drawn = jax.random.normal(jax.random.key(1), (4, rows, HEADS, length, head_size))
    *arrays, read = drawn.astype(dtype)
    there = mask.present[:, None, :, None]

    def loss(query, key, value):
        actual = jnp.where(there, kernels.attend(kernel, query, key, value, mask), jnp.zeros((), dtype))
        return (actual * read).astype(jnp.float32).sum(), actual

    gradients, actual = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float32) for x in (actual, *gradients)]


def assert_same(one, other, tolerance=2e-5):
    for name, a, b in zip(("output", "query", "key", "value"), one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(b).max(), err_msg=name)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kernel", ["splash", "flash"])
@pytest.mark.parametrize(("kind", "causal"), [("anywhere", False), ("packed", False), ("packed", True), ("left", True)])
def test_tpu_kernels_agree_with_the_reference(interpreted, kernel, kind, causal):
    length = 256 if kind == "packed" else 128
    mask = make_mask(kind, causal, ROWS, length)
    one, other = (output_and_gradients(name, mask, length, 16) for name in (kernel, "xla"))
    assert_same(one, other)


@pytest.mark.parametrize(
    ("kernel", "window"),
    [("splash", None), ("splash", 8), ("flash", None), ("cudnn", None), ("cudnn", 8), ("xla", None), ("xla", 8)],
)
def test_padding_that_is_read_attends_to_the_tokens_of_its_text(interpreted, cudnn_by_xla, kernel, window):
    """[MASK] behind the queries of late interaction; where its window holds no token it gets nothing."""
    mask = dataclasses.replace(make_mask("right", False, ROWS, 128), padding_is_read=True, window=window)
    arrays = jax.random.normal(jax.random.key(1), (3, ROWS, HEADS, 128, 16))
    actual = kernels.attend(kernel, *arrays, mask)
    query, key, value = np.asarray(arrays, np.float64)
    allowed = np.asarray(mask.present)[:, None, None, :] & mask.allows(np.arange(128)[:, None], np.arange(128))
    weights = np.where(allowed, np.exp(query @ key.swapaxes(2, 3) / 4), 0)
    total = weights.sum(-1, keepdims=True)
    expected = (weights / np.where(total, total, 1)) @ value
    assert (total == 0).any() == bool(window)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("causal", [False, True])
def test_splash_over_several_blocks_of_keys(interpreted, causal):
    mask = make_mask("packed", causal, 1, 1536)  # not one block: two kernels for the gradients
    one, other = (output_and_gradients(name, mask, 1536, 8, rows=1) for name in ("splash", "xla"))
    assert_same(one, other)


def test_splash_in_bfloat16(interpreted):
    mask = make_mask("anywhere", False, ROWS, 128)
    one = output_and_gradients("splash", mask, 128, 48, jnp.bfloat16)
    assert_same(one, output_and_gradients("xla", mask, 128, 48), 0.03)


@pytest.mark.parametrize(
    ("kind", "causal"), [("whole", False), ("right", True), ("anywhere", False), ("left", True), ("packed", True)]
)
def test_cudnn_is_asked_for_what_the_reference_does(cudnn_by_xla, kind, causal):
    mask = make_mask(kind, causal, 3, 20)
    order, back = kernels.padding_last_order(mask.present)
    drawn = jax.random.normal(jax.random.key(1), (3, 3, HEADS, 20, 8))

    def moved(arrays, order):
        def move(x):
            return kernels.reorder(x.swapaxes(1, 2).reshape(3, 20, -1), order).reshape(3, 20, HEADS, 8).swapaxes(1, 2)

        return [move(x) for x in arrays]

    if kind == "packed":
        actual = kernels.cudnn(*drawn, mask)
    else:
        actual = moved([kernels.cudnn(*moved(drawn, order), mask.with_padding_last(order))], back)[0]
    there = mask.present[:, None, :, None]
    np.testing.assert_allclose(jnp.where(there, actual, 0), jnp.where(there, kernels.xla(*drawn, mask), 0), atol=2e-6)


def make_model(platform, **changes):
    config = config_lib.base().model
    config.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_positions=128)
    config.update(attention_dropout=0.0, dtype="float32", **changes)
    return model_lib.build(config, 64, platform=platform, next_sentence=False)


def kernel_named(spec, length, dropping):
    present = jnp.ones((1, length), bool)
    return choose_kernel(spec, length, kernels.AttentionMask(present, padding_last=True), dropping)


def make_batch(rows=4, length=128, packed=False):
    random = np.random.default_rng(0)
    present = (random.random((rows, length)) < 0.8).astype(np.int32)
    present[:, 0] = 1
    batch = {
        "input_ids": random.integers(0, 64, (rows, length)).astype(np.int32),
        "attention_mask": present,
        "token_type_ids": random.integers(0, 2, (rows, length)).astype(np.int32),
        "masked_positions": present.argsort(1)[:, -3:].astype(np.int32),  # among present tokens
    }
    if packed:
        batch["sequence_ids"] = np.where(present, 1 + np.arange(length) // 50, 0).astype(np.int32)
        batch["position_ids"] = np.tile(np.arange(length, dtype=np.int32) % 50, (rows, 1))
        batch["cls_positions"] = np.zeros((rows, 1), np.int32)
    return batch


def logits_and_gradient(model, batch, mesh=None, seeds=None):
    """Returns logits and gradient of a model, on a mesh, or of several models at once."""

    def loss(params):
        logits = model.apply(params, batch, dropout_key=jax.random.key(3))["mlm_logits"]
        return jnp.sin(logits).mean(), logits

    def run(params):
        with jax.sharding.use_abstract_mesh((mesh or no_mesh).abstract_mesh):
            return jax.grad(loss, has_aux=True)(params)

    no_mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    if seeds:
        params = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), seeds))
        return jax.device_get(jax.jit(jax.vmap(run))(params))
    params = jax.jit(model.init)(jax.random.key(0))
    layout = None if mesh is None else (sharding.tree_shardings(params, mesh),)
    return jax.device_get(jax.jit(run, in_shardings=layout)(params))


def assert_trees_agree(one, other):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * abs(b).max() + 1e-9, err_msg=sharding.path_name(path))


@pytest.mark.full
def test_a_model_by_splash_on_a_mesh_and_over_seeds(interpreted):
    batch = make_batch()
    scanned = make_model("tpu", scan_layers=True, remat="dots_no_batch")
    assert kernel_named(scanned.spec, 128, True) == "splash"
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])
    assert_trees_agree(logits_and_gradient(scanned, batch, mesh), logits_and_gradient(make_model("cpu"), batch))
    batch = make_batch(rows=2, packed=True)
    one, other = (logits_and_gradient(make_model(platform), batch, seeds=2) for platform in ("tpu", "cpu"))
    assert_trees_agree(one, other)


@pytest.mark.more
def test_a_model_by_cudnn_with_padding_anywhere(cudnn_by_xla, monkeypatch):
    exact = dataclasses.replace(kernel_choice.LIMITS["cudnn"], dtypes=("float32",))
    monkeypatch.setitem(kernel_choice.LIMITS, "cudnn", exact)
    model, batch = make_model("cuda", attention="causal"), make_batch(rows=2)
    no_dropout = {"hidden_dropout": 0.0, "attention_output_dropout": 0.0}
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, **no_dropout))
    plain = dataclasses.replace(model, spec=dataclasses.replace(model.spec, platform="cpu"))
    assert kernel_named(model.spec, 128, True) == "cudnn"
    assert_trees_agree(*(logits_and_gradient(one, batch, seeds=2) for one in (model, plain)))


@pytest.mark.parametrize("kind", ["right", "packed"])
def test_cudnn_lowers_for_a_gpu(monkeypatch, kind):
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    mask = make_mask(kind, False, ROWS, 64)

    def loss(query):
        return (kernels.cudnn(query, query, query, mask) * query).astype(jnp.float32).sum()

    query = jnp.zeros((3, ROWS, HEADS, 64, 16), jnp.bfloat16)
    gradient = jax.vmap(jax.grad(loss)) if kind == "right" else lambda query: jax.grad(loss)(query[0])
    text = jax.jit(gradient).trace(query).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and "Backward" in text


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (dict(platform="tpu", dtype="float32", head_size=64, sequence_length=512), "row"),
        (dict(platform="tpu", dtype="float32", head_size=64, sequence_length=128), "splash"),
        (dict(platform="tpu", dtype="float32", head_size=64, sequence_length=8192), "splash"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=500), "row"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=512, dropout=0.1), "row"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=300, dropout=0.1), "row"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=128, dropout=0.1), "xla"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=4096, dropout=0.1), "xla"),
        (dict(platform="tpu", dtype="bfloat16", head_size=20, sequence_length=512), "xla"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=512, relative=True), "row"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=128, relative=True), "xla"),
        (dict(platform="tpu", dtype="bfloat16", head_size=64, sequence_length=1024, relative=True), "xla"),
        (dict(platform="tpu", dtype="float32", head_size=64, sequence_length=256, relative=True), "row"),
        (dict(platform="tpu", dtype="float32", head_size=64, sequence_length=512, relative=True), "xla"),
        (dict(platform="cuda", dtype="bfloat16", head_size=64, sequence_length=512, relative=True), "xla"),
        (dict(platform="cuda", dtype="bfloat16", head_size=64, sequence_length=500), "cudnn"),
        (dict(platform="cuda", dtype="float32", head_size=64, sequence_length=512), "xla"),
        (dict(platform="gpu", dtype="bfloat16", head_size=64, sequence_length=512), "xla"),
        (dict(platform="cpu", dtype="float32", head_size=64, sequence_length=512), "xla"),
    ],
)
def test_auto_takes_a_kernel_where_it_can_do_what_is_asked(asked, expected):
    assert kernel_choice.resolve_kernel("auto", **asked) == expected


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("splash", {"platform": "cpu"}, "found splash, but it runs on tpu, and this is cpu"),
        ("row", {"sequence_length": 4096}, "rows have 4096 tokens; expected at most 2048"),
        ("row", {"sequence_length": 600, "relative": True}, "have 600 tokens; expected at most 512 with relative pos"),
        ("splash", {"relative": True}, "no place for the scores of relative positions; expected row"),
        ("cudnn", {"platform": "gpu"}, "found cudnn, but it runs on cuda"),
        (
            "flash",
            {"dropout": 0.1},
            "found flash, but it cannot do config.model.attention_dropout=0.1; expected",
        ),
        ("cudnn", {"dtype": "float32"}, "cannot compute in float32; expected config.model.dtype to be bfloat16"),
        ("splash", {"sequence_length": 200}, "rows have 200 tokens; expected a multiple of 128"),
        ("tile", {"head_size": 48}, "heads have 48 units .*; expected 16, 32, 64 or 128, or auto or xla as kernel"),
        ("tile", {"platform": "cpu"}, "found tile, but it runs on cuda, and this is cpu"),
        ("tile", {"relative": True}, "no place for the scores of relative positions; expected row"),
        ("cudnn", {"head_size": 20}, "heads have 20 units .*; expected a multiple of 8, at most 128"),
    ],
)
def test_a_named_kernel_that_cannot_do_it_is_refused(name, asked, message):
    with pytest.raises(UserError, match=f"config.model.attention_kernel: .*{message}"):
        kernel_choice.resolve_kernel(name, **asked)


def test_recipes_and_models_with_such_a_kernel_are_refused():
    config = config_lib.base()
    config.data.corpus = "anywhere"
    config.model.attention_kernel = "splash"
    with pytest.raises(UserError, match="config.model.attention_kernel: .*attention_dropout=0.1"):
        config_lib.validate(config)
    config.model.attention_dropout = 0.0
    config_lib.validate(config)
    with pytest.raises(UserError, match="config.model.attention_kernel: .*runs on tpu, and this is cpu"):
        model_lib.build(config.model, 64)
    config.data.sequence_length = 100
    with pytest.raises(UserError, match="config.model.attention_kernel: .*rows have 100 tokens"):
        config_lib.validate(config)
    with pytest.raises(UserError, match="config.model.attention_kernel: .*rows have 64 tokens"):
        kernel_named(make_model("tpu", attention_kernel="splash").spec, 64, False)


@pytest.mark.full
def test_a_training_step_by_splash_compiles_for_a_pod(tpu_devices):
    config = config_lib.base()
    config.model.update(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=96, max_positions=128)
    config.model.update(attention_dropout=0.0, scan_layers=True)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, tpu_devices("v5e:2x2"))
    model = model_lib.build(config.model, 64, platform="tpu")
    assert model.spec.dtype == "bfloat16"
    batch = make_batch() | {
        "masked_labels": np.zeros((4, 3), np.int32),
        "masked_weights": np.ones((4, 3), np.float32),
        "next_sentence_label": np.zeros(4, np.int32),
    }

    def described(x, layout):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, layout))

    batch = jax.tree.map(lambda x: described(x, P(("data", "fsdp"))), batch)
    whole = [described(x, P()) for x in (np.int32(0), jax.eval_shape(lambda: step_lib.dropout_key(config)))]
    train_step = step_lib.make_train_step(config, model, mesh, 10)
    program = train_step.lower(step_lib.abstract_state(config, model, mesh, 10), batch, *whole).compile().as_text()
    assert "splash_mha_fwd" in program and "splash_mha_dkv" in program
