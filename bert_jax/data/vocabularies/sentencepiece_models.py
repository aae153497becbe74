"""Runs SentencePiece models with the `sentencepiece` package itself."""

import hashlib
import json
import pathlib
import unicodedata
from collections.abc import Mapping

import numpy as np

from bert_jax.data.vocabularies import published
from bert_jax.data.vocabularies.tokenizer import Tokenizer, trimmed
from bert_jax.errors import UserError


class SentencePieceTokenizer(Tokenizer):
    """Is a tokenizer that the `sentencepiece` package runs."""

    kind = "sentencepiece"

    def __init__(self, proto: bytes, where: str, lower_case: bool | None = None, keep_accents: bool | None = None):
        """Opens a model.

        Args:
          proto: content of the .model file.
          where: its name, for messages.
          lower_case: whether text is prepared as ALBERT's published code does for uncased models: `` and '' become
            double quotes, accents are stripped, letters lower-cased (google-research/albert, tokenization.py). None
            lets the letters of the pieces decide, unless the model itself folds case.
          keep_accents: whether lower-casing leaves accents; None does where the pieces have some.

        Raises:
          UserError: it is no SentencePiece model, or lacks a special token.
        """
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise UserError(f"{where}: not a SentencePiece model; expected a .model file that it trained") from error
        self.proto = proto
        processor = self._processor
        self.vocab_size = processor.vocab_size()
        tokens = [processor.id_to_piece(i) for i in range(self.vocab_size)]
        ids = {token: i for i, token in enumerate(tokens)}
        control = (i for i in range(self.vocab_size) if processor.is_control(i) or processor.is_unknown(i))
        self._set_special_ids(ids.get, control, where)
        self._special = sorted(((tokens[i], i) for i in self.special_ids if i != self.unk_id), key=lambda t: -len(t[0]))
        self._begins_word = np.array([token.startswith("▁") for token in tokens])
        if any(i in self._processor.encode(token) for token, i in self._special):
            self._processor = _without_user_symbols(proto, self.special_ids)
        if lower_case is None:
            lower_case = "A" in processor.normalize("A") and published.has_no_capitals(tokens, self.special_ids)
        self.lower_case = lower_case
        if keep_accents is None:
            keep_accents = published.keeps_accents(tokens, self.special_ids)
        self._keep_accents = bool(lower_case and keep_accents)

    def encode(self, texts, special=False):
        if special:
            return [self.encode_with_offsets(text)[0] for text in texts]
        if self.lower_case:
            texts = [_lowered(text, self._keep_accents) for text in texts]
        return self._processor.encode(texts, num_threads=1)

    def encode_flat(self, texts):
        rows = self.encode(texts)
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.fromiter((i for row in rows for i in row), np.uint32, lengths.sum())
        starts = self._begins_word[ids]
        starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        return ids, starts, lengths

    def encode_with_offsets(self, text, special=True):
        ids, offsets = [], []
        for start, stop, token_id in self._spans(text) if special else [(0, len(text), None)]:
            if token_id is not None:
                ids.append(token_id)
                offsets.append((start, stop))
                continue
            part = text[start:stop]
            characters, origins = part, range(stop - start)
            if self.lower_case:
                characters, origins = _lowered_characters(part, self._keep_accents)
            mapping = self._processor.encode("".join(characters), out_type="offset_mapping")
            origins = [*origins, stop - start]
            ids += mapping["ids"]
            offsets += [trimmed(text, start + origins[a], start + origins[b]) for a, b in mapping["offsets"]]
        return ids, offsets

    def encode_with_places(self, texts):
        encoded = []
        for text in texts:
            ids, offsets = self.encode_with_offsets(text)
            starts = self._begins_word[ids]
            starts[:1] = True
            encoded.append((ids, offsets, starts))
        return encoded

    def _spans(self, text):
        """Cuts a text at the names of special tokens: yields (start, stop, id of the special token, or None)."""
        position = 0
        while position < len(text):
            hits = [(text.find(token, position), -len(token), i) for token, i in self._special]
            hits = [hit for hit in hits if hit[0] >= 0]
            if not hits:
                break
            start, negative_length, token_id = min(hits)  # the first, and the longest of those
            if text[position:start].strip():
                yield position, start, None
            position = start - negative_length
            yield start, position, token_id
        if text[position:].strip():
            yield position, len(text), None

    def normalized(self, text):
        text = _lowered(text, self._keep_accents) if self.lower_case else text
        return self._processor.normalize(text).replace("\u2581", " ")

    def token(self, token_id):
        return self._processor.id_to_piece(int(token_id))

    def token_id(self, token):
        token_id = self._processor.piece_to_id(token)
        return token_id if self._processor.id_to_piece(token_id) == token else None

    def decode(self, ids):
        parts, run = [], []
        special = dict((i, token) for token, i in self._special)
        for token_id in map(int, ids):
            if token_id in special:
                parts += [self._processor.decode(run)] if run else []
                parts.append(special[token_id])
                run = []
            else:
                run.append(token_id)
        return " ".join(parts + ([self._processor.decode(run)] if run else []))

    def digest(self):
        return hashlib.blake2b(
            self.proto + bytes([self.lower_case + 2 * self._keep_accents]), digest_size=16
        ).hexdigest()

    def save(self, directory, max_length=None, segments=True):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "spiece.model").write_bytes(self.proto)
        config = {"do_lower_case": bool(self.lower_case)}
        if self._keep_accents:
            config["keep_accents"] = True
        (directory / published.CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def renamed(proto: bytes, names: Mapping[str, str]) -> bytes:
    """Returns a model whose pieces have other text in the place of some, as in {text: new text}.

    Args:
      proto: content of the .model file.
      names: what to put in the place of what.
    """
    model = _parsed(proto)
    for piece in model.pieces:
        for name, other in names.items():
            piece.piece = piece.piece.replace(name, other)
    return model.SerializeToString()


def _without_user_symbols(proto, special_ids):
    """Returns a processor whose special tokens are control symbols, to which no text is encoded."""
    import sentencepiece

    model = _parsed(proto)
    for i in special_ids:
        if model.pieces[i].type == model.SentencePiece.USER_DEFINED:
            model.pieces[i].type = model.SentencePiece.CONTROL
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def _parsed(proto):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(proto)
    return model


def _lowered(text, keep_accents):
    """Returns text prepared as ALBERT's published code prepares it for uncased models."""
    if "\u03a3" in text:  # capital sigma is the one letter whose lower case depends on its neighbours
        return "".join(_lowered_characters(text, keep_accents)[0])
    text = text.replace("``", '"').replace("''", '"')
    if not text.isascii() and not keep_accents:
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    return text.lower()


def _lowered_characters(text, keep_accents):
    """Does what `_lowered` does, character by character: returns (characters, the index in `text` of each)."""
    characters, origins = [], []
    i = 0
    while i < len(text):
        if text[i : i + 2] in ("``", "''"):
            characters.append('"')
            origins.append(i)
            i += 2
            continue
        for part in text[i] if keep_accents else unicodedata.normalize("NFKD", text[i]):
            if keep_accents or not unicodedata.combining(part):
                lowered = part.lower()
                characters += lowered
                origins += [i] * len(lowered)
        i += 1
    return characters, origins
