"""What a diagnosis says."""

import dataclasses
from collections.abc import Mapping, Sequence

SEVERITIES = ("error", "warning", "note")  # the most serious first; a note is nothing wrong


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
      name: what programs know it by.
      severity: one of SEVERITIES.
      message: a sentence or two with this run's figures.
      causes: the usual causes, the likeliest in this run first, each with what to change.
      figures: that the message and the causes rest on.
    """

    name: str
    severity: str
    message: str
    causes: Sequence[str] = ()
    figures: Mapping[str, float | int | str | None] = dataclasses.field(default_factory=dict)


def percent(share: float) -> str:
    """A share in words: 0.5 %, 12 %."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"
