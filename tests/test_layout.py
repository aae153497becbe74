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

# Modules (or folders of them) without a test file of their own, and the test file that covers them.
COVERED_BY = {
    "__init__.py": "test_imports.py",  # lazy imports
    "__main__.py": "test_cli.py",
    "config/__init__.py": "config/test_keys.py",
    "config/architecture.py": "model/test_switches.py",  # combinations of switches
    "config/deprecated.py": "test_moved.py",
    "config/evaluation.py": "training/test_evaluation.py",
    "config/finetuning_keys.py": "config/test_keys.py",
    "config/kernels.py": "model/test_kernels.py",  # beside the kernels that it chooses from
    "config/layout.py": "config/test_pretraining.py",
    "config/mesh.py": "test_sharding.py",
    "config/objective.py": "objectives/test_objectives.py",
    "config/pretraining_keys.py": "config/test_keys.py",
    "config/recipes.py": "test_family_recipes.py",
    "data/tasks/label_forms.py": "data/tasks/test_labels.py",
    "finetuning/ranking_losses.py": "finetuning/test_reranking.py",  # and the parity test
    "finetuning/vector_losses.py": "finetuning/test_embedding.py",  # and the parity test
    "config/schema.py": "config/test_keys.py",
    "convert.py": "interop/test_huggingface.py",
    "data/batches.py": "data/test_loader.py",  # batches as the loader gives them
    "data/mixture.py": "data/test_loader.py",  # mixture, stream and loader together
    "data/stream.py": "data/test_loader.py",
    "data/preparation/encoding.py": "data/preparation/test_readers.py",
    "data/preparation/joining.py": "data/preparation/test_pipeline.py",
    "data/preparation/shards.py": "data/preparation/test_pipeline.py",
    "data/preparation/vocabulary.py": "data/preparation/test_pipeline.py",
    "data/tasks/__init__.py": "data/tasks/test_recipes.py",
    "data/tasks/schemes.py": "data/tasks/test_tagging.py",
    "data/tasks/spans.py": "data/tasks/test_answering.py",
    "data/tasks/words.py": "data/tasks/test_tagging.py",
    "data/vocabularies/hugging_face.py": "data/vocabularies/test_published.py",
    "diagnosis/curves.py": "diagnosis/test_doctor.py",
    "diagnosis/finding.py": "diagnosis/test_doctor.py",
    "diagnosis/report.py": "diagnosis/test_doctor.py",
    "doctor.py": "diagnosis/test_doctor.py",
    "errors.py": "test_command.py",
    "evaluate.py": "training/test_evaluation.py",
    "finetune.py": "finetuning/test_run.py",
    "finetuning/description.py": "finetuning/test_run.py",
    "finetuning/losses.py": "finetuning/test_trainable.py",
    "finetuning/results.py": "finetuning/test_run.py",
    "finetuning/state.py": "finetuning/test_run.py",
    "interop/families/": "interop/test_families.py",  # every family by the same tests
    "inference/page.py": "test_demo.py",
    "interop/formats.py": "interop/test_families.py",
    "interop/pretrained.py": "interop/test_huggingface.py",
    "interop/tensors.py": "interop/test_huggingface.py",
    "model/attention.py": "model/test_reference.py",  # the encoder as a whole, against one written out in float64
    "model/dropout.py": "model/test_kernels.py",
    "model/encoder.py": "model/test_reference.py",
    "model/heads.py": "model/test_parity.py",
    "model/layers.py": "model/test_reference.py",
    "model/positions.py": "model/test_switches.py",
    "model/spec.py": "model/test_model.py",
    "model/stack.py": "model/test_reference.py",
    "objectives/language_modeling.py": "training/test_step.py",
    "plan.py": "planning/test_plan.py",
    "planning/": "planning/test_plan.py",  # plans from end to end
    "prepare.py": "data/preparation/test_pipeline.py",
    "pretrain.py": "config/test_pretraining.py",
    "processes/distributed.py": "training/test_hosts.py",  # needs several processes that train
    "retrieval/searching.py": "retrieval/test_ranked.py",  # by the command
    "runs/checkpoint_files.py": "runs/test_checkpoints.py",
    "listing.py": "test_command.py",
    "runs/claim.py": "training/test_bad_input.py",
    "runs/identity.py": "training/test_bad_input.py",
    "runs/workdir.py": "training/test_bad_input.py",
    "show_batch.py": "data/test_packing.py",
    "storage.py": "data/test_staging.py",
    "training/adaptation.py": "training/test_initial.py",
    "training/loop.py": "training/test_pretraining.py",
    "training/minimal_pairs.py": "training/test_evaluation.py",
    "training/profiling.py": "training/test_throughput.py",
    "training/teacher.py": "objectives/test_distillation.py",
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
    return COVERED_BY[max(names, key=len)] if names else None


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
    for name, test in COVERED_BY.items():
        assert (ROOT / "bert_jax" / name).exists(), f"COVERED_BY: no bert_jax/{name}"
        assert test in TESTS, f"COVERED_BY: no tests/{test}"


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
