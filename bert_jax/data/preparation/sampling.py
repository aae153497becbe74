"""Takes a sample of the text of planned inputs, to train a vocabulary on and to check one with.

Every part of the text gives a share of its size, whatever its documents and lines look like: text is cut into pieces of
some kilobytes, and what a part has too little of, the others give.
"""

from collections.abc import Iterator

from bert_jax.data.preparation import readers, sources
from bert_jax.data.preparation.sentences import join_lines
from bert_jax.data.vocabularies import training

_PIECE = 1 << 12  # bytes, about; a part that may give fewer is opened only if it is smaller itself
_LARGEST_PIECE = 4 * _PIECE
_MOST_PARTS = 1 << 14
_EXCERPT_BYTES = 1 << 18


class Sample:
    """Collects a part of the text that is bounded in size, the same on every machine.

    Attributes:
      bytes: size of the text that `texts` has yielded.
      everything: whether no text was left out; known when `texts` is at its end.
      excerpt: some of the texts, evenly spaced, of a few hundred kilobytes.
      skipped: where and why text could not be read, the first of each part.
    """

    def __init__(self, plan: sources.Plan, options: sources.Options, most_bytes: int):
        """Plans the sample.

        Args:
          plan: the text.
          options: how it is read.
          most_bytes: size of the sample, unless the text is shorter.
        """
        self._options, self._most_bytes = options, most_bytes
        parts = [part for shard in plan.shards for part in shard]
        step = max(1, min(len(parts) // _MOST_PARTS, plan.size // (2 * most_bytes)))
        self._parts = parts[::step]
        self.bytes = 0
        self.everything = step == 1
        self.skipped: list[str] = []
        self.excerpt: list[str] = []
        self._every, self._number, self._excerpt_bytes = 1, 0, 0

    def texts(self) -> Iterator[str]:
        """Yields the sample in pieces of at most some kilobytes, each as one line. To be called once."""
        open_parts = [(part, 0) for part in self._parts]
        left = self._most_bytes
        while open_parts and left > 0:
            rate = left / sum(max(1, part.size - sampled) for part, sampled in open_parts)
            unfinished, credit, before = [], 0.0, self.bytes
            for part, sampled in open_parts:
                credit = min(credit, _LARGEST_PIECE) + rate * max(1, part.size - sampled)
                if credit < min(_PIECE, part.size):
                    unfinished.append((part, sampled))
                    continue
                place, finished = 0, True
                for text in self._read(part):
                    size = len(text.encode())
                    place += size
                    if place <= sampled:
                        continue
                    if size > min(credit, left):
                        finished = False
                        break
                    credit -= size
                    left -= size
                    sampled = place
                    self.bytes += size
                    self._keep(text, size)
                    yield text
                if not finished:
                    unfinished.append((part, sampled))
            open_parts = unfinished
            if self.bytes - before < max(_PIECE, self._most_bytes // 64):
                break
        self.everything = self.everything and not open_parts

    def _read(self, part):
        """Yields the text of a part in pieces; notes the first reason why some of it cannot be read."""
        reasons = []
        try:
            for paragraph in readers.read_bytes(
                part, self._options, lambda place, reason, _: reasons.append((place, reason))
            ):
                text = join_lines(paragraph)
                characters_per_byte = len(text) / max(1, len(text.encode()))
                yield from training.cut(text, max(_PIECE // 4, int(_PIECE * characters_per_byte)))
        except readers.Unreadable as error:  # the pass over the shards reports it
            reasons.append((error.where, error.reason))
        finally:
            if reasons:
                line = ": ".join(reasons[0])
                if line not in self.skipped:
                    self.skipped.append(line)

    def _keep(self, text, size):
        """Adds every n-th text to the excerpt; drops half of it, and doubles n, where it is too large."""
        if self._number % self._every == 0:
            self.excerpt.append(text)
            self._excerpt_bytes += size
        self._number += 1
        if self._excerpt_bytes > 2 * _EXCERPT_BYTES and len(self.excerpt) > 1:
            self.excerpt = self.excerpt[::2]
            self._every *= 2
            self._excerpt_bytes = sum(len(text.encode()) for text in self.excerpt)
