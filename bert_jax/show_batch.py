"""python -m bert_jax.show_batch --config=RECIPE --config.data.corpus=DIR [--step=0] [--rows=3]

Prints rows of a step's batch decoded: segments, masks, labels and padding, as the model gets them.
"""

from absl import flags

from bert_jax import command

_STEP = flags.DEFINE_integer("step", 0, "whose batch", lower_bound=0)
_ROWS = flags.DEFINE_integer("rows", 3, "how many of its rows", lower_bound=1)

LEGEND = "{shown=label}: a predicted token, what stands in its place and what it was; {same=}: left as it is"


def show(batch: dict, row: int, tokenizer) -> str:
    """One row of a batch as text: a heading, then a line per segment or, of a packed row, per sequence."""
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
    if "next_sentence_label" in batch:
        facts.append("B is another document's" if batch["next_sentence_label"][row] else "B follows A")
    if "sentence_order_label" in batch:
        facts.append("A follows B (swapped)" if batch["sentence_order_label"][row] else "B follows A")
    if "sequence_ids" in batch:
        parts = batch["sequence_ids"][row][:length]
        facts.insert(0, f"{parts.max()} sequences")
        names = [(number, number) for number in range(1, parts.max() + 1)]
    else:
        parts = batch["token_type_ids"][row][:length]
        names = [(0, "A"), (1, "B")]
    lines = [", ".join(facts)]
    for part, name in names:
        text = " ".join(word for word, p in zip(words, parts, strict=True) if p == part)
        if text:
            lines.append(f"  {name}  {text}")
    return "\n".join(lines)


def main(argv):
    del argv
    from bert_jax.data import batch_at, describe_batch, loader

    config = flags.FLAGS.config
    batch = batch_at(config, _STEP.value)
    tokenizer = loader.open_corpora(config)[0].tokenizer
    names = describe_batch(config, _STEP.value)
    print(LEGEND)
    for row in range(min(_ROWS.value, len(names))):
        print(f"\n{names[row]}: {show(batch, row, tokenizer)}")


if __name__ == "__main__":
    command.define_config_flag()
    command.run(main)
