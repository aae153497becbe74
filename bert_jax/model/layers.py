"""Defines the parts of a layer: linear maps, embeddings, norms, a convolution, activations."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax import _moved
from bert_jax.config.keys import MODEL
from bert_jax.model.dropout import dropout
from bert_jax.model.layouts import constrain
from bert_jax.model.spec import Spec


class Keys:
    """Deals out a key for each parameter, in the order of the modules: the keys that nnx.Rngs(params=key) gives.

    Only the drawing differs: the counter of nnx.Rngs is a variable, whose every update prints the traced program.
    """

    def __init__(self, key: jax.Array):
        self._key = key
        self._count = 0

    def params(self) -> jax.Array:
        """Returns the next key, a jax.random key [] (a scalar)."""
        key = jax.random.fold_in(self._key, self._count)
        self._count += 1
        return key


class Linear(nnx.Module):
    """Computes x @ kernel + bias in the dtype of x.

    Parameters: kernel [inputs, outputs] and, unless built with bias=False, bias [outputs].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stddev: float,
        rngs: Keys,
        bias: bool = True,
        initializer: str = MODEL["initializer"].default,
    ):
        self.kernel = nnx.Param(INITIALIZERS[initializer](rngs.params(), (inputs, outputs), stddev))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.biased = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., inputs] to [..., outputs]."""
        y = self.unbiased(x)
        return add_bias(y, self.bias[...].astype(x.dtype)) if self.biased else y

    def unbiased(self, x: jax.Array) -> jax.Array:
        """Maps [..., inputs] to [..., outputs] without adding the bias."""
        return project(x, self.kernel[...].astype(x.dtype))


@_moved.renamed_members(place="layout")
class Embedding(nnx.Module):
    """Looks up rows of a table [rows, size]; `layout` names the entry of layouts.LAYOUTS that it is read in."""

    @_moved.renamed_arguments(place="layout")
    def __init__(
        self,
        rows: int,
        size: int,
        *,
        stddev: float,
        rngs: Keys,
        layout: str = "table",
        initializer: str = MODEL["initializer"].default,
    ):
        self.embedding = nnx.Param(INITIALIZERS[initializer](rngs.params(), (rows, size), stddev))
        self.layout = layout

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Looks up ids, int32 [...]; returns [..., size]."""
        return constrain(constrain(self.embedding[...], self.layout)[ids], "hidden")


class LayerNorm(nnx.Module):
    """Normalises over the last axis, in float32 (Ba et al. 2016); multiplies by centre + scale."""

    def __init__(self, size: int, *, epsilon: float, bias: bool = True, centre: float = 0.0):
        self.scale = nnx.Param(jnp.full((size,), 1.0 - centre, jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((size,)))
        self.epsilon, self.biased, self.centre = epsilon, bias, centre

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., size]; returns the shape and dtype of x."""
        run = _recomputed(_layer_norm, x)
        return run(x, _around(self.scale[...], self.centre), self.bias[...] if self.biased else None, self.epsilon)


class RMSNorm(nnx.Module):
    """Divides by the root mean square over the last axis, in float32 (Zhang & Sennrich 2019); see LayerNorm."""

    def __init__(self, size: int, *, epsilon: float, centre: float = 0.0):
        self.scale = nnx.Param(jnp.full((size,), 1.0 - centre, jnp.float32))
        self.epsilon, self.centre = epsilon, centre

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., size]; returns the shape and dtype of x."""
        return _recomputed(_rms_norm, x)(x, _around(self.scale[...], self.centre), None, self.epsilon)


def make_norm(spec: Spec, size: int, kind: str = "", bias: bool = True) -> LayerNorm | RMSNorm:
    """Returns the norm layer that a spec asks for.

    Args:
      spec: the model's spec.
      size: units of the vectors.
      kind: a value of config.model.norm; "" for the spec's.
      bias: whether it has a bias where the spec's norms have one.
    """
    centre = float(spec.zero_centered_scale)
    if (kind or spec.norm) == "rms_norm":
        return RMSNorm(size, epsilon=spec.norm_epsilon, centre=centre)
    return LayerNorm(size, epsilon=spec.norm_epsilon, bias=spec.norm_bias and bias, centre=centre)


def _around(scale, centre):
    return scale + centre if centre else scale


def _recomputed(run, x):
    # Only the bfloat16 input is kept for the backward pass, which recomputes the float32 intermediates.
    return run if x.dtype == jnp.float32 else jax.checkpoint(run, prevent_cse=False, static_argnums=3)


def _layer_norm(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + epsilon)
    y = normed * _broadcast(scale, x)
    return (y if bias is None else y + _broadcast(bias, x)).astype(x.dtype)


def _rms_norm(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (y * _broadcast(scale, x)).astype(x.dtype)


class Convolution(nnx.Module):
    """Convolves the tokens of a row, adds a residual and norms the sum (beside the first layer of DeBERTa v2)."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        width, size, groups = spec.conv_kernel_size, spec.hidden_size, spec.conv_groups
        shape = (width, size // groups, size)
        self.kernel = nnx.Param(INITIALIZERS[spec.initializer](rngs.params(), shape, spec.initializer_range))
        self.bias = nnx.Param(jnp.zeros((size,)))
        self.norm = make_norm(spec, size)
        self.groups, self.rate, self.activation = groups, spec.hidden_dropout, ACTIVATIONS[spec.conv_activation]

    @_moved.renamed_arguments(visibility="mask")
    def __call__(self, hidden: jax.Array, residual: jax.Array, mask, seed: jax.Array | None) -> jax.Array:
        """Returns norm(residual + activation(dropout(convolution of hidden))), [batch, sequence, hidden].

        Args:
          hidden: the convolution's input, [batch, sequence, hidden].
          residual: [batch, sequence, hidden].
          mask: kernels.AttentionMask of the rows; padding and tokens of other sequences are read as zeros.
          seed: dropout seed, uint32 [2]; None for no dropout.
        """
        kernel, half = self.kernel[...].astype(hidden.dtype), self.kernel.shape[0] // 2
        batch, sequence, size = hidden.shape
        total = jnp.zeros((batch, sequence, self.groups, size // self.groups), hidden.dtype)
        segments = mask.segments()
        for tap in range(-half, half + 1):
            neighbour = _shift(segments, tap)
            same_segment = (neighbour == segments) & (neighbour != 0)
            x = jnp.where(same_segment[:, :, None], _shift(hidden, tap), jnp.zeros((), hidden.dtype))
            x = x.reshape(batch, sequence, self.groups, -1)
            part = kernel[tap + half].reshape(-1, self.groups, size // self.groups)
            total = total + jnp.einsum("bsgi,igo->bsgo", x, part)
        y = add_bias(total.reshape(hidden.shape), self.bias[...].astype(hidden.dtype))
        return self.norm(residual + self.activation(dropout(y, self.rate, seed)))


def _shift(x, offset):
    """Returns x [batch, sequence, ...] whose position i holds position i + offset; zeros from beyond the row."""
    sequence = x.shape[1]
    wide = jnp.pad(x, [(0, 0), (max(0, -offset), max(0, offset)), *[(0, 0)] * (x.ndim - 2)])
    return jax.lax.slice_in_dim(wide, max(0, offset), max(0, offset) + sequence, axis=1)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x [..., size] + bias [size]."""
    return x + _broadcast(bias, x)


def _add_bias_backward(_, gradient):
    # The sum over rows as a matrix product: on CPU several times as fast as XLA's reduction over leading axes.
    rows = gradient.reshape(-1, gradient.shape[-1])
    total = jnp.matmul(jnp.ones((1, rows.shape[0]), rows.dtype), rows, preferred_element_type=jnp.float32)
    return gradient, total[0].astype(gradient.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x [..., inputs] @ kernel [inputs, outputs]."""
    return x @ kernel


def _project_backward(saved, gradient):
    x, kernel = saved
    rows, gradient_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    # XLA on CPU copies the left operand transposed and recomputes in the copy whatever was fused into it: put the
    # narrower operand on the left.
    if rows.shape[1] <= gradient_rows.shape[1]:
        kernel_gradient = jax.lax.dot_general(rows, gradient_rows, (((0,), (0,)), ((), ())))
    else:
        kernel_gradient = jax.lax.dot_general(gradient_rows, rows, (((0,), (0,)), ((), ()))).T
    return gradient @ kernel.T, kernel_gradient


project.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _project_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the normal distribution function of x, exact by erf (Hendrycks & Gimpel 2016).

    Computed in float32; shape and dtype of x.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    wide = x.astype(jnp.float32)
    cdf = 0.5 + 0.5 * jax.lax.erf(wide * 2.0**-0.5)
    slope = cdf + wide * jnp.exp(-0.5 * wide * wide) * (2.0 * math.pi) ** -0.5
    return (wide * cdf).astype(x.dtype), slope.astype(x.dtype)


# The slope is saved rather than x, which leaves one product for the backward pass.
gelu.defvjp(_gelu_forward, lambda slope, gradient: (gradient * slope,))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    # The others are those of transformers.activations.ACT2FN without parameters, by their names there.
    "gelu_10": lambda x: jnp.clip(gelu(x), -10, 10),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "hardswish": jax.nn.hard_swish,
    "laplace": lambda x: 0.5 * (1 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))),
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "sqrtsoftplus": lambda x: jnp.sqrt(jax.nn.softplus(x)),
}


def truncated_normal(key: jax.Array, shape: tuple[int, ...], stddev: float) -> jax.Array:
    """Draws float32 from a normal cut at two standard deviations and not rescaled, as google-research/bert does.

    Args:
      key: jax.random key.
      shape: shape of the result.
      stddev: standard deviation of the normal before it is cut.
    """
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * stddev


def normal(key: jax.Array, shape: tuple[int, ...], stddev: float) -> jax.Array:
    """Draws float32 of a shape from a normal that is not cut, as the code of RoBERTa, DeBERTa and EuroBERT does.

    Args:
      key: jax.random key.
      shape: shape of the result.
      stddev: standard deviation.
    """
    return jax.random.normal(key, shape, jnp.float32) * stddev


# Values of config.model.initializer.
INITIALIZERS = {"truncated_normal": truncated_normal, "normal": normal}


def _broadcast(vector, like):
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def __getattr__(name: str):
    return _moved.find("model.layers", name)
