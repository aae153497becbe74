"""Finds the family whose format can express a model: what it writes must be read as the same model again."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax import _moved
from bert_jax.config.keys import FAST_TURNS, NOT_IN_FORMATS
from bert_jax.errors import UserError
from bert_jax.interop import model_config
from bert_jax.interop.families import FAMILIES
from bert_jax.interop.families.family import HEAD_MODULES, HEADS
from bert_jax.interop.pretrained import Pretrained
from bert_jax.interop.weights import Module
from bert_jax.model import Model, Spec, Task
from bert_jax.model.spec import make_spec

# Fields of a spec that a format need not express.
_NOT_IN_FORMATS = NOT_IN_FORMATS | {"platform"}
_TRAINING = {"dropout", "transform_dropout"}  # what a task may set


@_moved.renamed_members(found="value", said="expressed")
@dataclasses.dataclass(frozen=True)
class Difference:
    """Describes a setting of a model that a format would change.

    Attributes:
      key: the setting's key in the config.
      value: the model's value.
      expressed: the value that the format would express; None where it has no such setting.
    """

    key: str
    value: object
    expressed: object

    def __str__(self):
        return f"config.{self.key}={self.value}" + ("" if self.expressed is None else f", where it is {self.expressed}")


def differences(spec: Spec, model_type: str, original: Mapping | None = None) -> list[Difference]:
    """Returns the settings of a model that a family's format cannot express; [] where it can express all.

    Args:
      spec: the model's spec.
      model_type: a key of FAMILIES.
      original: the config.json that the model came with.
    """
    config = model_config.from_model(spec, model_type, original=original)
    try:
        read = model_config.to_model(config, "config.json") | {"pooler": spec.pooler}
        read = make_spec(
            read,
            spec.vocab_size,
            next_sentence=False,
            language_model=spec.language_model,
            task=spec.task,
            platform=spec.platform,
        )
    except UserError as error:
        return [Difference("model", "this", _refusal(error))]
    changed = _different("model", _meaning(spec), _meaning(read))
    entries = FAMILIES[model_type].table(config).names
    if spec.pooler and not any(isinstance(e, Module) and e.ours.startswith("pooler/") for e in entries):
        changed.append(Difference("model.pooler", True, False))
    if model_config.architecture(model_type, spec) is None:
        changed += _head_differences(spec, model_type)
    elif spec.task:
        changed += _task_differences(spec, config)
    return changed


def choose_family(spec: Spec) -> str:
    """Returns the model_type of the first family whose format can express a model, or of the nearest where none can."""
    by_family = {name: differences(spec, name) for name in FAMILIES}

    def distance(name):  # a format that cannot be written at all is the farthest
        return any(difference.key == "model" for difference in by_family[name]), len(by_family[name])

    return min(by_family, key=distance)


def task_head(source: Pretrained, name: str, num_labels: int, dropout: float | None = None) -> Task:
    """Returns the task head of transformers' class for a model's family, or a plain one where it has no such class.

    The family's own dropout is the one that config.json says, or for a model that came without one the default of the
    family's configuration class.

    Args:
      source: the model that gets the head.
      name: name of the task, as in Task.
      num_labels: number of outputs.
      dropout: dropout rate of the head's input; None for the family's own.
    """
    family = FAMILIES[source.family]
    if name not in family.tasks:
        return Task(name, num_labels, "cls", Task.dropout if dropout is None else dropout)
    original = source.origin.config if source.origin else None
    config = model_config.from_model(source.model.spec, source.family, original=original)
    head = family.head(name, num_labels, config, source.name)
    if dropout is None:
        own = head if original else family.head(name, num_labels, {"model_type": source.family}, source.name)
        return dataclasses.replace(head, dropout=own.dropout, transform_dropout=own.transform_dropout)
    transform_dropout = dropout if head.transform_dropout == head.dropout else head.transform_dropout
    return dataclasses.replace(head, dropout=dropout, transform_dropout=transform_dropout)


def inexpressible_heads(source: Pretrained) -> list[str]:
    """Returns the names of pre-training heads that keep a model from being written and that its encoder can lack."""
    spec = source.model.spec
    heads = {
        "the head for replaced tokens": spec.replaced_tokens,
        "the enhanced mask decoder": spec.language_model and spec.mask_decoder == "enhanced",
    }
    names = [name for name, has_head in heads.items() if has_head]
    return names if names and differences(spec, source.family) else []


def reduce_to_class(source: Pretrained) -> tuple[Pretrained, list[str]]:
    """Returns a model with the heads that one class of transformers has, and the heads that it loses, as in HEADS.

    Among several classes the one that the model's config.json names is taken, else its task's, else that of most heads.
    """
    spec, family = source.model.spec, FAMILIES[source.family]
    if model_config.architecture(source.family, spec) is not None:
        return source, []
    config = source.origin.config if source.origin else {"model_type": source.family}
    named_heads = model_config.architecture_heads(config)
    named_task = model_config.architecture_task(config, pathlib.Path(source.name))
    present = {head for head in HEADS if getattr(spec, head)}
    # (whether config.json names the class, whether it is a task's, number of its heads, heads, task)
    classes: list[tuple[bool, bool, int, frozenset[str], Task | None]] = [
        (not named_task and heads == named_heads != frozenset(), False, len(heads), heads, None)
        for heads in family.classes.values()
        if heads <= present
    ]
    if spec.task and spec.task.name in family.tasks:
        classes.append((spec.task.name == named_task, True, 0, frozenset(), spec.task))
    *_, heads, task = max(classes, key=lambda kept: kept[:3])
    lost = sorted(present - heads - {"pooler"})
    params = {name: value for name, value in source.params.items() if HEAD_MODULES.get(name, name) not in lost}
    reduced = dataclasses.replace(source, params=params)
    if spec.task and not task:
        lost.append(spec.task.name)
        del params["task"]
        reduced = dataclasses.replace(reduced, labels=(), problem="", scheme="")
    flags: dict[str, Any] = {head: False for head in lost if head in HEADS}
    return dataclasses.replace(reduced, model=Model(dataclasses.replace(spec, task=task, **flags))), lost


def encoder_only(source: Pretrained) -> Pretrained:
    """Returns a model without its pre-training heads."""
    spec = source.model.spec
    spec = dataclasses.replace(
        spec,
        mask_decoder="plain",
        language_model=False,
        next_sentence=False,
        sentence_order=False,
        replaced_tokens=False,
        pooler=False,
    )
    params = {"encoder": source.params["encoder"]}
    return dataclasses.replace(source, family=choose_family(spec), model=Model(spec), params=params)


def first_layers(source: Pretrained, number: int, name: str) -> Pretrained:
    """Returns the encoder of a model up to a layer, without heads; what an embedder has behind its pooling stays.

    Args:
      source: the model.
      number: number of layers that are kept.
      name: the flag or argument that has it, for messages.

    Raises:
      UserError: the model has no such layer, or its layers share parameters in several groups.
    """
    spec = source.model.spec
    if not 1 <= number <= spec.num_layers:
        raise UserError(f"{name}: found {number}; expected from 1 to {spec.num_layers}, the layers of {source.name}")
    if spec.layer_groups > 1:
        raise UserError(
            f"{name}: the layers of {source.name} share parameters in {spec.layer_groups} groups; expected 0"
        )
    encoder = encoder_only(source)
    layers = {key: layer for key, layer in encoder.params["encoder"]["layers"].items() if int(key) < number}
    return dataclasses.replace(
        encoder,
        config={**encoder.config, "num_layers": number},
        model=Model(dataclasses.replace(encoder.model.spec, num_layers=number, task=None)),
        params={"encoder": {**encoder.params["encoder"], "layers": layers}},
        origin=None,
        labels=(),
        problem="",
        scheme="",
    )


def _different(group, ours, theirs):
    """Returns the differing keys. A key that nothing reads on one side (None) differs by another key already."""
    return [
        Difference(f"{group}.{key}", ours[key], theirs[key])
        for key in ours
        if ours[key] != theirs[key] and None not in (ours[key], theirs[key])
    ]


def _head_differences(spec, model_type):
    """Returns a difference for the heads that no class of the family combines."""
    family = FAMILIES[model_type]
    names = {"next_sentence": "objective.next_sentence", "sentence_order": "objective.sentence_order"}
    names |= {"language_model": "a masked-language head", "replaced_tokens": "a head for replaced tokens"}
    possible = set().union(*family.classes.values())
    if spec.task and spec.task.name not in family.tasks:
        return [Difference("task.name", spec.task.name, f"one of {', '.join(family.tasks)}" if family.tasks else None)]
    heads = [head for head in names if getattr(spec, head)]
    foreign = [head for head in heads if head not in possible] or heads
    return [Difference(names[head], True, False) for head in foreign] or [Difference("model.pooler", spec.pooler, None)]


def _refusal(error):
    """Returns why what a format would write is not read again."""
    return f"not possible: {str(error).removeprefix('config.json: ')}"


def _task_differences(spec, config):
    task = spec.task
    try:
        read = FAMILIES[config["model_type"]].head(task.name, task.num_labels, config, "config.json")
    except UserError as error:
        return [Difference("task.pooling", task.pooling, _refusal(error))]
    changed = _different("task", _task_meaning(task), _task_meaning(read))
    return [Difference("task.pooling", task.pooling, read.pooling)] if changed and _dense(task) else changed


def _dense(task):
    return task.pooling == "dense" and task.name == "sequence_classification"


def _task_meaning(task):
    """Returns the fields of a task that change what it computes; None for a field that nothing reads."""
    fields = {
        field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.name not in _TRAINING
    }
    if task.name != "sequence_classification":
        fields |= {"pooling": None, "late": None}
    elif _dense(task):  # the same in one word
        fields |= {"pooling": "cls", "transform": True, "transform_activation": "tanh", "transform_bias": True}
    if not fields["transform"]:
        for key in ("transform_activation", "transform_bias", "transform_norm"):
            fields[key] = None
    return fields


def _meaning(spec):
    """Returns the fields of a spec that change what it computes; None for a field that nothing reads."""
    fields = {
        field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name not in _NOT_IN_FORMATS
    }
    for key in ("task", "pooler", "language_model", "next_sentence", "sentence_order", "replaced_tokens"):
        del fields[key]
    kinds = spec.positions.split("+")
    windows = _windows(spec)
    unread = {
        "mask_id": not spec.token_dropout,
        "position_offset": "learned" not in kinds,
        "rotary_base": "rotary" not in kinds or all(spec.windows),
        "rotary_half": "rotary" not in kinds,
        "local_rotary_base": "rotary" not in kinds or not spec.has_windows,
        "rotary_factor": spec.rotary_scaling == "none",
        "rotary_trained": spec.rotary_scaling in ("none", "linear", "ntk"),
        "rotary_mixed": spec.rotary_scaling != "ntk",
        "rotary_slow_turns": spec.rotary_scaling not in FAST_TURNS,
        "rotary_fast_turns": spec.rotary_scaling not in FAST_TURNS,
        "rotary_attention_factor": spec.rotary_scaling != "yarn",
        "local_rotary_scaling": spec.rotary_scaling == "none" or not spec.has_windows,
        "global_every": not windows["local_window"],
        "global_offset": not windows["local_window"],
        "query_key_norm_over": spec.query_key_norm == "none",
        "conv_groups": not spec.conv_kernel_size,
        "conv_activation": not spec.conv_kernel_size,
        "first_norm": spec.norm_place == "post",
        "norm_bias": spec.norm != "layer_norm",
        "final_norm_bias": spec.norm != "layer_norm" or spec.norm_place == "post" or not spec.norm_bias,
        "key_bias": not spec.attention_bias,
        "mlp_up_bias": not spec.mlp_bias,
        "group_layers": not spec.layer_groups,
    }
    for key in ("span", "buckets", "terms", "shared", "norm"):
        unread[f"relative_{key}"] = "relative" not in kinds
    for key in ("bias_buckets", "bias_distance"):
        unread[key] = "bias" not in kinds
    for key in ("mlm_transform", "decoder_bias", "tied_decoder", "mask_decoder", "head_activation", "head_bias"):
        unread[key] = not spec.language_model
    for key in ("head_activation", "head_bias"):
        unread[key] |= not spec.mlm_transform
    fields |= windows | {"global_tokens": _global_tokens(spec)}
    fields |= {key: None for key, none in unread.items() if none}
    if spec.layer_groups * spec.group_layers == spec.num_layers:  # each layer has its own
        fields["layer_groups"] = 0
        fields["group_layers"] = None
    return fields


def _windows(spec):
    """Returns the keys of windows, by local_window and global_every where these can say which layers have one."""
    windows, count = spec.windows, spec.num_layers
    local = next((window for window in windows if window), 0)
    first, second = [*(i for i, window in enumerate(windows) if not window), count, count][:2]
    every = second - first or count
    if windows == tuple(local if i < first or (i - first) % every else 0 for i in range(count)):
        return {"local_window": local, "global_every": every, "global_offset": first, "layer_windows": ()}
    return {"local_window": 0, "global_every": 0, "global_offset": 0, "layer_windows": windows}


def _global_tokens(spec):
    """Returns which tokens are global ones in a model's own task."""
    if spec.global_tokens == "auto" and spec.task and spec.task.name == "question_answering":
        return "question"
    return "first" if spec.first_is_global else "none"


def __getattr__(name: str):
    return _moved.find("interop.formats", name)
