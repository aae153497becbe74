"""Tests that what transformers' Flax classes wrote is read like what its torch classes wrote of the same model."""

import fnmatch
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util

from bert_jax.errors import UserError
from bert_jax.interop import flax_weights, hub, huggingface

_ALBERT = {"embedding_size": 6, "num_hidden_groups": 1, "inner_group_num": 2}
_DISTILBERT = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "vocab_size": 17, "max_position_embeddings": 11}
# Families that had Flax classes, the heads of these, and more of their config.json.
CASES = [
    ("bert", {"pooler": True, "language_model": True, "next_sentence": True}, {}),
    ("bert", {"pooler": True}, {}),
    ("bert", {"pooler": True, "task": "sequence_classification"}, {}),
    ("bert", {"language_model": True}, {"tie_word_embeddings": False}),
    ("roberta", {"language_model": True}, {}),
    ("roberta", {"task": "sequence_classification"}, {}),
    ("xlm-roberta", {"task": "question_answering"}, {}),
    ("distilbert", {"language_model": True}, _DISTILBERT | {"only": True}),
    ("albert", {"pooler": True, "language_model": True, "sentence_order": True}, _ALBERT),
    ("electra", {"replaced_tokens": True}, {"embedding_size": 6}),
    ("electra", {"language_model": True}, {"embedding_size": 6}),
    ("roberta-prelayernorm", {"language_model": True}, {}),
    ("roformer", {"language_model": True}, {}),
    ("roformer", {"task": "sequence_classification"}, {}),
]


def by_flax(arrays):
    """Returns torch arrays by their Flax paths and in Flax layouts, both of which depend on the kind of module."""
    flat = {}
    for name, array in arrays.items():
        *modules, last = name.split(".")
        if modules[-1] == "embed_positions":  # which Flax's class computes
            continue
        if last == "weight":
            if "embeddings" in modules[-1] and modules[-1] != "embeddings_project":
                last = "embedding"
            elif "norm" in modules[-1].lower():
                last = "scale"
            else:
                last, array = "kernel", array.T
        flat["/".join([*modules, last])] = np.ascontiguousarray(array)
    return flat


def write_flax(made, nest=lambda tree: tree):
    (made.path / "model.safetensors").unlink()
    tree = nest(traverse_util.unflatten_dict(by_flax(made.arrays), sep="/"))
    (made.path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))


@pytest.mark.parametrize(("model_type", "heads", "changes"), CASES)
def test_what_flax_classes_saved_is_the_same_model(make, tmp_path, model_type, heads, changes):
    made = make(model_type, **heads, **changes)
    expected = huggingface.read(made.path)
    write_flax(made)
    actual = huggingface.read(made.path)
    assert actual.model.spec == expected.model.spec
    jax.tree.map(np.testing.assert_array_equal, actual.params, expected.params)
    huggingface.write(actual, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file() and not (tmp_path / "out/flax_model.msgpack").exists()
    jax.tree.map(np.testing.assert_array_equal, huggingface.read(tmp_path / "out").params, expected.params)


def test_variables_with_their_collection_and_half_precision(make):
    made = make(dtype="bfloat16")
    expected = huggingface.read(made.path)
    write_flax(made, lambda tree: {"params": tree})
    actual = huggingface.read(made.path)
    jax.tree.map(np.testing.assert_array_equal, actual.params, expected.params)
    assert set(actual.origin.dtypes.values()) == {"bfloat16"}


def test_shards_and_their_index(make):
    made = make(language_model=True)
    expected = huggingface.read(made.path)
    (made.path / "model.safetensors").unlink()
    flat, weight_map = by_flax(made.arrays), {}
    for number, names in enumerate((sorted(flat)[:7], sorted(flat)[7:]), 1):
        file = f"flax_model-{number:05d}-of-00002.msgpack"
        tree = traverse_util.unflatten_dict({name: flat[name] for name in names}, sep="/")
        (made.path / file).write_bytes(serialization.msgpack_serialize(tree))
        weight_map |= dict.fromkeys(names, file)
    (made.path / flax_weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    jax.tree.map(np.testing.assert_array_equal, huggingface.read(made.path).params, expected.params)
    (made.path / file).unlink()
    with pytest.raises(UserError, match="flax_model.msgpack.index.json: names flax_model-00002-of-00002.msgpack"):
        huggingface.read(made.path)


def test_safetensors_that_flax_classes_saved(make):
    made = make(pooler=True)
    expected = huggingface.read(made.path)
    arrays = {name.replace("/", "."): array for name, array in by_flax(made.arrays).items()}
    safetensors.numpy.save_file(arrays, made.path / "model.safetensors", metadata={"format": "flax"})
    jax.tree.map(np.testing.assert_array_equal, huggingface.read(made.path).params, expected.params)


def test_what_does_not_fit_is_told_by_torchs_names(make):
    made = make(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"])
    whole = made.arrays
    made.arrays = {name: array for name, array in whole.items() if "layer.1.output.dense" not in name}
    write_flax(made)
    with pytest.raises(UserError, match="flax_model.msgpack: does not fit the model: missing bert.encoder.layer.1.out"):
        huggingface.read(made.path)
    made.arrays = {name: array for name, array in whole.items() if "pooler.dense" not in name}
    made.write(made.arrays)
    write_flax(made)
    lacking = huggingface.read(made.path).lacking
    assert lacking["sequence_classification"].startswith("flax_model.msgpack lacks bert.pooler.dense.weight")


@pytest.mark.parametrize("content", [b"", b"not msgpack at all", serialization.msgpack_serialize([1, 2])])
def test_damaged_files_are_told(make, content):
    made = make()
    (made.path / "model.safetensors").unlink()
    (made.path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(UserError, match="flax_model.msgpack: "):
        huggingface.read(made.path)


@pytest.mark.parametrize(
    ("on_the_hub", "pickles", "expected"),
    [
        ({"model.safetensors", "flax_model.msgpack"}, False, {"model.safetensors"}),
        ({"pytorch_model.bin", "flax_model.msgpack"}, False, {"flax_model.msgpack"}),
        ({"pytorch_model.bin", "flax_model.msgpack"}, True, {"pytorch_model.bin"}),
        ({"flax_model.msgpack"}, True, {"flax_model.msgpack"}),
        ({"pytorch_model.bin"}, False, set()),
    ],
)
def test_one_kind_of_weights_is_fetched(tmp_path, monkeypatch, on_the_hub, pickles, expected):
    def snapshot(name, patterns):
        for file in {"config.json", *on_the_hub}:
            if any(fnmatch.fnmatch(file, pattern) for pattern in patterns):
                (tmp_path / file).touch()
        return tmp_path

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    assert hub.directory("someone/model", pickles) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} - {"config.json"} == expected
