"""Reads and writes the layers that directories of sentence-transformers have behind the encoder or the pooling."""

import json
import pathlib
from typing import Any

import numpy as np

from bert_jax.errors import UserError
from bert_jax.interop import model_config, tensors
from bert_jax.model.projection import TORCH_ACTIVATIONS, Projection

# Names of what a layer changes: the states of the tokens, or the vector of the text.
TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"


def dense(
    directory: pathlib.Path, name: str, pooled: bool, weights: dict[str, Any], pickles: bool, usual: str = SENTENCE
) -> Projection:
    """Reads a Dense.

    Args:
      directory: a sentence-transformers directory.
      name: the module's folder in it.
      pooled: whether the layer stands behind the pooling.
      weights: takes the layer's weights, by `name`.
      pickles: whether pickled weights are read.
      usual: what a layer whose files do not say it changes.

    Raises:
      UserError: the layer does not fit its place, its weights or what is supported.
    """
    path = directory / name / "config.json"
    config = model_config.load_json(path)
    place = SENTENCE if pooled else TOKENS
    read = config.get("module_input_name", usual)
    written = config.get("module_output_name") or read
    if (read, written) != (place, place):
        raise UserError(f"{path}: from {read} to {written}; expected a layer that changes {place} here")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = activation.rpartition(".")[2]
    if not activation.startswith("torch.") or kind not in (*TORCH_ACTIVATIONS, "PReLU"):
        known = ", ".join(TORCH_ACTIVATIONS)
        raise UserError(f"{path}: activation_function {activation}; expected one of torch.nn's {known}, PReLU")
    arrays = read_weights(directory, name, weights, pickles)
    taken = {
        "kernel": arrays.get("linear.weight"),
        "bias": arrays.get("linear.bias"),
        "residual": arrays.get("residual.weight"),
        "slope": arrays.get("activation_function.weight"),
    }
    inputs, outputs = config.get("in_features"), config.get("out_features")
    needed = {"kernel"} | ({"bias"} if config.get("bias", True) else set())
    needed |= {"slope"} if kind == "PReLU" else set()
    needed |= {"residual"} if config.get("use_residual") and inputs != outputs else set()
    held = {key for key, array in taken.items() if array is not None}
    kernel = taken["kernel"]
    if held != needed or kernel is None or kernel.shape != (outputs, inputs):
        shapes = {key: array.shape for key, array in arrays.items()}
        raise UserError(f"{path.parent}: weights {shapes} do not fit config.json, {inputs} to {outputs}")
    floats = {key: np.asarray(array, np.float32) for key, array in taken.items() if array is not None}
    floats |= {key: np.ascontiguousarray(floats[key].T) for key in ("kernel", "residual") if key in floats}
    return Projection("dense", floats, kind, bool(config.get("use_residual")))


def layer_norm(directory: pathlib.Path, name: str, weights: dict[str, Any], pickles: bool) -> Projection:
    """Reads a LayerNorm; see `dense` for the arguments. Raises UserError if its weights are not those of one."""
    arrays = read_weights(directory, name, weights, pickles)
    if arrays.keys() != {"norm.weight", "norm.bias"}:
        raise UserError(f"{directory / name}: weights {', '.join(arrays)}; expected norm.weight and norm.bias")
    floats = {"scale": arrays["norm.weight"], "bias": arrays["norm.bias"]}
    return Projection("layer_norm", {key: np.asarray(array, np.float32) for key, array in floats.items()})


def normalize(path: pathlib.Path, pooled: bool) -> list[Projection]:
    """Returns the layers of a Normalize: none where it changes what no vector of a text is made of.

    Args:
      path: its config.json, which may be absent.
      pooled: whether it stands behind the pooling.
    """
    config = model_config.load_json(path) if path.is_file() else {}
    place = SENTENCE if pooled else TOKENS
    read = config.get("module_input_name", SENTENCE)
    if read != place:
        return []
    if (config.get("module_output_name") or read) != place:
        raise UserError(f"{path}: from {read} to {config['module_output_name']}; expected a layer that changes {place}")
    return [Projection("normalize")]


def read_weights(directory: pathlib.Path, name: str, weights: dict[str, Any], pickles: bool) -> Any:
    """Returns the arrays of a module's folder, which `weights` takes by the folder's name."""
    weights[name] = tensors.read(directory / name, pickles, directory)[0]
    return weights[name]


def write_dense(layer: Projection, folder: pathlib.Path, **config: Any) -> None:
    """Writes a dense layer into a module's folder; `config` are further entries of its config.json."""
    kernel, bias = layer.arrays["kernel"], layer.arrays.get("bias")
    sizes = {"in_features": kernel.shape[0], "out_features": kernel.shape[1], "bias": bias is not None}
    activation = {"activation_function": f"torch.nn.modules.{torch_place(layer.activation)}"}
    dump(folder / "config.json", sizes | activation | config)
    arrays = {"linear.weight": np.ascontiguousarray(kernel.T)} | ({} if bias is None else {"linear.bias": bias})
    if "residual" in layer.arrays:
        arrays["residual.weight"] = np.ascontiguousarray(layer.arrays["residual"].T)
    tensors.write(arrays, folder)


def torch_place(activation: str) -> str:
    """Returns the place in torch.nn.modules of an activation's class."""
    return "linear.Identity" if activation == "Identity" else f"activation.{activation}"


def dump(path: pathlib.Path, content: Any) -> None:
    """Writes JSON as the files of these directories have it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
