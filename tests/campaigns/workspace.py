"""Every command on tiny models and texts, as campaigns run them: as processes, with programs compiled once for all.

The number of tries is set with BERT_JAX_TRIES, the seed of a campaign with BERT_JAX_SEED.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence

from tests import commands
from tests.commands import LONGEST_WAIT, ROOT
from tests.training.conftest import WORDS, make_config, make_corpus, write_recipe

SEED = int(os.environ.get("BERT_JAX_SEED", "1"))
_MARK = "BERT_JAX_CAMPAIGN"  # environment variable by which a campaign knows its processes
_TINY = {
    "--config.model.hidden_size": 32, "--config.model.num_layers": 1, "--config.model.num_heads": 2,
    "--config.model.intermediate_size": 64, "--config.model.max_positions": 64, "--config.data.sequence_length": 64,
}  # fmt: skip
_TIMES = re.compile(rb'"\w*seconds\w*": [0-9.e+-]+')
# What a run writes in other bytes each time: times, process ids, paths of the folder.
_DIFFER = {"lock", "provenance.json", "starts.jsonl", "log.txt", "run.json", "config.json", "report.html"}
_DIFFERENT_FOLDERS = {"tensorboard", "index", "checkpoints", "compiled", "profile", "parts"}


def tries(default: int) -> int:
    """Returns the number of tries of a campaign: that of the environment, or the default."""
    return int(os.environ.get("BERT_JAX_TRIES", default))


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of a campaign.

    Attributes:
      name: what reports call it.
      module: the module that runs it.
      options: its arguments, in which {here} is the folder of a try.
      result: the file or folder below {here} that it writes; "" where it only prints.
      continues: whether the same command goes on where an earlier one was ended.
    """

    name: str
    module: str
    options: Sequence[str]
    result: str = ""
    continues: bool = False

    def arguments(self, here: pathlib.Path) -> list[str]:
        """Returns the command line for the folder of a try."""
        options = [option.replace("{here}", str(here)) for option in self.options]
        return [sys.executable, "-m", self.module, *options]

    def digest(self, here: pathlib.Path) -> str:
        """Returns a digest of what the command wrote, the same for two runs that had the same result; "" for nothing.

        Times, process ids and paths do not count.
        """
        path = here / self.result
        if not self.result or not path.exists():
            return ""
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            name = file.relative_to(here).as_posix()
            if file.name in _DIFFER or _DIFFERENT_FOLDERS & set(name.split("/")):
                continue
            content = file.read_bytes()
            if file.name == "metrics.jsonl":
                content = json.dumps(commands.rows_of(content.decode())).encode()
            elif file.suffix in (".json", ".md"):
                content = _TIMES.sub(b"", content.replace(str(here).encode(), b"HERE"))
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


class Workspace:
    """Holds a text, a corpus, a trained run, a fine-tuned one and an experiment, and the commands that use them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("XLA_FLAGS")}
            | commands.shared_programs(folder / "programs")
            | {_MARK: self.mark, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            | {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        )
        self.corpus = make_corpus(folder / "text")
        self.text = folder / "text" / "text.txt"
        config = make_config(self.corpus)
        config.train.update(num_steps=40, eval_every=10, checkpoint_every=7, keep_newest=2)
        config.model.update(hidden_dropout=0.1, attention_dropout=0.1)
        self.recipe = write_recipe(folder / "recipe.py", config)
        pairs = zip(WORDS, WORDS[7:], strict=False)
        rows = [{"sentence": f"{a} {b} .", "label": "yes" if i % 3 else "no"} for i, (a, b) in enumerate(pairs)]
        self.task = folder / "task.jsonl"
        self.task.write_text("".join(f"{json.dumps(row)}\n" for row in rows * 3))
        self.pairs = folder / "pairs.jsonl"
        rows = [{"anchor": f"{a} {b}", "positive": f"{b} {c} {i} ."}
                for i, (a, b, c) in enumerate(zip(WORDS, WORDS[5:], WORDS[11:], strict=False))]  # fmt: skip
        self.pairs.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.experiment = folder / "what.py"
        self.experiment.write_text(_EXPERIMENT)
        self.texts = folder / "texts.txt"
        self.texts.write_text("".join(f"{a} [MASK] {b} .\n" for a, b in zip(WORDS, WORDS[3:], strict=False)))
        self.run, self.tuned, self.launched = folder / "run", folder / "tuned", folder / "launched"
        self.seconds: dict[str, float] = {}
        self.digests: dict[str, str] = {}
        self._made: set[str] = set()

    def commands(self) -> dict[str, Command]:
        """Returns every command by its name; what they read is made first, once."""
        for name, here in (("pretrain", self.run), ("finetune", self.tuned), ("launch", self.launched)):
            if name not in self._made:
                self._made.add(name)
                here.mkdir()
                self.finish(self._commands()[name], here)
        return self._commands()

    def _commands(self):
        small = [f"{key}={value}" for key, value in _TINY.items()]
        run, tuned = self.run / "out", self.tuned / "out"
        listed = [
            Command("recipes", "bert_jax.recipes", []),
            Command(
                "prepare", "bert_jax.prepare",
                [f"--input={self.text}", "--output={here}/out", "--tokenizer=train:wordpiece:120", "--workers=2",
                 "--sentences=line"], "out", True),
            Command(
                "show_batch", "bert_jax.show_batch", [f"--config={self.recipe}", "--rows=2"]),
            Command(
                "pretrain", "bert_jax.pretrain", [f"--config={self.recipe}", "--workdir={here}/out"], "out", True),
            Command("doctor", "bert_jax.doctor", [str(run), "--output={here}/out.json"], "out.json"),
            Command(
                "evaluate", "bert_jax.evaluate",
                [f"--model={run}", f"--corpus={self.corpus}", "--output={here}/out.json", "--sequence_length=32"],
                "out.json"),
            Command(
                "finetune", "bert_jax.finetune",
                ["--config=finetune/sst2", "--workdir={here}/out", f"--config.init_from={run}",
                 f"--config.task.train={self.task}", f"--config.task.held_out={self.task}",
                 "--config.train.num_epochs=2", "--config.data.sequence_length=16", "--config.data.batch_size=8",
                 "--config.seeds=2",
                 "--config.train.checkpoint_every=5", "--config.train.log_every=1"],
                "out", True),
            Command(
                "embedder", "bert_jax.finetune",
                ["--config=embedding/pairs", "--workdir={here}/out", f"--config.init_from={run}",
                 f"--config.task.train={self.pairs}", f"--config.task.held_out={self.pairs}",
                 "--config.data.sequence_length=16", "--config.data.batch_size=16", "--config.loss.gradcache_rows=4",
                 "--config.optimizer.learning_rate=1e-3", "--config.train.checkpoint_every=2",
                 "--config.train.log_every=1"],
                "out", True),
            Command(
                "mine", "bert_jax.mine",
                [f"--model={run}", f"--input={self.pairs}", "--output={here}/out.jsonl", "--negatives=2", "--depth=20",
                 "--margin=0"],
                "out.jsonl"),
            Command(
                "search", "bert_jax.predict",
                ["search", f"--model={run}", f"--corpus={self.pairs}", "--text_column=positive", "--index={here}/index",
                 f"--queries={self.pairs}", "--query_column=anchor", "--output={here}/out.jsonl"], "out.jsonl"),
            Command(
                "predict", "bert_jax.predict",
                ["fill-mask", f"--model={run}", f"--input={self.texts}", "--output={here}/out.jsonl"], "out.jsonl"),
            Command("convert", "bert_jax.convert", [f"--input={tuned}", "--output={here}/out"], "out"),
            Command(
                "plan", "bert_jax.plan",
                [f"--config={self.recipe}", "--topology=v5e:1x1", "--config.model.vocab_size=64",
                 "--json={here}/out.json"], "out.json"),
            Command(
                "quickstart", "bert_jax.quickstart",
                ["--folder={here}/out", "--config.train.num_steps=4", "--config.train.eval_every=0",
                 "--config.data.batch_size=4", *small], "out", True),
            Command(
                "launch", "experiments.launch",
                [f"--experiment={self.experiment}", "--workdir={here}/out", f"--corpus={self.corpus}", "--jobs=2",
                 "--seeds=1"], "out", True),
            Command(
                "report", "experiments.report", [f"--workdir={self.launched / 'out'}", "--output={here}/out"], "out"),
            Command("bert-jax", "bert_jax", ["recipes", "finetuning"]),
        ]  # fmt: skip
        return {command.name: command for command in listed}

    def start(
        self,
        command: Command,
        here: pathlib.Path,
        printed: pathlib.Path | None = None,
        compiles: bool = False,
        own: Mapping[str, str] | None = None,
    ) -> subprocess.Popen:
        """Starts a command whose output goes to `printed`, or `here`/output.txt, in a process group of its own.

        `compiles`: whether it compiles its programs itself, instead of reading those of earlier commands, and logs it.
        `own`: further environment variables.
        """
        here.mkdir(parents=True, exist_ok=True)
        environment = self.environment | dict(own or {})
        if compiles:
            environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_LOG_COMPILES": "1"}
        with open(printed or here / "output.txt", "w") as output:
            return subprocess.Popen(
                command.arguments(here), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip

    def finish(self, command: Command, here: pathlib.Path) -> str:
        """Runs a command to its end, which must be a good one, and returns the digest of its result."""
        start = time.monotonic()
        code = self.start(command, here).wait(LONGEST_WAIT)
        assert code == 0, f"{command.name}: exit code {code}\n{output_of(here)}"
        self.seconds[command.name] = time.monotonic() - start
        return command.digest(here)

    def undisturbed(self, command: Command) -> tuple[str, float]:
        """Returns the digest of a command's result, and the seconds that it takes with its programs compiled."""
        if command.name not in self.digests:
            self.finish(command, self.folder / "undisturbed-first" / command.name)
            self.digests[command.name] = self.finish(command, self.folder / "undisturbed" / command.name)
        return self.digests[command.name], self.seconds[command.name]

    def processes(self) -> list[int]:
        """Returns the ids of the processes that commands of this campaign have started and that have not ended."""
        pids = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                marked = f"{_MARK}={self.mark}".encode() in path.read_bytes().split(b"\0")
            except OSError:
                continue
            if marked and commands.is_running(int(path.parent.name)):
                pids.append(int(path.parent.name))
        return pids

    def kill_all(self) -> None:
        """Kills every process of this campaign."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def output_of(here: pathlib.Path) -> str:
    """Returns what the command in a folder of a try has printed."""
    return (here / "output.txt").read_text(errors="replace")


_EXPERIMENT = """
from experiments import scales


def get_experiment(scale):
    return scales.experiment(
        scale,
        question="Does it matter what is masked?",
        overrides={"train.num_steps": 12, "train.eval_every": 6, "train.checkpoint_every": 3},
        arms={"static": {"data.masking": "static"}, "dynamic": {}},
    )
"""
