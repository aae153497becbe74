"""Finds the files that patterns match: on this machine and in remote storage."""

import glob
import os
import re
from collections.abc import Iterator

from bert_jax import storage
from bert_jax.data.preparation import fasta
from bert_jax.errors import UserError
from bert_jax.files import closest_path

ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet", *fasta.ENDINGS)
_NO_MATCH = "no file matches"
_MAGIC = re.compile(r"[*?[]")


def split_items(spec: str) -> list[str]:
    """Splits a list at its commas, but for those in the names of files that exist on this machine."""
    items, waiting = [], [item for item in spec.split(",") if item.strip()]
    while waiting:
        count = 1
        if not _is_special(waiting[0]) and not _local_files(waiting[0].strip()):
            for number in range(2, len(waiting) + 1):
                if _is_special(waiting[number - 1]):
                    break
                if _local_files(",".join(waiting[:number]).strip()):
                    count = number
                    break
        items.append(",".join(waiting[:count]).strip())
        waiting = waiting[count:]
    return items


def find_files(pattern: str, output: str | os.PathLike | None = None) -> list[str]:
    """Returns the files that a pattern matches, sorted: local paths or URLs.

    A name that exists is itself, whatever brackets it has; "~" is the home directory; "**" goes into each folder once,
    even if a link leads back to one above it.

    Args:
      pattern: a glob, with "**" for any folders.
      output: a folder, or the URL of one, whose files are left out.

    Raises:
      UserError: there is no such file.
    """
    remote = storage.is_remote(pattern)
    matches = storage.glob(pattern) if remote else _local_files(pattern)
    paths = [path for path in matches if output is None or not _is_in(path, output)]
    if not paths:
        reason = _reason(pattern, remote, matches)
        near = closest_path(os.path.expanduser(pattern)) if reason == _NO_MATCH else ""
        raise UserError(
            f"--input={pattern}: {reason}; expected a glob of .txt, .txt.gz, .jsonl, .jsonl.gz, .parquet or "
            f".fasta{near}"
        )
    return paths


def _is_special(item):
    return storage.is_remote(item) or item.strip() == "python-docs" or item.strip().startswith(("tfds:", "hf:"))


def _is_in(path, folder):
    """Returns whether a file lies in a folder."""
    if storage.is_remote(path) != storage.is_remote(folder):
        return False
    if storage.is_remote(path):
        return path.startswith(f"{str(folder).rstrip('/')}/")
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _reason(pattern, remote, matches):
    """Returns why a pattern matches no file."""
    path = os.path.expanduser(pattern)
    if matches:
        return "all files that match are in --output"
    if remote or not os.path.lexists(path):
        return _NO_MATCH
    if os.path.isdir(path):
        return f"it is a folder{_files_inside(pattern)}"
    return "a link that leads to no file" if os.path.islink(path) else "no file, but a device or pipe"


def _files_inside(folder):
    """Returns which globs match the files of text in a folder or, if it has none, below it, in words."""
    path = folder.rstrip("/")
    for inner, _, names in os.walk(os.path.expanduser(folder)):
        endings = [ending for ending in ENDINGS if any(name.endswith(ending) for name in names)]
        if endings:
            below = "" if os.path.samefile(inner, os.path.expanduser(folder)) else "**/"
            return "; try " + ",".join(f"{path}/{below}*{ending}" for ending in endings)
    return " without such a file"


def _local_files(pattern):
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    parts = re.split(r"(?<=/)(?!/)", pattern)  # each with the slashes behind it
    for i, part in enumerate(parts):
        if _MAGIC.search(part):
            if not os.path.lexists("".join(parts[: i + 1])):
                break
            parts[i] = glob.escape(part)
    # Where nothing matches, brackets behind other wildcards are taken as they stand, too.
    spellings = (parts, [part.replace("[", "[[]") for part in parts] if "[" in pattern else [])
    for spelling in spellings:
        if files := sorted({path for path in _expand(spelling) if os.path.isfile(path)}):
            return files
    return []


def _expand(parts) -> Iterator[str]:
    """Yields the paths that a pattern's parts match; of a link and a folder above it, only the latter is searched."""
    names = [part.rstrip("/") for part in parts]
    if "**" not in names:
        yield from glob.iglob("".join(parts)) if parts else ()
        return
    i = names.index("**")
    rest = parts[i + 1 :] or ([] if parts[i].endswith("/") else ["*"])
    above = "".join(parts[:i])
    for top in glob.iglob(above) if _MAGIC.search(above) else [above]:
        for folder in _folders(top, frozenset()):
            yield from _expand([glob.escape(os.path.join(folder, "")) if folder else "", *rest])


def _folders(folder, above):
    """Yields a folder and those in it that are not hidden; `above` identifies the ones that it lies in."""
    try:
        status = os.stat(folder or os.curdir)
        identity = status.st_dev, status.st_ino
        if identity in above:
            return
        with os.scandir(folder or os.curdir) as entries:
            inner = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
    except OSError:  # unreadable, or no folder: glob leaves these out too
        return
    yield folder
    for name in inner:
        yield from _folders(os.path.join(folder, name), above | {identity})


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
