"""Loads the batches of a run: any step's batch at once, held-out batches, and an iterator that prefetches them."""

import dataclasses
import functools
import gc
import json
import multiprocessing
import multiprocessing.connection
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from bert_jax import _moved, interruption
from bert_jax import config as config_lib
from bert_jax.data import hashing
from bert_jax.data.batches import LABELS
from bert_jax.data.rows import host_range
from bert_jax.data.stream import Stream, interleave
from bert_jax.errors import UserError
from bert_jax.processes import machine, signals

_BYTES_PER_TOKEN = 16  # in a batch: ids, mask, types, and less than one more array of masked tokens


def batch_at(config: ml_collections.ConfigDict, step: int, host: int = 0, num_hosts: int = 1) -> dict[str, np.ndarray]:
    """Returns one host's slice of the global batch of a step.

    Args:
      config: a pre-training config.
      step: counts from 0; a step past the end is in the last phase.
      host: which host, from 0.
      num_hosts: data.batch_size is divided by it; host h has rows h * batch_size / num_hosts and following.

    Returns:
      The arrays of `batches.make_batch`, or of `packing.pack` where data.packing is on, [batch_size / num_hosts, ...].

    Raises:
      UserError: the config or the corpus cannot work, or the step is negative.
    """
    stream = _cached_stream(_as_json(config))
    check_memory(config, num_hosts, prefetched=False)
    return stream.batch(step, host, num_hosts)


@_moved.renamed_arguments(ahead="prefetched")
def check_memory(config: ml_collections.ConfigDict, num_hosts: int = 1, prefetched: bool = True) -> None:
    """Raises UserError if a host's batches of a pre-training run do not fit its memory.

    Args:
      config: a pre-training config.
      num_hosts: number of hosts among which a batch is divided.
      prefetched: whether batches are made ahead; False for a single one.
    """
    free = machine.available_memory()
    for phase in config_lib.phases(config):
        data = phase.data
        # Each worker holds what it has made ready; one batch more is in use, two are placed, and one is on its way.
        batches = max(1, data.workers) * max(1, data.prefetch) + 4 if prefetched else 1
        needed = batches * data.batch_size * data.sequence_length * _BYTES_PER_TOKEN // num_hosts
        if free is not None and needed > free:
            settings = f"config.data.prefetch={data.prefetch}, workers={data.workers}: " if prefetched else ""
            settings += f"config.data.batch_size={data.batch_size} x sequence_length={data.sequence_length}"
            subject = "the batches that are held ready need" if prefetched else "a batch needs"
            raise UserError(
                f"{settings}{phase.name}: {subject} {machine.in_words(needed)}, and {machine.in_words(free)} are free "
                "on this machine; expected smaller ones"
            )


def describe_batch(config: ml_collections.ConfigDict, step: int) -> list[str]:
    """Describes each row of a step's global batch: its corpus, index, repeat and mask epoch."""
    return _cached_stream(_as_json(config)).describe(step)


def prepare_indexes(config: ml_collections.ConfigDict, start_step: int = 0) -> None:
    """Builds the indexes that the run's phases need and that do not exist yet.

    Raises:
      UserError: a corpus has no text for a phase that begins after `start_step`, or its held-out part has none.
    """
    _open_phases(_cached_stream(_as_json(config)), start_step)


def text_shares(config: ml_collections.ConfigDict, start_step: int = 0) -> list[tuple[str, str, str, float]]:
    """Returns which share of the text the rows of pairs hold, which cut what is too long for them.

    Returns:
      (name of the phase, format, path of the corpus, share of its training tokens) for each corpus of each phase of
      pairs that ends after `start_step`.
    """
    stream = _cached_stream(_as_json(config))
    return [
        (phase.name, phase.data.format, str(source.corpus.path), source.text_share)
        for phase in stream.phases
        if phase.stop > start_step and phase.data.format in config_lib.PAIR_FORMATS
        for source in stream.sources(phase)
    ]


class Loader:
    """Iterates over (step, this host's batch) from `start_step` to the end of the run, prefetching with grain.

    Starting costs the same at any step. config.data.workers processes compute the batches, or one thread where it is
    0.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        start_step: int = 0,
        host: int | Sequence[int] = 0,
        num_hosts: int = 1,
    ):
        """Opens corpora and indexes; missing indexes are built first.

        Args:
          config: a pre-training config.
          start_step: the first step whose batch is yielded.
          host: which host's rows to yield; of several hosts, a batch holds the first one's rows, then the second one's,
            and so on.
          num_hosts: number of hosts; see batch_at.

        Raises:
          UserError: the config or the corpus cannot work.
        """
        self._config = config
        self._start = start_step
        check_memory(config, num_hosts)
        self._job = _Job(_as_json(config), host, num_hosts)
        _open_phases(self._job.stream(), start_step)  # here, so that no worker builds indexes or fails midway

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        import grain  # here, because importing it is slow and most of this module works without

        data = self._config.data
        steps = grain.MapDataset.range(self._start, config_lib.num_steps(self._config))
        batches = steps.map(self._job).to_iter_dataset(
            grain.ReadOptions(num_threads=0 if data.workers else 1, prefetch_buffer_size=max(1, data.prefetch))
        )
        if data.workers:
            _mark_flags_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=data.prefetch)
            batches = batches.mp_prefetch(options)
        with interruption.not_for_children():
            iterator, item, batch = iter(batches), None, None
        try:
            while True:
                with interruption.not_for_children():
                    item = next(iterator, None)
                if item is None:
                    break
                step, batch = item
                # Copied, because the workers' shared memory must be released before the program ends.
                yield step, {name: np.array(array) for name, array in batch.items()} if data.workers else batch
        finally:
            iterator.close()  # ends the processes
            if data.workers:
                # The iterators refer to each other and to the last batch of each process, in shared memory: without
                # a collection here, Python warns of leaked shared memory when it ends.
                del iterator, batches, item, batch
                gc.collect()


@dataclasses.dataclass
class _Job:
    """Computes batches in a worker process, which is sent this object and opens the memory-mapped files itself."""

    config_json: str
    host: int | Sequence[int]
    num_hosts: int

    def __setstate__(self, state):
        self.__dict__.update(state)
        if multiprocessing.parent_process():
            signals.end_with_parent()

    def stream(self):
        return _cached_stream(self.config_json)

    def __call__(self, step):
        stream, step = self.stream(), int(step)
        return step, _concatenate([stream.batch(step, host, self.num_hosts) for host in _hosts(self.host)])


def eval_batches(
    config: ml_collections.ConfigDict, step: int, host: int | Sequence[int] = 0, num_hosts: int = 1
) -> list[dict]:
    """Returns the held-out batches: the same rows and masks at every step, in the shapes of the step's phase.

    A row holds one instance, also where the run packs several, so that metrics can be compared with unpacked runs.

    There are at most train.eval_batches batches of train.eval_batch_size rows. The last is filled up with rows that
    add nothing to a loss: their masked_weights are 0, their pair label is -1, and attention_mask is 1 on their first
    token alone.

    Returns:
      Batches as `batch_at` returns them; an empty list where no document was held out.
    """
    per_host = [fixed_batches(config, step, "eval", number, num_hosts) for number in _hosts(host)]
    return [_concatenate(parts) for parts in zip(*per_host, strict=True)]


def fixed_batches(
    config: ml_collections.ConfigDict, step: int, split: str, host: int = 0, num_hosts: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of `eval_batches` one at a time, arrays [batch, ...], of the "train" or the "eval" split."""
    stream = _cached_stream(_as_json(config))
    phase = stream.phase(step)
    size = config.train.eval_batch_size or phase.data.batch_size
    sources = stream.sources(phase, split, packed=False)
    source_numbers = np.repeat(np.arange(len(sources)), [source.counts[0] for source in sources])
    index = np.concatenate([source.order(0, np.arange(source.counts[0])) for source in sources] or [source_numbers])
    if len(sources) > 1:  # mixed, so that the first train.eval_batches batches hold rows of every corpus
        mixed = hashing.permute(np.arange(len(source_numbers)), len(source_numbers), hashing.fold("eval"))
        source_numbers, index = source_numbers[mixed], index[mixed]
    for begin in range(0, min(len(source_numbers), size * config.train.eval_batches), size):
        place = begin + np.arange(*host_range(size, host, num_hosts))
        filler = place >= len(source_numbers)
        place = np.where(filler, begin, place)
        parts = []
        for i, source in enumerate(sources):
            rows = np.flatnonzero(source_numbers[place] == i)
            zeros = np.zeros(len(rows), np.int64)
            if len(rows):
                parts.append((rows, source.batch(zeros, index[place[rows]], zeros)))
        batch = interleave(parts, len(place))
        batch["attention_mask"][filler, 1:] = 0
        if "masked_weights" in batch:
            batch["masked_weights"][filler] = 0
        for name in LABELS:
            if name in batch:
                batch[name][filler] = -1
        yield batch


def _hosts(host):
    return [host] if isinstance(host, int) else host


def _concatenate(batches):
    """Returns one batch with the rows of several."""
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _as_json(config):
    return json.dumps(config.to_dict(), sort_keys=True)


@functools.lru_cache(maxsize=4)
def _cached_stream(config_json):
    return Stream(ml_collections.ConfigDict(json.loads(config_json)))


def _open_phases(stream, start_step):
    """Opens the rows of every phase that ends after a step, which builds their indexes where they are missing."""
    for phase in stream.phases:
        if phase.stop > start_step:
            stream.sources(phase)
            if stream.config.train.eval_every:
                stream.sources(phase, "eval", packed=False)


def _mark_flags_as_parsed():
    """Marks absl's flags as parsed where they are not, as in a notebook: grain's worker processes read them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def __getattr__(name):
    return _moved.find("data.loader", name)
