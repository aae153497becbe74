"""Keeps the vectors of a corpus in a file that is filled block by block, and goes on after a kill.

    DIR/vectors.npy  float32 [documents, size], which numpy.load(..., mmap_mode="r") opens
    DIR/ids.txt      the id of each of them, one a line
    DIR/index.json   what the vectors are of, how many are finished, and a checksum of each block of them

A block's vectors depend on its texts alone, so those of an index that was continued are those of one that never ended
early, to the bit.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import files, outputs
from bert_jax.errors import UserError
from bert_jax.inference import search
from bert_jax.inference.embed import Embedder
from bert_jax.retrieval.documents import Contents

VECTORS, IDS, DESCRIPTION = "vectors.npy", "ids.txt", "index.json"
BLOCK = search.BLOCK  # documents that are embedded between two marks of progress
_FORMAT = 1


class InUseError(UserError):
    """Reports that another process is writing an index."""


@dataclasses.dataclass(frozen=True)
class Index:
    """Holds the vectors of a corpus.

    Attributes:
      ids: id of each document.
      vectors: float32 [documents, size], mapped from the file.
      name: what the user calls it, such as "--index=DIR", for messages.
      checksums: `checksum` of each block; () where none were written, as by earlier versions.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray
    name: str = "index"
    checksums: tuple[int, ...] = ()
    _verified: set[int] = dataclasses.field(default_factory=set, repr=False, compare=False)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the vectors in order, [at most BLOCK, size] at a time.

        Raises:
          UserError: one is not finite, or a block holds nothing but zeros or has another checksum than when it was
            written: the file is damaged.
        """
        for first in range(0, len(self.vectors), BLOCK):
            block = np.asarray(self.vectors[first : first + BLOCK])
            finite = np.isfinite(block).all(-1)
            if not finite.all() or (len(block) > 1 and not block.any()):
                number = first + int(np.argmin(finite))
                raise UserError(
                    f"{self.name}: {VECTORS} is damaged: the vector of document {self.ids[number]} is "
                    f"{'nothing but zeros' if finite.all() else 'not finite'}; expected an index (remove the folder)"
                )
            check_block(self.name, VECTORS, self.ids, first, block, self.checksums, self._verified)
            yield block

    def verify(self) -> None:
        """Reads all blocks once. Raises UserError as `blocks` does, for readers of single vectors."""
        for _ in self.blocks():
            pass

    def nearest(self, queries: np.ndarray, top_k: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest documents of queries, exactly: (numbers, int64 [n, k]; scores, float64 [n, k]).

        Args:
          queries: float [n, size].
          top_k: how many are wanted; all, where there are fewer.
          kind: one of search.SIMILARITIES.
        """
        *_, best = search.nearest(queries, self.blocks(), top_k, kind)
        return best


def checksum(block: np.ndarray) -> int:
    """Returns the CRC-32 of the bytes of an array [rows, size]."""
    return zlib.crc32(np.ascontiguousarray(block).data)


def check_block(
    name: str,
    file: str,
    ids: Sequence[str],
    first: int,
    block: np.ndarray,
    checksums: Sequence[int],
    verified: set[int],
) -> None:
    """Refuses a block whose bytes are not those that were written.

    Args:
      name: what the user calls the index, such as "--index=DIR".
      file: name of the block's file.
      ids: id of each document.
      first: number of the block's first document.
      block: the block, [at most BLOCK, ...].
      checksums: `checksum` of each block of the file; () where none are known.
      verified: `first` of the blocks that need no look any more, to which this one is added.

    Raises:
      UserError: its checksum differs.
    """
    if not checksums or first in verified or len(checksums) != -(-len(ids) // BLOCK):  # blocks of another size
        return
    if checksum(block) != checksums[first // BLOCK]:
        raise UserError(
            f"{name}: {file} is damaged: it has other bytes than were written for documents {ids[first]} to "
            f"{ids[first + len(block) - 1]}; expected an index (remove the folder)"
        )
    verified.add(first)


def checksums_entry(checksums: Sequence[int]) -> dict[str, Any]:
    """Returns what a description says of the checksums of blocks; `read_checksums` reads it."""
    return {"block": BLOCK, "crc32": list(checksums)}


def read_checksums(entry: Any, count: int, name: str) -> tuple[int, ...]:
    """Returns the checksums of the blocks of `count` vectors; () where there are none, or of blocks of another size.

    Raises:
      UserError: the entry is damaged; `name` is what the user calls the index.
    """
    if entry is None:
        return ()
    if not (isinstance(entry, dict) and isinstance(entry.get("crc32"), list) and isinstance(entry.get("block"), int)):
        raise UserError(f"{name}: {DESCRIPTION} is damaged; expected an index (remove the folder)")
    if entry["block"] != BLOCK:
        return ()
    if len(entry["crc32"]) != -(-count // BLOCK):
        raise UserError(f"{name}: {DESCRIPTION} is damaged; expected an index (remove the folder)")
    return tuple(entry["crc32"])


def build(
    folder: str | os.PathLike,
    name: str,
    embedder: Embedder,
    documents: Iterable[tuple[str, str]],
    contents: Contents,
    prompt: str,
    done: Callable[[int], object] = lambda count: None,
) -> Index:
    """Embeds the documents that an index lacks, all of them where there is none yet, and opens it.

    Args:
      folder: the index's folder, which is made.
      name: what the user calls it, such as "--index=DIR", for messages.
      embedder: the model.
      documents: pairs of id and text; iterated once, unless the index is whole.
      contents: their ids and digest.
      prompt: text put before each document.
      done: called with the number of newly finished documents, first with those that the index has already.

    Raises:
      UserError: the folder holds something else, an index of another model, prompt or corpus, a damaged one, or one
        that another process is writing; or a text cannot be embedded.
    """
    folder = pathlib.Path(folder)
    check_folder(folder, name)
    wanted = _wanted(embedder, contents, prompt)
    with reporting(name):
        folder.mkdir(parents=True, exist_ok=True)
        if _begun(folder, name, wanted) == len(contents.ids):  # nothing is written, so that others may own it
            done(len(contents.ids))
        else:
            with locked(folder, name):
                finished = _begun(folder, name, wanted)
                if finished is None:
                    _begin(folder, wanted, contents)
                    finished = 0
                done(finished)
                _fill(folder, name, embedder, documents, wanted, finished, done)
        vectors = _opened(folder, name, wanted, "r")
        _check_ids(folder, name, contents.ids)
        checksums = read_checksums(read_description(folder).get("checksums"), len(contents.ids), name)
    return Index(tuple(contents.ids), vectors, name, checksums)


def read_description(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what index.json says; {} where it is missing or damaged."""
    try:
        return json.loads((folder / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def check_same(folder: str | os.PathLike, name: str, embedder: Embedder, contents: Contents, prompt: str) -> None:
    """Raises UserError where a folder has an index that `build` with these arguments would not continue."""
    _begun(pathlib.Path(folder), name, _wanted(embedder, contents, prompt))


def _wanted(embedder, contents, prompt):
    """Returns what an index's description says beside how many documents are finished."""
    return {
        "format": _FORMAT,
        "model": embedder.model.name,
        "fingerprint": embedder.fingerprint(),
        "prompt": prompt,
        "corpus": contents.digest,
        "count": len(contents.ids),
        "size": embedder.size,
        "similarity": embedder.similarity_kind,
    }


def check_folder(folder: str | os.PathLike, name: str) -> None:
    """Refuses a folder that holds neither an index nor nothing, before anything is computed.

    Args:
      folder: the folder; it may be missing.
      name: what the user calls it, such as "--index=DIR", for messages.

    Raises:
      UserError: it is a file, or holds something else.
    """
    path = pathlib.Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{name}: a file; expected a folder")
    if not path.exists() or (path / DESCRIPTION).exists():
        return
    strange = [entry for entry in os.listdir(path) if not outputs.is_leftover(entry) and entry not in (VECTORS, IDS)]
    if strange:
        held = outputs.kind(path) or f"{sorted(strange)[0]} and no index"
        raise UserError(f"{name}: holds {held}; expected a new or empty folder, or an index")


def _begun(folder, name, wanted) -> int | None:
    """Returns how many documents an index has; None where it has not begun."""
    if not (folder / DESCRIPTION).exists():
        return None
    try:
        stored: Mapping[str, Any] = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        finished = int(stored["finished"])
        if any(not isinstance(stored[key], type(value)) for key, value in wanted.items()):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: {DESCRIPTION} is damaged; expected an index (remove the folder)") from error
    _check_same(name, stored, wanted)
    if not 0 <= finished <= wanted["count"]:
        raise UserError(f"{name}: {DESCRIPTION} is damaged: {finished} documents finished; expected at most "
                        f"{wanted['count']} (remove the folder)")  # fmt: skip
    _opened(folder, name, wanted, "r")
    return finished


def _check_same(name, stored, wanted):
    """Raises UserError where an index is not of this model, prompt and corpus."""
    other = "expected the same, or another folder"
    if stored["format"] != wanted["format"]:
        raise UserError(f"{name}: an index of format {stored['format']}; expected {wanted['format']}")
    if stored["fingerprint"] != wanted["fingerprint"]:
        raise UserError(
            f"{name}: holds vectors of the model {stored['model']} (fingerprint {stored['fingerprint'][:12]}), but "
            f"--model={wanted['model']} has {wanted['fingerprint'][:12]} (of its parameters, tokenizer, pooling and "
            f"longest text); {other}"
        )
    if stored["prompt"] != wanted["prompt"]:
        raise UserError(
            f"{name}: its documents have the prompt {stored['prompt']!r}; found {wanted['prompt']!r}; {other}"
        )
    if stored["corpus"] != wanted["corpus"]:
        raise UserError(
            f"{name}: holds vectors of another corpus, or the corpus has changed since ({stored['count']:,} documents "
            f"with digest {stored['corpus'][:12]}; found {wanted['count']:,} with {wanted['corpus'][:12]}); {other}"
        )


def _begin(folder, wanted, contents):
    """Writes an index without vectors; its description comes last."""
    shape = (len(contents.ids), wanted["size"])
    vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype="<f4", shape=shape)
    vectors.flush()
    if hasattr(os, "posix_fallocate"):  # a full disk shows now: who writes to a mapped file is not told of it
        with open(folder / VECTORS, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    files.atomic_write(folder / IDS, _lines_of(contents.ids))
    files.write_json(folder / DESCRIPTION, wanted | {"finished": 0})


def _fill(folder, name, embedder, documents, wanted, finished, done):
    """Embeds the documents from number `finished` on, and marks each block that has reached the disk."""
    vectors = _opened(folder, name, wanted, "r+")
    checksums = list(read_checksums(read_description(folder).get("checksums"), finished, name))
    if not checksums:  # a version without them, or with others, began the index
        checksums = [checksum(vectors[first : min(first + BLOCK, finished)]) for first in range(0, finished, BLOCK)]
    aligned = finished % BLOCK == 0  # else blocks of another size were written, and none is at the place of ours
    remaining = itertools.islice(iter(documents), finished, None)
    while block := list(itertools.islice(remaining, BLOCK)):
        stop = finished + len(block)
        if stop > wanted["count"]:
            break
        texts = [(text,) for _, text in block]
        rows = embedder.stream(
            texts, lambda i, block=block: f"document {block[i][0]}", done, True, prompt=wanted["prompt"]
        )
        for number, vector in enumerate(rows, finished):
            vectors[number] = vector
        finite = np.isfinite(vectors[finished:stop]).all(-1)
        if not finite.all():
            key = block[int(np.flatnonzero(~finite)[0])][0]
            raise UserError(f"document {key}: its vector is not finite; expected numbers (--dtype=float32?)")
        vectors.flush()
        checksums.append(checksum(vectors[finished:stop]))
        finished = stop
        entry = {"checksums": checksums_entry(checksums)} if aligned else {}
        files.write_json(folder / DESCRIPTION, wanted | {"finished": finished} | entry)
    if finished != wanted["count"]:
        raise UserError(f"{name}: the corpus has changed while it was read; expected a file at rest")


def _opened(folder, name, wanted, mode):
    """Opens the file of the vectors."""
    try:
        vectors = np.load(folder / VECTORS, mmap_mode=mode)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{name}: {VECTORS} is missing or damaged; expected an index (remove the folder)") from error
    if vectors.shape != (wanted["count"], wanted["size"]) or vectors.dtype != np.float32:
        raise UserError(
            f"{name}: {VECTORS} holds {vectors.dtype} {list(vectors.shape)}; expected float32 "
            f"[{wanted['count']}, {wanted['size']}] (remove the folder)"
        )
    return vectors


def _check_ids(folder, name, ids):
    """Raises UserError unless the file of ids, which others read beside the vectors, is the one that was written."""
    try:
        stored = (folder / IDS).read_bytes()
    except FileNotFoundError:
        stored = b""
    if stored != _lines_of(ids):
        raise UserError(f"{name}: {IDS} is missing or damaged; expected an index (remove the folder)")


def _lines_of(ids):
    return "".join(f"{key}\n" for key in ids).encode()


@contextlib.contextmanager
def locked(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Keeps other processes from writing an index. Raises UserError where one is writing it."""
    try:
        with files.lock(folder / "lock"):
            yield
    except BlockingIOError as error:
        raise InUseError(f"{name}: another process is writing it; expected to be alone") from error
    except files.NoLocksError:
        yield


@contextlib.contextmanager
def reporting(name: str) -> Iterator[None]:
    """Raises UserError for the errors of writing; `name` is what the user calls the index."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{name}: cannot be written: {error.strerror or error}") from error
