"""Parses command lines as the commands do, and checks their configs; nothing of them runs.

Reads a JSON list of [module, argument, ...] from standard input and prints a JSON list of messages, "" where a line is
as it should be. Each line is parsed in a process of its own, forked from this one, since flags are global.
"""

import json
import os
import runpy
import sys
import tempfile

import absl.app

from bert_jax import config as config_lib
from bert_jax.config import finetuning


def parse(module, arguments):
    """Parses one line; raises or exits where the command would."""

    def instead_of_run(main, argv=None, flags_parser=None):
        del main, argv
        flags_parser(sys.argv)
        flags = absl.app.flags.FLAGS
        if "config" in flags and flags.config is not None:
            (finetuning if "task" in flags.config else config_lib).validate(flags.config)

    absl.app.run = instead_of_run
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=False)


def message_of(module, *arguments):
    """Returns what a command says about a line that it refuses; "" for one that it takes."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                parse(module, arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else bool(end.code)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}")
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return (said.read().strip() or f"exit code {code}") if code else ""


if __name__ == "__main__":
    print(json.dumps([message_of(*line) for line in json.load(sys.stdin)]))
