"""Computes random numbers and permutations as pure functions of a key and a counter, on uint64 arrays.

Everything random in the pipeline is `draw(key, counter)`, so any row of any epoch can be computed on any host without
state. The mixer is SplitMix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", figure 14).
"""

import hashlib
import math

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 6


def fold(*parts: int | float | str) -> np.uint64:
    """Returns one key from numbers and strings; another order or type gives another key."""
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little"))


def mix(x: np.ndarray) -> np.ndarray:
    """Maps uint64 to uint64 one to one, so that every input bit affects every output bit; any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(key: np.ndarray | np.uint64, counter: np.ndarray | np.uint64) -> np.ndarray:
    """Returns 64 random bits for each pair of key and counter: uint64 in the shape to which these broadcast."""
    with np.errstate(over="ignore"):
        step = np.asarray(counter).astype(np.uint64) * _GOLDEN
        return mix(mix(np.asarray(key, np.uint64) + step) ^ step)


def uniform(bits: np.ndarray) -> np.ndarray:
    """Returns float64 in [0, 1), in the shape of `bits`: 64 random bits each."""
    return (bits >> np.uint64(11)) * 2.0**-53


def below(bits: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Returns int64 in [0, bound) from 64 random bits each, in the shape to which bits and bound broadcast.

    The bound is at most 2**31; a probability is off by at most bound / 2**32 of itself.
    """
    return (((bits >> np.uint64(32)) * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def coin_flips(key: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns how many of `counts` fair coins show heads, exactly binomial.

    Args:
      key: uint64 [n].
      counts: int [n], coins.

    Returns:
      int64 [n].
    """
    heads = np.zeros(len(counts), np.int64)
    left = np.array(counts, np.int64)
    word = 0
    while (left > 0).any():
        take = np.clip(left, 0, 63).astype(np.uint64)
        bits = draw(key, np.uint64(word)) & ((np.uint64(1) << take) - np.uint64(1))
        heads += np.bitwise_count(bits)
        left -= 63
        word += 1
    return heads


def permute(index: np.ndarray, size: int, key: np.ndarray | np.uint64) -> np.ndarray:
    """Returns the images of indexes under a pseudo-random permutation of range(size), int64 in the shape of `index`.

    It takes constant memory: a Feistel network on a grid of rows x columns just larger than `size`, walked until it
    lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 4 and 5).
    """
    rows = np.uint64(max(1, math.isqrt(max(size - 1, 0)) + 1))
    columns = np.uint64(-(-size // int(rows)))
    keys = draw(key, np.arange(_FEISTEL_ROUNDS))
    out = np.array(index, np.uint64)
    outside = np.ones(out.shape, bool)
    while outside.any():
        row, column = np.divmod(out[outside], columns)
        for i in range(0, _FEISTEL_ROUNDS, 2):
            row = (row + (draw(keys[i], column) >> np.uint64(16))) % rows
            column = (column + (draw(keys[i + 1], row) >> np.uint64(16))) % columns
        out[outside] = row * columns + column
        outside = out >= np.uint64(size)
    return out.astype(np.int64)
