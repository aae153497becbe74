"""Describes BERT (Devlin et al. 2019), with the keys and names that BERT-like families share."""

from collections.abc import Collection

from bert_jax import _moved
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task

KEYS = (
    Key("vocab_size", "vocab_size", 30522),
    Key("hidden_size", "hidden_size", 768),
    Key("num_layers", "num_hidden_layers", 12),
    Key("num_heads", "num_attention_heads", 12),
    Key("intermediate_size", "intermediate_size", 3072),
    Key("activation", "hidden_act", "gelu", "activation"),
    Key("max_positions", "max_position_embeddings", 512),
    Key("type_vocab_size", "type_vocab_size", 2),
    Key("norm_epsilon", "layer_norm_eps", 1e-12, "positive"),
    Key("hidden_dropout", "hidden_dropout_prob", 0.1, "rate"),
    Key("attention_dropout", "attention_probs_dropout_prob", 0.1, "rate"),
    Key("initializer_range", "initializer_range", 0.02, "number"),
)


def keys_with(*changed: Key) -> tuple[Key, ...]:
    """Returns BERT's keys, some of them replaced or added (found by their `ours`)."""
    others = {key.ours: key for key in changed}
    kept = tuple(others.pop(key.ours, key) for key in KEYS)
    return (*kept, *others.values())


def embeddings(prefix: str) -> tuple[Module, ...]:
    """Returns the names of the embeddings of BERT-like families."""
    pairs = {"word": "word_embeddings", "position": "position_embeddings", "token_type": "token_type_embeddings"}
    return modules("encoder/embeddings", f"{prefix}.embeddings", pairs | {"norm": "LayerNorm"})


def layers(prefix: str, **changed: str) -> tuple[Module, ...]:
    """Returns the names of the layers of BERT-like families; `changed`: {our module: its name} where it is another."""
    attention = {f"attention/{name}": f"attention.self.{name}" for name in ("query", "key", "value")}
    return modules("encoder/layers/{layer}", f"{prefix}.encoder.layer.{{layer}}", attention | LAYER_REST | changed)


# The modules of a layer except queries, keys and values.
LAYER_REST = {
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
CLASSIFIER = (Module("task/output", "classifier"),)
ANSWERS = (Module("task/output", "qa_outputs"),)


@_moved.renamed_arguments(found="heads")
def heads_with_pooled_task(heads: set[str], names: Collection[str], named: str) -> tuple[set[str], str]:
    """Returns (heads, task) for a family whose sequence classifiers read the pooler, which they then include.

    Args:
      heads: the heads of pre-training and the pooler that the weights hold.
      names: names of the arrays.
      named: the task that config.json names; "" for none.
    """
    task = ""
    if has_prefix(names, "qa_outputs."):
        task = "question_answering"
    elif has_prefix(names, "classifier."):
        task = named or ("sequence_classification" if "pooler" in heads else "token_classification")
    return (heads | {"pooler"} if task == "sequence_classification" else heads), task


def decoder(config, head: str, embedding: str) -> dict:
    """Returns Table's `names`, `tied` and `copies` of a decoder with a bias of its own.

    transformers' class has two biases. It keeps them equal where the decoder is tied; where it is not, it reads only
    the decoder's own.

    Args:
      config: the contents of config.json.
      head: name of the head's module.
      embedding: name of the word embedding.
    """
    weight, bias, spare = f"{head}.decoder.weight", f"{head}.decoder.bias", f"{head}.bias"
    if config.get("tie_word_embeddings", True):
        return {"names": (Module("mlm", head),), "tied": {weight: embedding, bias: spare}, "copies": {}}
    names = (Module("mlm", f"{head}.decoder"), Module("mlm/decoder", f"{head}.decoder"))
    return {"names": names, "tied": {}, "copies": {spare: bias}}


def classifier_dropout(task, spec, original) -> dict:
    """Returns {"classifier_dropout": rate} where hidden_dropout_prob does not imply it, else {}."""
    if task.name == "question_answering":
        return {}
    is_implied = task.dropout == spec.hidden_dropout and original.get("classifier_dropout") is None
    return {} if is_implied else {"classifier_dropout": task.dropout}


class Bert(Family):
    """Maps BERT: a pooler behind the classifiers, and one decoder for masked tokens and sentence pairs."""

    model_type = prefix = "bert"
    class_prefix = "Bert"
    rank = 0
    keys = KEYS
    writes_bos_and_eos = False
    refused = {"position_embedding_type": (None, "absolute")}
    classes = {
        "Model": frozenset(),
        "ForPreTraining": frozenset({"pooler", "language_model", "next_sentence"}),
        "ForMaskedLM": frozenset({"language_model"}),
        "ForNextSentencePrediction": frozenset({"pooler", "next_sentence"}),
    }

    def heads(self, names, config, named):
        heads = {"pooler"} if has_prefix(names, "bert.pooler.") else set()
        heads |= {"language_model"} if has_prefix(names, "cls.predictions.") else set()
        heads |= {"next_sentence", "pooler"} if has_prefix(names, "cls.seq_relationship.") else set()
        return heads_with_pooled_task(heads, names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "pooler", dropout=0.0)
        rate = read_dropout(config, ("classifier_dropout", "hidden_dropout_prob"), 0.1, path)
        return Task(name, num_labels, "pooler", rate)

    from_task = staticmethod(classifier_dropout)

    def encoder_names(self) -> tuple[Module, ...]:
        """Returns the names of the encoder's modules."""
        return (*embeddings("bert"), *layers("bert"))

    def table(self, config, task=""):
        head = decoder(config, "cls.predictions", "bert.embeddings.word_embeddings.weight")
        names = (
            *self.encoder_names(),
            Module("pooler/dense", "bert.pooler.dense"),
            Module("mlm/transform", "cls.predictions.transform.dense"),
            Module("mlm/norm", "cls.predictions.transform.LayerNorm"),
            *head["names"],
            Module("next_sentence", "cls.seq_relationship"),
            *(ANSWERS if task == "question_answering" else CLASSIFIER),
        )
        return Table("bert", names, head["tied"], head["copies"])


FAMILIES = (Bert(),)


def __getattr__(name: str):
    return _moved.find("interop.families.bert", name)
