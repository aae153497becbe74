"""The label, the labels or the number that a text or a pair of texts gets."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import special

from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.inference import windows
from bert_jax.inference.batching import Row
from bert_jax.inference.predictor import Predictor, require_task
from bert_jax.interop.pretrained import Pretrained

MERGES = {"mean": np.mean, "max": np.max}
_PRESENT = 0.5  # probability from which one of several labels is given


class Classifier(Predictor):
    """Labels texts or pairs of texts with a model fine-tuned for sequence classification.

    Each answer is {"label", "score", "scores"}; scores has a value for every label. By the model's problem:

      single_label: the most probable label and its probability; probabilities that sum to 1. A model with one label
        gives the sigmoid of its logit, as transformers' pipeline does.
      multi_label: the list of labels with a probability of 0.5 or more, most probable first, and the highest
        probability of any label; each label's own probability.
      regression: None and the number.

    Args:
      model: as open_model gives it.
      long: what happens to a text that is longer than the model. "windows": its overlapping windows' logits are
        merged; "truncate": its beginning counts. A pair is always truncated, the longer text first, as in fine-tuning.
      merge: of the logits of windows: "mean" or "max".
      dtype, packing: see Predictor.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def __init__(
        self,
        model: Pretrained,
        *,
        long: str = "windows",
        merge: str = "mean",
        dtype: str | None = None,
        packing: str | bool = "auto",
    ):
        windows.check_long(long)
        if merge not in MERGES:
            raise UserError(f"merge: found {merge!r}; expected {' or '.join(MERGES)}")
        super().__init__(model, dtype=dtype, packing=packing)
        self._long, self._merge = long, merge

    def __call__(
        self, text: str | Sequence[str], text_pair: str | Sequence[str] | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The answer to a text, or a list of answers to several in their order.

        Args:
          text: one text or several.
          text_pair: the second text of a pair, or as many of them as there are texts.

        Raises:
          UserError: a text is empty, or the numbers of texts differ.
        """
        firsts = [text] if isinstance(text, str) else list(text)
        if text_pair is None:
            return self._call([(one,) for one in firsts], isinstance(text, str))
        seconds = [text_pair] if isinstance(text_pair, str) else list(text_pair)
        if len(firsts) != len(seconds):
            raise UserError(f"text_pair: found {len(seconds)} texts; expected {len(firsts)}, one for each text")
        return self._call(list(zip(firsts, seconds, strict=True)), isinstance(text, str))

    def _check_head(self, model):
        require_task(model, "sequence_classification", "classify")

    def _compute(self, network, params, batch, static):
        return network.apply(params, batch)["logits"]

    def _rows(self, examples, where, options):
        firsts = self.tokenizer.encode([example[0] for example in examples], special=True)
        pairs = [i for i, example in enumerate(examples) if len(example) == 2]
        seconds = dict(zip(pairs, self.tokenizer.encode([examples[i][1] for i in pairs], special=True), strict=True))
        rows, counts = [], []
        for i, first in enumerate(firsts):
            some = [self._pair(first, seconds[i])] if i in seconds else self._single(first)
            rows += some
            counts.append(len(some))
        return rows, counts

    def _single(self, ids):
        return windows.single(self.tokenizer, ids, self.max_length, self._long)

    def _pair(self, first, second):
        room = self.max_length - rows_lib.num_special(self.tokenizer, pair=True)
        first_size, second_size = rows_lib.truncate_pair(len(first), len(second), room)
        return Row(*rows_lib.join(self.tokenizer, first[:first_size], second[:second_size]))

    def _answers(self, examples, rows, counts, outputs, options):
        for logits in windows.grouped(outputs, counts):
            yield self._answer(MERGES[self._merge](logits, axis=0))

    def _answer(self, logits):
        labels, problem = self.model.labels, self.model.problem
        if problem == "regression":
            values = logits.tolist()
            return {"label": None, "score": values[0], "scores": dict(zip(labels, values, strict=True))}
        several = problem == "multi_label"
        chances = special.expit(logits) if several or len(logits) == 1 else special.softmax(logits)
        scores = dict(zip(labels, chances.tolist(), strict=True))
        ranked = sorted(scores, key=scores.get, reverse=True)
        label = [one for one in ranked if scores[one] >= _PRESENT] if several else ranked[0]
        return {"label": label, "score": scores[ranked[0]], "scores": scores}
