"""Reads and writes the weights of a model directory.

Weights are read from safetensors files, from the files of transformers' Flax classes, and for convert alone from
torch's pickles; they are written as safetensors.
"""

import json
import math
import operator
import os
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import safetensors.numpy

from bert_jax.errors import UserError, command_line
from bert_jax.interop import flax_weights

_POINTER = b"version https://git-lfs."  # the beginning of the file that stands for one in Git LFS
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Ends of files of weights that are not read: other libraries' files, and names that no library looks for.
_OTHER_WEIGHTS = {".h5", ".onnx", ".gguf", ".ckpt", ".index", ".pt", ".pth", ".bin", ".safetensors", ".msgpack"}
_STATE = {"training_args", "optimizer", "scheduler", "scaler", "rng_state"}  # files of a trainer beside the weights
_STATES = ("state_dict", "model_state_dict", "model", "module")  # keys of a training loop's dictionary
SHARD_BYTES = 5_000_000_000  # a larger model is written in several files

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


def read(
    directory: pathlib.Path, pickles: bool = False, model: pathlib.Path | None = None
) -> tuple[dict[str, np.ndarray], pathlib.Path]:
    """Returns the arrays of a directory's weights by their torch names, of any shape, and the file that names them.

    The arrays of safetensors files are mapped into memory rather than copied. What Flax classes saved, in a
    safetensors file or in flax_model.msgpack, gets its torch names and layout.

    Args:
      directory: holds model.safetensors or flax_model.msgpack, or shards of one of them and their index.
      pickles: whether pytorch_model.bin is read where there is no safetensors file.
      model: directory of the whole model, of which `directory` is a part; None: `directory` itself.

    Raises:
      UserError: no weights, a pickle, a missing shard, or a file that is cut off or of another format.
    """
    for name in (SINGLE, INDEX):
        if (directory / name).is_symlink() and not (directory / name).exists():
            target = os.readlink(directory / name)
            raise UserError(f"{directory / name}: a link to {target}, which is not there; copy or download it again")
    if (directory / SINGLE).is_file():
        return read_file(directory / SINGLE), directory / SINGLE
    if (directory / INDEX).is_file():
        return _read_shards(directory / INDEX, read_file), directory / INDEX
    pickle = next((directory / name for name in PICKLES if (directory / name).is_file()), None)
    if pickles and pickle:
        return (_read_shards(pickle, _read_pickle) if pickle.suffix == ".json" else _read_pickle(pickle)), pickle
    if (directory / flax_weights.SINGLE).is_file():
        return flax_weights.read_file(directory / flax_weights.SINGLE), directory / flax_weights.SINGLE
    if (directory / flax_weights.INDEX).is_file():
        index = directory / flax_weights.INDEX
        return _read_shards(index, flax_weights.read_file, flax_weights.torch_name), index
    if not pickle:
        others = sorted(p.name for p in directory.iterdir() if p.suffix in _OTHER_WEIGHTS and p.stem not in _STATE)
        held = f"found {', '.join(others[:3])}; " if others else ""
        raise UserError(f"{directory}: no weights; {held}expected {SINGLE}, {INDEX} or {flax_weights.SINGLE}")
    raise UserError(
        f"{pickle}: weights in a pickle, which can run any program when it is opened; expected {SINGLE}. "
        f"{command_line('convert')} --model={model or directory} --output=DIR reads it safely and writes that"
    )


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of one safetensors file, of any shape, mapped into memory. Raises UserError if it is damaged.

    The layout is eight bytes with the length of a JSON header, the header, and the arrays
    (huggingface.co/docs/safetensors). It is read here because the package's own reader for numpy knows no bfloat16.
    """
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if size < 8:
        raise _damaged(path, f"{size} bytes long")
    if data[: len(_POINTER)].tobytes() == _POINTER:
        raise UserError(f"{path}: a pointer of Git LFS, not the weights; expected what `git lfs pull` fetches")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    if length > size - 8:
        raise _damaged(path, f"its header should be {length} bytes long, but {size - 8} are there")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        entries = [(name, str(entry["dtype"]), [*map(operator.index, entry["shape"])],
                    *map(operator.index, entry["data_offsets"]))
                   for name, entry in header.items() if name != "__metadata__"]  # fmt: skip
        saved_by_flax = header.get("__metadata__", {}).get("format") == "flax"
        if any(len(entry) != 5 for entry in entries):
            raise ValueError("data_offsets are not two")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header is not that of a safetensors file") from error
    body = data[8 + length :]
    arrays = {name: _array(path, body, name, *entry) for name, *entry in entries}
    return flax_weights.to_torch(arrays) if saved_by_flax else arrays


def write(arrays: Mapping[str, np.ndarray], directory: pathlib.Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes model.safetensors, or shards and their index.

    Args:
      arrays: by name, of any shape.
      directory: an existing one.
      shard_bytes: most bytes in a file; a larger array is in a file by itself.

    Raises:
      OSError: a file cannot be written.
    """
    shards = list(_shards(arrays, shard_bytes))
    if len(shards) == 1:
        _save(shards[0], directory / SINGLE)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(shard, directory / name)
        weight_map |= dict.fromkeys(shard, name)
    total = {"total_size": sum(array.nbytes for array in arrays.values())}
    index = {"metadata": total, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _save(arrays, path):
    try:
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _shards(arrays, shard_bytes) -> Iterator[dict[str, np.ndarray]]:
    shard, size = {}, 0
    for name, array in arrays.items():
        if shard and size + array.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = array
        size += array.nbytes
    yield shard


def _array(path, body, name, kind, shape, start, stop):
    if kind not in _DTYPES:
        raise _damaged(path, f"{name} has the type {kind!r}")
    dtype = np.dtype(_DTYPES[kind])
    if not 0 <= start <= stop <= body.size:
        raise _damaged(path, f"{name} should end at byte {stop} of the arrays, but they are {body.size} bytes long")
    if stop - start != dtype.itemsize * math.prod(shape):
        raise _damaged(path, f"{name} has {stop - start} bytes, but its shape is {tuple(shape)}")
    return body[start:stop].view(dtype).reshape(shape)


def _read_shards(index, read_shard, rename=str):
    """Returns the arrays of all shards; `rename` turns the index's names into those that `read_shard` gives."""
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"]
        names = {rename(name): file for name, file in names.items()}
        files = sorted(set(map(os.fspath, names.values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of shards; expected JSON with a weight_map") from error
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index}: names {', '.join(missing)}, which the directory lacks; expected every shard")
    arrays = {}
    for name in files:
        arrays |= read_shard(index.parent / name)
    absent = sorted(names.keys() - arrays.keys())
    if absent:
        raise UserError(f"{index}: names {', '.join(absent)}, which the shards do not hold")
    return arrays


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: weights in a pickle, which only torch reads, and it is not installed; "
            f"expected {SINGLE}, or torch beside bert_jax"
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        tensors = next((tensors[key] for key in _STATES if isinstance(tensors.get(key), Mapping)), tensors)
        tensors = {name: x for name, x in tensors.items() if isinstance(x, torch.Tensor)}  # beside a step or a loss
        if not tensors:
            raise ValueError("no tensor in it")
        return {name: _from_torch(torch, tensor) for name, tensor in tensors.items()}
    except Exception as error:  # torch raises whatever the damage leads to
        raise UserError(
            f"{path}: not read: {' '.join(str(error).split())[:200]}; expected a dictionary of tensors alone"
        ) from error


def _from_torch(torch, tensor):
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _damaged(path, reason):
    return UserError(f"{path}: cut off or no safetensors file: {reason}; copy or download it again")
