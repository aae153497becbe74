"""Tests that fine-tuning agrees with transformers: losses of its heads, and a curve of its optimizer and schedule."""

import math

import jax
import numpy as np
import pytest

from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.finetuning import losses
from bert_jax.finetuning.step import Learner
from bert_jax.interop import huggingface

pytestmark = pytest.mark.parity

VOCAB, ROWS, LENGTH, STEPS = 50, 8, 11, 20
WORDS = [f"w{i}" for i in range(VOCAB - 5)]


def theirs(kind, folder, **settings):
    """Saves a random model of transformers with a vocabulary."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2, **settings,
    )  # fmt: skip
    model = getattr(transformers, f"BertFor{kind}")(config)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return model


def make_batch(step):
    random = np.random.default_rng(step)
    lengths = random.integers(3, LENGTH + 1, (ROWS, 1))
    return {
        "input_ids": random.integers(1, VOCAB, (ROWS, LENGTH)).astype(np.int32),  # torch gives padding no gradient
        "attention_mask": (np.arange(LENGTH) < lengths).astype(np.int32),
        "token_type_ids": (np.arange(LENGTH) >= lengths // 2).astype(np.int32),
        "weights": np.ones(ROWS, np.float32),
        "labels": random.integers(0, 3, ROWS).astype(np.int32),
    }


def as_torch(batch, rows=ROWS):
    import torch

    arrays = {name: torch.from_numpy(array[:rows]) for name, array in batch.items() if name != "weights"}
    return {name: array if array.is_floating_point() else array.long() for name, array in arrays.items()}


RANDOM = np.random.default_rng(7)
TAGS = np.where(RANDOM.random((ROWS, LENGTH)) < 0.5, RANDOM.integers(0, 3, (ROWS, LENGTH)), -100).astype(np.int32)
POSITIONS = RANDOM.integers(0, LENGTH, (2, ROWS)).astype(np.int32)


@pytest.mark.parametrize(
    ("kind", "settings", "labels"),
    [
        ("SequenceClassification", {"num_labels": 3}, {}),
        ("SequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"},
         {"labels": RANDOM.integers(0, 2, (ROWS, 3)).astype(np.float32)}),
        ("SequenceClassification", {"num_labels": 1}, {"labels": RANDOM.standard_normal(ROWS).astype(np.float32)}),
        ("TokenClassification", {"num_labels": 3}, {"labels": TAGS}),
        ("QuestionAnswering", {}, {"start_positions": POSITIONS[0], "end_positions": POSITIONS[1]}),
    ],
)  # fmt: skip
def test_losses(tmp_path, kind, settings, labels):
    """The loss of six rows is that of the same six in a batch of eight."""
    model = theirs(kind, tmp_path, **settings).eval()
    opened = huggingface.read(tmp_path)
    batch = make_batch(0) | labels
    if "start_positions" in labels:
        del batch["labels"]
        batch["attention_mask"][:] = 1  # theirs chooses among the padding too, ours among the text alone
    expected = float(model(**as_torch(batch, 6)).loss.detach())
    batch["weights"][6:] = 0
    count = losses.loss_denominator(batch, opened.model, opened.problem)
    loss = jax.jit(lambda: losses.loss_sum(opened.model, opened.params, batch, opened.problem))()
    np.testing.assert_allclose(loss / count, expected, rtol=1e-5)


def test_twenty_steps(tmp_path):
    """The optimizer is AdamW with clipping and a linear schedule with warm-up; kernels and embeddings alone decay."""
    import torch
    import transformers

    model = theirs("SequenceClassification", tmp_path, num_labels=3).train()
    opened = huggingface.read(tmp_path)
    config = finetune_config.base()
    config.optimizer.update(learning_rate=1e-3, epsilon=1e-8, warmup_share=0.15, weight_decay=0.1)

    plain = ("bias", "LayerNorm.weight")
    groups = [
        {"params": [p for n, p in model.named_parameters() if not n.endswith(plain)], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n.endswith(plain)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(0.15 * STEPS), STEPS)
    expected, rates = [], []
    for step in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        loss = model(**as_torch(make_batch(step))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        expected.append(float(loss.detach()))

    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    learner = Learner(config, opened.model, opened.problem, (0,), mesh, STEPS)
    state, fresh, left = learner.layout.init(opened.params)
    assert not fresh and not left
    train_step, keys = learner.train_step, learner.dropout_keys()
    for step in range(STEPS):
        batch = {name: array[None] for name, array in make_batch(step).items()}
        state, metrics = train_step(state, batch, np.int32(step), keys)
        np.testing.assert_allclose(metrics["loss"], expected[step], rtol=1e-5, err_msg=f"step {step}")
        np.testing.assert_allclose(metrics["learning_rate"], rates[step], rtol=1e-5, atol=1e-12)
    model.save_pretrained(tmp_path)
    after = huggingface.read(tmp_path).params
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(state["params"]), jax.tree.leaves(after), strict=True
    ):
        name, difference = sharding.path_name(path), np.linalg.norm(np.asarray(one[0]) - np.asarray(other))
        # The key's bias has no true gradient: rounding moves it, and the loss does not see it.
        assert difference <= 1e-4 * np.linalg.norm(np.asarray(other)) or "key/bias" in name, name
