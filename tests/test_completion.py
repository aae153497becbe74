"""Completion in real shells: the lists are those of the commands, and bash and zsh complete from them."""

import os
import pty
import select
import shutil
import subprocess
import sys

import pytest

from bert_jax import cli, completion, listing
from bert_jax.config.keys import PRETRAINING
from tests.commands import wait_until

CASES = {  # what is typed: what a shell offers
    "bert-jax pretra": ["pretrain"],
    "bert-jax pretrain --config=modernbert_l": ["modernbert_large"],
    "bert-jax pretrain --config.train.logits": ["--config.train.logits_chunk="],
    "bert-jax pretrain --config.data.mask_unit=sp": ["span"],
    "bert-jax pretrain --workd": ["--workdir="],
    "bert-jax finetune --config=finetune/ss": ["finetune/sst2"],
    "bert-jax finetune --config.tuning.lora_r": ["--config.tuning.lora_rank="],
    "bert-jax predict fill": ["fill-mask"],
    "bert-jax predict se": ["search"],
    "bert-jax mine --sampling=r": ["random"],
    "bert-jax predict embed --dtype=b": ["bfloat16"],
    "bert-jax launch --scale=sm": ["smoke"],
    "bert-jax launch --workdir=exp": ["experiments"],
    "bert-jax launch --experiment=mas": ["mask_mix", "mask_rate", "mask_unit", "masking"],
    "bert-jax launch --experiment=maski": ["masking"],
    "bert-jax launch --experiment=my_": ["my_own.py"],
    "bert-jax pretrain --config=my_": ["my_own.py"],
    "bert-jax plan --topology=v6e:1x": ["v6e:1x1"],
    "bert-jax prepare --documents=b": ["blank_line"],
    "bert-jax evaluate --mask_unit=sp": ["span"],
    "bert-jax pretrain --config quick": ["quickstart"],  # a value in a word of its own
    "bert-jax pretrain --workdir w --config modernbert_l": ["modernbert_large"],
    "bert-jax finetune --config finetune/ss": ["finetune/sst2"],
    "bert-jax finetune --config my_": ["my_own.py"],
    "bert-jax launch --experiment maski": ["masking"],
    "bert-jax launch --workdir exp": ["experiments"],
    "bert-jax predict embed --dtype b": ["bfloat16"],
    "bert-jax pretrain --config.data.mask_unit sp": ["span"],
    "bert-jax pretrain --config.train.report Tr": [],  # a switch takes no value
    "bert-jax pretrain --config --workd": ["--workdir="],
    "bert-jax recipes bert_b": ["bert_base"],
    "bert-jax completion zs": ["zsh"],
}


@pytest.fixture(scope="module")
def words():
    return completion.words()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, words):
    """A folder with a script for each shell, and a folder to complete."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "experiments").mkdir()
    (folder / "my_own.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "words", lambda: words)
        for shell in completion.SHELLS:
            (folder / shell).write_text(completion.script(shell))
    return folder


def test_the_lists_are_those_of_the_commands(words):
    assert words["commands"] == [name.replace("_", "-") for name in (*cli.COMMANDS, *cli.EXPERIMENT_COMMANDS)]
    assert words["pretrain --config"] == listing.recipe_names("pretraining")
    assert words["pretrain --config."] == [f"--config.{key}=" for key in PRETRAINING]
    code = "from bert_jax import predict; print(*(verb.name for verb in predict.VERBS))"  # its flags are another's too
    verbs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert list(cli.POSITIONAL["predict"]) == verbs
    assert {"pretraining", "bert_base", "finetune/sst2"} <= set(words["recipes verbs"])
    for command in words["commands"]:
        assert command in ("recipes", "completion") or len(words[command]) > 1, command
    assert {"--workdir=", "--num_processes=", "--config=", "--help_keys="} <= set(words["pretrain"])
    assert {"--text_column=", "--step=", "--keep_columns"} <= set(words["predict"])  # named in a loop; a switch


def test_bash_completes(folder):
    lines = [f"source {folder / 'bash'}"]
    for line in CASES:
        lines += [f"COMP_LINE={line!r} COMP_POINT={len(line)}; _bert_jax 2>/dev/null", 'echo "${COMPREPLY[*]}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=folder)
    assert not done.stderr
    assert dict(zip(CASES, map(str.split, done.stdout.splitlines()), strict=True)) == CASES


def test_bash_completes_whole_words_where_equals_breaks_none(folder):
    line = "bert-jax pretrain --config=bert_b"
    script = f"source {folder / 'bash'}; COMP_WORDBREAKS=' '; COMP_LINE='{line}' COMP_POINT={len(line)}; _bert_jax"
    done = subprocess.run(["bash", "-c", f'{script} 2>/dev/null; echo "${{COMPREPLY[*]}}"'], capture_output=True)
    assert done.stdout == b"--config=bert_base\n"


def test_zsh_completes(folder):
    """A zsh at a terminal of its own, to which the lines and a tab are typed."""
    if not shutil.which("zsh"):
        pytest.skip("this machine: no zsh")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.environ["TERM"] = "dumb"
        os.execvp("zsh", ["zsh", "-f", "-i"])

    def until(text):
        seen = bytearray()

        def read():
            if select.select([terminal], [], [], 1)[0]:
                seen.extend(os.read(terminal, 65536))
            return text in seen

        wait_until(read)
        return bytes(seen)

    try:
        os.write(terminal, b"PS1=; autoload -U compinit; compinit -u -D; source zsh; echo rea''dy\n")
        until(b"ready\r\n")
        for line, (expected, *others) in CASES.items():
            if others:
                continue
            prefix = line[: line.rindex("=") + 1] if "=" in line else line[: line.rindex(" ") + 1]
            os.write(terminal, f"{line}\t".encode())
            until(f"{prefix}{expected}".encode()[-60:])
            os.write(terminal, b"\x15")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_the_command_prints_the_script_and_names_the_shells():
    command = [sys.executable, "-m", "bert_jax", "completion"]
    done = subprocess.run([*command, "bsh"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        "error: bsh: no such shell; expected bash or zsh; did you mean bash?\n"
    )
