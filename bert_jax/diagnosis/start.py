"""Runs the doctor's checks that need no training step, so that a run is warned before it has spent any time."""

import pathlib
from collections.abc import Mapping

import ml_collections

from bert_jax.diagnosis import causes, corpora, course, finetuning, text
from bert_jax.diagnosis.reading import Run

FEWER_ROWS = 4  # a batch this many times smaller than the recipe's is warned about, at the recipe's rate


def warnings(
    config: ml_collections.ConfigDict,
    run: Mapping,
    workdir: pathlib.Path,
    recipe: ml_collections.ConfigDict | None = None,
) -> list[str]:
    """Returns what the doctor would find in a run that is about to begin, one line each.

    Args:
      config: the run's config.
      run: the content of its run.json: corpora of pre-training; kind, model and data of fine-tuning.
      workdir: the run's workdir.
      recipe: the config of the recipe that it was made from, if that is known.
    """
    tuned = run.get("kind") == "finetune"
    begun = Run(workdir, config, run, rows=(), texts=() if tuned else corpora.find_corpora(run, workdir))
    checks = [course.peak_never_reached]
    checks += [] if tuned else [text.unknown_tokens, text.padding, text.uneven_pairs]
    lines = [
        f"warning: {'; '.join([finding.message.rstrip('.'), *finding.causes[:1]])}"
        for finding in (check(begun) for check in checks)
        if finding is not None
    ]
    if tuned:
        reasons = [finetuning.unknown_tokens(begun), _few_examples(config, recipe)]
    else:
        reasons = [causes.unusual_rate(begun), causes.few_predictions(begun), _small_batch(config, recipe)]
    return lines + [f"warning: {reason}" for reason in reasons if reason]


def _few_examples(config, recipe):
    """Returns a warning about a fine-tuning batch much smaller than that of the recipe's rate; "" for none."""
    if recipe is None or config.data.batch_size * FEWER_ROWS > recipe.data.batch_size:
        return ""
    if recipe.optimizer.learning_rate > 0 and config.optimizer.learning_rate != recipe.optimizer.learning_rate:
        return ""
    return (
        f"a batch has config.data.batch_size={config.data.batch_size} examples, the recipe's {recipe.data.batch_size}, "
        f"and the learning rate {config.optimizer.learning_rate:.2g} is one for larger batches: "
        "--config.train.microbatches keeps the recipe's batch in less memory"
    )


def _small_batch(config, recipe):
    """Returns a warning about a batch much smaller than that of the recipe's rate; "" for none."""
    if recipe is None or config.optimizer.learning_rate != recipe.optimizer.learning_rate:
        return ""
    tokens, published = (settings.data.batch_size * settings.data.sequence_length for settings in (config, recipe))
    if tokens * FEWER_ROWS > published:
        return ""
    return (
        f"a batch has {tokens:,} tokens (config.data.batch_size={config.data.batch_size} x sequence_length="
        f"{config.data.sequence_length}), the recipe's {published:,}, and the learning rate is the recipe's "
        f"{recipe.optimizer.learning_rate:g}: --config.train.microbatches keeps the recipe's batch in less memory"
    )
