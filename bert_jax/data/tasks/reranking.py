"""Reads what rerankers learn from, queries with documents that are more or less relevant, and scores their rankings.

A record has a query and one of:
  a document, and its label (1 relevant, 0 not, or a grade) or score;
  a list of documents, and lists of their labels or scores;
  a relevant document (config.task.positive) and others (config.task.negatives), and perhaps a teacher's scores of them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import config as config_lib
from bert_jax.config.finetuning_keys import PAIR_LOSSES
from bert_jax.config.named_sets import named_sets
from bert_jax.data import hashing
from bert_jax.data import rows as rows_lib
from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import cells, metrics, ranking, records, vector_files
from bert_jax.data.tasks.classification import encode_texts
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_SHOWN = 3  # documents in a prediction
_DRAWN = 2_000  # rankings from which the score of a random order is known
_TEACHERS = ("margin_mse", "kl")  # losses that learn a teacher's scores


@dataclasses.dataclass
class Judged:
    """Holds pairs of a query and a document.

    Attributes:
      queries: the text of each query that occurs.
      query: number of each pair's query, int64 [pairs].
      documents: text of each pair's document.
      labels: relevance, float32 [pairs]; None where the data has none.
      scores: graded or a teacher's scores, float32 [pairs]; None where the data has none.
      lists: number of the list that a pair is learned in, int64 [pairs]: a record's, or of all pairs of a query.
      records: number of each pair's record, int64 [pairs].
    """

    queries: list[str]
    query: np.ndarray
    documents: list[str]
    labels: np.ndarray | None
    scores: np.ndarray | None
    lists: np.ndarray
    records: np.ndarray


class Pairs:
    """Holds pairs of a query and a document, a row for each; see data.tasks.Examples.

    Attributes:
      lengths: int32 [pairs].
      labels: relevance, or graded scores, float32 [pairs].
      judged: the texts.
      metrics: the key of metrics.METRICS that they are scored by.
    """

    def __init__(self, tokenizer: Tokenizer, judged: Judged, length: int, labels: np.ndarray, kind: str):
        self.tokenizer, self.judged, self.labels, self.metrics = tokenizer, judged, labels, kind
        queries = [judged.queries[number] for number in judged.query]
        self._first, second, self.cut = encode_texts(
            tokenizer, (queries, judged.documents), LongReading("truncate", length)
        )
        assert second is not None  # two columns were given
        self._second = second
        special = np.int32(rows_lib.num_special(tokenizer, pair=True))
        self.lengths = self._first.lengths + second.lengths + special
        self.others: Sequence[Mapping[str, Any]] = ()

    def inputs(self, pairs: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns input_ids, attention_mask, token_type_ids, int32 [n, length], of pairs, int [n]; -1 is empty."""
        rows = [
            ([self.tokenizer.cls_id], [0])
            if pair < 0
            else rows_lib.join(self.tokenizer, self._first[pair].tolist(), self._second[pair].tolist())
            for pair in pairs.tolist()
        ]
        return rows_lib.pad(self.tokenizer, rows, length)

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns the inputs of pairs, weights and labels, float32 [batch]; a row of -1 is a filler of weight 0."""
        rows = np.asarray(rows)
        labels = np.where(rows < 0, 0, self.labels[rows]).astype(np.float32)
        return self.inputs(rows, length) | {"weights": (rows >= 0).astype(np.float32), "labels": labels}


class Lists:
    """Holds queries with their documents to train on: one document or several in each row; see data.tasks.Examples.

    Attributes:
      lengths: int32 [rows], tokens of the longest pair of each row.
      members: the pairs of each row, int64 [rows, documents]; -1 where a query has fewer.
    """

    others: Sequence[Mapping[str, Any]] = ()

    def __init__(self, pairs: Pairs, members: np.ndarray, relevant: np.ndarray):
        self.tokenizer, self._pairs, self.members, self._relevant = pairs.tokenizer, pairs, members, relevant
        self.lengths = np.where(members < 0, 0, pairs.lengths[members]).max(1).astype(np.int32)

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns the arrays of some rows.

        Args:
          rows: int [batch]; a row of -1 is a filler without documents.
          length: tokens of a padded pair.

        Returns:
          input_ids, attention_mask, token_type_ids int32 [batch, documents, length]; float32 [batch, documents]:
          weights, 1.0 for documents; labels, what the loss learns; relevant, 1.0 for relevant documents.
        """
        rows = np.asarray(rows)
        members = np.where(rows[:, None] < 0, -1, self.members[rows])
        inputs = self._pairs.inputs(members.reshape(-1), length)
        real = members >= 0
        return {name: array.reshape(*members.shape, length) for name, array in inputs.items()} | {
            "weights": real.astype(np.float32),
            "labels": np.where(real, self._pairs.labels[members], 0).astype(np.float32),
            "relevant": (real & self._relevant[members]).astype(np.float32),
        }


class RerankingTask:
    """Learns scores of a query and a document together; see data.tasks.TaskData.

    A held-out set is scored by the rankings of each query's documents where most queries have relevant documents and
    others; else by the average precision of all pairs where they are relevant or not, and by the correlation with
    their grades. Documents of equal scores count as ranked the wrong way round, so that equal scores are no ranking.

    Attributes:
      loss: the loss that config.loss.name means for this data.
    """

    scheme = ""
    test = None
    labels = ("score",)

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        self._config, self._task, self._tokenizer = config, task, tokenizer
        self._negatives = config_lib.listed(task.negatives)
        self._has_margins = False
        train, held_out = self._read_tables()
        self.notes = records.notes_of(train, held_out, None)
        judged = self._judged(train, "train")
        self.loss = self._choose_loss(judged)
        self.problem = self.loss
        self.train = self._train(judged, train)
        self.held_out = {name: self._held_out(table, f"held out {name}".rstrip()) for name, table in held_out.items()}
        first = next(iter(self.held_out.values()))
        self.metrics, self.metric = metrics.choose(task, first.metrics)
        self._sigmoid = task.activation == "Sigmoid" or (task.activation == "auto" and self.loss == "bce")
        self.settings: Mapping[str, Any] = {"activation": "Sigmoid" if self._sigmoid else "Identity"}
        self.baseline = self._baseline(first)

    def _baseline(self, examples):
        """Returns the metric of a random order of each query's documents, or of a constant score of pairs."""
        constants = {"spearman": 0.0, "pearson": 0.0}
        constants["average_precision"] = float((examples.labels > 0).mean())
        constants["accuracy"] = 1 - constants["average_precision"]
        if self.metric in constants:
            return constants[self.metric]
        number, scores = len(examples.lengths), []
        for draw in range(max(1, _DRAWN // len(examples.judged.queries))):
            order = hashing.permute(np.arange(number), number, hashing.fold("random order", draw))
            scores.append(self.score(examples, list(order[:, None].astype(np.float64)))[self.metric])
        return float(np.mean(scores))

    def score(self, examples: Pairs, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of logits, [1] for each pair."""
        logits = np.concatenate(outputs).astype(np.float64)
        if examples.metrics == "ranked":
            orders, relevance = self._rankings(examples, logits)
            scores = ranking.score(orders, relevance)
        elif examples.metrics == "relevant":
            relevant = examples.labels > 0
            scores = {"average_precision": metrics.average_precision(relevant, logits)}
            scores["accuracy"] = float(np.mean((logits > 0) == relevant))
        else:
            scores = metrics.regression(examples.labels, logits)
        return {name: scores[name] for name in self.metrics if name in scores} or scores

    def predictions(self, examples: Pairs, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object for each query of a ranked set, or for each pair of another set.

        A query's object has text, gold (its relevant documents), rank (the rank of the first of them) and best (the
        best documents); a pair's has text, text_pair, gold and score.

        Args:
          examples: one of the held-out sets.
          outputs: logit of each pair, [1].
        """
        logits = np.concatenate(outputs).astype(np.float64)
        scores = (1 / (1 + np.exp(-logits)) if self._sigmoid else logits).tolist()
        judged = examples.judged
        if examples.metrics != "ranked":
            for i, document in enumerate(judged.documents):
                yield {"text": judged.queries[judged.query[i]], "text_pair": document,
                       "gold": float(examples.labels[i]), "score": scores[i]}  # fmt: skip
            return
        for query, (order, grades) in enumerate(zip(*self._rankings(examples, logits), strict=True)):
            places = [place for place, pair in enumerate(order.tolist(), 1) if grades[pair] > 0]
            yield {
                "text": judged.queries[query],
                "gold": [judged.documents[pair] for pair, grade in grades.items() if grade > 0],
                "rank": places[0] if places else None,
                "best": [{"text": judged.documents[pair], "score": scores[pair]} for pair in order[:_SHOWN].tolist()],
            }

    def _rankings(self, examples, logits):
        """Returns for each query (its pairs, the best first; grade by pair)."""
        labels, orders, relevance = examples.labels, [], []
        for members in _members(examples.judged.query):
            # The last of equal scores are the most relevant, whatever the order of the data.
            orders.append(members[np.lexsort((labels[members], -logits[members]))])
            relevance.append({int(pair): float(labels[pair]) for pair in members})
        return orders, relevance

    def _read_tables(self):
        task = self._task
        taken = [task.query, task.document, task.positive, *self._negatives]
        cells.check_named_once(taken)
        if task.test:
            raise UserError(
                f"config.task.test={task.test}: not for reranking; expected a held-out set, or predict classify"
            )
        for spec in named_sets(task.held_out, "config.task.held_out").values():
            if spec.startswith(vector_files.KINDS):
                raise UserError(
                    f"config.task.held_out={spec}: not for reranking, which ranks the documents that come with a "
                    "query; expected a file of queries with documents"
                )
        optional = [task.document, task.positive, *self._negatives, task.label, task.score]
        optional = [name for name in dict.fromkeys(optional) if name and name != task.query]
        train, held_out, _ = records.splits(self._config, [task.query], (), optional, together=task.query)
        return train, held_out

    def _choose_loss(self, judged):
        task, name = self._task, self._config.loss.name
        labels, scores = judged.labels, judged.scores
        has_lists = len(np.unique(judged.records)) < len(judged.records)
        if name == "auto":
            in_unit = scores is not None and scores.min() >= 0 and scores.max() <= 1
            if has_lists:
                name = "margin_mse" if labels is not None and scores is not None else "listwise"
                name = "kl" if labels is None else name
            else:
                name = "bce" if labels is not None or in_unit else "mse"
        if name in _TEACHERS and scores is None:
            raise UserError(
                f"config.loss.name={name} needs a teacher's scores, but config.task.train has no column "
                f"{task.score!r} (config.task.score)"
            )
        if name == "mse" and self._has_margins:
            raise UserError(
                f"config.loss.name=mse needs a score of each document, but {task.score!r} (config.task.score) has "
                "margins"
            )
        if name in ("listwise", "margin_mse") and labels is None:
            raise UserError(
                f"config.loss.name={name} needs to know which documents are relevant, but config.task.train has no "
                f"column {task.label!r} (config.task.label)"
            )
        return name

    def _targets(self, judged, table):
        """Returns what the loss learns, float32 [pairs]. Raises UserError for a value that it cannot."""
        prefers_scores = self.loss in (*_TEACHERS, "mse")
        targets = judged.scores if prefers_scores and judged.scores is not None else judged.labels
        targets = judged.scores if targets is None else targets
        low, high = {"bce": (0, 1), "listwise": (0, np.inf), "lambdarank": (0, 30)}.get(self.loss, (-np.inf, np.inf))
        wrong = np.flatnonzero((targets < low) | (targets > high))
        if len(wrong):
            raise UserError(
                f"{table.where(int(judged.records[wrong[0]]))}: found {targets[wrong[0]]:g}; expected from {low} "
                f"{f'to {high}' if np.isfinite(high) else 'on'} with config.loss.name={self.loss}, or "
                "config.task.score_range=LOWEST,HIGHEST for scores"
            )
        if len(np.unique(targets)) < 2:
            raise UserError(
                f"config.task.train: every document has {targets[0]:g}; expected relevant documents (1) and others "
                "(0), such as hard negatives in config.task.negatives"
            )
        return targets

    def _train(self, judged, table):
        targets = self._targets(judged, table)
        relevant = np.zeros(len(targets), bool) if judged.labels is None else judged.labels > 0
        self._note_conflicts(judged)
        pairs = self._encoded(judged, targets, "relevant", "train")
        if self.loss in PAIR_LOSSES:
            return Lists(pairs, np.arange(len(targets))[:, None], relevant)
        largest = self._task.group_size
        if largest < 2:
            raise UserError(f"config.task.group_size: found {largest}; expected two or more with {self.loss}")
        rows, left_out, shortened = [], 0, 0
        for members in _members(judged.lists):
            if not self._teaches(targets[members], relevant[members]):
                left_out += 1
                continue
            if len(members) > largest:  # relevant ones first, but for the place of another
                shortened += 1
                rank = np.argsort(~relevant[members], kind="stable")
                kept = np.concatenate([rank[: largest - 1], rank[max(largest - 1, int(relevant[members].sum())) :]])[
                    :largest
                ]
                members = members[np.sort(kept)]
            rows.append(members)
        if not rows:
            raise UserError(
                f"config.task.train: no query has documents that differ, which config.loss.name={self.loss} needs; "
                "expected relevant documents and others of one query, or config.loss.name=bce"
            )
        if left_out:
            self.notes.append(
                f"train: {left_out:,} queries have no documents that differ in relevance, and are left out"
            )
        if shortened:
            self.notes.append(
                f"train: {shortened:,} queries have more documents than config.task.group_size={largest}; the others "
                "are left out"
            )
        width = max(map(len, rows))
        members = np.array([[*row.tolist(), *[-1] * (width - len(row))] for row in rows], np.int64)
        return Lists(pairs, members, relevant)

    def _teaches(self, targets, relevant):
        """Returns whether the loss of a list of documents depends on the scores."""
        if self.loss in ("listnet", "kl"):
            return len(targets) > 1
        if self.loss in ("listwise", "margin_mse"):
            return bool(relevant.any() and not relevant.all())
        return len(np.unique(targets)) > 1

    def _held_out(self, table, split):
        judged = self._judged(table, split)
        labels = judged.labels
        if labels is None:
            return self._with_others(self._encoded(judged, judged.scores, "graded", split), table)
        kept = _first_of_each(judged.query, judged.documents, labels)
        judged = dataclasses.replace(
            judged, query=judged.query[kept], documents=[judged.documents[i] for i in kept], labels=labels[kept],
            scores=None, lists=judged.lists[kept], records=judged.records[kept],
        )  # fmt: skip
        labels = labels[kept]
        differing = [len(np.unique(labels[members] > 0)) > 1 for members in _members(judged.query)]
        if 2 * sum(differing) > len(differing):
            kind = "ranked"
            if not all(differing):
                self.notes.append(
                    f"{split}: {len(differing) - sum(differing):,} of {len(differing):,} queries do not have both "
                    "relevant and other documents"
                )
        else:
            kind = "relevant" if set(labels.tolist()) <= {0.0, 1.0} else "graded"
        pairs = self._encoded(judged, labels, kind, split)
        return pairs if kind == "ranked" else self._with_others(pairs, table)

    def _with_others(self, pairs, table):
        """Returns the pairs with what else their records hold, which comes back in the predictions."""
        if table.others:
            pairs.others = [table.others[record] for record in pairs.judged.records]
        return pairs

    def _note_conflicts(self, judged):
        """Notes pairs of a query and a document that have more than one label."""
        if judged.labels is None:
            return
        labels: dict[tuple[int, str], set[float]] = {}
        for query, document, label in zip(judged.query.tolist(), judged.documents, judged.labels.tolist(), strict=True):
            labels.setdefault((query, document), set()).add(label)
        if count := sum(len(own) > 1 for own in labels.values()):
            self.notes.append(
                f"train: {count:,} of {len(labels):,} pairs of a query and a document have several labels"
            )

    def _encoded(self, judged, labels, kind, split):
        length = self._config.data.sequence_length
        pairs = Pairs(self._tokenizer, judged, length, labels, kind)
        if pairs.cut:
            self.notes.append(
                f"{split}: {pairs.cut:,} of {len(labels):,} pairs of a query and a document are longer than "
                f"config.data.sequence_length={length} and were cut"
            )
        return pairs

    def _judged(self, table, split):
        """Reads the pairs of a table."""
        task = self._task
        has_documents = task.document in table.columns
        if not has_documents and task.positive not in table.columns:
            raise UserError(
                f"{table.where(0)}: no column {task.document!r} (config.task.document) or {task.positive!r} "
                "(config.task.positive); expected a document, or a relevant one and others"
            )
        reader = self._documents_of if has_documents else self._positive_and_negatives
        queries: dict[str, int] = {}
        query, documents, labels, scores, record_numbers = [], [], [], [], []
        in_lists = not has_documents
        for i in range(len(table)):
            number = queries.setdefault(cells.text(table, i, task.query), len(queries))
            for text, label, score in reader(table, i):
                query.append(number)
                documents.append(text)
                labels.append(label)
                scores.append(score)
                record_numbers.append(i)
            in_lists |= has_documents and not isinstance(table.columns[task.document][i], str)
        has_label = not has_documents or task.label in table.columns
        has_score = task.score in table.columns
        if not has_label and not has_score:
            raise UserError(
                f"{table.where(0)}: no column {task.label!r} (config.task.label) or {task.score!r} "
                "(config.task.score); expected how relevant a document is"
            )
        query, record_numbers = np.array(query, np.int64), np.array(record_numbers, np.int64)
        judged = Judged(
            list(queries), query, documents,
            np.array(labels, np.float32) if has_label else None,
            self._in_range(np.array(scores, np.float32), record_numbers, table) if has_score else None,
            record_numbers if in_lists else query, record_numbers,
        )  # fmt: skip
        return judged if has_documents else self._without_known(judged, split)

    def _without_known(self, judged, split):
        """Leaves out the negatives that are a query's positive in another record."""
        pairs = list(zip(judged.query.tolist(), judged.documents, strict=True))
        known = {pair for pair, label in zip(pairs, judged.labels, strict=True) if label > 0}
        kept = [i for i, pair in enumerate(pairs) if judged.labels[i] > 0 or pair not in known]
        left_out = len(judged.documents) - len(kept)
        if not left_out:
            return judged
        self.notes.append(f"{split}: {left_out:,} negatives are positives of their query elsewhere, and are left out")
        arrays = {name: getattr(judged, name) for name in ("query", "labels", "scores", "lists", "records")}
        arrays = {name: None if array is None else array[kept] for name, array in arrays.items()}
        return dataclasses.replace(judged, documents=[judged.documents[i] for i in kept], **arrays)

    def _documents_of(self, table, i):
        """Yields (document, label, score) of a record with a document or a list of them; 0 where there is none."""
        task = self._task
        value = cells.listed(table.columns[task.document][i])
        texts = value if isinstance(value, list) else [value]
        columns = []
        for name in (task.label, task.score):
            numbers = cells.listed(table.columns[name][i]) if name in table.columns else 0.0
            numbers = numbers if isinstance(numbers, list) else [numbers]
            if name in table.columns and len(numbers) != len(texts):
                raise UserError(
                    f"{table.where(i)}: {len(numbers)} values in {name!r} for {len(texts)} documents; expected one each"
                )
            numbers = [cells.number(table, i, name, number) for number in numbers]
            columns.append(numbers if name in table.columns else [0.0] * len(texts))
        if not texts:
            raise UserError(f"{table.where(i)}: {task.document!r} is an empty list; expected documents")
        for text, label, score in zip(texts, *columns, strict=True):
            yield cells.check_text(table, i, task.document, text), label, score

    def _positive_and_negatives(self, table, i):
        """Yields (document, label, score) of a record's relevant document and then of the others.

        Scores are one for each document, or a teacher's margins: its score of the relevant document less each other.
        """
        task = self._task
        texts = [cells.text(table, i, task.positive)]
        for name in self._negatives:
            value = cells.listed(table.columns[name][i]) if name in table.columns else None
            for text in value if isinstance(value, list) else [value]:
                if text is None or text == "":
                    continue
                texts.append(cells.check_text(table, i, name, text))
                if texts[-1] == texts[0]:
                    raise UserError(f"{table.where(i)}: the negative {text[:60]!r} is the positive; expected another")
        scores = [0.0] * len(texts)
        if task.score in table.columns:
            value = cells.listed(table.columns[task.score][i])
            numbers = [
                cells.number(table, i, task.score, number) for number in (value if isinstance(value, list) else [value])
            ]
            if len(numbers) not in (len(texts), len(texts) - 1):
                raise UserError(
                    f"{table.where(i)}: {len(numbers)} values in {task.score!r}; expected {len(texts)}, a score of "
                    f"each document, or {len(texts) - 1}, the margins"
                )
            if len(numbers) == len(texts):
                scores = numbers
            else:
                self._has_margins = True
                scores = [0.0, *(-margin for margin in numbers)]
        yield texts[0], 1.0, scores[0]
        for text, score in zip(texts[1:], scores[1:], strict=True):
            yield text, 0.0, score

    def _in_range(self, scores, record_numbers, table):
        span = self._task.score_range
        if not span:
            return scores
        low, high = span
        wrong = np.flatnonzero((scores < low) | (scores > high))
        if len(wrong):
            place = table.where(int(record_numbers[wrong[0]]))
            raise UserError(
                f"{place}: {self._task.score} {scores[wrong[0]]:g}; expected a score from {low:g} to {high:g}"
            )
        return (scores - low) / (high - low)


def _members(numbers):
    """Returns the places of each number from 0 on that occurs, in order: a list of int64 arrays."""
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order])) + 1
    return np.split(order, bounds)


def _first_of_each(queries, documents, labels):
    """Returns the places of different pairs, of the copies of one the most relevant, in order, int64 [n]."""
    best: dict[tuple[int, str], int] = {}
    for i, pair in enumerate(zip(queries.tolist(), documents, strict=True)):
        if pair not in best or labels[i] > labels[best[pair]]:
            best[pair] = i
    return np.sort(np.array(list(best.values()), np.int64))
