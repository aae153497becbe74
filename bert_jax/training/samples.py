"""Predicts masked tokens of held-out text, for people to look at."""

import itertools
from collections.abc import Mapping

import jax
import numpy as np

from bert_jax import sharding
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.objectives import Objective

_ROWS, _MASKS, _AROUND = 4, 2, 12  # rows that are shown, masks of each, and tokens on each side of a mask


def masked_tokens(objective: Objective, params: dict, batch: Mapping, tokenizer: Tokenizer, mesh) -> list[dict]:
    """Returns what a model predicts for some masked tokens: dicts of "text", "masked" and "predicted", in words.

    Args:
      objective: the run's objective.
      params: parameters of every model that is trained, as they lie on the mesh.
      batch: a held-out batch, arrays [batch, ...], with masked_positions [batch, slots].
      tokenizer: the tokenizer of its ids.
      mesh: the mesh of the parameters.

    Returns:
      [] where the objective has no masked tokens, or several models, whose parameters differ from the model's own.
    """
    evaluated = objective.evaluated
    if "masked_positions" not in batch or len(objective.specs) > 1:
        return []
    rows = {name: np.asarray(array[:_ROWS]) for name, array in batch.items()}

    def best(params, rows):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            logits = evaluated.model.apply(params, rows)["mlm_logits"]
        return jax.lax.top_k(jax.nn.softmax(logits.astype("float32"), axis=-1), 3)

    everywhere = sharding.replicated(mesh)
    compiled = jax.jit(best, out_shardings=everywhere)
    scores, ids = jax.device_get(compiled(params, sharding.put(rows, everywhere)))
    samples = []
    for row in range(len(rows["input_ids"])):
        slots = np.flatnonzero(rows["masked_weights"][row] > 0)
        shown = [slot for slot in slots if _is_masked(rows, row, slot, tokenizer)]
        for slot in itertools.islice(shown, _MASKS):
            position, label = int(rows["masked_positions"][row, slot]), int(rows["masked_labels"][row, slot])
            predicted = ", ".join(
                f"{tokenizer.token(int(token))} {score:.2f}"
                for token, score in zip(ids[row, slot], scores[row, slot], strict=True)
            )
            text = _around(rows["input_ids"][row], rows["attention_mask"][row], position, tokenizer)
            samples.append({"text": text, "masked": tokenizer.token(label), "predicted": predicted})
    return samples


def _is_masked(rows, row, slot, tokenizer):
    return rows["input_ids"][row, rows["masked_positions"][row, slot]] == tokenizer.mask_id


def _around(ids, present, position, tokenizer):
    """Returns the tokens around a position in words; those that continue a word (##) are joined to it."""
    first, stop = max(0, position - _AROUND), min(int(present.sum()), position + _AROUND + 1)
    words = [tokenizer.token(int(token)) for token in ids[first:stop]]
    words[position - first] = f"»{words[position - first]}«"
    return ("... " * (first > 0) + " ".join(words) + " ..." * (stop < int(present.sum()))).replace(" ##", "")
