"""Reads the fenced blocks of README.md and docs/*.md, and the commands in them."""

import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
LANGUAGES = ("bash", "python", "text")  # text: output, which is not run

_FENCE = re.compile(r"^ *(`{3,})(.*)$")
_MARK = re.compile(r"^<!-- (run on|file): (.+) -->$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      page: its file.
      line: line of the opening fence, from 1.
      language: what follows the fence.
      text: what is in it.
      run_on: what its commands run on, a name in tests/docs/places.py, from the comment `<!-- run on: PLACE -->` above
        it; "" for this machine as it is.
      file: the name of the file that it shows, from `<!-- file: NAME -->`; "" for none.
    """

    page: str
    line: int
    language: str
    text: str
    run_on: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block, comments left out."""
        lines = re.sub(r" *\\\n *", " ", self.text).splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of a page, in order. Raises ValueError for a fence that is not closed."""
    found, opened, marks = [], None, {}
    for number, line in enumerate((ROOT / page).read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened:
            start, ticks, language, body, its = opened
            if fence and fence[1] == ticks and not fence[2]:
                marked = {key.replace(" ", "_"): value for key, value in its.items()}
                found.append(Block(page, start, language, "\n".join(body), **marked))
                opened = None
            else:
                body.append(line)
        elif fence:
            opened, marks = (number, fence[1], fence[2], [], marks), {}
        elif mark := _MARK.match(line):
            marks[mark[1]] = mark[2]
        elif line.strip():
            marks = {}
    if opened:
        raise ValueError(f"{page}:{opened[0]}: a fence that is not closed")
    return found
