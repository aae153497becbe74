"""Figures of any model: masked tokens of a prepared corpus, or minimal pairs.

    python -m bert_jax.evaluate --model=MODEL --corpus=DIR [--output=FILE.json]
    python -m bert_jax.evaluate --model=MODEL --pairs=FILE.jsonl [--group=KEY] [--output=FILE.jsonl]

The corpus must have been prepared with the model's vocabulary (prepare --tokenizer=MODEL). Its rows and masks are a
function of the flags alone: two models with one vocabulary are asked for the same tokens. Perplexity is the
exponential of the loss, so it is that of masked tokens, not of a text. Of a run of replaced-token detection these are
the generator's figures, beside the model's own.

A pair is a line {"good": "The cats sleep.", "bad": "The cats sleeps."}; the model is right where the good sentence
has the higher pseudo-log-likelihood, half right where both have the same. The output has a line for each pair, in
order, with good_score, bad_score (nats) and correct (1, 0.5 or 0) added.
"""

import os
import pathlib

from absl import flags

from bert_jax import command
from bert_jax.config import CHOICES
from bert_jax.errors import UserError

_MODEL = flags.DEFINE_string(
    "model", None, "a run's workdir, a Hugging Face directory or a name on the hub", required=True)  # fmt: skip
_STEP = flags.DEFINE_string("step", None, "of a workdir: the step of a checkpoint, or best; by default the newest")
_OUTPUT = flags.DEFINE_string("output", None, "with --corpus: a JSON file; with --pairs: JSONL, the pairs' scores")
_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare wrote, or several separated by commas")
_SPLIT = flags.DEFINE_enum("split", "eval", ["eval", "train"], "the held-out documents, or the others")
_BATCHES = flags.DEFINE_integer("batches", 0, "how many to evaluate; 0: all", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "of rows and masks", lower_bound=0)
_DATA = {
    "format": flags.DEFINE_enum(
        "format", "full_sentences", CHOICES["data.format"], "of the rows; where it has no pairs, a next-sentence head "
        "is asked about segment_pair rows"),
    "sequence_length": flags.DEFINE_integer(
        "sequence_length", None, "tokens a row; by default 128, or what the model reads at most", lower_bound=1),
    "batch_size": flags.DEFINE_integer("batch_size", 32, "rows", lower_bound=1),
    "mask_unit": flags.DEFINE_enum("mask_unit", "token", CHOICES["data.mask_unit"], "what is masked together"),
    "mask_rate": flags.DEFINE_float("mask_rate", 0.15, "share of the tokens that are predicted"),
    "mask_token_share": flags.DEFINE_float("mask_token_share", 0.8, "share of these that become the mask token"),
    "random_token_share": flags.DEFINE_float("random_token_share", 0.1, "share of these that become another token"),
}  # fmt: skip
_PAIRS = flags.DEFINE_string("pairs", None, "a JSONL file of minimal pairs")
_GROUP = flags.DEFINE_string("group", "", "key of the pairs by whose values the accuracy is broken down, such as field")
_WITHIN_WORD = flags.DEFINE_bool(
    "within_word", False, "masks with a token the rest of its word to the right (PLL-word-l2r)"
)


def main(argv):
    del argv
    if bool(_CORPUS.value) == bool(_PAIRS.value):
        raise UserError("--corpus, --pairs: found both or neither; expected one of them")
    if _OUTPUT.value and not pathlib.Path(_OUTPUT.value).absolute().parent.is_dir():
        raise UserError(f"--output={_OUTPUT.value}: no such folder; expected a file in one that exists")
    from bert_jax.runs import workdir
    from bert_jax.runs.models import open_model  # after the flags: importing jax takes a second
    from bert_jax.training import minimal_pairs

    pairs = minimal_pairs.read(_PAIRS.value, _GROUP.value) if _PAIRS.value else None
    step = int(_STEP.value) if _STEP.value and _STEP.value.isdigit() else _STEP.value
    model = open_model(_MODEL.value, step)
    if pairs is None:
        of_run = model.model.spec.replaced_tokens and workdir.holds_run(_MODEL.value)
        _evaluate_corpus(model, open_model(_MODEL.value, step, part="generator") if of_run else None)
    else:
        _evaluate_pairs(model, pairs)


def _evaluate_corpus(model, generator):
    from bert_jax.training import evaluation

    data = {key: flag.value for key, flag in _DATA.items() if flag.value is not None}
    try:
        figures = evaluation.evaluate(
            model, _CORPUS.value, _SPLIT.value, _BATCHES.value, _SEED.value, progress=True, generator=generator, **data
        )
    except UserError as error:
        raise UserError(str(error).replace("config.data.", "--")) from error
    asked = {"model": _MODEL.value, "corpus": _CORPUS.value, "split": _SPLIT.value, "seed": _SEED.value}
    _write([figures | asked | data])
    print(f"{_MODEL.value} on the {_SPLIT.value} split of {_CORPUS.value}")
    lines = {
        "mlm_loss": "loss, nats a token",
        "unigram_loss": "loss of word frequencies alone",
        "mlm_perplexity": "perplexity",
        "mlm_accuracy": "accuracy",
        "nsp_accuracy": "next-sentence accuracy",
        "sop_accuracy": "sentence-order accuracy",
        "rtd_loss": "replaced tokens, loss in nats",
        "rtd_accuracy": "replaced tokens, accuracy",
        "mlm_count": "tokens predicted",
        "rows": "rows",
    }
    for name, words in lines.items():
        if name in figures:
            value = figures[name]
            print(f"  {words:<32}{value:>14,}" if isinstance(value, int) else f"  {words:<32}{value:>14.4f}")


def _evaluate_pairs(model, pairs):
    from bert_jax.training import minimal_pairs

    scored = minimal_pairs.evaluate(model, list(pairs.values()), _WITHIN_WORD.value, progress=True, names=list(pairs))
    _write(scored)
    print(f"{_MODEL.value} on {_PAIRS.value}")
    print(f"  {'':<32}{'accuracy':>10}{'pairs':>10}{'ties':>10}")
    for name, found in minimal_pairs.accuracies(scored, _GROUP.value).items():
        print(f"  {name:<32}{found['accuracy']:>10.4f}{found['pairs']:>10,}{found['ties']:>10,}")


def _write(records):
    """Beside the target, then renamed: a failure leaves an older output as it was."""
    if not _OUTPUT.value:
        return
    from bert_jax.files import object_line

    path = pathlib.Path(_OUTPUT.value)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text("".join(object_line(one) + "\n" for one in records), "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"--output={path}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    command.run(main)
