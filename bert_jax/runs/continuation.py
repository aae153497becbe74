"""Compares a config with that of the run that it is to continue, without jax: a mistake shows before it is imported."""

import json
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.config import finetuning as finetune_config
from bert_jax.config import finetuning_phases
from bert_jax.config.keys import FINETUNING, PRETRAINING, RESUMABLE
from bert_jax.errors import UserError
from bert_jax.runs import checkpoint_files
from bert_jax.runs import workdir as workdir_lib


def keep_values_before(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> str:
    """Fills in, in place, each key that the workdir's run began without, with what the run did then.

    A run goes on as it began, whatever later versions of a recipe say of keys that there were none of then. Keys that
    may change when a run continues are left alone.

    Returns:
      a line for the user that names the keys whose value was changed; "" if there is none, or no run in the workdir.
    """
    with storage.reporting(str(workdir)):
        text = (workdir / "config.json").read_text() if (workdir / "config.json").exists() else "null"
    try:
        stored = json.loads(text)
    except ValueError:
        return ""  # `check_config` refuses it
    if not isinstance(stored, Mapping) or ("task" in stored) != ("task" in config):
        return ""
    values, kept = config_lib.flat(config.to_dict()), []
    for name, value in workdir_lib.values_before(stored).items():
        if name not in RESUMABLE and values[name] != value:
            config.update_from_flattened_dict({name: value})
            kept.append(f"config.{name}={value}")
    return f"goes on as it began, before there were these keys: {', '.join(kept)}" if kept else ""


def check_pretraining(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError as `compare` does, for a config whose vocab_size and mask_id may still be the corpus's (0)."""
    config = config.copy_and_resolve_references()
    stored = workdir_lib.read(workdir)[1]
    for name in ("vocab_size", "mask_id") if "model" in stored else ():
        config.model[name] = config.model[name] or stored.model[name]
    compare(workdir, config)


def check_finetuning(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError as `compare` does, for a config whose learning rate may still be to choose (-1)."""
    config, stored = finetune_config.without_search(config), workdir_lib.read(workdir)[1]
    if config.optimizer.learning_rate < 0 and "task" in stored:
        config.optimizer.learning_rate = stored.optimizer.learning_rate
    compare(workdir, config)


def compare(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns what run.json holds, None without a run, and the keys that begin anew a run that has no checkpoint.

    Raises:
      UserError: the workdir holds the run of another config: a key differs that may not change on resuming.
    """
    if not (workdir / "config.json").exists():
        return None, []
    run, before = workdir_lib.read(workdir)
    if ("task" in before) != ("task" in config):
        kind = "fine-tuning" if "task" in before else "pre-training"
        raise UserError(f"--workdir={workdir}: holds a run of {kind}; name another")
    old = config_lib.flat(before.to_dict())
    new = config_lib.flat(workdir_lib.config_from_json(json.loads(json.dumps(config.to_dict()))).to_dict())
    changed = [
        key
        for key in old
        if old[key] != new[key]
        and key not in RESUMABLE
        and not _new_default(config, key, old[key], new[key])
        and not (key == "init_from" and finetuning_phases.same_folder(old[key], new[key]))
    ]
    if changed and checkpoint_files.has_checkpoints(workdir):
        values = "; ".join(f"config.{key}={old[key]!r}, found {new[key]!r}" for key in changed)
        flags = " ".join(_flag(key, old[key]) for key in changed)
        raise UserError(
            f"--workdir={workdir}: its run began with {values}; give the old value ({flags}), or another --workdir"
        )
    return run, changed


def _flag(name, value):
    """Returns a key's value as an argument of a command line, quoted for a shell."""
    text = value if isinstance(value, str) else repr(value)
    quoted = shlex.quote(text)
    if quoted != text and not re.search(r'["$`\\!]', text):
        quoted = f'"{text}"'  # a tuple of dicts, whose own quotation marks are single ones
    return f"--config.{name}={quoted}"


def _new_default(config, name, old, new):
    """Tells whether two values are an earlier version's default of a key and today's."""
    key = (FINETUNING if "task" in config else PRETRAINING).get(name)
    return key is not None and key.earlier_default is not None and (old, new) == (key.earlier_default, key.default)
