"""Speeds encoding up: cuts text at spaces that no token crosses, and encodes each distinct chunk once.

Natural text repeats its words, so a bounded dictionary from chunk to ids does most of the work (`tokenizers` alone
reaches 2 MB/s on a core). Half of the distinct chunks of English are words with a mark beside them ("end." or "(and"),
whose ids are put together from those of their parts. Which cuts are safe depends on the pipeline; `encoder_for` knows
three:

WordPiece behind BertNormalizer and BertPreTokenizer. Every step before the pre-tokenizer maps single characters
(cleaning, spacing CJK, lower case, canonical decomposition, in which a space is a starter that nothing reorders
across), and the pre-tokenizer drops white space: any ASCII space can be cut at and left out. Each mark of
punctuation is a word of its own.

Byte-level BPE with GPT-2's or Llama 3's regular expression, behind NFC or nothing. The expressions keep a single
space between two non-space characters together with what follows, or apart from both; longer white space is divided.
So text whose only white space is single ASCII spaces can be cut before each of them; other text is encoded directly.
Both end a word before the first mark behind its letters, unless that is an apostrophe.

Unigram over the words that Metaspace cuts (ALBERT, DeBERTa v2, XLM-RoBERTa). A space ends a word and is no part of it,
and no normalizer looks across it, except where a character forms one grapheme with the space beside it, because
SentencePiece's character maps work on graphemes: text with such a character beside a space is encoded directly.
DeBERTa's normalizer shortens runs of white space, so text for it is cut only if all its white space is ASCII spaces.
"""

import itertools
import json
import re
import sys
import unicodedata

import numpy as np
import tokenizers as hf

_STARTS_WORD = np.uint32(1 << 31)
_END = np.uint32(1 << 30)
_IDS = np.uint32(_END - 1)
_MAX_CHUNKS = 1 << 17  # some 30 MB
_MAX_CHUNK_LENGTH = 64  # longer ones are encoded, never kept
_DIRECT = "  "  # prefix of a key that is a whole text, encoded without cuts
_MARKS = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~‘’“”–—…")  # which no normalizer of these pipelines changes
_LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BERT_KINDS = ("BertNormalizer", "BertPreTokenizer", "WordPiece")
_NORMALIZERS = {
    "Replace", "Nmt", "NFKD", "NFKC", "NFC", "StripAccents", "Lowercase", "Precompiled",
}  # fmt: skip  # none looks across a space


def word_starts(word_ids: list[int | None]) -> np.ndarray:
    """Returns whether each token starts a pre-token, bool [n], from the index of each token's pre-token."""
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    return np.diff(words, prepend=-2) != 0


def cuts_words(tokenizer: hf.Tokenizer) -> bool:
    """Returns whether a pipeline's pre-tokenizer cuts text, as the normalizer leaves it, into words."""
    text = tokenizer.normalizer.normalize_str("a a") if tokenizer.normalizer else "a a"
    return tokenizer.pre_tokenizer is not None and len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) > 1


def encoder_for(tokenizer: hf.Tokenizer):
    """Returns a chunk encoder with the same results as the tokenizer, or None if its pipeline is not a known one."""
    state = json.loads(tokenizer.to_str())
    normalizer, pre_tokenizer, model = state["normalizer"], state["pre_tokenizer"], state["model"]
    kinds = [(step or {}).get("type") for step in (normalizer, pre_tokenizer, model)]
    added = [token for token in state["added_tokens"] if not token["special"]]
    cuts = _steps(pre_tokenizer, "pretokenizers")
    names = [step["type"] for step in cuts]
    # A Split behind BERT's pre-tokenizer sees single words.
    if (kinds[0], *names[:1], kinds[2]) == _BERT_KINDS and names[1:] in ([], ["Split"]) and not added:
        return SpacedChunks(tokenizer, model["continuing_subword_prefix"])
    if any(_crosses_spaces(token) for token in added):
        return None
    if kinds[0] in (None, "NFC") and kinds[2] == "BPE" and _divides_bytes(cuts) and not model.get("dropout"):
        return ByteLevelChunks(tokenizer, has_parts=not added and not cuts[-1]["add_prefix_space"])
    if kinds[2] == "Unigram" and names[-1:] == ["Metaspace"] and cuts[-1]["prepend_scheme"] == "always":
        before = _steps(normalizer, "normalizers")
        if names == ["WhitespaceSplit", "Metaspace"] and all(_is_local(step) for step in before):
            return UnigramChunks(tokenizer, only_spaces=False)
        if names == ["Metaspace"] and [step["type"] for step in before] == ["Replace", "NFC", "Strip"] and not added:
            return UnigramChunks(tokenizer, only_spaces=True)
    return None


def _steps(step, members):
    """Returns the steps of a Sequence, or a single step as a list."""
    return step[members] if step and step["type"] == "Sequence" else [step] if step else []


def _crosses_spaces(token):
    """Returns whether an added token could match across a cut, or depends on the text beside it."""
    blank = len(token["content"]) > 1 and token["content"].isspace()  # single spaces alone are cut at
    text = "".join(token["content"].split()) == token["content"]
    return not (blank or text) or token["lstrip"] or token["rstrip"] or token["single_word"]


def _divides_bytes(cuts):
    """Returns whether pre-tokenizer steps are byte-level with GPT-2's or Llama 3's regular expression."""
    *before, last = cuts or [{"type": ""}]
    if last["type"] != "ByteLevel":
        return False
    if not before:
        return last.get("use_regex", True)
    known = {"type": "Split", "pattern": {"Regex": _LLAMA_WORDS}, "behavior": "Isolated", "invert": False}
    return before == [known] and not last.get("use_regex", True) and not last["add_prefix_space"]


def _is_local(step):
    """Returns whether a normalizer's step looks at no space."""
    literal = step.get("pattern", {}).get("String", "x") if step["type"] == "Replace" else "x"
    return step["type"] in _NORMALIZERS and " " not in literal and "Regex" not in step.get("pattern", {})


def _grapheme_joiners():
    """Returns the characters that form one grapheme with a space beside them, and an expression that finds such a pair.

    UAX 29: Extend and SpacingMark after the space, Prepend before it. Too many characters cost speed, too few would
    change ids.
    """
    joiners = {0x200C, 0x200D, 0xFF9E, 0xFF9F, *range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080)}
    prepended = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E, *range(0x11000, 0x12000)}
    marks = (i for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i))[0] == "M")
    # Two Thai and Lao vowels are spacing marks of UAX 29 although their category is letter.
    after = "".join(map(chr, sorted({*marks, *joiners, 0xE33, 0xEB3})))
    before = "".join(map(chr, sorted(prepended)))
    return frozenset(after + before), re.compile(f" [{after}]|[{before}] ")


class SpacedChunks:
    """Encodes for WordPiece, in whose pipeline ASCII spaces only separate words."""

    _PART = re.compile(f"[{_MARKS}]|[^{_MARKS}]+")

    def __init__(self, tokenizer: hf.Tokenizer, prefix: str):
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self._flags = np.full(max(vocab.values()) + 1, _STARTS_WORD)
        self._flags[[i for token, i in vocab.items() if token.startswith(prefix)]] = 0
        self._clear()

    def _clear(self):
        # Chunk -> the bytes of its ids, each with its flags. None stands for the end of a text.
        self._known = {"": b"", None: _END.tobytes()}

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encodes texts.

        Returns:
          ids uint32 [n]; whether each starts a word, bool [n]; the number of tokens of each text, int64 [texts].
        """
        keys = []
        for text in texts:
            keys += self._keys(text)
            keys.append(None)
        missing = set(keys).difference(self._known)
        long = []
        if missing:
            if len(self._known) + len(missing) > _MAX_CHUNKS:
                self._clear()
                missing = set(keys).difference(self._known)
            self._known.update(self._encoded(sorted(missing)))
            long = [key for key in missing if len(key) > _MAX_CHUNK_LENGTH]
        flat = np.frombuffer(b"".join(map(self._known.__getitem__, keys)), np.uint32)
        for key in long:
            del self._known[key]
        is_end = (flat & _END) != 0
        lengths = np.diff(np.flatnonzero(is_end), prepend=-1) - 1
        flat = flat[~is_end]
        return flat & _IDS, (flat & _STARTS_WORD) != 0, lengths

    def _keys(self, text):
        return text.split(" ")

    def _encoded(self, keys):
        """Encodes chunks, and parts of them: returns the bytes of their ids and their flags by key."""
        divided = {key: parts for key in keys if len(parts := self._divided(key)) > 1}
        parts = itertools.chain.from_iterable(divided.values())
        new = sorted({key for key in keys if key not in divided} | set(parts).difference(self._known))
        words = [key for key in new if key.isascii() and key.isalpha() and len(key) <= _MAX_CHUNK_LENGTH]
        packed = self._encoded_words(words)
        if packed:
            new = [key for key in new if key not in packed]
        packed.update(self._encoded_alone(new))
        for key, parts in divided.items():
            packed[key] = b"".join([packed[part] if part in packed else self._known[part] for part in parts])
        return packed

    def _encoded_words(self, words):
        """Encodes words of ASCII letters as one text; returns none where they are not those that the pipeline cuts."""
        ids = self._flagged(self._tokenizer.encode(self._text(" ".join(words)), add_special_tokens=False))
        starts = np.flatnonzero(ids & _STARTS_WORD)
        if len(starts) != len(words):
            return {}
        ends = (ids.itemsize * np.append(starts, len(ids))).tolist()
        packed = ids.tobytes()
        return {word: packed[a:b] for word, (a, b) in zip(words, itertools.pairwise(ends), strict=True)}

    def _divided(self, key):
        """Returns keys whose ids, one after another, are those of a key."""
        return [key] if key.isalpha() or len(key) > _MAX_CHUNK_LENGTH else self._PART.findall(key)

    def _encoded_alone(self, keys):
        """Encodes chunks one by one: yields (key, bytes of its ids and their flags)."""
        encodings = self._tokenizer.encode_batch_fast(keys, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.uint32)
        packed = (ids | self._flags[ids]).tobytes()
        ends = itertools.accumulate(ids.itemsize * len(row) for row in rows)
        return ((key, packed[a:b]) for key, (a, b) in zip(keys, itertools.pairwise([0, *ends]), strict=True))

    def _flagged(self, encoding):
        ids = np.array(encoding.ids, np.uint32)
        return ids | self._flags[ids]

    def _text(self, key):
        """Returns the text that a key stands for."""
        return key


class ByteLevelChunks(SpacedChunks):
    """Encodes for byte-level BPE, in which a space belongs to the word after it.

    The key "word" stands for the chunk " word", and the key " word" for "word" at the beginning of a text: keys hold
    no other space, so the two cannot be confused.
    """

    _PART = re.compile(f"( ?[A-Za-zÀ-ÖØ-öø-ɏΑ-Ωα-ωА-я]+)((?!')[{_MARKS}]+)")

    def __init__(self, tokenizer: hf.Tokenizer, has_parts: bool = False):
        """Begins with no chunk known.

        Args:
          tokenizer: the pipeline.
          has_parts: whether text may be cut between a word's letters and the marks behind them.
        """
        self._tokenizer = tokenizer
        self._has_parts = has_parts
        self._clear()

    def _keys(self, text):
        words = text.split()
        leading = text.startswith(" ")
        if not words or " ".join(words) != text[leading:]:
            return [_DIRECT + text]
        if not leading:
            words[0] = " " + words[0]
        return words

    def _divided(self, key):
        if not self._has_parts or key.isalpha() or len(key) > _MAX_CHUNK_LENGTH:
            return [key]
        match = self._PART.fullmatch(key)
        return [match[1], " " + match[2]] if match else [key]

    def _encoded_alone(self, keys):
        # Not encode_batch_fast, which does not return the word that a token belongs to.
        encodings = self._tokenizer.encode_batch([self._text(key) for key in keys], add_special_tokens=False)
        return ((key, self._flagged(encoding).tobytes()) for key, encoding in zip(keys, encodings, strict=True))

    def _flagged(self, encoding):
        ids = np.array(encoding.ids, np.uint32)
        ids[word_starts(encoding.word_ids)] |= _STARTS_WORD
        return ids

    def _text(self, key):
        if key.startswith(_DIRECT):
            return key[len(_DIRECT) :]
        return key[1:] if key.startswith(" ") else " " + key


class UnigramChunks(ByteLevelChunks):
    """Encodes for unigram models, in whose words a space is no part."""

    _joiners: tuple[frozenset[str], re.Pattern] | None = (
        None  # computed once, when first needed, because it goes through all of Unicode
    )

    def __init__(self, tokenizer: hf.Tokenizer, only_spaces: bool):
        super().__init__(tokenizer, has_parts=False)
        self._only_spaces = only_spaces
        if UnigramChunks._joiners is None:
            UnigramChunks._joiners = _grapheme_joiners()

    def _keys(self, text):
        assert UnigramChunks._joiners is not None
        characters, joined_to_space = UnigramChunks._joiners
        if not text.isascii() and not characters.isdisjoint(text) and joined_to_space.search(text):
            return [_DIRECT + text]
        if self._only_spaces and ("\u2581" in text or sum(map(len, text.split())) + text.count(" ") != len(text)):
            return [_DIRECT + text]  # a space before a literal U+2581 is a word too
        return text.split(" ")

    def _text(self, key):
        return key.removeprefix(_DIRECT)
