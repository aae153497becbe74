"""Tests what only RoFormer's files have: pairs of neighbours in queries and keys, and a table of sines and cosines."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest

from bert_jax.interop import huggingface, model_config, tensors
from tests.interop.conftest import refusal

SIZES = dict(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=3, vocab_size=17, intermediate_size=12,
    max_position_embeddings=9, type_vocab_size=2,
)  # fmt: skip
TABLE = "roformer.encoder.embed_positions.weight"
QUERY = "roformer.encoder.layer.{}.attention.self.{}"


def turned(vector, place):
    """Rotates pairs of neighbours as Su et al. 2021, equation 15: vector [size]."""
    size = len(vector)
    for i in range(size // 2):
        angle = place * 10_000.0 ** (-2 * i / size)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        vector[2 * i : 2 * i + 2] = rotation @ vector[2 * i : 2 * i + 2]
    return vector


def test_scores_are_those_of_pairs_of_neighbours(make):
    """Computes the first layer's attention weights from the file's own arrays, in float64."""
    made = make("roformer", only=True, **SIZES)
    made.write({name: array if name == TABLE else 0.2 * array for name, array in made.arrays.items()})
    opened = huggingface.read(made.path)
    ids = np.arange(5, 14)
    batch = {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": 0 * ids + 1}
    batch = {name: row[None].astype(np.int32) for name, row in batch.items()}
    actual = jax.jit(lambda params: opened.model.apply(params, batch, hidden_states=True, attention_weights=True))(
        opened.params
    )
    state = np.asarray(actual["hidden_states"][0, 0], np.float64)
    arrays = {name: 0.2 * array.astype(np.float64) for name, array in made.arrays.items()}
    query, key = (
        (state @ arrays[QUERY.format(0, f"{name}.weight")].T + arrays[QUERY.format(0, f"{name}.bias")]).reshape(9, 3, 8)
        for name in ("query", "key")
    )
    for place in range(9):
        for head in range(3):
            turned(query[place, head], place), turned(key[place, head], place)
    scores = np.exp(np.einsum("qhd,khd->hqk", query, key) / math.sqrt(8))
    expected = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(actual["attention_weights"][0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_table_is_compared_to_its_precision_and_written_as_it_was(make, tmp_path, dtype):
    made = make("roformer", only=True, dtype=dtype, **SIZES)
    table = made.arrays[TABLE].astype(np.float32)
    angles = np.array([[place * 10_000.0 ** (-i / 4) for i in range(4)] for place in range(9)])
    precision = float(ml_dtypes.finfo(made.arrays[TABLE].dtype).eps)
    np.testing.assert_allclose(table, np.concatenate([np.sin(angles), np.cos(angles)], 1), rtol=0, atol=precision)
    stored = (table - precision).astype(made.arrays[TABLE].dtype)  # as another machine rounds it
    assert (stored != made.arrays[TABLE]).any()
    made.write(made.arrays | {TABLE: stored})
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    written = tensors.read(tmp_path / "out")[0][TABLE.removeprefix("roformer.")]
    assert written.tobytes() == stored.tobytes()
    made.write({name: array for name, array in made.arrays.items() if name != TABLE})
    huggingface.write(huggingface.read(made.path), tmp_path / "made")
    written = tensors.read(tmp_path / "made")[0][TABLE.removeprefix("roformer.")]
    np.testing.assert_allclose(written, table, rtol=0, atol=precision)


def test_a_table_of_other_angles_is_refused(make):
    made = make("roformer", only=True, **SIZES)
    for table in (made.arrays[TABLE] + 0.01, made.arrays[TABLE][:, :6], made.arrays[TABLE][:8]):
        made.write(made.arrays | {TABLE: table})
        expected = f"does not fit the model: {TABLE} differs from what the model computes in its place"
        assert refusal(made.path).endswith(expected)


@pytest.mark.parametrize(("said", "expected"), [({}, 0), ({"embedding_size": None}, 0), ({"embedding_size": 24}, 0),
                                                ({"embedding_size": 6}, 6)])  # fmt: skip
def test_embeddings_are_as_wide_as_the_layers_unless_a_size_is_said(said, expected):
    config = {"model_type": "roformer"} | SIZES | said
    assert model_config.to_model(config, "config.json")["embedding_size"] == expected
