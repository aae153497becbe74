"""Reads the plans that bert_jax.plan wrote, whose bounds a run's speed is compared with."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from bert_jax.diagnosis.reading import Run
from bert_jax.errors import UserError
from bert_jax.files import closest_path


@dataclasses.dataclass(frozen=True)
class Plan:
    """Holds the bounds of a recipe on a topology.

    Attributes:
      name: recipe and topology, such as "bert_base on v5e:4x4".
      phases: the phases, each with "rows", "sequence" and "roofline".
    """

    name: str
    phases: Sequence[Mapping]

    def tokens_per_second(self, rows: int, sequence: int) -> float | None:
        """Returns the bound for batches of `rows` x `sequence` tokens; None if the plan has no such phase."""
        for phase in self.phases:
            if (phase["rows"], phase["sequence"]) == (rows, sequence) and phase.get("roofline"):
                return phase["roofline"]["tokens_per_second"]
        return None


def read(name: str, entry: str, run: Run) -> Plan:
    """Reads a plan from a file that `bert_jax.plan` wrote (--json=FILE, or the JSON beside --output=FILE.md).

    Args:
      name: the file.
      entry: the entry of a file that holds several plans, such as "bert_base on v5e:4x4"; "" for the one whose batches
        have the run's shape.
      run: the run to compare with the plan.

    Raises:
      UserError: the file or entry does not exist or is no plan, or not exactly one plan has the run's batches.
    """
    where = f"--plan={name}"
    try:
        plans = _plans(json.loads(pathlib.Path(name).read_text()))
    except OSError as error:
        near = closest_path(name, is_folder=False)
        raise UserError(f"{where}: cannot be read: {error.strerror or error}; expected a plan as JSON{near}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: no plan; expected what plan --json=FILE or --output=FILE.md writes") from error
    shapes = {(phase.data.batch_size, phase.data.sequence_length) for phase in run.phases}
    if entry:
        plans = [plan for plan in plans if plan.name == entry] or _refuse(f"--plan_entry={entry}: not in {name}", plans)
    fitting = [plan for plan in plans if any(plan.tokens_per_second(*shape) for shape in shapes)]
    if not fitting:
        shown = ", ".join(f"{rows} x {sequence}" for rows, sequence in sorted(shapes))
        raise UserError(f"{where}: no bound for batches of {shown} tokens, which the run has; plan its own recipe")
    if len(fitting) > 1:
        _refuse(f"{where}: {len(fitting)} entries have the run's batches; say which with --plan_entry", fitting)
    return fitting[0]


def _refuse(message, plans):
    raise UserError(f"{message}; expected one of {', '.join(plan.name for plan in plans)}")


def _plans(content):
    if "phases" in content:
        return [_plan(f"{content['recipe']} on {content['topology']['name']}", content)]
    return [_plan(name, entry) for name, entry in content.items() if "phases" in entry]


def _plan(name, entry):
    steps = entry if entry.get("fits") or not entry.get("change") else entry["change"]
    for phase in steps["phases"]:
        shape = phase["rows"], phase["sequence"]
        if phase.get("roofline"):
            _ = shape[0] * shape[1] * phase["roofline"]["tokens_per_second"]
    return Plan(name, steps["phases"])
