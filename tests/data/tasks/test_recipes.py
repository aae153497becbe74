"""The recipes of published tasks."""

import importlib

import pytest

import configs
from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.named_sets import named_sets
from bert_jax.data.tasks import metrics

GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


@pytest.mark.parametrize("name", [*GLUE, "squad1", "squad2", "conll2003"])
def test_recipes_are_valid_and_found_by_name_file_and_module(name):
    config = config_lib.load_recipe(f"finetune/{name}")
    assert config_lib.load_recipe(f"configs/finetune/{name}.py").to_dict() == config.to_dict()
    assert importlib.import_module(f"configs.finetune.{name}").get_config().to_dict() == config.to_dict()
    assert getattr(configs.finetune, name).get_config().to_dict() == config.to_dict()
    config.init_from = "MODEL"
    finetune_config.validate(config)
    assert config.search.optimizer.learning_rate == (5e-5, 3e-5, 2e-5)
    assert set(config.search.data.batch_size) == {16, 32} and config.search.train.num_epochs == (2.0, 3.0, 4.0)
    assert f"--config=finetune/{name} " in importlib.import_module(f"configs.finetune.{name}").__doc__


@pytest.mark.parametrize("name", GLUE)
def test_glue_recipes_name_what_tfds_has(name):
    glue = importlib.import_module("tensorflow_datasets.text.glue")
    task = config_lib.load_recipe(f"finetune/{name}").task
    known = next(one for one in glue.Glue.BUILDER_CONFIGS if one.name == name)
    assert set(filter(None, (task.text, task.text_pair))) == set(known.text_features)
    assert (task.problem == "regression") == (known.label_classes is None)
    assert list(metrics.choose(task, task.problem)[0]) == list(task.metrics)
    held_out = named_sets(task.held_out, "config.task.held_out")
    assert list(held_out) == (["matched", "mismatched"] if name == "mnli" else [""])
