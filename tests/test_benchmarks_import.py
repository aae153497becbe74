"""The benchmarks start, their own sides run, and the one for a GPU needs jax, flax and optax alone."""

import argparse
import importlib
import json
import math
import pathlib
import subprocess
import sys
import time

import pytest

from experiments.benchmarks import gpu
from tests.commands import LONGEST_WAIT

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = sorted(path.stem for path in (ROOT / "experiments" / "benchmarks").glob("*.py"))
NO_COMMANDS = {"settings", "gpu_sides", "torch_side", "turns"}
# What a plain environment of jax, flax, optax, torch and transformers may lack, as our own code would import it.
MISSING = (
    "grain", "ml_collections", "sentencepiece", "sentencex", "tensorflow_datasets", "tensorboardX", "pyarrow",
    "array_record", "seqeval", "scipy", "apache_beam", "tokenizers", "safetensors", "huggingface_hub", "tqdm",
)  # fmt: skip
JOB = {
    "side": "ours", "family": "bert", "sizes": [1, 16, 2, 32], "length": 16, "slots": 2, "rows": 2, "dtype": "float32",
    "kernel": "xla", "attention_dropout": 0.1, "remat": "none", "matrix": 64,
}  # fmt: skip
MODERN_JOB = JOB | {"family": "modernbert", "sizes": [3, 16, 2, 24], "length": 160, "attention_dropout": 0.0}


def start(*arguments):
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, stdout=-1, stderr=-1)


@pytest.mark.more
def test_our_side_of_the_gpu_benchmark_needs_little():
    code = f"""
import json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller and "importlib" in caller.f_code.co_filename:
            caller = caller.f_back
        ours = caller and caller.f_globals.get("__name__", "").startswith(("bert_jax", "experiments", "__main__"))
        own = ("bert_jax.data", "bert_jax.interop", "bert_jax.runs", "bert_jax.inference")
        if name.startswith(own) or (name.split(".")[0] in {MISSING!r} and ours) or name.startswith("orbax") and ours:
            raise ImportError(f"{{name}} is missing here")
sys.meta_path.insert(0, Missing())
from experiments.benchmarks import gpu, gpu_sides
for job in ({JOB!r} | {{"work": "train"}}, {JOB!r} | {{"work": "inference"}}, {MODERN_JOB!r} | {{"work": "train"}}):
    gpu_sides.serve(job, ["2", "facts"], lambda answer: print(json.dumps(answer)))
"""
    process = start("-c", code)
    output, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 0, errors
    lines = list(map(json.loads, output.splitlines()))
    for first, timed, facts in (lines[i : i + 3] for i in (0, 3, 6)):
        assert first["compiled"] > first["step"] > 0 and timed["seconds"] > 0
        assert facts["matrix_rate"] > 0 and facts["peak_flops"] is None
    assert len(lines) == 9 and lines[2]["flops"] > 2 * lines[5]["flops"] > 0 and lines[8]["flops"] > 0


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        ("train_step", (1, 16, 2, 32, 8, 16, 3)),
        ("finetune_step", (1, 16, 2, 32, 8, 16)),
        ("embedder_step", (1, 16, 2, 32, 8, 16)),
        ("cached_gradients", (1, 16, 2, 32, 8, 16, 2)),
    ],
)
def test_our_side_of_a_step_runs(module, sizes):
    step, flops = importlib.import_module(f"experiments.benchmarks.{module}").our_step(*sizes)
    assert math.isfinite(step()) and flops > 0


@pytest.mark.full
def test_cached_gradients_need_the_memory_of_their_rows():
    """256 pairs, 16 at a time, need what 16 pairs need, and their vectors: a sixth of what all at once need."""
    from experiments.benchmarks.cached_gradients import temporary_bytes

    sizes = (2, 64, 2, 256)
    alone, _ = temporary_bytes(*sizes, 16, 32)
    cached, vectors = temporary_bytes(*sizes, 256, 32, 16)
    whole, _ = temporary_bytes(*sizes, 256, 32)
    assert cached < 1.1 * (alone + vectors) < whole / 4


@pytest.mark.full
def test_every_benchmark_says_what_it_does():
    assert {"compile_time", "gpu", "train_step", "embed", "prepare", "loader", "resume"} <= set(BENCHMARKS)
    modules = {name: f"experiments.benchmarks.{name}" for name in BENCHMARKS if name not in NO_COMMANDS}
    processes = {name: start("-m", module, "--help") for name, module in modules.items()}
    for name, process in processes.items():
        output, errors = process.communicate(timeout=LONGEST_WAIT)
        assert process.returncode in (0, 1) and "Traceback" not in errors, (name, errors)  # absl's help exits with 1
        assert f"python -m experiments.benchmarks.{name}" in output, name


LARGE = gpu.Row("large", "train", "bert", gpu.LARGE, 512, 76, (128, 64, 32, 16))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"ours": {"full": True}, "torch": {}}, "no number of rows fits"),
        ({"ours": {"failed": "TypeError: no"}, "torch": {"compiled": 1}}, "ours: TypeError: no"),
    ],
)
def test_a_row_says_what_went_wrong(monkeypatch, results, expected):
    monkeypatch.setattr(gpu, "measure", lambda job, rounds, deadline: results)
    assert gpu.compare(LARGE, {}, 5, 0.0)[-1] == expected


def test_a_row_takes_the_most_rows_that_both_sides_hold(monkeypatch):
    def measure(job, rounds, deadline):
        fits = {"ours": 64, "torch": 32}
        common = {"compiled": 1, "peak_memory": 2**30, "flops": 1e12, "peak_flops": 2e13, "matrix_rate": 1.6e13}
        seconds = {"ours": [0.1] * rounds, "torch": [0.2] * rounds}
        return {
            side: common | {"seconds": seconds[side]} if job["rows"] <= fits[side] else {"full": True} for side in fits
        }

    monkeypatch.setattr(gpu, "measure", measure)
    cells = gpu.compare(LARGE, {}, 3, 0.0)
    assert cells[1] == "32 x 512, 76"
    assert cells[5] == "**2.00** (2.00-2.00)" and cells[6:9] == ["25.0%", "**50.0%**", "62.5%"]


def test_budgets_and_processes_that_end():
    assert gpu.seconds_of("8m") == 480 and gpu.seconds_of("90s") == 90
    with pytest.raises(argparse.ArgumentTypeError, match="8 minutes: expected seconds or minutes, such as 90s or 8m"):
        gpu.seconds_of("8 minutes")
    side = gpu.Side({"side": "ours", "work": "nothing"})
    assert "KeyError" in side.ask("", time.monotonic() + LONGEST_WAIT)["failed"]
    assert "ended with 1" in side.ask("3", time.monotonic() + LONGEST_WAIT)["failed"]
    side.end()
    side = gpu.Side({})
    assert side.ask("", 0.0) == {"failed": "the budget ended"}
    side.end()


@pytest.mark.parity
def test_the_gpu_benchmark_runs_at_a_toy_size(tmp_path):
    command = ["-m", "experiments.benchmarks.gpu", "--size=smoke", "--rounds=1", "--torch_backend=eager"]
    process = start(*command, f"--output={tmp_path / 'gpu.md'}", "--budget=10m")
    _, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 0, errors
    text = (tmp_path / "gpu.md").read_text("utf-8")
    assert text.count("both sides ran") == len(gpu.SMOKE) and "**No GPU row has been measured" in text
