"""The vocabularies of Hugging Face model directories, built as transformers 5 builds them.

Its tokenizer classes rebuild the pipeline from the vocabulary and tokenizer_config.json, and take only the vocabulary
and the added tokens of tokenizer.json: `do_lower_case` in the former wins over the normalizer in the latter. Here the
same is done with the `tokenizers` package alone, so that the ids are AutoTokenizer's.
"""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.errors import UserError

CONFIG, STATE = "tokenizer_config.json", "tokenizer.json"
# Every file that a vocabulary may consist of, to be kept when a model is written again.
FILES = (
    STATE, CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "sentencepiece.bpe.model", "spiece.model", "spm.model",
)  # fmt: skip
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The class that goes with a model_type; a tokenizer_config.json may name another.
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "albert": "AlbertTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "modernbert": "TokenizersBackend",
    "eurobert": "TokenizersBackend",
}
# Classes that take tokenizer.json as it is, and the models for which they do whatever class the settings name.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
_ALWAYS_GENERIC = ("modernbert",)
_ALIASES = {"DistilBertTokenizer": "BertTokenizer", "ElectraTokenizer": "BertTokenizer"}
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


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A pipeline and the names of its special tokens: "cls", "sep", "mask", "pad", "unk", "bos", "eos", if any."""

    tokenizer: hf.Tokenizer
    roles: Mapping[str, str]


def load(directory: pathlib.Path, lower_case: bool | None = None) -> Vocabulary | None:
    """The vocabulary of a directory that says how it is to be built, in tokenizer_config.json or by its model_type.

    Args:
      directory: of a model, or of a tokenizer alone.
      lower_case: for a SentencePiece model, instead of `do_lower_case` of its settings.

    Returns None for a directory that does not; and for one that `tokenizers.load` reads with lower_case by itself.

    Raises:
      UserError: a class that is not supported, a file that is missing, or one that does not parse.
    """
    settings = _json(directory / CONFIG)
    name = _class_name(directory, settings)
    if lower_case is not None:
        if name not in _BUILDERS or not _BUILDERS[name].model:
            return None
        if name not in _LOWER_CASING:
            raise UserError(f"--lower_case: {directory}: a {name} leaves letters as they are; expected auto")
        settings["do_lower_case"] = lower_case
    if name is None:
        return None
    if name not in _BUILDERS and name not in _GENERIC:
        raise UserError(
            f"{directory / CONFIG}: tokenizer_class {name} is not supported; expected one of "
            f"{', '.join((*_BUILDERS, *_ALIASES))}, or PreTrainedTokenizerFast with a {STATE}"
        )
    if name in _GENERIC and not (directory / STATE).is_file():
        return None
    names, settings, added = _special_tokens(directory, settings)
    try:
        if name in _GENERIC:
            tokenizer, extra = hf.Tokenizer.from_str((directory / STATE).read_text("utf-8")), ()
        else:
            kind = _BUILDERS[name]
            names = {**kind.names, **names}
            tokenizer, names, extra = kind.build(directory, settings, names)
        extra = settings.get("extra_special_tokens") or extra
        _add(tokenizer, added, names, extra)
        if name not in _GENERIC and tokenizer.post_processor is None:
            tokenizer.post_processor = kind.post_processor(tokenizer, names)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{directory}: its vocabulary is not that of a {name}: {_line(error)}") from error
    return Vocabulary(tokenizer, _roles(names))


def load_model(proto: bytes, where: str, lower_case: bool | None, keep_accents: bool = False) -> Vocabulary | None:
    """The vocabulary of a SentencePiece model by itself, if its pieces are laid out as ALBERT's or DeBERTa's are.

    Without lower_case the letters of the pieces decide. Raises UserError for a file that holds no such model.
    """
    pieces, charsmap, extra, unk_id = _pieces(proto, where)
    first = tuple(piece for piece, _ in pieces[:5])
    if lower_case is None:
        lower_case = has_no_capitals([piece for piece, _ in pieces], ())
    if first == _ALBERT_PIECES:
        names, kind = _ALBERT_NAMES, _BUILDERS["AlbertTokenizer"]
        tokenizer = _albert_pipeline(pieces, charsmap, {"do_lower_case": lower_case, "keep_accents": keep_accents})
    elif first[:4] == _DEBERTA_PIECES and all(piece != "[MASK]" for piece, _ in pieces):
        names, kind = _DEBERTA_NAMES, _BUILDERS["DebertaV2Tokenizer"]
        tokenizer = _deberta_v2_pipeline(pieces, unk_id, {"do_lower_case": lower_case})
    else:
        return None
    _add(tokenizer, {}, names, extra)
    tokenizer.post_processor = kind.post_processor(tokenizer, names)
    return Vocabulary(tokenizer, _roles(names))


def has_no_capitals(tokens: list[str], special_ids) -> bool:
    """Whether an uncased model's vocabulary would look like this: no letter is a capital but in special tokens."""
    special = {tokens[i] for i in special_ids}
    ordinary = (t for t in tokens if t not in special and not (t[:1] in "[<" and t[-1:] in "]>"))
    return not any(token != token.lower() for token in ordinary)


def names_beside(path: pathlib.Path) -> dict[str, str]:
    """The special tokens by role ("cls", "mask", ...) that the files beside a vocabulary name; empty without any."""
    names, _, _ = _special_tokens(path.parent, _json(path.parent / CONFIG))
    return _roles(names)


def is_model_of(path: pathlib.Path) -> bool:
    """Whether a file is the SentencePiece model of a directory whose class is built from it."""
    kind = _BUILDERS.get(_class_name(path.parent, _json(path.parent / CONFIG)))
    return kind is not None and path.name == kind.model


def _roles(names):
    return {role.removesuffix("_token"): _text(token) for role, token in names.items()}


def _class_name(directory, settings):
    """As AutoTokenizer chooses: the class that the tokenizer's or the model's settings name, else the model_type's."""
    config = _json(directory / "config.json")
    model_type = config.get("model_type")
    if model_type in _ALWAYS_GENERIC:
        return "TokenizersBackend"
    of_model = _CLASS_OF_MODEL.get(model_type) if isinstance(model_type, str) else None
    name = settings.get("tokenizer_class") or (config.get("tokenizer_class") if of_model else None) or of_model
    name = name and str(name).removesuffix("Fast")
    return _ALIASES.get(name, name)


def _special_tokens(directory, settings):
    """(special tokens by role, the other settings, added tokens by id), from every file that may name them."""
    settings = dict(settings)
    if "additional_special_tokens" in settings and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    added = {}
    if "added_tokens_decoder" in settings:
        for i, token in settings.pop("added_tokens_decoder").items():
            added[int(i)] = hf.AddedToken(**token)
    else:
        for key, value in _json(directory / "special_tokens_map.json").items():
            if isinstance(value, dict):
                value = hf.AddedToken(**{**value, "special": True})
            if key == "additional_special_tokens":
                settings.setdefault("extra_special_tokens", value)
            else:
                settings[key] = value
        known = {_text(settings[role]) for role in _ROLES if settings.get(role)}
        known |= {_text(token) for token in settings.get("extra_special_tokens") or ()}
        for token, i in _json(directory / "added_tokens.json").items():
            added[i] = hf.AddedToken(token, normalized=token not in known, special=token in known)
        for token in _json(directory / STATE).get("added_tokens", ()):
            added[token["id"]] = hf.AddedToken(**{key: value for key, value in token.items() if key != "id"})
    by_text = {token.content: token for token in added.values()}
    names = {}
    for role in _ROLES:
        if settings.get(role) is not None:
            token = _token(settings[role])
            names[role] = by_text.get(_text(token), token)
    settings["extra_special_tokens"] = [_token(token) for token in _listed(settings.get("extra_special_tokens"))]
    return names, settings, added


def _add(tokenizer, added, names, extra):
    """Adds what the vocabulary has beside its pieces, in the order in which transformers does: the ids depend on it."""
    there = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    there += [token.content for token in added.values()]
    adding = [added[i] for i in sorted(added)]
    for token in (*(names[role] for role in _ROLES if role in names), *extra):
        if _text(token) not in there and token not in adding:
            adding.append(token)
    special = {_text(token) for token in names.values()}
    made = []
    for token in adding:
        token = hf.AddedToken(token, special=True) if isinstance(token, str) else token
        token.special = token.special or token.content in special
        made.append(token)
    tokenizer.add_tokens(made)


@dataclasses.dataclass(frozen=True)
class _Builder:
    """What a class does.

    Attributes:
      names: its special tokens, where the settings name no others.
      build: (directory, settings, special tokens) -> (pipeline, special tokens, more tokens to add).
      post_processor: (pipeline, special tokens) -> what puts them around texts, where `build` sets none.
      model: the SentencePiece model's file, for a class that is built from one.
    """

    names: Mapping[str, str]
    build: Callable
    post_processor: Callable
    model: str = ""


def _bert(directory, settings, names):
    vocab = _state_vocab(directory)
    if vocab is None:
        vocab = models.WordPiece.read_file(str(_needed(directory / "vocab.txt")))
    if _text(names["unk_token"]) not in vocab:  # added behind the pieces, the model could not give it
        raise UserError(
            f"{directory}: its vocabulary of {len(vocab):,} has no {_text(names['unk_token'])}; expected it among them"
        )
    tokenizer = hf.Tokenizer(models.WordPiece(vocab, unk_token=_text(names["unk_token"])))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer, names, ()


def _roberta(directory, settings, names):
    return _byte_level(directory, settings), names, ()


def _byte_level(directory, settings):
    model = _json(directory / STATE).get("model", {})
    if "vocab" in model:
        vocab = model["vocab"]
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    else:
        vocab, merges = models.BPE.read_file(
            str(_needed(directory / "vocab.json")), str(_needed(directory / "merges.txt"))
        )
    tokenizer = hf.Tokenizer(
        models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _xlm_roberta(directory, settings, names):
    vocab, charsmap, extra = _unigram(directory)
    if vocab is None:
        pieces, charsmap, extra, _ = _model(directory / "sentencepiece.bpe.model")
        first = ((_text(names[role]), 0.0) for role in ("bos_token", "pad_token", "eos_token", "unk_token"))
        vocab = [*first, *pieces[3:], (_text(names["mask_token"]), 0.0)]
    return _metaspace(vocab, 3, _precompiled(charsmap), settings), names, extra or ()


def _camembert(directory, settings, names):
    if isinstance(names["mask_token"], str):
        names = {**names, "mask_token": hf.AddedToken(names["mask_token"], lstrip=True, special=True)}
    unk = _text(names["unk_token"])
    vocab, charsmap, extra = _unigram(directory)
    if vocab is None:
        pieces, charsmap, extra, _ = _model(directory / "sentencepiece.bpe.model")
        vocab = [
            ("<s>NOTUSED", 0.0), (_text(names["pad_token"]), 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0),
            ("<unk>NOTUSED", -100.0), *pieces[1:], (_text(names["mask_token"]), 0.0),
        ]  # fmt: skip
    unk_id = next((i for i, (token, _) in enumerate(vocab) if token == unk), 0)
    if extra is None:
        extra = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
    return _metaspace(vocab, unk_id, _precompiled(charsmap), settings), names, extra


def _albert(directory, settings, names):
    vocab, charsmap, extra = _unigram(directory)
    if vocab is None:
        vocab, charsmap, extra, _ = _model(directory / "spiece.model")
    tokenizer = _albert_pipeline(vocab, charsmap, settings)
    if (directory / STATE).is_file():
        tokenizer.post_processor = hf.Tokenizer.from_file(str(directory / STATE)).post_processor
    return tokenizer, names, extra or ()


def _albert_pipeline(vocab, charsmap, settings):
    return _metaspace(vocab, 1, albert_normalizer(charsmap, settings), settings)


def albert_normalizer(charsmap: bytes | None, settings: Mapping[str, bool]) -> normalizers.Normalizer:
    """What ALBERT does to text before it splits it; settings: keep_accents, do_lower_case."""
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if charsmap:
        steps.append(_precompiled(charsmap))
    return normalizers.Sequence(steps)


def _deberta(directory, settings, names):
    return _byte_level(directory, settings), names, ()


def _deberta_v2(directory, settings, names):
    vocab, _, extra = _unigram(directory)
    unk_id = settings.get("unk_id", 1)
    if vocab is None:
        vocab, _, extra, unk_id = _model(directory / "spm.model")
    unk = (_text(names["unk_token"]), 0.0)
    unk_id = vocab.index(unk) if unk in vocab else unk_id
    return _deberta_v2_pipeline(vocab, unk_id, settings), names, extra or ()


def _deberta_v2_pipeline(vocab, unk_id, settings):
    """Here white space is not dropped but becomes part of the pieces; the model's own character map is not used."""
    tokenizer = hf.Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    steps = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
    steps += [
        normalizers.Replace(hf.Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    splits = [pre_tokenizers.Punctuation(behavior="isolated")] if settings.get("split_by_punct", False) else []
    splits.append(pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme=scheme)
    return tokenizer


def _precompiled(charsmap):
    return normalizers.Precompiled(charsmap) if charsmap else None


def _metaspace(vocab, unk_id, normalizer, settings):
    """SentencePiece's unigram model over words that white space divides."""
    tokenizer = hf.Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme=scheme)
    return tokenizer


def _unigram(directory):
    """(pieces, character map, None) of tokenizer.json; (None, None, None) without one."""
    state = _json(directory / STATE)
    if not state:
        return None, None, None
    normalizer = state.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    maps = (step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled")
    charsmap = next(maps, None)
    vocab = [tuple(piece) for piece in state["model"]["vocab"]]
    return vocab, charsmap and base64.b64decode(charsmap), None


def _model(path):
    return _pieces(_needed(path).read_bytes(), str(path))


def _pieces(proto, where):
    """(pieces with scores, character map, control and user-defined symbols, unknown id) of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(proto)
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise UserError(f"{where}: not a SentencePiece model; expected a .model file that it trained") from error
    control, user = model.SentencePiece.CONTROL, model.SentencePiece.USER_DEFINED
    extra = tuple(
        hf.AddedToken(piece.piece, normalized=False, special=piece.type == control)
        for piece in model.pieces
        if piece.type in (control, user)
    )
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return pieces, model.normalizer_spec.precompiled_charsmap or None, extra, model.trainer_spec.unk_id


def _bert_template(tokenizer, names):
    return template(tokenizer, _text(names["cls_token"]), _text(names["sep_token"]), 1)


def _roberta_processing(tokenizer, names):
    sep, cls = _text(names["sep_token"]), _text(names["cls_token"])
    return processors.RobertaProcessing((sep, tokenizer.token_to_id(sep)), (cls, tokenizer.token_to_id(cls)))


def _fairseq_template(tokenizer, names):
    return template(tokenizer, _text(names["bos_token"]), _text(names["eos_token"]), 2)


def _deberta_template(tokenizer, names):
    return template(tokenizer, _text(names["cls_token"]), _text(names["sep_token"]), 2)


def template(tokenizer: hf.Tokenizer, cls: str, sep: str, separators: int) -> processors.PostProcessor:
    """What puts special tokens around a text, and `separators` of them between the texts of a pair."""
    between, segment = (f"{sep}:0 ", 1) if separators == 1 else (f"{sep}:0 {sep}:0 ", 0)
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {between}$B:{segment} {sep}:{segment}",
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )


_BUILDERS = {
    "BertTokenizer": _Builder(_BERT_NAMES, _bert, _bert_template),
    "RobertaTokenizer": _Builder(_FAIRSEQ_NAMES, _roberta, _roberta_processing),
    "XLMRobertaTokenizer": _Builder(_FAIRSEQ_NAMES, _xlm_roberta, _fairseq_template, "sentencepiece.bpe.model"),
    "CamembertTokenizer": _Builder(_FAIRSEQ_NAMES, _camembert, _fairseq_template, "sentencepiece.bpe.model"),
    "AlbertTokenizer": _Builder(_ALBERT_NAMES, _albert, _bert_template, "spiece.model"),
    "DebertaTokenizer": _Builder(_DEBERTA_NAMES, _deberta, _deberta_template),
    "DebertaV2Tokenizer": _Builder(_DEBERTA_NAMES, _deberta_v2, _bert_template, "spm.model"),
}
# Built from a SentencePiece model, with the treatment of letters as a setting.
_LOWER_CASING = ("AlbertTokenizer", "DebertaV2Tokenizer")
# How the pieces of the published models begin.
_ALBERT_PIECES = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_DEBERTA_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def _state_vocab(directory):
    vocab = _json(directory / STATE).get("model", {}).get("vocab")
    if isinstance(vocab, list):
        return {token[0] if isinstance(token, list) else token: i for i, token in enumerate(vocab)}
    return vocab


def _needed(path):
    if not path.is_file():
        raise UserError(f"{path}: no such file, nor a {STATE} beside it; expected one of them")
    return path


def _json(path):
    """The object that a file holds; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected a tokenizer's settings") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}; expected an object")
    return found


def _listed(tokens):
    """Named extra tokens are a mapping in some files."""
    return list(tokens.values()) if isinstance(tokens, dict) else list(tokens or ())


def _token(value):
    if isinstance(value, dict):
        return hf.AddedToken(**{key: field for key, field in value.items() if key != "__type"})
    return value


def _text(token):
    return token["content"] if isinstance(token, dict) else str(getattr(token, "content", token))


def _line(error):
    return " ".join(str(error).split())[:200]
