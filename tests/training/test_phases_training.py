"""Training through phases with other batch sizes and mask rates: ModernBERT's warm-up and EuroBERT's two rates."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.data import batch_at
from bert_jax.errors import UserError
from bert_jax.training import pretraining
from bert_jax.training.optimizer import make_schedule
from tests.commands import logged_rows


@pytest.fixture
def recipe(config):
    """Steps 0-3 of 16 rows and 4-7 of 32, half of whose tokens are masked; then a tenth, to step 12."""
    config.objective.next_sentence = False
    config.data.update(format="full_sentences", batch_size=32)
    early = {"sequence_length": 32, "mask_rate": 0.5}
    config.data.phases = config_lib.by_tokens(
        *config_lib.batch_warmup(16, 32, tokens=4 * 16 * 32, stages=1, **early),
        {"tokens": 4 * 32 * 32, "batch_size": 32, **early},
        {"tokens": 4 * 32 * 32, "batch_size": 32, "sequence_length": 32, "mask_rate": 0.1},
    )
    config.optimizer.update(name="stable_adamw", clip_norm=0.0, schedule="trapezoidal", decay_steps=5)
    config.optimizer.decay_shape = "sqrt"
    config.train.update(num_steps=0, num_tokens=(16 + 32 + 32) * 4 * 32, checkpoint_every=3, eval_every=0)
    return config


def test_a_run_through_them_and_one_that_is_resumed_inside(recipe, tmp_path):
    first, _, last = recipe.data.phases  # two programs to compile, not three
    recipe.data.phases = ({**first, "share": 0.5}, {**last, "share": 0.5})
    recipe.train.num_tokens = (16 + 32) * 4 * 32
    assert [(phase.start, phase.stop) for phase in config_lib.phases(recipe)] == [(0, 4), (4, 8)]
    pretraining.pretrain(recipe, tmp_path / "whole")
    whole = logged_rows(tmp_path / "whole")
    assert [row["step"] for row in whole] == list(range(1, 9))
    rates = make_schedule(recipe.optimizer, 8)(jnp.arange(8))  # by step, whatever the batch is
    np.testing.assert_allclose([row["learning_rate"] for row in whole], rates, rtol=1e-5, atol=1e-9)
    assert all(np.isfinite(row["loss"]) for row in whole)

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for checkpoint in (tmp_path / "resumed" / "checkpoints").iterdir():
        if checkpoint.name.isdigit() and int(checkpoint.name) > 6:  # in the second phase
            shutil.rmtree(checkpoint)
    pretraining.pretrain(recipe, tmp_path / "resumed")
    assert logged_rows(tmp_path / "resumed") == whole


def test_batches_of_them(recipe):
    assert [(phase.start, phase.stop) for phase in config_lib.phases(recipe)] == [(0, 4), (4, 8), (8, 12)]
    shapes = [batch_at(recipe, step)["masked_positions"].shape for step in (0, 3, 4, 7, 8, 11)]
    assert shapes == [(16, 15), (16, 15), (32, 15), (32, 15), (32, 3), (32, 3)]
    for step in (3, 4, 11):
        whole = batch_at(recipe, step)
        parts = [batch_at(recipe, step, host, 8) for host in range(8)]
        for name in whole:
            np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part in parts]))
    # The sizes of the warm-up cut one stream of rows: the one that a run of 16 rows a step has.
    steps = [batch_at(recipe, step)["input_ids"] for step in range(8)]
    recipe.data.update(phases=(), batch_size=16, mask_rate=0.5)
    plain = [batch_at(recipe, step)["input_ids"] for step in range(12)]
    np.testing.assert_array_equal(np.concatenate(steps), np.concatenate(plain))


def test_a_size_that_microbatches_do_not_divide_is_named(recipe):
    recipe.train.microbatches = 4
    with pytest.raises(UserError, match=r"batch_size: 16 \(phase 1, config.data.phases\[0\]\) is not divisible by 8"):
        config_lib.check_devices(recipe, 8)
