"""New entries of a vocabulary that a model was trained with: old ids stay, new ones follow them.

A WordPiece vocabulary takes a word as an entry like its own, which also begins longer words. Of the other kinds it
becomes an added token of the `tokenizers` package, which stands for the whole word alone, with the white space before
it. Text without new words is encoded as before.
"""

import collections
import json
import pathlib
import re
import unicodedata
from collections.abc import Iterable

import tokenizers as hf
from tokenizers import pre_tokenizers

from bert_jax.data.vocabularies.tokenizers import HuggingFaceTokenizer, Tokenizer
from bert_jax.errors import UserError

# Tells lower case, accents, control characters, spaces and digits apart.
_PROBES = [
    "The quick BROWN fox's na\u00efve cafe\u0301, 2,500 %",
    " \u6771\u4eac \u00df\u0130 \u0627\t\u200bx--y_z",
    "[MASK]<mask>",
]
# Thai, Lao, Burmese, Khmer, kana and Chinese characters: their words follow each other without a space.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def read(path: str | pathlib.Path) -> list[str]:
    """The words of a file, one a line. Raises UserError if it cannot be read or a line holds several."""
    words = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(line.split()) > 1:
                    raise UserError(f"{path}:{number}: found {line.strip()[:60]!r}; expected one word a line")
                words += line.split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--add_tokens={path}: cannot be read: {error}; expected words, one a line") from error
    if not words:
        raise UserError(f"--add_tokens={path}: empty; expected one word a line")
    return words


def find(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> list[str]:
    """The words of a text whose entries would save the most tokens: occurrences x (pieces - 1), largest first.

    Words are made of letters alone. The pieces are those of the word inside a sentence; an unknown one counts twice.

    Args:
      tokenizer: whose pieces they are.
      texts: read once.
      count: words wanted; little text may not give as many.
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
    found = [word for word in words if word not in tokens]
    rows = tokenizer.encode([_in_sentence(tokenizer, word) for word in found])
    saved = {
        word: words[word] * (len(ids) - 1 + list(ids).count(tokenizer.unk_id))
        for word, ids in zip(found, rows, strict=True)
    }
    ranked = sorted((word for word in found if saved[word] > 0), key=lambda word: (-saved[word], word))
    return ranked[:count]


def extend(tokenizer: Tokenizer, words: Iterable[str], where: str) -> tuple[Tokenizer, list[str]]:
    """(the tokenizer with the words as tokens of their own, those that were new to it).

    Args:
      tokenizer: stays as it is.
      words: in the order of their ids; those that are one token already, or come again, are passed over.
      where: the flag and its value, for messages.

    Raises:
      UserError: a SentencePiece model, or a word that the pipeline before the vocabulary takes apart or drops.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        raise UserError(
            f"{where}: a {tokenizer.kind} .model cannot be extended; expected a vocabulary with a tokenizer.json or "
            "vocab.txt"
        )
    size, added, split, tokens = tokenizer.vocab_size, [], _splitter(tokenizer), _tokens(tokenizer)
    for word in words:
        if tokenizer.kind == "wordpiece":
            parts = split(word)
            if len(parts) != 1:
                raise UserError(
                    f"{where}: this vocabulary reads {word!r} as {len(parts)} words ({' '.join(parts)}), and tokens do "
                    "not cross words; expected words of letters or digits alone"
                )
            word = parts[0]
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
                    single_word=not _UNSPACED.search(word),
                    lstrip=True,
                    normalized=extended.normalizer is not None,
                )
                for word in added
            ]
        )
    made = HuggingFaceTokenizer(extended, where)
    if not begins_with(made, tokenizer) or made.vocab_size != size + len(added):
        raise UserError(f"{where}: the vocabulary cannot be extended: its ids have gaps")
    return made, added


def begins_with(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether `tokenizer` has every token of `other` under the same id, and reads text as it does.

    It may have more tokens, behind those of the other.
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
    """How `old` writes each token that `tokenizer` has beyond it, as ids of `old`."""
    words = [tokenizer.token(i) or "" for i in range(old.vocab_size, tokenizer.vocab_size)]
    words = [word.removeprefix("##").lstrip("\u0120\u2581") for word in words]
    return [list(ids) for ids in old.encode([_in_sentence(old, word) for word in words])]


def _splitter(tokenizer):
    """A function that gives the words of a text without white space, as the vocabulary is asked for them."""
    pipeline = hf.Tokenizer.from_str(tokenizer.json()) if tokenizer.kind == "wordpiece" else None
    normalizer = pipeline and pipeline.normalizer
    pre_tokenizer = (pipeline and pipeline.pre_tokenizer) or pre_tokenizers.BertPreTokenizer()

    def split(text):
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]

    return split


def _tokens(tokenizer):
    return {tokenizer.token(i) for i in range(tokenizer.vocab_size)}


def _in_sentence(tokenizer, word):
    return f" {word}" if tokenizer.leading_space else word
