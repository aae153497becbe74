"""Plans a recipe for TPUs or GPUs without them: memory, collectives, bounds on speed, days and chip-hours.

    python -m bert_jax.plan --config=bert_base --topology=v5e:4x4 [--num_slices=2] [--json=FILE|-] [--config.KEY=...]
    python -m bert_jax.plan --config=bert_base --topology=h100:8 [--num_slices=MACHINES]
    python -m bert_jax.plan --config=bert_base --topology=v5e:2x2 --largest_microbatch
    python -m bert_jax.plan --topology=all --output=FILE.md
    python -m bert_jax.plan --config=modernbert_base --schedule [--output=FILE.svg] [--json=FILE|-]

The training step is compiled ahead of time for the topology's devices; nothing runs, and no corpus is read. For a
recipe that does not fit, the plan says by how much and what makes it fit. --schedule compiles nothing: it lists, and
draws, what the recipe does step by step.
"""

import json
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from bert_jax import command, files, outputs, storage
from bert_jax.errors import UserError
from bert_jax.planning import chips, devices

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"TPU slice, or GPUs of a machine, such as {', '.join(chips.examples())}; or all, for a table"
)
_NUM_SLICES = flags.DEFINE_integer(
    "num_slices", 1, "number of slices, or machines with GPUs, of this topology, joined by the network"
)
_JSON = flags.DEFINE_string("json", "", "JSON file to write the plan to; - prints it instead of the text")
_SEARCH = flags.DEFINE_bool("search", True, "search for a change that makes the recipe fit if it does not")
_LARGEST = flags.DEFINE_bool("largest_microbatch", False, "search for the most rows that fit a device at once")
_SCHEDULE = flags.DEFINE_bool(
    "schedule",
    False,
    "list rate, batch, length of rows, masks and rotary bases of the recipe's phases; needs no topology",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "with --topology=all: Markdown file to write; its entries are kept beside it as JSON. With --schedule: SVG file to "
    "draw",
)


def main(argv):
    del argv
    for flag, path in (("json", _JSON.value), ("output", _OUTPUT.value)):
        if path and not storage.is_remote(path):
            outputs.check_file(flag, path, makes_folder=True)
    if _TOPOLOGY.value == "all" and _OUTPUT.value and not files.is_stream(_OUTPUT.value):
        outputs.check_file("output", pathlib.Path(_OUTPUT.value).with_suffix(".json"), makes_folder=True)
    if _SCHEDULE.value:
        _schedule(flags.FLAGS.config)
        return
    if not _TOPOLOGY.value:
        raise UserError(f"--topology: missing; expected one such as {', '.join(chips.examples())}, or all")
    config = flags.FLAGS.config
    if _TOPOLOGY.value == "all":
        _table(config)
        return
    topology = chips.parse(_TOPOLOGY.value, _NUM_SLICES.value)
    if config is None:
        raise UserError("--config: missing; expected a recipe such as bert_base")
    devices.prepare_environment()
    from bert_jax.planning import fit, report  # jax reads the environment when it is imported

    if _LARGEST.value:
        _write(report.largest(config, topology, *fit.largest_microbatch(config, topology, _say)), report.largest_text)
    else:
        plan = report.plan(config, topology, name=_recipe_name(), search=_SEARCH.value, say=_say)
        _write(plan, report.text)


def _schedule(config):
    for name in ("topology", "num_slices", "largest_microbatch"):
        if not flags.FLAGS[name].using_default_value:
            raise UserError(f"--{name}: does not go with --schedule, which compiles for no topology")
    if config is None:
        raise UserError("--config: missing; expected a recipe such as modernbert_base")
    if _OUTPUT.value and not _OUTPUT.value.endswith(".svg"):
        raise UserError(f"--output={_OUTPUT.value}: --schedule draws an SVG picture; expected a name that ends in .svg")
    devices.prepare_environment()
    from bert_jax.planning import schedule

    plan = schedule.schedule(config, _recipe_name())
    if _OUTPUT.value:
        _write_file("--output", _OUTPUT.value, schedule.draw(plan))
    _write(plan, schedule.text)


def _table(config):
    for name in ("num_slices", "json", "largest_microbatch"):
        if not flags.FLAGS[name].using_default_value:
            raise UserError(f"--{name}: does not go with --topology=all, which writes a table to --output")
    devices.prepare_environment()
    from bert_jax.planning import table

    if not _OUTPUT.value:
        raise UserError("--output: missing; --topology=all writes a Markdown file")
    recipes = None if config is None else {_recipe_name(): config}
    table.write(pathlib.Path(_OUTPUT.value), recipes, _say)


def _recipe_name():
    return pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def _write(plan, text):
    encoded = json.dumps(plan, indent=1)
    if _JSON.value == "-":
        print(encoded)
        return
    if _JSON.value:
        _write_file("--json", _JSON.value, f"{encoded}\n")
    print(text(plan))


def _write_file(flag, name, content):
    path = pathlib.Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(str(path), content.encode())
    except OSError as error:
        raise UserError(f"{flag}={path}: cannot be written: {error.strerror or error}") from error


def _say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.define_config_flag(required=False)
    command.run(main, likely=("config", "topology"))
