"""Reports of plans: what is known about a recipe on a topology, as values for JSON and as text."""

import dataclasses
import math
from collections.abc import Callable

import ml_collections

from bert_jax import _moved
from bert_jax import config as config_lib
from bert_jax.config.mesh import AXES
from bert_jax.planning import compilation, fit, isolated
from bert_jax.planning.chips import GIB, Topology
from bert_jax.planning.compilation import Compiled
from bert_jax.planning.roofline import BOUNDS, roofline, schedule


def plan(
    config: ml_collections.ConfigDict,
    topology: Topology,
    *,
    name: str = "",
    search: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Compiles a recipe's steps for a topology and reports what they need; every value can be written as JSON.

    Args:
      config: a pre-training config.
      topology: the topology, from chips.parse.
      name: the recipe's name, for the report.
      search: whether to search for a change that makes the recipe fit, where it does not.
      say: called with a line about each thing that is done.

    Returns:
      recipe, topology, chip, mesh, model, phases (see `_phase`), fits, schedule (None where it does not fit). `crash`
      is there if the compiler crashed with the recipe's remat policy; phases are then those without it. If the recipe
      does not fit and a change was searched for, `tried` has the flags that were tried and whether they made it fit,
      and `change` the one that did, with its phases and schedule, or None.

    Raises:
      UserError: the recipe cannot run on this topology, or libtpu cannot be used.
    """
    compilation.check(config, topology)
    say(f"compiling {name or 'the recipe'} for {topology.label}")
    first, crash = {}, ""
    try:
        compiled = fit.compile_phases(config, topology, say)
    except isolated.CompilerCrashed as error:
        if not search or config.model.remat == "none":
            raise
        first, crash = {"model.remat": "none"}, str(error)
        say(crash)
        config = fit.changed(config, first)
        compiled = fit.compile_phases(config, topology, say)
    fits = all(step.fits for step in compiled)
    report = {"recipe": name} | described(topology)
    report |= {
        "mesh": _mesh(config.mesh, topology.num_devices),
        "model": _model(compiled[0]),
        "fits": fits and not crash,
    }
    if crash:
        report["crash"] = crash
    report |= _steps(config, topology, compiled)
    if not report["fits"] and search:
        attempts = [fit.Attempt(first, tuple(compiled), fits)] if first else []
        if not fits:
            more = fit.search(config, topology, compiled, say)
            attempts += [dataclasses.replace(attempt, change={**first, **attempt.change}) for attempt in more]
        report["tried"] = [{"flags": attempt.flags, "fits": attempt.fits} for attempt in attempts]
        report["change"] = None
        if attempts and attempts[-1].fits:
            last = attempts[-1]
            changed = fit.changed(config, last.change)
            report["change"] = {"overrides": dict(last.change), "flags": last.flags}
            report["change"]["mesh"] = _mesh(changed.mesh, topology.num_devices)
            report["change"] |= _steps(changed, topology, list(last.phases))
    return report


def largest(config: ml_collections.ConfigDict, topology: Topology, rows: int, compiled: Compiled | None) -> dict:
    """Reports a result of fit.largest_microbatch, as values for JSON."""
    phase = config_lib.phases(config)[-1]
    report = {"topology": topology.label, "sequence": phase.data.sequence_length, "rows_per_device": rows}
    if compiled:
        report |= {"remat": compiled.spec.remat, "attention_kernel": compiled.attention_kernel}
        report |= {"fsdp": config.mesh.fsdp, "needed_bytes": compiled.needed, "usable_bytes": compiled.usable}
        assert compiled.memory is not None
        report["memory"] = dataclasses.asdict(compiled.memory)
    return report


@_moved.renamed_arguments(found="report")
def largest_text(report: dict) -> str:
    """Returns a report of `largest` in words."""
    headline = (
        f"{report['topology']}: {report['rows_per_device']} rows of {report['sequence']} tokens fit a device at once"
    )
    if not report["rows_per_device"]:
        return f"{report['topology']}: not even 8 rows of {report['sequence']} tokens fit a device"
    return (
        f"{headline}: {report['needed_bytes'] / GIB:.2f} of {report['usable_bytes'] / GIB:.2f} GiB; "
        f"attention {report['attention_kernel']}, remat {report['remat']}, fsdp={report['fsdp']}"
    )


def described(topology: Topology) -> dict:
    """Returns a topology and its chip as values for JSON; sizes in bytes, rates per second."""
    chip = topology.chip
    return {
        "topology": {
            "name": topology.name,
            "num_slices": topology.num_slices,
            "chips": topology.num_chips,
            "devices": topology.num_devices,
            "devices_per_chip": chip.devices,
        },
        "chip": {
            "name": chip.name,
            "hbm_bytes": chip.hbm,
            "usable_hbm_bytes_per_device": chip.usable_hbm,
            "flops_per_device": chip.flops,
            "hbm_bandwidth": chip.hbm_bandwidth,
            "ici_link_bandwidth": chip.link_bandwidth,
            "dcn_bandwidth": chip.dcn_bandwidth,
            "links": {"ici": "NVLink", "dcn": "network"} if chip.is_gpu else {"ici": "ici", "dcn": "dcn"},
        },
    }


@_moved.renamed_arguments(found="report")
def text(report: dict) -> str:
    """Returns a report of `plan` in words."""
    topology, chip, model = report["topology"], report["chip"], report["model"]
    where = topology["name"] if topology["num_slices"] == 1 else f"{topology['num_slices']} x {topology['name']}"
    devices = "" if topology["devices_per_chip"] == 1 else f" of {topology['devices_per_chip']} devices each"
    lines = [
        f"{report['recipe']} on {where}: {topology['chips']} chips{devices}, "
        f"{chip['hbm_bytes'] / GIB:.0f} GiB and {chip['flops_per_device'] * topology['devices_per_chip'] / 1e12:,.0f} "
        "TFLOP/s (bfloat16) a chip",
        f"{model['parameters']:,} parameters, {model['dtype']}, mesh "
        + " ".join(f"{axis}={size}" for axis, size in report["mesh"].items()),
        "",
        *([report["crash"], ""] if "crash" in report else []),
        *_phase_lines(report["phases"], chip["links"]),
    ]
    if report["fits"]:
        lines += ["", _schedule_line(report["schedule"])]
    elif "change" in report:
        lines += ["", *(f"tried {trial['flags']}: {'fits' if trial['fits'] else 'no'}" for trial in report["tried"])]
        change = report["change"]
        if change:
            lines += ["", f"It fits with {change['flags']}", "", *_phase_lines(change["phases"], chip["links"])]
            lines += ["", _schedule_line(change["schedule"])]
        else:
            lines += ["", "Nothing that was tried makes it fit: more chips, or a smaller batch."]
    return "\n".join(lines)


def _mesh(sizes, num_devices):
    """Returns the sizes of the mesh axes, with -1 resolved."""
    axes = {axis: sizes[axis] for axis in AXES}
    taken = math.prod(size for size in axes.values() if size != -1)
    return {axis: num_devices // taken if size == -1 else size for axis, size in axes.items()}


def _model(compiled):
    spec = compiled.spec
    return {
        "parameters": compiled.parameters,
        "vocab_size": spec.vocab_size,
        "dtype": spec.dtype,
        "scan_layers": spec.scan_layers,
        "remat": spec.remat,
    }


def _steps(config, topology, compiled):
    """Returns `phases`, and `schedule`, which is None unless all of them fit."""
    rooflines = [roofline(step, topology) if step.memory else None for step in compiled]
    phases = [
        _phase(config, phase, step, bounds)
        for phase, step, bounds in zip(config_lib.phases(config), compiled, rooflines, strict=True)
    ]
    bounds = [bounds for bounds in rooflines if bounds]
    whole_run = schedule(config, bounds, topology) if all(step.fits for step in compiled) else None
    return {"phases": phases, "schedule": whole_run and dataclasses.asdict(whole_run)}


def _phase(config, phase, compiled: Compiled, bounds):
    """Reports a phase's step: shapes, memory on a device and, where it compiled, work, links and bounds."""
    report = {
        "steps": phase.stop - phase.start,
        "rows": compiled.rows,
        "sequence": compiled.sequence,
        "slots": compiled.slots,
        "microbatches": config.train.microbatches,
        "remat": compiled.spec.remat,
        "attention_kernel": compiled.attention_kernel,
        "compile_seconds": round(compiled.seconds, 1),
        "fits": compiled.fits,
        "needed_bytes": compiled.needed,
        "usable_bytes": compiled.usable,
        "over_bytes": max(0, compiled.needed - compiled.usable),
        "memory": compiled.memory and dataclasses.asdict(compiled.memory),
    }
    if bounds is None:
        return report
    return report | {
        "model_flops": bounds.model_flops,
        "program_flops_per_device": compiled.products,
        "kernels": compiled.kernels,
        "hbm_bytes_per_device": compiled.hbm_bytes,
        "collectives": [dataclasses.asdict(collective) for collective in compiled.collectives],
        "unknown_loops": compiled.unknown_loops,
        "roofline": {
            "seconds": bounds.seconds,
            "exposed": bounds.exposed,
            "bound": bounds.bound,
            "step_seconds": bounds.step_seconds,
            "tokens_per_second": bounds.tokens_per_second,
            "mfu": bounds.mfu,
            "summed_seconds": bounds.summed_seconds,
            "summed_mfu": bounds.summed_mfu,
        },
    }


def _phase_lines(phases, names):
    lines = []
    for number, phase in enumerate(phases, 1):
        head = f"phase {number}: " if len(phases) > 1 else ""
        parts = f" in {phase['microbatches']} parts" if phase["microbatches"] > 1 else ""
        shape = f"{phase['rows']:,} x {phase['sequence']}{parts}, {phase['slots']} slots"
        kernels = f"attention {phase['attention_kernel']}, remat {phase['remat']}"
        lines.append(f"{head}{phase['steps']:,} steps of {shape}; {kernels}; compiled in {phase['compile_seconds']} s")
        lines += [f"  {line}" for line in _memory_lines(phase) + _work_lines(phase, names)]
    return lines


def _memory_lines(phase):
    usable = phase["usable_bytes"] / GIB
    if not phase["fits"]:
        verdict = f"does not fit: {phase['needed_bytes'] / GIB:.2f} of {usable:.2f} GiB, "
        verdict += f"{phase['over_bytes'] / GIB:.2f} GiB too much a device"
    else:
        verdict = f"fits: {phase['needed_bytes'] / GIB:.2f} of {usable:.2f} GiB a device"
    memory = phase["memory"]
    if memory is None:
        return [verdict]
    kinds = ("parameters", "optimizer", "temporaries", "peak", "batch", "padding", "outputs", "program")
    return [verdict, "GiB: " + ", ".join(f"{kind} {memory[kind] / GIB:.3f}" for kind in kinds)]


def _work_lines(phase, names):
    if "roofline" not in phase:
        return []
    bounds = phase["roofline"]
    times = ", ".join(f"{names.get(name, name)} {bounds['seconds'][name] * 1e3:.2f}" for name in BOUNDS)
    lines = [
        f"{phase['model_flops'] / 1e12:,.2f} TFLOP a step (the model's), {phase['hbm_bytes_per_device'] / GIB:.2f} GiB "
        "of HBM traffic a device",
    ]
    for kind, link in sorted({(entry["kind"], entry["link"]) for entry in phase["collectives"]}):
        entries = [entry for entry in phase["collectives"] if (entry["kind"], entry["link"]) == (kind, link)]
        count = sum(entry["count"] for entry in entries)
        size = sum(entry["count"] * entry["bytes"] for entry in entries)
        sent = sum(entry["count"] * entry["sent"] for entry in entries)
        lines.append(f"{kind} over {names.get(link, link)}: {count:,}, {_size(size)}; {_size(sent)} sent by a device")
    waits = ", ".join(f"{names[link]} {seconds * 1e3:.2f}" for link, seconds in bounds["exposed"].items())
    bound = names.get(bounds["bound"], bounds["bound"])
    lines.append(f"at least {bounds['step_seconds'] * 1e3:.2f} ms a step, by {bound} (ms: {times})")
    lines.append(f"of the links' time, waited for: {waits} ms")
    lines.append(f"at most {bounds['tokens_per_second']:,.0f} tokens/s, MFU {100 * bounds['mfu']:.1f} %")
    sums = f"operation by operation: {bounds['summed_seconds'] * 1e3:.2f} ms, MFU {100 * bounds['summed_mfu']:.1f} %"
    lines.append(sums + (", without products of kernels" if phase["kernels"] else ""))
    return lines


def _schedule_line(run):
    return (
        f"the whole run, {run['steps']:,} steps and {run['tokens'] / 1e9:,.1f} billion tokens: at least "
        f"{run['days']:.2f} days, {run['chip_hours']:,.0f} chip-hours; MFU at most {100 * run['mfu']:.1f} %"
    )


def _size(size):
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B"
