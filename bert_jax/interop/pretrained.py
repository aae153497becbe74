"""A model that someone trained, wherever it came from, and the start that another takes from it."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.model import parameters


@dataclasses.dataclass(frozen=True)
class Origin:
    """The Hugging Face files that a model was read from, so that it can be written back as it was.

    Attributes:
      directory: where config.json and the tokenizer's files lie.
      config: what config.json says.
      dtypes: what each array was stored as, by today's name of it: "float32", "float16" or "bfloat16".
      prompts: what config_sentence_transformers.json says, if there is one.
      unread: arrays that transformers keeps and does not read, by name; written back as they were.
      model_card: what README.md says; "" where there is none.
    """

    directory: pathlib.Path
    config: Mapping
    dtypes: Mapping[str, str]
    prompts: Mapping = dataclasses.field(default_factory=dict)
    unread: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    model_card: str = ""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its parameters, its vocabulary, and what its outputs mean.

    Attributes:
      name: the directory or hub name that it was opened by, for messages.
      family: whose format it is written in, a key of families.FAMILIES; the nearest where none can say it.
      config: the keys of config.model, vocab_size filled in.
      model: with every head that was found.
      params: float32, a nested dict of arrays; each head of the model filled.
      tokenizer: its vocabulary.
      labels: names of a task's outputs, in order; () without a task head.
      problem: of sequence classification: "single_label", "multi_label" or "regression"; "" otherwise.
      scheme: of token classification: "BIO" or "BIOES"; "" otherwise.
      settings: what else belongs to its use, such as "max_length" (tokens it was fine-tuned with), "null_threshold"
        (question answering), and those of sentence_transformers.Embedder.
      origin: None for a model of a workdir.
      step: of a workdir: the step of the checkpoint that it was opened at; 0 otherwise.
    """

    name: str
    family: str
    config: Mapping
    model: model_lib.Model
    params: dict
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()
    problem: str = ""
    scheme: str = ""
    settings: Mapping = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    step: int = 0

    def apply(self, batch: Mapping, **arguments) -> dict[str, jax.Array]:
        """`model.apply` with these parameters."""
        return self.model.apply(self.params, batch, **arguments)


def transfer(source: Mapping, model: model_lib.Model, key: jax.Array) -> tuple[dict, list[str], list[str]]:
    """Returns parameters of a model, from `source` where it has them and drawn where it does not.

    Args:
      source: parameters of another model with the same encoder; a leaf of another shape counts as absent.
      model: the model whose parameters are wanted.
      key: PRNG key of the drawn ones.

    Returns:
      (params, modules that are drawn, modules of the source that are not taken), modules such as "task" or "mlm".
    """
    taken, draw, drawn, _ = parameters.fit_parameters(model, source)
    left = parameters.leaves_by_name(source).keys() - parameters.leaves_by_name(taken).keys()
    return parameters.merge_trees(taken, draw(key)), _modules(drawn), _modules(left)


def _modules(names):
    return sorted({name.split("/")[0] if not name.startswith("encoder") else name for name in names})
