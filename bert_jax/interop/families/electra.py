"""Describes ELECTRA (Clark et al. 2020): discriminators and generators, with embeddings of a size of their own."""

from bert_jax.interop.families import bert, roberta
from bert_jax.interop.families.family import Family, Key, has_prefix, read_dropout
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task


class Electra(Family):
    """Maps ELECTRA, whose generator's head and classifier's layer always use gelu."""

    model_type = prefix = "electra"
    class_prefix = "Electra"
    rank = 5
    keys = bert.keys_with(
        Key("embedding_size", "embedding_size", 128),
        Key("hidden_size", "hidden_size", 256),
        Key("num_heads", "num_attention_heads", 4),
        Key("intermediate_size", "intermediate_size", 1024),
    )
    fixed = {"head_activation": "gelu"}
    refused = {"position_embedding_type": (None, "absolute")}
    classes = {
        "Model": frozenset(),
        "ForMaskedLM": frozenset({"language_model"}),
        "ForPreTraining": frozenset({"replaced_tokens"}),
    }

    def heads(self, names, config, named):
        heads = {"language_model"} if has_prefix(names, "generator_") else set()
        heads |= {"replaced_tokens"} if has_prefix(names, "discriminator_predictions.") else set()
        return heads, roberta.task_from_names(names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "cls", dropout=0.0)
        rate = read_dropout(config, ("classifier_dropout", "hidden_dropout_prob"), 0.1, path)
        if name == "token_classification":
            return Task(name, num_labels, "cls", rate)
        return Task(name, num_labels, "cls", rate, transform=True, transform_activation="gelu", transform_dropout=rate)

    from_task = staticmethod(bert.classifier_dropout)

    def table(self, config, task=""):
        names = (
            *bert.embeddings("electra"),
            Module("encoder/embeddings/projection", "electra.embeddings_project"),
            *bert.layers("electra"),
            Module("mlm/transform", "generator_predictions.dense"),
            Module("mlm/norm", "generator_predictions.LayerNorm"),
            Module("mlm", "generator_lm_head"),
            Module("mlm/decoder", "generator_lm_head"),
            Module("replaced/dense", "discriminator_predictions.dense"),
            Module("replaced/output", "discriminator_predictions.dense_prediction"),
            *roberta.classifier(task),
        )
        tied = config.get("tie_word_embeddings", True)
        return Table(
            "electra",
            names,
            {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"} if tied else {},
        )


FAMILIES = (Electra(),)
