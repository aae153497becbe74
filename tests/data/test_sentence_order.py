"""Pairs of sentence order: the index against the procedure written out, and what batches of them promise."""

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import show_batch
from bert_jax.data import batch_at, describe_batch, hashing, instances, loader
from bert_jax.data.corpus import Corpus
from bert_jax.data.instances import Recipe
from bert_jax.errors import UserError
from bert_jax.planning import compilation
from tests.data.test_instances import layout_of, tokens, truncate
from tests.data.test_loader import same, unmasked

PAIRS = ["segment_pair", "sentence_pair"]


def reference(documents, recipe):
    """documents: a list of lists of (start, length). Yields (a tokens, b tokens, is_swapped), tokens by offset."""
    room = recipe.sequence_length - 3
    for d, document in enumerate(documents):
        key = hashing.draw(hashing.fold("ordered pairs", recipe.seed, recipe.repeat), np.uint64(d))
        target = room
        if hashing.uniform(hashing.draw(key, np.uint64(1))) < recipe.short_target_share:
            target = 2 + int(hashing.below(hashing.draw(key, np.uint64(2)), room - 1))
        at = step = 0
        while at < len(document) and len(document) > 1:
            at = min(at, len(document) - 2)  # a last sentence that is left alone takes the one before it
            stop = at + 2
            if recipe.format == "segment_pair":
                while stop < len(document) and sum(length for _, length in document[at:stop]) < target:
                    stop += 1
            draws = [hashing.draw(key, np.uint64((1 << 20) + 8 * step + i)) for i in range(4)]
            cut = at + 1 + int(hashing.below(draws[0], stop - at - 1))
            a, b = tokens(document[at:cut]), tokens(document[cut:stop])
            swapped = hashing.uniform(draws[1]) < 0.5
            if swapped:
                a, b = b, a
            a, b = truncate(a, b, room, draws[2], draws[3])
            yield a, b, swapped
            at, step = stop, step + 1


@pytest.mark.parametrize("length", [16, 64])
@pytest.mark.parametrize("format", PAIRS)
def test_pairs_are_the_procedure(small_corpus, format, length):
    split = Corpus.open(small_corpus).split("train")
    for repeat in (0, 3):
        recipe = Recipe(format, length, seed=7, repeat=repeat, sentence_order=True)
        built = instances.build(split, recipe)
        expected = list(reference(layout_of(split), recipe))
        assert len(built) == len(expected) > 100
        for instance, (a, b, swapped) in zip(built, expected, strict=True):
            assert list(range(instance["a_start"], instance["a_start"] + instance["a_length"])) == a
            assert list(range(instance["b_start"], instance["b_start"] + instance["b_length"])) == b
            assert instance["is_swapped"] == swapped
            assert a and b and len(a) + len(b) <= length - 3
    documents = np.array_split(np.arange(split.num_documents + 1), 3)
    parts = [instances.build(split, recipe, int(d[0]), int(d[-1]) + 1) for d in documents[:-1]]
    parts.append(instances.build(split, recipe, int(documents[-1][0]), split.num_documents))
    assert np.concatenate(parts).tobytes() == built.tobytes(), "blocks change the pairs"


def test_half_of_the_pairs_are_swapped_and_all_are_of_one_document(small_corpus):
    split = Corpus.open(small_corpus).split("train")
    recipes = [Recipe("segment_pair", 64, repeat=repeat, sentence_order=True) for repeat in range(20)]
    built = np.concatenate([instances.build(split, recipe) for recipe in recipes])
    starts = np.asarray(split.sentences)[np.asarray(split.documents)]
    first, second = (np.searchsorted(starts, built[name], "right") for name in ("a_start", "b_start"))
    assert (first == second).all()
    swapped = built["is_swapped"] == 1
    assert abs(swapped.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(built))
    np.testing.assert_array_equal(built["b_start"] < built["a_start"], swapped)
    # What was not cut follows directly.
    uncut = built["a_length"] + built["b_length"] < 61
    gap = np.where(
        swapped,
        built["a_start"] - built["b_start"] - built["b_length"],
        built["b_start"] - built["a_start"] - built["a_length"],
    )
    assert not gap[uncut].any() and (gap >= 0).all() and uncut.sum() > 1000


@pytest.fixture
def config(small_corpus):
    config = config_lib.base()
    config.objective.update(next_sentence=False, sentence_order=True)
    config.data.update(corpus=str(small_corpus), sequence_length=48, batch_size=16, pair_repeats=2)
    config.train.num_steps = 100_000
    return config


@pytest.mark.parametrize("format", PAIRS)
def test_batches(config, format):
    config.data.format = format
    for step in (0, 7, 12_345):
        whole = batch_at(config, step)
        parts = [batch_at(config, step, host, 4) for host in range(4)]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})
        same(whole, loader.Stream(config).batch(step))
    assert whole["sentence_order_label"].dtype == np.int32 and "next_sentence_label" not in whole
    assert set(whole["sentence_order_label"].tolist()) == {0, 1} and whole["token_type_ids"].max() == 1
    (phase,) = config_lib.phases(config)
    shapes = compilation.batch_shapes(config, phase.data)
    assert shapes == {name: (array.shape, array.dtype) for name, array in whole.items()}
    tokenizer = Corpus.open(config.data.corpus).tokenizer
    for row, (label, name) in enumerate(zip(whole["sentence_order_label"], describe_batch(config, step), strict=True)):
        assert f"is_swapped {label}" in name
        assert ("A follows B (swapped)" if label else "B follows A") in show_batch.show(whole, row, tokenizer)


def test_arms_of_an_ablation_have_the_same_pairs(config):
    found = {}
    for masking in ("static", "dynamic"):
        config.data.masking = masking
        batches = [batch_at(config, step) for step in range(60)]
        found[masking] = [unmasked(batch).tobytes() + batch["sentence_order_label"].tobytes() for batch in batches]
    assert found["static"] == found["dynamic"]


def test_rows_that_fill_an_evaluation_up_have_no_label(config):
    config.train.update(eval_batch_size=8, eval_batches=1000)
    batches = loader.eval_batches(config, 0)
    labels = np.concatenate([batch["sentence_order_label"] for batch in batches])
    stream = loader.Stream(config)
    assert (labels >= 0).sum() == stream.sources(stream.phases[0], "eval")[0].counts[0]
    fillers = batches[-1]["sentence_order_label"] < 0
    assert fillers.any() and not batches[-1]["masked_weights"][fillers].any()


def test_the_cached_index_is_not_that_of_next_sentences(config):
    ordered = batch_at(config, 0)
    config.objective.update(next_sentence=True, sentence_order=False)
    random = batch_at(config, 0)
    assert "next_sentence_label" in random and (random["input_ids"] != ordered["input_ids"]).any()
    config.objective.update(next_sentence=False, sentence_order=True)
    same(loader.Stream(config).batch(0), ordered)
    keys = {Recipe("segment_pair", 48, sentence_order=order).key() for order in (False, True)}
    assert len(keys) == 2 and (1, "segment_pair", 48, 0, 0, 0.1) in keys  # indexes made before are still found


def test_a_single_document_is_enough_but_not_single_sentences(make_corpus, config):
    config.data.update(corpus=str(make_corpus("one . \n and two . \n and three . \n", name="one")), batch_size=2)
    batch = batch_at(config, 0)
    assert batch["input_ids"].shape == (2, 48)
    config.data.corpus = str(make_corpus("one . \n\n two . \n\n three . \n\n four . \n", name="lines"))
    with pytest.raises(UserError, match="no segment_pair instance in the train split; expected documents of two"):
        batch_at(config, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.next_sentence": True}, "config.objective.sentence_order: True with config.objective.next_senten"),
        ({"model.pooler": False}, "config.model.pooler: False, but config.objective.sentence_order reads"),
        ({"model.type_vocab_size": 1}, "config.model.type_vocab_size: 1; config.objective.sentence_order needs 2"),
        ({"data.format": "full_sentences"}, "has no sentence pairs, but config.objective.sentence_order=True"),
        ({"model.attention": "causal", "objective.name": "ltr"}, "config.objective.sentence_order: True with causal"),
    ],
)
def test_what_it_does_not_go_with(config, changes, message):
    for key, value in changes.items():
        group, name = key.split(".")
        config[group][name] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)
