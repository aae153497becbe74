"""Finds the entities of a text, or a label for each of its words (token classification)."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import schemes
from bert_jax.data.tasks import words as words_lib
from bert_jax.data.vocabularies.tokenizer import trimmed
from bert_jax.errors import UserError
from bert_jax.inference.batching import Row
from bert_jax.inference.examples import check_texts
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Predictor, require_task
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import crf

_UNSEEN = "O"  # the label of a word without sub-words, where the model does not say another
_UNTYPED = "_"  # the type of entities whose tags are B, I and O alone, as seqeval calls it


class Word(NamedTuple):
    """Holds a labelled word of a text.

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
    """Holds the words of a text.

    Attributes:
      text: the text; words that came without one are joined by spaces.
      places: (start, end) of each word in the text, in code points.
      windows: the windows that the words are read in.
      present: for each window, whether each of its words has sub-words; one without has no label.
    """

    text: str
    places: Sequence[tuple[int, int]]
    windows: Sequence[words_lib.Window]
    present: Sequence[Sequence[bool]]


class TokenTagger(Predictor):
    """Finds entities in texts with a model fine-tuned for token classification (named entities, parts of speech).

        tag = bert_jax.TokenTagger(MODEL)
        tag("Ada Lovelace lived in London.")
        # {"entities": [{"label": "PER", "start": 0, "end": 12, "text": "Ada Lovelace", "score": 0.99}, ...]}

    A text is cut into words as the training data was (see `data.tasks.words`); with a model that does not say how, a
    Hugging Face directory, at the tokenizer's own cuts, which divide at punctuation too. Text that is already cut into
    words is given as lists of words. The label of a word is the label of its first sub-word. Labels of a BIO or BIOES
    scheme, such as B-PER and I-PER, are joined to entities; other labels, such as parts of speech, give one entity for
    each word, and the label "O" none. A long text is read in overlapping windows, and each word is labelled in the
    window where it has the most context.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
    """

    POSITIONS = "first_subwords"
    OUTPUTS = "token"
    WORDS = True

    def __init__(
        self, model: str | os.PathLike | Pretrained, *, dtype: str | None = None, packing: str | bool = "auto"
    ):
        model = self.opened(model)
        super().__init__(model, dtype=dtype, packing=packing)
        self._cutting = model.settings.get("words")
        self._spelling = schemes.of_labels(model.labels)[1]
        outside = _UNSEEN if _UNSEEN in model.labels else model.labels[0]
        self._unseen = model.settings.get("unseen_word", outside)
        if self._cutting:  # the windows of fine-tuning
            self.max_length = min(self.max_length, model.settings.get("max_length") or self.max_length)
        chunk = self.chunk_length
        self._reading = LongReading("chunks" if chunk else "truncate", self.max_length, chunk_length=chunk)
        self._row_length = chunk or self.max_length

    def __call__(
        self,
        text: Any = None,
        *,
        words: Any = None,
        **others: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the entities of a text, or of a sentence that is already cut into words.

            tag(words=["Ada", "Lovelace", "lived", "in", "London", "."])
            # {"words": [...], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"], "entities": [...]}

        Args:
          text: one text or several. A text is a string, in a list also a list of words, or a dict with `text` or
            `words`. Several come as a list, an array, a column or table of pandas, polars, pyarrow or datasets, or a
            generator.
          words: the words of one sentence, or of several; instead of `text`.
          **others: arguments of the same call in transformers and sentence-transformers that change no answer, such as
            batch_size.

        Returns:
          {"entities": [{"label": str, "start": int, "end": int, "text": str, "score": float}, ...]}: the entity is
          text[start:end], counted in code points, and its score is the mean probability of its words' labels. Words
          are joined by spaces for that, and come back with the label of each, {"words": [...], "tags": [...],
          "entities": [...]}. For several texts, a list of these in order.

        Raises:
          UserError: a text is empty, or there is neither a text nor words.
        """
        check_options("TokenTagger", others)
        if words is not None and text is None:
            if isinstance(words, str) or not isinstance(words, Iterable):
                raise UserError(f"words: found {type(words).__name__}; expected a list of words, or several")
            words = list(words)
            single = bool(words) and all(isinstance(word, str) for word in words)
            if not single and any(isinstance(sentence, str) for sentence in words):
                raise UserError("words: found strings beside lists of words; expected one or the other")
            return self._call((self._reader.read([words] if single else words)[0], single))
        if text is None or words is not None:
            raise UserError("text, words: found both or neither; expected one of them")
        return self._call(self._reader.read(text))

    def _check(self, example, where, allow_empty):
        (text,) = example
        if isinstance(text, str):
            super()._check(example, where, allow_empty)
            return
        if not isinstance(text, list | tuple) or not all(isinstance(word, str) for word in text):
            raise UserError(f"{where}: found {type(text).__name__}; expected a string or a list of words")
        for i, word in enumerate(text):
            check_texts((word,), ("word",), f"{where}, word {i + 1}", allow_empty=True)

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
        rows, notes = [], []
        for text_rows, note in self._windows_of(examples):
            rows += text_rows
            notes.append(note)
        return rows, notes

    def _windows_of(self, examples):
        """Yields the rows and the note of each example."""
        texts = [item if isinstance(item, str) else " ".join(item) for (item,) in examples]
        places = [self._places(item) for (item,) in examples]
        sentences = [
            [text[start:end] for start, end in spans] if spans is not None else []
            for text, spans in zip(texts, places, strict=True)
        ]
        encoded = words_lib.encode(self.tokenizer, sentences, self._row_length)
        tokenized = self._tokenized([text for text, spans in zip(texts, places, strict=True) if spans is None])
        for text, spans, pieces in zip(texts, places, encoded, strict=True):
            yield self._windows(text, *(next(tokenized) if spans is None else (spans, pieces)))

    def _places(self, item):
        """Returns [start, end) of each word of a text, or of words joined by spaces; None: where the tokenizer cuts."""
        if isinstance(item, str):
            return words_lib.cut(item, self._cutting) if self._cutting else None
        ends = list(itertools.accumulate(len(word) + 1 for word in item))
        return [(end - 1 - len(word), end - 1) for word, end in zip(item, ends, strict=True)]

    def _tokenized(self, texts):
        """Yields ([start, end) of each word, its ids) for texts whose words are the tokenizer's."""
        # Fine-tuning puts a space before every word, the first one too.
        space = " " if self.tokenizer.leading_space and self.model.origin is None else ""
        shift = len(space)
        encoded = self.tokenizer.encode_with_places([space + text for text in texts]) if texts else []
        for ids, offsets, starts in encoded:
            bounds = [*np.flatnonzero(starts).tolist(), len(ids)]
            parts = list(zip(bounds, bounds[1:], strict=False))
            pieces = [ids[begin:end] for begin, end in parts]
            if len(ids) > self._row_length - 2:
                pieces = [word[: words_lib.longest_word(self._row_length)] for word in pieces]
            yield [(max(0, offsets[begin][0] - shift), offsets[end - 1][1] - shift) for begin, end in parts], pieces

    def _windows(self, text, places, pieces):
        """Returns the rows of a text's words, and the note for `_answers`."""
        windows, rows, present = [], [], []
        for window, ids, types, firsts in words_lib.rows(self.tokenizer, pieces, self._reading):
            windows.append(window)
            present.append([first >= 0 for first in firsts])
            rows.append(Row(ids, types, [first for first in firsts if first >= 0]))
        return rows, _Words(text, places, windows, present)

    def _answers(self, examples, rows, notes, outputs, options):
        outputs_of_rows = zip(rows, outputs, strict=True)
        for (item,), words in zip(examples, notes, strict=True):
            values = words_lib.merge(
                words.windows, [self._labels_of_words(*next(outputs_of_rows), present) for present in words.present]
            )
            labelled = [
                Word(*trimmed(words.text, *place), *value) for place, value in zip(words.places, values, strict=True)
            ]
            # A word without sub-words ends an entity, and is none itself.
            visible = [word for word in labelled if word.start < word.end and (word.score > 0 or self.model.scheme)]
            groups = entities(visible, self.model.scheme, self._spelling)
            answer = {"entities": [_entity(words.text, label, group) for label, group in groups]}
            if not isinstance(item, str):
                answer = {"words": list(item), "tags": [label for label, _ in values]} | answer
            yield answer

    def _labels_of_words(self, row, output, present):
        """Returns (label, probability) of each word of a window; the label of an unseen word has probability 0."""
        labels, probabilities = output
        positions = iter(row.positions)
        values = []
        for is_present in present:
            position = next(positions) if is_present else None
            values.append(
                (self._unseen, 0.0)
                if position is None
                else (self.model.labels[labels[position]], float(probabilities[position]))
            )
        return values


def entities(
    words: Sequence[Word], scheme: str, written: schemes.Spelling | None = None
) -> list[tuple[str, list[Word]]]:
    """Groups labelled words to entities; returns (type, words) of each.

    Args:
      words: the words of a text, in order.
      scheme: "BIO" or "BIOES": an entity continues with I- or E- of its type and ends before any other label; one that
        starts with I- or E- counts too, as in transformers. A label without such a prefix is an entity of its word,
        unless it marks a position that is no word ([CLS], X). "": each word is an entity of its own.
      written: how the labels write their prefixes; None: capitals, with types.
    """
    written = written or schemes.Spelling()
    groups: list[tuple[str, list[Word]]] = []
    is_open = False
    for word in words:
        tag = schemes.parse(word.label, written) if scheme else None
        is_outside = schemes.canonical(word.label, written) == schemes.OUTSIDE or (
            scheme and not tag and schemes.is_mark(word.label)
        )
        if is_outside:
            is_open = False
            continue
        letter, kind = tag or ("S", word.label)
        kind = kind or _UNTYPED
        if is_open and letter in ("I", "E") and groups[-1][0] == kind:
            groups[-1][1].append(word)
        else:
            groups.append((kind, [word]))
        is_open = letter in ("B", "I")
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
