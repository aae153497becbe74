"""Reads a run from its workdir: metrics, config and corpora. Writes nothing and disturbs no running training."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files, storage
from bert_jax.config import finetuning as finetune_config
from bert_jax.config import objective
from bert_jax.config.schema import is_number
from bert_jax.diagnosis import corpora as corpora_lib
from bert_jax.errors import UserError
from bert_jax.runs import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Run:
    """Describes a run of pre-training or fine-tuning.

    Attributes:
      workdir: the run's directory.
      config: content of config.json.
      run: content of run.json.
      rows: rows of metrics.jsonl sorted by step, each step once, with finite numbers alone; at least one, unless
        `nonfinite` holds a step.
      nonfinite: steps at which the run ended because a number was not finite.
      training: whether a process is training in the workdir; None if that cannot be known.
      texts: the corpora of pre-training; empty for fine-tuning.
      summary: content of summary.json of a finished fine-tuning run; else {}.
      adaptation: content of adaptation.json of a run with data.old_corpus; else {}.
      hangs: numbers of the processes that have written their stacks into hang-PROCESS.txt.
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
    hangs: Sequence[int] = ()

    @property
    def fine_tuning(self) -> bool:
        """Returns whether this is a run of fine-tuning."""
        return self.run.get("kind") == "finetune"

    @property
    def done(self) -> int:
        """Returns the step of the last row."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @functools.cached_property
    def num_steps(self) -> int:
        """Returns the number of steps of the whole run."""
        if not self.fine_tuning:
            return config_lib.num_steps(self.config)
        return finetune_config.num_steps(self.config, self.run["data"]["train"][0])

    @property
    def finished(self) -> bool:
        """Returns whether the run has come to its end."""
        return bool(self.summary) or self.done >= self.num_steps

    @functools.cached_property
    def phases(self) -> list[config_lib.Phase]:
        """Returns the phases of pre-training; a fine-tuning run has one."""
        if self.fine_tuning:
            return [config_lib.Phase(0, 0, max(self.num_steps, self.done), self.config.data, "")]
        return config_lib.phases(self.config)

    @property
    def phase(self) -> config_lib.Phase:
        """Returns the phase of the last row."""
        return next((phase for phase in self.phases if self.done <= phase.stop), self.phases[-1])

    def rows_of(self, phase: config_lib.Phase) -> list[Mapping[str, float]]:
        """Returns the rows of metrics.jsonl that belong to a phase."""
        return [row for row in self.rows if phase.start < row["step"] <= phase.stop]

    @property
    def warmup_steps(self) -> int:
        """Returns the number of steps over which the learning rate rises."""
        if self.fine_tuning:
            return finetune_config.warmup_steps(self.config.optimizer, self.num_steps)
        return self.config.optimizer.warmup_steps

    @property
    def readable_texts(self) -> list[corpora_lib.Text]:
        """Returns the corpora whose manifest can be read."""
        return [text for text in self.texts if text.manifest is not None]

    @functools.cached_property
    def padding(self) -> float | None:
        """Returns the share of padding among the positions of the last phase's rows; None if unknown."""
        logged = [row["padding_share"] for row in self.rows_of(self.phase) if "padding_share" in row]
        if logged:
            return sum(logged) / len(logged)
        if self.fine_tuning or self.phase.data.packing:
            return None
        return self._mean_over_texts("padding")

    @functools.cached_property
    def random_pairs(self) -> float | None:
        """Returns the share of pairs whose second segment is from another document; None if unknown."""
        return self._mean_over_texts("random_pairs")

    @functools.cached_property
    def text_share(self) -> float | None:
        """Returns the share of the training text that the last phase's rows hold; None if unknown."""
        return None if self.fine_tuning else self._mean_over_texts("text_share")

    @functools.cached_property
    def passes(self) -> float | None:
        """Returns the number of passes over the training text, in all phases; None if unknown."""
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
        """Returns the approximate number of tokens that a step of the last phase predicts."""
        data = self.phase.data
        tokens = data.batch_size * data.sequence_length * (1 - (self.padding or 0.0))
        return max(1.0, tokens * objective.facts(self.config).predicted_share(data.mask_rate))

    @functools.cached_property
    def _frequencies(self):
        return corpora_lib.frequencies(self.texts, self.phase.data)

    @functools.cached_property
    def train_unigram_loss(self) -> float | None:
        """Returns the unigram entropy of the training text in nats, in the last phase's mixture; None if unknown."""
        return None if self._frequencies is None else corpora_lib.entropy(self._frequencies)

    @functools.cached_property
    def copying_gain(self) -> float | None:
        """Returns the nats below the unigram loss gained by copying unmasked chosen tokens; None if unknown."""
        if not objective.facts(self.config).copying_baseline:
            return 0.0
        if self._frequencies is None:
            return None
        return self.train_unigram_loss - corpora_lib.copying_loss(self._frequencies, self.phase.data)

    def _mean_over_texts(self, name):
        if not self.texts or len(self.readable_texts) < len(self.texts):
            return None
        rows = [text.rows(self.config, self.phase) for text in self.texts]
        if any(text_rows is None or getattr(text_rows, name) is None for text_rows in rows):
            return None
        weights = corpora_lib.mixture_shares(self.texts, self.phase.data)
        return sum(weight * getattr(text_rows, name) for weight, text_rows in zip(weights, rows, strict=True))


def read(name: str) -> Run:
    """Reads the run in a workdir.

    Args:
      name: the workdir, local or gs://.

    Raises:
      UserError: there is no run, it cannot be read, or none of its steps has been logged yet.
    """
    workdir = workdir_lib.to_path(name)
    if not storage.is_remote(workdir) and not (workdir / "run.json").exists():
        if not workdir.exists():
            near = files.closest_path(workdir, is_folder=True)
            raise UserError(f"{name}: no such folder; expected the workdir of a run{near}")
        raise UserError(f"{name}: no run there: it holds no run.json; expected the workdir of one{_runs_in(workdir)}")
    run, config = workdir_lib.read(workdir)
    rows = _rows(_content(workdir / "metrics.jsonl"))
    names = [] if storage.is_remote(workdir) else [path.name for path in workdir.glob("*-*.txt")]
    if storage.is_remote(workdir):
        names = [name for name in storage.sizes(str(workdir)) if "/" not in name]
    nonfinite = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"nonfinite-(\d+)\.txt", name)))
    hangs = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"hang-(\d+)\.txt", name)))
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
        _is_training(workdir),
        corpora_lib.find_corpora(run, workdir),
        _json(workdir / "summary.json"),
        _json(workdir / "adaptation.json"),
        hangs,
    )


def _runs_in(folder):
    """Returns the end of a message: the runs in subfolders, if there are any."""
    runs = sorted({path.parent.relative_to(folder) for path in folder.glob("*/run.json")} if folder.is_dir() else ())
    return f"; there is one in {', '.join(str(folder / path) for path in runs[:5])}" if runs else ""


def _content(path):
    try:
        return storage.read(str(path))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json(path):
    try:
        content = json.loads(_content(path) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _rows(content):
    """Returns the rows sorted by step. Torn lines and other values are skipped; the later of two equal steps wins."""
    rows = {}
    for row in files.whole_objects(content):
        step = row.get("step")
        if isinstance(step, int) and not isinstance(step, bool) and step > 0:
            rows[step] = {key: value for key, value in row.items() if is_number(value)}
    return [rows[step] for step in sorted(rows)]


def _is_training(workdir):
    """Returns whether a process holds the workdir's lock, by taking it, shared, for some microseconds."""
    if storage.is_remote(workdir):
        return None
    return files.is_locked(workdir / "lock")
