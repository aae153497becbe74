"""Measures the padding of rows with and without packing, for every input format.

    python -m experiments.benchmarks.packing --corpora=DIR,DIR       writes experiments/results/packing.md

All rows of an epoch count, as `data.packing` makes them where 15 % of the tokens are masked.
"""

import pathlib

from absl import app, flags

from bert_jax import config as config_lib
from bert_jax.data import instances, stream
from bert_jax.data.corpus import Corpus

_CORPORA = flags.DEFINE_list("corpora", None, "directories that bert_jax.prepare wrote", required=True)
_OUTPUT = flags.DEFINE_string("output", "experiments/results/packing.md", "file for the table")

_LENGTHS = (128, 512)
_HEADER = """# Padding with and without packing

`python -m experiments.benchmarks.packing --corpora=DIR,DIR`: all rows of an epoch, 15 % of the tokens masked, pairs for
next-sentence prediction. Instances a row are also the rows without packing for each row with it.

| corpus | tokens of a row | format | instances | padding | padding, packed | instances a row |
|---|---|---|---|---|---|---|
"""


def measure(path: str, length: int, format_: str) -> str:
    """Returns a row of the table."""
    config = config_lib.base()
    config.data.update(corpus=path, format=format_, sequence_length=length)
    config.objective.next_sentence = format_ in config_lib.PAIR_FORMATS
    (phase,) = config_lib.phases(config)
    corpus = Corpus.open(path)
    index = instances.open_index(corpus, "train", stream.instance_recipe(config, phase.data))
    rows = int(stream.Source(config, phase, corpus, "train", packed=True).counts[0])
    tokens = int(instances.row_lengths(index).sum())
    shares = (1 - tokens / (length * number) for number in (len(index), rows))
    cells = [pathlib.Path(path).name, length, format_, f"{len(index):,}", *(f"{share:.1%}" for share in shares)]
    cells.append(f"{len(index) / rows:.2f}")
    return f"| {' | '.join(map(str, cells))} |"


def main(argv):
    del argv
    lines = []
    for path in _CORPORA.value:
        for length in _LENGTHS:
            for format_ in config_lib.FORMATS:
                lines.append(measure(path, length, format_))
                print(lines[-1], flush=True)
    pathlib.Path(_OUTPUT.value).write_text(_HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    app.run(main)
