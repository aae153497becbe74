"""Opens data sets through the package `datasets`: a name on the hub or in its cache, or a local folder.

    hf:imdb:train    hf:nyu-mll/glue/sst2:validation    hf:./folder:train[:10%]

A folder holds data files, or what `save_to_disk` wrote. The package is imported only here; without a network what is in
its cache is read.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bert_jax.config.schema import closest
from bert_jax.errors import UserError, shortened

SPEC = re.compile(r"hf:(?P<name>[^\[\]]+):(?P<split>[^:\[\]]+(\[[^\]]*\])?)")
EXAMPLE = "hf:NAME[/CONFIG]:SPLIT, such as hf:imdb:train"
_AT_ONCE = 1024
_SAMPLED = 100  # records from whose text the size of all is estimated
_NOT_READ = ("Audio", "Image", "Mesh", "Nifti", "Pdf", "Video")  # features that are no values


@dataclasses.dataclass(frozen=True)
class Source:
    """Holds an opened split.

    Attributes:
      data: the datasets.Dataset.
      spec: what it was opened by.
      state: a text that changes when the data does.
    """

    data: Any
    spec: str
    state: str

    def __len__(self) -> int:
        return len(self.data)

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the names of the columns that hold values."""
        return tuple(name for name, feature in self.data.features.items() if type(feature).__name__ not in _NOT_READ)

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Returns the class names of the columns that have some, lists of classes included."""
        names = {}
        for name, feature in self.data.features.items():
            inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
            if getattr(inner, "names", None):
                names[name] = tuple(inner.names)
        return names

    def check_columns(self, wanted: Any, flag: str) -> None:
        """Raises UserError for a column that is missing; `flag` names the flag or key that has the spec."""
        for name in wanted:
            if name not in self.columns:
                raise UserError(
                    f"{flag}={self.spec}: no column {name!r}; found {', '.join(self.columns)}"
                    f"{closest(name, self.columns)}"
                )

    def records(self, columns: Any, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Mapping]]:
        """Yields (number from 0, {column: value}) of records start..stop (stop excluded)."""
        data = self.data.select_columns(list(columns)).with_format(None)
        stop = len(self) if stop is None else stop
        for first in range(start, stop, _AT_ONCE):
            part = data[first : min(first + _AT_ONCE, stop)]
            for i, values in enumerate(zip(*(part[name] for name in columns), strict=True)):
                yield first + i, dict(zip(columns, values, strict=True))

    def text_bytes(self, column: str) -> int:
        """Returns the estimated bytes of all texts of a column."""
        if column not in self.columns or not len(self):
            return len(self)
        step = max(1, len(self) // _SAMPLED)
        texts = [self.data[i][column] for i in range(0, len(self), step)]
        return int(len(self) * sum(len(str(text).encode("utf-8", "replace")) for text in texts) / len(texts))


def open_split(spec: str, flag: str = "--input") -> Source:
    """Opens hf:NAME[/CONFIG]:SPLIT.

    Args:
      spec: NAME is a name on the hub, or a folder; SPLIT may be a part of a split, such as train[:10%].
      flag: the flag or key that has it, for messages.

    Raises:
      UserError: the package `datasets` is not installed, or there is no such data set, config or split.
    """
    where = f"{flag}={spec}"
    match = SPEC.fullmatch(spec)
    if not match:
        raise UserError(f"{where}: expected {EXAMPLE}")
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{where}: needs the package datasets, which is not installed; pip install datasets") from error
    name, split, reason = match["name"], match["split"], ""
    with _quiet(datasets):
        for path, config in _candidates(name):
            try:
                return _open(datasets, path, config, split, spec, where)
            except _NotThereError as error:
                reason = str(error)
    raise UserError(f"{where}: {reason}{_near(datasets, name)}; expected a name on the hub, or a folder of data")


class _NotThereError(Exception):
    """Says that there is no data set of a name."""


def _candidates(name):
    """Returns the (path, config or None) that NAME[/CONFIG] may stand for, the likeliest first."""
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return [(folder, None)]
    above, _, last = folder.rpartition("/")
    if last and os.path.isdir(above) and any(entry.is_file() for entry in os.scandir(above)):
        return [(above, last)]
    parts = name.split("/")
    if name.startswith(("/", "./", "../", "~")) or len(parts) > 3:
        return [(folder, None)]
    if len(parts) == 3:
        return [("/".join(parts[:2]), parts[2])]
    return [(name, None)] + [(parts[0], parts[-1])] * (len(parts) == 2)


def _open(datasets, path, config, split, spec, where):
    """Opens a split. Raises _NotThereError if there is no such data set, and UserError for all else."""
    saved = [name for name in ("dataset_dict.json", "state.json") if os.path.isfile(os.path.join(path, name))]
    try:
        if saved:
            return _saved(datasets, path, config, split, spec, where)
        data = datasets.load_dataset(path, config, split=split)
    except UserError:
        raise
    except Exception as error:  # many kinds, most with pages of advice
        _explain(error, config, split, where)
    files = [pathlib.Path(file["filename"]) for file in data.cache_files]
    # The folder in the cache has a hash of the data as its name.
    return Source(data, spec, f"{len(data)} {files[0].parent.name if files else data._fingerprint}")


def _saved(datasets, path, config, split, spec, where):
    """Opens a split of what save_to_disk wrote: a DatasetDict, or one Dataset, whose split is train unless it says."""
    if config is not None:
        raise UserError(f"{where}: what save_to_disk wrote has no configs; found {config!r}")
    data = datasets.load_from_disk(path)
    splits = dict(data) if isinstance(data, dict) else {str(data.split or "train"): data}
    for name in (part.partition("[")[0].strip() for part in split.split("+")):
        if name not in splits:
            raise UserError(f"{where}: no split {name!r}{closest(name, splits)}; found {', '.join(splits)}")
    sizes = {key: len(value) for key, value in splits.items()}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    rows = [splits[part.splitname].select(range(part.from_ or 0, part.to or 0)) for part in parts]
    state = [splits[part.splitname]._fingerprint for part in parts] + [(part.from_, part.to) for part in parts]
    return Source(datasets.concatenate_datasets(rows), spec, " ".join(map(str, state)))


def _explain(error, config, split, where):
    """Raises what is to be told about an error of the package."""
    text = " ".join(str(error).split())
    listed = re.search(r"\[(.*?)\]", text)
    names = re.findall(r"'([^']*)'", listed[1]) if listed else []
    if "Unknown split" in text:
        name = split.partition("[")[0]
        raise UserError(f"{where}: no split {name!r}{closest(name, names)}; found {', '.join(names)}") from error
    if "BuilderConfig" in text and "not found" in text:
        raise UserError(
            f"{where}: no config {config!r}{closest(config or '', names)}; found {', '.join(names)}"
        ) from error
    if "Config name is missing" in text:
        raise UserError(f"{where}: it has several configs; expected one of {', '.join(names)}, as {EXAMPLE}") from error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"DatasetNotFoundError", "FileNotFoundError", "EmptyDatasetError", "DataFilesNotFoundError"}:
        raise _NotThereError("no such data set") from error
    if isinstance(error, ConnectionError) or "Couldn't" in text:
        raise _NotThereError("not in the cache of datasets, and the hub cannot be reached") from error
    raise UserError(
        f"{where}: {shortened(text, 200) or type(error).__name__}; expected data that datasets reads"
    ) from error


def _near(datasets, name):
    """Returns the end of a message: the name in the cache, or the folder beside, that was meant."""
    with contextlib.suppress(OSError):
        above = pathlib.Path(os.path.expanduser(name)).parent
        if name.startswith(("/", "./", "../", "~")):
            return closest(name, [str(path) for path in above.iterdir() if path.is_dir()])
        cache = pathlib.Path(datasets.config.HF_DATASETS_CACHE)
        return closest(name, [path.name.replace("___", "/") for path in cache.iterdir() if path.is_dir()])
    return ""


@contextlib.contextmanager
def _quiet(datasets):
    """Silences progress bars and warnings: what matters of them is in the errors."""
    bars, level = datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.ERROR)
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
