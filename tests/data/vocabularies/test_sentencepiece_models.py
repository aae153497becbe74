"""SentencePiece models: special tokens in text, and ALBERT's lower-casing."""

import pytest
import sentencepiece

from bert_jax.data.vocabularies import loading, sentencepiece_models
from tests.data import many_scripts
from tests.data.awkward import PROSE, TEXTS, random_texts


def test_user_symbols_of_a_sentencepiece_model_are_text_too(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE), model_prefix=f"{tmp_path}/m", vocab_size=60, hard_vocab_limit=False,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2,
    )  # fmt: skip
    tokenizer = loading.load(tmp_path / "m.model")
    assert tokenizer.mask_id not in tokenizer.encode(["the [MASK] sat"])[0]
    assert tokenizer.mask_id in tokenizer.encode(["the [MASK] sat"], special=True)[0]


def test_lower_casing_by_line_and_by_character_agree():
    for text in TEXTS + random_texts(2000, seed=2):
        for keep_accents in (False, True):
            characters, _ = sentencepiece_models._lowered_characters(text, keep_accents)
            assert sentencepiece_models._lowered(text, keep_accents) == "".join(characters)


def trained(folder, texts, **settings):
    """Trains a SentencePiece model with BERT's special tokens; returns its path."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20), model_prefix=str(folder / "m"), vocab_size=300, hard_vocab_limit=False,
        minloglevel=2, pad_id=0, unk_id=1, bos_id=2, eos_id=3, control_symbols=["[CLS]", "[SEP]", "[MASK]"], **settings,
    )  # fmt: skip
    return folder / "m.model"


@pytest.mark.parametrize("script", ["thai", "hindi", "japanese", "tibetan", "sinhala", "malayalam", "armenian"])
def test_a_model_without_capitals_whose_pieces_have_accents_keeps_them(tmp_path, script):
    path = trained(tmp_path, [many_scripts.TEXTS[script].lower()])
    text = many_scripts.TEXTS[script].lower()
    expected = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(text)
    tokenizer = loading.load(path)
    assert tokenizer.encode([text])[0] == tokenizer.encode_with_offsets(text, special=False)[0] == expected
    tokenizer.save(tmp_path / "saved")
    again = loading.load(tmp_path / "saved")
    assert again.encode([text])[0] == expected and again.digest() == tokenizer.digest()


def test_a_model_that_folds_case_itself_is_left_to_do_it(tmp_path):
    path = trained(
        tmp_path,
        ["Ein Bär läuft über die Straße.", "すべての人間はパンダである。"],
        normalization_rule_name="nmt_nfkc_cf",
    )
    expected = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in ("Ein BÄR läuft.", "パンダ", "``so''"):
        assert loading.load(path).encode([text])[0] == expected.encode(text)


def test_a_model_of_text_without_accents_still_loses_them(tmp_path):
    path = trained(tmp_path, ["the cafe is naive and over there the bears run"])
    tokenizer = loading.load(path)
    assert tokenizer.encode(["The Café"]) == tokenizer.encode(["the cafe"])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert loading.load(path).encode(["The Café"]) == tokenizer.encode(["the cafe"])


def test_a_saved_model_that_says_nothing_about_accents_strips_them(tmp_path):
    """Corpora of earlier versions hold such ones, and their tokens."""
    path = trained(tmp_path, [many_scripts.TEXTS["hindi"]])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert loading.load(path).normalized("स्वतन्त्र").strip() == "सवतनतर"
