"""Windows of a context, and the best answers over all of them."""

import re

import numpy as np
import pytest

from bert_jax.data.tasks import spans


def test_windows():
    assert spans.windows(10, 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert spans.windows(9, 4, 100) == [(0, 4), (4, 8), (8, 9)]
    assert spans.windows(4, 4, 1) == [(0, 4)] and spans.windows(0, 4, 1) == [(0, 0)]


def official_owner(windows, token):
    """Returns the window with the most context by run_squad.py's rule; the first wins a tie."""
    scores = [
        min(token - start, stop - 1 - token) + 0.01 * (stop - start) if start <= token < stop else -1
        for start, stop in windows
    ]
    return scores.index(max(scores))


def test_max_context_by_the_official_rule():
    for length, room, stride in ((30, 8, 3), (31, 10, 10), (17, 8, 5), (40, 9, 1)):
        windows = spans.windows(length, room, stride)
        owned = spans.max_context(windows)
        for token in range(length):
            owners = [i for i, (start, stop) in enumerate(windows) if start <= token < stop and owned[i][token - start]]
            assert owners == [official_owner(windows, token)]


def slow_best_answers(context, offsets, windows, begins, outputs, n_best, longest, null):
    """Searches pair by pair, as the rules are written: returns (texts with their logits, null score)."""
    candidates = []
    for i, ((first, stop), logits) in enumerate(zip(windows, outputs, strict=True)):
        places = range(begins, begins + stop - first)
        for start in places:
            for end in places:
                if start <= end < start + longest and official_owner(windows, first + start - begins) == i:
                    where = offsets[first + start - begins][0], offsets[first + end - begins][1]
                    candidates.append((logits[start, 0] + logits[end, 1], context[where[0] : where[1]]))
    null_score = min(logits[0].sum() for logits in outputs)
    if null:
        candidates.append((null_score, ""))
    best = []
    for score, text in sorted(candidates, key=lambda candidate: -candidate[0]):
        if len(best) < n_best and text not in [other for other, _ in best]:
            best.append((text, score))
    return [(text, score) for text, score in best if text], null_score


def test_best_answers_by_the_official_rule():
    rng = np.random.default_rng(0)
    context = "".join(rng.choice(list("ab "), 60))
    offsets = [match.span() for match in re.finditer(r"\S", context)]
    for trial in range(30):
        room, begins, null = int(rng.integers(6, 30)), 5, bool(trial % 2)
        windows = spans.windows(len(offsets), room, 4)
        outputs = [rng.normal(size=(begins + stop - start + 1, 2)) for start, stop in windows]
        arguments = context, offsets, windows, begins, outputs, 6, 9, null
        answers = spans.best_answers(*arguments)
        expected, null_score = slow_best_answers(*arguments)
        assert [answer.text for answer in answers.best] == [text for text, _ in expected]
        assert [answer.logit for answer in answers.best] == pytest.approx([score for _, score in expected])
        assert answers.null_score == pytest.approx(null_score)
        total = sum(answer.probability for answer in answers.best) + answers.null_probability
        assert total == pytest.approx(1.0)
        assert all(context[answer.start : answer.end] == answer.text for answer in answers.best)


def test_a_context_is_always_answered():
    """run_squad.py has no answer here: the best starts and ends are in the question, or end before start."""
    question_first = np.zeros((40, 2))
    question_first[:30] = 5.0
    offsets = [(i, i + 1) for i in range(8)]
    answers = spans.best_answers("abcdefgh", offsets, [(0, 8)], 31, [question_first], 20, 30, False)
    assert answers.choose(None).text == "a" and answers.choose(None).probability == pytest.approx(1 / 20)
    backwards = np.zeros((12, 2))
    backwards[3:7, 1] = backwards[7:, 0] = 5.0
    assert spans.best_answers("abcdefgh", offsets, [(0, 8)], 3, [backwards], 4, 30, False).choose(None).text == "a"


def test_the_null_answer():
    nothing = spans.best_answers("", [], [(0, 0)], 3, [np.zeros((4, 2))], 20, 30, True)
    assert nothing.best == () and nothing.choose(0.0) is None and nothing.null_probability == 1.0
    assert spans.best_answers("", [], [(0, 0)], 3, [np.zeros((4, 2))], 20, 30, False).choose(None) is None
    logits = np.zeros((5, 2))
    logits[0] = 1.0
    answers = spans.best_answers("a", [(0, 1)], [(0, 1)], 3, [logits], 20, 30, True)
    assert answers.null_odds == 2.0
    assert answers.choose(2.0).text == "a" and answers.choose(1.9) is None and answers.choose(None).text == "a"
