"""Classifies texts or pairs of texts, or scores them (regression)."""

import itertools
import os
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from scipy import special

from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.inference import windows
from bert_jax.inference.batching import Row
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Predictor, prompt_text, require_task
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model.projection import TORCH_ACTIVATIONS

MERGES = {"mean": np.mean, "max": np.max}
_THRESHOLD = 0.5  # multi-label: labels with at least this probability are returned


class Classifier(Predictor):
    """Classifies texts or pairs of texts with a model fine-tuned for sequence classification.

        classify = bert_jax.Classifier(MODEL)
        classify("A fine film.")
        # {"label": "positive", "score": 0.97, "scores": {"negative": 0.03, "positive": 0.97}}
        classify(["It rains.", "It snows."])  # a list of answers
        classify(("It rains.", "It is wet."))  # a pair; classify("It rains.", "It is wet.") is the same
        classify([{"text": "It rains.", "text_pair": "It is wet."}, ("It snows.", "It is warm.")])  # two pairs

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      long: what happens to a text that is longer than the rows of fine-tuning (where these are unknown, than the model
        reads): "windows" combines the logits of overlapping windows, "truncate" reads the beginning alone, "head_tail"
        the beginning and the end. None: as the model was fine-tuned (config.task.long), which "chunks" needs, but
        windows in the place of "truncate". A pair is always truncated, the longer text first, as in fine-tuning.
      merge: how the logits of windows are combined: "mean" or "max".
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def __init__(
        self,
        model: str | os.PathLike | Pretrained,
        *,
        long: str | None = None,
        merge: str = "mean",
        dtype: str | None = None,
        packing: str | bool = "auto",
    ):
        if merge not in MERGES:
            raise UserError(f"merge: found {merge!r}; expected {' or '.join(MERGES)}")
        model = self.opened(model)
        super().__init__(model, dtype=dtype, packing=packing)
        long, self._merge = windows.long_of(long, model, "windows"), merge
        self._names = _distinct(model.labels)
        self._activation = model.settings.get("activation")
        if model.settings.get("max_length"):  # the rows of fine-tuning, or of a cross-encoder
            self.max_length = min(self.max_length, model.settings["max_length"])
        self._long = long

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns the names of the scores of an answer, of which no two are the same."""
        return self._names

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        **others: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the label and the scores of a text or a pair of texts.

        Args:
          text: one example or several. An example is a string; a pair, as a tuple or, in a list, a list of two
            strings; or a record: a dict with `text` and perhaps `text_pair`, or with the names that the columns of the
            model's own training data have. Several come as a list, an array, a column or table of pandas, polars,
            pyarrow or datasets, or a generator.
          text_pair: the second text of a pair, or one for each text.
          prompt: text put before each text, of a pair before the first; None: see prompt_name.
          prompt_name: name of a prompt that a cross-encoder of sentence-transformers defines; None: its default prompt,
            if any.
          **others: arguments of the same call in transformers and sentence-transformers that change no answer, such as
            batch_size.

        Returns:
          {"label", "score", "scores"} for one text, a list of these for several, in the order of the texts. "scores"
          has a value for every label. By the problem that the model was fine-tuned for:

          - single_label: the most probable label, its probability, and probabilities that sum to 1. A model with one
            label gives the sigmoid of its logit, as the pipeline of transformers does.
          - multi_label: the list of labels with a probability of at least 0.5, most probable first; the highest
            probability of any label; and the probability of each label on its own.
          - regression, also one label of a model whose config.json has no problem_type: None, the predicted value, and
            {label: value}.

          The scores of a cross-encoder of sentence-transformers are the activation of the logits that its files name:
          of Identity, which that library writes for several labels, the logits themselves, and the label is that of
          the largest (multi_label: all with a logit of at least 0). Where no file names an activation, one label has a
          number from 0 to 1, and several have the probabilities of the problem as above.
          Labels with equal names are distinguished by their numbers: "neutral", "neutral (2)".

        Raises:
          UserError: a text is empty, an example cannot be read, or the numbers of texts differ.
        """
        check_options("Classifier", others)
        reader = self._reader
        examples = reader.read(text) if text_pair is None else reader.pairs(text, text_pair)
        return self._call(examples, prompt=prompt, prompt_name=prompt_name)

    def _check_head(self, model):
        require_task(model, "sequence_classification", "classify")
        if "classify_refusal" in model.settings:
            raise UserError(model.settings["classify_refusal"])

    def _static(self, prompt=None, prompt_name=None):
        prompt_text(self.model, prompt, prompt_name)

    def _compute(self, network, params, batch, static):
        """Returns logits float32 [batch, labels]."""
        return network.apply(params, batch)["logits"]

    def _rows(self, examples, where, options):
        prompt = prompt_text(self.model, **options)
        firsts = self.tokenizer.encode([prompt + example[0] for example in examples], special=True)
        pairs = [i for i, example in enumerate(examples) if len(example) == 2]
        seconds = dict(zip(pairs, self.tokenizer.encode([examples[i][1] for i in pairs], special=True), strict=True))
        rows, counts = [], []
        for i, first in enumerate(firsts):
            own_rows = [self._pair(first, seconds[i])] if i in seconds else self._single(first)
            rows += own_rows
            counts.append(len(own_rows))
        return rows, counts

    def _single(self, ids):
        return windows.rows_of_text(
            self.tokenizer, ids, self.max_length, self._long,
            head_tokens=self.model.settings.get("head_tokens"), chunk_length=self.chunk_length,
        )  # fmt: skip

    def _pair(self, first, second):
        if self.chunk_length:
            raise UserError(f"text_pair: {self.model.name} reads single texts, in chunks; expected none")
        room = self.max_length - rows_lib.num_special(self.tokenizer, pair=True)
        first_size, second_size = rows_lib.truncate_pair(len(first), len(second), room)
        return Row(*rows_lib.join(self.tokenizer, first[:first_size], second[:second_size]))

    def _answers(self, examples, rows, counts, outputs, options):
        merged = [MERGES[self._merge](logits, axis=0) for logits in windows.group_by_text(outputs, counts)]
        if self._activation:
            activated = np.asarray(TORCH_ACTIVATIONS[self._activation](jnp.asarray(np.stack(merged), jnp.float32)))
            yield from map(self._answer, merged, activated)
        else:
            yield from map(self._answer, merged)

    def _answer(self, logits, activated=None):
        """Returns the answer for logits [labels] and a cross-encoder's activation of them, [labels] or None."""
        labels, problem = self._names, self.model.problem
        if problem == "regression":
            values = (logits if activated is None else activated).tolist()
            return {"label": None, "score": values[0], "scores": dict(zip(labels, values, strict=True))}
        multi_label = problem == "multi_label"
        if activated is None:
            activated = special.expit(logits) if multi_label or len(logits) == 1 else special.softmax(logits)
        scores = dict(zip(labels, activated.tolist(), strict=True))
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        threshold = 0 if self._activation == "Identity" else _THRESHOLD  # a logit of 0 is a probability of 0.5
        label = [name for name in ranked if scores[name] >= threshold] if multi_label else ranked[0]
        return {"label": label, "score": scores[ranked[0]], "scores": scores}


def _distinct(labels):
    """Returns label names of which no two are the same: a later one of the same name has its number behind it.

    Where another label has that name too, the next number that makes a name of its own follows.
    """
    names = []
    for i, label in enumerate(labels):
        numbered = (f"{label} ({number})" for number in itertools.count(i))
        taken = {*labels, *names}
        names.append(next(name for name in numbered if name not in taken) if label in labels[:i] else label)
    return tuple(names)
