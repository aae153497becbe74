"""Checkpoints: written in the background, whole or not at all, and checked when they are read.

    WORKDIR/checkpoints/STEP/params/, opt_state/    Orbax, one array per parameter of each layer
    WORKDIR/checkpoints/STEP/frozen/, best-0/, ...  of fine-tuning: see seeds_step.py
    WORKDIR/checkpoints/STEP/record/                of fine-tuning: what each seed has reached
    WORKDIR/checkpoints/STEP/metrics/               of pre-training: the evaluation of this step, if there was one
    WORKDIR/checkpoints/STEP/manifest.json          format version; size and CRC-32 of every file above

STEP is the number of steps done. A directory of that name is complete: Orbax renames it last. Its manifest
then tells a damaged checkpoint, also where a flipped bit would still decode to numbers.

In gs:// nothing is renamed: Orbax writes into STEP, then we the manifest, then Orbax commit_success.txt, and with that
STEP is complete. What lacks it counts for nothing, and Orbax removes it before it saves.
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from bert_jax import _moved, storage
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs import workdir as workdir_lib

METRIC = "eval/mlm_loss"  # the name under which checkpoints store what they are judged by; smaller is better
_NOT_SAVED = ("bad_step", "active")
_PARTIAL = ".orbax-checkpoint-tmp"
_COMMITTED = "commit_success.txt"  # Orbax writes it in gs://, last of all
_BLOCK = 1 << 22
_MIN_SLICE_BYTES = 1 << 20


class Checkpoints:
    """The checkpoints of a run that trains.

    It keeps the newest train.keep_newest checkpoints and, where the config has these keys, the train.keep_best with the
    lowest `selection_loss` among those that were evaluated at their own step, and every train.keep_every-th step.

    Args:
      workdir: the run's.
      config: the run's; reads train.keep_*.
      say: called with each line that the user should see.
      best_metric: the held-out metric that chooses the best checkpoint; smaller is better.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: ml_collections.ConfigDict,
        say: Callable[[str], None] = print,
        best_metric: str = METRIC,
    ):
        self._directory = _directory_of(workdir)
        self._train = config.train
        self._say = say
        self._best_metric = best_metric
        self._saving = None
        self._manager = None

    def restore(self, template: Mapping) -> tuple[dict, int] | None:
        """The newest whole checkpoint and its step; None if there is none yet.

        Damaged ones that are newer are moved aside to corrupt-STEP, in gs:// beside checkpoints/. Process 0 looks, and
        decides for all.

        Args:
          template: {"params", "opt_state", ...}, trees of arrays or ShapeDtypeStructs with shardings.

        Raises:
          UserError: there are checkpoints, and every one is damaged.
        """
        step = distributed.broadcast(self._newest_whole)
        return None if step is None else (_restore(self._directory / str(step), template), step)

    def _newest_whole(self):
        damaged = []
        for step in reversed(saved_steps(self._directory)):
            damage = _damage(self._directory / str(step))
            if damage is None:
                for bad, reason in damaged:
                    self._set_aside(bad, reason)
                return step
            damaged.append((step, damage))
        if damaged:
            raise UserError(
                f"{self._directory}: every checkpoint is damaged (step {damaged[0][0]}: {damaged[0][1]}); "
                "move the directory away to train from the beginning"
            )
        return None

    def save(
        self, step: int, state: Mapping, metrics: Mapping[str, float] | None = None, record: Mapping | None = None
    ) -> None:
        """Starts to save; what goes wrong is reported, and never costs an older checkpoint.

        Args:
          step: steps done.
          state: {"params", "opt_state", ...}; may be donated as soon as this returns.
          metrics: the evaluation at this very step, if there was one.
          record: what else belongs to the step, as JSON; `load_record` gives it back.
        """
        self.finish_save()
        loss = selection_loss(metrics or {}, self._best_metric)
        items = {name: ocp.args.StandardSave(state[name]) for name in state if name not in _NOT_SAVED}
        if record is not None:
            items["record"] = ocp.args.JsonSave(dict(record))
        self._saving = step
        try:
            self._open().save(
                step,
                args=ocp.args.Composite(**items),
                metrics={METRIC: float(loss)} if math.isfinite(loss) else None,
                force=True,
                custom_metadata={"format_version": workdir_lib.FORMAT_VERSION},
            )
        except Exception as error:  # Orbax raises whatever its backends do
            if distributed.is_multiprocess():  # which are out of step from here on
                raise UserError(f"the checkpoint of step {step} cannot be saved: {_reason(error)}") from error
            self._failed(_reason(error))
            self._saving = None

    def finish_save(self, wait: bool = True) -> None:
        """Reports a save that failed; waits for one that is under way, or leaves it be.

        Several processes look together, when they wait: a save that failed in one of them has failed.
        """
        if self._saving is None or (
            not wait and (distributed.is_multiprocess() or self._manager.is_saving_in_progress())
        ):
            return
        reason = ""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            reason = _reason(error)
            distributed.cancel(f"save/{self._saving}", reason)  # the others may wait for this process
        reasons = [one for one in distributed.all_gather(reason) if one]
        if reasons:
            self._failed(reasons[0])
        self._saving = None

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is complete."""
        return max(saved_steps(self._directory), default=None)

    def close(self, together: bool = True) -> None:
        """Waits for the save that is under way; not for other processes, where they do not come here `together`."""
        if distributed.is_multiprocess() and not together:
            return  # an error has ended this process alone, and ends the others
        self.finish_save()
        self._close()

    def _close(self):
        if self._manager is not None:
            with contextlib.suppress(Exception):  # the failure that it repeats has been reported
                self._manager.close()
            self._manager = None

    def _open(self):
        if self._manager is None:
            distributed.run_on_first(self._set_unreadable_aside)
            _set_up_orbax()
            keep = [policies.LatestN(self._train.keep_newest)]
            if self._train.get("keep_best"):
                keep.append(
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[METRIC],
                        reverse=True,
                        n=self._train.keep_best,
                        keep_checkpoints_without_metrics=False,
                    )
                )
            if self._train.get("keep_every"):
                keep.append(policies.EveryNSteps(self._train.keep_every))
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                best_fn=lambda metrics: metrics[METRIC],  # without it, Orbax does not write metrics
                best_mode="min",
                save_root_metadata=False,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal, barrier_sync_fn=self._meet),
            )
            self._manager = ocp.CheckpointManager(epath.Path(self._directory), options=options)
        return self._manager

    def _set_unreadable_aside(self):
        for step in saved_steps(self._directory):
            if _loss(self._directory / str(step)) is _UNREADABLE:  # Orbax would not start
                self._set_aside(step, "metrics cannot be read")

    def _seal(self):
        """Writes the manifest into the checkpoint that Orbax is about to rename; of several processes, one does.

        In gs:// the checkpoint is read back for it, so that what is stored is what was checked.
        """
        partial = self._partial()
        sizes = {name: size for name, size in sorted(_sizes(partial).items()) if "/" in name}  # of the items
        with storage.reporting(str(partial)), concurrent.futures.ThreadPoolExecutor(4) as pool:
            sums = pool.map(lambda name: _crc32(partial / name), sizes)
            found = {name: [sizes[name], crc] for name, crc in zip(sizes, sums, strict=True)}
        storage.write_json(
            partial / "manifest.json",
            {"format_version": workdir_lib.FORMAT_VERSION, "step": self._saving, "files": found},
        )

    def _partial(self):
        """Where Orbax writes what is being saved."""
        return self._directory / f"{self._saving}{'' if storage.is_remote(self._directory) else _PARTIAL}"

    def _meet(self, *, key, timeout_ms):
        """What the processes wait at when they save; it lets them go where one of them has failed."""
        distributed.barrier(f"save/{self._saving}", key, timeout_ms / 1000)

    def _failed(self, reason):
        self._close()  # what else it failed at would be raised by the next save
        if distributed.is_first() and not storage.is_remote(self._directory):
            shutil.rmtree(self._partial(), ignore_errors=True)  # gives the room back
        try:
            newest = self.newest()
            last = "there is none yet" if newest is None else f"the last good one is step {newest}"
        except UserError:  # storage that cannot be reached for the moment
            last = "those before it are left as they are"
        self._say(f"warning: saving the checkpoint of step {self._saving} failed: {reason}; {last}")

    def _set_aside(self, step, reason):
        # From checkpoints/ in gs:// Orbax would remove it.
        folder = self._directory.parent if storage.is_remote(self._directory) else self._directory
        aside = folder / f"corrupt-{step}"
        again = 1
        while aside.exists():
            again += 1
            aside = folder / f"corrupt-{step}-{again}"
        try:
            with storage.reporting(str(folder)):
                (self._directory / str(step)).rename(aside)  # in gs:// copied, then removed
        except OSError as error:
            raise UserError(f"{self._directory}: cannot be written: {error.strerror or error}") from error
        self._say(f"warning: the checkpoint of step {step} is damaged ({reason}); moved to {aside}")


def load_params(
    workdir: str | os.PathLike, step: int | str | None = None
) -> tuple[dict, ml_collections.ConfigDict, int]:
    """Parameters of a run, without optimizer state, on the default device; needs no corpus.

    Args:
      workdir: the run's.
      step: one that was saved, "best" (of those that were evaluated; the newest where none was), or None: the newest.

    Returns:
      (params, config, step).

    Raises:
      UserError: no such run or checkpoint, or it is damaged.
    """
    workdir = workdir_lib.to_path(workdir)
    config = workdir_lib.read(workdir)[1]
    if step == "best":
        directory = _directory_of(workdir)
        losses = {saved: _loss(directory / str(saved)) for saved in saved_steps(directory)}
        evaluated = [saved for saved, loss in losses.items() if isinstance(loss, float)]
        step = min(evaluated, key=losses.get, default=None)
    step = find_step(workdir, step)
    return load_items(workdir, step, ["params"])["params"], config, step


def find_step(workdir: pathlib.Path, step: int | None) -> int:
    """The step of a checkpoint: the given one, or the newest. Raises UserError if there is none."""
    directory = _directory_of(workdir)
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"{directory}: no checkpoint yet")
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps))
        raise UserError(f"{directory}: no checkpoint of step {step}; expected one of {there}")
    return steps[-1] if step is None else step


def load_items(workdir: pathlib.Path, step: int, names: Sequence[str]) -> dict:
    """Some parts of a checkpoint, such as "params", on the default device; {} for a part that was not saved.

    Raises:
      UserError: one of them is damaged.
    """
    directory = _directory_of(workdir)
    path = directory / str(step)
    _set_up_orbax()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = {}
    for name in names:
        damage = _damage(path, name)
        if damage is not None:
            there = ", ".join(map(str, saved_steps(directory)))
            raise UserError(f"{path}: damaged ({damage}); the run has the steps {there}")
        if (path / name).is_dir():
            stored = ocp.StandardCheckpointHandler().metadata(epath.Path(path / name)).tree
            template[name] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), dict(stored)
            )
    return dict.fromkeys(names, {}) | _restore(path, template)


def load_record(workdir: pathlib.Path, step: int) -> dict:
    """The record that was saved with a checkpoint. Raises UserError if it is damaged."""
    path = workdir / "checkpoints" / str(step)
    damage = _damage(path, "record")
    if damage is not None:
        raise UserError(f"{path}: damaged ({damage})")
    return json.loads((path / "record" / "metadata").read_text())


def saved_steps(directory: pathlib.Path) -> list[int]:
    """The steps of the complete checkpoints in a directory, ascending."""
    if storage.is_remote(directory):
        folders = [name.removesuffix(f"/{_COMMITTED}") for name in _sizes(directory) if name.endswith(_COMMITTED)]
        return sorted(int(name) for name in folders if name.isdigit())
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def _directory_of(workdir):
    return (workdir if storage.is_remote(workdir) else workdir.absolute()) / "checkpoints"


def _sizes(folder):
    """Bytes of every file under a folder, by its path in the folder."""
    if storage.is_remote(folder):
        return storage.sizes(str(folder))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _restore(path, template):
    _set_up_orbax()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = {name: ocp.args.StandardRestore(template[name]) for name in template if name not in _NOT_SAVED}
        return dict(checkpointer.restore(epath.Path(path), args=ocp.args.Composite(**items)))


def _damage(path, item=""):
    """What is wrong with a checkpoint's files, or those of one item; None if they are as written."""
    with storage.reporting(str(path)):
        return _damage_found(path, item)


def _damage_found(path, item):
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, files = manifest["format_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json cannot be read: {_reason(error)}"
    known = workdir_lib.FORMAT_VERSION
    if version != known:
        raise UserError(f"{path}: format_version {version}; this version of bert_jax reads {known}")

    def damage(entry):
        name, (size, crc) = entry
        try:
            found = _size(path / name)
            if found != size:
                return f"{name} has {found} bytes, expected {size}"
            return None if _crc32(path / name) == crc else f"{name} has other bytes than were written"
        except OSError as error:
            return f"{name}: {_reason(error)}"

    wanted = [entry for entry in files.items() if entry[0].startswith(f"{item}/" if item else "")]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return next((found for found in pool.map(damage, wanted) if found), None)


_UNREADABLE = object()


def selection_loss(metrics: Mapping[str, float], best_metric: str = METRIC) -> float:
    """Returns the metric that a checkpoint is judged by; NaN where it was not evaluated."""
    return metrics.get(best_metric, math.nan)


def _loss(path):
    """What a checkpoint was judged by; None where it was not evaluated."""
    try:
        return float(json.loads((path / "metrics" / "metrics").read_text())[METRIC])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return _UNREADABLE


def _size(path):
    return path.stat().length if storage.is_remote(path) else path.stat().st_size


def _crc32(path):
    crc = 0
    with storage.open_binary(str(path)) as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _reason(error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    system = re.search(r"([^:]+?) \[os_error_code", text)  # how tensorstore words what the system said
    if system:
        return system.group(1).strip()
    words, of_tensorstore, _ = text.partition(" [tensorstore_spec=")  # from the outermost operation to its cause
    return words[-200:] if of_tensorstore else text.splitlines()[0][:200]


def _set_up_orbax():
    # Its reports of a full disk, hundreds of lines, would bury the one that matters.
    absl_logging.get_absl_logger().addFilter(_is_not_from_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_left_over)
    sys.unraisablehook = _unraisable
    # By default it cuts every array, however small, into a slice per replica, each a program of its own.
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


def _is_not_from_orbax(record):
    return "orbax" not in record.pathname


def _is_not_left_over(record):
    """Orbax reports the first failure of a save, and leaves those of the other arrays to asyncio."""
    return "exception was never retrieved" not in record.getMessage()


def _unraisable(found):
    """A write that fails once its save was given up finds no event loop to tell."""
    if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
        sys.__unraisablehook__(found)


def __getattr__(name):
    return _moved.find("runs.checkpoints", name)
