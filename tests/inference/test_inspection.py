"""Attention, masks and words of single texts, beside what the model gives for rows that are computed by hand."""

import dataclasses

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import FillMask, Inspector
from tests.inference.conftest import LONGEST, make_model, reference, row, texts


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer)


@pytest.fixture(scope="module")
def inspector(model):
    return Inspector(model)


def test_attention_is_of_the_row_without_its_padding(model, inspector):
    tokens, weights = inspector.attention("aa bb cc.", "dd?")
    assert tokens == ["[CLS]", "aa", "bb", "cc", ".", "[SEP]", "dd", "?", "[SEP]"]
    assert weights.shape == (2, 4, 9, 9) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    ids, types = [model.tokenizer._tokenizer.token_to_id(token) for token in tokens], [0] * 6 + [1] * 3
    batch = {"input_ids": ids, "attention_mask": [1] * 9, "token_type_ids": types}
    batch = {name: np.array([values], np.int32) for name, values in batch.items()}
    alone = model.apply(batch, attention_weights=True)["attention_weights"]
    np.testing.assert_allclose(weights, alone[:, 0], atol=1e-6)


def test_the_last_layer_fills_masks_as_fill_mask_does(model, inspector):
    text = "aa [MASK] cc [MASK]."
    probabilities = inspector.mask_probabilities(text)
    assert probabilities.shape == (3, 2, model.model.spec.vocab_size)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    for mask, answers in zip(probabilities[-1], FillMask(model, dtype="float32")(text)["masks"], strict=True):
        for answer in answers:
            assert mask[answer["id"]] == pytest.approx(answer["score"], rel=1e-5)
    assert [inspector.token(int(i)) for i in np.argsort(-probabilities[-1, 0])[:1]] == [
        FillMask(model)(text)["masks"][0][0]["token"]
    ]
    assert abs(probabilities[0] - probabilities[-1]).max() > 1e-3


def test_a_word_is_the_mean_of_its_tokens_in_each_layer(model, inspector):
    several = [f"{before} Aabc, xx aabc" for before in texts(21, most=9)]  # three tokens
    word_vectors = inspector.word_vectors(several, "aabc")
    assert word_vectors.shape == (21, 3, 32)
    for vectors, text in list(zip(word_vectors, several, strict=True))[::5]:
        ids, types = row(model, text)
        pieces = [model.tokenizer.token(i) for i in ids]
        first = next(i for i in range(len(pieces)) if pieces[i : i + 3] == ["aa", "##b", "##c"])
        expected = reference(model, ids, types)["hidden_states"][:, first : first + 3].mean(1)
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.attention(" "), "text: empty"),
        (lambda i: i.attention("aa", ""), "text_pair: empty"),
        (lambda i: i.attention("aa " * LONGEST), rf"text: {LONGEST + 2} tokens .* at most {LONGEST}"),
        (lambda i: i.mask_probabilities("aa bb"), r"no \[MASK\] in 'aa bb'"),
        (lambda i: i.mask_probabilities("[MASK] " * LONGEST), f"at most {LONGEST}"),
        (lambda i: i.word_vectors(["aa bb", "aabb"], "bb"), "text 2: no word 'bb' in 'aabb'"),
        (lambda i: i.word_vectors(["aa", "aa " * LONGEST], "aa"), "text 2: .* tokens"),
        (lambda i: i.word_vectors([], "aa"), r"texts: found \[\]"),
        (lambda i: i.word_vectors("aa", "aa"), "texts: found 'aa'"),
    ],
)
def test_mistakes_are_told(inspector, call, message):
    with pytest.raises(UserError, match=message):
        call(inspector)


def test_masks_need_a_masked_language_model(tokenizer, model):
    with pytest.raises(UserError, match="a masked language model, but this one has no head"):
        Inspector(make_model(tokenizer, language_model=False)).mask_probabilities("[MASK]")
    spec = dataclasses.replace(model.model.spec, attention="causal")
    causal = dataclasses.replace(model, model=dataclasses.replace(model.model, spec=spec))
    with pytest.raises(UserError, match="reads left to right"):
        Inspector(causal).mask_probabilities("[MASK]")
    _, weights = Inspector(causal).attention("aa bb cc")
    assert not np.triu(weights, 1).any()


def test_any_kernel_and_dtype_is_looked_into_in_float32(model, inspector):
    spec = dataclasses.replace(model.model.spec, dtype="bfloat16", scan_layers=True)
    narrow = dataclasses.replace(model, model=dataclasses.replace(model.model, spec=spec))
    np.testing.assert_allclose(Inspector(narrow).attention("aa bb")[1], inspector.attention("aa bb")[1], atol=1e-6)


def test_the_package_names_it():
    assert bert_jax.Inspector is Inspector
