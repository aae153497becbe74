"""Describes Nomic BERT (Nussbaum et al. 2024): BERT's post-norm layers with rotary positions, SwiGLU, no biases.

transformers writes and reads one layout. The published nomic-ai/nomic-bert-2048 and nomic-ai/nomic-embed-text-v1(.5)
have an older one, of the code that lies beside them: GPT-2's words in config.json (n_embd, n_layer, ...), the prefix
"bert." before the names of the weights, and no biases in the masked-language head. Both are read; today's is written.
"""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import (
    Family,
    Key,
    has_prefix,
    modules,
    read_dropout,
    read_key,
    unsupported,
)
from bert_jax.interop.families.rotary import longest_rows, read_rotary, rotary_object
from bert_jax.interop.weights import Module, Table, fused
from bert_jax.model import Task

_HEAD_BIASES = ("cls.predictions.transform.dense.bias", "cls.predictions.bias")
# The older layout: today's key, its name there, and what its configuration class takes where a file has no such key.
_OLD_KEYS = (
    ("hidden_size", "n_embd", 768),
    ("num_hidden_layers", "n_layer", 12),
    ("num_attention_heads", "n_head", 12),
    ("max_position_embeddings", "n_positions", 1024),
    ("layer_norm_eps", "layer_norm_epsilon", 1e-5),
    ("hidden_dropout_prob", "resid_pdrop", 0.1),
    ("attention_probs_dropout_prob", "attn_pdrop", 0.1),
)
_OLD_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}  # gated ones; their plain MLPs are other models
# The older layout: settings that change the model, their defaults there, and the values that are supported.
_OLD_REFUSED = {
    "prenorm": (False, (False,)),
    "parallel_block": (False, (False,)),
    "use_rms_norm": (False, (None, False)),
    "causal": (False, (False,)),
    "qkv_proj_bias": (True, (False,)),
    "mlp_fc1_bias": (True, (False,)),
    "mlp_fc2_bias": (True, (False,)),
    "rotary_emb_fraction": (0.0, (1.0,)),
    "rotary_emb_interleaved": (False, (False,)),
    "rotary_emb_scale_base": (None, (None,)),
    "rotary_head_dim": (False, (None, False)),
    "num_heads_kv": (None, (None,)),
    "moe_every_n_layers": (None, (None, 0)),
}


class NomicBert(Family):
    """Maps Nomic BERT, whose classifiers of sequences read the pooler; transformers has no question answering."""

    model_type = prefix = "nomic_bert"
    class_prefix = "NomicBert"
    rank = 11
    writes_bos_and_eos = False
    tasks = ("sequence_classification", "token_classification")
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 30528),
        Key("activation", "hidden_act", "silu", "activation"),
        Key("max_positions", "max_position_embeddings", 2048),
        Key("hidden_dropout", "hidden_dropout_prob", 0.0, "rate"),
        Key("attention_dropout", "attention_probs_dropout_prob", 0.0, "rate"),
    )
    fixed = {"positions": "rotary", "mlp": "gated", "attention_bias": False, "mlp_bias": False}
    examples = {
        "hidden_act": ("silu", "gelu"),
        "type_vocab_size": (2, 3, 1),
        "layer_norm_eps": (1e-12, 1e-5),
        "rope_parameters": (
            {"rope_type": "default", "rope_theta": 1000.0},
            {"rope_type": "default", "rope_theta": 25.0},
        ),
        "tie_word_embeddings": (True, True, False),
    }

    def to_model(self, config, path):
        return super().to_model(_todays(config, path), path)

    def more_to_model(self, config, model, path):
        has_head_dim = config.get("head_dim") is not None
        size = read_key(config, Key("head_size", "head_dim", 0), path) if has_head_dim else 0
        rope = config.get("rope_parameters") or {}
        return {"head_size": size} | read_rotary(config, model, path, "rope_parameters", rope, 1000.0)

    def more_from_spec(self, spec, original):
        parameters = rotary_object(spec, spec.rotary_base)
        return {"head_dim": spec.head_size, "rope_parameters": parameters} | longest_rows(spec)

    def preserved(self, original):
        if not _is_old(original):
            return original
        old = {name for _, name, _ in _OLD_KEYS} | _OLD_REFUSED.keys()
        old |= {"activation_function", "n_inner", "embd_pdrop", "rotary_emb_base", "rotary_scaling_factor",
                "max_trained_positions", "pad_vocab_size_multiple", "auto_map"}  # fmt: skip
        return {key: value for key, value in original.items() if key not in old}

    def heads(self, names, config, named):
        heads = {"pooler"} if has_prefix(names, "nomic_bert.pooler.") else set()
        heads |= {"language_model"} if has_prefix(names, "cls.predictions.") else set()
        return bert.heads_with_pooled_task(heads, names, named)

    def head(self, name, num_labels, config, path):
        rate = read_dropout(_todays(config, path), ("classifier_dropout", "hidden_dropout_prob"), 0.0, path)
        return Task(name, num_labels, "pooler", rate)

    from_task = staticmethod(bert.classifier_dropout)

    def table(self, config, task=""):
        ours, theirs = "encoder/layers/{layer}", "nomic_bert.encoder.layers.{layer}"
        layer = {
            "attention/output": "attn.out_proj",
            "attention_norm": "norm1",
            "mlp/up": "mlp.fc11",
            "mlp/gate": "mlp.fc12",
            "mlp/down": "mlp.fc2",
            "mlp_norm": "norm2",
        }
        head = bert.decoder(config, "cls.predictions", "nomic_bert.embeddings.word_embeddings.weight")
        tables = {"word": "embeddings.word_embeddings", "token_type": "embeddings.token_type_embeddings"}
        names = (
            *modules("encoder/embeddings", "nomic_bert", tables | {"norm": "emb_ln"}),
            *modules(ours, theirs, layer),
            *fused([f"{ours}/attention/{name}" for name in ("query", "key", "value")], f"{theirs}.attn.Wqkv"),
            Module("pooler/dense", "nomic_bert.pooler.dense"),
            *modules("mlm", "cls.predictions.transform", {"transform": "dense", "norm": "layer_norm"}),
            *head["names"],
            *bert.CLASSIFIER,
        )
        zeros = _HEAD_BIASES if _is_old(config) else ()
        return Table("nomic_bert", names, head["tied"], head["copies"], old_prefixes=("bert",), zeros=zeros)


def _is_old(config):
    return "n_embd" in config and "hidden_size" not in config


def _todays(config, path):
    """Returns a config.json in today's words. Raises UserError for what they cannot say."""
    if not _is_old(config):
        return config
    for key, (default, allowed) in _OLD_REFUSED.items():
        if config.get(key, default) not in allowed:
            raise unsupported(path, key, config.get(key, default), repr(allowed[-1]))
    activation = config.get("activation_function")
    if activation not in _OLD_ACTIVATIONS:
        raise unsupported(path, "activation_function", activation, ", ".join(_OLD_ACTIVATIONS))
    today = dict(config) | {ours: config.get(theirs, default) for ours, theirs, default in _OLD_KEYS}
    for key, name in (("hidden_size", "n_embd"), ("max_position_embeddings", "n_positions")):
        read_key(config, Key(key, name, today[key]), path)
    rope = {"rope_type": "default"}
    trained = read_key(config, Key("", "max_trained_positions", 2048), path)
    if config.get("rotary_scaling_factor") and today["max_position_embeddings"] > trained:
        rope = {"rope_type": "dynamic", "factor": config["rotary_scaling_factor"]}
        today |= {"max_position_embeddings": trained, "max_sequence_length": today["max_position_embeddings"]}
    units = config.get("n_inner") or 8 * today["hidden_size"] // 3
    multiple = read_key(config, Key("", "pad_vocab_size_multiple", 1), path)
    base = read_key(config, Key("", "rotary_emb_base", 10_000, "positive"), path)
    return today | {
        "hidden_act": _OLD_ACTIVATIONS[activation],
        "intermediate_size": -(-read_key({"n_inner": units}, Key("", "n_inner", 0), path) // 256) * 256,
        "vocab_size": -(-read_key(config, Key("", "vocab_size", 50257), path) // multiple) * multiple,
        "classifier_dropout": config.get("classifier_dropout", config.get("embd_pdrop", 0.1)),
        "rope_parameters": rope | {"rope_theta": float(base)},
    }


FAMILIES = (NomicBert(),)
