"""Tests an embedder's layers against their formulas in float64; torch's own are compared in make test-parity."""

import numpy as np
import pytest
from scipy import special

from bert_jax.model.projection import TORCH_ACTIVATIONS, Projection, output_size

ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "GELU": lambda x: x * 0.5 * (1 + special.erf(x / 2**0.5)),
    "SiLU": lambda x: x * special.expit(x),
    "Sigmoid": special.expit,
    "LogSigmoid": lambda x: -np.logaddexp(-x, 0),
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "RReLU": lambda x: np.where(x > 0, x, 11 / 48 * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(x)),
    "CELU": lambda x: np.where(x > 0, x, np.expm1(x)),
    "SELU": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanhshrink": lambda x: x - np.tanh(x),
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "Softmax": lambda x: special.softmax(x, axis=-1),
    "Softmin": lambda x: special.softmax(-x, axis=-1),
    "LogSoftmax": lambda x: special.log_softmax(x, axis=-1),
}


def test_activations():
    x = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32) * 4
    assert TORCH_ACTIVATIONS.keys() == ACTIVATIONS.keys()
    for name, expected in ACTIVATIONS.items():
        actual = TORCH_ACTIVATIONS[name](x)
        np.testing.assert_allclose(actual, expected(x.astype(np.float64)), rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_layers_map_the_last_axis(shape):
    random = np.random.default_rng(1)
    x = random.standard_normal(shape).astype(np.float32)
    arrays = {"kernel": (5, 4), "bias": (4,), "residual": (5, 4), "slope": (1,)}
    arrays = {name: random.standard_normal(size).astype(np.float32) for name, size in arrays.items()}
    mapped = x @ arrays["kernel"] + arrays["bias"]
    mapped = np.where(mapped >= 0, mapped, arrays["slope"] * mapped)
    dense = Projection("dense", arrays, "PReLU", adds_input=True)
    np.testing.assert_allclose(dense(x), mapped + x @ arrays["residual"], rtol=1e-5, atol=1e-5)
    square = Projection("dense", {"kernel": np.eye(5, dtype=np.float32) * 2}, adds_input=True)
    np.testing.assert_allclose(square(x), 3 * x, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(Projection("normalize")(x), axis=-1), 1, rtol=1e-6)
    norm = Projection("layer_norm", {"scale": np.full(5, 2, np.float32), "bias": np.ones(5, np.float32)})
    centred = x - x.mean(-1, keepdims=True)
    expected = 2 * centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) + 1
    np.testing.assert_allclose(norm(x), expected, rtol=1e-4, atol=1e-5)
    assert output_size([square, Projection("normalize"), norm, dense], 5) == 4
    with pytest.raises(ValueError, match="reads vectors of 5 numbers, but is given 4"):
        output_size([dense, square], 5)
