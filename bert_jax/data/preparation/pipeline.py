"""Prepares a corpus from text: a map over shards by many processes, then one pass that joins them.

The vocabulary is trained and the shards are joined on the machine that starts the work; the map runs in processes of
this machine (shards.py) or on a cluster (beam.py). All of it can be resumed: `parts/settings.json` says what the shards
are made from, so that a second start continues only the same work. The joining pass reads the shards' files and may be
repeated; the manifest is written last, then the shards' folder is removed.
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

from bert_jax import files, interruption, outputs, progress, storage
from bert_jax.config.key_groups import LARGEST_WORKERS
from bert_jax.config.schema import closest
from bert_jax.data.corpus import FORMAT_VERSION, SPLITS
from bert_jax.data.preparation import beam, joining, languages, shards, sources, vocabulary
from bert_jax.data.preparation.sentences import MODES
from bert_jax.errors import UserError, command_line, quoted

_LONG_SENTENCES = 0.1  # share of the text in long sentences that is warned about
_PUBLISHED_SIZE = 30522  # entries of BERT's vocabulary, which most recipes name
_OWN = ("parts", "manifest.json", *SPLITS, "tokenizer", "index")  # a corpus has one of the first two
_RECIPE = "small"  # the next command's recipe: it runs on any machine, for any corpus
_FAILED = "failed"  # file in parts/ of a preparation that a mistake in its text or settings has ended
_MAX_EXAMPLES = 100  # skipped texts that the manifest names


@dataclasses.dataclass(frozen=True)
class Settings:
    """Holds the settings that determine a corpus; bert_jax.prepare has a flag of the same name for each."""

    input: str
    tokenizer: str
    documents: str = sources.Options.documents
    sentences: str = "split"
    language: str = ""
    text_field: str = sources.Options.text_field
    data_dir: str | None = None
    eval_share: float = 0.02
    drop_duplicates: bool = False
    lower_case: str = "auto"
    strip_accents: str = "auto"
    add_tokens: str | None = None

    @property
    def reading(self) -> sources.Options:
        """Returns the options with which the inputs are read."""
        return sources.Options(self.documents, self.text_field, self.data_dir)


@dataclasses.dataclass(frozen=True)
class _Job:
    """Describes a preparation, apart from where it runs and where it writes.

    Attributes:
      settings: determine the corpus.
      plan: shards of the text.
      choice: the vocabulary.
      identity: what a corpus must have been made from for this preparation to continue it; part of the manifest.
      strict, progress, overwrite: see prepare.
      language: code of the text's language; "" where nobody has said it.
    """

    settings: Settings
    plan: sources.Plan
    choice: vocabulary.Choice
    identity: dict
    strict: bool
    progress: bool
    overwrite: bool
    language: str


def prepare(
    settings: Settings,
    output: str | pathlib.Path,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    cluster: beam.Cluster | None = None,
    overwrite: bool = False,
) -> dict:
    """Prepares a corpus, or continues an unfinished one; one that is whole is left as it is.

    Args:
      settings: determine the corpus.
      output: a folder, or the URL of one in remote storage: the corpus is then written to a folder in
        storage.cache_directory() and copied.
      workers: processes; None for as many as the machine has cores. It changes no byte of the output.
      strict: whether text that cannot be read is an error, instead of being named, skipped and counted.
      progress: whether to show a progress bar and messages on standard error.
      cluster: runs the map over shards instead of processes of this machine. It changes no byte either.
      overwrite: whether a corpus in a local `output` that was made from other text or settings is replaced.

    Returns:
      The corpus's manifest.

    Raises:
      UserError: a setting, an input or the vocabulary cannot work; `output` holds something else; the disk is full.
    """
    language = _stated_language(settings)
    settings = _resolved(settings)
    _check(settings, workers, cluster)
    output = _expanded(output)
    if not storage.is_remote(output):
        _check_ours(pathlib.Path(output))
    plan = sources.plan(settings.input, settings.reading, output)
    choice = vocabulary.choose(settings)
    identity = {
        "format_version": FORMAT_VERSION,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "tokenizer"},
        "tokenizer": choice.source,
        "inputs": {"files": plan.files, "size": plan.size, "state": plan.state},
    }
    job = _Job(settings, plan, choice, identity, strict, progress, overwrite, language)
    write_all = cluster.write_all if cluster else functools.partial(shards.write_all, workers or os.cpu_count() or 1)
    try:
        with interruption.end_message(f"--output={output}: interrupted; the same command continues it"):
            if storage.is_remote(output):
                return _prepare_remote(job, str(output).rstrip("/"), write_all, cluster)
            return _prepare(job, pathlib.Path(output), write_all)
    except KeyboardInterrupt as error:  # in a program that is no command
        raise UserError(f"--output={output}: interrupted; the same command continues it") from error
    except OSError as error:
        raise shards.disk_error(error, output) from error


def _resolved(settings):
    """Returns settings whose language is one of the splitter's, and whose paths do not begin with "~"."""
    paths = {name: getattr(settings, name) for name in ("tokenizer", "add_tokens", "data_dir")}
    paths = {name: _expanded(path) for name, path in paths.items() if path}
    return dataclasses.replace(settings, language=languages.find_language(settings.language or "en"), **paths)


def _stated_language(settings):
    """Returns the language that the settings say the text has; "" where they do not: English rules are a default."""
    if settings.input == "python-docs":
        return "en"
    return languages.find_language(settings.language) if settings.language else ""


def _expanded(path):
    """Returns a local path with the home directory in place of "~", or a URL as it is."""
    return path if storage.is_remote(path) else os.path.expanduser(path)


def _prepare(job, output, write_all):
    """Prepares a corpus in a local folder and returns its manifest; `write_all` is as shards.write_all."""
    settings, plan, parts = job.settings, job.plan, output / "parts"
    _check_ours(output)
    _make_room(output, job.identity, job.overwrite)
    manifest = _finished(output, job.identity)
    if manifest is not None:
        return manifest
    parts.mkdir(parents=True, exist_ok=True)
    with _lock(parts / "lock", output), _failures_noted(output):
        _claim(parts / "settings.json", output, job.identity)
        tokenizer = vocabulary.make(output, job.choice, plan, settings, job.progress)
        _write_shards(output, job, write_all)
        facts = [json.loads((parts / f"{i:05d}" / shards.FACTS).read_text("utf-8")) for i in range(len(plan.shards))]
        skipped = _skipped(facts)
        if not any(fact[split]["documents"] for fact in facts for split in SPLITS):
            first = f"; the first of {skipped['count']} skipped: {skipped['examples'][0]}" if skipped["count"] else ""
            raise UserError(f"--input={settings.input}: no text in it{first}; expected at least one document")
        # A shard that an earlier version wrote has no counts of characters.
        characters, unknown = (sum(fact.get(key, 0) for fact in facts) for key in ("characters", "unknown_characters"))
        joined = joining.join(output, len(plan.shards), settings.drop_duplicates, settings.eval_share, tokenizer)
        manifest = job.identity | joined | {
            "bytes": sum(fact["bytes"] for fact in facts),
            "characters": characters,
            "unknown_character_share": unknown / max(1, characters),
            "empty_documents": sum(fact["empty_documents"] for fact in facts),
            "skipped": skipped,
            **({"language": job.language} if job.language else {}),
            "tokenizer": vocabulary.facts(output, tokenizer, job.choice),
        }  # fmt: skip
        files.write_json(output / "manifest.json", manifest)
        shutil.rmtree(parts)
    return manifest


def _prepare_remote(job, url, write_all, cluster):
    """Prepares a corpus on this machine's disk and copies it to a URL, manifest last; returns the manifest.

    The settings are written to the URL first, so that another preparation does not take the same place.
    """
    names = storage.sizes(url)
    if "manifest.json" in names:
        manifest = _read_finished(storage.read(f"{url}/manifest.json"), f"{url}/manifest.json", url, job.identity)
        if any(name.startswith("parts/") for name in names):
            storage.remove(f"{url}/parts")
        return manifest
    claim = f"{url}/parts/settings.json"
    if "parts/settings.json" in names:
        _check_same(json.loads(storage.read(claim)), job.identity, url)
    elif names:
        raise UserError(f"--output={url}: holds other files; expected a new or empty folder")
    identity = json.dumps(job.identity).encode()
    storage.write(claim, identity)
    try:
        return _prepare_claimed(job, url, identity, write_all, cluster)
    except shards.Unfinished:
        raise
    except UserError:
        storage.remove(f"{url}/parts")  # a mistake in text or settings: other ones may then be tried here
        raise


def _prepare_claimed(job, url, identity, write_all, cluster):
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
    """Raises UserError for settings that cannot work, alone or together."""
    switch = ("auto", "true", "false")
    choices = {
        "documents": sources.DOCUMENTS, "sentences": MODES, "lower_case": switch, "strip_accents": switch,
    }  # fmt: skip
    for name, allowed in choices.items():
        given = getattr(settings, name)
        if given not in allowed:
            raise UserError(f"--{name}={given}: expected one of {', '.join(allowed)}{closest(str(given), allowed)}")
    if not 0 <= settings.eval_share < 1:
        raise UserError(f"--eval_share={settings.eval_share}: expected a share in [0, 1)")
    if settings.add_tokens is not None and settings.tokenizer.startswith("train:"):
        raise UserError(
            f"--add_tokens={settings.add_tokens}: not with --tokenizer={settings.tokenizer}; expected a model's"
        )
    if workers is not None and not 1 <= workers <= LARGEST_WORKERS:
        raise UserError(f"--workers={workers}: expected a number from 1 to {LARGEST_WORKERS:,}")
    if workers is not None and cluster:
        raise UserError(f"--workers={workers}: not with --runner; expected Beam's own options for its workers")


def _finished(output, identity):
    """Returns the manifest of the whole corpus in `output`; None if there is none.

    Raises UserError if it was made from other text or settings.
    """
    path = output / "manifest.json"
    if not path.is_file():
        return None
    manifest = _read_finished(path.read_bytes(), path, output, identity)
    shutil.rmtree(output / "parts", ignore_errors=True)
    return manifest


def _read_finished(content, path, output, identity):
    """Parses a manifest. Raises UserError if it is none, or of a corpus that was made from something else."""
    try:
        manifest = json.loads(content)
        saved = {key: manifest[key] for key in ("format_version", "settings", "inputs")}
        saved["tokenizer"] = manifest["tokenizer"]["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a corpus manifest; expected an empty or new folder as --output") from error
    _check_same(saved, identity, output)
    return manifest


def _check_same(saved, identity, output):
    """Raises UserError, which names the first difference, unless a corpus's saved identity is this one."""
    saved, identity = dict(saved), dict(identity)
    # A corpus that an earlier version made has the defaults of settings that this version added.
    defaults = {field.name: field.default for field in dataclasses.fields(Settings) if field.name not in saved}
    saved |= defaults | saved.pop("settings", {})
    identity |= identity.pop("settings")
    for key, value in identity.items():
        if saved.get(key) != value:
            setting = f"{key}={_short(saved.get(key))}" if key != "inputs" else "input files that have changed since"
            wanted = f", not {key}={_short(value)}" if key != "inputs" else ""
            raise UserError(
                f"--output={output}: holds a corpus, perhaps unfinished, made with {setting}{wanted}; "
                "name another folder, or replace this one with --overwrite"
            )


def _short(value):
    return value if value is None or len(str(value)) < 60 else f"{str(value)[:57]}..."


def _check_ours(output):
    """Raises UserError if `output` is a file, or a folder with other files than a corpus's."""
    outputs.check_unused("output", output, (outputs.CORPUS, outputs.UNFINISHED_CORPUS), _OWN, "corpus")
    if any((output / name).exists() for name in _OWN[2:]) and not any((output / name).exists() for name in _OWN[:2]):
        raise UserError(f"--output={output}: holds other files; expected a new or empty folder")


def _make_room(output, identity, overwrite):
    """Removes what a preparation with other text or settings left in `output`, if it failed or is to be replaced."""
    settings, manifest = output / "parts" / "settings.json", output / "manifest.json"
    if not overwrite and not (output / "parts" / _FAILED).exists():
        return
    try:
        if manifest.is_file():
            _read_finished(manifest.read_bytes(), manifest, output, identity)
        elif settings.is_file():
            _check_same(json.loads(settings.read_text("utf-8")), identity, output)
    except (UserError, ValueError):
        manifest.unlink(missing_ok=True)  # first: without it there is no corpus
        for name in (*_OWN[2:], "parts"):
            shutil.rmtree(output / name, ignore_errors=True)


@contextlib.contextmanager
def _failures_noted(output):
    """Notes in parts/ that a mistake in text or settings ended the work: other ones may then be tried here."""
    failed = output / "parts" / _FAILED
    failed.unlink(missing_ok=True)
    try:
        yield
    except shards.Unfinished:
        raise
    except UserError:
        failed.touch()
        raise


@contextlib.contextmanager
def _lock(path, output):
    """Holds the lock file `path`. Raises UserError if another process holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(path))
        except BlockingIOError as error:
            raise UserError(f"--output={output}: another prepare is writing there; wait for it") from error
        yield


def _claim(path, output, identity):
    """Writes what the shards are made from, or checks that an earlier start wrote the same."""
    if path.is_file():
        _check_same(json.loads(path.read_text("utf-8")), identity, output)
    else:
        files.write_json(path, identity)


def _skipped(facts):
    """Returns what was skipped in all shards: how many texts, of how many bytes, and the first of them."""
    examples = [example for fact in facts for example in fact["skipped"]["examples"]]
    return {
        "count": sum(fact["skipped"]["count"] for fact in facts),
        "bytes": sum(fact["skipped"].get("bytes", 0) for fact in facts),  # earlier versions counted none
        "examples": examples[:_MAX_EXAMPLES],
    }


def _write_shards(output, job, write_all):
    """Writes the shards that are missing in output/parts, and shows progress."""
    parts, planned = output / "parts", job.plan.shards
    for leftover in parts.glob("*.partial"):  # left by a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    todo = {i: shard for i, shard in enumerate(planned) if not (parts / f"{i:05d}").is_dir()}
    sizes = [sum(part.size for part in shard) for shard in planned]
    done = sum(sizes) - sum(sizes[i] for i in todo)
    arguments = (str(parts), str(output / "tokenizer"), job.settings, job.strict)
    with progress.bar(max(sum(sizes), 1), "B", done, "prepare", hidden=not job.progress) as bar:
        for number, skipped in write_all(todo, *arguments):
            bar.update(sizes[number])
            for line in skipped["examples"] if job.progress else ():
                bar.write(f"skipped: {line}", file=sys.stderr)


def summary(manifest: dict, output: str | pathlib.Path) -> str:
    """Returns a few lines about a corpus, for people."""
    share = manifest.get("unknown_character_share")
    train, held_out = (manifest["splits"][split] for split in SPLITS)
    warnings = vocabulary.warnings(manifest["tokenizer"], share, manifest["unknown_token_share"])
    lines = [
        f"{output}: {manifest['documents']:,} documents, {manifest['sentences']:,} sentences, "
        f"{manifest['tokens']:,} tokens from {manifest['bytes'] / 1e6:,.1f} MB of text",
        f"  train {train['documents']:,} documents, {train['tokens']:,} tokens; "
        f"eval {held_out['documents']:,} documents, {held_out['tokens']:,} tokens",
        f"  vocabulary {manifest['tokenizer']['vocab_size']:,} ({manifest['tokenizer']['kind']}); "
        f"unknown tokens {manifest['unknown_token_share']:.3%}"
        + (f", characters {share:.3%}; " if share is not None else "; ")
        + f"duplicate documents {manifest['duplicate_documents']:,}"
        + (" (dropped)" if manifest["settings"]["drop_duplicates"] else ""),
    ]
    added = manifest["tokenizer"].get("new_tokens")
    if added is not None:
        lines.append(f"  {len(added):,} new tokens" + (f": {', '.join(added[:8])}" if added else ""))
    if manifest["skipped"]["count"]:
        skipped = manifest["skipped"]
        size = f" ({skipped['bytes'] / 1e6:,.3f} MB)" if skipped.get("bytes") else ""
        lines.append(f"  skipped {skipped['count']:,}{size}, such as {skipped['examples'][0]}")
    is_of_proteins = manifest["tokenizer"]["kind"] == "wordlevel"  # each is a sentence
    if train.get("long_sentence_share", 0) >= _LONG_SENTENCES and not is_of_proteins:  # earlier versions counted none
        warnings.append(
            f"warning: {train['long_sentence_share']:.1%} of the text is in sentences of more than 512 tokens (the "
            f"longest has {train['longest_sentence']:,}), which rows are cut from anywhere: is --language="
            f"{manifest['settings']['language']} that of the text, or is a sentence a line (--sentences=line)?"
        )
    warnings += _held_out_warning(manifest)
    rules = languages.rules_of(manifest["settings"]["language"])
    if manifest["settings"]["sentences"] == "split" and rules != manifest["settings"]["language"]:
        lines.append(
            f"  sentences by the rules of {rules}: the splitter has none for --language="
            f"{manifest['settings']['language']} itself"
        )
    lines += ["", *warnings] if warnings else []  # apart from the numbers, so that they are seen
    return "\n".join(lines)


def _held_out_warning(manifest):
    """Returns a warning where the held-out share of the tokens is far from the one asked for; [] where it is not."""
    eval_share, held_out = manifest["settings"]["eval_share"], manifest["splits"]["eval"]
    share = held_out["tokens"] / max(1, manifest["tokens"])
    if not eval_share or eval_share / 4 <= share <= 2 * eval_share + 0.02:
        return []
    one_a_file = manifest["settings"]["documents"] == "file"
    smaller = "smaller documents (--documents=blank_line, or files of parts)" if one_a_file else "smaller documents"
    advice = f"expected more and {smaller}" + (", or a larger --eval_share" if share < eval_share else "")
    return [
        f"warning: {share:.1%} of the tokens are held out, not the {eval_share:.1%} of --eval_share: documents are "
        f"held out whole ({held_out['documents']:,} of {manifest['documents']:,}); {advice}"
    ]


def next_command(manifest: dict, output: str | pathlib.Path) -> str:
    """Returns the lines that say how a model is pre-trained on a corpus; the last one runs as it stands.

    Most recipes have the vocabulary size of the published model; a vocabulary of another size needs a model of its own.
    """
    flag = "" if manifest["tokenizer"]["vocab_size"] == _PUBLISHED_SIZE else " --config.model.vocab_size=0"
    corpus, program = quoted(str(output)), command_line("pretrain")
    workdir = quoted(outputs.free_folder(f"runs/{os.path.basename(os.path.abspath(str(output)))}-{_RECIPE}"))
    return (
        f"  {command_line('recipes')} lists larger recipes than `{_RECIPE}`\n"
        f"next: {program} --config={_RECIPE} --workdir={workdir} --config.data.corpus={corpus}{flag}"
    )


def command_again(manifest: dict, output: str | pathlib.Path, tokenizer: str) -> str:
    """Returns the command that prepares the text of a corpus with another vocabulary, in a new folder beside it.

    Args:
      manifest: the corpus's.
      output: its folder.
      tokenizer: the vocabulary, as --tokenizer takes it.
    """
    usual = {field.name: field.default for field in dataclasses.fields(Settings)}
    kept = ("input", "documents", "sentences", "language", "text_field", "data_dir", "eval_share", "drop_duplicates")
    given = {name: manifest["settings"].get(name, usual[name]) for name in kept}
    given["language"] = manifest.get("language", "")  # what the user has said
    flags = {name: value for name, value in given.items() if value != usual[name]}
    flags |= {"output": outputs.free_folder(f"{os.fspath(output).rstrip('/')}-again"), "tokenizer": tokenizer}
    words = (f"--{name}={quoted(str(value))}" for name, value in flags.items())
    return f"{command_line('prepare')} {' '.join(words)}"
