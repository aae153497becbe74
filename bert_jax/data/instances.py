"""Builds the index of instances: a few integers per model input say which tokens of the corpus it consists of.

An index is a pure function of (corpus split, format, sequence length, seed, repeat). It is built once, in
parallel over blocks of documents whose borders depend on the corpus alone, and cached beside the corpus.

The pair formats follow google-research/bert's create_pretraining_data.py, `create_instances_from_document`, and for
sentence order ALBERT, section 3.1; the others RoBERTa, section 4.2. A sentence that no row holds is cut into parts,
which are sentences of their own then: the published code for pairs drops its end, which is nearly all of a text that
the sentence splitter finds no full stops in. All documents advance together, step k of every document at once, so that
numpy does the work.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from bert_jax import _moved, files, interruption
from bert_jax.config.keys import PAIR_FORMATS, PRETRAINING
from bert_jax.data import array_files, hashing
from bert_jax.data.corpus import Corpus, Split
from bert_jax.errors import UserError
from bert_jax.processes import signals

PAIR = np.dtype(
    [("a_start", "<i8"), ("b_start", "<i8"), ("a_length", "<i4"), ("b_length", "<i4"), ("is_random", "<i4")]
)  # starts are token offsets in the split; is_random is 1 where B is another document's
ORDERED_PAIR = np.dtype([*PAIR.descr[:-1], ("is_swapped", "<i4")])  # is_swapped is 1 where A follows B in the document
# The tokens [start, stop) of the split, which begin in document number `document`.
SPAN = np.dtype([("start", "<i8"), ("stop", "<i8"), ("document", "<i8"), ("num_documents", "<i4")])

_VERSION = 1  # version of the index that build() computes; part of the cached file's name
_BLOCK_TOKENS = 1 << 22
_POOL_TOKENS = 1 << 25  # with fewer tokens, starting a process pool takes longer than it saves
_SAMPLE = 100_000  # instances that share_held reads


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Holds the settings that an index depends on, apart from the corpus.

    Attributes:
      format: segment_pair, sentence_pair, full_sentences or doc_sentences.
      sequence_length: tokens of a row, special tokens included.
      seed: the run's seed; formats without pairs draw nothing and ignore it.
      repeat: which of the different pairings of the same text.
      short_target_share: share of documents whose pairs aim at a random shorter length (segment_pair).
      sentence_order: whether the two segments of a pair always follow each other, half of the pairs being swapped
        (ALBERT), instead of half of the pairs having another document's text as B (BERT).
    """

    format: str
    sequence_length: int
    seed: int = 0
    repeat: int = 0
    short_target_share: float = PRETRAINING["data.short_target_share"].default
    sentence_order: bool = False

    @property
    def is_random(self) -> bool:
        """Returns whether instances are pairs, which depend on the seed."""
        return self.format in PAIR_FORMATS

    @property
    def dtype(self) -> np.dtype:
        """Returns the record dtype of the index."""
        if not self.is_random:
            return SPAN
        return ORDERED_PAIR if self.sentence_order else PAIR

    def key(self) -> tuple:
        """Returns the settings that change the index in this format."""
        if not self.is_random:
            return (_VERSION, self.format, self.sequence_length)
        short = self.short_target_share if self.format == "segment_pair" else 0.0
        order = ("sentence_order",) if self.sentence_order else ()
        return (_VERSION, self.format, self.sequence_length, self.seed, self.repeat, float(short), *order)


def open_index(corpus: Corpus, split_name: str, recipe: Recipe, workers: int | None = None) -> np.ndarray:
    """Opens an index, memory-mapped; it is built first where it is not cached yet.

    Args:
      corpus: the corpus; its `index` folder is the cache, or the user's cache folder where the corpus is read-only.
      split_name: "train" or "eval".
      recipe: see Recipe.
      workers: processes that build it; None takes the machine's cores. It changes no byte of the index.

    Returns:
      [instances] records of the recipe's dtype.

    Raises:
      UserError: the training split has a single document and the format needs another one's sentences, or the cache
        cannot be written.
    """
    path = cache_folder(corpus) / _file_name(corpus, split_name, recipe)
    index = array_files.open_array(path)
    if index is None:
        split = corpus.split(split_name)
        if recipe.dtype == PAIR and split_name == "train" and split.num_documents < 2:
            raise UserError(
                f"{corpus.path}: {split.num_documents} document in the training split, but config.data.format="
                f"{recipe.format} draws sentences from another one; expected at least 2. Prepare it with documents "
                "separated by blank lines or by file (--documents), or train with "
                "config.data.format=full_sentences and config.objective.next_sentence=False"
            )
        try:
            _build_file(corpus, split_name, split, recipe, path, workers)
        except OSError as error:
            raise UserError(f"{path}: the index cannot be written: {error.strerror or error}; make room") from error
        index = array_files.open_array(path)
        assert index is not None, f"{path} was written and cannot be read"
    return index


def cached_index(corpus: Corpus, split_name: str, recipe: Recipe) -> np.ndarray | None:
    """Opens an index that is in the cache, [instances] as `open_index` does; returns None otherwise. Writes nothing."""
    folders = (pathlib.Path(corpus.path) / "index", _user_folder(corpus))
    name = _file_name(corpus, split_name, recipe)
    candidates = (array_files.open_array(folder / name) for folder in folders)
    return next((index for index in candidates if index is not None), None)


def build(split: Split, recipe: Recipe, first: int = 0, last: int | None = None) -> np.ndarray:
    """Builds the instances of a split's documents first..last (last excluded), in document order.

    Returns:
      [instances] records of the recipe's dtype.
    """
    last = split.num_documents if last is None else last
    if first == last:
        return np.zeros(0, recipe.dtype)
    if not recipe.is_random:
        return _packed(split, recipe, first, last)
    return (_ordered_pairs if recipe.sentence_order else _pairs)(split, recipe, first, last)


def text_lengths(records: np.ndarray) -> np.ndarray:
    """Returns the tokens of text of each instance, int64 [instances]; records of any recipe."""
    if records.dtype == SPAN:
        return np.asarray(records["stop"] - records["start"])
    return records["a_length"].astype(np.int64) + records["b_length"]


def row_lengths(records: np.ndarray) -> np.ndarray:
    """Returns the tokens of each instance's row, special ones included, int64 [instances]; records of any recipe."""
    separators = records["num_documents"] if records.dtype == SPAN else 2  # one behind each document or segment
    return text_lengths(records) + separators + 1


def share_held(index: np.ndarray, num_tokens: int) -> float:
    """Returns the share of a split's tokens that the rows of an index hold, estimated from a sample of a large one.

    A segment B of another document is not counted, as its text is in the rows of that document.

    Args:
      index: [instances] records of any recipe.
      num_tokens: number of tokens of the split.
    """
    sample = index[:: max(1, len(index) // _SAMPLE)]
    lengths = text_lengths(sample)
    if sample.dtype == PAIR:
        lengths -= sample["b_length"] * (sample["is_random"] == 1)
    held = lengths.sum() * (len(index) / max(1, len(sample)))
    return float(min(1.0, held / max(1, num_tokens)))


def _build_file(corpus, split_name, split, recipe, path, workers):
    blocks = _blocks(split)
    workers = min(workers or os.cpu_count() or 1, len(blocks))
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.scratch_folder(path) as folder:
        jobs = [(corpus.path, split_name, recipe, first, last, folder) for first, last in blocks]
        if workers > 1 and split.num_tokens > _POOL_TOKENS:
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(workers, context, signals.end_with_parent) as pool:
                with interruption.not_for_children():
                    built = pool.map(_build_block, jobs)
                parts = list(built)
        else:
            parts = [_build_block(job) for job in jobs]
        join(parts, folder / "whole.npy", path)


def _build_block(job):
    corpus_path, split_name, recipe, first, last, folder = job
    part = build(Corpus.open(corpus_path).split(split_name), recipe, first, last)
    path = pathlib.Path(folder) / f"{first}.npy"
    np.save(path, part)
    return path


@_moved.renamed_arguments(whole="temporary")
def join(parts: Sequence[pathlib.Path], temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Concatenates the arrays of the files `parts`: writes the file `temporary`, then renames it to `path`."""
    arrays = [np.load(part, mmap_mode="r") for part in parts]
    out = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=arrays[0].dtype, shape=(sum(len(array) for array in arrays),)
    )
    position = 0
    for array in arrays:
        out[position : position + len(array)] = array
        position += len(array)
    out.flush()
    array_files.put(temporary, path)


def _blocks(split):
    """Returns document ranges (first, last) of about _BLOCK_TOKENS tokens each, a function of the split alone."""
    documents = np.asarray(split.sentences)[np.asarray(split.documents)]
    borders = np.searchsorted(documents, np.arange(0, split.num_tokens, _BLOCK_TOKENS), side="left")
    borders = np.unique(np.append(borders, split.num_documents))
    return list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)) or [(0, 0)]


def cache_folder(corpus: Corpus) -> pathlib.Path:
    """Returns the folder for a corpus's indexes: `index` in the corpus, or in the user's cache if it is read-only."""
    folder = pathlib.Path(corpus.path) / "index"
    try:
        folder.mkdir(exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:  # a read-only corpus, shared by several users
        pass
    return _user_folder(corpus)


def _user_folder(corpus):
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "bert_jax" / "index" / corpus.fingerprint


def longest_sentence(corpus: Corpus, split_name: str) -> int:
    """Returns the number of tokens of a split's longest sentence."""
    noted = corpus.manifest["splits"][split_name].get("longest_sentence")
    if noted is not None:
        return noted
    sentences = corpus.split(split_name).sentences  # a corpus of an earlier version
    blocks = range(0, len(sentences) - 1, _BLOCK_TOKENS)
    return max((int(np.diff(sentences[i : i + _BLOCK_TOKENS + 1]).max()) for i in blocks), default=0)


def _file_name(corpus, split_name, recipe):
    stem = f"{split_name}-{recipe.format}-{recipe.sequence_length}-{hashing.fold(*recipe.key()):016x}"
    # Earlier versions cut no sentences of pairs; where there is none to cut, their files hold the same.
    is_cut = recipe.is_random and longest_sentence(corpus, split_name) > recipe.sequence_length - 3
    return f"{stem}-cut.npy" if is_cut else f"{stem}.npy"


def _pairs(split, recipe, first, last):
    """Builds pairs of which half have another document's text as B.

    Every array below has one entry for each document whose text is not used up.
    """
    sentences, documents = split.sentences, split.documents
    num_documents = split.num_documents
    room = recipe.sequence_length - 3  # [CLS], [SEP], [SEP]
    base = hashing.fold("pairs", recipe.seed, recipe.repeat)

    document = np.arange(first, last)
    key = hashing.draw(base, document)
    bounds, position, end = _short_sentences(split, first, last, room)
    target = _targets(recipe, key, room)

    parts, order = [], []
    step = 0
    while len(document):
        random = [hashing.draw(key, _STEP + np.uint64(8 * step + i)) for i in range(7)]
        begin = bounds[position]
        if recipe.format == "segment_pair":
            stop = np.clip(np.searchsorted(bounds, begin + target), position + 1, end)
        else:
            stop = np.minimum(position + 2, end)
        size = stop - position
        a_sentences = np.where(size < 2, 1, 1 + hashing.below(random[0], np.maximum(size - 1, 1)))
        is_random = (size == 1) | (hashing.uniform(random[1]) < 0.5)
        a_stop = bounds[position + a_sentences]
        a_length = a_stop - begin

        other = hashing.below(random[2], max(num_documents - 1, 1))
        other += (other >= document) & (num_documents > 1)  # a lone held-out document pairs with itself
        other_first, other_end = documents[other], documents[other + 1]
        b_sentence = other_first + hashing.below(random[3], other_end - other_first)
        b_begin = sentences[b_sentence]
        b_begin = b_begin + _part_size(room) * hashing.below(
            random[6], _num_parts(sentences[b_sentence + 1] - b_begin, room)
        )
        wanted = target - a_length if recipe.format == "segment_pair" else np.ones_like(target)
        b_last = np.clip(np.searchsorted(sentences, b_begin + wanted), b_sentence + 1, other_end) - 1
        b_end = _part_end(sentences[b_last], sentences[b_last + 1], b_begin + np.maximum(wanted, 1), room)

        b_start = np.where(is_random, b_begin, a_stop)
        b_length = np.where(is_random, b_end - b_begin, bounds[stop] - a_stop)
        part = _truncated(begin, a_length, b_start, b_length, room, random[4], random[5], recipe.dtype)
        part["is_random"] = is_random
        parts.append(part)
        order.append(document)

        # The sentences that a random B replaced are used again in the next pair, so that no text is lost.
        position = np.where(is_random, position + a_sentences, stop)
        running = position < end
        document, key, position, end, target = (x[running] for x in (document, key, position, end, target))
        step += 1
    instances = np.concatenate(parts)
    return instances[np.argsort(np.concatenate(order), kind="stable")]


def _short_sentences(split, first, last, room):
    """Cuts the sentences of documents first..last (last excluded) that are longer than `room` tokens.

    Returns:
      (token offsets at which sentences and parts begin, and the last one's end, int64; the index in them at which each
      document begins, and at which it ends, int64 [documents] each)
    """
    documents = np.asarray(split.documents[first : last + 1])
    offsets = np.asarray(split.sentences[documents[0] : documents[-1] + 1])
    bounds = np.append(_cut_long(offsets, room, _part_size(room)), offsets[-1])
    edges = np.searchsorted(bounds, offsets[documents - documents[0]])
    return bounds, edges[:-1], edges[1:]


def _part_size(room):
    """Returns the tokens of a part of a sentence that is longer than `room`: two parts fill a pair."""
    return room - room // 2


def _num_parts(lengths, room):
    """Returns into how many parts sentences of these lengths are cut, int64 in their shape."""
    return np.where(lengths > room, -(-lengths // _part_size(room)), 1)


def _part_end(start, end, wanted, room):
    """Returns the end of that part of the sentences [start, end) that holds the token before `wanted`."""
    size = _part_size(room)
    part_end = start + -(-(wanted - start) // size) * size
    return np.where(end - start > room, np.minimum(part_end, end), end)


# Counters of a document's draws; those of different purposes do not overlap.
_SHORT = np.uint64(1)
_STEP = np.uint64(1 << 20)


def _targets(recipe, key, room):
    """Returns the length that each document's pairs aim at, drawn once per document, as the published code does."""
    short = hashing.uniform(hashing.draw(key, _SHORT)) < recipe.short_target_share
    return np.where(short, 2 + hashing.below(hashing.draw(key, _SHORT + 1), max(room - 1, 1)), room)


def _ordered_pairs(split, recipe, first, last):
    """Builds pairs for sentence order: the two segments of a pair follow each other in a document.

    google-research/albert's create_pretraining_data.py adds another document's text to a chunk of one sentence, and
    labels the pair as swapped. Here such a chunk takes a second sentence: the next one, or at a document's end the one
    before, which two pairs then share. A document of one sentence has no pair.
    """
    room = recipe.sequence_length - 3  # [CLS], [SEP], [SEP]
    document = np.arange(first, last)
    key = hashing.draw(hashing.fold("ordered pairs", recipe.seed, recipe.repeat), document)
    sentences, position, end = _short_sentences(split, first, last, room)
    target = _targets(recipe, key, room)

    parts, order = [np.zeros(0, recipe.dtype)], [document[:0]]
    step = 0
    running = end - position >= 2
    while running.any():
        document, key, position, end, target = (x[running] for x in (document, key, position, end, target))
        random = [hashing.draw(key, _STEP + np.uint64(8 * step + i)) for i in range(4)]
        position = np.minimum(position, end - 2)
        begin, stop = sentences[position], position + 2
        if recipe.format == "segment_pair":
            stop = np.clip(np.searchsorted(sentences, begin + target), stop, end)
        middle = sentences[position + 1 + hashing.below(random[0], stop - position - 1)]
        lengths = middle - begin, sentences[stop] - middle
        swapped = hashing.uniform(random[1]) < 0.5
        a_start, b_start = np.where(swapped, middle, begin), np.where(swapped, begin, middle)
        a_length, b_length = np.where(swapped, lengths[1], lengths[0]), np.where(swapped, *lengths)
        part = _truncated(a_start, a_length, b_start, b_length, room, random[2], random[3], recipe.dtype)
        part["is_swapped"] = swapped
        parts.append(part)
        order.append(document)
        position = stop
        running = position < end
        step += 1
    instances = np.concatenate(parts)
    return instances[np.argsort(np.concatenate(order), kind="stable")]


def _truncated(a_start, a_length, b_start, b_length, room, a_key, b_key, dtype):
    """Returns records of pairs cut to `room` tokens.

    The longer segment loses a token (the second where both are equal) until the pair fits, each time at a random end.
    """
    excess = np.maximum(a_length + b_length - room, 0)
    gap = np.minimum(excess, np.abs(a_length - b_length))
    rest = excess - gap
    a_longer = a_length > b_length
    a_cut = np.where(a_longer, gap, 0) + rest // 2
    b_cut = np.where(a_longer, 0, gap) + rest - rest // 2
    instances = np.empty(len(a_start), dtype)
    instances["a_start"] = a_start + hashing.coin_flips(a_key, a_cut)
    instances["b_start"] = b_start + hashing.coin_flips(b_key, b_cut)
    instances["a_length"] = a_length - a_cut
    instances["b_length"] = b_length - b_cut
    return instances


def _packed(split, recipe, first, last):
    """Builds full_sentences and doc_sentences: as many whole sentences as fit; a longer sentence is cut into rows."""
    room = recipe.sequence_length - 2  # [CLS] and the last [SEP]
    sentence_first, sentence_last = int(split.documents[first]), int(split.documents[last])
    offsets = np.asarray(split.sentences[sentence_first : sentence_last + 1])
    starts = _cut_long(offsets, room, room)
    bounds = np.append(starts, offsets[-1])
    document_starts = offsets[np.asarray(split.documents[first : last + 1]) - sentence_first]
    document = np.searchsorted(document_starts, starts, side="right") - 1

    if recipe.format == "full_sentences":
        # A [SEP] separates documents, so a row takes up its tokens plus one for each further document.
        cost = bounds[1:] + document
        following = np.searchsorted(cost, room + starts + document, side="right")
    else:
        following = np.searchsorted(bounds, starts + room, side="right") - 1
        following = np.minimum(following, np.searchsorted(starts, document_starts[document + 1]))
    rows = _chase(following)
    stops = following[rows]
    instances = np.empty(len(rows), SPAN)
    instances["start"] = starts[rows]
    instances["stop"] = bounds[stops]
    instances["document"] = first + document[rows]
    instances["num_documents"] = document[stops - 1] - document[rows] + 1
    return instances


def _cut_long(offsets, longest, size):
    """Returns the starts of sentences, and of the further parts of those longer than `longest` tokens, int64 [parts].

    Parts have `size` tokens, but for the last one of a sentence.
    """
    lengths = np.diff(offsets)
    parts = np.where(lengths > longest, -(-lengths // size), 1)
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.repeat(offsets[:-1], parts) + within * size


def _chase(following):
    """Returns the indexes reached from 0 by following links (index -> the next index) to the end, int64 [rows]."""
    links, rows, index = following.tolist(), [], 0
    while index < len(links):
        rows.append(index)
        index = links[index]
    return np.array(rows, np.int64)


def __getattr__(name):
    return _moved.find("data.instances", name)
