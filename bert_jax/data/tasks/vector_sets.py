"""Encodes the texts of embedders, and makes groups of them to train on; vector_measures has those that are scored."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import set_batches, unique_batches
from bert_jax.data.tasks.late_interaction import TokenTexts
from bert_jax.data.tasks.vector_measures import NumberedTexts
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

OTHERS = "other_"  # in front of the names of arrays of positives and negatives in a batch
GUIDE = "guide_vectors"  # vectors of another model in a batch
_AT_ONCE = 4096  # texts that are tokenized together
_ORDERS_KEPT = 1024  # at most as many as seeds train side by side


class Texts(NumberedTexts):
    """Collects different texts, each encoded once behind its prompt.

    Args:
      tokenizer: encodes them.
      reading: how long texts are read; what is longer is cut.
      skips_prompts: whether the tokens of a prompt are left out of pooling.
    """

    def __init__(self, tokenizer: Tokenizer, reading: LongReading, skips_prompts: bool):
        super().__init__()
        self.tokenizer, self._reading, self._skips = tokenizer, reading, skips_prompts
        self._room = reading.room(tokenizer)
        self.cut = 0

    def encode(self) -> None:
        """Encodes all texts that were added; their rows can then be had."""
        keys = list(self._numbers)
        sizes = {prompt: self._prompt_size(prompt) for prompt in dict.fromkeys(prompt for prompt, _ in keys)}

        def encoded():
            for start in range(0, len(keys), _AT_ONCE):
                texts = [prompt + text for prompt, text in keys[start : start + _AT_ONCE]]
                for ids in self.tokenizer.encode(texts, special=True):
                    self.cut += len(ids) > self._room
                    yield self._reading.kept(ids, self._room)

        self._ids = rows_lib.Ragged(encoded())
        self.lengths = self._reading.lengths(self.tokenizer, self._ids.lengths)
        before = len(self.tokenizer.frame.before)
        skipped = [before + sizes[prompt] if self._skips and sizes[prompt] else 0 for prompt, _ in keys]
        self._skipped = np.array(skipped, np.int32)
        self.texts = [text for _, text in keys]
        own = [self._ids[i][sizes[prompt] :].tolist() for i, (prompt, _) in enumerate(keys)]
        self.identity = unique_batches.identities(
            self.texts, own, self.tokenizer.unk_id
        )  # equal for a text with other prompts

    def _prompt_size(self, prompt):
        size = len(self.tokenizer.encode([prompt], special=True)[0]) if prompt else 0
        room, key = self._room, f"config.data.sequence_length={self._reading.length}"
        if self._reading.chunk_length:  # a prompt stands in the first chunk
            room = self._reading.chunk_length - rows_lib.num_special(self.tokenizer, pair=False)
            key = f"config.task.chunk_length={self._reading.chunk_length}"
        elif self._reading.long == "head_tail":  # or at the beginning that is kept
            room, key = min(room, self._reading.head_tokens), f"config.task.head_tokens={self._reading.head_tokens}"
        if size and size >= room - 1:
            raise UserError(
                f"config.task.anchor_prompt, positive_prompt: {prompt!r} has {size} tokens, which leave no room for "
                f"text in rows of {key}"
            )
        return size

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns input_ids, attention_mask, token_type_ids, int32 [texts, length], and skipped, int32 [texts].

        Args:
          numbers: int [texts]; -1 is an empty row.
          length: tokens of a padded row.
        """
        empty = [self.tokenizer.cls_id], [0]
        inputs = [
            empty if number < 0 else self._reading.row(self.tokenizer, self._ids[number].tolist())
            for number in numbers.tolist()
        ]
        skipped = np.where(numbers < 0, 0, self._skipped[numbers]).astype(np.int32)
        return rows_lib.pad(self.tokenizer, inputs, length) | {"skipped": skipped}


class Groups:
    """Holds examples to train on: an anchor and its others in each row; see data.tasks.Examples.

    Args:
      texts: the encoded texts, Texts or late_interaction.TokenTexts.
      columns: numbers of each row's texts, int [rows, 1 + others]; -1 for an absent one.
      labels: see below.
      groups: number of each row's group of positives, int [rows]; -1 for none.
      unique: whether no batch may have an anchor or a positive twice.
      sets: the sets that the rows are of; None for one.

    Attributes:
      lengths: int32 [rows], tokens of the longest text of each row.
      anchor_lengths, other_lengths: int32 [rows], tokens of the anchor, and of the longest of the others.
      labels: float32 or int32 [rows]: graded similarity or class; a teacher's scores of the others, float32 [rows,
        others]; zeros where there is none.
    """

    others: Sequence[Mapping[str, Any]] = ()

    def __init__(
        self,
        texts: Texts | TokenTexts,
        columns: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        unique: bool,
        sets: set_batches.Sets | None = None,
    ):
        self._sets = sets
        self.tokenizer, self._texts, self._columns = texts.tokenizer, texts, columns
        self.labels, self._groups, self._unique = labels, groups, unique
        sizes = np.where(columns < 0, 0, texts.lengths[columns])
        self.anchor_lengths, self.other_lengths = sizes[:, 0], sizes[:, 1:].max(1, initial=1)
        self.lengths = sizes.max(1)
        self._identity = np.where(columns < 0, -1, texts.identity[columns])
        self._known = _known_positives(self._identity)
        self._order = functools.lru_cache(maxsize=_ORDERS_KEPT)(self._make_order)
        self._apart: set_batches.Apart | None = None
        self._guide: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def guided_by(self, embed: Callable[[Sequence[str], str], np.ndarray], kinds: Sequence[str]) -> None:
        """Gives every batch from now on the vectors that another model has for its texts.

        Args:
          embed: maps texts without prompts and their kind to float32 [texts, size].
          kinds: whose vectors are wanted: "query" for the anchors, "document" for the others.
        """
        for kind in kinds:
            columns = self._columns[:, 0] if kind == "query" else self._columns[:, 1:]
            numbers = np.unique(columns[columns >= 0])
            if len(numbers):
                self._guide[kind] = numbers, embed([self._texts.texts[number] for number in numbers], kind)

    def _guide_vectors(self, kind, columns):
        """Returns the other model's vectors of texts, float32 [..., size]; zeros for absent ones."""
        numbers, vectors = self._guide[kind]
        places = np.searchsorted(numbers, np.where(columns < 0, numbers[0], columns))
        return np.where((columns < 0)[..., None], np.float32(0), vectors[places])

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray | None:
        """Returns the rows of each batch of an epoch, int64 [batches, batch_size]; None where any order will do."""
        return self._order(batch_size, seed, epoch) if self._unique or self._sets else None

    def _make_order(self, batch_size, seed, epoch):
        texts = self._told_apart(batch_size)
        if self._sets is None:
            return unique_batches.order(texts, batch_size, seed, epoch)
        if not self._sets.apart:
            return set_batches.mixed(self._sets, texts, batch_size, seed, epoch)
        if self._apart is None:
            self._apart = set_batches.Apart(self._sets, texts)
        return self._apart.order(batch_size, seed, epoch)

    def _told_apart(self, batch_size):
        """Returns the texts of each row of which no batch has one twice, int [rows, columns]; -1 for none."""
        if not self._unique:
            return np.full((len(self.lengths), 1), -1)
        texts = self._identity.copy()
        everything = np.arange(len(texts))
        for members in self._sets.members if self._sets and self._sets.apart else (everything,):
            own = texts[members]
            if own.shape[1] > 2:  # negatives that are too common to be apart may meet: they are nobody's positive
                rows = np.bincount(own[own >= 0])
                negatives = own[:, 2:]
                negatives[np.where(negatives < 0, 0, rows[negatives]) > -(-len(members) // batch_size)] = -1
                texts[members] = own
        return texts

    def check_batches(self, batch_size: int) -> None:
        """Raises UserError if no batches of different texts can be made, or a set has no part of them."""
        if self._unique and len(self.lengths) < batch_size:
            raise UserError(
                f"config.data.batch_size: {batch_size}, but config.task.train has {len(self.lengths):,} examples; "
                "negatives are the other examples of a batch, so expected at most as many"
            )
        if self._sets:
            self._check_sets(batch_size)
        everything = np.arange(len(self.lengths))
        for members in self._sets.members if self._sets and self._sets.apart else (everything,):
            if self._unique:
                self._check_commonest(members, batch_size)

    def _check_commonest(self, members, batch_size):
        """Raises UserError if a text is in more of some rows than they have batches."""
        count = -(-len(members) // batch_size)
        uses = np.ones(len(self.lengths), int) if self._sets is None or self._sets.apart else self._uses()
        text, number = unique_batches.commonest(np.repeat(self._identity[members, :2], uses[members], axis=0))
        if number > count:
            place = int(np.flatnonzero(self._texts.identity == text)[0])
            raise UserError(
                f"config.task.train: {self._texts.texts[place][:60]!r} is in {number:,} of {len(members):,} "
                f"examples ({number / len(members):.1%}), but a batch has a text once and an epoch has {count:,} "
                f"batches; expected at most one in config.data.batch_size={batch_size}, or another loss"
            )

    def _uses(self):
        """Returns how often, at most, an epoch of mixed batches has each row, int [rows]."""
        assert self._sets is not None
        uses = np.ones(len(self.lengths), int)
        for members, part in zip(self._sets.members, set_batches.counts(self._sets, len(uses)), strict=True):
            uses[members] = -(-part // len(members))
        return uses

    def _check_sets(self, batch_size):
        assert self._sets is not None
        total = len(self.lengths)
        parts = set_batches.counts(self._sets, -(-total // batch_size) if self._sets.apart else total)
        for name, members, part in zip(self._sets.names, self._sets.members, parts, strict=True):
            if self._sets.apart and self._unique and len(members) < batch_size:
                raise UserError(
                    f"config.task.train: the set {name} has {len(members):,} examples; expected at least "
                    f"config.data.batch_size={batch_size} with config.data.set_batches=apart, or mixed"
                )
            if not part:
                raise UserError(
                    f"config.task.train: the set {name}, {len(members):,} of {total:,} examples, has no part of an "
                    "epoch; expected a larger weight in config.data.weights, or a higher config.data.temperature"
                )

    def batch(self, rows: np.ndarray, length: int, anchor_length: int | None = None) -> dict[str, np.ndarray]:
        """Returns the arrays of some rows.

        Args:
          rows: int [batch]; a row of -1 is a filler, whose `weights` is 0.
          length: tokens of a padded row of the others.
          anchor_length: tokens of a padded row of anchors; None: as the others.

        Returns:
          input_ids, attention_mask, token_type_ids int32 [batch, anchor_length], skipped int32 [batch]; the same with
          other_ in front, [batch, columns, ...]; weights float32 [batch]; labels [batch]; texts int32 [batch] and
          other_texts int32 [batch, columns], a number for each different text, -1 for none; known int32 [batch, k], the
          texts that the data has as positives of the anchor, -1 for none; groups int32 [batch], -1 for none. After
          `guided_by` guide_vectors float32 [batch, size], and other_guide_vectors [batch, columns, size].
        """
        rows = np.asarray(rows)
        real = rows >= 0
        columns = np.where(real[:, None], self._columns[rows], -1)
        anchors = self._texts.batch(columns[:, 0], anchor_length or length)
        others = self._texts.batch(columns[:, 1:].reshape(-1), length)
        others = {OTHERS + name: array.reshape(len(rows), -1, *array.shape[1:]) for name, array in others.items()}
        identity = np.where(columns < 0, -1, self._identity[rows]).astype(np.int32)
        labels = np.zeros((len(rows), *self.labels.shape[1:]), self.labels.dtype)
        labels[real] = self.labels[rows[real]]
        guides = {"query": (GUIDE, columns[:, 0]), "document": (OTHERS + GUIDE, columns[:, 1:])}
        given = {name: self._guide_vectors(kind, own) for kind, (name, own) in guides.items() if kind in self._guide}
        return anchors | others | given | {
            "weights": real.astype(np.float32),
            "labels": labels,
            "texts": identity[:, 0],
            OTHERS + "texts": identity[:, 1:],
            "known": np.where(real[:, None], self._known[rows], -1).astype(np.int32),
            "groups": np.where(real, self._groups[rows], -1).astype(np.int32),
        }  # fmt: skip


def _known_positives(texts):
    """Returns the positives that the data has of each row's anchor, int32 [rows, most of them]; -1 fills rows up."""
    positives: dict[int, dict[int, None]] = {}
    for anchor, *others in texts[:, :2].tolist():
        positives.setdefault(anchor, {}).update(dict.fromkeys(others or [-1]))
    width = max(map(len, positives.values()))
    padded = {anchor: [*texts_of, *[-1] * (width - len(texts_of))] for anchor, texts_of in positives.items()}
    return np.array([padded[anchor] for anchor in texts[:, 0].tolist()], np.int32)
