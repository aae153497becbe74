"""Runs that are broken on purpose, and what the doctor says of them."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import loader
from bert_jax.diagnosis import corpora, plans, reading
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.training import pretraining
from tests.diagnosis.conftest import chains, findings, prepared, recipe, soup
from tests.training.conftest import WORDS

SERIOUS = ("error", "warning")


def trained(config, path):
    pretraining.pretrain(config, path)
    return path


def serious(found):
    return {name for name, one in found.items() if one.severity in SERIOUS}


def place(finding, words):
    """How many causes are named before one with these words."""
    return next(i for i, cause in enumerate(finding.causes) if words in cause)


@pytest.fixture(scope="module")
def healthy(chain_corpus, compiled, tmp_path_factory):
    return trained(recipe(chain_corpus), tmp_path_factory.mktemp("healthy") / "run")


@pytest.fixture
def copy(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "run")


def rewrite(workdir, change, rows=None):
    """Puts rows in the place of the log's, each changed."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [change(dict(row)) for row in (lines if rows is None else rows(lines))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_a_healthy_run(healthy):
    found, text = findings(healthy)
    assert not serious(found)
    assert "nothing wrong found: held-out loss " in text
    for words in (
        "under the unigram baseline of 3.7",
        "unknown tokens 0.0 %",
        "duplicate documents 0.0 %",
        "padding 2",
    ):
        assert words in text.replace("\n", " ")


def test_the_command(healthy, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in healthy.rglob("*")}
    command = [sys.executable, "-X", "importtime", "-m", "bert_jax.doctor", str(healthy)]
    done = subprocess.run([*command, f"--output={tmp_path / 'x.json'}"], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing wrong found" in done.stdout
    assert " jax" not in {line.rpartition("|")[2].rstrip() for line in done.stderr.splitlines()}
    assert isinstance(json.loads((tmp_path / "x.json").read_text()), list)
    assert before == {path: path.stat().st_mtime_ns for path in healthy.rglob("*")}
    done = subprocess.run([*command[:1], *command[3:5], f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 2 and "no run there" in done.stderr


def test_rate_far_too_high(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__learning_rate=1.0, train__num_steps=100, train__eval_every=50)
    found, text = findings(trained(config, tmp_path / "run"))
    worst = found.get("diverged") or found["over_unigram"]
    assert worst.severity == "error"
    assert "learning rate too high: 1, 289 times" in worst.causes[0]
    assert "--config.optimizer.learning_rate=0.001" in worst.causes[0]
    assert "nothing wrong" not in text


def test_warm_up_too_short(chain_corpus, tmp_path):
    changes = {"optimizer__learning_rate": 2e-2, "optimizer__warmup_steps": 0}
    config = recipe(chain_corpus, **changes, train__num_steps=100, train__eval_every=50)
    found, _ = findings(trained(config, tmp_path / "run"))
    stuck = found["stuck_at_unigram"]
    assert "under the 3.7" in stuck.message or "over the 3.7" in stuck.message
    assert place(stuck, "warm-up too short: 0 of 100 steps") <= 1
    assert place(stuck, "learning rate too high: 0.02") <= 1
    assert "unknown tokens 0.0 %" in stuck.causes[-1] and "duplicate documents 0.0 %" in stuck.causes[-1]
    assert stuck.figures["padding_share"] == pytest.approx(0.24, abs=0.03)


def test_not_finite(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__learning_rate=1e36)
    with pytest.raises(UserError, match="not finite"):
        pretraining.pretrain(config, tmp_path / "run")
    found, _ = findings(tmp_path / "run")  # no row was logged
    assert list(found) == ["nonfinite"]
    assert "ended at step 3" in found["nonfinite"].message
    assert "learning rate too high" in found["nonfinite"].causes[0]


@pytest.mark.full
def test_warm_up_longer_than_the_run(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__warmup_steps=10_000, train__num_steps=30, train__eval_every=30)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert "comes to 9e-06 of 0.003" in found["peak_never_reached"].message
    assert "the warm-up is not over: 30 of its 10,000" in found["over_unigram"].causes[0]


@pytest.fixture(scope="module")
def memorised(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("memorised")
    return trained(recipe(prepared(path / "text", soup(10))), path / "run")


def test_a_tiny_corpus_learned_by_heart(memorised):
    found, _ = findings(memorised)
    assert list(found)[0] == "evaluation_worse"
    assert not {"stuck_at_unigram", "over_unigram", "diverged"} & set(found)
    assert "learned by heart: 2" in found["evaluation_worse"].causes[0]  # some 230 passes
    assert found["evaluation_worse"].figures["risen"] > 0.3


def test_evaluation_on_text_that_was_trained_on(tmp_path):
    # Each document is one of two, with two words more: no hash tells.
    texts = [f"{text}\n{WORDS[i % 40]} {WORDS[i // 40]} ." for i, text in enumerate(soup(2) * 120)]
    corpus = prepared(tmp_path / "text", texts, eval_share=0.3)
    config = recipe(corpus, model__hidden_dropout=0.3, train__eval_batches=40)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert "held_out_in_training" not in found  # said once
    better = found["evaluation_better"]
    assert better.severity == "warning" and better.figures["shared_sentences"] > 0.9
    assert "of the held-out sentences do, to the letter" in better.causes[0]
    assert any("dropout of 0.3 is on in training" in cause for cause in better.causes)


def test_near_duplicates_are_found_without_a_gap(tmp_path):
    texts = [f"{text}\n{WORDS[i % 40]} {WORDS[i // 40]} ." for i, text in enumerate(soup(2) * 120)]
    config = recipe(prepared(tmp_path / "text", texts, eval_share=0.3), train__num_steps=20, train__eval_every=20)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert "evaluation_better" not in found
    assert found["held_out_in_training"].figures["shared_sentences"] > 0.9


def test_duplicates(chain_corpus, tmp_path):
    corpus = prepared(tmp_path / "text", chains(30) * 10)
    config = recipe(corpus, train__num_steps=40, train__eval_every=40)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert found["duplicates"].severity == "error"
    assert "90 % of the documents" in found["duplicates"].message
    assert "--drop_duplicates" in found["duplicates"].causes[0]
    dropped = prepared(tmp_path / "dropped", chains(30) * 10, drop_duplicates=True)
    fingerprint = json.loads((dropped / "manifest.json").read_text())["fingerprint"]
    run = {"corpora": [{"path": str(dropped), "fingerprint": fingerprint}]}
    assert corpora.find(run, tmp_path)[0].duplicates == 0


def test_a_vocabulary_of_another_text(tmp_path):
    corpus = prepared(
        tmp_path / "text", chains(100), vocabulary=[*WORDS[:5], *(f"w{i}" for i in range(len(WORDS) - 5))]
    )
    config = recipe(corpus, train__num_steps=40, train__eval_every=40)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert found["unknown_tokens"].severity == "error"
    assert "unknown to its vocabulary of 51 (wordpiece)" in found["unknown_tokens"].message


def test_pairs_that_are_mostly_padding(tmp_path):
    draw = random.Random(0)
    corpus = prepared(tmp_path / "text", [" ".join(draw.choices(WORDS, k=4)) for _ in range(300)])
    changes = {"data__format": "segment_pair", "objective__next_sentence": True, "model__pooler": True}
    changes |= {"train__num_steps": 40, "train__eval_every": 40}
    found, _ = findings(trained(recipe(corpus, **changes), tmp_path / "run"))
    assert "of 32 tokens a row of segment_pair holds 11" in found["padding"].message
    assert found["padding"].figures["padding_share"] == pytest.approx(0.65, abs=0.03)
    batch = loader.batch_at(recipe(corpus, **changes), 0)
    assert 1 - batch["attention_mask"].mean() == pytest.approx(found["padding"].figures["padding_share"], abs=0.03)
    assert "100 % of the pairs" in found["uneven_pairs"].message
    assert "nsp_without_mlm" not in found


def telltale(long=40, tiny=120):
    """Long documents and single sentences, told apart by one word in ten, and soup else."""
    draw = random.Random(0)

    def sentence(mark):
        return " ".join(mark if draw.random() < 0.1 else draw.choice(WORDS[2:]) for _ in range(draw.randint(10, 14)))

    return ["\n".join(sentence(WORDS[0]) for _ in range(80)) for _ in range(long)] + [
        sentence(WORDS[1]) for _ in range(tiny)
    ]


def test_pairs_are_learned_and_words_are_not(tmp_path):
    corpus = prepared(tmp_path / "text", telltale())
    changes = {"data__format": "segment_pair", "objective__next_sentence": True, "model__pooler": True}
    found, _ = findings(trained(recipe(corpus, **changes, train__eval_batches=16), tmp_path / "run"))
    assert list(found)[:2] == ["stuck_at_unigram", "nsp_without_mlm"]
    assert found["nsp_without_mlm"].figures["nsp_accuracy"] > 0.7
    assert "--config.objective.next_sentence=False" in found["nsp_without_mlm"].causes[0]


def test_a_starved_pipeline(chain_corpus, tmp_path, monkeypatch):
    batch = loader.Stream.batch

    def slow(*args):
        time.sleep(0.4)  # far longer than a step, also on a busy machine
        return batch(*args)

    monkeypatch.setattr(loader.Stream, "batch", slow)
    config = recipe(chain_corpus, train__num_steps=12, train__log_every=2, train__eval_every=0)
    found, _ = findings(trained(config, tmp_path / "run"))
    assert found["starved"].figures["data_share"] > 0.2
    assert "--config.data.workers=4" in found["starved"].causes[0]
    assert "config.train.eval_every=0" in found["no_evaluation"].message


def test_spikes(chain_corpus, tmp_path, monkeypatch):
    batch = loader.Stream.batch

    def with_bad_ones(self, step, *args):
        found = batch(self, step, *args)
        if step in (150, 180, 220):
            found["masked_labels"] = np.where(found["masked_labels"] == 7, 8, 7).astype(np.int32)
        return found

    monkeypatch.setattr(loader.Stream, "batch", with_bad_ones)
    found, _ = findings(trained(recipe(chain_corpus, train__log_every=1), tmp_path / "run"))
    assert found["loss_spikes"].severity == "warning"
    assert "3 times (at step 151, 181, 221)" in found["loss_spikes"].message
    assert "diverged" not in found


def test_under_the_plan(healthy, tmp_path):
    phase = {"rows": 16, "sequence": 32, "roofline": {"tokens_per_second": 1e9, "mfu": 0.5}}
    entry = {"fits": True, "phases": [phase]}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"small on v5e:4x4": entry, "other": {"fits": True, "phases": [phase | {"rows": 8}]}}))
    run = reading.read(str(healthy))
    found, _ = findings(healthy, plans.read(str(path), "", run))
    assert "of the 1,000,000,000 that small on v5e:4x4 allows" in found["under_plan"].message
    phase["roofline"]["tokens_per_second"] = 1.0
    path.write_text(json.dumps({"recipe": "small", "topology": {"name": "v5e:4x4"}, **entry}))
    found, text = findings(healthy, plans.read(str(path), "", run))
    assert "under_plan" not in found and "1 is the bound of small on v5e:4x4" in text.replace("\n", " ")
    path.write_text(json.dumps({"a": entry, "b": entry}))
    with pytest.raises(UserError, match="--plan_entry; expected one of a, b"):
        plans.read(str(path), "", run)
    assert plans.read(str(path), "b", run).name == "b"
    for wrong in ("[]", "{", '{"a": {"fits": true, "phases": [{}]}}', '{"a": 1}'):
        path.write_text(wrong)
        with pytest.raises(UserError, match="--plan="):
            plans.read(str(path), "", run)


def test_stopped_and_young(copy):
    rewrite(copy, dict, lambda rows: rows[:4])
    found, text = findings(copy)
    assert found["stopped_early"].severity == "warning" and "step 20 of 300" in found["stopped_early"].message
    assert found["too_young"].severity == "note" and "stuck_at_unigram" not in found
    with open(copy / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found, text = findings(copy)
    assert "stopped_early" not in found and "training now" in text


def test_logs_that_are_torn_sparse_or_old(copy):
    log = copy / "metrics.jsonl"
    content = log.read_text()
    log.write_text("\x00\n[1]\n{}\n" + content + '{"step": 305, "lo')
    assert not serious(findings(copy)[0])
    log.write_text(content)
    rewrite(copy, dict, lambda rows: [row for row in rows if row["step"] % 100 == 0])
    assert not serious(findings(copy)[0])
    rewrite(copy, lambda row: {key: value for key, value in row.items() if not key.startswith(("time/", "eval/"))})
    assert serious(findings(copy)[0]) == {"no_evaluation"}
    log.write_text("")
    with pytest.raises(UserError, match="no step has been logged yet"):
        reading.read(str(copy))
    (copy / "run.json").unlink()
    with pytest.raises(UserError, match="no run there"):
        reading.read(str(copy))
    with pytest.raises(UserError, match=f"there is one in {copy.parent}"):
        shutil.move(copy / "config.json", copy / "run.json")
        reading.read(str(copy.parent))


def test_a_corpus_that_was_moved(copy, chain_corpus):
    run = json.loads((copy / "run.json").read_text())
    run["corpora"][0]["path"] = "/no/such"
    (copy / "run.json").write_text(json.dumps(run))
    found, text = findings(copy)
    assert list(found) == ["corpus_missing"] and "/no/such" in found["corpus_missing"].message
    assert "nothing wrong found" in text
    run["corpora"][0] |= {"path": str(chain_corpus), "fingerprint": "0"}
    (copy / "run.json").write_text(json.dumps(run))
    assert "another corpus lies there now" in findings(copy)[0]["corpus_missing"].message
    run["corpora"][0] |= {
        "path": os.path.relpath(chain_corpus, copy.parents[2]),
        "fingerprint": json.loads((chain_corpus / "manifest.json").read_text())["fingerprint"],
    }
    (copy / "run.json").write_text(json.dumps(run))
    assert "corpus_missing" not in findings(copy)[0]


def test_phases_change_the_loss_and_nothing_is_wrong(copy):
    config = json.loads((copy / "config.json").read_text())
    config["data"]["phases"] = [{"share": 0.5, "sequence_length": 16}, {"share": 0.5}]
    (copy / "config.json").write_text(json.dumps(config))

    def shifted(row):
        lower = 3.0 if row["step"] <= 150 else 0.0  # as if short rows were easier
        return row | {key: row[key] - lower for key in ("loss", "mlm_loss", "eval/mlm_loss") if key in row}

    rewrite(copy, shifted)
    assert not {"diverged", "loss_spikes", "evaluation_worse"} & set(findings(copy)[0])


def test_a_loss_that_leaves_for_good(copy):
    rewrite(copy, lambda row: row | ({"mlm_loss": 3.9, "loss": 3.9} if row["step"] > 200 else {}))
    found, _ = findings(copy)
    assert list(found)[0] == "diverged" and "loss_spikes" not in found
    assert "at step 200" in found["diverged"].message or "at step 19" in found["diverged"].message


def test_what_copying_gains():
    class Data:
        mask_token_share, random_token_share = 0.8, 0.1

    p, size = np.array([0.5, 0.3, 0.0, 0.2]), 4
    joint = p[:, None] * (0.5 * np.eye(size) + 0.5 / size)
    given = joint / joint.sum(0)
    loss = -(joint[joint > 0] * np.log(given[joint > 0])).sum()
    assert corpora.copying_loss(p, Data) == pytest.approx(0.8 * corpora.entropy(p) + 0.2 * loss)
    Data.mask_token_share, Data.random_token_share = 1.0, 0.0
    assert corpora.copying_loss(p, Data) == pytest.approx(corpora.entropy(p))


@pytest.mark.full
def test_fine_tuning_at_a_rate_far_too_high(healthy, tmp_path):
    lines = ["text\tlabel", *(f"{text.splitlines()[0]}\t{i % 2}" for i, text in enumerate(chains(64)))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    config = finetune_config.base()
    config.task.update(train=str(tmp_path / "train.tsv"), held_out=str(tmp_path / "train.tsv"), pooling="cls")
    config.update(init_from=str(healthy))
    config.data.update(batch_size=16, sequence_length=32)
    config.optimizer.update(learning_rate=1.0)
    config.train.update(num_epochs=2.0, log_every=1, progress=False, tensorboard=False)
    finetuning.finetune(config, tmp_path / "run")
    found, text = findings(tmp_path / "run")
    assert found["failed_seeds"].severity == "error" and "fine-tuning, step 8 of 8" in text
    assert "learning rate too high: 1, published ones are 1e-06 to 0.0001" in found["failed_seeds"].causes[0]
    assert found["rate_out_of_range"].severity == "note"
