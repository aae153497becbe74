"""Describes MPNet (Song et al. 2020): RoBERTa's positions and heads, and a bias of distances that all layers share.

It is read, fine-tuned and written. Its pre-training, which predicts tokens in a permuted order (section 2.2), is not
here.
"""

from bert_jax.errors import UserError
from bert_jax.interop.families import bert, roberta
from bert_jax.interop.families.family import modules, read_dropout
from bert_jax.interop.weights import Module
from bert_jax.model import Task

_OFFSET = 2  # positions begin behind the padding id of fairseq, 1, whatever config.json calls its padding


class MPNet(roberta.Roberta):
    """Maps MPNet, whose classes compute 32 buckets whatever relative_attention_num_buckets says."""

    prefix = "mpnet"
    fixed = {"head_activation": "gelu", "positions": "learned+bias", "type_vocab_size": 0, "bias_buckets": 32}
    refused = {"relative_attention_num_buckets": (None, 32)}
    examples = {
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def __init__(self):
        super().__init__("mpnet", "MPNet", 30527, 17)
        self.keys = tuple(key for key in self.keys if key.ours != "type_vocab_size")

    def more_to_model(self, config, model, path):
        positions = model["max_positions"] - _OFFSET
        if positions < 1:
            raise UserError(f"{path}: max_position_embeddings leaves no position behind the first {_OFFSET} rows")
        return {"position_offset": _OFFSET, "max_positions": positions}

    def more_from_spec(self, spec, original):
        more = {"max_position_embeddings": spec.max_positions + _OFFSET, "relative_attention_num_buckets": 32}
        return more | {"pad_token_id": original.get("pad_token_id", _OFFSET - 1)}

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "dense", dropout=0.0)
        return Task(name, num_labels, "dense", read_dropout(config, ("hidden_dropout_prob",), 0.1, path))

    @staticmethod
    def from_task(task, spec, original):
        return {}

    def encoder_names(self):
        ours, theirs = "encoder/layers/{layer}/attention", "mpnet.encoder.layer.{layer}.attention.attn"
        pairs = {"word": "word_embeddings", "position": "position_embeddings", "norm": "LayerNorm"}
        rest = {name: place for name, place in bert.LAYER_REST.items() if name != "attention/output"}
        return (
            *modules("encoder/embeddings", "mpnet.embeddings", pairs),
            *modules(ours, theirs, {"query": "q", "key": "k", "value": "v", "output": "o"}),
            *modules(
                "encoder/layers/{layer}",
                "mpnet.encoder.layer.{layer}",
                rest | {"attention_norm": "attention.LayerNorm"},
            ),
            Module("encoder/position_bias", "mpnet.encoder.relative_attention_bias"),
        )


FAMILIES = (MPNet(),)
