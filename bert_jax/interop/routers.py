"""Follows the routers of sentence-transformers directories: modules that treat queries and documents differently.

A Router (Asym in versions before 5) is an entry of modules.json as any module is. Its router_config.json lists the
modules of each route, whose folders are inside its own. A text that is given no task takes the default route, and so
does every text here: the modules of that route stand in the router's place.
"""

import ast
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop import model_config

CLASSES = ("Router", "Asym")
CONFIG, OLD_CONFIG = "router_config.json", "config.json"
TASKS = ("query", "document")


@dataclasses.dataclass(frozen=True)
class Routed:
    """Lists the modules of a directory with those of a route in each router's place.

    Attributes:
      modules: entries as of modules.json.
      routes: names of the routes that were taken.
      other_tasks: the tasks among "query" and "document" whose texts take other modules than `modules`.
      refusal: why a text without a task cannot be embedded; "" where it can.
    """

    modules: tuple[Mapping, ...]
    routes: tuple[str, ...] = ()
    other_tasks: tuple[str, ...] = ()
    refusal: str = ""


def follow(directory: pathlib.Path, modules: Sequence[Mapping], holds_encoder: Callable[[Mapping], bool]) -> Routed:
    """Returns the modules that a text without a task passes through.

    Where a router comes first and its default route begins with no encoder, the modules are those of another route,
    that of documents if it has one, and `refusal` says so.

    Args:
      directory: a sentence-transformers directory.
      modules: the entries of its modules.json.
      holds_encoder: tells whether the module of an entry holds an encoder.

    Raises:
      UserError: a router's file is damaged, or none of a first router's routes begins with an encoder.
    """
    out: list[Mapping] = []
    routes: list[str] = []
    other_tasks: set[str] = set()
    refusal = ""
    for module in modules:
        path = _config_path(directory / module["path"]) if class_name(module) in CLASSES else None
        if path is None:
            out.append(module)
            continue
        router = _Router(path, module["path"])
        name = router.route(None)
        if name is None:
            refusal = f"{path}: names no default route; expected default_route"
        if not out and (name is None or not router.begins(name, holds_encoder)):
            encoders = [route for route in router.names if router.begins(route, holds_encoder)]
            if not encoders:
                raise UserError(
                    f"{path}: routes {', '.join(router.names)}, of which none begins with a transformer; expected "
                    "Transformer"
                )
            refusal = (
                refusal or f"{path}: the default route {name} begins with {router.first(name)}; expected Transformer"
            )
            name = "document" if "document" in encoders else encoders[0]
        name = router.names[0] if name is None else name
        routes.append(name)
        other_tasks |= {
            task
            for task in TASKS
            if (route := router.route(task)) and router.structure[route] != router.structure[name]
        }
        out += router.modules(name)
    if routes:
        out = [dict(module) | {"idx": i, "name": str(i)} for i, module in enumerate(out)]
    return Routed(tuple(out), tuple(routes), tuple(task for task in TASKS if task in other_tasks), refusal)


def folders(directory: pathlib.Path, modules: Sequence[Mapping]) -> list[str]:
    """Returns the folders of the modules of all routes, below a directory whose routers' files are there."""
    paths = []
    for module in modules:
        path = _config_path(directory / module["path"]) if class_name(module) in CLASSES else None
        router = _Router(path, module["path"]) if path else None
        paths += [entry["path"] for name in router.names for entry in router.modules(name)] if router else []
    return paths


class _Router:
    """Reads a router's file."""

    def __init__(self, path, folder):
        config = model_config.load_json(path)
        self._path, self._folder = path, pathlib.PurePosixPath(folder)
        self._types, self.structure = config.get("types"), config.get("structure")
        self._parameters = config.get("parameters") or {}
        if not (isinstance(self._types, Mapping) and isinstance(self.structure, Mapping) and self.structure):
            raise UserError(f"{path}: expected `types` and `structure`, the modules of each route")
        for name, entries in self.structure.items():
            for entry in entries if isinstance(entries, list) else [entries]:
                if not isinstance(entry, str) or entry not in self._types or pathlib.PurePath(entry).name != entry:
                    raise UserError(f"{path}: structure: {name} names {entry!r}; expected keys of `types`")
        self.names = tuple(self.structure)

    def modules(self, name) -> list[dict[str, Any]]:
        """Returns the modules of a route as entries of modules.json."""
        return [
            {"path": (self._folder / entry).as_posix(), "type": self._types[entry]} for entry in self.structure[name]
        ]

    def begins(self, name, holds_encoder) -> bool:
        modules = self.modules(name)
        return bool(modules) and holds_encoder(modules[0])

    def first(self, name) -> str:
        """Returns the class of a route's first module."""
        modules = self.modules(name)
        return class_name(modules[0]) if modules else "nothing"

    def route(self, task) -> str | None:
        """Returns the route of a text, by the rules of sentence-transformers; None where it has none."""
        mappings = {_mapping_key(key): route for key, route in (self._parameters.get("route_mappings") or {}).items()}
        for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
            if key in mappings:
                return self._known(mappings[key], "route_mappings")
        for name in (task, "text"):
            if name in self.structure:
                return name
        if task is not None:
            return None
        default = self._parameters.get("default_route")
        if default is None:
            return self.names[0] if self._parameters.get("allow_empty_key", True) else None
        return self._known(default, "default_route")

    def _known(self, name, key):
        if name not in self.structure:
            raise UserError(f"{self._path}: {key} names {name!r}; expected one of {', '.join(self.names)}")
        return name


def _mapping_key(text):
    """Returns the tuple (task, modality) that a key of route_mappings spells."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _config_path(folder) -> Any:
    """Returns the path of a router's file; None where it has none."""
    return next((folder / name for name in (CONFIG, OLD_CONFIG) if _is_router(folder / name)), None)


def _is_router(path):
    return path.is_file() and (path.name == CONFIG or "structure" in model_config.load_json(path))


def class_name(module: Mapping) -> str:
    """Returns the name of the class of an entry of modules.json, without its package."""
    return str(module["type"]).rpartition(".")[2]
