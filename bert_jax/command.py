"""What all commands share: recipe flags, and one clear line for a user's mistake."""

import sys

from absl import app, flags
from ml_collections import config_flags

from bert_jax import config as config_lib
from bert_jax.errors import UserError


def define_config_flag(default: str | None = None) -> None:
    """Defines --config=FILE|NAME and --config.KEY=VALUE; without a default recipe, --config is required."""
    path = str(config_lib.recipe_path(default)) if default else None
    config_flags.DEFINE_config_file("config", path, "a recipe: a file, or a name such as bert_base")
    if not default:
        flags.mark_flag_as_required("config")


def run(main) -> None:
    """Runs `main(argv)` after parsing flags; a UserError prints one line and exits with code 2."""
    try:
        app.run(_reporting(main), flags_parser=_parse)
    except UserError as error:
        _report(error)


def _reporting(main):
    def wrapped(argv):
        try:
            if len(argv) > 1:
                raise UserError(f"{argv[1]}: unexpected argument; options look like --name=value (see --help)")
            return main(argv)
        except UserError as error:
            _report(error)

    return wrapped


def _report(error):
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def _parse(argv):
    try:
        rest = flags.FLAGS([_resolved(argument) for argument in argv])
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings; absl would show jax's search for accelerators too
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _resolved(argument):
    """The argument with a recipe's name turned into its file, and a config key checked."""
    name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
    if not argument.startswith("-"):
        return argument
    if name == "config" and equals:
        return f"--config={config_lib.recipe_path(value)}"
    if name.startswith("config."):
        config_lib.check_key(name.removeprefix("config."))
    return argument
