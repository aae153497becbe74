"""Describes one configuration key, and checks values against its description.

`bert_jax.config.keys` holds the keys themselves. This module needs nothing but the standard library, so that
`bert_jax.model` takes its defaults from the same table.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from bert_jax.config import synonyms
from bert_jax.errors import UserError

LARGEST_INTEGER = 2**31 - 1  # in the int32 arrays that a step computes with

ROLES = {
    "start": "where the first parameters and the random numbers come from",
    "vocabulary": "follows from the tokenizer",
    "architecture": "what the parameters are and what is computed from them; init_from fixes it",
    "objective": "what is learned, and the parts of the model that only the objective decides",
    "training": "how parameters are initialized and regularized; a trained model computes the same without it",
    "computation": "how the same function is computed; results agree to rounding",
    "device": "suits the devices of the run; a model that is opened elsewhere takes the default",
    "data": "which rows a batch has",
    "layout": "how arrays and work are spread over devices and processes",
    "optimizer": "how gradients change parameters",
    "length": "how long the run is",
    "logging": "what is reported, and when",
    "checkpoints": "what is saved, and when",
    "task": "the labelled task, its data and its scores",
    "loss": "how the vectors of an embedder are compared",
    "tuning": "which parameters fine-tuning trains",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """States everything that is known of one key.

    Attributes:
      default: default value; its type is the key's type (an int is accepted where a float is expected).
      doc: one sentence that says what the key means, with the paper's section where there is one.
      role: a key of ROLES.
      choices: allowed values of a key that has only a few.
      at_least, above, at_most, below: bounds of a number, inclusive, exclusive, inclusive, exclusive. A number whose
        lower bound is not given is at least 0, and an integer without an upper bound at most LARGEST_INTEGER.
      noun: what the number is called in a message about its bounds.
      empty: what the empty value stands for: 0, "" or (), or `empty_value`; "" where it has no meaning of its own.
      empty_value: an empty value that the bounds would refuse, such as -1.
      empty_word: a word that a command line may write for the empty value, such as "auto" for 0.
      earlier_default: default of earlier versions, where it was another: a run that began with it goes on with today's.
      falls_back_to: the key whose value the empty value stands for; sets `empty`.
      before: what runs did before there was the key, where that is not the default: its value in a run whose
        config.json does not have it.
      resumable: whether the value may change when a run continues in its workdir.
      in_phases: whether an entry of data.phases may set it.
      is_path: whether it is a path, which may differ between the hosts of one run.
    """

    default: Any
    doc: str
    role: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    noun: str = "a number"
    empty: str = ""
    empty_value: Any = None
    empty_word: str = ""
    earlier_default: Any = None
    falls_back_to: str = ""
    before: Any = None
    resumable: bool = False
    in_phases: bool = False
    is_path: bool = False

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"{self.role}: not one of {', '.join(ROLES)}")
        if self.falls_back_to:
            object.__setattr__(self, "empty", self.falls_back_to)
        if self.empty and self.empty_value is None:
            object.__setattr__(self, "empty_value", type(self.default)())

    @property
    def type(self) -> type:
        """Returns the type of the values."""
        return type(self.default)

    @property
    def is_number(self) -> bool:
        """Returns whether the key holds an integer or a float."""
        return self.type in (int, float)

    @property
    def value_before(self) -> Any:
        """Returns the value in a run whose config.json does not have the key: `before`, or else the default."""
        return self.default if self.before is None else self.before

    def check(self, where: str, value: Any, suffix: str = "") -> None:
        """Raises UserError if a value is ill-typed, none of the choices, or out of bounds.

        Args:
          where: what the message begins with, such as "config.seed".
          value: value of the key.
          suffix: what follows the value in the message, such as " (phase 1)".
        """
        check_type(where, value, self.default, self.or_word)
        is_empty = self.empty and value == self.empty_value
        if self.choices and value not in self.choices and not is_empty:
            near = closest(value, self.choices)
            raise UserError(f"{where}{suffix}: found {value!r}; expected one of {', '.join(self.choices)}{near}")
        if self.is_number:
            self._check_bounds(where, value, suffix)

    def _check_bounds(self, where, value, suffix):
        if self.empty_value is not None and value == self.empty_value:
            return
        largest = LARGEST_INTEGER if self.at_most is None else self.at_most
        if isinstance(value, int) and self.below is None and value > largest:
            raise UserError(f"{where}: found {value}{suffix}; expected at most {largest:,}")
        low, low_open, high, high_open = self._bounds()
        good = math.isfinite(value) and (value > low if low_open else value >= low)
        if high is not None:
            good = good and (value < high if high_open else value <= high)
        if not good:
            raise UserError(f"{where}: found {value}{suffix}; expected {self.bounds}{self._or_empty()}")

    def _bounds(self):
        low = 0 if self.at_least is None else self.at_least
        high = self.at_most if self.below is None else self.below
        if self.above is not None:
            low = self.above
        return low, self.above is not None, high, self.below is not None

    @property
    def bounds(self) -> str:
        """Returns the bounds in words, such as "a rate in [0, 1)" or "a number of at least 1"; "" for other keys."""
        if not self.is_number:
            return ""
        low, low_open, high, high_open = self._bounds()
        if high is None or (self.type is int and high > LARGEST_INTEGER):
            return f"{self.noun} over {low:g}" if low_open else f"{self.noun} of at least {low:g}"
        if not low_open and not high_open:
            return f"{self.noun} from {_written(low)} to {_written(high)}"
        return f"{self.noun} in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"

    @property
    def or_word(self) -> str:
        """Returns the end of a message about a type: the word that may stand for the empty value; "" without one."""
        return f", or {self.empty_word} for {self.empty}" if self.empty_word else ""

    def _or_empty(self):
        low = self._bounds()[0]
        outside = isinstance(self.empty_value, int | float) and self.empty_value < low
        return f", or {self.empty_word or f'{self.empty_value:g}'} for {self.empty}" if outside else ""


def _written(number):
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def check_type(where: str, value: Any, default: Any, also: str = "") -> None:
    """Raises UserError, which begins with `where`, if a value does not have the type of its default.

    `also` ends the message: what else is taken, such as ", or auto for the largest that fits".
    """
    expected = type(default)
    good = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        good = True
    if expected is tuple and isinstance(value, list):
        good = True
    if not good:
        raise UserError(
            f"{where}: found {value!r} ({type(value).__name__}); expected a {expected.__name__} such as "
            f"{default!r}{also}"
        )


def check_values(values: Mapping[str, Any], keys: Mapping[str, Key]) -> None:
    """Checks the values of a config, one by one.

    Args:
      values: values by dotted key.
      keys: every key that a config must have.

    Raises:
      UserError: An unknown, missing or ill-typed key, or a value that is none of its choices or out of its bounds.
    """
    for name in values:
        check_name(name, keys)
    for name, key in keys.items():
        if name not in values:
            raise UserError(f"config.{name}: missing; expected a {key.type.__name__} such as {key.default!r}")
        check_type(f"config.{name}", values[name], key.default, key.or_word)
    for name, key in keys.items():
        key.check(f"config.{name}", values[name])


def check_name(name: str, keys: Iterable[str]) -> None:
    """Raises UserError, with the closest valid name, if there is no such dotted key."""
    keys = list(keys)
    if name in keys:
        return
    groups = {".".join(key.split(".")[:i]) for key in keys for i in range(1, key.count(".") + 1)}
    expected = "a key inside this group" if name in groups else "a known key"
    same = name.rpartition(".")[2] in {key.rpartition(".")[2] for key in keys}
    meant = "" if same or name in groups else synonyms.key_of(name, keys)
    near = f"; did you mean {meant}?" if meant else closest(name, keys)
    raise UserError(f"config.{name}: unknown key, expected {expected}{near}")


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def closest(word: str, names: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the dotted name or group that was meant, or ""."""
    names = list(names)
    group, _, last = word.rpartition(".")
    same = [name for name in names if name.rpartition(".")[2] == last]  # the right key in a wrong group
    close = difflib.get_close_matches(word, same, n=1, cutoff=0.0)
    if not close and group and not any(name.startswith(f"{group}.") for name in names):
        groups = difflib.get_close_matches(group, {name.rpartition(".")[0] for name in names}, n=1)
        inside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] in groups}
        close = [inside[key] for key in difflib.get_close_matches(last, inside, n=1)] or [f"{near}." for near in groups]
    close = close or _equally_close(word, names)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _equally_close(word, names):
    """Returns the names that are as close to a word as the closest one, at most 3; [] where none is close.

    Capitals make no difference, nor do dashes in the place of underscores.
    """
    names = {_in_one_case(name): name for name in reversed(names)}
    word = _in_one_case(word)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, word, name).ratio() for name in close]
    return [names[name] for name, ratio in zip(close, ratios, strict=True) if ratio > max(ratios) - 1e-9]


def _in_one_case(name):
    return name.lower().replace("-", "_").replace(" ", "_")


def help_lines(keys: Mapping[str, Key], prefix: str = "", config: Mapping | None = None) -> list[str]:
    """Returns what --help-keys=PREFIX prints: default, values and meaning of each key that begins so.

    Args:
      keys: table of keys.
      prefix: beginning of a dotted key, with or without "config.".
      config: a config whose values are shown beside the defaults where they differ; None for the defaults alone.

    Raises:
      UserError: No key begins with the prefix; the message names the closest one.
    """
    prefix = prefix.removeprefix("config.")
    chosen = {name: key for name, key in keys.items() if name.startswith(prefix)}
    if not chosen:
        groups = sorted({name.partition(".")[0] for name in keys})
        raise UserError(
            f"--help-keys={prefix}: no key begins so{closest(prefix, keys)}; expected the beginning of a key, such as "
            f"{', '.join(groups)}"
        )
    lines = []
    for name, key in chosen.items():
        value = key.default if config is None else _value_of(config, name, key.default)
        differs = "" if value == key.default else f"  (default {key.default!r})"
        lines.append(f"config.{name} = {value!r}{differs}")
        lines += [f"    {line}" for line in (key.doc, *details(key))]
    return lines


def _value_of(config, name, default):
    for part in name.split("."):
        if part not in config:
            return default
        config = config[part]
    return config


def details(key: Key) -> list[str]:
    """Returns what is known of a key beside its default and its meaning, one sentence each."""
    sentences = []
    if key.choices:
        sentences.append(f"One of {', '.join(choice or repr(choice) for choice in key.choices)}.")
    elif key.is_number:
        sentences.append(f"{key.type.__name__}, {key.bounds}.")
    else:
        sentences.append(f"{key.type.__name__}.")
    if key.empty:
        word = f" (on the command line also {key.empty_word})" if key.empty_word else ""
        sentences.append(f"{key.empty_value!r}{word} stands for {key.empty}.")
    occasions = {"when a run continues": key.resumable, "in a phase": key.in_phases}
    if any(occasions.values()):
        sentences.append(f"May change {' and '.join(name for name, allowed in occasions.items() if allowed)}.")
    return sentences
