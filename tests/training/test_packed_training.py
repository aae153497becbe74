"""Packed rows teach what unpacked rows teach: losses, gradients, whole runs, and what the log says of padding."""

import functools
import json

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.objective import heads
from bert_jax.data import batch_at, mixture, packing, stream, tasks
from bert_jax.data.tasks import batches
from bert_jax.finetuning import losses
from bert_jax.finetuning import run as finetuning
from bert_jax.model import Task
from bert_jax.objectives.language_modeling import LanguageModeling
from bert_jax.runs.models import open_model
from bert_jax.training import pretraining, throughput
from bert_jax.training import step as step_lib
from tests.training.conftest import WORDS

PAD, CLS, SEP, VOCAB = 1, 0, 2, 40  # RoBERTa's ids: the padding is the one before its first position
WIDTH = 24
# Texts of [CLS] alone, of a full row, of odd lengths, and more than one row holds; one has a padding token within.
LENGTHS = np.array([1, WIDTH, 3, 5, 2, 7, WIDTH - 1, 1, 4, 11, 6, 9])
HOLDS_PADDING = 9
MEMBERS, FIRST = packing.fill(LENGTHS, np.zeros(len(LENGTHS)), packing.limits(WIDTH))


def config_of(offset=0, **changes):
    config = config_lib.base().model
    config.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_positions=WIDTH)
    config.update(hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.5, dtype="float32")
    config.update(position_offset=offset, **changes)
    return config


def texts(seed=0):
    """An unpacked batch of LENGTHS."""
    random = np.random.default_rng(seed)
    inside = np.arange(WIDTH) < LENGTHS[:, None]
    ids = random.integers(3, VOCAB, inside.shape)
    ids[:, 0] = CLS
    ids[HOLDS_PADDING, 4] = PAD
    return {
        "input_ids": np.where(inside, ids, PAD).astype(np.int32),
        "attention_mask": inside.astype(np.int32),
        "token_type_ids": (inside & (random.random(inside.shape) < 0.3)).astype(np.int32),
    }


def packed(batch, filler_rows=1, masks=0):
    """The same texts in packed rows, and some rows more."""
    shuffled = {name: array[MEMBERS] for name, array in batch.items()}
    return packing.pack(shuffled, FIRST, len(FIRST) - 1 + filler_rows, packing.limits(WIDTH, masks), PAD, CLS)


def same(one, two, message="", atol=1e-5):
    """To rounding: relative to a leaf's largest number or, where all of a leaf's are rounding, to the tree's."""
    one, two = jax.device_get((one, two))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(two))
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        # 1e-5 of a fiftieth of the largest is two units of float32's last place beside it, the least that can be asked.
        scale = max(np.abs(right).max(), 0.02 * largest, 1e-6)
        np.testing.assert_allclose(left / scale, right / scale, atol=atol, rtol=0, err_msg=f"{message} {path}")


CASES = [
    ("sequence_classification", "pooler", "single_label"),
    ("sequence_classification", "dense", "multi_label"),
    ("sequence_classification", "attention", "regression"),
    ("token_classification", "", ""),
    ("token_classification", "crf", ""),
    ("question_answering", "", ""),
]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("name", "pooling", "problem"), CASES)
def test_a_task_learns_the_same(name, pooling, problem):
    random = np.random.default_rng(1)
    number = {"regression": 1, "": 2}.get(problem, 3) if name != "token_classification" else 4
    task = Task(name, number, pooling, dropout=0.0, crf=pooling == "crf")
    model = model_lib.build(
        config_of(2 * (pooling != "attention"), pooler=pooling == "pooler"), VOCAB, next_sentence=False,
        language_model=False, task=task,
    )  # fmt: skip
    params = jax.jit(model.init)(jax.random.key(0))
    params["task"] = jax.tree.map(lambda leaf: leaf + 0.3, params["task"])  # transitions are zero at first
    batch = texts() | {"weights": np.ones(len(LENGTHS), np.float32)}
    batch["weights"][3] = 0
    if name == "question_answering":
        for place in ("start_positions", "end_positions"):
            batch[place] = random.integers(0, LENGTHS).astype(np.int32)
    elif name == "token_classification":
        some = (batch["attention_mask"] > 0) & (random.random(batch["input_ids"].shape) < 0.5)
        some[3] = False
        batch["first_subwords"] = some.astype(np.int32)
        batch["labels"] = np.where(some, random.integers(0, number, some.shape), -100).astype(np.int32)
    else:
        kinds = {"single_label": random.integers(0, 3, len(LENGTHS)).astype(np.int32),
                 "multi_label": random.integers(0, 2, (len(LENGTHS), 3)).astype(np.float32),
                 "regression": random.standard_normal(len(LENGTHS)).astype(np.float32)}  # fmt: skip
        batch["labels"] = kinds[problem]

    @jax.jit
    def learned(batch):
        count = losses.loss_denominator(batch, model, problem)
        loss_of = functools.partial(losses.loss_sum, model, batch=batch, problem=problem)
        loss, gradient = jax.value_and_grad(loss_of)(params)
        return loss, count, gradient, losses.task_outputs(model, params, batch)[0]

    loss, count, gradient, outputs = learned(batch)
    rows = packed(batch)
    loss_of_rows, count_of_rows, gradient_of_rows, outputs_of_rows = learned(rows)
    assert float(count_of_rows) == float(count) > 0
    same((loss_of_rows, gradient_of_rows), (loss, gradient), f"{name} {pooling}")
    places = packing.Places.from_lengths(LENGTHS[MEMBERS], FIRST)
    for row, place, text in zip(places.row, places.number, MEMBERS, strict=True):
        begin, length = rows["cls_positions"][row, place], LENGTHS[text]
        if name == "sequence_classification":
            same(outputs_of_rows[row, place], outputs[text])
        else:
            same(outputs_of_rows[row, begin : begin + length], outputs[text, :length])


@pytest.mark.parametrize(("name", "offset"), [("mlm", 2), ("ltr", 0)])
def test_pretraining_learns_the_same(name, offset):
    causal = "causal" if name == "ltr" else "bidirectional"
    model = model_lib.build(config_of(offset, attention=causal), VOCAB, next_sentence=False)
    params = jax.jit(model.init)(jax.random.key(0))
    objective = LanguageModeling(model, {"name": name})
    batch = texts()
    if name == "mlm":
        random = np.random.default_rng(2)
        used = np.arange(4) < np.minimum(LENGTHS - 1, 4)[:, None]
        places = random.random((len(LENGTHS), WIDTH)).argsort(1)[:, :4] % LENGTHS[:, None]
        batch["masked_positions"] = np.where(used, places, 0).astype(np.int32)
        batch["masked_labels"] = np.where(used, random.integers(3, VOCAB, used.shape), 0).astype(np.int32)
        batch["masked_weights"] = used.astype(np.float32)

    @jax.jit
    def learned(batch):
        counts = objective.counts(batch)
        loss, gradient = jax.value_and_grad(lambda params: objective.sums(params, batch)["mlm_loss"])(params)
        return loss, gradient, counts

    expected, actual = learned(batch), learned(packed(batch, masks=30))
    assert float(actual[2]["mlm_count"]) == float(expected[2]["mlm_count"]) > 0
    same(actual[:2], expected[:2], name)


PAIRS = [("segment_pair", "next_sentence"), ("sentence_pair", "next_sentence"), ("segment_pair", "sentence_order")]


def pair_batches(config, pairs):
    """Returns 8 packed rows of the loader, and the batch of the same pairs without packing."""
    config.data.update(packing=True, pair_repeats=2, short_target_share=1.0, sequence_length=64)
    config.model.max_positions = 64
    config.objective.update({"next_sentence": False, pairs: True})
    phase = config_lib.phases(config)[0]
    (corpus,) = mixture.open_corpora(config)
    source, plain = (stream.Source(config, phase, corpus, "train", packed) for packed in (True, False))
    repeat, index, epoch = source.places(source.counts[0] - 4 + np.arange(8))  # rows of both repeats
    members, first = source._members(repeat, index)
    repeats, epochs = (np.repeat(array, np.diff(first)) for array in (repeat, epoch))
    return source.batch(repeat, index, epoch), plain.batch(repeats, members, epochs)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("format", "pairs"), PAIRS)
def test_pairs_teach_the_same(config, format, pairs):
    """P6: loss and gradients of packed pairs are those of unpacked ones, of next sentences and their order too."""
    config.data.format = format
    config.model.update(num_layers=2, initializer_range=0.3, dtype="float32")
    rows, plain = pair_batches(config, pairs)
    assert len(plain["input_ids"]) > len(rows["input_ids"]) == 8 and rows["token_type_ids"].max() == 1
    config.model.vocab_size = 64
    model = model_lib.build(config.model, 64, **heads(config.objective))
    params = jax.jit(model.init)(jax.random.key(0))
    objective = LanguageModeling(model, config.objective)

    @jax.jit
    def learned(batch):
        counts = objective.counts(batch)

        def loss(params):
            sums = objective.sums(params, batch)
            return objective.mean_loss(sums, counts), objective.metrics(sums, counts)

        return *jax.value_and_grad(loss, has_aux=True)(params), counts

    (loss, metrics), gradient, counts = learned(rows)
    (plain_loss, plain_metrics), plain_gradient, plain_counts = learned(plain)
    task = "sop" if pairs == "sentence_order" else "nsp"
    assert counts == plain_counts and counts[f"{task}_count"] == len(plain["input_ids"])
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in plain_metrics.items()}, rel=1e-6
    )
    same(gradient, plain_gradient, pairs, atol=3e-6)
    outputs, plain_outputs = (jax.jit(model.apply)(params, batch)[f"{pairs}_logits"] for batch in (rows, plain))
    same(outputs[rows[f"{pairs}_label"] >= 0], plain_outputs)  # in the same order, row by row


@pytest.mark.full
@pytest.mark.parametrize(("axes", "microbatches"), [({}, 4), ({"data": 2, "fsdp": 4}, 1)])
def test_a_step_on_packed_pairs_is_the_same_everywhere(config, axes, microbatches):
    """P4: each pair counts equally, however many its part of the batch holds."""
    rows, _ = pair_batches(config, "next_sentence")
    held = (rows["next_sentence_label"] >= 0).sum(1)
    assert held.min() < held.max()
    config.model.vocab_size = 64
    results = []
    for shape, parts in (({}, 1), (axes, microbatches)):
        sizes = {"data": 1, "fsdp": 1, "tensor": 1} | shape
        mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(list(sizes.values()))])
        model = model_lib.build(config.model, 64, **heads(config.objective))
        learner = step_lib.Learner.from_config(config, model, mesh, 10).in_microbatches(parts)
        batch = sharding.put_rows(rows, mesh)
        _, metrics = learner.train_step()(learner.init_state(), batch, np.int32(0), learner.dropout_key)
        results.append([float(metrics[name]) for name in ("loss", "mlm_loss", "nsp_loss", "nsp_accuracy", "grad_norm")])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def test_shares_of_padding():
    batch = texts() | {"weights": np.ones(len(LENGTHS), np.float32)}
    assert throughput.padding_shares(batch, (WIDTH,)) == {}
    rows = packed(batch, filler_rows=2)
    shares = throughput.padding_shares(rows, (8, WIDTH, 99))
    assert float(shares["padding_share"]) == pytest.approx(1 - LENGTHS.sum() / rows["input_ids"].size)
    assert float(shares["padding_share_unpacked"]) == pytest.approx(1 - LENGTHS.mean() / WIDTH)


def test_a_run_of_pretraining(config, tmp_path):
    """Its log says what was saved, and its evaluation is that of the same parameters without packing."""
    config.data.update(format="doc_sentences", packing=True)
    config.objective.next_sentence = False
    config.train.update(num_steps=4, log_every=2, checkpoint_every=4, tensorboard=False)
    pretraining.pretrain(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    batch = batch_at(config, 3)
    assert rows[-1]["padding_share"] == pytest.approx(1 - batch["attention_mask"].mean(), abs=1e-6)
    assert rows[-1]["padding_share"] < rows[-1]["padding_share_unpacked"] < 1
    assert rows[-1]["eval/mlm_loss"] > 0


@pytest.mark.full
def test_a_run_on_packed_pairs_continues(config, tmp_path):
    """P2: stopped and started again it sees the same pairs, and every later loss is the same bit for bit."""
    config.data.update(packing=True, pair_repeats=2, short_target_share=1.0, sequence_length=64)
    config.model.max_positions = 64
    config.model.update(hidden_dropout=0.1, attention_dropout=0.1)
    config.train.update(num_steps=6, log_every=1, eval_every=6, checkpoint_every=3, tensorboard=False)
    pretraining.pretrain(config, tmp_path / "whole")
    config.train.num_steps = 3
    pretraining.pretrain(config, tmp_path / "stopped")
    config.train.num_steps = 6
    pretraining.pretrain(config, tmp_path / "stopped")
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    names = ("loss", "mlm_loss", "nsp_loss", "nsp_accuracy", "padding_share", "eval/nsp_loss")
    whole, stopped = ({row["step"]: [row.get(name) for name in names] for row in log} for log in logs)
    assert [whole[i][:5] for i in range(1, 7)] == [stopped[i][:5] for i in range(1, 7)] and whole[6] == stopped[6]
    assert all(row["padding_share"] < row["padding_share_unpacked"] and row["nsp_loss"] > 0 for row in logs[0])


def write_tsv(path, number, seed=0):
    random = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    for _ in range(number):
        good = random.random() < 0.5
        words = [*random.choice(WORDS, random.integers(0, 6)), "kan" if good else "mot"]
        lines.append(f"{' '.join(random.permutation(words))}\t{'good' if good else 'bad'}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def finetuning_config(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    config = finetune_config.base()
    config.init_from = str(finished)
    config.task.update(
        train=write_tsv(folder / "train.tsv", 60), held_out=write_tsv(folder / "dev.tsv", 20, 1), dropout=0.0
    )
    config.data.update(sequence_length=16, batch_size=16, buckets=(12,), packing=True)
    config.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    config.optimizer.update(learning_rate=1e-2, learning_rate_range=(0.0, 1.0))
    config.train.update(num_steps=6, log_every=1, eval_every=6, tensorboard=False)
    return config


def test_a_batch_of_fine_tuning_holds_the_examples_of_an_unpacked_one(finetuning_config):
    config = finetuning_config
    task = tasks.load(config, open_model(config.init_from).tokenizer)
    sizes = set()
    for step in (0, 3, 5, 100):
        whole = batches.train_batch(config, task, (0, 7), step, unit=16)  # some hosts get no example
        config.data.packing = False
        plain = batches.train_batch(config, task, (0, 7), step)
        config.data.packing = True
        sizes.add(whole["input_ids"].shape)
        assert whole["labels"].shape == whole["weights"].shape == whole["cls_positions"].shape
        for seed in range(2):
            assert contents(whole, seed) == sorted(
                (*plain["input_ids"][seed, row][plain["attention_mask"][seed, row] > 0].tolist(), label)
                for row, label in enumerate(plain["labels"][seed].tolist())
                if plain["weights"][seed, row]
            )
        for hosts in (2, 8):
            parts = [batches.train_batch(config, task, (0, 7), step, host, hosts, unit=16) for host in range(hosts)]
            for name, array in whole.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), array)
        alone = batches.train_batch(config, task, (0, 7), step)
        assert contents(alone, 1) == contents(whole, 1)
    assert sizes == {(2, 16, 12)}


def contents(batch, seed):
    """(ids..., label) of each text that counts."""
    tokens = []
    for row, place in zip(*np.nonzero(batch["weights"][seed]), strict=True):
        ids = batch["input_ids"][seed, row][batch["sequence_ids"][seed, row] == place + 1]
        tokens.append((*ids.tolist(), int(batch["labels"][seed, row, place])))
    return sorted(tokens)


@pytest.mark.full
def test_a_run_of_fine_tuning_learns_the_same(finetuning_config, tmp_path):
    runs = []
    for packs in (True, False):
        config = finetuning_config.copy_and_resolve_references()
        config.data.packing = packs
        config.seeds = 2 if packs else 1
        finetuning.finetune(config, tmp_path / str(packs))
        rows = [json.loads(line) for line in (tmp_path / str(packs) / "metrics.jsonl").read_text().splitlines()]
        runs.append((rows, open_model(tmp_path / str(packs), seed=0)))
    rows, plain = runs[0][0], runs[1][0]
    assert all(row["padding_share"] < row["padding_share_unpacked"] for row in rows)
    assert not any("padding_share" in row for row in plain)
    score = "eval/accuracy"
    assert rows[-1].get(f"{score}/seed_0", rows[-1][score]) == pytest.approx(plain[-1][score])
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(runs[0][1].params), jax.tree.leaves(runs[1][1].params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-3, err_msg=str(path))
