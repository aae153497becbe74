"""What config.init_from does: a run's first parameters, and where asked for its architecture, from another model."""

import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import new_tokens
from bert_jax.data.tokenizers import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained, transfer
from bert_jax.training import checkpoint
from bert_jax.training import workdir as workdir_lib
from bert_jax.training.models import open_model

# Of config.model: what the corpus or the recipe decides. The rest is the model's architecture, which init_from fixes.
_FREE = {
    "vocab_size",
    "hidden_dropout",
    "attention_dropout",
    "initializer_range",
    "pooler",
    "attention",
    "dtype",
    "scan_layers",
    "attention_kernel",
    "remat",
}


def source(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Pretrained | None:
    """The model that the run in `workdir` starts from: None without init_from, or if the run has a checkpoint.

    Raises:
      UserError: there is no such model, or config.model_from_init is set without config.init_from.
    """
    if config.model_from_init and not config.init_from:
        raise UserError("config.model_from_init: True, but config.init_from is empty; expected a model")
    if not config.init_from or checkpoint.steps_in(workdir / "checkpoints"):
        return None
    return open_model(config.init_from)


def resolve(config: ml_collections.ConfigDict, found: Pretrained | None, workdir: pathlib.Path) -> None:
    """With config.model_from_init, gives config.model the architecture of init_from, in place.

    Args:
      config: the run's, as the recipe and the flags made it.
      found: as `source` gives it; where it is None, the architecture is the one that the workdir's run began with.
      workdir: the run's.

    Raises:
      UserError: the model does not have config.model's architecture and config.model_from_init is False.
    """
    if not config.model_from_init:
        if found:
            _check(config, found)
        return
    taken = found.config if found else workdir_lib.read(workdir)[1].model
    for key in _architecture(config):
        config.model[key] = taken[key]
    config.model.pooler = bool(config.objective.next_sentence or taken["pooler"])


def params(
    config: ml_collections.ConfigDict,
    found: Pretrained,
    model: model_lib.Model,
    tokenizer: Tokenizer,
    say: Callable[[str], None],
) -> dict:
    """The run's first parameters: those of `found`, with fresh heads where it has none, which is said.

    Vocabulary entries that the corpus has beyond the model's start as the mean of the rows of the pieces that the
    model's own tokenizer writes them with, in the word embedding and in the bias of the language-model head (Koto et
    al. 2021, IndoBERTweet, who found it the best start). Rows of an embedding beyond its vocabulary are left out.

    Args:
      config: the run's, resolved.
      found: as `source` gives it.
      model: the run's.
      tokenizer: the corpus's.
      say: called with a line that says what is new.

    Raises:
      UserError: the corpus was prepared with another vocabulary, or a parameter has no place or another shape.
    """
    if not new_tokens.begins_with(tokenizer, found.tokenizer):
        raise UserError(
            f"config.init_from={found.name}: its vocabulary is not that of {config.data.corpus}; prepare the corpus "
            f"with --tokenizer={found.name}"
        )
    grown, notes = _grown(found, tokenizer)
    key = jax.random.split(jax.random.key(config.seed))[0]  # fresh heads are those of a run without init_from
    taken, fresh, left = transfer(grown, model, key)
    wrong = [name for name in (*fresh, *left) if name.startswith("encoder")]
    if wrong:
        raise UserError(
            f"config.init_from={found.name}: {wrong[0]} ({len(wrong)} in all) is absent there or here, or has another "
            "shape; expected a model of the same architecture"
        )
    notes = [f"fresh: {', '.join(fresh)}"] * bool(fresh) + [f"left out: {', '.join(left)}"] * bool(left) + notes
    say(f"starts from {found.name}" + "".join(f"; {note}" for note in notes))
    return taken


def _architecture(config):
    return [key for key in config.model if key not in _FREE]


def _check(config, found):
    wrong = [key for key in _architecture(config) if config.model[key] != found.config[key]]
    if wrong:
        there = ", ".join(f"{key}={found.config[key]}" for key in wrong)
        here = ", ".join(f"{key}={config.model[key]}" for key in wrong)
        flags = " ".join(f"--config.model.{key}={found.config[key]}" for key in wrong)
        raise UserError(
            f"config.init_from={found.name}: its model has {there}, but config.model has {here}; expected {flags}, "
            "or --config.model_from_init=True, which takes them from there"
        )


def _grown(found, tokenizer):
    """The parameters with a row for each token of `tokenizer`; and what changed, in words."""
    size, new = found.tokenizer.vocab_size, tokenizer.vocab_size - found.tokenizer.vocab_size
    word = np.asarray(found.params["encoder"]["embeddings"]["word"]["embedding"])
    if not new and len(word) == size:
        return found.params, []
    pieces = new_tokens.pieces(tokenizer, found.tokenizer)

    def rows(table):
        table = np.asarray(table)[:size]
        means = [table[ids].mean(0, keepdims=True) if ids else table.mean(0, keepdims=True) for ids in pieces]
        return np.concatenate([table, *means])

    params = dict(found.params)
    embeddings = params["encoder"]["embeddings"] | {"word": {"embedding": rows(word)}}
    params["encoder"] = params["encoder"] | {"embeddings": embeddings}
    if "mlm" in params:
        params["mlm"] = params["mlm"] | {"bias": rows(params["mlm"]["bias"])}
    notes = [f"{new:,} new vocabulary entries, each the mean of its pieces"] if new else []
    if len(word) > size:
        notes.append(f"{len(word) - size:,} rows of its word embedding that no token has are left out")
    return params, notes
