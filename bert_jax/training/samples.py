"""Predicts tokens of held-out text, for people to look at: masked ones, the next ones, or replaced ones."""

import itertools
from collections.abc import Mapping

import jax
import numpy as np

from bert_jax import sharding
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.objectives import Objective
from bert_jax.objectives.replaced_tokens import ReplacedTokens
from bert_jax.processes import distributed

_ROWS, _MASKS, _AROUND = 4, 2, 12  # rows that are shown, tokens of each, and tokens on each side of one


def predicted_tokens(objective: Objective, params: dict, batch: Mapping, tokenizer: Tokenizer, mesh) -> list[dict]:
    """Returns what a run's model says of some tokens of held-out text, as dicts of short texts.

    Every process of a run calls it, with a batch of its own; the rows of the first process are shown.

    Args:
      objective: the run's objective.
      params: parameters of every model that is trained, as they lie on the mesh.
      batch: a held-out batch, arrays [batch, ...].
      tokenizer: the tokenizer of its ids.
      mesh: the mesh of the parameters.

    Returns:
      of masked tokens "text", "masked" and "predicted"; of replaced-token detection "text", "original",
      "filled in" and "discriminator"; of a left-to-right objective "text", "next" and "predicted".
    """
    rows = _first_rows(batch)
    if isinstance(objective, ReplacedTokens):
        ids, replaced, chances = _computed(objective.judged, params, rows, mesh)
        return _judgements(rows, ids, replaced, chances, tokenizer)
    if "masked_positions" in rows:
        return masked_tokens(objective, params, rows, tokenizer, mesh)
    return _next_tokens(objective, params, rows, tokenizer, mesh)


def masked_tokens(objective: Objective, params: dict, batch: Mapping, tokenizer: Tokenizer, mesh) -> list[dict]:
    """Returns what a model predicts for some masked tokens: dicts of "text", "masked" and "predicted", in words.

    Args:
      objective, params, batch, tokenizer, mesh: as in `predicted_tokens`; the batch is the same on every process.

    Returns:
      [] where the objective has no masked tokens, or several models, whose parameters differ from the model's own.
    """
    if "masked_positions" not in batch or len(objective.specs) > 1:
        return []
    rows = {name: np.asarray(array[:_ROWS]) for name, array in batch.items()}
    scores, ids = _best(objective, params, rows, mesh)
    return [
        {
            "text": _around(rows["input_ids"][row], rows["attention_mask"][row], position, tokenizer),
            "masked": tokenizer.token(int(rows["masked_labels"][row, slot])),
            "predicted": _in_words(ids[row, slot], scores[row, slot], tokenizer),
        }
        for row, slot, position in _masks(rows, tokenizer)
    ]


def _first_rows(batch):
    """Returns the first rows of process 0's batch on every process."""
    names = sorted(batch)
    arrays = {name: np.asarray(batch[name][:_ROWS]) for name in names}
    values = distributed.broadcast(lambda: {name: arrays[name].tolist() for name in names})
    return {name: np.array(values[name], arrays[name].dtype) for name in names}


def _computed(function, params, rows, mesh):
    """Returns function(params, rows) as numpy arrays on every process."""

    def placed(params, rows):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(params, rows)

    everywhere = sharding.replicated(mesh)
    return jax.device_get(jax.jit(placed, out_shardings=everywhere)(params, sharding.put(rows, everywhere)))


def _best(objective, params, rows, mesh):
    """Returns the likeliest tokens' (probabilities, ids), [rows, slots or sequence, 3]."""

    def best(params, rows):
        logits = objective.evaluated.model.apply(params, rows)["mlm_logits"]
        return jax.lax.top_k(jax.nn.softmax(logits.astype("float32"), axis=-1), 3)

    return _computed(best, params, rows, mesh)


def _masks(rows, tokenizer):
    """Yields (row, slot, position) of the first few masks of each row."""
    for row in range(len(rows["input_ids"])):
        slots = np.flatnonzero(rows["masked_weights"][row] > 0)
        places = [(row, int(slot), int(rows["masked_positions"][row, slot])) for slot in slots]
        hidden = (place for place in places if rows["input_ids"][row, place[2]] == tokenizer.mask_id)
        yield from itertools.islice(hidden, _MASKS)


def _judgements(rows, ids, replaced, chances, tokenizer):
    """Returns what the discriminator says of tokens that the generator filled in."""
    samples = []
    for row, slot, position in _masks(rows, tokenizer):
        chance = float(chances[row, position])
        verdict = f"replaced {chance:.2f}" if chance > 0.5 else f"original {1 - chance:.2f}"
        filled = tokenizer.token(int(ids[row, position])) if replaced[row, position] else "the original"
        samples.append(
            {
                "text": _around(ids[row], rows["attention_mask"][row], position, tokenizer),
                "original": tokenizer.token(int(rows["masked_labels"][row, slot])),
                "filled in": filled,
                "discriminator": verdict,
            }
        )
    return samples


def _next_tokens(objective, params, rows, tokenizer, mesh):
    """Returns what a left-to-right model predicts behind some places of each row."""
    scores, ids = _best(objective, params, rows, mesh)
    samples = []
    for row, present in enumerate(rows["attention_mask"].sum(1).tolist()):
        for position in sorted({present // 3, 2 * present // 3} - {0}):
            if position + 1 < present:
                text = _around(rows["input_ids"][row], rows["attention_mask"][row], position, tokenizer, after=0)
                following = tokenizer.token(int(rows["input_ids"][row, position + 1]))
                predicted = _in_words(ids[row, position], scores[row, position], tokenizer)
                samples.append({"text": text, "next": following, "predicted": predicted})
    return samples


def _in_words(ids, scores, tokenizer):
    return ", ".join(f"{tokenizer.token(int(token))} {score:.2f}" for token, score in zip(ids, scores, strict=True))


def _around(ids, present, position, tokenizer, after=_AROUND):
    """Returns the tokens around a position in words; those that continue a word (##) are joined to it."""
    first, stop = max(0, position - _AROUND), min(int(present.sum()), position + after + 1)
    words = [tokenizer.token(int(token)) for token in ids[first:stop]]
    words[position - first] = f"»{words[position - first]}«"
    return ("... " * (first > 0) + " ".join(words) + " ..." * (stop < int(present.sum()))).replace(" ##", "")
