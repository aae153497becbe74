"""Reads what lies in a run's checkpoints/ and whether it is whole, without Orbax.

    WORKDIR/checkpoints/STEP/params/, opt_state/    Orbax, one array per parameter of each layer
    WORKDIR/checkpoints/STEP/frozen/, best-0/, ...  of fine-tuning: see finetuning/step.py
    WORKDIR/checkpoints/STEP/record/                of fine-tuning: the evaluations of each seed so far; of pre-training
                                                    whose phases set keys of config.model: their values at this step
    WORKDIR/checkpoints/STEP/metrics/               of pre-training: the evaluation at this step, if there was one
    WORKDIR/checkpoints/STEP/manifest.json          format version; size and CRC-32 of every file above

STEP is the number of steps done. A directory of that name is complete: Orbax renames it last. Its manifest
then tells a damaged checkpoint, also where a flipped bit would still decode to numbers.

In gs:// nothing is renamed: Orbax writes into STEP, then bert_jax the manifest, then Orbax commit_success.txt, and with
that STEP is complete. A folder without commit_success.txt is ignored, and Orbax removes it before it saves.
"""

import concurrent.futures
import json
import math
import pathlib
import re
import zlib
from collections.abc import Mapping

from bert_jax import storage
from bert_jax.errors import UserError
from bert_jax.runs import workdir as workdir_lib

METRIC = "eval/mlm_loss"  # the name under which checkpoints store the metric that chooses the best; smaller is better
UNREADABLE = object()
_COMMITTED = "commit_success.txt"  # Orbax writes it in gs://, last of all
_BLOCK = 1 << 22
_THREADS = 4
_LEAST_WEIGHT = 1e-3  # a checkpoint's in an exponential average, as a share of the newest's


def checkpoint_directory(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of a run's checkpoints, absolute, which need not exist."""
    return (workdir if storage.is_remote(workdir) else workdir.absolute()) / "checkpoints"


def saved_steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a directory, ascending; [] if it does not exist."""
    if storage.is_remote(directory):
        folders = [name.removesuffix(f"/{_COMMITTED}") for name in _sizes(directory) if name.endswith(_COMMITTED)]
        return sorted(int(name) for name in folders if name.isdigit())
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Returns whether a run has a checkpoint, also one that was moved aside because it is damaged."""
    directory = checkpoint_directory(workdir)
    if saved_steps(directory):
        return True
    return not storage.is_remote(directory) and directory.is_dir() and any(directory.glob("corrupt-*"))


def find_step(workdir: pathlib.Path, step: int | str | None) -> int:
    """Returns the step of a checkpoint.

    Args:
      workdir: a run's workdir.
      step: a step that was saved; "best" for the one with the lowest held-out loss, the newest if none was evaluated;
        None for the newest.

    Raises:
      UserError: there is no such checkpoint.
    """
    directory = checkpoint_directory(workdir)
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"{directory}: no checkpoint yet")
    if step == "best":
        losses = [(evaluated_loss(directory / str(saved)), saved) for saved in steps]
        step = min(((loss, saved) for loss, saved in losses if isinstance(loss, float)), default=(0.0, None))[1]
    if step is not None and step not in steps:
        expected = ", ".join(map(str, steps))
        raise UserError(f"{directory}: no checkpoint of step {step}; expected one of {expected}")
    return steps[-1] if step is None else step


def is_average(step: int | str | None) -> bool:
    """Returns whether an average of checkpoints is asked for: "mean:K" or "ema:DECAY"."""
    return isinstance(step, str) and step.startswith(("mean:", "ema:"))


def averaged_steps(workdir: pathlib.Path, step: str) -> list[int]:
    """Returns the steps of the newest K checkpoints, ascending, for "mean:K"; for "ema:DECAY" all that weigh something.

    Raises:
      UserError: K is no number over 0, or there are fewer checkpoints; DECAY is no number between 0 and 1, or there is
        no checkpoint.
    """
    directory, (kind, _, number) = checkpoint_directory(workdir), step.partition(":")
    steps = saved_steps(directory)
    if kind == "ema":
        decay = _decay(directory, step)
        if not steps:
            raise UserError(f"{directory}: no checkpoint yet")
        return steps[-math.ceil(math.log(_LEAST_WEIGHT) / math.log(decay)) :]
    if not number.isdecimal() or not int(number):
        raise UserError(f"{directory}: found step {step}; expected mean:K with a whole number K over 0, such as mean:3")
    if len(steps) < int(number):
        kept = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"{directory}: {step} needs {int(number)} checkpoints, found {len(steps)} (steps {kept}); expected at most "
            "as many as are kept (config.train.keep_newest, keep_every)"
        )
    return steps[-int(number) :]


def average_weights(step: str, count: int) -> list[float]:
    """Returns the weights of `count` averaged checkpoints, oldest first, as shares of the newest's.

    "mean:K" gives each the weight 1; "ema:DECAY" gives DECAY to the power of the checkpoint's age, where the newest has
    age 0 and the one before it age 1, whatever the steps between them.
    """
    kind, _, number = step.partition(":")
    return [float(number) ** age if kind == "ema" else 1.0 for age in range(count - 1, -1, -1)]


def _decay(directory, step):
    try:
        decay = float(step.partition(":")[2])
    except ValueError:
        decay = math.nan
    if not 0.0 < decay < 1.0:
        raise UserError(
            f"{directory}: found step {step}; expected ema:DECAY with a number between 0 and 1, such as ema:0.9"
        )
    return decay


def load_record(workdir: pathlib.Path, step: int) -> dict:
    """Returns the JSON record that was saved with a checkpoint. Raises UserError if it is damaged."""
    path = workdir / "checkpoints" / str(step)
    reason = damage(path, "record")
    if reason is not None:
        raise UserError(f"{path}: damaged ({reason})")
    return json.loads((path / "record" / "metadata").read_text())


def evaluated_loss(path: pathlib.Path) -> float | None | object:
    """Returns the metric of a checkpoint's evaluation; None if there was none, UNREADABLE if the file is damaged."""
    try:
        return float(json.loads((path / "metrics" / "metrics").read_text())[METRIC])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return UNREADABLE


def write_manifest(path: pathlib.Path, step: int) -> None:
    """Writes manifest.json into a checkpoint's directory: size and CRC-32 of every file of its items.

    Raises:
      OSError: it cannot be written.
    """
    sizes = {name: size for name, size in sorted(_sizes(path).items()) if "/" in name}
    with storage.reporting(str(path)), concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda name: _crc32(path / name), sizes)
        entries: Mapping = {name: [sizes[name], crc] for name, crc in zip(sizes, sums, strict=True)}
    storage.write_json(
        path / "manifest.json", {"format_version": workdir_lib.FORMAT_VERSION, "step": step, "files": entries}
    )


def damage(path: pathlib.Path, item: str = "") -> str | None:
    """Returns what is wrong with a checkpoint's files; None if they are as they were written.

    Args:
      path: the checkpoint's directory.
      item: a part of it, such as "params"; "" for all.

    Raises:
      UserError: the checkpoint has another format version, or storage cannot be reached.
    """
    with storage.reporting(str(path)):
        return _damage(path, item)


def reason_of(error: Exception) -> str:
    """Returns what an error of the system, of Orbax or of tensorstore says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    # How tensorstore words what the system said; the spec may stand on either side of it.
    system = re.search(r"([^:]+?) \[os_error_code", re.sub(r" \[tensorstore_spec='.*?'\](?= |:|$)", "", text))
    if system:
        return system.group(1).strip()
    words, has_details, _ = text.partition(" [tensorstore_spec=")  # from the outermost operation to its cause
    return words[-200:] if has_details else text.splitlines()[0][:200]


def _damage(path, item):
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, entries = manifest["format_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json cannot be read: {reason_of(error)}"
    known = workdir_lib.FORMAT_VERSION
    if version != known:
        raise UserError(f"{path}: format_version {version}; this version of bert_jax reads {known}")

    def file_damage(entry):
        name, (size, crc) = entry
        try:
            actual = _size(path / name)
            if actual != size:
                return f"{name} has {actual} bytes, expected {size}"
            return None if _crc32(path / name) == crc else f"{name} has other bytes than were written"
        except OSError as error:
            return f"{name}: {reason_of(error)}"

    wanted = [entry for entry in entries.items() if entry[0].startswith(f"{item}/" if item else "")]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return next((reason for reason in pool.map(file_damage, wanted) if reason), None)


def _sizes(folder):
    """Returns the bytes of every file under a folder, by its path in the folder."""
    if storage.is_remote(folder):
        return storage.sizes(str(folder))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _size(path):
    return path.stat().length if storage.is_remote(path) else path.stat().st_size


def _crc32(path):
    crc = 0
    with storage.open_binary(str(path)) as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
