"""Tests that directories of sentence-transformers are read as they are, and written back."""

import json

import pytest

from bert_jax.errors import UserError
from bert_jax.interop import huggingface


def dress(path, pooling, normalize=True, encoder="", prompts=None, **transformer):
    """Adds the files that sentence-transformers has beside the encoder."""
    modules = [("Transformer", encoder), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] * normalize)]
    listed = [{"type": f"sentence_transformers.models.{name}", "path": folder} for name, folder in modules]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (path / encoder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    if prompts is not None:
        (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def refusal(path):
    with pytest.raises(UserError) as raised:
        huggingface.read(path)
    return str(raised.value)


OLD = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("pooling", "kinds"),
    [
        (OLD, ("mean",)),
        (OLD | {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, ("cls", "max", "mean")),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, ("cls",)),
        ({"embedding_dimension": 8, "pooling_mode": ["weightedmean", "lasttoken"]}, ("weightedmean", "lasttoken")),
        ({"embedding_dimension": 8, "pooling_mode": ["mean", "cls"], "include_prompt": False}, ("mean", "cls")),
    ],
)
def test_what_follows_the_encoder(make, tmp_path, pooling, kinds):
    made = make(pooler=True)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    dress(made.path, pooling, prompts=prompts, max_seq_length=7, do_lower_case=False)
    actual = huggingface.read(made.path)
    assert actual.settings == {
        "pooling": kinds, "normalize": True, "include_prompt": pooling.get("include_prompt", True),
        "prompts": {"query": "query: "}, "default_prompt_name": "query", "max_length": 7, "lower_case": False,
    }  # fmt: skip
    huggingface.write(actual, tmp_path / "out")
    assert huggingface.read(tmp_path / "out").settings == actual.settings
    assert json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text()) == prompts


def test_an_encoder_in_a_folder_of_its_own_and_the_limits_of_length(make, tmp_path):
    made = make(name="folder", pooler=True)
    (tmp_path / "whole").mkdir()
    made.path.rename(tmp_path / "whole" / "0_Transformer")
    dress(tmp_path / "whole", OLD, normalize=False, encoder="0_Transformer")
    actual = huggingface.read(tmp_path / "whole")
    assert not actual.settings["normalize"] and "max_length" not in actual.settings
    (tmp_path / "whole" / "0_Transformer" / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert huggingface.read(tmp_path / "whole").settings["max_length"] == 11


def test_lower_case_of_the_encoders_module(make):
    made = make()
    (made.path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    dress(made.path, OLD)
    assert huggingface.read(made.path).tokenizer.encode(["A b"]) == [[1, 6]]
    dress(made.path, OLD, do_lower_case=True)
    assert huggingface.read(made.path).tokenizer.encode(["A b"]) == [[5, 6]]


def test_what_is_not_supported_is_named(make):
    made = make(pooler=True)
    dress(made.path, {"pooling_mode": "median"})
    assert "1_Pooling/config.json: pooling 'median' is not supported" in refusal(made.path)
    dress(made.path, OLD, transformer_task="fill-mask")
    assert "transformer_task 'fill-mask' is not supported" in refusal(made.path)
    dress(made.path, OLD, modality_config={"text": {"method_output_name": "pooler_output"}})
    assert "method_output_name 'pooler_output'" in refusal(made.path)
    dress(made.path, OLD, prompts={"model_type": "SparseEncoder"})
    assert "model_type SparseEncoder is not supported" in refusal(made.path)
    dress(made.path, OLD, prompts={})
    listed = json.loads((made.path / "modules.json").read_text())
    listed.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (made.path / "modules.json").write_text(json.dumps(listed))
    assert "modules Transformer, Pooling, Normalize, Dense; expected" in refusal(made.path)
    (made.path / "modules.json").write_text('[{"path": ""}]')
    assert "expected objects with `type` and `path`" in refusal(made.path)


def test_a_cross_encoder_is_a_classifier(make):
    made = make(pooler=True, task="sequence_classification", num_labels=1)
    dress(made.path, OLD, prompts={"model_type": "CrossEncoder"}, transformer_task="sequence-classification")
    actual = huggingface.read(made.path)
    assert actual.settings == {} and actual.problem == "regression"
