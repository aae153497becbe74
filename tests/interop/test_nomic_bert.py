"""Tests Nomic BERT's two layouts: that of transformers, and the older one of the published files."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface, model_config, tensors

TODAY = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256, "vocab_size": 17,
    "max_position_embeddings": 11, "type_vocab_size": 2, "rope_parameters": {"rope_theta": 25.0},
}  # fmt: skip
OLD = {
    "model_type": "nomic_bert", "activation_function": "swiglu", "architectures": ["NomicBertForPreTraining"],
    "attn_pdrop": 0.0, "auto_map": {"AutoModel": "modeling_hf_nomic_bert.NomicBertModel"}, "causal": False,
    "embd_pdrop": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 2048,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "n_embd": 12, "n_head": 2, "n_inner": 200, "n_layer": 2,
    "n_positions": 11, "pad_token_id": 0, "pad_vocab_size_multiple": 1, "parallel_block": False, "prenorm": False,
    "qkv_proj_bias": False, "resid_pdrop": 0.0, "rotary_emb_base": 25, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
    "tie_word_embeddings": True, "type_vocab_size": 2, "use_rms_norm": False, "vocab_size": 17,
}  # fmt: skip


def directories(make, head):
    """Writes one model in today's layout and in the older one; returns both directories."""
    heads = {"language_model": True} if head == "language_model" else {}
    task, pooler = (head, True) if head == "sequence_classification" else (None, False)
    named = {"language_model": "ForMaskedLM", "sequence_classification": "ForSequenceClassification"}.get(head, "Model")
    made = make("nomic_bert", name="today", only=True, task=task, pooler=pooler, **heads,
                architectures=[f"NomicBert{named}"], **TODAY)  # fmt: skip
    biases = ("cls.predictions.transform.dense.bias", "cls.predictions.bias")
    made.write(made.arrays | {name: 0 * made.arrays[name] for name in biases if name in made.arrays})
    old = make("nomic_bert", name="old", only=True, **TODAY)
    old.config = dict(OLD)
    old.write_config()
    prefix = "bert." if head else ""
    arrays = {name.replace("nomic_bert.", prefix): array for name, array in made.arrays.items() if name not in biases}
    if head == "language_model":
        arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    old.write(arrays)
    return made.path, old.path


@pytest.mark.parametrize("head", ["", "language_model", "sequence_classification"])
def test_both_layouts_are_read_as_one_model_and_written_as_todays(make, tmp_path, head):
    today, old = directories(make, head)
    actual, older = huggingface.read(today), huggingface.read(old)
    assert actual.model.spec == older.model.spec
    jax.tree.map(np.testing.assert_array_equal, actual.params, older.params)
    huggingface.write(older, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["hidden_size"] == 12 and not config.keys() & {"n_embd", "auto_map", "mlp_fc1_bias"}
    written, original = (tensors.read(folder)[0] for folder in (tmp_path / "out", today))
    begin = "" if head else "nomic_bert."
    assert written.keys() == {name.removeprefix(begin) for name in original}
    again = huggingface.read(tmp_path / "out")
    assert again.model.spec == actual.model.spec
    jax.tree.map(np.testing.assert_array_equal, actual.params, again.params)


def test_a_model_with_its_switches_is_written_as_one(make):
    spec = make("nomic_bert", only=True, language_model=True, **TODAY).model.spec
    assert formats.choose_family(spec) == "nomic_bert" and not formats.differences(spec, "nomic_bert")
    (difference,) = formats.differences(dataclasses.replace(spec, attention_bias=True), "nomic_bert")
    assert str(difference) == "config.model.attention_bias=True, where it is False"


def test_the_sizes_of_the_published_files():
    published = OLD | {"n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 2048,
                       "rotary_emb_base": 1000, "vocab_size": 30528, "pad_vocab_size_multiple": 64}  # fmt: skip
    actual = model_config.to_model(published, "config.json")
    expected = {"hidden_size": 768, "intermediate_size": 3072, "rotary_base": 1000.0, "vocab_size": 30528,
                "max_positions": 2048, "activation": "silu", "mlp": "gated", "norm_place": "post"}  # fmt: skip
    assert {key: actual[key] for key in expected} == expected
    stretched = model_config.to_model(published | {"rotary_scaling_factor": 2, "n_positions": 8192}, "config.json")
    scaled = {"max_positions": 8192, "rotary_scaling": "dynamic", "rotary_factor": 2, "rotary_trained": 2048}
    assert {key: stretched[key] for key in scaled} == scaled
    assert model_config.to_model(published | {"vocab_size": 30522}, "config.json")["vocab_size"] == 30528


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prenorm": True}, "prenorm True is not supported; expected False"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias True is not supported; expected False"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction 0.5 is not supported; expected 1.0"),
        ({"activation_function": "gelu"}, "activation_function 'gelu' is not supported; expected swiglu, geglu"),
        ({"moe_every_n_layers": 2}, "moe_every_n_layers 2 is not supported"),
        ({"n_embd": "12"}, "n_embd '12'; expected a positive number"),
    ],
)
def test_other_models_of_the_older_code_are_refused(changes, message):
    with pytest.raises(UserError) as raised:
        model_config.to_model(OLD | changes, "folder/config.json")
    assert str(raised.value).startswith("folder/config.json: ") and message in str(raised.value)
