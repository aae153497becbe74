"""Compares training an embedder on graded pairs with sentence-transformers' trainer: same weights, pairs and batches.

    python -m experiments.embedder_agreement --model=DIR --data=DIR --workdir=DIR [--dropout=0.1] [--rows=1000]

--model is a Hugging Face directory, or one of sentence-transformers; DIR holds `stsb/` (stsb-en-train.csv and
stsb-en-test.csv: two sentences and a score, no header). Both sides train all pooled means by CoSENT on the same pairs
in the same order, with AdamW, a warm-up of 10 % and a linear decay. Without dropout the two should differ by rounding
alone; with it each side draws its own, and their scores should come from one distribution. Scored is Spearman's
correlation of the cosines on the test pairs, after the last step. Prints a Markdown table. Needs torch,
sentence-transformers, accelerate and datasets.
"""

import argparse
import csv
import json
import math
import os
import pathlib

import numpy as np

from experiments import agreement

BATCH, WARMUP, LENGTH = 16, 0.1, 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rows", type=int, default=0, help="of the training pairs, the first; 0: all")
    flags = parser.parse_args()
    workdir = pathlib.Path(flags.workdir) / f"{flags.rate:g}-{flags.dropout:g}-{flags.rows}"
    workdir.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        records = pairs_of(flags, split)
        lines = (json.dumps(record) for record in records[: flags.rows or None if split == "train" else None])
        (workdir / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    sides = {}
    for name, side in (("bert_jax", ours), ("sentence-transformers", theirs)):
        path = workdir / f"{name}.json"  # written by an earlier call
        if not path.exists():
            path.write_text(json.dumps(side(flags, workdir)) + "\n")
        sides[name] = json.loads(path.read_text())
    steps = len(sides["bert_jax"]["loss"])
    title = f"{steps} steps of {BATCH} pairs, rate {flags.rate:g}, dropout {flags.dropout:g}"
    print("\n".join(agreement.report(sides, title, "Spearman x 100", flags.dropout > 0)), flush=True)


def pairs_of(flags, split):
    """Returns the records of a split."""
    with open(pathlib.Path(flags.data) / "stsb" / f"stsb-en-{split}.csv", encoding="utf-8", newline="") as file:
        return [{"sentence1": a, "sentence2": b, "score": float(score)} for a, b, score in csv.reader(file)]


def make_config(flags, workdir):
    """Returns the fine-tuning config that `ours` runs."""
    from bert_jax import config as config_lib

    config = config_lib.load_recipe("embedding/sts")
    config.init_from, config.seeds = flags.model, flags.seeds
    config.model.update(hidden_dropout=flags.dropout, attention_dropout=flags.dropout)
    config.task.update(train=str(workdir / "train.jsonl"), held_out=f"sts:{workdir / 'test.jsonl'}", pooling="mean")
    config.task.update(score="score", score_range=(), columns=())
    config.loss.name = "cosent"
    config.data.update(sequence_length=LENGTH, batch_size=BATCH)
    config.optimizer.update(learning_rate=flags.rate, warmup_share=WARMUP, epsilon=1e-8, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=flags.epochs, eval_every=10**6, log_every=1, tensorboard=False, progress=False)
    return config


def ours(flags, workdir):
    """Returns {"scores": of each seed, "loss": of each step, mean over seeds} of a run of bert_jax."""
    from bert_jax.finetuning.run import finetune

    summary = finetune(make_config(flags, workdir), workdir / "ours")
    rows = map(json.loads, (workdir / "ours" / "metrics.jsonl").read_text().splitlines())
    return {"scores": [seed["last_score"] for seed in summary["seeds"]], "loss": [row["loss"] for row in rows]}


def batches(flags, workdir):
    """Returns, for each seed, the rows of each step's batch, in the order that `ours` takes them."""
    from bert_jax.data import tasks
    from bert_jax.data.tasks import batches as batches_lib
    from bert_jax.runs.models import open_model

    config = make_config(flags, workdir)
    data = tasks.load(config, open_model(flags.model).tokenizer)
    steps = math.ceil(flags.epochs * batches_lib.steps_per_epoch(config, data.train))
    orders = [
        [batches_lib.batch_rows(config, data.train, seed, step) for step in range(steps)] for seed in range(flags.seeds)
    ]
    return [[rows[rows >= 0].tolist() for rows in order] for order in orders]


def theirs(flags, workdir):
    """Returns the same metrics as `ours` of SentenceTransformerTrainer, from the same weights on the same batches."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    import sentence_transformers
    import torch
    import transformers
    from scipy import stats
    from sentence_transformers.sentence_transformer import losses, modules

    transformers.logging.set_verbosity_error()
    train = datasets.Dataset.from_json(str(workdir / "train.jsonl"), cache_dir=str(workdir / "cache"))
    test = pairs_of(flags, "test")
    scores, course = [], []
    for seed, order in enumerate(batches(flags, workdir)):
        rates = {name: flags.dropout for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
        encoder = modules.Transformer(flags.model, max_seq_length=LENGTH, config_kwargs=rates)
        pooling = modules.Pooling(encoder.get_embedding_dimension(), "mean")
        model = sentence_transformers.SentenceTransformer(modules=[encoder, pooling], device="cpu")

        class Ordered(sentence_transformers.SentenceTransformerTrainer):
            """Trains on the pairs in the order that bert_jax draws them in."""

            def get_batch_sampler(self, *args, order=order, **kwargs):
                return order

        trainer = Ordered(
            model=model,
            args=sentence_transformers.SentenceTransformerTrainingArguments(
                output_dir=str(workdir / "theirs"),
                per_device_train_batch_size=BATCH,
                max_steps=len(order),
                learning_rate=flags.rate,
                warmup_steps=math.ceil(WARMUP * len(order)),
                weight_decay=0.01,
                adam_epsilon=1e-8,
                max_grad_norm=1.0,
                seed=seed,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_steps=1,
            ),
            train_dataset=train,
            loss=losses.CoSENTLoss(model, scale=20.0),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        course.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        first, second = (
            torch.nn.functional.normalize(model.encode([pair[name] for pair in test], convert_to_tensor=True), dim=-1)
            for name in ("sentence1", "sentence2")
        )
        cosines = (first * second).sum(-1).cpu().numpy()
        scores.append(float(stats.spearmanr(cosines, [pair["score"] for pair in test]).statistic))
    return {"scores": scores, "loss": np.mean(course, 0).tolist()}


if __name__ == "__main__":
    main()
