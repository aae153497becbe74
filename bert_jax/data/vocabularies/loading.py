"""Reads a tokenizer from a file or a directory, whatever kind of vocabulary it holds."""

import json
import pathlib

import tokenizers as hf

from bert_jax.data.vocabularies import hugging_face, published, tokenizer_classes
from bert_jax.data.vocabularies.hugging_face import HuggingFaceTokenizer
from bert_jax.data.vocabularies.sentencepiece_models import SentencePieceTokenizer
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.files import closest_path


def load(path: str | pathlib.Path, lower_case: bool | None = None) -> Tokenizer:
    """Reads a vocabulary: vocab.txt, tokenizer.json, *.model, or a directory that holds one of them.

    Args:
      path: the file or directory. A Hugging Face directory whose settings name a tokenizer class is read as that class
        reads it (see published.py); any other is searched for tokenizer.json, vocab.txt, *.model, and vocab.json
        with merges.txt, in this order.
        A *.model without settings beside it is read as transformers reads it where its first pieces are those of
        ALBERT or DeBERTa, else as the sentencepiece package does.
      lower_case: for vocab.txt and *.model: whether letters are lower-cased. None takes `do_lower_case` of the
        tokenizer_config.json beside the file, and without it what the vocabulary's letters show.

    Raises:
      UserError: there is no vocabulary, it does not parse, or it lacks a mask, cls, sep or pad token.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        vocabulary = published.load(path, lower_case)
        if vocabulary is not None:
            return HuggingFaceTokenizer(vocabulary.tokenizer, str(path), vocabulary.roles)
        path = _vocabulary_in(path)
    elif path.suffix == ".model" and published.is_model_of(path):
        return load(path.parent, lower_case)
    if not path.is_file():
        raise UserError(
            f"{path}: no such vocabulary; expected vocab.txt, tokenizer.json, *.model or their directory"
            f"{closest_path(path)}"
        )
    config = tokenizer_classes.read_object(path.parent / published.CONFIG)
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


def _vocabulary_in(directory):
    """Returns the file in a directory from which its vocabulary is read. Raises UserError if there is none."""
    for name in ("tokenizer.json", "vocab.txt"):
        if (directory / name).is_file():
            return directory / name
    models = sorted(directory.glob("*.model"))
    if len(models) == 1:
        return models[0]
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return directory / "vocab.json"
    own = directory / "tokenizer"  # where a corpus has its vocabulary
    near = f"; did you mean {own}?" if own.is_dir() else ""
    raise UserError(
        f"{directory}: found {'several *.model files' if models else 'no vocabulary'}; expected one of tokenizer.json, "
        f"vocab.txt, *.model, or vocab.json with merges.txt{near}"
    )


def _load_wordpiece(path, config, lower_case):
    with path.open(encoding="utf-8") as file:
        tokens = [line.rstrip("\n") for line in file]
    if tokens[:4] == list(tokenizer_classes.AMINO_ACIDS[:4]):
        return hugging_face.proteins(tokens, str(path))
    if lower_case is None:
        lower_case = config.get("do_lower_case")
    if lower_case is None:
        lower_case = published.has_no_capitals(tokens, ())
    strip_accents = config.get("strip_accents")
    if strip_accents is None and lower_case and published.keeps_accents(tokens, ()):
        strip_accents = False
    return hugging_face.wordpiece(
        tokens, lower_case, str(path), strip_accents, config.get("tokenize_chinese_chars", True)
    )


def _load_sentencepiece(path, config, lower_case):
    if not (path.parent / published.CONFIG).is_file():
        vocabulary = published.load_model(path.read_bytes(), str(path), lower_case)
        if vocabulary is not None:
            return HuggingFaceTokenizer(vocabulary.tokenizer, str(path), vocabulary.roles)
    keep_accents = None
    if lower_case is None and "do_lower_case" in config:
        lower_case, keep_accents = config["do_lower_case"], config.get("keep_accents", False)
    return SentencePieceTokenizer(path.read_bytes(), str(path), lower_case, keep_accents)


def _load_byte_level(directory):
    for name in ("vocab.json", "merges.txt"):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name}: no such file; byte-level BPE needs vocab.json and merges.txt")
    try:
        vocab = json.loads((directory / "vocab.json").read_text("utf-8"))
        with (directory / "merges.txt").open(encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        return hugging_face.byte_level(vocab, merges, str(directory / "vocab.json"))
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a merge that is not in the vocabulary
        reason = tokenizer_classes.one_line(error)
        raise UserError(f"{directory}: vocab.json and merges.txt do not fit together: {reason}") from error


def _load_json(path):
    text = path.read_text("utf-8")
    try:
        tokenizer = hf.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path}: not a tokenizer.json: {tokenizer_classes.one_line(error)}") from error
    named = published.special_token_names(path)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return HuggingFaceTokenizer(tokenizer, str(path), {role: name for role, name in named.items() if name in vocab})
