"""Describes a family of models: the keys of its config.json, the names of its weights, its heads.

A family is a class in a file of its own beside this one, with an instance for each `model_type` in the file's FAMILIES.
Keys and names are data; whatever no table can express is a method. Nothing outside its file needs to know the family,
except that data/vocabularies/published.py lists the class of its published tokenizer.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bert_jax import _moved
from bert_jax import config as config_lib
from bert_jax.config.keys import MODEL
from bert_jax.errors import UserError
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Spec, Task

# Activations by config.model's names: Hugging Face's names, the first of which is written.
ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
    "tanh": ("tanh",),
} | {  # those without other names; "prelu" and "xielu" have parameters of their own
    name: (name,)
    for name in ("gelu_10", "quick_gelu", "hardswish", "laplace", "leaky_relu", "linear", "mish", "relu2", "relu6",
                 "sigmoid", "sqrtsoftplus")
}  # fmt: skip
# Task by the end of an architecture's name.
TASKS = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}
# Heads of pre-training, and the pooler that they may read.
HEADS = ("pooler", "language_model", "next_sentence", "sentence_order", "replaced_tokens")
# Head by the name of its parameters, where that is another.
HEAD_MODULES = {"mlm": "language_model", "replaced": "replaced_tokens"}
# Keys that change what a model of any family computes, and the values that stand for a plain encoder.
_REFUSED = {
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "quantization_config": (None, {}),
}
_KINDS = {
    "size": (int, lambda value: value > 0, "a positive number"),
    "count": (int, lambda value: value >= 0, "0 or a positive number"),
    "rate": ((int, float), lambda value: 0 <= value < 1, "a rate in [0, 1)"),
    "positive": ((int, float), lambda value: value > 0, "a positive number"),
    "number": ((int, float), lambda value: value >= 0, "0 or a positive number"),
    "switch": (bool, lambda value: True, "true or false"),
}


@dataclasses.dataclass(frozen=True)
class Key:
    """Maps a key of config.model and the key of config.json with the same meaning.

    Attributes:
      ours: the key of config.model.
      theirs: the key of config.json.
      default: the value where config.json lacks the key, as in transformers' configuration class.
      kind: the kind of value: "size", "count", "rate", "positive", "number", "switch" or "activation".
      aliases: other names of the key in config.json files.
    """

    ours: str
    theirs: str
    default: Any
    kind: str = "size"
    aliases: tuple[str, ...] = ()


def read_key(config: Mapping, key: Key, path) -> Any:
    """Returns the value of a key of config.json as config.model has it.

    Args:
      config: the contents of config.json.
      key: the key to read.
      path: path of config.json, for messages.

    Raises:
      UserError: the value is not of the key's kind, or two of its names have different values.
    """
    names = [name for name in (key.theirs, *key.aliases) if name in config] or [key.theirs]
    name, value = names[0], config.get(names[0], key.default)
    other = next((name for name in names if config.get(name, value) != value), "")
    if other:
        raise UserError(f"{path}: {name} {value!r} and {other} {config[other]!r}; expected one value of both")
    if key.kind == "activation":
        return read_activation(name, value, path)
    kinds, good, expected = _KINDS[key.kind]
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool) or not good(value):
        raise UserError(f"{path}: {name} {value!r}; expected {expected}")
    return value


def read_activation(name: str, value: Any, path) -> str:
    """Returns config.model's name of an activation, given config.json's. Raises UserError for an unknown one."""
    known = {theirs: ours for ours, names in ACTIVATIONS.items() for theirs in names}
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{path}: {name} {value!r} is not supported; expected one of {', '.join(known)}")
    return known[value]


@_moved.renamed_arguments(said="rope")
def read_rotary_base(name: str, rope: Any, default: Any, path) -> float:
    """Returns the base of rotary positions from an object of config.json, which must not ask for scaled positions.

    Args:
      name: the object's key in config.json.
      rope: the object.
      default: base of an object without rope_theta.
      path: path of config.json, for messages.

    Raises:
      UserError: it is no object, asks for a scaling, or its base is not a positive number.
    """
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise unsupported(path, name, rope, "rope_type default")
    return float(read_key({"rope_theta": default} | dict(rope), Key("", "rope_theta", default, "positive"), path))


def unsupported(path, name: str, found: Any, expected: str) -> UserError:
    """Returns the error for a value of config.json that this encoder cannot compute."""
    return UserError(f"{path}: {name} {found!r} is not supported; expected {expected}")


@_moved.renamed_members(names_ends="writes_bos_and_eos")
class Family:
    """Describes a `model_type` of transformers; attributes and methods hold what differs between families.

    Attributes:
      model_type: the value of model_type in config.json.
      class_prefix: first part of the names of its classes in transformers, such as "Bert".
      prefix: first part of the names of the encoder's arrays.
      rank: where the formats of several families can express a model, the family of lowest rank is chosen; the default
        puts a family behind all others.
      keys: keys of config.model that one key of config.json expresses.
      fixed: {key of config.model: value} for keys that the format cannot vary, where the value is not BERT's.
      refused: {key of config.json: supported values} for keys that change what the model computes; errors name the last
        value.
      tied_by_default: value of tie_word_embeddings where config.json lacks it.
      tasks: tasks that transformers has classes for.
      examples: {key of config.json: values to try} for the random models of the tests and of experiments.parity, the
        first values of a typical model. Families with a function in experiments.parity.random_models need none.
      writes_bos_and_eos: whether a new config.json names the ids that begin and end a text.
      classes: {last part of a class's name: its heads}; a model with other heads cannot be expressed.
    """

    model_type: str
    class_prefix: str
    prefix: str
    rank: int = 99
    keys: tuple[Key, ...] = ()
    fixed: Mapping[str, Any] = {}
    refused: Mapping[str, tuple] = {}
    tied_by_default: bool = True
    writes_bos_and_eos: bool = True
    classes: Mapping[str, frozenset[str]] = {
        "Model": frozenset(),
        "ForMaskedLM": frozenset({"language_model"}),
    }
    tasks: Collection[str] = tuple(TASKS.values())
    examples: Mapping[str, tuple] = {}

    # config.json

    def to_model(self, config: Mapping, path) -> dict:
        """Returns the keys of config.model that a config.json gives: all but `pooler`, which the weights decide.

        Args:
          config: the contents of config.json.
          path: path of config.json, for messages.

        Raises:
          UserError: a value is not supported, or makes no sense.
        """
        for key, allowed in (_REFUSED | dict(self.refused)).items():
            if config.get(key) not in allowed:
                raise unsupported(path, key, config[key], repr(allowed[-1]))
        model = config_lib.base().model.to_dict() | dict(self.fixed)
        model |= {key.ours: read_key(config, key, path) for key in self.keys}
        model["tied_decoder"] = read_key(
            config, Key("tied_decoder", "tie_word_embeddings", self.tied_by_default, "switch"), path
        )
        model |= self.more_to_model(config, model, path)
        hidden, heads = model["hidden_size"], model["num_heads"]
        if not model["head_size"] and hidden % heads:
            names = {key.ours: key.theirs for key in self.keys}
            raise UserError(f"{path}: {names['hidden_size']} {hidden} is not divisible by {names['num_heads']} {heads}")
        implied = {"head_size": hidden // heads}
        for name, key in MODEL.items():
            if key.falls_back_to:
                implied[name] = model[key.falls_back_to.removeprefix("model.")]
        for name, value in implied.items():  # recipes write 0 or "" for a value that another key implies
            if model[name] == value:
                model[name] = type(value)()
        return model

    def more_to_model(self, config: Mapping, model: Mapping, path) -> dict:
        """Returns keys of config.model that no single key of config.json expresses; `model` holds the others."""
        return {}

    def from_spec(self, spec: Spec, original: Mapping) -> dict:
        """Returns the keys of config.json that describe a model, as far as the format can.

        Args:
          spec: the model's spec.
          original: the config.json that the model came with, or {}.
        """
        config = {}
        for key in self.keys:
            value = getattr(spec, key.ours)
            config[key.theirs] = activation_name(value, original.get(key.theirs)) if key.kind == "activation" else value
        return config | {"tie_word_embeddings": spec.tied_decoder} | self.more_from_spec(spec, original)

    def more_from_spec(self, spec: Spec, original: Mapping) -> dict:
        """Returns the keys of config.json for what more_to_model reads."""
        return {}

    def preserved(self, original: Mapping) -> Mapping:
        """Returns the keys of a model's original config.json that are written again beside its own."""
        return original

    def with_arrays(self, config: Mapping, arrays: Mapping[str, np.ndarray], file) -> dict:
        """Returns config.json with settings that only the arrays say.

        Args:
          config: the contents of config.json.
          arrays: {name: array of any shape}, as the file has them.
          file: path of the file, for messages.

        Raises:
          UserError: the arrays say something that is not supported.
        """
        return dict(config)

    # heads

    def heads(self, names: Collection[str], config: Mapping, named: str) -> tuple[set[str], str]:
        """Returns (heads of HEADS, task or "") that a file's weights belong to.

        Args:
          names: names of the arrays, as today's transformers has them.
          config: the contents of config.json.
          named: the task that config.json names; "" for none.
        """
        raise NotImplementedError

    def head(self, name: str, num_labels: int, config: Mapping, path) -> Task:
        """Returns the task head of transformers' class for this family and task.

        Args:
          name: name of the task, as in Task.
          num_labels: number of outputs.
          config: the contents of config.json, or {}.
          path: path of config.json, for messages.

        Raises:
          UserError: config.json asks for a head that is not supported.
        """
        raise NotImplementedError

    def from_task(self, task: Task, spec: Spec, original: Mapping) -> dict:
        """Returns the keys of config.json that describe a task's head, as far as the format can."""
        return {}

    # weights

    def table(self, config: Mapping, task: str = "") -> Table:
        """Returns the names of the weights of a model with a config.json, those of a task's head included."""
        raise NotImplementedError


def activation_name(activation: str, original: Any = None) -> str:
    """Returns config.json's name of an activation; `original`, the name there before, where it means the same."""
    names = ACTIVATIONS[activation]
    return original if isinstance(original, str) and original in names else names[0]


def read_dropout(config: Mapping, names: tuple[str, ...], default: float, path) -> float:
    """Returns the first dropout rate among `names` that config.json gives, else `default`. Raises UserError."""
    name = next((name for name in names if config.get(name) is not None), names[-1])
    return read_key({key: value for key, value in config.items() if value is not None},
                    Key("dropout", name, default, "rate"), path)  # fmt: skip


def has_prefix(names: Collection[str], *prefixes: str) -> bool:
    """Tells whether a name begins with one of the prefixes."""
    return any(name.startswith(prefixes) for name in names)


def modules(ours: str, theirs: str, pairs: Mapping[str, str]) -> tuple[Module, ...]:
    """Returns the correspondences of modules under a path of the parameters and one of the state dict.

    Args:
      ours, theirs: the paths that all of them are under.
      pairs: {path under `ours`: name under `theirs`}.
    """
    return tuple(Module(f"{ours}/{mine}", f"{theirs}.{other}") for mine, other in pairs.items())


def __getattr__(name: str):
    return _moved.find("interop.families.family", name)
