"""Campaign: mistakes in flags, files, keys and models of every command, drawn from lists.

Each ends in one line that begins with "error: " and in exit code 2, within seconds; never in a traceback or an abort.
A file that is damaged where nobody looks may also do no harm, and the command then ends well. Commands run without the
rights of a superuser, so that folders which a user may not enter are among the mistakes.
"""

import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from tests.campaigns.workspace import SEED, WORDS, Command, tries

_CRASH = re.compile(r"Traceback|Fatal Python error|Segmentation fault|core dumped|Exception ignored|Aborted")
_LONGEST = 10.0  # seconds of processor time that a mistake may take to be told
_WAIT = 300.0  # seconds on a clock after which a command is taken to hang, on a machine that does much else

# What a flag may be given instead of a value of its kind. {folder} holds what `make_places` makes.
_PATHS = (
    "",
    "{folder}/absent",
    "{folder}/absent/deeper",
    "{folder}/empty",
    "{folder}/empty.txt",
    "{folder}/noise.bin",
    "{folder}/loop",
    "{folder}/dangling",
    "{folder}/noise.bin/below",
    "/dev/null",
    "{folder}/locked",
    "{folder}/locked/below",
    "{folder}/locked.txt",
    "{folder}/sp ace\n",
    "~nobody/x",
    "{folder}/latin1.txt",
    "{folder}/nul.txt",
    "gs:/x",
    "s3//bucket",
    "{folder}/" + "n" * 300,
    "*",
    "[",
    "{folder}/[*",
)
_LOCKED = ("{folder}/locked", "{folder}/locked/x", "{folder}/read_only/x")
_WHOLE = ("", "ten", "1.5", "-3", "1e400", "1_0_", "None", "½", "--", "[1]")
_SIZES = (*_WHOLE, "0", "9" * 30, "999999999999")
_SHARES = ("", "half", "-0.5", "1.5", "nan", "inf", "-inf", "1,5", "50%", "9" * 400, "None")
_CHOICES = ("", "nonsense", "NONE", "0", " ", "'", "none,none", "\u00e9")
_KEYS = {  # keys of a recipe, with kinds of values
    "train.num_steps": _WHOLE,
    "data.batch_size": _SIZES,
    "optimizer.learning_rate": ("fast", "nan", "-1e-3", "inf", ""),
    "model.hidden_size": (*_SIZES, "7"),
    "model.num_heads": ("0", "3", "-1", "many"),
    "data.mask_rate": _SHARES,
    "model.hidden_dropout": ("1.0", "-1", "2", "much"),
    "data.format": _CHOICES,
    "optimizer.schedule": _CHOICES,
    "model.dtype": ("float16", "int8", "bf16", ""),
    "data.sequence_length": ("0", "-1", "9999999", "x", "2"),
    "mesh.data": ("0", "3", "-2", "x"),
    "mesh.tensor": ("0", "5", "x"),
    "data.phases": ("({'share': 2.0},)", "(1,)", "x", "({},)"),
    "train.keep_newest": ("0", "-1", "x"),
    "seed": ("-1", "x", "1.5"),
    "train.microbatches": ("0", "3", "-1", "x"),
    "init_from": _PATHS,
    "data.corpus": _PATHS,
    "model.positions": _CHOICES,
    "train.eval_batches": _WHOLE,
}
_TASK_KEYS = {
    "task.train": _PATHS,
    "task.held_out": _PATHS,
    "init_from": _PATHS,
    "seeds": ("0", "-1", "x", "1.5"),
    "task.name": _CHOICES,
    "optimizer.learning_rate": ("fast", "nan", "inf"),
    "data.batch_size": ("0", "-1", "x"),
    "data.sequence_length": ("0", "1", "9999999"),
    "task.problem": _CHOICES,
    "train.num_epochs": ("-1", "0", "x", "nan"),
    "tuning.layer_decay": ("0", "-1", "x", "2"),
    "tuning.lora_rank": ("-1", "x", "1.5"),
    "task.held_out_share": _SHARES,
}
# Flags of each command with what they may be given; all of it is a mistake.
_FLAGS = {
    "prepare": {
        "input": (*_PATHS, "tfds:", "tfds:none/none", "python-doc"),
        "tokenizer": (
            *_PATHS,
            "train:",
            "train:wordpiece",
            "train:wordpiece:x",
            "train:wordpiece:-5",
            "train:letters:100",
            "train:wordpiece:3",
        ),
        "eval_share": _SHARES,
        "documents": _CHOICES,
        "sentences": _CHOICES,
        "language": ("", "xx-nonsense", "english language", "1"),
        "lower_case": _CHOICES,
        "workers": (*_WHOLE, "0"),
        "output": ("", "{folder}/noise.bin", "{folder}/full", *_LOCKED),
        "add_tokens": _PATHS[1:6],
        "text_field": ("", "none", "a.b"),
        "runner": _CHOICES,
        "strip_accents": _CHOICES,
    },
    "show_batch": {"rows": (*_WHOLE, "0"), "step": _WHOLE, "config": (*_PATHS[1:6], "bert_bse", "finetune/sst2")},
    "pretrain": {
        "workdir": ("", "{folder}/noise.bin", "{folder}/noise.bin/x", "{folder}/loop", "{folder}/full", *_LOCKED),
        "config": (*_PATHS[1:6], "bert_bse", "finetune/sst2"),
        "num_processes": ("x", "0", "-1"),
    },
    "doctor": {
        "plan": _PATHS[1:6],
        "scratch": _PATHS[1:6],
        "output": ("{folder}", "{folder}/absent/x", *_LOCKED),
        "plan_entry": _CHOICES,
    },
    "evaluate": {
        "model": _PATHS,
        "corpus": _PATHS,
        "output": ("{folder}", "{folder}/absent/x", *_LOCKED),
        "split": _CHOICES,
        "seed": _WHOLE,
        "mask_token_share": _SHARES,
        "random_token_share": _SHARES,
        "batches": _WHOLE,
        "mask_rate": _SHARES,
        "sequence_length": (*_WHOLE, "0", "9999999"),
        "step": ("x", "-1", "7777"),
        "format": _CHOICES,
        "mask_unit": _CHOICES,
        "batch_size": _SIZES,
    },
    "finetune": {
        "workdir": ("", "{folder}/noise.bin", "{folder}/full", *_LOCKED),
        "config": (*_PATHS[1:6], "finetune/sst3", "bert_base"),
    },
    "predict": {
        "model": _PATHS,
        "input": _PATHS[:12],
        "output": ("{folder}", "{folder}/absent/x.jsonl", "{folder}/x.doc", *_LOCKED),
        "output_format": _CHOICES,
        "text_column": ("none", ""),
        "step": ("x", "-1", "7777"),
        "top_k": _SIZES,
        "dtype": _CHOICES,
        "packing": _CHOICES,
        "input_format": _CHOICES,
        "fields": ("x", "=", "text=", "a=b=c", "none=text"),
    },
    "convert": {
        "input": _PATHS,
        "output": ("", "{folder}/noise.bin", "{folder}/full", *_LOCKED),
        "dtype": _CHOICES,
        "step": ("x", "-1"),
        "part": _CHOICES,
    },
    "plan": {
        "topology": ("", "v5e", "v99:2x2", "v5e:2x3x", "v5e:0x0", "v5e:-1x2", "2x2", "v5e:axb"),
        "num_slices": (*_WHOLE, "0"),
        "json": ("{folder}", "{folder}/noise.bin/x", *_LOCKED),
        "config": (*_PATHS[1:6], "bert_bse", "finetune/sst2"),
    },
    "quickstart": {
        "folder": ("", "{folder}/noise.bin", "{folder}/noise.bin/x", "{folder}/full", *_LOCKED),
        "config": ("bert_bse", "{folder}/absent", "finetune/sst2"),
    },
    "launch": {
        "experiment": (*_PATHS[:6], "maskin"),
        "corpus": _PATHS[1:6],
        "jobs": _WHOLE,
        "seeds": (*_WHOLE, "0"),
        "scale": _CHOICES,
        "executor": _CHOICES,
        "workdir": ("", "{folder}/noise.bin", "{folder}/full", *_LOCKED),
        "slurm": ("x", "=", "none=1"),
        "cloud": ("x", "=", "none=1"),
        "tasks": ("none", "sst2,x", "1"),
        "set": ("x", "=1", "data.nonsense=1", "train.num_steps=x"),
        "tune": ("x", "", "1e-3,x", "nan", "-1"),
        "tune_task": ("x", "sst2", "none:1e-3"),
        "set_task": ("x", "none:a=b", ":"),
    },
    "report": {"workdir": _PATHS, "output": ("{folder}/noise.bin", "{folder}/noise.bin/x", *_LOCKED)},
    "classify": {
        "model": _PATHS,
        "input": _PATHS[:12],
        "output": ("{folder}/x.npy", "{folder}/x.doc", *_LOCKED),
        "long": _CHOICES,
        "merge": _CHOICES,
        "prompt_name": ("none", " "),
        "text_pair_column": ("none",),
    },
    "embed": {
        "model": _PATHS[:8],
        "pooling": ("", "nonsense", "mean,", "cls,none", "MEAN"),
        "prompt_name": ("none", " "),
        "output": ("{folder}/x.doc", "{folder}", *_LOCKED),
    },
    "search": {
        "model": _PATHS[:8],
        "corpus": _PATHS[:12],
        "queries": _PATHS[:12],
        "index": ("{folder}", "{folder}/full", *_LOCKED),
        "qrels": _PATHS[:8],
        "top_k": (*_WHOLE, "0"),
        "id_column": ("none",),
        "query_column": ("none",),
        "output": ("{folder}/x.doc", "{folder}", *_LOCKED),
    },
    "mine": {
        "model": _PATHS[:8],
        "input": _PATHS[:12],
        "corpus": _PATHS[:12],
        "anchor": ("none",),
        "positive": ("none", "text"),
        "relevance_id": ("none",),
        "negatives": (*_WHOLE, "0"),
        "depth": (*_WHOLE, "0", "1"),
        "skip": (*_WHOLE, "100"),
        "margin": ("x", "1", "-2", "nan"),
        "sampling": _CHOICES,
        "output": ("{folder}/x.doc", "{folder}", *_LOCKED),
    },
    "tag": {"model": _PATHS[:8], "text": ("a b",)},
    "answer": {
        "model": _PATHS[:8],
        "question": ("who",),
        "max_answer_length": (*_WHOLE, "0"),
        "null_threshold": ("x", "nan", "inf"),
    },
    "demo": {"model": _PATHS, "port": (*_WHOLE, "65536", "-1")},
    "recipes": {"verbosity": ("x",), "nonsense": ("1",)},
    "completion": {"verbosity": ("x",), "nonsense": ("1",)},
    "bert-jax": {"nonsense": ("1",), "verbosity": ("x",)},
}


# Contents of files that commands read: (ending, content), with the flags that name such a file.
_RECIPES = (
    (".py", b"def get_config(:\n"),
    (".py", b"x = 1\n"),
    (".py", b"def get_config():\n    return 1\n"),
    (".py", b"\xff\xfe"),
    (".py", b"import nothing_of_this_name\n"),
    (".py", b"def get_config():\n    raise ValueError('no\\nway')\n"),
    (".py", b""),
    (".py", b"def get_config():\n    from bert_jax.config import base\n    c = base()\n    c.data = 3\n    return c\n"),
    (".py", b"import sys\nsys.exit('gone')\n"),
    (".py", b"def get_config(a, b):\n    pass\n"),
    (".json", b"{}"),
)
_EXPERIMENTS = (
    *_RECIPES[:3],
    (".py", b"def get_experiment(scale):\n    return None\n"),
    (".py", b"def get_experiment():\n    pass\n"),
    (".py", b"def get_experiment(scale):\n    return {}[scale]\n"),
    (".py", b"1 / 0\n"),
    (".py", b"get_experiment = 3\n"),
)
_TASKS = (
    (".jsonl", b'{"sentence": 3, "label": "a"}\n'),
    (".jsonl", b'{"sentence": ["a"], "label": "a"}\n'),
    (".jsonl", b"[]\n"),
    (".jsonl", b'{"sentence": "a"}\n'),
    (".jsonl", b'{"sentence": "a", "label": null}\n'),
    (".jsonl", b'{"sentence": "a", '),
    (".jsonl", b'{"sentence": "a", "label": {"x": 1}}\n'),
    (".csv", b"sentence,label\n"),
    (".csv", b"a,b\n1,2\n"),
    (".csv", b""),
    (".csv", b'sentence,label\n"a,b\n'),
    (".tsv", b"sentence\tlabel\na\tb\tc\n"),
    (".parquet", b"PAR1noise"),
    (".csv", b"\xff\xfes\0"),
    (".jsonl", b'{"sentence": "a", "label": "x"}\n' * 3),
    (".conll", b"a b c\n"),
    (".json", b"{}"),
    (".jsonl.gz", b"\x1f\x8b\x08noise"),
    (".jsonl", b'{"sentence": "\\ud800", "label": "x"}\n'),
    (".jsonl", b"NaN\n"),
    (".jsonl", b"[" * 5000 + b"\n"),
)
_TEXTS = (
    (".jsonl", b'{"text": 3}\n'),
    (".jsonl", b'{"text": null}\n'),
    (".jsonl", b'{"txt": "a [MASK]"}\n'),
    (".jsonl", b'{"text": ["a"]}\n'),
    (".jsonl", b'{"text": "no mask"}\n'),
    (".txt", b"no mask here\n"),
    (".txt", b"\xff\xfe\x00"),
    (".txt.gz", b"\x1f\x8b\x08noise"),
    (".csv", b"a,b\n[MASK],2\n"),
    (".csv", b"text\n"),
    (".tsv", b""),
    (".jsonl", b"{\n"),
    (".jsonl", b'{"text": {"a": 1}}\n'),
    (".txt", b"\n\n"),
    (".parquet", b"PAR1noisePAR1"),
    (".npy", b"noise"),
    (".jsonl", b"[" * 5000 + b"\n"),
    (".txt.gz", b"plain [MASK]"),
)
_PAIRS = (
    (".jsonl", b'{"good": "a"}\n'),
    (".jsonl", b'{"good": 1, "bad": 2}\n'),
    (".jsonl", b"3\n"),
    (".jsonl", b""),
    (".jsonl", b"\xff\n"),
    (".jsonl", b'{"good": null, "bad": "a"}\n'),
    (".jsonl", b'{"good": ["a"], "bad": ["b"]}\n'),
    (".jsonl", b"{"),
)
_SOURCES = (
    (".txt", b""),
    (".txt", b"\n \n"),
    (".jsonl", b'{"txt": "a"}\n'),
    (".jsonl", b"noise\n"),
    (".jsonl.gz", b"noise"),
    (".doc", b"text\n"),
    (".parquet", b"PAR1"),
    (".txt.gz", b"\x1f\x8b\x08noise"),
    (".jsonl", b'{"text": 5}\n'),
    (".txt", b"\x00" * 1000),
)
_CONTENTS = {
    ("pretrain", "config"): _RECIPES,
    ("show_batch", "config"): _RECIPES,
    ("finetune", "config"): _RECIPES,
    ("plan", "config"): _RECIPES,
    ("launch", "experiment"): _EXPERIMENTS,
    ("finetune", "config.task.train"): _TASKS,
    ("finetune", "config.task.held_out"): _TASKS,
    ("predict", "input"): _TEXTS,
    ("evaluate", "pairs"): _PAIRS,
    ("prepare", "input"): _SOURCES,
    ("prepare", "tokenizer"): (
        (".txt", b""),
        (".txt", b"a\na\n"),
        (".txt", b"\xff\n"),
        (".json", b"{}"),
        (".json", b"[1]"),
        (".model", b"noise"),
        (".txt", b"one\ntwo\n"),
    ),
    ("doctor", "plan"): (
        (".json", b"{}"),
        (".json", b"[]"),
        (".json", b"3"),
        (".json", b"{"),
        (".json", b'{"chips": []}'),
    ),
}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A command line that cannot work.

    Attributes:
      arguments: the command line behind the command's name.
      what: says in words what is wrong.
      certain: whether it must be refused.
    """

    command: str
    arguments: tuple[str, ...]
    what: str
    certain: bool = True


def make_places(folder):
    """Makes what paths lead to."""
    folder.mkdir()
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "notes").write_text("mine")
    (folder / "empty.txt").touch()
    (folder / "noise.bin").write_bytes(random.Random(0).randbytes(5000))
    (folder / "latin1.txt").write_bytes("caf\u00e9 cr\u00e8me\n".encode("latin1") * 3)
    (folder / "nul.txt").write_bytes(b"a\0b\n")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "locked" / "below").mkdir(parents=True)
    (folder / "locked").chmod(0)
    (folder / "locked.txt").touch(0)
    (folder / "read_only").mkdir(0o555)


def with_flag(arguments, flag, value):
    """Returns arguments with the flag set to the value, in place of what it was."""
    return [*(one for one in arguments if not one.startswith(f"--{flag}=")), f"--{flag}={value}"]


def misspelt(word, draw):
    """Returns a word with a letter doubled, dropped, or swapped with the next."""
    at = draw.randrange(1, len(word) - 1)
    return draw.choice(
        [
            word[:at] + word[at:][:1] + word[at:],
            word[:at] + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        ]
    )


def damaged(path, draw):
    """Damages one file of a folder, and says how."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in ("lock", "output.txt"))
    file = draw.choice(files)
    content = file.read_bytes()
    how = draw.choice(
        [
            "emptied",
            "cut in half",
            "removed",
            "replaced by noise",
            "replaced by []",
            "replaced by null",
            "with a bit turned",
        ]
    )
    if how == "removed":
        file.unlink()
    else:
        at = draw.randrange(max(1, len(content)))
        bit = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :] if content else b"x"
        file.write_bytes(
            {
                "emptied": b"",
                "cut in half": content[: len(content) // 2],
                "replaced by noise": draw.randbytes(300),
                "replaced by []": b"[]",
                "replaced by null": b"null",
                "with a bit turned": bit,
            }[how]
        )
    return f"{file.relative_to(path)} {how}"


def all_commands(workspace):
    """Returns the campaigns' commands, and those that they leave out, by name."""
    commands = workspace.commands()
    predict, tuned, run = "bert_jax.predict", workspace.tuned / "out", workspace.run / "out"
    files = [f"--input={workspace.texts}", "--output={here}/out.jsonl"]
    pairs = workspace.folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"anchor": f"a {a}", "positive": f"b {a}"}) + "\n" for a in WORDS), "utf-8")
    texts = [f"--corpus={workspace.texts}", "--output={here}/out.jsonl"]
    others = [
        Command(
            "search",
            predict,
            ["search", f"--model={run}", f"--queries={workspace.texts}", "--index={here}/index", *texts],
        ),
        Command("mine", "bert_jax.mine", [f"--model={run}", f"--input={pairs}", *texts]),
        Command("classify", predict, ["classify", f"--model={tuned}", *files]),
        Command("embed", predict, ["embed", f"--model={run}", *files]),
        Command("tag", predict, ["tag", f"--model={tuned}", *files]),  # a model of another kind, as for answer
        Command("answer", predict, ["answer", f"--model={tuned}", "--question=who", "--context=a b"]),
        Command("demo", "bert_jax.demo", [f"--model={workspace.folder / 'absent'}", "--port=0"]),
        Command("completion", "bert_jax.completion", ["bash"]),
    ]
    return commands | {command.name: command for command in others}


def draw_mistake(workspace, commands, here, draw):
    """Returns a mistake, whose files are made in `here`."""
    make_places(here / "places")
    folder = str(here / "places")
    name = draw.choice(list(_FLAGS))
    command = commands[name]
    arguments = command.arguments(here)[3:]
    if name == "launch":
        arguments = [*arguments, "--dry_run"] if draw.random() < 0.5 else arguments
    kind = draw.choice(["value", "value", "key", "word", "file", "content", "content"])
    if kind == "content":
        name, flag = draw.choice(list(_CONTENTS))
        ending, content = draw.choice(_CONTENTS[name, flag])
        path = here / "places" / f"made{ending}"
        path.write_bytes(content)
        arguments = with_flag(commands[name].arguments(here)[3:], flag, path)
        if flag == "pairs":
            arguments = [one for one in arguments if not one.startswith(("--corpus=", "--sequence_length="))]
        shown = content if len(content) < 80 else content[:80] + b"..."
        return Mistake(name, tuple(arguments), f"--{flag}={ending} of {shown!r}", certain=False)
    if kind == "key" and name in ("show_batch", "pretrain", "finetune", "plan", "quickstart"):
        keys = _TASK_KEYS if name == "finetune" else _KEYS
        key = draw.choice(list(keys))
        value = draw.choice(keys[key]).replace("{folder}", folder)
        # Some of a recipe's keys do not concern a batch or a plan, and some values are none of these lists' business.
        certain = name in ("pretrain", "finetune") and value not in ("", "None", "1_0_", "[1]")
        if draw.random() < 0.2:
            key, certain = misspelt(key, draw), True
        return Mistake(name, tuple(with_flag(arguments, f"config.{key}", value)), f"config.{key}={value!r}", certain)
    if kind == "word":
        flag = draw.choice(list(_FLAGS[name]))
        wrong = draw.choice(
            [
                f"--{misspelt(flag, draw)}=1",
                f"--no{flag}x",
                "stray",
                "--",
                "-x",
                f"--{flag}",
                "--=",
                "---",
                "\u00e9",
                f"{flag}=1",
            ]
        )
        return Mistake(name, (*arguments, wrong), f"word {wrong!r}", wrong not in ("--", f"--{flag}"))
    if kind == "file" and name in ("predict", "convert", "evaluate", "doctor", "report", "finetune", "pretrain"):
        source = {
            "predict": workspace.run / "out",
            "evaluate": draw.choice([workspace.run / "out", workspace.corpus]),
            "convert": workspace.tuned / "out",
            "doctor": workspace.run / "out",
            "report": workspace.launched / "out",
            "finetune": workspace.run / "out",
            "pretrain": workspace.corpus,
        }[name]
        shutil.copytree(source, here / "copy", symlinks=True)
        what = damaged(here / "copy", draw)
        changed = tuple(argument.replace(str(source), str(here / "copy")) for argument in arguments)
        if name == "pretrain":
            changed = (*changed, f"--config.data.corpus={here / 'copy'}", "--config.train.num_steps=2")
        return Mistake(name, changed, what, certain=False)
    flag = draw.choice(list(_FLAGS[name]))
    value = draw.choice(_FLAGS[name][flag]).replace("{folder}", folder)
    certain = bool(value) and value not in ("None", "*") and not (flag == "corpus" and "--dry_run" in arguments)
    return Mistake(name, tuple(with_flag(arguments, flag, value)), f"--{flag}={value!r}", certain)


# Starts the program that follows without a superuser's right to pass over permissions; nothing for any other user.
_AS_A_USER = """
import ctypes, os, sys
for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


def run(workspace, module, arguments, here):
    """Runs a command in the folder `here`. Returns (exit code, output, standard error, seconds of processor time)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-c", _AS_A_USER, sys.executable, "-m", module, *arguments],
        cwd=here,
        env=workspace.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        output, error = process.communicate(timeout=_WAIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, error = process.communicate()
        error += b"\n(hung)"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.returncode, output.decode(errors="replace"), error.decode(errors="replace"), seconds


def fault(code, output, error, seconds, mistake):
    """Says what is wrong with a command's end; "" if nothing is."""
    if error.endswith("(hung)"):
        return "it hangs"
    if _CRASH.search(error) or _CRASH.search(output):
        return "it crashes"
    if code == 0:
        return "it is not refused" if mistake.certain else ""
    if code != 2:
        return "" if (code, mistake.command) == (1, "launch") else f"exit code {code}"
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    last = error.strip().splitlines()[-1:] or [""]
    if len(lines) != 1 or not last[0].startswith("error: "):
        return "not one line at the end"
    return f"told after {seconds:.0f} s of processor time" if seconds > _LONGEST else ""


def campaign(workspace, tally, mistakes, seed):
    draw = random.Random(seed)
    commands = all_commands(workspace)
    faults = []
    for number in range(mistakes):
        here = workspace.folder / f"mistake-{seed}-{number}"
        here.mkdir()
        mistake = draw_mistake(workspace, commands, here, draw)
        if any("\0" in argument for argument in mistake.arguments):
            continue
        module = commands[mistake.command].module
        code, output, error, seconds = run(workspace, module, mistake.arguments, here)
        wrong = fault(code, output, error, seconds, mistake)
        tally["done no harm" if code == 0 else "refused in one line"] += not wrong
        tally[f"{mistake.command}"] += 1
        if wrong:
            tally[f"fault: {wrong.partition(' after')[0]}"] += 1
            faults.append(f"{number}: {mistake.command} {mistake.what}: {wrong} (exit code {code})\n{error[-600:]}")
            print(faults[-1], flush=True)
        if (here / "places").exists():
            (here / "places" / "locked").chmod(0o700)
            (here / "places" / "read_only").chmod(0o700)
        shutil.rmtree(here)
    assert not faults, "\n\n".join([f"{len(faults)} of {mistakes} (seed {seed})", *faults])


@pytest.mark.slow
def test_four_hundred_mistakes(workspace, tally):
    campaign(workspace, tally, tries(400), SEED + 4)
