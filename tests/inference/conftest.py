"""Tiny models with random parameters and a vocabulary of made-up words."""

import functools
import json
import random
import string

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies import hugging_face, training
from bert_jax.interop.pretrained import Pretrained
from tests.compiled_programs import programs_in

LETTERS = string.ascii_lowercase
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?"),
    *(a + b for a in LETTERS for b in LETTERS[:12]),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
]
LONGEST = 40  # positions of the models


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    """Programs compiled once for all tests: many of these models differ in their parameters alone."""
    with programs_in(programs):
        yield


@pytest.fixture(scope="session")
def tokenizer():
    return hugging_face.wordpiece(VOCABULARY, True, "test")


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """save(class name, **of its configuration) -> the directory of a random model of transformers with a tokenizer."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("models")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"initializer_range": 0.3}

    def save_model(architecture, **config):
        path = folder / f"{architecture}{len(list(folder.iterdir()))}"
        torch.manual_seed(0)
        if architecture.startswith("Roberta"):
            training.train("bpe", texts(100), 400).save(path)
            model = json.loads((path / "tokenizer.json").read_text())["model"]
            merges = [tuple(merge) for merge in model["merges"]]
            transformers.RobertaTokenizer(model["vocab"], merges).save_pretrained(path)
            own = {"vocab_size": len(model["vocab"]), "max_position_embeddings": LONGEST + 2, "type_vocab_size": 1}
            made = transformers.RobertaConfig(**sizes | own | config)
        else:
            transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=LONGEST).save_pretrained(path)
            own = {"vocab_size": len(VOCABULARY), "max_position_embeddings": LONGEST}
            made = transformers.BertConfig(**sizes | own | config)
        getattr(transformers, architecture)(made).eval().save_pretrained(path)
        return path

    return save_model


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
    """A Pretrained of two layers; `arguments` are more of its fields, or "language_model" or "position_offset"."""
    config = config_lib.base().model.to_dict()
    config |= {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_positions": LONGEST}
    config |= {"hidden_dropout": 0.0, "attention_dropout": 0.0, "dtype": "float32"}
    config["position_offset"] = arguments.pop("position_offset", 0)
    language_model = arguments.pop("language_model", task is None)
    model = model_lib.build(config, tokenizer.vocab_size, next_sentence=False, language_model=language_model, task=task)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(functools.partial(_random, rng), shapes)
    return Pretrained("test", "bert", config, model, params, tokenizer, tuple(labels), **arguments)


def _random(rng, path, leaf):
    scale = 1.0 if "scale" in str(path[-1]) else 0.0
    return (scale + 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)


def reference(model, ids, types=None):
    """The model's outputs for one row, hidden states of every layer among them, computed without any batching."""
    batch = rows_lib.pad(model.tokenizer, [(ids, types or [0] * len(ids))], LONGEST)
    outputs = jax.device_get(_apply(model.model, model.params, batch))
    states = outputs.pop("hidden_states")[:, 0, : len(ids)]
    return {name: array[0] for name, array in outputs.items()} | {"hidden_states": states}


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, batch):
    return network.apply(params, batch, hidden_states=True)


def row(model, text):
    """(ids, segments) of a text."""
    return rows_lib.join(model.tokenizer, model.tokenizer.encode([text])[0])
