"""A contrastive loss on a whole batch: the same number and gradient in parts and on meshes, dropout on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model.pooling import pool
from bert_jax.objectives import contrastive
from bert_jax.training.cached_gradients import value_and_gradient

ROWS, LENGTH = 32, 12  # 16 anchors, then their 16 positives
SWITCHES = {
    "bert": {},
    "rotary, local": {"positions": "rotary", "local_window": 2, "global_every": 3, "norm_place": "pre"},
    "relative": {"relative_buckets": 8, "relative_span": 16, "positions": "relative"},
    "stacked": {"scan_layers": True},
}


def make(switches):
    settings = config_lib.base().model
    settings.update(hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, max_positions=32, pooler=False)
    settings.update(switches)
    model = model_lib.build(settings, 100, next_sentence=False, language_model=False)
    rng = np.random.default_rng(0)
    mask = (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (ROWS, 1))).astype(np.int32)
    ids = (rng.integers(5, 100, (ROWS, LENGTH)) * mask).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return model, model.init(jax.random.key(1)), jax.tree.map(jnp.asarray, batch)


def parts_of(model):
    key = jax.random.key(3)

    def encode(params, batch, numbers):
        batch = batch | {"row_numbers": numbers}
        hidden = model.apply(params["model"], batch, dropout_key=key)["hidden"]
        return pool(hidden, batch["attention_mask"], "mean")

    def loss_of(params, vectors):
        anchors, candidates = jnp.split(vectors, 2)
        count = len(anchors)
        scores = contrastive.similarities(anchors, candidates) * params["scale"]
        contrast = contrastive.Contrast(
            jnp.arange(count, dtype=jnp.int32), jnp.ones((count, count), bool), jnp.ones(count, jnp.float32)
        )
        total, number = contrastive.info_nce(scores, contrast)
        return total / number, number

    return encode, loss_of


def distance(tree, other):
    leaves = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(
        jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)]  # fmt: skip
    return np.sqrt(sum(((a - b) ** 2).sum() for a, b in leaves) / sum((b**2).sum() for _, b in leaves))


@pytest.mark.parametrize(
    ("name", "parts", "meshes"),
    [("bert", (8,), (8,)), *(pytest.param(name, (1, 8), (2, 8), marks=pytest.mark.full) for name in SWITCHES)],
)
def test_parts_and_meshes_change_nothing(name, parts, meshes):
    model, weights, batch = make(SWITCHES[name])
    params = {"model": weights, "scale": jnp.float32(20.0)}
    encode, loss_of = parts_of(model)

    def run(params, batch, rows):
        return jax.jit(value_and_gradient, static_argnums=(0, 1, 4))(encode, loss_of, params, batch, rows)

    (loss, number), gradient = run(params, batch, 0)
    assert number == 16 and abs(float(gradient["scale"])) > 1e-6
    for rows in parts:
        (part_loss, _), part_gradient = run(params, batch, rows)
        assert float(part_loss) == pytest.approx(float(loss), rel=1e-6), rows
        assert distance(part_gradient, gradient) < 2e-6, rows
    for count in meshes:
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        (mesh_loss, _), mesh_gradient = run(whole, jax.device_put(batch, rows), 0)
        assert float(mesh_loss) == pytest.approx(float(loss), rel=1e-6), count
        assert distance(mesh_gradient, gradient) < 2e-6, count


@pytest.mark.more
def test_without_the_place_of_its_rows_a_part_drops_something_else():
    model, weights, batch = make({})
    key = jax.random.key(3)
    whole = model.apply(weights, batch, dropout_key=key)["hidden"]
    part = {name: array[8:16] for name, array in batch.items()}
    own = model.apply(weights, part, dropout_key=key)["hidden"]
    numbers = jnp.arange(8, 16, dtype=jnp.int32)
    placed = model.apply(weights, part | {"row_numbers": numbers}, dropout_key=key)["hidden"]
    np.testing.assert_allclose(placed, whole[8:16], rtol=1e-5, atol=1e-5)
    assert np.abs(own - whole[8:16]).max() > 0.1


def test_rows_that_do_not_divide_the_batch():
    model, weights, batch = make({})
    with pytest.raises(ValueError, match="32 examples; expected a multiple of 5"):
        value_and_gradient(*parts_of(model), {"model": weights, "scale": 1.0}, batch, 5)
