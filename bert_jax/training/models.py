"""MODEL, wherever it lies: a run's workdir, a Hugging Face directory, or a name on the hub."""

import os
import pathlib

from bert_jax import model as model_lib
from bert_jax.data import tokenizers
from bert_jax.interop import huggingface
from bert_jax.interop.pretrained import Pretrained
from bert_jax.training import checkpoint


def open_model(name: str | os.PathLike, step: int | str | None = None) -> Pretrained:
    """The model of a workdir, of a Hugging Face directory, or of a hub name.

    Args:
      name: where it lies. A directory with run.json is a workdir; any other is read as Hugging Face's.
      step: of a workdir: the step of a checkpoint, "best" or None for the newest.

    Raises:
      UserError: no such model, a damaged one, or one of a kind that is not supported.
    """
    if not (pathlib.Path(name) / "run.json").exists():
        return huggingface.read(name)
    params, config, _ = checkpoint.load(name, step)
    tokenizer = tokenizers.load(pathlib.Path(name) / "tokenizer")
    model_config = config.model.to_dict() | {"vocab_size": tokenizer.vocab_size}
    model = model_lib.build(model_config, tokenizer.vocab_size, next_sentence=config.objective.next_sentence)
    # Which format can say it: RoBERTa's rows begin behind two unused positions.
    family = "roberta" if config.model.position_offset == 2 else "bert"
    return Pretrained(str(name), family, model_config, model, params, tokenizer)
