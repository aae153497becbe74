"""Compares models and tokenizers with transformers in torch, in float32 on the CPU.

    python -m experiments.parity                random models of odd sizes, and the vocabularies of --vocab
    python -m experiments.parity --family=albert --family=bert      random models and vocabularies of these alone
    python -m experiments.parity --model=DIR    any checkpoint, a hub name too; several may be given

For a model, the comparison covers the hidden states of each layer, the logits, the loss, the gradient of each
parameter, and the parameters after one step of AdamW (epsilon 1e-6, weight decay 1). The model is then written again by
bert_jax: the table says how many arrays have other bytes, and whether transformers computes the same from what was
written. For a tokenizer, it covers the ids of a page of awkward Unicode, alone, in pairs and cut to length. A
disagreement is marked FAIL and makes the exit status 1. The results of the first command go to
experiments/results/parity.md; those of the others are only shown, unless --output is given.

An error is the norm of the difference over the norm; for a gradient, over the larger of its own norm and a millionth of
the norm of all gradients. A few gradients are zero (those of key biases, and in question answering those of the last
biases, which softmax cancels), and torch's rounding of them may exceed the bar. A gradient over the bar is therefore
compared with torch's in float64; where that is zero, below 1e-12 of the whole, ours must be below 1e-7 of the whole.
The loss of question answering is computed over the tokens of a text; transformers counts padding as answers too.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.interop.families import FAMILIES
from experiments.parity import models, random_models, tokens
from experiments.parity.report import table

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "parity.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a checkpoint, instead of the random models")
    parser.add_argument("--family", action="append", default=[], choices=list(FAMILIES), help="a model_type")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random models' sizes and weights, and of the batches"
    )
    parser.add_argument("--rounds", type=int, default=1, help="number of random models of each kind")
    parser.add_argument("--vocab", default=os.environ.get("BERT_JAX_TEST_DATA", ""), help="folder that contains vocab/")
    parser.add_argument("--output", default="", help='file for the results; "" as described above')
    options = parser.parse_args()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as folder:
            model_results, tokenizer_results = compare(options, pathlib.Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    output = options.output or ("" if options.model or options.family else str(RESULTS))
    if output:
        pathlib.Path(output).write_text(report(model_results, tokenizer_results), "utf-8")
    failed = sum(bool(row.failed) for row in model_results + tokenizer_results)
    print(f"{output or 'compared'}: {len(model_results)} models, {len(tokenizer_results)} tokenizers, {failed} FAIL")
    sys.exit(1 if failed else 0)


def compare(options, folder):
    """Returns the rows of the models and those of the tokenizers, and prints each when it is ready."""
    model_results, tokenizer_results = [], []
    for name in options.model:
        model_results.append(printed(models.compare(name, options.seed)))
        tokenizer_results.append(printed(tokens.compare(huggingface.read(name).origin.directory, name)))
    if options.model:
        return model_results, tokenizer_results
    for number, case in enumerate(random_models.CASES * options.rounds):
        if options.family and case[0] not in options.family:
            continue
        directory = folder / str(number)
        seed = options.seed * 1000 + number
        name = random_models.make_random(directory, seed, *case)
        model_results.append(printed(models.compare(directory, seed, name)))
    for name, directory in tokens.vocabularies(folder, pathlib.Path(options.vocab)):
        model_type = json.loads((directory / "config.json").read_text("utf-8"))["model_type"]
        if not options.family or model_type in options.family:
            tokenizer_results.append(printed(tokens.compare(directory, name)))
    return model_results, tokenizer_results


def report(model_results, tokenizer_results):
    """Returns the page of results in Markdown."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers", "tokenizers"))
    bars = ", ".join(f"{name} {bar:.0e}" if bar else f"{name} 0" for name, bar in models.BARS.items())
    arguments = [
        word for word in sys.argv[1:] if not word.startswith(("--vocab", "--output"))
    ]  # without the paths of this machine
    command = " ".join(["python -m experiments.parity", *arguments])
    return f"""# Parity with transformers

`{command}`: float32 on the CPU, {versions}.
Errors are norms of differences over norms, the largest of the layers, of the logits and of the parameters' gradients
(see the command's help). They must not be over: {bars}.
"other bytes" and "exported" compare the original with the model as bert_jax writes it again and transformers reads it.
Random models are named by their class, attention heads, hidden size, intermediate size, layers, vocabulary and
positions.

{table(model_results)}
## Token ids

How many of {len(tokens.PAGE)} texts of awkward Unicode (pairs of them, pairs cut to 20 tokens) have other ids or
segments than AutoTokenizer gives, and by how much the sizes of the vocabularies differ.

{table(tokenizer_results) if tokenizer_results else ""}"""


def printed(row):
    print(table([row]).splitlines()[-1], flush=True)
    return row


if __name__ == "__main__":
    main()
