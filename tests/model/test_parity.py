"""Compares with transformers in float32: with golden arrays, and live where torch is installed (make test-parity)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.interop import families, weights
from bert_jax.objectives.language_modeling import LanguageModeling
from bert_jax.training import optimizer as optimizer_lib

FOLDER = pathlib.Path(__file__).parent
FAMILIES = {name: families.FAMILIES[name].table({}) for name in ("bert", "roberta")}


def our_model(family, scan_layers):
    config = config_lib.base().model
    config.update(hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40, max_positions=19)
    config.update(dtype="float32", scan_layers=scan_layers)
    if family == "roberta":
        config.update(position_offset=2, type_vocab_size=1, norm_epsilon=1e-5, pooler=False)
    return model_lib.build(config, 53, next_sentence=family == "bert")


def live(family):
    from tests.model import make_golden  # needs torch and transformers

    seed, segments, pad_id = (11, 2, 0) if family == "bert" else (12, 1, 1)
    make = make_golden.bert if family == "bert" else make_golden.roberta
    batch = make_golden.random_batch(seed, segments, pad_id)
    arrays = make_golden.reference(make_golden.randomised(make("sdpa"), seed), batch)
    return arrays | {f"batch/{name}": array for name, array in batch.items()}


def group(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def assert_close(ours, theirs, tolerance, floor=0.0):
    """Compares the largest difference with the largest number, or with the floor for arrays of mere noise."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).max() <= tolerance * max(abs(theirs).max(), floor)


@pytest.mark.parametrize(
    ("family", "scan_layers"),
    [("bert", False), ("bert", True), ("roberta", False), pytest.param("roberta", True, marks=pytest.mark.full)],
)
@pytest.mark.parametrize("source", ["golden", pytest.param("live", marks=pytest.mark.parity)])
def test_agrees_with_transformers(source, family, scan_layers):
    arrays = live(family) if source == "live" else dict(np.load(FOLDER / f"golden_{family}.npz"))
    model, table = our_model(family, scan_layers), FAMILIES[family]
    batch = group(arrays, "batch/")
    objective = LanguageModeling(model, {"name": "mlm", "next_sentence": family == "bert"})
    params = jax.tree.map(jnp.asarray, weights.from_state_dict(model, group(arrays, "before/"), table, "golden"))

    every_position = {k: v for k, v in batch.items() if k != "masked_positions"}
    outputs = jax.jit(model.apply)(params, every_position)
    present = batch["attention_mask"] > 0
    assert_close(outputs["hidden"][present], arrays["hidden"][present], 1e-5)
    assert_close(outputs["mlm_logits"][present], arrays["logits"][present], 1e-5)
    slots = np.take_along_axis(arrays["logits"], batch["masked_positions"][..., None], axis=1)
    assert_close(jax.jit(model.apply)(params, batch)["mlm_logits"], slots, 1e-5)
    if family == "bert":
        assert_close(outputs["next_sentence_logits"], arrays["next_sentence_logits"], 1e-5)

    def loss_of(params):
        return objective.mean_loss(objective.sums(params, batch), objective.counts(batch))

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    assert_close(loss, arrays["loss"], 1e-5)
    largest = max(abs(grad).max() for grad in group(arrays, "grad/").values())
    ours = weights.to_state_dict(grads, table)
    for name, theirs in group(arrays, "grad/").items():
        assert_close(ours[name], theirs, 1e-4, floor=1e-3 * largest)

    config = config_lib.base().optimizer
    config.update(learning_rate=1e-3, schedule="constant", warmup_steps=0, clip_norm=0.0)
    optimizer = optimizer_lib.make_optimizer(config, 1)

    def stepped(params, grads):
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params), params)[0])

    ours = weights.to_state_dict(jax.jit(stepped)(params, grads), table)
    for name, theirs in group(arrays, "after/").items():
        if not name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding alone, which Adam scales up
            assert_close(ours[name], theirs, 1e-5)
