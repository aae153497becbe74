"""Batches as functions of the step: layout, hosts, epochs, phases, mixtures (promises P1 and P3)."""

import collections
import dataclasses
import json
import multiprocessing
import signal
import subprocess
import sys

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import show_batch
from bert_jax.data import batch_at, describe_batch, loader
from bert_jax.data.corpus import Corpus
from bert_jax.data.instances import Recipe
from bert_jax.errors import UserError
from bert_jax.planning import compilation
from tests.commands import LONGEST_WAIT

FORMATS = ["segment_pair", "sentence_pair", "full_sentences", "doc_sentences"]


def formatted(config, format):
    config.data.format = format
    config.objective.next_sentence = format in config_lib.PAIR_FORMATS
    return config


def unmasked(batch):
    """Returns the rows as they were before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_weights"])
    ids[rows, batch["masked_positions"][rows, slots]] = batch["masked_labels"][rows, slots]
    return ids


def steps_of_an_epoch(config, epochs=1):
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    assert source.counts.sum() > config.data.batch_size
    return int(source.counts.sum()) * epochs, stream


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("unit", ["token", "whole_word", "span", "ngram"])
@pytest.mark.parametrize("format", FORMATS)
def test_layout_of_every_row(config, format, unit):
    formatted(config, format).data.mask_unit = unit
    corpus = Corpus.open(config.data.corpus)
    tokenizer, split = corpus.tokenizer, corpus.split("train")
    text = np.concatenate([shard.tokens for shard in split.shards])
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    for step in range(20):
        batch = batch_at(config, step)
        ids = unmasked(batch)
        ((_, _, (repeat, index, _)),) = stream._rows(stream.phases[0], step, 0, 1)
        for row in range(16):
            record = source._indexes[repeat[row]][index[row]]
            if format in config_lib.PAIR_FORMATS:
                a = text[record["a_start"] : record["a_start"] + record["a_length"]].tolist()
                b = text[record["b_start"] : record["b_start"] + record["b_length"]].tolist()
                pieces = [a, b]
                assert batch["next_sentence_label"][row] == record["is_random"]
                types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
            else:
                starts = np.asarray(split.sentences)[np.asarray(split.documents)]
                cuts = [c for c in starts.tolist() if record["start"] < c < record["stop"]]
                bounds = [record["start"], *cuts, record["stop"]]
                pieces = [text[i:j].tolist() for i, j in zip(bounds, bounds[1:], strict=False)]
                types = [0] * (1 + sum(len(piece) + 1 for piece in pieces))
                assert "next_sentence_label" not in batch
            expected = [tokenizer.cls_id]
            for piece in pieces:
                expected += [*piece, tokenizer.sep_id]
            padding = 48 - len(expected)
            assert padding >= 0
            assert ids[row].tolist() == expected + [tokenizer.pad_id] * padding
            assert batch["attention_mask"][row].tolist() == [1] * len(expected) + [0] * padding
            assert batch["token_type_ids"][row].tolist() == types + [0] * padding
            predicted = ids[row][batch["masked_positions"][row][batch["masked_weights"][row] > 0]]
            assert not set(predicted.tolist()) & set(tokenizer.special_ids)
            assert len(predicted) >= 1


def test_whole_words_of_the_corpus_are_masked_whole(config):
    config.data.mask_unit = "whole_word"
    tokenizer = Corpus.open(config.data.corpus).tokenizer
    seen = partly = 0
    for step in range(10):
        batch = batch_at(config, step)
        ids = unmasked(batch)
        chosen = np.zeros(ids.shape, bool)
        rows, slots = np.nonzero(batch["masked_weights"])
        chosen[rows, batch["masked_positions"][rows, slots]] = True
        for row in range(len(ids)):
            words = []
            for column in range(1, 48):
                token = tokenizer.token(int(ids[row, column]))
                if not token.startswith("##") or tokenizer.token(int(ids[row, column - 1])) in ("[CLS]", "[SEP]"):
                    words.append([])
                words[-1].append(bool(chosen[row, column]))
            for word in words:
                if 1 < len(word) <= chosen[row].sum() / 2:  # a longer one may be masked in part
                    seen += any(word)
                    partly += len(set(word)) > 1  # where words of one token are too few to make up the number
    assert seen > 50 and partly < 0.1 * seen


@pytest.mark.parametrize("num_hosts", [2, 4, 8])
@pytest.mark.parametrize("format", FORMATS)
def test_hosts_make_slices_of_one_global_batch(config, format, num_hosts):
    formatted(config, format)
    for step in (0, 7, 12_345):
        whole = batch_at(config, step)
        parts = [batch_at(config, step, host, num_hosts) for host in range(num_hosts)]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_batches_do_not_depend_on_what_was_made_before(config):
    fresh = {step: loader.Stream(config).batch(step) for step in (3, 500, 99_999)}
    stream = loader.Stream(config)
    for step in (99_999, 3, 500, 3):
        same(stream.batch(step), fresh[step])


def test_an_epoch_shows_every_instance_once_in_a_new_order(config):
    total, stream = steps_of_an_epoch(config)
    (source,) = stream.sources(stream.phases[0])
    orders = [source.places(np.arange(total) + epoch * total)[1] for epoch in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(total))
    assert (orders[0] != orders[1]).mean() > 0.9 and (orders[1] != orders[2]).mean() > 0.9


@pytest.mark.parametrize("repeats", [1, 3])
def test_static_masking_has_dupe_factor_masks_and_dynamic_a_fresh_one_each_time(config, repeats):
    config.data.pair_repeats = repeats
    config.data.dupe_factor = 2
    config.data.batch_size = 8
    cycle, _ = steps_of_an_epoch(config)
    cycles = 6
    masks = {}
    rows = {}
    for masking in ("static", "dynamic"):
        config.data.masking = masking
        masks[masking] = collections.defaultdict(list)
        rows[masking] = []
        for step in range(cycle * cycles // 8):
            batch = batch_at(config, step)
            ids = unmasked(batch)
            rows[masking].append(ids.tobytes() + batch["next_sentence_label"].tobytes())
            for row, name in enumerate(describe_batch(config, step)):
                instance = name.split(": ")[1].split(", mask epoch")[0]
                shown = batch["input_ids"][row].tobytes() + batch["masked_labels"][row].tobytes()
                masks[masking][instance].append(shown)
    assert rows["static"] == rows["dynamic"], "the pairs differ between the arms"
    seen = [len(shown) for shown in masks["static"].values()]
    assert min(seen) >= cycles - 1
    # A short row has few masks to choose from, so two drawings may agree by chance.
    static = [len(set(shown)) for shown in masks["static"].values()]
    assert max(static) == 2 and np.mean(static) > 1.95
    dynamic = [len(set(shown)) / len(shown) for shown in masks["dynamic"].values()]
    assert np.mean(dynamic) > 0.95


def test_static_masks_come_back_exactly(config):
    config.data.masking = "static"
    config.data.dupe_factor = 3
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    total = int(source.counts.sum())
    place = np.arange(total)
    epochs = []
    for epoch in range(6):
        repeat, index, mask_epoch = source.places(place + epoch * total)
        order = np.argsort(index)
        epochs.append(source.batch(repeat[order], index[order], mask_epoch[order])["input_ids"])
    for epoch in range(3):
        np.testing.assert_array_equal(epochs[epoch], epochs[epoch + 3])
        assert (epochs[epoch] != epochs[(epoch + 1) % 3]).any(1).mean() > 0.95


def test_the_seed_changes_order_pairs_and_masks(config):
    one = batch_at(config, 0)
    config.seed = 1
    assert (unmasked(one) != unmasked(batch_at(config, 0))).any(1).mean() > 0.9


def test_phases_have_their_own_shapes_and_bounds(config):
    config.train.num_steps = 100
    config.data.phases = (
        {"share": 0.9, "sequence_length": 24, "batch_size": 32, "mask_rate": 0.3},
        {"share": 0.1},
    )
    first, last = batch_at(config, 89), batch_at(config, 90)
    assert first["input_ids"].shape == (32, 24) and last["input_ids"].shape == (16, 48)
    assert first["masked_positions"].shape == (32, 6) and last["masked_positions"].shape == (16, 7)
    assert [step for step, _ in loader.Loader(config, 88)] == list(range(88, 100))
    config.data.phases = ({"share": 0.5, "sequence_length": 480}, {"share": 0.5})
    assert batch_at(config, 0)["input_ids"].shape == (16, 48), "no phase is longer than data.sequence_length"
    config.data.phases = ({"share": 0.5, "sequence_lenght": 24}, {"share": 0.5})
    with pytest.raises(UserError, match=r"phases\[0\].sequence_lenght.*did you mean sequence_length"):
        batch_at(config, 0)


def _after_unpickling(job):
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_worker_processes_ignore_ctrl_c(config):
    """Ctrl-C reaches the workers too: one that handled it would end with a traceback before the last batch."""
    job, before = loader._Job(loader._as_json(config), 0, 1), signal.getsignal(signal.SIGINT)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_after_unpickling, (job,))
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_of_batch_at(config, workers):
    config.train.num_steps = 40
    config.data.workers = workers
    got = list(loader.Loader(config, start_step=33, host=1, num_hosts=2))
    assert [step for step, _ in got] == list(range(33, 40))
    for step, batch in got:
        same(batch, batch_at(config, step, 1, 2))


@pytest.mark.more
def test_workers_leave_no_shared_memory_behind(config):
    """Python warns of leaked shared memory when it ends, in two lines below the last one of a run."""
    config.train.num_steps, config.data.workers = 5, 2
    program = (
        "import json, pathlib, re, time, ml_collections\n"
        "from multiprocessing import resource_tracker\n"
        "from bert_jax.data import loader\n"
        "released, unregister = set(), resource_tracker.unregister\n"
        "def release(name, kind):\n"
        "    unregister(name, kind), released.add(name)\n"
        "resource_tracker.unregister = release\n"
        f"config = ml_collections.ConfigDict(json.loads({json.dumps(config.to_dict())!r}))\n"
        "names, steps = set(), []\n"
        "for step, _ in loader.Loader(config):\n"
        "    names.update(re.findall('/dev/shm(/psm_\\\\w+)', pathlib.Path('/proc/self/maps').read_text()))\n"
        "    steps.append(step)\n"
        "while not names <= released:\n"  # grain lets go in a thread
        "    time.sleep(0.01)\n"
        "print(*steps, len(names) > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LONGEST_WAIT, check=True
    )
    assert done.stdout == "0 1 2 3 4 True\n" and done.stderr == ""


def test_ltr_batches_are_the_text_itself(config):
    formatted(config, "full_sentences")
    config.objective.name = "ltr"
    config.model.attention = "causal"
    batch = batch_at(config, 0)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert Corpus.open(config.data.corpus).tokenizer.mask_id not in batch["input_ids"]


@pytest.mark.parametrize("masking", ["token", "whole_word"])
@pytest.mark.parametrize("packing", [False, True])
def test_a_tokenizer_whose_separator_is_its_padding(config, masking, packing):
    """attention_mask, not the token, distinguishes text from padding: EuroBERT pads with its end of text."""
    formatted(config, "doc_sentences").data.update(mask_unit=masking, packing=packing)
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    usual = stream.batch(3)
    source._layout = dataclasses.replace(source._layout, pad_id=source._layout.sep_id)
    padding = usual["attention_mask"] == 0
    assert padding.any() and (usual["input_ids"][padding] != source._layout.sep_id).all()
    usual["input_ids"][padding] = source._layout.sep_id
    same(stream.batch(3), usual)


@pytest.mark.parametrize("types", [0, 1])
def test_a_model_without_segments_gets_none(config, types):
    config.objective.next_sentence = False
    config.model.type_vocab_size = types
    assert not batch_at(config, 0)["token_type_ids"].any()


def test_a_teacher_gets_the_segments_that_its_student_lacks(config):
    config.objective.next_sentence = False
    expected = batch_at(config, 0)["token_type_ids"]
    config.model.type_vocab_size = 0
    config.objective.name, config.distillation.teacher = "distillation", "a model"
    assert expected.any()
    np.testing.assert_array_equal(batch_at(config, 0)["token_type_ids"], expected)


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_held_out_batches_are_fixed_and_count_every_row_once(config, num_hosts):
    config.train.eval_batch_size = 8
    config.train.eval_batches = 1000
    corpus = Corpus.open(config.data.corpus)
    hosts = [loader.eval_batches(config, 0, host, num_hosts) for host in range(num_hosts)]
    batches = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]
    for one, two in zip(batches, loader.eval_batches(config, 99_000), strict=True):
        same(one, two)
    counted = sum((batch["next_sentence_label"] >= 0).sum() for batch in batches)
    stream = loader.Stream(config)
    assert counted == stream.sources(stream.phases[0], "eval")[0].counts[0]
    fillers = batches[-1]["next_sentence_label"] < 0
    assert not batches[-1]["masked_weights"][fillers].any()
    assert (batches[-1]["attention_mask"][fillers].sum(1) == 1).all()
    assert corpus.split("eval").num_documents > 0
    config.train.eval_batches = 2
    assert len(loader.eval_batches(config, 0)) == 2


def test_evaluations_may_have_masks_of_their_own(config):
    config.train.update(eval_batch_size=8, eval_batches=4)
    trained, plain = batch_at(config, 3), loader.eval_batches(config, 0)
    config.train.eval_mask_rate = 2 * config.data.mask_rate
    same(batch_at(config, 3), trained)
    counts = [sum(batch["masked_weights"].sum() for batch in made) for made in (plain, loader.eval_batches(config, 0))]
    assert counts[1] == pytest.approx(2 * counts[0], rel=0.1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.corpus", "", "config.data.corpus: empty"),
        ("data.corpus", "nowhere", "nowhere: no such corpus"),
        ("data.weights", (1.0, 2.0), "expected 1 numbers"),
        ("model.vocab_size", 30522, "config.model.vocab_size: 30522, but the corpus .* has a vocabulary of"),
        ("data.sequence_length", 513, "513 is over config.model.max_positions=512"),
        ("data.format", "full_sentences", "has no sentence pairs"),
        ("data.mask_rate", 1.5, "config.data.mask_rate: found 1.5"),
    ],
)
def test_mistakes(config, key, value, message):
    group, name = key.split(".")
    config[group][name] = value
    with pytest.raises(UserError, match=message):
        batch_at(config, 0)


def test_a_batch_that_hosts_do_not_divide(config):
    with pytest.raises(UserError, match="config.data.batch_size: 16 is not divisible by 3 hosts"):
        batch_at(config, 0, 0, 3)
    with pytest.raises(UserError, match="step: found -1"):
        batch_at(config, -1)


@pytest.fixture
def ordered_config(config):
    """Returns a config of pairs whose order may be swapped, instead of pairs with random second segments."""
    config.objective.update(next_sentence=False, sentence_order=True)
    config.data.update(pair_repeats=2)
    return config


@pytest.mark.parametrize("format", ["segment_pair", "sentence_pair"])
def test_batches_of_ordered_pairs(ordered_config, format):
    ordered_config.data.format = format
    for step in (0, 7, 12_345):
        whole = batch_at(ordered_config, step)
        parts = [batch_at(ordered_config, step, host, 4) for host in range(4)]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})
        same(whole, loader.Stream(ordered_config).batch(step))
    assert whole["sentence_order_label"].dtype == np.int32 and "next_sentence_label" not in whole
    assert set(whole["sentence_order_label"].tolist()) == {0, 1} and whole["token_type_ids"].max() == 1
    (phase,) = config_lib.phases(ordered_config)
    shapes = compilation.batch_shapes(ordered_config, phase.data)
    assert shapes == {name: (array.shape, array.dtype) for name, array in whole.items()}
    tokenizer = Corpus.open(ordered_config.data.corpus).tokenizer
    names = describe_batch(ordered_config, step)
    for row, (label, name) in enumerate(zip(whole["sentence_order_label"], names, strict=True)):
        assert f"is_swapped {label}" in name
        assert ("A follows B (swapped)" if label else "B follows A") in show_batch.show(whole, row, tokenizer)


def test_static_and_dynamic_masking_have_the_same_ordered_pairs(ordered_config):
    rows = {}
    for masking in ("static", "dynamic"):
        ordered_config.data.masking = masking
        batches = [batch_at(ordered_config, step) for step in range(60)]
        rows[masking] = [unmasked(batch).tobytes() + batch["sentence_order_label"].tobytes() for batch in batches]
    assert rows["static"] == rows["dynamic"]


def test_filler_rows_of_an_evaluation_have_no_order_label(ordered_config):
    ordered_config.train.update(eval_batch_size=8, eval_batches=1000)
    batches = loader.eval_batches(ordered_config, 0)
    labels = np.concatenate([batch["sentence_order_label"] for batch in batches])
    stream = loader.Stream(ordered_config)
    assert (labels >= 0).sum() == stream.sources(stream.phases[0], "eval")[0].counts[0]
    fillers = batches[-1]["sentence_order_label"] < 0
    assert fillers.any() and not batches[-1]["masked_weights"][fillers].any()


def test_the_index_of_ordered_pairs_is_not_that_of_next_sentences(ordered_config):
    ordered = batch_at(ordered_config, 0)
    ordered_config.objective.update(next_sentence=True, sentence_order=False)
    random = batch_at(ordered_config, 0)
    assert "next_sentence_label" in random and (random["input_ids"] != ordered["input_ids"]).any()
    ordered_config.objective.update(next_sentence=False, sentence_order=True)
    same(loader.Stream(ordered_config).batch(0), ordered)
    keys = {Recipe("segment_pair", 48, sentence_order=order).key() for order in (False, True)}
    assert len(keys) == 2 and (1, "segment_pair", 48, 0, 0, 0.1) in keys  # indexes made before are still found


def test_ordered_pairs_need_two_sentences_in_a_document(make_corpus, ordered_config):
    corpus = make_corpus("one . \n and two . \n and three . \n", name="one")
    ordered_config.data.update(corpus=str(corpus), batch_size=2)
    batch = batch_at(ordered_config, 0)
    assert batch["input_ids"].shape == (2, 48)
    ordered_config.data.corpus = str(make_corpus("one . \n\n two . \n\n three . \n\n four . \n", name="lines"))
    with pytest.raises(UserError, match="no segment_pair instance in the train split; expected documents of two"):
        batch_at(ordered_config, 0)
