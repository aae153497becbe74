"""Inspects a model: attention weights, masked-token predictions after each layer, and contextual word vectors."""

import dataclasses
import functools
import os
import re
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError, shortened
from bert_jax.inference.batching import LENGTHS
from bert_jax.inference.examples import Reader, check_texts
from bert_jax.inference.predictor import head_names, open_argument, token_text
from bert_jax.inference.windows import encoder_of_chunks
from bert_jax.interop.pretrained import Pretrained

_ROWS = 16  # texts of word_vectors in a batch
_PAIR = ("text", "text_pair")


class Inspector:
    """Looks into a model: attention weights, predictions after each layer, and word vectors of every layer.

        inspector = bert_jax.Inspector(MODEL)
        tokens, weights = inspector.attention("The cat sat.")  # weights [layers, heads, tokens, tokens]
        inspector.attention(("It rains.", "It is wet."))  # a pair; a list of texts gives a list

    Everything is computed in float32 with plain XLA attention, whatever the model runs with otherwise.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).

    Attributes:
      model: the opened model.
      tokenizer: the model's tokenizer.
    """

    def __init__(self, model: str | os.PathLike | Pretrained):
        self.model = model = encoder_of_chunks(open_argument(model))
        self.tokenizer = model.tokenizer
        columns = tuple(model.settings.get("columns", ()))
        self._pairs, self._texts = (Reader(fields, 1, columns=columns[: len(fields)]) for fields in (_PAIR, _PAIR[:1]))
        self._spec = dataclasses.replace(model.model.spec, dtype="float32", attention_kernel="xla")
        self._params = jax.device_put(model.params)
        network = model_lib.Model(self._spec)
        self._attention = jax.jit(functools.partial(_attention, network))
        self._masks = jax.jit(functools.partial(_masks, network))
        self._vectors = jax.jit(functools.partial(_vectors, network))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike) -> Self:
        """Opens a model by name: the workdir of a run, a Hugging Face directory, or a name on the Hugging Face hub.

        Raises:
          UserError: there is no such model.
        """
        return cls(name)

    def attention(self, text: Any, text_pair: Any = None) -> Any:
        """Returns the attention weights of every head for a text or a pair of texts, or for several of them.

        Args:
          text: one example or several, as Classifier reads them: a string, a pair as a tuple of two strings, a record,
            or a list, an array, a table or a generator of these. A text may hold special tokens, such as "[MASK]".
          text_pair: the second text of a pair, or one for each text.

        Returns:
          The tokens of the input, special tokens included, and the attention weights, float32 [layers, heads, query,
          key], which sum to 1 over the keys. For several examples, a list of such pairs, in their order.

        Raises:
          UserError: a text is empty, an example cannot be read, or a row is longer than the model.
        """
        examples, single = self._pairs.read(text) if text_pair is None else self._pairs.pairs(text, text_pair)
        answers = []
        for example, name in _named(examples, single):
            ids, types = rows_lib.join(self.tokenizer, *self.tokenizer.encode(list(example), special=True))
            weights = jax.device_get(self._attention(self._params, self._batch([(ids, types)], [name])))
            answers.append(([self.token(i) for i in ids], weights[:, 0, :, : len(ids), : len(ids)]))
        return answers[0] if single else answers

    def mask_probabilities(self, text: Any) -> Any:
        """Returns what the language-model head predicts for the masks of a text from the output of each layer.

        The head was trained on the last layer alone. Applied to an earlier layer, it shows how much of the prediction
        that layer already holds in the form that the head reads.

        Args:
          text: one text with at least one mask token, or several, as FillMask reads them.

        Returns:
          Probabilities float32 [1 + layers, masks, vocabulary]: first from the embeddings, last as FillMask has them.
          For several texts, a list of such arrays, in their order.

        Raises:
          UserError: the model has no masked-language-model head; a text is empty, has no mask token or is longer than
            the model.
        """
        if not self._spec.language_model or self._spec.attention == "causal":
            reason = "reads left to right" if self._spec.language_model else f"has {head_names(self.model)}"
            raise UserError(f"{self.model.name}: masks need a masked language model, but this one {reason}")
        examples, single = self._texts.read(text)
        answers = [self._mask_probabilities(example[0], name) for example, name in _named(examples, single)]
        return answers[0] if single else answers

    def word_vectors(self, texts: Any, word: str) -> np.ndarray:
        """Returns the contextual vectors of a word in several texts, from every layer.

        A vector is the mean of the hidden states of the word's tokens.

        Args:
          texts: texts that contain the word, in any case; its first occurrence counts. They are read as FillMask reads
            them: strings or records, in a list, an array, a table or a generator, or one alone.
          word: the word, matched as a whole: "bank" does not match "banks".

        Returns:
          float32 [texts, 1 + layers, hidden]: first from the embeddings, then the output of each layer. Without the
          first axis for one text alone.

        Raises:
          UserError: there is no text, or one is empty, does not contain the word, or is longer than the model.
        """
        examples, single = self._texts.read(texts)
        named = [(example[0], name) for example, name in _named(examples, single)]
        if not named:
            raise UserError("texts: found none; expected one text or more")
        names = [name for _, name in named]
        rows, word_tokens = zip(*(self._with_word(text, name, word) for text, name in named), strict=True)
        vectors = []
        for begin in range(0, len(rows), _ROWS):
            part = slice(begin, begin + _ROWS)
            batch = self._batch(rows[part], names[part], min(_ROWS, len(rows)))
            weights = np.zeros(batch["input_ids"].shape, np.float32)
            for weight, tokens in zip(weights, word_tokens[part], strict=False):  # the batch may be filled up
                weight[tokens] = 1 / len(tokens)
            vectors.append(jax.device_get(self._vectors(self._params, batch, weights))[: len(rows[part])])
        return vectors[0][0] if single else np.concatenate(vectors)

    def token(self, token_id: int) -> str:
        """Returns the token of an id; "" for a row of the embedding beyond the vocabulary."""
        return token_text(self.tokenizer, token_id)

    def _mask_probabilities(self, text, where):
        ids, types = rows_lib.join(self.tokenizer, self.tokenizer.encode([text], special=True)[0])
        positions = [position for position, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not positions:
            raise UserError(
                f"{where}: no {self.token(self.tokenizer.mask_id)} in {shortened(text)!r}; expected at least one"
            )
        batch = self._batch([(ids, types)], [where])
        return jax.device_get(self._masks(self._params, batch, np.array(positions, np.int32)))

    def _with_word(self, text, where, word):
        """Returns a row (ids, segments), and the positions of the word's tokens in it."""
        match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        start, end = match.span() if match else (0, 0)
        tokens = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
        if not tokens:
            raise UserError(f"{where}: no word {word!r} in {shortened(text)!r}; expected it at least once")
        return rows_lib.join(self.tokenizer, ids), [1 + i for i in tokens]  # after [CLS]

    def _batch(self, rows, names, num_rows=None):
        longest = self._spec.max_positions
        for (ids, _), name in zip(rows, names, strict=True):
            if len(ids) > longest:
                raise UserError(
                    f"{name}: {len(ids)} tokens with the special ones, but the model reads at most {longest}; expected "
                    "a shorter text"
                )
        length = rows_lib.bucket(max(len(ids) for ids, _ in rows), longest, LENGTHS)
        return rows_lib.pad(self.tokenizer, rows, length, num_rows)


def _named(examples, single):
    """Yields each example with its name for messages. Raises UserError for one with an empty text."""
    for i, example in enumerate(examples):
        name = "text" if single else f"text {i + 1}"
        check_texts(example, _PAIR[: len(example)], name)
        yield example, name


def _attention(network, params, batch):
    return network.apply(params, batch, attention_weights=True, mlm_logits=False)["attention_weights"]


def _masks(network, params, batch, positions):
    states = network.apply(params, batch, hidden_states=True, mlm_logits=False)["hidden_states"]
    return jax.nn.softmax(network.language_model(params, states[:, 0, positions]), axis=-1)


def _vectors(network, params, batch, weights):
    states = network.apply(params, batch, hidden_states=True, mlm_logits=False)["hidden_states"]
    return jnp.einsum("lbsh,bs->blh", states, weights)
