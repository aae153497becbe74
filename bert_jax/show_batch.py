"""Prints the decoded rows of a training batch: segments, masks, labels and padding.

    python -m bert_jax.show_batch --config=RECIPE --config.data.corpus=DIR [--step=0] [--rows=3]

The batch is the one that `pretrain` gives the model at this step with the same config.
"""

from absl import flags

from bert_jax import command
from bert_jax import config as config_lib

_STEP = flags.DEFINE_integer("step", 0, "training step whose batch is shown", lower_bound=0)
_ROWS = flags.DEFINE_integer("rows", 3, "number of rows to show", lower_bound=1)

LEGEND = "{shown=label}: a predicted token: what the model sees, and the original; {same=}: left unchanged"


def show(batch: dict, row: int, tokenizer) -> str:
    """Returns a row of a batch as text: a heading, then a line for each segment, or for each sequence if packed.

    Args:
      batch: the arrays that `bert_jax.data.batch_at` returns, [batch, sequence] and so on.
      row: index of the row.
      tokenizer: the corpus's tokenizer.
    """
    ids = batch["input_ids"][row]
    length = int(batch["attention_mask"][row].sum())
    labels = {}
    if "masked_positions" in batch:
        weights = batch["masked_weights"][row] > 0
        labels = dict(zip(batch["masked_positions"][row][weights], batch["masked_labels"][row][weights], strict=True))
    words = []
    for position in range(length):
        token = tokenizer.token(int(ids[position]))
        if position in labels:
            label = tokenizer.token(int(labels[position]))
            token = f"{{{token}=}}" if label == token else f"{{{token}={label}}}"
        words.append(token)
    facts = [f"{length} tokens, {len(ids) - length} padding"]
    if "masked_positions" in batch:
        facts.append(f"{len(labels)} of {len(batch['masked_positions'][row])} slots predicted")
    labels_in_words = _pair_labels(batch, row)
    if "sequence_ids" in batch:
        parts = batch["sequence_ids"][row][:length]
        facts.insert(0, f"{parts.max()} sequences")
        names = [(i, f"{i}  {labels_in_words[i - 1]}:" if labels_in_words else i) for i in range(1, parts.max() + 1)]
    else:
        facts += labels_in_words
        parts = batch["token_type_ids"][row][:length]
        names = [(0, "A"), (1, "B")]
    lines = [", ".join(facts)]
    for part, name in names:
        text = " ".join(word for word, p in zip(words, parts, strict=True) if p == part)
        if text:
            lines.append(f"  {name}  {text}")
    return "\n".join(lines)


def _pair_labels(batch, row):
    """Returns what is so of each pair of a row, in words; [] for formats without pairs."""
    words = {
        "next_sentence_label": ("B follows A", "B is another document's"),
        "sentence_order_label": ("B follows A", "A follows B (swapped)"),
    }
    return [words[name][max(0, label)] for name in words if name in batch for label in batch[name][row].ravel()]


def main(argv):
    del argv
    config = flags.FLAGS.config
    config_lib.check_keys(config)
    from bert_jax.data import batch_at, describe_batch, mixture, verification

    corpora = mixture.open_corpora(config)
    for corpus in corpora:
        verification.verify(corpus)
    batch = batch_at(config, _STEP.value)
    tokenizer = corpora[0].tokenizer
    names = describe_batch(config, _STEP.value)
    print(LEGEND)
    for row in range(min(_ROWS.value, len(names))):
        print(f"\n{names[row]}: {show(batch, row, tokenizer)}")


if __name__ == "__main__":
    command.define_config_flag()
    command.run(main, likely=("config",))
