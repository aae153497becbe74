"""Trees of parameters: named, split, merged, and fitted to another model."""

import jax
import numpy as np

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.interop.pretrained import transfer
from bert_jax.model import parameters

TREE = {"encoder": {"layers": {"0": {"kernel": 1, "bias": 2}}, "norm": {"scale": 3}}, "mlm": {"bias": 4}}


def make_model(**settings):
    config = config_lib.base()
    config.model.update(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=16, max_positions=8)
    return model_lib.build(config.model, 20, **settings)


def test_leaves_by_name_and_back():
    leaves = parameters.leaves_by_name(TREE)
    assert leaves == {
        "encoder/layers/0/kernel": 1, "encoder/layers/0/bias": 2, "encoder/norm/scale": 3, "mlm/bias": 4,
    }  # fmt: skip
    tree = {}
    for name, leaf in leaves.items():
        parameters.set_leaf(tree, name, leaf)
    assert tree == TREE


def test_two_parts_make_the_whole():
    biases = parameters.select_leaves(TREE, lambda name: name.endswith("bias"))
    others = parameters.select_leaves(TREE, lambda name: not name.endswith("bias"))
    assert biases == {"encoder": {"layers": {"0": {"bias": 2}}}, "mlm": {"bias": 4}}
    assert "mlm" not in others  # no empty dict is left
    assert parameters.merge_trees(biases, others) == TREE


def test_what_fits_is_taken_and_the_rest_is_drawn():
    """A head that the source lacks is drawn as `init` draws it; one of another shape is drawn and left out."""
    source_model, model = make_model(next_sentence=False), make_model()
    source = jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0, np.float32), source_model.init(jax.random.key(0)))
    source["mlm"]["bias"] = np.zeros(3, np.float32)
    params, fresh, left = transfer(source, model, jax.random.key(1))
    assert (fresh, left) == (["mlm", "next_sentence"], ["mlm"])
    drawn = parameters.leaves_by_name(jax.jit(model.init)(jax.random.key(1)))
    for name, leaf in parameters.leaves_by_name(params).items():
        expected = drawn[name] if name == "mlm/bias" or name.startswith("next_sentence") else 7.0
        np.testing.assert_array_equal(leaf, np.broadcast_to(expected, leaf.shape), err_msg=name)

    taken, draw, fresh, _ = parameters.fit_parameters(model, source, redrawn=r"^encoder/embeddings/")
    assert {name.split("/")[1] for name in fresh if name.startswith("encoder")} == {"embeddings"}
    assert jax.tree.structure(parameters.merge_trees(taken, draw(jax.random.key(1)))) == jax.tree.structure(params)
