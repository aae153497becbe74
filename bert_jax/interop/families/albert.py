"""Describes ALBERT (Lan et al. 2020): small embeddings, layers that share parameters, sentence-order prediction."""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout, unsupported
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task

_INNER = Key("group_layers", "inner_group_num", 1)


class Albert(Family):
    """Maps ALBERT. num_hidden_layers counts runs of inner_group_num layers; config.model.num_layers counts layers."""

    model_type = prefix = "albert"
    class_prefix = "Albert"
    rank = 6
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 30000),
        Key("embedding_size", "embedding_size", 128),
        Key("hidden_size", "hidden_size", 4096),
        Key("num_heads", "num_attention_heads", 64),
        Key("intermediate_size", "intermediate_size", 16384),
        Key("activation", "hidden_act", "gelu_new", "activation"),
        Key("hidden_dropout", "hidden_dropout_prob", 0.0, "rate"),
        Key("attention_dropout", "attention_probs_dropout_prob", 0.0, "rate"),
        Key("layer_groups", "num_hidden_groups", 1),
        _INNER,
    )
    refused = {
        "position_embedding_type": (None, "absolute"),
        "gap_size": (None, 0),  # for google-research/albert; no model uses them, nor does transformers
        "num_memory_blocks": (None, 0),
        "down_scale_factor": (None, 1),
    }
    classes = {
        "Model": frozenset(),
        "ForPreTraining": frozenset({"pooler", "language_model", "sentence_order"}),
        "ForMaskedLM": frozenset({"language_model"}),
    }

    def more_to_model(self, config, model, path):
        runs, groups = model["num_layers"], model["layer_groups"]
        if groups > runs:
            raise unsupported(path, "num_hidden_groups", groups, f"at most num_hidden_layers {runs}")
        return {"num_layers": runs * model["group_layers"], "embedding_projection": True}

    def more_from_spec(self, spec, original):
        inner = spec.group_layers if spec.layer_groups else 1
        runs = spec.num_layers // inner
        return {
            "num_hidden_layers": runs,
            "num_hidden_groups": spec.layer_groups or runs,
            "inner_group_num": inner,
        }

    def heads(self, names, config, named):
        heads = {"pooler"} if has_prefix(names, "albert.pooler.") else set()
        heads |= {"language_model"} if has_prefix(names, "predictions.") else set()
        heads |= {"sentence_order", "pooler"} if has_prefix(names, "sop_classifier.") else set()
        return bert.heads_with_pooled_task(heads, names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "pooler", dropout=0.0)
        names = ("classifier_dropout_prob",)
        if name == "token_classification" and "classifier_dropout_prob" in config:  # null: that of the hidden states
            names += ("hidden_dropout_prob",) if config["classifier_dropout_prob"] is None else ()
        return Task(name, num_labels, "pooler", read_dropout(config, names, 0.1, path))

    def from_task(self, task, spec, original):
        return {} if task.name == "question_answering" else {"classifier_dropout_prob": task.dropout}

    def table(self, config, task=""):
        layer = {f"attention/{name}": f"attention.{name}" for name in ("query", "key", "value")}
        layer |= {
            "attention/output": "attention.dense",
            "attention_norm": "attention.LayerNorm",
            "mlp/up": "ffn",
            "mlp/down": "ffn_output",
            "mlp_norm": "full_layer_layer_norm",
        }
        theirs = "albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        head = bert.decoder(config, "predictions", "albert.embeddings.word_embeddings.weight")
        names = (
            *bert.embeddings("albert"),
            Module("encoder/embeddings/projection", "albert.encoder.embedding_hidden_mapping_in"),
            *modules("encoder/layers/{layer}", theirs, layer),
            Module("pooler/dense", "albert.pooler"),
            Module("mlm/transform", "predictions.dense"),
            Module("mlm/norm", "predictions.LayerNorm"),
            *head["names"],
            Module("sentence_order", "sop_classifier.classifier"),
            *(bert.ANSWERS if task == "question_answering" else bert.CLASSIFIER),
        )
        inner = config.get(_INNER.theirs)
        inner = inner if isinstance(inner, int) and inner > 0 else _INNER.default  # what else it is, to_model refuses
        return Table("albert", names, head["tied"], head["copies"], group_layers=inner)


FAMILIES = (Albert(),)
