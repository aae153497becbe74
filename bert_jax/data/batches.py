"""Turns instances of a corpus into rows of token ids: [CLS] piece [SEP] (piece [SEP] ...), padded, then masked."""

import dataclasses

import numpy as np

from bert_jax.data import verification
from bert_jax.data.corpus import Split, unpack_bits
from bert_jax.data.masking import Masking
from bert_jax.errors import UserError

# Label of a pair -> the field of an instance's record that holds it.
LABELS = {"next_sentence_label": "is_random", "sentence_order_label": "is_swapped"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Holds the length of rows and the ids of their special tokens.

    Attributes:
      sequence_length: tokens of a row.
      cls_id, sep_id, pad_id: ids of the tokenizer.
      is_special: bool [vocabulary], the tokenizer's special tokens.
      type_vocab_size: segments of the model; with 0 or 1, all token_type_ids are 0.
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
    """Builds the batch of the given instances.

    Args:
      split: holds the tokens.
      instances: [batch] records of dtype instances.PAIR, ORDERED_PAIR or SPAN.
      keys: uint64 [batch], the keys from which each row's masks are drawn.
      layout: see Layout.
      masking: None leaves the text as it is (left-to-right objective).

    Returns:
      int32 input_ids, attention_mask, token_type_ids [batch, sequence]; with masking, int32 masked_positions,
      masked_labels and float32 masked_weights [batch, slots]; for PAIR, int32 next_sentence_label [batch] (1 where B
      is another document's); for ORDERED_PAIR, int32 sentence_order_label [batch] (1 where B precedes A).
    """
    rows, starts, lengths = text_pieces(split, instances)
    needs_words = masking is not None and masking.unit != "token"
    batch, sequence = len(instances), layout.sequence_length

    # One [SEP] follows each piece; [CLS] precedes the first.
    ends = np.cumsum(lengths + 1)
    first_piece = np.searchsorted(rows, np.arange(batch))
    row_begin = (ends - lengths - 1)[first_piece]
    columns = 1 + (ends - lengths - 1) - row_begin[rows]
    row_length = np.append(ends[first_piece[1:] - 1], ends[-1]) - row_begin + 1

    input_ids = np.full((batch, sequence), layout.pad_id, np.int32)
    input_ids[:, 0] = layout.cls_id
    flat = input_ids.ravel()
    destinations = rows * sequence + columns
    word_starts = np.zeros(batch * sequence, bool) if needs_words else None
    shards = np.searchsorted(split.shard_starts, starts, side="right") - 1
    local = starts - split.shard_starts[shards]
    for number, begin, destination, length in zip(
        shards.tolist(), local.tolist(), destinations.tolist(), lengths.tolist(), strict=True
    ):
        shard, end = split.shards[number], begin + length
        flat[destination : destination + length] = shard.tokens[begin:end]
        if needs_words:
            word_starts[destination : destination + length] = unpack_bits(shard.word_starts, begin, end)
    flat[destinations + lengths] = layout.sep_id
    if input_ids.view(np.uint32).max(initial=0) >= len(layout.is_special):
        for number, begin, length in zip(shards.tolist(), local.tolist(), lengths.tolist(), strict=True):
            tokens = split.shards[number].tokens[begin : begin + length]
            verification.check_ids(split.shards[number], tokens, begin, len(layout.is_special))

    position = np.arange(sequence)
    inside = position < row_length[:, None]
    token_type_ids = np.zeros((batch, sequence), np.int32)
    if _are_pairs(instances) and layout.type_vocab_size > 1:
        token_type_ids[inside & (position >= columns[1::2, None])] = 1
    result = {"input_ids": input_ids, "attention_mask": inside.astype(np.int32), "token_type_ids": token_type_ids}
    if masking is not None:
        maskable = inside & ~layout.is_special[input_ids]
        if needs_words:
            word_starts = word_starts.reshape(batch, sequence)
        result["input_ids"], *slots = masking(input_ids, maskable, word_starts, keys)
        result["masked_positions"], result["masked_labels"], result["masked_weights"] = slots
    for name, field in LABELS.items():
        if field in instances.dtype.names:
            result[name] = instances[field].astype(np.int32)
    return result


def text_pieces(split: Split, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pieces of text that rows consist of: the two segments of a pair, or the parts of single documents.

    A [SEP] follows each.

    Args:
      split: holds the tokens.
      instances: [batch] records of any recipe.

    Returns:
      (row, token offset in the split, number of tokens) of each piece, in order of rows, int64 [pieces] each.

    Raises:
      UserError: a piece lies in no shard of the corpus.
    """
    rows, starts, lengths = (_pair_pieces if _are_pairs(instances) else _document_pieces)(split, instances)
    _check_places(split, starts, lengths)
    return rows, starts, lengths


def _check_places(split, starts, lengths):
    """Raises UserError for pieces that do not lie in one shard of the corpus, as an index that was damaged has them."""
    shards = np.searchsorted(split.shard_starts, starts, side="right") - 1
    inside = (shards >= 0) & (shards < len(split.shards)) & (lengths >= 0)
    inside &= starts + lengths <= split.shard_starts[np.clip(shards + 1, 0, len(split.shards))]
    if not inside.all():
        place = int(np.flatnonzero(~inside)[0])
        folder = split.shards[0].file.parents[1] / "index"
        raise UserError(
            f"{folder}: an instance has tokens {int(starts[place]):,} to {int(starts[place] + lengths[place]):,}, "
            "which no shard of the corpus holds: the index was damaged; remove that folder, and it is built again"
        )


def _are_pairs(instances):
    return "a_start" in instances.dtype.names


def _pair_pieces(split, instances):
    """Returns (row, start, length) of the two pieces of each pair, int64 [2 * batch] each."""
    del split
    rows = np.repeat(np.arange(len(instances)), 2)
    starts = np.stack([instances["a_start"], instances["b_start"]], 1).ravel()
    lengths = np.stack([instances["a_length"], instances["b_length"]], 1).ravel().astype(np.int64)
    return rows, starts, lengths


def _document_pieces(split, instances):
    """Returns (row, start, length) of each row's pieces, int64 [pieces] each: a piece is part of one document."""
    count = instances["num_documents"]
    rows = np.repeat(np.arange(len(instances)), count)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    document = instances["document"][rows] + nth
    if len(document) and not (document.min() >= 0 and document.max() < split.num_documents):
        return rows, np.full(len(rows), split.num_tokens), np.ones(len(rows), np.int64)  # which are refused
    begin = np.maximum(instances["start"][rows], split.sentences[split.documents[document]])
    end = np.minimum(instances["stop"][rows], split.sentences[split.documents[document + 1]])
    return rows, begin, end - begin
