"""Diagnoses a run from its logs: what went wrong, the likely causes, and what to change.

    python -m bert_jax.doctor WORKDIR [--plan=FILE.json] [--scratch=WORKDIR] [--output=FILE.json]

WORKDIR is the workdir of pre-training or fine-tuning, finished or not, local or gs://. The command reads its metrics,
its config and the manifest of its corpus, and changes nothing. --output writes the findings as a JSON list, the most
serious first; each is an object

    {"name": "stuck_at_unigram", "severity": "error" | "warning" | "note", "message", "causes": [...], "figures": {...}}

--scratch names a run of fine-tuning from fresh weights (--config.from_scratch=True). The findings then say whether
WORKDIR's pre-trained start beats it, with an interval over the seeds of both, and if not the likeliest cause.

A note reports nothing wrong. The exit code is 0 whatever is found, and 2 if WORKDIR holds no readable run.
"""

import json

from absl import flags

from bert_jax import command, files, outputs
from bert_jax.errors import UserError, command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "the workdir to read, if it is not given as an argument")
_PLAN = flags.DEFINE_string(
    "plan", None, "file written by bert_jax.plan --json=FILE, whose bound the run's speed is compared with"
)
_ENTRY = flags.DEFINE_string("plan_entry", "", 'entry of a --plan that holds several, such as "bert_base on v5e:4x4"')
_SCRATCH = flags.DEFINE_string(
    "scratch",
    None,
    "of fine-tuning: the workdir of the same task learned with --config.from_scratch=True, to compare with",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the findings to; - prints them instead of the text")


def main(argv):
    workdirs = [name for name in (*argv[1:], _WORKDIR.value) if name]
    if len(workdirs) != 1:
        raise UserError(f"WORKDIR: found {' and '.join(workdirs) or 'none'}; expected {command_line('doctor')} WORKDIR")
    if _ENTRY.value and not _PLAN.value:
        raise UserError(f"--plan_entry={_ENTRY.value}: an entry of --plan, which is missing; expected --plan=FILE too")
    from bert_jax.diagnosis import plans, reading, report

    if _OUTPUT.value:
        outputs.check_file("output", _OUTPUT.value)
    run = reading.read(workdirs[0])
    plan = plans.read(_PLAN.value, _ENTRY.value, run) if _PLAN.value else None
    findings = report.diagnose(run, plan, reading.read(_SCRATCH.value) if _SCRATCH.value else None)
    if _OUTPUT.value:
        text = json.dumps(report.as_json(findings), indent=1, ensure_ascii=False) + "\n"
        command.write_output("output", _OUTPUT.value, text)
    if _OUTPUT.value != files.STANDARD:
        print(report.format_report(run, findings, plan))


if __name__ == "__main__":
    command.run(main, positional="[WORKDIR]")
