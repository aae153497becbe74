"""Packed rows hold what unpacked rows hold: the same instances with the same masks, each once an epoch."""

import random

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import show_batch
from bert_jax.data import batch_at, describe_batch, loader, packing
from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError

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
    """Returns (input ids, segments, {position: label}) of each sequence of a packed batch, row by row."""
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
            yield ids[at].tolist(), batch["token_type_ids"][row][at].tolist(), masks


def alone(batch):
    """Returns what `sequences` returns, of an unpacked batch."""
    for row, ids in enumerate(batch["input_ids"]):
        at = np.flatnonzero(batch["attention_mask"][row])
        used = batch["masked_weights"][row] > 0
        places, labels = batch["masked_positions"][row][used], batch["masked_labels"][row][used]
        masks = dict(zip(places.tolist(), labels.tolist(), strict=True))
        yield ids[at].tolist(), batch["token_type_ids"][row][at].tolist(), masks


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


@pytest.mark.parametrize("unit", ["token", "whole_word", "span"])
@pytest.mark.parametrize("format", ["doc_sentences", "full_sentences"])
def test_each_instance_is_in_one_row_with_its_unpacked_masks(config, format, unit):
    config.data.update(format=format, mask_unit=unit)
    one = source_of(unpacked(config))
    every = np.arange(one.counts[0])
    for epoch in (0, 3):
        epochs = np.full(len(every), epoch)
        expected = list(alone(one.batch(0 * every, every, epochs)))
        rows = source_of(config)
        place = epoch * rows.counts[0] + np.arange(rows.counts[0])
        repeat, index, mask_epoch = rows.places(place)
        members, _ = rows._packs.members_of(index)
        assert sorted(members.tolist()) == every.tolist()
        batch = rows.batch(repeat, index, mask_epoch)
        assert batch["input_ids"].shape == (rows.counts[0], LENGTH)
        assert list(sequences(batch)) == [expected[member] for member in members]
    assert batch["attention_mask"].mean() > (0.9 if format == "doc_sentences" else 0.8)


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


@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_hosts_share_the_rows(config, masking):
    config.data.update(masking=masking, dupe_factor=2)
    for step in (0, 7, 99_999):
        whole = batch_at(config, step)
        assert whole["cls_positions"].shape == (8, LENGTH // 4)
        for hosts in (2, 4):
            parts = [batch_at(config, step, host, hosts) for host in range(hosts)]
            for name, array in whole.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_a_mixture_of_corpora_is_packed(config, small_corpus):
    config.data.corpus += f",{small_corpus}"
    batch = batch_at(config, 5)
    assert len(batch["input_ids"]) == 8 and list(sequences(batch))


def test_left_to_right_has_no_masks(config):
    config.objective.name, config.model.attention = "ltr", "causal"
    batch = batch_at(config, 0)
    assert "masked_positions" not in batch and batch["sequence_ids"].max() > 1


def test_held_out_rows_are_those_of_a_run_without_packing(config):
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
    assert len(source_of(config)._packs) == len(source._packs)
    monkeypatch.undo()
    files = sorted(folder.glob("*packs*.npy"))
    assert files and not [path for path in folder.iterdir() if path.name.startswith(".")]
    for path in files:
        path.write_bytes(path.read_bytes()[:-8])
        source_of(config)
    loader._cached_stream.cache_clear()
    again = batch_at(config, 3)
    assert all((again[name] == expected[name]).all() for name in expected)


def test_windows_are_packed_one_by_one(config, monkeypatch):
    monkeypatch.setattr(packing, "_WINDOW", 64)
    monkeypatch.setattr(packing, "_INSTANCES_AT_ONCE", 7)
    config.data.update(mask_unit="span", mask_rate=0.2)
    source = source_of(config)
    members, first = source._packs.members_of(np.arange(source.counts[0]))
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


def test_pair_formats_are_refused(config):
    config.data.format = "segment_pair"
    for next_sentence in (True, False):
        config.objective.next_sentence = next_sentence
        with pytest.raises(UserError, match=r"config\.data\.packing: True .*segment_pair.*expected format=") as error:
            config_lib.validate(config)
        assert "\n" not in str(error.value)
    config.data.update(format="full_sentences", packing=False, phases=({"share": 0.5}, {"share": 0.5, "packing": True}))
    config.objective.next_sentence = False
    config_lib.validate(config)
    assert "sequence_ids" in batch_at(config, 60_000) and "sequence_ids" not in batch_at(config, 0)
