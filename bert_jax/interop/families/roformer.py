"""Describes RoFormer (Su et al. 2021): BERT with rotary positions, and embeddings that may have a size of their own.

Its files hold the table of sines and cosines, which the class computes from config.json.
"""

import numpy as np

from bert_jax.interop.families import bert, roberta
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_activation, read_dropout, read_key
from bert_jax.interop.weights import Module, Table, rotated
from bert_jax.model import Task

_BASE = 10_000.0


class RoFormer(Family):
    """Maps RoFormer, whose classifiers of sequences have a layer with the encoder's activation."""

    model_type = prefix = "roformer"
    class_prefix = "RoFormer"
    rank = 16
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 50000),
        Key("max_positions", "max_position_embeddings", 1536),
    )
    fixed = {"positions": "rotary", "rotary_base": _BASE}
    refused = {"rotary_value": (None, False)}
    examples = {
        "embedding_size": (None, 6, 20),
        "type_vocab_size": (2, 3, 1),
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def more_to_model(self, config, model, path):
        has_size = config.get("embedding_size") is not None
        return {"embedding_size": read_key(config, Key("", "embedding_size", 0), path) if has_size else 0}

    def more_from_spec(self, spec, original):
        return {"embedding_size": spec.embedding_size}

    def heads(self, names, config, named):
        heads = {"language_model"} if has_prefix(names, "cls.predictions.") else set()
        return heads, roberta.task_from_names(names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "cls", dropout=0.0)
        rate = read_dropout(config, ("hidden_dropout_prob",), 0.1, path)
        if name == "token_classification":
            return Task(name, num_labels, "cls", rate)
        activation = read_activation("hidden_act", config.get("hidden_act", "gelu"), path)
        return Task(
            name, num_labels, "cls", rate, transform=True, transform_activation=activation, transform_dropout=rate
        )

    def table(self, config, task=""):
        heads = config.get("num_attention_heads", 12)
        ours, theirs = "encoder/layers/{layer}/attention", "roformer.encoder.layer.{layer}.attention.self"
        head = bert.decoder(config, "cls.predictions", "roformer.embeddings.word_embeddings.weight")
        names = (
            *bert.embeddings("roformer"),
            Module("encoder/embeddings/projection", "roformer.embeddings_project"),
            *(array for name in ("query", "key") for array in rotated(f"{ours}/{name}", f"{theirs}.{name}", heads)),
            *bert.layers("roformer"),
            *modules("mlm", "cls.predictions.transform", {"transform": "dense", "norm": "LayerNorm"}),
            *head["names"],
            *roberta.classifier(task),
        )
        constants = {"roformer.encoder.embed_positions.weight": lambda: _sinusoids(config)}
        return Table("roformer", names, head["tied"], head["copies"], constants=constants)


def _sinusoids(config):
    """Returns the table of the sines and, behind them, the cosines by which pairs turn, [positions, head size]."""
    size = config.get("hidden_size", 768) // config.get("num_attention_heads", 12)
    places = np.arange(config.get("max_position_embeddings", 1536))[:, None]
    angles = places / np.power(_BASE, 2 * np.arange(size // 2) / size)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


FAMILIES = (RoFormer(),)
