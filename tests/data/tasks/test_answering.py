"""Question answering: positions of answers, SQuAD's metrics and files."""

import json

import numpy as np
import pytest

from bert_jax.data.tasks import answering
from bert_jax.errors import UserError
from tests.data.awkward import shared


def squad(folder, name, paragraphs, version="1.1"):
    """Writes a SQuAD file; paragraphs: (context, [(id, question, [(answer, start)] or None)])."""
    data = []
    for context, questions in paragraphs:
        qas = [
            {
                "id": key,
                "question": question,
                "answers": [{"text": text, "answer_start": start} for text, start in answers or ()],
                **({"is_impossible": answers is None} if version == "2.0" else {}),
            }
            for key, question, answers in questions
        ]
        data.append({"title": "t", "paragraphs": [{"context": context, "qas": qas}]})
    path = folder / name
    path.write_text(json.dumps({"version": version, "data": data}), "utf-8")
    return path


def certain(examples, size=9.0):
    """Returns outputs that predict the labels of each row: the answer, or [CLS] where the row has none."""
    lengths = examples.lengths.tolist()
    batch = examples.batch(np.arange(len(lengths)), max(lengths))
    outputs = []
    for length, start, end in zip(lengths, batch["start_positions"], batch["end_positions"], strict=True):
        logits = np.zeros((length, 2))
        logits[start, 0] = logits[end, 1] = size
        outputs.append(logits)
    return outputs


def test_positions_of_answers(tmp_path, load, tokenizer):
    context = "a b \u00e9c d e f g h i hello world"
    path = squad(
        tmp_path, "a.json",
        [(context, [("q1", "x y", [("hello", context.index("hello"))]), ("q2", "x" * 3, [("\u00e9c d", 4)])])],
    )  # fmt: skip
    task = load("question_answering", length=12, train=path, held_out=path, doc_stride=3, max_query_length=2)
    examples = task.train
    batch = examples.batch(np.arange(len(examples.lengths)), 12)
    ids = tokenizer.encode([context])[0]
    questions = tokenizer.encode(["x y", "xxx"])
    for row, (start, end) in enumerate(zip(batch["start_positions"], batch["end_positions"], strict=True)):
        question = questions[row * 2 // len(batch["input_ids"])][:2]
        window = batch["input_ids"][row][4 : examples.lengths[row] - 1].tolist()
        assert batch["input_ids"][row, :4].tolist() == [tokenizer.cls_id, *question, tokenizer.sep_id]
        assert window in [ids[i : i + len(window)] for i in range(len(ids))]
        if start:
            answer = batch["input_ids"][row, start : end + 1].tolist()
            assert answer in (tokenizer.encode(["hello"])[0], tokenizer.encode(["\u00e9c d"])[0])
    assert (batch["start_positions"] > 0).reshape(2, -1).any(axis=1).all()
    filler = examples.batch(np.array([-1]), 12)
    assert (filler["weights"][0], filler["start_positions"][0], filler["attention_mask"].sum()) == (0, 0, 1)


def test_scores_and_predictions_of_squad_1(tmp_path, load):
    path = squad(tmp_path, "a.json", [("ab cd, ef", [("1", "x", [("cd", 3), ("cd, ef", 3)]), ("2", "y", [("ab", 0)])])])
    task = load("question_answering", length=80, train=path, held_out=path)
    examples = task.held_out[""]
    assert (task.labels, task.metric, task.unanswerable) == (("start", "end"), "f1", False) and np.isnan(task.baseline)
    assert task.score(examples, certain(examples)) == {"f1": 100.0, "exact_match": 100.0}
    rows = list(task.predictions(examples, certain(examples)))
    assert answering.squad_predictions(rows) == {"1": "cd", "2": "ab"} and answering.squad_null_odds(rows) == {}
    assert (rows[0]["question"], rows[0]["start"], rows[0]["end"]) == ("x", 3, 5)
    assert rows[0]["gold"] == ["cd", "cd, ef"] and len(rows[0]["n_best"]) > 3
    assert rows[0]["score"] == rows[0]["n_best"][0]["score"] > 0.9
    json.dumps(rows, allow_nan=False)
    wrong = certain(examples)[::-1]
    assert task.score(examples, wrong) == {"f1": 0.0, "exact_match": 0.0}


def test_scores_and_predictions_of_squad_2(tmp_path, load):
    questions = [("1", "x", [("cd", 3)]), ("2", "y", None), ("3", "x", [("ab", 0)])]
    path = squad(tmp_path, "a.json", [("ab cd, ef", questions)], "2.0")
    test = squad(tmp_path, "t.json", [("ab cd, ef", questions[:2])], "2.0")
    task = load("question_answering", length=80, train=path, held_out=path, test=test)
    examples = task.held_out[""]
    assert task.unanswerable and task.baseline == pytest.approx(100 / 3)
    outputs = certain(examples)
    outputs[0][0] = 12.0  # the null answer scores higher by 6, yet the threshold that is found lets the answer be given
    scores = task.score(examples, outputs)
    names = ("exact_match", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1")
    assert [scores[name] for name in names] == [100.0] * 8 and 6 <= scores["null_threshold"] < 18
    rows = list(task.predictions(examples, outputs))
    assert answering.squad_predictions(rows) == {"1": "cd", "2": "", "3": "ab"}
    assert answering.squad_null_odds(rows) == pytest.approx({"1": 6.0, "2": 18.0, "3": -18.0})
    assert (rows[1]["start"], rows[1]["end"]) == (None, None) and rows[1]["score"] == rows[1]["null_score"] > 0.9
    assert [row["answer"] for row in task.predictions(task.test, outputs[:2])] == ["", ""]
    task.null_threshold = scores["null_threshold"]
    assert [row["answer"] for row in task.predictions(task.test, outputs[:2])] == ["cd", ""]
    json.dumps(rows, allow_nan=False)


def test_misplaced_answers(tmp_path, load):
    paragraphs = [("ab cd", [("q7", "x", [("cd", 2)]), ("q8", "y", [("cd", 3)]), ("q9", "z", [("cd", 3), ("zz", 0)])])]
    path = squad(tmp_path, "a.json", paragraphs)
    task = load("question_answering", length=80, train=path, held_out=path)
    assert [question.id for question in task.train.questions] == ["q8", "q9"]
    assert [question.id for question in task.held_out[""].questions] == ["q7", "q8", "q9"]
    assert task.notes == [
        "train: 2 questions have an answer that is not at its offset, the first being q7: 'cd' at 2; not learned from",
        "held out: 2 questions have an answer that is not at its offset, the first being q7: 'cd' at 2; its text still "
        "counts",
    ]
    with pytest.raises(UserError, match="train: 2 questions .* q7: 'cd' at 2; expected it there, or config.task.bad"):
        load("question_answering", length=80, train=path, held_out=path, bad_answers="error")


def test_flat_records(tmp_path, load):
    path = tmp_path / "a.jsonl"
    record = {"question": "x", "context": "ab cd", "answers": {"text": ["cd"], "answer_start": [3]}}
    path.write_text(
        json.dumps(record) + "\n" + json.dumps(record | {"answers": {"text": [], "answer_start": []}}) + "\n"
    )
    test = tmp_path / "t.jsonl"
    test.write_text(json.dumps({"question": "x", "context": "ab", "id": 7}) + "\n")
    task = load("question_answering", length=80, train=path, held_out=path, test=test)
    assert task.unanswerable and [question.id for question in task.train.questions] == ["0", "1"]
    (row,) = task.predictions(task.test, [np.zeros((6, 2))])
    assert row["id"] == "7" and "gold" not in row


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.json", '{"data": [', {}, r"a\.json line 1: not JSON \(Expecting value\); expected SQuAD's format"),
        ("a.json", '{"rows": []}', {}, r"a\.json: no 'data'; expected SQuAD's format"),
        ("a.json", '{"data": [3]}', {}, r"a\.json: another structure; expected SQuAD's format"),
        ("a.json", '{"data": []}', {}, r"a\.json: found no record"),
        ("a.jsonl", '{"question": "q", "context": "c", "answers": 3}', {}, r"line 1: cannot read the answers"),
        ("a.jsonl", '{"question": "q", "context": "c", "answers": null}', {}, r"line 1: no answers; expected a list"),
        ("a.jsonl", '{"question": "q", "context": 3, "answers": []}', {}, r"line 1: the context is 3; expected text"),
        (
            "a.jsonl",
            '{"question": "q", "context": "c", "answers": []}',
            {"unanswerable": "no"},
            "1 questions of config",
        ),
        ("a.jsonl", "{}", {"length": 40}, "config.data.sequence_length: 40 leaves no room for a context"),
        ("a.csv", "question,context", {}, r"a\.csv: unknown kind of file for question_answering"),
    ],
)
def test_bad_files_are_named(tmp_path, load, name, content, settings, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load("question_answering", train=path, held_out=path, **{"length": 80} | settings)


@pytest.mark.full
def test_every_answer_of_squad_is_found_through_windows(tmp_path, load, uncased):
    path = shared("squad/dev-v1.1.json")
    train = squad(tmp_path, "a.json", [("ab", [("1", "x", [("ab", 0)])])])
    settings = {"doc_stride": 64, "max_answer_length": 100, "n_best": 2, "tokenizer": uncased}
    task = load("question_answering", length=192, train=train, held_out=path, **settings)
    examples = task.held_out[""]
    assert len(examples.questions) == 10_570 and len(task.notes) == 1
    outputs = certain(examples)
    given = answering.squad_predictions(task.predictions(examples, outputs))
    inside_a_token = 0
    for question in examples.questions:
        text, start = question.answers[0]
        bounds = examples.offsets[question.context]
        if start in bounds[:, 0] and start + len(text) in bounds[:, 1]:
            assert given[question.id] == text
        else:
            assert text.strip() in given[question.id]
            inside_a_token += 1
    assert inside_a_token < 50
    scores = task.score(examples, outputs)
    assert scores["exact_match"] > 99.7 and scores["f1"] > 99.8
