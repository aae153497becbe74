"""Several processes as one run: how they find each other, agree, and end together.

A program calls `initialize` before it uses jax; on one process everything here is a plain function call. What the
processes tell each other goes through the coordination service of jax.distributed, which process 0 runs: it works
while devices compute, knows a time-out, and ends every process where one stops answering.
"""

import atexit
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.processes import clusters, private_jax

T = TypeVar("T")
_state = private_jax.coordination_state()
CONNECT_SECONDS = 300  # for all processes to come
_PATIENCE_MS = 24 * 3600 * 1000  # for another's work; a process that dies meanwhile is noticed by jax
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5  # to end by oneself when another process has ended in an error
_NAMES = itertools.count()
_leaving, _ended = threading.Event(), threading.Event()


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    connect_seconds: int = CONNECT_SECONDS,
) -> None:
    """Joins this process to the others of its run, if there are others; to be called before jax is used.

    Without arguments the environment decides, see clusters.py; with nothing found there, one process runs alone.

    Args:
      coordinator_address: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this one, from 0.
      connect_seconds: to wait for the other processes.

    Raises:
      UserError: the arguments or the environment contradict themselves, or process 0 cannot be reached.
    """
    found = clusters.detect(os.environ, coordinator_address, num_processes, process_id)
    if found is None or jax.distributed.is_initialized():
        return
    # Its handler of SIGTERM would take the place of the one that ends training with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    clusters.check_coordinator(found, connect_seconds)
    late = threading.Timer(connect_seconds, _say_who_is_late, [found, connect_seconds])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            found.coordinator_address,
            found.num_processes,
            found.process_id,
            list(found.local_device_ids) or None,
            cluster_detection_method="deactivate",
            initialization_timeout=connect_seconds + 60,  # it would end the process without a word
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{found.source}: {found}; jax.distributed: {str(error).splitlines()[0]}") from error
    finally:
        late.cancel()
    watch = threading.Thread(target=_end_with_the_others, daemon=True)
    watch.start()
    atexit.register(lambda: (_ended.set(), watch.join()))  # no thread may be in a call while Python ends


def is_first() -> bool:
    """Whether this process is the one that logs and writes what is written once."""
    return _state.process_id == 0


def broadcast(make: Callable[[], T]) -> T:
    """What process 0 makes, on every process; a JSON value.

    Raises:
      UserError: on every process, if process 0 raised it.
    """
    client = _state.client
    if client is None:
        return make()
    name = _name("agreed")
    if not is_first():
        return _opened(client.blocking_key_value_get(name, _PATIENCE_MS))
    try:
        value = {"value": make()}
    except UserError as error:
        client.key_value_set(name, json.dumps({"error": str(error)}))
        raise
    client.key_value_set(name, json.dumps(value))
    return value["value"]


def run_on_first(do: Callable[[], object]) -> None:
    """Process 0 does it, and the others wait until it is done. Raises UserError as `broadcast` does."""
    broadcast(lambda: (do(), None)[1])


def first_then_all(make: Callable[[], T]) -> T:
    """Every process makes it; the others once process 0 has, so that they find what it left on the disk."""
    made = make() if is_first() else None
    broadcast(lambda: None)
    return made if is_first() else make()


def all_gather(value: Any) -> list:
    """Each process's JSON value, in the order of processes, on every process."""
    client = _state.client
    if client is None:
        return [value]
    name = _name("gathered")
    client.key_value_set(f"{name}/{_state.process_id:06}", json.dumps(value))
    client.wait_at_barrier(name, _PATIENCE_MS)
    return [json.loads(told) for _, told in sorted(client.key_value_dir_get(name))]


def raise_on_all(message: str) -> None:
    """Raises UserError, on every process, if any gives a message; the first one's."""
    said = [one for one in all_gather(message) if one]
    if said:
        raise UserError(said[0])


def check_same(values: Mapping[str, Any]) -> None:
    """Raises UserError, on every process, if a process has not the values that process 0 has; JSON values, by name."""
    mine = json.loads(json.dumps(dict(values)))
    wanted = broadcast(lambda: mine)
    odd = [name for name in wanted | mine if wanted.get(name) != mine.get(name)]
    raise_on_all(
        "".join(
            f"{process_label()}{name}: found {mine.get(name)!r}; process 0 has {wanted.get(name)!r}" for name in odd[:1]
        )
    )


def barrier(what: str, name: str, seconds: float) -> None:
    """Waits, in any thread, for every process to come to the meeting of this name.

    Raises:
      RuntimeError: a process has called off `what`, with its reason, or they have not come in time.
    """
    if not is_multiprocess():
        return
    _set(_state.client, f"bert_jax/meeting/{name}/{_state.process_id}", "")
    until = time.monotonic() + seconds
    while len(_all(_state.client, f"bert_jax/meeting/{name}")) < _state.num_processes:
        if reason := _get(_state.client, f"bert_jax/off/{what}"):
            raise RuntimeError(reason)
        if time.monotonic() > until:
            raise RuntimeError(f"not every process came within {seconds:g} seconds")
        time.sleep(_POLL_SECONDS / 10)


def cancel(what: str, reason: str) -> None:
    """Ends the meetings about `what`, on every process."""
    if is_multiprocess():
        _set(_state.client, f"bert_jax/off/{what}", reason)


class StopNotice:
    """A word that any process may give, and a step after which all have heard it.

    Each process tells its own `after` how many steps it has done. Once any has given the word, they exchange these
    numbers in the background; no process goes on meanwhile, so the largest of them is one that none has passed.
    """

    def __init__(self):
        self._name = _name("notice")
        self._client = _state.client
        self._lock = threading.Lock()
        self._mine = self._heard = ""
        self._done, self._at = -1, None
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        if self._client is not None:
            self._listener.start()

    def request_stop(self, reason: str) -> None:
        self._mine = self._mine or reason

    def after(self, done: int) -> str:
        """The word, if all processes hear it after this step; "" before."""
        if self._client is None:
            return self._mine
        with self._lock:
            self._done = done
            return self._heard if self._at is not None and done >= self._at else ""

    def close(self) -> None:
        """Ends it; for the other processes, this one has done what it last told."""
        self._closed.set()
        if self._client is not None:
            self._listener.join()
            _set(self._client, f"{self._name}/done/{_state.process_id}", str(self._done))

    def _listen(self):
        while not self._closed.wait(_POLL_SECONDS):
            if self._mine:
                _set(self._client, f"{self._name}/word", self._mine)
            if word := _get(self._client, f"{self._name}/word"):
                with self._lock:
                    self._agree(word)
                return

    def _agree(self, word):
        _set(self._client, f"{self._name}/done/{_state.process_id}", str(self._done))
        while not self._closed.is_set():
            told = self._client.key_value_dir_get(f"{self._name}/done")
            if len(told) == _state.num_processes:
                self._heard, self._at = word, 1 + max(int(done) for _, done in told)
                return
            time.sleep(_POLL_SECONDS / 10)


def is_multiprocess() -> bool:
    """Whether this process is one of several of its run."""
    return _state.client is not None


def reports_errors() -> bool:
    """Whether this process, which ends in an error, is to say so: the first to ask is. It tells the others to end."""
    _leaving.set()
    return _set(_state.client, "bert_jax/error", str(_state.process_id))


def exit_now(code: int) -> None:
    """Ends this process after an error, without waiting for work that others have part in."""
    client = _state.client
    _leaving.set()
    sys.stdout.flush()
    sys.stderr.flush()
    _set(client, f"bert_jax/left/{_state.process_id}", "")
    if is_first():  # which runs the service: without it the others would end in an error of their own
        wait_until = time.monotonic() + _GRACE_SECONDS + 2
        while time.monotonic() < wait_until and len(_all(client, "bert_jax/left")) < _state.num_processes:
            time.sleep(_POLL_SECONDS / 10)
        time.sleep(_POLL_SECONDS)
    os._exit(code)


def process_label() -> str:
    """Which process this is, in words, for a message; "" of process 0, and of one alone."""
    return "" if _state.process_id == 0 else f"process {_state.process_id} of {_state.num_processes}: "


def _end_with_the_others():
    """Ends this process where another ended in an error, unless it does so by itself."""
    while not _ended.wait(_POLL_SECONDS):
        if _get(_state.client, "bert_jax/error"):
            if not _leaving.wait(_GRACE_SECONDS):
                exit_now(2)
            return


def _say_who_is_late(found, seconds):
    print(
        f"error: {found.source}: after {seconds} seconds not all of {found.num_processes} processes have come to "
        f"{found.coordinator_address} (this is process {found.process_id}); expected each of them, started with the "
        "same coordinator and number of processes and an id of its own",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _name(kind):
    # Processes ask in the same order, so that the n-th question of each is the same one.
    return f"bert_jax/{kind}/{next(_NAMES)}"


def _opened(text):
    told = json.loads(text)
    if "error" in told:
        raise UserError(told["error"])
    return told["value"]


def _set(client, key, value):
    """Whether this was the first to set the key."""
    try:
        client.key_value_set(key, value)
        return True
    except jax.errors.JaxRuntimeError:
        return False


def _get(client, key):
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # not set
        return ""


def _all(client, folder):
    """The keys in a folder with their values."""
    try:
        return client.key_value_dir_get(folder)
    except jax.errors.JaxRuntimeError:  # none is set
        return []


def __getattr__(name):
    return _moved.find("processes.distributed", name)
