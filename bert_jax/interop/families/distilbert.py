"""Describes DistilBERT (Sanh et al. 2019): BERT's layers without token types and pooler, with other names."""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task


class DistilBert(Family):
    """Maps DistilBERT, whose config.json and arrays have names of their own."""

    model_type = prefix = "distilbert"
    class_prefix = "DistilBert"
    rank = 4
    keys = (
        Key("vocab_size", "vocab_size", 30522),
        Key("hidden_size", "dim", 768, aliases=("hidden_size",)),
        Key("num_layers", "n_layers", 6, aliases=("num_hidden_layers",)),
        Key("num_heads", "n_heads", 12, aliases=("num_attention_heads",)),
        Key("intermediate_size", "hidden_dim", 3072),
        Key("activation", "activation", "gelu", "activation"),
        Key("max_positions", "max_position_embeddings", 512),
        Key("hidden_dropout", "dropout", 0.1, "rate"),
        Key("attention_dropout", "attention_dropout", 0.1, "rate"),
        Key("initializer_range", "initializer_range", 0.02, "number"),
    )
    fixed = {"type_vocab_size": 0, "norm_epsilon": 1e-12}

    def heads(self, names, config, named):
        heads = {"language_model"} if has_prefix(names, "vocab_") else set()
        if has_prefix(names, "qa_outputs."):
            return heads, "question_answering"
        if has_prefix(names, "pre_classifier."):
            return heads, "sequence_classification"
        return heads, (named or "token_classification") if has_prefix(names, "classifier.") else ""

    def head(self, name, num_labels, config, path):
        if name == "question_answering":
            return Task(name, num_labels, "cls", read_dropout(config, ("qa_dropout",), 0.1, path))
        if name == "token_classification":
            return Task(name, num_labels, "cls", read_dropout(config, ("dropout",), 0.1, path))
        rate = read_dropout(config, ("seq_classif_dropout",), 0.2, path)
        return Task(name, num_labels, "cls", rate, transform=True, transform_activation="relu")

    def from_task(self, task, spec, original):
        names = {"question_answering": "qa_dropout", "sequence_classification": "seq_classif_dropout"}
        return {names[task.name]: task.dropout} if task.name in names else {}

    def table(self, config, task=""):
        layer = {
            "attention/query": "attention.q_lin",
            "attention/key": "attention.k_lin",
            "attention/value": "attention.v_lin",
            "attention/output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "mlp/up": "ffn.lin1",
            "mlp/down": "ffn.lin2",
            "mlp_norm": "output_layer_norm",
        }
        names = (
            *bert.embeddings("distilbert"),
            *modules("encoder/layers/{layer}", "distilbert.transformer.layer.{layer}", layer),
            Module("mlm/transform", "vocab_transform"),
            Module("mlm/norm", "vocab_layer_norm"),
            Module("mlm", "vocab_projector"),
            Module("mlm/decoder", "vocab_projector"),
            Module("task/dense", "pre_classifier"),
            *(bert.ANSWERS if task == "question_answering" else bert.CLASSIFIER),
        )
        tied = config.get("tie_word_embeddings", True)
        return Table(
            "distilbert",
            names,
            {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"} if tied else {},
        )


FAMILIES = (DistilBert(),)
