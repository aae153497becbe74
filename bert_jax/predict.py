"""python -m bert_jax.predict fill-mask --model=MODEL --input=FILE --output=FILE

Reads one text a line (.txt), or JSONL with a `text` field; writes one JSON object a line, in input order:

    {"masks": [[{"token": "cat", "id": 4937, "score": 0.31}, ...], ...]}     one list per mask

Without --input, the text that follows on the command line is answered on the terminal:

    python -m bert_jax.predict fill-mask --model=MODEL --text="The [MASK] sat on the mat."
"""

import json
import pathlib
import sys

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError

VERBS = ("fill-mask",)
_CHUNK = 256  # texts read and answered at a time

_MODEL = flags.DEFINE_string("model", None, "a run's workdir", required=True)
_INPUT = flags.DEFINE_string("input", None, "a .txt file, one text a line, or .jsonl with `text`")
_OUTPUT = flags.DEFINE_string("output", None, "the JSONL file to write")
_TEXT = flags.DEFINE_multi_string("text", [], "a text to answer on the terminal; may be given several times")
_TOP_K = flags.DEFINE_integer("top_k", 5, "tokens per mask")


def main(argv):
    del argv
    if bool(_TEXT.value) == bool(_INPUT.value) or bool(_INPUT.value) != bool(_OUTPUT.value):
        raise UserError("--input and --output belong together; expected both of them, or --text")
    from bert_jax.inference import FillMask  # after the flags: importing jax takes a second

    if _INPUT.value:
        texts = list(read_texts(pathlib.Path(_INPUT.value)))
    fill_mask = FillMask.from_pretrained(_MODEL.value)
    for number, text in enumerate(texts if _INPUT.value else _TEXT.value, 1):  # before any work that could be lost
        fill_mask.check(text, f"{_INPUT.value}:{number}" if _INPUT.value else f"--text {number}")
    if _TEXT.value:
        for text, answer in zip(_TEXT.value, fill_mask(_TEXT.value, _TOP_K.value), strict=True):
            print(text)
            for mask in answer["masks"]:
                print("   ", "  ".join(f"{one['token']} {one['score']:.3f}" for one in mask))
        return
    _write(pathlib.Path(_OUTPUT.value), fill_mask, texts)


def read_texts(path: pathlib.Path):
    """Yields the texts of a .txt or .jsonl file. Raises UserError naming file and line."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                text = line.rstrip("\n")
                if path.suffix == ".jsonl":
                    text = _text_field(path, number, text)
                yield text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input={path}: cannot be read: {error}; expected UTF-8 text") from error


def _text_field(path, number, line):
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number}: not JSON ({error}); expected an object with `text`") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f"{path}:{number}: no `text` string in {line[:60]!r}; expected an object with `text`")
    return record["text"]


def _write(path, fill_mask, texts):
    """Writes beside the target and renames, so that a mistake half-way leaves an older output as it was."""
    from tqdm import tqdm

    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as file, tqdm(total=len(texts), unit="text") as bar:
            for begin in range(0, len(texts), _CHUNK):
                some = texts[begin : begin + _CHUNK]
                for answer in fill_mask(some, _TOP_K.value):
                    file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                bar.update(len(some))
        partial.replace(path)
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


def _take_verb(argv):
    verb = argv[1] if len(argv) > 1 else ""
    if verb in VERBS:
        return [argv[0], *argv[2:]]
    if verb in ("--help", "--helpfull", "-h", "--helpshort"):
        return argv
    print(f"error: {verb or 'no verb'}: expected python -m bert_jax.predict {'|'.join(VERBS)} ...", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.argv = _take_verb(sys.argv)
    command.run(main)
