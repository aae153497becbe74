"""Reads the words of a command line before absl parses its flags, and says what is wrong with them in one line.

A flag and its value in the next word become one word, so that everything after sees a single form.
"""

import errno
import os
import re
from collections.abc import Sequence

from absl import flags

from bert_jax import listing
from bert_jax.config.schema import closest
from bert_jax.errors import UserError, quoted, shortened

_SWITCH_VALUES = dict.fromkeys(("true", "t", "yes", "y", "1", "on"), "True") | dict.fromkeys(
    ("false", "f", "no", "n", "0", "off"), "False"
)
# What absl says of a value that it cannot read, and what is said instead; {n} is a group of the pattern.
_ALIAS = re.compile(r"Alias for --(\w+)\.?")  # absl's help of a flag with another name
_REASONS = (
    (r"\(?'?Non-boolean argument to boolean flag.*", "True or False, or the flag alone"),
    (r"invalid literal for int\(\).*|Exceeds the limit .*", "a whole number"),
    (r"could not convert string to float.*", "a number"),
    (r"\S+ is not an integer in the range \[(\S+), (\S+)\]", "a whole number from {0} to {1}"),
    (r"\S+ is not integer >= (\S+)", "a whole number of at least {0}"),
    (r"\S+ is not integer <= (\S+)", "a whole number of at most {0}"),
    (r"\S+ is not a positive integer", "a whole number of at least 1"),
    (r"\S+ is not a non-negative integer", "a whole number of at least 0"),
    (r"\S+ is not (an? .*)", "{0}"),
    (r"Unable to parse the value .*", "words separated by commas"),
    (r"Error while parsing string: .* as tuple.*", "values separated by commas, words with spaces or signs in quotes"),
)
# Errors of a path that a user, or the machine that a command runs on, has caused wherever the path comes from.
_MACHINE_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE,
    errno.ENOSPC, errno.EPERM, errno.EROFS, errno.ESTALE,
}  # fmt: skip


def joined(arguments: Sequence[str], kind: str = "") -> list[str]:
    """Returns the arguments with each flag and its value as one word, --name=value, up to a lone "--".

    Args:
      arguments: the words after the program's name.
      kind: whose configuration keys the command takes: "pretraining", "finetuning", or "" for none.
    """
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        name, equals, _ = _name_and_value(word)
        if rest and name and not equals and _takes_value(name, kind):
            word = f"{word}={rest.pop(0)}"
        words.append(word)
    return words


def check_words(arguments: Sequence[str], taken: int, likely: Sequence[str], texts: Sequence[str], kind: str) -> None:
    """Raises UserError for words that belong to no flag, naming them and the flags that were probably meant.

    Args:
      arguments: the words after the program's name, as `joined` returns them.
      taken: number of words that the command takes without a flag.
      likely: names of flags that words without one probably are meant for, in the order in which people give them.
      texts: names of flags whose value is a text, of which a shell makes several words where its quotes are missing.
      kind: as in `joined`.
    """
    own = list(arguments[: arguments.index("--") if "--" in arguments else None])
    places = [
        place
        for place, word in enumerate(own)
        if not _name_and_value(word)[0] and not (place and _is_unknown(own[place - 1], kind))
    ][taken:]
    if not places:
        return
    words = [own[place] for place in places]
    given = {_name_and_value(word)[0] for word in own} - {""}
    before = own[places[0] - 1] if places[0] else ""
    meant = _meant(words, before, [name for name in likely if name not in given], texts, kind)
    noun = "unexpected argument" + "s" * (len(words) > 1)
    shown = shortened(", ".join(words))
    hint = f"did you mean {meant}?" if meant else "options look like --name=value, with quotes around spaces and *"
    raise UserError(f"{shown}: {noun}; {hint} (see --help)")


def _aliased(name):
    """Returns the flag that a flag is another name of, or its own name."""
    alias = _ALIAS.fullmatch(flags.FLAGS[name].help or "") if name in flags.FLAGS else None
    return alias[1] if alias else name


def repeated(arguments: Sequence[str], kind: str = "") -> list[str]:
    """Returns a warning for each flag that has different values on a command line, of which absl takes the last.

    Args:
      arguments: the words after the program's name, as `joined` returns them.
      kind: as in `joined`.
    """
    values: dict[str, list[str]] = {}
    for word in arguments[: arguments.index("--") if "--" in arguments else None]:
        name, equals, value = _name_and_value(word)
        if name in flags.FLAGS and isinstance(flags.FLAGS[name], flags.MultiFlag):
            continue
        if name and not equals and _is_switch(name, kind):
            is_off = name not in flags.FLAGS and not name.startswith("config.") and name.startswith("no")
            name, value = (name[2:], "False") if is_off else (name, "True")
        elif _is_switch(name, kind):
            value = _SWITCH_VALUES.get(value.lower(), value)
        if name and (equals or value):
            values.setdefault(_aliased(name), []).append(value)
    return [
        f"--{name}: given {len(given)} times, as {', '.join(shortened(value, 40) for value in given)}; the last one, "
        f"{shortened(given[-1], 40)}, counts"
        for name, given in values.items()
        if len(set(given)) > 1
    ]


def in_words(message: str) -> str:
    """Returns a message of absl about a flag as the commands word theirs: flag, what was found, what was expected."""
    message = " ".join(message.split())
    if match := re.fullmatch(r"Missing value for flag -*([\w.]+)", message):
        return f"--{match[1]}: no value; expected --{match[1]}=VALUE (see --help)"
    if match := re.fullmatch(r"-*no([\w.]+)=(.*) does not take an argument", message):
        return f"--no{match[1]}={shortened(match[2])}: found a value; expected --no{match[1]}, or --{match[1]}=True"
    if match := re.fullmatch(r"flag -*([\w.]+)=None: Flag .* must have a value other than None\.", message):
        return f"--{match[1]}: missing; expected --{match[1]}=VALUE (see --help)"
    if match := re.fullmatch(r"flag -*([\w.]+)=(.*): value should be one of <(.*)>", message):
        choices = match[3].split("|")
        return f"--{match[1]}={shortened(match[2])}: expected one of {', '.join(choices)}{closest(match[2], choices)}"
    for reason, expected in _REASONS:
        if match := re.fullmatch(rf"flag -*([\w.]+)=(.*): (?:{reason})", message):
            groups = [_number(group) for group in match.groups()[2:]]
            word = _or_word(match[1])
            return f"--{match[1]}={shortened(match[2])}: expected {expected.format(*groups)}{word}"
    return re.sub(r"^flag -*([\w.]+=)", r"--\1", message)


def _or_word(name):
    """Returns the end of a message about a value of a configuration key: the word that may stand for one; or ""."""
    keys = (table.get(name.removeprefix("config.")) for table in listing.KEYS.values())
    return next((key.or_word for key in keys if key), "") if name.startswith("config.") else ""


def about_a_path(error: OSError, words: Sequence[str]) -> str:
    """Returns the line that tells of an error of a file or folder which a command line names, or holds below one.

    Args:
      error: what the system has said; it names a path.
      words: the words after the program's name, as `joined` returns them.

    Returns:
      The line; "" for an error that names no path, or a path that is the program's own affair.
    """
    if not isinstance(error.filename, str) or not error.filename:
        return ""
    reason = f"{error.strerror}; expected a path that can be used on this machine, by this user"
    path = os.path.abspath(error.filename)
    for word in words:
        name, _, value = _name_and_value(word)
        value = value if name else word
        for part in filter(None, (value, *re.split("[,=]", value))):
            given = os.path.abspath(os.path.expanduser(part))
            if path == given or path.startswith(given.rstrip("/") + "/"):
                below = f": {shortened(os.path.relpath(path, given), 120)}" if path != given else ""
                return f"{f'--{name}=' if name else ''}{shortened(part, 120)}{below}: {reason}"
    return f"{shortened(error.filename, 240)}: {reason}" if error.errno in _MACHINE_ERRORS else ""


def _name_and_value(word):
    """Returns (name of the flag, "=" or "", value) of a word; "" for the name of a word that is no flag."""
    if not word.startswith("-") or not word.strip("-"):
        return "", "", ""
    return word.removeprefix("-").removeprefix("-").partition("=")


def _is_switch(name, kind):
    known = flags.FLAGS[name].boolean if name in flags.FLAGS else None
    if known is None and kind and name.startswith("config."):
        key = listing.keys(kind).get(name.removeprefix("config."))
        known = key is not None and key.type is bool
    return bool(known) or (name.startswith("no") and name not in flags.FLAGS and len(name) > 2
                           and _is_switch(name[2:], kind))  # fmt: skip


def _is_known(name, kind):
    in_table = kind and name.removeprefix("config.") in listing.keys(kind)
    return name in flags.FLAGS or name == "undefok" or bool(name.startswith("config.") and in_table)


def _takes_value(name, kind):
    return _is_known(name, kind) and not _is_switch(name, kind) and name != "help_keys"


def unknown_flag(word: str, kind: str) -> str:
    """Returns the name of the flag in a word of a command line if the command lacks it, else ""; `kind` as in `joined`.

    A --config.KEY flag is taken for known by its beginning alone.
    """
    name = _name_and_value(word)[0]
    is_known = not name or name.startswith("config.") or _is_known(name, kind) or _is_switch(name, kind)
    return "" if is_known else name


def _is_unknown(word, kind):
    """Returns whether a word is a flag that the command lacks, so that the next word may be its value."""
    name, equals, _ = _name_and_value(word)
    return bool(name) and not equals and not _is_known(name, kind) and not _is_switch(name, kind)


def _meant(words, before, free, texts, kind):
    """Returns the flags that words without one were probably meant for, as they should be written; "" for none."""
    name, equals, value = _name_and_value(before)
    if name and not equals and words[0].lower() in _SWITCH_VALUES and _is_switch(name, kind):
        return f"{before}={_SWITCH_VALUES[words[0].lower()]}"
    if name in texts and equals:  # a text without quotes
        return f"--{name}={quoted(' '.join([value, *words]))}"
    if equals and all(os.path.isfile(path) for path in (value, *words)):  # a pattern without quotes
        ending = os.path.splitext(words[0])[1]
        return f"--{name}={quoted(os.path.join(os.path.dirname(value), f'*{ending}'))}"
    free, meant = list(free), []
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and (_is_known(key, kind) or _is_known(f"config.{key}", kind)):
            meant.append(f"--{word}" if _is_known(key, kind) else f"--config.{word}")
        elif " " in word and texts:
            meant.append(f"--{texts[0]}={quoted(word)}")
        elif free:
            meant.append(f"--{free.pop(0)}={quoted(word)}")
        else:
            return ""
    return " ".join(meant) if len(" ".join(meant)) < 120 else ""


def _number(text):
    return f"{int(text):,}" if re.fullmatch(r"-?\d+", text or "") else text
