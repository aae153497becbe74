"""Prepares a model to be trained for late interaction (ColBERT): its vocabulary gets the markers of texts."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax.config.finetuning_keys import LATE_POOLING
from bert_jax.data.tasks.embedding import reading_of
from bert_jax.data.tasks.late_interaction import Reading
from bert_jax.errors import UserError
from bert_jax.interop import multi_vector
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import Model


def with_markers(config: ml_collections.ConfigDict, source: Pretrained) -> Pretrained:
    """Returns the model that a run starts from, with config.task.markers as tokens of its vocabulary.

    A token that is new has the mean of all word embeddings, as transformers resizes them. Any other kind of run gets
    the model as it is.

    Args:
      config: a fine-tuning config.
      source: the model of config.init_from.

    Raises:
      UserError: the vocabulary cannot be extended, or config.task.query_expansion does not fit the model's family.
    """
    markers = config_lib.listed(config.task.markers)
    if config.task.name != "embedding" or config.task.pooling != LATE_POOLING:
        return source
    if config.task.query_expansion == "mask" and source.model.spec.has_relative_positions:
        raise UserError(
            f"config.task.query_expansion: found mask with config.init_from={source.name}, whose family, DeBERTa, "
            "makes zeros of tokens that no other one attends to; expected attend or none"
        )
    if not markers:
        return source
    size = source.tokenizer.vocab_size
    try:
        tokenizer = multi_vector.with_markers(source.tokenizer, markers, add=True)
    except UserError as error:
        raise UserError(f"config.task.markers, config.init_from={source.name}: {error}, or none") from error
    if tokenizer.vocab_size == size:
        return dataclasses.replace(source, tokenizer=tokenizer)
    embeddings = source.params["encoder"]["embeddings"]
    rows = np.asarray(embeddings["word"]["embedding"], np.float32)
    grown = np.tile(rows[:size].mean(0, dtype=np.float64).astype(np.float32), (max(len(rows), tokenizer.vocab_size), 1))
    grown[: len(rows)] = rows
    grown[size : tokenizer.vocab_size] = rows[:size].mean(0, dtype=np.float64)
    words = dict(embeddings["word"]) | {"embedding": grown}
    encoder = dict(source.params["encoder"]) | {"embeddings": dict(embeddings) | {"word": words}}
    return dataclasses.replace(
        source,
        config=dict(source.config) | {"vocab_size": len(grown)},
        model=Model(dataclasses.replace(source.model.spec, vocab_size=len(grown))),
        params=dict(source.params) | {"encoder": encoder},
        tokenizer=tokenizer,
    )


def reading_notes(config: ml_collections.ConfigDict, source: Pretrained) -> list[str]:
    """Returns lines about what a model for late interaction read otherwise than the run that starts from it will.

    Args:
      config: a fine-tuning config.
      source: the model of config.init_from.
    """
    if config.task.pooling != LATE_POOLING or "late_interaction" not in source.settings:
        return []
    before, now = Reading.from_json(source.settings["late_interaction"]), reading_of(config)
    return [
        f"config.init_from={source.name}: had {_shown(before, name)} for {key}, and has {_shown(now, name)} in this run"
        for name, key in (
            ("query_length", "config.task.query_length"), ("document_length", "config.data.sequence_length"),
            ("expansion_length", "config.task.query_expansion (tokens)"), ("skiplist", "config.task.skiplist"),
            ("attends_to_expansion", "config.task.query_expansion=attend"), ("markers", "config.task.markers"),
        )
        if getattr(before, name) != getattr(now, name)
    ]  # fmt: skip


def _shown(reading: Reading, name: str) -> Any:
    value = getattr(reading, name)
    return f"{len(value)} tokens" if name == "skiplist" else value
