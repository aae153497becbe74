"""Reads and scores extractive question answering: SQuAD 1.1, and 2.0 with its questions that have no answer."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import metrics, records, spans
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_NO_ANSWER_ODDS = 1e9  # null odds where there is no answer but the null answer


@dataclasses.dataclass(frozen=True)
class Question:
    """Holds a question of the data.

    Attributes:
      id: SQuAD's id, or the record's number in the data.
      text: the question.
      context: index of its context.
      answers: gold answers as (text, start in code points); () where there is none.
      labelled: whether the data says what the answers are.
    """

    id: str
    text: str
    context: int
    answers: tuple[tuple[str, int], ...]
    labelled: bool


class Examples:
    """Holds questions with windows of their contexts, one window per row; see data.tasks.Examples.

    Attributes:
      questions: the questions, in the order of the data.
      contexts: the contexts, each text once.
      offsets: for each context, int32 [tokens, 2] in code points; None for train, from which nothing is predicted.
      rows_of: for each question, [first, stop) of its rows.
      others: what else the record of each question holds; () for train.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        questions: Sequence[Question],
        contexts: Sequence[str],
        config: Any,
        others: Sequence[Mapping[str, Any]] = (),
    ):
        task = config.task
        self.tokenizer, self.others = tokenizer, others
        self.questions, self.contexts = questions, contexts
        texts = tokenizer.encode([question.text for question in questions], special=True)
        self._questions = rows_lib.Ragged(ids[: task.max_query_length] for ids in texts)
        self.offsets: list[np.ndarray] | None = []

        def encoded():
            for context in contexts:
                ids, offsets = tokenizer.encode_with_offsets(context, special=True)
                self.offsets.append(np.array(offsets, np.int32).reshape(-1, 2))
                yield ids

        self._contexts = rows_lib.Ragged(encoded())
        special = rows_lib.num_special(tokenizer, pair=True)
        owner, bounds, positions, ends = [], [], [], [0]
        for i, (question, size) in enumerate(zip(questions, self._questions.lengths.tolist(), strict=True)):
            offsets = self.offsets[question.context]
            windows = spans.windows(len(offsets), config.data.sequence_length - size - special, task.doc_stride)
            answer = _answer_tokens(contexts[question.context], question.answers, offsets)
            column = rows_lib.second_start(tokenizer, size)
            for start, stop in windows:
                is_inside = answer is not None and start <= answer[0] and answer[1] < stop
                positions.append([token - start + column for token in answer] if is_inside else [0, 0])
            owner += [i] * len(windows)
            bounds += windows
            ends.append(len(bounds))
        self.rows_of = list(zip(ends, ends[1:], strict=False))
        self._owner = np.array(owner, np.int32)
        self._bounds = np.array(bounds, np.int32).reshape(-1, 2)
        self._positions = np.array(positions, np.int32).reshape(-1, 2)
        self._begins = rows_lib.second_start(tokenizer, self._questions.lengths)
        self._most_before = max(1, len(tokenizer.frame.before) + int(self._questions.lengths.max(initial=0)))
        self.lengths = (self._questions.lengths + special)[self._owner] + self._bounds[:, 1] - self._bounds[:, 0]

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns inputs, [batch, length], and positions of answers, [batch]; see data.tasks.Examples."""
        rows = np.asarray(rows)
        batch = rows_lib.pad(self.tokenizer, [self._row(row) for row in rows], length)
        positions = np.where((rows >= 0)[:, None], self._positions[rows], 0)
        # The question with what stands before it; a row without one has its first token.
        before, places = len(self.tokenizer.frame.before), np.arange(self._most_before, dtype=np.int32)
        ends = np.where(rows >= 0, self._questions.lengths[self._owner[rows]] + before, 1)
        return batch | {
            "global_positions": np.where(places < ends[:, None], places, np.int32(-1)),
            "weights": (rows >= 0).astype(np.float32),
            "start_positions": positions[:, 0],
            "end_positions": positions[:, 1],
        }

    def answers(self, i: int, outputs: Sequence[np.ndarray], task: Any, null: bool) -> spans.Answers:
        """Returns the best answers to the i-th question.

        Args:
          i: index of the question.
          outputs: for each row of the split, float [tokens, 2]: logits of starts and ends.
          task: config.task.
          null: whether the null answer takes part.
        """
        question = self.questions[i]
        first, stop = self.rows_of[i]
        return spans.best_answers(
            self.contexts[question.context],
            self.offsets[question.context],
            self._bounds[first:stop].tolist(),
            int(self._begins[i]),
            outputs[first:stop],
            task.n_best,
            task.max_answer_length,
            null,
        )

    def _row(self, row):
        if row < 0:
            return [self.tokenizer.cls_id], [0]
        question = self._owner[row]
        start, stop = self._bounds[row]
        context = self._contexts[self.questions[question].context][start:stop].tolist()
        return rows_lib.join(self.tokenizer, self._questions[question].tolist(), context)


class QuestionTask:
    """Holds a question answering task; see data.tasks.TaskData.

    Attributes:
      unanswerable: whether a question may have no answer (SQuAD 2.0).
      null_threshold: a question of the test set whose null odds exceed it gets no answer. For a held-out set the best
        threshold is computed; it is `null_threshold` of its score.
    """

    labels = ("start", "end")
    problem = scheme = ""
    settings: Mapping[str, Any] = {}

    def __init__(self, config: Any, tokenizer: Tokenizer):
        self._config, task = config, config.task
        _check(config, tokenizer)
        self.metrics, self.metric = metrics.choose(task, "answers")
        self.null_threshold = 0.0
        optional = ("id", "is_impossible")
        train, held_out, test = records.splits(config, ("question", "context"), ("answers",), optional, "context")
        self.notes = records.notes_of(train, held_out, test)
        questions, contexts = self._questions(train, "train")
        without = [question for question in questions if not question.answers]
        self.unanswerable = task.unanswerable == "yes" or (task.unanswerable == "auto" and bool(without))
        if without and not self.unanswerable:
            raise UserError(
                f"config.task.unanswerable: no, but {len(without):,} questions of config.task.train have no answer, "
                f"the first being {without[0].id}"
            )
        self.train = Examples(tokenizer, questions, contexts, config)
        self.train.offsets = None
        self.held_out = {
            name: Examples(tokenizer, *self._questions(table, f"held out {name}".rstrip()), config, table.others)
            for name, table in held_out.items()
        }
        self.test = Examples(tokenizer, *self._questions(test, "test"), config, test.others) if test else None
        named = {f"held out {name}".rstrip(): examples for name, examples in self.held_out.items()}
        for split, examples in {"train": self.train, **named}.items():
            if len(examples.lengths) > len(examples.questions):
                self.notes.append(
                    f"{split}: {len(examples.questions):,} questions in {len(examples.lengths):,} rows "
                    f"of up to config.data.sequence_length={config.data.sequence_length} tokens"
                )
        first = next(iter(self.held_out.values()))
        nulls = [metrics.answer_scores(_texts(question), "", True)[0] for question in first.questions]
        self.baseline = 100.0 * float(np.mean(nulls)) if self.unanswerable else float("nan")

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns exact_match and f1 of the answers that `predictions` yields, in percent.

        With unanswerable questions also HasAns_* and NoAns_* of questions with and without an answer; best_exact and
        best_f1 over all null thresholds; and null_threshold, the one used, which is the one with the best f1.

        Args:
          examples: one of the held-out sets.
          outputs: logits of starts and ends of each row, [length, 2].
        """
        answers, threshold = self._answers(examples, outputs)
        chosen = [candidates.choose(threshold) for candidates in answers]
        texts = ["" if answer is None else answer.text for answer in chosen]
        pairs = [
            metrics.answer_scores(_texts(question), text, self.unanswerable)
            for question, text in zip(examples.questions, texts, strict=True)
        ]
        percentages = _percentages(pairs)
        scores = {name: percentages[name] for name in self.metrics}
        if not self.unanswerable:
            return scores
        answerable = [bool(question.answers) for question in examples.questions]
        for name, kind in (("HasAns", True), ("NoAns", False)):
            subset = [pair for pair, has in zip(pairs, answerable, strict=True) if has is kind]
            if subset:
                percentages = _percentages(subset)
                scores |= {f"{name}_exact": percentages["exact_match"], f"{name}_f1": percentages["f1"]}
        odds = [_odds(candidates) for candidates in answers]
        for name, values in zip(("best_exact", "best_f1"), zip(*pairs, strict=True), strict=True):
            scores[name], _ = metrics.best_threshold(values, odds, answerable, [bool(text) for text in texts])
        return scores | {"null_threshold": threshold}

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object per question.

        Its fields are id, question, gold (texts, where they are known), answer, start, end, score (its probability),
        and n_best: answer, start, end and score of the best answers. With unanswerable questions also null_score (the
        null answer's probability) and null_odds (by how much its logits exceed the best answer's). Where no answer is
        given, answer is "", start and end are null.

        Args:
          examples: one of the splits.
          outputs: logits of starts and ends of each row, [length, 2].
        """
        answers, threshold = self._answers(examples, outputs)
        for question, candidates in zip(examples.questions, answers, strict=True):
            row = {"id": question.id, "question": question.text}
            if question.labelled:
                row["gold"] = _texts(question)
            chosen = candidates.choose(threshold)
            row |= _as_dict(chosen) if chosen else {"answer": "", "start": None, "end": None}
            row.setdefault("score", candidates.null_probability)
            if self.unanswerable:
                row |= {"null_score": candidates.null_probability, "null_odds": _odds(candidates)}
            yield row | {"n_best": [_as_dict(answer) for answer in candidates.best]}

    def _answers(self, examples, outputs):
        """Returns (spans.Answers of each question, the null threshold or None)."""
        numbers = range(len(examples.questions))
        answers = [examples.answers(i, outputs, self._config.task, self.unanswerable) for i in numbers]
        if not self.unanswerable:
            return answers, None
        if examples is self.test:
            return answers, self.null_threshold
        scores = [
            metrics.answer_scores(_texts(question), candidates.best[0].text, True)[1] if candidates.best else 0.0
            for question, candidates in zip(examples.questions, answers, strict=True)
        ]
        answerable = [bool(question.answers) for question in examples.questions]
        odds = [_odds(candidates) for candidates in answers]
        answered = [bool(candidates.best) for candidates in answers]
        return answers, metrics.best_threshold(scores, odds, answerable, answered)[1]

    def _questions(self, table, split):
        """Returns (questions, contexts); train's questions whose first answer is not at its offset are left out."""
        is_train = split == "train"
        contexts: dict[str, int] = {}
        questions, bad, empty = [], [], []
        columns = [table.columns.get(name) for name in ("question", "context", "answers", "id", "is_impossible")]
        for i in range(len(table)):
            where = table.where(i)
            text, context, gold, name, impossible = (None if column is None else column[i] for column in columns)
            for key, value in (("question", text), ("context", context)):
                if not isinstance(value, str):
                    raise UserError(f"{where}: the {key} is {value!r}; expected text")
            if not text.strip() or not context.strip():
                empty.append(where)
            answers = () if impossible else _gold_answers(gold, where)
            misplaced = [
                (answer, start)
                for answer, start in answers
                if context[start : start + len(answer)] != answer or not answer
            ]
            if misplaced:
                bad.append((name if name is not None else where, *misplaced[0]))
                if is_train and misplaced[0] == answers[0]:  # training uses the first answer
                    continue
            number = contexts.setdefault(context, len(contexts))
            labelled = gold is not None or bool(impossible)
            if not labelled and split != "test":
                raise UserError(f"{where}: no answers; expected a list, if an empty one")
            questions.append(Question(str(i if name is None else name), text, number, answers, labelled))
        if bad:
            name, answer, start = bad[0]
            line = (
                f"{split}: {len(bad):,} questions have an answer that is not at its offset, the first being {name}: "
                f"{answer[:40]!r} at {start}"
            )
            if self._config.task.bad_answers == "error":
                raise UserError(f"{line}; expected it there, or config.task.bad_answers=skip")
            self.notes.append(f"{line}; {'not learned from' if is_train else 'its text still counts'}")
        ids = collections.Counter(question.id for question in questions)
        twice = [name for name, count in ids.items() if count > 1]
        if twice:
            self.notes.append(
                f"{split}: {len(twice):,} ids are those of several questions, the first being {twice[0]}; a file of "
                "answers by id has one of them"
            )
        if empty:
            self.notes.append(f"{split}: {len(empty):,} questions or contexts are empty, the first at {empty[0]}")
        if not questions:
            raise UserError(f"config.task.train: all {len(table):,} answers are not at their offsets")
        return questions, list(contexts)


def squad_predictions(rows: Iterable[dict]) -> dict[str, str]:
    """Returns {id: answer}, which SQuAD's official scripts read, from the objects of `predictions`."""
    return {row["id"]: row["answer"] for row in rows}


def squad_null_odds(rows: Iterable[dict]) -> dict[str, float]:
    """Returns {id: null odds}, which evaluate-v2.0.py reads as --na-prob-file; empty without unanswerable questions."""
    return {row["id"]: row["null_odds"] for row in rows if "null_odds" in row}


def _check(config, tokenizer):
    """Raises UserError for lengths that leave no room for a context."""
    task, length = config.task, config.data.sequence_length
    shortest = task.max_query_length + rows_lib.num_special(tokenizer, pair=True) + 1
    if length < shortest:
        raise UserError(
            f"config.data.sequence_length: {length} leaves no room for a context behind config.task.max_query_length="
            f"{task.max_query_length}; expected at least {shortest}"
        )


def _gold_answers(value, where):
    """Returns ((text, start), ...) from {"text": [...], "answer_start": [...]} or [{"text":, "answer_start":}, ...]."""
    try:
        if isinstance(value, dict):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in value or ()]
    except (KeyError, TypeError, ValueError):
        pairs = [(None, None)]
    for text, start in pairs:
        if not isinstance(text, str) or not isinstance(start, int):
            raise UserError(f"{where}: cannot read the answers; expected text and answer_start of each")
    return tuple(pairs)


def _answer_tokens(context, answers, offsets):
    """Returns (first, last token) of the first answer that is at its offset; None if there is none."""
    for text, start in answers:
        if text and context[start : start + len(text)] == text:
            return spans.token_span(offsets, start, start + len(text))
    return None


def _texts(question):
    return [text for text, _ in question.answers]


def _percentages(pairs):
    """Returns the means of (exact match, F1) pairs; plain sums, whose rounding is the official scripts'."""
    exact, f1 = (100.0 * sum(scores) / len(pairs) for scores in zip(*pairs, strict=True))
    return {"exact_match": exact, "f1": f1}


def _odds(answers):
    return answers.null_odds if answers.best else _NO_ANSWER_ODDS


def _as_dict(answer):
    return {"answer": answer.text, "start": answer.start, "end": answer.end, "score": answer.probability}
