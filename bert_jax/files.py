"""JSON, one object a line."""

import json
import re
from typing import Any


def object_line(answer: Any) -> str:
    """An answer as JSON that is one line to everybody: what Unicode calls a line end is escaped too."""
    line = json.dumps(answer, ensure_ascii=False)
    return line if line.isascii() else re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", line)
