"""A rule that no document can meet is refused, by the flag that says it."""

import pytest

from bert_jax.errors import UserError
from bert_jax.retrieval.rules import Rule, check_rule


@pytest.mark.parametrize("rule", [Rule(), Rule(margin=None), Rule(skip=97), Rule(max_score=0.9, min_score=-0.5)])
def test_rules_that_documents_can_meet(rule):
    check_rule(rule)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--negatives=0: expected at least 1"),
        ({"skip": -1}, "--skip=-1: expected at least 0"),
        ({"skip": 99}, "--depth=100: leaves 1 ranks after --skip=99; expected at least 102"),
        ({"margin": 1.0}, "--margin=1: expected a share from 0 to below 1"),
        ({"max_score": float("nan")}, "--max_score=nan: expected a number"),
        ({"min_score": 0.5, "max_score": 0.4}, "--min_score=0.5: above --max_score=0.4"),
    ],
)
def test_rules_that_no_document_can_meet(values, message):
    with pytest.raises(UserError, match=message):
        check_rule(Rule(**values))
