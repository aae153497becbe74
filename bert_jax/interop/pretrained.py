"""Holds a trained model with its tokenizer, wherever it came from, and takes parameters from it for another model."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.interop.sentence_transformers import Embedder
from bert_jax.model import parameters


@dataclasses.dataclass(frozen=True)
class Origin:
    """Names the Hugging Face files that a model was read from, so that it can be written back unchanged.

    Attributes:
      directory: the directory with config.json and the tokenizer's files.
      config: the contents of config.json.
      dtypes: stored dtype of each array by its name in today's transformers: "float32", "float16" or "bfloat16".
      prompts: the contents of config_sentence_transformers.json; {} without one.
      unread: arrays that transformers keeps but does not read, by name; they are written back unchanged.
      model_card: the contents of README.md; "" without one.
      embedder: the directory's modules of sentence-transformers; None where it has none.
    """

    directory: pathlib.Path
    config: Mapping
    dtypes: Mapping[str, str]
    prompts: Mapping = dataclasses.field(default_factory=dict)
    unread: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    model_card: str = ""
    embedder: Embedder | None = None


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Holds a trained model: architecture, parameters, tokenizer, and the meaning of its outputs.

    Attributes:
      name: the directory or hub name that it was opened by, for messages.
      family: the key of families.FAMILIES whose format it is written in; the nearest where none can express it.
      config: the keys of config.model, with vocab_size filled in.
      model: the architecture, with every head that the weights hold.
      params: float32 parameters of the encoder and its heads, a nested dict of arrays.
      tokenizer: the model's tokenizer.
      labels: names of a task's outputs, in order; () without a task head.
      problem: kind of sequence classification, "single_label", "multi_label" or "regression"; "" for other models.
      scheme: scheme of token classification, "BIO" or "BIOES"; "" for plain tags and other models.
      settings: further settings of its use, such as "max_length" (tokens of a text in fine-tuning), "null_threshold"
        (question answering), "columns" (names of the texts in the data of fine-tuning), and those of
        sentence_transformers.Embedder.
      origin: the files that it was read from; None for a model of a workdir.
      lacking: {head: what the files lack of it, in words} for heads that they hold in part, or that config.json names.
      step: step of the checkpoint that a model of a workdir was read from; 0 for other models.
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
    lacking: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def apply(self, batch: Mapping, **arguments) -> dict[str, jax.Array]:
        """Returns the model's outputs for a batch of arrays [batch, sequence]; see Model.apply for all of them.

        Under jax.jit the parameters become constants of the program; give them to `model.apply` as an argument instead
        where they are large.
        """
        params = jax.tree.map(jnp.asarray, self.params)  # numpy's arrays cannot be indexed by a traced one
        return self.model.apply(params, batch, **arguments)


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
