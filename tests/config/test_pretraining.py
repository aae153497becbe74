"""Recipes, and what a config or a command line may not say."""

import subprocess
import sys

import pytest

import configs
from bert_jax import command
from bert_jax import config as config_lib
from bert_jax.arguments import joined
from bert_jax.errors import UserError
from tests.commands import LONGEST_WAIT

RECIPES = ["bert_base", "bert_large", "roberta_base", "roberta_large", "continue_pretraining", "quickstart"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_and_found_by_name_file_and_module(name):
    config = config_lib.load_recipe(name)
    config_lib.validate(config)
    path = str(config_lib.recipe_path(f"configs/{name}.py"))
    assert config_lib.load_recipe(path).to_dict() == config.to_dict()
    assert getattr(configs, name).get_config().to_dict() == config.to_dict()


def test_published_figures_of_the_recipes():
    base, roberta = config_lib.load_recipe("bert_base"), config_lib.load_recipe("roberta_base")
    short, long = config_lib.phases(base)
    assert (short.stop, long.stop) == (900_000, 1_000_000)
    assert (short.data.sequence_length, short.data.max_predictions) == (128, 20)
    assert (long.data.sequence_length, long.data.max_predictions) == (512, 76)
    assert (roberta.data.batch_size, roberta.optimizer.learning_rate, roberta.optimizer.b2) == (8192, 6e-4, 0.98)


def test_a_length_in_tokens():
    config = config_lib.base()
    config.train.update(num_steps=0, num_tokens=1_000_000)
    config.data.update(sequence_length=128, batch_size=32)
    assert config_lib.num_steps(config) == 245  # 4,096 tokens a step, rounded up


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.phases": (90,)}, r"config.data.phases\[0\]: found 90; expected a dict such as"),
        ({"data.phases": ({"share": 1.0, "batch_size": 0},)}, "config.data.batch_size: found 0"),
        ({"data.phases": ({"share": 1.0, "max_predictions": -3},)}, "config.data.max_predictions: found -3"),
        ({"data.phases": ({"share": 1.0, "dupe_factor": 0},)}, "config.data.dupe_factor: found 0"),
        ({"data.phases": ({"share": 1.0, "sequence_length": 513},)}, "513 is over config.model.max_positions=512"),
        ({"data.phases": ({"share": 0.5},)}, r"found shares \[0.5\]; expected positive numbers that add up to 1"),
        ({"data.phases": ({"share": float("nan")}, {"share": 1.0})}, r"found shares \[nan, 1.0\]"),
        ({"data.phases": ({"share": True},)}, r"found shares \[True\]"),
        ({"data.phases": ({"share": 1.0, "workers": 2},)}, r"phases\[0\].workers: it is the whole run's; expected"),
        ({"data.phases": ({"share": 1.0, 1: 2},)}, r"config.data.phases\[0\].1: unknown key"),
        ({"data.batch_size": 10**12}, "config.data.batch_size: found 1000000000000; expected at most 1,048,576"),
        ({"optimizer.warmup_steps": 2**31}, "config.optimizer.warmup_steps: found 2147483648; expected"),
        ({"train.num_steps": 0, "train.num_tokens": 10**400}, "config.train.num_tokens: found 1000"),
        ({"optimizer.epsilon": 0.0}, "config.optimizer.epsilon: found 0.0; expected a number of at least 1e-15"),
        ({"data.temperature": 0.01}, "config.data.temperature: found 0.01; expected a number"),
        ({"data.mask_unit": "ngram", "data.ngram_max": 1000}, "config.data.ngram_max: found 1000; expected"),
        ({"data.mask_unit": "span", "data.span_max_words": 1000}, "config.data.span_max_words: found 1000; expected"),
        ({"model.positions": "relative", "model.relative_buckets": 30, "model.relative_span": 16},
         r"config.model.relative_buckets: found 30.* \(0: max_positions=512\).*less than 2 \(that - 1\)"),
        ({"optimizer.b1": 1.5}, r"config.optimizer.b1: found 1.5; expected a number in \[0, 1\)"),
        ({"optimizer.b2": 1.0}, r"config.optimizer.b2: found 1.0; expected a number in \[0, 1\)"),
        ({"optimizer.final_fraction": 3.0}, "config.optimizer.final_fraction: found 3.0"),
        ({"data.weights": ("a",)}, "config.data.weights: found"),
        ({"data.max_predictions": 100_000}, "config.data.max_predictions: found 100000"),
        ({"optimizer.learning_rate": float("inf")}, "config.optimizer.learning_rate: found inf"),
        ({"optimizer.learning_rate": float("nan")}, "config.optimizer.learning_rate: found nan"),
        ({"seed": 10**20}, "config.seed: found 1000"),
        ({"model.num_heads": 7}, "config.model.hidden_size: .*768.* is not divisible by config.model.num_heads=7"),
        ({"train.num_tokens": 5}, "expected one of them"),
        ({"objective.name": "ltr"}, "does not go with config.model.attention"),
        ({"optimizer.decoupled": True}, "config.optimizer.decoupled: True with config.objective.name=mlm"),
        ({"model.initializer": "uniform"}, "config.model.initializer: found 'uniform'; expected one of truncated_nor"),
        ({"data.format": "half_sentences"}, "expected one of segment_pair"),
        ({"train.keep_every": 1500}, "1500 is not a multiple of"),
    ],
)  # fmt: skip
def test_values_that_cannot_work(changes, message):
    config = config_lib.base()
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


def test_tokens_of_a_run_may_be_more_than_an_array_holds():
    config = config_lib.base()
    config.train.update(num_steps=0, num_tokens=2 * 10**12)
    config.model.update(positions="relative", relative_buckets=29, relative_span=16)
    config_lib.validate(config)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.mask_ratee", "did you mean data.mask_rate?"),
        ("modle.hidden_size", "did you mean model.hidden_size?"),
        ("modle.x", "did you mean model.?"),
        ("sequence_length", "did you mean data.sequence_length?"),
    ],
)
def test_the_closest_key_is_named(key, hint):
    with pytest.raises(UserError) as caught:
        config_lib.check_key(key)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "the recipe does not load: SyntaxError"),
        ("x = 1\n", "the recipe does not load: AttributeError.*get_config"),
        ("import nowhere_at_all\n", "the recipe does not load: ModuleNotFoundError"),
        ("def get_config():\n    return undefined\n", "the recipe does not load: NameError"),
        (
            "import bert_jax.config\n\ndef get_config():\n    c = bert_jax.config.base()\n    c.data.lenght = 3\n",
            "the recipe does not load: .*lenght",
        ),
    ],
)
def test_recipes_that_do_not_load(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        config_lib.load_recipe(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean bert_base"):
        config_lib.load_recipe("bert_bsae")


def test_command_lines(tmp_path):
    """The real command: what is refused is refused in one line, with exit code 2."""
    cases = [
        (["--workdir=w", "--config.data.corpus=x"], "--config: missing, and --workdir=w holds no run to continue"),
        (["--config=quickstart"], "--workdir: missing; expected --workdir=VALUE"),
        (["--config=quickstart", "--workdir="], "--workdir: empty"),
        (["--config.data.corpus=x", "--config", "quickstart", f"--workdir={tmp_path}/w"], "x: no such corpus"),
        (["--config=quickstart", "--config.data.phases=abc", f"--workdir={tmp_path}/w"], "phases"),
    ]
    for command_line, message in cases:
        done = subprocess.run(
            [sys.executable, "-m", "bert_jax.pretrain", *command_line],
            capture_output=True,
            text=True,
            timeout=LONGEST_WAIT,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ") and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_recipe_comes_first_whatever_the_order():
    command.define_config_flag()
    words = joined(["--config.seed=3", "--config", "quickstart", "--workdir=w"])
    rest = command._resolved(["prog", *words])
    assert rest[1].startswith("--config=") and rest[1].endswith("quickstart.py")
    assert rest[2:] == ["--config.seed=3", "--workdir=w"]


@pytest.mark.parametrize("mesh", [{"tensor": 8}, {"data": 1, "tensor": -1}])
def test_heads_are_split_evenly(mesh):
    config = config_lib.base()
    config.mesh.update(mesh)
    with pytest.raises(UserError, match="config.mesh: tensor=8 does not divide config.model.num_heads=12; .* 1, 2, 3"):
        config_lib.check_devices(config, 8)
    config.model.num_heads = 16
    config_lib.check_devices(config, 8)
    config.objective.name = "rtd"
    config_lib.check_devices(config, 8)
    config.generator.num_heads = 4
    with pytest.raises(UserError, match="tensor=8 does not divide config.generator.num_heads=4; .* 1, 2, 4"):
        config_lib.check_devices(config, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.next_sentence": True}, "config.objective.sentence_order: True with config.objective.next_senten"),
        ({"model.pooler": False}, "config.model.pooler: False, but config.objective.sentence_order reads"),
        ({"model.type_vocab_size": 1}, "config.model.type_vocab_size: 1; config.objective.sentence_order needs 2"),
        ({"data.format": "full_sentences"}, "has no sentence pairs, but config.objective.sentence_order=True"),
        ({"model.attention": "causal", "objective.name": "ltr"}, "config.objective.sentence_order: True with causal"),
    ],
)
def test_sentence_order_is_refused_where_it_cannot_work(changes, message):
    config = config_lib.base()
    config.objective.update(next_sentence=False, sentence_order=True)
    for key, value in changes.items():
        group, name = key.split(".")
        config[group][name] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("recipe", "devices", "changes", "rest"),
    [
        (
            "modernbert_large", 16, {},
            "616 (phase 6, config.data.phases[5]) is not divisible by 16 device shards x 1 microbatches = 16; try 608 "
            "or 624, or keep the rows with --config.mesh.tensor=2 (8 shards) or 8 devices",
        ),
        ("modernbert_large", 16, {"mesh.tensor": 2}, ""),
        ("modernbert_large", 8, {}, ""),
        (
            "modernbert_large", 8, {"train.microbatches": 4},
            "616 (phase 6, config.data.phases[5]) is not divisible by 8 device shards x 4 microbatches = 32; try 608 "
            "or 640, or keep the rows with --config.train.microbatches=1 or --config.mesh.tensor=4 (2 shards) or 2 "
            "devices",
        ),
        (
            "bert_base", 48, {},
            "256 (phase 1) is not divisible by 48 device shards x 1 microbatches = 48; try 240 or 288, or keep the "
            "rows with --config.mesh.tensor=3 (16 shards) or 32 devices",
        ),
        (
            "small", 64, {"data.batch_size": 7, "mesh.fsdp": 2},
            "7 is not divisible by 64 device shards x 1 microbatches = 64; try 64",
        ),
    ],
)  # fmt: skip
def test_rows_that_devices_do_not_divide_are_told_with_what_does(recipe, devices, changes, rest):
    """ModernBERT Large's published rows are multiples of 8 alone: the message names what keeps them."""
    config = config_lib.load_recipe(recipe)
    config.update_from_flattened_dict(changes)
    if not rest:
        return config_lib.check_devices(config, devices)
    with pytest.raises(UserError) as caught:
        config_lib.check_devices(config, devices)
    assert str(caught.value) == f"config.data.batch_size: {rest}"
    return None
