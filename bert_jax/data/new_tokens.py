"""New entries of a vocabulary that a model was trained with: old ids stay, new ones follow them."""

from bert_jax.data.tokenizers import Tokenizer

# Tells lower case, accents, control characters, spaces and digits apart.
_PROBES = [
    "The quick BROWN fox's na\u00efve cafe\u0301, 2,500 %",
    " \u6771\u4eac \u00df\u0130 \u0627\t\u200bx--y_z",
    "[MASK]<mask>",
]


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
    return [list(ids) for ids in old.encode([f" {word}" if old.leading_space else word for word in words])]
