"""Describes RoBERTa with pre-norm layers (Wettig et al. 2022, princeton-nlp/efficient_mlm_m0.40), as in fairseq."""

from bert_jax.interop.families import bert
from bert_jax.interop.families.roberta import Roberta
from bert_jax.interop.weights import Module


class RobertaPreLayerNorm(Roberta):
    """Maps RoBERTa-PreLayerNorm: RoBERTa's embeddings and heads around pre-norm layers."""

    prefix = "roberta_prelayernorm"
    fixed = {"head_activation": "gelu", "norm_place": "pre"}
    examples = {
        "type_vocab_size": (1, 2),
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def encoder_names(self):
        norms = {"attention_norm": "attention.LayerNorm", "mlp_norm": "intermediate.LayerNorm"}
        return (
            *bert.embeddings(self.prefix),
            *bert.layers(self.prefix, **norms),
            Module("encoder/norm", f"{self.prefix}.LayerNorm"),
        )


FAMILIES = (RobertaPreLayerNorm("roberta-prelayernorm", "RobertaPreLayerNorm", 50265, 12),)
