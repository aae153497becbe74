"""Reads what embedders learn from, and scores their vectors.

Each example has an anchor, a positive and perhaps negatives; beside them a graded similarity, a label, or a number that
examples with the same meaning share. Held-out sets are of the same columns, or retrieval tasks in BEIR's layout.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import config as config_lib
from bert_jax.config.finetuning_keys import LATE_POOLING, TEACHER_SCORE_LOSSES
from bert_jax.config.named_sets import named_sets
from bert_jax.data import long_texts
from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import cells, records, set_batches, vector_files
from bert_jax.data.tasks.labels import SingleLabel
from bert_jax.data.tasks.late_interaction import PUNCTUATION, Reading, TokenTexts, TokenVectors
from bert_jax.data.tasks.text_names import unread_note
from bert_jax.data.tasks.vector_measures import Retrieval, Similarity, Vectors, unit_vectors
from bert_jax.data.tasks.vector_sets import Groups, Texts
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError


class EmbeddingTask:
    """Learns vectors of texts from pairs, triplets, graded or labelled pairs; see data.tasks.TaskData.

    A held-out set of pairs is scored by retrieving each anchor's positive among all its positives and negatives; that
    of a loss of graded pairs, or of texts without positives, by the correlation of its scores with cosines, if it has
    some. sts:FILE, ir:DIR and their like are what vector_files reads.

    Attributes:
      loss: the loss that config.loss.name means for this data.
    """

    scheme = ""
    test = None

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        self._config, self._tokenizer, self._task = config, tokenizer, task
        self._negatives = config_lib.listed(task.negatives)
        self._reading = reading_of(config) if task.pooling == LATE_POOLING else None
        marked, plain = self._split_held_out()
        train, held_out, test = self._read_tables(plain, bool(marked))
        self.loss = self._choose_loss(train)
        self.problem = self.loss
        self.notes = records.notes_of(train, held_out, test)
        if not self._negatives and held_out:
            self.notes += unread_note(next(iter(held_out.values())).others, (), "negatives")
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
            texts = self._texts()
            self.held_out[name], notes = vector_files.read(spec, "config.task.held_out", task, texts)
            self._note_cut(texts, "held out")
            self.notes += notes
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
        } | long_texts.settings(LongReading.from_config(config))
        if self._reading:
            self.settings = dict(self.settings) | {
                "similarity": "maxsim", "late_interaction": self._reading.to_json(),
            }  # fmt: skip

    def score(self, examples: Vectors, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of vectors [size] of each text, and with NAME_WIDTH those of vectors cut to a width."""
        scores = examples.score(self._compared(outputs))
        chosen = {name: scores[name] for name in self.metrics if name in scores} or scores
        for width in self._config.loss.matryoshka:
            cut = examples.score(self._compared([output[..., :width] for output in outputs]))
            chosen |= {f"{name}_{width}": cut[name] for name in list(chosen) if name in cut}
        return chosen

    def predictions(self, examples: Vectors, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object for each pair or query of a held-out set; outputs are the vectors [size] of its texts."""
        return examples.predictions(self._compared(outputs))

    def _compared(self, outputs) -> Any:
        """Returns vectors whose dot products, or MaxSim, are the similarities that the model is made for."""
        vectors = TokenVectors(outputs) if self._reading else np.stack(outputs)
        return vectors if self.settings["similarity"] == "dot" else unit_vectors(vectors)

    def _split_held_out(self):
        """Returns (name -> spec of vector_files, the other held-out sets as config.task.held_out names them)."""
        sets = named_sets(self._task.held_out, "config.task.held_out")
        marked = {name: spec for name, spec in sets.items() if spec.startswith(vector_files.KINDS)}
        for spec in marked.values() if self._reading else ():
            if not spec.startswith(vector_files.SEARCHES):
                raise UserError(
                    f"config.task.held_out={spec}: late interaction compares queries with documents; expected "
                    f"{' or '.join(vector_files.SEARCHES)}, or a file like config.task.train"
                )
        plain = ",".join(f"{name}={spec}" if name else spec for name, spec in sets.items() if name not in marked)
        return marked, plain

    def _read_tables(self, held_out, has_others):
        task = self._task
        columns = [task.anchor, *([task.positive] if task.positive else [])]
        taken = [task.anchor, task.positive, *self._negatives, task.relevance_id]
        cells.check_named_once(taken)
        optional = [task.score, task.label, *self._negatives, task.relevance_id]
        optional = [name for name in dict.fromkeys(optional) if name and name not in columns]
        if not held_out and has_others:
            with records.naming_keys(task):
                read = records.read_sets(task.train, "config.task.train", task, columns, optional), {}, None
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
            name = "kl" if name == "cosent" and self._negatives else name
        graded = ("cosent", "angle", "cosine", *TEACHER_SCORE_LOSSES)
        needs = task.score if name in graded else task.label if name == "softmax" else None
        if needs is not None and needs not in train.columns:
            key = "label" if name == "softmax" else "score"
            raise UserError(
                f"config.loss.name={name} needs a {key}, but config.task.train has no column {needs!r} "
                f"(config.task.{key})"
            )
        if name in ("triplet", *TEACHER_SCORE_LOSSES) and not self._negatives:
            raise UserError(f"config.loss.name={name} needs a negative; expected config.task.negatives=COLUMN")
        size = min(self._config.data.batch_size, len(train))
        if name == "info_nce" and size < 2 and not self._negatives:
            raise UserError(
                f"config.data.batch_size: {size} example in a batch, whose loss is always 0: info_nce takes the other "
                "examples of the batch for negatives; expected at least 2, or config.task.negatives"
            )
        if not task.positive and name not in ("info_nce", "mse", "denoising"):
            raise UserError(
                "config.task.positive: empty, which only info_nce, mse and denoising take; found "
                f"config.loss.name={name}"
            )
        if name == "denoising" and (task.positive or task.anchor_prompt):
            key = "positive" if task.positive else "anchor_prompt"
            raise UserError(
                f"config.task.{key}: found {task[key]!r}; expected '' with config.loss.name=denoising, which learns "
                "from texts alone"
            )
        for key, user in (("guide", "info_nce"), ("teacher", "mse")):
            if self._config.loss[key] and name != user:
                raise UserError(
                    f"config.loss.{key}: found {self._config.loss[key]!r} with config.loss.name={name}; expected it "
                    f"with config.loss.name={user} alone"
                )
        if name == "mse" and not self._config.loss.teacher:
            raise UserError("config.loss.name=mse needs a model whose vectors it learns; expected config.loss.teacher")
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
        if self._reading:
            return TokenTexts(self._tokenizer, self._reading)
        return Texts(self._tokenizer, LongReading.from_config(self._config), not self._task.pool_prompts)

    def _columns(self, texts, table):
        """Returns the numbers of each record's texts, [records, 1 + others]; -1 for an absent negative."""
        task = self._task
        anchors = [texts.add(cells.text(table, i, task.anchor), task.anchor_prompt, True) for i in range(len(table))]
        if not task.positive:
            return np.array([anchors, anchors] if self.loss == "info_nce" else [anchors], np.int64).T
        rows = []
        for i, anchor in enumerate(anchors):
            positive = texts.add(cells.text(table, i, task.positive), task.positive_prompt)
            row = [anchor, positive]
            for text in self._negatives_of(table, i):
                if text == table.columns[task.positive][i]:
                    raise UserError(f"{table.where(i)}: the negative {text[:60]!r} is the positive; expected another")
                row.append(texts.add(text, task.positive_prompt))
            rows.append(row)
        width = max(map(len, rows))
        return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)

    def _check_negatives(self, table, texts, columns):
        """Raises UserError if the model could not tell a negative from the positive of its record."""
        identity = np.where(columns < 0, -1, texts.identity[columns])
        same = (columns[:, 2:] >= 0) & (identity[:, 2:] == identity[:, 1:2])
        for i, column in np.argwhere(same)[:1].tolist():
            text = texts.texts[columns[i, 2 + column]]
            raise UserError(
                f"{table.where(i)}: the negative {text[:60]!r} has the tokens of the positive; expected another"
            )

    def _negatives_of(self, table, i):
        for name in self._negatives:
            if name not in table.columns:
                continue
            value = table.columns[name][i]
            if value is None or value == "":
                continue
            value = cells.listed(value) if len(self._negatives) == 1 or not isinstance(value, str) else value
            for text in value if isinstance(value, list) else [value]:
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"{table.where(i)}: {name!r} holds {cells.kind_of(text)}; expected texts")
                yield text

    def _train(self, table):
        texts = self._texts()
        columns = self._columns(texts, table)
        if self.loss in ("triplet", *TEACHER_SCORE_LOSSES):
            if columns.shape[1] < 3 or (columns[:, 2] < 0).any():
                place = table.where(int(np.flatnonzero((columns < 0).any(1))[0]) if columns.shape[1] > 2 else 0)
                raise UserError(f"{place}: no negative, which config.loss.name={self.loss} needs")
            columns = columns[:, :3] if self.loss == "triplet" else columns
        elif self.loss not in ("info_nce", "mse"):
            columns = columns[:, :2]
        texts.encode()
        self._note_cut(texts, "train")
        self._check_negatives(table, texts, columns)
        labels = np.zeros(len(table), np.float32)
        if self.loss in TEACHER_SCORE_LOSSES:
            labels = self._teacher_scores(table, (columns[:, 1:] >= 0).sum(1), columns.shape[1] - 1)
        elif self._classes is not None:
            labels = self._classes.read(table, True)
            assert labels is not None  # the column is there, else the loss were another
        elif self._task.score in table.columns and self.loss != "info_nce":
            labels = vector_files.scores_of(table, self._task, self._task.score, in_range=self.loss == "cosine")
        groups = np.full(len(table), -1)
        if self._task.relevance_id:
            values = table.columns[self._task.relevance_id]
            numbers = {value: i for i, value in enumerate(dict.fromkeys(map(str, values)))}
            groups = np.array([-1 if value is None or value == "" else numbers[str(value)] for value in values])
        return Groups(texts, columns, labels, groups, self.loss == "info_nce", self._sets(table))

    def _teacher_scores(self, table, counts, width):
        """Returns a teacher's scores of each record's positive and negatives, float32 [records, width].

        A record has them, or the margins: the score of the positive less that of each negative.
        """
        name, scores = self._task.score, np.zeros((len(table), width), np.float32)
        for i, count in enumerate(counts.tolist()):
            value = cells.listed(table.columns[name][i])
            value = value if isinstance(value, list) else [value]
            numbers = [cells.number(table, i, name, number) for number in value]
            if len(numbers) not in (count, count - 1):
                raise UserError(
                    f"{table.where(i)}: {len(numbers)} values in {name!r}; expected {count}, a score of the positive "
                    f"and of each negative, or {count - 1}, the margins"
                )
            scores[i, :count] = numbers if len(numbers) == count else [0.0, *(-margin for margin in numbers)]
        return scores

    def _sets(self, table):
        """Returns the sets that config.task.train names, with their shares; None where it names none."""
        data, number = self._config.data, len(table.set_names)
        if data.weights and len(data.weights) != number:
            raise UserError(
                f"config.data.weights: found {tuple(data.weights)}; expected a number for each named set of "
                f"config.task.train, of which there are {number} (NAME=FILE,NAME=FILE)"
            )
        if not number:
            return None
        return set_batches.make_sets(
            table.set_names, np.array(table.sets), tuple(data.weights), data.temperature, data.set_batches == "apart"
        )

    def _held_out(self, table):
        task, texts = self._task, self._texts()
        columns = self._columns(texts, table)
        texts.encode()
        self._note_cut(texts, "held out")
        is_pairs = bool(task.positive) and self.loss in ("info_nce", "triplet", "mse", *TEACHER_SCORE_LOSSES)
        if task.score in table.columns and not is_pairs:
            return Similarity(texts, columns[:, :2], vector_files.scores_of(table, task, task.score), table.others)
        if not task.positive:
            raise UserError(
                "config.task.held_out: without config.task.positive nothing can be held out of train; expected a file "
                "with scores, or ir:DIR (config.task.positive and config.task.score name its columns)"
            )
        same = texts.identity.tolist()  # what the model cannot tell apart is one document
        numbers = [number for number in dict.fromkeys(columns[:, 1:].ravel().tolist()) if number >= 0]
        first = {}
        for number in numbers:
            first.setdefault(same[number], number)
        documents = list(first.values())
        place_of = {identity: i for i, identity in enumerate(first)}
        places = {number: place_of[same[number]] for number in numbers}
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

    def _note_cut(self, texts, split):
        if texts.cut:
            limit = f"config.data.sequence_length={self._config.data.sequence_length}"
            if self._reading:
                limit = f"config.task.query_length={self._reading.query_length} or {limit}"
            self.notes.append(
                f"{split}: {texts.cut:,} of {len(texts.lengths):,} texts are longer than {limit} and were cut"
            )


def reading_of(config: Any) -> Reading:
    """Returns how the texts of a fine-tuning config with config.task.pooling=tokens are read."""
    task = config.task
    markers = config_lib.listed(task.markers) or ("", "")
    return Reading(
        query_length=task.query_length,
        document_length=config.data.sequence_length,
        expansion_length=0 if task.query_expansion == "none" else task.query_length,
        attends_to_expansion=task.query_expansion == "attend",
        skiplist=PUNCTUATION if task.skiplist == "punctuation" else (),
        markers=(markers[0], markers[1]),
    )
