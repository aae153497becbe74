"""Packed rows hold what unpacked rows hold: the same instances with the same masks, each once an epoch."""

import random

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import show_batch
from bert_jax.data import batch_at, describe_batch, loader, packing
from bert_jax.data.batches import LABELS
from bert_jax.data.corpus import Corpus
from bert_jax.training import lowering

LENGTH = 48
RNG = random.Random(3)
# A text of one token, of one long word, of exactly a row, of more than a row, and many between.
DOCUMENTS = [
    "ab .",
    "ab",
    "abcdefg",
    "abcdefgh",
    " ".join(["ab"] * (LENGTH - 2)),
    " ".join(["ac"] * (LENGTH - 1)),
    " ".join(["ad"] * 3 * LENGTH),
    *(
        "\n".join(
            " ".join(RNG.choice(["ab", "ca", "dbx", "eahjk", "fayz", "."]) for _ in range(RNG.randint(1, 9)))
            for _ in range(RNG.randint(1, 4))
        )
        for _ in range(300)
    ),
]


@pytest.fixture(scope="module")
def short_documents(make_corpus):
    return make_corpus("\n\n".join(DOCUMENTS) + "\n", "short_documents")


@pytest.fixture
def config(short_documents):
    config = config_lib.base()
    config.data.update(corpus=str(short_documents), format="doc_sentences", sequence_length=LENGTH, batch_size=8)
    config.data.packing = True
    config.objective.next_sentence = False
    config.train.num_steps = 100_000
    return config


def unpacked(config):
    config = config.copy_and_resolve_references()
    config.data.packing = False
    return config


def source_of(config):
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    return source


def sequences(batch):
    """Returns (input ids, segments, {position: label}, label of a pair) of each sequence of a packed batch."""
    for row, ids in enumerate(batch["input_ids"]):
        inside = batch["attention_mask"][row] > 0
        assert (batch["sequence_ids"][row] > 0).tolist() == inside.tolist()
        number = batch["sequence_ids"][row].max()
        assert np.unique(batch["sequence_ids"][row][inside]).tolist() == list(range(1, number + 1))
        assert (batch["cls_positions"][row, number:] == 0).all()
        used = batch["masked_weights"][row] > 0
        places, labels = batch["masked_positions"][row][used], batch["masked_labels"][row][used]
        assert (np.diff(places) > 0).all()
        assert not batch["masked_positions"][row][~used].any() and not batch["masked_labels"][row][~used].any()
        for n in range(number):
            at = np.flatnonzero(batch["sequence_ids"][row] == n + 1)
            assert at[0] == batch["cls_positions"][row, n] and (np.diff(at) == 1).all()
            assert batch["position_ids"][row][at].tolist() == list(range(len(at)))
            mine = (places >= at[0]) & (places <= at[-1])
            masks = dict(zip((places[mine] - at[0]).tolist(), labels[mine].tolist(), strict=True))
            pair = [int(batch[name][row, n]) for name in LABELS if name in batch]
            yield ids[at].tolist(), batch["token_type_ids"][row][at].tolist(), masks, pair
        assert all((batch[name][row, number:] == -1).all() for name in LABELS if name in batch)


def alone(batch):
    """Returns what `sequences` returns, of an unpacked batch."""
    for row, ids in enumerate(batch["input_ids"]):
        at = np.flatnonzero(batch["attention_mask"][row])
        used = batch["masked_weights"][row] > 0
        places, labels = batch["masked_positions"][row][used], batch["masked_labels"][row][used]
        masks = dict(zip(places.tolist(), labels.tolist(), strict=True))
        pair = [int(batch[name][row]) for name in LABELS if name in batch]
        yield ids[at].tolist(), batch["token_type_ids"][row][at].tolist(), masks, pair


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_filled_within_their_limits(seed):
    rng = np.random.default_rng(seed)
    most = packing.Limits(int(rng.integers(1, 200)), int(rng.integers(1, 9)), int(rng.integers(1, 40)))
    for number in (0, 1, 2, 500):
        lengths = rng.integers(1, most.tokens + 1, number)
        masks = rng.integers(0, most.masks + 1, number)
        if seed == 1:
            lengths, masks = np.sort(lengths), np.zeros(number, int)  # nothing is masked
            most = packing.Limits(most.tokens, most.sequences)
        members, first = packing.fill(lengths, masks, most)
        assert sorted(members.tolist()) == list(range(number))
        rows = [members[a:b] for a, b in zip(first[:-1], first[1:], strict=True)]
        assert all(0 < len(row) <= most.sequences and (np.diff(row) > 0).all() for row in rows)
        assert all(lengths[row].sum() <= most.tokens and masks[row].sum() <= most.masks for row in rows)
        again = packing.fill(lengths.astype(np.int32), masks, most)
        assert again[0].tolist() == members.tolist() and again[1].tolist() == first.tolist()


def test_little_padding_is_left():
    lengths = np.clip(np.random.default_rng(0).exponential(100, 20_000).astype(int) + 3, 3, 512)
    masks = np.maximum(1, np.rint(0.15 * (lengths - 2))).astype(int)
    _, first = packing.fill(lengths, masks, packing.limits(512, 76))
    assert lengths.sum() / (512 * (len(first) - 1)) > 0.99


FORMATS = ("doc_sentences", ""), ("full_sentences", ""), ("segment_pair", "next_sentence"), \
    ("segment_pair", "sentence_order"), ("segment_pair", ""), ("sentence_pair", "next_sentence")  # fmt: skip


@pytest.mark.parametrize("unit", ["token", "whole_word", "span"])
@pytest.mark.parametrize(("format", "pairs"), FORMATS)
def test_each_instance_is_in_one_row_with_its_unpacked_masks(config, format, pairs, unit):
    config.data.update(format=format, mask_unit=unit, pair_repeats=2)
    config.objective.update({pairs: True} if pairs else {})
    one, rows = source_of(unpacked(config)), source_of(config)
    assert len(one.counts) == len(rows.counts) == (2 if "pair" in format else 1)
    every = [(repeat, member) for repeat, count in enumerate(one.counts) for member in range(count)]
    for cycle in (0, 3):
        repeat, index, mask_epoch = rows.places(cycle * rows.counts.sum() + np.arange(rows.counts.sum()))
        mixed = np.random.default_rng(0).permutation(len(repeat))  # a batch may hold rows of both repeats
        repeat, index, mask_epoch = repeat[mixed], index[mixed], mask_epoch[mixed]
        members, first = rows._members(repeat, index)
        repeats, epochs = (np.repeat(array, np.diff(first)) for array in (repeat, mask_epoch))
        assert sorted(zip(repeats.tolist(), members.tolist(), strict=True)) == every
        batch = rows.batch(repeat, index, mask_epoch)
        assert batch["input_ids"].shape == (rows.counts.sum(), LENGTH)
        assert list(sequences(batch)) == list(alone(one.batch(repeats, members, epochs)))
    assert batch["attention_mask"].mean() > (0.9 if format == "doc_sentences" else 0.8)
    (phase,) = config_lib.phases(config)
    shapes = lowering.batch_shapes(config, phase.data)
    assert {name: array.shape[1:] for name, array in batch.items() if name in shapes} == {
        name: shape[1:] for name, (shape, _) in shapes.items() if name in batch
    }
    assert not pairs or f"{pairs}_label" in shapes


def test_words_longer_than_the_share_have_slots(config):
    """Texts of one word each, which whole-word masking masks entirely, though the rate asks for fewer tokens."""
    config.data.update(mask_unit="whole_word", mask_rate=0.05)
    source = source_of(config)
    slots = source._masking.slots
    assert slots == 2 and source._row_limits.masks == 3
    assert source.counts[0] > 50  # few share a row
    every = np.arange(source.counts[0])
    batch = source.batch(0 * every, every, 0 * every)
    assert batch["masked_positions"].shape[1] == 3


@pytest.mark.parametrize("format", ["doc_sentences", "segment_pair"])
@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_hosts_share_the_rows(config, masking, format):
    config.data.update(masking=masking, dupe_factor=2, format=format, pair_repeats=2)
    config.objective.next_sentence = format == "segment_pair"
    for step in (0, 7, 99_999):
        whole = batch_at(config, step)
        assert whole["cls_positions"].shape == (8, LENGTH // 4)
        for hosts in (2, 4):
            parts = [batch_at(config, step, host, hosts) for host in range(hosts)]
            for name, array in whole.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
        again = loader.Stream(config).batch(step)  # as of a run that begins at this step
        assert again.keys() == whole.keys() and all((again[name] == whole[name]).all() for name in whole)


def test_static_masking_masks_each_pair_as_often_as_without_packing(config):
    """P3: of its dupe_factor masks each is seen, whatever pair_repeats is."""
    config.data.update(format="segment_pair", masking="static", dupe_factor=2, pair_repeats=2)
    config.objective.next_sentence = True
    seen = []
    for settings in (config, unpacked(config)):
        source = source_of(settings)
        rows = source.batch(*source.places(np.arange(4 * source.counts.sum())))
        reader = sequences if settings is config else alone
        seen.append(sorted((ids, sorted(masks.items()), pair) for ids, _, masks, pair in reader(rows)))
    assert seen[0] == seen[1]


def test_a_mixture_of_corpora_is_packed(config, small_corpus):
    config.data.corpus += f",{small_corpus}"
    batch = batch_at(config, 5)
    assert len(batch["input_ids"]) == 8 and list(sequences(batch))


def test_left_to_right_has_no_masks(config):
    config.objective.name, config.model.attention = "ltr", "causal"
    batch = batch_at(config, 0)
    assert "masked_positions" not in batch and batch["sequence_ids"].max() > 1


@pytest.mark.parametrize("format", ["doc_sentences", "segment_pair"])
def test_held_out_rows_are_those_of_a_run_without_packing(config, format):
    config.data.format, config.objective.next_sentence = format, format == "segment_pair"
    config.train.eval_batches = 2
    packed, plain = loader.eval_batches(config, 0), loader.eval_batches(unpacked(config), 0)
    assert len(packed) == len(plain) > 0
    for one, other in zip(packed, plain, strict=True):
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_packs_are_built_once_and_again_if_incomplete(config, monkeypatch):
    source = source_of(config)
    expected = batch_at(config, 3)
    folder = Corpus.open(config.data.corpus).path / "index"
    monkeypatch.setattr(packing, "build_packs", None)
    assert len(source_of(config)._packs[0]) == len(source._packs[0])
    monkeypatch.undo()
    files = sorted(folder.glob("*packs*.npy"))
    assert files and not [path for path in folder.iterdir() if path.name.startswith(".")]
    for path in files:
        path.write_bytes(path.read_bytes()[:-8])
        source_of(config)
    loader._cached_stream.cache_clear()
    again = batch_at(config, 3)
    assert all((again[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("format", ["doc_sentences", "segment_pair"])
def test_windows_are_packed_one_by_one(config, format, monkeypatch):
    config.data.format = format
    monkeypatch.setattr(packing, "_WINDOW", 64)
    monkeypatch.setattr(packing, "_INSTANCES_AT_ONCE", 7)
    config.data.update(mask_unit="span", mask_rate=0.2)
    source = source_of(config)
    members, first = source._packs[0].members_of(np.arange(source.counts[0]))
    assert sorted(members.tolist()) == list(range(len(members)))
    for begin, end in zip(first[:-1], first[1:], strict=True):
        assert len({member // 64 for member in members[begin:end].tolist()}) == 1


def test_packed_batches_are_described_and_shown(config):
    batch = batch_at(config, 1)
    names = describe_batch(config, 1)
    assert names[0].count("instance") == batch["sequence_ids"][0].max()
    shown = show_batch.show(batch, 0, Corpus.open(config.data.corpus).tokenizer).splitlines()
    assert f"{batch['sequence_ids'][0].max()} sequences" in shown[0]
    assert len(shown) == 1 + batch["sequence_ids"][0].max() and all("[CLS]" in line for line in shown[1:])


def test_packed_pairs_are_described_and_shown(config):
    config.data.format, config.objective.next_sentence = "segment_pair", True
    batch, names = batch_at(config, 1), describe_batch(config, 1)
    tokenizer = Corpus.open(config.data.corpus).tokenizer
    answers = set()
    for row in range(8):
        labels = batch["next_sentence_label"][row][: batch["sequence_ids"][row].max()].tolist()
        assert [int(part[0]) for part in names[row].split("is_random ")[1:]] == labels
        heading, *lines = show_batch.show(batch, row, tokenizer).splitlines()
        assert f"{len(labels)} sequences" in heading and len(lines) == len(labels)
        for number, (line, label) in enumerate(zip(lines, labels, strict=True), 1):
            answer = "B is another document's" if label else "B follows A"
            assert line.startswith(f"  {number}  {answer}:  [CLS]") and line.count("[SEP]") == 2
        answers.update(labels)
    assert answers == {0, 1}


def test_a_phase_may_pack(config):
    config.data.update(packing=False, phases=({"share": 0.5}, {"share": 0.5, "packing": True}))
    assert "sequence_ids" in batch_at(config, 60_000) and "sequence_ids" not in batch_at(config, 0)
