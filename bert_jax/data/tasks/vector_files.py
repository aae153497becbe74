"""Reads what vectors are scored by: graded pairs, retrieval tasks, pairs that are the same, classes, and rankings.

    sts:FILE       two texts and a score; or a folder of SemEval's STS tasks
    pairs:FILE     two texts and whether they have the same meaning, 1 or 0
    clusters:FILE  a text and its class, or lists of them
    rerank:FILE    a query, documents that answer it, and documents that do not
    ir:DIR         a retrieval task in BEIR's layout

Columns have the names of config.task, or those of the usual benchmarks.
"""

import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax import config as config_lib
from bert_jax.data.tasks import beir, cells, records, text_files, vector_measures
from bert_jax.data.tasks.vector_measures import TextStore, Vectors
from bert_jax.errors import UserError

KINDS = ("sts:", "pairs:", "clusters:", "rerank:", "ir:")  # in front of a file or folder
SEARCHES = ("rerank:", "ir:")  # those that have queries and documents, which late interaction reads differently
# Names that files give their columns (STS benchmark, SICK, MTEB, GLUE), of two texts, a score, a label and so on.
_PAIR_NAMES = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"), ("text", "text_pair"), ("text1", "text2"),
               ("question1", "question2"))  # fmt: skip
_SCORE_NAMES = ("score", "similarity_score", "relatedness_score", "label", "gold")
_SAME_NAMES = ("label", "labels", "is_duplicate", "score", "gold")
_TEXT_NAMES = ("text", "sentence", "sentences", "texts")
_CLASS_NAMES = ("label", "labels", "class", "cluster", "category")
_QUERY_NAMES = ("query", "question")
_POSITIVE_NAMES, _NEGATIVE_NAMES = ("positive", "positives"), ("negative", "negatives")
_SEM_EVAL = re.compile(r"STS(\d{4})?\.input\..+\.txt")  # names of SemEval's files of pairs
_SAME = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def read(spec: str, key: str, task: Any, texts: TextStore) -> tuple[Vectors, list[str]]:
    """Returns what a spec holds, and lines for the user about how it was read.

    Args:
      spec: one of KINDS with a file, or several separated by commas, or a folder.
      key: the config key or flag that has it, for messages.
      task: config.task, whose keys name columns: anchor, positive, negatives, score, label.
      texts: takes the texts; queries and documents behind the prompts of config.task.

    Raises:
      UserError: a file or column is missing, or a value is none of what is expected.
    """
    kind, _, path = spec.partition(":")
    readers = {"sts": _graded, "pairs": _same, "clusters": _clusters, "rerank": _ranked, "ir": _retrieval}
    examples, notes = readers[kind](path, key, task, texts)
    return examples, notes


def scores_of(table: records.Table, task: Any, name: str, in_range: bool = False) -> np.ndarray:
    """Returns the scores of records, float32 [records], scaled where config.task.score_range says how.

    Args:
      table: the records.
      task: config.task; its score_range belongs to its own column alone.
      name: the column.
      in_range: whether scores must lie between -1 and 1 where there is no score_range.

    Raises:
      UserError: a score is no number, or outside its range.
    """
    span = task.score_range if name == task.score else ()
    scores = np.zeros(len(table), np.float32)
    low, high = span or ((-1.0, 1.0) if in_range else (-np.inf, np.inf))
    for i, value in enumerate(table.columns[name]):
        scores[i] = cells.number(table, i, name, value)
        if not low <= scores[i] <= high:
            hint = "" if span else " or config.task.score_range=LOWEST,HIGHEST"
            raise UserError(f"{table.where(i)}: {name} {value}; expected a score from {low:g} to {high:g}{hint}")
    return (scores - span[0]) / (span[1] - span[0]) if span else scores


def _graded(path, key, task, texts):
    if pathlib.Path(path).is_dir():
        return _sem_eval(pathlib.Path(path), key, texts)
    table, pair, score = _pairs(path, key, task, "sts", (task.score, *_SCORE_NAMES), "a score")
    numbers = [[texts.add(cells.text(table, i, name)) for name in pair] for i in range(len(table))]
    scores = scores_of(table, task, score)
    texts.encode()
    pairs = np.array(numbers, np.int64)
    return vector_measures.Similarity(texts, pairs, scores, table.others), list(table.notes)


def _sem_eval(folder, key, texts):
    """Reads the pairs of a year of SemEval's STS tasks: STS.input.NAME.txt, and STS.gs.NAME.txt with a score each.

    A year may stand behind STS, as in those of 2016.

    All names' pairs are one set, as SimCSE and MTEB score them. Pairs without a score are not annotated and left out.
    """
    inputs = sorted(path for path in folder.iterdir() if _SEM_EVAL.fullmatch(path.name))
    if len(inputs) > 1:  # some years repeat all of them in one file
        inputs = [path for path in inputs if not path.name.endswith(".input.ALL.txt")]
    if not inputs:
        raise UserError(
            f"{key}=sts:{folder}: no file STS.input.NAME.txt; expected a file, or a folder of SemEval's STS"
        )
    numbers, scores, left_out = [], [], 0
    for path in inputs:
        gold = folder / path.name.replace(".input.", ".gs.", 1)
        if not gold.exists():
            raise UserError(f"{key}=sts:{folder}: no {gold.name}, the scores of {path.name}; expected it beside it")
        with text_files.reporting(f"{key}=sts:{folder}"):
            lines, golds = ([line for _, line in text_files.lines(name)] for name in (path, gold))
        if len(lines) != len(golds):
            raise UserError(f"{gold}: {len(golds):,} lines; expected {len(lines):,}, as {path.name} has")
        for i, (line, score) in enumerate(zip(lines, golds, strict=True), 1):
            if not score.strip():
                left_out += 1
                continue
            cut = line.split("\t")
            if len(cut) < 2 or not cut[0].strip() or not cut[1].strip():
                raise UserError(f"{path}: line {i}: {line[:60]!r}; expected two texts with a tab between them")
            try:
                scores.append(float(score))
            except ValueError:
                raise UserError(f"{gold}: line {i}: {score[:60]!r}; expected a number, or nothing") from None
            numbers.append([texts.add(text.strip()) for text in cut[:2]])
    if not scores:
        raise UserError(f"{key}=sts:{folder}: no pair has a score; expected some")
    texts.encode()
    notes = [f"{folder}: {left_out:,} pairs have no score and are left out"] if left_out else []
    return vector_measures.Similarity(texts, np.array(numbers, np.int64), np.array(scores, np.float32)), notes


def _same(path, key, task, texts):
    table, pair, label = _pairs(path, key, task, "pairs", (task.label, *_SAME_NAMES), "a label")
    numbers = [[texts.add(cells.text(table, i, name)) for name in pair] for i in range(len(table))]
    same = np.zeros(len(table), bool)
    for i, value in enumerate(table.columns[label]):
        answer = _SAME.get(str(value).strip().lower())
        if answer is None:
            raise UserError(f"{table.where(i)}: {label!r} holds {value!r}; expected 1, the same meaning, or 0")
        same[i] = answer
    if same.all() or not same.any():
        raise UserError(f"{key}=pairs:{path}: {label!r} is {int(same[0])} everywhere; expected 0 and 1")
    texts.encode()
    pairs = np.array(numbers, np.int64)
    return vector_measures.PairClassification(texts, pairs, same, table.others), list(table.notes)


def _clusters(path, key, task, texts):
    names = (task.anchor, *_TEXT_NAMES), (task.label, *_CLASS_NAMES)
    table, (text, label) = _table(path, key, task, "clusters", names, "a text and its class")
    sets, alone = [], ([], [])
    for i in range(len(table)):
        values = [cells.listed(table.columns[name][i]) for name in (text, label)]
        if all(isinstance(value, list) for value in values):
            count, wanted = map(len, values)
            if count != wanted:
                raise UserError(f"{table.where(i)}: {count} texts and {wanted} classes; expected one for each")
            numbers = [texts.add(cells.check_text(table, i, text, value)) for value in values[0]]
            sets.append((numbers, list(map(str, values[1]))))
            continue
        if values[1] is None or values[1] == "" or isinstance(values[1], list):
            kind = cells.kind_of(values[1])
            raise UserError(f"{table.where(i)}: {label!r} holds {kind}; expected the class of the text")
        alone[0].append(texts.add(cells.text(table, i, text)))
        alone[1].append(str(values[1]))
    sets += [alone] if alone[0] else []
    for _, classes in sets:
        if len(set(classes)) < 2:
            raise UserError(f"{key}=clusters:{path}: every text has the class {classes[0]!r}; expected two or more")
    texts.encode()
    arrays = [(np.array(numbers, np.int64), classes) for numbers, classes in sets]
    return vector_measures.Clustering(texts, arrays), list(table.notes)


def _ranked(path, key, task, texts):
    names = (
        (task.anchor, *_QUERY_NAMES),
        (task.positive, *_POSITIVE_NAMES),
        (*config_lib.listed(task.negatives), *_NEGATIVE_NAMES),
    )
    expected = "a query, documents that answer it and others"
    table, (query, positive, negative) = _table(path, key, task, "rerank", names, expected)
    queries, documents, relevant, left_out = [], [], [], 0
    for i in range(len(table)):
        sides = []
        for name in (positive, negative):
            value = cells.listed(table.columns[name][i])
            value = value if isinstance(value, list) else [value]
            sides.append([cells.check_text(table, i, name, text) for text in value if text not in (None, "")])
        sides = [list(dict.fromkeys(side)) for side in sides]
        sides[1] = [text for text in sides[1] if text not in sides[0]]
        if not sides[0] or not sides[1]:
            left_out += 1
            continue
        queries.append(texts.add(cells.text(table, i, query), task.anchor_prompt, is_query=True))
        numbers = [texts.add(text, task.positive_prompt) for text in itertools.chain(*sides)]
        documents.append(np.array(numbers, np.int64))
        relevant.append(np.arange(len(numbers)) < len(sides[0]))
    if not queries:
        raise UserError(f"{key}=rerank:{path}: no query has both {positive!r} and {negative!r}; expected some")
    notes = [f"{path}: {left_out:,} queries do not have both kinds of documents, and are left out"] if left_out else []
    texts.encode()
    return vector_measures.Reranking(texts, queries, documents, relevant), [*table.notes, *notes]


def _retrieval(path, key, task, texts):
    data = beir.read(path, key)
    queries = [texts.add(text, task.anchor_prompt, is_query=True) for text in data.queries]
    documents = [texts.add(text, task.positive_prompt) for text in data.documents]
    texts.encode()
    notes = [f"{path}: {note}"] if (note := beir.same_note(data.same)) else []
    return vector_measures.Retrieval(texts, queries, documents, data.relevance, data.same), notes


def _pairs(path, key, task, kind, value_names, value):
    """Returns (records, names of the columns of two texts, name of the column of a score or label)."""
    pairs = [(task.anchor, task.positive), *_PAIR_NAMES] if task.positive else list(_PAIR_NAMES)
    names = list(dict.fromkeys([*itertools.chain(*pairs), *filter(None, value_names)]))
    table = records.read(path, key, task, (), names, keep=True)
    pair = next((pair for pair in pairs if all(name in table.columns for name in pair)), None)
    chosen = next((name for name in value_names if name in table.columns and name not in (pair or ())), None)
    if pair is None or chosen is None:
        known = f"{', '.join(map('/'.join, pairs))}, and {', '.join(dict.fromkeys(filter(None, value_names)))}"
        target = "score" if kind == "sts" else "label"
        names = f"config.task.anchor, positive and {target} name others" if key.startswith("config.") else (
            "--columns=sentence1,sentence2,score names those of a file without a header"
        )  # fmt: skip
        raise UserError(f"{key}={kind}:{path}: no columns of two texts and {value}; expected some of {known} ({names})")
    return table, pair, chosen


def _table(path, key, task, kind, choices: Sequence[Sequence[str]], expected):
    """Returns records, and the first column of each choice that they have."""
    names = list(dict.fromkeys(filter(None, itertools.chain(*choices))))
    table = records.read(path, key, task, (), names, keep=True)
    chosen: list[str] = []
    for choice in choices:
        name = next((name for name in choice if name in table.columns and name not in chosen), None)
        if name is None:
            known = " or ".join(dict.fromkeys(filter(None, choice)))
            raise UserError(f"{key}={kind}:{path}: no column {known}; expected {expected}")
        chosen.append(name)
    return table, chosen
