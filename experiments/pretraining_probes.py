"""Measures how much of a task a frozen model already tells: linear classifiers of its states, layer by layer.

    python -m experiments.pretraining_probes --model=WORKDIR --data=DIR --workdir=DIR

--model and --data are those of experiments/pretraining_helps.py, whose split of SST-2 lies in --workdir. Logistic
regression with a ridge penalty chosen on the examples set apart, of: a bag of words; the mean of a text's word
embeddings; and the states of each layer, read by mean, maximum or [CLS], of the checkpoint and of fresh weights.
Prints a Markdown table of accuracies on dev, and writes WORKDIR/probes.json.
"""

import argparse
import json
import pathlib

import jax
import numpy as np
from scipy import optimize, sparse

from bert_jax.data import rows as rows_lib
from bert_jax.runs.models import open_model
from experiments.pretraining_helps import read_rows, split

LENGTH, BATCH = 64, 256
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    flags = parser.parse_args()
    paths = split("SST-2", 0, pathlib.Path(flags.data), pathlib.Path(flags.workdir) / "data")
    pretrained = open_model(flags.model)
    tokenizer = pretrained.tokenizer
    rows = {name: read_rows(path) for name, path in paths.items()}
    labels = {name: np.array([int(label) for _, label in rows[name]]) for name in rows}
    ids = {name: [ids[: LENGTH - 2] for ids in tokenizer.encode([text for text, _ in rows[name]])] for name in rows}
    scores = {"bag of words": accuracy({name: bag_of_words(ids[name], tokenizer.vocab_size) for name in ids}, labels)}
    fresh = pretrained.model.init(jax.random.key(0))
    for start, params in (("pre-trained", pretrained.params), ("fresh", fresh)):
        table = np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])
        read = {name: np.stack([table[text].mean(0) for text in ids[name]]) for name in ids}
        scores[f"{start}: mean of the word embeddings"] = accuracy(standardized(read), labels)
        states = {name: pooled_states(pretrained, params, ids[name]) for name in ids}
        for kind, layer in sorted(states["train"], key=lambda key: (-len(key[0]), key[1])):
            read = {name: states[name][kind, layer] for name in states}
            scores[f"{start}: layer {layer}, {kind}"] = accuracy(standardized(read), labels)
    pathlib.Path(flags.workdir, "probes.json").write_text(json.dumps(scores, indent=1) + "\n")
    print("\n".join(table_of(scores)))


def table_of(scores):
    """Yields the lines of a Markdown table: a row for what is read, a column for each start."""
    yield "| a linear classifier reads | pre-trained | fresh |"
    yield "|---|---:|---:|"
    for name in scores:
        if name.startswith("pre-trained: "):
            read = name.removeprefix("pre-trained: ")
            yield f"| {read} | {100 * scores[name]:.1f} | {100 * scores[f'fresh: {read}']:.1f} |"
    yield f"| bag of words, without a model | {100 * scores['bag of words']:.1f} | |"


def bag_of_words(ids, size):
    """Returns a sparse matrix [texts, size] of ones where a text has a token."""
    lengths = [len(set(text)) for text in ids]
    columns = np.concatenate([sorted(set(text)) for text in ids])
    places = np.repeat(np.arange(len(ids)), lengths), columns
    return sparse.csr_matrix((np.ones(len(columns)), places), shape=(len(ids), size))


def pooled_states(pretrained, params, ids):
    """Returns float32 [texts, hidden] by (kind of pooling, layer); layer 0 are the embeddings."""
    model, tokenizer, parts = pretrained.model, pretrained.tokenizer, []

    @jax.jit
    def apply(params, batch):
        return model.apply(params, batch, hidden_states=True, mlm_logits=False)["hidden_states"]

    for first in range(0, len(ids), BATCH):
        texts = ids[first : first + BATCH]
        batch = rows_lib.pad(tokenizer, [rows_lib.join(tokenizer, text) for text in texts], LENGTH, BATCH)
        states = np.asarray(apply(params, batch | {"masked_positions": np.zeros((BATCH, 1), np.int32)}))
        present = batch["attention_mask"][None, :, :, None]
        pooled = {
            "mean": (states * present).sum(2) / present.sum(2),
            "max": np.where(present > 0, states, -np.inf).max(2),
            "[CLS]": states[:, :, 0],
        }
        parts.append(
            {(kind, layer): pooled[kind][layer, : len(texts)] for kind in pooled for layer in range(len(states))}
        )
    del parts[0]["[CLS]", 0]  # the same for every text
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def standardized(features):
    """Returns features with the mean 0 and the deviation 1 of the training examples."""
    mean, deviation = features["train"].mean(0), features["train"].std(0) + 1e-6
    return {name: (values - mean) / deviation for name, values in features.items()}


def accuracy(features, labels):
    """Returns the accuracy on dev of the classifier whose penalty is best on the examples set apart."""
    best = (-1.0, 0.0)
    for penalty in PENALTIES:
        weights = fit(features["train"], labels["train"], penalty)
        scores = {name: predict(features[name], weights) == labels[name] for name in ("tune", "dev")}
        if scores["tune"].mean() > best[0]:
            best = (scores["tune"].mean(), scores["dev"].mean())
    return float(best[1])


def fit(features, labels, penalty):
    """Returns the weights [features + 1] of logistic regression, the last one the bias, which has no penalty."""
    signs = 2.0 * labels - 1.0

    def loss_and_gradient(weights):
        margins = signs * (features @ weights[:-1] + weights[-1])
        loss = np.logaddexp(0.0, -margins).mean() + penalty / 2 * (weights[:-1] @ weights[:-1])
        slopes = -signs / (1.0 + np.exp(np.clip(margins, -50.0, 50.0))) / len(signs)
        return loss, np.append(features.T @ slopes + penalty * weights[:-1], slopes.sum())

    start = np.zeros(features.shape[1] + 1)
    return optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x


def predict(features, weights):
    """Returns the label, 0 or 1, of each row."""
    return (features @ weights[:-1] + weights[-1] > 0).astype(int)


if __name__ == "__main__":
    main()
