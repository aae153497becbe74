"""Evaluates a model: masked-token loss on a prepared corpus, accuracy on minimal pairs, or vectors of texts.

    python -m bert_jax.evaluate --model=MODEL --corpus=DIR [--output=FILE.json]
    python -m bert_jax.evaluate --model=MODEL --pairs=FILE.jsonl [--group=KEY] [--output=FILE.jsonl]
    python -m bert_jax.evaluate --model=MODEL --held_out=sts:FILE [--widths=64,128] [--output=FILE.json]

The corpus must have been prepared with the model's vocabulary (prepare --tokenizer=MODEL). Rows and masks are a
function of the flags alone, so two models with the same vocabulary predict the same tokens. Perplexity is the
exponential of the masked-token loss; it is not the perplexity of a text. For a run of replaced-token detection the
masked-token metrics are the generator's, beside the discriminator's own.

Each line of --pairs is an object {"good": "The cats sleep.", "bad": "The cats sleeps."}. The model is right if the good
sentence has the higher pseudo-log-likelihood, and half right if both are equal. The output has a line for each pair, in
input order, with good_score, bad_score (nats) and correct (1, 0.5 or 0) added.

--held_out scores the vectors of an embedder on sts:FILE (graded pairs), pairs:FILE (labelled pairs), clusters:FILE
(texts with classes), rerank:FILE (queries with documents that answer them, and others) or ir:DIR (BEIR's layout);
several have names, as in --held_out=similarity=sts:FILE,search=ir:DIR.
"""

import sys

from absl import flags

from bert_jax import command, files, outputs
from bert_jax.config.evaluation import default
from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.config.named_sets import named_sets
from bert_jax.errors import UserError


def _meaning(key, keys=PRETRAINING):
    return command.help_of(keys[f"data.{key}"])


_MODEL = flags.DEFINE_string(
    "model", None, "the workdir of a run, a Hugging Face directory or a name on the hub", required=True)  # fmt: skip
_STEP = flags.DEFINE_string(
    "step", None, "for a workdir: step of the checkpoint, best, mean:K or ema:DECAY; default: the newest"
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "file to write: JSON with --corpus, JSONL with the scores of each pair with --pairs; - prints it "
    "instead of the text",
)
_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare wrote, or several separated by commas")
_SPLIT = flags.DEFINE_enum("split", "eval", ["eval", "train"], "held-out documents, or training documents")
_BATCHES = flags.DEFINE_integer("batches", 0, "number of batches to evaluate; 0: all", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "seed of rows and masks", lower_bound=0)
_DATA = {
    "format": flags.DEFINE_enum(
        "format", default("format"), PRETRAINING["data.format"].choices,
        f"{_meaning('format')}; without sentence pairs, a next-sentence head is evaluated on segment_pair rows"),
    "sequence_length": flags.DEFINE_integer(
        "sequence_length", None,
        f"{_meaning('sequence_length', FINETUNING)}; default: {default('sequence_length')}, or fewer if the model "
        "reads no more",
        lower_bound=1),
    "batch_size": flags.DEFINE_integer("batch_size", default("batch_size"), _meaning("batch_size"), lower_bound=1),
    "mask_unit": flags.DEFINE_enum(
        "mask_unit", default("mask_unit"), PRETRAINING["data.mask_unit"].choices, _meaning("mask_unit")),
    **{
        name: flags.DEFINE_float(name, default(name), _meaning(name))
        for name in ("mask_rate", "mask_token_share", "random_token_share")
    },
}  # fmt: skip
_PAIRS = flags.DEFINE_string("pairs", None, "a JSONL file of minimal pairs; - is standard input")
_HELD_OUT = flags.DEFINE_string(
    "held_out", None,
    "what an embedder is scored on: sts:, pairs:, clusters: or rerank: with a file, or ir: with a folder",
)  # fmt: skip
_WIDTHS = flags.DEFINE_list("widths", [], "held_out: numbers of a vector, of which alone scores are given too")
_COLUMNS = flags.DEFINE_list("columns", [], "held_out: names of the columns of files without a header")
_GROUP = flags.DEFINE_string("group", "", "key of the pairs whose values group the reported accuracy, such as field")
_WITHIN_WORD = flags.DEFINE_bool(
    "within_word", False, "mask the rest of its word together with each token (PLL-word-l2r)"
)


def main(argv):
    del argv
    if sum(bool(flag.value) for flag in (_CORPUS, _PAIRS, _HELD_OUT)) != 1:
        raise UserError("--corpus, --pairs, --held_out: found several or none; expected one of them")
    for flag in (_WIDTHS, _COLUMNS):
        if flag.value and not _HELD_OUT.value:
            raise UserError(f"--{flag.name}: does nothing without --held_out; expected with it")
    if _OUTPUT.value:
        outputs.check_file("output", _OUTPUT.value)
    if _HELD_OUT.value:
        _evaluate_vectors()
        return
    from bert_jax.runs import workdir
    from bert_jax.runs.models import open_model  # after the flags: importing jax takes a second
    from bert_jax.training import minimal_pairs

    pairs = minimal_pairs.read(_PAIRS.value, _GROUP.value) if _PAIRS.value else None
    name, step = workdir.name_and_step(_MODEL.value, _STEP.value)
    model = open_model(name, step)
    if pairs is None:
        has_generator = model.model.spec.replaced_tokens and workdir.holds_run(name)
        _evaluate_corpus(model, open_model(name, step, part="generator") if has_generator else None)
    else:
        _evaluate_pairs(model, pairs)


def _evaluate_corpus(model, generator):
    from bert_jax import objectives
    from bert_jax.training import evaluation

    data = {key: flag.value for key, flag in _DATA.items() if flag.value is not None}
    try:
        metrics = evaluation.evaluate(
            model, _CORPUS.value, _SPLIT.value, _BATCHES.value, _SEED.value, progress=True, generator=generator, **data
        )
    except UserError as error:
        raise UserError(str(error).replace("config.data.", "--")) from error
    settings = {"model": _MODEL.value, "corpus": _CORPUS.value, "split": _SPLIT.value, "seed": _SEED.value}
    _write([metrics | settings | data])
    if _OUTPUT.value == files.STANDARD:
        return
    print(f"{_MODEL.value} on the {_SPLIT.value} split of {_CORPUS.value}")
    lines = objectives.metric_labels() | {"mlm_count": "tokens predicted", "rows": "rows"}
    for name, words in lines.items():
        if name in metrics:
            value = metrics[name]
            print(f"  {words:<32}{value:>14,}" if isinstance(value, int) else f"  {words:<32}{value:>14.4f}")


def _evaluate_pairs(model, pairs):
    from bert_jax.training import minimal_pairs

    scored = minimal_pairs.evaluate(model, list(pairs.values()), _WITHIN_WORD.value, progress=True, names=list(pairs))
    _write(scored)
    if _OUTPUT.value == files.STANDARD:
        return
    print(f"{_MODEL.value} on {_PAIRS.value}")
    print(f"  {'':<32}{'accuracy':>10}{'pairs':>10}{'ties':>10}")
    for name, group in minimal_pairs.accuracies(scored, _GROUP.value).items():
        print(f"  {name:<32}{group['accuracy']:>10.4f}{group['pairs']:>10,}{group['ties']:>10,}")


def _evaluate_vectors():
    from bert_jax.runs import workdir

    sets = named_sets(_HELD_OUT.value or "", "--held_out")
    try:
        widths = [int(width) for width in _WIDTHS.value]
    except ValueError:
        raise UserError(f"--widths={','.join(_WIDTHS.value)}: expected numbers, such as 64,128") from None
    from bert_jax.inference import Embedder, measure  # after the flags: importing jax takes a second
    from bert_jax.inference.opening import open_predictor
    from bert_jax.retrieval.searching import head_note

    name = _MODEL.value
    if _STEP.value is not None:
        name = "@".join(map(str, workdir.name_and_step(name, _STEP.value)))
    embedder = open_predictor(Embedder, name)

    def note(line):
        print(f"note: {line}", file=sys.stderr)

    if line := head_note(embedder):
        note(line)
    scores = {set_name: measure(embedder, spec, widths=widths, header=_COLUMNS.value, name="--held_out", note=note)
              for set_name, spec in sets.items()}  # fmt: skip
    _write([{"model": _MODEL.value, "held_out": spec, **({"name": set_name} if set_name else {}), **scores[set_name]}
            for set_name, spec in sets.items()])  # fmt: skip
    if _OUTPUT.value == files.STANDARD:
        return
    for set_name, spec in sets.items():
        print(f"{_MODEL.value} on {spec}")
        for metric, value in scores[set_name].items():
            print(f"  {metric:<32}{value:>14.4f}")


def _write(records):
    if not _OUTPUT.value:
        return
    command.write_output("output", _OUTPUT.value, "".join(files.json_line(record) + "\n" for record in records))


if __name__ == "__main__":
    command.run(main, likely=("model", "corpus"))
