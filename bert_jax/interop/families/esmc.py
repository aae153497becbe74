"""Describes ESM C (EvolutionaryScale 2024): Llama's layers, bidirectional, with normed queries and keys, for proteins.

Queries and keys are normed over all heads together, and what attention and MLP give is divided by a number that grows
with the depth.
"""

import math

from bert_jax.errors import UserError
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout, read_key, read_rotary_base
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task


class Esmc(Family):
    """Maps ESM C, whose masked-language head has a decoder of its own."""

    model_type = "esmc"
    class_prefix = "Esmc"
    prefix = "esmc"
    rank = 19
    tied_by_default = False
    keys = (
        Key("vocab_size", "vocab_size", 64),
        Key("hidden_size", "hidden_size", 2560),
        Key("num_layers", "num_hidden_layers", 80),
        Key("num_heads", "num_attention_heads", 40),
        Key("intermediate_size", "intermediate_size", 6912),
        Key("activation", "hidden_act", "silu", "activation"),
        Key("max_positions", "max_position_embeddings", 2048),
        Key("attention_bias", "attention_bias", False, "switch"),
        Key("mlp_bias", "mlp_bias", False, "switch"),
        Key("attention_dropout", "attention_dropout", 0.0, "rate"),
        Key("initializer_range", "initializer_range", 0.02, "number"),
    )
    fixed = {
        "type_vocab_size": 0,
        "positions": "rotary",
        "embedding_norm": False,
        "norm_place": "pre",
        "norm_epsilon": 1e-5,
        "final_norm_bias": False,
        "query_key_norm": "layer",
        "query_key_norm_over": "heads",
        "mlp": "gated",
        "hidden_dropout": 0.0,
        "head_activation": "gelu",
    }
    refused = {"tie_word_embeddings": (None, False)}  # which its class does not do
    tasks = ("sequence_classification", "token_classification")
    examples = {
        "attention_bias": (False, True),
        "mlp_bias": (False, True),
        "hidden_act": ("silu", "gelu"),
        "rope_theta": (10_000.0, 500.0),
    }

    def more_to_model(self, config, model, path):
        heads, hidden = model["num_heads"], model["hidden_size"]
        sizes = {"num_key_value_heads": heads, "head_dim": hidden // heads}
        for name, size in sizes.items():
            value = config.get(name)
            if value is not None and read_key(config, Key("", name, size), path) != size:
                raise UserError(f"{path}: {name} {value}; expected {size}, as norms are over all units of the heads")
        name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        base = read_rotary_base(name, config.get(name) or {}, config.get("rope_theta", 10_000.0), path)
        return {"rotary_base": base, "residual_scale": _residual_scale(model["num_layers"])}

    def more_from_spec(self, spec, original):
        return {
            "num_key_value_heads": spec.num_kv_heads,
            "head_dim": spec.head_size,
            "rope_parameters": {"rope_type": "default", "rope_theta": spec.rotary_base},
        }

    def heads(self, names, config, named):
        if has_prefix(names, "classifier."):
            return set(), "sequence_classification"
        if has_prefix(names, "score."):
            return set(), "token_classification"
        return ({"language_model"} if has_prefix(names, "lm_head.") else set()), ""

    def head(self, name, num_labels, config, path):
        pooling = "dense" if name == "sequence_classification" else "cls"
        return Task(name, num_labels, pooling, read_dropout(config, ("classifier_dropout",), 0.1, path))

    def from_task(self, task, spec, original):
        return {"classifier_dropout": task.dropout}

    def table(self, config, task=""):
        layer = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        layer |= {f"attention/{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value", "output")}
        layer |= {f"attention/{ours}_norm": f"self_attn.{ours[0]}_norm" for ours in ("query", "key")}
        layer |= {f"mlp/{ours}": f"mlp.{ours}_proj" for ours in ("gate", "up", "down")}
        output = "classifier.out_proj" if task == "sequence_classification" else "score"
        names = (
            Module("encoder/embeddings/word", "esmc.embed_tokens"),
            *modules("encoder/layers/{layer}", "esmc.layers.{layer}", layer),
            Module("encoder/norm", "esmc.norm"),
            *modules("mlm", "lm_head", {"transform": "dense", "norm": "layer_norm", "decoder": "decoder"}),
            Module("mlm", "lm_head.decoder"),
            *modules("task", "classifier", {"dense": "dense"}),
            Module("task/output", output),
        )
        return Table("esmc", names)


def _residual_scale(layers):
    return math.sqrt(layers / 36)


FAMILIES = (Esmc(),)
