"""Compares Longformer with transformers live: rows of thousands of tokens, and global tokens as its classes choose.

Random models of short rows are among those of test_parity_models.py.
"""

import jax
import numpy as np
import pytest

from bert_jax.interop import huggingface
from experiments.parity import models, random_models

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, pad_token_id=1,
    sep_token_id=2, type_vocab_size=1, layer_norm_eps=1e-5,
)  # fmt: skip


def made(path, head, **changes):
    """Returns (our model, transformers' model) of a random model, with weights away from 0 and 1."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"LongformerFor{head}")(transformers.LongformerConfig(**SIZES | changes))
    random_models.rescale(torch, model, 0.1)
    model.save_pretrained(path)
    random_models.tiny_vocabulary(path, fairseq=True)
    ours = huggingface.read(path)
    return ours, models.torch_model(ours, torch.float32)


def rows_of(lengths, total):
    """Returns rows <s> question </s></s> context </s>, padded, the questions of 5 and more tokens."""
    random = np.random.default_rng(0)
    ids = random.integers(5, SIZES["vocab_size"], (len(lengths), total))
    for i, length in enumerate(lengths):
        ids[i, 0], ids[i, 6 + i : 8 + i], ids[i, length - 1], ids[i, length:] = 0, 2, 2, 1
    present = np.arange(total)[None] < np.array(lengths)[:, None]
    batch = {"input_ids": ids, "attention_mask": present, "token_type_ids": 0 * ids}
    return {name: array.astype(np.int32) for name, array in batch.items()}


@pytest.mark.parametrize("total", [4096, 3001], ids=["whole", "odd"])
def test_long_rows(tmp_path, total):
    """Hidden states, logits, loss, gradients and a step of AdamW, with windows of two sizes."""
    ours, theirs = made(tmp_path, "MaskedLM", attention_window=[512, 256], max_position_embeddings=total + 2)
    random = np.random.default_rng(1)
    batch = rows_of((total, total - 777), total)
    positions = np.sort(random.choice(total - 777, (2, 40), replace=False), axis=1)
    batch |= {"masked_positions": positions, "masked_labels": random.integers(0, SIZES["vocab_size"], positions.shape)}
    batch["global_positions"] = np.array([[0, 5, 1500, total - 1], [2000, 0, -1, -1]])
    batch["next_sentence_label"] = np.zeros(2)  # which no head reads
    batch = {name: array.astype(np.int32) for name, array in batch.items()}
    batch["masked_weights"] = np.ones(positions.shape, np.float32)
    expected, actual = models.reference(theirs, ours, batch), models.compute_ours(ours, batch)
    for one, other in zip(actual["hidden"], expected["hidden"], strict=True):
        assert models.error(one, other) < models.BARS["hidden states"]
    assert models.error(actual["logits logits"], expected["logits logits"]) < models.BARS["logits"]
    assert models.error(actual["loss"], expected["loss"]) < models.BARS["loss"]
    cancelled = [name for name in expected["gradients"] if "key" in name and name.endswith("bias")]
    errors = models.gradient_errors(actual["gradients"], expected["gradients"])
    assert max(error for name, error in errors.items() if name not in cancelled) < models.BARS["gradients"]
    assert models._step_error(actual["after"], expected["after"]) < models.BARS["AdamW step"]


@pytest.mark.parametrize("head", ["SequenceClassification", "QuestionAnswering"])
def test_classes_choose_the_global_tokens_that_the_task_does(tmp_path, head):
    import torch

    ours, theirs = made(tmp_path, head, attention_window=8, max_position_embeddings=52)
    batch = rows_of((50, 41), 50)
    names = ("input_ids", "attention_mask")
    output = theirs(**{name: torch.from_numpy(batch[name]).long() for name in names})
    if head == "QuestionAnswering":
        expected = torch.stack([output.start_logits, output.end_logits], -1).detach().numpy()
        batch["global_positions"] = np.array([[0, 1, 2, 3, 4, 5, -1], [0, 1, 2, 3, 4, 5, 6]], np.int32)
    else:
        expected = output.logits.detach().numpy()
    actual = np.asarray(jax.jit(lambda params: ours.model.apply(params, batch)["logits"])(ours.params))
    there = batch["attention_mask"] != 0 if actual.ndim == 3 else slice(None)
    assert models.error(actual[there], expected[there]) < models.BARS["logits"]
