"""Keeps a copy of a state on each host's own disk, for a run that is ended before its checkpoint is stored far away.

    FOLDER/NAME/process-N.bin     arrays of process N, one after another: each distinct part that its devices hold
    FOLDER/NAME/process-N.json    run, step, record, and name, place, dtype and CRC-32 of each part; written last

NAME is the workdir in characters of a file name. The run is recognised by an id that WORKDIR/emergency.json holds, so
that a copy left by another run in a workdir of the same name is not taken.
"""

import json
import os
import pathlib
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax import files, storage
from bert_jax.processes import distributed


class EmergencyCopy:
    """Writes and reads the copy of one run; every process of the run calls each method.

    Args:
      folder: config.train.emergency_dir, a local directory of each host.
      workdir: the run's workdir.
      say: called with each line that the user should see.
    """

    def __init__(self, folder: str, workdir: pathlib.Path, say: Callable[[str], None]):
        self._folder = pathlib.Path(folder) / re.sub(r"[^\w.-]+", "-", str(workdir)).strip("-")
        self._id_file, self._say = workdir / "emergency.json", say

    def save(self, step: int, state: Mapping, record: Mapping | None) -> None:
        """Writes this process's part of a state; what goes wrong costs a warning.

        Args:
          step: number of steps done.
          state: trees of jax arrays by name.
          record: JSON values that belong to the step.
        """
        try:
            run = distributed.broadcast(self._make_id)
            if not run:
                raise OSError(f"{self._id_file}: cannot be written")
            data, description = self._paths(distributed.process_number())
            self._folder.mkdir(parents=True, exist_ok=True)
            description.unlink(missing_ok=True)
            parts, offset = [], 0
            with open(data, "wb") as file:
                for name, leaf in _leaves(state):
                    for place, array in _parts(leaf):
                        content = array.tobytes()
                        file.write(content)
                        parts.append([name, place, str(array.dtype), offset, len(content), zlib.crc32(content)])
                        offset += len(content)
                file.flush()
                os.fsync(file.fileno())
            files.write_json(description, {"run": run, "step": step, "record": record, "parts": parts})
        except Exception as error:  # a disk or a storage: the checkpoint itself is still to be saved
            self._say(f"warning: {self._folder}: no copy of step {step}: {error}")

    def load(self, template: Mapping, newest: int) -> tuple[dict, int, Mapping | None] | None:
        """Returns (state, step, record) of a copy newer than the step `newest`, or None if not every process has it.

        Args:
          template: trees of arrays or ShapeDtypeStructs with shardings by name: the layout that the copy must have.
          newest: step of the workdir's newest whole checkpoint.
        """
        run = distributed.broadcast(self._read_id)
        copies = [copy for copy in map(self._described, self._numbers()) if run and copy.get("run") == run]
        copies = [copy for copy in copies if copy["step"] > newest]
        step = max((copy["step"] for copy in copies), default=-1)
        steps = distributed.all_gather(step)
        if max(steps) < 0:
            return None
        state = record = None
        for copy in copies if min(steps) == max(steps) else ():
            if copy["step"] == step and state is None:
                state, record = _read(copy, template), copy["record"]
        if not all(distributed.all_gather(state is not None)) or state is None:
            self._say(
                f"warning: {self._folder}: the copy of step {max(steps)} is damaged, not on every host, or of another "
                f"mesh; goes on from the checkpoint of step {newest}"
            )
            return None
        return state, step, record

    def remove(self) -> None:
        """Removes this process's part, if there is one."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self, number):
        return self._folder / f"process-{number}.bin", self._folder / f"process-{number}.json"

    def _numbers(self):
        """Returns the numbers of the processes that wrote on this host, this one's first: they may have changed."""
        names = [path.stem.rpartition("-")[2] for path in sorted(self._folder.glob("process-*.json"))]
        own = distributed.process_number()
        return sorted((int(name) for name in names if name.isdigit()), key=lambda number: (number != own, number))

    def _described(self, number):
        data, description = self._paths(number)
        try:
            return json.loads(description.read_bytes()) | {"data": data}
        except (OSError, ValueError):
            return {}

    def _read_id(self):
        try:
            return json.loads(storage.read(str(self._id_file)))["run"]
        except (OSError, ValueError, KeyError, TypeError):  # no file, or none of ours
            return ""

    def _make_id(self):
        run = self._read_id()
        if not run:
            run = uuid.uuid4().hex
            try:
                storage.write_json(self._id_file, {"run": run})
            except OSError:  # the other processes wait for an answer
                return ""
        return run


def _leaves(trees):
    """Yields (name, leaf) of trees by name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(trees)):
        yield jax.tree_util.keystr(path), leaf


def _place(index, shape):
    """Returns the bounds of a part in each dimension as JSON values: [[start, stop], ...]."""
    return [list(part.indices(size)[:2]) for part, size in zip(index, shape, strict=True)]


def _parts(leaf):
    """Yields (place, numpy array) of each distinct part of an array that this process's devices hold."""
    places = []
    for shard in leaf.addressable_shards:
        place = _place(shard.index, leaf.shape)
        if place not in places:
            places.append(place)
            yield place, np.asarray(shard.data)


def _read(copy, template) -> dict[str, Any] | None:
    """Returns the trees of a copy on the devices of the template; None if it does not have all parts, whole."""
    parts = {(name, json.dumps(place)): rest for name, place, *rest in copy["parts"]}
    arrays = {}
    try:
        with open(copy["data"], "rb") as file:
            for name, leaf in _leaves(template):
                for index in leaf.sharding.addressable_devices_indices_map(leaf.shape).values():
                    place = _place(index, leaf.shape)
                    key = name, json.dumps(place)
                    if key in arrays:
                        continue
                    dtype, offset, size, crc = parts[key]
                    file.seek(offset)
                    content = file.read(size)
                    if zlib.crc32(content) != crc or dtype != str(leaf.dtype):
                        return None
                    shape = [stop - start for start, stop in place]
                    arrays[key] = np.frombuffer(content, leaf.dtype).reshape(shape)
    except (OSError, KeyError):
        return None
    leaves = [
        jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda i, n=name, s=leaf.shape: arrays[n, json.dumps(_place(i, s))]
        )
        for name, leaf in _leaves(template)
    ]
    return jax.tree.unflatten(jax.tree.structure(dict(template)), leaves)
