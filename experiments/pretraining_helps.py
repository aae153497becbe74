"""Measures what pre-training is worth: fine-tunes a small BERT from pre-trained and from random parameters.

    python -m experiments.pretraining_helps --model=WORKDIR --data=DIR --workdir=DIR

WORKDIR is a run of configs/small.py. DIR holds `sst2/` (train.tsv, dev.tsv, test.tsv: sentence, label, no header) and
`mrpc/` (msr_paraphrase_train.txt, msr_paraphrase_test.txt, as Microsoft published it). Both arms have the same
architecture, vocabulary, data order and settings; they differ in `config.from_scratch` alone. Prints a Markdown table.
"""

import argparse
import json
import pathlib
import statistics

from bert_jax import config as config_lib
from bert_jax.finetuning.run import finetune
from bert_jax.runs import loggers as metrics

TASKS = {
    "SST-2": ("finetune/sst2", {
        "task.train": "{data}/sst2/train.tsv",
        "task.held_out": "{data}/sst2/test.tsv",
        "task.columns": ("sentence", "label"),
        "task.text": "sentence",
        "task.label": "label",
        "data.sequence_length": 40,
    }),
    "MRPC": ("finetune/mrpc", {
        "task.train": "{data}/mrpc/msr_paraphrase_train.txt",
        "task.held_out": "{data}/mrpc/msr_paraphrase_test.txt",
        "task.text": "#1 String",
        "task.text_pair": "#2 String",
        "task.label": "Quality",
        "data.sequence_length": 80,
    }),
}  # fmt: skip
# Few rows are longer than data.sequence_length.
SETTINGS = {
    "data.batch_size": 32,
    "optimizer.learning_rate_range": (1e-5, 1e-3),  # the published range is for Base and Large
    "train.num_epochs": 2.0,
    "train.tensorboard": False,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the workdir of the pre-trained model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    flags = parser.parse_args()
    print("| task | metric | parameters | median | each seed | failed |\n|---|---|---|---|---|---|")
    gains = []
    for task in flags.tasks:
        recipe, settings = TASKS[task]
        scores = {}
        for arm in ("random", "pre-trained"):
            workdir = pathlib.Path(flags.workdir) / task / arm
            summary = run(recipe, settings | SETTINGS, flags, workdir, from_scratch=arm == "random")
            scores[arm] = summary["scores"]
            each = ", ".join(f"{100 * score:.1f}" for score in summary["scores"])
            median = 100 * statistics.median(summary["scores"])
            print(f"| {task} | {summary['metric']} | {arm} | {median:.1f} | {each} | {len(summary['failed'])} |")
        gained = [100 * (b - a) for a, b in zip(scores["random"], scores["pre-trained"], strict=True)]
        gains.append(
            f"{task}: {statistics.mean(gained):+.1f} points (standard deviation over seeds "
            f"{statistics.stdev(gained):.1f}, from {min(gained):+.1f} to {max(gained):+.1f})"
        )
    print("\n".join(["", "Gain, seed by seed:", "", *(f"- {gain}" for gain in gains)]))


def run(recipe, settings, flags, workdir, from_scratch):
    """Fine-tunes one arm, unless an earlier call has finished it, and returns its summary."""
    done = workdir / "summary.json"
    if done.exists():
        return json.loads(done.read_text())
    config = config_lib.load_recipe(recipe)
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        config[group][name] = value.format(data=flags.data) if isinstance(value, str) else value
    config.init_from, config.from_scratch, config.seeds = flags.model, from_scratch, flags.seeds
    config.optimizer.learning_rate = flags.rate
    metrics.say(f"{workdir}")
    return finetune(config, workdir)


if __name__ == "__main__":
    main()
