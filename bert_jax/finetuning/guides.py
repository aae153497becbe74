"""Computes the vectors of the model that guides or teaches an embedder, once for all texts that it learns from."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bert_jax.data.tasks import TaskData, vector_sets
from bert_jax.errors import UserError
from bert_jax.inference.embed import Embedder
from bert_jax.model import Model


def add_guide(config: Any, task: TaskData, model: Model, say: Callable[[str], None]) -> None:
    """Gives every batch of `task.train` the vectors of config.loss.guide or config.loss.teacher, where one is named.

    The texts have no prompts of this run. A guide puts its own prompts for queries before anchors, and those for
    documents before the others; a teacher puts its default one. The vectors are float32 and stay in memory.

    Args:
      config: a fine-tuning config.
      task: the task's data.
      model: the model that is trained.
      say: called with a line for the user.

    Raises:
      UserError: the model cannot be opened, or a teacher's vectors have another size.
    """
    key = "teacher" if config.loss.teacher else "guide"
    name = config.loss[key]
    if config.task.name != "embedding" or not name:
        return
    assert isinstance(task.train, vector_sets.Groups) and model.spec.task is not None
    size = model.spec.task.num_labels
    try:
        embedder = Embedder(name)
    except UserError as error:
        raise UserError(f"config.loss.{key}: {error}") from error
    if key == "teacher" and embedder.size != size:
        raise UserError(
            f"config.loss.teacher: vectors of {embedder.size} numbers, and this model's have {size}; expected "
            f"config.task.embedding_size={embedder.size}, which puts a linear map behind the pooling"
        )

    def embed(texts, kind):
        say(f"config.loss.{key}={name}: vectors of {len(texts):,} texts")
        prompt = embedder.prompt_for(kind) if key == "guide" else None
        vectors = np.empty((len(texts), embedder.size), np.float32)
        for i, vector in enumerate(embedder.stream(((text,) for text in texts), prompt=prompt)):
            vectors[i] = vector
        return vectors

    task.train.guided_by(embed, ("query",) if key == "teacher" else ("query", "document"))
