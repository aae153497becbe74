"""Asks the doctor's checks that need no step, so that a run is warned before it has spent any time."""

import pathlib
from collections.abc import Mapping

import ml_collections

from bert_jax.diagnosis import causes, corpora, course, text
from bert_jax.diagnosis.reading import Run

FEWER_ROWS = 4  # times fewer tokens in a batch than the recipe's, at the recipe's own rate


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
    reasons = [] if tuned else [causes.unusual_rate(begun), causes.few_predictions(begun), _small_batch(config, recipe)]
    return lines + [f"warning: {reason}" for reason in reasons if reason]


def _small_batch(config, recipe):
    """Returns what to say of a batch much smaller than the recipe's, whose learning rate was chosen for that one."""
    if recipe is None or config.optimizer.learning_rate != recipe.optimizer.learning_rate:
        return ""
    tokens, published = (made.data.batch_size * made.data.sequence_length for made in (config, recipe))
    if tokens * FEWER_ROWS > published:
        return ""
    return (
        f"a batch has {tokens:,} tokens (config.data.batch_size={config.data.batch_size} x sequence_length="
        f"{config.data.sequence_length}), the recipe's {published:,}, and the learning rate is the recipe's "
        f"{recipe.optimizer.learning_rate:g}: --config.train.microbatches keeps the recipe's batch in less memory"
    )
