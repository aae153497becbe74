"""Parameters made of another model's: layers picked, sizes grown, exactly."""

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.sharding import path_name
from bert_jax.training import initial, transplant
from tests.training.conftest import WORDS


def config_of(**changes):
    config = config_lib.base()
    config.model.update(hidden_size=12, num_layers=4, num_heads=3, intermediate_size=6, max_positions=8, pooler=False)
    config.model.update(changes)
    config.objective.next_sentence = False
    return config


def numbered(config, vocab_size=11):
    """A model, and parameters that are all different numbers."""
    model = model_lib.build(config.model, vocab_size, next_sentence=False)
    shapes, count = jax.eval_shape(model.init, jax.random.key(0)), 0

    def number(leaf):
        nonlocal count
        count += leaf.size
        return np.arange(count - leaf.size, count, dtype=np.float32).reshape(leaf.shape)

    return model, jax.tree.map(number, shapes), shapes


def flat(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_layers_are_picked():
    _, params, _ = numbered(config_of())
    shapes = numbered(config_of(num_layers=2))[2]
    picked = transplant.pick_layers(params, (1, 3), shapes)
    there, here = params["encoder"]["layers"], picked["encoder"]["layers"]
    assert here["0"] == there["1"] and here["1"] == there["3"] and len(here) == 2
    assert picked["mlm"] is params["mlm"] and picked["encoder"]["embeddings"] is params["encoder"]["embeddings"]


def test_a_first_layer_that_is_another_kind():
    """Without a norm and with a convolution: what stands first gets the one and loses the other."""
    first = {"norm_place": "pre", "first_norm": False, "conv_kernel_size": 3}
    _, params, _ = numbered(config_of(**first))
    shapes = numbered(config_of(num_layers=2, **first))[2]
    picked = transplant.pick_layers(params, (2, 0), shapes)
    assert jax.tree.structure(picked) == jax.tree.structure(shapes)
    there, here = params["encoder"]["layers"], picked["encoder"]["layers"]
    assert here["0"]["conv"] is there["0"]["conv"] and "attention_norm" not in here["0"]
    assert np.all(here["1"]["attention_norm"]["scale"] == 1) and not np.any(here["1"]["attention_norm"]["bias"])
    around_one = transplant.pick_layers(params, (2, 0), shapes, zero_centered=True)["encoder"]["layers"]["1"]
    assert not np.any(around_one["attention_norm"]["scale"]) and not np.any(around_one["attention_norm"]["bias"])


@pytest.mark.parametrize("over", ["head", "heads"])
def test_norms_of_queries_and_keys_grow_with_their_heads(over):
    norms = {"query_key_norm": "layer", "query_key_norm_over": over}
    old, params, _ = numbered(config_of(num_heads=4, num_kv_heads=2, head_size=4, **norms))
    new, _, shapes = numbered(config_of(num_heads=9, num_kv_heads=3, head_size=4, **norms))
    grown = transplant.grow(params, old.spec, new.spec, shapes)["encoder"]["layers"]["1"]["attention"]
    source = params["encoder"]["layers"]["1"]["attention"]
    for name in ("query", "key"):
        scale = np.asarray(source[f"{name}_norm"]["scale"])
        if over == "heads":  # beside the units of the maps' outputs
            parts = scale.reshape((2, 2, 4) if name == "query" else (2, 4))
            scale = circle(parts, (3, 3, 4) if name == "query" else (3, 4)).ravel()
        np.testing.assert_array_equal(grown[f"{name}_norm"]["scale"], scale)
        assert grown[f"{name}_norm"]["scale"].shape == shapes_of(shapes, name)


def shapes_of(shapes, name):
    return shapes["encoder"]["layers"]["1"]["attention"][f"{name}_norm"]["scale"].shape


def circle(array, shape):
    """By the definition, element by element."""
    result = np.empty(shape, array.dtype)
    for place in np.ndindex(*shape):
        offsets = [(new - old) // 2 for old, new in zip(array.shape, shape, strict=True)]
        result[place] = array[tuple((i - o) % n for i, o, n in zip(place, offsets, array.shape, strict=True))]
    return result


@pytest.mark.parametrize("kind", ["bert", "grouped"])
def test_sizes_grow_from_the_centre(kind):
    """Hidden size from 12 to 20, heads of 4 units from 3 to 5 (grouped: 4 in 2 groups to 9 in 3), 4 layers to 7."""
    small, large = {}, {"hidden_size": 20, "num_layers": 7, "num_heads": 5, "intermediate_size": 17, "head_size": 4}
    if kind == "grouped":
        small = {"num_heads": 4, "num_kv_heads": 2, "head_size": 4, "mlp": "gated", "norm": "rms_norm"}
        large = small | large | {"num_heads": 9, "num_kv_heads": 3}
    old, params, _ = numbered(config_of(**small))
    new, _, shapes = numbered(config_of(**large))
    grown = flat(transplant.grow(params, old.spec, new.spec, shapes))
    params = flat(params)
    assert {name: leaf.shape for name, leaf in grown.items()} == {
        name: leaf.shape for name, leaf in flat(shapes).items()
    }
    layers = [0, 1, 1, 2, 2, 3, 3]  # round(4 i / 7)
    for name, leaf in grown.items():
        parts = name.split("/")
        if "layers" in parts:
            parts[2] = str(layers[int(parts[2])])
        source = params["/".join(parts)]
        if "attention" in parts and parts[-2:] != ["output", "bias"]:
            continue
        np.testing.assert_array_equal(leaf, circle(source, leaf.shape), err_msg=name)
    # Whole heads go round within each group.
    groups = (2, 2, 4), (3, 3, 4)
    of_heads = {
        "query": groups if kind == "grouped" else ((3, 4), (5, 4)),
        "key": ((2, 4), (3, 4)) if kind == "grouped" else ((3, 4), (5, 4)),
    }
    for name, (before, after) in of_heads.items():
        source = params[f"encoder/layers/1/attention/{name}/kernel"].reshape(-1, *before)
        expected = circle(source, (20, *after)).reshape(20, -1)
        np.testing.assert_array_equal(grown[f"encoder/layers/2/attention/{name}/kernel"], expected)
    before, after = of_heads["query"]
    source = params["encoder/layers/1/attention/output/kernel"].reshape(*before, -1)
    expected = circle(source, (*after, 20)).reshape(-1, 20)
    np.testing.assert_array_equal(grown["encoder/layers/2/attention/output/kernel"], expected)


def test_the_smaller_model_is_in_the_middle():
    """12 to 20: four numbers before it. The same size again changes nothing."""
    config = config_of()
    model, params, shapes = numbered(config)
    jax.tree.map(np.testing.assert_array_equal, transplant.grow(params, model.spec, model.spec, shapes), params)
    large, _, shapes = numbered(config_of(hidden_size=20, num_heads=5, head_size=4))
    grown = transplant.grow(params, model.spec, large.spec, shapes)
    for tree, part in ((grown["encoder"]["embeddings"]["word"]["embedding"], slice(4, 16)),):
        np.testing.assert_array_equal(tree[:, part], params["encoder"]["embeddings"]["word"]["embedding"])
        np.testing.assert_array_equal(tree[:, :4], tree[:, 12:16])
    assert len(transplant.grow(params, model.spec, large.spec, shapes)["encoder"]["layers"]) == 4


@pytest.fixture(scope="module")
def source():
    from bert_jax.data.vocabularies import hugging_face

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS[:5]]
    config = config_of()
    model, params, _ = numbered(config)
    settings = config.model.to_dict() | {"vocab_size": 11}
    return Pretrained("source", "bert", settings, model, params, hugging_face.wordpiece(tokens, True, "test"))


def start(config, source):
    """The first parameters, and what is said, of a run that starts from a model."""
    config.init_from = source.name
    config_lib.validate(config)
    initial.resolve(config, source, None)
    model, said = model_lib.build(config.model, 11, next_sentence=False), []
    return initial.params(config, source, model, source.tokenizer, said.append), said


def test_a_run_starts_from_layers(source):
    """Every other layer is taken, without token types, as DistilBERT does."""
    config = config_of(num_layers=2, type_vocab_size=0)
    config.data.sequence_length = 8
    config.init_layers = (0, 2)
    params, said = start(config, source)
    assert said == ["starts from source; its layers 0, 2; left out: its token types"]
    assert "token_type" not in params["encoder"]["embeddings"]
    jax.tree.map(
        np.testing.assert_array_equal, params["encoder"]["layers"]["1"], source.params["encoder"]["layers"]["2"]
    )


def test_a_run_grows(source):
    config = config_of(hidden_size=16, num_heads=4)
    config.data.sequence_length = 8
    config.init_grow = True
    params, said = start(config, source)
    assert said == [
        "starts from source; grown: hidden_size from 12 to 16, num_heads from 3 to 4, num_kv_heads from 3 to 4, "
        "embedding_size from 12 to 16"
    ]
    assert params["encoder"]["layers"]["3"]["mlp"]["up"]["kernel"].shape == (16, 6)


@pytest.mark.parametrize("from_init", [False, True])
def test_a_run_gets_windows_and_global_tokens(source, from_init):
    """RoBERTa becomes Longformer: positions repeated, maps of global tokens copied."""
    longer = {"layer_windows": (4, 8), "global_tokens": "auto", "global_projections": True}
    config = config_of(max_positions=20, **longer)
    config.data.sequence_length, config.model_from_init = 20, from_init
    config.init_long, config.init_positions = True, "tile"
    params, said = start(config, source)
    assert config.model.layer_windows == (4, 8) and config.model.max_positions == 20
    assert said == [
        "starts from source; max_positions from 8 to 20 (tile); maps of global tokens: copies of the others"
    ]
    old, new = source.params["encoder"], params["encoder"]
    positions = np.asarray(old["embeddings"]["position"]["embedding"])
    np.testing.assert_array_equal(new["embeddings"]["position"]["embedding"], positions[np.arange(20) % 8])
    for number, layer in old["layers"].items():
        for name in ("query", "key", "value"):
            for copy in (name, f"global_{name}"):
                jax.tree.map(
                    np.testing.assert_array_equal, new["layers"][number]["attention"][copy], layer["attention"][name]
                )
            copied = new["layers"][number]["attention"][f"global_{name}"]["kernel"]
            assert not np.shares_memory(copied, new["layers"][number]["attention"][name]["kernel"])
    config.init_long = False
    with pytest.raises(
        UserError, match="its model has global_projections=False, .* --config.init_long=True, which adds them"
    ):
        config.model_from_init = False
        start(config, source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"init_layers": (0, 4)},
            "config.init_layers: found 4; expected layers of config.init_from=source, which has 0 to 3",
        ),
        ({"init_layers": (0, 1, 2)}, "config.init_layers: found 3 layers, (0, 1, 2); expected 2"),
        ({"init_layers": (0, -1)}, "config.init_layers: found (0, -1); expected numbers of layers, from 0"),
        ({"init_layers": (0, 1), "init_grow": True}, "expected one of them"),
        ({"init_layers": (0, 1), "hidden_size": 24}, "config.model has hidden_size=24"),
        ({"init_grow": True}, "config.init_grow: config.model.num_layers is 2, smaller than the 4 of config.init_from"),
        ({"init_grow": True, "model_from_init": True}, "config.init_grow: True with config.model_from_init=True"),
        ({"init_grow": True, "num_layers": 4, "mlp": "gated"}, "config.model has mlp=gated"),
    ],
)
def test_starts_that_cannot_work(source, changes, message):
    config = config_of(**{"num_layers": 2} | {key: value for key, value in changes.items() if key in config_of().model})
    config.data.sequence_length = 8
    config.update({key: value for key, value in changes.items() if key in config})
    with pytest.raises(UserError) as caught:
        start(config, source)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_to_start_from():
    for key, value in (("init_layers", (0,)), ("init_grow", True), ("init_long", True)):
        config = config_of()
        config.data.sequence_length = 8
        config[key] = value
        with pytest.raises(UserError, match=f"config.{key}: .* but config.init_from is empty"):
            config_lib.validate(config)
