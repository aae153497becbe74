"""Finds hard negatives for pairs of texts, to train an embedder or a reranker with.

    python -m bert_jax.mine --model=MODEL --input=PAIRS --output=FILE.jsonl [--corpus=FILE]

PAIRS has an anchor and a positive in each record (--anchor, --positive name the columns), as finetune reads them. The
documents that MODEL ranks high for an anchor, and that are not known to answer it, become its negatives. They are
sought among the documents of --corpus, or else among all positives. Each record comes back with

    negatives        the texts, nearest first
    positive_score, negative_scores

and is read by `finetune --config=embedding/pairs --config.task.train=FILE.jsonl --config.task.negatives=negatives`.
A killed call goes on where it was; what it has finished lies in OUTPUT.mining until the end.
"""

import contextlib
import os
import sys

from absl import flags

from bert_jax import command, files, interruption, outputs, progress
from bert_jax import config as config_lib
from bert_jax.config.keys import FINETUNING
from bert_jax.errors import UserError, command_line, quoted
from bert_jax.retrieval import rules
from bert_jax.retrieval.rules import Rule

_MODEL = flags.DEFINE_string(
    "model", None, "the workdir of a run, a Hugging Face directory, or a hub name", required=True
)
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "pairs: .jsonl, .csv, .tsv or .parquet, globs of them, tfds: or hf:NAME[/CONFIG]:SPLIT",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "file to write: .jsonl, which may be .gz", required=True)
_CORPUS = flags.DEFINE_string(
    "corpus", None,
    "documents among which negatives are sought, a .txt, .jsonl, .csv, .tsv or .parquet, or a folder in BEIR's layout; "
    "default: the positives of all pairs",
)  # fmt: skip
_INDEX = flags.DEFINE_string(
    "index",
    None,
    "folder in which the documents' vectors stay, as predict search keeps them; default: they do not stay",
)
_ANCHOR = flags.DEFINE_string("anchor", FINETUNING["task.anchor"].default, "column of the anchors, such as questions")
_POSITIVE = flags.DEFINE_string(
    "positive", FINETUNING["task.positive"].default, "column of the positives, such as answers"
)
_RELEVANCE_ID = flags.DEFINE_string(
    "relevance_id", "", "column whose value anchors share that have the same answers, which are then no negatives"
)
_TEXT_COLUMN = flags.DEFINE_string("text_column", "", "column of the text in --corpus; default: text")
_ID_COLUMN = flags.DEFINE_string("id_column", "", "column of the ids in --corpus; default: _id or id, else its place")
_NEGATIVES = flags.DEFINE_integer("negatives", Rule.count, "negatives of each record")
_SKIP = flags.DEFINE_integer("skip", Rule.skip, "first ranks that are not looked at; known answers have no rank")
_DEPTH = flags.DEFINE_integer("depth", Rule.depth, "last rank that is looked at")
_MARGIN = flags.DEFINE_float(
    "margin", Rule.margin,
    "a negative's score is at most (1 - margin) of its positive's: nearer ones are taken for answers that nobody has "
    "marked; -1: no bound",
)  # fmt: skip
_MAX_SCORE = flags.DEFINE_float("max_score", None, "highest score of a negative")
_MIN_SCORE = flags.DEFINE_float("min_score", None, "lowest score of a negative")
_SAMPLING = flags.DEFINE_enum(
    "sampling",
    Rule.sampling,
    rules.SAMPLINGS,
    "which negatives are taken of those that fit: the highest, or any of them",
)
_SEED = flags.DEFINE_integer("seed", Rule.seed, "seed of --sampling=random", lower_bound=0)
_RERANK = flags.DEFINE_string(
    "rerank", None,
    "a cross-encoder, named as --model is, whose scores of positives and of the ranks looked at take the place of "
    "--model's",
)  # fmt: skip
_QUERY_PROMPT = flags.DEFINE_string("query_prompt", None, "text put before anchors; default: the model's own")
_DOCUMENT_PROMPT = flags.DEFINE_string("document_prompt", None, "text put before documents; default: the model's own")
_DTYPE = command.define_dtype_flag()


def main(argv):
    del argv
    from bert_jax.retrieval import documents as documents_lib
    from bert_jax.retrieval import mining, searching

    rule = Rule(
        _NEGATIVES.value, _SKIP.value, _DEPTH.value, None if _MARGIN.value == -1 else _MARGIN.value, _MAX_SCORE.value,
        _MIN_SCORE.value, _SAMPLING.value, _SEED.value,
    )  # fmt: skip
    rules.check_rule(rule)
    _check_output()
    mining.check_folders(_OUTPUT.value, _INDEX.value or "")
    pairs = mining.read_pairs(_INPUT.value, _ANCHOR.value, _POSITIVE.value, _RELEVANCE_ID.value)
    corpus = None
    if _CORPUS.value:
        corpus = documents_lib.Documents(_CORPUS.value, "corpus", _TEXT_COLUMN.value, _ID_COLUMN.value)
        documents_lib.scan(corpus, f"--corpus={_CORPUS.value}")
    for note in pairs.notes:
        print(f"note: {note}")

    import bert_jax  # after the flags: importing jax takes a second
    from bert_jax.inference import Reranker
    from bert_jax.inference.opening import open_predictor

    embedder = bert_jax.Embedder.from_pretrained(_MODEL.value, dtype=_DTYPE.value)
    reranker = open_predictor(Reranker, _RERANK.value, dtype=_DTYPE.value) if _RERANK.value else None
    if note := searching.head_note(embedder):
        print(f"note: {note}", file=sys.stderr)
    prompts = [
        embedder.prompt_for(task) if flag.value is None else flag.value
        for task, flag in (("query", _QUERY_PROMPT), ("document", _DOCUMENT_PROMPT))
    ]
    message = f"--output={_OUTPUT.value}: ended; the same command continues it"
    with interruption.end_message(message), contextlib.ExitStack() as bars:
        tally = mining.mine(
            embedder, pairs, corpus, _OUTPUT.value, rule, (prompts[0], prompts[1]), _INDEX.value or "",
            lambda unit, total: _bar(bars, unit, total), reranker,
        )  # fmt: skip
    _report(tally, mining.NEGATIVES)


def _bar(bars, unit, total):
    """Returns the update of a new progress bar, whose predecessor is closed."""
    bars.close()
    return bars.enter_context(progress.bar(total, unit)).update


def _check_output():
    """Raises UserError for an output that cannot be written, before anything is computed."""
    output = _OUTPUT.value
    if files.is_stream(output) or not output.lower().removesuffix(".gz").endswith((".jsonl", ".json")):
        raise UserError(f"--output={output}: expected a file in .jsonl, which may be .gz")
    outputs.check_file("output", output)
    for flag in (_INPUT, _CORPUS):
        path = flag.value or ""
        if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
            raise UserError(f"--output={output}: is --{flag.name} itself; expected another file")


def _report(tally, negatives):
    """Prints what was found."""
    print(f"{_OUTPUT.value}: {tally.records:,} records with {tally.negatives:,} negatives")
    print(f"  mean score of a positive     {tally.positive_sum / tally.records:.4f}")
    print(f"  mean score of a negative     {tally.negative_sum / tally.negatives:.4f}")
    print(f"  documents too near           {tally.too_near:,} (beyond --margin or --max_score)")
    print(f"  records with fewer than {_NEGATIVES.value}    {tally.short:,}, {tally.without:,} of them with none")
    print(f"next: {_next_command(negatives, tally.records)}")


def _next_command(negatives, num_records):
    """Returns the command that trains the model further with the negatives of so many records, in a new workdir."""
    recipe = "embedding/pairs"
    name = os.path.basename(_OUTPUT.value).partition(".")[0] or "mined"
    keys = {
        "init_from": _MODEL.value, "task.train": _OUTPUT.value, "task.anchor": _ANCHOR.value,
        "task.positive": _POSITIVE.value, "task.negatives": negatives, "task.relevance_id": _RELEVANCE_ID.value,
        "task.anchor_prompt": _QUERY_PROMPT.value or "", "task.positive_prompt": _DOCUMENT_PROMPT.value or "",
    }  # fmt: skip
    if config_lib.load_recipe(recipe).data.batch_size > num_records // 2:  # a part of the records is held out
        keys["data.batch_size"] = str(max(2, num_records // 2))
    flags_of = [f"--config.{key}={quoted(value)}" for key, value in keys.items() if value != FINETUNING[key].default]
    workdir = f"--workdir={quoted(outputs.free_folder(f'runs/{name}'))}"
    return " ".join([command_line("finetune"), f"--config={recipe}", workdir, *flags_of])


if __name__ == "__main__":
    command.run(main, likely=("model", "input", "output"))
