"""Runs the console script `bert-jax COMMAND ...`: the same commands as `python -m bert_jax.COMMAND ...`.

Only the chosen command is imported: each defines its own flags when it is imported, and `bert-jax --help` needs no jax.
"""

import ast
import contextlib
import difflib
import importlib.util
import io
import os
import runpy
import sys
from collections.abc import Iterator

from bert_jax import files

# In the order in which a project needs them.
COMMANDS = (
    "quickstart", "recipes", "prepare", "show_batch", "pretrain", "doctor", "evaluate", "finetune", "mine", "predict",
    "demo", "convert", "plan", "completion",
)  # fmt: skip
EXPERIMENT_COMMANDS = ("launch", "report")
# Words that commands take without a flag.
POSITIONAL = {
    "recipes": ("pretraining", "finetuning"),
    "predict": ("fill-mask", "classify", "tag", "answer", "embed", "search", "rerank"),
    "completion": ("bash", "zsh"),
}


_CODE_OF_SIGPIPE = 141  # as shells report a command whose reader has ended


@contextlib.contextmanager
def output_to_pipes(outlived: bool = False) -> Iterator[None]:
    """Lets a command print into a pipe: text that the terminal's encoding lacks is escaped, and `| head` is no error.

    What cannot be written to standard error is dropped.

    Args:
      outlived: whether that holds for standard output too, so that a command whose result is files goes on without a
        reader, on a full disk or after its terminal is closed.

    Raises:
      SystemExit: with code 141, silently, if the reader of standard output has ended.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = _forgiving(sys.stderr)
    if outlived:
        sys.stdout = _forgiving(sys.stdout)
    try:
        try:
            yield
        except SystemExit:
            _flush()
            raise
        _flush()
    except BrokenPipeError as error:
        broken = [stream for stream in (sys.stdout, sys.stderr) if stream and files.has_no_reader(stream)]
        if not broken and not isinstance(error, files.NoReaderError):
            raise  # another pipe or connection
        for stream in broken:
            files.discard_output(stream)
        sys.exit(_CODE_OF_SIGPIPE)


class _Forgiving(io.RawIOBase):
    """Writes to a stream's file, and drops what cannot be written."""

    def __init__(self, raw):
        self._raw = raw

    def write(self, data):
        try:
            return self._raw.write(data)
        except OSError:
            return len(data)

    def writable(self):
        return True

    def fileno(self):
        return self._raw.fileno()

    def isatty(self):
        return self._raw.isatty()


def _forgiving(stream):
    """Returns the stream of a text, such as sys.stdout, as one that drops what cannot be written."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # unbuffered, the buffer is the file itself
    if not isinstance(raw, io.FileIO):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(raw)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or raw.fileno() == 2,
        write_through=stream.write_through,
    )


def _flush():
    """Writes out what was printed, so that an error of the reader or the disk shows here and not as Python ends."""
    if sys.stdout:
        _write_out(sys.stdout.flush)


def _write_out(write):
    """Calls `write`, which writes to standard output; where the disk is full, prints one line and exits with code 2."""
    try:
        write()
    except BrokenPipeError:
        raise
    except OSError as error:
        files.discard_output(sys.stdout)
        print(f"error: standard output: cannot be written: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str] | None = None) -> None:
    """Runs the command that the arguments name, or prints the list of commands.

    Args:
      argv: the arguments after the program's name; None for this process's arguments.

    Raises:
      SystemExit: with code 2 after one line on stderr if there is no such command, else with the command's own code.
    """
    with output_to_pipes():
        _run(sys.argv[1:] if argv is None else argv)


def _run(arguments):
    name = arguments[0] if arguments else ""
    if not name:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    if name in ("-h", "--help", "help"):
        _write_out(lambda: print(usage()))
        return
    if name in ("-V", "--version"):
        from bert_jax import __version__

        _write_out(lambda: print(f"bert_jax {__version__}"))
        return
    module = module_of(name)
    if module is None:
        known = [command.replace("_", "-") for command in (*COMMANDS, *EXPERIMENT_COMMANDS)]
        close = difflib.get_close_matches(name.replace("_", "-").lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? (see --help)" if close else f"expected one of {', '.join(known)}"
        print(f"error: {name}: unknown command; {hint}", file=sys.stderr)
        sys.exit(2)
    if importlib.util.find_spec(module) is None:
        print(f"error: {name}: {module} is not installed with this package", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"bert-jax {name}", *arguments[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def module_of(name: str) -> str | None:
    """Returns the module that runs a command, such as "bert_jax.show_batch" for "show-batch"; None if unknown."""
    name = name.replace("-", "_")
    if name in COMMANDS:
        return f"bert_jax.{name}"
    if name in EXPERIMENT_COMMANDS:
        return f"{experiments_package()}.{name}"
    return None


def experiments_package() -> str:
    """Returns the package of the experiment launcher: bert_jax.experiments where installed, else the checkout's."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.isfile(os.path.join(root, "experiments", "launch.py")):  # a checkout
        if root not in sys.path:
            sys.path.insert(0, root)
        return "experiments"
    return "bert_jax.experiments"


def usage() -> str:
    """Returns the text of `bert-jax --help`: every command with the first line of its module's docstring."""
    lines = ["usage: bert-jax COMMAND [--flag=value ...]", ""]
    for title, names in (("commands", COMMANDS), ("experiments", EXPERIMENT_COMMANDS)):
        lines += [f"{title}:", *(f"  {name.replace('_', '-'):<12}{summary(name)}" for name in names), ""]
    lines += ["bert-jax COMMAND --help lists a command's flags; bert-jax --version (-V) prints the version."]
    return "\n".join(lines)


def summary(name: str) -> str:
    """Returns the first line of a command's docstring, read from its file without importing it."""
    module = module_of(name)
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or not spec.origin:
        return ""
    with open(spec.origin, encoding="utf-8") as file:
        docstring = ast.get_docstring(ast.parse(file.read())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()
