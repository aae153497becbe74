"""Describes EmbeddingGemma (Schechter Vera et al. 2025): Gemma 3's layers, in which every token sees those around it.

The layers are pre-norm with RMSNorm, normed again where they add to the residual, with normed queries and keys, gated
MLPs, rotary positions, and windows on all but every n-th layer. The dense layers behind its pooling are modules of
sentence-transformers, as everywhere.
"""

from collections.abc import Mapping

from bert_jax.errors import UserError
from bert_jax.interop.families.family import Family, Key, modules, read_key, read_rotary_base, unsupported
from bert_jax.interop.weights import Module, Table

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# (kind of layer, key of older files, default base)
_BASES = {
    "rotary_base": (_GLOBAL, "rope_theta", 1_000_000.0),
    "local_rotary_base": (_LOCAL, "rope_local_base_freq", 10_000.0),
}


class Gemma3Text(Family):
    """Maps Gemma3TextModel with use_bidirectional_attention; Gemma 3 itself, whose tokens see those before, is none."""

    model_type = "gemma3_text"
    class_prefix = "Gemma3Text"
    prefix = "model"
    rank = 18
    keys = (
        Key("vocab_size", "vocab_size", 262_208),
        Key("hidden_size", "hidden_size", 2304),
        Key("num_layers", "num_hidden_layers", 26),
        Key("num_heads", "num_attention_heads", 8),
        Key("num_kv_heads", "num_key_value_heads", 4),
        Key("head_size", "head_dim", 256),
        Key("score_size", "query_pre_attn_scalar", 256),
        Key("intermediate_size", "intermediate_size", 9216),
        Key("activation", "hidden_activation", "gelu_pytorch_tanh", "activation"),
        Key("max_positions", "max_position_embeddings", 131_072),
        Key("norm_epsilon", "rms_norm_eps", 1e-6, "positive"),
        Key("attention_bias", "attention_bias", False, "switch"),
        Key("attention_dropout", "attention_dropout", 0.0, "rate"),
        Key("initializer_range", "initializer_range", 0.02, "number"),
    )
    fixed = {
        "type_vocab_size": 0,
        "positions": "rotary",
        "embedding_norm": False,
        "embedding_scale": True,
        "norm": "rms_norm",
        "norm_place": "pre",
        "output_norm": True,
        "zero_centered_scale": True,
        "query_key_norm": "rms",
        "query_key_norm_over": "head",
        "mlp": "gated",
        "mlp_bias": False,
        "hidden_dropout": 0.0,
        "mlm_transform": False,
        "decoder_bias": False,
    }
    refused = {"attn_logit_softcapping": (None,)}
    classes = {"Model": frozenset()}
    tasks = ()
    examples = {
        "use_bidirectional_attention": (True,),
        "num_key_value_heads": (1,),
        "head_dim": (8, 6, 10),
        "query_pre_attn_scalar": (8, 5, 24),
        "sliding_window": (6, 5, 9),
        "sliding_window_pattern": (2, 6, 3),
        "attention_bias": (False, True),
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
    }

    def more_to_model(self, config, model, path):
        bidirectional = config.get("use_bidirectional_attention", False)
        if bidirectional is not True:
            raise UserError(
                f"{path}: use_bidirectional_attention {bidirectional!r}, which is a decoder; expected true, as "
                "EmbeddingGemma has it"
            )
        if model["num_heads"] % model["num_kv_heads"]:
            raise UserError(
                f"{path}: num_attention_heads {model['num_heads']} is not divisible by num_key_value_heads "
                f"{model['num_kv_heads']}"
            )
        bases = {ours: _base(config, *names, path) for ours, names in _BASES.items()}
        return bases | self._windows(config, model["num_layers"], path)

    def _windows(self, config, layers, path):
        """Returns the keys of config.model about the layers that see a window."""
        window = read_key(config, Key("local_window", "sliding_window", 4096), path)
        kinds = config.get("layer_types")
        if kinds is None:
            every = read_key(config, Key("global_every", "sliding_window_pattern", 6), path)
            kinds = [_LOCAL if (i + 1) % every else _GLOBAL for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {_GLOBAL, _LOCAL}:
            raise unsupported(path, "layer_types", kinds, f"{layers} of {_GLOBAL} and {_LOCAL}")
        seeing_all = [i for i, kind in enumerate(kinds) if kind == _GLOBAL]
        if len(seeing_all) == layers:
            return {"local_window": 0, "local_rotary_base": 0.0}
        first, second = [*seeing_all, layers, 2 * layers + 1][:2]
        every = second - first if len(seeing_all) > 1 else max(first + 1, layers - first)
        if kinds != [_LOCAL if (i - first) % every else _GLOBAL for i in range(layers)]:
            raise unsupported(path, "layer_types", kinds, f"{_GLOBAL} at every n-th layer")
        return {"local_window": window, "global_every": every, "global_offset": first}

    def more_from_spec(self, spec, original):
        bases = {kind: getattr(spec, ours) for ours, (kind, _, _) in _BASES.items()}
        if not spec.local_window:  # no layer uses the other base
            bases[_LOCAL] = _base(original, *_BASES["local_rotary_base"], "config.json")
        kinds = [_LOCAL if spec.windows[i] else _GLOBAL for i in range(spec.num_layers)]
        return {
            "use_bidirectional_attention": True,
            "layer_types": kinds,
            "sliding_window": spec.local_window or original.get("sliding_window", 4096),
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        } | {name: bases[kind] for kind, name, _ in _BASES.values()}  # for older versions of transformers

    def heads(self, names, config, named):
        return set(), ""

    def table(self, config, task=""):
        layer = {
            "attention_norm": "input_layernorm",
            "attention_output_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_output_norm": "post_feedforward_layernorm",
        }
        layer |= {f"attention/{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value", "output")}
        layer |= {f"attention/{ours}_norm": f"self_attn.{ours[0]}_norm" for ours in ("query", "key")}
        layer |= {f"mlp/{ours}": f"mlp.{ours}_proj" for ours in ("gate", "up", "down")}
        names = (
            Module("encoder/embeddings/word", "model.embed_tokens"),
            *modules("encoder/layers/{layer}", "model.layers.{layer}", layer),
            Module("encoder/norm", "model.norm"),
        )
        return Table("model", names)


def _base(config, kind, old_name, default, path):
    """Returns the base of the rotary positions of one kind of layer."""
    if config.get("rope_scaling") is not None:
        raise unsupported(path, "rope_scaling", config["rope_scaling"], "none")
    rope = config.get("rope_parameters")
    if rope is not None and (not isinstance(rope, Mapping) or rope.keys() - {_GLOBAL, _LOCAL}):
        raise UserError(f"{path}: rope_parameters {rope!r}; expected an object with {_GLOBAL} and {_LOCAL}")
    parameters = (rope or {}).get(kind) or {}
    return read_rotary_base(f"rope_parameters.{kind}", parameters, config.get(old_name, default), path)


FAMILIES = (Gemma3Text(),)
