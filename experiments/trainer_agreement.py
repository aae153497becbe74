"""Compares fine-tuning with transformers' Trainer: do the scores come from the same distribution?

    python -m experiments.trainer_agreement --model=DIR --data=DIR --workdir=DIR

--model is a Hugging Face directory (bert_jax.convert makes one of a run); DIR/sst2 holds train.tsv and test.tsv
(sentence, label, no header). Both sides fine-tune with the same settings and equally many seeds, each with its own
order of rows, new head and dropout. Prints a Markdown table. Needs torch, transformers and accelerate.
"""

import argparse
import os
import pathlib
import statistics

import numpy as np

ROWS, BATCH, EPOCHS, RATE, WARMUP, LENGTH = 1000, 32, 2, 2e-4, 0.1, 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=6)
    flags = parser.parse_args()
    workdir = pathlib.Path(flags.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    files = {name: cut(pathlib.Path(flags.data) / "sst2" / f"{name}.tsv", workdir) for name in ("train", "test")}
    scores = {"bert_jax": ours(flags, files, workdir), "transformers.Trainer": theirs(flags, files, workdir)}
    print("| | mean | standard deviation | each seed |\n|---|---|---|---|")
    for side, values in scores.items():
        each = ", ".join(f"{100 * score:.1f}" for score in sorted(values))
        print(f"| {side} | {100 * statistics.mean(values):.2f} | {100 * statistics.stdev(values):.2f} | {each} |")
    from scipy import stats

    test = stats.mannwhitneyu(*scores.values())
    print(f"\nMann-Whitney U: p = {test.pvalue:.2f} (small only if the two sides differ).")


def cut(path, workdir):
    """Writes the first ROWS lines of a file into `workdir`, and returns the path."""
    to = workdir / path.name
    with open(path, encoding="utf-8") as lines:
        to.write_text("".join(line for _, line in zip(range(ROWS), lines, strict=False)), "utf-8")
    return to


def ours(flags, files, workdir):
    from bert_jax import config as config_lib
    from bert_jax.finetuning.run import finetune

    config = config_lib.load_recipe("finetune/sst2")
    config.init_from, config.seeds = flags.model, flags.seeds
    config.task.update(train=str(files["train"]), held_out=str(files["test"]), columns=("sentence", "label"))
    config.data.update(sequence_length=LENGTH, batch_size=BATCH)
    config.optimizer.update(learning_rate=RATE, warmup_share=WARMUP, epsilon=1e-8, learning_rate_range=(1e-6, 1e-3))
    config.train.update(num_epochs=float(EPOCHS), eval_every=10**6, tensorboard=False)
    return finetune(config, workdir / "ours")["scores"]


def theirs(flags, files, workdir):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(flags.model)

    def examples(path):
        rows = [line.rstrip("\n").split("\t") for line in path.read_text("utf-8").splitlines()]
        return [tokenizer(text, truncation=True, max_length=LENGTH) | {"labels": int(label)} for text, label in rows]

    train, test = examples(files["train"]), examples(files["test"])
    scores = []
    for seed in range(flags.seeds):
        transformers.set_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(flags.model, num_labels=2)
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=str(workdir / "theirs"),
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=64,
                num_train_epochs=EPOCHS,
                learning_rate=RATE,
                warmup_steps=int(WARMUP * -(-len(train) // BATCH) * EPOCHS),
                weight_decay=0.01,
                adam_epsilon=1e-8,
                max_grad_norm=1.0,
                seed=seed,
                save_strategy="no",
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        logits = trainer.predict(test).predictions
        scores.append(float((np.argmax(logits, -1) == [row["labels"] for row in test]).mean()))
    return scores


if __name__ == "__main__":
    main()
