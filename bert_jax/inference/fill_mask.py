"""The tokens behind the mask tokens of a text."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax

from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.inference.batching import Row
from bert_jax.inference.predictor import Example, Predictor, Where, heads, shortened


class FillMask(Predictor):
    """Predicts the tokens behind the mask tokens of a text; of a run of replaced-token detection, its generator does.

    Its calls take and give:

        {"masks": [[{"token": str, "id": int, "score": float}, ...], ...]}

    a list per mask, best first, scores being probabilities over the whole vocabulary.
    """

    POSITIONS = "masked_positions"
    OUTPUTS = "slot"
    PART = "language_model"

    def __call__(self, text: str | Sequence[str], top_k: int = 5) -> dict[str, Any] | list[dict[str, Any]]:
        """The most probable tokens of each mask; of several texts, a list in their order.

        Args:
          text: one text or several, each with at least one mask token ("[MASK]", or what the vocabulary calls it).
          top_k: tokens per mask.

        Raises:
          UserError: a text is empty, has no mask or is longer than the model; or top_k is out of range.
        """
        texts = [text] if isinstance(text, str) else text
        return self._call(((one,) for one in texts), isinstance(text, str), top_k=top_k)

    def check(self, examples: Iterable[Example], where: Where, **options) -> None:
        """Raises UserError for the first text without a mask, or longer than the model."""
        super().check(examples, where, **options)
        for _ in self._prepared(examples, where, options):
            pass

    def _check_head(self, model):
        spec = model.model.spec
        if not spec.language_model:
            raise UserError(
                f"{model.name}: fill-mask needs a model with a masked-language-model head, but this one has "
                f"{heads(model)}"
            )
        if spec.attention == "causal":
            raise UserError(
                f"{model.name}: left-to-right (config.model.attention=causal), which fills no mask; "
                "expected a masked language model"
            )

    def _static(self, top_k=5):
        if not 1 <= top_k <= self.tokenizer.vocab_size:
            raise UserError(f"top_k: found {top_k}; expected 1 to {self.tokenizer.vocab_size}")
        return top_k

    def _compute(self, network, params, batch, top_k):
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
        masks = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not masks:
            mask = self.tokenizer.token(self.tokenizer.mask_id)
            raise UserError(f"{where}: no {mask} in {shortened(text)!r}; expected at least one")
        return Row(ids, types, masks)

    def _answers(self, examples, rows, notes, outputs, options):
        for row, (scores, ids) in zip(rows, outputs, strict=True):
            yield {"masks": [self._mask(*one) for one in zip(ids, scores, strict=True)][: len(row.positions)]}

    def _mask(self, ids, scores):
        return [
            {"token": self._token(token), "id": token, "score": score}
            for token, score in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def _token(self, token):
        # A model may have more rows in its embedding than its vocabulary has tokens.
        return self.tokenizer.token(token) if token < self.tokenizer.vocab_size else ""
