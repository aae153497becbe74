"""Defines the corpus on disk: flat memory-mapped arrays of tokens, with sentence and document offsets.

    DIR/manifest.json                    written last, so a corpus with a manifest is whole
    DIR/tokenizer/                       what loading.load reads
    DIR/{train,eval}/sentences.npy       int64 [S+1] token offsets of the split's sentences, from 0
    DIR/{train,eval}/documents.npy       int64 [D+1] sentence indices of the split's documents, from 0
    DIR/{train,eval}/NNNNN.tokens.npy    uint16, or uint32 for vocabularies over 65,535; no special tokens
    DIR/{train,eval}/NNNNN.word_starts.npy  uint8, packed bits: 1 where the token starts a word
    DIR/train/unigram.npy                int64 [V] counts of the train split's tokens

No document crosses a shard. The numbers of shards may have gaps: a shard without documents of a split has no files.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

from bert_jax.data.vocabularies import loading
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.files import closest_path

FORMAT_VERSION = 1
SPLITS = ("train", "eval")
_HEADER_BYTES = 128


class Shard:
    """Holds one shard of a split: its arrays are memory-mapped when they are first read."""

    def __init__(self, path: pathlib.Path, num_tokens: int):
        self._path = path
        self.num_tokens = num_tokens

    @property
    def file(self) -> pathlib.Path:
        """Returns the file of its tokens."""
        return self._path.with_name(self._path.name + ".tokens.npy")

    def offset(self, token: int) -> int:
        """Returns the byte of the file at which a token begins."""
        return _HEADER_BYTES + token * self.tokens.itemsize

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Returns token ids, uint16 or uint32 [num_tokens]."""
        return _mapped(self.file, self.num_tokens)

    @functools.cached_property
    def word_starts(self) -> np.ndarray:
        """Returns a bit per token, 1 where it starts a word: uint8 [bytes], the first of eight in the highest bit."""
        return _mapped(self._path.with_name(self._path.name + ".word_starts.npy"), -(-self.num_tokens // 8))


@dataclasses.dataclass(frozen=True)
class Split:
    """Holds the documents of one split.

    Attributes:
      sentences: int64 [sentences + 1], the token offset at which each sentence begins, over the whole split.
      documents: int64 [documents + 1], the index in `sentences` at which each document begins.
      shard_starts: int64 [shards + 1], the token offset at which each shard begins.
      shards: the shards, in order.
    """

    sentences: np.ndarray
    documents: np.ndarray
    shard_starts: np.ndarray
    shards: tuple[Shard, ...]

    @property
    def num_tokens(self) -> int:
        """Returns the number of tokens."""
        return int(self.shard_starts[-1])

    @property
    def num_sentences(self) -> int:
        """Returns the number of sentences."""
        return len(self.sentences) - 1

    @property
    def num_documents(self) -> int:
        """Returns the number of documents."""
        return len(self.documents) - 1


class Corpus:
    """Gives access to a prepared corpus, opened with `Corpus.open`.

    Attributes:
      path: its directory.
      manifest: the parsed manifest.json.
      fingerprint: a hash of tokens and tokenizer, equal where these are.
      vocab_size: the number of ids of its tokenizer.
    """

    def __init__(self, path: pathlib.Path, manifest: dict):
        self.path = path
        self.manifest = manifest
        self.fingerprint = manifest["fingerprint"]
        self.vocab_size = manifest["tokenizer"]["vocab_size"]

    @property
    def language(self) -> str:
        """Returns the code of the text's language, such as "de"; "" where nobody said it (English is a default)."""
        rules = self.manifest.get("settings", {}).get("language", "")  # earlier versions state no language apart
        return self.manifest.get("language") or (rules if rules != "en" else "")

    @classmethod
    def open(cls, path: str | pathlib.Path) -> "Corpus":
        """Opens the corpus in a directory. Raises UserError if it holds no whole corpus of this format version."""
        path = pathlib.Path(path)
        manifest_path = path / "manifest.json"
        if not path.is_dir():
            near = closest_path(path, is_folder=True)
            raise UserError(f"{path}: no such corpus; expected a directory that bert_jax.prepare wrote{near}")
        if not manifest_path.is_file():
            raise UserError(
                f"{path}: no manifest.json, so no whole corpus; expected a directory that bert_jax.prepare finished "
                "(start the same prepare again to continue it)"
            )
        return cls(path, read_manifest(manifest_path.read_bytes(), str(manifest_path)))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that encoded the corpus."""
        return loading.load(self.path / "tokenizer")

    @functools.cached_property
    def unigram_counts(self) -> np.ndarray:
        """Returns the number of occurrences of each token in the train split, int64 [vocab_size]."""
        return _mapped(self.path / "train" / "unigram.npy", self.vocab_size)

    def split(self, name: str) -> Split:
        """Opens the "train" or "eval" split; eval may be empty."""
        facts = self.manifest["splits"][name]
        folder = self.path / name
        counts = [shard["tokens"] for shard in facts["shards"]]
        return Split(
            sentences=_mapped(folder / "sentences.npy", facts["sentences"] + 1),
            documents=_mapped(folder / "documents.npy", facts["documents"] + 1),
            shard_starts=np.cumsum([0, *counts], dtype=np.int64),
            shards=tuple(Shard(folder / shard["name"], shard["tokens"]) for shard in facts["shards"]),
        )

    def computed_fingerprint(self) -> str:
        """Computes the fingerprint from the files, as preparation/joining.py does; it reads them all."""
        digest = hashlib.blake2b(self.tokenizer.digest().encode(), digest_size=16)
        for name in SPLITS:
            split = self.split(name)
            ends = np.searchsorted(split.sentences, split.shard_starts)
            document_ends = np.searchsorted(split.documents, ends)
            for i, shard in enumerate(split.shards):
                for offsets, places in ((split.sentences, ends), (split.documents, document_ends)):
                    digest.update(np.diff(offsets[places[i] : places[i + 1] + 1]).astype("<i4"))
                digest.update(shard.tokens)
                digest.update(shard.word_starts)
        return digest.hexdigest()


def read_manifest(content: bytes, where: str) -> dict:
    """Parses a corpus's manifest. Raises UserError, which names `where`, if it is none or of another format version."""
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            _ = manifest["fingerprint"], manifest["tokenizer"]["vocab_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a corpus manifest; prepare the corpus again") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{where}: format_version {version}; expected {FORMAT_VERSION}; prepare the corpus again")
    return manifest


def file_sizes(manifest: dict) -> dict[str, int]:
    """Returns the size in bytes of every array file of a corpus, by its path below the corpus's folder."""
    vocab_size = manifest["tokenizer"]["vocab_size"]
    sizes = {"train/unigram.npy": 8 * vocab_size}
    for name in SPLITS:
        facts = manifest["splits"][name]
        sizes |= {f"{name}/{array}.npy": 8 * (facts[array] + 1) for array in ("sentences", "documents")}
        for shard in facts["shards"]:
            prefix = f"{name}/{shard['name']}"
            sizes[f"{prefix}.tokens.npy"] = shard["tokens"] * token_dtype(vocab_size).itemsize
            sizes[f"{prefix}.word_starts.npy"] = -(-shard["tokens"] // 8)
    return {name: _HEADER_BYTES + size for name, size in sizes.items()}


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the dtype in which token ids are stored: uint16 where they fit, else uint32."""
    return np.dtype("<u2" if vocab_size <= 65535 else "<u4")


def unpack_bits(packed: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Returns the bits begin..end (end excluded) of packed ones, uint8 [bytes], as uint8 0 or 1 [end - begin]."""
    return np.unpackbits(packed[begin // 8 : (end + 7) // 8])[begin % 8 :][: end - begin]


class ArrayFile:
    """Writes a one- or two-dimensional .npy file as a stream: rows are appended, or cut off again, until `close`."""

    def __init__(self, path: str | pathlib.Path, dtype, columns: int | None = None):
        self._dtype = np.dtype(dtype)
        self._columns = columns
        self._file = open(path, "wb")  # noqa: SIM115 (open until close)
        self._file.write(b" " * _HEADER_BYTES)
        self.rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Writes rows, [n] or [n, columns], behind the others."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def truncate(self, rows: int) -> None:
        """Removes all but the first `rows` rows."""
        self._file.seek(_HEADER_BYTES + rows * self._dtype.itemsize * (self._columns or 1))
        self._file.truncate()
        self.rows = rows

    def close(self) -> None:
        """Writes the header, which has the number of rows, and closes the file."""
        shape = f"({self.rows},)" if self._columns is None else f"({self.rows}, {self._columns})"
        fields = f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
        header = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little") + fields.encode()
        self._file.seek(0)
        self._file.write(header.ljust(_HEADER_BYTES - 1) + b"\n")
        self._file.close()


class SplitWriter:
    """Writes one split's part of one shard: tokens, word starts, and the lengths from which offsets are computed.

    The files, for a prefix such as DIR/train:
      PREFIX.tokens.npy       token_dtype [tokens]
      PREFIX.word_starts.npy  packed bits, uint8 [ceil(tokens / 8)]
      PREFIX.sentences.npy    tokens of each sentence, int32 [sentences]
      PREFIX.documents.npy    sentences of each document, int32 [documents]
      PREFIX.hashes.npy       hash of each document, uint64 [documents, 2]
    """

    def __init__(self, prefix: str, vocab_size: int):
        self._files = {
            "tokens": ArrayFile(f"{prefix}.tokens.npy", token_dtype(vocab_size)),
            "word_starts": ArrayFile(f"{prefix}.word_starts.npy", np.uint8),
            "sentences": ArrayFile(f"{prefix}.sentences.npy", "<i4"),
            "documents": ArrayFile(f"{prefix}.documents.npy", "<i4"),
            "hashes": ArrayFile(f"{prefix}.hashes.npy", "<u8", columns=2),
        }
        self._bits = np.zeros(0, bool)  # word starts of the last tokens, which do not fill a byte yet

    def add(self, tokens, starts, sentences, documents, hashes) -> None:
        """Appends sentences and documents.

        A document's sentences may be passed in several calls; its length and hash come with the last.

        Args:
          tokens: ids [n].
          starts: bool [n], whether each token starts a word.
          sentences: int [s], tokens of each sentence.
          documents: int [d], sentences of each document.
          hashes: uint64 [d, 2], the documents' hashes.
        """
        self._files["tokens"].append(tokens)
        bits = np.concatenate([self._bits, starts])
        num_whole = len(bits) // 8 * 8
        self._files["word_starts"].append(np.packbits(bits[:num_whole]))
        self._bits = bits[num_whole:]
        self._files["sentences"].append(sentences)
        self._files["documents"].append(documents)
        self._files["hashes"].append(hashes)

    def mark(self):
        """Returns a position to which `rewind` can go back."""
        return {name: file.rows for name, file in self._files.items()}, self._bits

    def rewind(self, mark) -> None:
        """Removes everything that was added since `mark` was returned."""
        rows, self._bits = mark
        for name, file in self._files.items():
            file.truncate(rows[name])

    def close(self) -> None:
        """Writes what is left and closes the files."""
        self._files["word_starts"].append(np.packbits(self._bits))
        for file in self._files.values():
            file.close()


def _mapped(path, length):
    try:
        array = np.load(path, mmap_mode="r") if length else np.load(path)
    except (OSError, ValueError, EOFError) as error:  # EOFError: nothing at all
        raise UserError(f"{path}: missing or cut off ({error}); prepare the corpus again") from error
    if array.shape[:1] != (length,):
        entries = len(array) if array.ndim else 1
        raise UserError(f"{path}: {entries} entries, but the manifest says {length}; prepare the corpus again")
    return array
