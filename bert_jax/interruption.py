"""Ends a command at Ctrl-C, SIGTERM or SIGHUP, at whatever moment the signal comes.

Python runs its own signal handlers on the main thread, between two of its instructions: not while XLA compiles, and an
exception that a handler raises inside a callback of XLA is lost. Here Python's handler in C writes the signal's number
into a pipe, and a thread reads it. The thread gives the first signal to the part of the program that asked for it with
`catch`, such as the training loop, which then saves. Any other signal ends the process: a line on standard error,
unfinished files removed, exit code 128 + the signal's number (130, 143, 129). Python is not shut down for it: threads
of XLA may not outlive a Python that tidies up.

One event may send its signal twice: a terminal that closes sends SIGHUP from the shell and from the kernel, `timeout`
sends SIGTERM to its child and to the child's group. Such a repeat is no second signal, and is ignored (`_is_repeat`).

`import bert_jax` calls `listen` where the process is one of the commands, before anything slow is imported. In any
other program `catch` handles signals with Python's own means.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 5.0  # seconds that ending waits for a section that `uninterrupted` protects
_WRITE_SECONDS = 1.0  # that a reader of what is printed is waited for
# Seconds after a signal in which the same one counts as the same event. SIGINT has few, for a person who presses Ctrl-C
# twice; a terminal closes only once.
_REPEATED_WITHIN: dict[int, float] = {signal.SIGINT: 0.3, signal.SIGTERM: 1.0, signal.SIGHUP: math.inf}
_listening = False
_ending = False  # no threading.Event: a handler of a signal may interrupt its methods
_start = threading.Lock()  # only the first signal starts to end the process
_protected = threading.RLock()
_protector: threading.Thread | None = None  # holds _protected
_catchers: list["Caught"] = []
_messages: list[str] = []
_before_end: dict[object, Callable[[], object]] = {}
_noted: list[threading.Thread] = []  # that Python must not be shut down beside
_stopped = ""
_heard: dict[int, float] = {}  # when each signal came that was no repeat
_ignored: dict[int, float] = {}  # when a repeat of each signal came


def listen() -> None:
    """Makes the three signals end this process as described above; SIGHUP stays ignored under nohup.

    Only the main thread can begin to listen; later calls change nothing.
    """
    global _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        return
    _listening = True
    numbers, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(numbers,), name="signals", daemon=True).start()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_main_thread)
    sys.warnoptions.append("ignore:resource_tracker")  # multiprocessing's, of what an ended process has left to it
    os.register_at_fork(after_in_child=_forget)  # a child would write its signals into the pipe of its parent
    sys.excepthook = _unless_ending(sys.excepthook)
    threading.excepthook = _unless_ending(threading.excepthook)


class Caught:
    """Holds the signal that a block of `catch` has received.

    Attributes:
      number: the signal's number; 0 before it comes.
      acted: set by the block once it ends early because of the signal.
    """

    def __init__(self, receive: Callable[[int], bool | None]):
        self.number, self.acted = 0, False
        self._receive = receive

    def take(self, number: int) -> bool:
        """Takes the first signal, unless the block has no use for it. Returns whether it was taken."""
        if self.number or self._receive(number) is False:
            return False
        self.number = number
        return True


@contextlib.contextmanager
def catch(receive: Callable[[int], bool | None]) -> Iterator[Caught]:
    """Gives the first signal that comes while inside to `receive`; a second one, no repeat, ends the process at once.

    A signal that the block did not act on is delivered again when the block ends without an error.

    Args:
      receive: called with the signal's number, on any thread; returns False to have the process ended instead.
    """
    caught = Caught(receive)
    with _caught_by_listener(caught) if _listening else _caught_by_handlers(caught):
        yield caught
    if caught.number and not caught.acted:
        if _listening:
            _end_soon(caught.number)
            wait_if_ending()
        signal.raise_signal(caught.number)


@contextlib.contextmanager
def end_message(message: str) -> Iterator[None]:
    """Makes the line with which a signal ends the process say `message` while inside."""
    _messages.append(message)
    try:
        yield
    finally:
        _messages.remove(message)


@contextlib.contextmanager
def before_end(action: Callable[[], object]) -> Iterator[None]:
    """Has `action` called, on another thread, before a signal ends the process while inside."""
    key = object()
    _before_end[key] = action
    try:
        yield
    finally:
        _before_end.pop(key, None)


def always_before_end(action: Callable[[], object]) -> None:
    """Has `action` called before a signal ends the process, for as long as it lives."""
    _before_end[object()] = action


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Makes a signal wait until a short section is over, such as two renames that belong together."""
    global _protector
    with _protected:
        outer, _protector = _protector, threading.current_thread()
        try:
            yield
        finally:
            _protector = outer
    if outer is None:
        wait_if_ending()


@contextlib.contextmanager
def not_for_children() -> Iterator[None]:
    """Makes processes that are started inside deaf to Ctrl-C and SIGHUP, which reach every process of a terminal."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # the first process starts it, and it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def announce(line: str) -> None:
    """Writes what was printed, then a line to standard error, from any thread; no stuck reader is waited for."""
    writer = threading.Thread(target=_write, args=(line,), daemon=True)
    writer.start()
    writer.join(_WRITE_SECONDS)


def wait_if_ending() -> None:
    """Does not return once a signal is ending the process: what fails because of that is not to be reported."""
    while _ending:
        time.sleep(60)


def note_thread(thread: threading.Thread) -> None:
    """Notes a thread that may still be inside XLA when the program ends; see `without_shutdown`."""
    _noted[:] = [*(other for other in _noted if other.is_alive() or not other.ident), thread]


@contextlib.contextmanager
def without_shutdown() -> Iterator[None]:
    """Ends the process where the block ends, as Python would, but without its shutdown, if a noted thread still runs.

    A thread that comes back from XLA into a Python that is shut down ends the process with an abort.
    """
    code: Any = 0
    try:
        yield
    except SystemExit as end:
        if not _thread_runs():
            raise
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        if not _thread_runs():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if _thread_runs():
        with contextlib.suppress(Exception):  # nobody reads it any longer
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def note_stop(name: str) -> None:
    """Notes that a training run was ended early, with a checkpoint, by the signal of this name; "" that it was not."""
    global _stopped
    _stopped = name


def exit_if_stopped() -> None:
    """Ends the program with the signal's exit code if the last training run was ended early by a signal."""
    if _stopped:
        sys.exit(128 + signal.Signals[_stopped])


@contextlib.contextmanager
def _caught_by_listener(caught):
    _catchers.append(caught)
    try:
        yield
    finally:
        _catchers.remove(caught)


@contextlib.contextmanager
def _caught_by_handlers(caught):
    def handle(number, frame):
        if _is_repeat(number, heard):
            return
        second, taken = caught.number, caught.take(number)
        for other, handler in before.items():
            if not (taken and other == number):  # its repeat may come
                signal.signal(other, signal.SIG_DFL if taken or second else handler)
        if not taken:
            signal.raise_signal(number)

    before: dict[int, Any] = {}
    heard: dict[int, float] = {}
    try:
        with contextlib.suppress(ValueError):  # not the main thread: nothing to catch
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_repeat(number, heard):
    """Returns whether a signal that comes now is a repeat of the one in `heard`; if not, notes its time there."""
    now = time.monotonic()
    if number in heard and now - heard[number] < _REPEATED_WITHIN[number]:
        return True
    heard[number] = now
    return False


def _watch(numbers):
    while True:
        number = os.read(numbers, 1)[0]
        if number not in SIGNALS:
            continue
        if _is_repeat(number, _heard):
            _ignored[number] = time.monotonic()
            continue
        if _ending:  # a second one: at once
            os._exit(128 + number)
        if not (_catchers and _catchers[-1].take(number)):
            _end_soon(number)


def _on_main_thread(number, frame):
    """Keeps the main thread from going on where a signal ends the process, once it is in no `uninterrupted` section."""
    if _protector is threading.main_thread():
        return
    latest = time.monotonic() + _WRITE_SECONDS
    while not _catchers and not _ending:
        if number in _ignored and time.monotonic() - _ignored[number] < _WRITE_SECONDS:
            return
        time.sleep(0.01)
        if time.monotonic() > latest:  # somebody else has taken the place of the pipe
            _end_soon(number)
    if not _catchers:
        wait_if_ending()


def _end_soon(number):
    """Begins to end the process, on a thread of its own, so that a second signal is heard meanwhile."""
    global _ending
    with _start:
        if _ending:
            return
        _ending = True
    try:
        threading.Thread(target=_end, args=(number,), daemon=True).start()
    except RuntimeError:  # Python is shutting down
        _end(number)


def _end(number):
    code = 128 + number
    _protected.acquire(timeout=_PATIENCE)
    distributed = sys.modules.get("bert_jax.processes.distributed")
    if not getattr(distributed, "is_multiprocess", bool)():  # which is missing while it is being imported
        distributed = None
    if distributed is None or distributed.reports_errors():
        name = signal.Signals(number).name
        own = f"{name}: {_messages[-1]}" if _messages else ""
        announce(own or ("interrupted" if name == "SIGINT" else f"{name}: ended"))
    for action in list(_before_end.values()):
        with contextlib.suppress(Exception):  # so that the others are called too
            action()
    if distributed is not None:
        distributed.exit_now(code)
    os._exit(code)


def _thread_runs():
    return any(thread.is_alive() for thread in _noted)


def _write(line):
    with contextlib.suppress(Exception):  # it is being written to, or cannot be
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        start = "\r\x1b[K" if os.isatty(2) else ""
        os.write(2, f"{start}{line}\n".encode(errors="backslashreplace"))  # print may be in the middle of a line


def _unless_ending(hook):
    def wrapped(*arguments):
        wait_if_ending()
        hook(*arguments)

    return wrapped


def _forget():
    """Makes a forked child end at signals as any process does."""
    global _listening
    if _listening:
        _listening = False
        with contextlib.suppress(ValueError):  # forked by another thread
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                if signal.getsignal(number) == _on_main_thread:
                    signal.signal(number, signal.SIG_DFL)
