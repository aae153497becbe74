"""Defines the layers that an embedder has behind its encoder or pooling, as sentence-transformers has them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Activations by their class's name in torch.nn, with that class's defaults. Softmax and its kin are over the last axis.
TORCH_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "ReLU6": jax.nn.relu6,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
    "LogSigmoid": jax.nn.log_sigmoid,
    "LeakyReLU": jax.nn.leaky_relu,
    "RReLU": lambda x: jax.nn.leaky_relu(x, (1 / 8 + 1 / 3) / 2),
    "ELU": jax.nn.elu,
    "CELU": jax.nn.celu,
    "SELU": jax.nn.selu,
    "Mish": jax.nn.mish,
    "Hardswish": jax.nn.hard_swish,
    "Hardsigmoid": jax.nn.hard_sigmoid,
    "Hardtanh": jax.nn.hard_tanh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tanhshrink": lambda x: x - jnp.tanh(x),
    "Softshrink": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0.0),
    "Hardshrink": lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0.0),
    "Softmax": jax.nn.softmax,
    "Softmin": lambda x: jax.nn.softmax(-x),
    "LogSoftmax": jax.nn.log_softmax,
}
_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """Maps vectors [..., inputs] to vectors [..., outputs].

    Attributes:
      kind: "dense" (a linear map and an activation), "layer_norm" or "normalize" (to length 1).
      arrays: float32 arrays by name. A dense layer has "kernel" [inputs, outputs] and perhaps "bias" [outputs],
        "residual" [inputs, outputs] and "slope" [1 or outputs] (PReLU's); a norm has "scale" and "bias".
      activation: a key of TORCH_ACTIVATIONS, or "PReLU"; of a dense layer alone.
      adds_input: whether the input, mapped by "residual" where there is such an array, is added to the output.
    """

    kind: str
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    activation: str = "Identity"
    adds_input: bool = False

    @property
    def inputs(self) -> int:
        """Returns the size of the vectors that the layer reads; 0 for any."""
        first = self.arrays.get("kernel", self.arrays.get("scale"))
        return 0 if first is None else first.shape[0]

    def outputs(self, inputs: int) -> int:
        """Returns the size of the layer's vectors for inputs of a size."""
        return self.arrays["kernel"].shape[1] if "kernel" in self.arrays else inputs

    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Maps float32 vectors [..., inputs] to [..., outputs]."""
        arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        if self.kind == "normalize":
            return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        if self.kind == "layer_norm":
            centred = vectors - vectors.mean(-1, keepdims=True)
            normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _NORM_EPSILON)
            return normed * _last(arrays["scale"], vectors) + _last(arrays["bias"], vectors)
        mapped = _multiply(vectors, arrays["kernel"])
        if "bias" in arrays:
            mapped += _last(arrays["bias"], mapped)
        if self.activation == "PReLU":
            mapped = jnp.where(mapped >= 0, mapped, _last(arrays["slope"], mapped) * mapped)
        else:
            mapped = TORCH_ACTIVATIONS[self.activation](mapped)
        if self.adds_input:
            mapped += _multiply(vectors, arrays["residual"]) if "residual" in arrays else vectors
        return mapped


def output_size(layers: Sequence[Projection], inputs: int) -> int:
    """Returns the size of the vectors that layers, one after the other, make of vectors of a size.

    Raises:
      ValueError: a layer reads vectors of another size than it is given; its text says which.
    """
    for layer in layers:
        if layer.inputs not in (0, inputs):
            raise ValueError(f"a layer reads vectors of {layer.inputs} numbers, but is given {inputs}")
        inputs = layer.outputs(inputs)
    return inputs


def _multiply(vectors, kernel):
    return jnp.matmul(vectors, kernel, precision=jax.lax.Precision.HIGHEST)


def _last(array, like):
    return array.reshape((1,) * (like.ndim - 1) + array.shape)
