"""Token classification: finds the entities of a text, or a label for each of its words."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data.tasks import words as words_lib
from bert_jax.inference.batching import Row
from bert_jax.inference.predictor import Predictor, require_task
from bert_jax.model import crf

_OUTSIDE = "O"


class Word(NamedTuple):
    """A labelled word of a text.

    Attributes:
      start, end: text[start:end] is the word, counted in code points.
      label: the predicted label, such as "B-PER".
      score: probability of the label.
    """

    start: int
    end: int
    label: str
    score: float


@dataclasses.dataclass(frozen=True)
class _Words:
    """The words of a text.

    Attributes:
      places: (start, end) of each word in the text, in code points.
      windows: the windows that the words are read in.
    """

    places: Sequence[tuple[int, int]]
    windows: Sequence[words_lib.Window]


class TokenTagger(Predictor):
    """Finds entities in texts with a model fine-tuned for token classification (named entities, parts of speech).

        tag = bert_jax.TokenTagger.from_pretrained(MODEL)
        tag("Ada Lovelace lived in London.")
        # {"entities": [{"label": "PER", "start": 0, "end": 12, "text": "Ada Lovelace", "score": 0.99}, ...]}

    Words are the ones that the tokenizer's own pre-tokenization splits a text into; the label of a word is the label of
    its first sub-word. Labels of a BIO or BIOES scheme, such as B-PER and I-PER, are joined to entities. Labels without
    a scheme (parts of speech) give one entity for each word. The label "O" gives none. A long text is read in
    overlapping windows, and each word is labelled in the window where it has the most context.

    Args:
      model: an opened model (`bert_jax.load`); `from_pretrained` opens one by name.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
    """

    POSITIONS = "first_subwords"
    OUTPUTS = "token"

    def __call__(self, text: str | Sequence[str]) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the entities of a text.

        Args:
          text: one text or several.

        Returns:
          {"entities": [{"label": str, "start": int, "end": int, "text": str, "score": float}, ...]}: the entity is
          text[start:end], counted in code points, and its score is the mean probability of its words' labels. For
          several texts, a list of these in order.

        Raises:
          UserError: a text is empty.
        """
        texts = [text] if isinstance(text, str) else text
        return self._call([(one_text,) for one_text in texts], isinstance(text, str))

    def _check_head(self, model):
        require_task(model, "token_classification", "tag")

    def _compute(self, network, params, batch, static):
        """Returns (label int32, its probability float32), both [batch, sequence]."""
        logits = network.apply(params, batch)["logits"]
        if network.spec.task.crf:
            head = [params["task"][name] for name in ("transitions", "first", "last")]
            labels, probabilities = _crf_labels(logits, batch["first_subwords"] != 0, *head, batch.get("sequence_ids"))
        else:
            labels, probabilities = logits.argmax(-1), jax.nn.softmax(logits, axis=-1)
        return labels, jnp.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]

    def _rows(self, examples, where, options):
        # As in fine-tuning, where every word has a leading space, the first one too.
        space = " " if self.tokenizer.leading_space and self.model.origin is None else ""
        rows, notes = [], []
        for ids, offsets, starts in self.tokenizer.encode_with_places([space + text for (text,) in examples]):
            bounds = [*np.flatnonzero(starts).tolist(), len(ids)]
            parts = list(zip(bounds, bounds[1:], strict=False))
            words = [ids[begin:end] for begin, end in parts]
            if len(ids) > self.max_length - 2:
                words = [word[: words_lib.longest_word(self.max_length)] for word in words]
            windows = words_lib.windows([len(word) for word in words], self.max_length - 2)
            rows += [Row(*words_lib.make_row(self.tokenizer, words[window.start : window.stop])) for window in windows]
            shift = len(space)
            places = [(max(0, offsets[begin][0] - shift), offsets[end - 1][1] - shift) for begin, end in parts]
            notes.append(_Words(places, windows))
        return rows, notes

    def _answers(self, examples, rows, notes, outputs, options):
        row_labels = (
            [(labels[position], probabilities[position]) for position in row.positions]
            for row, (labels, probabilities) in zip(rows, outputs, strict=True)
        )
        for (text,), words in zip(examples, notes, strict=True):
            values = words_lib.merge(words.windows, [next(row_labels) for _ in words.windows])
            labelled = [
                Word(*_trimmed(text, *place), self.model.labels[label], float(probability))
                for place, (label, probability) in zip(words.places, values, strict=True)
            ]
            groups = entities([word for word in labelled if word.start < word.end], self.model.scheme)
            yield {"entities": [_entity(text, label, group) for label, group in groups]}


def entities(words: Sequence[Word], scheme: str) -> list[tuple[str, list[Word]]]:
    """Groups labelled words to entities; returns (type, words) of each.

    Args:
      words: the words of a text, in order.
      scheme: "BIO" or "BIOES": an entity continues with I- or E- of its type and ends before any other label; one that
        starts with I- or E- counts too, as in transformers. "": each word is an entity of its own.
    """
    groups, is_open = [], False
    for word in words:
        if word.label == _OUTSIDE:
            is_open = False
            continue
        prefix, _, kind = word.label.partition("-") if scheme else ("", "", word.label)
        if is_open and prefix in ("I", "E") and groups[-1][0] == kind:
            groups[-1][1].append(word)
        else:
            groups.append((kind, [word]))
        is_open = prefix in ("B", "I")
    return groups


def _entity(text, label, words):
    start, end = words[0].start, words[-1].end
    score = float(np.mean([word.score for word in words]))
    return {"label": label, "start": start, "end": end, "text": text[start:end], "score": score}


def _crf_labels(logits, mask, *head):
    """Returns the best labels of a CRF [batch, sequence] and marginal probabilities [batch, sequence, labels]."""
    labels = crf.decode(logits, mask, *head)

    def negative_log_likelihood(logits):
        return -crf.log_likelihood(logits, labels, mask, *head).sum()

    # The gradient of log Z is the marginal probability; the gradient of the labels' score is their one-hot encoding.
    return labels, jax.grad(negative_log_likelihood)(logits) + jax.nn.one_hot(labels, logits.shape[-1])


def _trimmed(text, start, end):
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
