"""Scales rotary positions, so that a model may read rows that are longer than those it was trained on.

A pair of units turns by its frequency from one token to the next. Each scaling lowers frequencies, the slow ones most,
so that the angles of long rows are those of the rows of training. All is computed in float32, in the order of
transformers' modeling_rope_utils and of Alibaba-NLP/new-impl.
"""

import math

import jax
import numpy as np

from bert_jax.model.positions import angles, rotary_frequencies
from bert_jax.model.spec import Spec


def rotation(spec: Spec, positions: jax.Array, sequence: int, local: bool = False) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of a model's rotary positions, two float32 arrays [..., sequence, head_size / 2].

    Args:
      spec: the model's spec.
      positions: int32 [..., sequence], each token's position in its sequence.
      sequence: tokens of a row, padding and packed neighbours included: the length that dynamic scaling knows.
      local: whether they are for layers with a window.
    """
    base = spec.local_rotary_base if local else spec.rotary_base
    scaling = spec.rotary_scaling if spec.local_rotary_scaling or not local else "none"
    frequencies = _FREQUENCIES[scaling](spec, base, sequence)
    if spec.rotary_half:
        frequencies = frequencies.astype(np.float16)
    cosine, sine = angles(positions, frequencies)
    factor = spec.rotary_attention_factor
    return (cosine, sine) if scaling != "yarn" or factor == 1 else (factor * cosine, factor * sine)


def _plain(spec, base, sequence):
    return rotary_frequencies(spec.head_size, base)


def _linear(spec, base, sequence):
    """Divides all frequencies, which is to divide positions (Chen et al. 2023, section 2.3)."""
    return rotary_frequencies(spec.head_size, base) / np.float32(spec.rotary_factor)


def _ntk(spec, base, sequence):
    """Divides the last frequency by the factor and the others by less (Zhang et al. 2024; Su, kexue.fm/archives/9706).

    The m-th of n pairs is divided by factor^((m / n)^b), equations 10 to 13 there; with b = 1 that is to raise the
    base, equation 6.
    """
    factor, size = spec.rotary_factor, spec.head_size
    if spec.rotary_mixed == 1:
        return rotary_frequencies(size, base * factor) / np.float32(factor ** (2 / size))
    pairs, power = np.arange(1, size // 2 + 1, dtype=np.float32), np.float32(spec.rotary_mixed)
    growth = np.float32(math.log(factor) / (size / 2) ** spec.rotary_mixed)
    return rotary_frequencies(size, base) / np.exp(growth * pairs**power)


def _dynamic(spec, base, sequence):
    """Raises the base by the length of the rows at hand, once they are longer than those of training (transformers)."""
    factor, size, trained = spec.rotary_factor, spec.head_size, spec.rotary_trained
    stretch = factor * max(sequence, trained) / trained - (factor - 1)
    return rotary_frequencies(size, base * stretch ** (size / (size - 2)))


def _yarn(spec, base, sequence):
    """Divides frequencies by the factor, those of pairs that turn often by less or not at all (Peng et al. 2024)."""
    size, trained = spec.head_size, spec.rotary_trained

    def pair_with(turns):
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_with(spec.rotary_fast_turns)), 0)
    high = min(math.ceil(pair_with(spec.rotary_slow_turns)), size - 1)
    ramp = (np.arange(size // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low or 0.001)
    kept = 1 - np.clip(ramp, 0, 1)
    lengths = base ** (np.arange(0, size, 2, dtype=np.float32) / size)
    return (1 / (spec.rotary_factor * lengths)) * (1 - kept) + (1 / lengths) * kept


def _llama3(spec, base, sequence):
    """Divides frequencies by the factor, those of pairs that turn often by less or not at all (Llama 3.1)."""
    slow, fast = spec.rotary_slow_turns, spec.rotary_fast_turns
    frequencies = rotary_frequencies(spec.head_size, base)
    turns = np.float32(spec.rotary_trained) / (np.float32(2 * math.pi) / frequencies)
    kept = np.clip((turns - np.float32(slow)) / np.float32(fast - slow), 0, 1)
    return (1 - kept) * frequencies / np.float32(spec.rotary_factor) + kept * frequencies


_FREQUENCIES = {
    "none": _plain,
    "linear": _linear,
    "ntk": _ntk,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
}
