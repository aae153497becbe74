"""Tests that the library and its tests keep their layout: tests mirror modules, files stay short, flaws only shrink."""

import ast
import pathlib

from tests import docstrings, ratchets, type_errors

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted((ROOT / "bert_jax").rglob("*.py"))
TESTS = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
MOST_LINES = 600
NO_NAMES = {
    "about", "again", "at", "behind", "beside", "both", "by", "each", "even", "found", "here", "how", "it", "less",
    "many", "most", "much", "of", "on", "one", "said", "some", "still", "that", "them", "there", "this", "those",
    "told", "what", "when", "which", "whose", "why",
}  # fmt: skip

# Modules (or folders of them) without a test file of their own, the test file that covers them, and why it does.
COVERED_BY = {
    "__init__.py": ("test_imports.py", "only imports lazily"),
    "__main__.py": ("test_cli.py", "starts the console script"),
    "config/__init__.py": ("config/test_keys.py", "reads values of the table of keys"),
    "config/architecture.py": ("model/test_switches.py", "refuses combinations of the model's switches"),
    "config/deprecated.py": ("test_moved.py", "only old names"),
    "config/evaluation.py": ("training/test_evaluation.py", "settings of evaluations"),
    "config/finetuning_keys.py": ("config/test_keys.py", "half of the table of keys"),
    "config/kernels.py": ("model/test_kernels.py", "chooses among the kernels tested there"),
    "config/layout.py": ("config/test_pretraining.py", "checked as a part of a config"),
    "config/mesh.py": ("test_sharding.py", "names of axes, for the table of layouts"),
    "config/objective.py": ("objectives/test_objectives.py", "facts of the objectives tested there"),
    "config/key_groups.py": ("config/test_keys.py", "makes groups of keys for the table"),
    "config/model_keys.py": ("config/test_keys.py", "the model's part of the table of keys"),
    "config/pretraining_keys.py": ("config/test_keys.py", "half of the table of keys"),
    "config/recipes.py": ("test_family_recipes.py", "loads every recipe"),
    "config/schema.py": ("config/test_keys.py", "the type of the table's entries"),
    "command_help.py": ("test_command.py", "the help of every command"),
    "convert.py": ("interop/test_huggingface.py", "the command for what is tested there"),
    "data/batches.py": ("data/test_loader.py", "batches as the loader gives them"),
    "data/preparation/encoding.py": ("data/preparation/test_readers.py", "encodes what the readers give"),
    "data/preparation/joining.py": ("data/preparation/test_pipeline.py", "a pass of the pipeline"),
    "data/preparation/shards.py": ("data/preparation/test_pipeline.py", "a pass of the pipeline"),
    "data/stream.py": ("data/test_loader.py", "rows as the loader gives them"),
    "data/tasks/__init__.py": ("data/tasks/test_recipes.py", "loads the task of each recipe"),
    "data/tasks/label_forms.py": ("data/tasks/test_labels.py", "forms of the labels tested there"),
    "data/vocabularies/hugging_face.py": ("data/vocabularies/test_published.py", "runs the published vocabularies"),
    "diagnosis/curves.py": ("diagnosis/test_doctor.py", "statistics behind the doctor's findings"),
    "diagnosis/finding.py": ("diagnosis/test_doctor.py", "a dataclass"),
    "diagnosis/report.py": ("diagnosis/test_doctor.py", "the doctor's output"),
    "doctor.py": ("diagnosis/test_doctor.py", "the command for what is tested there"),
    "errors.py": ("test_command.py", "messages as commands print them"),
    "evaluate.py": ("training/test_evaluation.py", "the command for what is tested there"),
    "finetune.py": ("finetuning/test_run.py", "the command for what is tested there"),
    "finetuning/description.py": ("finetuning/test_run.py", "what a run writes of itself"),
    "finetuning/losses.py": ("finetuning/test_trainable.py", "losses of the steps tested there"),
    "finetuning/ranking_losses.py": ("finetuning/test_reranking.py", "by runs and the parity test"),
    "finetuning/results.py": ("finetuning/test_run.py", "what a run writes at its end"),
    "finetuning/state.py": ("finetuning/test_run.py", "the state of a run"),
    "finetuning/vector_losses.py": ("finetuning/test_embedding.py", "by runs and the parity test"),
    "inference/page.py": ("test_demo.py", "the page of the demo"),
    "interop/families/": ("interop/test_families.py", "every family by the same tests"),
    "interop/formats.py": ("interop/test_families.py", "chooses a family for a model"),
    "interop/pretrained.py": ("interop/test_huggingface.py", "what reading a directory gives"),
    "interop/tensors.py": ("interop/test_huggingface.py", "reads a directory's weights"),
    "listing.py": ("test_command.py", "lists that help prints"),
    "model/attention.py": ("model/test_reference.py", "the encoder as a whole, against one in float64"),
    "model/dropout.py": ("model/test_kernels.py", "dropout as the kernels apply it"),
    "model/encoder.py": ("model/test_reference.py", "the encoder as a whole, against one in float64"),
    "model/heads.py": ("model/test_parity.py", "against transformers' heads"),
    "model/layers.py": ("model/test_reference.py", "the encoder as a whole, against one in float64"),
    "model/positions.py": ("model/test_switches.py", "each kind of positions is a switch"),
    "model/spec.py": ("model/test_model.py", "the spec of a model"),
    "model/stack.py": ("model/test_reference.py", "the encoder as a whole, against one in float64"),
    "objectives/language_modeling.py": ("training/test_step.py", "its losses in a training step"),
    "plan.py": ("planning/test_plan.py", "the command for what is tested there"),
    "planning/": ("planning/test_plan.py", "plans from end to end"),
    "prepare.py": ("data/preparation/test_pipeline.py", "the command for what is tested there"),
    "pretrain.py": ("config/test_pretraining.py", "the command for configs tested there"),
    "processes/distributed.py": ("training/test_hosts.py", "needs several processes that train"),
    "retrieval/searching.py": ("retrieval/test_ranked.py", "by the command"),
    "runs/workdir.py": ("training/test_bad_input.py", "its refusals of foreign files"),
    "storage.py": ("data/test_staging.py", "remote files as staging reads them"),
    "training/adaptation.py": ("training/test_initial.py", "report of runs with config.init_from"),
    "training/loop.py": ("training/test_pretraining.py", "whole runs"),
    "training/minimal_pairs.py": ("training/test_evaluation.py", "an evaluation like those tested there"),
    "training/profiling.py": ("training/test_throughput.py", "traces beside the clock"),
    "training/teacher.py": ("objectives/test_distillation.py", "the teacher of the objective tested there"),
}


def mirrored(module: pathlib.PurePath) -> set[str]:
    """Returns the names that the test file of a module of bert_jax may have, below tests/."""
    if module.name == "__init__.py":
        package = module.parent
        return {(package / f"test_{package.name}.py").as_posix(), f"{package.parent.as_posix()}/test_{package.name}.py"}
    return {(module.parent / f"test_{module.name.lstrip('_')}").as_posix()}


def covering(module: pathlib.PurePath) -> str | None:
    """Returns the test file that covers a module without one of its own, by COVERED_BY."""
    names = [name for name in COVERED_BY if module.as_posix() == name or name.endswith("/") and name in f"{module}"]
    return COVERED_BY[max(names, key=len)][0] if names else None


def defines_something(path: pathlib.Path) -> bool:
    """Tells whether a package's __init__.py defines public functions or classes itself."""
    nodes = ast.parse(path.read_text("utf-8")).body
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("__") for n in nodes)


def test_every_module_has_its_test_file():
    missing = []
    for path in MODULES:
        module = path.relative_to(ROOT / "bert_jax")
        needs_none = module.name == "__init__.py" and not defines_something(path)
        if not (needs_none or mirrored(module) & TESTS or covering(module)):
            missing.append(f"bert_jax/{module}: expected tests/{min(mirrored(module))}, or an entry of COVERED_BY")
    assert not missing


def test_the_exceptions_exist():
    for name, (test, reason) in COVERED_BY.items():
        assert (ROOT / "bert_jax" / name).exists(), f"COVERED_BY: no bert_jax/{name}"
        assert test in TESTS, f"COVERED_BY: no tests/{test}"
        assert reason
        if not name.endswith("/"):
            assert not mirrored(pathlib.PurePath(name)) & TESTS, f"COVERED_BY: {name} has a test file of its own"


def test_no_module_is_too_long():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert not {path: length for path, length in lengths.items() if length > MOST_LINES}


def assigned_names(tree: ast.Module) -> set[str]:
    """Returns the names of a module's functions, parameters and variables; not the aliases of earlier names."""
    aliases = {id(target) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for assignment in node.body
               if isinstance(assignment, ast.Assign) for target in assignment.targets}  # fmt: skip
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in aliases:
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


def test_names_are_nouns_or_verbs():
    """A variable says what it holds. Where "found" is an argument, it fills "found X; expected Y" of a message."""
    paths = [*MODULES, *(path for name in ("experiments", "examples") for path in (ROOT / name).rglob("*.py"))]
    allowed = {"bert_jax/interop/families/family.py": {"found"}, "experiments/experiment.py": {"found"}}
    wrong = {}
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        names = assigned_names(ast.parse(path.read_text("utf-8"))) - allowed.get(name, set())
        wrong[name] = {name for name in names if name.strip("_") in NO_NAMES}
    assert not {path: names for path, names in wrong.items() if names}


def test_docstrings_keep_their_style():
    assert not ratchets.grown(docstrings.flaws(), docstrings.BASELINE)


def test_the_clean_rooms_have_no_type_errors_on_record():
    assert not [path for path in ratchets.read(type_errors.BASELINE) if path.startswith(type_errors.CLEAN)]
