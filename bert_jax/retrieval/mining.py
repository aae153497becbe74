"""Finds hard negatives for pairs of texts: documents that a model ranks high for an anchor and that do not answer it.

The documents that are near an anchor are ranked by a model; the ones known to answer it are left out. Among the ranks
that are then looked at, those within a margin of the positive are taken for answers that nobody has marked (false
negatives), as in NV-Retriever (Moreira et al. 2024, "positive-aware mining").
"""

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax import files
from bert_jax.config import finetuning as finetuning_config
from bert_jax.data import hashing
from bert_jax.data.tasks import cells, records
from bert_jax.errors import UserError
from bert_jax.inference import search
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.inference.rerank import Reranker
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval import rescoring
from bert_jax.retrieval.documents import Contents, scan
from bert_jax.retrieval.rules import Rule, check_rule

NEGATIVES, POSITIVE_SCORE, NEGATIVE_SCORES = "negatives", "positive_score", "negative_scores"
TEACHER_SCORES = "score"  # both together, as losses that learn a reranker's scores read them
_OWN = ("documents", "positives", "anchors", "parts")  # folders in OUTPUT.mining
_FAILED = "failed"  # file in OUTPUT.mining of a call that a mistake has ended: one with another input may begin there
RECORDS = 4096  # records whose negatives are found together, which a kill may cost
RERANKED_RECORDS = 256  # the same where a cross-encoder scores them
_KEYS = {"config.task.train": "--input", ", or in config.task.columns for a file that has none": ""}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Holds anchors and what answers them.

    Attributes:
      anchors, positives: text of each record.
      rows: each record as it came in, by column.
      known: for each anchor's text, the texts that are known to answer it, its own positives first.
      num_own: for each anchor's text, how many of `known` are its own positives.
      notes: lines for the user about how the file was read.
    """

    anchors: Sequence[str]
    positives: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    known: Mapping[str, Sequence[str]]
    num_own: Mapping[str, int]
    notes: Sequence[str] = ()


@dataclasses.dataclass
class Tally:
    """Counts what mining found.

    Attributes:
      records, negatives: how many.
      without: records without a negative.
      short: records with fewer negatives than were wanted, those without among them.
      too_near: documents in the ranks looked at that the margin or the highest score excluded.
      positive_sum, negative_sum: sums of scores, of a positive for each record and of all negatives.
    """

    records: int = 0
    negatives: int = 0
    without: int = 0
    short: int = 0
    too_near: int = 0
    positive_sum: float = 0.0
    negative_sum: float = 0.0

    def add(self, other: Mapping[str, float]) -> None:
        """Adds the counts of some records."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + value)


def read_pairs(spec: str, anchor: str, positive: str, relevance_id: str = "") -> Pairs:
    """Reads pairs, as fine-tuning does.

    Args:
      spec: files, or tfds: or hf:NAME[/CONFIG]:SPLIT, as config.task.train takes them.
      anchor, positive: their columns.
      relevance_id: column whose value anchors share that have the same answers; "": none.

    Raises:
      UserError: a file or a column is missing, or a text is none or empty.
    """
    config = finetuning_config.base()
    config.task.name = "embedding"
    names = [name for name in (anchor, positive, relevance_id) if name]
    if len({*names}) < len(names) or not (anchor and positive):
        raise UserError(
            f"--anchor={anchor}, --positive={positive}, --relevance_id={relevance_id}: expected a column each"
        )
    try:
        table = records.read(spec, "--input", config.task, names, keep=True)
    except UserError as error:
        message = str(error)
        for old, new in _KEYS.items():
            message = message.replace(old, new)
        for flag, name in (("anchor", anchor), ("positive", positive)):
            if re.search(f"no (field|column|feature) {re.escape(repr(name))}", message):
                message += f" (--{flag}=NAME names it)"
        raise UserError(message) from error
    for name in (anchor, positive):
        for number in range(len(table)):
            cells.text(table, number, name)
    anchors, positives = table.columns[anchor], table.columns[positive]
    others = table.others or [{}] * len(anchors)
    rows = [
        {name: files.jsonable(table.columns[name][number]) for name in names} | dict(others[number])
        for number in range(len(anchors))
    ]
    groups = table.columns[relevance_id] if relevance_id else [None] * len(anchors)
    return Pairs(anchors, positives, rows, *_known(anchors, positives, groups), table.notes)


def _known(anchors, positives, groups):
    """Returns (the known answers of each anchor's text, its own positives first; how many of these are its own)."""
    own_positives: dict[str, dict[str, None]] = {}
    group_positives: dict[str, dict[str, None]] = {}
    anchor_groups: dict[str, dict[str, None]] = {}
    for anchor, positive, group in zip(anchors, positives, groups, strict=True):
        own_positives.setdefault(anchor, {})[positive] = None
        if group not in (None, ""):
            group_positives.setdefault(str(group), {})[positive] = None
            anchor_groups.setdefault(anchor, {})[str(group)] = None
    known = {}
    for anchor, texts in own_positives.items():
        shared = (group_positives[group] for group in anchor_groups.get(anchor, ()))
        known[anchor] = tuple(dict.fromkeys(itertools.chain(texts, *shared)))
    return known, {anchor: len(texts) for anchor, texts in own_positives.items()}


def mine(
    embedder: Embedder,
    pairs: Pairs,
    corpus: Iterable[tuple[str, str]] | None,
    output: str | os.PathLike,
    rule: Rule,
    prompts: tuple[str, str] | None = None,
    index: str = "",
    progress: Callable[[str, int], Callable[[int], object]] = lambda unit, total: lambda count: None,
    reranker: Reranker | MultiVectorReranker | None = None,
) -> Tally:
    """Writes pairs with their hard negatives, a JSON object a line, to a file that appears once it is whole.

    Each record comes back with `negatives` (a list of texts), `positive_score` and `negative_scores`. What a killed
    call has finished lies in the folder OUTPUT.mining, from which the next one for the same output goes on; its result
    is the same to the bit. The texts are held in memory, the vectors are not.

    Args:
      embedder: the model that ranks.
      pairs: anchors and positives.
      corpus: pairs of id and text among which negatives are sought; None: the positives of all pairs.
      output: the file; a .gz is compressed.
      rule: which documents are negatives.
      prompts: texts put before anchors and documents; None: the model's own.
      index: folder in which the vectors of the documents stay, as those of `predict search` do; "": OUTPUT.mining,
        which is removed at the end.
      progress: called with a unit and a total; returns what is called with numbers of newly finished ones.
      reranker: a cross-encoder whose scores take the place of the embedder's, for positives and for the documents in
        the ranks that are looked at: they are ordered, bounded and written. None: the embedder's scores.

    Returns:
      Counts of what was found.

    Raises:
      UserError: the folder's vectors are of another model, no record got a negative, or a file cannot be written.
    """
    check_rule(rule)
    check_folders(output, index)
    prompts = prompts or (embedder.prompt_for("query"), embedder.prompt_for("document"))
    folder = pathlib.Path(f"{os.fspath(output)}.mining")
    documents = _unique(corpus) if corpus is not None else {}
    if corpus is None:
        documents = {text: str(number) for number, text in enumerate(dict.fromkeys(pairs.positives))}
    vectors = _Vectors(embedder, folder, progress)
    with _failures_noted(vectors):
        tally = _mine(vectors, pairs, documents, output, rule, prompts, index, reranker)
    shutil.rmtree(folder, ignore_errors=True)
    return tally


def _mine(vectors, pairs, documents, output, rule, prompts, index, reranker):
    """Writes the output and returns its counts; `documents` is id by text, `vectors` makes the indices."""
    folder, embedder, progress = vectors.folder, vectors.embedder, vectors.progress
    index_folder = index or folder / "documents"
    document_index = vectors.index_of(
        index_folder, [(key, text) for text, key in documents.items()], prompts[1], "document"
    )
    others = [text for text in dict.fromkeys(pairs.positives) if text not in documents]
    other_index = vectors.index_of(folder / "positives", _numbered(others), prompts[1], "positive") if others else None
    anchor_index = vectors.index_of(folder / "anchors", _numbered(list(pairs.known)), prompts[0], "anchor")
    miner = _Miner(
        pairs, list(documents), others, document_index, other_index, anchor_index, rule, embedder.similarity_kind,
        reranker,
    )  # fmt: skip
    facts = [vectors.digests, dataclasses.asdict(rule), _digest(pairs), embedder.fingerprint(), prompts]
    facts += [rescoring.fingerprint(reranker)] if reranker else []
    size = RERANKED_RECORDS if reranker else RECORDS
    _keep_parts_of(folder / "parts", json.dumps(facts))
    tally, report = Tally(), progress("record", len(pairs.rows))
    paths = []
    for first in range(0, len(pairs.rows), size):
        paths.append(folder / "parts" / f"{first // size:06}.jsonl")
        chosen = range(first, min(first + size, len(pairs.rows)))
        tally.add(_made(paths[-1], miner, chosen, rule.count))
        report(len(chosen))
    if not tally.negatives:
        bounds = [f"--{name}" for name in ("max_score", "min_score") if getattr(rule, name) is not None]
        advice = f", or other bounds ({' and '.join(bounds)})" if bounds else ""
        raise UserError(
            f"--depth={rule.depth}: no record has a negative in ranks {rule.skip + 1} to {rule.depth}; expected more "
            f"documents, a larger --depth, or a smaller --margin{advice}"
        )
    _join(output, paths)
    return tally


@contextlib.contextmanager
def _failures_noted(vectors):
    """Notes in OUTPUT.mining that a mistake ended this call, so that one with another input may begin there."""
    failed = vectors.folder / _FAILED
    failed.unlink(missing_ok=True)
    try:
        yield
    except index_lib.InUseError:
        raise
    except UserError:
        if vectors.begun:
            with contextlib.suppress(OSError):
                failed.touch()
        raise


def check_folders(output: str | os.PathLike, index: str = "") -> None:
    """Raises UserError where OUTPUT.mining, which is removed at the end, or the index's folder holds something else."""
    folder = pathlib.Path(f"{os.fspath(output)}.mining")
    if folder.exists():
        others = sorted(set(os.listdir(folder)) - {*_OWN, _FAILED} if folder.is_dir() else {folder.name})
        if others:
            raise UserError(
                f"--output={output}: {folder} holds {others[0]}, which no call of mine has written; expected another "
                "--output, or that folder elsewhere"
            )
    if index:
        index_lib.check_folder(index, f"--index={index}")


class _Vectors:
    """Makes the indices that mining needs."""

    def __init__(self, embedder, folder, progress):
        self.embedder, self.folder, self.progress = embedder, folder, progress
        self.digests: list[str] = []
        self.begun = False  # whether what lies in the folder is of this call
        self._failed_before = (folder / _FAILED).exists()

    def index_of(self, folder, texts: Sequence[tuple[str, str]], prompt: str, unit: str) -> index_lib.Index:
        """Returns the vectors of texts with ids, made or continued in a folder."""
        contents: Contents = scan(texts, "--corpus" if unit == "document" else "--input")
        self.digests.append(contents.digest)
        report = self.progress(unit, len(texts))
        if self.folder not in pathlib.Path(folder).parents:
            return index_lib.build(folder, f"--index={folder}", self.embedder, texts, contents, prompt, report)
        name = f"{self.folder} (of a call that was ended)"
        try:
            index_lib.check_same(folder, name, self.embedder, contents, prompt)
        except UserError as error:
            if not self._failed_before:
                raise UserError(f"{error}; remove {self.folder} to begin anew") from error
            shutil.rmtree(folder)
        self.begun = True
        return index_lib.build(folder, name, self.embedder, texts, contents, prompt, report)


class _Miner:
    """Finds the negatives of some records at a time."""

    def __init__(self, pairs, documents, others, document_index, other_index, anchor_index, rule, kind, reranker=None):
        self._reranker = reranker
        self._pairs, self._documents, self._rule, self._kind = pairs, documents, rule, kind
        self._document_index, self._other_index, self._anchor_index = document_index, other_index, anchor_index
        for index in filter(None, (other_index, anchor_index)):  # single vectors of them are read, outside their blocks
            index.verify()
        self._numbers = {text: number for number, text in enumerate(documents)}
        self._other_numbers = {text: number for number, text in enumerate(others)}
        self._anchor_numbers = {text: number for number, text in enumerate(pairs.known)}
        answers = {_form(text) for anchor, known in pairs.known.items() for text in (*known, anchor)}
        self._alike: dict[str, list[int]] = {}  # the documents of each answer, as it is told apart here
        for number, text in enumerate(documents):
            if (form := _form(text)) in answers:
                self._alike.setdefault(form, []).append(number)

    def lines(self, chosen: Sequence[int]) -> Iterator[tuple[dict[str, Any], int]]:
        """Yields the output of each record, and how many documents were too near to its positive."""
        anchors = list(dict.fromkeys(self._pairs.anchors[number] for number in chosen))
        vectors = np.asarray(self._anchor_index.vectors[[self._anchor_numbers[anchor] for anchor in anchors]])
        excluded = [self._excluded(anchor) for anchor in anchors]
        depth = min(len(self._documents), self._rule.depth + max(map(len, excluded)))
        *_, (places, scores) = search.nearest(vectors, self._document_index.blocks(), depth, self._kind)
        answers, window = {}, slice(self._rule.skip, self._rule.depth)
        kept = [~np.isin(row, list(numbers)) for row, numbers in zip(places, excluded, strict=True)]
        windows = [(places[i][kept[i]][window], scores[i][kept[i]][window]) for i in range(len(anchors))]
        own = [self._positive_scores(anchor, vectors[i]) for i, anchor in enumerate(anchors)]
        if self._reranker is not None:
            own, windows = self._rescored(self._reranker, anchors, own, windows)
        for anchor, positives, (window_places, window_scores) in zip(anchors, own, windows, strict=True):
            fits, too_near = self._fitting(window_scores, min(positives.values()))
            picked = self._picked(anchor, np.flatnonzero(fits))
            answers[anchor] = positives, window_places[picked], window_scores[picked], too_near
        for number in chosen:
            positives, negatives, negative_scores, too_near = answers[self._pairs.anchors[number]]
            row = self._pairs.rows[number]
            added = (NEGATIVES, POSITIVE_SCORE, NEGATIVE_SCORES, *([TEACHER_SCORES] if self._reranker else []))
            names = records.output_names(row, added)
            line = {names[name]: value for name, value in row.items()}
            line[NEGATIVES] = files.jsonable([self._documents[place] for place in negatives.tolist()])
            line[POSITIVE_SCORE] = positives[self._pairs.positives[number]]
            line[NEGATIVE_SCORES] = negative_scores.tolist()
            if self._reranker is not None:
                line[TEACHER_SCORES] = [line[POSITIVE_SCORE], *line[NEGATIVE_SCORES]]
            yield line, too_near

    def _rescored(self, reranker, anchors, own, windows):
        """Returns the same with the reranker's scores, the documents of each anchor in their order."""
        texts = [
            [*positives, *(self._documents[place] for place in places.tolist())]
            for positives, (places, _) in zip(own, windows, strict=True)
        ]
        new_own, new_windows = [], []
        scores = rescoring.scores_of(reranker, anchors, texts)
        for positives, (places, _), of_anchor in zip(own, windows, scores, strict=True):
            new_own.append(dict(zip(positives, of_anchor[: len(positives)].tolist(), strict=True)))
            of_window = of_anchor[len(positives) :]
            order = np.argsort(-of_window, kind="stable")
            new_windows.append((places[order], of_window[order]))
        return new_own, new_windows

    def _excluded(self, anchor):
        """Returns the numbers of the documents that are no negatives: the known answers and the anchor's own text."""
        texts = (*self._pairs.known[anchor], anchor)
        return {number for text in texts for number in self._alike.get(_form(text), ())}

    def _positive_scores(self, anchor, vector):
        """Returns the score of each of an anchor's own positives."""
        texts = self._pairs.known[anchor][: self._pairs.num_own[anchor]]
        rows = [
            self._document_index.vectors[self._numbers[text]]
            if text in self._numbers
            else self._other_index.vectors[self._other_numbers[text]]
            for text in texts
        ]
        scores = search.paired_scores(np.broadcast_to(vector, (len(rows), len(vector))), np.stack(rows), self._kind)
        return dict(zip(texts, scores.tolist(), strict=True))

    def _fitting(self, scores, positive):
        """Returns which scores are a negative's, bool [n], and how many are too high for that."""
        rule = self._rule
        highest = np.inf if rule.margin is None else positive - rule.margin * abs(positive)
        highest = min(highest, np.inf if rule.max_score is None else rule.max_score)
        lowest = -np.inf if rule.min_score is None else rule.min_score
        return (scores <= highest) & (scores >= lowest), int((scores > highest).sum())

    def _picked(self, anchor, ranks):
        """Returns the ranks that are taken, in order."""
        if self._rule.sampling == "random" and len(ranks) > self._rule.count:
            key = hashing.fold("negatives", self._rule.seed, anchor)
            draws = hashing.draw(key, np.arange(len(ranks), dtype=np.uint64))
            return np.sort(ranks[np.argsort(draws, kind="stable")[: self._rule.count]])
        return ranks[: self._rule.count]


def _form(text):
    """Returns a text as answers are compared: without regard to case and white space."""
    return " ".join(text.split()).casefold()


def _made(path, miner, chosen, wanted):
    """Returns the counts of a part's records, which are found and written where the part is missing."""
    counts = path.with_suffix(".json")
    with contextlib.suppress(OSError, ValueError, TypeError):  # else damaged, and made again
        made = Tally(**json.loads(counts.read_text("utf-8")))
        if path.read_bytes().count(b"\n") == made.records:
            return dataclasses.asdict(made)
    tally = Tally()
    lines = []
    for line, too_near in miner.lines(chosen):
        count = len(line[NEGATIVES])
        tally.records += 1
        tally.negatives += count
        tally.without += not count
        tally.short += count < wanted
        tally.too_near += too_near
        tally.positive_sum += line[POSITIVE_SCORE]
        tally.negative_sum += sum(line[NEGATIVE_SCORES])
        lines.append(files.json_line(line) + "\n")
    files.atomic_write(path, "".join(lines))
    files.write_json(counts, dataclasses.asdict(tally))
    return dataclasses.asdict(tally)


def _keep_parts_of(folder, facts):
    """Makes the folder of the finished parts, and removes parts that were made of other facts."""
    digest = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
    mark = folder / "of.txt"
    if not mark.exists() or mark.read_text("utf-8") != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        files.atomic_write(mark, digest)


def _join(output, paths):
    """Writes the parts, one after the other, to the output."""
    with files.atomic_open(output, "wb") as file:
        if not str(output).endswith(".gz"):
            _copy(paths, file)
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as compressed:
            _copy(paths, compressed)


def _copy(paths, target):
    for path in paths:
        with path.open("rb") as part:
            shutil.copyfileobj(part, target)


def _unique(corpus):
    """Returns the id of each different text, that of the first document that has it; empty texts are left out."""
    documents: dict[str, str] = {}
    for key, text in corpus:
        if text.strip():
            documents.setdefault(text, key)
    return documents


def _numbered(texts):
    return [(str(number), text) for number, text in enumerate(texts)]


def _digest(pairs):
    digest = hashlib.blake2b(digest_size=16)
    for row in pairs.rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
