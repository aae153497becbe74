"""Computes the batch of any step as a pure function of the step, and prefetches batches for a training loop.

The run's phases, the mixture of corpora, the epoch, the shuffled place within it and the mask are all arithmetic
on the step, so any host computes its slice of any step's global batch without having seen the steps before.
"""

import dataclasses
import functools
import gc
import json
import multiprocessing
import multiprocessing.connection
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax.config import objective
from bert_jax.data import hashing, instances, packing, staging
from bert_jax.data.batches import LABELS, Layout, make_batch
from bert_jax.data.corpus import Corpus
from bert_jax.data.masking import Masking
from bert_jax.data.rows import host_range
from bert_jax.errors import UserError
from bert_jax.processes import signals

_PERIOD = 4096  # a mixture of corpora repeats after so many rows, in which the shares are exact


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
    return _cached_stream(_as_json(config)).batch(step, host, num_hosts)


def describe_batch(config: ml_collections.ConfigDict, step: int) -> list[str]:
    """Describes each row of a step's global batch: its corpus, index, repeat and mask epoch."""
    return _cached_stream(_as_json(config)).describe(step)


def prepare_indexes(config: ml_collections.ConfigDict, start_step: int = 0) -> None:
    """Builds the indexes that the run's phases need and that do not exist yet.

    Raises:
      UserError: a corpus has no text for a phase that begins after `start_step`, or its held-out part has none.
    """
    _open_phases(_cached_stream(_as_json(config)), start_step)


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
        iterator, batch = iter(batches), None
        try:
            for step, batch in iterator:
                # Copied, because the workers' shared memory must be released before the program ends.
                yield step, {name: np.array(array) for name, array in batch.items()} if data.workers else batch
        finally:
            iterator.close()  # ends the processes
            if data.workers:
                # The iterators refer to each other and to the last batch of each process, in shared memory: without
                # a collection here, Python warns of leaked shared memory when it ends.
                del iterator, batches, batch
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
    which = np.repeat(np.arange(len(sources)), [source.counts[0] for source in sources])
    index = np.concatenate([source.order(0, np.arange(source.counts[0])) for source in sources] or [which])
    if len(sources) > 1:  # mixed, so that the first train.eval_batches batches hold rows of every corpus
        mixed = hashing.permute(np.arange(len(which)), len(which), hashing.fold("eval"))
        which, index = which[mixed], index[mixed]
    for begin in range(0, min(len(which), size * config.train.eval_batches), size):
        place = begin + np.arange(*host_range(size, host, num_hosts))
        filler = place >= len(which)
        place = np.where(filler, begin, place)
        parts = []
        for i, source in enumerate(sources):
            rows = np.flatnonzero(which[place] == i)
            zeros = np.zeros(len(rows), np.int64)
            if len(rows):
                parts.append((rows, source.batch(zeros, index[place[rows]], zeros)))
        batch = _interleave(parts, len(place))
        batch["attention_mask"][filler, 1:] = 0
        if "masked_weights" in batch:
            batch["masked_weights"][filler] = 0
        for name in LABELS:
            if name in batch:
                batch[name][filler] = -1
        yield batch


def mixture_shares(data: ml_collections.ConfigDict, corpora: list[Corpus]) -> np.ndarray:
    """Returns the share of the training rows that each corpus has in a phase, float64 [corpora].

    Args:
      data: the phase's config.data: its weights, or without them its temperature, decide.
      corpora: the corpora.
    """
    shares = np.array(data.weights, np.float64)
    if not len(shares):
        sizes = np.array([corpus.split("train").num_tokens for corpus in corpora], np.float64)
        shares = sizes ** (1 / data.temperature)
    return shares / shares.sum()


def unigram_counts(data: ml_collections.ConfigDict, corpora: list[Corpus]) -> np.ndarray:
    """Returns how often each token occurs in the training text, float64 [vocabulary].

    Each corpus counts by its share of the mixture. The counts add up to the number of tokens of all corpora.
    """
    counts = [np.asarray(corpus.unigram_counts, np.float64) for corpus in corpora]
    if len(counts) == 1:
        return counts[0]
    sizes = np.array([count.sum() for count in counts])
    scales = mixture_shares(data, corpora) * sizes.sum() / np.maximum(sizes, 1)
    return sum(scale * count for scale, count in zip(scales, counts, strict=True))


class Stream:
    """Computes the batches of a run. It opens corpora and indexes when they are first needed; it cannot be pickled."""

    def __init__(self, config: ml_collections.ConfigDict):
        config_lib.validate(config)
        self.config = config
        self.phases = config_lib.phases(config)
        self.corpora = open_corpora(config)
        self._sources = {}
        self._mixtures = {}

    def phase(self, step: int) -> config_lib.Phase:
        """Returns the phase of a step; the last one for a step past the end. Raises UserError for a negative step."""
        if step < 0:
            raise UserError(f"step: found {step}; expected 0 or more")
        return next((phase for phase in self.phases if step < phase.stop), self.phases[-1])

    def sources(self, phase: config_lib.Phase, split: str = "train", packed: bool = True) -> list["Source"]:
        """Opens a split of the phase's corpora; held-out splits without a document are left out.

        Args:
          phase: its data and indexes are opened.
          split: "train" or "eval".
          packed: whether rows are packed where the phase's data.packing is on.

        Raises:
          UserError: a split has no instance.
        """
        key = (phase.stream, split, packed)
        if key not in self._sources:
            self._sources[key] = [
                Source(self.config, phase, corpus, split, packed and phase.data.packing)
                for corpus in self.corpora
                if split == "train" or corpus.split(split).num_documents
            ]
        return self._sources[key]

    def batch(self, step: int, host: int = 0, num_hosts: int = 1) -> dict[str, np.ndarray]:
        """Returns one host's slice of a step's batch, [batch_size / num_hosts, ...]; see batch_at."""
        phase = self.phase(step)
        parts = [(rows, source.batch(*places)) for source, rows, places in self._rows(phase, step, host, num_hosts)]
        return _interleave(parts, phase.data.batch_size // num_hosts)

    def describe(self, step: int) -> list[str]:
        """Describes each row of a step's batch; see describe_batch."""
        phase = self.phase(step)
        lines = [""] * phase.data.batch_size
        for source, rows, (repeat, index, mask_epoch) in self._rows(phase, step, 0, 1):
            for row, r, i, e in zip(rows.tolist(), repeat.tolist(), index.tolist(), mask_epoch.tolist(), strict=True):
                lines[row] = f"row {row}: {source.corpus.path} {source.describe(r, i)}, mask epoch {e}"
        return lines

    def _rows(self, phase, step, host, num_hosts):
        """Says where the rows of a host's batch come from.

        Returns:
          For each corpus, (source, its rows in the batch, (repeat, index, mask epoch)); arrays [rows of this source].
        """
        if num_hosts < 1 or not 0 <= host < num_hosts:
            raise UserError(f"host: found {host} of num_hosts={num_hosts}; expected 0 <= host < num_hosts")
        if phase.data.batch_size % num_hosts:
            raise UserError(
                f"config.data.batch_size: {phase.data.batch_size}{phase.name} is not divisible by {num_hosts} hosts"
            )
        mine = phase.data.batch_size // num_hosts
        place = phase.first_row + (step - phase.start) * phase.data.batch_size + host * mine + np.arange(mine)
        sources = self.sources(phase)
        if len(sources) == 1:
            return [(sources[0], np.arange(mine), sources[0].places(place))]
        turn, rank, per_period = self._mixture(phase)
        period, within = place // _PERIOD, place % _PERIOD
        rows = []
        for i, source in enumerate(sources):
            mine = np.flatnonzero(turn[within] == i)
            if not len(mine):
                continue
            rows.append((source, mine, source.places(period[mine] * per_period[i] + rank[within[mine]])))
        return rows

    def _mixture(self, phase):
        """Returns the order in which the corpora of a phase take turns.

        Returns:
          (the corpus of each row of a period, [_PERIOD]; that row's rank among the corpus's own rows, [_PERIOD]; rows
          of each corpus in a period, [corpora]), all int64.
        """
        if phase.stream not in self._mixtures:
            self._mixtures[phase.stream] = self._make_mixture(phase)
        return self._mixtures[phase.stream]

    def _make_mixture(self, phase):
        exact = mixture_shares(phase.data, self.corpora) * _PERIOD
        turns = np.floor(exact).astype(np.int64)
        turns[np.argsort(turns - exact, kind="stable")[: _PERIOD - turns.sum()]] += 1
        turn = np.repeat(np.arange(len(turns)), turns)
        turn = turn[hashing.permute(np.arange(_PERIOD), _PERIOD, hashing.fold("mixture", self.config.seed))]
        rank = np.zeros(_PERIOD, np.int64)
        for i, count in enumerate(turns):
            rank[turn == i] = np.arange(count)
        return turn, rank, turns


class Source:
    """Computes the rows of one corpus split in one phase: place -> (repeat, index, mask epoch) -> rows.

    The index counts instances or, where rows are packed, rows of several.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, phase: config_lib.Phase, corpus: Corpus, split: str, packed: bool
    ):
        data = phase.data
        self.corpus = corpus
        self._split = corpus.split(split)
        repeats = data.pair_repeats if data.format in config_lib.PAIR_FORMATS and split == "train" else 1
        recipes = [instance_recipe(config, data, repeat) for repeat in range(repeats)]
        self._indexes = [instances.open_index(corpus, split, recipe) for recipe in recipes]
        if not all(map(len, self._indexes)):
            expected = "some text"
            if config.objective.sentence_order:
                expected = "documents of two sentences or more, whose order can be told (prepare --documents=file)"
            if split == "eval":
                expected += ", or config.train.eval_every=0"
            raise UserError(f"{corpus.path}: no {data.format} instance in the {split} split; expected {expected}")
        self._dupe_factor = data.dupe_factor if data.masking == "static" else 0
        self._key = (config.seed, corpus.fingerprint, phase.stream, split)
        self._order_key = hashing.fold("order", *self._key)
        self._mask_key = hashing.fold("mask", *self._key)
        tokenizer = corpus.tokenizer
        is_special = np.zeros(corpus.vocab_size, bool)
        is_special[list(tokenizer.special_ids)] = True
        needs = objective.facts(config)
        self._layout = Layout(
            data.sequence_length,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            is_special,
            needs.segments or config.model.type_vocab_size,
        )
        self._masking = _masking(data, tokenizer.mask_id, is_special) if needs.masked else None
        self._packs = None
        if packed:
            self._most = packing.limits(data.sequence_length, self._masking.slots if self._masking else 0)
            self._packs = packing.open_packs(corpus, split, recipes[0], self._most, self._masking, is_special)
        self.counts = np.array([len(self._packs)] if packed else list(map(len, self._indexes)), np.int64)
        self._first = np.cumsum(self.counts) - self.counts

    def places(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what the n-th row taken from this source is, for each n in `place`, int64 [rows].

        A cycle goes through every repeat once, an epoch through one repeat's rows in an order of its own.
        The mask epoch of dynamic masking is the epoch. That of static masking counts how often the same instance
        has been seen, modulo dupe_factor, so that each has dupe_factor masks whatever pair_repeats is.

        Returns:
          (repeat, index, mask epoch), int64 [rows] each.
        """
        cycle, rest = np.divmod(place, self.counts.sum())
        repeat = np.searchsorted(self._first, rest, side="right") - 1
        epoch = cycle * len(self._indexes) + repeat
        index = np.empty_like(rest)
        for e in np.unique(epoch).tolist():
            mine = epoch == e
            index[mine] = self.order(e, rest[mine] - self._first[repeat[mine]])
        return repeat, index, cycle % self._dupe_factor if self._dupe_factor else epoch

    def order(self, epoch: int, rank: np.ndarray) -> np.ndarray:
        """Returns the indexes at the given ranks of an epoch's order, int64 [rows]."""
        count = int(self.counts[epoch % len(self._indexes)])
        return hashing.permute(rank, count, hashing.draw(self._order_key, np.uint64(epoch))[()])

    def batch(self, repeat: np.ndarray, index: np.ndarray, mask_epoch: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows of the given repeats, indexes and mask epochs, int64 [rows] each."""
        if self._packs is None:
            return self._instances(repeat, index, mask_epoch)
        members, first = self._packs.members_of(index)
        counts = np.diff(first)
        batch = self._instances(np.repeat(repeat, counts), members, np.repeat(mask_epoch, counts))
        return packing.pack(batch, first, len(index), self._most, self._layout.pad_id, self._layout.cls_id)

    def _instances(self, repeat, index, mask_epoch):
        """Returns the rows of the given instances, int64 [rows] each; masks are a function of these three alone."""
        records = np.empty(len(index), self._indexes[0].dtype)
        for r in np.unique(repeat).tolist():
            records[repeat == r] = self._indexes[r][index[repeat == r]]
        keys = hashing.draw(hashing.draw(self._mask_key, index), repeat)
        keys = hashing.draw(keys, mask_epoch)
        return make_batch(self._split, records, keys, self._layout, self._masking)

    def describe(self, repeat: int, index: int) -> str:
        """Returns the record of each instance in a row as text: where its tokens lie in the corpus."""
        members = [index] if self._packs is None else self._packs.members_of(np.array([index]))[0].tolist()
        parts = []
        for member in members:
            record = self._indexes[repeat][member]
            values = ", ".join(f"{name} {record[name]}" for name in record.dtype.names)
            parts.append(f"instance {member} ({values})")
        return f"repeat {repeat}, {'; '.join(parts)}"


def open_corpora(config: ml_collections.ConfigDict) -> list[Corpus]:
    """Opens the corpora of a config. Raises UserError if they do not fit its model or each other."""
    paths = [path.strip() for path in config.data.corpus.split(",") if path.strip()]
    if not paths:
        raise UserError(
            "config.data.corpus: empty; expected a directory that `python -m bert_jax.prepare` wrote "
            "(--config.data.corpus=DIR)"
        )
    corpora = [staging.open_corpus(path) for path in paths]
    for corpus in corpora:
        if config.model.vocab_size and corpus.vocab_size != config.model.vocab_size:
            raise UserError(
                f"config.model.vocab_size: {config.model.vocab_size}, but the corpus {corpus.path} has a vocabulary "
                f"of {corpus.vocab_size}; expected the same (0 takes the corpus's)"
            )
        if corpus.tokenizer.digest() != corpora[0].tokenizer.digest():
            raise UserError(f"{corpus.path}: its tokenizer is not that of {corpora[0].path}; prepare both with one")
    for phase in config_lib.phases(config):
        weights = phase.data.weights
        if weights and (len(weights) != len(corpora) or min(weights) < 0 or not sum(weights) > 0):
            raise UserError(
                f"config.data.weights: found {tuple(weights)}{phase.name}; expected {len(corpora)} numbers of at "
                "least 0, one for each corpus"
            )
    return corpora


def instance_recipe(
    config: ml_collections.ConfigDict, data: ml_collections.ConfigDict, repeat: int = 0
) -> instances.Recipe:
    """Returns the recipe of an instance index.

    Args:
      config: gives the seed and the objective.
      data: config.data of a phase.
      repeat: which of data.pair_repeats.
    """
    return instances.Recipe(
        data.format,
        data.sequence_length,
        config.seed,
        repeat,
        data.short_target_share,
        config.objective.sentence_order and data.format in config_lib.PAIR_FORMATS,
    )


def prediction_slots(data: ml_collections.ConfigDict) -> int:
    """Returns how many tokens a row of one instance can predict in a phase whose config.data is `data`."""
    room = data.sequence_length - (3 if data.format in config_lib.PAIR_FORMATS else 2)
    return data.max_predictions or max(1, int(np.rint(data.mask_rate * room)))


def _masking(data, mask_id, is_special):
    return Masking(
        unit=data.mask_unit,
        rate=data.mask_rate,
        mask_token_share=data.mask_token_share,
        random_token_share=data.random_token_share,
        slots=prediction_slots(data),
        mask_id=mask_id,
        ordinary_ids=np.flatnonzero(~is_special),
        span_p=data.span_p,
        span_max_words=data.span_max_words,
        ngram_max=data.ngram_max,
    )


def _interleave(parts, size):
    """Returns a batch of `size` rows from [(rows, batch of these rows)]."""
    if len(parts) == 1:
        return parts[0][1]
    merged = {}
    for name, sample in parts[0][1].items():
        merged[name] = np.empty((size, *sample.shape[1:]), sample.dtype)
        for rows, batch in parts:
            merged[name][rows] = batch[name]
    return merged


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
