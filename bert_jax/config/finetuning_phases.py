"""Divides fine-tuning into phases: runs that follow one another, each from the parameters of the one before it.

The last phase's run is in the workdir itself, the others are in its folders phase-1, phase-2, ... No jax here.
"""

import pathlib
import re
from collections.abc import Mapping

import ml_collections

from bert_jax.config.keys import FINETUNING
from bert_jax.config.named_sets import named_sets
from bert_jax.config.schema import check_name, check_type
from bert_jax.errors import UserError

_SETS = "sets"  # the one word of a phase that is no key
# Keys of all phases together. A mesh is of the devices at hand, and what parameters are of is decided once.
_OF_ALL = ("seed", "seeds", "seeds_at_once", "init_from", "from_scratch", "phases", "task.name", "task.problem")


def phases(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[tuple[ml_collections.ConfigDict, pathlib.Path]]:
    """Returns (config, workdir) of the run of each phase of a fine-tuning config, in order; one where it has no phases.

    An entry of config.phases has dotted keys of the config with the values that they have in this phase, and may have
    `sets`, the names of those sets of config.task.train that it trains on. A phase after the first starts from the run
    of the one before it.

    Raises:
      UserError: an entry is no dict, or has an unknown key, a key of the whole run, a value of another type, or a set
        that config.task.train does not name; or there are several seeds.
    """
    if not config.get("phases"):
        return [(config.copy_and_resolve_references(), workdir)]
    if config.seeds != 1:
        raise UserError(
            f"config.seeds: found {config.seeds}; expected 1 with config.phases: a phase starts from the one run "
            "before it; give each config.seed a --workdir of its own"
        )
    folders = [workdir / f"phase-{number}" for number in range(1, len(config.phases))] + [workdir]
    runs = [in_phase(config, number) for number in range(len(config.phases))]
    for number, (run, entry) in enumerate(zip(runs, config.phases, strict=True)):
        if _SETS in entry:
            run.task.train = _selected(config.task.train, entry[_SETS], number)
        if number:
            run.init_from, run.from_scratch = str(folders[number - 1]), False
    return list(zip(runs, folders, strict=True))


def in_phase(config: ml_collections.ConfigDict, number: int) -> ml_collections.ConfigDict:
    """Returns the config with the values of a phase, from 0, and without phases; it still names all data and init_from.

    Raises:
      UserError: see `phases`.
    """
    entry = config.phases[number]
    _check_entry(entry, f"config.phases[{number}]")
    run = ml_collections.ConfigDict(config.to_dict())
    run.phases = ()
    run.update_from_flattened_dict({key.removeprefix("config."): entry[key] for key in entry if key != _SETS})
    return run


def same_folder(old: str, new: str) -> bool:
    """Returns whether two values of init_from name the run of the same phase, of a workdir that was moved."""
    names = [pathlib.PurePath(path).name for path in (old, new)]
    return names[0] == names[1] and re.fullmatch(r"phase-\d+", names[0]) is not None


def _check_entry(entry, where):
    if not isinstance(entry, Mapping):
        example = '{"sets": ("weak",), "optimizer.learning_rate": 1e-4}'
        raise UserError(f"{where}: found {entry!r}; expected a dict such as {example}")
    if _SETS in entry and "task.train" in entry:
        raise UserError(f"{where}: has {_SETS} and task.train; expected one of them")
    for key, value in entry.items():
        if key == _SETS:
            check_type(f"{where}.{_SETS}", value, ())
            continue
        name = key.removeprefix("config.")
        check_name(name, FINETUNING)
        if name in _OF_ALL or name.startswith("mesh."):
            raise UserError(f"{where}.{key}: the same in all phases; expected it as config.{name}")
        check_type(f"{where}.{key}", value, FINETUNING[name].default)


def _selected(train, names, number):
    """Returns the part of config.task.train that names these sets; a set alone loses its name."""
    sets = named_sets(train, "config.task.train")
    where = f"config.phases[{number}].{_SETS}"
    for name in names:
        if name not in sets or not name:
            named = f"names {', '.join(sets)}" if any(sets) else "names no sets"
            raise UserError(
                f"{where}: found {name!r}, but config.task.train={train or '(empty)'} {named}; expected "
                f"--config.task.train={','.join(f'{wanted}=FILE' for wanted in names)}"
            )
    if not names:
        raise UserError(f"{where}: empty; expected names of sets of config.task.train")
    return sets[names[0]] if len(names) == 1 else ",".join(f"{name}={sets[name]}" for name in names)
