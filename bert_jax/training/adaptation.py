"""Reports gain and forgetting of a run on new text: held-out metrics of new and old text, before and after.

WORKDIR/adaptation.json:

    {"new": {"corpus", "fingerprint", "before": {...}, "after": {...}, "gain"},
     "old": {"corpus", "fingerprint", "before": {...}, "after": {...}, "forgetting"}, "step"}

"before" and "after" hold mlm_loss, mlm_accuracy and so on, as Evaluation returns them. Gain is the new text's loss
before minus that after, forgetting the old text's loss after minus that before, both in nats. All are evaluated on the
batches of the run's last phase.
"""

import json
import pathlib
from collections.abc import Callable, Mapping

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.storage import write_json
from bert_jax.training.evaluation import NEW, OLD, Evaluation

FILE = "adaptation.json"
_PREFIXES = {"new": NEW, "old": OLD}


class Adaptation:
    """Writes the report of a run with config.data.old_corpus.

    Args:
      workdir: the run's directory.
      evaluation: evaluates both texts.
      num_steps: number of steps of the whole run.
      say: called with each line for the user.
    """

    def __init__(self, workdir: pathlib.Path, evaluation: Evaluation, num_steps: int, say: Callable[[str], None]):
        self._path = workdir / FILE
        self._evaluation = evaluation
        self._num_steps = num_steps
        self._say = say

    def before(self, params: Mapping, begins: bool) -> None:
        """Evaluates and writes the metrics before the first step; a run that continues keeps those in the file.

        Args:
          params: the parameters before the first step.
          begins: whether the run begins, and does not continue.

        Raises:
          UserError: the run continues, and the metrics are absent or belong to another corpus.
        """
        evaluated = self._evaluation.corpora
        corpora = {text: evaluated[prefix] for text, prefix in _PREFIXES.items() if prefix in evaluated}
        if not begins:
            stored = self._read()
            for text, corpus in corpora.items():
                if stored[text]["fingerprint"] != corpus["fingerprint"]:
                    raise UserError(
                        f"{self._path}: the metrics before the first step are of the corpus {stored[text]['corpus']} "
                        f"(fingerprint {stored[text]['fingerprint'][:12]}), not of {corpus['corpus']} "
                        f"({corpus['fingerprint'][:12]}); expected the same, or another --workdir"
                    )
            return
        metrics = self._evaluation(params, self._num_steps)
        report = {text: corpus | {"before": _metrics_of(metrics, text)} for text, corpus in corpora.items()}
        self._write(report | {"step": 0})

    @_moved.renamed_arguments(figures="metrics")
    def after(self, metrics: Mapping[str, float]) -> None:
        """Writes the evaluation of the last step, and prints the table."""
        report = self._read()
        for text, difference, sign in (("new", "gain", 1), ("old", "forgetting", -1)):
            if text in report:
                after = _metrics_of(metrics, text)
                change = sign * (report[text]["before"]["mlm_loss"] - after["mlm_loss"])
                report[text] = report[text] | {"after": after, difference: change}
        self._write(report | {"step": self._num_steps})
        for line in table(report):
            self._say(line)

    def _read(self):
        try:
            return json.loads(self._path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._path}: the metrics before the first step cannot be read: {error}; expected what this run "
                "wrote there when it began"
            ) from error

    def _write(self, report):
        try:
            write_json(self._path, report)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written: {error.strerror or error}; make room") from error


def table(report: Mapping) -> list[str]:
    """Formats a report as lines: a row for each text and metric."""
    lines = [f"{'held-out text':<24}{'before':>12}{'after':>12}{'change':>12}"]
    for text, difference in (("new", "gain"), ("old", "forgetting")):
        if text not in report:
            continue
        before, after = report[text]["before"], report[text]["after"]
        for name, words in (("mlm_loss", "loss"), ("mlm_accuracy", "accuracy"), ("mlm_perplexity", "perplexity")):
            change = after[name] - before[name]
            line = f"{text} text, {words}"
            line = f"{line:<24}{before[name]:>12.4f}{after[name]:>12.4f}{change:>+12.4f}"
            lines.append(line + (f"  {difference} {report[text][difference]:+.4f} nats" if words == "loss" else ""))
    return lines


def _metrics_of(metrics, text):
    prefix = f"{_PREFIXES[text]}/"
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
