"""A model looked into: where its heads look, what it would say after each layer, a word's vectors layer by layer."""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.inference.batching import LENGTHS
from bert_jax.inference.predictor import check_texts, heads, shortened
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs.models import open_model

_ROWS = 16  # texts of word_vectors that are run together


class Inspector:
    """What happens inside a model for single texts; computed in float32, with attention by plain XLA.

    Args:
      model: as open_model gives it.

    Attributes:
      model: as it was given.
      tokenizer: the model's.
    """

    def __init__(self, model: Pretrained):
        self.model = model
        self.tokenizer = model.tokenizer
        self._spec = dataclasses.replace(model.model.spec, dtype="float32", attention_kernel="xla")
        self._params = jax.device_put(model.params)
        network = model_lib.Model(self._spec)
        self._attention = jax.jit(functools.partial(_attention, network))
        self._masks = jax.jit(functools.partial(_masks, network))
        self._vectors = jax.jit(functools.partial(_vectors, network))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike) -> Self:
        """Opens a run's workdir (its best or newest checkpoint), a Hugging Face directory, or a name on the hub.

        Raises:
          UserError: no such model.
        """
        return cls(open_model(name))

    def attention(self, text: str, text_pair: str | None = None) -> tuple[list[str], np.ndarray]:
        """Where each head looks while it reads a text, or a pair of texts.

        Args:
          text: one text; it may hold special tokens, such as "[MASK]".
          text_pair: the second text of the row, if there is one.

        Returns:
          the row's tokens, and weights float32 [layers, heads, tokens, tokens]: how much the token of the third axis
          takes from that of the fourth; they add up to 1 over the fourth.

        Raises:
          UserError: a text is empty, or the row is longer than the model.
        """
        texts = (text,) if text_pair is None else (text, text_pair)
        check_texts(texts, ("text", "text_pair")[: len(texts)], "text")
        ids, types = rows_lib.join(self.tokenizer, *self.tokenizer.encode(list(texts), special=True))
        weights = jax.device_get(self._attention(self._params, self._batch([(ids, types)], ["text"])))
        return [self.token(i) for i in ids], weights[:, 0, :, : len(ids), : len(ids)]

    def mask_probabilities(self, text: str) -> np.ndarray:
        """What the language-model head makes of the mask tokens of a text after each layer.

        The head was trained on the last layer alone; given another layer's hidden states, it says how much of the
        answer is there already in the form that it reads.

        Returns:
          probabilities float32 [1 + layers, masks, vocabulary]; the embeddings' first. The last are those of FillMask.

        Raises:
          UserError: the model has no masked-language-model head; the text is empty, has no mask token or is longer than
            the model.
        """
        if not self._spec.language_model or self._spec.attention == "causal":
            why = "reads left to right" if self._spec.language_model else f"has {heads(self.model)}"
            raise UserError(f"{self.model.name}: masks need a masked language model, but this one {why}")
        check_texts((text,), ("text",), "text")
        ids, types = rows_lib.join(self.tokenizer, self.tokenizer.encode([text], special=True)[0])
        places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not places:
            raise UserError(
                f"text: no {self.token(self.tokenizer.mask_id)} in {shortened(text)!r}; expected at least one"
            )
        batch = self._batch([(ids, types)], ["text"])
        return jax.device_get(self._masks(self._params, batch, np.array(places, np.int32)))

    def word_vectors(self, texts: Sequence[str], word: str) -> np.ndarray:
        """A word's vectors in several texts, layer by layer: the mean of the hidden states of its tokens.

        Args:
          texts: each with the word, whatever its case; where it stands several times, the first counts.
          word: letters or digits at both ends, so that "bank" is not found in "banks".

        Returns:
          float32 [texts, 1 + layers, hidden]; the embeddings' first.

        Raises:
          UserError: there is no text, or one is empty, does not hold the word, or is longer than the model.
        """
        if isinstance(texts, str) or not texts:
            raise UserError(f"texts: found {texts!r}; expected a list of one text or more")
        names = [f"text {i + 1}" for i in range(len(texts))]
        rows, places = zip(*map(functools.partial(self._with_word, word=word), texts, names), strict=True)
        found = []
        for begin in range(0, len(rows), _ROWS):
            some = slice(begin, begin + _ROWS)
            batch = self._batch(rows[some], names[some], min(_ROWS, len(rows)))
            shares = np.zeros(batch["input_ids"].shape, np.float32)
            for share, tokens in zip(shares, places[some], strict=False):  # the batch may be filled up
                share[tokens] = 1 / len(tokens)
            found.append(jax.device_get(self._vectors(self._params, batch, shares))[: len(rows[some])])
        return np.concatenate(found)

    def token(self, token_id: int) -> str:
        """The vocabulary's text of an id; "" of a row of the embedding that has none."""
        return self.tokenizer.token(token_id) if token_id < self.tokenizer.vocab_size else ""

    def _with_word(self, text, where, word):
        """A row of ids and segments, and which of its tokens are the word's."""
        check_texts((text,), ("text",), where)
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        start, end = found.span() if found else (0, 0)
        tokens = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
        if not tokens:
            raise UserError(f"{where}: no word {word!r} in {shortened(text)!r}; expected it at least once")
        return rows_lib.join(self.tokenizer, ids), [1 + i for i in tokens]  # behind [CLS]

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


def _attention(network, params, batch):
    return network.apply(params, batch, attention_weights=True, mlm_logits=False)["attention_weights"]


def _masks(network, params, batch, places):
    states = network.apply(params, batch, hidden_states=True, mlm_logits=False)["hidden_states"]
    return jax.nn.softmax(network.language_model(params, states[:, 0, places]), axis=-1)


def _vectors(network, params, batch, shares):
    states = network.apply(params, batch, hidden_states=True, mlm_logits=False)["hidden_states"]
    return jnp.einsum("lbsh,bs->blh", states, shares)
