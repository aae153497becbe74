"""Which family's format can say a model: the one that reads, in what it writes, the same model again."""

import dataclasses
from collections.abc import Mapping

from bert_jax import _moved
from bert_jax.config.keys import NOT_IN_FORMATS
from bert_jax.errors import UserError
from bert_jax.interop import model_config
from bert_jax.interop.families import FAMILIES
from bert_jax.interop.pretrained import Pretrained
from bert_jax.interop.weights import Module
from bert_jax.model import Model, Spec, Task
from bert_jax.model.spec import make_spec

# Fields of a spec that a format need not express.
_NOT_IN_FORMATS = NOT_IN_FORMATS | {"platform"}
_TRAINING = {"dropout", "transform_dropout"}  # of a task


@dataclasses.dataclass(frozen=True)
class Difference:
    """A switch of a model that a format has another value for.

    Attributes:
      key: in the config.
      found: the model's value.
      said: what the format would say; None where it has no word for it.
    """

    key: str
    found: object
    said: object

    def __str__(self):
        return f"config.{self.key}={self.found}" + ("" if self.said is None else f", where it is {self.said}")


def differences(spec: Spec, model_type: str, original: Mapping | None = None) -> list[Difference]:
    """What a family's format cannot say of a model; [] where it says all of it.

    Args:
      spec: the model's.
      model_type: a key of FAMILIES.
      original: the config.json that the model came with.
    """
    config = model_config.from_model(spec, model_type, original=original)
    try:
        read = model_config.to_model(config, "config.json") | {"pooler": spec.pooler}
        read = make_spec(
            read, spec.vocab_size, next_sentence=False, language_model=spec.language_model, platform=spec.platform
        )
    except UserError as error:
        return [Difference("model", "this", _refusal(error))]
    found = _different("model", _meaning(spec), _meaning(read))
    entries = FAMILIES[model_type].table(config).names
    if spec.pooler and not any(isinstance(e, Module) and e.ours.startswith("pooler/") for e in entries):
        found.append(Difference("model.pooler", True, False))
    if model_config.architecture(model_type, spec) is None:
        found += _of_heads(spec, model_type)
    elif spec.task:
        found += _of_task(spec, config)
    return found


def choose_family(spec: Spec) -> str:
    """The model_type of the first family whose format can say a model; of the nearest one where none can."""
    found = {name: differences(spec, name) for name in FAMILIES}
    # One that cannot even be written down is the farthest.
    return min(found, key=lambda name: (any(one.key == "model" for one in found[name]), len(found[name])))


def task_head(source: Pretrained, name: str, num_labels: int, dropout: float) -> Task:
    """The task's head that a model's family has in transformers, or a plain one where it has none for the task.

    Args:
      source: the model.
      name: as Task's.
      num_labels: outputs of the head.
      dropout: of its input, as Task's.
    """
    family = FAMILIES[source.family]
    if name not in family.tasks:
        return Task(name, num_labels, "cls", dropout)
    original = source.origin.config if source.origin else None
    config = model_config.from_model(source.model.spec, source.family, original=original)
    head = family.head(name, num_labels, config, source.name)
    twice = {"transform_dropout": dropout} if head.transform_dropout == head.dropout else {}
    return dataclasses.replace(head, dropout=dropout, **twice)


def inexpressible_heads(source: Pretrained) -> list[str]:
    """Heads of pre-training, in words, that keep a model from being written, and that its encoder can do without."""
    spec = source.model.spec
    heads = {
        "the head for replaced tokens": spec.replaced_tokens,
        "the enhanced mask decoder": spec.language_model and spec.mask_decoder == "enhanced",
    }
    found = [name for name, there in heads.items() if there]
    return found if found and differences(spec, source.family) else []


def encoder_only(source: Pretrained) -> Pretrained:
    """A model without the heads of its pre-training."""
    spec = source.model.spec
    heads = dict.fromkeys(("language_model", "next_sentence", "sentence_order", "replaced_tokens", "pooler"), False)
    spec = dataclasses.replace(spec, mask_decoder="plain", **heads)
    params = {"encoder": source.params["encoder"]}
    return dataclasses.replace(source, family=choose_family(spec), model=Model(spec), params=params)


def _different(group, ours, theirs):
    """What differs; a key that nothing reads on one side does so by another key's difference."""
    return [
        Difference(f"{group}.{key}", ours[key], theirs[key])
        for key in ours
        if ours[key] != theirs[key] and None not in (ours[key], theirs[key])
    ]


def _of_heads(spec, model_type):
    """Heads that no class of the family has together."""
    family = FAMILIES[model_type]
    names = {"next_sentence": "objective.next_sentence", "sentence_order": "objective.sentence_order"}
    names |= {"language_model": "a masked-language head", "replaced_tokens": "a head for replaced tokens"}
    possible = set().union(*family.classes.values())
    if spec.task and spec.task.name not in family.tasks:
        return [Difference("task.name", spec.task.name, f"one of {', '.join(family.tasks)}")]
    heads = [head for head in names if getattr(spec, head)]
    foreign = [head for head in heads if head not in possible] or heads
    return [Difference(names[head], True, False) for head in foreign] or [Difference("model.pooler", spec.pooler, None)]


def _refusal(error):
    """Why what a format would say is not read again."""
    return f"not possible: {str(error).removeprefix('config.json: ')}"


def _of_task(spec, config):
    task = spec.task
    try:
        read = FAMILIES[config["model_type"]].head(task.name, task.num_labels, config, "config.json")
    except UserError as error:
        return [Difference("task.pooling", task.pooling, _refusal(error))]
    found = _different("task", _task_meaning(task), _task_meaning(read))
    return [Difference("task.pooling", task.pooling, read.pooling)] if found and _dense(task) else found


def _dense(task):
    return task.pooling == "dense" and task.name == "sequence_classification"


def _task_meaning(task):
    """What a task's fields come to: those that nothing reads are left out."""
    found = {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.name not in _TRAINING}
    if task.name != "sequence_classification":
        found |= {"pooling": None, "late": None}
    elif _dense(task):  # the same in one word
        found |= {"pooling": "cls", "transform": True, "transform_activation": "tanh", "transform_bias": True}
    if not found["transform"]:
        for key in ("transform_activation", "transform_bias", "transform_norm"):
            found[key] = None
    return found


def _meaning(spec):
    """What a spec's switches come to: those that nothing reads have no value."""
    found = {
        field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name not in _NOT_IN_FORMATS
    }
    for key in ("task", "pooler", "language_model", "next_sentence", "sentence_order", "replaced_tokens"):
        del found[key]
    kinds = spec.positions.split("+")
    local = spec.local_window and min(spec.global_every, spec.num_layers) > 1
    unread = {
        "position_offset": "learned" not in kinds,
        "rotary_base": "rotary" not in kinds,
        "local_rotary_base": "rotary" not in kinds or not local,
        "global_every": not local,
        "conv_groups": not spec.conv_kernel_size,
        "conv_activation": not spec.conv_kernel_size,
        "first_norm": spec.norm_place == "post",
        "norm_bias": spec.norm != "layer_norm",
        "key_bias": not spec.attention_bias,
        "group_layers": not spec.layer_groups,
    }
    for key in ("span", "buckets", "terms", "shared", "norm"):
        unread[f"relative_{key}"] = "relative" not in kinds
    for key in ("mlm_transform", "decoder_bias", "tied_decoder", "mask_decoder", "head_activation", "head_bias"):
        unread[key] = not spec.language_model
    for key in ("head_activation", "head_bias"):
        unread[key] |= not spec.mlm_transform
    found |= {key: None for key, none in unread.items() if none}
    if not local:
        found["local_window"] = 0
    else:
        found["global_every"] = min(spec.global_every, spec.num_layers)
    if spec.layer_groups * spec.group_layers == spec.num_layers:  # each layer has its own
        found["layer_groups"] = 0
        found["group_layers"] = None
    return found


def __getattr__(name: str):
    return _moved.find("interop.formats", name)
