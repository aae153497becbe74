"""Streaming examples: errors of the preparing thread, and progress."""

import pytest

from bert_jax.inference import predictor


def test_an_error_in_the_thread_that_prepares_reaches_the_caller():
    def items():
        yield 1
        raise ValueError("two")

    ahead = predictor._ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="two"):
        next(ahead)


def test_progress_counts_examples_where_rows_are_more():
    told = []
    report = predictor._in_examples(10, 35, told.append)
    for rows in (1, 20, 14):
        report(rows)
    assert sum(told) == 10 and min(told) >= 0
