"""Says which pieces of a vocabulary begin a word for whole-word masking, whatever stands before them.

The white space before a word marks its first piece, and `Tokenizer.encode_flat` goes by that. Scripts without spaces
have no such mark, so that a whole clause would be one word.
"""

import numpy as np

from bert_jax.data.scripts import writes_no_spaces
from bert_jax.data.vocabularies.tokenizer import Tokenizer

_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;?@[\\]^_`{|}~")
_CONTINUING = frozenset("abcdefghijklmnopqrstuvwxyz") | _PUNCTUATION


def begins_word(tokenizer: Tokenizer) -> np.ndarray:
    """Returns whether each entry of the vocabulary begins a word wherever it stands, bool [vocabulary].

    For pieces in which "▁" is a space: as in google-research/albert (create_pretraining_data.py, _is_start_piece_sp),
    those that begin with "▁" or "<", single marks of ASCII punctuation, and all that hold anything but ASCII letters
    and such marks. For byte-level BPE, whose whole-word masking nobody has published, pieces whose first character
    is from a script without spaces. For WordPiece none: what google-research/bert masks together are the pieces that
    begin with "##", which a word's first piece does not.
    """
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    if tokenizer.leading_space and not any(token and token.startswith("▁") for token in tokens):
        return np.array([_is_unspaced(token) for token in tokens])
    if tokenizer.kind in ("unigram", "sentencepiece", "bpe"):
        return np.array([token is not None and _is_first_piece(token) for token in tokens])
    return np.zeros(len(tokens), bool)


def _is_first_piece(piece):
    """Does what google-research/albert's _is_start_piece_sp does."""
    if piece.startswith(("▁", "<")) or piece in _PUNCTUATION:
        return True
    return not all(character.lower() in _CONTINUING for character in piece)


def _is_unspaced(token):
    """Returns whether a byte-level token begins with a character of a script without spaces, as far as its bytes say.

    A token may end inside a character: then all characters that begin with its bytes must be of such scripts.
    """
    begin = bytes(_BYTES[c] for c in (token or "")[:4] if c in _BYTES)
    if not begin or begin[0] < 0xE0:
        return False
    length = 3 if begin[0] < 0xF0 else 4
    begin = begin[:length]
    lowest, highest = (_decoded(begin + bytes([fill]) * (length - len(begin))) for fill in (0x80, 0xBF))
    return all(character and writes_no_spaces(character) for character in (lowest, highest))


def _decoded(character):
    try:
        return character.decode()
    except UnicodeDecodeError:
        return ""


def _byte_alphabet():
    """Returns the byte of each character by which byte-level BPE stands for it (GPT-2, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()
