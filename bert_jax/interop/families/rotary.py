"""Reads and writes the objects of config.json that scale rotary positions: rope_parameters, and the older rope_scaling.

Their words are those of transformers' modeling_rope_utils; "ntk" is a kind of Alibaba-NLP/new-impl alone.
"""

import math
from collections.abc import Mapping
from typing import Any

from bert_jax.interop.families.family import Key, read_key, read_rotary_base, unsupported
from bert_jax.model import Spec

_TRAINED = "original_max_position_embeddings"
# By kind: {key of the object: key of config.model}. All but those of _OPTIONAL have to be there.
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "linear": {"factor": "rotary_factor"},
    "dynamic": {"factor": "rotary_factor"},
    "ntk": {"factor": "rotary_factor", "mixed_b": "rotary_mixed"},
    "yarn": {
        "factor": "rotary_factor",
        _TRAINED: "rotary_trained",
        "beta_fast": "rotary_fast_turns",
        "beta_slow": "rotary_slow_turns",
        "attention_factor": "rotary_attention_factor",
    },
    "llama3": {
        "factor": "rotary_factor",
        _TRAINED: "rotary_trained",
        "high_freq_factor": "rotary_fast_turns",
        "low_freq_factor": "rotary_slow_turns",
    },
}
_OPTIONAL = ("mixed_b", _TRAINED, "beta_fast", "beta_slow", "attention_factor")
# Keys of any object that change nothing with these values, the only ones that are supported.
_OTHERS = {"truncate": (True,), "partial_rotary_factor": (1,)}
_SCALES = ("mscale", "mscale_all_dim")  # make the factor of queries and keys that yarn has
KINDS = ("default", "linear", "dynamic", "yarn", "llama3")  # those of transformers
# Not a key of transformers: dynamic scaling has no longest row there, and max_position_embeddings is rotary_trained.
_LONGEST = "max_sequence_length"


def read_rotary(
    config: Mapping, model: Mapping, path, name: str, rope: Any, base: Any, kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """Returns the keys of config.model that an object of config.json gives: rotary_base, and how positions are scaled.

    Dynamic scaling also gives max_positions, rotary_factor times max_position_embeddings where config.json says no
    max_sequence_length.

    Args:
      config: the contents of config.json.
      model: keys of config.model that are known, among them max_positions.
      path: path of config.json, for messages.
      name: the object's key in config.json.
      rope: the object.
      base: base of an object without rope_theta.
      kinds: the kinds of scaling that the family's code knows.

    Raises:
      UserError: it is no object, or has a kind, a key or a value that is not supported.
    """
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else None
    if kind not in kinds:
        raise unsupported(path, name, rope, f"rope_type {' or '.join(kinds)}")
    values = _values(config, model, path, name, rope, kind)
    keys: dict[str, Any] = {"rotary_scaling": "none" if kind == "default" else kind}
    for key, ours in _FIELDS[kind].items():
        if key in values:
            kind_of_value = "size" if key == _TRAINED else "number" if key == "mixed_b" else "positive"
            keys[ours] = read_key(values, Key("", key, None, kind_of_value), path)
    if keys.get("rotary_factor", 1) < 1:
        raise unsupported(path, f"{name}.factor", values["factor"], "at least 1")
    scales = [read_key(values, Key("", key, 0, "number"), path) for key in _SCALES] if kind == "yarn" else []
    if all(scales) and scales and "attention_factor" not in values:
        numerator, denominator = (0.1 * scale * math.log(keys["rotary_factor"]) + 1 for scale in scales)
        keys["rotary_attention_factor"] = numerator / denominator
    if kind == "dynamic":
        keys["rotary_trained"] = model["max_positions"]
        keys["max_positions"] = int(keys["rotary_factor"] * model["max_positions"])
        if config.get(_LONGEST) is not None:
            keys["max_positions"] = read_key(config, Key("", _LONGEST, None), path)
    theta = {key: value for key, value in values.items() if key == "rope_theta"}
    return keys | {"rotary_base": read_rotary_base(name, theta, base, path)}


def _values(config, model, path, name, rope, kind):
    """Returns what an object says of its kind of scaling, with what transformers takes where it does not."""
    partial = {"partial_rotary_factor": config.get("partial_rotary_factor")}
    values = {key: value for key, value in (partial | dict(rope)).items() if value is not None}
    values = {key: value for key, value in values.items() if key not in ("rope_type", "type")}
    fields = _FIELDS[kind]
    for key, value in values.items():
        if value not in _OTHERS.get(key, (value,)):
            raise unsupported(path, f"{name}.{key}", value, repr(_OTHERS[key][0]))
        if key not in (*fields, *(_SCALES if kind == "yarn" else ()), *_OTHERS, "rope_theta"):
            raise unsupported(path, f"{name}.{key}", value, f"none with rope_type {kind}")
    if _TRAINED in fields:
        first = config.get(_TRAINED) if name in ("rope_parameters", "rope_scaling") else None
        values[_TRAINED] = values.get(_TRAINED, model["max_positions"]) if first is None else first
        trained = read_key(values, Key("", _TRAINED, None), path)
        if kind == "yarn" and "factor" not in values:
            values["factor"] = model["max_positions"] / trained
    missing = [key for key in fields if key not in values and key not in _OPTIONAL]
    if missing:
        raise unsupported(path, name, dict(rope), f"{', '.join(missing)} in it")
    return values


def rotary_object(spec: Spec, base: float, scaled: bool = True) -> dict[str, Any]:
    """Returns the object of config.json that says a base and, if `scaled`, the scaling of a spec."""
    kind = spec.rotary_scaling if scaled and spec.rotary_scaling != "none" else "default"
    rope = {"rope_type": kind, "rope_theta": base}
    rope |= {key: getattr(spec, ours) for key, ours in _FIELDS[kind].items()}
    return {key: value for key, value in rope.items() if (key, value) != ("mixed_b", 1)}


def longest_rows(spec: Spec) -> dict[str, int]:
    """Returns the keys of config.json that say how long the rows of a model with dynamic scaling are; {} for others."""
    if spec.rotary_scaling != "dynamic":
        return {}
    implied = int(spec.rotary_factor * spec.rotary_trained)
    longest = {} if implied == spec.max_positions else {_LONGEST: spec.max_positions}
    return {"max_position_embeddings": spec.rotary_trained} | longest
