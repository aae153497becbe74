"""Holds what the commands share: recipe flags, and one clear line for a mistake of the user."""

import contextlib
import difflib
import errno
import functools
import gc
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from bert_jax import arguments as arguments_lib
from bert_jax import cli, command_help, files, interruption, listing, outputs
from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config import finetuning_phases, synonyms
from bert_jax.config.keys import DTYPES, PRETRAINING
from bert_jax.config.schema import Key
from bert_jax.errors import UserError, command_line, ran_out_of_memory
from bert_jax.processes import machine

flags.disclaim_key_flags()  # flags that are defined here belong to the command that asks for them, and to its --help
_default: str | None = None  # the recipe to use if --config is not given
_schema = ""  # the schema whose keys --help_keys lists; "" where the command has no such flag
_continues = False  # whether --workdir alone continues the run that it holds
# Objects between two collections of cycles. Python's 700 collect some hundred times while jax and flax are imported and
# a model is traced, an eighth of the time until a first answer.
_COLLECTED = 50_000
_LONG_HELP = ("--helpfull", "--helpshort", "--helpxml")  # absl prints these
_STORED = pathlib.Path(__file__).parent / "runs" / "stored.py"  # the recipe that reads a workdir's config


# Flags that hold a path and have no use for an empty one.
_PATHS = ("model", "workdir", "input", "output", "corpus", "queries", "experiment", "tokenizer", "qrels", "scratch")


def define_config_flag(
    default: str | None = None, schema: str = "pretraining", continues: bool = False, required: bool = True
) -> None:
    """Defines --config=FILE|NAME, --config.KEY=VALUE and --help_keys[=PREFIX].

    Args:
      default: the recipe to use if --config is not given; None: --config is required.
      schema: whose keys --help_keys lists: "pretraining" or "finetuning".
      continues: whether, without --config, the config is that of the run in --workdir.
      required: whether --config must be given where there is no default and no run.
    """
    global _default, _schema, _continues  # not the flag's own default: overrides would be read before they are checked
    _default, _schema, _continues = default, schema, continues
    try:
        config_flags.DEFINE_config_file(
            "config", None, f"recipe: a file, or a name such as bert_base ({command_line('recipes')})"
        )
    except flags.Error as error:  # from --flagfile, in which it looks for its overrides
        _report(UserError(_flag_file(error)))
    flags.DEFINE_string("help_keys", None, "list the configuration keys, or with =PREFIX those of a group such as data")
    if required and not default and not continues:
        flags.mark_flag_as_required("config")


def check_config(config: Any, workdir: str) -> None:
    """Raises UserError for a config or workdir that cannot work, where that shows without the seconds of jax's import.

    The run checks everything again. Hardly checked here is a run that takes its architecture from a model, and not at
    all one of several processes, which report a mistake once.

    Args:
      config: the config of --config.
      workdir: the run's workdir.
    """
    from bert_jax.processes import clusters

    values = flags.FLAGS
    if clusters.detect(os.environ, values.coordinator_address, values.num_processes, values.process_id):
        return
    outputs.check_workdir(workdir)
    config = config.copy_and_resolve_references()
    begun = os.path.exists(os.path.join(workdir, "config.json"))
    if _schema == "finetuning":
        _check_finetuning(config, pathlib.Path(workdir), begun)
        return
    config_lib.check_keys(config)
    _check_source(config, begun)
    if config.model_from_init:
        if not begun:
            _check_rows_fit_source(config)
        return
    from bert_jax.runs import continuation

    if begun:
        continuation.keep_values_before(pathlib.Path(workdir), config)
    config_lib.validate(config)
    if _runs_on_one_device():
        config_lib.check_devices(config, 1)
    if begun:
        continuation.check_pretraining(pathlib.Path(workdir), config)
    elif not config.init_from and "://" not in config.data.corpus:  # a remote one is copied first
        from bert_jax.data import mixture

        mixture.open_corpora(config)


def _check_finetuning(config, workdir, begun):
    """Raises UserError for a mistake of fine-tuning; the config may be changed in place, as the run does it."""
    from bert_jax.runs import continuation, positions

    recipe, changed = config_changes()
    finetune_config.follow_train(config, recipe, changed)
    finetune_config.follow_adapters(config, recipe, changed)
    if begun:
        continuation.keep_values_before(workdir, config)
    finetune_config.validate(config)
    finetune_config.check_given(config, changed)
    runs = finetuning_phases.phases(config, workdir)
    begun = [(folder / "config.json").exists() for _, folder in runs]
    for (run, folder), has_begun in zip(runs, begun, strict=True):
        if has_begun:
            continuation.check_finetuning(folder, run)
    _check_source(config, any(begun))
    longest = None if any(begun) else positions.of_directory(config.init_from)
    from bert_jax.data.tasks import records  # numpy, after the mistakes that need none

    for run, _ in runs:
        if longest is not None and not run.model.rotary_scaling:
            finetune_config.check_positions(run, longest)
        if _runs_on_one_device():
            finetune_config.check_devices(run, 1, {})
        for key in ("train", "held_out", "test"):
            records.check_files(run.task[key], f"config.task.{key}", run.task)


def _check_rows_fit_source(config):
    """Raises UserError where rows are longer than the learned positions of the run that config.init_from names."""
    from bert_jax.runs import workdir as workdir_lib

    name = workdir_lib.split_step(config.init_from)[0]
    if config.init_positions or "://" in name or not os.path.exists(os.path.join(name, "run.json")):
        return
    try:
        source = workdir_lib.read(pathlib.Path(name))[1]
    except UserError:
        return  # the run says it
    longest = config.data.sequence_length
    if "model" in source and "learned" in source.model.positions.split("+") and longest > source.model.max_positions:
        raise UserError(
            f"config.data.sequence_length: {longest} is over config.model.max_positions={source.model.max_positions}"
        )


def _runs_on_one_device():
    """Returns whether it is certain, without jax, that jax will find one device."""
    several = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    several = several or "JAX_NUM_CPU_DEVICES" in os.environ or "jax" in sys.modules
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if not platforms and sys.platform == "linux" and not importlib.util.find_spec("jax_plugins"):
        platforms = "" if machine.accelerators() else "cpu"
    return platforms == "cpu" and not several


def _check_source(config, begun):
    """Raises UserError where config.init_from cannot name a model; `begun`: whether the run may have no need of it."""
    if config.init_from and not begun and "://" not in config.init_from:
        from bert_jax.interop import hub
        from bert_jax.runs import workdir as workdir_lib

        hub.check_name(workdir_lib.split_step(config.init_from)[0])


def define_dtype_flag() -> flags.FlagHolder:
    """Defines --dtype, the dtype that a model computes in, and returns it."""
    meaning = help_of(PRETRAINING["model.dtype"])
    return flags.DEFINE_enum("dtype", None, DTYPES, f"{meaning}; default: as the model's config says")


def help_of(key: Key) -> str:
    """Returns what a key means, as the help of a flag says it: a sentence without capital and dot."""
    meaning = key.doc.removesuffix(".")
    return meaning[0].lower() + meaning[1:]


def define_process_flags() -> None:
    """Defines the flags that `processes` reads, for runs of several processes that no cluster manager starts."""
    flags.DEFINE_string("coordinator_address", None, "for a run of several processes: HOST:PORT of the first one")
    flags.DEFINE_integer("num_processes", None, "for a run of several processes: their number")
    flags.DEFINE_integer("process_id", None, "for a run of several processes: the index of this one, from 0")


def config_changes() -> tuple[Any, set[str]]:
    """Returns the config of the recipe that --config names, and the keys that --config.KEY=VALUE changed in it."""
    recipe = next((argument.partition("=")[2] for argument in sys.argv[1:] if argument.startswith("--config=")), None)
    if recipe and recipe.startswith(f"{_STORED}:"):  # a run that goes on: what its recipe was no longer matters
        return flags.FLAGS.config, set()
    names = (argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:] if argument.startswith("-"))
    changed = {name.removeprefix("config.") for name in names if name.startswith("config.")}
    return config_lib.load_recipe(recipe or _default or ""), changed


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the processes of the run, which the flags or the environment name.

    An exception that ends one process ends all of them, and is reported once.
    """
    from bert_jax.processes import distributed

    values = flags.FLAGS
    distributed.initialize(values.coordinator_address, values.num_processes, values.process_id)
    try:
        yield
    except SystemExit:  # which all processes have agreed on
        raise
    except BaseException as error:
        if not distributed.is_multiprocess():
            raise
        line = _line_of(error)
        if distributed.reports_errors():
            if line:
                _say(f"{distributed.process_label()}{line.removeprefix(distributed.process_label())}")
            else:
                traceback.print_exception(error)
        distributed.exit_now(2 if line else 1)


def run(
    main,
    passes_on: bool = False,
    positional: str = "",
    outlives_output: bool = False,
    texts: Sequence[str] = (),
    likely: Sequence[str] = (),
    only_print: Sequence[str] = (),
    part: command_help.Part | None = None,
) -> None:
    """Runs `main(argv)` after parsing flags; a UserError prints one line and exits with code 2.

    Args:
      main: called with the program's name, then the positional argument if `positional` is given, and the options after
        a lone "--" if `passes_on` is.
      passes_on: whether options after a lone "--" are accepted and passed to `main`.
      positional: name of the command's one positional argument, such as WORKDIR, or [WORKDIR] if it may be left out;
        "" for none.
      outlives_output: whether the command goes on where what it prints cannot be written, since its result is files.
      texts: names of flags whose value is a text, in which "~/" is no home directory as it is in all others.
      likely: names of the flags that words without one were probably meant for, in the order in which people give them.
      only_print: names of switches with which the command's result is what it prints.
      part: what of the command runs; None for all of it.
    """
    interruption.listen()
    if sys.stderr is None:  # closed by the caller; libraries write to it without looking
        sys.stderr = sys.__stderr__ = open(os.devnull, "w")  # noqa: SIM115
    gc.set_threshold(_COLLECTED, 20, 50)
    _skip_tpu_search()
    command_help.name_as_called()
    only_prints = _asks_for_help(sys.argv[1:]) or _has_switch(sys.argv[1:], only_print)
    with interruption.without_shutdown(), cli.output_to_pipes(outlives_output and not only_prints):
        try:
            parser = functools.partial(_parse, texts=texts, taken=bool(positional), likely=likely, part=part)
            app.run(_reporting(main, passes_on, positional), flags_parser=parser)
        except UserError as error:
            _report(error)
        except OSError as error:
            line = _line_of(error)
            if not line:
                raise
            _report(line)
        finally:
            interruption.wait_if_ending()


def write_output(flag: str, path: str | os.PathLike, content: str) -> None:
    """Writes the file that a flag such as "output" names, whole or not at all; "-" is standard output.

    Raises:
      UserError: it cannot be written.
    """
    try:
        with files.open_output(path) as file:
            file.write(content.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"--{flag}={path}: cannot be written: {error.strerror or error}") from error


def _skip_tpu_search():
    """Keeps an installed libtpu (`plan` compiles with it) from logging at length that a machine has no TPU."""
    if importlib.util.find_spec("libtpu") and not machine.accelerators():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _reporting(main, passes_on, positional):
    def wrapped(argv):
        try:
            expected = 2 if positional else 1
            if len(argv) < expected and not positional.startswith("["):
                raise UserError(f"{positional}: missing; expected {positional} after the command's name (see --help)")
            if len(argv) > expected and not (passes_on and argv[1].startswith("--")):
                raise UserError(f"{argv[expected]}: unexpected argument; options look like --name=value (see --help)")
            return main(argv)
        except Exception as error:
            line = _line_of(error)
            if not line:
                raise
            _report(line)

    return wrapped


def _line_of(error):
    """Returns the line that tells of an error which the user or the machine has caused; "" for any other."""
    if isinstance(error, UserError):
        return str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    if full and not error.filename and not _can_print():
        with contextlib.suppress(OSError):  # what is left to print has no place either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"standard output: cannot be written: {error.strerror}"
    if isinstance(error, OSError):
        return arguments_lib.about_a_path(error, sys.argv[1:])
    if ran_out_of_memory(error):
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        return f"out of memory ({reason}); expected smaller batches, shorter texts, a smaller model, or more memory"
    return ""


def _can_print():
    """Returns whether standard output takes a line end; a full disk does not, and a pipe is cli's affair."""
    try:
        if sys.stdout:
            os.write(sys.stdout.fileno(), b"\n")
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return True


def _report(error):
    _say(error)
    sys.exit(2)


def _say(error):
    interruption.wait_if_ending()
    if sys.stdout:  # None where it is closed
        sys.stdout.flush()
    line = str(error).replace("\r", "\\r").replace("\n", "\\n")  # a user's path may hold them
    print(f"error: {line}", file=sys.stderr, flush=True)


def _parse(argv, texts=(), taken=0, likely=(), part=None):
    own = arguments_lib.joined([_underscored(word) for word in argv[1:]], _schema)  # may change those of --flagfile
    words = [_underscored(word) for word in _read_flag_files(argv[1:])]
    arguments = [argv[0], *(_expanded(argument, texts) for argument in arguments_lib.joined(words, _schema))]
    if set(command_help.WORDS) & set(_own(arguments[1:])):
        command_help.show(part, _schema)
    asked = [argument for argument in arguments[1:] if re.match(r"--?help_keys(=|$)", argument)]
    if _schema and asked:
        recipe = next((a.partition("=")[2] for a in arguments[1:] if a.lstrip("-").startswith("config=")), _default)
        command_help.show_keys(_schema, recipe, asked[-1].partition("=")[2])
    is_help = set(_LONG_HELP) & set(arguments)
    if not is_help:
        arguments_lib.check_words(arguments[1:], taken, likely, texts, _schema)
    try:
        sys.argv = arguments if is_help else _resolved(arguments)  # config_flags looks for overrides there
        with _help_succeeds():
            rest = flags.FLAGS(sys.argv)
        if not is_help:
            _check_not_empty()
        for line in () if is_help else arguments_lib.repeated(own, _schema):
            print(f"warning: {line}", file=sys.stderr)
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings only: jax logs its search for accelerators at a lower level
        return rest
    except BrokenPipeError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: unknown flag{_nearest_flag(error.flagname)}") from error
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        of_path = arguments_lib.about_a_path(error, arguments[1:]) if isinstance(error, OSError) else ""
        raise UserError(of_path or _line_of(error) or arguments_lib.in_words(str(error))) from error


def _check_not_empty():
    """Raises UserError for a path that is "", as an unset variable of a shell is: it would be the current folder."""
    for name in _PATHS:
        if name in flags.FLAGS and flags.FLAGS[name].present and flags.FLAGS[name].value == "":
            raise UserError(f"--{name}: empty; expected --{name}=VALUE (see --help)")


def _read_flag_files(words):
    """Returns the arguments with the content of --flagfile=FILE in its place."""
    try:
        return flags.FLAGS.read_flags_from_files(words, force_gnu=False)
    except flags.Error as error:
        raise UserError(_flag_file(error)) from error


def _flag_file(error):
    """Returns a message of absl about --flagfile as the commands word theirs."""
    path = re.search(r"No such file or directory: '(.*)'|: '(.*)'$", str(error))
    if not path:
        return "--flagfile: no value; expected --flagfile=FILE with one flag on each line"
    name = path[1] or path[2]
    near = files.closest_path(name, is_folder=False)
    return f"--flagfile={name}: cannot be read; expected a file with one flag on each line{near}"


def _nearest_flag(name):
    """Returns the end of a message about an unknown flag: the flag, or the config key, that was meant, and --help."""
    keys = listing.keys(_schema) if _schema else {}
    known = ["help", *(flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))]
    known += [f"config.{key}" for key in keys]
    name = name.lower()
    last = {key.rpartition(".")[2]: f"config.{key}" for key in reversed(keys)}
    meant = [*difflib.get_close_matches(name, known, n=1, cutoff=0.7)]
    meant += [f"config.{name}"] if name in keys else []
    meant += [last[name]] if name in last else []
    meant += [flag] if (flag := synonyms.flag_of(name, known)) else []
    meant += [f"config.{key}"] if (key := synonyms.key_of(name, keys)) else []
    meant += [last[word] for word in difflib.get_close_matches(name, last, n=1, cutoff=0.7)]
    if meant[:1] == ["help"]:
        return "; did you mean --help?"
    return f"; did you mean --{meant[0]}? (see --help)" if meant else " (see --help)"


def _own(words):
    """Returns the words up to a lone "--"."""
    return words[: words.index("--") if "--" in words else None]


def _asks_for_help(words):
    """Returns whether a command is only to print one of its helps."""
    own = [_underscored(word) for word in _own(words)]
    return any(word in (*command_help.WORDS, *_LONG_HELP) or re.match(r"--?help_keys(=|$)", word) for word in own)


def _has_switch(words, names):
    """Returns whether one of some switches is among the words of a command line, and not turned off."""
    switches = [f"{dashes}{name}{value}" for name in names for dashes in ("--", "-") for value in ("", "=true", "=1")]
    return any(_underscored(word).lower() in switches for word in _own(words))


@contextlib.contextmanager
def _help_succeeds():
    """Ends --help with exit code 0, where absl's own is 1."""
    try:
        yield
    except SystemExit as end:
        sys.exit(0 if end.code == 1 else end.code)


def _underscored(argument):
    """Returns an argument with the dashes of its flag's name as underscores: --dry-run becomes --dry_run."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if re.match(r"--\w", name) else argument


def _expanded(argument, texts):
    """Returns an argument whose value has the home directory in place of "~/"."""
    name, equals, value = argument.partition("=")
    if not argument.startswith("-") or not equals:
        return argument if " " in argument else config_lib.expanded(argument)
    return argument if name.lstrip("-") in texts else name + equals + config_lib.expanded(value)


def _resolved(argv):
    """Returns the arguments with the file of the recipe first, after checking the keys of all overrides."""
    recipe, rest, overrides = _default, [], []
    for argument in argv[1:]:
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if argument.startswith("-") and name == "config":
            if not equals:
                raise UserError(f"--config: no value; expected --config=RECIPE ({command_line('recipes')} lists them)")
            recipe = value
            continue
        if argument.startswith("-") and name.startswith("config."):
            overrides.append(argument)
            argument = config_lib.in_values(argument)
        rest.append(argument)
    if recipe is None:
        _check_names(rest)  # before --config is called missing: one of them may be meant for it
    if recipe is None and _continues:
        return [argv[0], *_continued(rest, overrides), *rest]
    if overrides and recipe is None:
        raise UserError(f"--config: missing, but there is {overrides[0]}; expected --config=RECIPE")
    if recipe is None:
        return [argv[0], *rest]
    config: Any = config_lib.load_recipe(recipe)
    _check_overrides(config, overrides, recipe)
    return [argv[0], f"--config={config_lib.recipe_path(recipe)}", *rest]


def _check_names(words):
    """Raises UserError for a word that is a flag which the command lacks, up to a lone "--"."""
    for word in _own(words):
        name = arguments_lib.unknown_flag(word, _schema)
        if name:
            raise UserError(f"--{name}: unknown flag{_nearest_flag(name)}")


def _continued(rest, overrides):
    """Returns the argument that makes the config that of the run in --workdir."""
    values = [word.partition("=")[2] for word in rest if word.lstrip("-").partition("=")[0] == "workdir"]
    expected = f"--config=RECIPE ({command_line('recipes')} lists them)"
    if not values or not values[-1]:
        raise UserError(f"--config: missing; expected {expected}, or --workdir=DIR alone with a run to continue")
    from bert_jax.runs import workdir as workdir_lib

    path = workdir_lib.to_path(values[-1], "--workdir=")
    if not (path / "config.json").exists() and (path / "phase-1").exists():
        raise UserError(
            f"--config: missing, and the last phase of --workdir={values[-1]} has not begun; expected the flags that "
            "its first phase was started with"
        )
    if not (path / "config.json").exists():
        near = files.closest_path(path, is_folder=True) if not os.path.exists(path) else ""
        raise UserError(
            f"--config: missing, and --workdir={values[-1]} holds no run to continue; expected {expected}{near}"
        )
    config = workdir_lib.read(path)[1]
    kind = "finetuning" if "task" in config else "pretraining"
    if kind != _schema:
        name, words = ("finetune", "fine-tuning") if kind == "finetuning" else ("pretrain", "pre-training")
        raise UserError(
            f"--workdir={values[-1]}: holds a run of {words}; expected {command_line(name)} --workdir={values[-1]}"
        )
    _check_overrides(config, overrides, values[-1])
    return [f"--config={_STORED}:{values[-1]}"]


def _check_overrides(config, overrides, recipe):
    """Raises UserError for an override of a key that the config does not have."""
    schema = finetune_config.schema_of(config)
    for argument in overrides:
        key = argument.lstrip("-").partition("=")[0].removeprefix("config.")
        if "task" in schema and key in config_lib.flat(config_lib.base()) and key not in config_lib.flat(schema):
            raise UserError(
                f"--config={recipe}: a fine-tuning recipe, which has no config.{key}; expected a recipe of "
                "pre-training, or keys of fine-tuning"
            )
        config_lib.check_key(key, schema)
