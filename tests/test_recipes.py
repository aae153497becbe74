"""The list of recipes: every recipe is in it, with the size that its own model has."""

import jax
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import recipes
from bert_jax.errors import UserError


def test_every_recipe_is_named():
    names = recipes.recipe_names()
    assert {"bert_base", "modernbert_large", "quickstart", "finetune/sst2"} <= set(names)
    for name in names:
        assert config_lib.load_recipe(name) is not None
        assert recipes.description(name)


def test_a_size_is_the_number_of_parameters_that_a_model_has():
    config = config_lib.load_recipe("quickstart")
    model = model_lib.build(config.model, 4096, next_sentence=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert recipes.count(config, 4096) == model_lib.parameter_count(shapes)
    entry = recipes.count(config, 4097) - recipes.count(config, 4096)
    assert recipes.parameter_words(config) == f"0.3M + {entry} a token"


def test_the_published_size_of_a_recipe():
    assert recipes.parameter_words(config_lib.load_recipe("albert_base")) == "11.8M"


@pytest.mark.full
def test_the_table_has_a_line_for_each_recipe():
    lines = [*recipes.pretraining_lines(), *recipes.finetuning_lines()]
    for name in recipes.recipe_names():
        assert sum(line.split()[:1] == [name] for line in lines) == 1


@pytest.mark.parametrize(
    ("name", "line", "text"),
    [
        ("quickstart", "  quickstart            0.3M + ", "--config=quickstart"),
        ("configs/continue_pretraining.py", "  continue_pretraining  MODEL's  ", "continue_pretraining"),
        ("finetune/sst2", "  finetune/sst2         sequence_classification   Fine-tunes on SST-2", "GLUE"),
        ("embedding/nli", "  embedding/nli         embedding ", "embedding/nli"),
    ],
)
def test_one_recipe_is_shown(name, line, text):
    lines = recipes.recipe_lines(name)
    short = name.removeprefix("configs/").removesuffix(".py")
    assert sum(shown.startswith("  ") and shown.split()[0] == short for shown in lines[:3]) == 1
    assert lines[2].startswith(line)
    assert lines[4] == f"{config_lib.recipe_path(short)}:"
    assert lines[-1].startswith(recipes.description(short)) and text in lines[-1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bert_bsae", "bert_base"), ("sst2", "finetune/sst2"), ("pretrainin", "pretraining"), ("BERT-Base", "bert_base")],
)
def test_a_mistyped_recipe_is_told_by_the_closest(name, meant):
    with pytest.raises(UserError, match=rf"^{name}: no such recipe; expected .*; did you mean {meant}\?$"):
        recipes.recipe_lines(name)
