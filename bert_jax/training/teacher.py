"""Reads the teacher of distillation when a run starts, and makes sure that it is the same when the run continues."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
from jax.sharding import Mesh

from bert_jax.config.objective import facts
from bert_jax.data.vocabularies import new_tokens
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.model import Model
from bert_jax.model.parameters import leaves_by_name
from bert_jax.runs.models import open_model


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Holds a model that a run learns from.

    Attributes:
      model: the teacher model.
      params: its parameters, with a subtree for each layer.
      identity: its "name" and the "digest" of its parameters, which run.json keeps.
    """

    model: Model
    params: dict
    identity: Mapping[str, str]


def read(config, mesh: Mesh, tokenizer: Tokenizer | None = None) -> Teacher | None:
    """Opens the teacher of config.distillation; returns None if the objective has none.

    Args:
      config: the run's config.
      mesh: the run's mesh.
      tokenizer: the corpus's tokenizer; None leaves its vocabulary unchecked.

    Raises:
      UserError: no such model, or its vocabulary, its sizes or its heads do not go with the run.
    """
    if not facts(config).teacher:
        return None
    name = config.distillation.teacher
    where = f"config.distillation.teacher={name}"
    try:
        pretrained = open_model(name)
    except UserError as error:
        raise UserError(f"config.distillation.teacher: {error}") from error
    spec = pretrained.model.spec
    if not spec.language_model or spec.attention == "causal":
        lacks = f" ({pretrained.lacking['language_model']})" if "language_model" in pretrained.lacking else ""
        raise UserError(f"{where}: has no head that predicts masked tokens{lacks}; expected a model with one")
    if tokenizer and not (
        new_tokens.begins_with(tokenizer, pretrained.tokenizer)
        and new_tokens.begins_with(pretrained.tokenizer, tokenizer)
    ):
        raise UserError(
            f"{where}: its vocabulary ({pretrained.tokenizer.vocab_size:,} entries) is not that of config.data.corpus="
            f"{config.data.corpus} ({tokenizer.vocab_size:,}); prepare the corpus with --tokenizer={name}"
        )
    if config.distillation.cosine_weight and spec.hidden_size != config.model.hidden_size:
        raise UserError(
            f"config.distillation.cosine_weight: {config.distillation.cosine_weight}, but hidden states of the teacher "
            f"{name} have {spec.hidden_size} numbers and those of config.model {config.model.hidden_size}; expected 0"
        )
    if spec.max_positions < config.data.sequence_length:
        raise UserError(
            f"{where}: reads {spec.max_positions} tokens at most, config.data.sequence_length is "
            f"{config.data.sequence_length}; expected no more than it reads"
        )
    if spec.num_kv_heads % mesh.shape["tensor"]:
        raise UserError(
            f"config.mesh: tensor={mesh.shape['tensor']} does not divide the teacher's {spec.num_kv_heads} heads; "
            f"expected a divisor of it for {where}"
        )
    return Teacher(pretrained.model, pretrained.params, {"name": name, "digest": digest(pretrained.params)})


def digest(params: Mapping) -> str:
    """Returns a SHA-256 of parameters: their names, shapes, dtypes and values; hexadecimal."""
    sha256 = hashlib.sha256()
    leaves = leaves_by_name(params)
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        sha256.update(f"{name} {leaf.shape} {leaf.dtype};".encode())
        sha256.update(leaf.view(np.uint8).data)
    return sha256.hexdigest()
