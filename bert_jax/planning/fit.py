"""Searches for changes that make a step fit in memory and keep its results; cheapest first, each compiled."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax.config import objective
from bert_jax.config.keys import SCHEDULE
from bert_jax.errors import UserError
from bert_jax.planning import compilation, isolated
from bert_jax.planning.chips import Topology
from bert_jax.planning.compilation import Compiled
from bert_jax.training.memory import REMAT

_LOGITS = {"train.logits_chunk": 1024}  # predictions: some hundred MiB of a vocabulary's logits
_GRAIN = 8  # rows that the search for the largest microbatch is exact to


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Describes a change of the config, and whether the steps fit with it.

    Attributes:
      change: values by dotted config key.
      phases: steps compiled with the change, up to the first that does not fit.
      fits: whether the steps of all phases fit.
    """

    change: Mapping[str, int | str]
    phases: tuple[Compiled, ...]
    fits: bool

    @property
    def flags(self) -> str:
        """Returns the change as arguments of a command line."""
        return " ".join(f"--config.{key}={value}" for key, value in self.change.items())


def compile_phases(
    config: ml_collections.ConfigDict, topology: Topology, say: Callable[[str], None] = lambda line: None
) -> list[Compiled]:
    """Compiles every phase's step; phases whose steps differ in the learning rate alone are compiled once.

    Args:
      config: a pre-training config.
      topology: the topology to compile for.
      say: called with a line for each step that was compiled.

    Raises:
      UserError: as isolated.compile_phase.
    """
    compilation.check(config, topology)
    phases, steps = config_lib.phases(config), {}
    for phase in phases:
        program = _program(config, phase)
        if program not in steps:
            steps[program] = step = isolated.compile_phase(config, topology, phase)
            say(f"compiled a step of {step.rows:,} rows of {step.sequence:,}{phase.name}: {step.seconds:.0f} s")
    return [steps[_program(config, phase)] for phase in phases]


def _program(config, phase):
    """Returns what tells a phase's program from another's: its batch, and what it sets but the learning rate."""
    shapes = compilation.batch_shapes(config, phase.data)
    settings = {name: value for name, value in phase.settings.items() if name not in SCHEDULE}
    return repr(sorted(shapes.items())), repr(sorted(settings.items()))


def search(
    config: ml_collections.ConfigDict,
    topology: Topology,
    compiled: list[Compiled],
    say: Callable[[str], None] = lambda line: None,
) -> list[Attempt]:
    """Tries changes until one makes every phase fit.

    Args:
      config: a config of which some phase does not fit.
      topology: the topology to compile for.
      compiled: the compiled phases of the config.
      say: called with a line for each change that is tried.

    Returns:
      the attempts in order; if one fits, it is the last.
    """
    failing = [i for i, phase in enumerate(compiled) if not phase.fits]
    order = sorted(range(len(compiled)), key=lambda i: (i not in failing, -compiled[i].needed))
    attempts = []
    for change in changes(config, topology, compiled):
        say(f"trying {Attempt(change, (), False).flags}")
        attempt = _attempt(config, topology, change, order)
        attempts.append(attempt)
        if attempt.fits:
            break
    return attempts


def changes(
    config: ml_collections.ConfigDict, topology: Topology, compiled: list[Compiled]
) -> Iterator[dict[str, int | str]]:
    """Yields changes to try, cheapest first: microbatches, chunks of logits, remat, fsdp, then combinations."""
    state_fits = all(phase.state < phase.usable for phase in compiled)
    count: Any = config.train.microbatches or 1  # 0: auto
    parts = [
        {"train.microbatches": n}
        for n in _microbatches(config, topology)
        if all(_could_fit(phase, count / n) for phase in compiled) and state_fits
    ]
    level = REMAT.index("none" if config.model.remat == "attention" else config.model.remat)  # nearly everything
    remat = [{"model.remat": name} for name in REMAT[level + 1 :]] if state_fits else []
    chunks = objective.facts(config).logits_chunks and not config.train.logits_chunk and state_fits
    logits = [_LOGITS] if chunks else []
    fsdp = list(_fsdp(config, topology))
    finest = [{"train.microbatches": n} for n in _microbatches(config, topology)][-1:]
    yield from itertools.chain(parts, logits, remat, fsdp)
    yield from (part | policy for part in finest for policy in logits + remat)
    yield from (part | policy | chunking for part in finest for policy in remat[-1:] for chunking in logits)
    leanest = [{"model.remat": REMAT[-1]}] if config.model.remat != REMAT[-1] else []
    for layout in fsdp:
        yield from (layout | more for more in finest + leanest)
        yield from (layout | part | policy for part in finest for policy in leanest)


def _could_fit(phase, share):
    """Returns whether a phase may fit with a share of its rows at once: all but the state shrinks by that at most."""
    return phase.state + share * (phase.needed - phase.state) < phase.usable


def changed(config: ml_collections.ConfigDict, change: Mapping[str, int | str]) -> ml_collections.ConfigDict:
    """Returns a copy of a config with dotted keys set."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(change))
    return config


def largest_microbatch(
    config: ml_collections.ConfigDict, topology: Topology, say: Callable[[str], None] = lambda line: None
) -> tuple[int, Compiled | None]:
    """Searches for the most rows of the last phase that fit a device at once.

    The search doubles the rows, then bisects, down to a difference of 8 rows.

    Returns:
      (rows, the compiled step with them); (0, None) if 8 rows do not fit.
    """
    config = changed(config, {"train.microbatches": 1})
    compilation.check(config, topology)
    phase, shards = config_lib.phases(config)[-1], _shards(config, topology)

    def compiled(rows):
        say(f"trying {rows} rows a device")
        data = ml_collections.ConfigDict(phase.data.to_dict())
        data.batch_size = rows * shards
        return isolated.compile_phase(config, topology, dataclasses.replace(phase, data=data))

    fits, best, fails, rows = 0, None, None, _GRAIN
    while fails is None or fails - fits > _GRAIN:
        tried = compiled(rows)
        if tried.fits:
            fits, best = rows, tried
        else:
            fails = rows
        rows = 2 * rows if fails is None else fits + max(_GRAIN, (fails - fits) // 2 // _GRAIN * _GRAIN)
    return fits, best


def _attempt(config, topology, change, order):
    config = changed(config, change)
    phases, steps, done = config_lib.phases(config), {}, {}
    try:
        compilation.check(config, topology)
        for i in order:
            program = _program(config, phases[i])
            if program not in steps:
                steps[program] = isolated.compile_phase(config, topology, phases[i])
            done[i] = steps[program]
            if not done[i].fits:
                break
    except isolated.NotCompiled:
        raise
    except UserError:  # a layout that the model or the batch does not divide into, or a crash of the compiler
        return Attempt(change, (), False)
    fits = len(done) == len(order) and all(phase.fits for phase in done.values())
    return Attempt(change, tuple(done[i] for i in sorted(done)), fits)


def _microbatches(config, topology):
    """Yields numbers of microbatches above the config's that divide every phase's rows on a device."""
    shards = _shards(config, topology)
    rows = [phase.data.batch_size // shards for phase in config_lib.phases(config)]
    count: Any = 2 * (config.train.microbatches or 1)
    while all(n >= count for n in rows):
        if all(n % count == 0 for n in rows):
            yield count
        count *= 2


def _fsdp(config, topology):
    """Yields changes that move devices of a slice from the data axis to the fsdp axis."""
    mesh = config.mesh
    tensor, current = max(1, mesh.tensor), max(1, mesh.fsdp)
    devices_left = topology.num_devices // topology.num_slices // tensor
    size = 2 * current
    while size <= devices_left:
        change = {"mesh.fsdp": size}
        if mesh.data != -1:
            change["mesh.data"] = -1
        if devices_left % size == 0:
            yield change
        size *= 2


def _shards(config, topology):
    """Returns the number of shards of a batch's rows."""
    mesh = config.mesh
    return topology.num_devices // mesh.tensor if mesh.tensor != -1 else mesh.data * mesh.fsdp
