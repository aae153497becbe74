"""What all commands share: recipe flags, and one clear line for a user's mistake."""

import contextlib
import glob
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator

from absl import app, flags
from ml_collections import config_flags

from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError

_default: str | None = None  # the recipe where --config is not given


def define_config_flag(default: str | None = None) -> None:
    """Defines --config=FILE|NAME and --config.KEY=VALUE; without a default recipe, --config is required."""
    global _default  # not the flag's own: overrides would be read before they are checked
    _default = default
    config_flags.DEFINE_config_file("config", None, "a recipe: a file, or a name such as bert_base")
    if not default:
        flags.mark_flag_as_required("config")


def define_process_flags() -> None:
    """Defines the flags that `processes` reads."""
    flags.DEFINE_string("coordinator_address", None, "of a run of several processes: HOST:PORT of the first")
    flags.DEFINE_integer("num_processes", None, "of a run of several processes: how many")
    flags.DEFINE_integer("process_id", None, "of a run of several processes: which one this is, from 0")


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the run's processes, as flags or the environment tell of them; what ends one ends all, and one says why."""
    from bert_jax.processes import distributed

    values = flags.FLAGS
    distributed.initialize(values.coordinator_address, values.num_processes, values.process_id)
    try:
        yield
    except BaseException as error:
        if not distributed.is_multiprocess():
            raise
        users = isinstance(error, UserError)
        if distributed.reports_errors():
            if users:
                _say(f"{distributed.process_label()}{str(error).removeprefix(distributed.process_label())}")
            else:
                traceback.print_exception(error)
        distributed.exit_now(2 if users else 1)


def run(main, passes_on: bool = False, positional: str = "") -> None:
    """Runs `main(argv)` after parsing flags; a UserError prints one line and exits with code 2.

    Args:
      main: called with the program's name and, with `passes_on`, the options that stand after a lone "--"; with
        `positional`, the argument that is no option.
      positional: what the one argument is that the command takes beside its options, such as WORKDIR, or [WORKDIR]
        where it may be left out; "" for none.
    """
    _look_for_no_missing_tpu()
    try:
        app.run(_reporting(main, passes_on, positional), flags_parser=_parse)
    except UserError as error:
        _report(error)


def _look_for_no_missing_tpu():
    """Keeps libtpu, which `plan` compiles with, from telling at length that a machine without accelerators has none."""
    accelerators = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
    if importlib.util.find_spec("libtpu") and not any(glob.glob(device) for device in accelerators):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _reporting(main, passes_on, positional):
    def wrapped(argv):
        try:
            expected = 2 if positional else 1
            if len(argv) < expected and not positional.startswith("["):
                raise UserError(f"{positional}: missing; expected python -m ... {positional} (see --help)")
            if len(argv) > expected and not (passes_on and argv[1].startswith("--")):
                raise UserError(f"{argv[expected]}: unexpected argument; options look like --name=value (see --help)")
            return main(argv)
        except UserError as error:
            _report(error)
        except KeyboardInterrupt:
            _say("interrupted")
            sys.exit(130)

    return wrapped


def _report(error):
    _say(error)
    sys.exit(2)


def _say(error):
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr, flush=True)


def _parse(argv):
    try:
        sys.argv = _resolved([argv[0], *map(_underscored, argv[1:])])  # config_flags looks for overrides there
        rest = flags.FLAGS(sys.argv)
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings; absl would show jax's search for accelerators too
        return rest
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        missing = re.fullmatch(r"flag (--\w+)=None: Flag .* must have a value other than None\.", message)
        if missing:
            message = f"{missing[1]}: missing; expected {missing[1]}=VALUE (see --help)"
        raise UserError(message) from error


def _underscored(argument):
    """--dry-run as --dry_run."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if re.match(r"--\w", name) else argument


def _resolved(argv):
    """The arguments with the recipe first and as a file, its keys checked before absl sees them."""
    recipe, rest, overrides = _default, [], []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if argument.startswith("-") and name == "config":
            recipe = value if equals else next(arguments, "")
            continue
        if argument.startswith("-") and name.startswith("config."):
            overrides.append(argument)
        rest.append(argument)
    if overrides and recipe is None:
        raise UserError(f"--config: missing, but there is {overrides[0]}; expected --config=RECIPE")
    if recipe is None:
        return [argv[0], *rest]
    schema = finetune_config.schema_of(config_lib.load_recipe(recipe))
    for argument in overrides:
        key = argument.lstrip("-").partition("=")[0].removeprefix("config.")
        if "task" in schema and key in config_lib.flat(config_lib.base()) and key not in config_lib.flat(schema):
            raise UserError(
                f"--config={recipe}: a fine-tuning recipe, which has no config.{key}; expected one of pre-training, or "
                "keys of fine-tuning"
            )
        config_lib.check_key(key, schema)
    return [argv[0], f"--config={config_lib.recipe_path(recipe)}", *rest]
