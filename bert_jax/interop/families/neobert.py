"""Describes NeoBERT (Le Breton et al. 2025): pre-norm with RMSNorm, rotary positions, SwiGLU, no biases.

transformers has no class for it: the code lies beside the weights of chandar-lab/NeoBERT. What is written here names
that code by its place on the hub.
"""

import math

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout, read_key
from bert_jax.interop.weights import Module, Table, fused, interleaved
from bert_jax.model import Task

_MULTIPLE = 8
_CODE = {
    "AutoConfig": "NeoBERTConfig",
    "AutoModel": "NeoBERT",
    "AutoModelForMaskedLM": "NeoBERTLMHead",
    "AutoModelForSequenceClassification": "NeoBERTForSequenceClassification",
}


class NeoBert(Family):
    """Maps NeoBERT, whose language-model head is an untied decoder; its code classifies sequences alone."""

    model_type = "neobert"
    class_prefix = "NeoBERT"
    prefix = "model"
    rank = 17
    writes_bos_and_eos = False
    keys = (
        Key("vocab_size", "vocab_size", 30522),
        Key("hidden_size", "hidden_size", 768),
        Key("num_layers", "num_hidden_layers", 28),
        Key("num_heads", "num_attention_heads", 12),
        Key("max_positions", "max_length", 1024, aliases=("max_position_embeddings",)),
        Key("norm_epsilon", "norm_eps", 1e-6, "positive"),
    )
    fixed = {
        "type_vocab_size": 0,
        "positions": "rotary",
        "rotary_base": 10_000.0,
        "embedding_norm": False,
        "norm": "rms_norm",
        "norm_place": "pre",
        "mlp": "gated",
        "activation": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "mlm_transform": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    # Settings of the code that trained it, which the published code does not have.
    refused = {
        "hidden_act": (None, "SwiGLU", "swiglu"),
        "rope": (None, True),
        "rms_norm": (None, True),
        "ngpt": (None, False),
    }
    tied_by_default = False
    tasks = ("sequence_classification",)
    classes = {"LMHead": frozenset({"language_model"}), "": frozenset()}
    examples = {"norm_eps": (1e-5, 1e-6), "classifier_dropout": (0.1, 0.0)}

    def more_to_model(self, config, model, path):
        size = read_key(config, Key("", "intermediate_size", 3072), path)
        return {"intermediate_size": _units(size), "tied_decoder": False}

    def more_from_spec(self, spec, original):
        size = original.get("intermediate_size", 0)
        if not size or _units(size) != spec.intermediate_size:
            size = math.ceil(1.5 * spec.intermediate_size)
        code = {name: f"chandar-lab/NeoBERT--model.{kind}" for name, kind in _CODE.items()}
        return {"intermediate_size": size, "auto_map": code}

    def heads(self, names, config, named):
        heads = {"language_model"} if has_prefix(names, "decoder.") else set()
        return heads, "sequence_classification" if has_prefix(names, "classifier.") else ""

    def head(self, name, num_labels, config, path):
        return Task(name, num_labels, "dense", read_dropout(config, ("classifier_dropout",), 0.1, path))

    def from_task(self, task, spec, original):
        return {"classifier_dropout": task.dropout}

    def table(self, config, task=""):
        ours, theirs = "encoder/layers/{layer}", "model.transformer_encoder.{layer}"
        query, key, value = (f"{ours}/attention/{name}" for name in ("query", "key", "value"))
        layer = {
            "attention/output": "wo",
            "attention_norm": "attention_norm",
            "mlp/down": "ffn.w3",
            "mlp_norm": "ffn_norm",
        }
        heads = config.get("num_attention_heads", 12)
        names = (
            Module("encoder/embeddings/word", "model.encoder"),
            *modules(ours, theirs, layer),
            interleaved((query, key, value), f"{theirs}.qkv.weight", heads, turned=(query, key)),
            *fused([f"{ours}/mlp/{name}" for name in ("gate", "up")], f"{theirs}.ffn.w12"),
            Module("encoder/norm", "model.layer_norm"),
            Module("mlm", "decoder"),
            Module("mlm/decoder", "decoder"),
            Module("task/dense", "dense"),
            *bert.CLASSIFIER,
        )
        return Table("model", names)


def _units(intermediate_size):
    """Returns the number of units of the gated MLP: two thirds, as one has three maps, up to a multiple of 8."""
    return math.ceil(int(2 * intermediate_size / 3) / _MULTIPLE) * _MULTIPLE


FAMILIES = (NeoBert(),)
