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

from experiments.benchmarks import gpu, train_step, train_step_report, turns
from tests.commands import LONGEST_WAIT

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = sorted(path.stem for path in (ROOT / "experiments" / "benchmarks").glob("*.py"))
NO_COMMANDS = {"settings", "gpu_sides", "torch_side", "train_step_report", "turns"}
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


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        ("finetune_step", (1, 16, 2, 32, 8, 16)),
        ("embedder_step", (1, 16, 2, 32, 8, 16)),
        ("cached_gradients", (1, 16, 2, 32, 8, 16, 2)),
    ],
)
def test_our_side_of_a_step_runs(module, sizes):
    step, flops = importlib.import_module(f"experiments.benchmarks.{module}").our_step(*sizes)
    assert math.isfinite(step()) and flops > 0


@pytest.mark.more
def test_our_steps_run_in_both_dtypes_on_the_same_parameters():
    steps, facts = train_step.our_steps(1, 16, 2, 32, 8, 16, 3)
    assert steps.keys() == train_step.our_ways().keys() and len(steps) == 2
    losses = [step() for step in (*steps.values(), *steps.values())]
    assert (
        all(math.isfinite(loss) for loss in losses) and len(set(losses)) == 4
    )  # each step updates what the next reads
    assert facts["flops"] > 0 and 0.0 <= facts["bfloat16_share"] <= 1.0


PROGRAM = """HloModule step

%fused (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,2]{1,0} parameter(1)
  ROOT %c = f32[4,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: f32[4,8], q: f32[8,2], r: bf16[4,8], s: bf16[8,6]) -> f32[4,6] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,2]{1,0} parameter(1)
  %r = bf16[4,8]{1,0} parameter(2)
  %s = bf16[8,6]{1,0} parameter(3)
  %wrapped = f32[4,2]{1,0} fusion(%p, %q), kind=kOutput, calls=%fused
  ROOT %d = f32[4,6]{1,0} dot(%r, %s), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_the_share_of_bfloat16_products_counts_their_operands():
    assert train_step.bfloat16_share(PROGRAM) == 6 / 8  # 4 x 8 x 6 multiplications of 4 x 8 x 6 + 4 x 8 x 2
    assert train_step.bfloat16_share(PROGRAM.replace("bf16", "f32")) == 0.0
    assert train_step.bfloat16_share(PROGRAM.replace("%r = bf16", "%r = f32")) == 0.0  # both operands must be
    without = "\n".join(line for line in PROGRAM.splitlines() if " dot(" not in line)
    assert train_step.bfloat16_share(without) == 0.0


def record(name, ours, eager, compiled):
    seconds = {"float32": ours, "bfloat16": eager}
    sides = [way | {"seconds": seconds[way["dtype"]]} for way in train_step.our_ways().values()]
    seconds = {"eager": eager, "compiled": compiled}
    for malloc in train_step.MALLOC:
        ways = train_step.torch_ways(malloc, bfloat16=False)
        sides += [way | {"seconds": seconds[way["mode"]]} for way in ways.values()]
    return {
        "name": name, "sizes": [1, 16, 2, 32, 8, 16, 3], "steps": 2, "processor_time": False,
        "surroundings": "a machine", "date": "2026-11-30", "sides": sides, "matrix_rates": [1e9] * len(ours),
        "flops": 5e7, "bfloat16_share": 0.25,
    }  # fmt: skip


def test_the_record_of_steps_keeps_other_sizes_and_notes(tmp_path):
    path, tables = tmp_path / "train_step.jsonl", tmp_path / "train_step.md"
    tables.write_text("# A heading\n\nAn older text.\n\n## Earlier measurements\n\nA note.\n", "utf-8")
    train_step_report.write(path, record("one", [0.1], [0.4], [0.3]))
    train_step_report.write(path, record("two", [0.1], [0.4], [0.3]))
    train_step_report.write(path, record("one", [0.1, 0.1, 0.2], [0.4, 0.4, 0.4], [0.25, 0.2, 0.2]))
    lines = list(map(json.loads, path.read_text("utf-8").splitlines()))
    assert [(line["name"], len(line["matrix_rates"])) for line in lines] == [("one", 3), ("two", 1)]
    text = tables.read_text("utf-8")
    assert text.startswith("# A training step beside torch's") and text.endswith(
        "\n## Earlier measurements\n\nA note.\n"
    )
    assert "An older text" not in text and text.count("## one: 8 x 16, 3 predicted a row") == 1
    assert "torch's best is float32, compiled, ours float32, and the ratio **2.00** (1.00, 2.00, 2.50)" in text
    assert "| torch, float32, eager | every token | 400 (400) | 320 | 4.00 (2.00-4.00) |" in text
    assert "| torch, float32, eager, malloc as installed | every token | 400 (400) | 320 |" in text
    assert "50% of XLA's product" in text and "25% of the products' FLOPs" in text
    assert not list(tmp_path.glob("*.part"))


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


@pytest.mark.parity
def test_ways_of_torch_have_the_same_loss():
    """Without dropout: the same number compiled as eagerly, of all tokens' logits as of gathered ones."""
    ways = train_step.torch_ways(train_step.KEPT, bfloat16=True)
    changes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _, losses = train_step.torch_losses(1, 32, 2, 64, 4, 32, 5, ways=ways, **changes)
    values = {tuple(way[key] for key in ("dtype", "mode", "logits")): losses[n]().item() for n, way in ways.items()}
    assert len(values) == 8
    expected = values["float32", "eager", "every token"]
    for name, value in values.items():
        assert value == pytest.approx(expected, rel=1e-2 if "bfloat16" in name else 1e-6), name
    assert values["bfloat16", "eager", "predicted tokens"] != expected  # autocast rounds


@pytest.mark.parity
def test_the_benchmark_of_steps_measures_every_way_at_a_toy_size(tmp_path):
    command = ["-m", "experiments.benchmarks.train_step", "--only", "1 x 32", "--rounds=2", "--steps=1"]
    process = start(*command, f"--record={tmp_path / 'train_step.jsonl'}")
    _, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 0, errors
    (measured,) = map(json.loads, (tmp_path / "train_step.jsonl").read_text("utf-8").splitlines())
    has_bfloat16 = turns.multiplies_bfloat16()
    ways = [way for malloc in train_step.MALLOC for way in train_step.torch_ways(malloc, has_bfloat16)]
    assert len(measured["sides"]) == 2 + len(ways)
    assert all(len(side["seconds"]) == 2 and min(side["seconds"]) > 0 for side in measured["sides"])
    text = (tmp_path / "train_step.md").read_text("utf-8")
    assert text.count("| torch, ") == len(ways) and "torch's best is" in text
