"""Tests the name tables: every array is used once, every leaf filled, all mismatches reported in one line."""

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.interop import weights
from bert_jax.interop.families import FAMILIES

BERT = FAMILIES["bert"].table({})


def build(**changes):
    config = config_lib.base().model
    config.update(hidden_size=8, num_layers=11, num_heads=2, intermediate_size=12, max_positions=6)
    next_sentence = changes.pop("next_sentence", True)
    config.update(changes)
    return model_lib.build(config, 17, next_sentence=next_sentence)


@pytest.fixture(scope="module")
def bert():
    model = build()
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    # Other numbers in every leaf, so that no two can be swapped unseen.
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    params = jax.tree.unflatten(structure, [random.standard_normal(p.shape).astype(np.float32) for p in leaves])
    return model, params, weights.to_state_dict(params, BERT)


def test_there_and_back(bert):
    model, params, state_dict = bert
    assert len(state_dict) == len(jax.tree.leaves(params))
    back = weights.from_state_dict(model, state_dict, BERT, "here")
    jax.tree.map(np.testing.assert_array_equal, params, back)
    again = weights.to_state_dict(back, BERT)
    assert all(again[name].tobytes() == array.tobytes() for name, array in state_dict.items())
    kernel = params["encoder"]["layers"]["10"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(state_dict["bert.encoder.layer.10.intermediate.dense.weight"], kernel.T)


def test_buffers_and_tied_copies_are_expected(bert):
    model, _, state_dict = bert
    extra = {
        "bert.embeddings.position_ids": np.arange(6)[None],
        "cls.predictions.decoder.weight": state_dict["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": state_dict["cls.predictions.bias"],
    }
    weights.from_state_dict(model, state_dict | extra, BERT, "here")
    extra["cls.predictions.decoder.bias"] = extra["cls.predictions.decoder.bias"] + 1
    with pytest.raises(UserError, match="cls.predictions.decoder.bias differs from cls.predictions.bias"):
        weights.from_state_dict(model, state_dict | extra, BERT, "here")


def test_all_mismatches_in_one_line(bert):
    model, _, state_dict = bert
    broken = dict(state_dict)
    del broken["bert.encoder.layer.3.attention.self.key.bias"]
    broken["bert.encoder.layer.11.output.dense.bias"] = np.zeros(8)
    broken["bert.pooler.dense.weight"] = np.zeros((8, 9))
    with pytest.raises(UserError) as raised:
        weights.from_state_dict(model, broken, BERT, "folder/model.safetensors")
    message = str(raised.value)
    assert "\n" not in message and message.startswith("folder/model.safetensors: ")
    assert "missing bert.encoder.layer.3.attention.self.key.bias" in message
    assert "unused bert.encoder.layer.11.output.dense.bias" in message
    assert "bert.pooler.dense.weight has shape (8, 9), expected (8, 8)" in message


def test_a_head_the_family_lacks_is_refused(bert):
    params = bert[1]
    with pytest.raises(UserError, match="next_sentence/"):
        weights.to_state_dict(params, FAMILIES["roberta"].table({}))
