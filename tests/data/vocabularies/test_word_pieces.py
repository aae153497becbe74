"""Which pieces begin a word for whole-word masking, in scripts with and without spaces."""

import numpy as np
import pytest

from bert_jax.data.vocabularies import training, word_pieces

TEXTS = [
    "The well-known cat sat, and 'sat' again; 42 cats sat.",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由である。",
    "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกัน",
    "모든 인간은 태어날 때부터 자유로우며 평등하다.",
    "Все люди рождаются свободными и равными.",
    "Déjà vu à l'été.",
]


def words(tokenizer, text):
    """Returns the tokens of each word of a text, as whole-word masking sees them."""
    (ids,), (starts,) = tokenizer.encode_with_words([text])
    starts = starts | word_pieces.begins_word(tokenizer)[ids]
    tokens = [tokenizer.token(i) for i in ids]
    return [tokens[a:b] for a, b in zip(np.flatnonzero(starts), [*np.flatnonzero(starts)[1:], len(ids)], strict=True)]


def published_start(piece):
    """Copies the condition of google-research/albert's create_pretraining_data.py, _is_start_piece_sp."""
    special_pieces = set('!"#$%&"()*+,-./:;?@[\\]^_`{|}~')
    special_pieces.add("€".encode())
    special_pieces.add("£".encode())
    english_chars = set("abcdefghijklmnopqrstuvwxyz")
    return (
        piece.startswith(("▁", "<"))
        or piece in special_pieces
        or not all(i.lower() in english_chars.union(special_pieces) for i in piece)
    )


@pytest.fixture(scope="module", params=["unigram", "sentencepiece"])
def pieces(request):
    return training.train(request.param, TEXTS * 3, 300, lower_case=False)


def test_pieces_as_in_the_published_code_of_albert(pieces):
    begins = word_pieces.begins_word(pieces)
    assert begins.dtype == bool and begins.shape == (pieces.vocab_size,)
    for i in range(pieces.vocab_size):
        assert begins[i] == published_start(pieces.token(i)), pieces.token(i)


def test_each_piece_is_a_word_in_scripts_without_spaces(pieces):
    for text in TEXTS[1:4]:
        assert all(len(word) == 1 for word in words(pieces, text))


def test_english_words_and_punctuation(pieces):
    written = ["".join(word) for word in words(pieces, "the well-known cats, 42.")]
    assert written[:2] == ["▁the", "▁well"]
    assert "," in written and "." in written
    assert "▁cats" in written


@pytest.mark.parametrize("kind", ["bpe", "bert-bpe"])
def test_bytes_of_scripts_without_spaces(kind):
    tokenizer = training.train(kind, TEXTS * 3, 600)
    for text in TEXTS[1:4]:
        assert max(len(word) for word in words(tokenizer, text)) <= 3  # bytes of one character
    for text in (TEXTS[0], *TEXTS[4:]):  # cut at spaces and punctuation alone
        (ids,), (starts,) = tokenizer.encode_with_words([text])
        assert not (word_pieces.begins_word(tokenizer)[ids] & ~starts).any()


def test_wordpiece_is_as_published():
    tokenizer = training.train("wordpiece", TEXTS * 3, 300)
    assert not word_pieces.begins_word(tokenizer).any()
