"""Sizes of a run's arrays, and the models of few layers that its memory is estimated from."""

import pytest

from bert_jax import config as config_lib
from bert_jax.model import Spec
from bert_jax.training import lowering


@pytest.mark.parametrize(
    ("changes", "few"),
    [({}, (2, 3)), ({"local_window": 128, "global_every": 3}, (4, 7)), ({"layer_groups": 1}, (2, 3)),
     ({"layer_groups": 2, "group_layers": 2}, (8, 12))],
)  # fmt: skip
def test_few_layers_hold_every_kind_of_layer(changes, few):
    settings = config_lib.base().model.to_dict() | changes
    assert lowering.few_layers(settings) == few


def test_largest_arrays_grow_with_rows_layers_and_predictions():
    spec = Spec(vocab_size=1000, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=64)
    one = lowering.largest_arrays(spec, 1, 32, 5)
    assert lowering.largest_arrays(spec, 3, 32, 5) == pytest.approx(3 * one)
    assert lowering.largest_arrays(spec, 1, 64, 5) > 2 * one > 2 * lowering.largest_arrays(spec, 1, 32, 0)
    assert lowering.largest_arrays(spec, 1, 32, 5, backward=False) < one


def test_a_batch_has_the_arrays_that_its_loader_makes(config):
    from bert_jax.data import batch_at

    shapes = lowering.batch_shapes(config, config.data)
    batch = batch_at(config, 0)
    assert shapes == {name: (array.shape, array.dtype.type) for name, array in batch.items()}
