"""Ends a process whose training step hangs, after it has written where each of its threads is.

A collective waits for ever where another host has died, stalled or taken another path; a file system or a driver may do
the same to one host. The launcher sees processes that run, and nobody looks until the next morning.
"""

import contextlib
import faulthandler
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable

from bert_jax import storage
from bert_jax.processes import distributed

EXIT_CODE = 75  # EX_TEMPFAIL in sysexits.h: a failure that starting again may mend
# Compilation, evaluation, checkpoints and the log take longer than steps, and nobody knows beforehand how long.
OTHER_TIMES, OTHER_LEAST = 10, 3600.0
_STEPS = ("data", "step")
_TICK = 0.5  # seconds between two looks
_LAST_SECONDS = 30.0  # that the other processes have to write theirs
_WRITE_SECONDS = 5.0  # that a file or the other processes are waited for; what hangs may be the file system


class Watchdog:
    """Watches the steps of this process in a thread, while inside, and ends the process where they stand still.

    Time is counted while `position` stays the same. Waiting for data and a step may take `seconds`; any other activity
    ten times as long and at least an hour. Time in which the whole process was suspended does not count.

    The stacks of all threads then go to FOLDER/hang-PROCESS.txt (standard error where the folder is remote or cannot be
    written), a line to standard error, and the process ends with code 75, without a checkpoint: its devices may answer
    no more. Where there are several processes, the first that hangs makes the others write their stacks too and end.

    Args:
      seconds: longest time of a step; 0 starts no thread.
      folder: the run's workdir.
      position: returns (activity, steps done) at this moment; called in the thread.
      other_least: least time that other activities may take, in seconds.
    """

    def __init__(
        self,
        seconds: float,
        folder: pathlib.Path,
        position: Callable[[], tuple[str, int]],
        other_least: float = OTHER_LEAST,
    ):
        self._seconds, self._folder, self._position = seconds, folder, position
        self._other_seconds = max(OTHER_TIMES * seconds, other_least)
        self._closed = threading.Event()
        self._elsewhere = ""  # what another process says of its hang
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if distributed.is_multiprocess():  # apart, as asking blocks where process 0 is what hangs
            self._threads.append(threading.Thread(target=self._listen, name="watchdog-listens", daemon=True))

    def __enter__(self):
        for thread in self._threads if self._seconds else ():
            thread.start()
        return self

    def __exit__(self, *exception):
        self._closed.set()
        for thread in self._threads if self._seconds else ():
            thread.join(_WRITE_SECONDS)

    def _listen(self):
        while not (self._elsewhere or self._closed.wait(_TICK)):
            self._elsewhere = distributed.hang()

    def _watch(self):
        before, waited, since = None, 0.0, time.monotonic()
        while not self._closed.wait(min(_TICK, self._seconds / 4)):
            now = time.monotonic()
            position, passed = self._position(), min(now - since, 2 * _TICK)  # more has passed if it was suspended
            waited, before, since = waited + passed if position == before else 0.0, position, now
            activity, done = position
            limit = self._seconds if activity in _STEPS else self._other_seconds
            if waited > limit:
                self._end(
                    f"{distributed.process_label()}no step has ended for {waited:,.0f} seconds, after step {done:,} "
                    f"(in: {activity}; config.train.hang_seconds={self._seconds:g})"
                )
            if self._elsewhere:
                label = distributed.process_label()
                self._end(f"{label}ends with another process ({self._elsewhere}); here, in: {activity}")

    def _end(self, message):
        distributed.claim_exit()
        place = self._write(message)
        _within(_WRITE_SECONDS, lambda: distributed.report_hang(message))
        print(f"error: {message}; stacks of all threads: {place}; ended with code {EXIT_CODE}", file=sys.stderr)
        sys.stderr.flush()
        # A process that ends closes connections (process 0 the service itself), which is an error in all others: none
        # leaves before they have written theirs, or have had the time to.
        _within(_LAST_SECONDS, lambda: _wait_until(distributed.all_report_hang))
        distributed.exit_now(EXIT_CODE)

    def _write(self, message):
        """Writes the stacks, and returns where."""
        path = self._folder / f"hang-{distributed.process_number()}.txt"

        def write():
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {socket.gethostname()}: {message}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)

        if not storage.is_remote(self._folder) and _within(_WRITE_SECONDS, write):
            return path
        faulthandler.dump_traceback(2, all_threads=True)  # the file of standard error, whatever sys.stderr is now
        return "above"


def _wait_until(condition):
    while not condition():
        time.sleep(_TICK / 10)


def _within(seconds, action):
    """Runs an action on a thread of its own; returns whether it succeeded in this time."""
    succeeded = threading.Event()

    def act():
        with contextlib.suppress(Exception):
            action()
            succeeded.set()

    threading.Thread(target=act, daemon=True).start()
    return succeeded.wait(seconds)
