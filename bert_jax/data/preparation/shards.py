"""Writes the shards of a corpus: reads, splits and encodes text, one shard at a time, in many processes.

A shard is a folder parts/NNNNN. On a file system it appears whole, by renaming; in remote storage it is whole once
facts.json, written last, exists.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bert_jax import files, interruption, storage
from bert_jax.data.corpus import SPLITS, SplitWriter
from bert_jax.data.preparation import readers, sources
from bert_jax.data.preparation.sentences import sentences_of
from bert_jax.data.vocabularies import fit, loading, word_pieces
from bert_jax.errors import UserError
from bert_jax.processes import signals

FACTS = "facts.json"
_BATCH_BYTES = 1 << 18  # bytes of text encoded at once
_HASHED_BYTES = 1 << 20  # the first bytes of a document decide its split, so that a long one is not held in memory
_EXAMPLES = 20  # skipped texts that a shard's facts name


class Unfinished(UserError):
    """Reports that the preparation ended for a reason outside of text and settings; the same command continues it."""


def write_all(
    workers: int, shards: Mapping[int, tuple[sources.Part, ...]], parts: str, tokenizer: str, settings, strict: bool
) -> Iterator[tuple[int, dict]]:
    """Writes shards in processes of this machine.

    Args:
      workers: number of processes; at most one for each shard, and 1 uses this process.
      shards: the parts of each shard, by the shard's number.
      parts, tokenizer, settings, strict: see ShardMaker.

    Yields:
      (number, what was skipped) of each shard when it is finished.

    Raises:
      UserError: text cannot be read and `strict` is set, the disk is full, or a process was killed.
    """
    workers = min(workers, len(shards))
    arguments = (parts, tokenizer, settings, strict)
    if workers <= 1:
        maker = ShardMaker(*arguments)
        for number, shard in shards.items():
            yield number, maker.write(number, shard)
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, arguments)
    try:
        waiting, left = set(), iter(shards.items())
        while True:
            for number, shard in left:
                with interruption.not_for_children():
                    waiting.add(pool.submit(_work, number, shard))
                if len(waiting) >= 2 * workers:
                    break
            if not waiting:
                break
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise Unfinished(
            "a worker process was killed, perhaps for want of memory; start again to continue, or with fewer --workers"
        ) from error
    finally:
        for process in (pool._processes or {}).values():
            process.terminate()
        pool.shutdown(cancel_futures=True)


_maker: "ShardMaker | None" = None  # the ShardMaker of a worker process


def _start_worker(*arguments):
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker has one core
    signals.end_with_parent()
    _maker = ShardMaker(*arguments)


def _work(number, shard):
    return number, _maker.write(number, shard)


class ShardMaker:
    """Reads, splits and encodes shards, one at a time."""

    def __init__(self, parts: str, tokenizer: str, settings, strict: bool):
        """Opens the tokenizer.

        Args:
          parts: the folder in which shards are written, local or a URL.
          tokenizer: the local folder of the tokenizer.
          settings: pipeline.Settings.
          strict: whether text that cannot be read is an error, instead of being named, skipped and counted.
        """
        self._parts = parts
        self._settings = settings
        self._strict = strict
        self._tokenizer = loading.load(tokenizer)
        begins_word = word_pieces.begins_word(self._tokenizer)
        self._begins_word = begins_word if begins_word.any() else None
        self._unknown_words = fit.UnknownWords(self._tokenizer)
        self._eval_below = int(settings.eval_share * 2**64)

    def write(self, number: int, shard: tuple[sources.Part, ...]) -> dict:
        """Writes parts/NNNNN.

        Several processes may write the same shard, all the same bytes: the first to finish it wins.

        Returns:
          What was skipped: "count", "bytes", and "examples" of where and why.
        """
        try:
            with new_folder(self._parts, f"{number:05d}") as folder:
                self._write(folder, shard)
        except OSError as error:
            raise disk_error(error, self._parts) from error
        return self._skipped

    def _write(self, folder, shard):
        self._writers = {s: SplitWriter(f"{folder}/{s}", self._tokenizer.vocab_size) for s in SPLITS}
        counts = ("bytes", "characters", "unknown_characters", "empty_documents")
        self._facts: dict[str, Any] = dict.fromkeys(counts, 0) | {
            split: {"documents": 0, "sentences": 0, "tokens": 0} for split in SPLITS
        }
        self._skipped: dict[str, Any] = {"count": 0, "bytes": 0, "examples": []}
        for part in shard:
            self._write_part(part)
        for writer in self._writers.values():
            writer.close()
        facts = files.json_text(self._facts | {"skipped": self._skipped}, indent=2)
        (folder / FACTS).write_text(facts + "\n", "utf-8")

    def _skip(self, where, reason, size):
        if self._strict:
            raise UserError(f"{where}: {reason} (without --strict it would be skipped)")
        self._skipped["count"] += 1
        self._skipped["bytes"] += size
        if len(self._skipped["examples"]) < _EXAMPLES:
            self._skipped["examples"].append(f"{where}: {reason}")

    def _write_part(self, part):
        """Writes the text of a part, or nothing of it where it cannot be read to its end."""
        marks = {split: writer.mark() for split, writer in self._writers.items()}
        facts, skipped = json.dumps(self._facts), json.dumps(self._skipped)
        try:
            self._encode_part(part)
        except readers.Unreadable as error:
            for split, writer in self._writers.items():
                writer.rewind(marks[split])
            self._facts = json.loads(facts)
            self._skipped = json.loads(skipped)
            self._skip(error.where, error.reason, part.size)

    def _encode_part(self, part):
        settings = self._settings
        self._sentences, self._documents = [], []
        self._open_sentences = 0  # sentences of the document in progress that are already written
        waiting = count = size = 0
        split, digest = None, hashlib.blake2b(digest_size=16)
        for paragraph in readers.read(part, settings.reading, self._skip):
            if paragraph is not None:
                text = "\n".join(paragraph).encode()
                digest.update(text + b"\n\n")
                mode = "line" if part.kind == "fasta" else settings.sentences  # a protein is a sentence
                sentences = sentences_of(paragraph, mode, settings.language)
                if self._tokenizer.leading_space:
                    sentences = [sentence if size + i == 0 else f" {sentence}" for i, sentence in enumerate(sentences)]
                self._sentences += sentences
                count += len(sentences)
                size += len(text) + 2
                waiting += len(text) + 2
                if size >= _HASHED_BYTES and split is None:
                    split = self._split_of(digest.digest())
                if split is None or waiting < _BATCH_BYTES:
                    continue
                self._documents.append((count, split, None))
                count = 0
            else:
                final = digest.digest()
                self._documents.append((count, split or self._split_of(final), final))
                self._facts["bytes"] += size
                count = size = 0
                split, digest = None, hashlib.blake2b(digest_size=16)
            if waiting >= _BATCH_BYTES:
                self._flush()
                waiting = 0
        self._flush()

    def _split_of(self, digest):
        """Returns the split of a document from the hash of its text."""
        return SPLITS[int.from_bytes(digest[:8], "little") < self._eval_below]

    def _flush(self):
        """Encodes and writes the sentences and (parts of) documents read since the last call."""
        if not self._documents:
            return
        tokens, starts, lengths = self._tokenizer.encode_flat(self._sentences)
        if self._begins_word is not None:
            starts = starts | self._begins_word[tokens]
        self._count_characters(tokens, lengths)
        counts, splits, digests = zip(*self._documents, strict=True)
        document = np.repeat(np.arange(len(counts)), counts)
        kept = np.bincount(document[lengths > 0], minlength=len(counts))
        kept[0] += self._open_sentences
        finished = np.array([digest is not None for digest in digests])
        self._facts["empty_documents"] += int(np.sum(finished & (kept == 0)))
        in_eval = np.array([split == "eval" for split in splits])
        for split in SPLITS:
            in_split = in_eval == (split == "eval")
            if not in_split.any():
                continue
            sentences = in_split[document]
            is_complete = in_split & finished & (kept > 0)
            hashes = b"".join(digest for digest, is_whole in zip(digests, is_complete, strict=True) if is_whole)
            hashes = np.frombuffer(hashes, "<u8").reshape(-1, 2)
            chosen = slice(None) if in_split.all() else np.repeat(sentences, lengths)
            sizes = lengths[sentences & (lengths > 0)]
            self._writers[split].add(tokens[chosen], starts[chosen], sizes, kept[is_complete], hashes)
            facts = self._facts[split]
            facts["documents"] += int(is_complete.sum())
            facts["sentences"] += len(sizes)
            facts["tokens"] += int(sizes.sum())
        self._open_sentences = 0 if finished[-1] else int(kept[-1])
        self._sentences, self._documents = [], []

    def _count_characters(self, tokens, lengths):
        """Counts the characters of the sentences, and those in unknown tokens; spaces are none."""
        sentences = self._sentences
        self._facts["characters"] += sum(map(len, sentences)) - sum(sentence.count(" ") for sentence in sentences)
        places = np.flatnonzero(tokens == self._tokenizer.unk_id) if self._tokenizer.unk_id is not None else ()
        if not len(places):
            return
        with_unknown = np.unique(np.searchsorted(np.cumsum(lengths), places, "right"))
        words = collections.Counter(word for i in with_unknown for word in sentences[i].split())
        spans = self._unknown_words.spans(words)
        self._facts["unknown_characters"] += sum(count * len(span) for span, count in spans.items())


def disk_error(error: OSError, output: str | os.PathLike) -> Unfinished:
    """Returns the UserError for an error of the file system under --output."""
    where = error.filename or output
    return Unfinished(
        f"{where}: {error.strerror or error}; expected a folder with room to write in; "
        "what is finished is kept, the same command continues it"
    )


@contextlib.contextmanager
def new_folder(parts: str, name: str) -> Iterator[pathlib.Path]:
    """Yields an empty local folder that becomes parts/NAME at the end, unless that exists by then."""
    if storage.is_remote(parts):
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
            storage.upload_folder(pathlib.Path(folder), f"{parts}/{name}", last=FACTS)
        return
    with files.atomic_folder(pathlib.Path(parts) / name, keep_existing=True) as folder:
        yield folder
