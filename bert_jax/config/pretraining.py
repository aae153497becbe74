"""Builds configs of pre-training runs: `base()` has every key with its default, `validate` refuses what cannot work.

No jax here: the data pipeline's worker processes read configs too.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from bert_jax import _moved
from bert_jax.config import architecture, recipes
from bert_jax.config.kernels import resolve_kernel
from bert_jax.config.keys import PAIR_FORMATS, PRETRAINING
from bert_jax.config.layout import check_layout
from bert_jax.config.objective import check_objective, facts, pair_objective
from bert_jax.config.pretraining_keys import LOGGERS
from bert_jax.config.run_phases import in_phase, phases, schedules
from bert_jax.config.schema import check_values, closest
from bert_jax.errors import UserError, command_line

_LONGEST_SPAN = 512


def base() -> ml_collections.ConfigDict:
    """Returns BERT Base with dynamic masking and no corpus: every key of pre-training with its default, locked."""
    return recipes.build(PRETRAINING).lock()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for an unknown or ill-typed key, or a value that cannot work."""
    values = check_keys(config)
    _check_model(values)
    check_objective(values)
    for schedule in schedules(config):
        check_optimizer({f"optimizer.{key}": value for key, value in schedule.settings.items()})
    for phase in phases(config):
        if phase.settings:
            _check_model(recipes.flat(in_phase(config, phase)))
        _check_data(phase.data, phase.name, values)
    _check_train(values)


def check_keys(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the values by dotted key, each of them checked by itself.

    Raises:
      UserError: The recipe is one of fine-tuning, a key is unknown or missing, or a value has another type, is none of
        the key's choices or out of its bounds.
    """
    if "task" in config:
        raise UserError(f"--config: a fine-tuning recipe, for {command_line('finetune')}; expected one of pre-training")
    values = recipes.flat(config)
    check_values(values, PRETRAINING)
    return values


def check_devices(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises UserError if the mesh does not fit the devices or the batch does not divide among them."""
    batches = [(phase.data.batch_size, _named(config, phase)) for phase in phases(config)]
    key = "num_kv_heads" if config.model.num_kv_heads else "num_heads"
    heads = {f"model.{key}": config.model[key]}
    if facts(config).generator:
        own = recipes.value(config, "generator.num_heads")
        heads["generator.num_heads"] = own * config.model[key] // config.model.num_heads
    check_layout(config, num_devices, heads, batches)


def _named(config, phase):
    """Returns a phase's name for a message about its batch size, with the place where the phase sets it."""
    sets_it = config.data.phases and {"batch_size", "data.batch_size"} & set(config.data.phases[phase.index])
    place = f"config.data.phases[{phase.index}]"
    return f"{phase.name[:-1]}, {place})" if sets_it and phase.name else f" ({place})" if sets_it else phase.name


def _check_model(values):
    model = {key.removeprefix("model."): value for key, value in values.items() if key.startswith("model.")}
    architecture.check(model)
    resolve_kernel(
        model["attention_kernel"],
        dtype=None if model["dtype"] == "auto" else model["dtype"],
        head_size=model["head_size"] or model["hidden_size"] // model["num_heads"],
        dropout=model["attention_dropout"],
    )


@_moved.renamed_arguments(found="values")
def check_optimizer(values: Mapping[str, Any]) -> None:
    """Raises UserError for values of config.optimizer, by dotted key, that do not go together."""
    shape, schedule = values["optimizer.decay_shape"], values["optimizer.schedule"]
    if shape != "linear" and schedule != "trapezoidal":
        raise UserError(
            f"config.optimizer.decay_shape: {shape} with config.optimizer.schedule={schedule}; expected linear, or "
            "schedule=trapezoidal, whose end it shapes"
        )


def _check_data(data, name, values):
    where = "config.data"
    for key, value in data.items():
        if PRETRAINING[f"data.{key}"].in_phases:
            PRETRAINING[f"data.{key}"].check(f"{where}.{key}", value, name)
    longest, positions = values["data.sequence_length"], values["model.max_positions"]  # phases have at most the first
    if longest > positions:
        raise UserError(f"{where}.sequence_length: {longest} is over config.model.max_positions={positions}")
    relative = "relative" in values["model.positions"].split("+")
    resolve_kernel(values["model.attention_kernel"], sequence_length=data.sequence_length, relative=relative)
    shortest = 5 if data.format in PAIR_FORMATS else 3
    if data.sequence_length < shortest:
        raise UserError(
            f"{where}.sequence_length: {data.sequence_length}{name}; {data.format} needs at least {shortest}"
        )
    pairs = pair_objective(values)
    if pairs and data.format not in PAIR_FORMATS:
        raise UserError(
            f"{where}.format: {data.format}{name} has no sentence pairs, but {pairs}=True; "
            f"expected {' or '.join(PAIR_FORMATS)}, or {pairs}=False"
        )
    if data.max_predictions > data.sequence_length:
        raise UserError(
            f"{where}.max_predictions: found {data.max_predictions}{name}; expected at most "
            f"{where}.sequence_length={data.sequence_length}"
        )
    if not all(isinstance(weight, int | float) for weight in data.weights):
        raise UserError(f"{where}.weights: found {tuple(data.weights)}{name}; expected numbers, one for each corpus")
    if data.mask_token_share + data.random_token_share > 1 + 1e-9:
        raise UserError(
            f"{where}.mask_token_share + random_token_share: found "
            f"{data.mask_token_share + data.random_token_share}{name}; expected at most 1"
        )
    for unit, key in (("span", "span_max_words"), ("ngram", "ngram_max")):
        if data.mask_unit == unit and data[key] > _LONGEST_SPAN:
            raise UserError(f"{where}.{key}: found {data[key]}{name}; expected at most {_LONGEST_SPAN} words")


def check_loggers(values: Mapping[str, Any]) -> None:
    """Raises UserError if config.train.loggers names one that there is not. `values`: by dotted key."""
    for name in recipes.listed(values["train.loggers"]):
        if name not in LOGGERS:
            raise UserError(
                f"config.train.loggers: found {name!r}{closest(str(name), LOGGERS)}; expected some of "
                f"{', '.join(LOGGERS)}"
            )


def check_emergency_folder(values: Mapping[str, Any]) -> None:
    """Raises UserError if config.train.emergency_dir is no local directory. `values`: by dotted key."""
    if "://" in values["train.emergency_dir"]:
        raise UserError(
            f"config.train.emergency_dir: found {values['train.emergency_dir']}; expected a directory on each host's "
            "own disk"
        )


def _check_train(values):
    check_loggers(values)
    check_emergency_folder(values)
    if bool(values["train.num_steps"]) == bool(values["train.num_tokens"]):
        raise UserError(
            f"config.train.num_steps: found {values['train.num_steps']} with config.train.num_tokens="
            f"{values['train.num_tokens']}; expected one of them, and 0 for the other"
        )
    keep_every, checkpoint_every = values["train.keep_every"], values["train.checkpoint_every"]
    if keep_every % checkpoint_every:
        raise UserError(
            f"config.train.keep_every: {keep_every} is not a multiple of config.train.checkpoint_every="
            f"{checkpoint_every}"
        )
