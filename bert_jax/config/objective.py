"""What makes config.objective and the groups that belong to it valid. No jax here: configs are read without."""

from collections.abc import Mapping
from typing import Any

from bert_jax.errors import UserError

GENERATOR_SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size")


def check_objective(found: Mapping[str, Any]) -> None:
    """Raises UserError for settings of an objective, or of a run's start, that cannot work.

    Args:
      found: the values of a config by dotted key.
    """
    _check_task(found)
    name = found["objective.name"]
    if name in ("rtd", "distillation") and found["train.logits_chunk"]:
        raise UserError(
            f"config.train.logits_chunk: {found['train.logits_chunk']} with config.objective.name={name}, which needs "
            "whole distributions over the vocabulary; expected 0"
        )
    if name == "rtd":
        _check_replaced_tokens(found)
    if name == "distillation":
        _check_distillation(found)
    _check_start(found)


def pair_objective(found: Mapping[str, Any]) -> str:
    """The key of the objective that needs sentence pairs; "" where none does."""
    keys = ("objective.next_sentence", "objective.sentence_order")
    return next((f"config.{key}" for key in keys if found[key]), "")


def _check_task(found):
    causal = found["model.attention"] == "causal"
    if (found["objective.name"] == "ltr") != causal:
        raise UserError(
            f"config.objective.name: {found['objective.name']} does not go with config.model.attention="
            f"{found['model.attention']}; expected ltr with causal, or another with bidirectional"
        )
    pairs = pair_objective(found)
    if found["objective.next_sentence"] and found["objective.sentence_order"]:
        raise UserError(
            "config.objective.sentence_order: True with config.objective.next_sentence=True; expected one of them: "
            "a pair has one label"
        )
    if pairs:
        if not found["model.pooler"]:
            raise UserError(f"config.model.pooler: False, but {pairs} reads the pooled [CLS]")
        if causal:
            raise UserError(f"{pairs}: True with causal attention, where [CLS] sees nothing but itself; expected False")
        if found["model.type_vocab_size"] < 2:
            raise UserError(
                f"config.model.type_vocab_size: {found['model.type_vocab_size']}; {pairs} needs 2, one for each segment"
            )


def _check_replaced_tokens(found):
    for key in ("next_sentence", "sentence_order"):
        if found[f"objective.{key}"]:
            raise UserError(f"config.objective.{key}: True with config.objective.name=rtd; expected False")
    for key in GENERATOR_SIZES:
        size, limit = found[f"generator.{key}"], found[f"model.{key}"]
        if size > limit:
            raise UserError(
                f"config.generator.{key}: {size} is over config.model.{key}={limit}; expected a generator that is no "
                "larger than the model"
            )
    hidden = found["generator.hidden_size"] or found["model.hidden_size"]
    heads = found["generator.num_heads"] or found["model.num_heads"]
    if not found["model.head_size"] and hidden % heads:
        raise UserError(
            f"config.generator.hidden_size: {hidden} is not divisible by config.generator.num_heads={heads}"
        )
    serves = found["model.num_heads"] // (found["model.num_kv_heads"] or found["model.num_heads"])
    if heads % max(1, serves):
        raise UserError(
            f"config.generator.num_heads: found {heads}; expected a multiple of {serves}, the heads that one of "
            f"config.model.num_kv_heads={found['model.num_kv_heads']} serves"
        )


def _check_distillation(found):
    settings = {key: found[f"distillation.{key}"] for key in ("temperature", "soft_weight", "cosine_weight")}
    if settings["temperature"] <= 0:
        raise UserError(f"config.distillation.temperature: found {settings['temperature']}; expected a number over 0")
    if not (settings["soft_weight"] or settings["cosine_weight"]):
        raise UserError(
            "config.distillation.soft_weight, cosine_weight: both are 0, which leaves no teacher; expected one over 0"
        )
    if not found["distillation.teacher"]:
        raise UserError(
            "config.distillation.teacher: empty; expected a model that config.objective.name=distillation reads"
        )


def _check_start(found):
    layers, grow = found["init_layers"], found["init_grow"]
    for key, value in (("init_layers", tuple(layers)), ("init_grow", grow)):
        if value and not found["init_from"]:
            raise UserError(f"config.{key}: {value}, but config.init_from is empty; expected a model")
    if layers and grow:
        raise UserError(f"config.init_grow: True with config.init_layers={tuple(layers)}; expected one of them")
    if grow and found["model_from_init"]:
        raise UserError("config.init_grow: True with config.model_from_init=True, which takes the small model's sizes")
    if not all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in layers):
        raise UserError(f"config.init_layers: found {tuple(layers)}; expected numbers of layers, from 0")
    groups = found["model.layer_groups"] * found["model.group_layers"]
    expected = groups or found["model.num_layers"]
    if layers and len(layers) != expected:
        of = "layer_groups x group_layers" if groups else "num_layers"
        raise UserError(
            f"config.init_layers: found {len(layers)} layers, {tuple(layers)}; expected {expected}, one for each of "
            f"config.model's {of}"
        )
