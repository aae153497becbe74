"""Directories with a vector for each token: the settings of PyLate and sentence-transformers, and what is refused."""

import json
import pathlib

import numpy as np
import pytest

from bert_jax.data.tasks.late_interaction import PUNCTUATION, Reading
from bert_jax.data.vocabularies import hugging_face
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop import multi_vector, tensors

PYLATE = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24,
          "document_length": 300, "attend_to_expansion_tokens": True, "do_query_expansion": True,
          "skiplist_words": [".", "?"], "similarity_fn_name": "MaxSim"}  # fmt: skip


def read(folder, config, modules=("Dense",), own=None, prompts=None, mask=None, longest=None):
    """Returns the settings of files with these modules behind the encoder."""
    listed = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, name in enumerate(modules, 1):
        path = folder / f"{number}_{name}"
        path.mkdir(exist_ok=True)
        listed.append({"path": path.name, "type": f"sentence_transformers.models.{name}"})
        content = {"module_input_name": "token_embeddings"}
        if name == "Dense":
            content = {"in_features": 8, "out_features": 3, "bias": False, "activation_function": "torch.nn.Identity"}
            tensors.write({"linear.weight": np.ones((3, 8), np.float32)}, path)
        if name == "MultiVectorMask":
            content = mask or {}
        (path / "config.json").write_text(json.dumps(content))
    source = multi_vector.Source(folder, listed, own or {}, pathlib.Path("encoder.json"), config, {}, False)
    return multi_vector.read(source, prompts or {}, longest)


def reading(*arguments, **options):
    return Reading.from_json(read(*arguments, **options)["late_interaction"])


def test_files_of_pylate(tmp_path):
    settings = read(tmp_path, PYLATE, prompts={"query": "[Q] find ", "other": "to "})
    expected = Reading(24, 300, 24, True, (".", "?"), False, ("[Q] ", "[D] "))
    assert Reading.from_json(settings["late_interaction"]) == expected
    assert settings["similarity"] == "maxsim" and settings["prompts"] == {"query": "find ", "other": "to "}
    assert [layer.kind for layer in settings["late_layers"]] == ["dense", "normalize"]
    assert multi_vector.can_write(settings)
    written = multi_vector.pylate_config(settings)
    assert written == {key: PYLATE[key] for key in written}
    bare = reading(tmp_path, {"model_type": "ColBERT", "query_prefix": "[Q] "})
    assert bare == Reading(32, 180, 32, False, PUNCTUATION, False, ("[Q] ", ""))
    unexpanded = reading(tmp_path, PYLATE | {"do_query_expansion": False})
    assert unexpanded.expansion_length == 0 and unexpanded.query_length == 24


def test_files_of_sentence_transformers(tmp_path):
    config = {"model_type": "MultiVectorEncoder", "similarity_fn_name": "meanmaxsim"}
    modules = ("Dense", "MultiVectorMask", "Normalize")
    fixed = {"query_expansion": {"strategy": "fixed", "attend": False, "length": 16}, "document_length": 50}
    settings = read(tmp_path, config, modules, fixed, mask={"skiplist_words": ["!"]}, longest=64)
    assert Reading.from_json(settings["late_interaction"]) == Reading(16, 50, 16, False, ("!",))
    assert settings["similarity"] == "meanmaxsim" and multi_vector.can_write(settings)
    least = {"query_expansion": {"strategy": "min", "attend": True, "length": 8}, "query_length": 20}
    settings = read(tmp_path, config, modules, least, mask={"skiplist_tasks": ["query", "document"]}, longest=64)
    assert Reading.from_json(settings["late_interaction"]) == Reading(20, 64, 8, True, (), True)
    assert not multi_vector.can_write(settings)
    assert reading(tmp_path, config, modules, {}, longest=64) == Reading(64, 64, 0, False, ())


def test_mistakes(tmp_path):
    config = {"model_type": "MultiVectorEncoder"}
    modules = ("Dense", "MultiVectorMask")
    fixed = {"query_expansion": {"strategy": "fixed", "attend": False, "length": 16}}
    for arguments, message in (
        (((*modules, "Pooling"), {}), "Transformer, Dense, MultiVectorMask, Pooling; expected .*but not Pooling there"),
        ((("Dense",), fixed), "query_expansion without MultiVectorMask is not supported"),
        ((modules, {"query_expansion": {"strategy": "other", "length": 3}}), "encoder.json: query_expansion .*other"),
        ((modules, {"query_expansion": {"strategy": "min", "length": 3, "token": "x"}}), r"no token but \[MASK\]"),
        ((modules, {"document_length": "many"}), "document_length 'many'; expected a number of tokens, 3 or more"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read(tmp_path, config, *arguments)
    for mask, message in (({"keep_only_token_ids": [3]}, "keep_only_token_ids of"),
                          ({"skiplist_tasks": ["query"]}, "skiplist_tasks .'query'.; expected document")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read(tmp_path, config, modules, mask=mask)


def test_markers():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "ab"]
    tokenizer = hugging_face.wordpiece(tokens, True, "test")
    assert multi_vector.with_markers(tokenizer, ("", "[Q] ")) is tokenizer
    assert multi_vector.with_markers(tokenizer, ("[Q] ", "ab ")) is tokenizer
    known = multi_vector.with_markers(tokenizer, ("[unused0] ", ""))
    assert known.vocab_size == 7 and list(known.encode(["[unused0] ab"], special=True)[0]) == [5, 6]
    added = multi_vector.with_markers(tokenizer, ("[Q] ", "[D] "), add=True)
    assert added.vocab_size == 9 and list(added.encode(["[D] ab"], special=True)[0]) == [8, 6]
    assert multi_vector.with_markers(added, ("[Q] ", "[D] "), add=True) is added


def test_markers_of_a_sentencepiece_model():
    class Pieces(Tokenizer):
        kind = "sentencepiece"

        def token_id(self, token):
            return {"[D] ": 7}.get(token)

        def encode(self, texts, special=False):
            return [[3, 4]] * len(texts)

    tokenizer = Pieces()
    assert multi_vector.with_markers(tokenizer, ("[Q] ", "[D] ")) is tokenizer
    with pytest.raises(UserError, match=r"markers '\[Q\] ', '\[D\] ': a SentencePiece .model cannot have them"):
        multi_vector.with_markers(tokenizer, ("[Q] ", "[D] "), add=True)


def test_files_of_stanford(tmp_path):
    kernel = np.arange(12, dtype=np.float16).reshape(3, 4)
    settings = multi_vector.read_stanford(tmp_path, {"linear.weight": kernel})
    expected = Reading(32, 220, 32, False, PUNCTUATION, False, ("[unused0]", "[unused1]"))
    assert Reading.from_json(settings["late_interaction"]) == expected and multi_vector.can_write(settings)
    np.testing.assert_array_equal(settings["late_layers"][0].arrays["kernel"], kernel.T.astype(np.float32))
    metadata = {"query_maxlen": 24, "doc_maxlen": 60, "mask_punctuation": False, "attend_to_mask_tokens": True,
                "query_token_id": "[Q]", "doc_token_id": "[D]"}  # fmt: skip
    (tmp_path / "artifact.metadata").write_text(json.dumps(metadata))
    settings = multi_vector.read_stanford(tmp_path, {"linear.weight": kernel})
    expected = Reading(24, 60, 24, True, (), False, ("[Q]", "[D]"))
    assert Reading.from_json(settings["late_interaction"]) == expected and settings["max_length"] == 60
    with pytest.raises(UserError, match="HF_ColBERT without linear.weight; expected the map"):
        multi_vector.read_stanford(tmp_path, {})
    (tmp_path / "artifact.metadata").write_text(json.dumps({"doc_maxlen": "many"}))
    with pytest.raises(UserError, match="artifact.metadata: doc_maxlen 'many'; expected a number of tokens"):
        multi_vector.read_stanford(tmp_path, {"linear.weight": kernel})
