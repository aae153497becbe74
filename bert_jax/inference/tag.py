"""The entities of a text, or a label for each of its words."""

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
    """A word of a text, [start, end) in code points, with its label and the label's probability."""

    start: int
    end: int
    label: str
    score: float


@dataclasses.dataclass(frozen=True)
class _Words:
    """A text's words: where each stands, and the windows that they are read in."""

    places: Sequence[tuple[int, int]]
    windows: Sequence[words_lib.Window]


class TokenTagger(Predictor):
    """Finds entities in texts with a model fine-tuned for token classification.

    Each answer is {"entities": [{"label", "start", "end", "text", "score"}, ...]}: text[start:end], in code points, and
    the mean probability of its words' labels. Words are those that the vocabulary itself cuts a text into; each has the
    label of its first sub-word. Labels such as B-PER and I-PER are joined to entities; labels without a scheme (parts
    of speech) give one entity a word; the label "O" gives none. A long text is read in overlapping windows, each word
    in the one where it has the most context.
    """

    POSITIONS = "first_subwords"
    OUTPUTS = "token"

    def __call__(self, text: str | Sequence[str]) -> dict[str, Any] | list[dict[str, Any]]:
        """The entities of a text, or a list of them for several texts in their order. Raises UserError (empty text)."""
        texts = [text] if isinstance(text, str) else text
        return self._call([(one,) for one in texts], isinstance(text, str))

    def _check_head(self, model):
        require_task(model, "token_classification", "tag")

    def _compute(self, network, params, batch, static):
        """(label int32, its probability float32), both [batch, sequence]."""
        logits = network.apply(params, batch)["logits"]
        if network.spec.task.crf:
            head = [params["task"][name] for name in ("transitions", "first", "last")]
            labels, chances = _chain(logits, batch["first_subwords"] != 0, *head, batch.get("sequence_ids"))
        else:
            labels, chances = logits.argmax(-1), jax.nn.softmax(logits, axis=-1)
        return labels, jnp.take_along_axis(chances, labels[..., None], axis=-1)[..., 0]

    def _rows(self, examples, where, options):
        # Fine-tuning gives every word its leading space, the first one too.
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
        found = (
            [(labels[place], chances[place]) for place in row.positions]
            for row, (labels, chances) in zip(rows, outputs, strict=True)
        )
        for (text,), words in zip(examples, notes, strict=True):
            values = words_lib.merge(words.windows, [next(found) for _ in words.windows])
            labelled = [
                Word(*_trimmed(text, *place), self.model.labels[label], float(chance))
                for place, (label, chance) in zip(words.places, values, strict=True)
            ]
            groups = entities([word for word in labelled if word.start < word.end], self.model.scheme)
            yield {"entities": [_entity(text, label, group) for label, group in groups]}


def entities(words: Sequence[Word], scheme: str) -> list[tuple[str, list[Word]]]:
    """(type, words) of each entity.

    Args:
      words: in order.
      scheme: "BIO" or "BIOES", as transformers groups them: an entity goes on with I- or E- of its type and ends
        before anything else; one that begins with I- or E- counts. "": each word is an entity of its own.
    """
    groups, going = [], False
    for word in words:
        if word.label == _OUTSIDE:
            going = False
            continue
        prefix, _, kind = word.label.partition("-") if scheme else ("", "", word.label)
        if going and prefix in ("I", "E") and groups[-1][0] == kind:
            groups[-1][1].append(word)
        else:
            groups.append((kind, [word]))
        going = prefix in ("B", "I")
    return groups


def _entity(text, label, words):
    start, end = words[0].start, words[-1].end
    score = float(np.mean([word.score for word in words]))
    return {"label": label, "start": start, "end": end, "text": text[start:end], "score": score}


def _chain(logits, mask, *head):
    """Labels of a CRF [batch, sequence], and each label's marginal probability [batch, sequence, labels]."""
    labels = crf.decode(logits, mask, *head)

    def surprise(logits):
        return -crf.log_likelihood(logits, labels, mask, *head).sum()

    # The gradient of log Z is the marginal probability; that of the labels' own score is 1 where they are.
    return labels, jax.grad(surprise)(logits) + jax.nn.one_hot(labels, logits.shape[-1])


def _trimmed(text, start, end):
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
