"""Text into a corpus: a map over shards in worker processes, then one pass that joins them.

Everything is resumable. A shard is written to a temporary directory and renamed when whole; `parts/settings.json`
holds what the shards were made from, so that a second start continues only the same work. The joining pass reads
the shards' own files and may be repeated; the manifest is written last, then the shards' directory is removed.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import signal
import sys
import threading

import numpy as np
import tqdm

from bert_jax.data import joining, new_tokens, sources, tokenizer_training, tokenizers
from bert_jax.data.corpus import FORMAT_VERSION, SPLITS, SplitWriter
from bert_jax.data.sentences import MODES, sentences_of
from bert_jax.errors import UserError

_BATCH_BYTES = 1 << 18  # of text encoded at once
_HASHED_BYTES = 1 << 20  # of a document decide its split, so that a long one need not be held in memory
_SAMPLE_BYTES = 64 << 20  # of text that a vocabulary is trained on at most
_EXAMPLES = 20  # of skipped text, named for each shard
_ALL_EXAMPLES = 100  # in the manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a corpus, as the flags of bert_jax.prepare name it."""

    input: str
    tokenizer: str
    documents: str = "blank_line"
    sentences: str = "split"
    language: str = "en"
    text_field: str = "text"
    data_dir: str | None = None
    eval_share: float = 0.02
    drop_duplicates: bool = False
    lower_case: str = "auto"
    add_tokens: str | None = None


def prepare(
    settings: Settings,
    output: str | pathlib.Path,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> dict:
    """Prepares a corpus, or continues one, and returns its manifest; a corpus that is already whole stays.

    Args:
      workers: processes; None for as many as the machine has cores. It changes no byte of the output.
      strict: text that cannot be read is an error, instead of being named, skipped and counted.

    Raises:
      UserError: as the flags' descriptions in bert_jax/prepare.py say.
    """
    _check(settings, workers)
    output = pathlib.Path(output)
    plan = sources.plan(settings.input, _options(settings))
    try:
        return _prepare(settings, output, plan, workers or os.cpu_count() or 1, strict, progress)
    except KeyboardInterrupt as error:
        raise UserError(f"--output={output}: interrupted; the same command continues it") from error
    except OSError as error:
        raise _disk_error(error, output) from error


def _prepare(settings, output, plan, workers, strict, progress):
    parts = output / "parts"
    trained, loaded, added = _tokenizer_spec(settings)
    identity = {
        "format_version": FORMAT_VERSION,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "tokenizer"},
        "tokenizer": settings.tokenizer if trained else loaded.digest(),  # with the tokens of a file, if any
        "inputs": {"files": plan.files, "size": plan.size, "state": plan.state},
    }
    manifest = _finished(output, identity)
    if manifest is not None:
        return manifest
    _check_ours(output)
    parts.mkdir(parents=True, exist_ok=True)
    with _lock(parts):
        _claim(parts / "settings.json", output, identity)
        tokenizer = _tokenizer(output, plan, settings, trained, loaded, added, progress)
        _write_shards(output, plan, settings, workers, strict, progress)
        facts = [json.loads((parts / f"{i:05d}" / "facts.json").read_text("utf-8")) for i in range(len(plan.shards))]
        skipped = _skipped(facts)
        if not any(fact[split]["documents"] for fact in facts for split in SPLITS):
            first = f"; the first of {skipped['count']} skipped: {skipped['examples'][0]}" if skipped["count"] else ""
            raise UserError(f"--input={settings.input}: no text in it{first}; expected at least one document")
        joined = joining.join(output, len(plan.shards), settings.drop_duplicates, settings.eval_share, tokenizer)
        manifest = identity | joined | {
            "bytes": sum(fact["bytes"] for fact in facts),
            "empty_documents": sum(fact["empty_documents"] for fact in facts),
            "skipped": skipped,
            "tokenizer": _tokenizer_facts(output, tokenizer, identity["tokenizer"]),
        }  # fmt: skip
        _write_json(output / "manifest.json", manifest)
        shutil.rmtree(parts)
    return manifest


def _check(settings, workers):
    choices = {"documents": sources.DOCUMENTS, "sentences": MODES, "lower_case": ("auto", "true", "false")}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise UserError(f"--{name}={getattr(settings, name)}: expected one of {', '.join(allowed)}")
    if not 0 <= settings.eval_share < 1:
        raise UserError(f"--eval_share={settings.eval_share}: expected a share in [0, 1)")
    if settings.add_tokens is not None and settings.tokenizer.startswith("train:"):
        raise UserError(
            f"--add_tokens={settings.add_tokens}: not with --tokenizer={settings.tokenizer}; expected a model's"
        )
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: expected at least 1")


def _options(settings):
    return sources.Options(settings.documents, settings.text_field, settings.data_dir)


def _disk_error(error, output):
    where = error.filename or output
    return UserError(
        f"{where}: {error.strerror or error}; expected a folder with room to write in; "
        "what is finished is kept, the same command continues it"
    )


def _finished(output, identity):
    """The manifest of a whole corpus in output that was made from the same, or None."""
    path = output / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text("utf-8"))
        found = {key: manifest[key] for key in ("format_version", "settings", "inputs")}
        found["tokenizer"] = manifest["tokenizer"]["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a corpus manifest; expected an empty or new folder as --output") from error
    _check_same(found, identity, output)
    shutil.rmtree(output / "parts", ignore_errors=True)
    return manifest


def _check_same(found, identity, output):
    found, identity = dict(found), dict(identity)
    found |= found.pop("settings", {})
    identity |= identity.pop("settings")
    for key, value in identity.items():
        if found.get(key) != value:
            what = f"{key}={_short(found.get(key))}" if key != "inputs" else "input files that have changed since"
            wanted = f", not {key}={_short(value)}" if key != "inputs" else ""
            raise UserError(
                f"--output={output}: holds a corpus, perhaps unfinished, made with {what}{wanted}; "
                "name another folder, or remove this one"
            )


def _short(value):
    return value if value is None or len(str(value)) < 60 else f"{str(value)[:57]}..."


def _check_ours(output):
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: a file; expected a new or empty folder")
    if output.is_dir() and not (output / "parts").is_dir() and any(output.iterdir()):
        raise UserError(f"--output={output}: holds other files; expected a new or empty folder")


@contextlib.contextmanager
def _lock(parts):
    with open(parts / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--output={parts.parent}: another prepare is writing there; wait for it") from error
        yield


def _claim(path, output, identity):
    if path.is_file():
        _check_same(json.loads(path.read_text("utf-8")), identity, output)
    else:
        _write_json(path, identity)


def _write_json(path, value):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)


def _tokenizer_spec(settings):
    """((kind, size) to train, None, []) or (None, the loaded tokenizer, what a file's words added to it)."""
    lower_case = {"auto": None, "true": True, "false": False}[settings.lower_case]
    if not settings.tokenizer.startswith("train:"):
        folder = pathlib.Path(settings.tokenizer)
        if (folder / "run.json").is_file():  # a run's workdir
            folder /= "tokenizer"
        loaded, added = tokenizers.load(folder, lower_case), []
        if settings.add_tokens and not _asked(settings):
            words = new_tokens.read(settings.add_tokens)
            loaded, added = new_tokens.extend(loaded, words, f"--add_tokens={settings.add_tokens}")
        return None, loaded, added
    kind, _, size = settings.tokenizer.removeprefix("train:").partition(":")
    if kind not in tokenizer_training.KINDS or not size.isdigit() or int(size) < 1:
        raise UserError(
            f"--tokenizer={settings.tokenizer}: expected train:KIND:SIZE with KIND one of "
            f"{', '.join(tokenizer_training.KINDS)}, such as train:wordpiece:8192"
        )
    if lower_case is not None and kind != "wordpiece":
        raise UserError(f"--lower_case={settings.lower_case}: not for {kind}; expected auto")
    return (kind, int(size)), None, []


def _asked(settings):
    """How many words to find in the text and add; 0 where --add_tokens names a file, or is not given."""
    number = settings.add_tokens or ""
    return int(number) if number.isdigit() else 0


def _tokenizer(output, plan, settings, trained, loaded, added, progress):
    """The corpus's tokenizer, from output/tokenizer if it is there already."""
    folder = output / "tokenizer"
    if folder.is_dir():
        return tokenizers.load(folder)
    temporary = output / "parts" / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    if trained:
        kind, size = trained
        sample = _Sample(plan, settings)
        if progress:
            print(f"training a {kind} vocabulary of {size:,}", file=sys.stderr, flush=True)
        loaded = tokenizer_training.train(kind, sample.texts(), size, lower_case=settings.lower_case != "false")
        loaded.save(temporary)
        facts = {"asked": size, "sample_bytes": sample.bytes, "sample_is_everything": sample.everything}
        _write_json(temporary / "training.json", facts)
        if progress and loaded.vocab_size < size:
            print(f"the text gave {loaded.vocab_size:,} tokens, not {size:,}", file=sys.stderr, flush=True)
    else:
        if _asked(settings):
            sample = _Sample(plan, settings)
            words = new_tokens.find(loaded, sample.texts(), _asked(settings))
            loaded, added = new_tokens.extend(loaded, words, f"--add_tokens={settings.add_tokens}")
        loaded.save(temporary)
        if settings.add_tokens:
            _write_json(temporary / "new_tokens.json", added)
    os.replace(temporary, folder)
    return tokenizers.load(folder)


class _Sample:
    """Text to train a vocabulary on: the beginning of each shard, bounded in all, the same on every machine."""

    def __init__(self, plan, settings):
        self._plan, self._settings = plan, settings
        self.bytes = 0
        self.everything = True

    def texts(self):
        share = max(1, _SAMPLE_BYTES // len(self._plan.shards))
        for shard in self._plan.shards:
            taken = 0
            for part in shard:
                with contextlib.suppress(sources.Unreadable):  # the pass over the shards reports it
                    for paragraph in sources.read(part, _options(self._settings), lambda where, reason: None):
                        if paragraph is None:
                            continue
                        text = " ".join(paragraph)
                        taken += len(text.encode())
                        if taken > share:
                            self.everything = False
                            break
                        self.bytes += len(text.encode())
                        yield text
                if taken > share:
                    break


def _tokenizer_facts(output, tokenizer, source):
    facts = {"source": source, "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    training = output / "tokenizer" / "training.json"
    if training.is_file():
        facts["training"] = json.loads(training.read_text("utf-8"))
    added = output / "tokenizer" / "new_tokens.json"
    if added.is_file():
        facts["new_tokens"] = json.loads(added.read_text("utf-8"))
    return facts


def _skipped(facts):
    examples = [example for fact in facts for example in fact["skipped"]["examples"]]
    return {
        "count": sum(fact["skipped"]["count"] for fact in facts),
        "examples": examples[:_ALL_EXAMPLES],
    }


def _write_shards(output, plan, settings, workers, strict, progress):
    parts = output / "parts"
    todo = [i for i in range(len(plan.shards)) if not (parts / f"{i:05d}").is_dir()]
    sizes = [sum(part.size for part in shard) for shard in plan.shards]
    done = sum(sizes) - sum(sizes[i] for i in todo)
    arguments = (str(output), settings, strict)
    with tqdm.tqdm(
        total=max(sum(sizes), 1), initial=done, unit="B", unit_scale=True, desc="prepare", disable=not progress
    ) as bar:
        for number, skipped in _map(todo, plan.shards, min(workers, len(todo)), arguments):
            bar.update(sizes[number])
            for line in skipped["examples"] if progress else ():
                bar.write(f"skipped: {line}", file=sys.stderr)


def _map(todo, shards, workers, arguments):
    """(number, what was skipped) of each shard, as they are finished."""
    if workers <= 1:
        writer = _ShardMaker(*arguments)
        for number in todo:
            yield number, writer.write(number, shards[number])
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, arguments)
    try:
        waiting, left = set(), iter(todo)
        while True:
            for number in left:
                waiting.add(pool.submit(_work, number, shards[number]))
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


def _start_worker(output, settings, strict):
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _maker = _ShardMaker(output, settings, strict)


def _exit_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(number, shard):
    return number, _maker.write(number, shard)


class _ShardMaker:
    """Reads, splits and encodes shards, one at a time."""

    def __init__(self, output, settings, strict):
        self._parts = pathlib.Path(output) / "parts"
        self._settings = settings
        self._strict = strict
        self._tokenizer = tokenizers.load(pathlib.Path(output) / "tokenizer")
        self._eval_below = int(settings.eval_share * 2**64)

    def write(self, number: int, shard: tuple[sources.Part, ...]) -> dict:
        """Writes parts/NNNNN and returns what was skipped."""
        folder = self._parts / f"{number:05d}"
        temporary = folder.with_suffix(".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._writers = {s: SplitWriter(f"{temporary}/{s}", self._tokenizer.vocab_size) for s in SPLITS}
            self._facts = {"bytes": 0, "empty_documents": 0} | {
                split: {"documents": 0, "sentences": 0, "tokens": 0} for split in SPLITS
            }
            self._skipped = {"count": 0, "examples": []}
            for part in shard:
                self._write_part(part)
            for writer in self._writers.values():
                writer.close()
            _write_json(temporary / "facts.json", self._facts | {"skipped": self._skipped})
            os.replace(temporary, folder)
        except OSError as error:
            raise _disk_error(error, temporary) from error
        return self._skipped

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
        for paragraph in sources.read(part, _options(settings), self._skip):
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


def summary(manifest: dict, output: str | pathlib.Path) -> str:
    """A few lines about a corpus, for people."""
    train, held_out = (manifest["splits"][split] for split in SPLITS)
    lines = [
        f"{output}: {manifest['documents']:,} documents, {manifest['sentences']:,} sentences, "
        f"{manifest['tokens']:,} tokens from {manifest['bytes'] / 1e6:,.1f} MB of text",
        f"  train {train['documents']:,} documents, {train['tokens']:,} tokens; "
        f"eval {held_out['documents']:,} documents, {held_out['tokens']:,} tokens",
        f"  vocabulary {manifest['tokenizer']['vocab_size']:,} ({manifest['tokenizer']['kind']}); "
        f"unknown tokens {manifest['unknown_token_share']:.3%}; "
        f"duplicate documents {manifest['duplicate_documents']:,}"
        + (" (dropped)" if manifest["settings"]["drop_duplicates"] else ""),
    ]
    added = manifest["tokenizer"].get("new_tokens")
    if added is not None:
        lines.append(f"  {len(added):,} new tokens" + (f": {', '.join(added[:8])}" if added else ""))
    if manifest["skipped"]["count"]:
        lines.append(f"  skipped {manifest['skipped']['count']:,}, such as {manifest['skipped']['examples'][0]}")
    return "\n".join(lines)
