"""Vocabularies are read from every kind of file, and bad ones are named."""

import pytest

from bert_jax.data.vocabularies import loading
from bert_jax.errors import UserError
from tests.data.awkward import VOCABULARY, bpe_files, shared


def test_case_is_decided_by_the_file_beside_or_the_letters(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    assert loading.load(path).encode(["X"]) == [[VOCABULARY.index("X")]]  # it has capitals: cased
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert loading.load(path).encode(["X"]) == [[VOCABULARY.index("x")]]
    (tmp_path / "tokenizer_config.json").unlink()
    path.write_text("\n".join(token for token in VOCABULARY if token == token.lower() or "[" in token) + "\n", "utf-8")
    tokenizer = loading.load(path)
    assert tokenizer.encode(["X"]) == tokenizer.encode(["x"])


@pytest.mark.parametrize("word", ["ที่", "नहीं", "パンダ", "việt", "été", "நான்", "ལྷ"])
def test_a_vocabulary_without_capitals_that_has_accents_keeps_them(tmp_path, word):
    path = tmp_path / "vocab.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", word]
    path.write_text("\n".join(tokens) + "\n", "utf-8")
    tokenizer = loading.load(path)
    assert tokenizer.encode([f"THE {word} {word.upper()}"]) == [[5, 6, 6]]
    tokenizer.save(tmp_path / "saved")
    assert loading.load(tmp_path / "saved").encode([word]) == [[6]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": true}')
    assert loading.load(path).encode([word]) != [[6]]


@pytest.mark.parametrize("missing", ["[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]"])
def test_a_vocabulary_without_a_special_token_is_refused(tmp_path, missing):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(token for token in VOCABULARY if token != missing) + "\n", "utf-8")
    with pytest.raises(UserError, match=r"vocab\.txt: the vocabulary has no") as error:
        loading.load(path)
    assert missing in str(error.value)


def test_bad_vocabulary_files_are_named(tmp_path):
    def message(path):
        with pytest.raises(UserError) as error:
            loading.load(path)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
        return str(error.value)

    assert "no such vocabulary" in message(tmp_path / "nothing.txt")
    assert "no vocabulary" in message(tmp_path) and "did you mean" not in message(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    assert message(tmp_path).endswith(f"; did you mean {tmp_path}/tokenizer?")
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    assert "not UTF-8" in message(tmp_path / "vocab.txt")
    (tmp_path / "x.json").write_text("{}")
    assert "not a tokenizer.json" in message(tmp_path / "x.json")
    (tmp_path / "x.model").write_bytes(b"nonsense")
    assert "SentencePiece" in message(tmp_path / "x.model")
    (tmp_path / "x.bin").write_bytes(b"nonsense")
    assert "unknown kind" in message(tmp_path / "x.bin")
    bpe = tmp_path / "bpe"
    bpe.mkdir()
    bpe_files(bpe)
    (bpe / "merges.txt").write_text("zz yy\n")
    assert "do not fit" in message(bpe)
    (bpe / "merges.txt").unlink()
    assert "merges.txt" in message(bpe / "vocab.json")


def test_albert_specials_are_found_in_the_model():
    tokenizer = loading.load(shared("vocab/albert/spiece.model"))
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4) == tokenizer.special_ids
    assert tokenizer.decode(tokenizer.encode(["Hello World"])[0]) == "hello world"
