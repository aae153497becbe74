"""Instances -> rows: [CLS] piece [SEP] (piece [SEP] ...), padded; then masked."""

import dataclasses

import numpy as np

from bert_jax.data.corpus import Split
from bert_jax.data.masking import Masking

# Labels of pairs, and the field of an instance that says each.
LABELS = {"next_sentence_label": "is_random", "sentence_order_label": "is_swapped"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How rows are laid out.

    Attributes:
      sequence_length: tokens a row.
      cls_id, sep_id, pad_id: of the tokenizer.
      is_special: bool [vocabulary], the tokenizer's special tokens.
      type_vocab_size: 0 or 1 where the model has no segments: token_type_ids are then all 0.
    """

    sequence_length: int
    cls_id: int
    sep_id: int
    pad_id: int
    is_special: np.ndarray
    type_vocab_size: int


def make_batch(
    split: Split, instances: np.ndarray, keys: np.ndarray, layout: Layout, masking: Masking | None
) -> dict[str, np.ndarray]:
    """The batch of the given instances.

    Args:
      split: where the tokens lie.
      instances: [batch] records of dtype instances.PAIR, ORDERED_PAIR or SPAN.
      keys: uint64 [batch], what the masks are a function of.
      layout: see Layout.
      masking: None leaves the text as it is (LTR).

    Returns:
      int32 input_ids, attention_mask, token_type_ids [batch, sequence]; with masking, int32 masked_positions,
      masked_labels and float32 masked_weights [batch, slots]; of pairs, int32 next_sentence_label [batch] (1: B is
      another document's) or, of those whose order may be swapped, sentence_order_label (1: B stands before A).
    """
    is_pair = "a_start" in instances.dtype.names
    rows, starts, lengths = _pair_pieces(instances) if is_pair else _document_pieces(split, instances)
    needs_words = masking is not None and masking.unit != "token"
    batch, sequence = len(instances), layout.sequence_length

    # Each piece is followed by one [SEP]; the first stands after [CLS].
    ends = np.cumsum(lengths + 1)
    pieces_before = np.searchsorted(rows, np.arange(batch))  # of each row's first piece
    row_begin = (ends - lengths - 1)[pieces_before]
    columns = 1 + (ends - lengths - 1) - row_begin[rows]
    row_length = np.append(ends[pieces_before[1:] - 1], ends[-1]) - row_begin + 1

    input_ids = np.full((batch, sequence), layout.pad_id, np.int32)
    input_ids[:, 0] = layout.cls_id
    flat = input_ids.ravel()
    destinations = rows * sequence + columns
    word_starts = np.zeros(batch * sequence, bool) if needs_words else None
    shards = np.searchsorted(split.shard_starts, starts, side="right") - 1
    local = starts - split.shard_starts[shards]
    for shard, at, to, length in zip(
        shards.tolist(), local.tolist(), destinations.tolist(), lengths.tolist(), strict=True
    ):
        flat[to : to + length] = split.shards[shard].tokens[at : at + length]
        if needs_words:
            bits = np.unpackbits(split.shards[shard].word_starts[at // 8 : (at + length + 7) // 8])
            word_starts[to : to + length] = bits[at % 8 : at % 8 + length]
    flat[destinations + lengths] = layout.sep_id

    position = np.arange(sequence)
    inside = position < row_length[:, None]
    token_type_ids = np.zeros((batch, sequence), np.int32)
    if is_pair and layout.type_vocab_size > 1:
        token_type_ids[inside & (position >= columns[1::2, None])] = 1
    made = {"input_ids": input_ids, "attention_mask": inside.astype(np.int32), "token_type_ids": token_type_ids}
    if masking is not None:
        maskable = inside & ~layout.is_special[input_ids]
        if needs_words:
            word_starts = word_starts.reshape(batch, sequence)
        made["input_ids"], *slots = masking(input_ids, maskable, word_starts, keys)
        made["masked_positions"], made["masked_labels"], made["masked_weights"] = slots
    for name, of_record in LABELS.items():
        if of_record in instances.dtype.names:
            made[name] = instances[of_record].astype(np.int32)
    return made


def _pair_pieces(instances):
    rows = np.repeat(np.arange(len(instances)), 2)
    starts = np.stack([instances["a_start"], instances["b_start"]], 1).ravel()
    lengths = np.stack([instances["a_length"], instances["b_length"]], 1).ravel().astype(np.int64)
    return rows, starts, lengths


def _document_pieces(split, instances):
    """A row's tokens cut where one document ends and the next begins."""
    count = instances["num_documents"]
    rows = np.repeat(np.arange(len(instances)), count)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    document = instances["document"][rows] + nth
    begin = np.maximum(instances["start"][rows], split.sentences[split.documents[document]])
    end = np.minimum(instances["stop"][rows], split.sentences[split.documents[document + 1]])
    return rows, begin, end - begin
