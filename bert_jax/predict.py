"""python -m bert_jax.predict VERB --model=MODEL --input=FILE --output=FILE

    VERB       reads              writes, one JSON object a line, in input order
    fill-mask  text               {"masks": [[{"token": "cat", "id": 4937, "score": 0.31}, ...], ...]}
    classify   text [text_pair]   {"label": "positive", "score": 0.97, "scores": {"negative": 0.03, ...}}
    tag        text               {"entities": [{"label": "PER", "start": 0, "end": 12, "text": ..., "score": 0.99}]}
    answer     question, context  {"answer": "...", "start": 12, "end": 20, "score": 0.8}
    embed      text               {"embedding": [0.1, ...]}, or with --output=X.npy one float32 array

The input is a .txt, one text a line, or a .jsonl, one object with these fields a line; either may be .gz. MODEL is a
run's workdir, a Hugging Face directory, or a name on the hub. Without --input, the text of the command line is answered
on the terminal:

    python -m bert_jax.predict fill-mask --model=MODEL --text="The [MASK] sat on the mat."
    python -m bert_jax.predict answer --model=MODEL --question="Who sat?" --context="The cat sat on the mat."
"""

import dataclasses
import pathlib
import sys

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError

_MODEL = flags.DEFINE_string("model", None, "a run's workdir, a Hugging Face directory, or a hub name", required=True)
_INPUT = flags.DEFINE_string("input", None, "a .txt file, one text a line, or .jsonl; each may be .gz")
_OUTPUT = flags.DEFINE_string("output", None, "the .jsonl file to write; embed: or .npy")
_TEXT = flags.DEFINE_multi_string("text", [], "a text to answer on the terminal; may be given several times")
_TEXT_PAIR = flags.DEFINE_string("text_pair", None, "classify: the second text of a pair, with one --text")
_QUESTION = flags.DEFINE_string("question", None, "answer: a question to answer on the terminal, with --context")
_CONTEXT = flags.DEFINE_string("context", None, "answer: the text that holds the answer")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "of the computation; default: bfloat16 on accelerators, else float32"
)
_PACKING = flags.DEFINE_enum(
    "packing", "auto", ["auto", "yes", "no"],
    "whether several texts share a row, which changes no answer; default: where it saves time",
)  # fmt: skip
flags.DEFINE_integer("top_k", 5, "fill-mask: tokens per mask")
flags.DEFINE_enum("merge", "mean", ["mean", "max"], "classify: of the logits of a long text's windows")
flags.DEFINE_enum(
    "long", None, ["windows", "truncate"],
    "classify, embed: what happens to a text longer than the model; default: windows, but as sentence-transformers "
    "does (truncate) for its models",
)  # fmt: skip
flags.DEFINE_float("null_threshold", None, "answer: by how much no answer must score above the best one to be given")
flags.DEFINE_integer("max_answer_length", None, "answer: in tokens; default: as fine-tuned, else 30")
flags.DEFINE_list(
    "pooling", None,
    "embed: cls, mean, max, second_to_last, last_4, last_4_concat, attention; several with commas are concatenated; "
    "default: the model's own, else mean",
)  # fmt: skip
flags.DEFINE_bool("normalize", None, "embed: vectors of length 1; default: as the model says, else not")
flags.DEFINE_string("prompt", None, "embed: put before each text, such as 'query: '")
flags.DEFINE_string("prompt_name", None, "embed: a prompt of a sentence-transformers model by its name")


@dataclasses.dataclass(frozen=True)
class Verb:
    """What a verb runs, the fields it reads, and its own flags: arguments of the class, and of the call."""

    name: str
    predictor: str
    fields: tuple[str, ...]
    optional: int = 0
    of_class: tuple[str, ...] = ()
    of_call: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        return (*self.of_class, *self.of_call)


VERBS = (
    Verb("fill-mask", "FillMask", ("text",), of_call=("top_k",)),
    Verb("classify", "Classifier", ("text", "text_pair"), 1, of_class=("long", "merge")),
    Verb("tag", "TokenTagger", ("text",)),
    Verb("answer", "QuestionAnswerer", ("question", "context"), of_class=("null_threshold", "max_answer_length")),
    Verb(
        "embed", "Embedder", ("text",), of_class=("pooling", "normalize", "long"), of_call=("prompt", "prompt_name")
    ),
)  # fmt: skip


def run():
    """Runs the verb that the command line names."""
    names = [verb.name for verb in VERBS]
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    if given not in names and given not in ("--help", "--helpfull", "-h", "--helpshort"):
        print(
            f"error: {given or 'no verb'}: expected python -m bert_jax.predict {'|'.join(names)} ...", file=sys.stderr
        )
        sys.exit(2)
    verb = next((verb for verb in VERBS if verb.name == given), None)
    if verb:
        del sys.argv[1]
    command.run(lambda argv: main(verb))


def main(verb: Verb) -> None:
    """Answers --input into --output, or what is typed on the terminal."""
    _check_flags(verb)
    if not _INPUT.value:
        _show(verb, _open(verb), _typed(verb))
        return

    from bert_jax.inference import records

    source = records.Records(pathlib.Path(_INPUT.value), verb.fields, verb.optional)
    output = pathlib.Path(_OUTPUT.value)
    _check_output(output, source.path, verb)
    total = sum(1 for _ in source)  # every line is read before anything is computed
    if not total:
        raise UserError(f"--input={source.path}: empty; expected one text a line or more")
    predictor = _open(verb)
    predictor.check(source, source.where, **_options(verb.of_call))
    _run(verb, predictor, source, output, total)


def _run(verb, predictor, source, output, total):
    from tqdm import tqdm

    from bert_jax.inference import records

    if output.suffix == ".npy":
        writer, form = records.vector_writer(output, total, predictor.size), lambda vector: vector
    else:
        writer, form = records.line_writer(output), _form(verb)
    count = 0
    with writer as put, tqdm(total=total, unit="text", mininterval=0.5) as bar:
        for answer in predictor.stream(source, source.where, bar.update, **_options(verb.of_call)):
            put(form(answer))
            count += 1
        if count != total:
            raise UserError(f"--input={source.path}: {total} lines before, {count} now; expected a file at rest")


def _form(verb):
    """How an answer becomes a line."""
    from bert_jax import files as json_lines
    from bert_jax.inference import records

    return records.vector_line if verb.predictor == "Embedder" else json_lines.object_line


def _open(verb):
    import bert_jax  # after the flags: importing jax takes a second

    return getattr(bert_jax, verb.predictor).from_pretrained(
        _MODEL.value, dtype=_DTYPE.value, packing=_packing(), **_options(verb.of_class)
    )


def _packing():
    return {"auto": "auto", "yes": True, "no": False}[_PACKING.value]


def _options(names):
    return {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].value is not None}


def _typed(verb):
    """The examples on the command line."""
    if verb.fields == ("question", "context"):
        return [(_QUESTION.value, _CONTEXT.value)]
    if _TEXT_PAIR.value is not None:
        return [(_TEXT.value[0], _TEXT_PAIR.value)]
    return [(text,) for text in _TEXT.value]


def _show(verb, predictor, examples):
    named = {"question": "--question and --context"}.get(verb.fields[0])
    answers = predictor.stream(examples, lambda i: named or f"--text {i + 1}", **_options(verb.of_call))
    form = _form(verb)
    for example, answer in zip(examples, answers, strict=True):
        if verb.predictor == "FillMask":
            print(example[0])
            for mask in answer["masks"]:
                print("   ", "  ".join(f"{one['token']} {one['score']:.3f}" for one in mask))
        else:
            print(form(answer))


def _check_flags(verb):
    """Raises UserError for flags that do not go together, or belong to another verb."""
    for name in {name for its in VERBS for name in its.options} - set(verb.options):
        if flags.FLAGS[name].present:
            others = [its.name for its in VERBS if name in its.options]
            raise UserError(f"--{name}: not of {verb.name}; expected with {' or '.join(others)}")
    fields = {"text": bool(_TEXT.value), "text_pair": _TEXT_PAIR.value is not None,
              "question": _QUESTION.value is not None, "context": _CONTEXT.value is not None}  # fmt: skip
    typed = [name for name, there in fields.items() if there]
    required = list(verb.fields[: len(verb.fields) - verb.optional])
    expected = " and ".join(f"--{name}" for name in required)
    if bool(_INPUT.value) != bool(_OUTPUT.value) or bool(_INPUT.value) == bool(typed):
        raise UserError(f"--input and --output belong together; expected both of them, or {expected}")
    if typed:
        for name in typed:
            if name not in verb.fields:
                raise UserError(f"--{name}: not of {verb.name}; expected {expected}")
        for name in required:
            if name not in typed:
                raise UserError(f"--{name}: missing; expected {expected}")
        if "text_pair" in typed and len(_TEXT.value) > 1:
            raise UserError(f"--text: found {len(_TEXT.value)} with one --text_pair; expected one")


def _check_output(path, source, verb):
    """Raises UserError if the output cannot be written there, before anything is computed."""
    if path.suffix == ".npy" and verb.name != "embed":
        raise UserError(f"--output={path}: only embed writes .npy; expected a .jsonl")
    if path.exists() and path.samefile(source):
        raise UserError(f"--output={path}: is --input itself; expected another file")
    if path.is_dir():
        raise UserError(f"--output={path}: a directory; expected a file")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: no directory {path.parent}; expected one that is there")


if __name__ == "__main__":
    run()
