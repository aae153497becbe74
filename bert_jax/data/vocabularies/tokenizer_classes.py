"""Builds the pipelines of transformers' tokenizer classes with the `tokenizers` package.

CLASSES has an entry for each class: a function that reads the vocabulary of a model directory and puts normalizer,
pre-tokenizer, model and decoder together; the names of its special tokens; and the post-processor that puts these
around texts.
"""

import base64
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.errors import UserError

CONFIG, STATE = "tokenizer_config.json", "tokenizer.json"
_BERT_NAMES = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_ALBERT_NAMES = _BERT_NAMES | {
    "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>",
}  # fmt: skip
_DEBERTA_NAMES = _BERT_NAMES | {"bos_token": "[CLS]", "eos_token": "[SEP]"}
_FAIRSEQ_NAMES = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip
_MPNET_NAMES = _FAIRSEQ_NAMES | {"unk_token": "[UNK]"}
_ESM_NAMES = {
    "unk_token": "<unk>", "cls_token": "<cls>", "pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "<eos>",
}  # fmt: skip
# The vocabulary of ESM-1b, ESM-1v and ESM-2: the amino acids by frequency, X for any, B, U, Z and O, and marks of gaps.
AMINO_ACIDS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
_PYTHON_SPACES = "[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"  # those of str.split
_GEMMA_NAMES = {
    "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip
_ESMC_NAMES = {
    "bos_token": "<cls>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<cls>",
    "mask_token": "<mask>",
}  # fmt: skip
# The tokens of ESM C in the order of their ids, which its weights presuppose: amino acids, marks of gaps, and what is
# between chains.
_ESMC_TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-|", "<mask>")
_SPACE = "\u2581"  # the character that stands for a space in SentencePiece's pieces


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """States how a tokenizer class of transformers is built.

    Attributes:
      names: names of its special tokens by role, used where the settings name no others.
      build: (directory, settings, special tokens by role) -> (pipeline, special tokens by role, more tokens to add).
      post_processor: (pipeline, special tokens by role) -> the post-processor, used where `build` sets none.
      model: name of the SentencePiece model's file, for a class that is built from one.
    """

    names: Mapping[str, str]
    build: Callable
    post_processor: Callable
    model: str = ""


def bert_pipeline(
    vocab: dict[str, int], unk_token: str, lower_case: bool, strip_accents: bool | None, chinese: bool
) -> hf.Tokenizer:
    """Builds BERT's WordPiece pipeline.

    Args:
      vocab: ids of the pieces.
      unk_token: the piece for words that the others cannot spell.
      lower_case: whether letters are lower-cased.
      strip_accents: None does what `lower_case` says.
      chinese: whether Chinese characters are words of their own.
    """
    tokenizer = hf.Tokenizer(models.WordPiece(vocab, unk_token=unk_token, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def byte_level_pipeline(model: models.BPE, add_prefix_space: bool = False) -> hf.Tokenizer:
    """Builds the byte-level BPE pipeline of GPT-2 and RoBERTa around a model."""
    tokenizer = hf.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma_pipeline(model: models.BPE) -> hf.Tokenizer:
    """Builds Gemma's pipeline around a model: SentencePiece's BPE, in whose pieces white space is kept."""
    tokenizer = hf.Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def albert_pipeline(vocab: list, charsmap: bytes | None, settings: Mapping[str, bool]) -> hf.Tokenizer:
    """Builds ALBERT's unigram pipeline.

    Args:
      vocab: (piece, score) in the order of ids.
      charsmap: the model's own map of characters.
      settings: do_lower_case, keep_accents, add_prefix_space.
    """
    return _metaspace_pipeline(vocab, 1, albert_normalizer(charsmap, settings), settings)


def albert_normalizer(charsmap: bytes | None, settings: Mapping[str, bool]) -> normalizers.Normalizer:
    """Returns what ALBERT does to text before it splits it; settings: keep_accents, do_lower_case."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    return normalizers.Sequence(steps)


def unigram_normalizer(lower_case: bool, strip_accents: bool) -> normalizers.Normalizer:
    """Returns what a unigram vocabulary that is trained here does to text: ALBERT's steps, with composed characters.

    ALBERT's own pipeline decomposes characters and then applies SentencePiece's map of characters, which composes only
    some of them again (no Hangul, no kana, hardly a letter with two accents). NFKC composes all.

    Args:
      lower_case: whether letters are lower-cased.
      strip_accents: whether marks are dropped: accents, vowel signs, the marks of voiced kana.
    """
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [normalizers.Replace("\x00", " "), normalizers.Nmt()]  # control characters and the kinds of white space
    if strip_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if lower_case:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence([*steps, normalizers.NFKC()])


def cut_long_words(tokenizer: hf.Tokenizer, longest: int) -> None:
    """Makes a pipeline cut longer words, such as the sentences of a script without spaces, after `longest` characters.

    WordPiece reads a word of more than 100 characters as unknown.
    """
    cuts = pre_tokenizers.Split(hf.Regex(f".{{{longest}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, cuts])


def deberta_v2_pipeline(vocab: list, unk_id: int, settings: Mapping[str, bool]) -> hf.Tokenizer:
    """Builds the unigram pipeline of DeBERTa v2 and v3.

    It keeps white space, as part of the pieces, and does not use the model's own map of characters.

    Args:
      vocab: (piece, score) in the order of ids.
      unk_id: id of the unknown piece.
      settings: do_lower_case, add_prefix_space, split_by_punct.
    """
    tokenizer = hf.Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    steps = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
    steps += [
        normalizers.Replace(hf.Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    splits: list[pre_tokenizers.PreTokenizer] = []
    if settings.get("split_by_punct", False):
        splits.append(pre_tokenizers.Punctuation(behavior="isolated"))
    splits.append(pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return tokenizer


def protein_pipeline(tokens: Sequence[str], names: Mapping[str, Any] = _ESM_NAMES) -> hf.Tokenizer:
    """Builds ESM's pipeline: each token of the vocabulary is a word wherever it stands, as is what lies between two.

    Args:
      tokens: the vocabulary, in the order of ids.
      names: special tokens by role.
    """
    special = {text_of(name) for name in names.values()}
    ordinary = sorted((token for token in tokens if token and token not in special), key=len, reverse=True)
    tokenizer = hf.Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=text_of(names["unk_token"]))
    )
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Split(hf.Regex(_PYTHON_SPACES), "removed")]
    if ordinary:
        steps.append(pre_tokenizers.Split(hf.Regex("|".join(map(re.escape, ordinary))), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.post_processor = _esm_template(tokenizer, names)
    tokenizer.add_special_tokens([name for name in special if name in tokens])
    return tokenizer


def is_protein_pipeline(tokenizer: hf.Tokenizer) -> bool:
    """Returns whether EsmTokenizer, which reads a list of tokens alone, would encode as a pipeline does."""
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if sorted(vocab.values()) != list(range(len(vocab))) or not vocab.keys() >= set(_ESM_NAMES.values()):
        return False
    expected = protein_pipeline(sorted(vocab, key=vocab.__getitem__))
    parts = [json.loads(pipeline.to_str()) for pipeline in (tokenizer, expected)]
    keys = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder")
    return all(parts[0][key] == parts[1][key] for key in keys)


def _metaspace_pipeline(vocab, unk_id, normalizer, settings):
    """Builds SentencePiece's unigram model over words that white space divides."""
    tokenizer = hf.Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return tokenizer


def _precompiled(charsmap):
    return normalizers.Precompiled(charsmap) if charsmap else None


def template(tokenizer: hf.Tokenizer, cls: str, sep: str, separators: int) -> processors.PostProcessor:
    """Returns a post-processor: special tokens around a text, and `separators` of them between the texts of a pair."""
    between, segment = (f"{sep}:0 ", 1) if separators == 1 else (f"{sep}:0 {sep}:0 ", 0)
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {between}$B:{segment} {sep}:{segment}",
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )


def read_pieces(proto: bytes, where: str) -> tuple[list, bytes | None, tuple, int]:
    """Parses a SentencePiece model.

    Args:
      proto: content of the .model file.
      where: its name, for messages.

    Returns:
      ((piece, score) in the order of ids, map of characters, control and user-defined symbols, id of the unknown piece)

    Raises:
      UserError: it is no SentencePiece model.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(proto)
    except Exception as error:  # the place of protobuf's DecodeError differs between its versions
        raise UserError(f"{where}: not a SentencePiece model; expected a .model file that it trained") from error
    control, user = model.SentencePiece.CONTROL, model.SentencePiece.USER_DEFINED
    extra = tuple(
        hf.AddedToken(piece.piece, normalized=False, special=piece.type == control)
        for piece in model.pieces
        if piece.type in (control, user)
    )
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return pieces, model.normalizer_spec.precompiled_charsmap or None, extra, model.trainer_spec.unk_id


def _build_bert(directory, settings, names):
    vocab = _state_vocab(directory)
    if vocab is None:
        vocab = models.WordPiece.read_file(str(_existing(directory / "vocab.txt")))
    unk = text_of(names["unk_token"])
    if unk not in vocab:  # the model could not return it if it were added behind the pieces
        raise UserError(f"{directory}: its vocabulary of {len(vocab):,} has no {unk}; expected it among them")
    tokenizer = bert_pipeline(
        vocab,
        unk,
        lower_case=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        chinese=settings.get("tokenize_chinese_chars", True),
    )
    return tokenizer, names, ()


def _build_byte_level(directory, settings, names):
    vocab, merges = _state_merges(directory)
    if vocab is None:
        files = (_existing(directory / name) for name in ("vocab.json", "merges.txt"))
        vocab, merges = models.BPE.read_file(*map(str, files))
    model = models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    return byte_level_pipeline(model, settings.get("add_prefix_space", False)), names, ()


def _build_xlm_roberta(directory, settings, names):
    vocab, charsmap, extra = _state_pieces(directory)
    if vocab is None:
        pieces, charsmap, extra, _ = _model_pieces(directory / "sentencepiece.bpe.model")
        first = ((text_of(names[role]), 0.0) for role in ("bos_token", "pad_token", "eos_token", "unk_token"))
        vocab = [*first, *pieces[3:], (text_of(names["mask_token"]), 0.0)]
    return _metaspace_pipeline(vocab, 3, _precompiled(charsmap), settings), names, extra or ()


def _build_camembert(directory, settings, names):
    if isinstance(names["mask_token"], str):
        names = {**names, "mask_token": hf.AddedToken(names["mask_token"], lstrip=True, special=True)}
    unk = text_of(names["unk_token"])
    vocab, charsmap, extra = _state_pieces(directory)
    if vocab is None:
        pieces, charsmap, extra, _ = _model_pieces(directory / "sentencepiece.bpe.model")
        vocab = [
            ("<s>NOTUSED", 0.0), (text_of(names["pad_token"]), 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0),
            ("<unk>NOTUSED", -100.0), *pieces[1:], (text_of(names["mask_token"]), 0.0),
        ]  # fmt: skip
    unk_id = next((i for i, (token, _) in enumerate(vocab) if token == unk), 0)
    if extra is None:
        extra = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
    return _metaspace_pipeline(vocab, unk_id, _precompiled(charsmap), settings), names, extra


def _build_albert(directory, settings, names):
    vocab, charsmap, extra = _state_pieces(directory)
    if vocab is None:
        vocab, charsmap, extra, _ = _model_pieces(directory / "spiece.model")
    tokenizer = albert_pipeline(vocab, charsmap, settings)
    if (directory / STATE).is_file():
        tokenizer.post_processor = hf.Tokenizer.from_file(str(directory / STATE)).post_processor
    return tokenizer, names, extra or ()


def _build_deberta_v2(directory, settings, names):
    vocab, _, extra = _state_pieces(directory)
    unk_id = settings.get("unk_id", 1)
    if vocab is None:
        vocab, _, extra, unk_id = _model_pieces(directory / "spm.model")
    unk = (text_of(names["unk_token"]), 0.0)
    unk_id = vocab.index(unk) if unk in vocab else unk_id
    return deberta_v2_pipeline(vocab, unk_id, settings), names, extra or ()


def _build_mpnet(directory, settings, names):
    if isinstance(names["mask_token"], str):
        names = {**names, "mask_token": hf.AddedToken(names["mask_token"], lstrip=True, special=True)}
    return _build_bert(directory, settings, names)


def _build_esm(directory, settings, names):
    path = directory / "vocab.txt"
    if path.is_file():
        tokens = [line.strip() for line in path.read_text("utf-8").splitlines()]
    else:
        vocab = _state_vocab(directory) or {}
        tokens = sorted(vocab, key=vocab.__getitem__) or _existing(path)
    return protein_pipeline(tokens, names), names, ()


def _build_gemma(directory, settings, names):
    vocab, merges = _state_merges(directory)
    if vocab is None:
        raise UserError(f"{directory / STATE}: no such file; a GemmaTokenizer is read from it")
    unk = text_of(names["unk_token"])
    tokenizer = gemma_pipeline(models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.post_processor = hf.Tokenizer.from_file(str(directory / STATE)).post_processor
    return tokenizer, names, ()


def _build_esmc(directory, settings, names):
    vocab = {token: i for i, token in enumerate(_ESMC_TOKENS)}
    chain_break = settings.get("chain_break_token", "|")
    model = models.BPE(vocab, [], unk_token=text_of(names["unk_token"]))
    return hf.Tokenizer(model), names, (chain_break,)


def _bert_template(tokenizer, names):
    return template(tokenizer, text_of(names["cls_token"]), text_of(names["sep_token"]), 1)


def _roberta_processing(tokenizer, names):
    sep, cls = text_of(names["sep_token"]), text_of(names["cls_token"])
    return processors.RobertaProcessing((sep, tokenizer.token_to_id(sep)), (cls, tokenizer.token_to_id(cls)))


def _mpnet_processing(tokenizer, names):
    sep, cls = text_of(names["sep_token"]), text_of(names["cls_token"])
    pair = (sep, tokenizer.token_to_id(sep)), (cls, tokenizer.token_to_id(cls))
    return processors.RobertaProcessing(*pair, trim_offsets=True, add_prefix_space=False)


def _fairseq_template(tokenizer, names):
    return template(tokenizer, text_of(names["bos_token"]), text_of(names["eos_token"]), 2)


def _esm_template(tokenizer, names):
    return template(tokenizer, text_of(names["cls_token"]), text_of(names["eos_token"]), 1)


def _deberta_template(tokenizer, names):
    return template(tokenizer, text_of(names["cls_token"]), text_of(names["sep_token"]), 2)


def _gemma_template(tokenizer, names):
    return template(tokenizer, text_of(names["bos_token"]), text_of(names["eos_token"]), 1)


def _esmc_template(tokenizer, names):
    return template(tokenizer, text_of(names["cls_token"]), text_of(names["eos_token"]), 1)


_XLM_MODEL = "sentencepiece.bpe.model"
CLASSES = {
    "BertTokenizer": TokenizerClass(_BERT_NAMES, _build_bert, _bert_template),
    "RobertaTokenizer": TokenizerClass(_FAIRSEQ_NAMES, _build_byte_level, _roberta_processing),
    "XLMRobertaTokenizer": TokenizerClass(_FAIRSEQ_NAMES, _build_xlm_roberta, _fairseq_template, _XLM_MODEL),
    "CamembertTokenizer": TokenizerClass(_FAIRSEQ_NAMES, _build_camembert, _fairseq_template, _XLM_MODEL),
    "AlbertTokenizer": TokenizerClass(_ALBERT_NAMES, _build_albert, _bert_template, "spiece.model"),
    "DebertaTokenizer": TokenizerClass(_DEBERTA_NAMES, _build_byte_level, _deberta_template),
    "MPNetTokenizer": TokenizerClass(_MPNET_NAMES, _build_mpnet, _mpnet_processing),
    "EsmTokenizer": TokenizerClass(_ESM_NAMES, _build_esm, _esm_template),
    "DebertaV2Tokenizer": TokenizerClass(_DEBERTA_NAMES, _build_deberta_v2, _bert_template, "spm.model"),
    "EsmcTokenizer": TokenizerClass(_ESMC_NAMES, _build_esmc, _esmc_template),
    "GemmaTokenizer": TokenizerClass(_GEMMA_NAMES, _build_gemma, _gemma_template),
}


def _state_pieces(directory):
    """Returns (pieces with scores, map of characters, None) of tokenizer.json; (None, None, None) without one."""
    state = read_object(directory / STATE)
    if not state:
        return None, None, None
    normalizer = state.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    maps = (step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled")
    charsmap = next(maps, None)
    vocab = [tuple(piece) for piece in state["model"]["vocab"]]
    return vocab, charsmap and base64.b64decode(charsmap), None


def _state_merges(directory):
    """Returns (ids of the tokens, merges) of the BPE model in tokenizer.json; (None, None) without one."""
    model = read_object(directory / STATE).get("model", {})
    if "vocab" not in model:
        return None, None
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    return model["vocab"], merges


def _state_vocab(directory):
    """Returns the ids of the tokens in tokenizer.json's model; None without one."""
    vocab = read_object(directory / STATE).get("model", {}).get("vocab")
    if isinstance(vocab, list):
        return {token[0] if isinstance(token, list) else token: i for i, token in enumerate(vocab)}
    return vocab


def _model_pieces(path):
    return read_pieces(_existing(path).read_bytes(), str(path))


def _existing(path):
    if not path.is_file():
        raise UserError(f"{path}: no such file, nor a {STATE} beside it; expected one of them")
    return path


def read_object(path: pathlib.Path) -> dict:
    """Returns the JSON object in a file; an empty one where there is no file. Raises UserError if it holds another."""
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected a tokenizer's settings") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: found {type(settings).__name__}; expected an object")
    return settings


def text_of(token) -> str:
    """Returns the text of a token that is a string, an AddedToken or the fields of one."""
    return token["content"] if isinstance(token, dict) else str(getattr(token, "content", token))


def one_line(error: Exception) -> str:
    """Returns an exception's message as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
