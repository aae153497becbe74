"""Computes held-out metrics beside the unigram baseline, for a run while it trains and for any model."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.evaluation import RECIPE
from bert_jax.config.objective import predicting
from bert_jax.config.schema import LARGEST_INTEGER
from bert_jax.data import loader, mixture, verification
from bert_jax.data.corpus import Corpus
from bert_jax.data.vocabularies import new_tokens
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.objectives.language_modeling import PAIR_TASKS
from bert_jax.objectives.replaced_tokens import ReplacedTokens
from bert_jax.processes import distributed
from bert_jax.training import memory
from bert_jax.training import step as step_lib

NEW, OLD = "eval", "eval_old"  # prefixes in metrics.jsonl of the run's corpora and of data.old_corpus


class Evaluation:
    """Evaluates a run's parameters on documents that were set aside when its corpora were prepared.

    The rows and masks are the same at every evaluation.

    Args:
      config: the run's config.
      corpora: the run's corpora; their train splits give the unigram distribution.
      eval_step_at: returns the compiled evaluation of a step's phase, see step.compile_evaluation.
      put: places a batch on the devices.
      hosts: the rows of each batch that this process passes to `put`, see sharding.hosts_of_rows.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        corpora: Sequence[Corpus],
        eval_step_at: Callable[[int], Callable],
        put: Callable,
        hosts: tuple[int | Sequence[int], int] = (0, 1),
    ):
        self._eval_step_at = eval_step_at
        self._put = put
        self._texts = {NEW: _Text(config, corpora, hosts)}
        if config.data.old_corpus:
            self._texts[OLD] = _Text(_old_config(config), old_corpora(config, corpora[0].tokenizer), hosts)

    @property
    def possible(self) -> bool:
        """Returns whether any document of the run's corpora was held out."""
        return self._texts[NEW].num_documents > 0

    @property
    def corpora(self) -> dict[str, dict[str, str]]:
        """Returns the "corpus" and "fingerprint" of each text with held-out documents, by the prefix of its metrics."""
        return {
            prefix: {
                "corpus": ",".join(str(corpus.path) for corpus in text.corpora),
                "fingerprint": ",".join(corpus.fingerprint for corpus in text.corpora),
            }
            for prefix, text in self._texts.items()
            if text.num_documents
        }

    def first_batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of the run's first held-out batch after `step` steps, arrays [batch, ...]."""
        return self._texts[NEW].batches(max(0, step - 1))[0][0]

    def __call__(self, params: dict, step: int) -> dict[str, float]:
        """Returns held-out metrics: eval/mlm_loss, mlm_accuracy, mlm_perplexity, unigram_loss, and other tasks'.

        With sentence pairs there is eval/nsp_accuracy or eval/sop_accuracy. With replaced-token detection mlm_* are the
        generator's, and rtd_loss and rtd_accuracy the model's. config.data.old_corpus, if there is one, has the same
        metrics as eval_old/...

        Args:
          params: parameters of every model that is trained, as they lie on the mesh.
          step: number of steps done; batches, and rotary positions, are those of the last step's phase.
        """
        metrics, last = {}, max(0, step - 1)
        for prefix, text in self._texts.items():
            if not text.num_documents:
                continue
            batches, unigram_loss = text.batches(last)
            text_metrics = _metrics(_sums(self._eval_step_at(last), params, self._put, batches), unigram_loss)
            metrics |= {f"{prefix}/{name}": value for name, value in text_metrics.items()}
        return metrics


class _Text:
    """Makes the held-out batches of a config, by phase, and the unigram distribution's loss on their labels."""

    def __init__(self, config, corpora, hosts):
        self.corpora = corpora
        self._hosts = hosts
        self.num_documents = sum(corpus.split("eval").num_documents for corpus in corpora)
        self._config = config
        self._phases = config_lib.phases(config)
        self._made = {}

    def batches(self, step):
        phase = config_lib.phase_at(self._phases, step)
        if phase.index not in self._made:
            # One process reads every row for the baseline; the others read only their own.
            all_batches = functools.cache(lambda: loader.eval_batches(self._config, step))
            unigram_loss = distributed.broadcast(lambda: self._unigram_loss(phase, all_batches()))
            own_batches = (
                all_batches() if self._hosts[1] == 1 else loader.eval_batches(self._config, step, *self._hosts)
            )
            self._made[phase.index] = own_batches, unigram_loss
        return self._made[phase.index]

    def _unigram_loss(self, phase, batches):
        losses = unigram_losses(mixture.unigram_counts(phase.data, self.corpora))
        all_labels = np.concatenate([labels(batch) for batch in batches])
        return float(losses[all_labels].mean())


def old_corpora(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> list[Corpus]:
    """Opens the corpora of config.data.old_corpus.

    Args:
      config: the run's config.
      tokenizer: the tokenizer of the run's own corpora. The old corpora's tokenizer may lack its last entries.

    Raises:
      UserError: there is none, it was prepared with another vocabulary, or no document of it is held out.
    """
    corpora = mixture.open_corpora(_old_config(config))
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
    skip: int = 0,
    **data: Any,
) -> dict[str, float]:
    """Evaluates any model on a prepared corpus, with masks that are a function of the arguments after the model.

    A left-to-right model predicts each next token. A model with a head for sentence pairs also classifies those of the
    rows, or, where the format has none, segment_pair rows of the same text, if it gives any. A discriminator classifies
    the tokens that its generator replaced, and the generator predicts the masked ones.

    Args:
      model: the model, see runs.models.open_model.
      corpus: a directory that prepare wrote with the model's vocabulary, or several separated by commas.
      split: "eval", the held-out documents, or "train".
      batches: number of batches of data["batch_size"] rows; 0 for all.
      seed: seed of rows and masks; 0 gives those that a run with config.seed=0 is evaluated on.
      progress: shows a bar on a terminal.
      generator: the generator of a discriminator.
      skip: number of batches to leave out before the first, such as those that another evaluation reads.
      data: keys of config.data, which replace those of RECIPE.

    Returns:
      mlm_loss (nats), mlm_accuracy, mlm_perplexity, unigram_loss, with a head for pairs nsp_accuracy or sop_accuracy,
      for a discriminator rtd_loss and rtd_accuracy, and mlm_count and rows: the numbers of predicted tokens and of
      rows.

    Raises:
      UserError: the model has no head that predicts tokens, the corpus another vocabulary or no such documents, or a
        setting cannot work.
    """
    config, corpora = _settings(model, corpus, batches + skip if batches else 0, seed, data, generator)
    if not sum(opened.split(split).num_documents for opened in corpora):
        raise UserError(f"--corpus={corpus}: no document in its {split} split; prepare it with --eval_share over 0")
    if model.model.spec.replaced_tokens:
        return _pass(model, config, corpora, split, progress, generator, skip)
    pairs = config.data.format in config_lib.PAIR_FORMATS
    accuracies = {"next_sentence": "nsp_accuracy", "sentence_order": "sop_accuracy"}
    head = next((name for name in accuracies if getattr(model.model.spec, name)), None)
    if head:
        config.objective[head] = pairs
    metrics = _pass(model, config, corpora, split, progress, skip=skip)
    if head and not pairs:
        config.objective[head], config.data.format = True, "segment_pair"
        with contextlib.suppress(UserError):  # a text that gives no pairs
            metrics[accuracies[head]] = _pass(model, config, corpora, split, progress, skip=skip)[accuracies[head]]
    return metrics


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
    corpora = mixture.open_corpora(config)
    _check_vocabulary(model, corpora[0])
    verification.verify(corpora[0])
    return config, corpora


def _check_vocabulary(model, corpus):
    # A model whose vocabulary was extended after the corpus was prepared can read it: the new entries do not occur.
    if not new_tokens.begins_with(model.tokenizer, corpus.tokenizer):
        from bert_jax.data.preparation import pipeline

        more = new_tokens.begins_with(corpus.tokenizer, model.tokenizer)
        extra = f" has {corpus.vocab_size - model.tokenizer.vocab_size:,} entries that {model.name} lacks"
        raise UserError(
            f"--corpus={corpus.path}: its vocabulary{extra if more else f' is not that of {model.name}'}; prepare the "
            f"text again: {pipeline.command_again(corpus.manifest, corpus.path, str(model.name))}"
        )


def _pass(model, config, corpora, split, progress, generator=None, skip=0):
    devices = jax.devices()[: math.gcd(config.data.batch_size, jax.device_count())]  # the rows are the same on any
    mesh = sharding.make_mesh(config.mesh, devices)
    rows = sharding.batch_sharding(mesh)
    params, objective = model.params, objective_lib.make(config, model.model).evaluated
    if generator:
        objective = ReplacedTokens(model.model, generator.model, "none", 1.0)
        params = params | {"generator": generator.params}
    params = jax.device_put(params, sharding.tree_shardings(params, mesh))
    eval_step = step_lib.compile_evaluation(objective, mesh)
    loader.check_memory(config, prefetched=False)
    memory.check_evaluation(config, objective, eval_step, params, mesh)
    losses = unigram_losses(mixture.unigram_counts(config.data, corpora))
    baseline, count = [], {"rows": 0}

    def counted(batches):
        from tqdm import tqdm

        for batch in tqdm(batches, unit="batch", disable=None if progress else True, leave=False):
            baseline.append(float(losses[labels(batch)].sum()))
            count["rows"] += int((batch["attention_mask"].sum(1) > 1).sum())
            yield batch

    fixed = list(itertools.islice(loader.fixed_batches(config, 0, split), skip, None)) if skip else None
    if fixed == []:
        raise UserError(
            f"--corpus={config.data.corpus}: no batch behind the first {skip} of its {split} split; expected more "
            "held-out text (--eval_share of prepare)"
        )
    batches = counted(loader.fixed_batches(config, 0, split) if fixed is None else fixed)
    sums = _sums(eval_step, params, lambda batch: jax.device_put(batch, rows), batches)
    metrics = _metrics(sums, math.fsum(baseline) / max(1, sums["mlm_count"]))
    return metrics | {"mlm_count": int(sums["mlm_count"])} | count


def _sums(eval_step: Callable, params: Mapping, put: Callable, batches: Iterable[Mapping]) -> dict[str, float]:
    """Adds up eval_step's sums over all batches; a batch runs while the next one is made."""
    parts, before = [], ()
    for batch in batches:
        part = eval_step(params, put(batch))
        jax.block_until_ready(before)
        before = part
        parts.append(part)
    parts = jax.device_get(parts)
    return {key: math.fsum(float(part[key]) for part in parts) for key in parts[0]}


def _metrics(total, unigram_loss):
    """Returns held-out metrics from sums over all batches, for masked tokens and for each other task of the objective.

    Tasks on sentence pairs report their accuracy alone.
    """
    loss = total["mlm_loss_sum"] / max(1, total["mlm_count"])
    metrics = {
        "mlm_loss": loss,
        "mlm_accuracy": total["mlm_correct"] / max(1, total["mlm_count"]),
        "mlm_perplexity": math.exp(min(loss, 700)),  # exp(710) is no float64
        "unigram_loss": unigram_loss,
    }
    for task in sorted(key.removesuffix("_count") for key in total if key.endswith("_count") and key != "mlm_count"):
        count = total[f"{task}_count"]
        if count and f"{task}_correct" in total:
            metrics[f"{task}_accuracy"] = total[f"{task}_correct"] / count
        if task not in PAIR_TASKS:
            metrics[f"{task}_loss"] = total[f"{task}_loss_sum"] / max(1, count)
    return metrics


def _old_config(config):
    """Returns the config of a run for its old corpora."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.vocab_size = 0
    config.data.update(corpus=config.data.old_corpus, old_corpus="", weights=(), first_corpora=0)
    corpora_keys = ("weights", "first_corpora")
    config.data.phases = tuple({k: v for k, v in dict(p).items() if k not in corpora_keys} for p in config.data.phases)
    return config


def labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the ids that a batch asks to predict, int32 [labels].

    These are the masked tokens, or, in rows without masks, each token but a row's first.
    """
    if "masked_labels" in batch:
        return batch["masked_labels"][batch["masked_weights"] > 0]
    return batch["input_ids"][:, 1:][batch["attention_mask"][:, 1:] > 0]


def unigram_losses(counts: np.ndarray) -> np.ndarray:
    """Returns the loss in nats of each id under add-one unigram frequencies; counts and result are [vocabulary]."""
    smoothed = counts.astype(np.float64) + 1
    return np.log(smoothed.sum()) - np.log(smoothed)
