"""Tests what only the files of GTE's encoder have: the published settings and names, code beside the weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax.interop import formats, huggingface, model_config, tensors, weights
from bert_jax.interop.families import FAMILIES
from bert_jax.model import Model
from bert_jax.model.spec import make_spec

KINDS = ("MaskedLM", "MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
CODE = {
    "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
    "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
    **{f"AutoModelFor{kind}": f"Alibaba-NLP/new-impl--modeling.NewFor{kind}" for kind in KINDS},
}
SHARED = {
    "model_type": "new", "auto_map": CODE, "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False, "logn_attention_scale": False, "max_position_embeddings": 8192, "pack_qkv": True,
    "position_embedding_type": "rope", "unpad_inputs": False, "use_memory_efficient_attention": False,
}  # fmt: skip
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
# As in public copies of these files, or in code that checks them; labels and versions are left out. Of gte-base-en-v1.5
# one copy has no scaling.
PUBLISHED = {
    "gte-base-en-v1.5": SHARED | BASE | {
        "architectures": ["NewModel"], "rope_theta": 500000, "rope_scaling": {"factor": 2.0, "type": "ntk"},
        "type_vocab_size": 0, "vocab_size": 30528},
    "gte-large-en-v1.5": SHARED | LARGE | {
        "architectures": ["NewModel"], "rope_theta": 160000, "rope_scaling": {"factor": 2.0, "type": "ntk"},
        "type_vocab_size": 2, "vocab_size": 30528},
    "gte-multilingual-base": SHARED | BASE | {
        "architectures": ["NewModel", "NewForTokenClassification"], "rope_theta": 20000,
        "rope_scaling": {"factor": 8.0, "type": "ntk"}, "type_vocab_size": 1, "vocab_size": 250048},
    "gte-multilingual-reranker-base": SHARED | BASE | {
        "architectures": ["NewForSequenceClassification"], "rope_theta": 20000,
        "rope_scaling": {"factor": 8.0, "type": "ntk"}, "type_vocab_size": 1, "vocab_size": 250048},
}  # fmt: skip
# Arrays of gte-base-en-v1.5 and of a classifier, with the layer's number 0.
SHAPES = {
    "classifier.bias": (2,),
    "classifier.weight": (2, 768),
    "new.embeddings.LayerNorm.bias": (768,),
    "new.embeddings.LayerNorm.weight": (768,),
    "new.embeddings.word_embeddings.weight": (30528, 768),
    "new.encoder.layer.0.attention.o_proj.bias": (768,),
    "new.encoder.layer.0.attention.o_proj.weight": (768, 768),
    "new.encoder.layer.0.attention.qkv_proj.bias": (2304,),
    "new.encoder.layer.0.attention.qkv_proj.weight": (2304, 768),
    "new.encoder.layer.0.attn_ln.bias": (768,),
    "new.encoder.layer.0.attn_ln.weight": (768,),
    "new.encoder.layer.0.mlp.down_proj.bias": (768,),
    "new.encoder.layer.0.mlp.down_proj.weight": (768, 3072),
    "new.encoder.layer.0.mlp.up_gate_proj.weight": (6144, 768),
    "new.encoder.layer.0.mlp_ln.bias": (768,),
    "new.encoder.layer.0.mlp_ln.weight": (768,),
    "new.pooler.dense.bias": (768,),
    "new.pooler.dense.weight": (768, 768),
}
SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
         "vocab_size": 17, "max_position_embeddings": 11, "rope_scaling": {"type": "ntk", "factor": 2.0}}  # fmt: skip


def spec_of(config, **heads):
    settings = model_config.to_model(config, "config.json") | {"pooler": bool(heads)}
    return make_spec(settings, settings["vocab_size"], next_sentence=False, language_model=not heads, **heads)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_understood_and_said_again(name):
    config = PUBLISHED[name]
    actual = model_config.to_model(config, "config.json")
    expected = {"positions": "rotary", "rotary_scaling": "ntk", "rotary_factor": config["rope_scaling"]["factor"],
                "rotary_base": config["rope_theta"], "mlp": "gated", "mlp_bias": True, "mlp_up_bias": False,
                "norm_place": "post", "max_positions": 8192, "type_vocab_size": config["type_vocab_size"]}  # fmt: skip
    assert {key: actual[key] for key in expected} == expected
    spec = spec_of(config)
    assert formats.choose_family(spec) == "new" and not formats.differences(spec, "new")
    again = model_config.from_model(spec, "new", original=config)
    kept = {key: value for key, value in config.items() if key != "architectures"}
    assert again.items() >= kept.items() and model_config.to_model(again, "config.json") == actual


def test_the_published_arrays_are_those_of_the_model():
    config = PUBLISHED["gte-base-en-v1.5"] | {"num_hidden_layers": 1}
    task = FAMILIES["new"].head("sequence_classification", 2, config, "config.json")
    shapes = Model(spec_of(config, task=task)).shapes()
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    arrays = weights.to_state_dict(params, FAMILIES["new"].table(config, task.name))
    assert {name: array.shape for name, array in arrays.items()} == SHAPES


def test_maps_in_three_are_kept_so(make, tmp_path):
    packed = make("new", only=True, language_model=True, name="packed", architectures=["NewForMaskedLM"], **SMALL)
    apart = make("new", only=True, language_model=True, name="apart", architectures=["NewForMaskedLM"], pack_qkv=False,
                 **SMALL)  # fmt: skip
    assert packed.model == apart.model and packed.arrays.keys() != apart.arrays.keys()
    huggingface.write(huggingface.read(apart.path), tmp_path / "out")
    assert tensors.read(tmp_path / "out")[0].keys() == apart.arrays.keys()
    assert json.loads((tmp_path / "out/config.json").read_text())["pack_qkv"] is False


def test_a_bias_of_the_up_map_cannot_be_said():
    spec = dataclasses.replace(spec_of(PUBLISHED["gte-base-en-v1.5"]), mlp_up_bias=True)
    (difference,) = formats.differences(spec, "new")
    assert str(difference) == "config.model.mlp_up_bias=True, where it is False"


def test_a_model_with_weights_of_tokens_beside_it_opens_as_an_embedder(make):
    """gte-multilingual-base has a classifier of tokens beside its encoder, for sparse vectors: one output."""
    made = make("new", only=True, task="token_classification", id2label={"0": "LABEL_0"}, type_vocab_size=1,
                architectures=["NewModel", "NewForTokenClassification"], **SMALL)  # fmt: skip
    assert huggingface.read(made.path).model.spec.task.num_labels == 1
    vectors = bert_jax.Embedder.from_pretrained(made.path, pooling="cls").encode(["a b", "c"])
    assert vectors.shape == (2, 12) and np.isfinite(vectors).all()


def test_a_reranker_scores_pairs_by_its_pooler(make):
    made = make("new", only=True, task="sequence_classification", pooler=True, id2label={"0": "LABEL_0"},
                architectures=["NewForSequenceClassification"], **SMALL)  # fmt: skip
    scores = bert_jax.Reranker.from_pretrained(made.path).scores("a b", ["c d", "e"])
    assert scores.shape == (2,) and np.isfinite(scores).all()
