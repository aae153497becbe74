"""Describes ESM-2 (Lin et al. 2023), ESM-1b and ESM-1v (Rives et al. 2021; Meier et al. 2021): encoders of proteins.

transformers' class has no dropout behind the embeddings, where this encoder has `hidden_dropout`; the published models
have none anywhere.
"""

import numpy as np

from bert_jax.errors import UserError
from bert_jax.interop.families import bert, roberta
from bert_jax.interop.families.family import Key, read_dropout, read_key, unsupported
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task
from bert_jax.model.positions import rotary_frequencies

_POSITIONS = {"absolute": "learned", "rotary": "rotary"}
_HALF = "rotary_half"  # a key of bert_jax in config.json, which transformers has no use for
_FREQUENCIES = "rotary_embeddings.inv_freq"
_OF_LAYERS = "esm.encoder.layer.{}.attention.self." + _FREQUENCIES


class Esm(roberta.Roberta):
    """Maps ESM: RoBERTa's positions, or rotary ones, in pre-norm layers; masked embeddings may be zeros.

    The published models were trained with the frequencies of rotary positions in float16, which their files hold.
    transformers computes with those of the file, and so does this encoder (config.model.rotary_half).
    """

    prefix = "esm"
    fixed = {"activation": "gelu", "norm_place": "pre", "type_vocab_size": 0}
    refused = {"is_folding_model": (None, False)}
    tasks = ("sequence_classification", "token_classification")
    examples = {
        "position_embedding_type": ("rotary", "rotary", "absolute"),
        "token_dropout": (True, True, False),
        "mask_token_id": (4,),
        "emb_layer_norm_before": (False, True),
        "layer_norm_eps": (1e-5, 1e-12),
        "rope_theta": (10_000.0, 500.0),
        "tie_word_embeddings": (True, True, False),
    }

    def __init__(self):
        positions = Key("max_positions", "max_position_embeddings", 1026)
        super().__init__("esm", "Esm", 33, 18, positions, Key("rotary_base", "rope_theta", 10_000.0, "positive"))
        self.keys = tuple(key for key in self.keys if key.ours not in ("type_vocab_size", "activation"))

    def more_to_model(self, config, model, path):
        kind = config.get("position_embedding_type", "absolute")
        if kind not in _POSITIONS:
            raise unsupported(path, "position_embedding_type", kind, "absolute or rotary")
        more = {"positions": _POSITIONS[kind], "embedding_norm": _switch(config, "emb_layer_norm_before", path)}
        if _switch(config, "token_dropout", path):
            mask_id = read_key(config, Key("mask_id", "mask_token_id", None, "count"), path)
            more |= {"token_dropout": True, "mask_id": mask_id}
        if kind == "absolute":
            return more | super().more_to_model(config, model, path)
        return more | {"rotary_half": _switch(config, _HALF, path)}

    def more_from_spec(self, spec, original):
        kind = {ours: theirs for theirs, ours in _POSITIONS.items()}.get(spec.positions, spec.positions)
        more = {
            "position_embedding_type": kind,
            "emb_layer_norm_before": spec.embedding_norm,
            "token_dropout": spec.token_dropout,
        }
        more |= {"mask_token_id": spec.mask_id} if spec.token_dropout else {}
        if kind == "absolute":
            return more | super().more_from_spec(spec, original)
        return more | ({_HALF: True} if spec.rotary_half else {})

    def with_arrays(self, config, arrays, file):
        exact, rounded = (_frequencies(config, half) for half in (False, True))
        for name, array in arrays.items() if len(exact) else ():
            if not name.endswith(_FREQUENCIES):
                continue
            if array.shape == exact.shape and array.dtype == np.float32 and np.allclose(array, exact, 1e-6, 0):
                return {**config, _HALF: False}
            if array.shape == exact.shape and array.dtype.name != "bfloat16" and np.allclose(array, rounded, 1e-6, 0):
                return {**config, _HALF: True}
            if array.dtype.name != "bfloat16":  # which is too coarse to tell
                raise UserError(f"{file}: {name} differs from the frequencies of rope_theta, also as float16 has them")
        return dict(config)

    def head(self, name, num_labels, config, path):
        return Task(name, num_labels, "dense", read_dropout(config, ("hidden_dropout_prob",), 0.1, path))

    @staticmethod
    def from_task(task, spec, original):
        return {}

    def encoder_names(self):
        norms = {"attention_norm": "attention.LayerNorm", "mlp_norm": "LayerNorm"}
        return (
            Module("encoder/embeddings/word", "esm.embeddings.word_embeddings"),
            Module("encoder/embeddings/position", "esm.embeddings.position_embeddings"),
            Module("encoder/embeddings/norm", "esm.embeddings.layer_norm"),
            *bert.layers("esm", **norms),
            Module("encoder/norm", "esm.encoder.emb_layer_norm_after"),
        )

    def table(self, config, task=""):
        names = (
            *self.encoder_names(),
            Module("pooler/dense", "esm.pooler.dense"),
            Module("mlm/transform", "lm_head.dense"),
            Module("mlm/norm", "lm_head.layer_norm"),
            Module("mlm", "lm_head"),
            Module("mlm/decoder", "lm_head.decoder"),
            *roberta.classifier(task),
        )
        tied = config.get("tie_word_embeddings", True)
        ignored, constants = (), {}
        if config.get("position_embedding_type") == "rotary":
            ignored = (
                r"esm\.embeddings\.position_embeddings\.weight",
                _OF_LAYERS.format(r"\d+"),
                rf"(esm\.)?{_FREQUENCIES}",
            )
            # transformers 5 saves those of all layers under this one name.
            constants[_OF_LAYERS.format("*")] = lambda: _frequencies(config, config.get(_HALF, False))
        return Table(
            "esm",
            names,
            {"lm_head.decoder.weight": "esm.embeddings.word_embeddings.weight"} if tied else {},
            ignored=ignored,
            kept=tuple(f"esm.contact_head.regression.{name}" for name in ("weight", "bias")),
            constants=constants,
        )


def _switch(config, name, path):
    """Returns a switch of config.json, which may be null for false."""
    return config.get(name) is not None and read_key(config, Key("", name, False, "switch"), path)


def _frequencies(config, half):
    """Returns the frequencies of rotary positions, float32 [head size / 2]; none of a model without."""
    if config.get("position_embedding_type") != "rotary":
        return np.zeros(0, np.float32)
    size = config.get("hidden_size", 768) // config.get("num_attention_heads", 12)
    return rotary_frequencies(size, config.get("rope_theta", 10_000.0), half)


FAMILIES = (Esm(),)
