"""Compares switches that no family combines with the float64 reference: padded, packed and scanned."""

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from tests.model import reference

VOCABULARY = 53
LENGTHS = (11, 7)
COMBINED = {
    "BERT": {},
    "shared layers, rotary, windows, SwiGLU": dict(
        layer_groups=2, num_layers=6, positions="rotary", local_window=5, local_rotary_base=50.0, mlp="gated",
        norm="rms_norm", norm_place="pre", embedding_size=7, activation="silu", type_vocab_size=0),
    "groups of two layers, windows, learned and rotary": dict(
        num_layers=8, layer_groups=2, group_layers=2, positions="learned+rotary", local_window=7, global_every=2),
    "relative, pre-norm, grouped queries, GeGLU": dict(
        positions="relative", norm_place="pre", num_kv_heads=2, mlp="gated", relative_buckets=6, relative_norm=True,
        num_layers=2),
    "relative with the content's projections, one head of keys, one layer's parameters": dict(
        positions="learned+relative", num_kv_heads=1, relative_shared=True, relative_terms="p2c", layer_groups=1,
        num_layers=3, relative_span=4, key_bias=False, position_offset=2),
    "enhanced mask decoder, shared layers, relative": dict(
        positions="relative", mask_decoder="enhanced", layer_groups=2, relative_terms="c2p"),
    "enhanced mask decoder, rotary, windows, causal": dict(
        positions="rotary", mask_decoder="enhanced", norm_place="pre", local_window=4, global_every=2,
        attention="causal", first_norm=False, num_layers=5),
    "enhanced mask decoder whose layer has a window": dict(
        positions="none", mask_decoder="enhanced", local_window=4, num_layers=5, head_size=5),
    "convolution, pre-norm, RMSNorm, rotary, no biases": dict(
        positions="rotary", conv_kernel_size=5, conv_groups=3, norm_place="pre", norm="rms_norm", mlp="gated",
        attention_bias=False, mlp_bias=False, num_layers=3),
    "convolution, windows, own decoder, no norm of embeddings": dict(
        conv_kernel_size=3, local_window=6, global_every=2, embedding_norm=False, head_size=7, num_kv_heads=2,
        tied_decoder=False, decoder_bias=False),
    "own decoder without a transform, small embeddings": dict(
        embedding_size=9, mlm_transform=False, tied_decoder=False, num_layers=2),
    "bias of distances, windows, grouped queries": dict(
        positions="bias", bias_buckets=8, bias_distance=9, local_window=6, global_every=2, num_kv_heads=2),
    "learned and bias of distances, pre-norm, causal, shared layers": dict(
        positions="learned+bias", bias_distance=20, norm_place="pre", attention="causal", layer_groups=2),
    "Gemma 3: normed heads and outputs, RMSNorm around 1, grouped queries, windows from the first layer on": dict(
        query_key_norm="rms", output_norm=True, zero_centered_scale=True, embedding_scale=True, embedding_norm=False,
        norm="rms_norm", norm_place="pre", positions="rotary", local_rotary_base=50.0, local_window=5, global_every=3,
        global_offset=2, num_layers=6, num_kv_heads=2, head_size=10, score_size=7, mlp="gated", type_vocab_size=0,
        activation="gelu_tanh"),
    "ESM C: LayerNorm over all heads, key bias, no positions": dict(
        query_key_norm="layer", query_key_norm_over="heads", norm_place="pre", positions="none", num_layers=2,
        final_norm_bias=False, residual_scale=0.3),
    "normed queries and keys of all groups, relative, post-norm, shared layers, other scale": dict(
        query_key_norm="rms", query_key_norm_over="heads", positions="relative", num_kv_heads=2, layer_groups=2,
        output_norm=True, residual_scale=1.7, score_size=30, embedding_size=9, embedding_scale=True),
    "LayerNorm of heads around 1, bias of distances, windows, causal": dict(
        query_key_norm="layer", zero_centered_scale=True, positions="learned+bias", local_window=6, global_every=2,
        global_offset=1, attention="causal", score_size=3, norm_bias=False),
    "windows of each layer, global tokens with maps of their own, rotary, grouped queries": dict(
        positions="rotary", layer_windows=(6, 0, 2), num_kv_heads=2, global_tokens="auto", global_projections=True,
        query_key_norm="rms", score_size=9, rotary_scaling="linear", rotary_factor=3.0),
    "global tokens beside windows, pre-norm, rotary": dict(
        positions="rotary", local_window=4, global_every=2, local_rotary_base=50.0, norm_place="pre",
        global_tokens="auto"),
    "global tokens, causal, shared layers, bias of distances": dict(
        positions="learned+bias", bias_distance=20, attention="causal", layer_windows=(4,), layer_groups=2,
        global_tokens="auto", global_projections=True),
    "first tokens that are global, enhanced mask decoder": dict(
        positions="none", mask_decoder="enhanced", layer_windows=(4, 2), global_tokens="first",
        global_projections=True, query_key_norm="layer", query_key_norm_over="heads", token_dropout=True, mask_id=7),
    "odd heads, learned and relative, projection": dict(
        hidden_size=21, num_heads=3, positions="learned+relative", norm_place="pre", norm="rms_norm",
        embedding_projection=True, relative_buckets=7, relative_span=30),
    "rotary by YaRN, windows too, a bias of the down map alone": dict(
        positions="rotary", rotary_scaling="yarn", rotary_factor=4.0, rotary_trained=40, rotary_fast_turns=0.9,
        rotary_slow_turns=0.01, local_window=6, global_every=2, local_rotary_base=50.0, local_rotary_scaling=True,
        mlp="gated", mlp_up_bias=False),
    "rotary by mixed NTK, windows without, grouped queries": dict(
        positions="rotary", rotary_scaling="ntk", rotary_factor=8.0, rotary_mixed=0.625, local_window=6, global_every=2,
        num_kv_heads=2, norm_place="pre"),
    "token dropout, rotary in float16, windows, causal, projection": dict(
        token_dropout=True, mask_id=9, positions="rotary", rotary_half=True, rotary_base=77.0, local_window=6,
        attention="causal", embedding_size=8, norm_place="pre"),
    "token dropout, learned and relative, enhanced mask decoder": dict(
        token_dropout=True, mask_id=5, positions="learned+relative", position_offset=2, mask_decoder="enhanced",
        embedding_norm=False, num_layers=2),
}  # fmt: skip


# What make test has time for; make test-more runs MORE, make test-full the others.
SHORT, MORE = (1, 5, 14), (3, 4, 8, 15)
GLOBAL = ((2, 5, 6), (0, 3))  # of the texts, where the model's task chooses none


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if i in SHORT else pytest.mark.more if i in MORE else pytest.mark.full)
        for i, name in enumerate(COMBINED)
    ],
)
def test_hidden_states_and_logits(name):
    config = config_lib.base().model
    config.update(hidden_size=24, num_layers=4, num_heads=4, intermediate_size=10, max_positions=40, pooler=False)
    config.update(norm_epsilon=1e-6, hidden_dropout=0.0, attention_dropout=0.0, dtype="float32", **COMBINED[name])
    model = model_lib.build(config, VOCABULARY, next_sentence=False)
    random = np.random.default_rng(0)
    params = jax.tree.map(  # so that biases and norms are none of 0 and 1
        lambda leaf: leaf + 0.25 * random.normal(size=leaf.shape).astype(np.float32),
        jax.jit(model.init)(jax.random.key(3)),
    )
    first = max(5, config.position_offset)
    texts = [
        (random.integers(first, VOCABULARY, length), random.integers(0, max(1, config.type_vocab_size), length))
        for length in LENGTHS
    ]
    if config.token_dropout:
        texts[0][0][::3] = texts[1][0][2] = config.mask_id
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    chosen = GLOBAL if config.global_tokens == "auto" else ((), ())
    expected = [
        reference.forward(config.to_dict(), exact, *text, places) for text, places in zip(texts, chosen, strict=True)
    ]

    batch = padded(texts, max(LENGTHS) + 4, pad=max(0, config.position_offset - 1))
    if config.global_tokens == "auto":
        batch["global_positions"] = np.array([GLOBAL[0], (*GLOBAL[1], -1)], np.int32)
    actual = jax.jit(lambda params: model.apply(params, batch, hidden_states=True))(params)
    for i, (states, logits) in enumerate(expected):
        assert_close(actual["hidden_states"][:, i, : LENGTHS[i]], np.stack(states[-config.num_layers - 1 :]))
        assert_close(actual["mlm_logits"][i, : LENGTHS[i]], logits)

    config.scan_layers = True
    scanned = model_lib.build(config, VOCABULARY, next_sentence=False)
    batch = packed(texts)
    if config.global_tokens == "auto":
        batch["global_positions"] = np.array([[*GLOBAL[0], *(LENGTHS[0] + place for place in GLOBAL[1])]], np.int32)
    actual = jax.jit(scanned.apply)(params, batch)["mlm_logits"][0]
    assert_close(actual, np.concatenate([logits for _, logits in expected]))


def padded(texts, width, pad):
    batch = {name: np.zeros((len(texts), width), np.int32) for name in ("attention_mask", "token_type_ids")}
    batch["input_ids"] = np.full((len(texts), width), pad, np.int32)
    for i, (ids, types) in enumerate(texts):
        for name, values in {"input_ids": ids, "token_type_ids": types, "attention_mask": 1}.items():
            batch[name][i, : len(ids)] = values
    return batch


def packed(texts):
    """Packs all texts into one row."""
    parts = {
        "input_ids": [ids for ids, _ in texts],
        "token_type_ids": [types for _, types in texts],
        "attention_mask": [np.ones_like(ids) for ids, _ in texts],
        "sequence_ids": [np.full_like(ids, i + 1) for i, (ids, _) in enumerate(texts)],
        "position_ids": [np.arange(len(ids)) for ids, _ in texts],
        "cls_positions": [np.cumsum([0, *LENGTHS[:-1]]), [0]],  # and one that no sequence uses
    }
    return {name: np.concatenate(values)[None].astype(np.int32) for name, values in parts.items()}


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
