"""Prints the help of a command, or of one of the several things that it does, and the configuration keys."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Collection
from typing import Any, NoReturn

from absl import flags

from bert_jax import config as config_lib
from bert_jax import listing
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import command_line

WORDS = ("-h", "--h", "-help", "--help")  # that ask for the help of a command


@dataclasses.dataclass(frozen=True)
class Part:
    """Describes one of several things that a command does, for its --help.

    Attributes:
      name: what is written behind the command's name, such as "embed".
      doc: what --help says before the flags.
      flags: names of the flags that it reads.
    """

    name: str
    doc: str
    flags: Collection[str]


def name_as_called() -> None:
    """Makes --help, which prints the docstring of the program, name commands as this one was called."""
    program = sys.modules["__main__"]
    program.__doc__ = _as_called(program.__doc__ or "")


def show(part: Part | None, kind: str) -> NoReturn:
    """Prints the help of the command, or of its part, and exits.

    Args:
      part: what of the command is asked for; None for all of it.
      kind: whose recipes and keys the command takes: "pretraining", "finetuning", or "" for none.
    """
    helps = _flag_helps()
    if part is None:
        lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "flags:", *helps.values()]
    else:
        others = ", ".join(f"--{name}" for name in helps if name not in part.flags)
        lines = [_as_called(part.doc).strip(), "", f"flags of {part.name}:"]
        lines += [text for name, text in helps.items() if name in part.flags]
        lines += ["", *textwrap.wrap(f"Not read by {part.name}: {others}.", 80, break_on_hyphens=False)]
    if kind:
        lines += ["", *listing.help_sections(kind)]
    print("\n".join([*lines, "", "--helpfull lists the flags of the libraries too."]))
    sys.exit(0)


def show_keys(kind: str, recipe: str | None, prefix: str) -> NoReturn:
    """Prints the configuration keys that begin with a prefix, and exits.

    Args:
      kind: whose keys: "pretraining" or "finetuning".
      recipe: the recipe whose values are shown; None for the defaults.
      prefix: the beginning of dotted keys; "" for all.

    Raises:
      UserError: there is no such recipe, or no key begins so.
    """
    base = finetune_config.base if kind == "finetuning" else config_lib.base
    config: Any = config_lib.load_recipe(recipe) if recipe else base()
    print("\n".join(config_lib.help_keys(config, prefix)))
    sys.exit(0)


def _as_called(text):
    """Returns a text that names commands as this one was called."""
    return re.sub(r"python -m bert_jax\.(\w+)", lambda name: command_line(name[1]), text)


def _flag_helps():
    """Returns the help of each of the command's own flags, lines that begin with two spaces, by name."""
    helps: dict[str, str] = {}
    name = ""
    for line in flags.FLAGS.main_module_help().splitlines():
        if match := re.match(r"  (?:-\w,)?--(?:\[no\])?([\w.]+):", line):
            name = match[1]
            helps[name] = line
        elif line.startswith("  ") and name:
            helps[name] += f"\n{line}"
    return helps
