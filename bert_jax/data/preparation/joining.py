"""Joins finished shards into the splits of a corpus: the last pass of a preparation.

It counts exact duplicates and, if told to, drops all but the first of each; it fills a split that chance left empty; it
writes offsets, counts and the fingerprint. Memory does not grow with the corpus. The pass may be repeated after a kill,
because it depends on the shards' folders alone, which stay until the manifest is written.
"""

import dataclasses
import hashlib
import pathlib
import shutil

import numpy as np

from bert_jax import files
from bert_jax.data.corpus import SPLITS, ArrayFile, SplitWriter, token_dtype, unpack_bits

_HASHES_AT_ONCE = 1 << 14
_BUCKET_DOCUMENTS = 1 << 15
_MOST_BUCKETS = 256
_TOKENS_AT_ONCE = 1 << 17
_LONG_SENTENCE = 512  # tokens; the usual length of a row
_POSITION_BITS = np.uint64(40)  # a document's position in its shard; the bits above hold the shard's number


def join(output: pathlib.Path, num_shards: int, drop_duplicates: bool, eval_share: float, tokenizer) -> dict:
    """Writes output/train and output/eval from output/parts.

    Args:
      output: the corpus's folder.
      num_shards: how many shards output/parts holds.
      drop_duplicates: whether only the first of equal documents is kept.
      eval_share: share of the documents that is held out; with 0, an empty eval split stays empty.
      tokenizer: the tokenizer of the corpus.

    Returns:
      The manifest's counts and fingerprint.
    """
    parts = output / "parts"
    kept, duplicates = {}, 0
    for split in SPLITS:
        shards = [_Part(parts / f"{i:05d}", split, i) for i in range(num_shards)]
        duplicates += _find_duplicates(parts, shards, drop_duplicates)
        kept[split] = shards
    _fill_empty_split(kept, eval_share)
    facts, fingerprint = {}, hashlib.blake2b(digest_size=16)
    fingerprint.update(tokenizer.digest().encode())
    counts = {}
    for split in SPLITS:
        facts[split], counts[split] = _write_split(output, split, kept, tokenizer.vocab_size, fingerprint)
    total = {key: sum(facts[split][key] for split in SPLITS) for key in ("documents", "sentences", "tokens")}
    unknown = 0 if tokenizer.unk_id is None else sum(int(counts[split][tokenizer.unk_id]) for split in SPLITS)
    return total | {
        "unknown_token_share": unknown / max(1, total["tokens"]),
        "duplicate_documents": duplicates,
        "splits": facts,
        "fingerprint": fingerprint.hexdigest(),
    }


@dataclasses.dataclass
class _Part:
    """Holds one split's part of one finished shard, and the documents that leave or join it.

    Attributes:
      folder: the shard's folder.
      split: "train" or "eval".
      number: the shard's number.
      drops: whether the file `keep_path` says which documents are kept.
      leaving: a document that moves to the other split, or None.
      joining: the (part, document) that comes from the other split, or None.
    """

    folder: pathlib.Path
    split: str
    number: int
    drops: bool = False
    leaving: int | None = None
    joining: "tuple[_Part, int] | None" = None

    def array(self, name):
        """Opens one of the arrays that SplitWriter writes, such as "sentences"."""
        return _load(self.folder / f"{self.split}.{name}.npy")

    @property
    def keep_path(self):
        """Returns the file that says which documents are kept."""
        return self.folder / f"{self.split}.keep.npy"

    @property
    def changed(self):
        """Returns whether the part must be written again."""
        return self.drops or self.leaving is not None or self.joining is not None

    def keep(self):
        """Returns whether each document stays in this split, bool [documents]."""
        keep = np.load(self.keep_path) if self.drops else np.ones(len(self.array("documents")), bool)
        if self.leaving is not None:
            keep[self.leaving] = False
        return keep


def _load(path):
    """Opens a .npy file, memory-mapped unless it is empty, because an empty array cannot be mapped."""
    return np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path)


def _find_duplicates(parts, shards, drop):
    """Counts the documents that equal an earlier one; with `drop`, notes them beside their shards."""
    documents = sum(len(shard.array("hashes")) for shard in shards)
    num_buckets = min(max(1, documents // _BUCKET_DOCUMENTS), _MOST_BUCKETS)
    folder = parts / "buckets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    buckets = [ArrayFile(folder / f"{i}.npy", "<u8", columns=3) for i in range(num_buckets)]
    for shard in shards:
        hashes = shard.array("hashes")
        for start in range(0, len(hashes), _HASHES_AT_ONCE):
            block = np.array(hashes[start : start + _HASHES_AT_ONCE])
            position = (np.uint64(shard.number) << _POSITION_BITS) + np.arange(start, start + len(block), dtype="u8")
            rows = np.column_stack([block, position])
            bucket = block[:, 1] % np.uint64(num_buckets)
            for i in np.unique(bucket):
                buckets[i].append(rows[bucket == i])
    num_duplicates = 0
    for i, bucket in enumerate(buckets):
        bucket.close()
        rows = np.load(folder / f"{i}.npy")
        rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
        repeated = np.flatnonzero((rows[1:, :2] == rows[:-1, :2]).all(axis=1)) + 1
        num_duplicates += len(repeated)
        if drop and len(repeated):
            _note_drops(shards, np.sort(rows[repeated, 2]))
    shutil.rmtree(folder)
    return num_duplicates


def _note_drops(shards, positions):
    """Marks documents as dropped in their shards' keep files; positions uint64 [n], see _POSITION_BITS."""
    numbers = positions >> _POSITION_BITS
    for number in np.unique(numbers):
        shard = shards[int(number)]
        if not shard.drops:
            np.save(shard.keep_path, np.ones(len(shard.array("documents")), bool))
            shard.drops = True
        keep = np.load(shard.keep_path)
        keep[(positions[numbers == number] & ((np.uint64(1) << _POSITION_BITS) - np.uint64(1))).astype(int)] = False
        np.save(shard.keep_path, keep)


def _fill_empty_split(kept, eval_share):
    """Moves one document, chosen by its hash, to a split that chance left empty."""
    counts = {split: sum(int(shard.keep().sum()) for shard in kept[split]) for split in SPLITS}
    if counts["train"] == 0:
        source, target, best = "eval", "train", max
    elif counts["eval"] == 0 and counts["train"] >= 2 and eval_share > 0:
        source, target, best = "train", "eval", min
    else:
        return
    candidates = []
    for shard in kept[source]:
        documents = np.flatnonzero(shard.keep())
        if len(documents):
            hashes = shard.array("hashes")[documents, 0]
            i = int(hashes.argmin() if best is min else hashes.argmax())
            candidates.append((int(hashes[i]), shard.number, int(documents[i])))
    _, number, document = best(candidates)
    kept[source][number].leaving = document
    kept[target][number].joining = (kept[source][number], document)


def _write_split(output, split, kept, vocab_size, fingerprint):
    """Writes a split's arrays and updates the fingerprint; returns (facts for the manifest, counts of each token)."""
    folder = output / split
    folder.mkdir(exist_ok=True)
    with (
        files.atomic_path(folder / "sentences.npy") as sentences_path,
        files.atomic_path(folder / "documents.npy") as documents_path,
    ):
        sentences, documents = ArrayFile(sentences_path, "<i8"), ArrayFile(documents_path, "<i8")
        facts, counts = _join_parts(kept[split], folder, split, sentences, documents, vocab_size, fingerprint)
        sentences.close()
        documents.close()
    if split == "train":
        with files.atomic_open(folder / "unigram.npy", "wb") as file:
            np.save(file, counts)
    return facts, counts


def _join_parts(parts, folder, split, sentences, documents, vocab_size, fingerprint):
    """Moves the parts' tokens to the split's folder and appends their offsets to two ArrayFiles.

    Returns:
      (facts for the manifest, counts of each token int64 [vocabulary])
    """
    for offsets in (sentences, documents):
        offsets.append(np.zeros(1, np.int64))
    counts = np.zeros(vocab_size, np.int64)
    num_tokens = num_sentences = longest = in_long = 0
    shards = []
    for part in parts:
        # Parts that change are rewritten each time; the others are moved, unless an earlier start has moved them.
        prefix = part.folder / (f"{split}.changed" if part.changed else split)
        if part.changed:
            _rewrite(part, prefix, vocab_size)
        lengths = _load(prefix.with_name(prefix.name + ".sentences.npy"))
        if not len(lengths):
            continue
        name = f"{part.number:05d}"
        for kind in ("tokens", "word_starts"):
            source, target = prefix.with_name(f"{prefix.name}.{kind}.npy"), folder / f"{name}.{kind}.npy"
            if source.exists() or not target.exists():
                files.replace(source, target)
        for array in (lengths, _load(prefix.with_name(prefix.name + ".documents.npy"))):
            file, start = (sentences, num_tokens) if array is lengths else (documents, num_sentences)
            for block in _blocks(array):
                ends = start + np.cumsum(block, dtype=np.int64)
                file.append(ends)
                start = int(ends[-1])
                fingerprint.update(np.ascontiguousarray(block))
                if array is lengths:
                    longest = max(longest, int(block.max()))
                    in_long += int(block[block > _LONG_SENTENCE].sum(dtype=np.int64))
            if array is lengths:
                shard_tokens, shard_sentences, num_tokens = start - num_tokens, len(lengths), start
        num_sentences += shard_sentences
        for kind in ("tokens", "word_starts"):
            for block in _read_blocks(folder / f"{name}.{kind}.npy"):
                fingerprint.update(block)
                if kind == "tokens":
                    counts += np.bincount(block, minlength=vocab_size)
        shards.append({"name": name, "tokens": shard_tokens})
    facts = {
        "documents": documents.rows - 1,
        "sentences": sentences.rows - 1,
        "tokens": num_tokens,
        "longest_sentence": longest,
        "long_sentence_share": in_long / max(1, num_tokens),
        "shards": shards,
    }
    return facts, counts


def _blocks(array):
    for start in range(0, len(array), _TOKENS_AT_ONCE):
        yield np.array(array[start : start + _TOKENS_AT_ONCE])


def _read_blocks(path):
    """Yields a .npy file's entries in blocks, read rather than mapped because mapped pages count as memory."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        while len(block := np.fromfile(file, dtype, _TOKENS_AT_ONCE)):
            yield block


def _rewrite(part, prefix, vocab_size):
    """Writes a part again, with the documents that stay and the one that joins, to files that begin with `prefix`."""
    writer = SplitWriter(str(prefix), vocab_size)
    _copy(part, part.keep(), writer, vocab_size)
    if part.joining:
        source, document = part.joining
        kept = np.zeros(len(source.array("documents")), bool)
        kept[document] = True
        _copy(source, kept, writer, vocab_size)
    writer.close()


def _copy(part, keep, writer, vocab_size):
    """Adds the documents of a part that are kept, bool [documents], to a SplitWriter."""
    lengths = part.array("sentences")
    documents = part.array("documents")
    hashes = part.array("hashes")
    sentence_ends = np.cumsum(documents, dtype=np.int64)
    token_ends = np.cumsum(lengths, dtype=np.int64)
    tokens, packed = part.array("tokens"), part.array("word_starts")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
    for first, stop in edges.reshape(-1, 2):  # runs of documents that stay
        first_sentence = int(sentence_ends[first - 1]) if first else 0
        last_sentence = int(sentence_ends[stop - 1])
        start = int(token_ends[first_sentence - 1]) if first_sentence else 0
        end = int(token_ends[last_sentence - 1])
        nothing = np.zeros(0, np.int64)
        for a in range(start, end, _TOKENS_AT_ONCE):
            b = min(a + _TOKENS_AT_ONCE, end)
            bits = unpack_bits(packed, a, b).astype(bool)
            writer.add(tokens[a:b].astype(token_dtype(vocab_size)), bits, nothing, nothing, hashes[:0])
        sizes = lengths[first_sentence:last_sentence]
        writer.add(tokens[:0], np.zeros(0, bool), sizes, documents[first:stop], hashes[first:stop])
