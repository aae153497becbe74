"""Tests what only NeoBERT's files have: the published settings and names, the MLP's units, code beside the weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface, model_config, tensors, weights
from bert_jax.interop.families import FAMILIES
from bert_jax.model import Model
from bert_jax.model.spec import make_spec

CODE = {
    "AutoConfig": "model.NeoBERTConfig", "AutoModel": "model.NeoBERT", "AutoModelForMaskedLM": "model.NeoBERTLMHead",
    "AutoModelForSequenceClassification": "model.NeoBERTForSequenceClassification",
}  # fmt: skip
# chandar-lab/NeoBERT, without what says where its tokenizer was taken from.
PUBLISHED = {
    "architectures": ["NeoBERTLMHead"], "auto_map": CODE, "classifier_init_range": 0.02, "decoder_init_range": 0.02,
    "dim_head": 64, "embedding_init_range": 0.02, "hidden_size": 768, "intermediate_size": 3072, "max_length": 4096,
    "model_type": "neobert", "norm_eps": 1e-05, "num_attention_heads": 12, "num_hidden_layers": 28, "pad_token_id": 0,
    "torch_dtype": "float32", "transformers_version": "4.48.2", "vocab_size": 30522,
}  # fmt: skip
# Its arrays, with the layer's number 0.
SHAPES = {
    "decoder.bias": (30522,),
    "decoder.weight": (30522, 768),
    "model.encoder.weight": (30522, 768),
    "model.layer_norm.weight": (768,),
    "model.transformer_encoder.0.attention_norm.weight": (768,),
    "model.transformer_encoder.0.ffn.w12.weight": (4096, 768),
    "model.transformer_encoder.0.ffn.w3.weight": (768, 2048),
    "model.transformer_encoder.0.ffn_norm.weight": (768,),
    "model.transformer_encoder.0.qkv.weight": (2304, 768),
    "model.transformer_encoder.0.wo.weight": (768, 768),
}
SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
         "vocab_size": 17, "max_length": 11}  # fmt: skip


def spec_of(config):
    settings = model_config.to_model(config, "config.json") | {"pooler": False}
    return make_spec(settings, settings["vocab_size"], next_sentence=False)


def test_published_settings_are_understood_and_said_again():
    actual = model_config.to_model(PUBLISHED, "config.json")
    expected = {"intermediate_size": 2048, "max_positions": 4096, "norm": "rms_norm", "norm_place": "pre",
                "norm_epsilon": 1e-5, "tied_decoder": False, "decoder_bias": True, "rotary_base": 10_000.0,
                "mlp": "gated", "activation": "silu", "hidden_dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
    assert {key: actual[key] for key in expected} == expected
    spec = spec_of(PUBLISHED)
    assert formats.choose_family(spec) == "neobert" and not formats.differences(spec, "neobert")
    again = model_config.from_model(spec, "neobert", original=PUBLISHED)
    code = {name: f"chandar-lab/NeoBERT--{kind}" for name, kind in CODE.items()}
    assert again == PUBLISHED | {"auto_map": code, "tie_word_embeddings": False, "is_decoder": False}
    assert model_config.to_model(again, "config.json") == actual


def test_the_published_arrays_are_those_of_the_model():
    config = PUBLISHED | {"num_hidden_layers": 1}
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), Model(spec_of(config)).shapes())
    arrays = weights.to_state_dict(params, FAMILIES["neobert"].table(config))
    assert {name: array.shape for name, array in arrays.items()} == SHAPES


@pytest.mark.parametrize(("said", "units"), [(3072, 2048), (20, 16), (16, 16), (1000, 672), (12, 8), (13, 8)])
def test_the_mlp_has_two_thirds_of_the_units_that_are_said(said, units):
    config = PUBLISHED | {"intermediate_size": said}
    spec = spec_of(config)
    assert spec.intermediate_size == units
    assert model_config.from_model(spec, "neobert", original=config)["intermediate_size"] == said
    assert spec_of(model_config.from_model(spec, "neobert")).intermediate_size == units


def test_units_that_are_no_multiple_of_8_cannot_be_said():
    spec = dataclasses.replace(spec_of(PUBLISHED), intermediate_size=2044)
    (difference,) = formats.differences(spec, "neobert")
    assert str(difference) == "config.model.intermediate_size=2044, where it is 2048"


def test_the_decoder_is_its_own_whatever_is_said(make, tmp_path):
    made = make("neobert", only=True, language_model=True, tie_word_embeddings=True, **SMALL)
    opened = huggingface.read(made.path)
    assert not opened.model.spec.tied_decoder and "decoder" in opened.params["mlm"]
    huggingface.write(opened, tmp_path / "out")
    assert tensors.read(tmp_path / "out")[0].keys() == made.arrays.keys()
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; expected 'swiglu'"),
        ({"rope": False}, "rope False is not supported; expected True"),
        ({"rms_norm": False}, "rms_norm False is not supported; expected True"),
        ({"ngpt": True}, "ngpt True is not supported; expected False"),
        ({"intermediate_size": 0}, "intermediate_size 0; expected a positive number"),
        ({"max_position_embeddings": 512}, "max_length 4096 and max_position_embeddings 512; expected one value"),
    ],
)
def test_other_models_of_its_training_code_are_refused(changes, message):
    with pytest.raises(UserError) as raised:
        model_config.to_model(PUBLISHED | changes, "folder/config.json")
    assert str(raised.value).startswith("folder/config.json: ") and message in str(raised.value)
