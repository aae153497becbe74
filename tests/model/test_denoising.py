"""Tests the decoder that rebuilds texts from their vectors, and what is deleted of the texts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model import denoising

VOCABULARY, SEQUENCE = 40, 12


def make_model(**changes):
    settings = config_lib.base().model.to_dict() | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "pooler": False}
    settings |= {"intermediate_size": 24, "max_positions": 16, "initializer_range": 0.3} | changes
    head = model_lib.Task("embedding", 16, "cls", 0.0, rebuilds=True)
    return model_lib.build(settings, VOCABULARY, next_sentence=False, task=head)


def make_batch(lengths, seed=0):
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (len(lengths), SEQUENCE)).astype(np.int32)
    present = np.arange(SEQUENCE)[None] < np.array(lengths)[:, None]
    return {
        "input_ids": jnp.asarray(np.where(present, ids, 0)),
        "attention_mask": jnp.asarray(present.astype(np.int32)),
        "token_type_ids": jnp.zeros((len(lengths), SEQUENCE), jnp.int32),
        "row_numbers": jnp.arange(len(lengths), dtype=jnp.int32),
    }


ARCHITECTURES = {
    "bert": {},
    "modern": {"positions": "rotary", "norm_place": "pre", "mlp": "gated", "activation": "gelu", "local_window": 4,
               "global_every": 2},
    "shared": {"layer_groups": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_token_is_predicted_from_the_vector_and_those_before_it(name):
    """Changing a token changes the scores at it and behind it alone; changing the vector changes all of them."""
    model = make_model(**ARCHITECTURES[name])
    params = model.init(jax.random.key(1))
    batch, vectors = make_batch([12, 7]), jax.random.normal(jax.random.key(2), (2, 16))
    rebuild = jax.jit(model.rebuild)
    expected = rebuild(params, batch, vectors)
    changed = rebuild(params, batch | {"input_ids": batch["input_ids"].at[:, 4].add(-1)}, vectors)
    np.testing.assert_array_equal(changed[:, :4], expected[:, :4])
    assert (np.abs(changed - expected)[:, 4:7].max(-1) > 1e-4).all()
    other = rebuild(params, batch, vectors + jax.random.normal(jax.random.key(3), (2, 16)))
    assert (np.abs(other - expected)[0].max(-1) > 1e-4).all()
    short = {name: array[1:, :8] if array.ndim > 1 else array[1:] for name, array in batch.items()}
    np.testing.assert_allclose(rebuild(params, short, vectors[1:])[0, :7], expected[1, :7], atol=2e-5)


@pytest.mark.more
def test_stacked_layers_and_dropout():
    model = make_model(hidden_dropout=0.2, attention_dropout=0.2)
    params = model.init(jax.random.key(1))
    batch, vectors = make_batch([12, 7, 9, 5]), jax.random.normal(jax.random.key(2), (4, 16))
    key = jax.random.key(5)
    expected = model.rebuild(params, batch, vectors, dropout_key=key)
    stacked = params | {"encoder": model_lib.stack_layers(params["encoder"])}
    np.testing.assert_allclose(model.rebuild(stacked, batch, vectors, dropout_key=key), expected, atol=1e-5)
    half = jax.tree.map(lambda array: array[2:], batch)  # the rows' numbers decide what is dropped
    np.testing.assert_allclose(model.rebuild(params, half, vectors[2:], dropout_key=key), expected[2:], atol=1e-5)
    assert np.abs(model.rebuild(params, batch, vectors) - expected).max() > 1e-2


@pytest.mark.more
def test_deletions():
    lengths = [12, 12, 3, 2, 12, 8]
    batch = make_batch(lengths, seed=3)
    deleted = denoising.with_deletions(batch, 0.6, jax.random.key(0), padding=0)
    ids, present = (np.asarray(deleted[name]) for name in ("input_ids", "attention_mask"))
    removed = []
    for row, length in enumerate(lengths):
        before, after = np.asarray(batch["input_ids"])[row, :length], ids[row, : present[row].sum()]
        assert after[0] == before[0] and after[-1] == before[-1] and len(after) >= min(length, 3)
        places = iter(before.tolist())
        assert all(token in places for token in after.tolist())  # in their order
        assert not ids[row, len(after) :].any() and not present[row, len(after) :].any()
        removed.append(length - len(after))
    assert 0.4 < sum(removed) / sum(length - 2 for length in lengths) < 0.8
    part = denoising.with_deletions(jax.tree.map(lambda array: array[4:], batch), 0.6, jax.random.key(0), padding=0)
    np.testing.assert_array_equal(part["input_ids"], ids[4:])
    kept = denoising.with_deletions(batch, 0.0, jax.random.key(0), padding=0)
    np.testing.assert_array_equal(kept["input_ids"], batch["input_ids"])


@pytest.mark.parity
def test_scores_are_those_of_a_decoder_of_transformers():
    """BertLMHeadModel with attention to the vector, whose layers are the encoder's: TSDAE with tied weights."""
    import torch
    import transformers

    model = make_model(activation="gelu")
    params = jax.device_get(model.init(jax.random.key(1)))
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, is_decoder=True, add_cross_attention=True, hidden_act="gelu",
        layer_norm_eps=model.spec.norm_epsilon, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.BertLMHeadModel(config).eval()
    state = {}

    def put(name, tree, array="kernel"):
        weight = np.asarray(tree[array])
        state[f"{name}.weight"] = torch.tensor(weight.T if array == "kernel" else weight)
        if "bias" in tree:
            state[f"{name}.bias"] = torch.tensor(np.asarray(tree["bias"]))

    embeddings = params["encoder"]["embeddings"]
    for name in ("word", "position", "token_type"):
        put(f"bert.embeddings.{name}_embeddings", embeddings[name], "embedding")
    put("bert.embeddings.LayerNorm", embeddings["norm"], "scale")
    for i, layer in params["encoder"]["layers"].items():
        place, cross = f"bert.encoder.layer.{i}", params["task"]["decoder"]["layers"][i]
        for name in ("query", "key", "value"):
            put(f"{place}.attention.self.{name}", layer["attention"][name])
        put(f"{place}.attention.output.dense", layer["attention"]["output"])
        put(f"{place}.attention.output.LayerNorm", layer["attention_norm"], "scale")
        put(f"{place}.crossattention.self.value", cross["value"])
        put(f"{place}.crossattention.output.dense", cross["output"])
        put(f"{place}.crossattention.output.LayerNorm", cross["norm"], "scale")
        put(f"{place}.intermediate.dense", layer["mlp"]["up"])
        put(f"{place}.output.dense", layer["mlp"]["down"])
        put(f"{place}.output.LayerNorm", layer["mlp_norm"], "scale")
    put("cls.predictions.transform.dense", params["mlm"]["transform"])
    put("cls.predictions.transform.LayerNorm", params["mlm"]["norm"], "scale")
    state["cls.predictions.bias"] = torch.tensor(np.asarray(params["mlm"]["bias"]))
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all("crossattention.self" in name or "decoder" in name for name in missing), missing
    theirs.tie_weights()
    batch, vectors = make_batch([12, 7]), np.asarray(jax.random.normal(jax.random.key(2), (2, 16)))
    with torch.no_grad():
        expected = theirs(
            torch.tensor(np.asarray(batch["input_ids"])).long(), torch.tensor(np.asarray(batch["attention_mask"])),
            encoder_hidden_states=torch.tensor(vectors)[:, None], encoder_attention_mask=torch.ones(2, 1),
        ).logits.numpy()  # fmt: skip
    logits = np.asarray(model.rebuild(params, batch, jnp.asarray(vectors)))
    np.testing.assert_allclose(logits[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :7], expected[1, :7], atol=1e-5)


def test_other_embedders_have_no_decoder():
    model = make_model()
    plain = dataclasses.replace(model.spec, task=dataclasses.replace(model.spec.task, rebuilds=False))
    assert "decoder" in model.shapes()["task"] and "task" not in model_lib.Model(plain).shapes()
