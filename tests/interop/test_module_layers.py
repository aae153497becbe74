"""Layers in folders of sentence-transformers: written, read, and refused where they do not fit."""

import json

import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.interop import module_layers
from bert_jax.model.projection import Projection


def test_dense_layers_there_and_back(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"kernel": rng.standard_normal((5, 3)), "bias": rng.standard_normal(3),
              "residual": rng.standard_normal((5, 3))}  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for names, adds_input in ((("kernel",), False), (("kernel", "bias"), False), (("kernel", "residual"), True)):
        layer = Projection("dense", {name: arrays[name] for name in names}, "Tanh", adds_input)
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        module_layers.write_dense(layer, folder, use_residual=adds_input)
        weights = {}
        read = module_layers.dense(tmp_path, folder.name, True, weights, False)
        assert (read.kind, read.activation, read.adds_input) == ("dense", "Tanh", adds_input)
        assert weights.keys() == {folder.name} and read.arrays.keys() == set(names)
        for name in names:
            np.testing.assert_array_equal(read.arrays[name], arrays[name])
        with pytest.raises(UserError, match="from sentence_embedding to sentence_embedding; expected a layer that"):
            module_layers.dense(tmp_path, folder.name, False, {}, False)
        usual = module_layers.TOKENS
        assert module_layers.dense(tmp_path, folder.name, False, {}, False, usual).inputs == 5


def test_normalize(tmp_path):
    path = tmp_path / "config.json"
    assert [layer.kind for layer in module_layers.normalize(path, True)] == ["normalize"]
    assert module_layers.normalize(path, False) == []
    path.write_text(json.dumps({"module_input_name": "token_embeddings"}))
    assert [layer.kind for layer in module_layers.normalize(path, False)] == ["normalize"]
