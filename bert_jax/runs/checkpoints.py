"""Saves and restores a run's checkpoints: in the background, whole or not at all, and checked when they are read.

What lies in a checkpoint's directory is described in checkpoint_files.py. Orbax is imported where a checkpoint is
written or its arrays are read: that takes half a second, and much of bert_jax needs none of it.
"""

import contextlib
import logging
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging as absl_logging
from etils import epath

from bert_jax import _moved, storage
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs import checkpoint_files
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.checkpoint_files import METRIC, find_step, is_average, load_record, saved_steps
from bert_jax.runs.emergency import EmergencyCopy

__all__ = [
    "METRIC", "Checkpoints", "averaged_steps", "config_at", "find_step", "is_average", "load_items", "load_params",
    "load_record", "load_state", "saved_steps", "selection_loss",
]  # fmt: skip

_NOT_SAVED = ("bad_step", "active")
_PARTIAL = ".orbax-checkpoint-tmp"
_MIN_SLICE_BYTES = 1 << 20


class Checkpoints:
    """Saves the checkpoints of a run that trains, and restores the newest.

    It keeps the newest train.keep_newest checkpoints and, where the config has these keys, the train.keep_best with the
    lowest `selection_loss` among those that were evaluated at their own step, and every train.keep_every-th step.

    Args:
      workdir: the run's workdir.
      config: the run's config; reads train.keep_*.
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
        self._directory = checkpoint_files.checkpoint_directory(workdir)
        self._train = config.train
        self._say = say
        self._best_metric = best_metric
        self._saving: int | None = None
        folder = config.train.get("emergency_dir")
        self._emergency = EmergencyCopy(folder, workdir, say) if folder else None
        self._hurries, self._copied = False, 0
        self._manager: Any = None  # Orbax's

    def restore(self, template: Mapping) -> tuple[dict, int] | None:
        """Returns the newest whole checkpoint and its step; None if there is no checkpoint yet.

        Damaged ones that are newer are moved aside to corrupt-STEP, in gs:// beside checkpoints/. Process 0 looks, and
        decides for all.

        Args:
          template: {"params", "opt_state", ...}, trees of arrays or ShapeDtypeStructs with shardings.

        Raises:
          UserError: there are checkpoints, and every one is damaged.
        """
        step = distributed.broadcast(self._newest_whole)
        if step is None:
            if self._emergency:
                self._emergency.remove()  # an earlier run in this workdir may have left it
            return None
        return self._restore_copy(template, step) or (_restore(self._directory / str(step), template), step)

    def _restore_copy(self, template, newest):
        """Returns (state, step) of an emergency copy that is newer, once it is a checkpoint; None without one."""
        saved = {name: tree for name, tree in template.items() if name not in _NOT_SAVED}
        copy = self._emergency and self._emergency.load(saved, newest)
        if not copy:
            return None
        state, step, record = copy
        self._say(f"goes on from the copy of step {step} in {self._train.emergency_dir}, which is saved first")
        self.save(step, state, record=record)
        self.finish_save()
        return (state, step) if distributed.broadcast(self.newest) == step else None

    def _newest_whole(self):
        damaged = []
        for step in reversed(saved_steps(self._directory)):
            damage = checkpoint_files.damage(self._directory / str(step))
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
          step: number of steps done.
          state: {"params", "opt_state", ...}; may be donated as soon as this returns.
          metrics: the evaluation at this very step, if there was one.
          record: JSON values that belong to the step; `load_record` returns them.

        Raises:
          UserError: with several processes, saving cannot begin.
        """
        if self._emergency and self._hurries:  # before it waits for a checkpoint that is under way
            self._emergency.save(step, {name: state[name] for name in state if name not in _NOT_SAVED}, record)
            self._copied = step
        self.finish_save()
        ocp = _orbax()
        loss = selection_loss(metrics or {}, self._best_metric)
        items: dict[str, Any] = {name: ocp.args.StandardSave(state[name]) for name in state if name not in _NOT_SAVED}
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
            reason = checkpoint_files.reason_of(error)
            if distributed.is_multiprocess():  # which are out of step from here on
                raise UserError(f"the checkpoint of step {step} cannot be saved: {reason}") from error
            self._failed(reason)
            self._saving = None

    def hurry(self) -> None:
        """Makes the next save write to config.train.emergency_dir first, as the process may be ended during it."""
        self._hurries = True

    def finish_save(self, wait: bool = True) -> None:
        """Reports a save that failed; waits for one that is under way, unless `wait` is False.

        Several processes do this together, and always wait: a save that failed in one of them has failed.
        """
        if self._saving is None:
            return
        if not wait and (distributed.is_multiprocess() or self._manager.is_saving_in_progress()):
            return
        reason = ""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            reason = checkpoint_files.reason_of(error)
            distributed.cancel(f"save/{self._saving}", reason)  # the others may wait for this process
        reasons = [reason for reason in distributed.all_gather(reason) if reason]
        if reasons:
            self._failed(reasons[0])
        elif self._emergency and self._saving >= self._copied:
            self._emergency.remove()
        self._saving = None

    settle = finish_save  # the method's name in earlier versions

    def newest(self) -> int | None:
        """Returns the step of the newest checkpoint that is complete; None if there is none."""
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
            ocp = _orbax()
            policies = ocp.checkpoint_managers
            keep: list[Any] = [policies.LatestN(self._train.keep_newest)]
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
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal, barrier_sync_fn=self._barrier),
            )
            self._manager = ocp.CheckpointManager(epath.Path(self._directory), options=options)
        return self._manager

    def _set_unreadable_aside(self):
        for step in saved_steps(self._directory):
            if checkpoint_files.evaluated_loss(self._directory / str(step)) is checkpoint_files.UNREADABLE:
                self._set_aside(step, "metrics cannot be read")  # Orbax would not start

    def _seal(self):
        """Writes the manifest into the checkpoint that Orbax is about to rename; of several processes, one does.

        In gs:// the checkpoint is read back for it, so that what is stored is what was checked.
        """
        if self._saving is not None:
            checkpoint_files.write_manifest(self._partial(), self._saving)

    def _partial(self):
        """Returns the directory that Orbax writes a checkpoint into while it is being saved."""
        return self._directory / f"{self._saving}{'' if storage.is_remote(self._directory) else _PARTIAL}"

    def _barrier(self, *, key, timeout_ms):
        """Makes the processes wait for each other while they save, until one of them has failed."""
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
        number = 1
        while aside.exists():
            number += 1
            aside = folder / f"corrupt-{step}-{number}"
        try:
            with storage.reporting(str(folder)):
                (self._directory / str(step)).rename(aside)  # in gs:// copied, then removed
        except OSError as error:
            raise UserError(f"{self._directory}: cannot be written: {error.strerror or error}") from error
        self._say(f"warning: the checkpoint of step {step} is damaged ({reason}); moved to {aside}")


def selection_loss(metrics: Mapping[str, float], best_metric: str = METRIC) -> float:
    """Returns the metric that chooses the best checkpoint; NaN where it was not evaluated."""
    return metrics.get(best_metric, math.nan)


def load_params(
    workdir: str | os.PathLike, step: int | str | None = None
) -> tuple[dict, ml_collections.ConfigDict, int]:
    """Reads a run's parameters, without optimizer state, onto the default device; needs no corpus.

    Args:
      workdir: the run's workdir.
      step: as in `find_step`, or an average as in `averaged_steps`.

    Returns:
      (params, the config that the run has at this step, step; of a mean the newest).

    Raises:
      UserError: no such run or checkpoint, or it is damaged.
    """
    workdir = workdir_lib.to_path(workdir)
    workdir_lib.read(workdir)  # which says that there is no run before it is said that it has no checkpoint
    if is_average(step):
        return _average(workdir, str(step))
    step = find_step(workdir, step)
    return load_items(workdir, step, ["params"])["params"], config_at(workdir, step), step


def averaged_steps(workdir: pathlib.Path, step: str) -> list[int]:
    """Returns the steps of the checkpoints that an average is taken of, ascending.

    Args:
      workdir: the run's workdir.
      step: "mean:K" for the mean of the parameters of the newest K checkpoints, or "ema:DECAY" for the average of all
        that have the model of the newest, each of which weighs DECAY times as much as the one after it.

    Raises:
      UserError: as in checkpoint_files, or "mean:K" reaches into a phase with another model.
    """
    steps = checkpoint_files.averaged_steps(workdir, step)
    models = [config_at(workdir, saved).model.to_dict() for saved in steps]
    alike = [saved for saved, model in zip(steps, models, strict=True) if model == models[-1]]
    if alike != steps and not step.startswith("ema:"):
        raise UserError(
            f"{workdir}: the checkpoints {', '.join(map(str, steps))} are of phases with other models (such as other "
            "rotary bases); expected fewer, all of the last phase"
        )
    return alike


def _average(workdir, step):
    steps, total = averaged_steps(workdir, step), None
    weights = checkpoint_files.average_weights(step, len(steps))
    for saved, weight in zip(steps, weights, strict=True):
        params = jax.tree.map(lambda leaf, w=weight: w * leaf, load_items(workdir, saved, ["params"])["params"])
        total = params if total is None else jax.tree.map(lambda a, b: a + b, total, params)
    return jax.tree.map(lambda leaf: leaf / sum(weights), total), config_at(workdir, steps[-1]), steps[-1]


def config_at(workdir: pathlib.Path, step: int) -> ml_collections.ConfigDict:
    """Returns the config of a run as it is at one of its checkpoints: with what the checkpoint's phase sets."""
    config = workdir_lib.read(workdir)[1]
    if "task" in config or not (checkpoint_files.checkpoint_directory(workdir) / str(step) / "record").is_dir():
        return config
    for name, value in load_record(workdir, step).get("settings", {}).items():
        group, _, key = name.partition(".")
        config[group][key] = value
    return config


def load_state(workdir: pathlib.Path, step: int, template: Mapping) -> dict:
    """Reads items of a checkpoint onto the devices of a mesh.

    Args:
      workdir: the run's workdir.
      step: the checkpoint's step.
      template: {"params", "opt_state"}, trees of ShapeDtypeStructs with shardings.

    Raises:
      UserError: the checkpoint is damaged.
    """
    path = checkpoint_files.checkpoint_directory(workdir) / str(step)
    damage = distributed.broadcast(lambda: checkpoint_files.damage(path))
    if damage is not None:
        raise UserError(f"{path}: damaged ({damage}); expected another checkpoint of the run")
    return _restore(path, template)


def load_items(workdir: pathlib.Path, step: int, names: Sequence[str]) -> dict:
    """Reads some items of a checkpoint, such as "params", onto the default device; {} for one that was not saved.

    Raises:
      UserError: one of them is damaged.
    """
    directory = checkpoint_files.checkpoint_directory(workdir)
    path = directory / str(step)
    ocp = _orbax()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = {}
    for name in names:
        damage = checkpoint_files.damage(path, name)
        if damage is not None:
            steps = ", ".join(map(str, saved_steps(directory)))
            raise UserError(f"{path}: damaged ({damage}); the run has the steps {steps}")
        if (path / name).is_dir():
            stored = ocp.StandardCheckpointHandler().metadata(epath.Path(path / name)).tree
            template[name] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                stored if isinstance(stored, Sequence) else dict(stored),  # "opt_state" is a sequence
            )
    return dict.fromkeys(names, {}) | _restore(path, template)


def _restore(path, template):
    ocp = _orbax()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = {name: ocp.args.StandardRestore(template[name]) for name in template if name not in _NOT_SAVED}
        return dict(checkpointer.restore(epath.Path(path), args=ocp.args.Composite(**items)))


def _orbax():
    """Imports Orbax and sets it up. Returns the module."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers  # noqa: F401

    # Its reports of a full disk, hundreds of lines, would bury the one that matters.
    absl_logging.get_absl_logger().addFilter(_is_not_from_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_left_over)
    sys.unraisablehook = _unraisable
    # By default it cuts every array, however small, into a slice per replica, each a program of its own.
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    return ocp


def _is_not_from_orbax(record):
    return "orbax" not in record.pathname


def _is_not_left_over(record):
    """Returns whether a message is no late failure of a save, which orbax leaves to asyncio."""
    return "exception was never retrieved" not in record.getMessage()


def _unraisable(unraisable):
    """Hides that a write which fails after its save was given up finds no event loop to tell."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)


def __getattr__(name):
    return _moved.find("runs.checkpoints", name)
