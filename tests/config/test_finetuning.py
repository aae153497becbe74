"""Fine-tuning configs: what they may not say, and which of the two schemas a command line follows."""

import subprocess
import sys

import pytest

import configs.finetune.sst2
from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config import finetuning_keys
from bert_jax.errors import UserError
from tests.commands import LONGEST_WAIT


def make_config(**changes):
    config = finetune_config.base()
    config.init_from, config.task.train = "model", "train.tsv"
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    return config


def test_the_schema_is_valid_once_it_names_model_and_data():
    finetune_config.validate(make_config())
    assert finetune_config.schema_of(make_config()).to_dict() == finetune_config.base().to_dict()
    assert finetune_config.schema_of(config_lib.base().to_dict()).to_dict() == config_lib.base().to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.layer_decay": 1.5}, "config.optimizer.layer_decay: found 1.5; expected a number from 0 to 1"),
        ({"optimizer.learning_rate_range": (1.0,)}, "config.optimizer.learning_rate_range: found"),
        ({"model.hidden_dropout": 1.0}, "config.model.hidden_dropout: found 1.0; expected a rate"),
        ({"seed": 2**32 - 1, "seeds": 2}, "config.seeds: found 2; expected config.seed"),
        ({"train.num_epochs": 0.0}, "config.train.num_epochs: 0, and"),
        ({"task.name": "question_answering", "task.problem": "regression"}, "regression is for sequence_class"),
        ({"task.name": "question_answering", "task.pooling": "mean"}, "found 'mean'; expected auto with"),
        ({"task.held_out_share": 0.0}, "config.task.held_out_share: found 0.0"),
        ({"tuning.freeze": "layers:x"}, "config.tuning.freeze: found 'layers:x'; expected layers:N"),
        ({"tuning.freeze": "layers:2", "tuning.lora_rank": 4}, "which freezes the encoder"),
        ({"tuning.lora_rank": 4, "tuning.reinit_layers": 1}, "config.tuning.reinit_layers: 1 layers would"),
        ({"data.buckets": (0,)}, "config.data.buckets: found"),
        ({"search": {"optimizer": {"rate": (1,)}}}, "config.optimizer.rate: unknown key"),
        ({"search": {"data": {"batch_size": (16, "32")}}}, "config.search.data.batch_size: found '32' "),
    ],
)
def test_values_that_cannot_work(changes, message):
    with pytest.raises(UserError) as caught:
        finetune_config.validate(make_config(**changes))
    assert message in str(caught.value)


def test_names_with_commas_as_a_flag_gives_them():
    finetune_config.validate(make_config(**{"tuning.lora_targets": ("query,down",)}))
    with pytest.raises(UserError, match="config.tuning.lora_targets: found"):
        finetune_config.validate(make_config(**{"tuning.lora_targets": ("query,k",)}))


def test_each_command_takes_its_own_recipes():
    with pytest.raises(UserError, match="--config: a fine-tuning recipe, for bert-jax finetune"):
        config_lib.validate(configs.finetune.sst2.get_config())
    with pytest.raises(UserError, match="--config: a pre-training recipe, for bert-jax pretrain"):
        finetune_config.validate(config_lib.load_recipe("bert_base"))


def test_the_closest_key_of_the_recipe_is_named():
    command = [sys.executable, "-m", "bert_jax.finetune", "--config.tuning.lora_rnk=3", "--config=finetune/sst2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT)
    assert done.returncode == 2
    assert done.stderr == (
        "error: config.tuning.lora_rnk: unknown key, expected a known key; did you mean tuning.lora_rank?\n"
    )


def test_what_was_searched_is_no_part_of_a_run():
    config = configs.finetune.sst2.get_config()
    assert config.search and not finetune_config.without_search(config).search


@pytest.mark.parametrize(
    ("rate", "width", "said"),
    [
        (2e-5, 768, ""),
        (5e-5, 384, ""),
        (1e-3, 768, "outside the published range 1e-06 to 0.0001"),
        (2e-3, 128, ""),  # the published range is for Base and Large
        (1e-3, 128, ""),
        (
            3e-4,
            128,
            "is low for a model of width 128, which may then learn less than from scratch; search 0.00072 to 0.0018",
        ),
        (3e-4, 256, ""),
        (1e-2, 128, "outside the published range"),
    ],
)
def test_rates_are_judged_by_the_width(rate, width, said):
    config = finetune_config.base()
    config.optimizer.learning_rate = rate
    warning = finetune_config.rate_warning(config, width)
    assert (said in warning) if said else not warning


@pytest.mark.parametrize(
    ("rank", "width", "rate"),
    [
        (0, 768, 2e-5),
        (0, 384, 2e-5),
        (0, 256, 2.85e-4),
        (0, 128, 1.14e-3),
        (0, 32, 1.14e-3),
        (8, 768, 4e-4),
        (8, 64, 1.14e-3),
    ],
)
def test_the_default_rate_suits_the_model(rank, width, rate):
    config = finetune_config.base()
    config.tuning.lora_rank = rank
    config.optimizer.learning_rate = finetune_config.default_rate(config, width)
    assert config.optimizer.learning_rate == pytest.approx(rate, rel=0.01)
    assert not finetune_config.rate_warning(config, width)


def test_a_rate_too_low_for_adapters_is_warned_about():
    config = finetune_config.base()
    config.tuning.lora_rank, config.optimizer.learning_rate = 8, 2e-5
    assert "is low for LoRA adapters of a model of width 768" in finetune_config.rate_warning(config, 768)
    config.optimizer.learning_rate = 1e-3
    assert not finetune_config.rate_warning(config, 768)


@pytest.mark.parametrize(
    ("rank", "width", "rate", "said"),
    [
        (8, 384, 3e-3, "0.003 is outside the range 0.0001 to 0.001 for LoRA adapters of a model of width 384 ("),
        (8, 128, 3e-3, "0.003 is outside the range 0.00072 to 0.0018 for LoRA adapters of a model of width 128 ("),
        (8, 1024, 2e-7, "2e-07 is low for LoRA adapters of a model of width 1024"),
        (8, 384, 9e-5, "9e-05 is low for LoRA adapters of a model of width 384"),
        (8, 384, 1e-4, ""), (8, 384, 1e-3, ""), (8, 128, 1.8e-3, ""),
        (0, 384, 3e-3, "0.003 is outside the published range 1e-06 to 0.0001 ("),
        (0, 384, 2e-7, "2e-07 is outside the published range 1e-06 to 0.0001 ("),
    ],
)  # fmt: skip
def test_adapters_have_a_range_of_their_own_on_both_ends(rank, width, rate, said):
    config = finetune_config.base()
    config.tuning.lora_rank, config.optimizer.learning_rate = rank, rate
    warning = finetune_config.rate_warning(config, width)
    assert said in warning and bool(warning) == bool(said)
    assert "published" not in warning or not rank
    config.optimizer.learning_rate_range = (0.0, 1.0)
    assert ("is outside" in finetune_config.rate_warning(config, width)) is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task.train": "mine.csv"}, {"held_out": "", "test": ""}),
        ({"task.train": "mine.csv", "task.held_out": "dev.csv"}, {"held_out": "dev.csv", "test": ""}),
        ({"task.train": "mine.csv", "task.test": "x.csv"}, {"held_out": "", "test": "x.csv"}),
        ({"task.train": "tfds:glue/sst2:train[:10%]"}, {}), ({"task.text": "review"}, {}),
        ({"task.held_out": "a"}, {"held_out": "a"}),
        ({"task.train": "tfds:imdb_reviews:train"}, {"held_out": "", "test": ""}),
        ({"task.train": "tfds:glue/sst2:train,mine.csv"}, {"held_out": "", "test": ""}),
    ],
)  # fmt: skip
def test_another_training_set_does_not_keep_the_recipe_s_held_out_set(changes, expected):
    recipe = config_lib.load_recipe("finetune/sst2")
    recipe.task.test = "tfds:glue/sst2:test"
    config = recipe.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    note = finetune_config.follow_train(config, recipe, changes)
    given = {name: recipe.task[name] for name in ("held_out", "test")} | expected
    assert {name: config.task[name] for name in given} == given
    emptied = [name for name, value in expected.items() if value == ""]
    assert bool(note) == bool(emptied)
    for name in emptied:
        assert f"config.task.{name}={recipe.task[name]}" in note
    assert ("10% of the new training data is held out instead" in note) == ("held_out" in emptied)


def test_adapters_do_not_keep_the_recipe_s_rate_for_whole_models():
    recipe = config_lib.load_recipe("finetune/conll2003")
    for changes, rate in (
        ({"tuning.lora_rank": 8}, -1.0), ({"tuning.lora_rank": 8, "optimizer.learning_rate": 5e-5}, 5e-5), ({}, 5e-5),
    ):  # fmt: skip
        config = recipe.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        note = finetune_config.follow_adapters(config, recipe, changes)
        assert config.optimizer.learning_rate == rate and bool(note) == (rate < 0)
    config.tuning.lora_rank = 8
    low, high = finetune_config.suitable_rates(config, 768)
    assert low <= finetune_config.default_rate(config, 768) <= high and high == 1e-3
    for rate, warned in ((2e-5, "is low for LoRA adapters"), (4e-4, ""), (1e-3, ""), (1e-2, "is outside")):
        config.optimizer.learning_rate = rate
        warning = finetune_config.rate_warning(config, 768)
        assert warned in warning and bool(warning) == bool(warned)


@pytest.mark.parametrize(
    ("train", "held_out", "warned"),
    [
        ("mine.csv", "tfds:glue/sst2:validation", True), ("mine.csv", "a=hf:x:test,b=hf:y:test", True),
        ("tfds:glue/sst2:train[:10%]", "tfds:glue/sst2:validation", False), ("mine.csv", "dev.csv", False),
        ("hf:x:train", "a=hf:x:test,b=hf:y:test", False), ("mine.csv", "", False), ("tfds:a:train", "dev.csv", False),
    ],
)  # fmt: skip
def test_a_held_out_set_of_another_data_set_is_warned_about(train, held_out, warned):
    config = make_config(**{"task.train": train, "task.held_out": held_out})
    assert bool(finetune_config.held_out_warning(config)) == warned


def test_batches_that_are_mostly_padding_are_warned_about():
    config = make_config(**{"data.batch_size": 200_000})
    warning = finetune_config.batch_warning(config, 1_800)
    assert warning.startswith(
        "warning: config.data.batch_size=200000: config.task.train has 1,800 rows, so that 99% of"
    )
    assert warning.endswith("expected at most 1800") and "\n" not in warning
    assert not finetune_config.batch_warning(config, 100_001)


@pytest.mark.parametrize(
    ("task", "key", "message"),
    [
        ("embedding", "text", "not read with config.task.name=embedding; expected config.task.anchor"),
        ("embedding", "text_pair", "expected config.task.positive"),
        ("reranking", "text_pair", "expected config.task.document"),
        ("reranking", "anchor", "expected it with config.task.name=embedding alone"),
        ("sequence_classification", "query", "expected it with config.task.name=reranking alone"),
        ("question_answering", "label", "expected it with config.task.name=sequence_classification or token_class"),
        ("token_classification", "n_best", "expected it with config.task.name=question_answering alone"),
        ("embedding", "label", ""), ("embedding", "negatives", ""), ("sequence_classification", "text_pair", ""),
        ("question_answering", "n_best", ""), ("embedding", "held_out", ""),
    ],
)  # fmt: skip
def test_a_key_of_another_task_is_refused_where_it_is_given(task, key, message):
    config = make_config(**{"task.name": task})
    if not message:
        finetune_config.check_given(config, {f"task.{key}", "data.batch_size"})
        return
    with pytest.raises(UserError, match=f"^config.task.{key}: not read with config.task.name={task}; .*") as error:
        finetune_config.check_given(config, {"data.batch_size", f"task.{key}"})
    assert message in str(error.value)


def test_what_the_tables_of_tasks_name_are_keys_and_tasks():
    tasks = {name for names in finetuning_keys.TASKS_OF.values() for name in names} | {*finetuning_keys.TEXTS_OF}
    assert tasks <= {*finetuning_keys.TASKS}
    keys = {*finetuning_keys.TASKS_OF, *finetuning_keys.COLUMN_KEYS}
    assert {f"task.{key}" for key in keys} <= {*finetuning_keys.FINETUNING}
