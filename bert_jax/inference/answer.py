"""Finds the span of a context that answers a question (extractive question answering)."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from bert_jax.config.keys import ANSWERING, FINETUNING
from bert_jax.data.tasks import spans
from bert_jax.inference.batching import Row
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Predictor, require_task
from bert_jax.interop.pretrained import Pretrained

# The defaults of google-research/bert's run_squad.py, for a model without settings of its own.
_DEFAULTS = {"max_length": 384} | {name: FINETUNING[f"task.{name}"].default for name in ANSWERING}


class QuestionAnswerer(Predictor):
    """Finds answers in contexts with a model fine-tuned for extractive question answering (SQuAD).

        answer = bert_jax.QuestionAnswerer(MODEL)
        answer("Who sat?", "The cat sat on the mat.")
        # {"answer": "The cat", "start": 0, "end": 7, "score": 0.8}
        answer([{"question": "Who sat?", "context": "The cat sat on the mat."}])  # a list of answers

    A long context is read in overlapping windows of the length and stride that the model was fine-tuned with, else of
    384 and 128 tokens; the best span of all windows is the answer.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      null_threshold: margin in logits by which the null answer must outscore the best span to be returned; None: the
        one chosen in fine-tuning. A model fine-tuned without unanswerable questions gives no null answers.
      max_answer_length: longest answer in tokens; None: as in fine-tuning, else the default of
        config.task.max_answer_length.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("question", "context")
    REQUIRED = 2
    OUTPUTS = "token"
    POSITIONS = "global_positions"

    def __init__(
        self,
        model: str | os.PathLike | Pretrained,
        *,
        null_threshold: float | None = None,
        max_answer_length: int | None = None,
        dtype: str | None = None,
        packing: str | bool = "auto",
    ):
        model = self.opened(model)
        super().__init__(model, dtype=dtype, packing=packing)
        settings = _DEFAULTS | {key: model.settings[key] for key in _DEFAULTS if model.settings.get(key)}
        self.max_length = min(self.max_length, settings["max_length"])
        if max_answer_length is not None:
            FINETUNING["task.max_answer_length"].check("max_answer_length", max_answer_length)
        self._max_answer_length = max_answer_length or settings["max_answer_length"]
        self._n_best, self._stride = settings["n_best"], settings["doc_stride"]
        # The context gets at least half of a row.
        self._max_query_length = min(settings["max_query_length"], max(1, self.max_length // 2 - 3))
        self._null_threshold = model.settings.get("null_threshold") if null_threshold is None else null_threshold

    def __call__(self, question: Any, context: Any = None, **others: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the best answer to a question in a context.

        Args:
          question: one question or several; or, without `context`, one example or several: a pair (question, context)
            or a dict with `question` and `context`. Several come as a list, an array, a column or table of pandas,
            polars, pyarrow or datasets, or a generator.
          context: the text to search, for all questions, or one for each of them.
          **others: arguments of the same call in transformers and sentence-transformers that change no answer, such as
            batch_size.

        Returns:
          {"answer": str, "start": int, "end": int, "score": float}: the answer is context[start:end], counted in code
          points, and its score is its probability among the n best spans. Without an answer, "answer" is "", "start"
          and "end" are None, and the score is the probability of the null answer. For several questions, a list of
          these in order.

        Raises:
          UserError: a text is empty, an example cannot be read, or the numbers of texts differ.
        """
        check_options("QuestionAnswerer", others)
        reader = self._reader
        if context is None:
            return self._call(reader.read(question))
        if isinstance(context, str) and isinstance(question, Iterable) and not isinstance(question, str | Mapping):
            question = list(question)
            context = [context] * len(question)
        return self._call(reader.pairs(question, context))

    def _check_head(self, model):
        require_task(model, "question_answering", "answer")

    def _compute(self, network, params, batch, static):
        """Returns the logits of start and end, float32 [batch, sequence, 2]."""
        return network.apply(params, batch)["logits"].astype(jnp.float32)

    def _rows(self, examples, where, options):
        questions = self.tokenizer.encode([question for question, _ in examples], special=True)
        contexts = self.tokenizer.encode_with_places([context for _, context in examples])
        rows, notes = [], []
        for question, (ids, offsets, _) in zip(questions, contexts, strict=True):
            windows, begins, pairs = spans.make_rows(
                self.tokenizer, question, ids, self.max_length, self._stride, self._max_query_length
            )
            question_end = begins - len(self.tokenizer.frame.between)
            rows += [Row(*pair, positions=range(question_end)) for pair in pairs]
            notes.append((offsets, windows, begins))
        return rows, notes

    def _answers(self, examples, rows, notes, outputs, options):
        row_logits = (logits[: len(row.ids)] for row, logits in zip(rows, outputs, strict=True))
        for (_, context), (offsets, windows, begins) in zip(examples, notes, strict=True):
            candidates = spans.best_answers(
                context,
                offsets,
                windows,
                begins,
                [next(row_logits) for _ in windows],
                self._n_best,
                self._max_answer_length,
                null=self._null_threshold is not None,
            )
            best = candidates.choose(self._null_threshold)
            if best is None:
                # Also without null answers: then no token of the context can be part of an answer.
                yield {"answer": "", "start": None, "end": None, "score": candidates.null_probability}
            else:
                yield {"answer": best.text, "start": best.start, "end": best.end, "score": best.probability}
