"""Encoding by cached chunks: text is cut at spaces that no token crosses, and each distinct chunk is encoded once.

Natural text repeats its words, so a bounded dictionary from chunk to ids does most of the work at dictionary speed
(`tokenizers` alone reaches 2 MB/s on a core). Which cuts are safe depends on the pipeline; `encoder_for` knows two:

WordPiece behind BertNormalizer and BertPreTokenizer. Every step before the pre-tokenizer maps single characters
(cleaning, spacing CJK, lower case, canonical decomposition, in which a space is a starter that nothing reorders
across), and the pre-tokenizer drops white space: any ASCII space can be cut at and left out.

Byte-level BPE with GPT-2's regular expression and no normalizer. The expression keeps a single space between two
non-space characters with what follows; longer white space it divides. So text whose only white space is single
ASCII spaces can be cut before each of them; other text is encoded directly.
"""

import itertools
import json

import numpy as np
import tokenizers as hf

_STARTS_WORD = np.uint32(1 << 31)
_END = np.uint32(1 << 30)
_IDS = np.uint32(_END - 1)
_MAX_CHUNKS = 1 << 17  # some 30 MB
_MAX_CHUNK_LENGTH = 64  # longer ones are encoded, never kept
_DIRECT = "  "  # before a text that is encoded as it is


def word_starts(word_ids: list[int | None]) -> np.ndarray:
    """Where a pre-token begins: bool [n], from the word index of each token."""
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    return np.diff(words, prepend=-2) != 0


def encoder_for(tokenizer: hf.Tokenizer):
    """The chunk encoder whose result equals the tokenizer's own, or None if its pipeline is not a known one."""
    state = json.loads(tokenizer.to_str())
    if any(not token["special"] for token in state["added_tokens"]):
        return None  # added words match across spaces
    normalizer, pre_tokenizer, model = state["normalizer"], state["pre_tokenizer"], state["model"]
    kinds = [(step or {}).get("type") for step in (normalizer, pre_tokenizer, model)]
    if kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
        return SpacedChunks(tokenizer, model["continuing_subword_prefix"])
    if kinds == [None, "ByteLevel", "BPE"] and pre_tokenizer.get("use_regex", True) and not model.get("dropout"):
        return ByteLevelChunks(tokenizer)
    return None


class SpacedChunks:
    """For WordPiece, in whose pipeline ASCII spaces only separate."""

    def __init__(self, tokenizer: hf.Tokenizer, prefix: str):
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self._flags = np.full(max(vocab.values()) + 1, _STARTS_WORD)
        self._flags[[i for token, i in vocab.items() if token.startswith(prefix)]] = 0
        self._clear()

    def _clear(self):
        # Chunk -> its ids with their flags, as bytes. None marks the end of a text.
        self._known = {"": b"", None: _END.tobytes()}

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids uint32 [n], which of them start a word bool [n], and the tokens of each text int64 [texts]."""
        keys = []
        for text in texts:
            keys += self._keys(text)
            keys.append(None)
        known = self._known
        missing = set(keys).difference(known)
        long = {}
        if missing:
            if len(known) + len(missing) > _MAX_CHUNKS:
                self._clear()
                known = self._known
                missing = set(keys).difference(known)
            for key, packed in self._encoded(sorted(missing)):
                (known if len(key) <= _MAX_CHUNK_LENGTH else long)[key] = packed
        get = known.__getitem__ if not long else lambda key: known[key] if key in known else long[key]
        flat = np.frombuffer(b"".join(map(get, keys)), np.uint32)
        is_end = (flat & _END) != 0
        lengths = np.diff(np.flatnonzero(is_end), prepend=-1) - 1
        flat = flat[~is_end]
        return flat & _IDS, (flat & _STARTS_WORD) != 0, lengths

    def _keys(self, text):
        return text.split(" ")

    def _encoded(self, keys):
        """(key, packed ids and flags) of each key."""
        encodings = self._tokenizer.encode_batch_fast(keys, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.uint32)
        packed = (ids | self._flags[ids]).tobytes()
        ends = itertools.accumulate(ids.itemsize * len(row) for row in rows)
        return ((key, packed[a:b]) for key, (a, b) in zip(keys, itertools.pairwise([0, *ends]), strict=True))


class ByteLevelChunks(SpacedChunks):
    """For byte-level BPE, in which a space belongs to the word after it.

    A key "word" stands for the chunk " word", and " word" for "word" at the beginning of a text:
    keys hold no other space, so that the two cannot be confused.
    """

    def __init__(self, tokenizer: hf.Tokenizer):
        self._tokenizer = tokenizer
        self._clear()

    def _keys(self, text):
        words = text.split()
        leading = text.startswith(" ")
        if not words or " ".join(words) != text[leading:]:
            return [_DIRECT + text]
        if not leading:
            words[0] = " " + words[0]
        return words

    def _encoded(self, keys):
        # Only the slower encode_batch knows which word a token belongs to.
        encodings = self._tokenizer.encode_batch([_text(key) for key in keys], add_special_tokens=False)
        for key, encoding in zip(keys, encodings, strict=True):
            ids = np.array(encoding.ids, np.uint32)
            ids[word_starts(encoding.word_ids)] |= _STARTS_WORD
            yield key, ids.tobytes()


def _text(key):
    if key.startswith(_DIRECT):
        return key[len(_DIRECT) :]
    return key[1:] if key.startswith(" ") else " " + key
