"""Describes EuroBERT (Boizard et al. 2025): Llama's layers, bidirectional: RMSNorm, SwiGLU, rotary positions, GQA."""

from bert_jax.errors import UserError
from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_key, unsupported
from bert_jax.interop.families.rotary import longest_rows, read_rotary, rotary_object
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task

_POOLING = {"bos": ("cls", False), "mean": ("mean", False), "late": ("mean", True)}


class EuroBert(Family):
    """Maps EuroBERT, whose language-model head is the decoder alone; transformers has no question answering."""

    model_type = "eurobert"
    class_prefix = "EuroBert"
    prefix = "model"
    rank = 10
    tied_by_default = False
    keys = (
        Key("vocab_size", "vocab_size", 128256),
        Key("hidden_size", "hidden_size", 768),
        Key("num_layers", "num_hidden_layers", 12),
        Key("num_heads", "num_attention_heads", 12),
        Key("intermediate_size", "intermediate_size", 3072),
        Key("activation", "hidden_act", "silu", "activation"),
        Key("max_positions", "max_position_embeddings", 8192),
        Key("norm_epsilon", "rms_norm_eps", 1e-5, "positive"),
        Key("attention_bias", "attention_bias", False, "switch"),
        Key("mlp_bias", "mlp_bias", False, "switch"),
        Key("decoder_bias", "mlp_bias", False, "switch"),
        Key("hidden_dropout", "hidden_dropout", 0.0, "rate"),
        Key("attention_dropout", "attention_dropout", 0.0, "rate"),
        Key("initializer_range", "initializer_range", 0.02, "number"),
    )
    fixed = {
        "type_vocab_size": 0,
        "positions": "rotary",
        "embedding_norm": False,
        "norm": "rms_norm",
        "norm_place": "pre",
        "mlp": "gated",
        "mlm_transform": False,
    }
    tasks = ("sequence_classification", "token_classification")

    def more_to_model(self, config, model, path):
        sizes = {
            "num_kv_heads": Key("num_kv_heads", "num_key_value_heads", 0),
            "head_size": Key("head_size", "head_dim", 0),
        }
        model_sizes = {key: read_key(config, config_key, path) if config.get(config_key.theirs) is not None else 0
                 for key, config_key in sizes.items()}  # fmt: skip
        if model_sizes["num_kv_heads"] and model["num_heads"] % model_sizes["num_kv_heads"]:
            raise UserError(
                f"{path}: num_attention_heads {model['num_heads']} is not divisible by num_key_value_heads "
                f"{model_sizes['num_kv_heads']}"
            )
        if model["hidden_size"] % model["num_heads"]:
            raise unsupported(path, "hidden_size", model["hidden_size"], f"a multiple of {model['num_heads']} heads")
        name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"  # the older name has precedence
        base = config.get("rope_theta", 10_000.0)
        return model_sizes | read_rotary(config, model, path, name, config.get(name) or {}, base)

    def more_from_spec(self, spec, original):
        parameters = rotary_object(spec, spec.rotary_base)
        older = {"rope_scaling": parameters} if original.get("rope_scaling") else {}
        return {
            "num_key_value_heads": spec.num_kv_heads,
            "head_dim": spec.head_size,
            "mlp_bias": spec.mlp_bias,
            "rope_parameters": parameters,
            "rope_theta": spec.rotary_base,  # for the published files' own code
            **older,
            **longest_rows(spec),
        }

    def heads(self, names, config, named):
        architectures = config.get("architectures") or []
        if has_prefix(names, "classifier."):
            return set(), "sequence_classification" if has_prefix(names, "dense.") else "token_classification"
        # The file holds nothing of a tied decoder without a bias.
        tied = self.class_prefix + "ForMaskedLM" in architectures and config.get("tie_word_embeddings", False)
        return ({"language_model"} if tied or has_prefix(names, "lm_head.") else set()), ""

    def head(self, name, num_labels, config, path):
        if name != "sequence_classification":
            return Task(name, num_labels, "cls", dropout=0.0)
        pooling_name = config.get("classifier_pooling", config.get("clf_pooling", "late"))
        if pooling_name not in _POOLING:
            raise unsupported(path, "classifier_pooling", pooling_name, ", ".join(_POOLING))
        pooling, late = _POOLING[pooling_name]
        return Task(name, num_labels, pooling, 0.0, transform=True, transform_activation="gelu", late=late)

    def from_task(self, task, spec, original):
        pooling_name = {pooling: name for name, pooling in _POOLING.items()}.get((task.pooling, task.late), "late")
        if task.name != "sequence_classification":
            return {}
        keys = ("classifier_pooling", *(["clf_pooling"] if "clf_pooling" in original else []))
        return dict.fromkeys(keys, pooling_name)

    def table(self, config, task=""):
        layer = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        layer |= {f"attention/{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value", "output")}
        layer |= {f"mlp/{ours}": f"mlp.{ours}_proj" for ours in ("gate", "up", "down")}
        names = (
            Module("encoder/embeddings/word", "model.embed_tokens"),
            *modules("encoder/layers/{layer}", "model.layers.{layer}", layer),
            Module("encoder/norm", "model.norm"),
            Module("mlm", "lm_head"),
            Module("mlm/decoder", "lm_head"),
            Module("task/dense", "dense"),
            *bert.CLASSIFIER,
        )
        tied = config.get("tie_word_embeddings", False)
        return Table("model", names, {"lm_head.weight": "model.embed_tokens.weight"} if tied else {})


FAMILIES = (EuroBert(),)
