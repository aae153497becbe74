"""The wheel holds packages, recipes, the console script, and experiments that run away from a checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.full
ROOT = pathlib.Path(__file__).parents[1]
INSIDE = {"bert_jax": "bert_jax", "configs": "bert_jax/configs", "experiments": "bert_jax/experiments"}
OUTSIDE = ("benchmarks", "parity", "notebooks", "results")  # experiments that write into the repository


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: building leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skipped = shutil.ignore_patterns("__pycache__", "results", "*.egg-info")
    for name in INSIDE:
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the unpacked wheel alone: first on the path, away from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def expected_files():
    for source, target in INSIDE.items():
        for path in (ROOT / source).rglob("*.py"):
            parts = path.relative_to(ROOT / source).parts
            if not (source == "experiments" and parts[0] in OUTSIDE):
                yield "/".join((target, *parts))


def run(installed, program, cwd):
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, env=environment)


def test_every_module_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.endswith(".py")}
        assert names == set(expected_files())
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "bert-jax = bert_jax.cli:main" in archive.read(entry_points).decode()


def test_every_recipe_loads_by_its_name(installed, tmp_path):
    program = (
        "import bert_jax; from bert_jax.config import recipes; "
        "names = recipes.recipe_names(); [recipes.load_recipe(name) for name in names]; "
        "print(bert_jax.__file__, *names)"
    )
    result = run(installed, program, tmp_path)
    assert result.returncode == 0, result.stderr
    file, *names = result.stdout.split()
    assert file.startswith(str(installed)) and {"bert_base", "finetune/sst2", "embedding/matryoshka"} <= set(names)


def test_an_experiment_is_launched_and_a_file_of_ones_own_finds_the_scales(installed, tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "experiments" / "masking.py").read_text("utf-8"), "utf-8")
    for experiment in ("masking", "mine.py"):
        program = (
            "import sys; from bert_jax import cli; "
            f"cli.main(['launch', '--experiment={experiment}', '--workdir={tmp_path}/w', '--dry-run', '--jobs=1'])"
        )
        result = run(installed, program, tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("-m bert_jax.experiments.run_job") == 4
    result = run(installed, "from bert_jax import cli; cli.main(['report', '--workdir=none'])", tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: --workdir=none: no experiment.json")


def test_the_installed_experiments_answer_to_both_names(installed, tmp_path):
    program = (
        "import bert_jax.experiments; from experiments.experiment import Experiment; from experiments import scales; "
        "from bert_jax.experiments import experiment, scales as ours; "
        "assert Experiment is experiment.Experiment and scales is ours"
    )
    result = run(installed, program, tmp_path)
    assert result.returncode == 0, result.stderr
