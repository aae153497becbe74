"""Adds words to the vocabulary of a trained model: old ids stay, new ones follow them.

In a WordPiece vocabulary a new word is an ordinary entry, which may also begin longer words. In other kinds it becomes
an added token of the `tokenizers` package, which matches the whole word alone, with the white space before it. Text
without new words is encoded as before.
"""

import collections
import json
import pathlib
import unicodedata
from collections.abc import Iterable

import tokenizers as hf
from tokenizers import pre_tokenizers

from bert_jax.data.scripts import writes_no_spaces
from bert_jax.data.vocabularies.hugging_face import HuggingFaceTokenizer
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.files import closest_path

# Tokenizers that treat lower case, accents, control characters, spaces or digits differently encode these differently.
_PROBES = [
    "The quick BROWN fox's na\u00efve cafe\u0301, 2,500 %",
    " \u6771\u4eac \u00df\u0130 \u0627\t\u200bx--y_z",
    "[MASK]<mask>",
]


def read(path: str | pathlib.Path) -> list[str]:
    """Reads words from a file, one a line. Raises UserError if it cannot be read or a line holds several."""
    words = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(line.split()) > 1:
                    raise UserError(f"{path}:{number}: found {line.strip()[:60]!r}; expected one word a line")
                words += line.split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or error
        near = closest_path(path, is_folder=False)
        raise UserError(f"--add_tokens={path}: cannot be read: {reason}; expected words, one a line{near}") from error
    if not words:
        raise UserError(f"--add_tokens={path}: empty; expected one word a line")
    return words


def find(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> list[str]:
    """Returns the words that would save the most tokens as entries: occurrences x (pieces - 1), largest first.

    Words consist of letters alone. They are encoded as inside a sentence; an unknown piece counts twice.

    Args:
      tokenizer: the vocabulary that is to be extended.
      texts: read once.
      count: how many words are wanted; little text may have fewer.
    """
    chunks = collections.Counter()
    for text in texts:
        chunks.update(text.split())
    words, split = collections.Counter(), _splitter(tokenizer)
    for chunk, times in chunks.items():
        for word in split(chunk):
            if len(word) > 1 and all(unicodedata.category(character)[0] in "LM" for character in word):
                words[word] += times
    tokens = _tokens(tokenizer)
    candidates = [word for word in words if word not in tokens]
    rows = tokenizer.encode([_in_sentence(tokenizer, word) for word in candidates])
    saved = {
        word: words[word] * (len(ids) - 1 + list(ids).count(tokenizer.unk_id))
        for word, ids in zip(candidates, rows, strict=True)
    }
    ranked = sorted((word for word in candidates if saved[word] > 0), key=lambda word: (-saved[word], word))
    return ranked[:count]


def extend(tokenizer: Tokenizer, words: Iterable[str], where: str) -> tuple[Tokenizer, list[str]]:
    """Returns a tokenizer in which each word is one token, and the words that were new to it.

    Args:
      tokenizer: not changed.
      words: in the order of their ids; a word that is one token already, or a repeated one, is skipped.
      where: the flag and its value, for messages.

    Raises:
      UserError: the tokenizer is a SentencePiece model, or its pipeline splits or drops a word before the vocabulary
        is consulted.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        raise UserError(
            f"{where}: a {tokenizer.kind} .model cannot be extended; expected a vocabulary with a tokenizer.json or "
            "vocab.txt"
        )
    size, added, tokens = tokenizer.vocab_size, [], _tokens(tokenizer)
    normalize, split = _normalizer(tokenizer), _splitter(tokenizer)
    for word in words:
        if tokenizer.kind == "wordpiece":
            parts = split(word)
            if len(parts) != 1:
                raise UserError(
                    f"{where}: this vocabulary reads {word!r} as {len(parts)} words ({' '.join(parts)}), and tokens do "
                    "not cross words; expected words of letters or digits alone"
                )
            word = parts[0]
        else:
            normal = normalize(word)
            word = normal if len(normal.split()) == 1 else word
        known = tokenizer.encode([_in_sentence(tokenizer, word)])[0]
        if word in tokens or (len(known) == 1 and known[0] != tokenizer.unk_id):
            continue
        added.append(word)
        tokens.add(word)
    if tokenizer.kind == "wordpiece":
        state = json.loads(tokenizer.json())
        state["model"]["vocab"] |= {word: size + i for i, word in enumerate(added)}
        extended = hf.Tokenizer.from_str(json.dumps(state))
    else:
        extended = hf.Tokenizer.from_str(tokenizer.json())
        extended.add_tokens(
            [
                hf.AddedToken(
                    word,
                    single_word=not any(map(writes_no_spaces, word)),
                    lstrip=True,
                    normalized=extended.normalizer is not None,
                )
                for word in added
            ]
        )
    result = HuggingFaceTokenizer(extended, where)
    if not begins_with(result, tokenizer) or result.vocab_size != size + len(added):
        raise UserError(f"{where}: the vocabulary cannot be extended: its ids have gaps")
    return result, added


def begins_with(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Returns whether `tokenizer` has every token of `other` under the same id and encodes text as it does.

    It may have more tokens, with higher ids.
    """
    if tokenizer.digest() == other.digest():
        return True
    if tokenizer.vocab_size < other.vocab_size or tokenizer.mask_id != other.mask_id:
        return False
    if any(tokenizer.token(i) != other.token(i) for i in range(other.vocab_size)):
        return False
    for mine, theirs in zip(tokenizer.encode(_PROBES), other.encode(_PROBES), strict=True):
        if list(mine) != list(theirs) and max(mine, default=0) < other.vocab_size:
            return False
    return True


def pieces(tokenizer: Tokenizer, old: Tokenizer) -> list[list[int]]:
    """Returns, for each token that only `tokenizer` has, its encoding by `old`, whose ids `tokenizer` continues."""
    words = [tokenizer.token(i) or "" for i in range(old.vocab_size, tokenizer.vocab_size)]
    words = [word.removeprefix("##").lstrip("\u0120\u2581") for word in words]
    return [list(ids) for ids in old.encode([_in_sentence(old, word) for word in words])]


def _splitter(tokenizer):
    """Returns a function that normalises text without white space and splits it into words.

    WordPiece splits as its pipeline does, other kinds as BERT's.
    """
    normalize = _normalizer(tokenizer)
    pipeline = hf.Tokenizer.from_str(tokenizer.json()) if tokenizer.kind == "wordpiece" else None
    pre_tokenizer = (pipeline and pipeline.pre_tokenizer) or pre_tokenizers.BertPreTokenizer()

    def split(text):
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalize(text))]

    return split


def _normalizer(tokenizer):
    """Returns a function that does to a word what the pipeline does to text, such as lower-casing it."""
    normalizer = None
    if isinstance(tokenizer, HuggingFaceTokenizer):
        normalizer = hf.Tokenizer.from_str(tokenizer.json()).normalizer
    if normalizer is None:
        return str
    return lambda word: normalizer.normalize_str(word).replace("\u2581", " ").strip()


def _tokens(tokenizer):
    return {tokenizer.token(i) for i in range(tokenizer.vocab_size)}


def _in_sentence(tokenizer, word):
    return f" {word}" if tokenizer.leading_space else word
