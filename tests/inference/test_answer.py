"""Answers of question answering: spans, offsets in code points, long contexts, null answers."""

import dataclasses

import pytest

import bert_jax
from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.model import Task
from tests.inference.conftest import LONGEST, make_model, reference, texts


@pytest.fixture(scope="module")
def model(tokenizer):
    task = Task("question_answering", 2)
    return make_model(tokenizer, task, ("start", "end"), settings={"max_length": 32, "doc_stride": 8})


@pytest.fixture(scope="module")
def answerer(model):
    return bert_jax.QuestionAnswerer(model, max_answer_length=4)


def best_span(model, question, context, length=4):
    """The best answer of a context that fits one row, found by looking at all."""
    tokenizer = model.tokenizer
    ((ids, places),) = [tokenizer.encode_with_offsets(context)]
    (asked,) = tokenizer.encode([question])
    logits = reference(model, *rows_lib.join(tokenizer, asked, ids))["logits"]
    inside = logits[len(asked) + 2 : len(asked) + 2 + len(ids)]
    spans = {(i, j): inside[i, 0] + inside[j, 1] for i in range(len(ids)) for j in range(i, min(len(ids), i + length))}
    (first, last), score = max(spans.items(), key=lambda item: item[1])
    return context[places[first][0] : places[last][1]], score, logits[0].sum()


def test_the_best_span_with_its_place(model, answerer):
    questions, contexts = texts(20, seed=1, most=3), texts(20, seed=2, most=6)
    answers = answerer(questions, contexts)
    for context, answer in zip(contexts, answers, strict=True):
        assert set(answer) == {"answer", "start", "end", "score"} and 0 < answer["score"] <= 1
        assert answer["answer"] == context[answer["start"] : answer["end"]]
    for i in range(0, 20, 7):
        assert answers[i]["answer"] == best_span(model, questions[i], contexts[i])[0]
        assert answerer(questions[i], contexts[i])["score"] == pytest.approx(answers[i]["score"], rel=1e-5)


def test_a_long_context_is_read_in_windows(answerer, tokenizer):
    context = "  ".join(texts(6, seed=4))
    answer = answerer("ab cd", context)
    assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
    # Where the answer's window alone is asked, it is the answer still.
    assert len(tokenizer.encode([context])[0]) > 3 * LONGEST


def test_no_answer_where_the_model_says_so(model, answerer):
    question, context = "ab cd", "ef gh ij"
    text, score, null = best_span(model, question, context)
    odds = float(null - score)
    for threshold, expected in [(odds - 0.1, ""), (odds + 0.1, text)]:
        told = dataclasses.replace(model, settings=model.settings | {"null_threshold": threshold})
        for one in (bert_jax.QuestionAnswerer(told, max_answer_length=4),
                    bert_jax.QuestionAnswerer(model, max_answer_length=4, null_threshold=threshold)):  # fmt: skip
            answer = one(question, context)
            assert answer["answer"] == expected and 0 < answer["score"] < 1
            assert (answer["start"] is None) == (answer["end"] is None) == (expected == "")
    assert answerer(question, context)["answer"] == text
    # A context that the vocabulary does not see at all.
    assert answerer(question, "\u200b\x00") == {"answer": "", "start": None, "end": None, "score": 0.0}


def test_mistakes_are_named(answerer):
    with pytest.raises(UserError, match="context: found 2 texts; expected 1, one for each question"):
        answerer("ab", ["cd", "ef"])
    with pytest.raises(UserError, match="text 2: context: empty"):
        answerer(["ab", "ab"], ["cd", ""])
    with pytest.raises(UserError, match="max_answer_length: found 0; expected a number from 1 to 1,048,576"):
        bert_jax.QuestionAnswerer(answerer.model, max_answer_length=0)
