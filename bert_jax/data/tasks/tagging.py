"""Reads and scores token classification: a label for each word, from its first sub-word (BERT section 5.3)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data import long_texts
from bert_jax.data import rows as rows_lib
from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import label_forms, metrics, records, schemes, words
from bert_jax.data.tasks.labels import check_names, class_id
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_UNLABELLED = -100  # the label that no loss is computed for, here as in transformers


class Examples:
    """Holds sentences as rows of sub-words, long ones as several rows that overlap; see data.tasks.Examples.

    Attributes:
      sentences: the words of each sentence.
      tags: gold tags of each sentence, None for a word without one; None where the data has none.
      sentence: int32 [rows], the index of each row's sentence.
      windows: for each row, which words of the sentence it holds, and which are labelled from it.
      places: for each row, the column of the first sub-word of each of its words; -1 for a word without sub-words.
      others: what else the record of each sentence holds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sentences,
        tags,
        label_ids,
        length: int,
        others: Sequence[Mapping[str, Any]] = (),
        chunk_length: int = 0,
    ):
        reading = LongReading("chunks" if chunk_length else "truncate", length, chunk_length=chunk_length)
        self.tokenizer, self.others = tokenizer, others
        self.sentences, self.tags = sentences, tags
        self.windows, owners, places, labels = [], [], [], []

        def make_rows():
            for i, pieces in enumerate(words.encode(tokenizer, sentences, chunk_length or length)):
                for window, row, _, first in words.rows(tokenizer, pieces, reading):
                    self.windows.append(window)
                    owners.append(i)
                    places.append(first)
                    if tags is not None:
                        labels.append(label_ids[i][window.start : window.stop])
                    yield row

        self._ids = rows_lib.Ragged(make_rows())
        self.places = rows_lib.Ragged(places)
        self._labels = rows_lib.Ragged(labels) if tags is not None else None
        self.sentence = np.array(owners, np.int32)
        self.lengths = self._ids.lengths

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns inputs, labels and first_subwords, [batch, length]; see data.tasks.Examples."""
        rows = np.asarray(rows)
        inputs = [
            (self._ids[row], np.zeros(self.lengths[row], np.int32)) if row >= 0 else ([self.tokenizer.cls_id], [0])
            for row in rows
        ]
        batch = rows_lib.pad(self.tokenizer, inputs, length)
        labels = np.full(batch["input_ids"].shape, -100, np.int32)
        first_subwords = np.zeros_like(labels)
        for i, row in enumerate(rows):
            if row >= 0:
                seen = self.places[row] >= 0
                places = self.places[row][seen]
                first_subwords[i, places] = 1
                if self._labels is not None:
                    labels[i, places] = self._labels[row][seen]
        weights = (rows >= 0).astype(np.float32)
        return batch | {"weights": weights, "labels": labels, "first_subwords": first_subwords}


class TokenTask:
    """Holds a token classification task; see data.tasks.TaskData.

    Tags that mark entities are converted to BIO (from IOB1 and BIO) or BIOES (from BIOES, BILOU, BMES and BMEWO);
    sequences that their scheme does not allow are read as conlleval reads them, and reported. Other tags, such as parts
    of speech, are labels as they are. A word without sub-words gets "O", or train's commonest tag where no tag marks
    entities. A word whose tag is -100, as transformers marks what it does not learn, is read but neither learned from
    nor scored; its tag is None.
    """

    problem = ""
    settings: dict[str, Any]  # what the prediction of new texts needs; see inference.tag

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        if config.data.sequence_length < 3:
            raise UserError(f"config.data.sequence_length: {config.data.sequence_length} leaves no room for a word")
        self._columns = (task.text, task.label)
        self._asked_scheme = task.scheme
        records.check_columns(task, self._columns)
        check_names(records.listed(task.labels))
        train, held_out, test = records.splits(config, (task.text,), (task.label,))
        self.notes = records.notes_of(train, held_out, test)
        names = records.listed(task.labels)
        tags = self._tags(train, names)
        self._spelling = schemes.spelling(tag for sentence in _with_outside(tags) for tag in sentence)
        names = tuple(schemes.canonical(name, self._spelling) for name in names)
        scheme = self._scheme(tags, train)
        self.scheme = "BIOES" if scheme == "BIOES" else "BIO" if scheme else ""
        self.metrics, self.metric = metrics.choose(task, "entities" if scheme else "tags")
        tags = self._converted(tags, train, "train", scheme)
        self.labels = self._label_names(tags, train, names)
        self._ids = {name: i for i, name in enumerate(self.labels)}
        types = {name[2:]: None for name in self.labels} if self.scheme else self.labels
        self.notes += [] if task.labels else label_forms.similar(list(types))
        counts = {name: 0 for name in self.labels}
        for sentence in tags:
            for tag in filter(None, sentence):
                counts[tag] = counts.get(tag, 0) + 1
        self._unseen_word = "O" if scheme and "O" in counts else max(counts, key=counts.get)
        commonest = max(counts, key=counts.get)

        reading = LongReading.from_config(config)
        self.train = self._examples(tokenizer, train, tags, reading, "train")
        self.settings = {"words": words.cutting(self.train.sentences), "unseen_word": self._unseen_word}
        self.settings |= long_texts.settings(reading)
        self.held_out = {}
        for name, table in held_out.items():
            split = f"held out {name}".rstrip()
            tags = self._tags(table, names)
            tags = self._converted(tags, table, split, self._scheme_of(tags, scheme))
            self.held_out[name] = self._examples(tokenizer, table, tags, reading, split)
        self.test = None
        if test:
            tags = None
            if task.label in test.columns and None not in test.columns[task.label]:
                tags = self._tags(test, names)
                tags = self._converted(tags, test, "test", self._scheme_of(tags, scheme))
            self.test = self._examples(tokenizer, test, tags, reading, "test")
        first = next(iter(self.held_out.values()))
        same = [[commonest] * len(sentence) for sentence in first.sentences]
        self.baseline = self._scores(first.tags, same)[self.metric]

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of logits, [length, labels], or of a CRF's labels, [length], for each row."""
        scores = self._scores(examples.tags, self._predicted(examples, outputs))
        return {name: scores[name] for name in self.metrics}

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields an object per sentence: words, gold (tags, where they are known) and tags (predicted).

        Args:
          examples: one of the splits.
          outputs: for each row, logits [length, labels], or the labels of a CRF, [length].
        """
        for i, tags in enumerate(self._predicted(examples, outputs)):
            gold = {} if examples.tags is None else {"gold": examples.tags[i]}
            yield {"words": examples.sentences[i]} | gold | {"tags": tags}

    def _scores(self, gold, predicted):
        pairs = [
            [pair for pair in zip(*sentence_tags, strict=True) if pair[0] is not None]
            for sentence_tags in zip(gold, predicted, strict=True)
        ]
        gold, predicted = ([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
        return metrics.entities(gold, predicted, self.scheme) if self.scheme else metrics.tags(gold, predicted)

    def _predicted(self, examples, outputs):
        """Returns the predicted tags of every word of every sentence."""
        sentences = [[] for _ in examples.sentences]
        for row, (sentence, window) in enumerate(zip(examples.sentence, examples.windows, strict=True)):
            output = np.asarray(outputs[row])
            chosen = output.argmax(-1) if output.ndim == 2 else output
            columns = examples.places[row][window.own_start - window.start : window.own_stop - window.start]
            sentences[sentence] += [self.labels[chosen[i]] if i >= 0 else self._unseen_word for i in columns]
        return sentences

    def _tags(self, table, names):
        """Returns the names of each sentence's tags. Raises UserError unless there is one for each word."""
        text, label = self._columns
        class_names = table.names.get(label) or names
        sentences = []
        for i, (sentence, tags) in enumerate(zip(table.columns[text], table.columns[label], strict=True)):
            for name, value in ((text, sentence), (label, tags)):
                if not isinstance(value, list):
                    kind = "nothing" if value is None else f"a {type(value).__name__}"
                    hint = "; expected a word and its tag on each line, with a space or tab between them"
                    raise UserError(
                        f"{table.where(i)}: no list of {'words' if name == text else 'tags'}; found {kind}"
                        f"{hint if table.word_lines else ''}"
                    )
            if len(sentence) != len(tags):
                raise UserError(f"{table.where(i)}: found {len(sentence)} words and {len(tags)} tags")
            sentences.append([_tag_name(tag, class_names, table, i, j) for j, tag in enumerate(tags)])
        return sentences

    def _scheme(self, tags, table):
        """Returns the scheme of train's tags, "" for tags that mark no entities."""
        known = _with_outside(tags)
        if self._asked_scheme != "auto":
            return "" if self._asked_scheme == "none" else self._asked_scheme
        nested = schemes.first_nested(known)
        if nested:
            raise UserError(
                f"{table.where(*nested)}: tag {known[nested[0]][nested[1]]!r} is several tags in one; expected one "
                "entity a word, or config.task.scheme=none for tags as they are"
            )
        scheme = schemes.detect(known, self._spelling)
        alike = None if scheme else schemes.look_alike(known)
        if alike:
            raise UserError(
                f"{table.where(*alike)}: tag {known[alike[0]][alike[1]]!r} looks like an entity's in another form; "
                "expected a prefix such as B- with a type (B-PER), or config.task.scheme=none for tags as they are"
            )
        return scheme

    def _converted(self, tags, table, split, scheme):
        """Returns tags as BIO or BIOES and notes invalid ones; tags that mark no entities ("" as scheme) stay."""
        if self._asked_scheme == "none":
            return tags
        known = _with_outside(tags)
        odd = schemes.first_non_entity_tag(known, expected=bool(scheme), written=self._spelling)
        if odd:
            raise UserError(
                f"{table.where(*odd)}: tag {tags[odd[0]][odd[1]]!r} beside entity tags; expected O or a prefix such as "
                "B- with a type, or config.task.scheme=none for tags as they are"
            )
        if not scheme:
            return tags
        converted, invalid = schemes.convert(known, scheme, self._spelling)
        if invalid:
            i, j = invalid[0]
            self.notes.append(
                f"{split}: {len(invalid):,} sentences have tags that {scheme} does not allow, the first at "
                f"{table.where(i, j)}: {known[i][j]}, read as {converted[i][j]}"
            )
        return [
            [new if old is not None else None for old, new in zip(*sentence_tags, strict=True)]
            for sentence_tags in zip(tags, converted, strict=True)
        ]

    def _scheme_of(self, tags, scheme):
        """Returns the scheme of a held-out or test set: train's, or another spelling of it."""
        if self._asked_scheme != "auto" or not scheme:
            return scheme
        tags = _with_outside(tags)
        detected = schemes.detect(tags, self._spelling)
        has_entities = any(tag not in ("O", "o") for sentence in tags for tag in sentence)
        if has_entities and (detected == "BIOES") != (scheme == "BIOES") and detected:
            raise UserError(
                f"config.task.held_out: its tags look like {detected}, those of config.task.train like {scheme}; "
                "expected one scheme, or config.task.scheme"
            )
        return detected or scheme

    def _label_names(self, tags, table, listed):
        """Returns the tags in the order of their ids: the listed ones, else the data set's own, else all that occur."""
        if listed:
            return listed
        names = [schemes.canonical(name, self._spelling) for name in table.names.get(self._columns[1], ())]
        occurring = {tag for sentence in tags for tag in filter(None, sentence)}
        if names and occurring <= set(names):
            return tuple(names)
        if not occurring - {schemes.OUTSIDE} and (self.scheme or not occurring):
            raise UserError(f"{table.where(0)}: no tag here or after marks an entity; expected some, such as B-PER")
        if self.scheme:
            return schemes.labels(sorted({tag[2:] for tag in occurring if tag != schemes.OUTSIDE}), self.scheme)
        if len(occurring) < 2:
            tag = ", ".join(occurring)
            raise UserError(f"{table.where(0)}: every tag is {tag}; expected two or more different ones")
        if all(name.isdecimal() for name in occurring):
            self.notes.append(
                f"train: tags are numbers without names ({', '.join(sorted(occurring)[:5])}, ...), so none marks an "
                "entity; config.task.labels gives them names in the order of ids"
            )
        return tuple(sorted(occurring))

    def _examples(self, tokenizer, table, tags, reading, split):
        sentences = table.columns[self._columns[0]]
        for i, sentence in enumerate(sentences):
            if not isinstance(sentence, list) or not all(isinstance(word, str) for word in sentence):
                raise UserError(f"{table.where(i)}: {self._columns[0]!r} holds no list of words")
        ids = None
        if tags is not None:
            ids = [
                [
                    _UNLABELLED if tag is None else class_id(tag, self._ids, False, table.where(i, j))
                    for j, tag in enumerate(sentence)
                ]
                for i, sentence in enumerate(tags)
            ]
        examples = Examples(tokenizer, sentences, tags, ids, reading.length, table.others, reading.chunk_length)
        cut = len(examples.windows) - len(sentences)
        if cut:
            rows = "rows" if reading.chunk_length else "overlapping rows"
            rows = "rows" if reading.chunk_length else "overlapping rows"
            self.notes.append(
                f"{split}: sentences longer than config.data.sequence_length={reading.length} were divided into {rows} "
                f"({len(sentences):,} sentences, {len(examples.windows):,} rows)"
            )
        return examples


def _with_outside(tags):
    """Returns the tags of each sentence with O for words that have none."""
    return [[schemes.OUTSIDE if tag is None else tag for tag in sentence] for sentence in tags]


def _tag_name(tag, class_names, table, i, j):
    """Returns the name of the j-th tag of the i-th record, which may be an index in class_names; None for -100."""
    if isinstance(tag, float) and tag.is_integer():  # as pandas writes whole numbers in a column that lacks some
        tag = int(tag)
    if tag in (_UNLABELLED, str(_UNLABELLED)):
        return None
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not class_names:
            return str(tag)
        if not 0 <= tag < len(class_names):
            largest_id = len(class_names) - 1
            raise UserError(f"{table.where(i, j)}: class id {tag} is out of range; expected 0 to {largest_id}")
        return class_names[tag]
    if not isinstance(tag, str) or not tag.strip():
        raise UserError(f"{table.where(i, j)}: the tag is {tag!r}; expected a name")
    return tag.strip()
