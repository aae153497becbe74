"""Every command of README.md and docs/ is parsed by `make test` and run, at a tiny size, by `make test-full`.

A command that needs more than one machine with a CPU (sixteen devices, Slurm, torch) says so in a comment above its
fence, `<!-- run on: PLACE -->`, and is run on what stands in for it: tests/docs/places.py. A program that this file
knows no way to parse fails.
"""

import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib

import pytest

from bert_jax import cli
from bert_jax import config as config_lib
from bert_jax.config import finetuning
from tests.docs import places, workspace
from tests.docs.blocks import LANGUAGES, PAGES, ROOT, blocks

NO_KEYS = ("model.safetensors", "model.params", "model.config", "model.labels")  # a file, and attributes in Python
PARSED = ("bert_jax.", "bert-jax ", "experiments.launch", "experiments.report")  # modules with absl flags
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "bash"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUN_PAGES = [page for page in PAGES if any(b.page == page and not b.run_on for b in SHELL + PYTHON)]
PLACED = [block for block in BLOCKS if block.run_on]


def module_of(words):
    """Returns (module, arguments) of a line with `bert-jax COMMAND` or `python -m MODULE`, or None."""
    if "bert-jax" in words:
        command, *arguments = words[words.index("bert-jax") + 1 :]
        return cli.module_of(command) or f"bert-jax {command}", arguments
    if "-m" in words and words[words.index("-m") - 1].endswith("python"):
        at = words.index("-m")
        return words[at + 1], words[at + 2 :]
    return None


def problem_of(words):
    """Returns what is wrong with a command that is not `python -m`, "" for nothing."""
    program, *arguments = words
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        return "" if set(arguments) <= targets else f"make has no {arguments}"
    if program == "pip" and arguments[0] == "install":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        named = {extra for word in arguments for names in re.findall(r"^bert_jax\[(.+)\]$|^\.\[(.+)\]$", word)
                 for extra in "".join(names).split(",")}  # fmt: skip
        return "" if named <= set(extras) else f"no extra {named - set(extras)}"
    if program == "python" and (ROOT / arguments[0]).is_file():
        return ""
    if words == ["source", ".venv/bin/activate"]:
        return ""
    return "no way to check or run this program; tests/docs/test_commands.py has those that there are"


def test_blocks_have_a_language_and_commands_a_fence():
    unknown = [block.name for block in BLOCKS if block.language not in LANGUAGES]
    assert not unknown, f"expected one of {LANGUAGES} behind the fence"
    for page in PAGES:
        fenced = "\n".join(block.text for block in blocks(page))
        for line in (ROOT / page).read_text("utf-8").splitlines():
            if re.match(r" {4,}(\.venv|python|bert-jax|make|pip) ", line):
                assert line in fenced, f"{page}: a command in an indented block, which no test runs: {line}"


def test_every_command_parses():
    lines = {}
    for block in SHELL:
        for words in block.commands:
            if module_of(words) is None:
                assert not problem_of(words), f"{block.name}: {' '.join(words)}: {problem_of(words)}"
            elif module_of(words)[0].startswith(PARSED):  # "bert-jax" of an unknown command too
                module, arguments = module_of(words)
                lines[f"{block.name}: {' '.join(words)}"] = [module, *arguments]
            else:
                path = ROOT / module_of(words)[0].replace(".", "/")
                assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), block.name
    with workspace.shown_files(BLOCKS) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.parse_commands"], input=json.dumps(list(lines.values())), cwd=folder,
            env=workspace.environment(), capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong = {line: message for line, message in zip(lines, json.loads(done.stdout), strict=True) if message}
    assert not wrong, "\n".join(f"{line}\n    {message}" for line, message in wrong.items())


@pytest.mark.parametrize(
    "words",
    ["python -m bert_jax.pretrain --config=bert_base --config.data.corpsu=x --workdir=y",
     "python -m bert_jax.pretrain --config=bert_base --config.model.positions=circular --workdir=y",
     "python -m bert_jax.predict embed --modle=x --text=y"],
)  # fmt: skip
def test_a_mistake_in_a_command_is_seen(words):
    line = list(words.split()[2:])
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse_commands"], input=json.dumps([line]), capture_output=True, text=True,
        env=workspace.environment(), cwd=ROOT,
    )  # fmt: skip
    assert "corpsu" in done.stdout or "circular" in done.stdout or "modle" in done.stdout, done.stderr


@pytest.mark.parametrize("words", ["curl https://example.org", "make tset", "pip install 'bert_jax[gpus]'"])
def test_a_program_that_is_not_known_is_refused(words):
    assert problem_of(words.replace("'", "").split())


def test_python_blocks_compile():
    for block in PYTHON:
        compile(block.text, block.name, "exec")


def test_links_between_files_exist():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
            link = "".join(link).partition("#")[0]
            if link and not re.match(r"[a-z]+:", link):
                assert ((ROOT / page).parent / link).is_file(), f"{page}: links to {link}, which is not there"


def test_commands_in_words_exist():
    for page in PAGES:
        for command in re.findall(r"bert-jax ([a-z][a-z-]*)", (ROOT / page).read_text("utf-8")):
            assert cli.module_of(command), f"{page}: bert-jax {command}"


def test_pages_and_what_they_link_to_make_a_site():
    """The links of recorded results are followed too."""
    done = subprocess.run([sys.executable, "docs/build.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_config_keys_in_words_exist():
    """A key named in a sentence or table, `data.masking` or `config.data.masking=static`, is one of the schema."""
    keys = config_lib.flat(config_lib.base()).keys() | config_lib.flat(finetuning.base()).keys()
    groups = {key.split(".")[0] for key in keys if "." in key}
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", text):
            found = re.fullmatch(r"(?:--)?(?:config\.)?((\w+)\.\w+)(=.*)?", code)
            if found and found[2] in groups and found[1] not in NO_KEYS:
                assert found[1] in keys, f"{page}: `{code}` is no key"


def test_names_of_the_api_page_exist():
    for name in re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE):
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), f"docs/api.md: no {name}"


def test_arguments_of_the_api_page_are_written_one_by_one():
    """A strict build of the site ends at an "Args:" entry that names no argument, such as "first, second: ..."."""
    wrong = []
    for name in re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE):
        module, _, last = name.rpartition(".")
        target = getattr(importlib.import_module(module), last)
        functions = (
            [value for value in vars(target).values() if inspect.isfunction(value)]
            if inspect.isclass(target)
            else [target]
        )
        for function in functions:
            known = set(inspect.signature(function).parameters)
            section = re.search(r"^Args:\n((?:  .*\n?|\n)+)", inspect.getdoc(function) or "", re.MULTILINE)
            for entry in re.findall(r"^  (\S.*?):", section[1] if section else "", re.MULTILINE):
                if entry.removeprefix("**").removeprefix("*") not in known:
                    wrong.append(f"{name}, {function.__name__}: {entry}")
    assert not wrong


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES[1:]:
        assert re.search(rf": {page.removeprefix('docs/')}$", navigation, re.MULTILINE), page


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8000


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return workspace.make(tmp_path_factory.mktemp("base"))


@pytest.mark.full
@pytest.mark.parametrize("page", RUN_PAGES)
def test_every_command_runs(base, page, tmp_path):
    workspace.run_page(page, base, tmp_path / "here")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name, marks=getattr(pytest.mark, places.PLACES[block.run_on].mark))
        for block in PLACED
    ],
)
def test_every_command_runs_on_what_it_needs(base, block, tmp_path):
    places.run_block(block, base, tmp_path / "here")
