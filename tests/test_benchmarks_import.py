"""The benchmarks start, their own sides run, and the one for a GPU needs jax, flax and optax alone."""

import importlib
import json
import math
import pathlib
import subprocess
import sys

import pytest

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
    "side": "ours", "sizes": [1, 16, 2, 32], "length": 16, "slots": 2, "rows": 2, "dtype": "float32", "kernel": "xla",
    "remat": "none", "scan": False, "microbatches": 1, "logits_chunk": 0, "rounds": 1, "steps": 1, "matrix": 64,
}  # fmt: skip


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
for what in ("train", "inference"):
    print(json.dumps(gpu_sides.measure({JOB!r} | {{"what": what}})))
"""
    process = start("-c", code)
    output, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 0, errors
    train, inference = map(json.loads, output.splitlines())
    assert len(train["seconds"]) == 1 and train["flops"] > 2 * inference["flops"] > 0
    assert train["matrix_rate"] > 0 and train["peak_flops"] is None


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


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"ours": {"full": True}}, "no number of rows fits"),
        ({"ours": {"failed": "TypeError: no"}, "torch": {"full": False}}, "ours: TypeError: no"),
    ],
)
def test_a_row_says_what_went_wrong(monkeypatch, results, expected):
    from experiments.benchmarks import gpu

    monkeypatch.setattr(gpu, "run", lambda job, limit: results[job["side"]])
    cells = gpu.compare("Large", {"what": "train", "length": 512, "slots": 76}, (64, 32), 1)
    assert cells[-1] == expected


def test_a_row_takes_the_most_rows_that_both_sides_hold(monkeypatch):
    from experiments.benchmarks import gpu

    def run(job, limit):
        if job["rows"] > {"ours": 64, "torch": 32}[job["side"]]:
            return {"full": True}
        facts = {"seconds": [0.2, 0.2] if job["side"] == "torch" else [0.1, 0.1], "compiled": 1, "peak_memory": 2**30}
        return facts | {"flops": 1e12, "peak_flops": 2e13, "matrix_rate": 1.6e13}

    monkeypatch.setattr(gpu, "run", run)
    cells = gpu.compare("Large train", {"what": "train", "length": 512, "slots": 76}, (128, 64, 32, 16), 1)
    assert cells[1] == "32 x 512, 76"
    assert cells[4] == "**2.00** (2.00-2.00)" and cells[5:8] == ["25.0%", "**50.0%**", "62.5%"]
