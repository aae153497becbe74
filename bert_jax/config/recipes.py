"""Finds recipes, files with `get_config()`, by path or by name, and builds configs from the table of keys."""

import difflib
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.config.schema import Key, closest
from bert_jax.errors import UserError, command_line
from bert_jax.files import closest_path

_HOME = re.compile(r"(^|[,=])~(?=/|$)")


def build(keys: Mapping[str, Key]) -> ml_collections.ConfigDict:
    """Returns a config with every key of a table at its default; dotted keys become groups."""
    config = ml_collections.ConfigDict()
    for name, key in keys.items():
        owner = config
        *groups, last = name.split(".")
        for group in groups:
            if group not in owner:
                owner[group] = ml_collections.ConfigDict()
            owner = owner[group]
        owner[last] = key.default
    return config


def flat(config: Mapping | ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a config by dotted key."""
    values = {}
    for key in config:
        value = config[key]
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def value(config: Mapping | ml_collections.ConfigDict, name: str) -> Any:
    """Returns the value of a dotted key; where it is empty and stands for another key's value, returns that one."""
    keys = FINETUNING if "task" in config else PRETRAINING
    setting: Any = config
    for part in name.split("."):
        setting = setting[part]
    key = keys[name]
    return value(config, key.falls_back_to) if key.falls_back_to and setting == key.empty_value else setting


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a key's value; ("a,b",), which --config.KEY=a,b makes, has two."""
    return tuple(names[0].split(",")) if len(names) == 1 else tuple(names)


def load_recipe(recipe: str) -> ml_collections.ConfigDict:
    """Returns the config of a recipe given as a file (configs/bert_base.py) or by name (bert_base).

    Raises:
      UserError: There is no such recipe (the closest name is given), or the file has no get_config().
    """
    path = recipe_path(recipe)
    if path.suffix != ".py":
        raise UserError(f"--config={path}: not a recipe; expected a Python file with get_config()")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a recipe is a program: anything may be wrong with it
        raise UserError(f"{path}: the recipe does not load: {_first_line(error)}") from error
    _expand(config)
    return config


def expanded(value: str) -> str:
    """Returns a value of a key or flag with the home directory in place of "~/", also behind a comma or "=".

    Shells expand it only at the beginning of a word, so not in --config.data.corpus=~/corpora/books.
    """
    return _HOME.sub(lambda begin: begin[1] + os.path.expanduser("~"), value)


def _expand(config):
    for key, value in config.items() if isinstance(config, ml_collections.ConfigDict) else ():
        if isinstance(value, str) and _HOME.search(value):
            config[key] = expanded(value)
        _expand(value)


def recipe_path(recipe: str) -> pathlib.Path:
    """Returns the file of a recipe given as a file or by name. Raises UserError if there is none."""
    path = pathlib.Path(recipe)
    if path.is_file():
        return path
    for folder in recipe_folders():
        named = folder / f"{recipe.removeprefix('configs/').removesuffix('.py')}.py"
        if named.is_file():
            return named
    raise UserError(
        f"--config={recipe}: no such file or recipe{nearest_recipe(recipe)} ({command_line('recipes')} lists them)"
    )


def nearest_recipe(recipe: str) -> str:
    """Returns the end of a message about an unknown recipe: what was meant, though its folder may be missing."""
    if own := recipe.endswith(".py") and closest_path(recipe, is_folder=False):
        return own
    name = recipe.removeprefix("configs/").removesuffix(".py")
    word = name.rpartition("/")[2].lower().replace("-", "_")
    without_sign = word.replace("_", "")
    same = [known for known in recipe_names() if known.rpartition("/")[2].replace("_", "") == without_sign]
    if same:
        return f"; did you mean {' or '.join(same)}?"
    near = closest(name, recipe_names())
    if near:
        return near
    lasts: dict[str, list[str]] = {}
    for known in recipe_names():
        lasts.setdefault(known.rpartition("/")[2], []).append(known)
    close = difflib.get_close_matches(word, lasts, n=1)
    return f"; did you mean {' or '.join(lasts[close[0]])}?" if close else ""


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with bert_jax, sorted, such as "bert_base" and "finetune/sst2"."""
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in recipe_folders()
        for path in folder.rglob("*.py")
        if not path.stem.startswith("_")
    )


def is_finetuning(name: str) -> bool:
    """Returns whether a recipe of this name, as recipe_names() has it, is one of fine-tuning."""
    return name.startswith(("finetune/", "embedding/", "reranker/"))


def recipe_folders() -> list[pathlib.Path]:
    """Returns the folders that hold recipes: configs/ of a checkout, or of the installed package."""
    package = pathlib.Path(__file__).parents[1]
    return [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()][:1]


def _first_line(error):
    text = str(error)
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):  # a KeyError's
        text = text[1:-1]
    line = (text.splitlines() or [""])[0].partition(" Other fields present")[0]
    return f"{type(error).__name__}: {line}"
