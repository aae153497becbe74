"""Reads what embedders learn from, and scores their vectors.

Each example has an anchor, a positive and perhaps negatives; beside them a graded similarity, a label, or a number that
examples with the same meaning share. Held-out sets are of the same columns, or retrieval tasks in BEIR's layout.
"""

import abc
import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import config as config_lib
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import beir, metrics, ranking, records, unique_batches
from bert_jax.data.tasks.labels import SingleLabel, kind_of
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

OTHERS = "other_"  # in front of the names of arrays of positives and negatives in a batch
_AT_ONCE = 4096  # texts that are tokenized together
_ORDERS_KEPT = 1024  # at most as many as seeds train side by side
_SHOWN = 3  # documents in a prediction
# Names that files of graded pairs give their columns, of the texts and of the score (STS benchmark, SICK, MTEB).
_PAIR_NAMES = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"), ("text", "text_pair"), ("text1", "text2"))
_SCORE_NAMES = ("score", "similarity_score", "relatedness_score", "label", "gold")


class Texts:
    """Different texts, each encoded once behind its prompt.

    Args:
      tokenizer: encodes them.
      length: tokens of the longest row; longer texts are cut.
      skips_prompts: whether the tokens of a prompt are left out of pooling.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, skips_prompts: bool):
        self.tokenizer, self._length, self._skips = tokenizer, length, skips_prompts
        self._numbers: dict[tuple[str, str], int] = {}
        self._room = length - rows_lib.num_special(tokenizer, pair=False)
        self.cut = 0

    def add(self, text: str, prompt: str = "") -> int:
        """Returns the number of a text behind a prompt."""
        return self._numbers.setdefault((prompt, text), len(self._numbers))

    def encode(self) -> None:
        """Encodes all texts that were added; their rows can then be had."""
        keys = list(self._numbers)
        sizes = {prompt: self._prompt_size(prompt) for prompt in dict.fromkeys(prompt for prompt, _ in keys)}

        def encoded():
            for start in range(0, len(keys), _AT_ONCE):
                texts = [prompt + text for prompt, text in keys[start : start + _AT_ONCE]]
                for ids in self.tokenizer.encode(texts, special=True):
                    self.cut += len(ids) > self._room
                    yield ids[: self._room]

        self._ids = rows_lib.Ragged(encoded())
        self.lengths = self._ids.lengths + np.int32(rows_lib.num_special(self.tokenizer, pair=False))
        before = len(self.tokenizer.frame.before)
        skipped = [before + sizes[prompt] if self._skips and sizes[prompt] else 0 for prompt, _ in keys]
        self._skipped = np.array(skipped, np.int32)
        plain = {text: i for i, text in enumerate(dict.fromkeys(text for _, text in keys))}
        self.identity = np.array([plain[text] for _, text in keys], np.int32)  # equal for a text with other prompts
        self.texts = [text for _, text in keys]

    def _prompt_size(self, prompt):
        size = len(self.tokenizer.encode([prompt], special=True)[0]) if prompt else 0
        if size and size >= self._room - 1:
            raise UserError(
                f"config.task.anchor_prompt, positive_prompt: {prompt!r} has {size} tokens, which leave no room for "
                f"text in rows of config.data.sequence_length={self._length}"
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
            empty if number < 0 else rows_lib.join(self.tokenizer, self._ids[number].tolist())
            for number in numbers.tolist()
        ]
        skipped = np.where(numbers < 0, 0, self._skipped[numbers]).astype(np.int32)
        return rows_lib.pad(self.tokenizer, inputs, length) | {"skipped": skipped}


class Groups:
    """Examples to train on: an anchor and its others in each row; see data.tasks.Examples.

    Attributes:
      lengths: int32 [rows], tokens of the longest text of each row.
      anchor_lengths, other_lengths: int32 [rows], tokens of the anchor, and of the longest of the others.
      labels: float32 or int32 [rows]: graded similarity, margin or class; zeros where there is none.
    """

    others: Sequence[Mapping[str, Any]] = ()

    def __init__(self, texts: Texts, columns: np.ndarray, labels: np.ndarray, groups: np.ndarray, unique: bool):
        self.tokenizer, self._texts, self._columns = texts.tokenizer, texts, columns
        self.labels, self._groups, self._unique = labels, groups, unique
        sizes = np.where(columns < 0, 0, texts.lengths[columns])
        self.anchor_lengths, self.other_lengths = sizes[:, 0], sizes[:, 1:].max(1)
        self.lengths = sizes.max(1)
        self._identity = np.where(columns < 0, -1, texts.identity[columns])
        self._known = _known_positives(self._identity)
        self._order = functools.lru_cache(maxsize=_ORDERS_KEPT)(self._make_order)

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray | None:
        """Returns the rows of each batch of an epoch, int64 [batches, batch_size]; None where any order will do."""
        return self._order(batch_size, seed, epoch) if self._unique else None

    def _make_order(self, batch_size, seed, epoch):
        count = -(-len(self.lengths) // batch_size)
        texts = self._identity.copy()
        if texts.shape[1] > 2:  # negatives that are too common to be apart may meet: they are nobody's positive
            rows = np.bincount(texts[texts >= 0])
            negatives = texts[:, 2:]
            negatives[np.where(negatives < 0, 0, rows[negatives]) > count] = -1
        return unique_batches.order(texts, batch_size, seed, epoch)

    def check_batches(self, batch_size: int) -> None:
        """Raises UserError if no batches of different texts can be made."""
        if not self._unique:
            return
        count = -(-len(self.lengths) // batch_size)
        if len(self.lengths) < batch_size:
            raise UserError(
                f"config.data.batch_size: {batch_size}, but config.task.train has {len(self.lengths):,} examples; "
                "negatives are the other examples of a batch, so expected at most as many"
            )
        text, number = unique_batches.commonest(self._identity[:, :2])
        if number > count:
            place = int(np.flatnonzero(self._texts.identity == text)[0])
            raise UserError(
                f"config.task.train: {self._texts.texts[place][:60]!r} is in {number:,} of {len(self.lengths):,} "
                f"examples ({number / len(self.lengths):.1%}), but a batch has a text once and an epoch has {count:,} "
                f"batches; expected at most one in config.data.batch_size={batch_size}, or another loss"
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
          texts that the data has as positives of the anchor, -1 for none; groups int32 [batch], -1 for none.
        """
        rows = np.asarray(rows)
        real = rows >= 0
        columns = np.where(real[:, None], self._columns[rows], -1)
        anchors = self._texts.batch(columns[:, 0], anchor_length or length)
        others = self._texts.batch(columns[:, 1:].reshape(-1), length)
        others = {OTHERS + name: array.reshape(len(rows), -1, *array.shape[1:]) for name, array in others.items()}
        identity = np.where(columns < 0, -1, self._identity[rows]).astype(np.int32)
        labels = np.zeros(len(rows), self.labels.dtype)
        labels[real] = self.labels[rows[real]]
        return anchors | others | {
            "weights": real.astype(np.float32),
            "labels": labels,
            "texts": identity[:, 0],
            OTHERS + "texts": identity[:, 1:],
            "known": np.where(real[:, None], self._known[rows], -1).astype(np.int32),
            "groups": np.where(real, self._groups[rows], -1).astype(np.int32),
        }  # fmt: skip


class Vectors(abc.ABC):
    """Texts whose vectors are scored: a row for each different text; see data.tasks.Examples.

    Attributes:
      metrics: names of the scores; the first chooses the best checkpoint unless config.task.metric does.
      baseline: that score of equal vectors; nan where there is none.
    """

    others: Sequence[Mapping[str, Any]] = ()
    metrics: tuple[str, ...]
    baseline: float

    def __init__(self, texts: Texts):
        self.tokenizer, self._texts, self.lengths = texts.tokenizer, texts, texts.lengths
        self.texts = texts.texts

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns input_ids, attention_mask, token_type_ids int32 [batch, length], skipped, and weights [batch]."""
        rows = np.asarray(rows)
        return self._texts.batch(rows, length) | {"weights": (rows >= 0).astype(np.float32)}

    @abc.abstractmethod
    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns the metrics of vectors, float32 [texts, size]; they have length 1 unless dot products are meant."""

    @abc.abstractmethod
    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields an object for each example; vectors float32 [texts, size]."""


class Similarity(Vectors):
    """Pairs of texts with graded similarities.

    Args:
      texts: the encoded texts.
      pairs: numbers of the texts of each pair, int [pairs, 2].
      scores: float [pairs].
      records: other columns of each pair.
    """

    metrics = ("spearman", "pearson")
    baseline = 0.0

    def __init__(self, texts: Texts, pairs: np.ndarray, scores: np.ndarray, others: Sequence[Mapping[str, Any]] = ()):
        super().__init__(texts)
        self._pairs, self._scores, self.others = pairs, scores, others

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns Spearman's and Pearson's correlation of scores and dot products; see `Vectors.score`."""
        correlations = metrics.regression(self._scores, self._similarities(vectors))
        return {name: correlations[name] for name in self.metrics}

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text, text_pair, gold and score of each pair; vectors float32 [texts, size]."""
        for (first, second), gold, score in zip(self._pairs, self._scores, self._similarities(vectors), strict=True):
            texts = {"text": self.texts[first], "text_pair": self.texts[second]}
            yield texts | {"gold": float(gold), "score": float(score)}

    def _similarities(self, vectors):
        first, second = vectors[self._pairs[:, 0]], vectors[self._pairs[:, 1]]
        return (first.astype(np.float64) * second).sum(-1)


class Retrieval(Vectors):
    """Queries, documents, and which of them answer a query.

    Args:
      texts: the encoded texts.
      queries, documents: numbers of texts.
      relevance: for each query, grade by place in `documents`.
      same: for each query, the place of a document that is left out, or -1; () for none.
    """

    metrics = ranking.METRICS
    baseline = float("nan")

    def __init__(
        self,
        texts: Texts,
        queries: Sequence[int],
        documents: Sequence[int],
        relevance: Sequence[Mapping[int, float]],
        same: Sequence[int] = (),
    ):
        super().__init__(texts)
        self._queries, self._documents = np.asarray(queries), np.asarray(documents)
        self._relevance, self._same = relevance, same

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns ranking.METRICS of the documents ranked by dot products; see `Vectors.score`."""
        return ranking.score(self._ranked(vectors), self._relevance)

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text of each query, gold (its documents), rank of the first of them, and the nearest documents.

        Args:
          vectors: float32 [texts, size].
        """
        ranked = self._ranked(vectors)
        for query, row, grades in zip(self._queries, ranked.tolist(), self._relevance, strict=True):
            places = [i for i, document in enumerate(row, 1) if grades.get(document, 0) > 0]
            nearest = [
                {"text": self.texts[self._documents[document]],
                 "score": float(vectors[query] @ vectors[self._documents[document]])}
                for document in row[:_SHOWN]
            ]  # fmt: skip
            gold = [self.texts[self._documents[document]] for document, grade in grades.items() if grade > 0]
            rank = places[0] if places else None
            yield {"text": self.texts[query], "gold": gold, "rank": rank, "nearest": nearest}

    def _ranked(self, vectors):
        return ranking.nearest(vectors[self._queries], vectors[self._documents], excluded=self._same)


class EmbeddingTask:
    """Learns vectors of texts from pairs, triplets, graded or labelled pairs; see data.tasks.TaskData.

    A held-out set is scored by what it holds: with scores by the correlation with cosines, else by retrieving each
    anchor's positive among all positives and negatives of the set. ir:DIR is a retrieval task in BEIR's layout,
    sts:FILE a file of graded pairs whose columns have the names of config.task or of the usual benchmarks.

    Attributes:
      loss: the loss that config.loss.name means for this data.
    """

    scheme = ""
    test = None

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        self._config, self._tokenizer, self._task = config, tokenizer, task
        self._negatives = config_lib.listed(task.negatives)
        marked, plain = self._split_held_out()
        train, held_out, test = self._read_tables(plain, bool(marked))
        self.loss = self._choose_loss(train)
        self.problem = self.loss
        self.notes = records.notes_of(train, held_out, test)
        self.labels: tuple[str, ...] = ()
        self._classes = None
        if self.loss == "softmax":
            self._classes = SingleLabel(train, (task.label,), config_lib.listed(task.labels))
            self.labels = self._classes.names
        self.train = self._train(train)
        self.train.check_batches(config.data.batch_size)
        self.held_out: dict[str, Vectors] = {}
        for name, table in held_out.items():
            self.held_out[name] = self._held_out(table)
        for name, spec in marked.items():
            kind, _, path = spec.partition(":")
            self.held_out[name] = self._beir(path) if kind == "ir" else self._graded(path)
        first = next(iter(self.held_out.values()))
        self.metrics, self.metric = self._choose_metrics(first)
        self.baseline = first.baseline
        prompts = {"query": task.anchor_prompt, "document": task.positive_prompt}
        self.settings: Mapping[str, Any] = {
            "normalize": task.normalize,
            "include_prompt": task.pool_prompts,
            "prompts": prompts if any(prompts.values()) else {},
            "default_prompt_name": None,
            "similarity": "cosine" if task.normalize else config.loss.similarity,
        }

    def score(self, examples: Vectors, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of vectors [size] of each text, and with NAME_WIDTH those of vectors cut to a width."""
        vectors = np.stack(outputs)
        scores = examples.score(self._compared(vectors))
        chosen = {name: scores[name] for name in self.metrics if name in scores} or scores
        for width in self._config.loss.matryoshka:
            cut = examples.score(self._compared(vectors[:, :width]))
            chosen |= {f"{name}_{width}": cut[name] for name in list(chosen) if name in cut}
        return chosen

    def predictions(self, examples: Vectors, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object for each pair or query of a held-out set; outputs are the vectors [size] of its texts."""
        return examples.predictions(self._compared(np.stack(outputs)))

    def _compared(self, vectors):
        """Returns vectors whose dot products are the similarities that the model is made for."""
        return vectors if self.settings["similarity"] == "dot" else _unit(vectors)

    def _split_held_out(self):
        """Returns (name -> ir:DIR or sts:FILE, the other held-out sets as config.task.held_out names them)."""
        sets = records.named_sets(self._task.held_out, "config.task.held_out")
        marked = {name: spec for name, spec in sets.items() if spec.startswith(("ir:", "sts:"))}
        plain = ",".join(f"{name}={spec}" if name else spec for name, spec in sets.items() if name not in marked)
        return marked, plain

    def _read_tables(self, held_out, has_others):
        task = self._task
        columns = [task.anchor, *([task.positive] if task.positive else [])]
        taken = [task.anchor, task.positive, *self._negatives, task.relevance_id]
        for name in filter(None, taken):
            if taken.count(name) > 1:
                raise UserError(f"config.task: column {name!r} is named for two things; expected one for each")
        optional = [task.score, task.label, *self._negatives, task.relevance_id]
        optional = [name for name in optional if name and name not in columns]
        if not held_out and has_others:
            read = records.read(task.train, "config.task.train", task, columns, optional), {}, None
        else:
            config = self._config.copy_and_resolve_references()
            config.task.held_out, config.task.test = held_out, ""
            together = task.positive or ""
            read = records.splits(config, columns, (), optional, together)
        for name in (*self._negatives, task.relevance_id):
            if name and name not in read[0].columns:
                key = "negatives" if name in self._negatives else "relevance_id"
                raise UserError(f"config.task.{key}: config.task.train has nothing in a column {name!r}")
        return read

    def _choose_loss(self, train):
        task, name = self._task, self._config.loss.name
        has_score, has_label = task.score in train.columns, task.label in train.columns
        if name == "auto":
            name = "cosent" if has_score else "softmax" if has_label and not self._negatives else "info_nce"
        needs = {"cosent": task.score, "angle": task.score, "cosine": task.score, "margin_mse": task.score,
                 "softmax": task.label}.get(name)  # fmt: skip
        if needs is not None and needs not in train.columns:
            key = "label" if name == "softmax" else "score"
            raise UserError(
                f"config.loss.name={name} needs a {key}, but config.task.train has no column {needs!r} "
                f"(config.task.{key})"
            )
        if name in ("triplet", "margin_mse") and not self._negatives:
            raise UserError(f"config.loss.name={name} needs a negative; expected config.task.negatives=COLUMN")
        if not task.positive and name != "info_nce":
            raise UserError(f"config.task.positive: empty, which only info_nce takes; found config.loss.name={name}")
        return name

    def _choose_metrics(self, first):
        known = first.metrics
        wanted = config_lib.listed(self._task.metrics) or known
        for key, names in (("metrics", wanted), ("metric", (self._task.metric,) if self._task.metric else ())):
            for name in names:
                if name not in known:
                    raise UserError(f"config.task.{key}: found {name!r}; expected of {', '.join(known)}")
        metric = self._task.metric or wanted[0]
        return tuple(dict.fromkeys((*wanted, metric))), metric

    def _texts(self):
        return Texts(self._tokenizer, self._config.data.sequence_length, not self._task.pool_prompts)

    def _columns(self, texts, table):
        """Returns the numbers of each record's texts, [records, 1 + others]; -1 for an absent negative."""
        task = self._task
        anchors = [texts.add(_text(table, i, task.anchor), task.anchor_prompt) for i in range(len(table))]
        if not task.positive:
            return np.array([anchors, anchors], np.int64).T
        rows = []
        for i, anchor in enumerate(anchors):
            positive = texts.add(_text(table, i, task.positive), task.positive_prompt)
            row = [anchor, positive]
            for text in self._negatives_of(table, i):
                if text == table.columns[task.positive][i]:
                    raise UserError(f"{table.where(i)}: the negative {text[:60]!r} is the positive; expected another")
                row.append(texts.add(text, task.positive_prompt))
            rows.append(row)
        width = max(map(len, rows))
        return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)

    def _negatives_of(self, table, i):
        for name in self._negatives:
            if name not in table.columns:
                continue
            value = table.columns[name][i]
            if value is None or value == "":
                continue
            if isinstance(value, str) and len(self._negatives) == 1 and value.startswith("["):
                with contextlib.suppress(ValueError):
                    value = json.loads(value)
            for text in value if isinstance(value, list | tuple | np.ndarray) else [value]:
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"{table.where(i)}: {name!r} holds {kind_of(text)}; expected texts")
                yield text

    def _train(self, table):
        texts = self._texts()
        columns = self._columns(texts, table)
        if self.loss in ("triplet", "margin_mse"):
            if (columns[:, 2] < 0).any():
                place = table.where(int(np.flatnonzero(columns[:, 2] < 0)[0]))
                raise UserError(f"{place}: no negative, which config.loss.name={self.loss} needs")
            columns = columns[:, :3]
        elif self.loss != "info_nce":
            columns = columns[:, :2]
        texts.encode()
        self._note_cut(texts, "train")
        labels = np.zeros(len(table), np.float32)
        if self._classes is not None:
            labels = self._classes.read(table, True)
            assert labels is not None  # the column is there, else the loss were another
        elif self._task.score in table.columns and self.loss != "info_nce":
            labels = self._scores(table, in_range=self.loss == "cosine")
        groups = np.full(len(table), -1)
        if self._task.relevance_id:
            values = table.columns[self._task.relevance_id]
            numbers = {value: i for i, value in enumerate(dict.fromkeys(map(str, values)))}
            groups = np.array([-1 if value is None or value == "" else numbers[str(value)] for value in values])
        return Groups(texts, columns, labels, groups, self.loss == "info_nce")

    def _scores(self, table, in_range=False, name=""):
        """Returns the scores of records, float32 [records], scaled where config.task.score_range says how."""
        name, span = name or self._task.score, self._task.score_range
        span = () if name != self._task.score else span
        scores = np.zeros(len(table), np.float32)
        low, high = span or ((-1.0, 1.0) if in_range else (-np.inf, np.inf))
        for i, value in enumerate(table.columns[name]):
            try:
                scores[i] = float(value)
            except (TypeError, ValueError):
                raise UserError(f"{table.where(i)}: {name!r} holds {value!r}; expected a number") from None
            if not low <= scores[i] <= high:
                hint = "" if span else " or config.task.score_range=LOWEST,HIGHEST"
                raise UserError(f"{table.where(i)}: {name} {value}; expected a score from {low:g} to {high:g}{hint}")
        return (scores - span[0]) / (span[1] - span[0]) if span else scores

    def _held_out(self, table):
        task, texts = self._task, self._texts()
        columns = self._columns(texts, table)
        texts.encode()
        self._note_cut(texts, "held out")
        if task.score in table.columns and self.loss != "margin_mse":
            return Similarity(texts, columns[:, :2], self._scores(table), table.others)
        if not task.positive:
            raise UserError(
                "config.task.held_out: without config.task.positive nothing can be held out of train; expected a file "
                "with scores, or ir:DIR (config.task.positive and config.task.score name its columns)"
            )
        documents = [number for number in dict.fromkeys(columns[:, 1:].ravel().tolist()) if number >= 0]
        places = {number: i for i, number in enumerate(documents)}
        relevance: dict[int, dict[int, float]] = {}
        known = self._relevant(table, columns)
        for i, (query, positive) in enumerate(columns[:, :2].tolist()):
            grades = relevance.setdefault(query, {})
            grades |= {places[number]: 1.0 for number in known.get(i, [positive])}
        return Retrieval(texts, list(relevance), documents, list(relevance.values()))

    def _relevant(self, table, columns):
        """Returns the positives of each record's group, where config.task.relevance_id makes groups."""
        if self._task.relevance_id not in table.columns:
            return {}
        members: dict[Any, list[int]] = {}
        values = table.columns[self._task.relevance_id]
        for value, positive in zip(values, columns[:, 1].tolist(), strict=True):
            if value not in (None, ""):
                members.setdefault(value, []).append(positive)
        return {i: members[value] for i, value in enumerate(values) if value in members}

    def _graded(self, spec):
        """Returns the pairs of sts:FILE, by the columns that config.task names, or the first usual ones."""
        task, texts = self._task, self._texts()
        pairs = [(task.anchor, task.positive), *_PAIR_NAMES] if task.positive else list(_PAIR_NAMES)
        names = list(dict.fromkeys([*itertools.chain(*pairs), task.score, *_SCORE_NAMES]))
        table = records.read(spec, "config.task.held_out", task, (), names, keep=True)
        pair = next((pair for pair in pairs if all(name in table.columns for name in pair)), None)
        score = next((name for name in (task.score, *_SCORE_NAMES) if name in table.columns), None)
        if pair is None or score is None:
            known = f"{', '.join(map('/'.join, pairs))}, and {', '.join(_SCORE_NAMES)}"
            raise UserError(
                f"config.task.held_out=sts:{spec}: no columns of two texts and a score; expected some of {known} "
                "(config.task.anchor, positive and score name others)"
            )
        numbers = [[texts.add(_text(table, i, name)) for name in pair] for i in range(len(table))]
        texts.encode()
        self._note_cut(texts, "held out")
        return Similarity(texts, np.array(numbers, np.int64), self._scores(table, name=score), table.others)

    def _beir(self, directory):
        task, texts = self._task, self._texts()
        data = beir.read(directory, "config.task.held_out")
        queries = [texts.add(text, task.anchor_prompt) for text in data.queries]
        documents = [texts.add(text, task.positive_prompt) for text in data.documents]
        texts.encode()
        self._note_cut(texts, "held out")
        return Retrieval(texts, queries, documents, data.relevance, data.same)

    def _note_cut(self, texts, split):
        if texts.cut:
            self.notes.append(
                f"{split}: {texts.cut:,} of {len(texts.lengths):,} texts are longer than config.data.sequence_length="
                f"{self._config.data.sequence_length} and were cut"
            )


def _known_positives(texts):
    """Returns the positives that the data has of each row's anchor, int32 [rows, most of them]; -1 fills rows up."""
    positives: dict[int, dict[int, None]] = {}
    for anchor, positive in texts[:, :2].tolist():
        positives.setdefault(anchor, {})[positive] = None
    width = max(map(len, positives.values()))
    padded = {anchor: [*own, *[-1] * (width - len(own))] for anchor, own in positives.items()}
    return np.array([padded[anchor] for anchor in texts[:, 0].tolist()], np.int32)


def _text(table, i, name):
    text = table.columns[name][i]
    if not isinstance(text, str):
        raise UserError(f"{table.where(i)}: {name!r} holds {kind_of(text)}; expected text")
    if not text.strip():
        raise UserError(f"{table.where(i)}: {name!r} is empty; expected text")
    return text


def _unit(vectors):
    """Returns vectors scaled to length 1, float32; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
