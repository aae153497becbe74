"""Extracts answers: cuts a context into overlapping windows, and finds the best spans over all of them.

The rules are those of google-research/bert's run_squad.py: windows start `stride` tokens apart, a span counts in the
window where its first token has the most context, and a question has no answer where [CLS] scores higher than the best
span by more than a threshold. Unlike there, all spans of a context are compared, not only those of the n best starts
and ends of a row: these may all lie in the question, or every end before every start, which would leave no answer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert_jax import _moved
from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer, trimmed

_MIN_CANDIDATES = 400  # spans of a window, at least, among which the n best texts are sought; run_squad.py's 20 x 20

Ids = Sequence[int]
Span = tuple[int, int]


def windows(num_tokens: int, room: int, stride: int) -> list[Span]:
    """Returns the windows of a context, which together hold every token.

    Args:
      num_tokens: tokens of the context.
      room: tokens of a window at most.
      stride: tokens between the starts of windows.

    Returns:
      [start, stop) of each window.
    """
    spans, start = [], 0
    while start + room < num_tokens:
        spans.append((start, start + room))
        start += min(room, stride)
    return [*spans, (start, num_tokens)]


def max_context(spans: Sequence[Span]) -> list[np.ndarray]:
    """Returns, for each window, whether each token has more context there than in other windows, bool [tokens].

    A token's context is the smaller of the numbers of tokens before and after it, plus a hundredth of the window's
    length; of equal ones the first window counts.
    """
    best = np.full(max(stop for _, stop in spans), -1.0)
    owner = np.zeros(len(best), np.int64)
    for i, (start, stop) in enumerate(spans):
        before = np.arange(stop - start)
        context = np.minimum(before, before[::-1]) + 0.01 * (stop - start)
        better = context > best[start:stop]
        best[start:stop][better] = context[better]
        owner[start:stop][better] = i
    return [owner[start:stop] == i for i, (start, stop) in enumerate(spans)]


def make_rows(
    tokenizer: Tokenizer, question: Ids, context: Ids, length: int, stride: int, max_query_length: int
) -> tuple[list[Span], int, list[tuple[list[int], list[int]]]]:
    """Builds a row for each window of a context: the question and the window.

    Args:
      tokenizer: the model's tokenizer.
      question: ids of the question, without special tokens; cut to max_query_length.
      context: ids of the context, without special tokens.
      length: tokens of a row at most; more than max_query_length and the special tokens.
      stride: tokens between the starts of windows.
      max_query_length: tokens of the question that are read.

    Returns:
      ([start, stop) of each window, the column at which a row's window begins, (ids, segments) of each row)
    """
    question = question[:max_query_length]
    special = rows_lib.num_special(tokenizer, pair=True)
    spans = windows(len(context), length - len(question) - special, stride)
    pairs = [rows_lib.join(tokenizer, question, context[start:stop]) for start, stop in spans]
    return spans, rows_lib.second_start(tokenizer, len(question)), pairs


@dataclasses.dataclass(frozen=True)
class Answer:
    """Describes a span of the context that may be the answer.

    Attributes:
      text: context[start:end].
      start, end: offsets in code points.
      logit: start logit of its first token plus end logit of its last.
      probability: softmax over the logits of the n best, with the null answer where there may be none.
    """

    text: str
    start: int
    end: int
    logit: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Answers:
    """Holds the answers to one question.

    Attributes:
      best: the answers other than the null answer, best first, each text once; may be empty.
      null_score: logits of [CLS] as start and end, the smallest over the windows.
      null_probability: probability that there is no answer; 0 where null answers are not considered.
    """

    best: tuple[Answer, ...]
    null_score: float
    null_probability: float

    @property
    def null_odds(self) -> float:
        """Returns the null answer's score minus the best other answer's; infinite where there is no other."""
        return self.null_score - self.best[0].logit if self.best else np.inf

    def choose(self, null_threshold: float | None) -> Answer | None:
        """Returns the best answer; None where there is none, or where null_odds exceed the threshold.

        With a threshold of None, null_odds are not considered.
        """
        if not self.best or (null_threshold is not None and self.null_odds > null_threshold):
            return None
        return self.best[0]


def best_answers(
    context: str,
    offsets: Sequence[Span],
    spans: Sequence[Span],
    begins: int,
    outputs: Sequence[np.ndarray],
    n_best: int,
    max_answer_length: int,
    null: bool,
) -> Answers:
    """Finds the best answers to a question from the logits of its windows.

    Args:
      context: the text.
      offsets: [start, end) of each token in the text, in code points.
      spans, begins: the windows and their column, as make_rows returns them.
      outputs: for each window, float [tokens of its row, 2]: logits of starts and ends.
      n_best: number of answers.
      max_answer_length: tokens of an answer at most.
      null: whether the null answer takes part in the softmax.
    """
    parts = [
        _window_spans(np.asarray(logits, np.float64)[begins:], first, stop - first, owned, n_best, max_answer_length)
        for (first, stop), owned, logits in zip(spans, max_context(spans), outputs, strict=True)
    ]
    candidates = np.concatenate(parts)
    candidates = candidates[np.argsort(-candidates["score"], kind="stable")].tolist()
    null_score = float(min(logits[0, 0] + logits[0, 1] for logits in outputs))

    best = {}
    for score, first, last in candidates:
        if len(best) + (null and null_score >= score) >= n_best:
            break
        start, end = trimmed(context, int(offsets[first][0]), int(offsets[last][1]))
        if start < end:
            best.setdefault(context[start:end], (float(score), start, end))
    scores = [score for score, _, _ in best.values()] + [null_score] * null
    weights = np.exp(np.array(scores) - max(scores, default=0.0))
    probabilities = (weights / weights.sum()).tolist() if scores else []
    answers = tuple(
        Answer(text, start, end, score, probability)
        for (text, (score, start, end)), probability in zip(best.items(), probabilities, strict=False)
    )
    return Answers(answers, null_score, probabilities[-1] if null else 0.0)


def _window_spans(logits, first, size, owned, n_best, max_answer_length):
    """Returns the best spans of a window, in no order, as records (score, first token, last token) of the context.

    Args:
      logits: float64 [row from the window on, 2].
      first: the window's first token in the context.
      size: the window's number of tokens.
      owned: bool [size], the tokens with which a span may start here; see max_context.
      n_best, max_answer_length: see best_answers.
    """
    width = min(max_answer_length, size)
    starts = np.where(owned, logits[:size, 0], -np.inf)
    ends = np.full(size + max(0, width - 1), -np.inf)  # a span ends in its window
    ends[:size] = logits[:size, 1]
    scores = starts[:, None] + (np.lib.stride_tricks.sliding_window_view(ends, width) if size else ends[:, None])
    scores = scores.reshape(-1)
    max_candidates = max(_MIN_CANDIDATES, n_best**2)
    chosen = np.arange(len(scores))
    if len(scores) > max_candidates:
        chosen = np.sort(np.argpartition(-scores, max_candidates)[:max_candidates])
    chosen = chosen[scores[chosen] > -np.inf]
    begin, more = np.divmod(chosen, max(1, width))
    records = np.empty(len(chosen), [("score", np.float64), ("first", np.int64), ("last", np.int64)])
    records["score"], records["first"], records["last"] = scores[chosen], first + begin, first + begin + more
    return records


def token_span(offsets: Sequence[Span], start: int, end: int) -> tuple[int, int] | None:
    """Returns the first and last token that share a character with context[start:end]; None if none does.

    Args:
      offsets: [start, end) of each token in the context, in code points.
      start, end: offsets of the span, in code points.
    """
    starts, ends = np.asarray(offsets).reshape(-1, 2).T
    first = int(np.searchsorted(ends, start, "right"))
    last = int(np.searchsorted(starts, end, "left")) - 1
    return (first, last) if first <= last else None


def __getattr__(name):
    return _moved.find("data.tasks.spans", name)
