"""Compares ways of reading texts that are longer than a model's rows, where what tells the label stands in the middle.

    python -m experiments.long_texts --model=WORKDIR --data=DIR --workdir=DIR [--workers=2]

--model is a pre-training run that reads rows of 192 tokens; --data holds `books/`. A passage is TOKENS long (by the
model's vocabulary): its first and its last quarter are of two books that are no class, and the half between them is of
the book that it is to be classified as, one of CLASSES. Train, tune and test are of different parts of all books. The
arms:

    truncate    the beginning (192 tokens)
    head, tail  the first and the last 96 tokens (Sun et al. 2019)
    windows     what `truncate` learned, at prediction the mean over overlapping windows
    mean, attention, transformer  all tokens in chunks of 192, combined so (config.task.chunk_pooling)

A rate is chosen by one seed on the tune split, and three seeds at it are scored on the test split once. Beside the
accuracy of an arm stand the seconds that the predictions took. Every result is a line of WORKDIR/results.jsonl; a
killed run goes on where it was.
"""

import argparse
import json
import pathlib
import random
import time
from collections.abc import Iterator, Sequence

from experiments.tuned_runs import Runner, write_records

CLASSES, TOKENS, ROW = 8, 768, 192
PASSAGES = {"train": 50, "tune": 15, "test": 25}  # number for each class
SHARES = {"train": (0.0, 0.7), "tune": (0.7, 0.82), "test": (0.82, 1.0)}  # the part of each book
RATES = ((1e-3, 3e-3), 0)  # and the seed that trains at each of them


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--workers", type=int, default=1, help="runs of an arm that train at the same time")
    flags = parser.parse_args()
    flags.workdir.mkdir(parents=True, exist_ok=True)
    compare(Runner(flags.model, flags.workdir, flags.workers), flags.data)


def compare(runner: Runner, data: pathlib.Path) -> None:
    """Makes the passages, trains every arm and scores it."""
    files = make_passages(runner.model, data, runner.workdir)
    shared = [
        "--config=finetune/sst2", f"--config.task.train={files['train']}", f"--config.task.held_out={files['tune']}",
        "--config.task.text=text", "--config.task.label=label", "--config.task.pooling=mean",
        "--config.data.batch_size=16", "--config.train.num_epochs=6",
    ]  # fmt: skip
    row = [*shared, f"--config.data.sequence_length={ROW}"]
    chunks = [*shared, "--config.task.long=chunks", f"--config.task.chunk_length={ROW}",
              f"--config.data.sequence_length={TOKENS + ROW}"]  # fmt: skip
    arms = {
        "truncate": row,
        "head, tail": [*row, "--config.task.long=head_tail", f"--config.task.head_tokens={ROW // 2}"],
        **{kind: [*chunks, f"--config.task.chunk_pooling={kind}"] for kind in ("mean", "attention", "transformer")},
    }
    for arm, config in arms.items():
        runner.tuned("middle", arm, config, "accuracy", lambda folder: score(folder, files["test"]), *RATES)
    for result in [result for result in runner.results if result["arm"] == "truncate" and "test" in result]:
        folder = runner.folder("middle", "truncate", result["rate"], result["seed"])
        facts = {"part": "middle", "arm": "windows", "rate": result["rate"], "seed": result["seed"]}
        runner.result(lambda folder=folder: {"test": score(folder, files["test"], "windows")}, "test", **facts)


def score(model: pathlib.Path, path: pathlib.Path, long: str | None = None) -> dict[str, float]:
    """Returns the accuracy of a run on a file of passages, and the seconds that its predictions took."""
    import bert_jax

    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    own = json.loads((model / "run.json").read_text())["settings"].get("long", "truncate")
    classify = bert_jax.Classifier(model, long=long or own)
    began = time.monotonic()
    answers = classify([record["text"] for record in records])
    seconds = time.monotonic() - began
    right = [answer["label"] == record["label"] for answer, record in zip(answers, records, strict=True)]
    return {"accuracy": sum(right) / len(right), "seconds": seconds}


def make_passages(model: str, data: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes the passages of each split, unless they are there; returns their files."""
    from bert_jax.runs.models import open_model

    tokenizer = open_model(model).tokenizer
    paths = sorted((data / "books").glob("*.txt"), key=lambda path: -path.stat().st_size)
    books = {path.stem.partition("_")[2]: path.read_text("utf-8").split() for path in paths}
    names = list(books)
    files = {}
    for split, number in PASSAGES.items():
        files[split] = folder / f"{split}.jsonl"
        if files[split].exists():
            continue
        parts = {name: _part(words, *SHARES[split]) for name, words in books.items()}
        classes, others = names[:CLASSES], [parts[name] for name in names[CLASSES:]]
        chance = random.Random(f"passages of {split}")
        records = []
        for name in classes:
            for _ in range(number):
                first, last = chance.sample(others, 2)
                excerpts = ((first, 0.25), (parts[name], 0.5), (last, 0.25))
                pieces = [_excerpt(tokenizer, words, round(TOKENS * share), chance) for words, share in excerpts]
                records.append({"text": " ".join(pieces), "label": name})
        chance.shuffle(records)
        write_records(files[split], records)
    return files


def _part(words: Sequence[str], begin: float, end: float) -> Sequence[str]:
    return words[int(len(words) * begin) : int(len(words) * end)]


def _excerpt(tokenizer, words, tokens, chance):
    """Returns words in a row that are about so many tokens."""
    start = chance.randrange(max(1, len(words) - tokens))
    return " ".join(_within(tokenizer, words[start : start + tokens], tokens))


def _within(tokenizer, words, tokens) -> Iterator[str]:
    for word, ids in zip(words, tokenizer.encode([f" {word}" for word in words], special=True), strict=True):
        tokens -= len(ids)
        if tokens < 0:
            return
        yield word


if __name__ == "__main__":
    main()
