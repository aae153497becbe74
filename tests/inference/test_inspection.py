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
        (lambda i: i.word_vectors([], "aa"), "texts: found none"),
        (lambda i: i.word_vectors("bb", "aa"), "text: no word 'aa' in 'bb'"),
        (lambda i: i.attention(["aa", ""]), "text 2: empty"),
        (lambda i: i.attention(["aa", 3]), "text 2: found int"),
        (lambda i: i.attention([("aa", "")]), "text 1: text_pair: empty"),
        (lambda i: i.attention(["aa", "aa " * LONGEST]), rf"text 2: {LONGEST + 2} tokens"),
        (lambda i: i.attention(["aa", "bb"], "cc"), "text_pair: found 1 texts; expected 2"),
        (lambda i: i.attention(None), "text: found None; expected a string, a pair of strings or a dict with `text`"),
        (lambda i: i.attention({"sentence": "aa"}), "no `text` string in"),
        (lambda i: i.mask_probabilities(["[MASK]", "aa"]), r"text 2: no \[MASK\] in 'aa'"),
        (lambda i: i.mask_probabilities({"text": "[MASK]", "text_pair": "aa"}), "found `text` with `text_pair`"),
        (lambda i: i.word_vectors([("aa", "bb")], "aa"), "text 1: found tuple; expected a string"),
    ],
)
def test_mistakes_are_told(inspector, call, message):
    with pytest.raises(UserError, match=message):
        call(inspector)


PAIRS = [("aa bb", "cc dd."), ("bb", "aa")]
RECORDS = [dict(zip(("text", "text_pair"), pair, strict=True)) for pair in PAIRS]


@pytest.mark.parametrize(
    "given",
    [
        PAIRS, [list(pair) for pair in PAIRS], RECORDS, np.array(PAIRS),
        {key: [row[key] for row in RECORDS] for key in RECORDS[0]},
        np.array(PAIRS, dtype="U9").view([("text", "U9"), ("text_pair", "U9")])[:, 0], "beside",
    ],
)  # fmt: skip
def test_attention_reads_what_a_classifier_reads(inspector, given):
    answers = inspector.attention(*zip(*PAIRS, strict=True)) if isinstance(given, str) else inspector.attention(given)
    assert isinstance(answers, list)
    for (tokens, weights), pair in zip(answers, PAIRS, strict=True):
        expected_tokens, expected = inspector.attention(*pair)
        assert tokens == expected_tokens and "[SEP]" in tokens[:-1]
        np.testing.assert_array_equal(weights, expected)


def test_one_example_has_one_answer_in_any_form(inspector):
    expected = inspector.attention("aa bb", "cc dd.")
    for given in (PAIRS[0], RECORDS[0]):
        tokens, weights = inspector.attention(given)
        assert tokens == expected[0]
        np.testing.assert_array_equal(weights, expected[1])
    tokens, weights = inspector.attention({"text": "aa bb"})
    assert tokens == ["[CLS]", "aa", "bb", "[SEP]"] and weights.shape == (2, 4, 4, 4)
    assert inspector.attention([]) == []
    assert [tokens for tokens, _ in inspector.attention(text for text in ("aa", "bb cc"))] == [
        ["[CLS]", "aa", "[SEP]"], ["[CLS]", "bb", "cc", "[SEP]"],
    ]  # fmt: skip


def test_the_columns_of_the_model_s_own_data_are_read(model):
    own = dataclasses.replace(model, settings={**model.settings, "columns": ("premise", "hypothesis")})
    tokens, _ = Inspector(own).attention({"premise": "aa", "hypothesis": "bb", "label": 1})
    assert tokens == ["[CLS]", "aa", "[SEP]", "bb", "[SEP]"]
    assert len(Inspector(own).mask_probabilities([{"premise": "aa [MASK]"}, "[MASK]"])) == 2


def test_masks_and_words_are_read_in_any_form(inspector):
    masked = ["aa [MASK]", "[MASK] bb [MASK]"]
    expected = [inspector.mask_probabilities(text) for text in masked]
    for given in (masked, [{"text": text} for text in masked], {"text": masked}, np.array(masked), iter(masked)):
        answers = inspector.mask_probabilities(given)
        assert [answer.shape[1] for answer in answers] == [1, 2]
        for answer, alone in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer, alone)
    several = ["aa bb", "cc aa dd"]
    vectors = inspector.word_vectors(several, "aa")
    for given in ([{"text": text} for text in several], {"text": several}, np.array(several), iter(several)):
        np.testing.assert_array_equal(inspector.word_vectors(given, "aa"), vectors)
    for given in (several[1], {"text": several[1]}):
        np.testing.assert_allclose(inspector.word_vectors(given, "aa"), vectors[1], rtol=1e-4, atol=1e-5)


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
