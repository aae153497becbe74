"""Measures bert_jax.prepare: text per second and core, compared with `tokenizers` alone, and memory.

    python -m experiments.benchmarks.prepare --text='books/*.txt' --vocabulary=vocab.txt

The text is repeated to 20 MB and 200 MB. Everything is measured in one run on this machine; rates are those of
two workers together, and per second of processor time. Prints a Markdown table and writes it to
experiments/results/prepare.md.
"""

import glob
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time

from absl import app, flags

_DATA = pathlib.Path(os.environ.get("BERT_JAX_TEST_DATA", "."))
_TEXT = flags.DEFINE_string("text", str(_DATA / "books" / "*.txt"), "plain text to repeat")
_VOCABULARY = flags.DEFINE_string("vocabulary", str(_DATA / "vocab/bert-base-uncased/vocab.txt"), "a vocab.txt")
_RESULTS = flags.DEFINE_string("results", "experiments/results/prepare.md", "file for the table")
_WORKERS = 2
_SIZES = (20_000_000, 200_000_000)

# What a Hugging Face pipeline does: batches of lines through the Rust tokenizer, on as many threads.
_TOKENIZERS_ALONE = """
import sys, time
from bert_jax.data.vocabularies import loading
tokenizer = loading.load(sys.argv[1])._tokenizer
lines = [line.strip() for line in open(sys.argv[2], encoding="utf-8") if line.strip()]
tokenizer.encode_batch_fast(lines[:100], add_special_tokens=False)
start, cpu, tokens = time.perf_counter(), time.process_time(), 0
for at in range(0, len(lines), 5000):
    tokens += sum(len(e.ids) for e in tokenizer.encode_batch_fast(lines[at : at + 5000], add_special_tokens=False))
print(time.perf_counter() - start, time.process_time() - cpu)
"""


def main(argv):
    del argv
    paths = sorted(glob.glob(_TEXT.value))
    if not paths:
        raise app.UsageError(f"--text={_TEXT.value}: no file matches")
    text = "\n\n".join(pathlib.Path(path).read_text("utf-8").strip() for path in paths) + "\n\n"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for size in _SIZES:
            files[size] = pathlib.Path(folder, f"{size}.txt")
            with files[size].open("w", encoding="utf-8") as file:
                for _ in range(round(size / len(text.encode()))):
                    file.write(text)
        small = files[_SIZES[0]]
        command = [sys.executable, "-c", _TOKENIZERS_ALONE, _VOCABULARY.value, str(small)]
        alone = subprocess.run(command, check=True, text=True, capture_output=True).stdout
        rows.append(("`tokenizers` alone, 2 threads", small.stat().st_size, *map(float, alone.split()), None))
        for mode in ("line", "split"):
            for size, path in files.items():
                output = pathlib.Path(folder, f"{mode}-{size}")
                rows.append((f"prepare --sentences={mode}", path.stat().st_size, *_measured(path, output, mode)))
    report = _report(rows)
    print(report)
    pathlib.Path(_RESULTS.value).write_text(report)


def _measured(path, output, mode):
    """Returns (seconds of the whole command, processor seconds, peak memory of its processes together in bytes)."""
    command = [
        sys.executable, "-m", "bert_jax.prepare", f"--input={path}", f"--output={output}",
        f"--tokenizer={_VOCABULARY.value}", f"--sentences={mode}", f"--workers={_WORKERS}",
    ]  # fmt: skip
    start, cpu = time.perf_counter(), _processor_seconds()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    json.loads((output / "manifest.json").read_text())
    return seconds, _processor_seconds() - cpu, peak[0]


def _processor_seconds():
    """Returns the processor seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process, peak):
    while process.poll() is None:
        peak[0] = max(peak[0], _resident(process.pid))
        time.sleep(0.02)


def _resident(pid):
    """Returns the bytes in memory of a process and its children; shared pages count for each."""
    try:
        own = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(map(_resident, children))


def _report(rows):
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tokenizers", "sentencex", "numpy"))
    _, size, seconds, cpu, _ = rows[0]
    reference, cpu_reference = size / seconds, size / cpu
    lines = [
        "# prepare: speed and memory",
        "",
        f"Measured by `python -m experiments.benchmarks.prepare` on {cores} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions}. English books repeated; BERT's uncased vocabulary, loaded; "
        f"{_WORKERS} workers. Times are of the whole command, start and last pass included. Other work on the "
        f"machine (load {os.getloadavg()[0]:.1f} at the end) slows all rows: compare them with each other, and take MB "
        "per processor second for what a core of its own does.",
        "",
        "| | text | seconds | MB/s | times `tokenizers` | MB per processor second | times `tokenizers` | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, size, seconds, cpu, peak in rows:
        memory = f"{peak / 2**20:.0f} MiB" if peak else ""
        rate, cpu_rate = size / seconds, size / cpu
        lines.append(
            f"| {name} | {size / 1e6:.0f} MB | {seconds:.1f} | {rate / 1e6:.2f} | {rate / reference:.2f} "
            f"| {cpu_rate / 1e6:.2f} | {cpu_rate / cpu_reference:.2f} | {memory} |"
        )
    lines.append("")
    for (name, *_, small), (*_, large) in zip(rows[1::2], rows[2::2], strict=True):
        lines.append(f"- {name}: peak memory grows by {large / small - 1:.1%} from 20 MB to 200 MB of text.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
