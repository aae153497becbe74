"""States what each objective needs, and checks the settings of config.objective and the groups beside it.

No jax here: configs, the data pipeline and the doctor ask for these facts without it. A new objective, on heads that
models can have, touches three files beside its tests:

    bert_jax/objectives/NAME.py          its class, named in its entry of OBJECTIVES
    bert_jax/config/objective.py         its entry of OBJECTIVES, with a check of its own settings
    bert_jax/config/pretraining_keys.py  its own config keys, if it has any
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from bert_jax import _moved
from bert_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class ObjectiveFacts:
    """States what an objective needs from data, model and checkpoints; the same for every run that names it.

    Attributes:
      implementation: class that computes it, "module.Class" in bert_jax.objectives.
      masked: whether rows carry masked tokens to predict; without them every token predicts the next one.
      attention: value of config.model.attention that it works with.
      heads: heads that the model has for it, beside those of sentence pairs: arguments of model.build.
      logits_chunks: whether config.train.logits_chunk works, which never holds a whole distribution over the
        vocabulary.
      generator: whether a second model, sized by config.generator, is trained beside the model.
      teacher: whether it reads another model, config.distillation.teacher.
      segments: number of segments that token_type_ids distinguish; 0: config.model.type_vocab_size.
      language_model: part of a run that predicts masked tokens: "discriminator" (the model) or "generator".
      best_metric: held-out metric that chooses the best checkpoint; smaller is better.
      copying_baseline: whether the doctor compares the loss with that of a model which copies the tokens that masking
        left unchanged.
      check: raises UserError for settings of this objective that cannot work, given the config's values by dotted key.
    """

    implementation: str
    masked: bool = True
    attention: str = "bidirectional"
    heads: tuple[str, ...] = ("language_model",)
    logits_chunks: bool = True
    generator: bool = False
    teacher: bool = False
    segments: int = 0
    language_model: str = "discriminator"
    best_metric: str = "eval/mlm_loss"
    copying_baseline: bool = False
    check: Callable[[Mapping[str, Any]], None] = lambda config_values: None

    def predicted_share(self, mask_rate: float) -> float:
        """Returns the share of the tokens of a row that are predicted, given config.data.mask_rate."""
        return mask_rate if self.masked else 1.0


def facts(config: "Mapping[str, Any] | ml_collections.ConfigDict") -> ObjectiveFacts:
    """Returns what the objective of a config (of pre-training, with the group `objective`) needs."""
    return OBJECTIVES[config["objective"]["name"]]


def predicting(attention: str) -> str:
    """Returns the name of the objective that predicts tokens with this value of config.model.attention."""
    return "ltr" if attention == "causal" else "mlm"


class Heads(TypedDict):
    """Names the heads of a pre-trained model: keyword arguments of model.build."""

    next_sentence: bool
    sentence_order: bool
    language_model: bool
    replaced_tokens: bool


def heads(settings: "Mapping[str, Any] | ml_collections.ConfigDict") -> Heads:
    """Returns the heads that the model of a config.objective has, as keyword arguments of model.build."""
    own = OBJECTIVES[settings["name"]].heads
    return Heads(
        next_sentence=settings["next_sentence"],
        sentence_order=settings["sentence_order"],
        language_model="language_model" in own,
        replaced_tokens="replaced_tokens" in own,
    )


@_moved.renamed_arguments(found="config_values")
def check_objective(config_values: Mapping[str, Any]) -> None:
    """Raises UserError for settings of an objective, or of a run's start, that cannot work.

    Args:
      config_values: values of a config by dotted key.
    """
    _check_task(config_values)
    name = config_values["objective.name"]
    if config_values["train.logits_chunk"] and not OBJECTIVES[name].logits_chunks:
        raise UserError(
            f"config.train.logits_chunk: {config_values['train.logits_chunk']} with config.objective.name={name}, "
            "which needs whole distributions over the vocabulary; expected 0"
        )
    _check_decoupled(config_values)
    OBJECTIVES[name].check(config_values)
    _check_start(config_values)


@_moved.renamed_arguments(found="config_values")
def pair_objective(config_values: Mapping[str, Any]) -> str:
    """Returns the config key of the objective that needs sentence pairs; "" where none does."""
    keys = ("objective.next_sentence", "objective.sentence_order")
    return next((f"config.{key}" for key in keys if config_values[key]), "")


def _check_task(config_values):
    name, attention = config_values["objective.name"], config_values["model.attention"]
    if OBJECTIVES[name].attention != attention:
        causal = ", ".join(known for known, needs in OBJECTIVES.items() if needs.attention == "causal")
        raise UserError(
            f"config.objective.name: {name} does not go with config.model.attention={attention}; expected {causal} "
            "with causal, or another with bidirectional"
        )
    pairs = pair_objective(config_values)
    if config_values["objective.next_sentence"] and config_values["objective.sentence_order"]:
        raise UserError(
            "config.objective.sentence_order: True with config.objective.next_sentence=True; expected one of them: "
            "a pair has one label"
        )
    if pairs:
        if not config_values["model.pooler"]:
            raise UserError(f"config.model.pooler: False, but {pairs} reads the pooled [CLS]")
        if attention == "causal":
            raise UserError(f"{pairs}: True with causal attention, where [CLS] sees nothing but itself; expected False")
        if config_values["model.type_vocab_size"] < 2:
            raise UserError(
                f"config.model.type_vocab_size: {config_values['model.type_vocab_size']}; {pairs} needs 2, one for "
                "each segment"
            )


def _check_decoupled(config_values):
    if not config_values["optimizer.decoupled"]:
        return
    name, sharing = config_values["objective.name"], config_values["objective.embedding_sharing"]
    if not OBJECTIVES[name].generator:
        expected = ", ".join(known for known, needs in OBJECTIVES.items() if needs.generator)
        raise UserError(
            f"config.optimizer.decoupled: True with config.objective.name={name}, which trains one model; expected "
            f"False, or {expected}"
        )
    if sharing == "tied":
        raise UserError(
            "config.optimizer.decoupled: True with config.objective.embedding_sharing=tied, where one table is trained "
            "by both losses; expected gradient_disentangled or none"
        )


def _check_replaced_tokens(config_values):
    for key in ("next_sentence", "sentence_order"):
        if config_values[f"objective.{key}"]:
            raise UserError(f"config.objective.{key}: True with config.objective.name=rtd; expected False")
    for key in (name.partition(".")[2] for name in config_values if name.startswith("generator.")):
        size, limit = config_values[f"generator.{key}"], config_values[f"model.{key}"]
        if size > limit:
            raise UserError(
                f"config.generator.{key}: {size} is over config.model.{key}={limit}; expected a generator that is no "
                "larger than the model"
            )
    hidden = config_values["generator.hidden_size"] or config_values["model.hidden_size"]
    heads = config_values["generator.num_heads"] or config_values["model.num_heads"]
    if not config_values["model.head_size"] and hidden % heads:
        raise UserError(
            f"config.generator.hidden_size: {hidden} is not divisible by config.generator.num_heads={heads}"
        )
    queries = config_values["model.num_heads"]
    serves = queries // (config_values["model.num_kv_heads"] or queries)
    if heads % max(1, serves):
        raise UserError(
            f"config.generator.num_heads: found {heads}; expected a multiple of {serves}, the heads that one of "
            f"config.model.num_kv_heads={config_values['model.num_kv_heads']} serves"
        )


def _check_distillation(config_values):
    if not (config_values["distillation.soft_weight"] or config_values["distillation.cosine_weight"]):
        raise UserError(
            "config.distillation.soft_weight, cosine_weight: both are 0, which leaves no teacher; expected one over 0"
        )
    if not config_values["distillation.teacher"]:
        raise UserError(
            "config.distillation.teacher: empty; expected a model that config.objective.name=distillation reads"
        )


def _check_start(config_values):
    layers, grow = config_values["init_layers"], config_values["init_grow"]
    state = config_values["init_state"]
    branches = state if state != "parameters" else ""
    init_settings = {"init_layers": tuple(layers), "init_grow": grow, "init_positions": config_values["init_positions"]}
    init_settings["init_long"] = config_values["init_long"]
    for key, value in (init_settings | {"init_state": branches}).items():
        if value and not config_values["init_from"]:
            raise UserError(f"config.{key}: {value}, but config.init_from is empty; expected a model")
    for key in ("init_layers", "init_grow", "init_long"):
        if branches and init_settings[key]:
            raise UserError(
                f"config.{key}: {init_settings[key]} with config.init_state={state}; expected init_state=parameters"
            )
    if layers and grow:
        raise UserError(f"config.init_grow: True with config.init_layers={tuple(layers)}; expected one of them")
    if grow and config_values["model_from_init"]:
        raise UserError("config.init_grow: True with config.model_from_init=True, which takes the small model's sizes")
    if not all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in layers):
        raise UserError(f"config.init_layers: found {tuple(layers)}; expected numbers of layers, from 0")
    groups = config_values["model.layer_groups"] * config_values["model.group_layers"]
    expected = groups or config_values["model.num_layers"]
    if layers and len(layers) != expected:
        keys = "layer_groups x group_layers" if groups else "num_layers"
        raise UserError(
            f"config.init_layers: found {len(layers)} layers, {tuple(layers)}; expected {expected}, one for each of "
            f"config.model's {keys}"
        )


OBJECTIVES = {
    "mlm": ObjectiveFacts("language_modeling.LanguageModeling", copying_baseline=True),
    "ltr": ObjectiveFacts("language_modeling.LanguageModeling", masked=False, attention="causal"),
    "rtd": ObjectiveFacts(
        "replaced_tokens.ReplacedTokens",
        heads=("replaced_tokens",),
        logits_chunks=False,
        generator=True,
        language_model="generator",
        best_metric="eval/rtd_loss",
        check=_check_replaced_tokens,
    ),
    "distillation": ObjectiveFacts(
        "distillation.Distillation",
        logits_chunks=False,
        teacher=True,
        segments=2,  # a teacher may read segments that its student lacks; a model without them ignores them
        check=_check_distillation,
    ),
}
