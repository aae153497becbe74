"""Describes RoBERTa (Liu et al. 2019) and families with the same format: XLM-RoBERTa and CamemBERT."""

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, read_dropout
from bert_jax.interop.weights import Module, Table
from bert_jax.model import Task


class Roberta(Family):
    """Maps RoBERTa: positions behind the padding id, a tanh layer in classifiers, gelu in the masked-language head."""

    prefix = "roberta"
    rank = 1
    refused = {"position_embedding_type": (None, "absolute")}
    fixed = {"head_activation": "gelu"}
    pad_id = 1  # used where config.json has no pad_token_id

    def __init__(self, model_type, class_prefix, vocab_size, rank, *changed: Key):
        self.model_type, self.class_prefix, self.rank = model_type, class_prefix, rank
        self.keys = bert.keys_with(Key("vocab_size", "vocab_size", vocab_size), *changed)

    def more_to_model(self, config, model, path):
        pad_id = config.get("pad_token_id", self.pad_id)
        pad_id = self.pad_id if pad_id is None else pad_id
        if not isinstance(pad_id, int) or pad_id < 0:
            raise UserError(f"{path}: pad_token_id {pad_id!r}; expected the id of a token")
        positions = model["max_positions"] - pad_id - 1
        if positions < 1:
            raise UserError(f"{path}: max_position_embeddings leaves no position behind pad_token_id {pad_id}")
        return {"position_offset": pad_id + 1, "max_positions": positions}

    def more_from_spec(self, spec, original):
        offset = max(spec.position_offset, 1)
        return {"max_position_embeddings": spec.max_positions + offset, "pad_token_id": offset - 1}

    def heads(self, names, config, named):
        heads = {"pooler"} if has_prefix(names, f"{self.prefix}.pooler.") else set()
        heads |= {"language_model"} if has_prefix(names, "lm_head.") else set()
        return heads, task_from_names(names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "dense", dropout=0.0)
        rate = read_dropout(config, ("classifier_dropout", "hidden_dropout_prob"), 0.1, path)
        return Task(name, num_labels, "dense", rate)

    from_task = staticmethod(bert.classifier_dropout)

    def encoder_names(self) -> tuple[Module, ...]:
        """Returns the names of the encoder's modules."""
        return (*bert.embeddings(self.prefix), *bert.layers(self.prefix))

    def table(self, config, task=""):
        head = bert.decoder(config, "lm_head", f"{self.prefix}.embeddings.word_embeddings.weight")
        names = (
            *self.encoder_names(),
            Module("pooler/dense", f"{self.prefix}.pooler.dense"),
            Module("mlm/transform", "lm_head.dense"),
            Module("mlm/norm", "lm_head.layer_norm"),
            *head["names"],
            *classifier(task),
        )
        return Table(self.prefix, names, head["tied"], head["copies"])


def task_from_names(names, named: str) -> str:
    """Returns the task that weights belong to, for families whose sequence classifiers have a layer of their own."""
    if has_prefix(names, "qa_outputs."):
        return "question_answering"
    if has_prefix(names, "classifier.dense.", "classifier.out_proj."):
        return "sequence_classification"
    return (named or "token_classification") if has_prefix(names, "classifier.") else ""


def classifier(task: str) -> tuple[Module, ...]:
    """Returns the names of a task's head."""
    if task == "sequence_classification":
        return Module("task/dense", "classifier.dense"), Module("task/output", "classifier.out_proj")
    return bert.ANSWERS if task == "question_answering" else bert.CLASSIFIER


FAMILIES = (
    Roberta("roberta", "Roberta", 50265, 1),
    Roberta("xlm-roberta", "XLMRoberta", 30522, 2),
    Roberta("camembert", "Camembert", 30522, 3),
)


def __getattr__(name: str):
    return _moved.find("interop.families.roberta", name)
