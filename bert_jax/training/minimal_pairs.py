"""Compares pairs of sentences by a masked-language model's pseudo-log-likelihood (Salazar et al. 2020).

A sentence's score is the sum of the log-probabilities of its tokens, each masked in turn. With `within_word`, the rest
of the word to the right of the token is masked too, so that a word of several pieces does not give itself away
(PLL-word-l2r; Kauf and Ivanova 2023).
"""

import functools
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import files, sharding
from bert_jax.config.mesh import AXES
from bert_jax.data import rows
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained

_BATCH = 64  # rows, each with one token to predict
_SIDES = ("good", "bad")


def read(path: str | pathlib.Path, group: str = "") -> dict[str, dict]:
    """Reads the pairs of a JSONL file, by FILE:LINE: each has the strings `good` and `bad`, and `group` if given.

    The path "-" is standard input.

    Raises:
      UserError: the file cannot be read or holds no pair, or a line is no such object; names file and line.
    """
    pairs = {}
    name = "standard input" if str(path) == files.STANDARD else path
    expected = "an object with the strings `good` and `bad`" + (f" and with `{group}`" if group else "")
    try:
        with files.open_input(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    pairs[f"{name}:{number}"] = _pair(line, f"{name}:{number}", group, expected)
    except OSError as error:
        near = files.closest_path(path, is_folder=False)
        raise UserError(f"--pairs={path}: cannot be read: {error.strerror or error}; expected JSONL{near}") from error
    if not pairs:
        raise UserError(f"--pairs={path}: empty; expected {expected} on each line")
    return pairs


def evaluate(
    model: Pretrained,
    pairs: Sequence[Mapping],
    within_word: bool = False,
    progress: bool = False,
    names: Sequence[str] | None = None,
) -> list[dict]:
    """Returns the pairs with their scores in nats, `good_score` and `bad_score`, and `correct`.

    `correct` is 1 where the good sentence scores higher, 0 where the bad one does, and 0.5 where both score the same,
    as two sentences of the same tokens do.

    Args:
      model: the model, see runs.models.open_model.
      pairs: each with `good` and `bad`.
      within_word: whether to mask the rest of the word too; see the module.
      progress: shows a bar on a terminal.
      names: names of the pairs for messages; None numbers them from 1.

    Raises:
      UserError: as pseudo_log_likelihoods does.
    """
    names = names or [f"pair {i}" for i in range(1, len(pairs) + 1)]
    texts = {f"{name} `{side}`": pair[side] for name, pair in zip(names, pairs, strict=True) for side in _SIDES}
    scores = pseudo_log_likelihoods(model, texts.values(), within_word, progress, texts).reshape(-1, 2).tolist()
    return [
        dict(pair) | {"good_score": good, "bad_score": bad, "correct": (good > bad) + 0.5 * (good == bad)}
        for pair, (good, bad) in zip(pairs, scores, strict=True)
    ]


def accuracies(scored: Sequence[Mapping], group: str = "") -> dict[str, dict]:
    """Returns `accuracy` and the numbers of `pairs` and `ties`: of "all" pairs, and by the value of the key `group`."""
    groups = {"all": list(scored)}
    for pair in scored if group else ():
        groups.setdefault(str(pair[group]), []).append(pair)
    return {
        name: {
            "accuracy": sum(pair["correct"] for pair in members) / len(members),
            "pairs": len(members),
            "ties": sum(pair["correct"] == 0.5 for pair in members),
        }
        for name, members in groups.items()
    }


def pseudo_log_likelihoods(
    model: Pretrained,
    texts: Iterable[str],
    within_word: bool = False,
    progress: bool = False,
    names: Iterable[str] | None = None,
) -> np.ndarray:
    """Returns each text's score in nats, float64 [texts]: the sum over its tokens except special ones.

    Arguments are those of `evaluate`.

    Raises:
      UserError: the model predicts no masked tokens, or a text is empty or longer than the model.
    """
    spec, tokenizer = model.model.spec, model.tokenizer
    if not spec.language_model or spec.attention == "causal":
        raise UserError(f"--model={model.name}: predicts no masked tokens; expected a masked-language model")
    texts = list(texts)
    if not texts:
        return np.zeros(0)
    ids, starts = tokenizer.encode_with_words(texts)
    room = spec.max_positions - rows.num_special(tokenizer, pair=False)
    for name, tokens in zip(names or [f"text {i}" for i in range(1, len(ids) + 1)], ids, strict=True):
        if not 0 < len(tokens) <= room:
            raise UserError(f"{name}: {len(tokens)} tokens; expected 1 to {room}, which the model reads")
    lengths = np.array([len(tokens) for tokens in ids])
    # One row for each token of each text, short texts first.
    order = np.argsort(lengths, kind="stable")
    text_of = np.repeat(order, lengths[order])
    token_of = np.concatenate([np.arange(length) for length in lengths[order]])
    words = [np.cumsum(start) for start in starts]

    devices = jax.devices()[: math.gcd(_BATCH, jax.device_count())]
    mesh = sharding.make_mesh(dict.fromkeys(AXES, 1) | {"data": -1}, devices)
    params = jax.device_put(model.params, sharding.tree_shardings(model.params, mesh))
    log_probability = jax.jit(functools.partial(_log_probability, model.model))
    scores = np.zeros(len(ids))
    from tqdm import tqdm

    with tqdm(total=len(text_of), unit="token", disable=None if progress else True, leave=False) as bar:
        for begin in range(0, len(text_of), _BATCH):
            chosen = slice(begin, begin + _BATCH)
            batch = _batch(tokenizer, ids, words, text_of[chosen], token_of[chosen], spec, within_word)
            log_probabilities = log_probability(params, jax.device_put(batch, sharding.batch_sharding(mesh)))
            np.add.at(scores, text_of[chosen], np.asarray(log_probabilities, np.float64)[: len(text_of[chosen])])
            bar.update(len(text_of[chosen]))
    return scores


def _pair(line, where, group, expected):
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start} of the line; expected {expected}") from error
    try:
        pair = files.parse_object(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}; expected {expected}") from error
    good = all(isinstance(pair.get(side), str) for side in _SIDES)
    if not good or (group and group not in pair):
        raise UserError(f"{where}: found {text[:60]!r}; expected {expected}")
    for side in _SIDES:
        if not pair[side].strip():
            raise UserError(f"{where}: `{side}` is empty; expected a sentence")
        if re.search("[\ud800-\udfff]", pair[side]):
            raise UserError(f"{where}: `{side}` holds half a surrogate pair; expected Unicode")
    return pair


def _batch(tokenizer, ids, words, texts, tokens, spec, within_word):
    """Returns a batch of rows [rows, sequence] in which one token is masked, with those tokens as `labels` [rows]."""
    longest = max(len(ids[text]) for text in texts) + rows.num_special(tokenizer, pair=False)
    joined = [rows.join(tokenizer, ids[text]) for text in texts]
    batch = rows.pad(tokenizer, joined, rows.bucket(longest, spec.max_positions), _BATCH)
    labels, positions = np.zeros(_BATCH, np.int32), np.zeros((_BATCH, 1), np.int32)
    for row, (text, token) in enumerate(zip(texts.tolist(), tokens.tolist(), strict=True)):
        stop = token + 1
        if within_word:
            stop = int(np.searchsorted(words[text], words[text][token], side="right"))
        labels[row] = ids[text][token]
        positions[row] = token + 1  # behind [CLS]
        batch["input_ids"][row, token + 1 : stop + 1] = tokenizer.mask_id
    return batch | {"masked_positions": positions, "labels": labels}


def _log_probability(model, params, batch):
    logits = model.apply(params, batch)["mlm_logits"][:, 0]
    chosen = jnp.take_along_axis(logits, batch["labels"][:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=1)
