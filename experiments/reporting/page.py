"""Writes a report as one HTML file, pictures included, that can be read without a network."""

import base64
import html
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt

from .drawing import Picture

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.75rem; text-align: left; vertical-align: top; }
td code { overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: 0.75rem; overflow-x: auto; }
code { font-size: 0.9em; }
img { max-width: max(100%, 60rem); }
"""


def page(text: str, pictures: Sequence[Picture]) -> str:
    """Returns the HTML page of a report.

    Args:
      text: the report in Markdown; HTML in it is shown as text.
      pictures: the pictures that it shows by their names.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for picture in pictures:
        data = f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"
        body = body.replace(f'src="{picture.name}"', f'src="{data}"')
    # What is wider than a phone scrolls by itself.
    body = re.sub(r"<table>.*?</table>|<img [^>]*>", r'<div class="wide">\g<0></div>', body, flags=re.DOTALL)
    body = re.sub(r'<p>(<div class="wide"><img [^>]*></div>)</p>', r"\1", body)
    title = re.search("^# (.*)$", text, re.MULTILINE)
    name = html.escape(title[1] if title else "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
