"""Reads from a model's files how many tokens its rows may have, without jax: a mistake shows before it is imported."""

import json
import os
import pathlib

from bert_jax.errors import UserError
from bert_jax.runs import workdir as workdir_lib

# Their table has rows for padding in front; MPNet's as many whatever the id of padding.
_OFFSET = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl", "longformer")
_OTHER_KEYS = ("nomic_bert", "esm")


def of_directory(name: str | os.PathLike) -> int | None:
    """Returns the most tokens of a row of the model in a directory; None where that is not certain.

    Args:
      name: the workdir of a run, perhaps with @STEP, or a Hugging Face directory.
    """
    path = workdir_lib.split_step(name)[0]
    if "://" in str(path) or not os.path.isdir(path):
        return None
    folder = pathlib.Path(path)
    try:
        if (folder / "run.json").exists():
            run, config = workdir_lib.read(folder)
            # The config of fine-tuning has a few keys of the model; its run.json has all.
            return run["model"]["max_positions"] if "task" in config else config.model.max_positions
        config = json.loads((folder / "config.json").read_text("utf-8"))
        longest, kind = config["max_position_embeddings"], config.get("model_type")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, UserError):
        return None  # the run says what is wrong
    if not isinstance(longest, int) or kind in _OTHER_KEYS or _is_dynamic(config):
        return None
    padding = 1 if kind == "mpnet" else config.get("pad_token_id", 1) if kind in _OFFSET else -1
    return longest - padding - 1 if isinstance(padding, int) else None


def _is_dynamic(config):
    """Returns whether rotary positions are scaled by the length of the rows, which may then be longer than is said."""
    return any('"dynamic"' in json.dumps(config.get(name)) for name in ("rope_parameters", "rope_scaling"))
