"""Describes XLM-RoBERTa-XL and -XXL (Goyal et al. 2021): RoBERTa's format around pre-norm layers without a first norm.

transformers' class has no dropout behind the MLP, where fairseq and this encoder have `hidden_dropout`.
"""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Key
from bert_jax.interop.families.roberta import Roberta
from bert_jax.interop.weights import Module


class XlmRobertaXl(Roberta):
    """Maps XLM-RoBERTa-XL: no norm behind the embeddings, one before attention and MLP, and one behind the layers."""

    fixed = {"head_activation": "gelu", "norm_place": "pre", "embedding_norm": False}
    examples = {
        "type_vocab_size": (1, 2),
        "layer_norm_eps": (1e-5, 1e-12),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def encoder_names(self):
        norms = {"attention_norm": "attention.self_attn_layer_norm", "mlp_norm": "LayerNorm"}
        return (
            *bert.embeddings(self.prefix),
            *bert.layers(self.prefix, **norms),
            Module("encoder/norm", f"{self.prefix}.encoder.LayerNorm"),
        )


FAMILIES = (
    XlmRobertaXl(
        "xlm-roberta-xl",
        "XLMRobertaXL",
        250880,
        13,
        Key("hidden_size", "hidden_size", 2560),
        Key("num_layers", "num_hidden_layers", 36),
        Key("num_heads", "num_attention_heads", 32),
        Key("intermediate_size", "intermediate_size", 10240),
        Key("max_positions", "max_position_embeddings", 514),
        Key("type_vocab_size", "type_vocab_size", 1),
        Key("norm_epsilon", "layer_norm_eps", 1e-5, "positive"),
    ),
)
