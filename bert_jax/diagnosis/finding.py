"""Holds the result of a check."""

import dataclasses
from collections.abc import Mapping, Sequence

from bert_jax import _moved

SEVERITIES = ("error", "warning", "note")  # most serious first; a note reports nothing wrong


@_moved.renamed_members(figures="metrics")
@dataclasses.dataclass(frozen=True)
class Finding:
    """Holds one problem, or a note, that a check reports.

    Attributes:
      name: identifier for programs, such as "stuck_at_unigram".
      severity: one of SEVERITIES.
      message: one or two sentences with the numbers of this run.
      causes: usual causes, each with what to change; the likeliest in this run first.
      metrics: metrics and settings that message and causes are based on.
    """

    name: str
    severity: str
    message: str
    causes: Sequence[str] = ()
    metrics: Mapping[str, float | int | str | None] = dataclasses.field(default_factory=dict)


def percent(share: float) -> str:
    """Formats a share as a percentage: 0.5 %, 12 %."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"
