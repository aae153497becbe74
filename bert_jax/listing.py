"""Lists what there is to name on a command line: recipes, keys and experiments.

Help, completion and messages read these lists.
"""

import ast
import importlib.util
import pathlib

from bert_jax import _moved, cli
from bert_jax.config import recipes
from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.config.schema import Key

KEYS = {"pretraining": PRETRAINING, "finetuning": FINETUNING}
# The keys that the help of a kind of run shows; --help-keys shows all.
MOST_USED = {
    "pretraining": (
        "data.corpus", "data.batch_size", "data.sequence_length", "train.num_steps", "train.eval_every",
        "train.checkpoint_every", "train.microbatches", "optimizer.learning_rate", "optimizer.warmup_steps",
        "model.hidden_size", "model.num_layers", "model.vocab_size", "init_from", "mesh.fsdp", "seed",
    ),
    "finetuning": (
        "init_from", "task.train", "task.held_out", "task.text", "task.label", "data.batch_size",
        "data.sequence_length", "train.num_epochs", "optimizer.learning_rate", "tuning.lora_rank", "seeds",
    ),
}  # fmt: skip


def recipe_names(kind: str) -> list[str]:
    """Returns the names of the recipes of a kind, "pretraining" or "finetuning", sorted."""
    return [name for name in recipes.recipe_names() if recipes.is_finetuning(name) == (kind == "finetuning")]


@_moved.renamed_arguments(name="recipe")
def description(recipe: str) -> str:
    """Returns the first line of a recipe's docstring."""
    return docstring(recipe).partition("\n")[0]


def docstring(recipe: str) -> str:
    """Returns what a recipe says of itself, "" for nothing, without running it."""
    tree = ast.parse(pathlib.Path(recipes.recipe_path(recipe)).read_text("utf-8"))
    return ast.get_docstring(tree) or ""


def experiment_names() -> list[str]:
    """Returns the names of the experiments that come with bert_jax, for the launcher's --experiment, sorted."""
    spec = importlib.util.find_spec(cli.experiments_package())
    folders = spec.submodule_search_locations if spec else None
    paths = sorted(path for folder in folders or () for path in pathlib.Path(folder).glob("*.py"))
    return [path.stem for path in paths if "\ndef get_experiment(" in path.read_text("utf-8")]


def keys(kind: str) -> dict[str, Key]:
    """Returns the table of keys of a kind of run, "pretraining" or "finetuning"."""
    return KEYS[kind]


def help_sections(kind: str) -> list[str]:
    """Returns the lines that --help adds for a command which trains: its recipes, and the keys that are used most."""
    names, table = recipe_names(kind), keys(kind)
    width = max(map(len, names)) + 2
    lines = ["recipes, for --config=NAME (a file of your own is taken too):"]
    lines += [f"  {name:<{width}}{description(name)}" for name in names]
    width = max(map(len, MOST_USED[kind])) + 2
    lines += ["", "keys that are changed most, as --config.KEY=VALUE, with the defaults that a recipe may replace:"]
    for name in MOST_USED[kind]:
        lines.append(f"  {name:<{width}}{table[name].doc} Default: {table[name].default!r}.")
    return [*lines, "", "--help-keys lists all keys with defaults and choices, --help-keys=data those of a group."]
