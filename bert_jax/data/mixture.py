"""Opens the corpora of a config, and mixes them: each has a share of the rows, and takes its turns in a fixed order."""

import functools

import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax.data import hashing, staging
from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError, command_line

PERIOD = 4096  # the order of turns repeats after so many rows, in which the shares are exact


def open_corpora(config: ml_collections.ConfigDict) -> list[Corpus]:
    """Opens the corpora of a config. Raises UserError if they do not fit its model or each other."""
    paths = [path.strip() for path in config.data.corpus.split(",") if path.strip()]
    if not paths:
        raise UserError(
            f"config.data.corpus: empty; expected a directory that `{command_line('prepare')}` wrote "
            "(--config.data.corpus=DIR)"
        )
    corpora = [staging.open_corpus(path) for path in paths]
    for corpus in corpora:
        if config.model.vocab_size and corpus.vocab_size != config.model.vocab_size:
            raise UserError(
                f"config.model.vocab_size: {config.model.vocab_size}, but the corpus {corpus.path} has a vocabulary "
                f"of {corpus.vocab_size}; expected the same (0 takes the corpus's)"
            )
        if corpus.tokenizer.digest() != corpora[0].tokenizer.digest():
            raise UserError(f"{corpus.path}: its tokenizer is not that of {corpora[0].path}; prepare both with one")
    for phase in config_lib.phases(config):
        weights = phase.data.weights
        read = sum(weights[: phase.data.first_corpora or None])
        if weights and (len(weights) != len(corpora) or min(weights) < 0 or not read > 0):
            raise UserError(
                f"config.data.weights: found {tuple(weights)}{phase.name}; expected {len(corpora)} numbers of at "
                "least 0, one for each corpus"
            )
    return corpora


def mixture_shares(data: ml_collections.ConfigDict, corpora: list[Corpus]) -> np.ndarray:
    """Returns the share of the training rows that each corpus has in a phase, float64 [corpora].

    Args:
      data: the phase's config.data: its weights, or without them its temperature, decide, and its first_corpora.
      corpora: the corpora.
    """
    shares = np.array(data.weights, np.float64)
    if not len(shares):
        sizes = np.array([corpus.split("train").num_tokens for corpus in corpora], np.float64)
        shares = sizes ** (1 / data.temperature)
    if data.first_corpora:
        shares[data.first_corpora :] = 0
    return shares / shares.sum()


def unigram_counts(data: ml_collections.ConfigDict, corpora: list[Corpus]) -> np.ndarray:
    """Returns how often each token occurs in the training text, float64 [vocabulary].

    Each corpus counts by its share of the mixture. The counts add up to the number of tokens of all corpora.
    """
    counts = [np.asarray(corpus.unigram_counts, np.float64) for corpus in corpora]
    if len(counts) == 1:
        return counts[0]
    sizes = np.array([count.sum() for count in counts])
    scales = mixture_shares(data, corpora) * sizes.sum() / np.maximum(sizes, 1)
    return functools.reduce(np.add, (scale * count for scale, count in zip(scales, counts, strict=True)))


def mixture_turns(shares: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the order in which corpora take turns, which repeats after PERIOD rows.

    Args:
      shares: float64 [corpora], as `mixture_shares` returns them.
      seed: decides the order.

    Returns:
      (the corpus of each row of a period, [PERIOD]; that row's rank among the corpus's own rows, [PERIOD]; rows of each
      corpus in a period, [corpora]), all int64.
    """
    exact = shares * PERIOD
    turns = np.floor(exact).astype(np.int64)
    turns[np.argsort(turns - exact, kind="stable")[: PERIOD - turns.sum()]] += 1
    turn = np.repeat(np.arange(len(turns)), turns)
    turn = turn[hashing.permute(np.arange(PERIOD), PERIOD, hashing.fold("mixture", seed))]
    rank = np.zeros(PERIOD, np.int64)
    for i, count in enumerate(turns):
        rank[turn == i] = np.arange(count)
    return turn, rank, turns
