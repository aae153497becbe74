"""Held-out figures: the same rows and masks at every evaluation of a run, beside the unigram baseline."""

import math
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax.data import loader
from bert_jax.data.corpus import Corpus


class Evaluation:
    """Evaluates parameters on documents that were set aside when the corpus was prepared.

    Args:
      config: the run's.
      corpora: the run's, whose train splits give the unigram distribution.
      eval_step: as step.make_eval_step makes it.
      put: places a batch on the devices.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        corpora: Sequence[Corpus],
        eval_step: Callable,
        put: Callable,
    ):
        self._config = config
        self._eval_step = eval_step
        self._put = put
        self._phases = config_lib.phases(config)
        self._unigram = unigram_losses(sum(np.asarray(corpus.unigram_counts) for corpus in corpora))
        self._made = {}

    @property
    def possible(self) -> bool:
        """Whether any document was held out."""
        return bool(self._batches(0)[0])

    def __call__(self, params: dict, step: int) -> dict[str, float]:
        """eval/mlm_loss, mlm_accuracy, mlm_perplexity, unigram_loss, and with pairs eval/nsp_accuracy.

        Args:
          params: as the model makes them.
          step: steps done; the batches are shaped as the phase that the last of them belongs to.
        """
        batches, unigram_loss = self._batches(max(0, step - 1))
        sums = jax.device_get([self._eval_step(params, self._put(batch)) for batch in batches])
        total = {key: math.fsum(float(part[key]) for part in sums) for key in sums[0]}
        loss = total["mlm_loss_sum"] / max(1, total["mlm_count"])
        figures = {
            "eval/mlm_loss": loss,
            "eval/mlm_accuracy": total["mlm_correct"] / max(1, total["mlm_count"]),
            "eval/mlm_perplexity": math.exp(min(loss, 700)),  # of float64
            "eval/unigram_loss": unigram_loss,
        }
        if total.get("nsp_count"):
            figures["eval/nsp_accuracy"] = total["nsp_correct"] / total["nsp_count"]
        return figures

    def _batches(self, step):
        """The batches of a step's phase, and the unigram distribution's loss on their labels."""
        phase = next((phase.index for phase in self._phases if step < phase.stop), self._phases[-1].index)
        if phase not in self._made:
            batches = loader.eval_batches(self._config, step)
            found = np.concatenate([labels(batch) for batch in batches] or [np.zeros(0, np.int64)])
            self._made[phase] = batches, float(self._unigram[found].mean()) if len(found) else math.nan
        return self._made[phase]


def labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The ids that a batch asks for, [labels]: those behind the masks, or (LTR) each token but a row's first."""
    if "masked_labels" in batch:
        return batch["masked_labels"][batch["masked_weights"] > 0]
    return batch["input_ids"][:, 1:][batch["attention_mask"][:, 1:] > 0]


def unigram_losses(counts: np.ndarray) -> np.ndarray:
    """Nats that each id costs under add-one unigram frequencies; counts and result [vocabulary]."""
    smoothed = counts.astype(np.float64) + 1
    return np.log(smoothed.sum()) - np.log(smoothed)
