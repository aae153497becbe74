"""Divides a run into phases: stretches of steps that differ in data, positions, dropout or schedule. No jax here."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_jax.config.keys import PRETRAINING, SCHEDULE
from bert_jax.config.schema import check_type, closest, is_number
from bert_jax.errors import UserError

if TYPE_CHECKING:  # a GPU benchmark compiles steps without it
    import ml_collections


@dataclasses.dataclass(frozen=True)
class Phase:
    """Describes a stretch of the run with one shape of batch, one model and one optimizer.

    Attributes:
      index: position among the phases, from 0.
      start, stop: first step, and the step after the last.
      data: config.data with the phase's own values in place.
      name: "" in a run of one phase, else such as " (phase 1)", for messages.
      stream: index of the phase whose rows it continues: the first of the phases directly before it that differ only in
        batch_size; its own index where there is none.
      first_row: number of rows of that stream that earlier phases have used.
      settings: the phase's own values of keys outside config.data, by dotted key, such as "model.rotary_base".
    """

    index: int
    start: int
    stop: int
    data: "ml_collections.ConfigDict"
    name: str
    stream: int = 0
    first_row: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Describes a stretch of the run with one learning-rate schedule.

    Attributes:
      start, stop: first step, and the step after the last.
      settings: values of config.optimizer, by key.
    """

    start: int
    stop: int
    settings: Mapping[str, Any]


def phases(config: "ml_collections.ConfigDict") -> list[Phase]:
    """Returns the phases of a run; a run without `data.phases` has one.

    The `share` of a phase is its share of the run's steps. Its other keys are those of config.data, and dotted keys of
    other groups, such as "optimizer.learning_rate". No phase has longer rows than `data.sequence_length`.

    Raises:
      UserError: A phase is no dict, has an unknown key or one of the whole run, or the shares do not add up to 1.
    """
    for i, phase in enumerate(config.data.phases):
        if not isinstance(phase, Mapping):
            raise UserError(
                f"config.data.phases[{i}]: found {phase!r}; expected a dict such as "
                "{'share': 0.9, 'sequence_length': 128}"
            )
    overrides = [{_short_name(key): phase[key] for key in phase} for phase in config.data.phases] or [{"share": 1.0}]
    datas, settings = [], []
    for i, override in enumerate(overrides):
        data = config.data.copy_and_resolve_references()
        others = {}
        for key, value in override.items():
            if key == "share":
                continue
            name = _key_in_phase(key, f"config.data.phases[{i}].{key}")
            check_type(f"config.data.phases[{i}].{key}", value, PRETRAINING[name].default)
            group, _, last = name.partition(".")
            if group == "data":
                data[last] = value
            else:
                PRETRAINING[name].check(f"config.{name}", value, f" (phase {i + 1})")
                others[name] = value
        if "sequence_length" in override and data.sequence_length > config.model.max_positions:
            raise UserError(
                f"config.data.phases[{i}].sequence_length: {data.sequence_length} is over "
                f"config.model.max_positions={config.model.max_positions}"
            )
        data.phases = ()
        data.sequence_length = min(data.sequence_length, config.data.sequence_length)
        datas.append(data)
        settings.append(others)
    stops = _phase_stops(config, overrides, datas)
    run_phases = []
    for i, (start, stop, data) in enumerate(zip([0, *stops], stops, datas, strict=False)):
        stream, first_row = i, 0
        if run_phases and _but_batch_size(run_phases[-1].data) == _but_batch_size(data):
            before = run_phases[-1]
            stream = before.stream
            first_row = before.first_row + (before.stop - before.start) * before.data.batch_size
        name = f" (phase {i + 1})" if len(overrides) > 1 else ""
        run_phases.append(Phase(i, start, stop, data, name, stream, first_row, settings[i]))
    return run_phases


def phase_at(run_phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase that a step, counted from 0, belongs to; the last one for steps beyond the run."""
    return next((phase for phase in run_phases if step < phase.stop), run_phases[-1])


def in_phase(config: "ml_collections.ConfigDict", phase: Phase) -> "ml_collections.ConfigDict":
    """Returns a copy of the run's config with the phase's own values of keys outside config.data."""
    config = config.copy_and_resolve_references()
    for name, value in phase.settings.items():
        group, _, key = name.partition(".")
        config[group][key] = value
    return config


def schedules(config: "ml_collections.ConfigDict") -> list[Schedule]:
    """Returns the learning-rate schedules of a run, in order; a run whose phases set none of their keys has one.

    A phase that sets a key of the schedule begins a new one, which lasts until the next phase that does so. Keys that
    it does not set have the values of config.optimizer, but it has no warm-up unless it sets optimizer.warmup_steps:
    the moments are those of a run that trains already.
    """
    settings = config.optimizer.to_dict()
    begun = []
    for phase in phases(config):
        own = {name.partition(".")[2]: value for name, value in phase.settings.items() if name in SCHEDULE}
        if begun and not own:
            begun[-1] = dataclasses.replace(begun[-1], stop=phase.stop)
            continue
        rest = {"warmup_steps": 0} if begun else {}
        begun.append(Schedule(phase.start, phase.stop, settings | rest | own))
    return begun


def batch_warmup(
    first: int, last: int, tokens: float, stages: int, multiple: int = 1, **data
) -> tuple[dict[str, Any], ...]:
    """Returns a warm-up of the batch size, from `first` to the last stage before `last`, as phases for `by_tokens`.

    ModernBERT (Warner et al. 2024, table 3: 768 to 4,608 rows over 50 billion tokens; its large model 448 to 4,928
    over 10 billion) takes equally many steps with each batch size between the two, and so shows it tokens in
    proportion to it (`BatchSizeWarmupScheduler` of its sequence_packer.py). This function does the same with `stages`
    evenly spaced sizes, each of which is compiled as a program of its own.

    Args:
      first, last: rows of the first batches, and of the batches after the warm-up.
      tokens: tokens of the whole warm-up.
      stages: number of sizes before `last`.
      multiple: every size is a multiple of it, such as the number of devices times the number of microbatches.
      **data: keys of config.data that the phases have in common; at least sequence_length.

    Raises:
      UserError: An argument is not a number over 0, or the sizes do not rise.
    """
    for name, value in {"first": first, "last": last, "stages": stages, "multiple": multiple, "tokens": tokens}.items():
        is_valid_type = name == "tokens" or isinstance(value, int)
        if not (is_number(value) and value > 0 and is_valid_type):
            expected = "a number" if name == "tokens" else "a whole number"
            raise UserError(f"batch_warmup: {name}: found {value!r}; expected {expected} over 0")
    sizes = [multiple * round((first + i * (last - first) / stages) / multiple) for i in range(stages)]
    if any(a >= b for a, b in zip([0, *sizes], [*sizes, last], strict=True)):
        raise UserError(
            f"batch_warmup: found first={first}, last={last}, stages={stages}, multiple={multiple}, which makes sizes "
            f"{[*sizes, last]}; expected sizes that rise"
        )
    return tuple({"tokens": tokens * size / sum(sizes), "batch_size": size, **data} for size in sizes)


def by_tokens(*phases: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Returns phases given by their `tokens` in the form of config.data.phases, by their `share` of the steps.

    A run of train.num_tokens=SUM (with train.num_steps=0) has exactly these, to a step; a run of another length has
    the same shares.

    Raises:
      UserError: A phase does not say its tokens, batch_size and sequence_length, or says its share.
    """
    for i, phase in enumerate(phases):
        if not isinstance(phase, Mapping):
            raise UserError(f"by_tokens: phase {i + 1}: found {phase!r}; expected a dict")
        sizes = {key: phase.get(key) for key in ("tokens", "batch_size", "sequence_length")}
        missing = [key for key, value in sizes.items() if not (is_number(value) and value > 0)]
        if missing:
            raise UserError(f"by_tokens: phase {i + 1}: found {dict(phase)}; expected numbers over 0 of {missing}")
        if "share" in phase:
            raise UserError(f"by_tokens: phase {i + 1}: found {dict(phase)}; expected no share, which tokens make")
    steps = [phase["tokens"] / (phase["batch_size"] * phase["sequence_length"]) for phase in phases]
    return tuple(
        {"share": number / sum(steps)} | {key: value for key, value in phase.items() if key != "tokens"}
        for number, phase in zip(steps, phases, strict=True)
    )


def _short_name(key):
    """Returns a key of config.data without its group; any other as it is."""
    return key.removeprefix("data.") if isinstance(key, str) else key


def _key_in_phase(key, where):
    """Returns the dotted name of a key of a phase. Raises UserError if there is none that a phase may set."""
    name = key if isinstance(key, str) and "." in key else f"data.{key}"
    if name not in PRETRAINING:
        allowed = [name.removeprefix("data.") for name, entry in PRETRAINING.items() if entry.in_phases]
        near = closest(key, allowed) if isinstance(key, str) else ""
        raise UserError(
            f'{where}: unknown key{near}; a phase has share, keys of config.data, and such as "optimizer.learning_rate"'
        )
    if not PRETRAINING[name].in_phases:
        raise UserError(f"{where}: it is the whole run's; expected config.{name}")
    return name


def _but_batch_size(data):
    unread = {"batch_size", "dupe_factor"} if data.masking == "dynamic" else {"batch_size"}
    return {key: value for key, value in data.items() if key not in unread}


def num_steps(config: "ml_collections.ConfigDict") -> int:
    """Returns the number of steps of the whole run, from train.num_steps or train.num_tokens."""
    return phases(config)[-1].stop


def _phase_stops(config, overrides, datas):
    shares = [override.get("share") for override in overrides]
    if not all(is_number(share) and share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"config.data.phases: found shares {shares}; expected positive numbers that add up to 1")
    total = config.train.num_steps
    if config.train.num_tokens:
        per_step = sum(s * d.batch_size * d.sequence_length for s, d in zip(shares, datas, strict=True))
        total = math.ceil(config.train.num_tokens / max(1.0, per_step) - 1e-6)  # shares are rounded numbers
    stops, passed = [], 0.0
    for share in shares:
        passed += share
        stops.append(round(passed * total))
    return stops
