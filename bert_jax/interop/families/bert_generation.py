"""Describes the encoder of BERT for sequence generation (Rothe et al. 2020): BERT without token types and pooler."""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key
from bert_jax.interop.weights import Table


class BertGeneration(Family):
    """Maps BertGenerationEncoder, which has no heads: what goes with it in transformers is a decoder."""

    model_type = "bert-generation"
    class_prefix = "BertGeneration"
    prefix = "bert"
    rank = 15
    keys = tuple(
        key
        for key in bert.keys_with(
            Key("vocab_size", "vocab_size", 50358),
            Key("hidden_size", "hidden_size", 1024),
            Key("num_layers", "num_hidden_layers", 24),
            Key("num_heads", "num_attention_heads", 16),
            Key("intermediate_size", "intermediate_size", 4096),
        )
        if key.ours != "type_vocab_size"
    )
    fixed = {"type_vocab_size": 0}
    refused = {"position_embedding_type": (None, "absolute")}
    classes = {"Encoder": frozenset()}
    tasks = ()
    examples = {"layer_norm_eps": (1e-12, 1e-5), "hidden_act": ("gelu", "gelu_new", "relu")}

    def heads(self, names, config, named):
        return set(), ""

    def table(self, config, task=""):
        return Table("bert", (*bert.embeddings("bert"), *bert.layers("bert")))


FAMILIES = (BertGeneration(),)
