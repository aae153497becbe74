"""Tests how fine-tuning is divided into runs that follow one another."""

import pathlib

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.config import load_recipe
from bert_jax.config.finetuning_phases import phases
from bert_jax.errors import UserError

WORKDIR = pathlib.Path("runs/two")


def make(*entries, **changes):
    config = finetune_config.base()
    config.update(init_from="model", from_scratch=True, phases=entries)
    config.task.train = "weak=a.jsonl,b.jsonl,labelled=c.jsonl,more=d.jsonl"
    config.update_from_flattened_dict(changes)
    return config


def test_without_phases_there_is_one_run():
    config = make()
    ((run, folder),) = phases(config, WORKDIR)
    assert run.to_dict() == config.to_dict() and folder == WORKDIR


def test_each_phase_starts_from_the_one_before_and_has_its_own_values():
    entries = (
        {"sets": ("weak",), "data.batch_size": 64},
        {"task.train": "e.csv", "optimizer.learning_rate": 1e-4},
        {"sets": ["labelled", "more"], "config.loss.temperature": 0.02},
    )
    config = make(*entries)
    runs = phases(config, WORKDIR)
    assert [str(folder) for _, folder in runs] == ["runs/two/phase-1", "runs/two/phase-2", "runs/two"]
    configs = [run for run, _ in runs]
    assert [run.init_from for run in configs] == ["model", "runs/two/phase-1", "runs/two/phase-2"]
    assert [run.from_scratch for run in configs] == [True, False, False]
    assert [run.task.train for run in configs] == ["a.jsonl,b.jsonl", "e.csv", "labelled=c.jsonl,more=d.jsonl"]
    assert [run.data.batch_size for run in configs] == [64, 32, 32]
    assert [run.optimizer.learning_rate for run in configs] == [-1, 1e-4, -1]
    assert [run.loss.temperature for run in configs] == [0.05, 0.05, 0.02]
    assert all(run.phases == () for run in configs)
    assert config.phases == entries and config.data.batch_size == 32  # the config is left as it was


def test_the_recipe_of_two_stages():
    config = load_recipe("embedding/bge")
    config.init_from = "model"
    config.task.train = "weak=a.jsonl,labelled=b.jsonl"
    finetune_config.validate(config)
    weak, labelled = (run for run, _ in phases(config, WORKDIR))
    assert (weak.task.train, labelled.task.train) == ("a.jsonl", "b.jsonl")
    assert (tuple(weak.task.negatives), tuple(labelled.task.negatives)) == ((), ("negatives",))
    assert (weak.data.batch_size, labelled.data.batch_size) == (32_768, 64)
    assert weak.task.pooling == labelled.task.pooling == "cls"
    # The second stage alone is the same.
    alone = load_recipe("embedding/bge")
    alone.update(init_from=labelled.init_from, phases=())
    alone.task.train = "b.jsonl"
    assert phases(alone, WORKDIR)[0][0].to_dict() == labelled.to_dict()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("weak", "config.phases[1]: found 'weak'; expected a dict such as"),
        ({"sets": "weak"}, "config.phases[1].sets: found 'weak' (str); expected a tuple"),
        ({"sets": ()}, "config.phases[1].sets: empty; expected names of sets of config.task.train"),
        ({"sets": ("late",)}, "config.phases[1].sets: found 'late', but config.task.train="),
        ({"sets": ("weak",), "task.train": "a.csv"}, "config.phases[1]: has sets and task.train; expected one of them"),
        ({"data.batchsize": 8}, "config.data.batchsize: unknown key"),
        ({"data.batch_size": "8"}, "config.phases[1].data.batch_size: found '8' (str); expected a int"),
        ({"seed": 3}, "config.phases[1].seed: the same in all phases; expected it as config.seed"),
        ({"mesh.data": 3}, "config.phases[1].mesh.data: the same in all phases; expected it as config.mesh.data"),
        ({"task.name": "reranking"}, "config.phases[1].task.name: the same in all phases"),
        ({"data.batch_size": 0}, "phase 2: config.data.batch_size: found 0; expected"),
    ],
)
def test_entries_that_cannot_work(entry, message):
    with pytest.raises(UserError) as caught:
        finetune_config.validate(make({"task.train": "a.csv"}, entry, from_scratch=False))
    assert str(caught.value).startswith(message)


def test_several_seeds_and_sets_without_names():
    with pytest.raises(UserError, match="^config.seeds: found 3; expected 1 with config.phases"):
        phases(make({}, {}, seeds=3), WORKDIR)
    with pytest.raises(
        UserError, match="config.task.train=a.csv names no sets; expected --config.task.train=weak=FILE"
    ):
        phases(make({"sets": ("weak",)}, **{"task.train": "a.csv"}), WORKDIR)
