"""Flags that several commands share: --help-keys, and mistakes that end in one line."""

import glob
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from bert_jax import cli, command, listing
from bert_jax.config import finetuning, load_recipe
from bert_jax.errors import command_line, quoted
from tests.runs.test_continuation import begin


def run(command, *arguments):
    return subprocess.run([sys.executable, "-m", f"bert_jax.{command}", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "arguments", "line"),
    [
        ("pretrain", ["--help-keys=mesh"], "config.mesh.fsdp = 1"),
        ("pretrain", ["--config=modernbert_base", "--help_keys=model.norm_place"], "config.model.norm_place = 'pre'"),
        ("finetune", ["--help-keys=config.task"], "config.task.name = 'sequence_classification'"),
        ("quickstart", ["--help-keys"], "config.seed = 0"),
    ],
)
def test_help_keys_lists_keys_with_their_defaults(command, arguments, line):
    result = run(command, *arguments)
    assert result.returncode == 0, result.stderr
    assert any(shown.startswith(line) for shown in result.stdout.splitlines())
    if "mesh" in arguments[-1]:
        assert "config.model" not in result.stdout


def test_help_keys_names_the_groups_for_an_unknown_prefix():
    result = run("pretrain", "--help-keys=modle")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --help-keys=modle: ") and len(result.stderr.splitlines()) == 1


def test_an_unknown_recipe_is_named():
    result = run("recipes", "xyz")
    assert result.returncode == 2
    expected = "error: xyz: no such recipe; expected pretraining, finetuning or the name of a recipe\n"
    assert result.stderr == expected


def test_a_mistake_is_one_line_where_standard_output_is_closed():
    line = f"exec {shlex.quote(sys.executable)} -m bert_jax.prepare unexpected >&-"
    result = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: unexpected: unexpected argument"), result.stderr
    assert result.stderr.count("\n") == 1


def test_help_lists_the_flags_that_commands_share_and_succeeds():
    result = run("pretrain", "--help")
    assert result.returncode == 0
    for flag in ("config", "help_keys", "workdir", "coordinator_address", "num_processes", "process_id"):
        assert f"  --{flag}:" in result.stdout


@pytest.mark.one_in(3)
@pytest.mark.parametrize("command", ["predict", "doctor"])
@pytest.mark.parametrize(
    ("called", "named"),
    [
        (["-m", "bert_jax.{}"], "python -m bert_jax.{}"),
        (["-m", "bert_jax", "{}"], "python -m bert_jax {}"),
        (["-c", "from bert_jax.cli import main; main()", "{}"], "bert-jax {}"),
    ],
)
def test_a_message_names_the_program_as_it_was_called(called, named, command):
    words = [word.format(command) for word in called]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert result.returncode == 2 and f"expected {named.format(command)} " in result.stderr
    result = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and f"\n    {named.format(command)} " in result.stdout


def test_a_python_session_is_shown_the_console_script(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "-m"])
    assert command_line("show_batch") == "bert-jax show-batch"


def test_the_home_directory_is_found_in_every_path(tmp_path, monkeypatch):
    """Shells expand "~/" only at the beginning of a word, so not in --name=~/path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    corpora = f"config.data.corpus={tmp_path}/a,{tmp_path}/b"
    for argument, value in (
        ("--config.data.corpus=~/a,~/b", f"--{corpora}"),
        ("--workdir=~/runs/x", f"--workdir={tmp_path}/runs/x"),
        ("--config.task.held_out=matched=~/m.tsv,other=~/n.tsv", f"={tmp_path}/m.tsv,other={tmp_path}/n.tsv"),
        ("~/runs/x", f"{tmp_path}/runs/x"),
        ("--input=a~/b", "--input=a~/b"),
        ("--text=~/b", "--text=~/b"),
    ):
        assert command._expanded(argument, ("text",)).endswith(value)
    (tmp_path / "recipe.py").write_text(
        "import bert_jax.config as c\ndef get_config():\n  r = c.base()\n  r.data.corpus = '~/a,~/b'\n  return r\n"
    )
    assert load_recipe(str(tmp_path / "recipe.py")).data.corpus == f"{tmp_path}/a,{tmp_path}/b"
    for name, arguments in (
        ("pretrain", ["--config=small", "--config.data.corpus=~/absent", "--workdir=~/run"]),
        ("doctor", ["~/absent"]),
        ("evaluate", ["--model=~/absent", "--corpus=~/absent"]),
    ):
        result = run(name, *arguments)
        assert result.returncode == 2 and f"{tmp_path}/absent" in result.stderr, result.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_recipes_and_keys(flag):
    for name, kind in (("pretrain", "pretraining"), ("finetune", "finetuning")):
        result = run(name, flag)
        assert result.returncode == 0 and not result.stderr
        for recipe in listing.recipe_names(kind):
            assert f"\n  {recipe} " in result.stdout and listing.description(recipe) in result.stdout
        for key in listing.MOST_USED[kind]:
            assert f"\n  {key} " in result.stdout and listing.keys(kind)[key].doc in result.stdout
        assert "--help-keys" in result.stdout and __file__.partition("tests")[0] not in result.stdout


SLOW = {"jax", "flax", "optax", "orbax", "grain", "transformers", "matplotlib", "gradio", "pyarrow", "scipy"}


@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.EXPERIMENT_COMMANDS])
def test_every_command_has_both_helps_which_import_nothing_slow(name, tmp_path):
    program = (
        "import atexit, sys\n"
        "from bert_jax import cli\n"
        f"atexit.register(lambda: print('loaded:', *sorted({SLOW} & set(sys.modules)), file=sys.stderr))\n"
        "cli.main(sys.argv[1:])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    texts = [
        subprocess.run(
            [sys.executable, "-c", program, name, flag], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        for flag in ("-h", "--help")
    ]
    assert [text.returncode for text in texts] == [0, 0] and texts[0].stdout == texts[1].stdout
    assert texts[0].stdout.startswith(cli.summary(name))
    assert [text.stderr for text in texts] == ["loaded:\n"] * 2


NEEDS_A_CORPUS = "pretrain --config small --workdir W --config.train.microbatches auto"  # reads what there is of one
# A mistake, the command that it is made in, and what the one line says. All are told without jax.
MISTAKES = {
    "pretrain --config=bert_bse --workdir=W": "--config=bert_bse: no such file or recipe; did you mean bert_base?",
    "pretrain --config=BERT-Base --workdir=W": "no such file or recipe; did you mean bert_base? (",
    "finetune --config=sst-2 --workdir=W": "no such file or recipe; did you mean finetune/sst2? (",
    "finetune --config=pairs --workdir=W": "did you mean embedding/pairs or reranker/pairs? (",
    "finetune --config=stsbb --workdir=W": "did you mean finetune/stsb? (",
    "pretrain --confg=bert_base": "--confg: unknown flag; did you mean --config? (see --help)",
    "finetune --Config.seed=1 --workdir=W": "--Config.seed: unknown flag; did you mean --config.seed? (see --help)",
    "pretrain --workdir=W --seed=3": "--seed: unknown flag; did you mean --config.seed? (see --help)",
    "pretrain --config=bert_base --workdir=W --config.Data.Corpus=x": "did you mean data.corpus?",
    "predict Fill_Mask --model=M": "did you mean fill-mask?",
    "launch --experiment=masking --workdir=W --executor=Slrum": "local, slurm, cloud; did you mean slurm?",
    "launch --experiment=masking --workdir=W --corpus=C --text=T": "--text=T: not read beside --corpus=C; expected one",
    "launch --experiment=Maskin --workdir=W": "did you mean masking?",
    "pretrain --config=bert_base --workdir=W --config.data.corpsu=x": "did you mean data.corpus?",
    "pretrain --config=bert_base --wrokdir=W": "--wrokdir: unknown flag; did you mean --workdir? (see --help)",
    "pretrain --config=bert_base --workdir=W --learning_rate=1": "did you mean --config.optimizer.learning_rate?",
    "pretrain --config=bert_base --workdir=W --data.corpus=x": "did you mean --config.data.corpus?",
    "pretrain --config=bert_base --workdir=W --config.train.num_steps=ten": "num_steps=ten: expected a whole number",
    "pretrain --config=bert_base --workdir=W --config.optimizer.b1=x": "optimizer.b1=x: expected a number",
    "pretrain --config=bert_base --workdir=W --config.data.batch_size=0": "config.data.batch_size: found 0; expected",
    "pretrain --config=bert_base --workdir=W --config.model.positions=rotry": "did you mean rotary?",
    "pretrain --config=bert_base --workdir=W --config.model.hidden_size=770": "not divisible by config.model.num_heads",
    "pretrain --config=bert_base --workdir=W --config.data.format=full_sentences": "has no sentence pairs",
    "pretrain --config=finetune/sst2 --workdir=W": "--config: a fine-tuning recipe",
    "pretrain --workdir=W": "--config: missing, and --workdir=W holds no run to continue; expected --config=RECIPE",
    "pretrain": "--config: missing; expected --config=RECIPE",
    "quickstart --config=finetune/sst2": "--config: a fine-tuning recipe, for bert-jax finetune; expected one of pre-",
    "show_batch --config=finetune/sst2": "--config: a fine-tuning recipe, for bert-jax finetune; expected one of pre-",
    "show_batch --config=small --config.data.mask_rate=2": "config.data.mask_rate",
    "quickstart --config.train.num_steps=-1": "config.train.num_steps",
    "finetune --config=finetune/sst3 --workdir=W": "did you mean finetune/sst2?",
    "finetune --config=embedding/pairs --workdir=W --config.init_from=x/y --config.task.train=T "
    "--config.task.text=q": "config.task.text: not read with config.task.name=embedding; expected config.task.anchor",
    "finetune --config=finetune/sst2 --workdir=W": "config.init_from: empty; expected a model to start from",
    "pretrain --config=small --workdir=W --config.init_from=/no/model": "/no/model: no such directory; expected a",
    "finetune --config=finetune/sst2 --workdir=W --config.init_from=/no/m@5": "/no/m: no such directory; expected a",
    "finetune --config=bert_base --workdir=W": "--config: a pre-training recipe",
    "finetune --workdir=W": "--config: missing, and --workdir=W holds no run to continue",
    "predict embd --model=M": "did you mean embed?",
    "predict embed --model=M --text=x --dtype=bfloat": "--dtype=bfloat: expected one of float32, bfloat16; did you",
    "predict embed --modle=M --text=x": "--modle: unknown flag; did you mean --model?",
    "recipes pretrainng": "did you mean pretraining?",
    "recipes bert_bsae": "bert_bsae: no such recipe; expected pretraining, finetuning or the name of a recipe; did you "
                         "mean bert_base?",
    "recipes sst2": "did you mean finetune/sst2?",
    "pretrain --config=small --workdir=W --config.lr=3": "config.lr: unknown key, expected a known key; did you mean "
                                                         "optimizer.learning_rate?",
    "pretrain --config=small --workdir=W --bs=3": "--bs: unknown flag; did you mean --config.data.batch_size? (see",
    "finetune --config=finetune/sst2 --workdir=W --epochs=3": "did you mean --config.train.num_epochs?",
    "finetune --config=finetune/sst2 --workdir=W --num_epochs=3": "did you mean --config.train.num_epochs?",
    "pretrain --config=small --workdir=W --num_steps=3": "did you mean --config.train.num_steps?",
    "convert --workdir=W": "--workdir: unknown flag; did you mean --model? (see --help)",
    "predict embed --text=x --workdir=W": "--workdir: unknown flag; did you mean --model? (see --help)",
    "pretrain --config=small --output_dir=W": "--output_dir: unknown flag; did you mean --workdir? (see --help)",
    "predict embed --model=M --text=x --pooling=maen": "error: --pooling=maen: found 'maen'; expected cls, mean, ",
    "predict embed --model=M --text=x --pooling=mean,last_2_conct": "did you mean last_4_concat?",
    "predict search --model=M --corpus=C --queries=Q --pooling=clss": "did you mean cls?",
    "pretrain --config=small --workdir=W --config.train.microbatches=autoo": "microbatches=autoo: expected a whole "
    "number, or auto for the fewest that fit the memory",
    "finetune --config=finetune/sst2 --workdir=W --config.train.microbatches=a": "a whole number, or auto for",
    "convert --modl=M --output=D": "--modl: unknown flag; did you mean --model?",
    "convert A B": "A, B: unexpected arguments; did you mean --model=A --output=B? (see --help)",
    "convert --model A B C D": "B, C, D: unexpected arguments; options look like --name=value",
    "convert --model=M --nooverwrite=1": "--nooverwrite=1: found a value; expected --nooverwrite, or --overwrite=True",
    "convert --model=M --overwrite no": "no: unexpected argument; did you mean --overwrite=False?",
    "evaluate M C": "did you mean --model=M --corpus=C?",
    "predict fill-mask --model=M --text=The [MASK] sat": "did you mean --text='The [MASK] sat'?",
    "predict fill-mask --model=M --keep_columns=maybe": "--keep_columns=maybe: expected True or False",
    "pretrain small W": "small, W: unexpected arguments; did you mean --config=small --workdir=W?",
    "pretrain --config small --workdir": "--workdir: no value; expected --workdir=VALUE (see --help)",
    "pretrain --config small --workdir W train.num_steps=4": "did you mean --config.train.num_steps=4?",
    "pretrain --config small --workdir W --config.train.report maybe": "maybe: unexpected argument",
    "pretrain --config=small --workdir=W --config.train.report=maybe": "report=maybe: expected True or False",
    NEEDS_A_CORPUS: "config.data.corpus: empty",
    "pretrain --config": "--config: no value; expected --config=RECIPE",
    "finetune --flagfile=absent": "--flagfile=absent: cannot be read; expected a file with one flag on each line",
    "doctor W --plan_entry=x": "--plan_entry=x: an entry of --plan, which is missing; expected --plan=FILE too",
    "predict embed --model= --text=x": "--model: empty; expected --model=VALUE (see --help)",
    "report --workdir=": "--workdir: empty; expected --workdir=VALUE",
    "launch --experiment=masking --workdir=": "--workdir: empty; expected --workdir=VALUE",
    "convert --model=M --output=": "--output: empty; expected --output=VALUE",
    "evaluate --model= --corpus=C": "--model: empty; expected --model=VALUE",
    "doctor a b": "b: unexpected argument; options look like",
}  # fmt: skip


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.EXPERIMENT_COMMANDS])
def test_a_mistyped_help_is_told(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    words = [*cli.POSITIONAL.get(name, ())[:1], {"plan": "--hepl", "evaluate": "--hlep"}.get(name, "--halp")]
    result = subprocess.run(
        [sys.executable, "-m", "bert_jax", name, *words], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 2 and result.stderr == f"error: {words[-1]}: unknown flag; did you mean --help?\n"


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain --config=small --workdir=W --config.data.corpus=corpora/boks", "did you mean corpora/books?"),
        ("show-batch --config=small --config.data.corpus=corpra/books", "did you mean corpora/books?"),
        ("doctor runs/qq", "runs/qq: no such folder; expected the workdir of a run; did you mean runs/q?"),
        ("doctor runs/q --scratch=run/q", "run/q: no such folder; expected the workdir of a run; did you mean runs/q?"),
        ("pretrain --workdir=runs/qq", "did you mean runs/q?"),
        ("pretrain --config=recpie.py --workdir=W", "did you mean recipe.py?"),
        ("finetune --config=finetune/sst2 --workdir=W --config.task.train=trian.csv --config.init_from=./hf",
         "config.task.train=trian.csv: no such file; expected a file, a glob, or tfds: or hf:NAME[/CONFIG]:SPLIT; did "
         "you mean train.csv?"),
        ("finetune --config=finetune/sst2 --workdir=W --config.init_from=./hff", "did you mean hf?"),
        ("predict embed --model=./hf --input=teh.txt --output=o.csv", "--input=teh.txt: no such file"),
        ("predict embed --model=./hf --input=the.tzt --output=o.csv", "did you mean the.txt?"),
        ("predict embed --model=./hff --text=x", "did you mean hf?"),
        ("predict embed --model=./hf --input=the.txt --output=run/o.csv", "did you mean runs?"),
        ("prepare --input=teh.txt --output=C --tokenizer=train:bpe:300", "did you mean the.txt?"),
        ("prepare --input=the.txt --output=C --tokenizer=vocba.txt", "did you mean vocab.txt?"),
        ("launch --experiment=./expirement.py --workdir=W", "did you mean experiment.py?"),
        ("report --workdir=runs/qq", "did you mean runs/q?"),
    ],
)  # fmt: skip
def test_a_mistyped_path_is_told_by_the_one_in_its_place(line, message, tmp_path):
    for folder in ("corpora/books", "runs", "hf"):
        (tmp_path / folder).mkdir(parents=True)
    begin(tmp_path / "runs" / "q", load_recipe("small"))
    (tmp_path / "runs" / "q" / "metrics.jsonl").write_text('{"step": 1, "train/loss": 3.0}\n')
    for name in ("train.csv", "the.txt", "vocab.txt", "recipe.py", "experiment.py"):
        (tmp_path / name).write_text("one two\n")
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-m", "bert_jax", *line.split()], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


@pytest.mark.one_in(4)
@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_before_jax_is_imported(line, tmp_path):
    program = (
        "import atexit, os, sys\n"
        "from bert_jax import cli\n"
        f"slow = {set() if line == NEEDS_A_CORPUS else {'numpy', 'tokenizers'}} | {{'jax', 'flax'}}\n"
        "atexit.register(lambda: print('loaded:', *sorted(slow & set(sys.modules))))\n"
        "cli.main(sys.argv[1:])\n"
    )
    root = str(pathlib.Path(__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", program, *line.split()], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert result.returncode == 2 and result.stdout == "loaded:\n", result.stdout + result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert MISTAKES[line] in result.stderr and len(result.stderr) < 300
    assert not any(tmp_path.iterdir())


TUNING = "finetune --config=finetune/sst2 --workdir=W"


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain --workdir=run --config.model.hidden_size=64", "--workdir=run: its run began with config.model.hidd"),
        ("pretrain --config=small --workdir=run --config.seed=3", "--workdir=run: its run began with config.seed=0"),
        ("pretrain --workdir=run --config.data.mask_rate=2", "config.data.mask_rate: "),
        ("pretrain --config=small --workdir=W --config.train.microbatches=7", "config.data.batch_size: "),
        ("pretrain --config=small --workdir=W --config.mesh.data=3", "config.mesh: data=3 x "),
        ("pretrain --workdir=run --config.mesh.data=3", "config.mesh: data=3 x "),
        (
            "pretrain --config=continue_pretraining --workdir=W --config.init_from=run@5 "
            "--config.data.sequence_length=2048",
            "config.data.sequence_length: 2048 is over config.model.max_positions=",
        ),
        (f"{TUNING} --config.init_from=hf --config.data.sequence_length=511", "config.data.sequence_length: 511 is over"
         " the 510 positions of config.init_from=hf; expected at most 510"),
        (f"{TUNING} --config.init_from=run@5 --config.data.sequence_length=2048", "config.data.sequence_length: 2048"),
        (f"{TUNING} --config.init_from=hf --config.train.microbatches=5", "config.data.batch_size: 32 is not divis"),
        (f"{TUNING} --config.init_from=hf --config.mesh.tensor=2", "config.mesh: data=-1 x fsdp=1 x tensor=2"),
        (f"{TUNING} --config.init_from=hf --config.task.train=absent.tsv", "config.task.train=absent.tsv: no such"),
        (f"{TUNING} --config.init_from=hf --config.task.train=b.xlsx", "b.xlsx: unknown kind of file for sequence"),
        (f"{TUNING} --config.init_from=hf --config.task.train=a.tsv --config.task.held_out=x=a.tsv,y=b.tsv",
         "config.task.held_out=b.tsv: no such file"),
        ("finetune --workdir=tuned --config.task.text=other", "--workdir=tuned: its run began with config.task.text="),
        ("finetune --workdir=tuned --config.optimizer.learning_rate=1", "--workdir=tuned: its run began with config.o"),
        ("finetune --workdir=run --config.seed=3", "--workdir=run: holds a run of pre-training; expected bert-jax pre"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("platforms", ["cpu", ""])
def test_a_mistake_of_sizes_is_told_before_jax_is_imported(line, message, platforms, tmp_path):
    if not platforms and (glob.glob("/dev/nvidia[0-9]*") or importlib.util.find_spec("jax_plugins")):
        pytest.skip("this machine: perhaps several devices")
    begin(tmp_path / "run", load_recipe("small"))
    tuned = finetuning.without_search(load_recipe("finetune/sst2"))
    tuned.init_from, tuned.task.train, tuned.task.held_out, tuned.optimizer.learning_rate = "hf", "a.tsv", "a.tsv", 2e-5
    begin(tmp_path / "tuned", tuned)
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n")
    (tmp_path / "b.xlsx").write_text("")
    (tmp_path / "hf").mkdir()
    source = {"model_type": "roberta", "max_position_embeddings": 512, "pad_token_id": 1}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(source))
    program = (
        "import atexit, sys\n"
        "from bert_jax import cli\n"
        "atexit.register(lambda: print('loaded:', *sorted({'jax', 'flax'} & set(sys.modules))))\n"
        "cli.main(sys.argv[1:])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1]), "JAX_PLATFORMS": platforms}
    for name in ("JAX_PLATFORMS",) * (not platforms) + ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", program, *line.split()], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (result.returncode, result.stdout) == (2, "loaded:\n"), result.stdout + result.stderr
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


def test_a_mistake_is_one_line_also_where_a_path_has_two():
    result = run("doctor", "runs/a\nb")
    assert result.returncode == 2 and result.stderr.startswith("error: runs/a\\nb") and result.stderr.count("\n") == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "line",
    [
        "prepare --input=texts.txt --tokenizer=PATH --output=O", "doctor PATH", "convert --model=M --output=PATH",
        "predict fill-mask --model=PATH --text=x", "plan --config=PATH --topology=v5e:1x1", "pretrain --workdir=PATH",
        "pretrain --config=small --workdir=W --config.data.corpus=PATH", "launch --experiment=masking --workdir=PATH",
    ],
)  # fmt: skip
def test_a_path_that_the_system_refuses_is_one_line(line, tmp_path):
    (tmp_path / "texts.txt").write_text("one two\n")
    name, *words = line.replace("PATH", f"{tmp_path}/{'n' * 300}").split()
    result = subprocess.run(
        [sys.executable, "-m", cli.module_of(name), *words], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ") and "File name too long; expected a path" in result.stderr
    assert len(result.stderr) < 300


@pytest.mark.parametrize("name", [b"plain", b"two words", b"caf\xe9/out", b"it's \\ \xff$HOME", "é".encode()])
def test_paths_in_commands_are_read_back_by_a_shell(name):
    word = quoted(os.fsdecode(name))
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == name
