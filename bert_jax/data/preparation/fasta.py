"""Reads proteins from FASTA files: a line ">NAME ..." before each, and its residues on the lines behind."""

import string
from collections.abc import Callable, Iterable, Iterator

ENDINGS = tuple(ending + packed for ending in (".fasta", ".fa", ".faa") for packed in ("", ".gz"))
_RESIDUES = (string.ascii_letters + "*-.").encode()  # "*" is a stop; the others are gaps, which ESM's vocabulary has
_SPACES = string.whitespace.encode()
_SHOWN = 20  # bytes of a line in a message


class Records:
    """Gathers the residues of one record after the other, and tells of those that hold something else."""

    def __init__(self, skip: Callable[[int, str, int], None]):
        """Begins before the first record.

        Args:
          skip: called with (number of a line, reason, bytes) for a record that is left out.
        """
        self._skip = skip
        self._header, self._size = 0, 0  # number of the record's first line, 0 before the first one; its bytes so far
        self._residues: list[bytes] = []
        self._problem: tuple[int, str] | None = None

    def read(self, lines: Iterable[tuple[int, int, bytes, bool]], stop: int) -> Iterator[list[str] | None]:
        """Yields each protein as a paragraph of one line, in capitals, and None behind it.

        A stop inside a record ends a protein; those at its end are left out.

        Args:
          lines: (number, place in the file, bytes, whether a line begins with them); a long line comes in several
            pieces. What is before the first header is not read.
          stop: place at or behind which a header begins a record of somebody else; -1 for none.
        """
        has_residues = False
        for number, position, line, begins in lines:
            if begins:
                has_residues = not line.startswith((b">", b";"))  # ; a comment, in the oldest files
            if begins and line.startswith(b">"):
                yield from self._end()
                if position >= stop != -1:
                    return
                self._header, self._size = number, 0
            self._size += len(line)
            if self._header and has_residues:
                self._add(number, line.translate(None, _SPACES))
        yield from self._end()

    def _add(self, number, residues):
        other = residues.translate(None, _RESIDUES)
        if other and not self._problem:
            self._problem = number, f"found {shown(other)} among residues; expected letters, * or -"
        self._residues.append(residues)

    def _end(self):
        """Yields the proteins of the record that has ended."""
        residues, problem = b"".join(self._residues), self._problem
        if self._header and not problem and not residues.strip(b"*"):
            problem = self._header, "a header without residues behind it"
        if problem:
            self._skip(*problem, self._size)
        elif self._header:
            for protein in residues.upper().decode("ascii").split("*"):
                if protein:
                    yield [protein]
                    yield None
        self._header, self._residues, self._problem = 0, [], None


def first_problem(lines: Iterable[tuple[int, int, bytes, bool]]) -> tuple[int, str] | None:
    """Returns (number of a line, why a file is no FASTA) for text before the first header; None where there is none."""
    for number, _, line, _ in lines:
        text = line.translate(None, _SPACES)
        if text and not text.startswith((b">", b";")):
            return number, f"no FASTA: found {shown(text)}; expected > and a name before the first protein"
        if text.startswith(b">"):
            return None
    return None


def shown(line: bytes) -> str:
    """Returns the begin of a line for a message."""
    return repr(line[:_SHOWN].decode("utf-8", "replace")) + ("..." if len(line) > _SHOWN else "")
