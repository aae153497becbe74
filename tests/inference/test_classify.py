"""Labels, scores and problems of classification, for texts and pairs."""

import dataclasses

import numpy as np
import pytest
from scipy import special

import bert_jax
from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.model import Task
from tests.inference.conftest import LONGEST, make_model, reference, row, texts

LABELS = ("bad", "good", "so so")


def classifier(tokenizer, problem="single_label", labels=LABELS, pooling="mean", **options):
    model = make_model(tokenizer, Task("sequence_classification", len(labels), pooling), labels, problem=problem)
    return bert_jax.Classifier(model, **options)


@pytest.fixture(scope="module")
def single(tokenizer):
    return classifier(tokenizer)


def row_logits(model, text):
    return reference(model.model, *row(model, text))["logits"]


def test_labels_scores_and_order(single):
    asked = texts(60, most=12)
    answers = single(asked)
    for text, answer in zip(asked[:5], answers, strict=False):
        chances = special.softmax(row_logits(single, text))
        assert list(answer["scores"]) == list(LABELS)
        np.testing.assert_allclose(list(answer["scores"].values()), chances, rtol=1e-4)
        assert answer["label"] == LABELS[chances.argmax()] and answer["score"] == max(answer["scores"].values())
    for text, answer in list(zip(asked, answers, strict=True))[::20]:  # alone as in a batch (P6)
        assert single(text)["scores"] == pytest.approx(answer["scores"], rel=1e-5)
    assert single([]) == []


def test_pairs_are_joined_and_the_longer_text_is_cut_first(single):
    first, second = "ab cd", " ".join(["ef"] * 100)
    cut = " ".join(["ef"] * (LONGEST - 3 - 2))
    assert single(first, second) == single([first], [cut])[0]
    assert single(first, cut)["scores"] != pytest.approx(single(f"{first} {cut}")["scores"], rel=1e-3)
    with pytest.raises(UserError, match="text_pair: found 1 texts; expected 2"):
        single(["ab", "cd"], "ef")


def test_a_long_text_is_read_in_windows(tokenizer, single):
    long = " ".join(texts(8, seed=3))
    (ids,) = tokenizer.encode([long])
    room = LONGEST - 2
    assert len(ids) > 2 * room
    starts = [*range(0, len(ids) - room, room - room // 4), len(ids) - room]
    rows = [rows_lib.join(tokenizer, ids[start : start + room]) for start in starts]
    parts = [reference(single.model, *one)["logits"] for one in rows]
    for merge in ("mean", "max"):
        answer = bert_jax.Classifier(single.model, merge=merge)(long)
        expected = special.softmax(getattr(np, merge)(parts, axis=0))
        np.testing.assert_allclose(list(answer["scores"].values()), expected, rtol=1e-4)
    beginning = bert_jax.Classifier(single.model, long="truncate")(long)
    np.testing.assert_allclose(list(beginning["scores"].values()), special.softmax(parts[0]), rtol=1e-4)


def test_rows_have_the_length_of_fine_tuning(tokenizer, single):
    """A text is cut, or divided into windows, at data.sequence_length, and cut texts score as fine-tuning's do."""
    model = dataclasses.replace(single.model, settings={"max_length": 12})
    cut, whole = bert_jax.Classifier(model, long="truncate"), bert_jax.Classifier(model)
    assert cut.max_length == whole.max_length == 12 < single.max_length
    for text in texts(4, seed=3, most=60):
        ids = tokenizer.encode([text])[0]
        logits = row_logits_of(single, ids[:10])
        expected = special.softmax(logits)
        np.testing.assert_allclose(list(cut(text)["scores"].values()), expected, rtol=1e-4, atol=1e-6)
    long = next(text for text in texts(20, seed=4, most=60) if len(tokenizer.encode([text])[0]) > 30)
    assert whole(long)["scores"] != cut(long)["scores"]
    unlimited = bert_jax.Classifier(dataclasses.replace(single.model, settings={"max_length": 10**6}))
    assert unlimited.max_length == single.max_length


def row_logits_of(classifier, ids):
    return reference(classifier.model, *rows_lib.join(classifier.tokenizer, ids))["logits"]


def test_several_labels_and_numbers(tokenizer):
    several = classifier(tokenizer, "multi_label")
    lengths = set()
    for text in texts(30, most=4):
        answer = several(text)
        assert answer["label"] == [
            x for x in sorted(LABELS, key=answer["scores"].get)[::-1] if answer["scores"][x] >= 0.5
        ]
        assert answer["score"] == max(answer["scores"].values())
        lengths.add(len(answer["label"]))
    assert len(lengths) > 1
    number = classifier(tokenizer, "regression", ("score",))
    answer = number("ab cd")
    assert answer == {"label": None, "score": answer["score"], "scores": {"score": answer["score"]}}
    assert answer["score"] == pytest.approx(float(row_logits(number, "ab cd")[0]), rel=1e-4)


def test_labels_of_one_name_keep_their_scores(tokenizer):
    model = make_model(
        tokenizer, Task("sequence_classification", 3, "cls"), ("neg", "neu", "neu"), problem="single_label"
    )
    distinct = dataclasses.replace(model, labels=("a", "b", "c"))
    asked = texts(12)
    for answer, expected in zip(bert_jax.Classifier(model)(asked), bert_jax.Classifier(distinct)(asked), strict=True):
        assert list(answer["scores"]) == ["neg", "neu", "neu (2)"]
        assert list(answer["scores"].values()) == list(expected["scores"].values())
        assert answer["score"] == answer["scores"][answer["label"]] == expected["score"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("x", "x (2)", "x"), ["x", "x (2)", "x (3)"]),
        (("x", "x", "x (1)"), ["x", "x (2)", "x (1)"]),
        (("x", "x", "x"), ["x", "x (1)", "x (2)"]),
        (("x", "x (3)", "x", "x"), ["x", "x (3)", "x (2)", "x (4)"]),
        (("x (1)", "x (1)", "x"), ["x (1)", "x (1) (1)", "x"]),
    ],
)
@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_every_label_has_a_score_of_its_own(tokenizer, labels, names, problem):
    task = Task("sequence_classification", len(labels), "cls")
    classify = bert_jax.Classifier(make_model(tokenizer, task, labels, problem=problem))
    assert list(classify.labels) == list(classify("ab cd")["scores"]) == names


def test_mistakes_are_named(tokenizer, single):
    for bad, message in [
        ("", "text 2: empty; expected text"),
        (" \t\n\u3000", r"text 2: empty \(only white space\)"),
        ("ab \ud800", "text 2: half a surrogate pair at character 3"),
        (7, "text 2: found int; expected a string"),
    ]:
        with pytest.raises(UserError, match=message):
            single(["ab", bad])
    with pytest.raises(UserError, match="text 1: text_pair: empty"):
        single("ab", " ")
    bare = make_model(tokenizer, language_model=False)
    with pytest.raises(UserError, match="test: classify needs a model fine-tuned for sequence classification, but "
                       r"this one has no head \(a bare encoder\)"):  # fmt: skip
        bert_jax.Classifier(bare)
    with pytest.raises(UserError, match="fill-mask needs a model with a masked-language-model head, but this one has a "
                       "head for sequence classification"):  # fmt: skip
        bert_jax.FillMask(single.model)
    for options, message in [
        ({"merge": "sum"}, "merge: found 'sum'; expected mean or max"),
        ({"long": "cut"}, "long: found 'cut'; expected windows, truncate or head_tail"),
        ({"dtype": "half"}, "dtype: found 'half'; expected float32 or bfloat16"),
    ]:
        with pytest.raises(UserError, match=message):
            bert_jax.Classifier(single.model, **options)


def test_bfloat16_is_near(single):
    half = bert_jax.Classifier(single.model, dtype="bfloat16")("ab cd ef")["scores"]
    exact = single("ab cd ef")["scores"]
    assert half == pytest.approx(exact, abs=0.05) and half != exact
