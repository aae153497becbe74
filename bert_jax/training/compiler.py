"""Chooses the compiler options that training steps need on a mesh; each has its reason here."""

import dataclasses
import importlib.metadata

from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Option:
    """Describes a compiler option.

    Attributes:
      name, value: the option, as `compiler_options` of jax.jit takes it.
      reason: why it is set.
      device_kind: how jax's name of the devices that need it begins.
      fixed_in: version of libtpu from which on it is not needed; "" for none.
      several: whether only a mesh of several devices needs it.
    """

    name: str
    value: bool | int
    reason: str
    device_kind: str = "TPU"
    fixed_in: str = ""
    several: bool = False


OPTIONS = (
    Option(
        "xla_tpu_dot_dot_fusion", False,
        "the compiler overflows its stack where attention with dropout is computed again for the backward pass",
        device_kind="TPU v6 lite", fixed_in="0.0.43.2"),
    Option(
        "xla_jf_spmd_threshold_for_windowed_einsum_mib", 1_000_000,
        "products with parameters that are gathered become loops of small ones, which move more bytes than they hide",
        several=True),
)  # fmt: skip


def needed(mesh: Mesh, libtpu: str | None = None) -> list[Option]:
    """Returns the options that the devices of a mesh need.

    Args:
      mesh: the mesh of a step; its devices may be descriptions for ahead-of-time compilation.
      libtpu: version of libtpu, such as "0.0.42.1"; None for the installed one.
    """
    kind = mesh.devices.flat[0].device_kind
    options = [option for option in OPTIONS if kind.startswith(option.device_kind)]
    options = [option for option in options if not option.several or mesh.size > 1]
    if not options:
        return []
    version = _version(libtpu or _installed())
    return [option for option in options if not option.fixed_in or version < _version(option.fixed_in)]


def options_for(mesh: Mesh) -> dict[str, bool | int] | None:
    """Returns what `needed` names as `compiler_options` of jax.jit; None for nothing."""
    return {option.name: option.value for option in needed(mesh)} or None


def lines(mesh: Mesh) -> list[str]:
    """Returns a line for each option that is set, with its reason."""
    return [f"compiler: {option.name}={str(option.value).lower()}: {option.reason}" for option in needed(mesh)]


def _installed():
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _version(text):
    return tuple(int(part) for part in text.split(".") if part.isdigit())
