"""Predicts masked tokens."""

from collections.abc import Iterable
from typing import Any

import jax

from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError, shortened
from bert_jax.inference.batching import Row
from bert_jax.inference.examples import check_count
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Example, Predictor, Where, head_names, token_text


class FillMask(Predictor):
    """Predicts the tokens at the masks of a text.

        fill = bert_jax.FillMask(MODEL)
        fill("The [MASK] sat on the mat.", top_k=2)
        # {"masks": [[{"token": "cat", "id": 4937, "score": 0.31}, {"token": "dog", "id": 3899, "score": 0.12}]]}

    The model needs a masked-language-model head. In a run of replaced-token detection (ELECTRA) the generator has it.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
    """

    POSITIONS = "masked_positions"
    OUTPUTS = "slot"
    PART = "language_model"

    def __call__(self, text: Any, top_k: int = 5, **others: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the most probable tokens of each mask.

        Args:
          text: one text or several, each with at least one mask token ("[MASK]", or the vocabulary's own): a string, a
            dict with `text`, or a list, an array, a column or table of pandas, polars, pyarrow or datasets, or a
            generator of these.
          top_k: number of tokens to return for each mask.
          **others: arguments of the same call in transformers and sentence-transformers that change no answer, such as
            batch_size.

        Returns:
          {"masks": [[{"token": str, "id": int, "score": float}, ...], ...]}: a list for each mask of the text, most
          probable first. Scores are probabilities over the whole vocabulary. For several texts, a list of these in the
          order of the texts.

        Raises:
          UserError: a text is empty, has no mask or is longer than the model; or top_k is out of range.
        """
        check_options("FillMask", others)
        return self._call(self._reader.read(text), top_k=top_k)

    def check(self, examples: Iterable[Example], where: Where, allow_empty: bool = False, **options) -> None:
        """Raises UserError for an invalid option, or the first text without a mask or longer than the model."""
        super().check(examples, where, allow_empty, **options)
        for _ in self._prepared(examples, where, options, allow_empty):
            pass

    def _check_head(self, model):
        spec = model.model.spec
        if not spec.language_model:
            raise UserError(
                f"{model.name}: fill-mask needs a model with a masked-language-model head, but this one has "
                f"{head_names(model)}"
            )
        if spec.attention == "causal":
            raise UserError(
                f"{model.name}: left-to-right (config.model.attention=causal), which fills no mask; "
                "expected a masked language model"
            )

    def _static(self, top_k=5):
        return check_count("top_k", top_k, self.tokenizer.vocab_size)

    def _compute(self, network, params, batch, top_k):
        """Returns (probabilities float32, ids int32), both [batch, slots, top_k]."""
        logits = network.apply(params, batch)["mlm_logits"]
        return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top_k)

    def _rows(self, examples, where, options):
        texts = [text for (text,) in examples]
        rows = [
            self._row(text, ids, where(i))
            for i, (text, ids) in enumerate(zip(texts, self.tokenizer.encode(texts, special=True), strict=True))
        ]
        return rows, None

    def _row(self, text, ids, where):
        ids, types = rows_lib.join(self.tokenizer, ids)
        if len(ids) > self.max_length:
            raise UserError(
                f"{where}: {len(ids)} tokens with the special ones, but the model reads at most {self.max_length}; "
                "shorten it"
            )
        positions = [position for position, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not positions:
            mask = self.tokenizer.token(self.tokenizer.mask_id)
            raise UserError(f"{where}: no {mask} in {shortened(text)!r}; expected at least one")
        return Row(ids, types, positions)

    def _answers(self, examples, rows, notes, outputs, options):
        for row, (scores, ids) in zip(rows, outputs, strict=True):
            masks = [self._mask(*mask) for mask in zip(ids, scores, strict=True)]
            yield {"masks": masks[: len(row.positions)]}

    def _mask(self, ids, scores):
        return [
            {"token": token_text(self.tokenizer, token), "id": token, "score": score}
            for token, score in zip(ids.tolist(), scores.tolist(), strict=True)
        ]
