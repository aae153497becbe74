"""Every verb gives the same answers from packed rows as from a row for each text."""

import dataclasses
import random

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import batching
from bert_jax.model import Task
from tests.inference.conftest import LETTERS, LONGEST, make_model, texts

# Texts of one token, of as many as a row holds, with a padding token within, and of more than one row holds.
TEXTS = [
    "ab",
    " ".join(["ab"] * (LONGEST - 2)),
    "ca [PAD] db [PAD] eb",
    " ".join(["ad"] * (LONGEST - 3)),
    *texts(25, most=10),
    " ".join(["ae"] * 3 * LONGEST),
    ".",
]
OFFSET = 1  # the first position's row; the padding's id is then 0


def both(predictor, model, *examples, **options):
    """The answers of packed and of unpacked rows."""
    return [predictor(model, packing=packing, **options)(*examples) for packing in (True, False)]


def close(one, two):
    """Equal answers, numbers to rounding."""
    if isinstance(two, dict):
        assert one.keys() == two.keys()
        for key in two:
            close(one[key], two[key])
    elif isinstance(two, list):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            close(left, right)
    elif isinstance(two, float):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)
    else:
        assert one == two


@pytest.mark.parametrize("offset", [0, OFFSET])
def test_embed_with_every_pooling(tokenizer, offset):
    task = Task("sequence_classification", 2, "attention")
    model = make_model(tokenizer, task, ("a", "b"), problem="single_label", position_offset=offset)
    pooling = ("cls", "mean", "max", "second_to_last", "last_2", "last_2_concat", "attention", "weightedmean",
               "mean_sqrt_len_tokens", "lasttoken")  # fmt: skip
    packed, plain = both(bert_jax.Embedder, model, TEXTS, pooling=pooling)
    for one, two in zip(np.split(packed, 11, axis=1), np.split(plain, 11, axis=1), strict=True):
        assert (np.linalg.norm(one - two, axis=1) <= 1e-5 * np.linalg.norm(two, axis=1)).all()


def test_texts_whose_positions_turn_by_the_length_of_their_row_share_none(tokenizer):
    """Of the others, whose rows hold as many tokens as those of training, no answer would change."""
    scaled = {"positions": "rotary", "rotary_scaling": "dynamic", "rotary_factor": 4.0, "rotary_trained": 4}
    learned = make_model(tokenizer)
    model = dataclasses.replace(learned.model, spec=dataclasses.replace(learned.model.spec, **scaled))
    packed, plain = both(bert_jax.Embedder, dataclasses.replace(learned, model=model), TEXTS)
    np.testing.assert_array_equal(packed, plain)


def test_a_prompt_that_is_not_pooled(tokenizer):
    model = make_model(tokenizer, settings={"include_prompt": False, "pooling": ("mean", "cls"), "max_length": 20})
    packed, plain = (
        bert_jax.Embedder(model, packing=packing).encode(TEXTS, prompt="ab cb ") for packing in (True, False)
    )
    np.testing.assert_allclose(packed, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.more
@pytest.mark.parametrize("pooling", ["dense", "max"])
def test_classify(tokenizer, pooling):
    model = make_model(tokenizer, Task("sequence_classification", 3, pooling), tuple("abc"), problem="single_label",
                       position_offset=OFFSET)  # fmt: skip
    close(*both(bert_jax.Classifier, model, TEXTS))
    close(*both(bert_jax.Classifier, model, TEXTS[:9], TEXTS[9:18]))


@pytest.mark.more
@pytest.mark.parametrize("crf", [True, False])
def test_tag(tokenizer, crf):
    labels = ("O", "B-X", "I-X", "B-Y", "I-Y")
    model = make_model(tokenizer, Task("token_classification", 5, crf=crf), labels, scheme="BIO")
    close(*both(bert_jax.TokenTagger, model, TEXTS))


def test_answer(tokenizer):
    model = make_model(tokenizer, Task("question_answering", 2), ("start", "end"), settings={"null_threshold": 0.0})
    questions = [f"{letter}a?" for letter in LETTERS][: len(TEXTS)]
    close(*both(bert_jax.QuestionAnswerer, model, questions, TEXTS[: len(questions)]))


def test_fill_mask(tokenizer):
    model = make_model(tokenizer)
    rng = random.Random(0)
    masked = []
    for text in TEXTS[:-2]:
        words = text.split()[:20]
        masked.append(" ".join("[MASK]" if rng.random() < 0.3 else word for word in words) + " [MASK]")
    masked.append(" ".join(["[MASK]"] * 30))
    close(*both(bert_jax.FillMask, model, masked))


@pytest.mark.parametrize("seed", range(3))
def test_packed_plan_holds_every_row_once(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, [100, 513, 900][seed], 1000)
    counts = rng.integers(0, 4, 1000) % np.maximum(lengths, 1)
    batches, rest = batching.plan_packed(lengths.tolist(), counts.tolist(), 900, 4096, 256)
    assert sorted([*rest, *(i for batch in batches for i in batch.rows)]) == list(range(1000))
    assert all(lengths[i] > 512 for i in rest)
    assert len({(batch.limits, batch.size) for batch in batches}) <= 2
    for batch in batches:
        assert batch.size * batch.limits.tokens <= 4096 and batch.size * batch.limits.masks <= 256
        assert len(batch.starts) - 1 <= batch.size
        for begin, end in zip(batch.starts[:-1], batch.starts[1:], strict=True):
            row = batch.rows[begin:end]
            assert lengths[row].sum() <= batch.limits.tokens and counts[row].sum() <= batch.limits.masks
    filled = sum(lengths[batch.rows].sum() for batch in batches)
    assert filled > 0.9 * sum((len(batch.starts) - 1) * batch.limits.tokens for batch in batches)


def test_rows_too_long_to_share_one_stand_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(batching, "_PACKED", 16)
    close(*(answers.tolist() for answers in both(bert_jax.Embedder, make_model(tokenizer), TEXTS)))


def test_packs_where_it_saves(tokenizer, monkeypatch):
    """By itself where the tokens are fewer, but on no GPU."""
    model = make_model(tokenizer)
    program = batching.Program(model, lambda *_: None, packing="auto")
    short = [batching.Row([8] * n, [0] * n) for n in (3, 4, 5) * 40]
    full = [batching.Row([8] * LONGEST, [0] * LONGEST)] * 40
    assert all("sequence_ids" in batch.arrays for batch in program._batches(short))
    assert not any("sequence_ids" in batch.arrays for batch in program._batches(full))
    assert not any("sequence_ids" in batch.arrays for batch in program._batches(short[:1]))
    monkeypatch.setattr(batching.jax, "default_backend", lambda: "gpu")
    program = batching.Program(model, lambda *_: None, packing="auto")
    assert not any("sequence_ids" in batch.arrays for batch in program._batches(short))


def test_a_wrong_word_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"packing: found 'on'; expected \"auto\", True or False"):
        bert_jax.Embedder(make_model(tokenizer), packing="on")
