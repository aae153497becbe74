"""Defines the interface of every tokenizer: text to token ids and back, and the special tokens around texts.

`loading.load` reads a tokenizer, `Tokenizer.save` writes what `load` reads back, and training.py trains new ones.
"""

import dataclasses
import pathlib

import numpy as np
import tokenizers as hf

from bert_jax.errors import UserError

# Names of each special token in the published vocabularies; the first one that a vocabulary has is used.
SPECIAL_NAMES = {
    "cls": ("[CLS]", "<s>", "<cls>", "<|begin_of_text|>", "<bos>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<|end_of_text|>", "<eos>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|end_of_text|>"),
    "unk": ("[UNK]", "<unk>"),
}
# The role whose token is used where a vocabulary names none for the first.
_FALLBACK_ROLE = {"cls": "bos", "sep": "eos"}


@dataclasses.dataclass(frozen=True)
class Frame:
    """Holds the ids of the special tokens around a text or a pair: one before it, others between texts and at the end.

    Attributes:
      before: the one token in front of the first text, such as [CLS].
      after: tokens behind a single text.
      between: tokens between the two texts of a pair.
      after_pair: tokens behind the second text of a pair.
      segments: token_type_ids of a pair, for each token in `between`, the second text, and each in `after_pair`.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]
    after_pair: tuple[int, ...]
    segments: tuple[tuple[int, ...], int, tuple[int, ...]]

    @classmethod
    def usual(cls, first: int, separator: int, separators: int) -> "Frame":
        """Returns BERT's frame, or RoBERTa's.

        A single text becomes [CLS] A [SEP]. Pairs have one separator and segment 1 (BERT), or several separators and
        no segments (RoBERTa).

        Args:
          first: id of [CLS].
          separator: id of [SEP].
          separators: how many of them stand between the texts of a pair.
        """
        segment = int(separators == 1)
        segments = ((0,) * separators, segment, (segment,))
        return cls((first,), (separator,), (separator,) * separators, (separator,), segments)

    @classmethod
    def from_pipeline(cls, tokenizer: hf.Tokenizer, text: str) -> "Frame | None":
        """Returns what a pipeline's post-processor adds, seen by encoding `text`; None if no token comes first."""
        single, pair = tokenizer.encode(text), tokenizer.encode(text, text)
        single_texts, pair_texts = single.sequence_ids, pair.sequence_ids
        if 0 not in single_texts or not {0, 1} <= set(pair_texts):
            return None
        start, stop = single_texts.index(0), len(single_texts) - single_texts[::-1].index(0)
        first_stop, second = len(pair_texts) - pair_texts[::-1].index(0), pair_texts.index(1)
        second_stop = len(pair_texts) - pair_texts[::-1].index(1)
        ids, types = tuple(pair.ids), tuple(pair.type_ids)
        if start != 1 or pair_texts.index(0) != 1 or second < first_stop or ids[0] != single.ids[0]:
            return None
        segments = (types[first_stop:second], types[second], types[second_stop:])
        return cls(ids[:1], tuple(single.ids[stop:]), ids[first_stop:second], ids[second_stop:], segments)

    of = from_pipeline  # the method's name in earlier versions


class Tokenizer:
    """Describes a vocabulary and how text becomes its ids.

    Attributes:
      kind: "wordpiece", "bpe", "sentencepiece", or the model type of another tokenizer.json in lower case.
      vocab_size: every id is below this.
      cls_id, sep_id, mask_id, pad_id: ids of the special tokens.
      unk_id: id of the unknown token, or None where there is none.
      special_ids: every special token's id, sorted.
      frame: the special tokens around a text and the texts of a pair.
      leading_space: whether the white space before a word is part of its token, so that a sentence inside a document
        is encoded with the space before it.
    """

    kind: str
    vocab_size: int
    special_ids: tuple[int, ...]
    frame: Frame
    leading_space = False

    def encode(self, texts: list[str], special: bool = False) -> list[list[int]]:
        """Returns the ids of each text, without [CLS] and [SEP].

        With `special`, the name of a special token in the text, such as "[MASK]", becomes its id; else it is text.
        """
        raise NotImplementedError

    def encode_with_words(self, texts: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns two lists with one array for each text: ids (uint32 [n]), and which start a word (bool [n])."""
        ids, starts, lengths = self.encode_flat(texts)
        ends = np.cumsum(lengths)[:-1]
        return np.split(ids, ends), np.split(starts, ends)

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns `encode_with_words` concatenated.

        Returns:
          ids uint32 [n]; whether each starts a word, bool [n]; the number of tokens of each text, int64 [texts].
        """
        raise NotImplementedError

    def encode_with_offsets(self, text: str, special: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the ids of a text, and the [start, end) of each of them in the text, in code points."""
        raise NotImplementedError

    def encode_with_places(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]], np.ndarray]]:
        """Returns for each text: ids, with special tokens that it names; offsets; and which ids start a word.

        Returns:
          One (ids, [start, end) of each in code points, bool [n]) per text.
        """
        raise NotImplementedError

    def normalized(self, text: str) -> str:
        """Returns a text as the vocabulary reads it: lower-cased, without accents, and the like."""
        raise NotImplementedError

    def token(self, token_id: int) -> str:
        """Returns an id's entry in the vocabulary."""
        raise NotImplementedError

    def token_id(self, token: str) -> int | None:
        """Returns the id of an entry of the vocabulary; None where there is no such entry."""
        raise NotImplementedError

    def decode(self, ids) -> str:
        """Returns readable text, special tokens included."""
        raise NotImplementedError

    def digest(self) -> str:
        """Returns a hash that is equal for tokenizers that encode alike."""
        raise NotImplementedError

    def save(self, directory: str | pathlib.Path, max_length: int | None = None, segments: bool = True) -> None:
        """Writes files that `load` reads back, and transformers' AutoTokenizer too unless it is a SentencePiece model.

        Args:
          directory: created where it does not exist.
          max_length: tokens of the longest text that the model reads, for AutoTokenizer.
          segments: whether the model takes token_type_ids, which AutoTokenizer then returns.
        """
        raise NotImplementedError

    def _set_special_ids(self, token_to_id, extra_ids, where, roles=None):
        """Sets the ids of special tokens and the frame.

        Args:
          token_to_id: function from a token to its id, or None.
          others: ids of further special tokens.
          where: the file, for messages.
          roles: names of special tokens by role, tried before SPECIAL_NAMES.
        """
        ids, roles = {}, roles or {}
        for role, usual_names in SPECIAL_NAMES.items():
            named = [roles[key] for key in (role, _FALLBACK_ROLE.get(role)) if key in roles]
            names = [*named, *usual_names]
            candidates = [token_to_id(name) for name in names]
            ids[role] = next((i for i in candidates if i is not None), None)
            if ids[role] is None and role != "unk":
                raise UserError(
                    f"{where}: the vocabulary has no {role} token; expected one of {', '.join(names)} among its tokens"
                )
        self.cls_id, self.sep_id, self.mask_id = ids["cls"], ids["sep"], ids["mask"]
        self.pad_id, self.unk_id = ids["pad"], ids["unk"]
        # RoBERTa, and every vocabulary whose first token is <s>, puts two separators between texts.
        self.frame = Frame.usual(self.cls_id, self.sep_id, 2 if self.cls_id == token_to_id("<s>") else 1)
        self.special_ids = tuple(sorted({i for i in ids.values() if i is not None} | set(extra_ids)))


def trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Returns [start, stop) of a text without white space at either end; (stop, stop) where all is white space."""
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop
