"""Tests sizes, initialisation, padding, causality, dropout, and the two ways to run the layers."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.model import layers

VOCAB = 61
LARGE = dict(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096)
ROBERTA = dict(position_offset=2, type_vocab_size=1)


def build(vocab_size=VOCAB, next_sentence=True, **changes):
    config = config_lib.base().model
    if vocab_size == VOCAB:
        config.update(hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40, max_positions=20)
    config.update(changes)
    return model_lib.build(config, vocab_size, next_sentence=next_sentence)


@pytest.fixture(scope="module")
def params():
    return jax.jit(build().init)(jax.random.key(1))


def make_batch(lengths, length, seed=0):
    random = np.random.default_rng(seed)
    lengths = np.array(lengths)[:, None]
    rows = len(lengths)
    return {
        "input_ids": random.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "attention_mask": (np.arange(length) < lengths).astype(np.int32),
        "token_type_ids": (np.arange(length) >= lengths // 2).astype(np.int32),
        "masked_positions": random.integers(0, lengths, (rows, 3)).astype(np.int32),
    }


def assert_close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(np.asarray(b)).max())


@pytest.mark.parametrize(
    ("vocab_size", "changes", "encoder", "whole"),
    [
        (30522, {}, 109_482_240, 110_106_428),
        (30522, LARGE, 335_141_888, 336_226_108),
        (50265, ROBERTA | {"next_sentence": False}, 124_645_632, None),
    ],
)
def test_published_parameter_counts(vocab_size, changes, encoder, whole):
    params = jax.eval_shape(build(vocab_size, **changes).init, jax.random.key(0))
    assert model_lib.parameter_count((params["encoder"], params["pooler"])) == encoder
    if whole:
        assert model_lib.parameter_count(params) == whole


def test_initialisation_as_published():
    params = jax.jit(build(hidden_size=96, intermediate_size=300).init)(jax.random.key(0))
    draws = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key in ("kernel", "embedding"):
            draws.append(np.ravel(leaf))
        else:
            assert (np.asarray(leaf) == (path[-1].key == "scale")).all()
    for one in range(len(draws)):
        assert not any(np.array_equal(draws[one][:50], other[:50]) for other in draws[one + 1 :])
    draws = np.concatenate(draws)
    assert abs(draws).max() <= 0.04
    # A normal of deviation 0.02 cut at two of them has 0.8796 of its deviation.
    assert draws.std() == pytest.approx(0.02 * 0.8796, rel=0.01) and abs(draws.mean()) < 1e-4


def test_imports_no_data_pipeline_and_no_checkpoint_library():
    code = (
        "import sys, bert_jax.model, bert_jax.sharding, bert_jax.training.step, bert_jax.training.flops;"
        "print([m for m in ('ml_collections', 'grain', 'orbax', 'tensorflow_datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_vocabularies_that_differ_are_refused():
    config = config_lib.base().model
    config.vocab_size = 30522
    with pytest.raises(UserError, match="config.model.vocab_size: found 30522, but the corpus has 61"):
        model_lib.build(config, 61)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_padding_changes_nothing(params, scan_layers):
    apply = jax.jit(build(scan_layers=scan_layers).apply)
    batch = make_batch([17, 5, 11], 17)
    outputs = apply(params, batch)
    absent = batch["attention_mask"] == 0
    garbage = dict(batch)
    garbage["input_ids"] = np.where(absent, VOCAB - 1 - batch["input_ids"], batch["input_ids"])
    garbage["token_type_ids"] = np.where(absent, 1 - batch["token_type_ids"], batch["token_type_ids"])
    other = apply(params, garbage)
    for name in ("mlm_logits", "next_sentence_logits", "pooled"):
        np.testing.assert_array_equal(outputs[name], other[name])
    np.testing.assert_array_equal(outputs["hidden"][~absent], other["hidden"][~absent])


@pytest.mark.more
def test_a_model_of_one_token_type_reads_pairs():
    model = build(**ROBERTA)
    params, pairs = model.init(jax.random.key(0)), make_batch([17, 5], 17)
    single = pairs | {"token_type_ids": np.zeros_like(pairs["token_type_ids"])}
    np.testing.assert_array_equal(model.apply(params, pairs)["hidden"], model.apply(params, single)["hidden"])


def test_a_batch_and_its_members_agree(params):
    apply = jax.jit(build().apply)
    batch = make_batch([17, 5, 11], 17)
    together = apply(params, batch)
    for row, length in enumerate([17, 5, 11]):
        alone = {name: a[row : row + 1, : length if name != "masked_positions" else None] for name, a in batch.items()}
        single = apply(params, alone)
        assert_close(single["mlm_logits"][0], together["mlm_logits"][row])
        assert_close(single["next_sentence_logits"][0], together["next_sentence_logits"][row])
        assert_close(single["hidden"][0], together["hidden"][row, :length])


def test_causal_attention_sees_no_later_token():
    model = build(attention="causal", pooler=False, next_sentence=False)
    params = jax.jit(model.init)(jax.random.key(1))
    batch = make_batch([12, 12], 12)
    del batch["masked_positions"]
    later = dict(batch, input_ids=batch["input_ids"].copy())
    later["input_ids"][:, 7] = (later["input_ids"][:, 7] + 1) % VOCAB
    one, other = (jax.jit(model.apply)(params, b)["mlm_logits"] for b in (batch, later))
    assert one.shape == (2, 12, VOCAB)
    np.testing.assert_array_equal(one[:, :7], other[:, :7])
    assert (abs(one - other)[:, 7:].max(-1) > 1e-4).all()


def test_scanned_and_unrolled_agree_with_dropout(params):
    batch, key = make_batch([9, 4], 9), jax.random.key(3)

    def loss(model):
        return lambda params: model.apply(params, batch, dropout_key=key)["mlm_logits"].std()

    results = [jax.jit(jax.value_and_grad(loss(build(scan_layers=scan))))(params) for scan in (False, True)]
    assert_close(results[0][0], results[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), results[0][1], results[1][1])


def test_bfloat16_stays_near_float32(params):
    batch = make_batch([17, 5, 11], 17)
    outputs = jax.jit(build(dtype="bfloat16").apply)(params, batch)
    assert outputs["hidden"].dtype == jnp.bfloat16 and outputs["mlm_logits"].dtype == jnp.float32
    assert_close(outputs["mlm_logits"], jax.jit(build(dtype="float32").apply)(params, batch)["mlm_logits"], 0.05)


def test_dropout_keeps_the_mean_and_draws_freely():
    rate, shape = 0.1, (64, 32, 512)
    seeds = layers.dropout_seeds(jax.random.key(0), 2)
    masks = [np.asarray(jax.jit(lambda s: layers.dropout(jnp.ones(shape), rate, s))(seed)) for seed in seeds]
    size = masks[0].size
    deviation = (rate * (1 - rate) / size) ** 0.5
    kept = [mask != 0 for mask in masks]
    for mask, keep in zip(masks, kept, strict=True):
        assert abs(keep.mean() - 0.9) < 4 * deviation and abs(mask.mean() - 1) < 5 * deviation
        np.testing.assert_allclose(mask[keep], 1 / 0.9, rtol=1e-6)
        # Every row and column has its share: a pattern along an axis would show here.
        for axes in ((0, 1), (0, 2), (1, 2)):
            share = keep.mean(axes)
            assert abs(share - 0.9).max() < 5 * deviation * share.size**0.5
        for axis in range(3):  # neighbours are independent
            neighbours = (keep & np.roll(keep, 1, axis)).mean()
            assert abs(neighbours - 0.81) < 5 * (0.81 * 0.19 / size) ** 0.5
    assert abs((kept[0] & kept[1]).mean() - 0.81) < 5 * (0.81 * 0.19 / size) ** 0.5


@pytest.mark.parametrize(("rate", "kept"), [(1e-11, 1.0), (1 - 1e-11, 0.0)])
def test_dropout_at_rates_beyond_its_bits(rate, kept):
    out = layers.dropout(jnp.ones((8, 8)), rate, layers.dropout_seeds(jax.random.key(0)))
    np.testing.assert_allclose(out, np.full((8, 8), kept), rtol=1e-6)


def test_dropout_gradient_uses_the_same_mask():
    seed = layers.dropout_seeds(jax.random.key(5))
    x = jnp.linspace(1.0, 2.0, 600).reshape(20, 30)
    dropped, pullback = jax.vjp(lambda x: layers.dropout(x, 0.3, seed), x)
    np.testing.assert_array_equal(pullback(jnp.ones_like(x))[0] != 0, dropped != 0)


def test_custom_gradients_against_automatic_ones():
    x = jax.random.normal(jax.random.key(0), (4, 6, 5)) * 3
    slope = jax.grad(lambda x: layers.gelu(x).sum())(x)
    assert_close(layers.gelu(x), jax.nn.gelu(x, approximate=False), 1e-6)
    assert_close(slope, jax.grad(lambda x: jax.nn.gelu(x, approximate=False).sum())(x), 1e-6)
    for outputs in (3, 9):  # either operand the narrower
        kernel, bias = jax.random.normal(jax.random.key(1), (5, outputs)), jnp.arange(float(outputs))

        def ours(x, kernel, bias):
            return jnp.sin(layers.add_bias(layers.project(x, kernel), bias)).sum()

        def plain(x, kernel, bias):
            return jnp.sin(x @ kernel + bias[None, None]).sum()

        for one, other in zip(*(jax.grad(f, argnums=(0, 1, 2))(x, kernel, bias) for f in (ours, plain)), strict=True):
            assert_close(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "rms_norm", "norm_place": "pre", "zero_centered_scale": True, "output_norm": True},
        {"query_key_norm": "rms", "positions": "rotary"},
    ],
)
def test_parameters_have_types_of_their_own(changes):
    """One that takes the type of what it meets would make the second step another program than the first."""
    shapes = jax.eval_shape(build(next_sentence=False, **changes).init, jax.random.key(0))
    assert not [leaf for leaf in jax.tree.leaves(shapes) if leaf.weak_type or leaf.dtype != jnp.float32]


def test_a_learned_temperature_has_a_type_of_its_own():
    task = model_lib.Task("embedding", 24, "mean", 0.0, temperature=0.05)
    model = model_lib.build(config_lib.base().model, VOCAB, next_sentence=False, language_model=False, task=task)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert not [leaf for leaf in jax.tree.leaves(shapes) if leaf.weak_type]
