"""What is wrong with a run, in plain words and with its own figures: the most serious first, and what to change.

    python -m bert_jax.doctor WORKDIR [--plan=FILE.json] [--output=FILE.json]

WORKDIR is a run's of pre-training or fine-tuning, finished or not, local or gs://. Its metrics, config and the
manifest of its corpus are read; nothing is changed. --output gets a list, the most serious first, of

    {"name": "stuck_at_unigram", "severity": "error" | "warning" | "note", "message", "causes": [...], "figures": {...}}

A note is nothing wrong. The exit code is 0 whatever is found, 2 where there is no run that can be read.
"""

import json
import os
import pathlib

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's, if it is not given as an argument")
_PLAN = flags.DEFINE_string("plan", None, "what bert_jax.plan --json=FILE wrote, to compare the run's speed with")
_ENTRY = flags.DEFINE_string("plan_entry", "", 'of a --plan of several: which, such as "bert_base on v5e:4x4"')
_OUTPUT = flags.DEFINE_string("output", None, "a JSON file for the findings")


def main(argv):
    given = [name for name in (*argv[1:], _WORKDIR.value) if name]
    if len(given) != 1:
        raise UserError(f"WORKDIR: found {' and '.join(given) or 'none'}; expected python -m bert_jax.doctor WORKDIR")
    from bert_jax.diagnosis import plans, reading, report

    run = reading.read(given[0])
    plan = plans.read(_PLAN.value, _ENTRY.value, run) if _PLAN.value else None
    findings = report.diagnose(run, plan)
    if _OUTPUT.value:
        _write(pathlib.Path(_OUTPUT.value), report.as_json(findings))
    print(report.in_words(run, findings, plan))


def _write(path, found):
    """Beside the target, then renamed: a failure leaves an older output as it was."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    command.run(main, positional="[WORKDIR]")
