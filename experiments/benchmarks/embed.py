"""Compares embedding of sentences of mixed length with the same model in torch, on the same CPU cores.

    python -m experiments.benchmarks.embed            writes experiments/results/embed.md

Both sides have the same random BERT (6 layers of 384, 12 heads) and WordPiece vocabulary, float32, mean pooling, and
the same texts. torch runs transformers with SDPA under `inference_mode`, on batches sorted by length and padded to the
longest text, with the fastest of several batch sizes; bert_jax runs `Embedder.encode`. Each side is a process of its
own. They take turns while the other one sleeps, so that other load affects both. Tokenization is included.
"""

import argparse
import multiprocessing
import os
import pathlib
import platform
import random
import statistics
import sys
import tempfile
import time
from importlib import metadata

import numpy as np

from experiments.benchmarks.turns import processor

SIZES = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
THEIR_BATCHES = (8, 16, 32, 64)
VOCABULARY = 30522


def make_vocabulary(path):
    """Returns a WordPiece vocabulary of BERT's size, of made-up words and all letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{letter}" for letter in letters)]
    rng = random.Random(0)
    known = set(tokens)
    while len(tokens) < VOCABULARY:
        word = "".join(rng.choices(letters, k=rng.randint(2, 9)))
        if word not in known:
            known.add(word)
            tokens.append(word)
    path.write_text("\n".join(tokens) + "\n")
    return tokens


def make_texts(vocabulary, number):
    """Returns sentences with the length distribution of prose: median 20 words, a tenth of them over 48."""
    rng = random.Random(1)
    words = [token for token in vocabulary if token.isalpha() and len(token) > 1]
    lengths = [min(200, max(3, round(rng.lognormvariate(3.0, 0.7)))) for _ in range(number)]
    return [" ".join(rng.choices(words, k=length)) + "." for length in lengths]


def their_embedder(folder, texts):
    """Returns a function that embeds all texts with torch."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def embed(size):
        encoded = tokenizer(texts)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for begin in range(0, len(order), size):
                members = order[begin : begin + size]
                batch = tokenizer.pad({"input_ids": [encoded[i] for i in members]}, return_tensors="pt")
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
                vectors[members] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return vectors

    part = slice(None, None, max(1, len(texts) // 300))
    everything, texts = texts, texts[part]
    embed(THEIR_BATCHES[0])
    best = min(THEIR_BATCHES, key=lambda size: timed(lambda: embed(size))[0])
    texts = everything
    return lambda: embed(best), f"batches of {best}"


def our_embedder(folder, texts):
    """Returns a function that embeds all texts with bert_jax, and the seconds of compilation."""
    import bert_jax

    embedder = bert_jax.Embedder.from_pretrained(folder)
    first, _ = timed(lambda: embedder.encode(texts))
    second, _ = timed(lambda: embedder.encode(texts))
    return lambda: embedder.encode(texts), f"{first - second:.1f}"


def timed(function):
    start = time.perf_counter()
    vectors = function()
    return time.perf_counter() - start, vectors


def serve(side, folder, texts, connection):
    """Runs one side's process: answers each request with the seconds of embedding all texts, and the vectors."""
    embed, note = (our_embedder if side == "ours" else their_embedder)(folder, texts)
    connection.send(note)
    while connection.recv():
        seconds, vectors = timed(embed)
        connection.send((seconds, vectors))


def measure(folder, texts, rounds):
    """Returns the seconds of each side by round, each side's note, and the relative difference of their vectors."""
    spawn = multiprocessing.get_context("spawn")
    pipes, notes, processes = {}, {}, []
    for side in ("ours", "torch"):
        pipes[side], far_end = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(side, folder, texts, far_end), daemon=True))
        processes[-1].start()
        notes[side] = pipes[side].recv()
    seconds, vectors = {"ours": [], "torch": []}, {}
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(True)
            elapsed, vectors[side] = pipe.recv()
            seconds[side].append(elapsed)
            time.sleep(0.5)  # torch's idle threads spin for a while
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    apart = np.linalg.norm(vectors["ours"] - vectors["torch"]) / np.linalg.norm(vectors["torch"])
    return seconds, notes, float(apart)


def save_model(folder):
    import torch
    import transformers

    vocabulary = make_vocabulary(folder / "vocab.txt")
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, **SIZES)).save_pretrained(folder)
    return vocabulary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("experiments/results/embed.md"))
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts = make_texts(save_model(folder), options.texts)
        seconds, notes, apart = measure(folder, texts, options.rounds)
    ratios = sorted(theirs / ours for theirs, ours in zip(seconds["torch"], seconds["ours"], strict=True))
    speeds = {side: [len(texts) / elapsed for elapsed in rounds] for side, rounds in seconds.items()}
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "torch", "transformers"))
    command = "".join(f" {argument}" for argument in sys.argv[1:])
    lines = [
        "# Embedding sentences of mixed length",
        "",
        f"{len(texts):,} sentences of 3 to 200 words (median 20), a random BERT of 6 layers x 384 with 12 heads, mean "
        "pooling, float32; tokenizing counts.",
        "",
        "| | |",
        "|---|---|",
        f"| torch, sentences/s, median (best) | {statistics.median(speeds['torch']):.0f} ({max(speeds['torch']):.0f}), "
        f"{notes['torch']} |",
        f"| ours, sentences/s, median (best) | {statistics.median(speeds['ours']):.0f} ({max(speeds['ours']):.0f}) |",
        f"| ratio, median of rounds (all) | **{statistics.median(ratios):.2f}** "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}) |",
        f"| the first call compiled for, s | {notes['ours']} |",
        f"| vectors apart, relative | {apart:.1e} |",
        "",
        f"{options.rounds} rounds, taking turns; {os.cpu_count()} cores, {processor()}; Python "
        f"{platform.python_version()}, {versions}. `python -m experiments.benchmarks.embed{command}`",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)


if __name__ == "__main__":
    main()
