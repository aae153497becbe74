"""Runs a trained model on texts: fill-mask, classify, tag, answer, embed, search or rerank.

    python -m bert_jax.predict VERB --model=MODEL --input=FILE --output=FILE

    VERB       reads              writes, for each of them in order
    fill-mask  text               {"masks": [[{"token": "cat", "id": 4937, "score": 0.31}, ...], ...]}
    classify   text [text_pair]   {"label": "positive", "score": 0.97, "scores": {"negative": 0.03, ...}}
    tag        text, or words     {"entities": [{"label": "PER", "start": 0, "end": 12, "text": ..., "score": 0.99}]}
    answer     question, context  {"answer": "...", "start": 12, "end": 20, "score": 0.8}
    embed      text               {"embedding": [0.1, ...]}, or with --output=X.npy one float32 array; of a sparse model
                                  {"embedding": {"cat": 1.9, ...}}, or with --output=X.npz one scipy.sparse array
    search     --corpus, --queries {"query": id, "document": id, "rank": 1, "score": 0.8}, a line for each document
    rerank     query, document    {"score": 0.97, "rank": 1} among the documents of a query that follow each other

The input is a .txt with one text a line, a .jsonl with one object of these fields a line, or a .csv, .tsv or .parquet
with these columns; all but the last may be .gz. --text_column=NAME and its like name other columns; those that a run
was fine-tuned on are known. The output is written by its ending: .jsonl, .csv, .tsv, .parquet, .txt (the label or
answer alone), .npy, .npz or .faiss (embed). What came in with a record, such as an id, comes back with it. `-` is
standard input or standard output. Lines that hold nothing are skipped. `words` is a list of words in JSONL, for texts
that are already cut; the output then has "words" and "tags" too. MODEL is the workdir of a run, a Hugging Face
directory, or a name on the hub. Without --input, the texts of the command line are answered on the terminal:

    python -m bert_jax.predict fill-mask --model=MODEL --text="The [MASK] sat on the mat."
    python -m bert_jax.predict answer --model=MODEL --question="Who sat?" --context="The cat sat on the mat."

search embeds a corpus once, into the folder of --index, and finds in it the documents that are nearest to each query:

    python -m bert_jax.predict search --model=MODEL --corpus=FILE --queries=FILE --top_k=10 --output=hits.jsonl

A folder in BEIR's layout may stand for both; where it is known which documents answer a query (--qrels=FILE, or the
folder's own), the scores of the ranking are printed. With --rerank=MODEL a cross-encoder orders the nearest documents
of each query anew, --rerank_top of them. Where MODEL has a vector for each token of a text (ColBERT) or sparse vectors
(SPLADE), the corpus is embedded and compared anew each time, without an index; as --rerank a ColBERT model orders
documents too.
"""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

from bert_jax import _moved, command, command_help, files, outputs, progress
from bert_jax.config import pooling
from bert_jax.config.finetuning_keys import FINETUNING, TOKEN_POOLING
from bert_jax.config.schema import closest
from bert_jax.errors import UserError, command_line

# inference.records.KINDS and inference.tables.KINDS, whose import of numpy a mistake in a flag shall not wait for.
INPUT_KINDS = ("txt", "jsonl", "csv", "tsv", "parquet")
OUTPUT_KINDS = ("jsonl", "csv", "tsv", "parquet", "txt", "npy", "npz", "faiss")

_MODEL = flags.DEFINE_string(
    "model", None, "the workdir of a run, a Hugging Face directory, or a hub name", required=True
)
_STEP = flags.DEFINE_string(
    "step", None, "for a workdir: step of the checkpoint, best, mean:K or ema:DECAY; default: the newest"
)
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "file to read: .txt with one text a line, .jsonl, .csv or .tsv, which may be .gz, or .parquet; - is standard input",
)
_FORMAT = flags.DEFINE_enum(
    "input_format", None, INPUT_KINDS,
    "kind of the input; default: as its name says, or of standard input as it begins: jsonl with an object, csv or tsv "
    "with the columns that are read (of one column where --text_column or its like names it), else txt",
)  # fmt: skip
_FIELDS = flags.DEFINE_list(
    "fields", [], "FIELD=NAME: keys or columns of the input that have other names, such as text=review,text_pair=title"
)
_COLUMNS = {
    name: flags.DEFINE_string(f"{name}_column", None, f"column or key of the {content}, as --fields={name}=NAME")
    for name, content in (
        ("text", "text"), ("text_pair", "second text"), ("question", "question"), ("context", "context"),
        ("document", "document"),
    )
}  # fmt: skip
_OUTPUT = flags.DEFINE_string(
    "output", None,
    "file to write: .jsonl, .csv, .tsv or .txt, which may be .gz, or .parquet; embed: .npy, .npz or .faiss; - is "
    "standard output",
)  # fmt: skip
_OUTPUT_FORMAT = flags.DEFINE_enum(
    "output_format", None, OUTPUT_KINDS,
    "format of the output; default: as its name says, else jsonl",
)  # fmt: skip
_KEEP_COLUMNS = flags.DEFINE_bool(
    "keep_columns", True, "whether what came in with a record, such as an id, comes back in the output"
)
_TEXT = flags.DEFINE_multi_string("text", [], "text to answer on the terminal; may be given several times")
_TEXT_PAIR = flags.DEFINE_string("text_pair", None, "classify: second text of a pair, with one --text")
_QUESTION = flags.DEFINE_string("question", None, "answer: question to answer on the terminal, with --context")
_CONTEXT = flags.DEFINE_string("context", None, "answer: text that holds the answer")
_QUERY = flags.DEFINE_string("query", None, "rerank: query to rank documents for on the terminal, with --document")
_DOCUMENT = flags.DEFINE_multi_string("document", [], "rerank: document of --query; may be given several times")
_DTYPE = command.define_dtype_flag()
_PACKING = flags.DEFINE_enum(
    "packing", "auto", ["auto", "yes", "no"],
    "whether several texts share a row, which changes no answer; auto: if it saves time",
)  # fmt: skip
flags.DEFINE_integer(
    "top_k",
    None,
    "fill-mask: number of tokens to return for each mask, 5 by default; search: number of documents, 10 by default",
)
flags.DEFINE_enum("merge", "mean", ["mean", "max"], "classify: how the logits of a long text's windows are combined")
flags.DEFINE_enum(
    "long", None, ["windows", "truncate", "head_tail", "chunks"],
    "classify, embed: what happens to a text longer than the model; default: as fine-tuned (config.task.long), else "
    "windows, but truncate for sentence-transformers models, as sentence-transformers does",
)  # fmt: skip
flags.DEFINE_float(
    "null_threshold", None, "answer: margin by which 'no answer' must outscore the best span to be returned"
)
flags.DEFINE_integer(
    "max_answer_length",
    None,
    f"answer: longest answer in tokens; default: as fine-tuned, else {FINETUNING['task.max_answer_length'].default}",
)
flags.DEFINE_list(
    "pooling", None,
    f"embed: {', '.join(TOKEN_POOLING)}, second_to_last, last_4 or last_4_concat; several, separated by commas, are "
    "concatenated; default: the model's own, else mean",
)  # fmt: skip
flags.DEFINE_bool("normalize", None, "embed: scale vectors to length 1; default: as the model says, else no")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "int8", "uint8", "binary", "ubinary"],
    "embed, search: how vectors are stored: int8 and uint8 by the range of each dimension, binary (signed bytes) and "
    "ubinary as a bit for each number; search knows float32, int8 and binary",
)  # fmt: skip
_CALIBRATION = flags.DEFINE_string(
    "calibration", None, "embed: .npy of float vectors whose ranges int8 and uint8 divide; default: the output's own"
)
flags.DEFINE_string("prompt", None, "classify, embed, rerank: text put before each input, such as 'query: '")
flags.DEFINE_string("prompt_name", None, "classify, embed, rerank: name of a prompt of a sentence-transformers model")
_CORPUS = flags.DEFINE_string(
    "corpus", None, "search: documents, a .txt, .jsonl, .csv, .tsv or .parquet, or a folder in BEIR's layout"
)
_QUERIES = flags.DEFINE_string(
    "queries", None, "search: queries, a file or folder like --corpus; default: the same folder"
)
_INDEX = flags.DEFINE_string("index", None, "search: folder of the corpus's vectors; default: CORPUS.index")
_QRELS = flags.DEFINE_string(
    "qrels",
    None,
    "search: which documents answer a query, a .tsv of query-id, corpus-id, score, to score the ranking by",
)
_QUERY_COLUMN = flags.DEFINE_string(
    "query_column", None, "rerank: column or key of the query; search: column of the text in --queries; default: text"
)
_ID_COLUMN = flags.DEFINE_string(
    "id_column", None, "search: column of the ids; default: _id or id, else a record's place, from 0"
)
_QUERY_PROMPT = flags.DEFINE_string("query_prompt", None, "search: text put before queries; default: the model's own")
_DOCUMENT_PROMPT = flags.DEFINE_string(
    "document_prompt", None, "search: text put before documents; default: the model's own"
)
_RERANK = flags.DEFINE_string(
    "rerank",
    None,
    "search: a cross-encoder, by name like --model, that orders the nearest documents of each query anew",
)
_RERANK_TOP = flags.DEFINE_integer(
    "rerank_top", None, "search: how many documents --rerank reads for each query; default: 100, or --top_k if larger"
)
_RESCORE = flags.DEFINE_enum(
    "rescore", "float32", ["float32", "int8", "none"],
    "search: vectors by which the candidates that --precision found are ordered",
)  # fmt: skip
_RESCORE_MULTIPLIER = flags.DEFINE_integer(
    "rescore_multiplier", 4, "search: candidates of --precision for each document that is wanted"
)


# Flags of every verb, and of those that read --input.
_OF_MODELS = ("model", "step", "dtype", "packing")
_OF_FILES = ("input", "input_format", "fields", "output", "output_format", "keep_columns")


@_moved.renamed_members(of_class="class_flags", of_call="call_flags")
@dataclasses.dataclass(frozen=True)
class Verb:
    """Describes a verb of `predict`.

    Attributes:
      name: the verb on the command line.
      predictor: name of the class of bert_jax that computes the answers.
      fields: fields of an input line.
      optional: how many of the last fields may be missing.
      class_flags: flags that are arguments of the class.
      call_flags: flags that are arguments of a call.
      words: whether a line may have a list of words instead of a text.
      own_flags: flags that `predict` itself reads.
    """

    name: str
    predictor: str
    fields: tuple[str, ...]
    optional: int = 0
    class_flags: tuple[str, ...] = ()
    call_flags: tuple[str, ...] = ()
    words: bool = False
    own_flags: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Returns the names of the flags that belong to this verb."""
        return (*self.class_flags, *self.call_flags, *self.own_flags)

    @property
    def flags(self) -> tuple[str, ...]:
        """Returns the names of all flags that this verb reads."""
        if self.name == "search":
            return (*_OF_MODELS, "text_column", "output", *self.options)
        columns = (f"{field}_column" for field in self.fields)
        return (*_OF_MODELS, *_OF_FILES, *columns, *self.fields, *self.options)


VERBS = (
    Verb("fill-mask", "FillMask", ("text",), call_flags=("top_k",)),
    Verb(
        "classify", "Classifier", ("text", "text_pair"), 1, class_flags=("long", "merge"),
        call_flags=("prompt", "prompt_name")),
    Verb("tag", "TokenTagger", ("text",), words=True),
    Verb("answer", "QuestionAnswerer", ("question", "context"), class_flags=("null_threshold", "max_answer_length")),
    Verb(
        "embed", "Embedder", ("text",), class_flags=("pooling", "normalize", "long"),
        call_flags=("prompt", "prompt_name"), own_flags=("precision", "calibration")),
    Verb(
        "search", "Embedder", ("text",), class_flags=("pooling", "normalize", "long"),
        own_flags=("top_k", "corpus", "queries", "index", "qrels", "query_column", "id_column", "query_prompt",
                   "document_prompt", "rerank", "rerank_top", "precision", "rescore", "rescore_multiplier")),
    Verb(
        "rerank", "Reranker", ("query", "document"), call_flags=("prompt", "prompt_name"), own_flags=("query_column",)),
)  # fmt: skip


def run():
    """Runs the verb that the command line names."""
    names = [verb.name for verb in VERBS]
    name = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else ""
    if name not in names and name not in ("--help", "--helpfull", "-h", "--helpshort", "--helpxml"):
        given = sys.argv[1] if name else "no verb"
        expected = f"{command_line('predict')} {'|'.join(names)} ...{closest(name, names)}"
        print(f"error: {given}: expected {expected}", file=sys.stderr)
        sys.exit(2)
    verb = next((verb for verb in VERBS if verb.name == name), None)
    if verb:
        del sys.argv[1]
    fields = verb.fields if verb else ()
    texts = dict.fromkeys((*fields, "text", "text_pair", "question", "context", "query", "document", "prompt",
                           "query_prompt", "document_prompt"))  # fmt: skip
    likely = ("model", "corpus", "queries", "output") if name == "search" else ("model", "input", "output")
    part = command_help.Part(verb.name, _doc_of(verb), verb.flags) if verb else None
    command.run(lambda argv: main(verb), texts=tuple(texts), likely=likely, part=part)


def _doc_of(verb):
    """Returns what the module's docstring says of one verb."""
    if not __doc__:  # python -OO
        return ""
    summary, usage, table, of_files, _, of_search, search_usage, of_ranking = __doc__.split("\n\n")
    row = re.search(rf"^    {verb.name} .*(\n {{8,}}.*)*", table, re.MULTILINE)
    shown = "\n".join(filter(None, [table.partition("\n")[0], row and row[0]]))
    if verb.name == "search":
        return "\n\n".join([summary, search_usage, shown, of_search, of_ranking])
    texts = " ".join(f'--{field}="..."' for field in verb.fields)
    example = f"    python -m bert_jax.predict {verb.name} --model=MODEL {texts}"
    return "\n\n".join([summary, usage.replace("VERB", verb.name), shown, of_files, example])


def main(verb: Verb) -> None:
    """Writes the answers for --input to --output, or prints those for the texts of the command line."""
    _check_flags(verb)
    if verb.name == "search":
        _search(verb)
        return
    from bert_jax.inference import records

    if not _INPUT.value:
        _show(verb, _open(verb), _typed(verb))
        return

    name = _OUTPUT.value or ""
    output = pathlib.Path(name)
    kind = _check_output(name, verb)
    source = records.Records(
        _INPUT.value, verb.fields, verb.optional, _FORMAT.value or "", verb.words, _columns(verb), _own_columns(verb)
    )
    if output.is_file() and source.path.is_file() and output.samefile(source.path):
        raise UserError(f"--output={output}: is --input itself; expected another file")
    total = sum(1 for _ in source)  # every line is read before anything is computed
    if not total:
        raise UserError(f"--input={source.path}: {source.nothing_read}")
    storage = _storage(name, kind) if verb.name == "embed" else None
    predictor = _open(verb)
    if storage:
        storage.check(predictor)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    predictor.check(source, source.where, allow_empty=True, **_options(verb.call_flags))
    _run(verb, predictor, source, name, kind, total, storage)


def _columns(verb):
    """Returns the names that --fields gives to fields of the input."""
    columns = {}
    for item in _FIELDS.value or ():
        field, _, name = item.partition("=")
        if field not in verb.fields or not name:
            raise UserError(f"--fields={item}: expected FIELD=NAME with a field of {', '.join(verb.fields)}")
        columns[field] = name
    of_rerank = {"query": _QUERY_COLUMN} if "query" in verb.fields else {}
    for field, flag in (_COLUMNS | of_rerank).items():
        if flag.value is None:
            continue
        if field not in verb.fields:
            raise UserError(f"--{flag.name}: not a flag of {verb.name}; expected {_column_flags(verb)}")
        if not flag.value or columns.get(field, flag.value) != flag.value:
            expected = f"--fields={field}={columns[field]} or this" if flag.value else "the name of a column"
            raise UserError(f"--{flag.name}={flag.value}: expected {expected}")
        columns[field] = flag.value
    return columns


def _column_flags(verb):
    return " or ".join(f"--{field}_column" for field in verb.fields)


def _own_columns(verb):
    """Returns the columns of the texts that the run of --model was fine-tuned on; () where none are known."""
    from bert_jax.runs import workdir

    try:
        name = workdir.split_step(_MODEL.value)[0]
        if not workdir.holds_run(name):
            return workdir.exported_columns(name)[: len(verb.fields)]
        return workdir.text_columns(workdir.read(workdir.to_path(name))[1])[: len(verb.fields)]
    except UserError:
        return ()  # opening the model says what is wrong


def _storage(output="", kind="jsonl") -> Any:
    """Returns how vectors are stored in an output of this name and format."""
    from bert_jax.inference import quantization, vector_files

    ranges = None
    if _CALIBRATION.value is not None:
        if _PRECISION.value not in quantization.RANGED:
            raise UserError(
                f"--calibration={_CALIBRATION.value}: goes with --precision=int8 or uint8; found {_PRECISION.value}"
            )
        ranges = quantization.read_ranges(_CALIBRATION.value)
    return vector_files.Storage(output, kind, _PRECISION.value, _CALIBRATION.value or "", ranges)


def _run(verb, predictor, source, output, kind, total, storage):
    from bert_jax.inference import tables

    with progress.bar(total, "text") as bar:
        answers = predictor.stream(source, source.where, bar.update, allow_empty=True, **_options(verb.call_flags))
        answers = _all_of(answers, total, source)
        if storage:
            answers = storage.stored(predictor, answers)
        if verb.predictor == "Reranker":
            answers = _with_ranks((example[0] for example in source), answers)
        if kind in tables.ARRAYS:
            storage.write(predictor, answers, total)
            return
        form = _form(verb, predictor, source)
        keep = _KEEP_COLUMNS.value and kind != "txt"
        for note in tables.notes(source, form) if keep else ():
            bar.write(f"note: {note}", file=sys.stderr)
        tables.write(output, kind, source, answers, form, keep)


def _with_ranks(queries, answers) -> Iterator[Any]:
    from bert_jax.inference import rerank

    return rerank.with_ranks(queries, answers)


def _all_of(answers, total, source) -> Iterator[Any]:
    """Yields answers. Raises UserError at their end if they are not as many as there were lines."""
    count = 0
    for answer in answers:
        yield answer
        count += 1
    if count != total:
        raise UserError(f"--input={source.path}: {total} lines before, {count} now; expected a file at rest")


def _search(verb):
    """Ranks the documents of --corpus for the queries of --queries, and writes or scores these rankings."""
    from bert_jax.retrieval import searching

    request = searching.Request(
        _CORPUS.value or "", _QUERIES.value or _CORPUS.value or "", _OUTPUT.value or "", _INDEX.value or "",
        _QRELS.value or "", _COLUMNS["text"].value or "", _QUERY_COLUMN.value or "", _ID_COLUMN.value or "",
        _QUERY_PROMPT.value, _DOCUMENT_PROMPT.value, flags.FLAGS.top_k or 10, _rerank_top(), _quantised(),
    )  # fmt: skip
    searching.run(request, lambda: _open(verb), _open_reranker if _RERANK.value else None)


def _open_reranker():
    from bert_jax.inference import Reranker
    from bert_jax.inference.opening import open_predictor

    return open_predictor(Reranker, _RERANK.value or "", dtype=_DTYPE.value, packing=_packing())


def _rerank_top():
    return _RERANK_TOP.value or max(100, flags.FLAGS.top_k or 10)


def _quantised():
    """Returns how the index is searched."""
    from bert_jax.retrieval import quantised

    return quantised.Options(_PRECISION.value, _RESCORE.value, _RESCORE_MULTIPLIER.value)


def _check_search_flags(verb):
    """Raises UserError for flags of the other verbs, and for missing ones."""
    texts = [_TEXT, _TEXT_PAIR, _QUESTION, _CONTEXT, _QUERY, _DOCUMENT]
    for flag in (_INPUT, _FORMAT, _FIELDS, _OUTPUT_FORMAT, _KEEP_COLUMNS, *texts, *_COLUMNS.values()):
        if flag.present and flag.name not in verb.flags:
            raise UserError(f"--{flag.name}: not a flag of search; expected --corpus and --queries")
    if not _CORPUS.value:
        raise UserError("--corpus: missing; expected --corpus=FILE with documents, or a folder in BEIR's layout")
    if not _QUERIES.value and not os.path.isdir(_CORPUS.value):
        raise UserError("--queries: missing; expected --queries=FILE, or a folder in BEIR's layout as --corpus")
    if files.is_stream(_CORPUS.value) and not _INDEX.value:
        raise UserError(f"--index: missing; expected a folder for the vectors of --corpus={_CORPUS.value}")
    top_k = flags.FLAGS.top_k
    if top_k is not None and top_k < 1:
        raise UserError(f"--top_k={top_k}: expected at least 1")
    if _RERANK_TOP.value is not None:
        if not _RERANK.value:
            raise UserError("--rerank_top: does nothing without --rerank; expected --rerank=MODEL, a cross-encoder")
        least = top_k or 10
        if _RERANK_TOP.value < least:
            raise UserError(f"--rerank_top={_RERANK_TOP.value}: expected at least {least}, the --top_k that is written")
    _check_precision()


def _check_precision():
    """Raises UserError for flags of quantised vectors that do nothing."""
    if _PRECISION.value == "float32":
        for flag in (_RESCORE, _RESCORE_MULTIPLIER):
            if flag.present:
                raise UserError(f"--{flag.name}: does nothing for --precision=float32; expected int8 or binary")
        return
    if _RESCORE.value == "none" and _RESCORE_MULTIPLIER.present:
        raise UserError("--rescore_multiplier: does nothing with --rescore=none; expected float32 or int8")

    from bert_jax.retrieval import quantised

    quantised.check(_quantised())


def _form(verb, predictor, source):
    """Returns what the answers of a verb hold."""
    from bert_jax.inference import tables

    if verb.name == "classify":
        kind = {"multi_label": "texts", "regression": "none"}.get(predictor.model.problem, "text")
        return tables.Answers(verb.name, predictor.labels, kind)
    if verb.name == "embed":
        from bert_jax.inference import vector_files

        dtype = {"binary": "int8", "ubinary": "uint8"}.get(_PRECISION.value, _PRECISION.value)
        return tables.Answers(verb.name, vector_dtype=dtype, sparse=vector_files.is_sparse(predictor))
    return tables.Answers(verb.name, words=verb.words and source.has_words)


def _open(verb):
    name = _MODEL.value
    if _STEP.value is not None:
        from bert_jax.runs import workdir

        name = "@".join(map(str, workdir.name_and_step(name, _STEP.value)))

    import bert_jax  # after the flags: importing jax takes a second

    predictor: Any = getattr(bert_jax, verb.predictor)
    options = _options(verb.class_flags)
    if verb.name in ("embed", "search", "rerank"):
        from bert_jax.inference.opening import open_predictor

        return open_predictor(predictor, str(name), dtype=_DTYPE.value, packing=_packing(), **options)
    return predictor.from_pretrained(name, dtype=_DTYPE.value, packing=_packing(), **options)


def _packing():
    return {"auto": "auto", "yes": True, "no": False}[_PACKING.value]


def _options(names):
    return {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].value is not None}


def _typed(verb):
    """Returns the examples of the command line."""
    if verb.fields == ("question", "context"):
        return [(_QUESTION.value, _CONTEXT.value)]
    if verb.fields == ("query", "document"):
        return [(_QUERY.value, document) for document in _DOCUMENT.value]
    if _TEXT_PAIR.value is not None:
        return [(_TEXT.value[0], _TEXT_PAIR.value)]
    return [(text,) for text in _TEXT.value]


def _show(verb, predictor, examples):
    from bert_jax.inference import records

    flag_names = {"question": "--question and --context", "query": "--query and --document"}.get(verb.fields[0])
    answers = predictor.stream(examples, lambda i: flag_names or f"--text {i + 1}", **_options(verb.call_flags))
    if verb.predictor == "FillMask":
        for example, answer in zip(examples, answers, strict=True):
            print(example[0])
            for mask in answer["masks"]:
                print("   ", "  ".join(f"{token['token']} {token['score']:.3f}" for token in mask))
        return

    encode = files.json_line
    if verb.name == "embed":
        from bert_jax.inference import vector_files

        storage = _storage()
        storage.check(predictor)
        answers = storage.stored(predictor, answers)
        encode = encode if vector_files.is_sparse(predictor) else records.vector_line
    if verb.predictor == "Reranker":
        answers = _with_ranks((query for query, _ in examples), answers)
    with records.line_writer(files.STANDARD) as put:
        for answer in answers:
            put(encode(answer))


def _check_flags(verb):
    """Raises UserError for flags that do not go together, or belong to another verb."""
    for name in {name for other in VERBS for name in other.options} - set(verb.options):
        if flags.FLAGS[name].present:
            others = [other.name for other in VERBS if name in other.options]
            raise UserError(f"--{name}: not a flag of {verb.name}; expected with {' or '.join(others)}")
    for kind in flags.FLAGS.pooling or ():
        pooling.check_kind(f"--pooling={','.join(flags.FLAGS.pooling)}", kind)
    if verb.name == "search":
        _check_search_flags(verb)
        return
    fields = {"text": bool(_TEXT.value), "text_pair": _TEXT_PAIR.value is not None,
              "question": _QUESTION.value is not None, "context": _CONTEXT.value is not None,
              "query": _QUERY.value is not None, "document": bool(_DOCUMENT.value)}  # fmt: skip
    typed = [name for name, is_given in fields.items() if is_given]
    required = list(verb.fields[: len(verb.fields) - verb.optional])
    expected = " and ".join(f"--{name}" for name in required)
    if bool(_INPUT.value) != bool(_OUTPUT.value) or bool(_INPUT.value) == bool(typed):
        raise UserError(f"--input and --output belong together; expected both of them, or {expected}")
    if typed:
        of_files = [_FORMAT, _FIELDS, _OUTPUT_FORMAT, _KEEP_COLUMNS, *_COLUMNS.values(), _QUERY_COLUMN]
        for flag in of_files:
            if flag.present:
                raise UserError(f"--{flag.name}: does not go with --{typed[0]}; expected with --input and --output")
        for name in typed:
            if name not in verb.fields:
                raise UserError(f"--{name}: not a flag of {verb.name}; expected {expected}")
        for name in required:
            if name not in typed:
                raise UserError(f"--{name}: missing; expected {expected}")
        if "text_pair" in typed and len(_TEXT.value) > 1:
            raise UserError(f"--text: found {len(_TEXT.value)} with one --text_pair; expected one")


def _check_output(name, verb):
    """Returns the format of the output. Raises UserError if it cannot be written, before anything is computed."""
    from bert_jax.inference import tables

    kind = tables.kind_of(name, verb.name, _OUTPUT_FORMAT.value or "")
    if name == files.STANDARD:
        return kind
    outputs.check_file("output", name)
    return kind


if __name__ == "__main__":
    run()
