"""What a family of models says of itself: the keys of its config.json, the names of its weights, its heads.

A family is a class of one file beside this one, with an instance for each `model_type` in the file's FAMILIES. Its keys
and names are data; what no table can say is a method. Nothing outside its file needs to know of it, but for the class
of its published tokenizer, which data/vocabularies/published.py lists.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from bert_jax import _moved
from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Spec, Task

# Our activations: how Hugging Face calls each, the name that is written first.
ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
    "tanh": ("tanh",),
}
# The end of an architecture's name: the task that it fine-tunes.
TASKS = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}
# Heads of ours that pre-training has, and the pooler that they may read.
HEADS = ("pooler", "language_model", "next_sentence", "sentence_order", "replaced_tokens")
# Keys that change what any model computes, and the values that mean "an encoder as it was trained".
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
    """A key of config.model and the key of config.json that says the same.

    Attributes:
      ours, theirs: names.
      default: what a config.json without it means, as in transformers' configuration class.
      kind: of its values: "size", "count", "rate", "positive", "number", "switch", or "activation".
      aliases: other names that config.json files have for it.
    """

    ours: str
    theirs: str
    default: Any
    kind: str = "size"
    aliases: tuple[str, ...] = ()


def read_key(config: Mapping, key: Key, path) -> Any:
    """What config.json says for a key, in our words. Raises UserError for no sensible value."""
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
    """Our name of an activation of theirs. Raises UserError."""
    known = {theirs: ours for ours, names in ACTIVATIONS.items() for theirs in names}
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{path}: {name} {value!r} is not supported; expected one of {', '.join(known)}")
    return known[value]


def read_rotary_base(name: str, said: Any, default: Any, path) -> float:
    """The base that an object of rotary settings says; of stretched positions there is nothing here.

    Args:
      name: of the object in config.json.
      said: the object.
      default: where it has no rope_theta.
      path: of config.json.

    Raises:
      UserError: it is no object, asks for a scaling, or has no sensible base.
    """
    if not isinstance(said, Mapping) or said.get("rope_type", said.get("type", "default")) != "default":
        raise unsupported(path, name, said, "rope_type default")
    return float(read_key({"rope_theta": default} | dict(said), Key("", "rope_theta", default, "positive"), path))


def unsupported(path, name: str, found: Any, expected: str) -> UserError:
    """The error for a value that the encoder cannot do."""
    return UserError(f"{path}: {name} {found!r} is not supported; expected {expected}")


class Family:
    """A `model_type`; the attributes and methods below are what the families differ in.

    Attributes:
      model_type: as config.json has it.
      class_prefix: how the names of its classes in transformers begin.
      prefix: how the names of its encoder's arrays begin.
      rank: of several families whose format can say a model, the one of the lowest is chosen; without one of its own,
        a family is behind all others.
      keys: what is said by one key here and there.
      fixed: keys of config.model that the format cannot vary, where that is not BERT's value.
      refused: keys of config.json that change what the model computes, and the values that are supported, the last of
        which is named.
      tied_by_default: what a config.json without tie_word_embeddings means.
      tasks: what transformers has classes for.
      examples: {key of config.json: values} of random models that tests and experiments.parity make, the first values
        of a plain one; for a family that experiments.parity.random_models has no function for.
      names_ends: whether a config.json that is made here names the ids that begin and end a text.
      classes: the ends of the names of its classes by what they hold; a model with other heads is not expressible.
    """

    model_type: str
    class_prefix: str
    prefix: str
    rank: int = 99
    keys: tuple[Key, ...] = ()
    fixed: Mapping[str, Any] = {}
    refused: Mapping[str, tuple] = {}
    tied_by_default: bool = True
    names_ends: bool = True
    classes: Mapping[str, frozenset[str]] = {
        "Model": frozenset(),
        "ForMaskedLM": frozenset({"language_model"}),
    }
    tasks: Collection[str] = tuple(TASKS.values())
    examples: Mapping[str, tuple] = {}

    # config.json

    def to_model(self, config: Mapping, path) -> dict:
        """All keys of config.model but `pooler`, which the weights decide. Raises UserError."""
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
        same = {"embedding_size": hidden, "head_size": hidden // heads, "num_kv_heads": heads}
        same |= {"local_rotary_base": model["rotary_base"], "relative_span": model["max_positions"]}
        same |= {"head_activation": model["activation"]}
        for key, meant in same.items():  # as a recipe says it
            if model[key] == meant:
                model[key] = type(meant)()
        return model

    def more_to_model(self, config: Mapping, model: Mapping, path) -> dict:
        """Keys of config.model that no single key says; `model` holds the others."""
        return {}

    def from_spec(self, spec: Spec, original: Mapping) -> dict:
        """The keys of config.json that say a model, as far as the format can.

        Args:
          spec: the model's.
          original: the config.json that it came with, or {}.
        """
        config = {}
        for key in self.keys:
            value = getattr(spec, key.ours)
            config[key.theirs] = activation_name(value, original.get(key.theirs)) if key.kind == "activation" else value
        return config | {"tie_word_embeddings": spec.tied_decoder} | self.more_from_spec(spec, original)

    def more_from_spec(self, spec: Spec, original: Mapping) -> dict:
        """The inverse of more_to_model."""
        return {}

    def kept(self, original: Mapping) -> Mapping:
        """Returns what is kept of a config.json that is written again, beside what the model itself says."""
        return original

    # heads

    def heads(self, names: Collection[str], config: Mapping, named: str) -> tuple[set[str], str]:
        """(heads of HEADS, name of a task or "") that a file's weights are of.

        Args:
          names: of the arrays, as today's transformers has them.
          config: of config.json.
          named: the task that config.json names, "" for none.
        """
        raise NotImplementedError

    def head(self, name: str, num_labels: int, config: Mapping, path) -> Task:
        """The task head that transformers' class of this family has. Raises UserError.

        Args:
          name: as Task's.
          num_labels: of it.
          config: what config.json says, or {}.
          path: of config.json.
        """
        raise NotImplementedError

    def from_task(self, task: Task, spec: Spec, original: Mapping) -> dict:
        """The keys of config.json that say a task's head, as far as the format can."""
        return {}

    # weights

    def table(self, config: Mapping, task: str = "") -> Table:
        """The names of the weights of a config.json, those of a task's head included."""
        raise NotImplementedError


def activation_name(activation: str, original: Any = None) -> str:
    """Their name of an activation; the original's own word where it means the same."""
    names = ACTIVATIONS[activation]
    return original if isinstance(original, str) and original in names else names[0]


def read_dropout(config: Mapping, names: tuple[str, ...], default: float, path) -> float:
    """The first rate of `names` that config.json gives. Raises UserError."""
    name = next((name for name in names if config.get(name) is not None), names[-1])
    return read_key({key: value for key, value in config.items() if value is not None},
                    Key("dropout", name, default, "rate"), path)  # fmt: skip


def has_prefix(names: Collection[str], *prefixes: str) -> bool:
    """Whether a name begins with one of the prefixes."""
    return any(name.startswith(prefixes) for name in names)


def modules(ours: str, theirs: str, pairs: Mapping[str, str]) -> tuple[Module, ...]:
    """Modules under two paths: {our path: theirs}."""
    return tuple(Module(f"{ours}/{mine}", f"{theirs}.{other}") for mine, other in pairs.items())


def __getattr__(name: str):
    return _moved.find("interop.families.family", name)
