"""Tiny models with random parameters and a vocabulary of made-up words."""

import random
import string

import jax
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.data import tokenizers
from bert_jax.interop.pretrained import Pretrained

LETTERS = string.ascii_lowercase
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?"),
    *(a + b for a in LETTERS for b in LETTERS[:12]),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
]
LONGEST = 40  # positions of the models


@pytest.fixture(scope="session")
def tokenizer():
    return tokenizers.wordpiece(VOCABULARY, True, "test")


def texts(count, seed=0, most=30):
    """Texts of 1 to `most` words; some words are several tokens, some are capitals, some have accents."""
    rng = random.Random(seed)

    def word():
        letters = rng.choice(LETTERS) + rng.choice(LETTERS[:12])
        shape = rng.random()
        if shape < 0.2:
            letters += "".join(rng.choices(LETTERS, k=rng.randint(1, 4)))
        return {0: letters.title(), 1: letters + ".", 2: "é" + letters}.get(rng.randint(0, 9), letters)

    return ["  ".join(word() for _ in range(rng.randint(1, most))) for _ in range(count)]


def make_model(tokenizer, task=None, labels=(), seed=0, **arguments):
    """A Pretrained of two layers; `arguments` are more of its fields, or "pooler"."""
    config = config_lib.base().model.to_dict()
    config |= {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_positions": LONGEST}
    config |= {"initializer_range": 0.3, "hidden_dropout": 0.0, "attention_dropout": 0.0, "dtype": "float32"}
    language_model = arguments.pop("language_model", task is None)
    model = model_lib.build(config, tokenizer.vocab_size, next_sentence=False, language_model=language_model, task=task)
    params = jax.jit(model.init)(jax.random.key(seed))
    return Pretrained("test", "bert", config, model, params, tokenizer, tuple(labels), **arguments)
