"""Defines the one error class for mistakes a user can make, and how its messages quote a text and name a command."""

import itertools
import os
import re
import shlex
import sys


class UserError(Exception):
    """Reports a mistake in a config, a file, a vocabulary, a checkpoint or a mesh.

    The message is one line that names the file or key, what was found, what was expected, and what to do.
    The commands print it after "error: " and exit with code 2; in Python it is an ordinary exception.
    """


def ran_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception, of Python, numpy or XLA, says that memory ran out."""
    text = str(error)
    is_xla_error = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (is_xla_error and ("RESOURCE_EXHAUSTED" in text or "ut of memory" in text))


def shortened(text: str, length: int = 60) -> str:
    """Returns the beginning of a text, at most `length` characters, for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def command_line(name: str) -> str:
    """Returns how to run a command, in the form in which this program itself was run.

    Args:
      name: the command's module, such as "show_batch".

    Returns:
      "python -m bert_jax.show_batch" or "python -m bert_jax show-batch" in a program that was started so, and
      "bert-jax show-batch" in any other, a Python session too.
    """
    module = next((word for option, word in itertools.pairwise(sys.orig_argv) if option == "-m"), "")
    if module.startswith("bert_jax.") and module != "bert_jax.cli":
        return f"python -m bert_jax.{name}"
    program = "python -m bert_jax" if module in ("bert_jax", "bert_jax.cli") else "bert-jax"
    return f"{program} {name.replace('_', '-')}"


def quoted(word: str) -> str:
    """Returns a word as a shell reads it; bytes of a file's name that are not UTF-8 are written as $'\\xe9'."""
    if not re.search("[\ud800-\udfff]", word):
        return shlex.quote(word)
    letters = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"
