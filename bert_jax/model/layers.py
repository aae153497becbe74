"""The parts that every layer is made of: linear maps, embeddings, norms, activations, dropout."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.layouts import constrained
from bert_jax.model.spec import Spec


class Linear(nnx.Module):
    """x @ kernel + bias; kernel [inputs, outputs], computed in the dtype of x; without `bias` it has none."""

    def __init__(self, inputs: int, outputs: int, *, stddev: float, rngs: nnx.Rngs, bias: bool = True):
        self.kernel = nnx.Param(truncated_normal(rngs.params(), (inputs, outputs), stddev))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.biased = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.unbiased(x)
        return add_bias(y, self.bias[...].astype(x.dtype)) if self.biased else y

    def unbiased(self, x: jax.Array) -> jax.Array:
        """x @ kernel."""
        return project(x, self.kernel[...].astype(x.dtype))


class Embedding(nnx.Module):
    """Rows of a table [rows, size] by id; `place` says how the table lies where it is read (see layouts)."""

    def __init__(self, rows: int, size: int, *, stddev: float, rngs: nnx.Rngs, place: str = "table"):
        self.embedding = nnx.Param(truncated_normal(rngs.params(), (rows, size), stddev))
        self.place = place

    def __call__(self, ids: jax.Array) -> jax.Array:
        return constrained(constrained(self.embedding[...], self.place)[ids], "hidden")


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), in float32; returns the dtype of x."""

    def __init__(self, size: int, *, epsilon: float, bias: bool = True):
        self.scale = nnx.Param(jnp.ones((size,)))
        if bias:
            self.bias = nnx.Param(jnp.zeros((size,)))
        self.epsilon, self.biased = epsilon, bias

    def __call__(self, x: jax.Array) -> jax.Array:
        run = _recomputed(_normed, x)
        return run(x, self.scale[...], self.bias[...] if self.biased else None, self.epsilon)


class RMSNorm(nnx.Module):
    """Division by the root mean square over the last axis (Zhang & Sennrich 2019), in float32; the dtype of x."""

    def __init__(self, size: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones((size,)))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return _recomputed(_divided, x)(x, self.scale[...], None, self.epsilon)


def make_norm(spec: Spec, size: int) -> LayerNorm | RMSNorm:
    """The norm that a model's spec names, of vectors of a size."""
    if spec.norm == "rms_norm":
        return RMSNorm(size, epsilon=spec.norm_epsilon)
    return LayerNorm(size, epsilon=spec.norm_epsilon, bias=spec.norm_bias)


def _recomputed(run, x):
    # A narrow input is all that is kept for the backward pass, which computes the wide rest again.
    return run if x.dtype == jnp.float32 else jax.checkpoint(run, prevent_cse=False, static_argnums=3)


def _normed(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + epsilon)
    y = normed * _broadcast(scale, x)
    return (y if bias is None else y + _broadcast(bias, x)).astype(x.dtype)


def _divided(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (y * _broadcast(scale, x)).astype(x.dtype)


class Convolution(nnx.Module):
    """A convolution over a row's tokens, added to a residual and normed (the first layer's of DeBERTa v2, xlarge)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        width, size, groups = spec.conv_kernel_size, spec.hidden_size, spec.conv_groups
        shape = (width, size // groups, size)
        self.kernel = nnx.Param(truncated_normal(rngs.params(), shape, spec.initializer_range))
        self.bias = nnx.Param(jnp.zeros((size,)))
        self.norm = make_norm(spec, size)
        self.groups, self.rate, self.activation = groups, spec.hidden_dropout, ACTIVATIONS[spec.conv_activation]

    def __call__(self, hidden: jax.Array, residual: jax.Array, visibility, seed: jax.Array | None) -> jax.Array:
        """[batch, sequence, hidden].

        Args:
          hidden: what is convolved, [batch, sequence, hidden].
          residual: of the same shape.
          visibility: of the rows: padding and the tokens of other sequences count as zeros.
          seed: of dropout; None for none.
        """
        kernel, reach = self.kernel[...].astype(hidden.dtype), self.kernel.shape[0] // 2
        batch, sequence, size = hidden.shape
        total = jnp.zeros((batch, sequence, self.groups, size // self.groups), hidden.dtype)
        owners = visibility.segments()
        for tap in range(-reach, reach + 1):
            there = _moved(owners, tap)
            mine = (there == owners) & (there != 0)
            x = jnp.where(mine[:, :, None], _moved(hidden, tap), jnp.zeros((), hidden.dtype))
            x = x.reshape(batch, sequence, self.groups, -1)
            part = kernel[tap + reach].reshape(-1, self.groups, size // self.groups)
            total = total + jnp.einsum("bsgi,igo->bsgo", x, part)
        y = add_bias(total.reshape(hidden.shape), self.bias[...].astype(hidden.dtype))
        return self.norm(residual + self.activation(dropout(y, self.rate, seed)))


def _moved(x, by):
    """[batch, sequence, ...] with what stands `by` places further on in each place; zeros from beyond the row."""
    sequence = x.shape[1]
    wide = jnp.pad(x, [(0, 0), (max(0, -by), max(0, by)), *[(0, 0)] * (x.ndim - 2)])
    return jax.lax.slice_in_dim(wide, max(0, by), max(0, by) + sequence, axis=1)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., size] + bias [size]."""
    return x + _broadcast(bias, x)


def _add_bias_backward(_, gradient):
    # The sum over rows as a matrix product: on CPU several times as fast as XLA's reduction over leading axes.
    rows = gradient.reshape(-1, gradient.shape[-1])
    total = jnp.matmul(jnp.ones((1, rows.shape[0]), rows.dtype), rows, preferred_element_type=jnp.float32)
    return gradient, total[0].astype(gradient.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., inputs] @ kernel [inputs, outputs]."""
    return x @ kernel


def _project_backward(saved, gradient):
    x, kernel = saved
    rows, gradient_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    # XLA on CPU transposes the left operand, and computes again in that copy what was fused into it: let it
    # be the narrower one.
    if rows.shape[1] <= gradient_rows.shape[1]:
        kernel_gradient = jax.lax.dot_general(rows, gradient_rows, (((0,), (0,)), ((), ())))
    else:
        kernel_gradient = jax.lax.dot_general(gradient_rows, rows, (((0,), (0,)), ((), ()))).T
    return gradient @ kernel.T, kernel_gradient


project.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _project_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, exact (Hendrycks & Gimpel 2016); computed in float32."""
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    wide = x.astype(jnp.float32)
    cdf = 0.5 + 0.5 * jax.lax.erf(wide * 2.0**-0.5)
    slope = cdf + wide * jnp.exp(-0.5 * wide * wide) * (2.0 * math.pi) ** -0.5
    return (wide * cdf).astype(x.dtype), slope.astype(x.dtype)


# The slope is kept, not x: one product is left for the backward pass.
gelu.defvjp(_gelu_forward, lambda slope, gradient: (gradient * slope,))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


# Odd, so that each axis runs through all of 2 ** 32 before it repeats; last axis last.
_AXIS_MULTIPLIERS = (0x165667B1, 0xC2B2AE35, 0x85EBCA6B, 0x27D4EB2F, 0x9E3779B1)


def truncated_normal(key: jax.Array, shape: tuple[int, ...], stddev: float) -> jax.Array:
    """A normal cut at two standard deviations and not rescaled, as google-research/bert initialises."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * stddev


def dropout(x: jax.Array, rate: float, seed: jax.Array | None) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest by its inverse, so that the mean stays.

    The bits are a hash of the element's index and the seed: they fuse into the arithmetic around them, they depend
    neither on sharding nor on the platform, and the backward pass computes them again, from the seed alone.

    Args:
      x: any shape.
      rate: in [0, 1); realised in steps of 2 ** -32.
      seed: uint32 [2], of this place and step; None leaves x as it is.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropped(x, rate, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropped(x, rate, seed):
    threshold = min(max(1, round((1.0 - rate) * 2**32)), 2**32 - 1)
    kept = _hash(_element_index(x.shape), seed) < jnp.uint32(threshold)
    return jnp.where(kept, x * (2**32 / threshold), jnp.zeros((), x.dtype))


_dropped.defvjp(
    lambda x, rate, seed: (_dropped(x, rate, seed), seed),
    lambda rate, seed, gradient: (_dropped(gradient, rate, seed), None),
)


def dropout_seeds(key: jax.Array, *shape: int) -> jax.Array:
    """Seeds for `dropout`, uint32 [*shape, 2], drawn at once."""
    return jax.random.bits(key, (*shape, 2), jnp.uint32)


def _element_index(shape):
    """A number for each place that does not depend on the shape, so that padding changes no element's bits."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(_AXIS_MULTIPLIERS[axis - len(shape)])
    return index


def _hash(index, seed):
    """32 mixed bits: two rounds of multiply and xor-shift ("lowbias32") around the seed's words."""
    x = index + seed[0]
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15) ^ seed[1]) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _broadcast(vector, like):
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
