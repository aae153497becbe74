"""Text into a corpus: a map over shards by many processes, then one pass that joins them.

The vocabulary is trained on the machine that starts it, and the shards are joined there; the map runs in its own
processes (shards.py) or on a cluster (beam.py). Everything is resumable: `parts/settings.json` holds what the shards
were made from, so that a second start continues only the same work. The joining pass reads the shards' own files and
may be repeated; the manifest is written last, then the shards' directory is removed.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys

import tqdm

from bert_jax import files, storage
from bert_jax.data.corpus import FORMAT_VERSION, SPLITS
from bert_jax.data.preparation import beam, joining, shards, sources
from bert_jax.data.preparation.sentences import MODES
from bert_jax.data.vocabularies import loading, new_tokens, training
from bert_jax.errors import UserError

_SAMPLE_BYTES = 64 << 20  # of text that a vocabulary is trained on at most
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

    @property
    def reading(self) -> sources.Options:
        return sources.Options(self.documents, self.text_field, self.data_dir)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A preparation apart from where it runs and writes: what identifies it, and `vocabulary` as _tokenizer_spec's."""

    settings: Settings
    plan: sources.Plan
    vocabulary: tuple
    identity: dict
    strict: bool
    progress: bool


def prepare(
    settings: Settings,
    output: str | pathlib.Path,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    cluster: beam.Cluster | None = None,
) -> dict:
    """Prepares a corpus, or continues one, and returns its manifest; a corpus that is already whole stays.

    Args:
      output: a folder, or the URL of one in remote storage: the corpus is then put together in
        storage.cache_directory() and copied there.
      workers: processes; None for as many as the machine has cores. It changes no byte of the output.
      strict: text that cannot be read is an error, instead of being named, skipped and counted.
      cluster: runs the map over shards instead of processes of this machine. It changes no byte either.

    Raises:
      UserError: as the flags' descriptions in bert_jax/prepare.py say.
    """
    _check(settings, workers, cluster)
    plan = sources.plan(settings.input, settings.reading)
    vocabulary = trained, loaded, _ = _tokenizer_spec(settings)
    identity = {
        "format_version": FORMAT_VERSION,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "tokenizer"},
        "tokenizer": settings.tokenizer if trained else loaded.digest(),  # with the tokens of a file, if any
        "inputs": {"files": plan.files, "size": plan.size, "state": plan.state},
    }
    job = _Job(settings, plan, vocabulary, identity, strict, progress)
    write_all = cluster.write_all if cluster else functools.partial(shards.write_all, workers or os.cpu_count() or 1)
    try:
        if storage.is_remote(output):
            return _prepare_remote(job, str(output).rstrip("/"), write_all, cluster)
        return _prepare(job, pathlib.Path(output), write_all)
    except KeyboardInterrupt as error:
        raise UserError(f"--output={output}: interrupted; the same command continues it") from error
    except OSError as error:
        raise shards.disk_error(error, output) from error


def _prepare(job, output, write_all):
    settings, plan, parts = job.settings, job.plan, output / "parts"
    manifest = _finished(output, job.identity)
    if manifest is not None:
        return manifest
    _check_ours(output)
    parts.mkdir(parents=True, exist_ok=True)
    with _lock(parts / "lock", output):
        _claim(parts / "settings.json", output, job.identity)
        tokenizer = _tokenizer(output, job)
        _write_shards(output, job, write_all)
        facts = [json.loads((parts / f"{i:05d}" / shards.FACTS).read_text("utf-8")) for i in range(len(plan.shards))]
        skipped = _skipped(facts)
        if not any(fact[split]["documents"] for fact in facts for split in SPLITS):
            first = f"; the first of {skipped['count']} skipped: {skipped['examples'][0]}" if skipped["count"] else ""
            raise UserError(f"--input={settings.input}: no text in it{first}; expected at least one document")
        joined = joining.join(output, len(plan.shards), settings.drop_duplicates, settings.eval_share, tokenizer)
        manifest = job.identity | joined | {
            "bytes": sum(fact["bytes"] for fact in facts),
            "empty_documents": sum(fact["empty_documents"] for fact in facts),
            "skipped": skipped,
            "tokenizer": _tokenizer_facts(output, tokenizer, job.identity["tokenizer"]),
        }  # fmt: skip
        files.write_json(output / "manifest.json", manifest)
        shutil.rmtree(parts)
    return manifest


def _prepare_remote(job, url, write_all, cluster):
    """Puts the corpus together on this machine's disk and copies it, manifest last. What began it is noted there."""
    there = storage.sizes(url)
    if "manifest.json" in there:
        manifest = _read_finished(storage.read(f"{url}/manifest.json"), f"{url}/manifest.json", url, job.identity)
        if any(name.startswith("parts/") for name in there):
            storage.remove(f"{url}/parts")
        return manifest
    claim = f"{url}/parts/settings.json"
    if "parts/settings.json" in there:
        _check_same(json.loads(storage.read(claim)), job.identity, url)
    elif there:
        raise UserError(f"--output={url}: holds other files; expected a new or empty folder")
    identity = json.dumps(job.identity).encode()
    storage.write(claim, identity)
    name = hashlib.blake2b(url.encode() + b"\0" + identity, digest_size=8).hexdigest()
    folder = storage.cache_directory() / "prepare" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock"), url):
        if cluster:
            write_all = functools.partial(cluster.write_through, f"{url}/parts")
        manifest = _prepare(job, folder, write_all)
        storage.upload_folder(folder, url, last="manifest.json")
        storage.remove(f"{url}/parts")
        shutil.rmtree(folder)
    return manifest


def _check(settings, workers, cluster):
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
    if workers is not None and cluster:
        raise UserError(f"--workers={workers}: not with --runner; expected Beam's own options for its workers")


def _finished(output, identity):
    """The manifest of a whole corpus in output that was made from the same, or None."""
    path = output / "manifest.json"
    if not path.is_file():
        return None
    manifest = _read_finished(path.read_bytes(), path, output, identity)
    shutil.rmtree(output / "parts", ignore_errors=True)
    return manifest


def _read_finished(content, path, output, identity):
    try:
        manifest = json.loads(content)
        found = {key: manifest[key] for key in ("format_version", "settings", "inputs")}
        found["tokenizer"] = manifest["tokenizer"]["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a corpus manifest; expected an empty or new folder as --output") from error
    _check_same(found, identity, output)
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
def _lock(path, output):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(path))
        except BlockingIOError as error:
            raise UserError(f"--output={output}: another prepare is writing there; wait for it") from error
        yield


def _claim(path, output, identity):
    if path.is_file():
        _check_same(json.loads(path.read_text("utf-8")), identity, output)
    else:
        files.write_json(path, identity)


def _tokenizer_spec(settings):
    """((kind, size) to train, None, []) or (None, the loaded tokenizer, what a file's words added to it)."""
    lower_case = {"auto": None, "true": True, "false": False}[settings.lower_case]
    if not settings.tokenizer.startswith("train:"):
        folder = pathlib.Path(settings.tokenizer)
        if (folder / "run.json").is_file():  # a run's workdir
            folder /= "tokenizer"
        loaded, added = loading.load(folder, lower_case), []
        if settings.add_tokens and not _asked(settings):
            words = new_tokens.read(settings.add_tokens)
            loaded, added = new_tokens.extend(loaded, words, f"--add_tokens={settings.add_tokens}")
        return None, loaded, added
    kind, _, size = settings.tokenizer.removeprefix("train:").partition(":")
    if kind not in training.KINDS or not size.isdigit() or int(size) < 1:
        raise UserError(
            f"--tokenizer={settings.tokenizer}: expected train:KIND:SIZE with KIND one of "
            f"{', '.join(training.KINDS)}, such as train:wordpiece:8192"
        )
    if lower_case is not None and kind not in training.LOWER_CASING:
        raise UserError(f"--lower_case={settings.lower_case}: not for {kind}; expected auto")
    return (kind, int(size)), None, []


def _asked(settings):
    """How many words to find in the text and add; 0 where --add_tokens names a file, or is not given."""
    number = settings.add_tokens or ""
    return int(number) if number.isdigit() else 0


def _tokenizer(output, job):
    """The corpus's tokenizer, from output/tokenizer if it is there already."""
    plan, settings, progress = job.plan, job.settings, job.progress
    trained, loaded, added = job.vocabulary
    folder = output / "tokenizer"
    if folder.is_dir():
        return loading.load(folder)
    with files.atomic_folder(folder) as temporary:
        if trained:
            kind, size = trained
            sample = _Sample(plan, settings)
            if progress:
                print(f"training a {kind} vocabulary of {size:,}", file=sys.stderr, flush=True)
            loaded = training.train(kind, sample.texts(), size, lower_case=settings.lower_case != "false")
            loaded.save(temporary)
            facts = {"asked": size, "sample_bytes": sample.bytes, "sample_is_everything": sample.everything}
            files.write_json(temporary / "training.json", facts)
            if progress and loaded.vocab_size < size:
                print(f"the text gave {loaded.vocab_size:,} tokens, not {size:,}", file=sys.stderr, flush=True)
        else:
            if _asked(settings):
                sample = _Sample(plan, settings)
                words = new_tokens.find(loaded, sample.texts(), _asked(settings))
                loaded, added = new_tokens.extend(loaded, words, f"--add_tokens={settings.add_tokens}")
            loaded.save(temporary)
            if settings.add_tokens:
                files.write_json(temporary / "new_tokens.json", added)
    return loading.load(folder)


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
                    for paragraph in sources.read(part, self._settings.reading, lambda where, reason: None):
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
    training_facts = output / "tokenizer" / "training.json"
    if training_facts.is_file():
        facts["training"] = json.loads(training_facts.read_text("utf-8"))
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


def _write_shards(output, job, write_all):
    parts, every = output / "parts", job.plan.shards
    for leftover in parts.glob("*.partial"):  # of what was killed
        shutil.rmtree(leftover, ignore_errors=True)
    todo = {i: shard for i, shard in enumerate(every) if not (parts / f"{i:05d}").is_dir()}
    sizes = [sum(part.size for part in shard) for shard in every]
    done = sum(sizes) - sum(sizes[i] for i in todo)
    arguments = (str(parts), str(output / "tokenizer"), job.settings, job.strict)
    with tqdm.tqdm(
        total=max(sum(sizes), 1), initial=done, unit="B", unit_scale=True, desc="prepare", disable=not job.progress
    ) as bar:
        for number, skipped in write_all(todo, *arguments):
            bar.update(sizes[number])
            for line in skipped["examples"] if job.progress else ():
                bar.write(f"skipped: {line}", file=sys.stderr)


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
