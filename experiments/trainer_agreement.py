"""Compares fine-tuning here with transformers' Trainer: same weights, same heads, same batches, seed by seed.

    python -m experiments.trainer_agreement --model=DIR --data=DIR --workdir=DIR [--dropout=0.1]

--model is a Hugging Face directory (bert_jax.convert makes one of a run); DIR holds `sst2/` (train.tsv, dev.tsv:
sentence, label, no header) and `mrpc/` (msr_paraphrase_train.txt, msr_paraphrase_test.txt). Each seed's starting
weights, its fresh head included, are written as a Hugging Face directory. Both sides train from them on the same rows
in the same order with the same schedule. Without dropout the two should differ by rounding alone; with it each side
draws its own, and their scores should come from one distribution. Prints Markdown tables. Needs torch, transformers and
accelerate.
"""

import argparse
import json
import math
import os
import pathlib

import numpy as np

from experiments import agreement

BATCH, WARMUP = 32, 0.1
TRAIN = "train.tsv"
TASKS = {
    "SST-2": {
        "recipe": "finetune/sst2", "train": "sst2/train.tsv", "held_out": "sst2/dev.tsv", "length": 64,
        "task": {"columns": ("sentence", "label"), "text": "sentence", "label": "label"},
    },
    "MRPC": {
        "recipe": "finetune/mrpc", "train": "mrpc/msr_paraphrase_train.txt", "held_out": "mrpc/msr_paraphrase_test.txt",
        "length": 64, "task": {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"},
    },
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rows", type=int, default=0, help="of the training examples, the first; 0: all")
    flags = parser.parse_args()
    for task in flags.tasks:
        workdir = pathlib.Path(flags.workdir) / f"{task}-{flags.rate:g}-{flags.dropout:g}"
        workdir.mkdir(parents=True, exist_ok=True)
        cut(pathlib.Path(flags.data) / TASKS[task]["train"], workdir / TRAIN, flags.rows)
        sides = {}
        for name, side in (("bert_jax", ours), ("transformers.Trainer", theirs)):
            path = workdir / f"{name}.json"  # written by an earlier call
            if not path.exists():
                path.write_text(json.dumps(side(flags, task, workdir)) + "\n")
            sides[name] = json.loads(path.read_text())
        steps = len(sides["bert_jax"]["loss"])
        title = f"{task}: {steps} steps of {BATCH}, rate {flags.rate:g}, dropout {flags.dropout:g}"
        print("\n".join(agreement.report(sides, title, "accuracy", flags.dropout > 0)), flush=True)


def cut(path, to, rows):
    """Writes the training examples, or the first of them, with the header that there is."""
    lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    to.write_text("\n".join(lines[: rows + path.name.startswith("msr") if rows else None]) + "\n", "utf-8")


def make_config(flags, task, workdir):
    """Returns the fine-tuning config of a task, as `ours` runs it."""
    from bert_jax import config as config_lib

    settings, data = TASKS[task], pathlib.Path(flags.data)
    config = config_lib.load_recipe(settings["recipe"])
    config.init_from, config.seeds = flags.model, flags.seeds
    config.model.update(hidden_dropout=flags.dropout, attention_dropout=flags.dropout)
    config.task.update(settings["task"])
    config.task.update(train=str(workdir / TRAIN), held_out=str(data / settings["held_out"]))
    config.task.update(dropout=flags.dropout, metric="accuracy")
    config.data.update(sequence_length=settings["length"], batch_size=BATCH)
    config.optimizer.update(learning_rate=flags.rate, warmup_share=WARMUP, epsilon=1e-8, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=flags.epochs, eval_every=10**6, log_every=1, tensorboard=False, progress=False)
    return config


def ours(flags, task, workdir):
    """Returns {"scores": accuracy of each seed, "loss": of each step, mean over seeds} of a run of bert_jax."""
    from bert_jax.finetuning.run import finetune

    summary = finetune(make_config(flags, task, workdir), workdir / "ours")
    rows = map(json.loads, (workdir / "ours" / "metrics.jsonl").read_text().splitlines())
    scores = [seed["last_score"] for seed in summary["seeds"]]
    return {"scores": scores, "loss": [row["loss"] for row in rows]}


def starts(flags, task, workdir):
    """Returns a Hugging Face directory for each seed: the weights that `ours` starts from, with its fresh head."""
    from bert_jax.finetuning.run import finetune
    from bert_jax.interop import huggingface
    from bert_jax.runs.models import open_model

    config = make_config(flags, task, workdir)
    config.optimizer.learning_rate, config.train.num_steps = 0.0, 1
    finetune(config, workdir / "start")
    paths = [workdir / f"start-{seed}" for seed in range(flags.seeds)]
    for seed, path in enumerate(paths):
        if not path.exists():
            huggingface.write(open_model(workdir / "start", seed=seed), path)
    return paths


def batches(flags, task, workdir):
    """Returns, for each seed, the rows of each step's batch, in the order that `ours` takes them."""
    from bert_jax.data import tasks
    from bert_jax.data.tasks import batches as batches_lib
    from bert_jax.runs.models import open_model

    config = make_config(flags, task, workdir)
    data = tasks.load(config, open_model(flags.model).tokenizer)
    steps = math.ceil(flags.epochs * batches_lib.steps_per_epoch(config, data.train))
    orders = [
        [batches_lib.batch_rows(config, data.train, seed, step) for step in range(steps)] for seed in range(flags.seeds)
    ]
    return [[rows[rows >= 0].tolist() for rows in order] for order in orders]


def theirs(flags, task, workdir):
    """Returns the same metrics as `ours` of transformers' Trainer, from the same weights on the same batches."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    settings, data = TASKS[task], pathlib.Path(flags.data)
    paths, orders = starts(flags, task, workdir), batches(flags, task, workdir)
    tokenizer = transformers.AutoTokenizer.from_pretrained(paths[0])

    def examples(path):
        rows = [line.split("\t") for line in path.read_text("utf-8-sig").removesuffix("\n").split("\n")]
        columns = settings["task"].get("columns") or rows.pop(0)
        names = [settings["task"][key] for key in ("text", "text_pair") if key in settings["task"]]
        return [
            tokenizer(*(row[columns.index(name)] for name in names), truncation=True, max_length=settings["length"])
            | {"labels": int(row[columns.index(settings["task"]["label"])])}
            for row in rows
        ]

    train, held_out = examples(workdir / TRAIN), examples(data / settings["held_out"])
    scores, losses = [], []
    for seed, (path, order) in enumerate(zip(paths, orders, strict=True)):

        class Ordered(transformers.Trainer):
            """Trains on the examples in the order that bert_jax draws them in."""

            def get_train_dataloader(self, order=order):
                return torch.utils.data.DataLoader(train, batch_sampler=order, collate_fn=self.data_collator)

        trainer = Ordered(
            model=transformers.AutoModelForSequenceClassification.from_pretrained(path),
            args=transformers.TrainingArguments(
                output_dir=str(workdir / "theirs"),
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=64,
                max_steps=len(order),
                learning_rate=flags.rate,
                warmup_steps=math.ceil(WARMUP * len(order)),
                weight_decay=0.01,
                adam_epsilon=1e-8,
                max_grad_norm=1.0,
                seed=seed,
                save_strategy="no",
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                logging_steps=1,
            ),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        logits = trainer.predict(held_out).predictions
        scores.append(float((np.argmax(logits, -1) == [row["labels"] for row in held_out]).mean()))
    return {"scores": scores, "loss": np.mean(losses, 0).tolist()}


if __name__ == "__main__":
    main()
