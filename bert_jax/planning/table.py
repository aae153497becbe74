"""Writes the table of recipes by topologies; each plan is saved, so that a run that was stopped goes on."""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Mapping

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files
from bert_jax.config.keys import PRETRAINING
from bert_jax.errors import UserError
from bert_jax.planning import chips, compilation, isolated, report
from bert_jax.planning.chips import GIB

RECIPES = ("bert_base", "bert_large", "roberta_base", "roberta_large")
TOPOLOGIES = (
    ("v4:2x2x4", 1),
    ("v5e:4x4", 1),
    ("v5e:4x4", 2),
    ("v5p:2x2x2", 1),
    ("v5p:8x8x8", 1),
    ("v6e:4x4", 1),
    ("tpu7x:2x2x2", 1),
)

# A recipe of each other family, on the slice that is granted most easily; compiled with scanned layers, which takes a
# fraction of the time.
FAMILIES = ("albert_base", "electra_base", "deberta_v3_base", "modernbert_base", "eurobert_210m")
_FAMILY_TOPOLOGIES = (("v5e:4x4", 1),)

# Roles of the keys that decide what a step computes, beside the shape of its batch and the kind of optimizer.
_ROLES = ("vocabulary", "architecture", "training", "objective", "computation", "device", "layout")
_COST_NOTHING = (  # keys with these roles that change no cost of a step
    *("model.initializer", "model.initializer_range", "model.scaled_initializer", "model.norm_epsilon"),
    *(name for name in PRETRAINING if "rotary_" in name),
    "train.compilation_cache",
)

_HEAD = """# Plans

`python -m bert_jax.plan --topology=all --output=experiments/results/plan.md`, with {versions}. Nothing has run: each
recipe's training step was compiled for the topology. Peak is what the compiler says a device (a chip; half a chip of
tpu7x) holds at most, of what it lets a program fill. Step, tokens/s, MFU, days and chip-hours are bounds by the
published rates of products, HBM and links, whichever takes longest: no run is faster, and real ones are slower.
Tokens/s count every token of the rows, padding included; MFU, the model FLOPs utilization, is the share of the devices'
published peak that the model's matrix products take, recomputation left out.
{families} are compiled with `model.scan_layers=True`.
"""
_COLUMNS = (
    "| recipe | topology | chips | with | peak, GiB | of | step, ms | bound by | tokens/s | MFU | days | chip-hours |\n"
    "|---|---|---:|---|---:|---:|---:|---|---:|---:|---:|---:|\n"
)


def write(
    output: pathlib.Path,
    recipes: Mapping[str, ml_collections.ConfigDict] | None = None,
    say: Callable[[str], None] = lambda line: None,
    topologies: tuple[tuple[str, int], ...] = TOPOLOGIES,
) -> None:
    """Plans every recipe on every topology and writes the table, again after each entry.

    Args:
      output: a Markdown file; its entries are saved beside it as .json, and computed again only if `settings` of the
        recipe, jax or libtpu change.
      recipes: configs by name; None for RECIPES, and for FAMILIES on v5e:4x4.
      say: called with a line about each thing that is done.
      topologies: names of topologies, with their numbers of slices.
    """
    slices = dict.fromkeys(recipes or RECIPES, topologies) | (
        {} if recipes else dict.fromkeys(FAMILIES, _FAMILY_TOPOLOGIES)
    )
    recipes = recipes or {name: recipe(name) for name in slices}
    is_stream = files.is_stream(output)  # such as /dev/stdout, beside which nothing is kept
    saved = output.with_suffix(".json")
    entries = json.loads(saved.read_text()) if saved.exists() and not is_stream else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    wanted = []
    for name, config in recipes.items():
        for topology_name, num_slices in slices[name]:
            topology = chips.parse(topology_name, num_slices)
            key = f"{name} on {topology.label}"
            wanted.append(key)
            basis = {"versions": _versions(), "settings": settings(config)}
            if not basis.items() <= entries.get(key, {}).items():
                entries[key] = basis | _entry(config, topology, name, say)
                if not is_stream:
                    files.atomic_write(saved, json.dumps(entries, indent=1) + "\n")
            if not is_stream:
                files.atomic_write(output, markdown([entries[key] for key in wanted]))
    if is_stream:
        with files.open_output(output) as file:
            file.write(markdown([entries[key] for key in wanted]).encode())


def markdown(entries: list[dict]) -> str:
    """Returns the table of entries as Markdown."""
    head = _HEAD.format(versions=_versions(), families=", ".join(FAMILIES))
    return f"{head}\n{_COLUMNS}" + "".join(map(_row, entries))


def recipe(name: str) -> ml_collections.ConfigDict:
    """Returns a recipe's config as the table has it: FAMILIES with scanned layers."""
    config = config_lib.load_recipe(name)
    if name in FAMILIES:
        config.model.scan_layers = True
    return config


def _entry(config, topology, name, say):
    entry = {"recipe": name, "topology": topology.label, "chips": topology.num_chips}
    try:
        plan = report.plan(config, topology, name=name, say=say)
    except isolated.NotCompiled:
        raise
    except UserError as error:
        return entry | {"error": str(error)}
    change = plan.get("change")
    entry |= {"fits": plan["fits"], "flags": change["flags"] if change else ""}
    steps = plan if plan["fits"] or not change else change
    entry["phases"] = [
        {key: phase.get(key) for key in ("rows", "sequence", "needed_bytes", "usable_bytes", "roofline", "memory")}
        for phase in steps["phases"]
    ]
    return entry | {"schedule": steps["schedule"]}


def _row(entry):
    head = f"| {entry['recipe']} | {entry['topology']} | {entry['chips']} "
    if "error" in entry:
        return f"{head}| {entry['error'].partition('; try')[0]} |" + " |" * 8 + "\n"
    phases = entry["phases"]
    peak = max((phase["memory"] or {"peak": phase["needed_bytes"]})["peak"] for phase in phases)
    memory = f"{peak / GIB:.2f} | {phases[0]['usable_bytes'] / GIB:.2f} "
    if entry["schedule"] is None:
        return f"{head}| does not fit | {memory}|" + " |" * 6 + "\n"
    flags = f"`{entry['flags']}`" if entry["flags"] else ""
    bounds, run = [phase["roofline"] for phase in phases], entry["schedule"]

    def join(form, key):
        return " / ".join(form.format(bound[key]) for bound in bounds)

    milliseconds = " / ".join(f"{1e3 * bound['step_seconds']:.1f}" for bound in bounds)
    return (
        f"{head}| {flags} | {memory}| {milliseconds} | {join('{}', 'bound')} | {join('{:,.0f}', 'tokens_per_second')} "
        f"| {100 * run['mfu']:.0f} % | {run['days']:.2f} | {run['chip_hours']:,.0f} |\n"
    )


def settings(config: ml_collections.ConfigDict) -> dict:
    """Returns what the cost of a recipe's run depends on, as values for JSON.

    These are the sizes of the model and its computation, as far as they are not the defaults, so that new keys leave
    entries valid; and of each phase its steps and the shape of its batch. Initial values, rotary bases and the
    numbers of the optimizer cost nothing.
    """
    defaults = config_lib.flat(config_lib.base())
    changed = {
        name: value for name, value in config_lib.flat(config).items() if value != defaults[name] and _costs(name)
    }
    phases = []
    for phase in config_lib.phases(config):
        predicted = compilation.batch_shapes(config, phase.data).get("masked_labels", ((0, 0),))[0][1]
        shape = {"rows": phase.data.batch_size, "sequence": phase.data.sequence_length, "predictions": predicted}
        phase_settings = {name: value for name, value in sorted(phase.settings.items()) if _costs(name)}
        phases.append({"steps": phase.stop - phase.start} | shape | phase_settings)
    return json.loads(json.dumps(changed, default=list, sort_keys=True)) | {"phases": phases}


def _costs(name):
    return (PRETRAINING[name].role in _ROLES and name not in _COST_NOTHING) or name == "optimizer.name"


def _versions():
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
