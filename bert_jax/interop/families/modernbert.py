"""Describes ModernBERT (Warner et al. 2024): pre-norm, gated MLPs, rotary positions, local attention, few biases."""

from collections.abc import Mapping
from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop.families import bert
from bert_jax.interop.families.family import (
    Family,
    Key,
    activation_name,
    has_prefix,
    modules,
    read_activation,
    read_dropout,
    read_key,
    unsupported,
)
from bert_jax.interop.families.rotary import longest_rows, read_rotary, rotary_object
from bert_jax.interop.weights import Module, Table, fused
from bert_jax.model import Task

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# (key of rope_parameters, key of older files, default base)
_BASES = {"rotary_base": (_GLOBAL, "global_rope_theta", 160_000.0), "local_rotary_base": (_LOCAL, "local_rope_theta", 10_000.0)}  # fmt: skip # noqa: E501


class ModernBert(Family):
    """Maps ModernBERT, whose classifiers of sequences and of tokens have a layer with an activation and a norm."""

    model_type = "modernbert"
    class_prefix = "ModernBert"
    prefix = "model"
    rank = 9
    keys = (
        Key("vocab_size", "vocab_size", 50368),
        Key("hidden_size", "hidden_size", 768),
        Key("num_layers", "num_hidden_layers", 22),
        Key("num_heads", "num_attention_heads", 12),
        Key("intermediate_size", "intermediate_size", 1152),
        Key("activation", "hidden_activation", "gelu", "activation"),
        Key("max_positions", "max_position_embeddings", 8192),
        Key("norm_epsilon", "norm_eps", 1e-5, "positive"),
        Key("norm_bias", "norm_bias", False, "switch"),
        Key("attention_bias", "attention_bias", False, "switch"),
        Key("mlp_bias", "mlp_bias", False, "switch"),
        Key("hidden_dropout", "embedding_dropout", 0.0, "rate"),
        Key("attention_dropout", "attention_dropout", 0.0, "rate"),
        Key("initializer_range", "initializer_range", 0.02, "number"),
        Key("head_activation", "classifier_activation", "gelu", "activation"),
        Key("head_bias", "classifier_bias", False, "switch"),
        Key("decoder_bias", "decoder_bias", True, "switch"),
    )
    fixed = {
        "type_vocab_size": 0,
        "positions": "rotary",
        "norm_place": "pre",
        "first_norm": False,
        "mlp": "gated",
        "scaled_initializer": True,
    }

    def more_to_model(self, config, model, path):
        rate = model["hidden_dropout"]
        if read_key(config, Key("", "mlp_dropout", 0.0, "rate"), path) != rate:
            raise unsupported(path, "mlp_dropout", config.get("mlp_dropout", 0.0), f"embedding_dropout, {rate}")
        window, global_every = self._windows(config, model["num_layers"], path)
        keys, local = (_rotary(config, model, *names, path) for names in _BASES.values())
        base = local.pop("rotary_base") if window else 0.0
        scaled = bool(window) and local["rotary_scaling"] != "none"
        if scaled and any(keys[key] != value for key, value in local.items()):
            expected = f"what {_GLOBAL} has, or rope_type default"
            raise unsupported(path, f"rope_parameters.{_LOCAL}", _rope(config, _LOCAL, path), expected)
        keys |= {"local_rotary_base": base, "local_rotary_scaling": scaled}
        return keys | {"local_window": window, "global_every": global_every}

    def _windows(self, config, layers, path):
        """Returns (local_window, global_every)."""
        window = read_key(config, Key("local_window", "local_attention", 128), path)
        if config.get("sliding_window") is not None:  # half of the window; transformers prefers it to local_attention
            window = 2 * read_key(config, Key("", "sliding_window", 64), path)
        kinds = config.get("layer_types")
        interval = read_key(config, Key("global_every", "global_attn_every_n_layers", 3), path)
        if kinds is not None and kinds != _kinds(layers, interval):
            if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {_GLOBAL, _LOCAL}:
                raise unsupported(path, "layer_types", kinds, f"{layers} of {_GLOBAL} and {_LOCAL}")
            after = [i for i, kind in enumerate(kinds) if kind == _GLOBAL][1:2]
            interval = after[0] if after else layers
            if kinds != _kinds(layers, interval):
                raise unsupported(path, "layer_types", kinds, f"{_GLOBAL} at every n-th layer from the first on")
        if interval == 1:
            return 0, 3
        return window, interval

    def more_from_spec(self, spec, original):
        interval = spec.global_every if spec.local_window else 1
        bases = {name: getattr(spec, ours) for ours, (name, _, _) in _BASES.items()}
        if not spec.local_window:  # no layer uses the other base
            local = _rotary(original, {"max_positions": 1}, *_BASES["local_rotary_base"], "config.json")
            bases[_LOCAL] = local["rotary_base"]
        scaled = {_GLOBAL: True, _LOCAL: spec.local_window and spec.local_rotary_scaling}
        config: dict[str, Any] = {
            "local_attention": spec.local_window or original.get("local_attention", 128),
            "mlp_dropout": spec.hidden_dropout,
            "layer_types": _kinds(spec.num_layers, interval),
            "rope_parameters": {name: rotary_object(spec, base, scaled[name]) for name, base in bases.items()},
            **longest_rows(spec),
        }
        old = {name: bases[kind] for kind, name, _ in _BASES.values()} | {"global_attn_every_n_layers": interval}
        if original.get("sliding_window") is not None:
            config["sliding_window"] = config["local_attention"] // 2
        if "layer_types" not in original:  # for older versions of transformers
            config |= old
        else:
            config |= {name: value for name, value in old.items() if name in original}
        return config

    def preserved(self, original):
        return {key: value for key, value in original.items() if key != "rope_scaling" or value is None}

    def heads(self, names, config, named):
        if has_prefix(names, "classifier."):
            return set(), named or "sequence_classification"
        return ({"language_model"} if has_prefix(names, "head.", "decoder.") else set()), ""

    def head(self, name, num_labels, config, path):
        pooling = config.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise unsupported(path, "classifier_pooling", pooling, "cls or mean")
        act = config.get("classifier_activation", "gelu")
        return Task(
            name,
            num_labels,
            pooling,
            read_dropout(config, ("classifier_dropout",), 0.0, path),
            transform=True,
            transform_activation=read_activation("classifier_activation", act, path),
            transform_bias=read_key(config, Key("transform_bias", "classifier_bias", False, "switch"), path),
            transform_norm=True,
        )

    def from_task(self, task, spec, original):
        config = {"classifier_dropout": task.dropout, "classifier_bias": task.transform_bias}
        config["classifier_activation"] = activation_name(
            task.transform_activation, original.get("classifier_activation")
        )
        return config | ({"classifier_pooling": task.pooling} if task.name == "sequence_classification" else {})

    def table(self, config, task=""):
        ours, theirs = "encoder/layers/{layer}", "model.layers.{layer}"
        layer = {"attention_norm": "attn_norm", "attention/output": "attn.Wo", "mlp_norm": "mlp_norm", "mlp/down": "mlp.Wo"}  # fmt: skip # noqa: E501
        names = (
            *modules("encoder/embeddings", "model.embeddings", {"word": "tok_embeddings", "norm": "norm"}),
            *modules(ours, theirs, layer),
            *fused([f"{ours}/attention/{name}" for name in ("query", "key", "value")], f"{theirs}.attn.Wqkv"),
            *fused([f"{ours}/mlp/{name}" for name in ("gate", "up")], f"{theirs}.mlp.Wi"),
            Module("encoder/norm", "model.final_norm"),
            *modules("task" if task else "mlm", "head", {"dense" if task else "transform": "dense", "norm": "norm"}),
            Module("mlm", "decoder"),
            Module("mlm/decoder", "decoder"),
            *bert.CLASSIFIER,
        )
        tied = config.get("tie_word_embeddings", True)
        return Table("model", names, {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if tied else {})


def _kinds(layers, interval):
    return [_GLOBAL if i % interval == 0 else _LOCAL for i in range(layers)]


def _rotary(config, model, kind, old_name, default, path):
    """Returns the keys of config.model that say the base and the scaling of one kind of layer."""
    if old_name == "local_rope_theta" and config.get(old_name, default) is None:
        old_name, default = _BASES["rotary_base"][1:]  # the base of global layers
    base = config.get(old_name, default)
    return read_rotary(config, model, path, f"rope_parameters.{kind}", _rope(config, kind, path), base)


def _rope(config, kind, path):
    """Returns the object that says how positions of one kind of layer turn."""
    rope, older = config.get("rope_parameters"), config.get("rope_scaling")
    if rope is not None and (not isinstance(rope, Mapping) or rope.keys() - {_GLOBAL, _LOCAL}):
        raise UserError(f"{path}: rope_parameters {rope!r}; expected an object with {_GLOBAL} and {_LOCAL}")
    if older is not None and (not isinstance(older, Mapping) or "rope_type" not in older):  # "type" alone is not read
        raise unsupported(path, "rope_scaling", older, "none, or an object with rope_type")
    return dict((rope or {}).get(kind) or {}) | dict(older or {})


FAMILIES = (ModernBert(),)
