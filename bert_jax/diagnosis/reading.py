"""A run as it lies on disk: its rows, its config, its text. Nothing is written, and no training run is disturbed."""

import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files, storage
from bert_jax.config import objective
from bert_jax.diagnosis import corpora as corpora_lib
from bert_jax.errors import UserError
from bert_jax.runs import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of pre-training or fine-tuning.

    Attributes:
      workdir: its directory.
      config: what config.json holds.
      run: what run.json holds.
      rows: of metrics.jsonl, in the order of steps, each step once, finite numbers alone; one at least, unless
        nonfinite.
      nonfinite: steps that the run ended at because something was not finite.
      training: whether a process trains there now; None where that cannot be known.
      texts: the corpora; none of fine-tuning.
      summary: of a fine-tuning run that is done; else {}.
      adaptation: of a run with data.old_corpus; else {}.
    """

    workdir: pathlib.Path
    config: ml_collections.ConfigDict
    run: Mapping
    rows: Sequence[Mapping[str, float]]
    nonfinite: Sequence[int] = ()
    training: bool | None = None
    texts: Sequence[corpora_lib.Text] = ()
    summary: Mapping = dataclasses.field(default_factory=dict)
    adaptation: Mapping = dataclasses.field(default_factory=dict)

    @property
    def fine_tuning(self) -> bool:
        return self.run.get("kind") == "finetune"

    @property
    def done(self) -> int:
        """Steps at the last row."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @functools.cached_property
    def num_steps(self) -> int:
        """Of the whole run."""
        if not self.fine_tuning:
            return config_lib.num_steps(self.config)
        train = self.config.train
        epoch = -(-self.run["data"]["train"][0] // self.config.data.batch_size)
        return train.num_steps or math.ceil(train.num_epochs * epoch)

    @property
    def finished(self) -> bool:
        return bool(self.summary) or self.done >= self.num_steps

    @functools.cached_property
    def phases(self) -> list[config_lib.Phase]:
        """Of pre-training; a fine-tuning run is one."""
        if self.fine_tuning:
            return [config_lib.Phase(0, 0, max(self.num_steps, self.done), self.config.data, "")]
        return config_lib.phases(self.config)

    @property
    def phase(self) -> config_lib.Phase:
        """The one that the last row belongs to."""
        return next((phase for phase in self.phases if self.done <= phase.stop), self.phases[-1])

    def rows_of(self, phase: config_lib.Phase) -> list[Mapping[str, float]]:
        return [row for row in self.rows if phase.start < row["step"] <= phase.stop]

    @property
    def warmup_steps(self) -> int:
        settings = self.config.optimizer
        if self.fine_tuning and settings.warmup_steps < 0:
            return math.ceil(settings.warmup_share * self.num_steps)
        return settings.warmup_steps

    @property
    def readable_texts(self) -> list[corpora_lib.Text]:
        """The corpora whose manifest is there."""
        return [text for text in self.texts if text.manifest is not None]

    @functools.cached_property
    def padding(self) -> float | None:
        """The share of the positions of the last phase's rows that are padding; None where it is not known."""
        logged = [row["padding_share"] for row in self.rows_of(self.phase) if "padding_share" in row]
        if logged:
            return sum(logged) / len(logged)
        if self.fine_tuning or self.phase.data.packing:
            return None
        return self._mean_over_texts("padding")

    @functools.cached_property
    def random_pairs(self) -> float | None:
        """The share of the pairs whose second part is another document's; None where it is not known."""
        return self._mean_over_texts("random_pairs")

    @functools.cached_property
    def passes(self) -> float | None:
        """How often the text has been read, in all phases."""
        if len(self.readable_texts) < len(self.texts) or not self.texts:
            return None
        tokens = sum(text.tokens("train") for text in self.texts)
        filled = 1 - (self.padding or 0.0)
        read = sum(
            max(0, min(self.done, phase.stop) - phase.start) * phase.data.batch_size * phase.data.sequence_length
            for phase in self.phases
        )
        return read * filled / max(1, tokens)

    @functools.cached_property
    def predictions(self) -> float:
        """Tokens that a step of the last phase predicts, about."""
        data = self.phase.data
        tokens = data.batch_size * data.sequence_length * (1 - (self.padding or 0.0))
        return max(1.0, tokens * objective.facts(self.config).predicted_share(data.mask_rate))

    @functools.cached_property
    def _frequencies(self):
        return corpora_lib.frequencies(self.texts, self.phase.data)

    @functools.cached_property
    def train_unigram_loss(self) -> float | None:
        """Of the training text, in the last phase's mixture."""
        return None if self._frequencies is None else corpora_lib.entropy(self._frequencies)

    @functools.cached_property
    def copying_gain(self) -> float | None:
        """Nats under the unigram loss that a model reaches without a look at a masked token's neighbours."""
        if not objective.facts(self.config).copying_baseline:
            return 0.0
        if self._frequencies is None:
            return None
        return self.train_unigram_loss - corpora_lib.copying_loss(self._frequencies, self.phase.data)

    def _mean_over_texts(self, name):
        if not self.texts or len(self.readable_texts) < len(self.texts):
            return None
        rows = [text.rows(self.config, self.phase) for text in self.texts]
        if any(one is None or getattr(one, name) is None for one in rows):
            return None
        weights = corpora_lib.shares(self.texts, self.phase.data)
        return sum(weight * getattr(one, name) for weight, one in zip(weights, rows, strict=True))


def read(name: str) -> Run:
    """The run in a workdir, local or gs://.

    Raises:
      UserError: there is no run, it cannot be read, or no step of it has been logged yet.
    """
    workdir = workdir_lib.to_path(name)
    if not storage.is_remote(workdir) and not (workdir / "run.json").exists():
        raise UserError(f"{name}: no run there: it holds no run.json; expected the workdir of one{_runs_in(workdir)}")
    run, config = workdir_lib.read(workdir)
    rows = _rows(_content(workdir / "metrics.jsonl"))
    names = [] if storage.is_remote(workdir) else [path.name for path in workdir.glob("nonfinite-*.txt")]
    if storage.is_remote(workdir):
        names = [name for name in storage.sizes(str(workdir)) if "/" not in name]
    nonfinite = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"nonfinite-(\d+)\.txt", name)))
    if not rows and not nonfinite:
        raise UserError(
            f"{workdir / 'metrics.jsonl'}: no step has been logged yet; expected a row after each "
            f"config.train.log_every={config.train.log_every} steps: wait for the first"
        )
    return Run(
        workdir,
        config,
        run,
        rows,
        nonfinite,
        _trains(workdir),
        corpora_lib.find(run, workdir),
        _json(workdir / "summary.json"),
        _json(workdir / "adaptation.json"),
    )


def _runs_in(folder):
    """What else a folder may have to offer."""
    found = sorted({path.parent.relative_to(folder) for path in folder.glob("*/run.json")} if folder.is_dir() else ())
    return f"; there is one in {', '.join(str(folder / path) for path in found[:5])}" if found else ""


def _content(path):
    try:
        return storage.read(str(path))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json(path):
    try:
        found = json.loads(_content(path) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rows(content):
    """Lines that are torn or no rows are passed over; of two rows of a step the later one stands."""
    rows = {}
    for row in files.whole_objects(content):
        step = row.get("step")
        if isinstance(step, int) and not isinstance(step, bool) and step > 0:
            rows[step] = {key: value for key, value in row.items() if _is_number(value)}
    return [rows[step] for step in sorted(rows)]


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _trains(workdir):
    """Whether the workdir's lock is held. It is tried, shared, and let go of within microseconds."""
    if storage.is_remote(workdir):
        return None
    return files.is_locked(workdir / "lock")
