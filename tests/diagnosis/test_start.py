"""A run is warned before its first step of what the doctor would find after it."""

import json

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import start
from bert_jax.training import pretraining
from tests.diagnosis.conftest import chains, prepared, recipe


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("start") / "text", chains(40))


def warnings(config, workdir, recipe=None):
    return start.warnings(config, {"corpora": [{"path": config.data.corpus, "fingerprint": fingerprint(config)}]},
                          workdir, recipe)  # fmt: skip


def fingerprint(config):
    with open(f"{config.data.corpus}/manifest.json") as file:
        return json.load(file)["fingerprint"]


def test_a_usual_run_is_not_warned(texts, tmp_path):
    assert warnings(recipe(texts), tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer.warmup_steps": 5000}, "never reaches its peak"),
        ({"optimizer.learning_rate": 3.0}, "learning rate too high: 3"),
        ({"optimizer.learning_rate": 1e-7}, "learning rate too low: 1e-07"),
        ({"data.batch_size": 1}, "too few predictions in a step"),
    ],
)
def test_what_stands_out_is_one_line_with_what_to_change(texts, tmp_path, changes, expected):
    config = recipe(texts, **changes)
    [line] = warnings(config, tmp_path)
    assert line.startswith("warning: ") and expected in line and "--config." in line and "\n" not in line


def test_a_batch_is_compared_with_the_recipes(texts, tmp_path):
    config, published = recipe(texts), recipe(texts)
    published.data.batch_size = 16 * config.data.batch_size
    [line] = warnings(config, tmp_path, published)
    assert f"config.data.batch_size={config.data.batch_size}" in line and "the recipe's" in line
    config.optimizer.learning_rate /= 4
    assert warnings(config, tmp_path, published) == []


@pytest.mark.parametrize(
    ("changes", "share", "expected"),
    [
        ({}, 0.0, ""),
        ({}, 0.4, "40 % of the tokens of config.task.train=a.csv are unknown to the vocabulary of m"),
        ({"data.batch_size": 2}, 0.0, "config.data.batch_size=2 examples, the recipe's 32"),
        ({"data.batch_size": 2, "optimizer.learning_rate": 1e-6}, 0.0, ""),  # chosen for it
        ({"optimizer.warmup_steps": 100, "train.num_steps": 10}, 0.0, "The learning rate never reaches its peak"),
    ],
)
def test_fine_tuning_is_warned(tmp_path, changes, share, expected):
    published = finetune_config.base()
    published.init_from, published.task.train = "m", "a.csv"
    published.optimizer.learning_rate = 2e-5
    config = published.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    run = {"kind": "finetune", "model": {"hidden_size": 768}, "data": {"train": [5000, ""]}}
    run["unknown_token_share"] = share
    lines = start.warnings(config, run, tmp_path, published)
    assert len(lines) == bool(expected) and all(line.startswith("warning: ") and expected in line for line in lines)


def test_pretrain_says_it_and_trains(texts, tmp_path, capsys):
    config = recipe(texts)
    config.model.update(hidden_size=32, intermediate_size=64)
    config.train.update(num_steps=2, eval_every=0, tensorboard=False)
    config.optimizer.warmup_steps = 100
    pretraining.pretrain(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "warning: The learning rate never reaches its peak" in out
    assert (tmp_path / "run" / "report.html").exists()
