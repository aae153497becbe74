"""Places a run's batches on its devices ahead of their steps, on a thread of its own.

A batch of many arrays on many devices takes milliseconds to place, as long as a step of a small model on fast devices.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax import interruption

AHEAD = 2  # batches that are placed, or being placed, while a step runs
_END_SECONDS = 30.0  # that the thread has to end: it may wait for data, and those may hang


class Placed(NamedTuple):
    """Holds the batch of a step.

    Attributes:
      index: the step, counted from 0.
      batch: the rows of this process, on the host.
      inputs: what the step gets of it, on the devices.
    """

    index: int
    batch: dict[str, np.ndarray]
    inputs: Any


class PlacedBatches:
    """Iterates, while inside, over batches that a thread places on the devices.

    The thread is at most AHEAD batches before the step that runs. An error of the batches or of their placement is
    raised where the batch would have come. `batches` is read and closed on the thread alone.

    Args:
      batches: yields (step, batch).
      place: returns what a step gets of (batch, step), both on the host; called on the thread. Its transfers must be
        explicit.
    """

    def __init__(
        self,
        batches: Iterator[tuple[int, dict[str, np.ndarray]]],
        place: Callable[[dict[str, np.ndarray], np.int32], Any],
    ):
        self._batches, self._place = batches, place
        self._ready: collections.deque[Placed] = collections.deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="places-batches", daemon=True)

    def __enter__(self):
        interruption.note_thread(self._thread)
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Placed]:
        return self

    def __next__(self) -> Placed:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def __exit__(self, *exception):
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)

    def _work(self):
        try:
            with jax.transfer_guard("disallow"):
                for index, batch in self._batches:
                    if not self._hand_over(Placed(index, batch, self._place(batch, np.int32(index)))):
                        break
        except BaseException as error:  # whatever it is, the loop's thread raises it
            self._error = error
        finally:
            with contextlib.suppress(Exception):  # all batches have been made, or none is needed
                getattr(self._batches, "close", lambda: None)()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, placed):
        """Gives a batch to the loop once there is room for the next one. Returns whether batches are still needed."""
        with self._changed:
            self._ready.append(placed)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or len(self._ready) < AHEAD)
            return not self._closed
