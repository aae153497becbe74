"""Tests the encoder's switches in combinations that some family has and in others that none has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config import architecture
from bert_jax.errors import UserError
from bert_jax.model import kernels
from bert_jax.model.parameters import leaves_by_name
from bert_jax.model.positions import relative_rows, relative_shift
from bert_jax.model.stack import layer_patterns

VOCABULARY, LENGTH, MASK = 61, 24, 7
SIZES = {
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 24,
    "max_positions": 32,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "initializer_range": 0.2,
}
PRE = {"norm_place": "pre", "first_norm": False, "norm_bias": False, "attention_bias": False, "mlp_bias": False}
WINDOWS = {"local_window": 6, "global_every": 3}
SCALED = {"positions": "rotary", "rotary_scaling": "linear", "rotary_factor": 2.0}
SWITCHES = {
    "shared": {"embedding_size": 8, "layer_groups": 1, "activation": "gelu_tanh"},
    "groups": {"layer_groups": 2, "type_vocab_size": 0, "head_activation": "relu"},
    "windows": {**PRE, **WINDOWS, "num_layers": 5, "mlp": "gated", "positions": "rotary", "local_rotary_base": 100.0},
    "few kv heads": {
        **PRE, "num_kv_heads": 2, "norm": "rms_norm", "embedding_norm": False, "positions": "rotary", "head_size": 6,
        "mlm_transform": False, "tied_decoder": False, "decoder_bias": False, "activation": "silu", "mlp": "gated",
    },
    "relative": {
        "positions": "relative", "relative_buckets": 6, "relative_shared": True, "relative_norm": True,
        "conv_kernel_size": 3, "conv_groups": 2, "mask_decoder": "enhanced",
    },
    "normed heads": {
        "query_key_norm": "rms", "output_norm": True, "zero_centered_scale": True, "embedding_scale": True,
        "norm": "rms_norm", "norm_place": "pre", "embedding_norm": False, "positions": "rotary", "score_size": 9,
        "local_window": 6, "global_every": 3, "global_offset": 2, "num_kv_heads": 2, "num_layers": 6, "mlp": "gated",
    },
    # No family has these.
    "normed queries and keys, relative, shared": {
        "query_key_norm": "layer", "query_key_norm_over": "heads", "positions": "relative", "relative_shared": True,
        "relative_buckets": 6, "layer_groups": 1, "output_norm": True, "num_kv_heads": 2, "score_size": 3,
    },
    "normed queries and keys without positions": {
        "query_key_norm": "rms", "query_key_norm_over": "heads", "positions": "none", "zero_centered_scale": True,
    },
    "relative, shared, pre-norm": {
        "positions": "learned+relative", "relative_span": 5, "relative_terms": "p2c", "layer_groups": 1,
        "norm_place": "pre", "num_kv_heads": 1, "embedding_size": 8, "key_bias": False, "mask_decoder": "enhanced",
    },
    "windows, shared, post-norm": {**WINDOWS, "layer_groups": 2, "positions": "learned+rotary", "norm": "rms_norm"},
    "scaled, shared, down bias alone": {
        **WINDOWS, **SCALED, "layer_groups": 1, "mlp": "gated", "mlp_up_bias": False, "rotary_scaling": "llama3",
        "rotary_trained": 12, "local_rotary_scaling": True,
    },
    "windows, causal": {**WINDOWS, "attention": "causal", "positions": "none", "scaled_initializer": True},
    "token dropout": {
        "token_dropout": True, "mask_id": MASK, "norm_place": "pre", "embedding_norm": False, "positions": "rotary",
    },
    "token dropout, learned, windows, wide embeddings": {
        **WINDOWS, "token_dropout": True, "mask_id": MASK, "embedding_size": 8, "mask_decoder": "enhanced",
        "positions": "learned+rotary", "num_kv_heads": 2,
    },
}  # fmt: skip
# What make test has time for; make test-more runs MORE, make test-full the others.
SHORT = ("windows", "few kv heads", "token dropout", "normed heads")
MORE = ("shared", "relative", "windows, causal", "normed queries and keys without positions")


def marks(name):
    """Returns the marks of an encoder's cases."""
    return () if name in SHORT else pytest.mark.more if name in MORE else pytest.mark.full


EVERY = pytest.mark.parametrize(
    "switches",
    [pytest.param(switches, id=name, marks=marks(name))
     for name, switches in SWITCHES.items()],
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def make_model(switches, **others):
    config = {**config_lib.base().model.to_dict(), **SIZES, "pooler": True, **switches, **others}
    pair = config["attention"] != "causal"
    return model_lib.build(config, VOCABULARY, next_sentence=pair, replaced_tokens=True)


def make_batch(rows=4):
    random = np.random.default_rng(0)
    lengths = np.array([LENGTH, 9, 17, LENGTH - 1, 5, 20, 24, 11])[:rows]
    present = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    segments = (np.arange(LENGTH) > 4).astype(np.int32) * present
    positions = np.sort(np.stack([random.choice(n, 4, replace=False) for n in lengths]), axis=1)
    ids = random.integers(1, VOCABULARY, (rows, LENGTH)).astype(np.int32)
    np.put_along_axis(ids, positions[:, :2], MASK, axis=1)
    return {
        "input_ids": ids * present,
        "attention_mask": present,
        "token_type_ids": segments,
        "masked_positions": positions.astype(np.int32),
    }


def outputs_of(model, params, batch, **arguments):
    return jax.jit(lambda params, batch: model.apply(params, batch, **arguments))(params, batch)


def loss_of(model, params, batch):
    outputs = model.apply(params, batch)
    present = jnp.asarray(batch["attention_mask"], jnp.float32)
    total = jnp.square(outputs["mlm_logits"]).mean() + (jnp.square(outputs["replaced_logits"]) * present).mean()
    for name in ("pooled", "next_sentence_logits"):
        total += jnp.square(outputs[name]).mean() if name in outputs else 0.0
    return total


def assert_close(actual, expected, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected)


@EVERY
def test_every_parameter_learns_and_scanned_layers_are_those_one_by_one(switches):
    model, batch = make_model(switches), make_batch()
    params = model.init(jax.random.key(0))
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: loss_of(model, p, batch)))(params)
    still = [
        sharding.path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 0
    ]
    # Where the key's bias cancels.
    no_places = model.spec.positions in ("learned", "none") and model.spec.query_key_norm == "none"
    assert all(name.endswith("attention/key/bias") and no_places for name in still), still
    scanned = make_model(switches, scan_layers=True)
    stacked = model_lib.stack_layers(params)
    again = jax.jit(jax.value_and_grad(lambda p: loss_of(scanned, p, batch)))(stacked)
    assert_close(again[0], loss)
    assert_close(model_lib.unstack_layers(again[1]), gradient)
    assert jax.tree.structure(model_lib.unstack_layers(stacked)) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "name", [pytest.param("windows", marks=pytest.mark.more), pytest.param("relative", marks=pytest.mark.full)]
)
def test_layers_that_are_computed_again_give_the_same_gradient(name):
    batch, remat = make_batch(), make_model(SWITCHES[name], scan_layers=True, remat="full")
    params = remat.init(jax.random.key(0))
    expected = jax.jit(jax.grad(lambda p: loss_of(make_model(SWITCHES[name]), p, batch)))(params)
    assert_close(jax.jit(jax.grad(lambda p: loss_of(remat, p, batch)))(params), expected)


@EVERY
def test_padding_changes_nothing_and_packed_rows_are_the_unpacked(switches):
    model, batch = make_model(switches), make_batch(3)
    params = model.init(jax.random.key(1))
    whole = outputs_of(model, params, batch, hidden_states=True)
    present = batch["attention_mask"]
    noisy = batch | {
        "input_ids": np.where(present, batch["input_ids"], MASK),
        "token_type_ids": batch["token_type_ids"],
    }
    other = outputs_of(model, params, noisy, hidden_states=True)
    assert_close(other["mlm_logits"], whole["mlm_logits"])
    at = present > 0
    assert_close(np.asarray(other["hidden_states"])[:, at], np.asarray(whole["hidden_states"])[:, at])
    # The second and the third row (9 and 17 tokens) in one of 26.
    lengths, starts = [9, 17], [0, 9]
    packed = {name: np.zeros((1, 26), np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    packed |= {"sequence_ids": np.zeros((1, 26), np.int32), "position_ids": np.zeros((1, 26), np.int32)}
    for number, (length, start) in enumerate(zip(lengths, starts, strict=True), 1):
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            packed[name][0, start : start + length] = batch[name][number, :length]
        packed["sequence_ids"][0, start : start + length] = number
        packed["position_ids"][0, start : start + length] = np.arange(length)
    packed["cls_positions"] = np.array([starts], np.int32)
    packed["masked_positions"] = np.concatenate([batch["masked_positions"][i + 1] + starts[i] for i in range(2)])[None]
    actual = outputs_of(model, params, packed, hidden_states=True)
    for number, (length, start) in enumerate(zip(lengths, starts, strict=True), 1):
        states = np.asarray(actual["hidden_states"])[:, 0, start : start + length]
        assert_close(states, np.asarray(whole["hidden_states"])[:, number, :length])
    assert_close(actual["mlm_logits"].reshape(2, 4, -1), whole["mlm_logits"][1:])


@EVERY
def test_the_mesh_changes_nothing(switches):
    model, batch = make_model(switches), make_batch(8)
    params = model.init(jax.random.key(2))
    alone = jax.jit(jax.grad(lambda p: loss_of(model, p, batch)))(params)
    tensor = model.spec.num_kv_heads if model.spec.num_kv_heads < 4 else 2
    mesh = sharding.make_mesh({"data": -1, "fsdp": 2, "tensor": tensor})
    placed = jax.device_put(params, sharding.tree_shardings(params, mesh))
    rows = sharding.put_rows(batch, mesh)

    def gradient(params, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(lambda p: loss_of(model, p, batch))(params)

    assert_close(jax.device_get(jax.jit(gradient)(placed, rows)), jax.device_get(alone))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["windows", "relative"])
def test_dropout_is_the_same_however_layers_are_run_and_bfloat16_is_near(name):
    dropping = {"hidden_dropout": 0.2, "attention_dropout": 0.1}
    model, batch = make_model(SWITCHES[name], **dropping), make_batch(3)
    params, key = model.init(jax.random.key(3)), jax.random.key(4)
    expected = outputs_of(model, params, batch, dropout_key=key)["mlm_logits"]
    scanned = make_model(SWITCHES[name], scan_layers=True, **dropping)
    assert_close(outputs_of(scanned, params, batch, dropout_key=key)["mlm_logits"], expected)
    assert not np.allclose(expected, outputs_of(model, params, batch)["mlm_logits"])
    narrow = make_model(SWITCHES[name], dtype="bfloat16")
    wide = outputs_of(make_model(SWITCHES[name]), params, batch)["mlm_logits"]
    error = np.linalg.norm(outputs_of(narrow, params, batch)["mlm_logits"] - wide) / np.linalg.norm(wide)
    assert error < 0.05


def test_long_rows_of_windows_are_those_of_masked_scores_and_may_drop_weights():
    """Rows of more than three blocks are scored block by block: with shared keys, packed rows and dropout."""
    length, switches = 230, {**SWITCHES["windows"], "num_kv_heads": 2, "num_layers": 2, "max_positions": 256}
    model = make_model(switches)
    params, random = model.init(jax.random.key(6)), np.random.default_rng(1)
    ids = random.integers(1, VOCABULARY, (2, length)).astype(np.int32)
    batch = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)}
    batch["sequence_ids"] = np.where(np.arange(length) < 100, 1, 2)[None].repeat(2, 0).astype(np.int32)
    batch["position_ids"] = np.where(np.arange(length) < 100, np.arange(length), np.arange(length) - 100)[None]
    batch["position_ids"] = batch["position_ids"].repeat(2, 0).astype(np.int32)
    batch["cls_positions"] = np.array([[0, 100]] * 2, np.int32)
    whole = outputs_of(model, params, batch)["hidden"]
    for begin, stop in ((0, 100), (100, length)):  # short enough to be masked scores
        part = {"input_ids": ids[:, begin:stop]}
        part |= {name: batch[name][:, begin:stop] for name in ("token_type_ids", "attention_mask")}
        assert_close(outputs_of(model, params, part)["hidden"], np.asarray(whole)[:, begin:stop])
    dropping = make_model(switches, attention_dropout=0.5)
    dropped = outputs_of(dropping, params, batch, dropout_key=jax.random.key(7))["hidden"]
    assert np.isfinite(dropped).all() and not np.allclose(dropped, whole)


@pytest.mark.parametrize("name", ["windows", "relative", "windows, shared, post-norm", "normed heads"])
def test_attention_weights_are_of_what_a_layer_sees(name):
    model, batch = make_model(SWITCHES[name]), make_batch(2)
    params = model.init(jax.random.key(5))
    weights = outputs_of(model, params, batch, attention_weights=True)["attention_weights"]
    assert weights.shape == (model.spec.num_layers, 2, 4, LENGTH, LENGTH)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    reach = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) > 3
    local = [window > 0 for window in model.spec.windows]
    for layer, near in zip(weights, local, strict=True):
        assert (np.asarray(layer)[0][:, reach].max() == 0) == near


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reach", [0, 3, 70])
def test_a_window_is_that_of_the_masked_scores(reach, causal):
    random = np.random.default_rng(0)
    sequence = 3 * max(64, reach) + 17
    query, key, value = (jnp.asarray(random.normal(size=(2, 2, sequence, 4)), jnp.float32) for _ in range(3))
    present = jnp.asarray(random.random((2, sequence)) < 0.9)
    ids = jnp.asarray(np.sort(random.integers(1, 4, (2, sequence)), axis=1).astype(np.int32))
    for sequence_ids in (None, ids):
        mask = kernels.AttentionMask(present, sequence_ids, causal, reach)
        actual = kernels.windowed_attention(query, key, value, mask)
        masked = jnp.einsum("bnqk,bnkd->bnqd", kernels.attention_weights(query, key, mask), value)
        seen = (np.asarray(mask.to_array()).any(-1) & np.asarray(present)[:, None])[..., None]
        np.testing.assert_allclose(np.where(seen, actual, 0), np.where(seen, masked, 0), atol=1e-5)


def test_windowed_memory_grows_with_the_length():
    def bytes_of(length):
        shapes = [jax.ShapeDtypeStruct((1, 2, length, 8), jnp.float32)] * 3
        present = jax.ShapeDtypeStruct((1, length), bool)

        def loss(query, key, value, present):
            return kernels.xla(query, key, value, kernels.AttentionMask(present, window=64)).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes, present).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.2 * bytes_of(4096)


def test_scores_of_distances_go_to_their_keys():
    scores = np.random.default_rng(0).normal(size=(2, 5, 9)).astype(np.float32)
    actual = relative_shift(jnp.asarray(scores))
    for i in range(5):
        for j in range(5):
            np.testing.assert_array_equal(actual[:, i, j], scores[:, i, (i - j) + 4])


def test_rows_of_distances():
    spec = make_model({"positions": "relative", "relative_span": 3}).spec
    np.testing.assert_array_equal(relative_rows(spec, 6), [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5])
    spec = make_model({"positions": "relative", "relative_buckets": 4, "relative_span": 16}).spec
    # One bucket each up to two places, and one for all that is further.
    np.testing.assert_array_equal(relative_rows(spec, 6)[5:], [4, 5, 6, 7, 7, 7])


def test_layers_are_run_as_the_fewest_patterns():
    def patterns(**switches):
        return [(s.first, len(s.windows), s.repeats) for s in layer_patterns(make_model(switches).spec)]

    assert patterns(num_layers=12) == [(0, 1, 12)]
    assert patterns(num_layers=22, **PRE, **WINDOWS) == [(0, 1, 1), (1, 3, 7)]
    assert patterns(num_layers=12, **WINDOWS) == [(0, 3, 4)]
    assert patterns(num_layers=24, local_window=6, global_every=6, global_offset=5) == [(0, 6, 4)]
    assert patterns(num_layers=12, layer_groups=1) == [(0, 1, 12)]
    assert patterns(num_layers=12, layer_groups=2, group_layers=3) == [(0, 3, 2), (6, 3, 2)]
    assert patterns(num_layers=12, layer_windows=(4,)) == [(0, 1, 12)]
    assert patterns(num_layers=12, layer_windows=(4, 8, 0)) == [(0, 3, 4)]
    assert patterns(num_layers=4, layer_windows=(4, 4, 8)) == [(0, 1, 2), (2, 1, 1), (3, 1, 1)]
    assert patterns(num_layers=6, conv_kernel_size=3) == [(0, 1, 1), (1, 1, 5)]
    assert patterns(num_layers=6, mask_decoder="enhanced") == [(0, 1, 5), (5, 1, 1)]


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"num_heads": 3}, "hidden_size: found 16, .*num_heads=3"),
        ({"num_kv_heads": 3}, "num_kv_heads: found 3, .*a divisor of 4"),
        ({"positions": "rotary", "head_size": 5}, "positions: found rotary, .*an even number"),
        ({"positions": "rotary", "rotary_base": 0.0}, "rotary_base: found 0.0, .*at least 1"),
        ({"positions": "rotary", "local_rotary_base": 0.5}, "local_rotary_base: found 0.5, .*at least 1"),
        ({"rotary_scaling": "linear"}, "rotary_scaling: found linear, .*positions=learned has no rotary"),
        ({"positions": "rotary", "rotary_factor": 4.0}, "rotary_factor: found 4.0, .*expected 1.0, or a kind"),
        ({**SCALED, "rotary_scaling": "yarn"}, "rotary_trained: found 0, .*rotary_scaling=yarn depends on it"),
        ({**SCALED, "rotary_mixed": 0.5}, "rotary_mixed: found 0.5, .*expected 1.0, or rotary_scaling=ntk"),
        (
            {**SCALED, "rotary_scaling": "llama3", "rotary_trained": 8, "rotary_slow_turns": 4.0},
            "rotary_fast_turns: found 0.0, .*rotary_slow_turns=4.0 and this; expected more",
        ),
        (
            {**SCALED, "rotary_scaling": "yarn", "rotary_trained": 8, "rotary_base": 1.0},
            "rotary_base: found 1.0, .*expected more than 1",
        ),
        (
            {**SCALED, "rotary_scaling": "dynamic", "rotary_trained": 8, "head_size": 2},
            "rotary_scaling: found dynamic, .*at least 4 units",
        ),
        ({"positions": "relative", **WINDOWS}, "positions: found relative, .*local_window=6"),
        (
            {"positions": "relative", "attention_kernel": "splash"},
            "attention_kernel: found splash, .*expected auto, xla or row",
        ),
        (
            {"positions": "bias", "attention_kernel": "row"},
            "attention_kernel: found row, .*positions=bias; expected auto or xla",
        ),
        ({"positions": "learned+bias", "bias_buckets": 7}, "bias_buckets: found 7, .*an even number from 4 on"),
        ({"positions": "bias", "bias_distance": 8}, "bias_distance: found 8, .*expected more than 32 / 4"),
        ({"positions": "relative", "relative_buckets": 1}, "relative_buckets: found 1, .*at least 2"),
        (
            {"positions": "relative", "relative_buckets": 10, "relative_span": 5},
            "relative_buckets: found 10, .*relative_span=5",
        ),
        ({"first_norm": False}, "first_norm: found False, .*norm_place=pre"),
        ({**PRE, "layer_groups": 1}, "first_norm: found False, .*layer_groups=1"),
        ({"layer_groups": 1, "group_layers": 2}, "layer_groups: found 1, .*num_layers=3 is not a multiple"),
        ({"layer_groups": 5}, "layer_groups: found 5, .*no more groups"),
        ({"group_layers": 2}, "group_layers: found 2, .*expected 1"),
        ({"conv_kernel_size": 4}, "conv_kernel_size: found 4, .*odd"),
        ({"conv_kernel_size": 3, "layer_groups": 1}, "conv_kernel_size: found 3, .*layer_groups=1"),
        ({"conv_kernel_size": 3, "attention": "causal"}, "conv_kernel_size: found 3, .*causal"),
        ({"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups: found 5, .*hidden_size=16"),
        ({"local_window": 4, "global_every": 0}, "global_every: found 0, .*at least 1"),
        (
            {"local_window": 4, "global_offset": 3},
            "global_offset: found 3, .*global_every=3; expected a number below that",
        ),
        ({"mlm_transform": False, "embedding_size": 8}, "tied_decoder: found True, .*embedding_size=8"),
        ({"layer_windows": (4, "8")}, r"layer_windows: found \(4, '8'\), .*numbers from 0 on"),
        ({"layer_windows": (4, 0), "local_window": 6}, r"layer_windows: found \(4, 0\), .*local_window=6"),
        ({"layer_windows": (0, 4), "positions": "relative"}, r"positions: found relative, .*layer_windows=\(0, 4\)"),
        (
            {"positions": "relative", "global_tokens": "auto", "global_projections": True},
            "positions: found relative, .*global_projections",
        ),
        ({"global_projections": True}, "global_projections: found True, .*global_tokens=none"),
    ],
)
def test_combinations_that_cannot_work_are_refused(switches, message):
    config = config_lib.base()
    config.data.corpus = "anywhere"
    config.data.sequence_length = 32
    config.objective.next_sentence = False
    config.model.update({**SIZES, **switches})
    if switches.get("attention") == "causal":
        config.objective.name = "ltr"
    with pytest.raises(UserError, match=f"config.model.{message}"):
        config_lib.validate(config)
    with pytest.raises(UserError, match=f"config.model.{message}"):
        model_lib.build(config.model, VOCABULARY, next_sentence=False)


def test_every_refusal_has_a_case():
    cases = test_combinations_that_cannot_work_are_refused.pytestmark[0].args[1]
    base = {**config_lib.base().model.to_dict(), **SIZES}
    met = {
        i for switches, _ in cases for i, rule in enumerate(architecture.REFUSALS) if rule.applies({**base, **switches})
    }
    assert met == set(range(len(architecture.REFUSALS)))


@pytest.mark.parametrize(("initializer", "largest"), [("truncated_normal", 2.0), ("normal", 6.0)])
def test_every_fresh_matrix_is_drawn_as_the_initializer_says(initializer, largest):
    """In standard deviations: 2 at most of a cut normal, whose own deviation is 0.88; a whole one goes beyond 3."""
    switches = SWITCHES["relative"] | {"relative_shared": False, "tied_decoder": False, "mlp": "gated"}
    params = make_model(switches, initializer=initializer, embedding_size=8).init(jax.random.key(0))
    weights = {name: leaf for name, leaf in leaves_by_name(params).items() if name.endswith(("kernel", "embedding"))}
    everything = np.concatenate([np.ravel(leaf) for leaf in weights.values()]) / SIZES["initializer_range"]
    assert np.abs(everything).max() < largest and everything.std() == pytest.approx(
        {"normal": 1.0, "truncated_normal": 0.8796}[initializer], rel=0.02
    )
    beyond = {name: np.abs(leaf).max() / SIZES["initializer_range"] > 2 for name, leaf in weights.items()}
    big = [name for name, leaf in weights.items() if leaf.size > 200]
    assert all(beyond[name] == (initializer == "normal") for name in big), beyond
