"""Compares a model's attention weights with numpy's and transformers', and applies its head to any layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.interop import weights
from tests.model.test_parity import FAMILIES, assert_close, our_model

VOCAB, LENGTH, HEADS = 40, 12, 3


def build(**changes):
    config = config_lib.base().model
    config.update(hidden_size=24, num_layers=2, num_heads=HEADS, intermediate_size=32, max_positions=LENGTH)
    config.update(dtype="float32", initializer_range=0.3, **changes)
    return model_lib.build(config, VOCAB, next_sentence=False)


@pytest.fixture(scope="module")
def params():
    leaves = jax.jit(build().init)(jax.random.key(3))
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + 0.2 * noise.standard_normal(leaf.shape).astype(np.float32), leaves)


def make_batch(packed):
    random = np.random.default_rng(1)
    present = np.arange(LENGTH) < np.array([[12], [7], [10]])
    batch = {
        "input_ids": np.where(present, random.integers(5, VOCAB, present.shape), 0).astype(np.int32),
        "attention_mask": present.astype(np.int32),
        "token_type_ids": np.zeros(present.shape, np.int32),
    }
    if packed:
        second = np.arange(LENGTH) >= 4
        batch["sequence_ids"] = (present * (1 + second)).astype(np.int32)
        batch["position_ids"] = np.where(second, np.arange(LENGTH) - 4, np.arange(LENGTH))[None].repeat(3, 0)
        batch["position_ids"] = batch["position_ids"].astype(np.int32)
    return batch


def by_numpy(params, states, batch, causal):
    """Computes softmax(Q K^T / sqrt(head_size)) of each layer, key bias included (Vaswani et al. 2017, section 3.2)."""
    visible = batch["attention_mask"][:, None, None, :].astype(bool)
    if "sequence_ids" in batch:
        visible = visible & (batch["sequence_ids"][:, None, :, None] == batch["sequence_ids"][:, None, None, :])
    if causal:
        visible = visible & np.tril(np.ones((LENGTH, LENGTH), bool))[None, None]
    weights_of_layers = []
    for name, hidden in zip(sorted(params["encoder"]["layers"]), states, strict=False):
        attention = params["encoder"]["layers"][name]["attention"]
        query, key = (
            np.stack(np.split(hidden @ attention[part]["kernel"] + attention[part]["bias"], HEADS, -1), 1)
            for part in ("query", "key")
        )
        scores = np.where(visible, query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]), -np.inf)
        scores = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
        weights_of_layers.append(scores / np.maximum(scores.sum(-1, keepdims=True), 1e-30))
    return np.stack(weights_of_layers)


@pytest.mark.parametrize(
    ("changes", "packed", "stacked"),
    [
        ({}, False, False),
        pytest.param({"scan_layers": True}, True, True, marks=pytest.mark.more),
        ({"attention": "causal"}, False, False),
    ],
)
def test_weights_are_those_of_the_formula(params, changes, packed, stacked):
    model, batch = build(**changes), make_batch(packed)
    given = model_lib.stack_layers(params) if stacked else params
    run = jax.jit(lambda params: model.apply(params, batch, hidden_states=True, attention_weights=True))
    outputs = jax.device_get(run(given))
    actual, present = outputs["attention_weights"], batch["attention_mask"] > 0
    assert actual.shape == (2, 3, HEADS, LENGTH, LENGTH) and actual.dtype == np.float32
    expected = by_numpy(jax.device_get(params), outputs["hidden_states"], batch, "attention" in changes)
    actual, expected = (x.transpose(1, 3, 0, 2, 4)[present] for x in (actual, expected))
    assert_close(actual, expected, 1e-5)
    np.testing.assert_allclose(actual.sum(-1), 1, atol=1e-5)


@pytest.mark.more
def test_asking_for_weights_changes_nothing_else(params):
    model, batch = build(), make_batch(False)
    plain = model.apply(params, batch)
    asked = model.apply(params, batch, attention_weights=True)
    assert asked.keys() - plain.keys() == {"attention_weights"}  # and no hidden states, which were not asked for
    assert all(jnp.array_equal(plain[name], asked[name]) for name in plain)


def test_in_bfloat16_weights_stay_float32(params):
    model, batch = build(), make_batch(False)
    narrow = model_lib.Model(dataclasses.replace(model.spec, dtype="bfloat16"))
    actual = narrow.apply(params, batch, attention_weights=True)["attention_weights"]
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_the_language_model_head_reads_any_layer(params, stacked):
    model, batch = build(), make_batch(False)
    given = model_lib.stack_layers(params) if stacked else params
    outputs = model.apply(given, batch, hidden_states=True)
    assert_close(model.language_model(given, outputs["hidden_states"][-1]), outputs["mlm_logits"], 1e-6)
    head, below = jax.device_get(params["mlm"]), jax.device_get(outputs["hidden_states"][1])
    x = below @ head["transform"]["kernel"] + head["transform"]["bias"]
    x = np.asarray(jax.nn.gelu(x, approximate=False))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.spec.norm_epsilon)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    expected = x @ np.asarray(params["encoder"]["embeddings"]["word"]["embedding"]).T + head["bias"]
    assert_close(model.language_model(given, outputs["hidden_states"][1]), expected, 1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_output_attentions_of_transformers(family):
    import torch

    from tests.model import make_golden

    seed, segments, pad_id = (11, 2, 0) if family == "bert" else (12, 1, 1)
    batch = make_golden.random_batch(seed, segments, pad_id)
    theirs = make_golden.randomised((make_golden.bert if family == "bert" else make_golden.roberta)("eager"), seed)
    named = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}
    model = our_model(family, scan_layers=False)
    params = weights.from_state_dict(model, named, FAMILIES[family], "live")
    tensors = {k: torch.from_numpy(batch[k]).long() for k in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        outputs = theirs(**tensors, output_attentions=True, output_hidden_states=True)
        head = theirs.cls.predictions if family == "bert" else theirs.lm_head
        logits = head(outputs.hidden_states[1]).numpy()
    given = {name: batch[name] for name in tensors}
    ours = jax.device_get(model.apply(params, given, hidden_states=True, attention_weights=True))
    expected = np.stack([layer.numpy() for layer in outputs.attentions])
    present = batch["attention_mask"] > 0
    assert_close(
        ours["attention_weights"].transpose(1, 3, 0, 2, 4)[present], expected.transpose(1, 3, 0, 2, 4)[present], 1e-5
    )
    assert_close(model.language_model(params, ours["hidden_states"][1])[present], logits[present], 1e-5)
