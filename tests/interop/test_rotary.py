"""Tests scaled rotary positions in config.json: read, written again, refused, and as transformers computes them."""

import json

import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface, model_config
from bert_jax.model.spec import make_spec
from experiments.parity import models, random_models

TRAINED = "original_max_position_embeddings"
SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
         "vocab_size": 40, "max_position_embeddings": 16}  # fmt: skip
# Objects of config.json, and the keys of config.model that they stand for.
OBJECTS = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"rotary_factor": 4.0}),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, {"rotary_factor": 2.0, "rotary_trained": 16,
                                                          "max_positions": 32}),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, TRAINED: 8}, {"rotary_factor": 4.0, "rotary_trained": 8}),
    "yarn, all said": (
        {"rope_type": "yarn", "factor": 4.0, TRAINED: 12, "beta_fast": 2.0, "beta_slow": 0.01, "attention_factor": 1.3},
        {"rotary_trained": 12, "rotary_fast_turns": 2.0, "rotary_slow_turns": 0.01, "rotary_attention_factor": 1.3},
    ),
    "yarn, scales": (
        {"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5},
        {"rotary_trained": 16, "rotary_attention_factor": (0.2 * np.log(4) + 1) / (0.05 * np.log(4) + 1)},
    ),
    "llama3": (
        {"rope_type": "llama3", "factor": 8.0, TRAINED: 13, "low_freq_factor": 0.5, "high_freq_factor": 2.0},
        {"rotary_trained": 13, "rotary_slow_turns": 0.5, "rotary_fast_turns": 2.0},
    ),
}  # fmt: skip
FAMILIES = ("eurobert", "nomic_bert", "modernbert")


def config_of(model_type, rope, base=50.0):
    rope = rope | {"rope_theta": base}
    nested = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 9.0}}
    kinds = {"layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"], "local_attention": 6}
    if model_type == "modernbert":
        return {"model_type": model_type, **SIZES, "rope_parameters": nested, **kinds}
    return {"model_type": model_type, **SIZES, "rope_parameters": rope}


def spec_of(config):
    settings = model_config.to_model(config, "config.json")
    return make_spec(settings | {"pooler": False}, settings["vocab_size"], next_sentence=False)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_scalings_are_read_into_the_keys_and_written_back(model_type, name):
    rope, expected = OBJECTS[name]
    config = config_of(model_type, rope)
    actual = model_config.to_model(config, "config.json")
    expected = {"rotary_scaling": name.split(",")[0], "rotary_base": 50.0, "local_rotary_scaling": False} | expected
    assert {key: actual[key] for key in expected} == pytest.approx(expected)
    spec = spec_of(config)
    assert formats.choose_family(spec) == model_type and not formats.differences(spec, model_type)
    for original in ({}, config):
        again = model_config.from_model(spec, model_type, original=original)
        assert spec_of(again) == spec and model_config.to_model(again, "c")["max_positions"] == actual["max_positions"]
        assert again["max_position_embeddings"] == 16
    written = again["rope_parameters"].get("full_attention", again["rope_parameters"])
    assert written.items() >= {key: value for key, value in rope.items() if not key.startswith("mscale")}.items()


def test_layers_with_windows_are_scaled_where_both_objects_say_so():
    config = config_of("modernbert", {"rope_type": "linear", "factor": 3.0})
    config["rope_parameters"]["sliding_attention"] = {"rope_type": "linear", "factor": 3.0, "rope_theta": 9.0}
    spec = spec_of(config)
    assert spec.local_rotary_scaling and (spec.rotary_base, spec.local_rotary_base) == (50.0, 9.0)
    again = model_config.from_model(spec, "modernbert", original=config)
    assert again["rope_parameters"] == config["rope_parameters"]
    older = {key: value for key, value in config.items() if key != "rope_parameters"}
    older |= {
        "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        "global_rope_theta": 50.0,
        "local_rope_theta": 9.0,
    }
    assert spec_of(older) == spec
    again = model_config.from_model(spec, "modernbert", original=older)
    assert "rope_scaling" not in again and spec_of(again) == spec


def test_the_older_name_is_kept_beside_the_new_one():
    config = {"model_type": "eurobert", **SIZES, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 70.0}
    spec = spec_of(config)
    assert (spec.rotary_scaling, spec.rotary_factor, spec.rotary_base) == ("linear", 2.0, 70.0)
    again = model_config.from_model(spec, "eurobert", original=config)
    assert again["rope_scaling"] == again["rope_parameters"] == {
        "rope_type": "linear", "factor": 2.0, "rope_theta": 70.0}  # fmt: skip
    assert spec_of(again) == spec


def test_the_length_of_training_and_the_factor_follow_from_other_keys():
    config = config_of("eurobert", {"rope_type": "yarn", "factor": None}) | {TRAINED: 4}
    assert model_config.to_model(config, "c").items() >= {"rotary_trained": 4, "rotary_factor": 4.0}.items()
    config["rope_parameters"][TRAINED] = 8  # the key beside the object comes first
    assert model_config.to_model(config, "c")["rotary_trained"] == 4


def test_rows_that_dynamic_scaling_does_not_imply_are_said_by_a_key():
    config = config_of("nomic_bert", {"rope_type": "dynamic", "factor": 2.0}) | {"max_sequence_length": 64}
    spec = spec_of(config)
    assert (spec.max_positions, spec.rotary_trained) == (64, 16)
    again = model_config.from_model(spec, "nomic_bert")
    assert (again["max_position_embeddings"], again["max_sequence_length"]) == (16, 64)
    assert not formats.differences(spec, "nomic_bert")


@pytest.mark.parametrize(("model_type", "kind"), [("neobert", "linear"), ("roformer", "linear"), ("eurobert", "ntk")])
def test_formats_without_a_scaling_do_not_express_it(model_type, kind):
    sizes = {"positions": "rotary", "rotary_scaling": kind, "rotary_factor": 2.0}
    spec = make_spec({**model_config.to_model({"model_type": model_type, **SIZES}, "c"), "pooler": False, **sizes}, 40,
                     next_sentence=False)  # fmt: skip
    assert any("rotary_scaling" in str(d) or "rope_type" in str(d) for d in formats.differences(spec, model_type))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_type": "longrope"},
            "rope_parameters {'rope_type': 'longrope', .* expected rope_type default or linear",
        ),
        ({"rope_type": "linear"}, "rope_parameters {.* is not supported; expected factor in it"),
        ({"rope_type": "llama3", "factor": 2.0}, "expected high_freq_factor, low_freq_factor in it"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, "beta_fast 3 is not supported; expected none with"),
        ({"rope_type": "yarn", "factor": 2.0, TRAINED: "x"}, f"{TRAINED} 'x'; expected a positive number"),
        ({"rope_type": "yarn", "factor": 2.0, "mscale": "x"}, "mscale 'x'; expected 0 or a positive number"),
        ({"rope_type": "dynamic", "factor": 0.2}, "rope_parameters.factor 0.2 is not supported; expected at least 1"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(rope, message):
    for model_type in ("eurobert", "nomic_bert"):
        with pytest.raises(UserError, match=f"^folder/config.json: .*{message}") as raised:
            model_config.to_model(config_of(model_type, rope), "folder/config.json")
        assert "\n" not in str(raised.value)


@pytest.mark.parity
@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("architecture", ["EuroBertForMaskedLM", "NomicBertForMaskedLM", "ModernBertForMaskedLM"])
def test_scaled_models_of_transformers_agree(architecture, name, tmp_path):
    """Rows are of 32 tokens with dynamic scaling, twice those of training, and of 16 with the others."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    config = config_of(kind.config_class.model_type, OBJECTS[name][0])
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    model = kind(kind.config_class(**{key: value for key, value in config.items() if key != "model_type"} | special))
    random_models.rescale(torch, model, 0.1)
    model.save_pretrained(tmp_path / "model")
    random_models.tiny_vocabulary(tmp_path / "model", fairseq=False)
    opened = huggingface.read(tmp_path / "model")
    assert opened.model.spec.rotary_scaling == name.split(",")[0]
    assert models.batch_of(opened, np.random.default_rng(0))["input_ids"].shape[1] == opened.model.spec.max_positions
    row = models.compare(tmp_path / "model", 0, name)
    assert not row.failed, row
    written = tmp_path / "again"
    huggingface.write(opened, written)
    assert json.loads((written / "config.json").read_text())["max_position_embeddings"] == 16
