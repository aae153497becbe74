"""Reads the vocabularies of Hugging Face model directories as transformers 5 reads them.

Its tokenizer classes rebuild the pipeline from the vocabulary and tokenizer_config.json, and take only the vocabulary
and the added tokens of tokenizer.json: `do_lower_case` in the former wins over the normalizer in the latter. Here the
same is done with the `tokenizers` package alone, so that the ids are AutoTokenizer's.
"""

import dataclasses
import pathlib
import unicodedata
from collections.abc import Mapping

import tokenizers as hf

from bert_jax import _moved
from bert_jax.data.vocabularies import tokenizer_classes
from bert_jax.data.vocabularies.tokenizer_classes import CLASSES, CONFIG, STATE, one_line, read_object, text_of
from bert_jax.errors import UserError

# Every file that a vocabulary may consist of: all are kept when a model is written again.
FILES = (
    STATE, CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model",
)  # fmt: skip
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The class that goes with a model_type; a tokenizer_config.json may name another.
CLASS_OF_MODEL_TYPE = {
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
    "nomic_bert": "BertTokenizer",
    "roberta-prelayernorm": "RobertaTokenizer",
    "xlm-roberta-xl": "TokenizersBackend",
    "megatron-bert": "BertTokenizer",
    "bert-generation": "BertGenerationTokenizer",
    "roformer": "RoFormerTokenizer",
    "mpnet": "MPNetTokenizer",
    "esm": "EsmTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "esmc": "EsmcTokenizer",
    "longformer": "RobertaTokenizer",
}
# Classes that take tokenizer.json as it is, and the models for which they do, whatever class the settings name.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
_ALWAYS_GENERIC = ("modernbert",)
_ALIASES = {"DistilBertTokenizer": "BertTokenizer", "ElectraTokenizer": "BertTokenizer"}
# Classes built from a SentencePiece model whose treatment of capitals is a setting.
_LOWER_CASING = ("AlbertTokenizer", "DebertaV2Tokenizer")
# The first pieces of the published SentencePiece models.
_ALBERT_PIECES = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_DEBERTA_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Holds a pipeline and its special tokens.

    Attributes:
      tokenizer: the pipeline.
      roles: names of the special tokens by role: "cls", "sep", "mask", "pad", "unk", "bos", "eos", where there are any.
    """

    tokenizer: hf.Tokenizer
    roles: Mapping[str, str]


def load(directory: pathlib.Path, lower_case: bool | None = None) -> Vocabulary | None:
    """Reads the vocabulary of a directory that names a class, in tokenizer_config.json or by its model_type.

    Args:
      directory: folder of a model, or of a tokenizer alone.
      lower_case: for a SentencePiece model, replaces `do_lower_case` of its settings.

    Returns:
      None for a directory that names no class, and for one that `loading.load` reads with lower_case by itself.

    Raises:
      UserError: a class is not supported, a file is missing, or one does not parse.
    """
    settings = read_object(directory / CONFIG)
    name = _class_name(directory, settings)
    if lower_case is not None:
        if name not in CLASSES or not CLASSES[name].model:
            return None
        if name not in _LOWER_CASING:
            raise UserError(f"--lower_case: {directory}: a {name} leaves letters as they are; expected auto")
        settings["do_lower_case"] = lower_case
    if name is None:
        return None
    if name not in CLASSES and name not in _GENERIC:
        raise UserError(
            f"{directory / CONFIG}: tokenizer_class {name} is not supported; expected one of "
            f"{', '.join((*CLASSES, *_ALIASES))}, or PreTrainedTokenizerFast with a {STATE}"
        )
    if name in _GENERIC and not (directory / STATE).is_file():
        return None
    names, settings, added = _special_tokens(directory, settings)
    tokenizer_class = CLASSES.get(name)
    try:
        if tokenizer_class is None:
            tokenizer, extra = hf.Tokenizer.from_str((directory / STATE).read_text("utf-8")), ()
        else:
            names = {**tokenizer_class.names, **names}
            tokenizer, names, extra = tokenizer_class.build(directory, settings, names)
        extra = settings.get("extra_special_tokens") or extra
        _add(tokenizer, added, names, extra)
        if tokenizer_class is not None and tokenizer.post_processor is None:
            tokenizer.post_processor = tokenizer_class.post_processor(tokenizer, names)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{directory}: its vocabulary is not that of a {name}: {one_line(error)}") from error
    return Vocabulary(tokenizer, _roles(names))


def load_model(proto: bytes, where: str, lower_case: bool | None, keep_accents: bool = False) -> Vocabulary | None:
    """Reads a SentencePiece model without settings, if its first pieces are those of ALBERT's or DeBERTa's.

    Args:
      proto: content of the .model file.
      where: its name, for messages.
      lower_case: None lets the letters of the pieces decide.
      keep_accents: whether ALBERT's normalizer leaves accents even if the pieces have none.

    Returns:
      None for a model with other first pieces.

    Raises:
      UserError: it is no SentencePiece model.
    """
    pieces, charsmap, extra, unk_id = tokenizer_classes.read_pieces(proto, where)
    first = tuple(piece for piece, _ in pieces[:5])
    tokens = [piece for piece, _ in pieces]
    if lower_case is None:
        lower_case = has_no_capitals(tokens, ())
    keep_accents = keep_accents or keeps_accents(tokens, ())
    if first == _ALBERT_PIECES:
        tokenizer_class = CLASSES["AlbertTokenizer"]
        settings = {"do_lower_case": lower_case, "keep_accents": keep_accents}
        tokenizer = tokenizer_classes.albert_pipeline(pieces, charsmap, settings)
    elif first[:4] == _DEBERTA_PIECES and all(piece != "[MASK]" for piece, _ in pieces):
        tokenizer_class = CLASSES["DebertaV2Tokenizer"]
        tokenizer = tokenizer_classes.deberta_v2_pipeline(pieces, unk_id, {"do_lower_case": lower_case})
    else:
        return None
    names = tokenizer_class.names
    _add(tokenizer, {}, names, extra)
    tokenizer.post_processor = tokenizer_class.post_processor(tokenizer, names)
    return Vocabulary(tokenizer, _roles(names))


def has_no_capitals(tokens: list[str], special_ids) -> bool:
    """Returns whether no token has a capital letter but special ones, as in the vocabulary of an uncased model."""
    return not any(token != token.lower() for token in _ordinary(tokens, special_ids))


def keeps_accents(tokens: list[str], special_ids) -> bool:
    """Returns whether a vocabulary without capital letters has accents, vowel signs or the like.

    The published uncased models have none in theirs, as their text lost them together with the capitals. Vocabularies
    of scripts without capitals, such as Thai, have them.
    """
    has_marks = any(
        any(unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", token))
        for token in _ordinary(tokens, special_ids)
        if not token.isascii()
    )
    return has_marks and has_no_capitals(tokens, special_ids)


def _ordinary(tokens, special_ids):
    special = {tokens[i] for i in special_ids}
    return (t for t in tokens if t not in special and not (t[:1] in "[<" and t[-1:] in "]>"))


def special_token_names(path: pathlib.Path) -> dict[str, str]:
    """Returns the special tokens by role ("cls", "mask", ...) that the files beside a vocabulary name."""
    names, _, _ = _special_tokens(path.parent, read_object(path.parent / CONFIG))
    return _roles(names)


def is_model_of(path: pathlib.Path) -> bool:
    """Returns whether a file is the SentencePiece model from which its directory's tokenizer class is built."""
    tokenizer_class = CLASSES.get(_class_name(path.parent, read_object(path.parent / CONFIG)))
    return tokenizer_class is not None and path.name == tokenizer_class.model


def _roles(names):
    """Returns the text of each special token by role: "cls" for "cls_token"."""
    return {role.removesuffix("_token"): text_of(token) for role, token in names.items()}


def _class_name(directory, settings):
    """Chooses the class as AutoTokenizer does: the one that tokenizer or model settings name, else the model_type's."""
    config = read_object(directory / "config.json")
    model_type = config.get("model_type")
    if model_type in _ALWAYS_GENERIC:
        return "TokenizersBackend"
    default = CLASS_OF_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    name = settings.get("tokenizer_class") or (config.get("tokenizer_class") if default else None) or default
    name = name and str(name).removesuffix("Fast")
    return _ALIASES.get(name, name)


def _special_tokens(directory, settings):
    """Reads every file that may name special tokens.

    Returns:
      (special tokens by role, the other settings, added tokens by id)
    """
    settings = dict(settings)
    if "additional_special_tokens" in settings and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    added = {}
    if "added_tokens_decoder" in settings:
        for i, token in settings.pop("added_tokens_decoder").items():
            added[int(i)] = hf.AddedToken(**token)
    else:
        for key, value in read_object(directory / "special_tokens_map.json").items():
            if isinstance(value, dict):
                value = hf.AddedToken(**{**value, "special": True})
            if key == "additional_special_tokens":
                settings.setdefault("extra_special_tokens", value)
            else:
                settings[key] = value
        known = {text_of(settings[role]) for role in _ROLES if settings.get(role)}
        known |= {text_of(token) for token in settings.get("extra_special_tokens") or ()}
        for token, i in read_object(directory / "added_tokens.json").items():
            added[i] = hf.AddedToken(token, normalized=token not in known, special=token in known)
        for token in read_object(directory / STATE).get("added_tokens", ()):
            added[token["id"]] = hf.AddedToken(**{key: value for key, value in token.items() if key != "id"})
    by_text = {token.content: token for token in added.values()}
    names = {}
    for role in _ROLES:
        if settings.get(role) is not None:
            token = _as_token(settings[role])
            names[role] = by_text.get(text_of(token), token)
    settings["extra_special_tokens"] = [_as_token(token) for token in _as_list(settings.get("extra_special_tokens"))]
    return names, settings, added


def _add(tokenizer, added, names, extra):
    """Adds the tokens that are no pieces of the model, in transformers' order, on which their ids depend."""
    present = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    present += [token.content for token in added.values()]
    adding = [added[i] for i in sorted(added)]
    for token in (*(names[role] for role in _ROLES if role in names), *extra):
        if text_of(token) not in present and token not in adding:
            adding.append(token)
    special = {text_of(token) for token in names.values()}
    tokens = []
    for token in adding:
        token = hf.AddedToken(token, special=True) if isinstance(token, str) else token
        token.special = token.special or token.content in special
        tokens.append(token)
    tokenizer.add_tokens(tokens)


def _as_list(tokens):
    """Returns extra tokens as a list: in some files they are a mapping from names."""
    return list(tokens.values()) if isinstance(tokens, dict) else list(tokens or ())


def _as_token(value):
    """Returns a token of a settings file, which is a string or the fields of an AddedToken."""
    if isinstance(value, dict):
        return hf.AddedToken(**{key: field for key, field in value.items() if key != "__type"})
    return value


def __getattr__(name):
    return _moved.find("data.vocabularies.published", name)
