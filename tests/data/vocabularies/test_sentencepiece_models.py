"""SentencePiece models: special tokens in text, and ALBERT's lower-casing."""

import sentencepiece

from bert_jax.data.vocabularies import loading, sentencepiece_models
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
        assert sentencepiece_models._lowered(text) == "".join(sentencepiece_models._lowered_characters(text)[0])
