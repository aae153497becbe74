"""Accepts the keyword arguments that the same calls take in sentence-transformers and transformers."""

from collections.abc import Mapping
from typing import Any

import jax

from bert_jax.errors import UserError
from bert_jax.inference.examples import check_count

# Arguments that change no answer if they have one of some values: the values, and what to expect instead of another.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "convert_to_numpy": ((True, None), "True: the answer is an array of numpy"),
    "convert_to_tensor": ((False, None), "False; torch.from_numpy makes a tensor of the array that is returned"),
    "output_value": (("sentence_embedding",), "'sentence_embedding'; bert_jax.load gives the states of the tokens"),
    "pool": ((None,), "None: this process computes all"),
    "chunk_size": ((None,), "None: this process computes all"),
    "num_workers": ((0, None), "0: this process computes all"),
    "apply_softmax": ((False, None), "False: the model's own activation is applied"),
    "activation_fn": ((None,), "None: the model's own activation is applied"),
    "activation_fct": ((None,), "None: the model's own activation is applied"),
    "truncation": ((True, None, "longest_first"), "True; `long` of the class says what happens to a long text"),
    "padding": ((True, False, None, "longest", "max_length"), "True or False: it changes no answer"),
}
_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}  # as torch calls them: as jax does


def check_options(call: str, options: Mapping[str, Any]) -> None:
    """Accepts arguments of the same call in another library that change no answer here.

    Args:
      call: name of the call, for messages.
      options: argument -> value.

    Raises:
      UserError: a value asks for what this library does not do.
      TypeError: no other library's call has an argument of this name.
    """
    for name, value in options.items():
        if name == "batch_size":  # batches are chosen by length
            check_count(name, value)
        elif name == "show_progress_bar":
            check_switch(name, value)
        elif name == "device":
            _check_device(value)
        elif name not in _FIXED:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        else:
            values, expected = _FIXED[name]
            if not any(value is known or (isinstance(value, str) and value == known) for known in values):
                raise UserError(f"{name}: found {value!r}; expected {expected}")


def check_switch(name: str, value: Any) -> bool:
    """Returns an argument that is True or False; None is False. Raises UserError if it is neither."""
    if value not in (True, False, None):
        raise UserError(f"{name}: found {value!r}; expected True or False")
    return bool(value)


def _check_device(value):
    """Raises UserError if an argument `device` names another platform than the one that is in use."""
    if value is None:
        return
    kind = str(getattr(value, "type", value)).partition(":")[0].lower()
    if _PLATFORMS.get(kind, kind) != jax.default_backend():
        raise UserError(
            f"device: found {str(value)!r}; expected {jax.default_backend()!r} or None: the environment variable "
            "JAX_PLATFORMS, before jax is imported, chooses the platform"
        )
