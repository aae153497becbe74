"""Compares training and inference of encoders with transformers under torch.compile, on one GPU, in a budget of time.

    python -m experiments.benchmarks.gpu --budget=8m                 writes experiments/results/gpu.md, row by row
    python -m experiments.benchmarks.gpu --budget=3m --only=large-512
    python -m experiments.benchmarks.gpu --size=smoke                tiny models, also where there is no GPU

The rows come in the order of their worth, and each is written as soon as it is measured; one that the budget has no
time for is named. The two sides of a row are processes that live at the same time and take turns, so that other load
slows both alike.

Both sides have the same sizes, rows and predicted tokens, and full rows. They compute in bfloat16 from float32
parameters, with dropout 0.1 on BERT's hidden states, and on its attention weights where the row says so; they clip by
global norm and use AdamW. torch uses SDPA (without a mask, so that its flash kernel can run), autocast and fused AdamW.
bert_jax computes logits of the predicted tokens alone, and so does torch here: three lines that transformers does not
offer; --torch_head=all has it compute logits of every token, as its classes do. Inference computes the last layer's
hidden states from bfloat16 weights.

The number of rows is the largest of a list that fits both sides at once. MFU, the model FLOPs utilization, counts the
model's FLOPs (model/flops.py; no recomputation) relative to the card's dense rate in its data sheet; beside it stands
their share of the rate that XLA reaches in a large matrix product in the same process. Needs jax, flax, optax, torch
and transformers alone.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from importlib import metadata

BASE, LARGE, MODERN = (12, 768, 12, 3072), (24, 1024, 16, 4096), (22, 768, 12, 1152)


@dataclasses.dataclass(frozen=True)
class Row:
    """Describes a row of the table.

    Attributes:
      name: its name.
      work: "train" or "inference".
      family: "bert" or "modernbert".
      sizes: layers, hidden size, heads, intermediate size.
      length: tokens a row.
      slots: predicted tokens a row.
      candidates: numbers of rows of a batch to try.
      attention_dropout: dropout rate of the attention weights.
      kernel: our model.attention_kernel.
    """

    name: str
    work: str
    family: str
    sizes: tuple[int, int, int, int]
    length: int
    slots: int
    candidates: tuple[int, ...]
    attention_dropout: float = 0.0
    kernel: str = "cudnn"


ROWS = (
    Row("large-512-dropout", "train", "bert", LARGE, 512, 76, (64, 32, 16), 0.1, "tile"),
    Row("large-512-dropout-xla", "train", "bert", LARGE, 512, 76, (32, 16, 8), 0.1, "xla"),
    Row("large-512", "train", "bert", LARGE, 512, 76, (64, 32, 16)),
    Row("base-128-dropout", "train", "bert", BASE, 128, 19, (512, 256, 128), 0.1, "tile"),
    Row("modernbert-1024", "train", "modernbert", MODERN, 1024, 307, (32, 16, 8), 0.0, "tile"),
    Row("modernbert-8192", "train", "modernbert", MODERN, 8192, 2458, (4, 2, 1), 0.0, "tile"),
    Row("large-512-inference", "inference", "bert", LARGE, 512, 0, (64, 32)),
    Row("base-128-inference", "inference", "bert", BASE, 128, 0, (512, 256)),
)
SMOKE = (
    Row("tiny-32-dropout", "train", "bert", (2, 64, 2, 128), 32, 5, (4,), 0.1, "xla"),
    Row("tiny-modern-64", "train", "modernbert", (3, 64, 2, 96), 64, 16, (4,), 0.0, "xla"),
    Row("tiny-32-inference", "inference", "bert", (2, 64, 2, 128), 32, 0, (4,), 0.0, "xla"),
)
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "gpu.md"
HEADER = (
    "| | rows x tokens, predicted a row | our kernel | torch, tokens/s | ours, tokens/s "
    "| ratio, median (range of rounds) | torch, MFU | ours, MFU | ours, share of matrix rate | matrix rate, TFLOP/s "
    "| peak memory torch / ours, GiB | first step torch / ours, s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)
SMOKE_HEADER = "| | rows x tokens | |\n|---|---|---|"
ROUND_SECONDS = 2.0  # that each side runs in a round, about
LEAST_SECONDS = 45  # a row is not begun with less of the budget


class Side:
    """Runs gpu_sides for a job, in a process of its own.

    Args:
      job: what it computes.
    """

    def __init__(self, job: dict):
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"} | os.environ  # the other side has its memory too
        command = [sys.executable, "-m", "experiments.benchmarks.gpu_sides", json.dumps(job)]
        folder = pathlib.Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )
        self._lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, question: str, deadline: float) -> dict:
        """Returns the answer to a question, or the first one's to ""; `full` or `failed` says what went wrong.

        Args:
          question: a number of steps, or "facts".
          deadline: when it must be there, in seconds of time.monotonic.
        """
        try:
            if question:
                print(question, file=self._process.stdin, flush=True)
            while True:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
                if line is None:
                    return {"failed": f"its process ended with {self._process.wait()}"}
                if line.startswith("{"):  # not what a library prints
                    return json.loads(line)
        except queue.Empty:
            return {"failed": "the budget ended"}
        except OSError:
            return {"failed": f"its process ended with {self._process.wait()}"}

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def measure(job: dict, rounds: int, deadline: float) -> dict[str, dict]:
    """Returns what each side measured, or `full` or `failed` of one that could not.

    Args:
      job: what both sides compute.
      rounds: how many rounds.
      deadline: when all must be done, in seconds of time.monotonic.
    """
    sides = {name: Side(job | {"side": name}) for name in ("ours", "torch")}
    try:
        answers = {name: side.ask("", deadline) for name, side in sides.items()}  # both compile at the same time
        if any("failed" in answer or "full" in answer for answer in answers.values()):
            return answers
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        steps = {name: max(1, min(200, round(ROUND_SECONDS / answers[name]["step"]))) for name in sides}
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                answer = sides[name].ask(str(steps[name]), deadline)
                if "seconds" not in answer:
                    return answers | {name: answer}
                seconds[name].append(answer["seconds"])
        return {
            name: answers[name] | side.ask("facts", deadline) | {"seconds": seconds[name]}
            for name, side in sides.items()
        }
    finally:
        for side in sides.values():
            side.end()


def compare(row: Row, job: dict, rounds: int, deadline: float) -> list[str]:
    """Returns the cells of a row, at the first number of its candidates that fits both sides."""
    for rows in row.candidates:
        measured = measure(job | {"rows": rows}, rounds, deadline)
        too_large = [side for side, facts in measured.items() if facts.get("full")]
        if not too_large:
            return cells(row, rows, measured)
        print(f"{row.name}: {rows} rows are too many for {too_large[0]}", file=sys.stderr, flush=True)
    return [row.name, "no number of rows fits"]


def cells(row: Row, rows: int, measured: dict[str, dict]) -> list[str]:
    """Returns the cells of a row that was measured with so many rows."""
    shape = f"{rows} x {row.length}" + (f", {row.slots}" if row.work == "train" else "")
    failed = [f"{side}: {facts['failed']}" for side, facts in measured.items() if "failed" in facts]
    if failed:
        return [row.name, shape, row.kernel, *failed]
    ours, theirs = measured["ours"], measured["torch"]
    ratios = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    medians = {side: statistics.median(facts["seconds"]) for side, facts in measured.items()}
    tokens = rows * row.length
    peak, flops = ours["peak_flops"], ours["flops"]
    mfu = {side: f"{flops / seconds / peak:.1%}" if peak else "" for side, seconds in medians.items()}
    return [
        row.name,
        shape,
        row.kernel,
        f"{tokens / medians['torch']:,.0f}",
        f"{tokens / medians['ours']:,.0f}",
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})",
        mfu["torch"],
        f"**{mfu['ours']}**" if peak else "",
        f"{flops / medians['ours'] / ours['matrix_rate']:.1%}",
        f"{ours['matrix_rate'] / 1e12:.3g}",
        " / ".join(f"{measured[side]['peak_memory'] / 2**30:.1f}" for side in ("torch", "ours")),
        " / ".join(f"{measured[side]['compiled']:.0f}" for side in ("torch", "ours")),
    ]


def seconds_of(text: str) -> float:
    """Returns the seconds of a time such as "90s" or "8m"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([sm])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds or minutes, such as 90s or 8m")
    return float(match[1]) * {"s": 1, "m": 60}[match[2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=seconds_of, default="8m", help="time for all rows, such as 8m; default 8m")
    parser.add_argument("--size", choices=("auto", "full", "smoke"), default="auto", help="auto: full on a GPU")
    parser.add_argument("--only", default="", help="beginnings of names of rows, such as large,base-128; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernel", default="", help="ours: model.attention_kernel of every row")
    parser.add_argument("--remat", default="none", help="ours: model.remat")
    parser.add_argument("--torch_head", choices=("predicted", "all"), default="predicted", help="torch's logits")
    parser.add_argument("--torch_backend", default="inductor", help="of torch.compile")
    parser.add_argument("--output", type=pathlib.Path, help="by default the results file, where all rows run on a GPU")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget
    machine = Side({})
    facts = machine.ask("", deadline)
    machine.end()
    if "gpu" not in facts:
        sys.exit(f"error: jax does not start: {facts.get('failed', facts)}")
    smoke = options.size == "smoke" or (options.size == "auto" and not facts["gpu"])
    table = SMOKE if smoke else ROWS
    beginnings = tuple(name for name in options.only.split(",") if name)
    rows = [row for row in table if row.name.startswith(beginnings or "")]
    if not rows:
        sys.exit(f"error: --only={options.only}: expected beginnings of {', '.join(row.name for row in table)}")
    output = options.output or (RESULTS if facts["gpu"] and not (smoke or beginnings) else None)
    lines = [*introduction(facts, options), "", SMOKE_HEADER if smoke else HEADER]
    print("\n".join(lines), flush=True)
    for row in rows:
        if deadline - time.monotonic() < (0 if smoke else LEAST_SECONDS):
            answer = [row.name, "not begun: the budget was spent"]
        else:
            kernel = options.kernel or row.kernel
            job = dataclasses.asdict(row) | {
                "kernel": kernel, "dtype": "bfloat16" if facts["gpu"] else "float32", "remat": options.remat,
                "torch_head": options.torch_head, "torch_backend": options.torch_backend,
                "matrix": 8192 if facts["gpu"] else 512,
            }  # fmt: skip
            answer = compare(dataclasses.replace(row, kernel=kernel), job, options.rounds, deadline)
            if smoke:  # that both sides ran, and no speed, which would mean nothing
                answer = [*answer[:2], *(answer[3:] if len(answer) == 4 else ["both sides ran"])]
        lines.append(f"| {' | '.join(answer)} |")
        print(lines[-1], flush=True)
        if output:
            output.write_text("\n".join(lines) + "\n", "utf-8")


def introduction(machine, options):
    arguments = "".join(f" {argument}" for argument in sys.argv[1:])
    packages = ("jax", "flax", "optax", "torch", "transformers")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    yield "# Encoders on one GPU, beside transformers under torch.compile"
    yield ""
    if not machine["gpu"]:
        yield "**No GPU row has been measured: there was none.** What follows says that the benchmark runs, on a CPU"
        yield "and at a toy size, whose speeds would mean nothing and are left out."
        yield ""
    yield (
        f"`python -m experiments.benchmarks.gpu{arguments}` on {machine['device']}; Python "
        f"{platform.python_version()}, {versions}. Dropout 0.1 of BERT's hidden states on both sides, and of attention "
        f"weights where the row says so; logits of torch: {options.torch_head}, of ours: predicted. "
        f"{options.rounds} rounds; what is compared is said in the file."
    )


if __name__ == "__main__":
    main()
