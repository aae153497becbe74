"""States which of the documents ranked for an anchor are its hard negatives. Imports no jax."""

import dataclasses
import math

from bert_jax.errors import UserError

SAMPLINGS = ("top", "random")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Says which documents are an anchor's hard negatives.

    Attributes:
      count: number of negatives of an anchor.
      skip, depth: ranks that are looked at: after the first `skip`, down to `depth`. A rank counts the documents that
        are not known to answer the anchor.
      margin: a negative's score is at most s - margin * |s|, where s is the lowest score of the anchor's positives;
        None for no bound.
      max_score, min_score: bounds of a negative's score; None for none.
      sampling: one of SAMPLINGS: "top" takes the highest ranks that fit, "random" draws among them.
      seed: seed of the draw.
    """

    count: int = 3
    skip: int = 0
    depth: int = 100
    margin: float | None = 0.05
    max_score: float | None = None
    min_score: float | None = None
    sampling: str = "top"
    seed: int = 0


def check_rule(rule: Rule) -> None:
    """Raises UserError for a rule that no document can meet."""
    if rule.count < 1:
        raise UserError(f"--negatives={rule.count}: expected at least 1")
    if rule.skip < 0:
        raise UserError(f"--skip={rule.skip}: expected at least 0")
    if rule.depth < rule.skip + rule.count:
        raise UserError(
            f"--depth={rule.depth}: leaves {max(0, rule.depth - rule.skip)} ranks after --skip={rule.skip}; expected "
            f"at least {rule.skip + rule.count}, room for --negatives={rule.count}"
        )
    if rule.margin is not None and not 0 <= rule.margin < 1:
        raise UserError(f"--margin={rule.margin:g}: expected a share from 0 to below 1")
    for name in ("max_score", "min_score"):
        value = getattr(rule, name)
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a number")
    if rule.max_score is not None and rule.min_score is not None and rule.min_score > rule.max_score:
        raise UserError(f"--min_score={rule.min_score:g}: above --max_score={rule.max_score:g}; expected at most that")
