"""Compares pooling of packed rows with pooling of each text alone."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data import packing
from bert_jax.model.pooling import POOLING, pool

LENGTHS, WIDTH, HIDDEN = np.array([1, 12, 3, 5, 2, 12, 7]), 12, 6
MEMBERS, FIRST = packing.fill(LENGTHS, np.zeros(len(LENGTHS)), packing.Limits(WIDTH, 4))
SKIPPED = 1  # tokens at a text's beginning that are not pooled


def pack(batch):
    shuffled = {name: array[MEMBERS] for name, array in batch.items()}
    return packing.pack(shuffled, FIRST, len(FIRST), packing.Limits(WIDTH, 4), 0, 1)


def test_every_way_of_pooling_and_its_gradient():
    random = np.random.default_rng(0)
    inside = np.arange(WIDTH) < LENGTHS[:, None]
    batch = {
        "input_ids": np.where(inside, 7, 0).astype(np.int32),
        "attention_mask": inside.astype(np.int32),
        "token_type_ids": np.zeros(inside.shape, np.int32),
        "text": np.arange(len(LENGTHS), dtype=np.int32) + 1,
    }
    rows = pack(batch)
    hidden = random.integers(-3, 4, (len(LENGTHS), WIDTH, HIDDEN)).astype(np.float32)  # with equal maxima
    scores = random.standard_normal((len(LENGTHS), WIDTH)).astype(np.float32)
    cotangents = random.standard_normal((len(LENGTHS), HIDDEN)).astype(np.float32) * (LENGTHS > SKIPPED)[:, None]
    cotangents = cotangents.astype(np.float32)

    def in_rows(values):
        packed = random.standard_normal((*rows["input_ids"].shape, *values.shape[2:])).astype(np.float32)
        for row, number, text in zip(*np.nonzero(rows["text"]), rows["text"][rows["text"] > 0] - 1, strict=True):
            packed[row][rows["sequence_ids"][row] == number + 1] = values[text, : LENGTHS[text]]
        return packed

    packed_cotangents = np.zeros((*rows["text"].shape, HIDDEN), np.float32)
    packed_cotangents[rows["text"] > 0] = cotangents[rows["text"][rows["text"] > 0] - 1]

    @jax.jit
    def run(hidden, scores, batch, cotangents):
        positions = batch["position_ids"] if "position_ids" in batch else jnp.arange(WIDTH)[None]
        present = jnp.where(positions >= SKIPPED, batch["attention_mask"], 0)

        def pooled_and_gradient(kind):
            pooled, backward = jax.vjp(lambda *inputs: pool(inputs[0], present, kind, inputs[1], batch), hidden, scores)
            return pooled, backward(cotangents)

        return {kind: pooled_and_gradient(kind) for kind in POOLING}

    of_rows = run(in_rows(hidden), in_rows(scores), rows, packed_cotangents)
    of_texts = run(hidden, scores, batch, cotangents)
    for kind in POOLING:
        (actual, gradient), (expected, alone) = of_rows[kind], of_texts[kind]
        assert np.isfinite(actual).all()
        for row, number, text in zip(*np.nonzero(rows["text"]), rows["text"][rows["text"] > 0] - 1, strict=True):
            if LENGTHS[text] > SKIPPED:
                np.testing.assert_allclose(actual[row, number], expected[text], rtol=1e-5, atol=1e-6, err_msg=kind)
                mine = rows["sequence_ids"][row] == number + 1
                for one, other in zip(gradient, alone, strict=True):
                    np.testing.assert_allclose(one[row][mine], other[text, : LENGTHS[text]], rtol=1e-5, atol=1e-6)
