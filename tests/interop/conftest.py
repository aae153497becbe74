"""Makes small model directories in the Hugging Face format without torch."""

import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.interop import huggingface, model_config, weights
from bert_jax.interop.families import FAMILIES

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##b"]
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefgh"]
SIZES = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 17,
    "max_position_embeddings": 11,
}  # fmt: skip
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class Directory:
    """A model directory and what was written there.

    Attributes:
      path: the directory.
      config: the contents of its config.json.
      model: the architecture.
      arrays: its weights by today's names, with the family's prefix.
    """

    def __init__(self, path, model_type, task, pooler, changes, dtype, heads):
        self.path = path
        offset = 2 if FAMILIES[model_type].prefix == "roberta" else 0
        sizes = {} if changes.pop("only", False) else SIZES
        self.config = sizes | {"model_type": model_type, "pad_token_id": int(offset > 0)} | changes
        ours = model_config.to_model(self.config, path) | {"pooler": pooler}
        task = task and model_config.to_task(self.config, task, path)[0]
        self.model = model_lib.build(ours, ours["vocab_size"], task=task, **heads)
        self.table = huggingface.weight_table(self.config, self.model.spec)
        random = np.random.default_rng(0)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0))
        params = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)
        named = weights.to_state_dict(params, self.table)
        self.arrays = {name: array.astype(DTYPES[dtype]) for name, array in named.items()}
        path.mkdir(parents=True)
        self.write_config()
        self.write(self.arrays)
        write_vocabulary(path, "roberta" if offset else "bert")

    def write_config(self, **changes):
        (self.path / "config.json").write_text(json.dumps(self.config | changes))

    def write(self, arrays):
        safetensors.numpy.save_file(arrays, self.path / "model.safetensors", metadata={"format": "pt"})


def write_vocabulary(path, model_type):
    """Writes a WordPiece vocab.txt, or a fairseq-like tokenizer.json."""
    if model_type == "bert":
        (path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
        (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        return
    model = {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(FAIRSEQ)}, "unk_token": "<unk>"}
    state = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
             "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(state))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def refusal(path, **arguments):
    """Returns the one-line message with which a directory is refused."""
    with pytest.raises(UserError) as raised:
        huggingface.read(path, **arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture
def make(tmp_path):
    """Returns a function that makes a Directory, by default of an encoder without heads."""

    def made(
        model_type="bert", *, name="model", task=None, pooler=False, language_model=False, next_sentence=False,
        sentence_order=False, replaced_tokens=False, dtype="float32", **changes,
    ):  # fmt: skip
        heads = {"language_model": language_model, "next_sentence": next_sentence}
        heads |= {"sentence_order": sentence_order, "replaced_tokens": replaced_tokens}
        return Directory(pathlib.Path(tmp_path) / name, model_type, task, pooler, changes, dtype, heads)

    return made
