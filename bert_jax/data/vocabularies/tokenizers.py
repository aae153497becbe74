"""Vocabularies: WordPiece, byte-level BPE, any `tokenizer.json`, and SentencePiece, behind one interface.

`load` reads one, `Tokenizer.save` writes what `load` reads back; tokenizer_training.py makes new ones.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bert_jax.data.vocabularies import chunks, published
from bert_jax.errors import UserError

# What each special token is called in the published vocabularies; the first name found is taken.
SPECIAL_NAMES = {
    "cls": ("[CLS]", "<s>", "<cls>", "<|begin_of_text|>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<|end_of_text|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|end_of_text|>"),
    "unk": ("[UNK]", "<unk>"),
}
# The role that serves where a vocabulary names no token for one.
_INSTEAD = {"cls": "bos", "sep": "eos"}


@dataclasses.dataclass(frozen=True)
class Frame:
    """The special tokens of a row, as ids: one before the first text, and any number between texts and at the end.

    Attributes:
      before: in front of the first text.
      after: behind a single text.
      between, after_pair: between the texts of a pair, and behind the second.
      segments: of each token between, of the second text, and of each token behind it.
    """

    before: tuple[int]
    after: tuple[int, ...]
    between: tuple[int, ...]
    after_pair: tuple[int, ...]
    segments: tuple[tuple[int, ...], int, tuple[int, ...]]

    @classmethod
    def usual(cls, first: int, separator: int, separators: int) -> "Frame":
        """[CLS] A [SEP], and for pairs one separator and segment 1 (BERT), or several and no segments (RoBERTa)."""
        segment = int(separators == 1)
        segments = ((0,) * separators, segment, (segment,))
        return cls((first,), (separator,), (separator,) * separators, (separator,), segments)

    @classmethod
    def of(cls, tokenizer: hf.Tokenizer, text: str) -> "Frame | None":
        """What the post-processor of a pipeline does, seen on a text of some tokens; None if no token comes first."""
        single, pair = tokenizer.encode(text), tokenizer.encode(text, text)
        of_text, of_pair = single.sequence_ids, pair.sequence_ids
        if 0 not in of_text or not {0, 1} <= set(of_pair):
            return None
        start, stop = of_text.index(0), len(of_text) - of_text[::-1].index(0)
        first_stop, second = len(of_pair) - of_pair[::-1].index(0), of_pair.index(1)
        second_stop = len(of_pair) - of_pair[::-1].index(1)
        ids, types = tuple(pair.ids), tuple(pair.type_ids)
        if start != 1 or of_pair.index(0) != 1 or second < first_stop or ids[0] != single.ids[0]:
            return None
        segments = (types[first_stop:second], types[second], types[second_stop:])
        return cls(ids[:1], tuple(single.ids[stop:]), ids[first_stop:second], ids[second_stop:], segments)


class Tokenizer:
    """A vocabulary and how text becomes its ids.

    Attributes:
      kind: "wordpiece", "bpe", "sentencepiece", or the model type of another tokenizer.json in lower case.
      vocab_size: ids are below this.
      cls_id, sep_id, mask_id, pad_id: the special tokens' ids; unk_id too, or None where there is none.
      special_ids: every special token's id, sorted.
      frame: the special tokens around a text and the texts of a pair.
      leading_space: a word's white space is part of its token, so that a sentence inside a document
        is encoded with the space before it.
    """

    kind: str
    vocab_size: int
    special_ids: tuple[int, ...]
    frame: Frame
    leading_space = False

    def encode(self, texts: list[str], special: bool = False) -> list[list[int]]:
        """The ids of each text, without [CLS] and [SEP].

        With `special`, the text of a special token, such as "[MASK]", becomes its id; else it is text.
        """
        raise NotImplementedError

    def encode_with_words(self, texts: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each text: its ids (uint32 [n]), and which of them start a word (bool [n])."""
        ids, starts, lengths = self.encode_flat(texts)
        ends = np.cumsum(lengths)[:-1]
        return np.split(ids, ends), np.split(starts, ends)

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`encode_with_words`, concatenated: ids uint32 [n], starts bool [n], tokens of each text int64."""
        raise NotImplementedError

    def encode_with_offsets(self, text: str, special: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, and where in it each of them stands: [start, end) in code points."""
        raise NotImplementedError

    def encode_with_places(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]], np.ndarray]]:
        """For each text: its ids with the special tokens it names, their [start, end) in code points, and which of
        them start a word (bool [n])."""
        raise NotImplementedError

    def token(self, token_id: int) -> str:
        """The vocabulary's own text of an id."""
        raise NotImplementedError

    def decode(self, ids) -> str:
        """Readable text of ids, special tokens included."""
        raise NotImplementedError

    def digest(self) -> str:
        """Equal for tokenizers that encode alike."""
        raise NotImplementedError

    def save(self, directory: str | pathlib.Path, max_length: int | None = None, segments: bool = True) -> None:
        """Writes what `load` (and, but for SentencePiece, transformers' AutoTokenizer) reads back.

        Args:
          directory: made where it is not there.
          max_length: tokens of the longest text that its model reads, for AutoTokenizer.
          segments: whether its model takes token_type_ids, which AutoTokenizer then gives.
        """
        raise NotImplementedError

    def _set_special_ids(self, token_to_id, others, where, roles=None):
        ids, roles = {}, roles or {}
        for role, usual in SPECIAL_NAMES.items():
            named = [roles[key] for key in (role, _INSTEAD.get(role)) if key in roles]
            names = [*named, *usual]
            found = [token_to_id(name) for name in names]
            ids[role] = next((i for i in found if i is not None), None)
            if ids[role] is None and role != "unk":
                raise UserError(
                    f"{where}: the vocabulary has no {role} token; expected one of {', '.join(names)} among its tokens"
                )
        self.cls_id, self.sep_id, self.mask_id = ids["cls"], ids["sep"], ids["mask"]
        self.pad_id, self.unk_id = ids["pad"], ids["unk"]
        # RoBERTa, and what calls its [CLS] as it does, puts two separators between texts.
        self.frame = Frame.usual(self.cls_id, self.sep_id, 2 if self.cls_id == token_to_id("<s>") else 1)
        self.special_ids = tuple(sorted({i for i in ids.values() if i is not None} | set(others)))


class HuggingFaceTokenizer(Tokenizer):
    """Everything that the `tokenizers` package runs."""

    def __init__(self, tokenizer: hf.Tokenizer, where: str, roles: Mapping[str, str] | None = None):
        """With `roles`, the names of its special tokens ("cls", "sep", ...) are these rather than the usual ones."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # the text "[MASK]" in a corpus is text
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self._tokenizer = tokenizer
        self.kind = type(tokenizer.model).__name__.lower()
        self.vocab_size = max(vocab.values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self._set_special_ids(vocab.get, (i for i, token in added.items() if token.special), where, roles)
        frame = Frame.of(tokenizer, "a") if tokenizer.post_processor else None
        if frame:
            self.frame = frame
        else:
            cls, sep = self.token(self.cls_id), self.token(self.sep_id)
            tokenizer.post_processor = published.template(tokenizer, cls, sep, len(self.frame.between))
        # Where the pipeline cuts no words, their first pieces tell them.
        self._marked = np.zeros(self.vocab_size, bool)
        if not chunks.cuts_words(tokenizer):
            self._marked[[i for token, i in vocab.items() if token.startswith(("▁", "Ġ"))]] = True
        pipeline = json.dumps(json.loads(tokenizer.to_str())["pre_tokenizer"])
        self.leading_space = "ByteLevel" in pipeline
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
        return ids, starts | self._marked[ids], lengths

    def encode_with_offsets(self, text, special=True):
        tokenizer = self._with_special if special else self._plain
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, self._without_spaces(text, encoding.offsets)

    def encode_with_places(self, texts):
        found = []
        encodings = self._with_special.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            starts = chunks.word_starts(encoding.word_ids) | self._marked[encoding.ids]
            found.append((encoding.ids, self._without_spaces(text, encoding.offsets), starts))
        return found

    def _without_spaces(self, text, offsets):
        """The offsets without the white space that is part of a token (some post-processors take it off)."""
        return [trimmed(text, *offset) for offset in offsets] if self._holds_spaces else offsets

    @functools.cached_property
    def _chunks(self):
        return chunks.encoder_for(self._plain)

    @functools.cached_property
    def _plain(self):
        """For text that names no special token: a unigram vocabulary holds them as its likeliest pieces."""
        if self.kind != "unigram":
            return self._tokenizer
        state = json.loads(self.json())
        special = {self.token(i) for i in self.special_ids}
        for piece in state["model"]["vocab"]:
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

    def token(self, token_id):
        return self._tokenizer.id_to_token(int(token_id))

    def decode(self, ids):
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def digest(self):
        plain = hf.Tokenizer.from_str(self.json())
        plain.post_processor = None  # joins ids, and encodes nothing
        return hashlib.blake2b(plain.to_str().encode(), digest_size=16).hexdigest()

    def json(self) -> str:
        """What a tokenizer.json of it holds."""
        return self._tokenizer.to_str()

    def save(self, directory, max_length=None, segments=True):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if max_length is not None:
            config["model_max_length"] = max_length
        types = ["token_type_ids"] if segments and self.frame.segments[1] else []
        config["model_input_names"] = ["input_ids", *types, "attention_mask"]  # by default there are no types
        for role, token_id in self.roles().items():
            config[f"{role}_token"] = self.token(token_id)
        normalizer = self._tokenizer.normalizer
        if self._is_bert():
            vocab = self._tokenizer.get_vocab(with_added_tokens=True)
            if sorted(vocab.values()) == list(range(self.vocab_size)):
                lines = sorted(vocab, key=vocab.get)
                (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in lines), "utf-8", newline="\n")
            config["tokenizer_class"] = "BertTokenizer"
            config["do_lower_case"] = normalizer.lowercase
            config["strip_accents"] = normalizer.strip_accents
            config["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        (directory / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=True), "utf-8")
        (directory / published.CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _is_bert(self):
        """Whether BertTokenizer, which makes its pipeline anew from its settings, makes this one."""
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
        """The ids of its special tokens by what they do: "cls", "sep", "mask", "pad", "unk"."""
        roles = {"cls": self.cls_id, "sep": self.sep_id, "mask": self.mask_id, "pad": self.pad_id, "unk": self.unk_id}
        return {role: token_id for role, token_id in roles.items() if token_id is not None}


def load(path: str | pathlib.Path, lower_case: bool | None = None) -> Tokenizer:
    """Reads a vocabulary: vocab.txt, tokenizer.json, *.model, or a directory that holds one of them.

    Args:
      path: the file or directory. A directory of Hugging Face's, whose settings name a class, is read as that class
        reads it (see published.py); any other is searched for tokenizer.json, vocab.txt, *.model, and vocab.json
        with merges.txt, in this order.
        A *.model without settings beside it is read as transformers reads it where its first pieces are those of
        ALBERT or DeBERTa, else as the sentencepiece package does.
      lower_case: for vocab.txt and *.model, instead of what `do_lower_case` of the tokenizer_config.json
        beside the file says, or of what the vocabulary's own letters show.

    Raises:
      UserError: no vocabulary there, one that does not parse, or one without mask, cls, sep or pad token.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = published.load(path, lower_case)
        if found is not None:
            return HuggingFaceTokenizer(found.tokenizer, str(path), found.roles)
        path = _vocabulary_in(path)
    elif path.suffix == ".model" and published.is_model_of(path):
        return load(path.parent, lower_case)
    if not path.is_file():
        raise UserError(f"{path}: no such vocabulary; expected vocab.txt, tokenizer.json, *.model or their directory")
    config = _config_beside(path)
    try:
        if path.suffix == ".txt" and path.name != "merges.txt":
            return _load_wordpiece(path, config, lower_case)
        if path.suffix == ".model":
            return _load_sentencepiece(path, config, lower_case)
        if lower_case is not None:
            raise UserError(f"--lower_case: {path} says itself how it treats letters; expected auto")
        if path.name in ("vocab.json", "merges.txt"):
            return _load_byte_level(path.parent)
        if path.suffix == ".json":
            return _load_json(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; expected a vocabulary") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected a readable vocabulary") from error
    raise UserError(f"{path}: unknown kind of vocabulary; expected vocab.txt, tokenizer.json, *.model or a directory")


def lower_cased(tokenizer: HuggingFaceTokenizer) -> HuggingFaceTokenizer:
    """The tokenizer with letters lower-cased before anything else."""
    changed = hf.Tokenizer.from_str(tokenizer.json())
    steps = [normalizers.Lowercase(), *([changed.normalizer] if changed.normalizer else [])]
    changed.normalizer = normalizers.Sequence(steps)
    roles = {role: tokenizer.token(i) for role, i in tokenizer.roles().items()}
    return HuggingFaceTokenizer(changed, "lower_case", roles)


def wordpiece(
    tokens: list[str], lower_case: bool, where: str, strip_accents: bool | None = None, chinese: bool = True
) -> Tokenizer:
    """BERT's tokenizer with these tokens, the place in the list being the id."""
    vocab = {token: i for i, token in enumerate(tokens)}
    if "[UNK]" not in vocab:
        raise UserError(f"{where}: the vocabulary has no [UNK]; expected one among its tokens")
    tokenizer = hf.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.add_special_tokens([name for name in names if name in vocab])
    return HuggingFaceTokenizer(tokenizer, where)


def byte_level(vocab: dict[str, int], merges: list[tuple[str, str]], where: str) -> Tokenizer:
    """RoBERTa's tokenizer with these tokens and merges; with BERT's special tokens where the vocabulary has those."""
    tokenizer = hf.Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]")
    tokenizer.add_special_tokens([name for name in names if name in vocab])
    for mask in ("<mask>", "[MASK]"):
        if mask in vocab:  # takes the space before it, as RoBERTa's and ModernBERT's do
            tokenizer.add_special_tokens([hf.AddedToken(mask, lstrip=True, special=True, normalized=False)])
    return HuggingFaceTokenizer(tokenizer, where)


def unigram(proto: bytes, lower_case: bool, where: str) -> Tokenizer:
    """ALBERT's tokenizer with the pieces of a SentencePiece model laid out as its own; accents go with the capitals."""
    found = published.load_model(proto, where, lower_case, keep_accents=not lower_case)
    return HuggingFaceTokenizer(found.tokenizer, where, found.roles)


def _vocabulary_in(directory):
    for name in ("tokenizer.json", "vocab.txt"):
        if (directory / name).is_file():
            return directory / name
    found = sorted(directory.glob("*.model"))
    if len(found) == 1:
        return found[0]
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return directory / "vocab.json"
    raise UserError(
        f"{directory}: found {'several *.model files' if found else 'no vocabulary'}; expected one of tokenizer.json, "
        "vocab.txt, *.model, or vocab.json with merges.txt"
    )


def _config_beside(path):
    config_path = path.parent / published.CONFIG
    if not config_path.is_file():
        return {}
    try:
        return json.loads(config_path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{config_path}: not JSON ({error}); expected a tokenizer's settings") from error


def _load_wordpiece(path, config, lower_case):
    with path.open(encoding="utf-8") as file:
        tokens = [line.rstrip("\n") for line in file]
    if lower_case is None:
        lower_case = config.get("do_lower_case")
    if lower_case is None:
        lower_case = published.has_no_capitals(tokens, ())
    return wordpiece(
        tokens, lower_case, str(path), config.get("strip_accents"), config.get("tokenize_chinese_chars", True)
    )


def _load_sentencepiece(path, config, lower_case):
    from bert_jax.data.vocabularies.sentencepiece_models import SentencePieceTokenizer

    if not (path.parent / published.CONFIG).is_file():
        found = published.load_model(path.read_bytes(), str(path), lower_case)
        if found is not None:
            return HuggingFaceTokenizer(found.tokenizer, str(path), found.roles)
    if lower_case is None:
        lower_case = config.get("do_lower_case")
    return SentencePieceTokenizer(path.read_bytes(), str(path), lower_case)


def _load_byte_level(directory):
    for name in ("vocab.json", "merges.txt"):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name}: no such file; byte-level BPE needs vocab.json and merges.txt")
    try:
        vocab = json.loads((directory / "vocab.json").read_text("utf-8"))
        with (directory / "merges.txt").open(encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        return byte_level(vocab, merges, str(directory / "vocab.json"))
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a merge that is not in the vocabulary
        raise UserError(f"{directory}: vocab.json and merges.txt do not fit together: {_line(error)}") from error


def _load_json(path):
    text = path.read_text("utf-8")
    try:
        tokenizer = hf.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path}: not a tokenizer.json: {_line(error)}") from error
    named = published.names_beside(path)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return HuggingFaceTokenizer(tokenizer, str(path), {role: name for role, name in named.items() if name in vocab})


def trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """[start, stop) of a text without the white space at its ends; of white space alone, its end."""
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop


def _line(error):
    return " ".join(str(error).split())[:200]
