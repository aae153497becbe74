"""Token classification: a label for each word, read from its first sub-word (BERT section 5.3)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import metrics, records, schemes, words
from bert_jax.data.tasks.classification import class_id
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError


class Examples:
    """Sentences as rows of sub-words, long ones as several that overlap; see data.tasks.Examples.

    Attributes:
      sentences: the words of each.
      tags: gold tags of each sentence; None where the data has none.
      sentence: int32 [rows], which one a row belongs to.
      windows: which of its words stand in the row, and which are labelled from it.
      places: for each row, where the first sub-words of its words stand; -1 of a word without any.
    """

    def __init__(self, tokenizer: Tokenizer, sentences, tags, label_ids, length: int):
        self.tokenizer = tokenizer
        self.sentences, self.tags = sentences, tags
        room = length - rows_lib.num_special(tokenizer, pair=False)
        self.windows, owners, places, labels = [], [], [], []

        def make_rows():
            for i, pieces in enumerate(words.encode(tokenizer, sentences, length)):
                for window in words.windows([len(word) for word in pieces], room):
                    row, _, first = words.make_row(tokenizer, pieces[window.start : window.stop])
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
    """See data.tasks.TaskData.

    Tags that mark entities are made BIO (of IOB1 and BIO) or BIOES (of it and its spellings BILOU and BMES); what a
    scheme does not allow is read as conlleval reads it, and counted. Other tags, such as parts of speech, are
    labels as they are. A word that has no sub-words gets "O", or train's commonest tag where no tag marks entities.
    """

    problem = ""

    def __init__(self, config: Any, tokenizer: Tokenizer):
        task = config.task
        if config.data.sequence_length < 3:
            raise UserError(f"config.data.sequence_length: {config.data.sequence_length} leaves no room for a word")
        self._columns = (task.text, task.label)
        train, held_out, test = records.splits(config, (task.text,), (task.label,))
        self.notes: list[str] = []
        names = records.listed(task.labels)
        tags = self._tags(train, "train", names)
        scheme = task.scheme if task.scheme != "auto" else schemes.detect(tags)
        self.scheme = "BIOES" if scheme == "BIOES" else "BIO" if scheme else ""
        self.metrics, self.metric = metrics.chosen(task, "entities" if scheme else "tags")
        tags = self._uniform(tags, train, "train", scheme)
        self.labels = self._label_names(tags, train, names)
        self._ids = {name: i for i, name in enumerate(self.labels)}
        counts = {name: 0 for name in self.labels}
        for sentence in tags:
            for tag in sentence:
                counts[tag] = counts.get(tag, 0) + 1
        self._unseen_word = "O" if scheme and "O" in counts else max(counts, key=counts.get)
        commonest = max(counts, key=counts.get)

        length = config.data.sequence_length
        self.train = self._examples(tokenizer, train, tags, length, "train")
        self.held_out = {}
        for name, table in held_out.items():
            split = f"held out {name}".rstrip()
            tags = self._tags(table, split, names)
            tags = self._uniform(tags, table, split, self._scheme_of(tags, scheme, task))
            self.held_out[name] = self._examples(tokenizer, table, tags, length, split)
        self.test = None
        if test:
            tags = None
            if task.label in test.columns and None not in test.columns[task.label]:
                tags = self._tags(test, "test", names)
                tags = self._uniform(tags, test, "test", self._scheme_of(tags, scheme, task))
            self.test = self._examples(tokenizer, test, tags, length, "test")
        first = next(iter(self.held_out.values()))
        same = [[commonest] * len(sentence) for sentence in first.sentences]
        self.baseline = self._scores(first.tags, same)[self.metric]

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        found = self._scores(examples.tags, self._predicted(examples, outputs))
        return {name: found[name] for name in self.metrics}

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Each: words, gold (where it is known) and tags: a sentence's words and their tags."""
        for i, tags in enumerate(self._predicted(examples, outputs)):
            gold = {} if examples.tags is None else {"gold": examples.tags[i]}
            yield {"words": examples.sentences[i]} | gold | {"tags": tags}

    def _scores(self, gold, predicted):
        return metrics.entities(gold, predicted, self.scheme) if self.scheme else metrics.tags(gold, predicted)

    def _predicted(self, examples, outputs):
        """The tags of every word of every sentence."""
        sentences = [[] for _ in examples.sentences]
        for row, (sentence, window) in enumerate(zip(examples.sentence, examples.windows, strict=True)):
            output = np.asarray(outputs[row])
            chosen = output.argmax(-1) if output.ndim == 2 else output
            own = examples.places[row][window.own_start - window.start : window.own_stop - window.start]
            sentences[sentence] += [self.labels[chosen[at]] if at >= 0 else self._unseen_word for at in own]
        return sentences

    def _tags(self, table, split, names):
        """The tags' names of each sentence, checked against its words."""
        text, label = self._columns
        class_names = table.names.get(label) or names
        sentences = []
        for i, (found_words, found) in enumerate(zip(table.columns[text], table.columns[label], strict=True)):
            for name, value in ((text, found_words), (label, found)):
                if not isinstance(value, list):
                    kind = "nothing" if value is None else f"a {type(value).__name__}"
                    raise UserError(f"{table.where(i)}: no list of {'words' if name == text else 'tags'}; found {kind}")
            if len(found_words) != len(found):
                raise UserError(f"{table.where(i)}: found {len(found_words)} words and {len(found)} tags")
            sentences.append([_tag_name(tag, class_names, table, i, j) for j, tag in enumerate(found)])
        return sentences

    def _uniform(self, tags, table, split, scheme):
        odd = schemes.first_that_marks_none(tags)
        if odd:
            raise UserError(
                f"{table.where(*odd)}: tag {tags[odd[0]][odd[1]]!r} beside entity tags; expected O or a prefix such as "
                "B- with a type"
            )
        if not scheme:
            return tags
        before = tags
        tags, invalid = schemes.uniform(tags, scheme)
        if invalid:
            i, j = invalid[0]
            self.notes.append(
                f"{split}: {len(invalid):,} sentences have tags that {scheme} does not allow, the first at "
                f"{table.where(i, j)}: {before[i][j]}, read as {tags[i][j]}"
            )
        return tags

    def _scheme_of(self, tags, scheme, task):
        """The scheme of a held-out set: train's, or another spelling of it."""
        if task.scheme != "auto" or not scheme:
            return scheme
        found = schemes.detect(tags)
        marks = any(tag != "O" for sentence in tags for tag in sentence)
        if marks and (found == "BIOES") != (scheme == "BIOES") and found:
            raise UserError(
                f"config.task.held_out: its tags look like {found}, those of config.task.train like {scheme}; expected "
                "one scheme, or config.task.scheme"
            )
        return found or scheme

    def _label_names(self, tags, table, given):
        if given:
            return given
        names = table.names.get(self._columns[1])
        found = {tag for sentence in tags for tag in sentence}
        if names and found <= set(names):
            return tuple(names)
        if self.scheme:
            return schemes.labels({tag[2:] for tag in found if tag != "O"}, self.scheme)
        if len(found) < 2:
            raise UserError(f"{table.where(0)}: every tag is {', '.join(found)}; expected two or more different ones")
        return tuple(sorted(found))

    def _examples(self, tokenizer, table, tags, length, split):
        sentences = table.columns[self._columns[0]]
        for i, sentence in enumerate(sentences):
            if not isinstance(sentence, list) or not all(isinstance(word, str) for word in sentence):
                raise UserError(f"{table.where(i)}: {self._columns[0]!r} holds no list of words")
        ids = None
        if tags is not None:
            ids = [
                [class_id(tag, self._ids, False, table.where(i, j)) for j, tag in enumerate(sentence)]
                for i, sentence in enumerate(tags)
            ]
        examples = Examples(tokenizer, sentences, tags, ids, length)
        cut = len(examples.windows) - len(sentences)
        if cut:
            self.notes.append(
                f"{split}: sentences longer than config.data.sequence_length={length} were divided into overlapping "
                f"rows ({len(sentences):,} sentences, {len(examples.windows):,} rows)"
            )
        return examples


def _tag_name(tag, class_names, table, i, j):
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not class_names:
            return str(tag)
        if not 0 <= tag < len(class_names):
            most = len(class_names) - 1
            raise UserError(f"{table.where(i, j)}: class id {tag} is out of range; expected 0 to {most}")
        return class_names[tag]
    if not isinstance(tag, str) or not tag:
        raise UserError(f"{table.where(i, j)}: the tag is {tag!r}; expected a name")
    return tag
