"""The launcher and its processes, for real: an arm that fails, kills at any moment, the same results."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import pytest

from experiments import experiment as experiment_lib
from experiments.launching import folders
from tests.commands import LONGEST_WAIT, wait_until

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from experiments import scales


def get_experiment(scale):
    return scales.experiment(
        scale,
        question="Does it matter what is masked?",
        overrides={{"train.num_steps": {steps}, "train.eval_every": 10, "train.checkpoint_every": 3}},
        arms={arms},
    )
"""
ARMS = {"static": {"data.masking": "static"}, "broken": {"optimizer.learning_rate": 1e30}}
TWO_ARMS = {"static": ARMS["static"], "dynamic": {}}


class Launcher:
    """Runs experiments.launch with a file in a process of its own, whose jobs are process groups of their own."""

    def __init__(self, folder, corpus, arms, steps=20):
        folder.mkdir()
        self.file, self.workdir, self.corpus = folder / "what.py", folder / "runs", corpus
        self.file.write_text(FILE.format(arms=arms, steps=steps))

    def start(self, *options):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable, "-m", "experiments.launch", f"--experiment={self.file}", f"--workdir={self.workdir}",
            f"--corpus={self.corpus}", "--jobs=2", *options,
        ]  # fmt: skip
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *options):
        process = self.start(*options)
        output = process.communicate(timeout=LONGEST_WAIT)[0]
        return process.returncode, output

    def results(self):
        return {
            path.relative_to(self.workdir).as_posix(): path.read_bytes()
            for path in sorted(self.workdir.glob("*/*/result.json"))
        }

    def children(self):
        """Process ids of the jobs that run here."""
        pids = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
            except OSError:
                continue
            if "experiments.run_job" in words and any(word.startswith(str(self.workdir)) for word in words):
                pids.append(int(path.parent.name))
        return pids


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A launcher that was never killed; one of its arms fails."""
    launcher = Launcher(tmp_path_factory.mktemp("whole") / "x", corpus, ARMS)
    return launcher, *launcher.run("--seeds=1")


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The results of two arms whose launcher was never killed."""
    launcher = Launcher(tmp_path_factory.mktemp("undisturbed") / "x", corpus, TWO_ARMS)
    code, output = launcher.run("--seeds=1")
    assert code == 0, output
    return launcher.results()


@pytest.mark.full
def test_a_failing_arm_is_reported_and_stops_no_other(whole):
    launcher, code, output = whole
    assert code == 1, output
    assert "1 of 2 jobs are done, 1 failed" in output
    assert "broken/seed-0: failed (exit code 2)" in output and "error: " in output
    states = {arm: folders.state(launcher.workdir / arm / "seed-0") for arm in ARMS}
    assert states == {"static": "done", "broken": "failed"}
    failed = json.loads((launcher.workdir / "broken/seed-0/failed.json").read_text())
    assert failed["stage"] == "pretrain" and failed["code"] == 2
    assert "is not finite" in failed["lines"][-1] and failed["lines"][-1] in output


@pytest.mark.full
def test_what_a_job_leaves_behind(whole):
    folder = whole[0].workdir / "static/seed-0"
    result = json.loads((folder / "result.json").read_text())
    assert {"eval/mlm_loss", "common/mlm_loss", "bigram_shift/accuracy"} <= set(result["figures"])
    assert result["steps"] == 20 and result["tokens"] == 20 * 16 * 32 and result["epochs"] > 0
    assert result["figures"]["bigram_shift/accuracy"] == result["each"]["bigram_shift/accuracy"][0]
    (start,) = map(json.loads, (folder / "starts.jsonl").read_text().splitlines())
    assert start["packages"]["jax"] and start["devices"] == ["cpu:cpu"] and start["cores"] == 1
    if start["diff"]:
        assert (folder / start["diff"]).read_text().startswith("diff ")
    assert (folder / "pretrain/config.json").exists() and (folder / "finetune-bigram_shift/summary.json").exists()


@pytest.mark.more
def test_nothing_is_repeated(whole):
    launcher, _, _ = whole
    before = {path: path.read_bytes() for path in launcher.workdir.glob("*/*/starts.jsonl")}
    code, output = launcher.run("--seeds=1")
    assert code == 1 and "static" not in output.replace(str(launcher.workdir), "")
    after = {path: path.read_bytes() for path in before}
    assert {path.parts[-3] for path in before if after[path] != before[path]} == {"broken"}


@pytest.mark.full
def test_dry_run_and_another_launcher(whole, tmp_path, corpus):
    launcher = Launcher(tmp_path / "x", corpus, TWO_ARMS)
    code, output = launcher.run("--seeds=1", "--dry_run")
    assert code == 0 and not launcher.workdir.exists()
    assert output.count("-m experiments.run_job") == 2
    launcher.workdir.mkdir()
    with folders.locked(launcher.workdir) as mine:
        assert mine
        code, output = launcher.run("--seeds=1")
    assert code == 2 and "another launcher is at work" in output
    shutil.copy(whole[0].workdir / "experiment.json", launcher.workdir)
    for flag in ("--nodry_run", "--dry_run"):
        code, output = launcher.run("--seeds=1", flag)
        assert code == 2 and "holds another experiment: arms.dynamic is null there, but {} was asked for" in output


@pytest.mark.full
def test_rates_are_tuned_and_kept_checkpoints_evaluated(corpus, tmp_path):
    """Tuning jobs first, then the reported ones with what they chose; the common evaluation along the run."""
    launcher = Launcher(tmp_path / "x", corpus, TWO_ARMS, steps=6)
    code, output = launcher.run("--seeds=1", "--tune=1e-3,2e-2")
    assert code == 2 and "held-out rows, and the first 128 are reported" in output, output
    evaluation = {"batches": 1, "batch_size": 8, "sequence_length": 32}
    text = launcher.file.read_text().replace(
        "return scales", "import dataclasses\n\n    return dataclasses.replace(scales"
    )
    launcher.file.write_text(f"{text.rstrip()[:-1]}), evaluation={evaluation})\n")
    shutil.rmtree(launcher.workdir)
    options = ("--seeds=1", "--tune=1e-3,2e-2", "--tune_task=bigram_shift:1e-4,1e-3", "--set=train.keep_every=3")
    code, output = launcher.run(*options)
    assert code == 0, output
    tuning = json.loads((launcher.workdir / "tuning.json").read_text())
    assert tuning["runs"] == 4 and tuning["tokens"] == 4 * 6 * 16 * 32
    for arm in TWO_ARMS:
        folder, search = launcher.workdir / arm / "seed-0", tuning["arms"][arm]
        assert set(search["values"]) == {"0.001", "0.02"} and f"{search['chosen']:g}" in search["values"]
        job = json.loads((folder / "job.json").read_text())
        assert job["overrides"]["optimizer.learning_rate"] == search["chosen"]
        result = json.loads((folder / "result.json").read_text())
        assert result["tuning"]["bigram_shift"]["runs"] == 2
        along = [json.loads(line) for line in (folder / "along.jsonl").read_text().splitlines()]
        assert [row["step"] for row in along] == [3, 6]
        assert along[-1]["common/mlm_loss"] == result["figures"]["common/mlm_loss"]


@pytest.mark.slow
def test_killed_and_started_again(undisturbed, corpus, tmp_path):
    """kill -9 of all in the middle of training, then of the launcher alone: the same results to the byte."""
    launcher = Launcher(tmp_path / "x", corpus, TWO_ARMS)
    log = launcher.workdir / "dynamic/seed-0/pretrain/metrics.jsonl"
    process = launcher.start("--seeds=1")
    wait_until(lambda: log.exists() and b'"step": 10' in log.read_bytes(), process)
    process.kill()
    for child in launcher.children():
        os.kill(child, signal.SIGKILL)
    process.communicate()
    process = launcher.start("--seeds=1")
    wait_until(lambda: (launcher.workdir / "dynamic/seed-0/finetune-bigram_shift/run.json").exists(), process)
    process.kill()
    process.communicate()  # its children save, and end
    code, output = launcher.run("--seeds=1")
    assert code == 0, output
    assert launcher.results() == undisturbed


@pytest.mark.full
def test_a_signal_is_passed_on(corpus, tmp_path):
    launcher = Launcher(tmp_path / "x", corpus, TWO_ARMS, steps=3000)
    process = launcher.start("--seeds=1")
    log = launcher.workdir / "static/seed-0/pretrain/metrics.jsonl"
    wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") > 2, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=LONGEST_WAIT)[0]
    assert process.returncode == 143 and "SIGTERM: stopped; start the same command again" in output
    assert not launcher.children()
    states = [folders.state(launcher.workdir / arm / "seed-0") for arm in ("static", "dynamic")]
    assert states == ["stopped", "stopped"] and "failed" not in output.replace("0 failed", "")


@pytest.mark.slow
@pytest.mark.parametrize("orphans", [False, True])
def test_kills_at_random(undisturbed, corpus, tmp_path, orphans):
    """kill -9 eight times, of launcher and jobs or of the launcher alone, at moments of any stage."""
    draw = random.Random(orphans)
    launcher = Launcher(tmp_path / "x", corpus, TWO_ARMS)
    for _ in range(8):
        process = launcher.start("--seeds=1")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(1, 12))
        process.kill()
        for child in [] if orphans else launcher.children():
            os.kill(child, signal.SIGKILL)
        process.communicate()
    code, output = launcher.run("--seeds=1")
    assert code == 0, output
    assert launcher.results() == undisturbed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor=slurm"], "error: --executor=slurm: no squeue here; expected a machine that submits to Slurm"),
        (["--executor=slurm", "--slurm=tiem=3"], "error: --slurm=tiem=3: no such key; did you mean time?"),
        (["--executor=cloud"], "error: --cloud=bucket: missing; expected gs://BUCKET or s3://BUCKET"),
        (["--executor=cloud", "--cloud=bucket=gs://abc"], "error: --executor=cloud: SkyPilot is missing"),
        (["--slurm=partition=gpu"], "error: --slurm=partition=gpu: with --executor=local; expected --executor=slurm"),
        (["--tasks=sst2"], "error: --tasks: sst2 reads tfds:glue/sst2:train, and tensorflow_datasets is not installed"),
        (["--experiment=experiments/masknig.py"], "error: --experiment=experiments/masknig.py: no such file; expected"),
    ],
)  # fmt: skip
def test_what_is_missing_is_known_before_the_corpus_is_prepared(tmp_path, monkeypatch, options, message):
    program = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if 'tensorflow' in name else find(name, *rest)\n"
        "sys.argv[0] = 'experiments.launch'\n"
        "runpy.run_module('experiments.launch', run_name='__main__', alter_sys=True)\n"
    )
    usual = [] if any(word.startswith("--experiment=") for word in options) else ["--experiment=experiments/masking.py"]
    given = [*usual, f"--workdir={tmp_path}/runs", *options]
    environment = os.environ | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, *given], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--experiment=experiments/mask_rate.py"], 'name is "masking" there, but "mask_rate" was asked for'),
        (["--experiment=experiments/masking.py", "--scale=cpu"], 'scale is "smoke" there, but "cpu" was asked for'),
        (["--experiment=experiments/masking.py", "--set=train.log_every=3"], "overrides.train.log_every is "),
        (["--experiment=experiments/masking.py", "--tasks="], "measures is "),
    ],
)
def test_another_experiment_is_told_before_the_corpus_is_prepared(tmp_path, options, difference):
    experiment = experiment_lib.load("masking", "smoke")
    content = folders.described(experiment, "masking", "smoke", f"{folders.HERE}/corpus", "launch")
    folders.write_experiment(tmp_path, content)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch", f"--workdir={tmp_path}", *options], cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: --workdir={tmp_path}: holds another experiment: {difference}")
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.json"]


def test_a_cut_result_is_made_again(tmp_path):
    (tmp_path / "result.json").write_text('{"figures": {"eval/mlm')
    (tmp_path / "starts.jsonl").write_text("{}\n")
    assert folders.state(tmp_path) == "stopped"
    (tmp_path / "result.json").write_text('{"figures": {}}')
    assert folders.state(tmp_path) == "done"
