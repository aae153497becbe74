"""Verifies the files of a corpus: that they are those its manifest was written for, whatever a disk did to them since.

Offsets, counts and the vocabulary are always verified. Tokens are read as a whole, and compared with the manifest's
fingerprint, where that takes a fraction of a second; those of a larger corpus are checked where rows are made of them
(batches.py).
"""

import numpy as np

from bert_jax.data.corpus import SPLITS, Corpus
from bert_jax.errors import UserError

LARGEST = 1 << 28  # bytes of tokens that are read as a whole
_AGAIN = "the file was damaged; prepare the corpus again"


def verify(corpus: Corpus, largest: int = LARGEST) -> None:
    """Verifies a corpus.

    Args:
      corpus: the corpus.
      largest: bytes of tokens up to which they are read as a whole.

    Raises:
      UserError: a file is not what the manifest says, or its numbers cannot be; it names the file, and the place of the
        first such number in it.
    """
    size = corpus.tokenizer.vocab_size
    if size != corpus.vocab_size:
        raise UserError(
            f"{corpus.path / 'tokenizer'}: {size:,} entries, but manifest.json says {corpus.vocab_size:,}; {_AGAIN}"
        )
    for name in SPLITS:
        split, folder = corpus.split(name), corpus.path / name
        _check_offsets(folder / "sentences.npy", split.sentences, split.num_tokens)
        _check_offsets(folder / "documents.npy", split.documents, split.num_sentences)
    counts = corpus.unigram_counts
    tokens = corpus.split("train").num_tokens
    if (counts < 0).any() or counts.sum() != tokens:
        raise UserError(
            f"{corpus.path / 'train' / 'unigram.npy'}: counts {counts.sum():,} tokens; expected {tokens:,}; {_AGAIN}"
        )
    shards = [(corpus.path / name, shard) for name in SPLITS for shard in corpus.split(name).shards]
    if sum(shard.tokens.nbytes for _, shard in shards) > largest:
        return
    for _, shard in shards:
        check_ids(shard, shard.tokens, 0, corpus.vocab_size)
    if corpus.computed_fingerprint() != corpus.fingerprint:
        raise UserError(f"{_changed(corpus)}: its bits have changed since manifest.json was written; {_AGAIN}")


def check_ids(shard, tokens: np.ndarray, begin: int, vocab_size: int) -> None:
    """Raises UserError for a token id that the vocabulary lacks; it names the shard's file and the byte.

    Args:
      shard: a corpus.Shard.
      tokens: ids of the shard, from the token number `begin` on, uint16 or uint32 [tokens].
      begin: see there.
      vocab_size: number of ids.
    """
    if not len(tokens) or tokens.max() < vocab_size:
        return
    first = int(np.flatnonzero(np.asarray(tokens) >= vocab_size)[0])
    raise UserError(
        f"{shard.file}: token {begin + first:,} (byte {shard.offset(begin + first):,}) has id {int(tokens[first]):,}; "
        f"expected below {vocab_size:,}, as many as the vocabulary has; {_AGAIN}"
    )


def _check_offsets(path, offsets, last):
    """Raises UserError unless offsets begin at 0, rise, and end at `last`."""
    steps = np.diff(offsets)
    wrong = np.flatnonzero(steps <= 0)
    place = 0 if offsets[0] else int(wrong[0]) + 1 if len(wrong) else len(offsets) - 1
    if offsets[0] or len(wrong) or offsets[-1] != last:
        byte = getattr(offsets, "offset", 0) + place * offsets.itemsize
        before = f" after {int(offsets[place - 1]):,}" if place else ""
        expected = f"numbers that rise from 0 to {last:,}"
        raise UserError(
            f"{path}: entry {place:,} (byte {byte:,}) is {int(offsets[place]):,}{before}; expected {expected}; {_AGAIN}"
        )


def _changed(corpus):
    """Returns the path of what has changed: the tokens of training, where their counts show it, else the corpus."""
    split = corpus.split("train")
    counts = np.zeros(corpus.vocab_size, np.int64)
    for shard in split.shards:
        counts += np.bincount(shard.tokens, minlength=corpus.vocab_size)
    different = np.flatnonzero(counts != corpus.unigram_counts)
    if not len(different):
        return f"{corpus.path} (its word starts, offsets, held-out tokens or tokenizer)"
    names = ", ".join(f"{int(token)}" for token in different[:4])
    files = split.shards[0].file if len(split.shards) == 1 else f"{corpus.path / 'train'}/*.tokens.npy"
    return f"{files} (tokens of ids {names} are more or fewer than unigram.npy counts)"
