"""Reads texts for late interaction (ColBERT): a row and the tokens with a vector for each, and scores by MaxSim.

A query is filled up to a fixed length with [MASK] tokens, whose vectors count too, and of documents punctuation has no
vector (Khattab & Zaharia 2020, section 3.2). A marker behind [CLS] says which of the two a text is.
"""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import unique_batches
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

PUNCTUATION = tuple(string.punctuation)
_AT_ONCE = 4096  # texts that are tokenized together


@dataclasses.dataclass(frozen=True)
class Reading:
    """States how a model for late interaction reads queries and documents.

    Attributes:
      query_length: the most tokens of a query, special ones and its marker included.
      document_length: the most tokens of a document.
      expansion_length: tokens that a shorter query is filled up to with [MASK]; 0 for none.
      attends_to_expansion: whether the text attends to these [MASK] tokens, which attend to the text in any case.
      skiplist: tokens that have no vector in documents.
      skips_in_queries: whether they have none in queries either.
      markers: the tokens behind [CLS] of a query and of a document, "" for none; each is one token.
    """

    query_length: int = 32
    document_length: int = 180
    expansion_length: int = 32
    attends_to_expansion: bool = False
    skiplist: tuple[str, ...] = PUNCTUATION
    skips_in_queries: bool = False
    markers: tuple[str, str] = ("", "")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reading":
        """Returns what `to_json` made JSON values of."""
        attributes: dict[str, Any] = dict(values)
        return cls(**attributes | {name: tuple(values[name]) for name in ("skiplist", "markers")})

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes as JSON values by name."""
        return dataclasses.asdict(self) | {"skiplist": list(self.skiplist), "markers": list(self.markers)}

    def marker(self, is_query: bool) -> str:
        """Returns the token behind [CLS] of a query or of a document; "" for none."""
        return self.markers[0 if is_query else 1]


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """Holds the row of a text.

    Attributes:
      ids: token ids, special tokens and [MASK] of the expansion included.
      attended: number of tokens that are attended to, the first ones of the row.
      scored: whether each token has a vector.
    """

    ids: list[int]
    attended: int
    scored: list[bool]


class RowMaker:
    """Makes the rows of queries and documents.

    Args:
      tokenizer: encodes the texts; the markers are special tokens of it.
      reading: how texts are read.
    """

    def __init__(self, tokenizer: Tokenizer, reading: Reading):
        self.tokenizer, self.reading = tokenizer, reading
        ids = (tokenizer.token_id(word) for word in reading.skiplist)
        # Words that are no token would stand for [UNK], which counts.
        self._skipped = frozenset(i for i in ids if i is not None and i != tokenizer.unk_id)

    def room(self, is_query: bool) -> int:
        """Returns how many tokens of a text and its marker a row has room for, special tokens apart."""
        length = self.reading.query_length if is_query else self.reading.document_length
        return length - rows_lib.num_special(self.tokenizer, pair=False)

    def encode(self, texts: Sequence[str], is_query: bool) -> list[list[int]]:
        """Returns the token ids of texts behind their marker, not cut, without other special tokens."""
        marker = self.reading.marker(is_query)
        return self.tokenizer.encode([marker + text for text in texts], special=True)

    def row(self, ids: Sequence[int], is_query: bool) -> TokenRow:
        """Returns the row of a text.

        Args:
          ids: as `encode` returns them; those that the row has no room for are left out.
          is_query: whether the text is a query.
        """
        joined, _ = rows_lib.join(self.tokenizer, list(ids)[: self.room(is_query)])
        skips = self._skipped if self.reading.skips_in_queries or not is_query else ()
        scored = [token not in skips for token in joined]
        length = len(joined)
        missing = max(0, self.reading.expansion_length - length) if is_query else 0
        attended = length + missing if self.reading.attends_to_expansion else length
        mask_scored = self.tokenizer.mask_id not in skips
        return TokenRow(joined + [self.tokenizer.mask_id] * missing, attended, scored + [mask_scored] * missing)


class TokenTexts:
    """Collects different texts by number, each encoded once as a query or as a document; see TextStore.

    Args:
      tokenizer: encodes them.
      reading: how texts are read.
    """

    def __init__(self, tokenizer: Tokenizer, reading: Reading):
        self.tokenizer, self.reading, self._rows = tokenizer, reading, RowMaker(tokenizer, reading)
        self._numbers: dict[tuple[bool, str, str], int] = {}
        self.cut = 0

    def add(self, text: str, prompt: str = "", is_query: bool = False) -> int:
        """Returns the number of a text behind a prompt, as a query or as a document."""
        return self._numbers.setdefault((is_query, prompt, text), len(self._numbers))

    def encode(self) -> None:
        """Encodes all texts that were added; their rows can then be had."""
        keys = list(self._numbers)
        ids: list[list[int]] = [[]] * len(keys)
        self._is_query = np.array([is_query for is_query, _, _ in keys], bool)
        for is_query in (True, False):
            members, room = np.flatnonzero(self._is_query == is_query), self._rows.room(is_query)
            self._check_prompts({keys[i][1] for i in members}, is_query, room)
            for start in range(0, len(members), _AT_ONCE):
                part = members[start : start + _AT_ONCE].tolist()
                texts = ["".join(keys[i][1:]) for i in part]
                for i, encoded in zip(part, self._rows.encode(texts, is_query), strict=True):
                    self.cut += len(encoded) > room
                    ids[i] = list(encoded[:room])
        self._ids = rows_lib.Ragged(ids)
        special, expansion = rows_lib.num_special(self.tokenizer, pair=False), self.reading.expansion_length
        lengths = self._ids.lengths + np.int32(special)
        self.lengths = np.where(self._is_query, np.maximum(lengths, expansion), lengths).astype(np.int32)
        self.texts = [text for *_, text in keys]
        starts = {key[:2] for key in keys}
        sizes = {start: len(self._rows.encode([start[1]], start[0])[0]) for start in starts}  # with its marker
        own = [ids[i][sizes[key[:2]] :] for i, key in enumerate(keys)]
        self.identity = unique_batches.identities(self.texts, own, self.tokenizer.unk_id)

    def _check_prompts(self, prompts, is_query, room):
        for prompt in sorted(prompts):
            size = len(self._rows.encode([prompt], is_query)[0])
            if size >= room:
                length = "query_length" if is_query else "document_length"
                raise UserError(
                    f"prompt: {prompt!r} has {size} tokens with its marker, which leave no room for text in rows of "
                    f"{getattr(self.reading, length)} ({length})"
                )

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns input_ids, attention_mask, token_type_ids and scored, int32 [texts, length], and skipped [texts].

        Args:
          numbers: int [texts]; -1 is an empty row, none of whose tokens is scored.
          length: tokens of a padded row.
        """
        rows = [None if i < 0 else self._rows.row(self._ids[i].tolist(), bool(self._is_query[i])) for i in numbers]
        empty = [self.tokenizer.cls_id], [0]
        batch = rows_lib.pad(
            self.tokenizer, [empty if row is None else (row.ids, [0] * len(row.ids)) for row in rows], length
        )
        scored = np.zeros_like(batch["input_ids"])
        for i, row in enumerate(rows):
            if row is not None:
                scored[i, : len(row.ids)] = row.scored
                batch["attention_mask"][i, row.attended :] = 0
        return batch | {"scored": scored, "skipped": np.zeros(len(rows), np.int32)}


class TokenVectors:
    """Holds the vectors of the tokens of texts; what is said of vectors of texts in vector_measures is MaxSim of these.

    Args:
      vectors: float32 [tokens, size] of each text.
    """

    def __init__(self, vectors: Sequence[np.ndarray]):
        sizes = [len(array) for array in vectors]
        if vectors and not min(sizes):
            raise ValueError(f"text {sizes.index(0)} has no vector; expected one or more")
        self._flat = np.concatenate(vectors).astype(np.float32) if vectors else np.zeros((0, 1), np.float32)
        self._ends = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, numbers: Sequence[int] | np.ndarray) -> "TokenVectors":
        """Returns the vectors of the texts of some numbers."""
        return TokenVectors([self._flat[self._ends[i] : self._ends[i + 1]] for i in np.asarray(numbers).tolist()])

    def cut(self, width: int) -> "TokenVectors":
        """Returns vectors of their first `width` numbers."""
        return self._with(self._flat[:, :width])

    def unit(self) -> "TokenVectors":
        """Returns vectors that are scaled to length 1."""
        lengths = np.linalg.norm(self._flat, axis=-1, keepdims=True)
        return self._with((self._flat / np.maximum(lengths, 1e-12)).astype(np.float32))

    def _with(self, flat):
        changed = TokenVectors(())
        changed._flat, changed._ends = flat, self._ends
        return changed

    def scores(self, documents: "TokenVectors") -> np.ndarray:
        """Returns the MaxSim of every text, as a query, with every document, float32 [texts, documents].

        It is the sum over the query's tokens of the largest dot product with one of the document's (Khattab & Zaharia
        2020, equation 3).
        """
        if not len(self) or not len(documents):
            return np.zeros((len(self), len(documents)), np.float32)
        scores = np.zeros((len(self), len(documents)), np.float32)
        at_once = max(1, (1 << 24) // max(1, len(self._flat)))  # tokens of documents that are compared at once
        first = 0
        while first < len(documents):
            bound = documents._ends[first] + at_once
            last = max(first + 1, int(np.searchsorted(documents._ends, bound, side="right")) - 1)
            begin, end = documents._ends[first], documents._ends[last]
            products = self._flat @ documents._flat[begin:end].T
            nearest = np.maximum.reduceat(products, documents._ends[first:last] - begin, axis=1)
            scores[:, first:last] = np.add.reduceat(nearest, self._ends[:-1], axis=0)
            first = last
        return scores
