"""Whole pre-training runs of seconds, in this process, on its eight devices."""

import collections
import json
import math
import os
import shutil
import threading

import jax
import numpy as np
import pytest

from bert_jax import objectives
from bert_jax.data import loader
from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints
from bert_jax.runs.loggers import TIMINGS
from bert_jax.training import evaluation, memory, pretraining
from bert_jax.training import step as step_lib
from tests.commands import logged_rows, wait_until
from tests.training.conftest import make_corpus

FIGURES = {"eval/mlm_loss", "eval/mlm_accuracy", "eval/mlm_perplexity", "eval/unigram_loss", "eval/nsp_accuracy"}
METRICS = {"step", "loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "learning_rate", *TIMINGS}


def steps(workdir):
    return checkpoints.saved_steps(workdir / "checkpoints")


@pytest.mark.parametrize("estimated", [False, pytest.param(True, marks=pytest.mark.full)])
def test_objective_and_optimizer_are_made_once(config, tmp_path, monkeypatch, estimated):
    """For the run and the estimate of its memory together; models of fewer layers have an objective each."""
    made = collections.Counter()
    for module, name in ((objectives, "make"), (step_lib, "make_optimizer")):
        make = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, name=name, make=make, **kw: made.update([name]) or make(*args, **kw)
        )
    if estimated:
        monkeypatch.setattr(memory, "SURE", 0)  # as of a run that may not fit
        config.model.num_layers = 5
    config.train.update(num_steps=2, eval_every=2)
    config.optimizer.warmup_steps = 0
    pretraining.pretrain(config, tmp_path)
    number = 3 if estimated else 1
    assert made == {"make": number, "make_optimizer": number}


def test_a_run(config, tmp_path, capfd):
    config.train.update(log_every=2, keep_newest=1, checkpoint_every=3, eval_every=6)
    pretraining.pretrain(config, tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [2, 4, 6, 8, 10, 12]
    for row in logged:
        assert set(row) >= METRICS
        assert set(row) & FIGURES == (FIGURES if row["step"] % 6 == 0 else set())
        assert row["mfu"] is None  # nobody knows a CPU's peak
    assert all(row["tokens_per_second"] > 0 for row in logged)
    losses = [row["eval/mlm_loss"] for row in logged if "eval/mlm_loss" in row]
    assert losses[-1] < losses[0]
    for row in logged:
        if "eval/mlm_loss" in row:
            assert row["eval/mlm_perplexity"] == pytest.approx(math.exp(row["eval/mlm_loss"]))
    assert steps(tmp_path) == [12]
    assert list((tmp_path / "tensorboard").iterdir())
    params, stored, step = checkpoints.load_params(tmp_path, "best")
    assert step == 12 and stored.model.vocab_size == Corpus.open(config.data.corpus).vocab_size
    assert (tmp_path / "tokenizer").is_dir()
    output = capfd.readouterr().out
    assert f"done: step 12; held-out loss {losses[-1]:.4f}, " in output
    assert "step 12/12  loss" in output

    before = (tmp_path / "metrics.jsonl").read_bytes()
    pretraining.pretrain(config, tmp_path)
    assert "nothing to do: step 12 of 12 is done" in capfd.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.full
def test_longer_and_past_a_damaged_checkpoint(config, finished, tmp_path, capfd):
    """Twelve steps, then sixteen with the newest checkpoint cut, are the sixteen of one run."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert steps(run) == [4, 8, 12]
    data = max((run / "checkpoints" / "12" / "opt_state").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(data, 100)
    config.train.num_steps = 16
    pretraining.pretrain(config, run)
    output = capfd.readouterr().out
    assert "warning: the checkpoint of step 12 is damaged" in output and "; step 8 of 16, in" in output
    assert (run / "checkpoints" / "corrupt-12").is_dir()
    pretraining.pretrain(config, tmp_path / "whole")
    assert logged_rows(run) == logged_rows(tmp_path / "whole")


@pytest.mark.more
def test_what_may_change(config, finished, tmp_path):
    """Another mesh, other microbatches and another place of the same corpus continue to the same curve."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for step in (8, 12):
        shutil.rmtree(run / "checkpoints" / str(step))
    shutil.copytree(config.data.corpus, tmp_path / "moved")
    config.data.update(corpus=str(tmp_path / "moved"), prefetch=4)
    config.mesh.update(data=2, fsdp=2, tensor=2, optimizer_state="split")
    config.train.update(microbatches=2, keep_newest=5, eval_every=6, tensorboard=False)
    pretraining.pretrain(config, run)
    expected, resumed = logged_rows(finished), logged_rows(run)
    assert [row["step"] for row in resumed] == list(range(1, 13))
    assert resumed[:4] == expected[:4]
    for row, other in zip(resumed[4:], expected[4:], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert resumed[-1]["eval/mlm_loss"] == pytest.approx(expected[-1]["eval/mlm_loss"], rel=1e-4)


@pytest.mark.full
@pytest.mark.parametrize(("scanned", "optimizer_state"), [((False, True), "whole"), ((True, False), "split")])
def test_scanned_layers_lie_in_a_checkpoint_one_by_one(config, tmp_path, scanned, optimizer_state):
    """Half a run with scanned layers and half without them is a run; and either starts a new one."""
    config.model.num_layers = 2
    config.mesh.optimizer_state = optimizer_state
    config.train.update(num_steps=8, eval_every=8)
    losses = {}
    for name, switches in (("whole", scanned[:1] * 2), ("changed", scanned)):
        for num_steps, scan in zip((4, 8), switches, strict=True):
            config.model.scan_layers, config.train.num_steps = scan, num_steps
            pretraining.pretrain(config, tmp_path / name)
        losses[name] = [row["loss"] for row in logged_rows(tmp_path / name)]
    np.testing.assert_allclose(losses["changed"], losses["whole"], rtol=1e-5)
    params, _, _ = checkpoints.load_params(tmp_path / "changed")
    assert set(params["encoder"]["layers"]) == {"0", "1"}

    config.update(init_from=str(tmp_path / "whole"))
    config.train.log_norms = True
    for scan in scanned:
        config.model.scan_layers, config.train.num_steps = scan, 1
        pretraining.pretrain(config, tmp_path / f"from-{scan}")
    first = [logged_rows(tmp_path / f"from-{scan}")[0] for scan in scanned]
    assert first[0] == pytest.approx(first[1], rel=1e-5) and first[0]["loss"] < losses["whole"][0]


def test_evaluation_against_the_definitions(config):
    """The unigram baseline counted by hand, on the labels that the model is asked for; the same each time."""
    corpus = Corpus.open(config.data.corpus)
    config.model.vocab_size = corpus.vocab_size
    counts = collections.Counter(np.concatenate([shard.tokens for shard in corpus.split("train").shards]).tolist())
    total = sum(counts.values()) + corpus.vocab_size
    batches = loader.eval_batches(config, 0)
    losses = [
        -math.log((counts[int(label)] + 1) / total)
        for batch in batches
        for labels, weights in zip(batch["masked_labels"], batch["masked_weights"], strict=True)
        for label, weight in zip(labels, weights, strict=True)
        if weight
    ]
    sums = iter(
        {"mlm_loss_sum": np.float32(2.0), "mlm_correct": np.float32(i), "mlm_count": np.float32(8)}
        for i in range(2 * len(batches))
    )
    seen = []
    evaluate = evaluation.Evaluation(
        config, [corpus], lambda step: lambda *_: next(sums), lambda b: seen.append(b) or b
    )
    figures = evaluate({}, 4)
    assert figures["eval/unigram_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert figures["eval/mlm_loss"] == 2 / 8
    assert figures["eval/mlm_accuracy"] == sum(range(len(batches))) / (8 * len(batches))
    assert evaluate({}, 12)["eval/unigram_loss"] == figures["eval/unigram_loss"]
    for first, second in zip(seen[: len(batches)], seen[len(batches) :], strict=True):
        jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.more
def test_left_to_right(config, tmp_path):
    config.model.update(attention="causal", pooler=False)
    config.objective.update(name="ltr", next_sentence=False)
    config.data.format = "full_sentences"
    pretraining.pretrain(config, tmp_path)
    last = logged_rows(tmp_path)[-1]
    assert "nsp_loss" not in last and "eval/nsp_accuracy" not in last
    corpus = Corpus.open(config.data.corpus)
    config.model.vocab_size = corpus.vocab_size
    labels = np.concatenate([
        row[1:length] for batch in loader.eval_batches(config, 0)
        for row, length in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
    ])  # fmt: skip
    expected = evaluation.unigram_losses(np.asarray(corpus.unigram_counts))[labels].mean()
    assert last["eval/unigram_loss"] == pytest.approx(expected, rel=1e-12)
    assert last["eval/mlm_loss"] > 0


def test_nothing_held_out(config, tmp_path, capfd):
    config.data.corpus = str(make_corpus(tmp_path / "text", eval_share=0.0))
    assert not Corpus.open(config.data.corpus).split("eval").num_documents
    pretraining.pretrain(config, tmp_path / "run")
    assert "no document of the corpus is held out: no evaluation" in capfd.readouterr().out
    assert not any(key.startswith("eval/") for row in logged_rows(tmp_path / "run") for key in row)


def test_not_finite_names_the_batch_and_keeps_the_checkpoint(config, tmp_path):
    config.optimizer.update(learning_rate=1e38, warmup_steps=6, schedule="constant", clip_norm=0.0)
    config.train.update(checkpoint_every=1, log_every=5, eval_every=0)
    with pytest.raises(UserError) as caught:
        pretraining.pretrain(config, tmp_path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    bad = int(message.split()[1].rstrip(":"))
    (listing,) = tmp_path.glob("nonfinite-*.txt")
    assert listing.name == f"nonfinite-{bad}.txt" and str(listing) in message
    config.model.vocab_size = Corpus.open(config.data.corpus).vocab_size
    described = loader.describe_batch(config, bad - 1)
    assert listing.read_text().splitlines() == described and described[0] in message
    assert bad > 1 and steps(tmp_path)[-1] == bad - 1
    assert f"the last good checkpoint is step {bad - 1}" in message
    params, _, _ = checkpoints.load_params(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert all(math.isfinite(row["loss"]) for row in logged_rows(tmp_path))


def test_an_update_that_overflows_is_not_saved(config, tmp_path):
    """Loss and gradients are finite then; the parameters that they lead to are not."""
    config.optimizer.update(learning_rate=3.4e38, warmup_steps=0, weight_decay=1.0)
    config.train.update(num_steps=1, eval_every=0, checkpoint_every=1)
    with pytest.raises(UserError, match="step 1: the loss, a gradient or a parameter is not finite"):
        pretraining.pretrain(config, tmp_path)
    assert steps(tmp_path) == []


@pytest.mark.full
def test_full_disk_in_the_middle_and_at_the_end(config, small_disk, capfd):
    config.train.update(num_steps=160, checkpoint_every=20, log_every=20, eval_every=0, keep_newest=1)
    run, filler = small_disk / "run", small_disk / "filler"

    def fill():
        wait_until(lambda: steps(run))
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    filling = threading.Thread(target=fill)
    filling.start()
    with pytest.raises(UserError) as caught:
        pretraining.pretrain(config, run)
    filling.join()
    good = steps(run)[-1]
    assert str(caught.value) == (
        f"{run}: the checkpoint of step 160 could not be saved; the last good checkpoint is step {good}; "
        "make room and start the same command again"
    )
    output = capfd.readouterr().out
    assert output.count("failed: No space left on device; the last good one is") >= 2
    assert good < 160
    filler.unlink()
    pretraining.pretrain(config, run)
    assert f"; step {good} of 160, in" in capfd.readouterr().out
    assert [row["step"] for row in logged_rows(run)] == list(range(20, 161, 20)) and steps(run) == [160]


@pytest.mark.more
def test_checkpoints_by_time(config, finished, tmp_path):
    """A run that saves by time is the same run, and so is one that goes on from such a checkpoint."""
    config.train.update(checkpoint_every=1000, checkpoint_minutes=1e-7, keep_newest=20)
    pretraining.pretrain(config, tmp_path)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == list(range(1, 13))
    assert logged_rows(tmp_path) == logged_rows(finished)
    for step in range(6, 13):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    config.train.checkpoint_minutes = 1000.0
    pretraining.pretrain(config, tmp_path)
    assert checkpoints.saved_steps(tmp_path / "checkpoints") == [1, 2, 3, 4, 5, 12]
    assert logged_rows(tmp_path) == logged_rows(finished)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("objective", ["mlm", "rtd", "ltr"])
def test_token_dropout_goes_with_every_objective(config, tmp_path, objective):
    """The mask's id is the corpus's, also where the run goes on."""
    config.model.update(token_dropout=True, positions="rotary", pooler=False)
    config.model.attention = "causal" if objective == "ltr" else "bidirectional"
    config.objective.update(name=objective, next_sentence=False)
    config.data.update(format="doc_sentences", packing=True)
    for num_steps in (4, 8):
        config.train.num_steps = num_steps
        pretraining.pretrain(config, tmp_path / "run")
    assert steps(tmp_path / "run") == [4, 8]
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["mask_id"] == 4
    assert np.isfinite([row["loss"] for row in logged_rows(tmp_path / "run") if "loss" in row]).all()
    config.model.mask_id = 9
    with pytest.raises(UserError, match=r"config.model.mask_id"):
        pretraining.pretrain(config, tmp_path / "other")
