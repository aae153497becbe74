"""Extractive answers: overlapping windows of a context, and the best spans over all of them.

The rules are those of google-research/bert's run_squad.py: windows start `stride` tokens apart, a span counts in the
window where its first token has the most context, and a question has no answer where [CLS] scores higher than the best
span by more than a threshold. Except that all spans of a context are compared, not those of the n best starts and ends
of a row: these may all lie in the question, or every end before every start, and then there would be no answer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer

_SPANS = 400  # of a window that are looked at for n best different texts, at least; run_squad.py's 20 x 20

Ids = Sequence[int]
Span = tuple[int, int]


def windows(num_tokens: int, room: int, stride: int) -> list[Span]:
    """[start, stop) of the windows of a context: at most `room` tokens each, `stride` apart; no token is left out."""
    spans, start = [], 0
    while start + room < num_tokens:
        spans.append((start, start + room))
        start += min(room, stride)
    return [*spans, (start, num_tokens)]


def most_context(spans: Sequence[Span]) -> list[np.ndarray]:
    """For each window, bool [tokens]: where a token has more context than in the other windows that hold it.

    A token's context is the smaller of the numbers of tokens before and after it; a longer window wins a tie by a
    hundredth of its length, the first window any other.
    """
    best = np.full(max(stop for _, stop in spans), -1.0)
    owner = np.zeros(len(best), np.int64)
    for i, (start, stop) in enumerate(spans):
        place = np.arange(stop - start)
        context = np.minimum(place, place[::-1]) + 0.01 * (stop - start)
        better = context > best[start:stop]
        best[start:stop][better] = context[better]
        owner[start:stop][better] = i
    return [owner[start:stop] == i for i, (start, stop) in enumerate(spans)]


def make_rows(
    tokenizer: Tokenizer, question: Ids, context: Ids, length: int, stride: int, max_query_length: int
) -> tuple[list[Span], int, list[tuple[list[int], list[int]]]]:
    """A question with each window of its context.

    Args:
      tokenizer: the model's.
      question: its ids, without special tokens; cut to max_query_length.
      context: its ids, the same way.
      length: tokens a row may have; more than max_query_length and the special tokens.
      stride: tokens between the starts of windows.
      max_query_length: tokens of the question that are read.

    Returns:
      (windows, where in each row its window begins, (ids, segments) of each row)
    """
    question = question[:max_query_length]
    special = rows_lib.num_special(tokenizer, pair=True)
    spans = windows(len(context), length - len(question) - special, stride)
    pairs = [rows_lib.join(tokenizer, question, context[start:stop]) for start, stop in spans]
    return spans, rows_lib.second_begins(tokenizer, len(question)), pairs


@dataclasses.dataclass(frozen=True)
class Answer:
    """A stretch of the context.

    Attributes:
      text: context[start:end].
      start, end: in code points.
      logit: of its first and last token together.
      probability: by the logits of the n best, the null answer among them where there may be one.
    """

    text: str
    start: int
    end: int
    logit: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to one question.

    Attributes:
      best: those that are not null, best first, each text once; may be empty.
      null_score: the logits of [CLS] as start and end, the smallest of the windows'.
      null_probability: that there is none; 0 where null answers are not considered.
    """

    best: tuple[Answer, ...]
    null_score: float
    null_probability: float

    @property
    def null_odds(self) -> float:
        """How much higher the null answer scores than the best other one."""
        return self.null_score - self.best[0].logit if self.best else np.inf

    def choose(self, null_threshold: float | None) -> Answer | None:
        """The best answer, or None: where there is none, or null_odds is over the threshold (None: never)."""
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
    """The best answers that the logits of a question's windows give.

    Args:
      context: the text.
      offsets: [start, end) in it of each of its tokens, in code points.
      spans, begins: as of make_rows.
      outputs: for each window, float [tokens of its row, 2]: logits of starts and ends.
      n_best: answers returned.
      max_answer_length: in tokens.
      null: whether "no answer" competes for probability.
    """
    parts = [
        _of_window(np.asarray(logits, np.float64)[begins:], first, stop - first, owned, n_best, max_answer_length)
        for (first, stop), owned, logits in zip(spans, most_context(spans), outputs, strict=True)
    ]
    found = np.concatenate(parts)
    found = found[np.argsort(-found["score"], kind="stable")].tolist()
    null_score = float(min(logits[0, 0] + logits[0, 1] for logits in outputs))

    best = {}
    for score, first, last in found:
        if len(best) + (null and null_score >= score) >= n_best:
            break
        start, end = _trimmed(context, int(offsets[first][0]), int(offsets[last][1]))
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


def _of_window(logits, first, size, owned, n_best, max_answer_length):
    """The best spans of a window of `size` tokens, in no order: (score, first token, last token) of the context."""
    width = min(max_answer_length, size)
    starts = np.where(owned, logits[:size, 0], -np.inf)
    ends = np.full(size + max(0, width - 1), -np.inf)  # a span does not go beyond its window
    ends[:size] = logits[:size, 1]
    scores = starts[:, None] + (np.lib.stride_tricks.sliding_window_view(ends, width) if size else ends[:, None])
    scores = scores.reshape(-1)
    most = max(_SPANS, n_best**2)
    chosen = np.sort(np.argpartition(-scores, most)[:most]) if len(scores) > most else np.arange(len(scores))
    chosen = chosen[scores[chosen] > -np.inf]
    begin, more = np.divmod(chosen, max(1, width))
    made = np.empty(len(chosen), [("score", np.float64), ("first", np.int64), ("last", np.int64)])
    made["score"], made["first"], made["last"] = scores[chosen], first + begin, first + begin + more
    return made


def token_span(offsets: Sequence[Span], start: int, end: int) -> tuple[int, int] | None:
    """The first and last token (inclusive) that share a character with context[start:end]; None if none does."""
    starts, ends = np.asarray(offsets).reshape(-1, 2).T
    first = int(np.searchsorted(ends, start, "right"))
    last = int(np.searchsorted(starts, end, "left")) - 1
    return (first, last) if first <= last else None


def _trimmed(text, start, end):
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
