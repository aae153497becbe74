"""A vocabulary and configs that the tests of tasks share."""

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.vocabularies import hugging_face, loading
from tests.data.awkward import VOCABULARY, shared


@pytest.fixture(scope="session")
def tokenizer():
    """Returns a WordPiece tokenizer whose words are mostly single letters."""
    return hugging_face.wordpiece(VOCABULARY, lower_case=True, where="test")


@pytest.fixture(scope="session")
def uncased():
    return loading.load(shared("vocab/bert-base-uncased/vocab.txt"))


def config(name="sequence_classification", length=32, batch_size=4, **task):
    """Returns a fine-tuning config; `task` are keys of config.task."""
    config = finetune_config.base()
    config.task.name = name
    config.data.sequence_length = length
    config.data.batch_size = batch_size
    config.task.update({key: str(value) if hasattr(value, "joinpath") else value for key, value in task.items()})
    return config


@pytest.fixture(scope="session")
def load(tokenizer):
    """Returns a function load(name, length=..., KEY of config.task=...) that reads a task."""
    return lambda *args, tokenizer=tokenizer, **task: tasks.load(config(*args, **task), tokenizer)
