"""Held-out figures, beside the unigram baseline: of a run as it trains, and of any model."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.objective import predicting
from bert_jax.config.schema import LARGEST_INTEGER
from bert_jax.data import loader
from bert_jax.data.corpus import Corpus
from bert_jax.data.vocabularies import new_tokens
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.objectives.replaced_tokens import ReplacedTokens
from bert_jax.processes import distributed
from bert_jax.training import step as step_lib

RECIPE = {"format": "full_sentences", "sequence_length": 128, "batch_size": 32}  # of `evaluate`; the rest is base()'s
NEW, OLD = "eval", "eval_old"  # in metrics.jsonl: before the figures of the run's corpora, and of data.old_corpus


class Evaluation:
    """Evaluates a run's parameters on documents that were set aside when its corpora were prepared.

    The rows and masks are the same at every evaluation.

    Args:
      config: the run's.
      corpora: the run's, whose train splits give the unigram distribution.
      eval_step: as step.make_eval_step makes it.
      put: places a batch on the devices.
      hosts: which rows of each batch this process gives to `put`: see sharding.hosts_of_rows.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        corpora: Sequence[Corpus],
        eval_step: Callable,
        put: Callable,
        hosts: tuple[int | Sequence[int], int] = (0, 1),
    ):
        self._eval_step = eval_step
        self._put = put
        self._texts = {NEW: _Text(config, corpora, hosts)}
        if config.data.old_corpus:
            self._texts[OLD] = _Text(_of_old(config), old_corpora(config, corpora[0].tokenizer), hosts)

    @property
    def possible(self) -> bool:
        """Whether any document of the run's corpora was held out."""
        return self._texts[NEW].num_documents > 0

    @property
    def corpora(self) -> dict[str, dict[str, str]]:
        """The "corpus" and "fingerprint" of each text with held-out documents, by what its figures begin with."""
        return {
            prefix: {
                "corpus": ",".join(str(corpus.path) for corpus in text.corpora),
                "fingerprint": ",".join(corpus.fingerprint for corpus in text.corpora),
            }
            for prefix, text in self._texts.items()
            if text.num_documents
        }

    def __call__(self, params: dict, step: int) -> dict[str, float]:
        """eval/mlm_loss, mlm_accuracy, mlm_perplexity, unigram_loss, and with pairs eval/nsp_accuracy or sop_accuracy.

        Of replaced-token detection these are the generator's, and rtd_loss and rtd_accuracy the model's.
        The same of config.data.old_corpus, if there is one, as eval_old/...

        Args:
          params: as the model makes them.
          step: steps done; the batches are shaped as the phase that the last of them belongs to.
        """
        figures = {}
        for prefix, text in self._texts.items():
            if not text.num_documents:
                continue
            batches, unigram_loss = text.batches(max(0, step - 1))
            found = _figures(_sums(self._eval_step, params, self._put, batches), unigram_loss)
            figures |= {f"{prefix}/{name}": value for name, value in found.items()}
        return figures


class _Text:
    """The held-out batches of one config, by phase, and the unigram distribution's loss on their labels."""

    def __init__(self, config, corpora, hosts):
        self.corpora = corpora
        self._hosts = hosts
        self.num_documents = sum(corpus.split("eval").num_documents for corpus in corpora)
        self._config = config
        self._phases = config_lib.phases(config)
        self._made = {}

    def batches(self, step):
        phase = next((phase for phase in self._phases if step < phase.stop), self._phases[-1])
        if phase.index not in self._made:
            # One process looks at every row for the baseline; the others need but their own.
            whole = functools.cache(lambda: loader.eval_batches(self._config, step))
            unigram_loss = distributed.broadcast(lambda: self._unigram_loss(phase, whole()))
            mine = whole() if self._hosts[1] == 1 else loader.eval_batches(self._config, step, *self._hosts)
            self._made[phase.index] = mine, unigram_loss
        return self._made[phase.index]

    def _unigram_loss(self, phase, batches):
        losses = unigram_losses(loader.unigram_counts(phase.data, self.corpora))
        found = np.concatenate([labels(batch) for batch in batches])
        return float(losses[found].mean())


def old_corpora(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> list[Corpus]:
    """The corpora of config.data.old_corpus.

    Args:
      config: a run's.
      tokenizer: of the run's own corpora. The old ones' may lack its last entries.

    Raises:
      UserError: there is none, it was prepared with another vocabulary, or no document of it is held out.
    """
    corpora = loader.open_corpora(_of_old(config))
    where = f"config.data.old_corpus={config.data.old_corpus}"
    if not new_tokens.begins_with(tokenizer, corpora[0].tokenizer):
        raise UserError(
            f"{where}: its vocabulary is neither that of {config.data.corpus} nor the beginning of it; prepare it with "
            f"--tokenizer={config.data.corpus.split(',')[0]}/tokenizer"
        )
    if not any(corpus.split("eval").num_documents for corpus in corpora):
        raise UserError(f"{where}: no document is held out; prepare it with --eval_share over 0")
    return corpora


def evaluate(
    model: Pretrained,
    corpus: str,
    split: str = "eval",
    batches: int = 0,
    seed: int = 0,
    progress: bool = False,
    generator: Pretrained | None = None,
    **data: Any,
) -> dict[str, float]:
    """Figures of any model on a prepared corpus, with masks that are a function of the arguments after the model.

    A left-to-right model is asked for each next token. A model with a head for pairs is also asked about those of the
    rows, or, where the format has none, about segment_pair rows of the same text, if it gives any. A discriminator is
    asked which tokens its generator replaced, and the generator for the masked ones.

    Args:
      model: as training.models.open_model gives it.
      corpus: a directory that prepare wrote with the model's vocabulary, or several separated by commas.
      split: "eval", the held-out documents, or "train".
      batches: how many of data["batch_size"] rows; 0 for as many as there are.
      seed: of rows and masks; 0 gives those that a run with config.seed=0 is evaluated on.
      progress: shows a bar on a terminal.
      generator: of a model that tells replaced tokens: what replaces them.
      data: keys of config.data that are not to be as they are in RECIPE.

    Returns:
      mlm_loss (nats), mlm_accuracy, mlm_perplexity, unigram_loss, with heads for pairs nsp_accuracy or sop_accuracy,
      of a discriminator rtd_loss and rtd_accuracy, and mlm_count and rows: how many tokens were predicted, in how many
      rows.

    Raises:
      UserError: the model has no head that predicts tokens, the corpus another vocabulary or no such documents, or a
        setting cannot work.
    """
    config, corpora = _settings(model, corpus, batches, seed, data, generator)
    if not sum(one.split(split).num_documents for one in corpora):
        raise UserError(f"--corpus={corpus}: no document in its {split} split; prepare it with --eval_share over 0")
    if model.model.spec.replaced_tokens:
        return _pass(model, config, corpora, split, progress, generator)
    pairs = config.data.format in config_lib.PAIR_FORMATS
    figures = {"next_sentence": "nsp_accuracy", "sentence_order": "sop_accuracy"}
    head = next((name for name in figures if getattr(model.model.spec, name)), None)
    if head:
        config.objective[head] = pairs
    found = _pass(model, config, corpora, split, progress)
    if head and not pairs:
        config.objective[head], config.data.format = True, "segment_pair"
        with contextlib.suppress(UserError):  # a text that gives no pairs
            found[figures[head]] = _pass(model, config, corpora, split, progress)[figures[head]]
    return found


def _settings(model, corpus, batches, seed, data, generator):
    spec = model.model.spec
    if spec.replaced_tokens and not generator:
        raise UserError(
            f"--model={model.name}: tells replaced tokens and predicts none, and what replaces them is not there; "
            "expected the workdir of its run, or its generator"
        )
    if not (spec.language_model or spec.replaced_tokens):
        raise UserError(f"--model={model.name}: has no head that predicts tokens; expected a model with one")
    config = config_lib.base()
    config.model.update({key: model.config[key] for key in config.model})
    config.model.vocab_size = 0  # the model may have rows for more tokens than the corpus
    config.seed = seed
    config.objective.name = predicting(spec.attention)
    config.data.update(RECIPE | {"sequence_length": min(RECIPE["sequence_length"], spec.max_positions)} | data)
    config.data.corpus = corpus
    config.train.eval_batches = batches or LARGEST_INTEGER
    config.objective.next_sentence = False
    config_lib.validate(config)
    corpora = loader.open_corpora(config)
    _check_vocabulary(model, corpora[0])
    return config, corpora


def _check_vocabulary(model, corpus):
    # A model whose vocabulary was extended after the corpus was prepared can read it: its new entries do not occur.
    if not new_tokens.begins_with(model.tokenizer, corpus.tokenizer):
        more = new_tokens.begins_with(corpus.tokenizer, model.tokenizer)
        extra = f" has {corpus.vocab_size - model.tokenizer.vocab_size:,} entries that {model.name} lacks"
        raise UserError(
            f"--corpus={corpus.path}: its vocabulary{extra if more else f' is not that of {model.name}'}; prepare the "
            f"text again: python -m bert_jax.prepare --input={corpus.manifest['settings']['input']} --output=DIR "
            f"--tokenizer={model.name}"
        )


def _pass(model, config, corpora, split, progress, generator=None):
    devices = jax.devices()[: math.gcd(config.data.batch_size, jax.device_count())]  # the rows are the same on any
    mesh = sharding.make_mesh(config.mesh, devices)
    rows = sharding.batch_sharding(mesh)
    params, objective = model.params, objective_lib.make(config, model.model).evaluated
    if generator:
        objective = ReplacedTokens(model.model, generator.model, "none", 1.0)
        params = params | {"generator": generator.params}
    params = jax.device_put(params, sharding.tree_shardings(params, mesh))
    eval_step = step_lib.compile_evaluation(objective, mesh)
    losses = unigram_losses(loader.unigram_counts(config.data, corpora))
    baseline, count = [], {"rows": 0}

    def noted(batches):
        from tqdm import tqdm

        for batch in tqdm(batches, unit="batch", disable=None if progress else True, leave=False):
            baseline.append(float(losses[labels(batch)].sum()))
            count["rows"] += int((batch["attention_mask"].sum(1) > 1).sum())
            yield batch

    batches = noted(loader.fixed_batches(config, 0, split))
    sums = _sums(eval_step, params, lambda batch: jax.device_put(batch, rows), batches)
    found = _figures(sums, math.fsum(baseline) / max(1, sums["mlm_count"]))
    return found | {"mlm_count": int(sums["mlm_count"])} | count


def _sums(eval_step: Callable, params: Mapping, put: Callable, batches: Iterable[Mapping]) -> dict[str, float]:
    """What eval_step sums, over all batches; one of them runs while the next is made."""
    parts, before = [], ()
    for batch in batches:
        part = eval_step(params, put(batch))
        jax.block_until_ready(before)
        before = part
        parts.append(part)
    parts = jax.device_get(parts)
    return {key: math.fsum(float(part[key]) for part in parts) for key in parts[0]}


def _figures(total, unigram_loss):
    loss = total["mlm_loss_sum"] / max(1, total["mlm_count"])
    figures = {
        "mlm_loss": loss,
        "mlm_accuracy": total["mlm_correct"] / max(1, total["mlm_count"]),
        "mlm_perplexity": math.exp(min(loss, 700)),  # of float64
        "unigram_loss": unigram_loss,
    }
    for task in ("nsp", "sop", "rtd"):
        if total.get(f"{task}_count"):
            figures[f"{task}_accuracy"] = total[f"{task}_correct"] / total[f"{task}_count"]
    if "rtd_count" in total:
        figures["rtd_loss"] = total["rtd_loss_sum"] / max(1, total["rtd_count"])
    return figures


def _of_old(config):
    """The config of a run on its old corpora."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.vocab_size = 0
    config.data.update(corpus=config.data.old_corpus, old_corpus="", weights=())
    config.data.phases = tuple({k: v for k, v in dict(p).items() if k != "weights"} for p in config.data.phases)
    return config


def labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The ids that a batch asks for, [labels]: those behind the masks, or (LTR) each token but a row's first."""
    if "masked_labels" in batch:
        return batch["masked_labels"][batch["masked_weights"] > 0]
    return batch["input_ids"][:, 1:][batch["attention_mask"][:, 1:] > 0]


def unigram_losses(counts: np.ndarray) -> np.ndarray:
    """Nats that each id costs under add-one unigram frequencies; counts and result [vocabulary]."""
    smoothed = counts.astype(np.float64) + 1
    return np.log(smoothed.sum()) - np.log(smoothed)
