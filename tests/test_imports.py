"""Tests the import graph, drawn from the code: no arrow back, no circle, no package loaded before it is needed."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A module may import those of its own room and of the rooms before it. Commands, the modules that are not named here,
# may import every room.
ORDER = (
    "_moved", "interruption", "errors", "svg", "files", "storage", "outputs", "progress", "config", "processes", "data",
    "model", "sharding", "interop", "objectives",
    "runs", "diagnosis", "inference", "training", "finetuning", "retrieval", "planning",
)  # fmt: skip
HELPERS_OF_COMMANDS = {"arguments", "command", "command_help", "cli", "listing"}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_name(path): path for path in sorted((ROOT / "bert_jax").rglob("*.py"))}


def imports(path):
    """Yields (module of bert_jax, line) of every import in a file, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in PATHS)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                target = full if full in PATHS else node.module
                if target in PATHS:
                    yield target, node.lineno


GRAPH = {module: sorted(imports(path)) for module, path in PATHS.items()}


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_no_import_points_back():
    wrong = []
    for module, targets in GRAPH.items():
        here = ORDER.index(room(module)) if room(module) in ORDER else len(ORDER)
        for target, line in targets:
            there = room(target)
            if there in ("", room(module)):  # bert_jax itself holds _moved and the version alone
                continue
            if there not in ORDER:
                allowed = here == len(ORDER) and there in HELPERS_OF_COMMANDS
            else:
                allowed = ORDER.index(there) < here
            if not allowed:
                wrong.append(f"{PATHS[module].relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    order, open_, done = [], set(), set()

    def visit(module, trail):
        if module in done:
            return
        assert module not in open_, " -> ".join([*trail[trail.index(module) :], module])
        open_.add(module)
        for target, _ in GRAPH[module]:
            visit(target, [*trail, module])
        open_.remove(module)
        done.add(module)
        order.append(module)

    for module in GRAPH:
        visit(module, [])
    assert len(order) == len(GRAPH)


def test_every_room_is_named():
    rooms = {path.name for path in (ROOT / "bert_jax").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ORDER)


def test_the_map_names_every_room_in_its_order():
    text = (ROOT / "docs" / "how_it_works.md").read_text("utf-8")
    rooms = [name for name in ORDER if (ROOT / "bert_jax" / name / "__init__.py").exists()]
    places = [text.find(f"| `bert_jax/{name}/` |") for name in rooms]
    assert min(places) > 0 and places == sorted(places), dict(zip(rooms, places, strict=True))


# What bert_jax imports itself may not be there; what flax imports for its own sake may.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller and "importlib" in caller.f_code.co_filename:
            caller = caller.f_back
        own = caller and caller.f_globals.get("__name__", "").startswith("bert_jax")
        if own and name.split(".")[0] not in {{"bert_jax"}} | {allowed!r} | sys.stdlib_module_names:
            raise ImportError(f"{{caller.f_globals['__name__']}} imports {{name}}")

sys.meta_path.insert(0, Blocked())
import bert_jax.{module}
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {{"orbax", "optax", "grain", "tensorboardX"}}))
"""
USED_TO_READ = {
    "absl",
    "etils",
    "ml_collections",
    "ml_dtypes",
    "safetensors",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "tqdm",
}


@pytest.mark.parametrize(
    ("module", "allowed", "loaded"),
    [
        ("errors", set(), ""),
        ("files", set(), ""),
        ("data", {"ml_collections", "numpy", "tokenizers"}, ""),
        ("model.parameters", {"jax", "flax", "numpy"}, "optax"),  # by flax, which imports it for its own sake
        ("inference", set(), ""),
        ("inference.embed", {"jax", "flax", "numpy"} | USED_TO_READ, "optax"),
    ],
)
def test_what_a_module_needs(module, allowed, loaded):
    code = BLOCKED.format(module=module, allowed=allowed)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= set(loaded.split())


IMPORT_EACH = """
import importlib, sys

for name in sys.argv[1:]:
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("bert_jax")]:
        del sys.modules[loaded]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "MovedModules"]
    importlib.import_module(name)
"""


def test_modules_of_packages_with_old_names_can_be_imported_first():
    """A package that looks names up where they are today must not do so for a module of its own."""
    packages = [name for name, path in PATHS.items() if path.name == "__init__.py" and "_moved" in path.read_text()]
    modules = [name for name in PATHS if name.rpartition(".")[0] in packages and room(name) in ORDER]
    assert "bert_jax.data.preparation.sources" in modules
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
