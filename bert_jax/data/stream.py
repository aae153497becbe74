"""Computes the batch of any step of a run as a pure function of the step.

The run's phases, the mixture of corpora, the epoch, the shuffled place within it and the mask are all arithmetic
on the step, so any host computes its slice of any step's global batch without having seen the steps before.
"""

import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax.config import objective
from bert_jax.data import hashing, instances, packing
from bert_jax.data.batches import Layout, make_batch
from bert_jax.data.corpus import Corpus
from bert_jax.data.masking import Masking
from bert_jax.data.mixture import PERIOD, mixture_shares, mixture_turns, open_corpora
from bert_jax.errors import UserError


class Stream:
    """Computes the batches of a run. It opens corpora and indexes when they are first needed; it cannot be pickled."""

    def __init__(self, config: ml_collections.ConfigDict):
        config_lib.validate(config)
        self.config = config
        self.phases = config_lib.phases(config)
        self.corpora = open_corpora(config)
        self._sources = {}
        self._turns_of_phase = {}

    def phase(self, step: int) -> config_lib.Phase:
        """Returns the phase of a step; the last one for a step past the end. Raises UserError for a negative step."""
        if step < 0:
            raise UserError(f"step: found {step}; expected 0 or more")
        return config_lib.phase_at(self.phases, step)

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
        return interleave(parts, phase.data.batch_size // num_hosts)

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
        num_rows = phase.data.batch_size // num_hosts
        place = phase.first_row + (step - phase.start) * phase.data.batch_size + host * num_rows + np.arange(num_rows)
        sources = self.sources(phase)
        if len(sources) == 1:
            return [(sources[0], np.arange(num_rows), sources[0].places(place))]
        turn, rank, per_period = self._turns(phase)
        period, within = place // PERIOD, place % PERIOD
        rows = []
        for i, source in enumerate(sources):
            its_rows = np.flatnonzero(turn[within] == i)
            if not len(its_rows):
                continue
            rows.append((source, its_rows, source.places(period[its_rows] * per_period[i] + rank[within[its_rows]])))
        return rows

    def _turns(self, phase):
        """Returns the turns of the corpora in a phase; see mixture_turns."""
        if phase.stream not in self._turns_of_phase:
            shares = mixture_shares(phase.data, self.corpora)
            self._turns_of_phase[phase.stream] = mixture_turns(shares, self.config.seed)
        return self._turns_of_phase[phase.stream]


class Source:
    """Computes the rows of one corpus split in one phase: place -> (repeat, index, mask epoch) -> rows.

    The index counts instances or, where rows are packed, rows of several.

    Attributes:
      corpus: the corpus.
      text_share: share of the split's tokens that the rows of one repeat hold.
      counts: rows of each repeat, int64 [repeats].
    """

    def __init__(
        self, config: ml_collections.ConfigDict, phase: config_lib.Phase, corpus: Corpus, split: str, packed: bool
    ):
        data = phase.data
        if split == "eval" and config.train.eval_mask_rate:
            data = data.copy_and_resolve_references()
            data.update(mask_rate=config.train.eval_mask_rate, max_predictions=0)
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
        self.text_share = instances.share_held(self._indexes[0], self._split.num_tokens)
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
        self._packs = []
        if packed:
            self._row_limits = packing.limits(data.sequence_length, self._masking.slots if self._masking else 0)
            self._packs = [
                packing.open_packs(corpus, split, recipe, self._row_limits, self._masking, is_special)
                for recipe in recipes
            ]
        self.counts = np.array([len(repeat) for repeat in self._packs or self._indexes], np.int64)
        self._first = np.cumsum(self.counts) - self.counts

    def places(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what the n-th row taken from this source is, for each n in `place`, int64 [rows].

        A cycle goes through every repeat once, an epoch through one repeat's rows in an order of its own.
        The mask epoch of dynamic masking is the epoch. For static masking it counts how often the same instance
        has been seen, modulo dupe_factor, so that each has dupe_factor masks whatever pair_repeats is.

        Returns:
          (repeat, index, mask epoch), int64 [rows] each.
        """
        cycle, rest = np.divmod(place, self.counts.sum())
        repeat = np.searchsorted(self._first, rest, side="right") - 1
        epoch = cycle * len(self._indexes) + repeat
        index = np.empty_like(rest)
        for e in np.unique(epoch).tolist():
            in_epoch = epoch == e
            index[in_epoch] = self.order(e, rest[in_epoch] - self._first[repeat[in_epoch]])
        return repeat, index, cycle % self._dupe_factor if self._dupe_factor else epoch

    def order(self, epoch: int, rank: np.ndarray) -> np.ndarray:
        """Returns the indexes at the given ranks of an epoch's order, int64 [rows]."""
        count = int(self.counts[epoch % len(self._indexes)])
        return hashing.permute(rank, count, hashing.draw(self._order_key, np.uint64(epoch))[()])

    def batch(self, repeat: np.ndarray, index: np.ndarray, mask_epoch: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows of the given repeats, indexes and mask epochs, int64 [rows] each."""
        if not self._packs:
            return self._instances(repeat, index, mask_epoch)
        members, first = self._members(repeat, index)
        counts = np.diff(first)
        batch = self._instances(np.repeat(repeat, counts), members, np.repeat(mask_epoch, counts))
        return packing.pack(batch, first, len(index), self._row_limits, self._layout.pad_id, self._layout.cls_id)

    def _members(self, repeat, index):
        """Returns the instances of packed rows, as `Packs.members_of` does, each row's from the packs of its repeat."""
        parts, counts = {}, np.empty(len(index), np.int64)
        for r in np.unique(repeat).tolist():
            parts[r], first = self._packs[r].members_of(index[repeat == r])
            counts[repeat == r] = np.diff(first)
        members = np.empty(counts.sum(), np.int64)
        for r, part in parts.items():
            members[np.repeat(repeat == r, counts)] = part
        return members, np.append(0, np.cumsum(counts))

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
        members = self._packs[repeat].members_of(np.array([index]))[0].tolist() if self._packs else [index]
        parts = []
        for member in members:
            record = self._indexes[repeat][member]
            values = ", ".join(f"{name} {record[name]}" for name in record.dtype.names)
            parts.append(f"instance {member} ({values})")
        return f"repeat {repeat}, {'; '.join(parts)}"


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


def interleave(parts: list[tuple[np.ndarray, dict[str, np.ndarray]]], size: int) -> dict[str, np.ndarray]:
    """Returns a batch of `size` rows, arrays [size, ...], from (rows, batch of these rows) for each part."""
    if len(parts) == 1:
        return parts[0][1]
    merged = {}
    for name, sample in parts[0][1].items():
        merged[name] = np.empty((size, *sample.shape[1:]), sample.dtype)
        for rows, batch in parts:
            merged[name][rows] = batch[name]
    return merged
