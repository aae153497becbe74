"""Runs of several processes: real ones, of the real command, that share eight CPU devices under jax.distributed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.data import loader
from bert_jax.diagnosis import reading, report
from bert_jax.processes import watchdog
from bert_jax.runs import checkpoints
from bert_jax.training import hosts
from tests import commands
from tests.commands import ROOT, logged_rows, number_of_rows, wait_until
from tests.training.conftest import make_config, write_recipe


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Programs compiled once for all processes, and quickly."""
    programs = commands.shared_programs(tmp_path_factory.mktemp("compiled"))
    return os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "PYTHONPATH": str(ROOT)} | programs


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    config = make_config(corpus)
    config.train.update(num_steps=14, eval_every=7, checkpoint_every=4, progress=False, tensorboard=False)
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe.py", config)


class Processes:
    """The processes of one run, with eight devices between them."""

    def __init__(self, number, environment, command, *each):
        with socket.socket() as free:
            free.bind(("", 0))
            address = f"localhost:{free.getsockname()[1]}"
        count = f"--xla_force_host_platform_device_count={8 // number}"
        self.all = []
        for process in range(number):
            flags = [f"--coordinator_address={address}", f"--num_processes={number}", f"--process_id={process}"]
            own = list(each[process]) if each else []
            self.all.append(
                subprocess.Popen(
                    [sys.executable, *command, *(flags if number > 1 else []), *own],
                    cwd=ROOT,
                    env=environment | {"XLA_FLAGS": count},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait(self, codes=(0,)):
        """What each wrote to (standard output, standard error), without what gloo says of its connections."""
        outputs = [process.communicate(timeout=commands.LONGEST_WAIT) for process in self.all]
        for process, (out, err) in zip(self.all, outputs, strict=True):
            assert process.returncode in codes, out + err
        return [(_without_gloo(out), err) for out, err in outputs]

    def kill(self):
        for process in self.all:
            process.kill()
            process.communicate()

    def wait_for_rows(self, workdir, number):
        wait_until(lambda: number_of_rows(workdir) >= number, *self.all)


def _without_gloo(text):
    return "\n".join(line for line in text.splitlines() if "peer ranks" not in line)


def pretrain(number, environment, recipe, workdir, *options, each=()):
    command = ["-m", "bert_jax.pretrain", f"--config={recipe}", f"--workdir={workdir}", *options]
    return Processes(number, environment, command, *each)


def assert_same_to_rounding(rows, expected, tolerance=1e-5):
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            np.testing.assert_allclose(value, other[key], rtol=tolerance, err_msg=f"{key} of step {row['step']}")


_ROWS = """
import sys
import jax, numpy as np
from bert_jax import config as config_lib, distributed, sharding
from bert_jax.data import loader

recipe, folder, steps, *rest = sys.argv[1:]
flags = dict(one.lstrip("-").split("=") for one in rest)
layout = {name: int(flags.pop(name)) for name in ("data", "fsdp", "tensor")}
if flags:
    distributed.initialize(flags["coordinator_address"], int(flags["num_processes"]), int(flags["process_id"]))
assert jax.device_count() == 8
mesh = sharding.make_mesh(layout)
config = config_lib.load_recipe(recipe)
hosts = sharding.hosts_of_rows(mesh)
for step, batch in loader.Loader(config, 0, *hosts):
    rows = sharding.put_rows(batch, mesh)
    for name, array in rows.items():
        for shard in array.addressable_shards:
            start, stop, _ = shard.index[0].indices(array.shape[0])
            np.save(f"{folder}/{name}-{step}-{start}-{stop}-{shard.device.id}.npy", shard.data)
    if step + 1 == int(steps):
        break
"""


@pytest.mark.more
def test_each_process_reads_its_rows_and_all_make_the_global_batch(recipe, environment, tmp_path):
    """P1 with 1, 2 and 4 processes, and with a tensor axis that spans processes, whose rows several hold."""
    from bert_jax import config as config_lib

    config = config_lib.load_recipe(str(recipe))
    layouts = {1: (8, 1, 1), 2: (2, 2, 2), 4: (2, 1, 4)}
    runs = {}
    for number, (data, fsdp, tensor) in layouts.items():
        folder = tmp_path / str(number)
        folder.mkdir()
        layout = [f"--data={data}", f"--fsdp={fsdp}", f"--tensor={tensor}"]
        runs[number] = Processes(number, environment, ["-c", _ROWS, str(recipe), str(folder), "3", *layout])
    for number, processes in runs.items():
        processes.wait()
        for step in range(3):
            expected = loader.batch_at(config, step)
            for name, array in expected.items():
                parts = [path.stem.split("-") for path in (tmp_path / str(number)).glob(f"{name}-{step}-*.npy")]
                assert len(parts) == 8, "one part for each device"
                for _, _, start, stop, device in parts:
                    part = np.load(tmp_path / str(number) / f"{name}-{step}-{start}-{stop}-{device}.npy")
                    assert part.dtype == array.dtype
                    assert part.tobytes() == array[int(start) : int(stop)].tobytes()
                assert {row for _, _, a, b, _ in parts for row in range(int(a), int(b))} == set(range(len(array)))


@pytest.mark.full
def test_killed_and_moved_to_other_processes(recipe, environment, tmp_path):
    """P2: two processes, killed, continue as one and as two, on other meshes; the same layout gives the same bits."""
    whole = pretrain(2, environment, recipe, tmp_path / "whole", "--config.mesh.fsdp=4")
    ((out, _), (silent, err)) = whole.wait()
    assert "on 8 x cpu of 2 processes; step 0 of 14" in out and "done: step 14" in out
    assert silent == "" and "error" not in err  # one process speaks
    expected = logged_rows(tmp_path / "whole")
    assert len(expected) == 14

    killed = pretrain(2, environment, recipe, tmp_path / "killed", "--config.mesh.fsdp=4")
    killed.wait_for_rows(tmp_path / "killed", 7)
    killed.kill()
    continued = tmp_path / "as-one"
    subprocess.run(["cp", "-r", tmp_path / "killed", continued], check=True)

    again = pretrain(2, environment, recipe, tmp_path / "killed", "--config.mesh.fsdp=4")
    again.wait()
    assert logged_rows(tmp_path / "killed") == expected  # to the bit
    alone = pretrain(1, environment, recipe, continued, "--config.mesh.tensor=2")
    ((out, _),) = alone.wait()
    begun = int(re.search(r"step (\d+) of 14", out)[1])  # 4, or a later checkpoint that was written before the kill
    rows = logged_rows(continued)
    assert begun >= 4 and rows[:begun] == expected[:begun]
    assert_same_to_rounding(rows, expected)


@pytest.mark.full
def test_a_signal_to_one_process_stops_all_after_the_same_step(recipe, environment, tmp_path):
    options = ("--config.train.num_steps=4000", "--config.train.eval_every=0", "--config.train.checkpoint_every=4000")
    run = pretrain(2, environment, recipe, tmp_path, *options)
    run.wait_for_rows(tmp_path, 3)
    run.all[1].send_signal(signal.SIGTERM)
    ((out, _), _) = run.wait((128 + signal.SIGTERM,))
    last = logged_rows(tmp_path)[-1]["step"]
    assert f"SIGTERM: stopped at step {last} with a checkpoint; start the same command again" in out
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [last] and last < 4000


@pytest.mark.full
def test_a_process_that_hangs_ends_the_others_with_their_stacks(recipe, environment, tmp_path):
    """Process 0 waits in a collective for one that is suspended, and this one hears of it when it goes on."""
    options = ("--config.train.num_steps=100000", "--config.train.eval_every=0", "--config.train.hang_seconds=2")
    run = pretrain(2, environment, recipe, tmp_path, *options, "--config.train.checkpoint_every=100000")
    run.wait_for_rows(tmp_path, 3)
    run.all[1].send_signal(signal.SIGSTOP)
    wait_until((tmp_path / "hang-0.txt").exists, run.all[0])
    time.sleep(8)  # process 0 waits with its end for the stacks of this one
    run.all[1].send_signal(signal.SIGCONT)
    (_, first), (_, second) = run.wait((watchdog.EXIT_CODE,))
    assert "error: no step has ended for" in first and "in: step; config.train.hang_seconds=2" in first
    assert "process 1 of 2: " in second and "in train" in (tmp_path / "hang-1.txt").read_text()
    assert "in train" in (tmp_path / "hang-0.txt").read_text()


_HANGS = """
import pathlib, sys, threading, time
from bert_jax.processes import distributed, watchdog

rest = dict(word.lstrip("-").split("=") for word in sys.argv[2:])
distributed.initialize(rest["coordinator_address"], int(rest["num_processes"]), int(rest["process_id"]))
whole = distributed.all_report_hang

def late():  # as on a machine that has more to do
    time.sleep(0 if distributed.is_first() else 4)
    return whole()

distributed.all_report_hang = late
watch = watchdog.Watchdog(0.5, pathlib.Path(sys.argv[1]), lambda: ("step", 7))
watch.__enter__()
while not (distributed.is_multiprocess() and whole()):
    time.sleep(0.01)
if distributed.reports_errors():  # as a collective that has lost its peer
    print("a second error")
distributed.exit_now(2)
"""


def test_a_hang_ends_all_processes_with_one_code(environment, tmp_path):
    """Process 0 leaves last, and the error that a hang causes elsewhere in a process does not end it before."""
    run = Processes(2, environment, ["-c", _HANGS, str(tmp_path)])
    for out, err in run.wait((watchdog.EXIT_CODE,)):
        assert "a second error" not in out and err.count("error: ") == 1
    assert (tmp_path / "hang-0.txt").exists() and (tmp_path / "hang-1.txt").exists()


_IS_SLOW = """
import sys, time
from bert_jax import command, distributed, pretrain
from bert_jax.data import loader

whole = loader.Loader.__iter__

def slow(self):
    for step, batch in whole(self):
        if not distributed.is_first():
            time.sleep(1.0)  # what a step that runs meanwhile leaves of it holds the others up
        yield step, batch

loader.Loader.__iter__ = slow
sys.argv.remove("--")
command.define_config_flag()
command.define_process_flags()
command.run(pretrain.main)
"""


def test_the_slowest_host():
    """Among two, and among many with a fast one; the ratio says how much longer a step is for it."""
    slowest = {"slowest_host": 1, "slowest_host_seconds": 0.4, "slowest_host_ratio": 1.5}
    assert hosts.compared(0.9, {0: 0.1, 1: 0.4}, 2) == slowest
    assert hosts.compared(0.9, {0: 0.1, 1: 0.4, 2: 0.1, 3: 0.0}, 4) == slowest
    assert hosts.compared(0.9, {0: 0.1, 1: 0.4}, 3) == {}  # one has not published yet
    assert hosts.compared(0.4, {0: 0.0, 1: 0.4}, 2)["slowest_host_ratio"] == 100
    assert hosts.compared(0.9, {0: 0.4, 1: 0.4}, 2)["slowest_host_ratio"] == 1
    assert hosts.slowest((0.9, 0.1)) == hosts.slowest(None) == {}  # one process alone


@pytest.mark.full
def test_what_a_pod_asks_of_a_run(recipe, environment, tmp_path):
    """Checkpoints by time, a trace on request and the slowest host: agreed on without stopping a step."""
    options = ["--config.train.num_steps=4000", "--config.train.eval_every=0", "--config.train.checkpoint_every=4000"]
    options += ["--config.train.checkpoint_minutes=0.02", "--config.profile.num_steps=0"]
    run = Processes(2, environment, ["-c", _IS_SLOW, "--", f"--config={recipe}", f"--workdir={tmp_path}", *options])
    wait_until(lambda: len(checkpoints.saved_steps(tmp_path / "checkpoints")) >= 2, *run.all)
    run.all[1].send_signal(signal.SIGUSR1)
    wait_until(lambda: list(tmp_path.glob("profile/process-1/plugins/profile/*/*.xplane.pb")), *run.all)
    wait_until(lambda: list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")), *run.all)
    run.all[0].send_signal(signal.SIGTERM)
    ((out, _), (silent, _)) = run.wait((128 + signal.SIGTERM,))
    assert len(re.findall(r"tracing 5 steps after step \d+", out)) == 1 and silent == ""
    assert 0 not in np.diff(checkpoints.saved_steps(tmp_path / "checkpoints"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "slowest_host" in row]
    slowest = [row for row in told if row["slowest_host"] == 1]
    # On a busy machine a step of the other process may take longer now and then.
    assert len(told) > len(rows) / 2 and len(slowest) > len(told) / 2
    assert np.median([row["slowest_host_ratio"] for row in slowest]) > 1.2
    assert np.median([row["slowest_host_seconds"] for row in slowest]) > 0.4
    (finding,) = [one for one in report.diagnose(reading.read(str(tmp_path))) if one.name == "slow_host"]
    assert finding.severity == "warning" and "Process 1" in finding.message


_IS_PREEMPTED = """
import os, signal, sys
from bert_jax import command, distributed, pretrain
from bert_jax.data import loader
from bert_jax.runs import checkpoints

whole, save = loader.Loader.__iter__, checkpoints.Checkpoints._open

def stopped(self):
    for step, batch in whole(self):
        if step == 5 and not distributed.is_first():
            signal.raise_signal(signal.SIGTERM)
        yield step, batch

def killed(self):
    if self._hurries:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self)

loader.Loader.__iter__, checkpoints.Checkpoints._open = stopped, killed
sys.argv.remove("--")
command.define_config_flag()
command.define_process_flags()
command.run(pretrain.main)
"""


@pytest.mark.slow
def test_preempted_processes_go_on_from_their_own_disks(recipe, environment, tmp_path):
    """Each process keeps its parts of the state; killed before the checkpoint, they have the bits of a whole run."""
    options = ["--config.mesh.fsdp=4", "--config.train.num_steps=40", "--config.train.checkpoint_every=5"]
    options += ["--config.train.eval_every=0"]
    pretrain(2, environment, recipe, tmp_path / "whole", *options).wait()
    each = [[f"--config.train.emergency_dir={tmp_path / 'disk'}"]] * 2
    flags = ["--", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *options]
    codes = (-signal.SIGKILL, -signal.SIGABRT, 1, 2)  # the one that is killed later may notice that the first is gone
    Processes(2, environment, ["-c", _IS_PREEMPTED, *flags], *each).wait(codes)
    assert len(list(tmp_path.glob("disk/*/process-[01].json"))) == 2
    begun = json.loads(next(tmp_path.glob("disk/*/process-0.json")).read_text())["step"]
    before = max(checkpoints.saved_steps(tmp_path / "run" / "checkpoints"))
    ((out, _), _) = pretrain(2, environment, recipe, tmp_path / "run", *options, each=each).wait()
    if begun > before:  # and not at the step of a checkpoint
        assert f"goes on from the copy of step {begun} in " in out and f"; step {begun} of 40" in out
    assert logged_rows(tmp_path / "run") == logged_rows(tmp_path / "whole")
    assert not list(tmp_path.glob("disk/*"))


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ([[], ["--config.seed=3"]], "process 1 of 2: config.seed: found 3; process 0 has 0"),
        pytest.param(
            [[], ["--config.data.corpus=/nowhere"]], "process 1 of 2: /nowhere: no such corpus", marks=pytest.mark.full
        ),
    ],
)
def test_an_error_of_one_process_ends_all_with_one_line(recipe, environment, tmp_path, each, message):
    run = pretrain(2, environment, recipe, tmp_path, each=each)
    errors = [line for _, err in run.wait(codes=(2,)) for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {message}")


_LOSES_ITS_CORPUS = """
import sys
from bert_jax import command, distributed, pretrain
from bert_jax.data import loader
from bert_jax.errors import UserError

whole = loader.Loader.__iter__

def lost(self):
    for step, batch in whole(self):
        if step == 6 and not distributed.is_first():
            raise UserError("tokens.bin: cannot be read")
        yield step, batch

loader.Loader.__iter__ = lost
sys.argv.remove("--")
command.define_config_flag()
command.define_process_flags()
command.run(pretrain.main)
"""


@pytest.mark.full
def test_an_error_of_one_process_between_checkpoints_ends_all(recipe, environment, tmp_path):
    """The others wait for it in the middle of a step, and it for none of them."""
    run = Processes(2, environment, ["-c", _LOSES_ITS_CORPUS, "--", f"--config={recipe}", f"--workdir={tmp_path}"])
    errors = [line for _, err in run.wait(codes=(2,)) for line in err.splitlines() if line.startswith("error:")]
    assert errors == ["error: process 1 of 2: tokens.bin: cannot be read"]
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [4]


@pytest.mark.full
def test_four_processes_train_as_one(recipe, environment, tmp_path):
    """With a tensor axis inside of each process, and an fsdp axis across them."""
    pretrain(1, environment, recipe, tmp_path / "one").wait()
    pretrain(4, environment, recipe, tmp_path / "four", "--config.mesh.fsdp=4", "--config.mesh.tensor=2").wait()
    assert_same_to_rounding(logged_rows(tmp_path / "four"), logged_rows(tmp_path / "one"))


@pytest.mark.full
def test_processes_compile_the_next_phase_beside_their_steps(corpus, environment, tmp_path):
    """Each on a thread of its own, begun before the same step; the rows are those of one process."""
    config = make_config(corpus)
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.phases = ({"share": 0.5, "sequence_length": 16}, {"share": 0.5, "batch_size": 16})
    config.train.update(num_steps=8, eval_every=0, progress=False, tensorboard=False)
    recipe = write_recipe(tmp_path / "recipe.py", config)
    ((out, _), (silent, _)) = pretrain(2, environment, recipe, tmp_path / "two", "--config.mesh.fsdp=4").wait()
    assert "done: step 8" in out and "is compiled when it is reached" not in out and silent == ""
    pretrain(1, environment, recipe, tmp_path / "one", "--config.mesh.fsdp=4").wait()
    assert_same_to_rounding(logged_rows(tmp_path / "two"), logged_rows(tmp_path / "one"))


@pytest.mark.full
def test_processes_branch_from_one_checkpoint(recipe, environment, tmp_path):
    """Two processes take parameters and moments as one does, and refuse to begin from different checkpoints."""
    trunk = tmp_path / "trunk"
    pretrain(2, environment, recipe, trunk, "--config.mesh.fsdp=4", "--config.train.keep_newest=9").wait()
    expected = logged_rows(trunk)
    branch = [f"--config.init_from={trunk}@8", "--config.mesh.fsdp=4"]

    on = pretrain(2, environment, recipe, tmp_path / "on", *branch, "--config.init_state=run")
    ((out, _), (silent, _)) = on.wait()
    assert f"branches from {trunk}, step 8, with its moments; goes on at step 8" in out and silent == ""
    assert logged_rows(tmp_path / "on") == expected[8:]  # to the bit
    assert checkpoints.saved_steps(tmp_path / "on" / "checkpoints")[0] == 8, "it needs the other run no more"

    begun = ["--config.init_state=moments", "--config.train.num_steps=3", "--config.optimizer.warmup_steps=0"]
    for number in (1, 2):
        pretrain(number, environment, recipe, tmp_path / str(number), *branch, *begun).wait()
    rows = logged_rows(tmp_path / "2")
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[0]["loss"] < expected[0]["loss"]
    assert_same_to_rounding(rows, logged_rows(tmp_path / "1"))

    each = [[], [f"--config.init_from={trunk}@12"]]
    apart = pretrain(2, environment, recipe, tmp_path / "apart", *branch, "--config.init_state=run", each=each)
    errors = [line for _, err in apart.wait(codes=(2,)) for line in err.splitlines() if line.startswith("error:")]
    assert errors == ["error: process 1 of 2: config.init_from (step): found 12; process 0 has 8"]
    assert not (tmp_path / "apart" / "checkpoints").exists()


@pytest.mark.full
def test_fine_tuning_on_two_processes(finished, environment, tmp_path):
    labels = {"kan": "good", "mot": "bad"}
    rows = [(f"{word} lo{i} ri", label) for i in range(40) for word, label in labels.items()]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    options = [
        "-m", "bert_jax.finetune", "--config=finetune/sst2", f"--config.init_from={finished}", "--config.seeds=2",
        f"--config.task.train={tmp_path / 'rows.tsv'}", f"--config.task.held_out={tmp_path / 'rows.tsv'}",
        "--config.task.text=text", "--config.task.label=label", "--config.data.batch_size=16",
        "--config.data.sequence_length=32", "--config.train.num_epochs=2", "--config.train.log_every=1",
        "--config.mesh.fsdp=2", "--config.train.progress=False", "--config.train.tensorboard=False",
    ]  # fmt: skip
    summaries = []
    for number in (1, 2):
        workdir = tmp_path / str(number)
        Processes(number, environment, [*options, f"--workdir={workdir}"]).wait()
        summaries.append(json.loads((workdir / "summary.json").read_text()))
        assert (workdir / "predictions" / "held_out.jsonl").read_text().count("\n") == len(rows)
    assert summaries[0]["scores"] == summaries[1]["scores"]
    assert_same_to_rounding(logged_rows(tmp_path / "2"), logged_rows(tmp_path / "1"))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["embedding", "reranker"])
def test_embedders_and_rerankers_on_several_processes(finished, environment, tmp_path, kind):
    """The loss of the whole batch, with dropout: the same on one process, two and four, in parts or at once."""
    texts = [f"{word} lo{i} ri" for i in range(40) for word in ("kan", "mot")]
    pairs = [{"anchor": text, "positive": text[::-1], "negative": f"{text} mot"} for text in texts]
    judged = [{"query": text, "document": text[::-1], "label": i % 2} for i, text in enumerate(texts)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (pairs if kind == "embedding" else judged)))
    options = [
        "-m", "bert_jax.finetune", f"--config={kind}/pairs", f"--config.init_from={finished}",
        f"--config.task.train={path}", "--config.data.batch_size=16", "--config.data.sequence_length=24",
        "--config.train.num_steps=4", "--config.train.log_every=1", "--config.model.hidden_dropout=0.1",
        "--config.model.attention_dropout=0.1", "--config.optimizer.learning_rate=1e-4",
        "--config.train.progress=False", "--config.train.tensorboard=False", "--config.train.report=False",
    ]  # fmt: skip
    if kind == "embedding":
        options += ["--config.task.negatives=negative", "--config.loss.learn_temperature=True"]
    rows = {}
    for number, parts in ((1, 0), (2, 8), (4, 4)):
        workdir = tmp_path / str(number)
        part = [f"--config.loss.gradcache_rows={parts}"] if kind == "embedding" else []
        Processes(number, environment, [*options, *part, f"--workdir={workdir}"]).wait()
        rows[number] = logged_rows(workdir)
    for number in (2, 4):
        np.testing.assert_allclose(rows[number][0]["loss"], rows[1][0]["loss"], rtol=1e-6)
        assert_same_to_rounding(rows[number], rows[1], tolerance=2e-5)
