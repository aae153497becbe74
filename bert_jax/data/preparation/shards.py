"""The shards of a preparation: text read, split, encoded and written, one shard at a time, by many processes.

A shard is a folder parts/NNNNN. On a file system it appears whole, by renaming; in remote storage it is whole once
facts.json, written last, is there.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from bert_jax import files, storage
from bert_jax.data.corpus import SPLITS, SplitWriter
from bert_jax.data.preparation import sources
from bert_jax.data.preparation.sentences import sentences_of
from bert_jax.data.vocabularies import loading
from bert_jax.errors import UserError

FACTS = "facts.json"
_BATCH_BYTES = 1 << 18  # of text encoded at once
_HASHED_BYTES = 1 << 20  # of a document decide its split, so that a long one need not be held in memory
_EXAMPLES = 20  # of skipped text, named for each shard


def write_all(
    workers: int, shards: Mapping[int, tuple[sources.Part, ...]], parts: str, tokenizer: str, settings, strict: bool
) -> Iterator[tuple[int, dict]]:
    """Writes shards in processes of this machine; yields each one's number and what was skipped, as it is finished.

    The arguments after `shards` are those of ShardMaker.
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
                waiting.add(pool.submit(_work, number, shard))
                if len(waiting) >= 2 * workers:
                    break
            if not waiting:
                break
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; start again to continue, or with fewer --workers"
        ) from error
    finally:
        for process in (pool._processes or {}).values():
            process.terminate()
        pool.shutdown(cancel_futures=True)


_maker = None  # of this worker process


def _start_worker(*arguments):
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _maker = ShardMaker(*arguments)


def _exit_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(number, shard):
    return number, _maker.write(number, shard)


class ShardMaker:
    """Reads, splits and encodes shards, one at a time."""

    def __init__(self, parts: str, tokenizer: str, settings, strict: bool):
        """
        Args:
          parts: the folder that the shards are written to, local or a URL.
          tokenizer: the local folder of the tokenizer.
          settings: preparation.Settings.
          strict: text that cannot be read is an error, instead of being named, skipped and counted.
        """
        self._parts = parts
        self._settings = settings
        self._strict = strict
        self._tokenizer = loading.load(tokenizer)
        self._eval_below = int(settings.eval_share * 2**64)

    def write(self, number: int, shard: tuple[sources.Part, ...]) -> dict:
        """Writes parts/NNNNN and returns what was skipped.

        Several may write the same shard, each the same bytes: the first to be finished counts.
        """
        try:
            with new_folder(self._parts, f"{number:05d}") as folder:
                self._write(folder, shard)
        except OSError as error:
            raise disk_error(error, self._parts) from error
        return self._skipped

    def _write(self, folder, shard):
        self._writers = {s: SplitWriter(f"{folder}/{s}", self._tokenizer.vocab_size) for s in SPLITS}
        self._facts = {"bytes": 0, "empty_documents": 0} | {
            split: {"documents": 0, "sentences": 0, "tokens": 0} for split in SPLITS
        }
        self._skipped = {"count": 0, "examples": []}
        for part in shard:
            self._write_part(part)
        for writer in self._writers.values():
            writer.close()
        facts = json.dumps(self._facts | {"skipped": self._skipped}, indent=2, ensure_ascii=False)
        (folder / FACTS).write_text(facts + "\n", "utf-8")

    def _skip(self, where, reason):
        if self._strict:
            raise UserError(f"{where}: {reason} (without --strict it would be skipped)")
        self._skipped["count"] += 1
        if len(self._skipped["examples"]) < _EXAMPLES:
            self._skipped["examples"].append(f"{where}: {reason}")

    def _write_part(self, part):
        marks = {split: writer.mark() for split, writer in self._writers.items()}
        facts = json.dumps(self._facts)
        try:
            self._encode_part(part)
        except sources.Unreadable as error:
            for split, writer in self._writers.items():
                writer.rewind(marks[split])
            self._facts = json.loads(facts)
            self._skip(error.where, error.reason)

    def _encode_part(self, part):
        settings = self._settings
        self._sentences, self._documents = [], []
        self._open_sentences = 0  # of the document in progress, already written
        waiting = count = size = 0
        split, digest = None, hashlib.blake2b(digest_size=16)
        for paragraph in sources.read(part, settings.reading, self._skip):
            if paragraph is not None:
                text = "\n".join(paragraph).encode()
                digest.update(text + b"\n\n")
                found = sentences_of(paragraph, settings.sentences, settings.language)
                if self._tokenizer.leading_space:
                    found = [sentence if size + i == 0 else f" {sentence}" for i, sentence in enumerate(found)]
                self._sentences += found
                count += len(found)
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
        return SPLITS[int.from_bytes(digest[:8], "little") < self._eval_below]

    def _flush(self):
        """Encodes and writes the sentences and (parts of) documents that wait."""
        if not self._documents:
            return
        tokens, starts, lengths = self._tokenizer.encode_flat(self._sentences)
        counts, splits, digests = zip(*self._documents, strict=True)
        document = np.repeat(np.arange(len(counts)), counts)
        kept = np.bincount(document[lengths > 0], minlength=len(counts))
        kept[0] += self._open_sentences
        finished = np.array([digest is not None for digest in digests])
        self._facts["empty_documents"] += int(np.sum(finished & (kept == 0)))
        in_eval = np.array([split == "eval" for split in splits])
        for split in SPLITS:
            ours = in_eval == (split == "eval")
            if not ours.any():
                continue
            sentences = ours[document]
            whole = ours & finished & (kept > 0)
            hashes = b"".join(digest for digest, mine in zip(digests, whole, strict=True) if mine)
            hashes = np.frombuffer(hashes, "<u8").reshape(-1, 2)
            mine = slice(None) if ours.all() else np.repeat(sentences, lengths)
            sizes = lengths[sentences & (lengths > 0)]
            self._writers[split].add(tokens[mine], starts[mine], sizes, kept[whole], hashes)
            facts = self._facts[split]
            facts["documents"] += int(whole.sum())
            facts["sentences"] += len(sizes)
            facts["tokens"] += int(sizes.sum())
        self._open_sentences = 0 if finished[-1] else int(kept[-1])
        self._sentences, self._documents = [], []


def disk_error(error: OSError, output: str | os.PathLike) -> UserError:
    """What an error of the file system under --output means to a user."""
    where = error.filename or output
    return UserError(
        f"{where}: {error.strerror or error}; expected a folder with room to write in; "
        "what is finished is kept, the same command continues it"
    )


@contextlib.contextmanager
def new_folder(parts: str, name: str) -> Iterator[pathlib.Path]:
    """Yields an empty local folder that becomes parts/NAME at the end, unless another has become it meanwhile."""
    if storage.is_remote(parts):
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
            storage.upload_folder(pathlib.Path(folder), f"{parts}/{name}", last=FACTS)
        return
    with files.atomic_folder(pathlib.Path(parts) / name, keep_existing=True) as folder:
        yield folder
