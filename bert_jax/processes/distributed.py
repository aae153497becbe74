"""Coordinates the processes of a run: they join, exchange values, wait for each other, and end together.

A program calls `initialize` before it uses jax; with one process everything here is a plain function call. Values are
exchanged through the coordination service of jax.distributed, which process 0 runs: it works while devices compute, has
a time-out, and ends every process when one stops answering.
"""

import atexit
import contextlib
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
CONNECT_SECONDS = 300  # until all processes have joined
_PATIENCE_MS = 24 * 3600 * 1000  # until another process has done its work; jax notices one that dies meanwhile
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5  # until a process is ended because another one has ended in an error
_NAMES = itertools.count()
_leaving, _ended = threading.Event(), threading.Event()
_exit = threading.RLock()  # held, until the process has ended, by the thread that decides with which code


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    connect_seconds: int = CONNECT_SECONDS,
) -> None:
    """Joins this process to the others of its run, if there are others; call it before jax is used.

    Without arguments the environment decides, see clusters.py; if it says nothing, this process runs alone.

    Args:
      coordinator_address: HOST:PORT of process 0.
      num_processes: number of processes of the run.
      process_id: number of this process, from 0.
      connect_seconds: seconds to wait for the other processes.

    Raises:
      UserError: the arguments or the environment contradict themselves, or process 0 cannot be reached.
    """
    processes = clusters.detect(os.environ, coordinator_address, num_processes, process_id)
    if processes is None or jax.distributed.is_initialized():
        return
    # jax's handler of SIGTERM would replace the one that ends training with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    clusters.check_coordinator(processes, connect_seconds)
    late = threading.Timer(connect_seconds, _exit_when_late, [processes, connect_seconds])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            processes.coordinator_address,
            processes.num_processes,
            processes.process_id,
            list(processes.local_device_ids) or None,
            cluster_detection_method="deactivate",
            initialization_timeout=connect_seconds + 60,  # at which jax would end the process without a message
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{processes.source}: {processes}; jax.distributed: {str(error).splitlines()[0]}") from error
    finally:
        late.cancel()
    watch = threading.Thread(target=_end_with_the_others, daemon=True)
    watch.start()
    atexit.register(lambda: (_ended.set(), watch.join()))  # no thread may be in a call while Python ends


def is_first() -> bool:
    """Returns whether this is process 0, which logs and writes what is written once."""
    return _state.process_id == 0


def broadcast(make: Callable[[], T]) -> T:
    """Runs `make` on process 0 and returns its result, a JSON value, on every process.

    Raises:
      UserError: on every process, if process 0 raised it.
    """
    client = _state.client
    if client is None:
        return make()
    name = _name("agreed")
    if not is_first():
        return _value_or_raise(client.blocking_key_value_get(name, _PATIENCE_MS))
    try:
        value = {"value": make()}
    except UserError as error:
        client.key_value_set(name, json.dumps({"error": str(error)}))
        raise
    client.key_value_set(name, json.dumps(value))
    return value["value"]


def run_on_first(do: Callable[[], object]) -> None:
    """Runs `do` on process 0 while the others wait. Raises UserError on every process if process 0 raised it."""
    broadcast(lambda: (do(), None)[1])


def first_then_all(make: Callable[[], T]) -> T:
    """Runs `make` on every process, on process 0 first, so that the others find the files that it wrote."""
    if is_first():
        result = make()
        broadcast(lambda: None)
        return result
    broadcast(lambda: None)
    return make()


def all_gather(value: Any) -> list:
    """Returns, on every process, the JSON values of all processes in the order of their numbers."""
    client = _state.client
    if client is None:
        return [value]
    name = _name("gathered")
    client.key_value_set(f"{name}/{_state.process_id:06}", json.dumps(value))
    client.wait_at_barrier(name, _PATIENCE_MS)
    return [json.loads(text) for _, text in sorted(client.key_value_dir_get(name))]


def raise_on_all(message: str) -> None:
    """Raises UserError on every process if any process gives a message: the message of the first that does."""
    messages = [text for text in all_gather(message) if text]
    if messages:
        raise UserError(messages[0])


def check_same(values: Mapping[str, Any]) -> None:
    """Raises UserError on every process if the values of one differ from those of process 0; JSON values, by name."""
    own = json.loads(json.dumps(dict(values)))
    expected = broadcast(lambda: own)
    different = [name for name in expected | own if expected.get(name) != own.get(name)]
    label = process_label()
    raise_on_all(
        "".join(
            f"{label}{name}: found {own.get(name)!r}; process 0 has {expected.get(name)!r}" for name in different[:1]
        )
    )


@_moved.renamed_arguments(what="work")
def barrier(work: str, name: str, seconds: float) -> None:
    """Waits, in any thread, until every process has reached the barrier of this name.

    Args:
      work: the work that the barrier belongs to, which `cancel` names.
      name: the barrier, used once.
      seconds: time to wait.

    Raises:
      RuntimeError: a process has cancelled `work`, with its reason, or they have not come in time.
    """
    if not is_multiprocess():
        return
    _set(_state.client, f"bert_jax/meeting/{name}/{_state.process_id}", "")
    until = time.monotonic() + seconds
    while len(_all(_state.client, f"bert_jax/meeting/{name}")) < _state.num_processes:
        if reason := _get(_state.client, f"bert_jax/off/{work}"):
            raise RuntimeError(reason)
        if time.monotonic() > until:
            raise RuntimeError(f"not every process came within {seconds:g} seconds")
        time.sleep(_POLL_SECONDS / 10)


@_moved.renamed_arguments(what="work")
def cancel(work: str, reason: str) -> None:
    """Makes the barriers of `work` raise RuntimeError with the reason, on every process."""
    if is_multiprocess():
        _set(_state.client, f"bert_jax/off/{work}", reason)


def post(name: str, value: Any) -> None:
    """Publishes a JSON value of this process under a name, in place of its last one; waits for no other process."""
    if is_multiprocess():
        _state.client.key_value_set(f"bert_jax/posted/{name}/{_state.process_id:06}", json.dumps(value), True)


def posted(name: str) -> dict[int, Any]:
    """Returns the newest values that processes have published under a name, by their numbers; {} for one alone."""
    values = _all(_state.client, f"bert_jax/posted/{name}") if is_multiprocess() else []
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in values}


def report_hang(message: str) -> None:
    """Tells the other processes that this one hangs; the first message counts. May block if process 0 is what hangs."""
    if is_multiprocess():
        _set(_state.client, "bert_jax/hang", message)
        post("hang", message)


def all_report_hang() -> bool:
    """Returns whether every process has called `report_hang`. May block if process 0 is what hangs."""
    return not is_multiprocess() or len(posted("hang")) == number_of_processes()


def hang() -> str:
    """Returns the message of the first process that hangs; "" if none does."""
    return _get(_state.client, "bert_jax/hang") if is_multiprocess() else ""


class StopNotice:
    """Lets any process request a stop, and lets all of them stop after the same step.

    Each process says in `after` how many steps it has done. Once a stop is requested, the processes exchange these
    numbers in the background. Nobody returns from `after` meanwhile, so no process has passed the step after the
    largest number, and all stop there.
    """

    def __init__(self):
        self._name = _name("notice")
        self._client = _state.client
        self._lock = threading.Lock()
        self._own = self._heard = ""
        self._done = -1
        self._at: int | None = None
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        if self._client is not None:
            self._listener.start()

    @_moved.renamed_arguments(word="reason")
    def request_stop(self, reason: str) -> None:
        """Requests a stop; the first reason counts. Returns at once."""
        self._own = self._own or reason

    give = request_stop  # the method's name in earlier versions

    def after(self, done: int) -> str:
        """Returns the reason to stop after `done` steps; "" to go on. Every process must ask after every step."""
        if self._client is None:
            return self._own
        with self._lock:
            self._done = done
            return self._heard if self._at is not None and done >= self._at else ""

    def close(self) -> None:
        """Stops listening; the other processes take the last number of steps said as final."""
        self._closed.set()
        if self._client is not None:
            self._listener.join()
            _set(self._client, f"{self._name}/done/{_state.process_id}", str(self._done))

    def _listen(self):
        while not self._closed.wait(_POLL_SECONDS):
            if self._own:
                _set(self._client, f"{self._name}/reason", self._own)
            if reason := _get(self._client, f"{self._name}/reason"):
                with self._lock:
                    self._agree(reason)
                return

    def _agree(self, reason):
        _set(self._client, f"{self._name}/done/{_state.process_id}", str(self._done))
        while not self._closed.is_set():
            counts = self._client.key_value_dir_get(f"{self._name}/done")
            if len(counts) == _state.num_processes:
                self._heard, self._at = reason, 1 + max(int(done) for _, done in counts)
                return
            time.sleep(_POLL_SECONDS / 10)


class RepeatedNotice:
    """Lets any process request something, again and again; all of them hear of each request after the same step."""

    def __init__(self):
        self._notice = StopNotice()

    def request(self, reason: str) -> None:
        """Requests it; what is requested while another request is being agreed on counts as the same."""
        self._notice.request_stop(reason)

    def after(self, done: int) -> str:
        """Returns the reason of a request that is due after `done` steps, once; every process asks after every step."""
        reason = self._notice.after(done)
        if reason:  # on every process, so that their next notices have the same name
            self._notice.close()
            self._notice = StopNotice()
        return reason

    def close(self) -> None:
        """Stops listening."""
        self._notice.close()


def is_multiprocess() -> bool:
    """Returns whether the run has several processes."""
    return _state.client is not None


def claim_exit() -> None:
    """Makes this thread the one that ends the process; a later one waits here for ever, until the process has ended.

    A thread in a collective gets an error once another process has left, and would end this one with another code.
    """
    _exit.acquire()
    _leaving.set()


def reports_errors() -> bool:
    """Returns whether this process reports the error that it ends in: the first that asks does, and the others end."""
    claim_exit()
    return _set(_state.client, "bert_jax/error", str(_state.process_id))


def exit_now(code: int) -> None:
    """Ends this process after an error, without waiting for work that other processes share in."""
    claim_exit()
    latest = threading.Timer(_GRACE_SECONDS + 5, os._exit, [code])  # process 0 may not answer
    latest.daemon = True
    latest.start()
    with contextlib.suppress(OSError, ValueError):  # a reader that has left, or a closed file
        sys.stdout.flush()
        sys.stderr.flush()
    if is_multiprocess():
        _set(_state.client, f"bert_jax/left/{_state.process_id}", "")
        if is_first():  # it runs the coordination service, without which the others would end in another error
            wait_until = time.monotonic() + _GRACE_SECONDS + 2
            while time.monotonic() < wait_until and len(_all(_state.client, "bert_jax/left")) < _state.num_processes:
                time.sleep(_POLL_SECONDS / 10)
            time.sleep(2 * _POLL_SECONDS)  # what has said that it leaves may still be on its way out
    os._exit(code)


def process_number() -> int:
    """Returns the number of this process, from 0."""
    return _state.process_id


def number_of_processes() -> int:
    """Returns the number of processes of the run."""
    return _state.num_processes if is_multiprocess() else 1


def process_label() -> str:
    """Returns a prefix for messages, "process 1 of 4: "; "" for process 0 and for one process alone."""
    return "" if _state.process_id == 0 else f"process {_state.process_id} of {_state.num_processes}: "


def _end_with_the_others():
    """Ends this process once another has ended in an error, unless it ends by itself."""
    while not _ended.wait(_POLL_SECONDS):
        if _get(_state.client, "bert_jax/error"):
            if not _leaving.wait(_GRACE_SECONDS):
                exit_now(2)
            return


def _exit_when_late(processes, seconds):
    print(
        f"error: {processes.source}: after {seconds} seconds not all of {processes.num_processes} processes have come "
        f"to {processes.coordinator_address} (this is process {processes.process_id}); expected each of them, started "
        "with the same coordinator and number of processes and an id of its own",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _name(kind):
    # Processes ask in the same order, so that the n-th question of each is the same one.
    return f"bert_jax/{kind}/{next(_NAMES)}"


def _value_or_raise(text):
    result = json.loads(text)
    if "error" in result:
        raise UserError(result["error"])
    return result["value"]


def _set(client, key, value):
    """Sets a key that is not set yet. Returns whether it was not."""
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
    """Returns the keys of a folder with their values."""
    try:
        return client.key_value_dir_get(folder)
    except jax.errors.JaxRuntimeError:  # none is set
        return []


def __getattr__(name):
    return _moved.find("processes.distributed", name)
