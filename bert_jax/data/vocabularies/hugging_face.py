"""Runs vocabularies with the `tokenizers` package: WordPiece, byte-level BPE, unigram and any `tokenizer.json`."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from tokenizers import models, normalizers

from bert_jax.data.vocabularies import chunks, published, tokenizer_classes
from bert_jax.data.vocabularies.tokenizer import Frame, Tokenizer, trimmed
from bert_jax.errors import UserError

# The normalizer of Gemma's pipelines, which puts no space before a text.
_GEMMA_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


class HuggingFaceTokenizer(Tokenizer):
    """Is a tokenizer that the `tokenizers` package runs."""

    def __init__(self, tokenizer: hf.Tokenizer, where: str, roles: Mapping[str, str] | None = None):
        """Wraps a pipeline, which is changed: no truncation, no padding, and names of special tokens are text.

        Args:
          tokenizer: the pipeline.
          where: the vocabulary's file, for messages.
          roles: names of its special tokens by role ("cls", "sep", ...), where they are not the usual ones.

        Raises:
          UserError: the vocabulary lacks a special token.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # the text "[MASK]" in a corpus is text
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self._tokenizer = tokenizer
        self.kind = type(tokenizer.model).__name__.lower()
        self.vocab_size = max(vocab.values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self._set_special_ids(vocab.get, (i for i, token in added.items() if token.special), where, roles)
        frame = Frame.from_pipeline(tokenizer, "a") if tokenizer.post_processor else None
        if frame:
            self.frame = frame
        else:
            cls, sep = self.token(self.cls_id), self.token(self.sep_id)
            tokenizer.post_processor = tokenizer_classes.template(tokenizer, cls, sep, len(self.frame.between))
        # Pieces that begin a word by their spelling, for a pipeline that does not cut text into words.
        self._begins_word = np.zeros(self.vocab_size, bool)
        if not chunks.cuts_words(tokenizer):
            self._begins_word[[i for token, i in vocab.items() if token.startswith(("▁", "Ġ"))]] = True
        state = json.loads(tokenizer.to_str())
        pipeline = json.dumps(state["pre_tokenizer"])
        self.leading_space = "ByteLevel" in pipeline or state["normalizer"] == _GEMMA_SPACES
        self._holds_spaces = self.leading_space or "Metaspace" in pipeline

    def encode(self, texts, special=False):
        tokenizer = self._with_special if special else self._plain
        return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_flat(self, texts):
        if self._chunks is not None:
            return self._chunks.encode_flat(texts)
        encodings = self._plain.encode_batch(texts, add_special_tokens=False)
        lengths = np.array([len(e) for e in encodings], np.int64)
        ids = np.fromiter((i for e in encodings for i in e.ids), np.uint32, lengths.sum())
        starts = np.concatenate([np.zeros(0, bool), *(chunks.word_starts(e.word_ids) for e in encodings)])
        return ids, starts | self._begins_word[ids], lengths

    def encode_with_offsets(self, text, special=True):
        tokenizer = self._with_special if special else self._plain
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, self._without_spaces(text, encoding.offsets)

    def encode_with_places(self, texts):
        encoded = []
        encodings = self._with_special.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            starts = chunks.word_starts(encoding.word_ids) | self._begins_word[encoding.ids]
            encoded.append((encoding.ids, self._without_spaces(text, encoding.offsets), starts))
        return encoded

    def _without_spaces(self, text, offsets):
        """Returns offsets that leave out the white space in a token, which only some post-processors leave out."""
        return [trimmed(text, *offset) for offset in offsets] if self._holds_spaces else offsets

    @functools.cached_property
    def _chunks(self):
        return chunks.encoder_for(self._plain)

    @functools.cached_property
    def _plain(self):
        """Returns the pipeline that reads names of special tokens as text.

        A unigram vocabulary has these names among its pieces, as the likeliest ones, and one of words has them among
        its words, so they get another spelling.
        """
        if self.kind not in ("unigram", "wordlevel"):
            return self._tokenizer
        state = json.loads(self.json())
        special = {self.token(i) for i in self.special_ids if i != self.unk_id or self.kind == "unigram"}
        vocab = state["model"]["vocab"]
        if self.kind == "wordlevel":
            state["model"]["vocab"] = {f" {word}" if word in special else word: i for word, i in vocab.items()}
        for piece in vocab if self.kind == "unigram" else ():
            if piece[0] in special:
                piece[0] = f" {piece[0]}"  # no word holds a space
        for token in state["added_tokens"]:
            if token["content"] in special:
                token["content"] = f" {token['content']}"
        tokenizer = hf.Tokenizer.from_str(json.dumps(state))
        tokenizer.encode_special_tokens = True
        return tokenizer

    @functools.cached_property
    def _with_special(self):
        tokenizer = hf.Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    def normalized(self, text):
        normalizer = self._tokenizer.normalizer
        return normalizer.normalize_str(text) if normalizer else text

    def token(self, token_id):
        return self._tokenizer.id_to_token(int(token_id))

    def token_id(self, token):
        return self._tokenizer.token_to_id(token)

    def decode(self, ids):
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def digest(self):
        plain = hf.Tokenizer.from_str(self.json())
        plain.post_processor = None  # joins ids, but encodes no text
        return hashlib.blake2b(plain.to_str().encode(), digest_size=16).hexdigest()

    def json(self) -> str:
        """Returns the content of a tokenizer.json."""
        return self._tokenizer.to_str()

    def save(self, directory, max_length=None, segments=True):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if max_length is not None:
            config["model_max_length"] = max_length
        types = ["token_type_ids"] if segments and self.frame.segments[1] else []
        config["model_input_names"] = [
            "input_ids",
            *types,
            "attention_mask",
        ]  # AutoTokenizer's default has no token_type_ids
        for role, token_id in self.roles().items():
            config[f"{role}_token"] = self.token(token_id)
        normalizer = self._tokenizer.normalizer
        if self._is_bert():
            self._write_vocab(directory)
            config["tokenizer_class"] = "BertTokenizer"
            config["do_lower_case"] = normalizer.lowercase
            config["strip_accents"] = normalizer.strip_accents
            config["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        elif tokenizer_classes.is_protein_pipeline(self._tokenizer):
            self._write_vocab(directory)
            config |= {"tokenizer_class": "EsmTokenizer", "eos_token": config.pop("sep_token")}
        (directory / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=True), "utf-8")
        (directory / published.CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _write_vocab(self, directory):
        """Writes vocab.txt, unless the vocabulary leaves out ids."""
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        if sorted(vocab.values()) == list(range(self.vocab_size)):
            lines = sorted(vocab, key=vocab.__getitem__)
            (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in lines), "utf-8", newline="\n")

    def _is_bert(self):
        """Returns whether BertTokenizer, which builds its pipeline from settings alone, would build this one."""
        state = json.loads(self.json())
        model, normalizer, pre_tokenizer = state["model"], state["normalizer"] or {}, state["pre_tokenizer"] or {}
        kinds = [step.get("type") for step in (normalizer, pre_tokenizer, model)]
        pieces = (model.get("continuing_subword_prefix"), model.get("max_input_chars_per_word"))
        return (
            kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
            and normalizer.get("clean_text")
            and pieces == ("##", 100)
            and self.frame == Frame.usual(self.cls_id, self.sep_id, 1)
        )

    def roles(self) -> dict[str, int]:
        """Returns the ids of the special tokens by role: "cls", "sep", "mask", "pad", "unk"."""
        roles = {"cls": self.cls_id, "sep": self.sep_id, "mask": self.mask_id, "pad": self.pad_id, "unk": self.unk_id}
        return {role: token_id for role, token_id in roles.items() if token_id is not None}


def lower_cased(tokenizer: HuggingFaceTokenizer) -> HuggingFaceTokenizer:
    """Returns a tokenizer that lower-cases text before any other step."""
    changed = hf.Tokenizer.from_str(tokenizer.json())
    steps = [normalizers.Lowercase(), *([changed.normalizer] if changed.normalizer else [])]
    changed.normalizer = normalizers.Sequence(steps)
    return _with_roles_of(tokenizer, changed, "lower_case")


def with_special_tokens(tokenizer: HuggingFaceTokenizer, tokens: Sequence[str]) -> HuggingFaceTokenizer:
    """Returns a tokenizer in which each of some tokens is read as one wherever `encode` reads special tokens.

    Tokens that the vocabulary lacks get the ids behind its last one. Text is read as before otherwise.
    """
    changed = hf.Tokenizer.from_str(tokenizer.json())
    changed.add_special_tokens([hf.AddedToken(token, normalized=False, special=True) for token in tokens])
    return _with_roles_of(tokenizer, changed, "special tokens")


def _with_roles_of(tokenizer, pipeline, where):
    roles = {role: tokenizer.token(i) for role, i in tokenizer.roles().items()}
    return HuggingFaceTokenizer(pipeline, where, roles)


def wordpiece(
    tokens: list[str],
    lower_case: bool,
    where: str,
    strip_accents: bool | None = None,
    chinese: bool = True,
    pre_tokenizer=None,
) -> Tokenizer:
    """Returns BERT's tokenizer with the given tokens.

    Args:
      tokens: the vocabulary; a token's place in the list is its id.
      lower_case: whether letters are lower-cased.
      where: the vocabulary's file, for messages.
      strip_accents: None does what `lower_case` says.
      chinese: whether Chinese characters are words of their own.
      pre_tokenizer: cuts text into words, where it is not BERT's.

    Raises:
      UserError: a special token is missing.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    if "[UNK]" not in vocab:
        raise UserError(f"{where}: the vocabulary has no [UNK]; expected one among its tokens")
    tokenizer = tokenizer_classes.bert_pipeline(vocab, "[UNK]", lower_case, strip_accents, chinese)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.add_special_tokens([name for name in names if name in vocab])
    return HuggingFaceTokenizer(tokenizer, where)


def proteins(tokens: Sequence[str] = tokenizer_classes.AMINO_ACIDS, where: str = "") -> HuggingFaceTokenizer:
    """Returns ESM's tokenizer, to which each amino acid is a word.

    Args:
      tokens: the vocabulary, with ESM's special tokens; a token's place in the list is its id.
      where: the vocabulary's file, for messages.
    """
    tokenizer = tokenizer_classes.protein_pipeline(tokens)
    return HuggingFaceTokenizer(tokenizer, where, {"sep": "<eos>"})


def byte_level(vocab: dict[str, int], merges: list[tuple[str, str]], where: str) -> Tokenizer:
    """Returns RoBERTa's tokenizer with the given vocabulary and merges, and RoBERTa's or BERT's special tokens.

    Args:
      vocab: ids of the tokens.
      merges: pairs of tokens that are joined, first ones first.
      where: the vocabulary's file, for messages.

    Raises:
      UserError: a special token is missing.
    """
    tokenizer = tokenizer_classes.byte_level_pipeline(models.BPE(vocab, merges))
    names = ("<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]")
    tokenizer.add_special_tokens([name for name in names if name in vocab])
    for mask in ("<mask>", "[MASK]"):
        if mask in vocab:  # it takes the space before it, as in RoBERTa and ModernBERT
            tokenizer.add_special_tokens([hf.AddedToken(mask, lstrip=True, special=True, normalized=False)])
    return HuggingFaceTokenizer(tokenizer, where)


def unigram(proto: bytes, lower_case: bool, where: str, strip_accents: bool | None = None) -> Tokenizer:
    """Returns a unigram tokenizer with the pieces of a SentencePiece model that begins as ALBERT's.

    Args:
      proto: content of the .model file, trained on text that tokenizer_classes.unigram_normalizer has prepared.
      lower_case: whether letters are lower-cased.
      where: the file, for messages.
      strip_accents: whether accents are stripped; None does where letters are lower-cased.
    """
    vocabulary = published.load_model(proto, where, lower_case)
    assert vocabulary is not None, f"{where}: its first pieces are not ALBERT's"
    strip_accents = lower_case if strip_accents is None else strip_accents
    vocabulary.tokenizer.normalizer = tokenizer_classes.unigram_normalizer(lower_case, strip_accents)
    return HuggingFaceTokenizer(vocabulary.tokenizer, where, vocabulary.roles)
