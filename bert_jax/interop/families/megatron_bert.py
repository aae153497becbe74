"""Describes Megatron's BERT (Shoeybi et al. 2019, section 5.3): BERT with norms before attention and MLP."""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Key, read_dropout
from bert_jax.interop.weights import Module
from bert_jax.model import Task


class MegatronBert(bert.Bert):
    """Maps Megatron's BERT: no norm behind the embeddings, one behind the layers; BERT's heads."""

    model_type = "megatron-bert"
    class_prefix = "MegatronBert"
    rank = 14
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 29056),
        Key("hidden_size", "hidden_size", 1024),
        Key("num_layers", "num_hidden_layers", 24),
        Key("num_heads", "num_attention_heads", 16),
        Key("intermediate_size", "intermediate_size", 4096),
    )
    fixed = {"norm_place": "pre", "embedding_norm": False}
    examples = {
        "type_vocab_size": (2, 3, 1),
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "pooler", dropout=0.0)
        return Task(name, num_labels, "pooler", read_dropout(config, ("hidden_dropout_prob",), 0.1, path))

    @staticmethod
    def from_task(task, spec, original):
        return {}  # its classes have no dropout rate of their own for classifiers

    def encoder_names(self):
        return (
            *bert.embeddings("bert"),
            *bert.layers("bert", attention_norm="attention.ln", mlp_norm="ln"),
            Module("encoder/norm", "bert.encoder.ln"),
        )


FAMILIES = (MegatronBert(),)
