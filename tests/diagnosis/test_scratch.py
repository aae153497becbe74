"""The comparison of a fine-tuning run with one from fresh weights, on real runs of seconds."""

import dataclasses
import json
import random
import subprocess
import sys

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import reading, report
from bert_jax.diagnosis import scratch as scratch_lib
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.training import pretraining
from tests.training.conftest import WORDS, corpus, make_config  # noqa: F401

SIGNS = {"good": "kan", "bad": "mot"}  # the word that tells a text's label


def write_rows(path, number, seed):
    draw = random.Random(seed)
    others = [word for word in WORDS if word not in SIGNS.values()]
    lines = ["text\tlabel"]
    for _ in range(number):
        label = draw.choice(list(SIGNS))
        words = [SIGNS[label], *draw.choices(others, k=draw.randint(2, 8))]
        draw.shuffle(words)
        lines.append(" ".join(words) + f"\t{label}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def runs(corpus, compiled, tmp_path_factory):  # noqa: F811
    """Workdirs of runs by name, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("runs")
    files = {
        name: write_rows(folder / f"{name}.tsv", number, seed=number) for name, number in (("train", 96), ("dev", 40))
    }
    config = make_config(corpus)
    config.train.update(num_steps=6, checkpoint_every=6, eval_every=6, tensorboard=False)
    pretraining.pretrain(config, folder / "model")

    def workdir(name, **changes):
        path = folder / name
        if path.exists():
            return str(path)
        config = finetune_config.base()
        config.update(init_from=str(folder / "model"), seeds=3)
        config.task.update(train=files["train"], held_out=files["dev"], pooling="mean")
        config.data.update(sequence_length=16, batch_size=8, buckets=(16,))
        config.optimizer.update(learning_rate=2e-2, learning_rate_range=(0.0, 1.0))
        config.train.update(num_epochs=10.0, eval_every=120, log_every=20, tensorboard=False, progress=False)
        config.update_from_flattened_dict(changes)
        finetuning.finetune(config, path)
        return str(path)

    return workdir


def findings(workdir, scratch):
    run = reading.read(workdir)
    return {finding.name: finding for finding in report.diagnose(run, scratch=reading.read(scratch))}


@pytest.mark.full
def test_a_rate_too_low_for_the_width_is_the_likeliest_cause(runs):
    finding = findings(runs("low", **{"optimizer.learning_rate": 1e-6}), runs("scratch", from_scratch=True))[
        "no_better_than_scratch"
    ]
    assert finding.severity == "warning" and finding.message.startswith("Fine-tuned worse than from scratch")
    assert finding.metrics["low"] <= finding.metrics["gain"] <= finding.metrics["high"] < 0
    low, high = finetune_config.rates_for_width(32)
    assert finding.causes[0].startswith(f"learning rate of 1e-06, below the {low:.2g} to {high:.2g}")


@pytest.mark.more
def test_a_gain_that_the_seeds_show_is_a_note(runs):
    scratch = runs("scratch_low", from_scratch=True, **{"optimizer.learning_rate": 1e-6})
    finding = findings(runs("good"), scratch)["better_than_scratch"]
    assert finding.severity == "note" and finding.metrics["low"] > 0 and not finding.causes


@pytest.mark.more
def test_equal_scores_are_no_gain(runs):
    finding = findings(runs("good"), runs("scratch", from_scratch=True))["no_better_than_scratch"]
    assert finding.message.startswith("Fine-tuned no better than from scratch")
    assert any("one learning rate" in cause for cause in finding.causes)


def test_single_seeds_tell_no_interval(runs):
    run, scratch = reading.read(runs("good")), reading.read(runs("scratch", from_scratch=True))
    single = dataclasses.replace(run, summary=run.summary | {"seeds": run.summary["seeds"][:1]})
    finding = scratch_lib.no_better_than_scratch(single, scratch)
    assert finding.severity == "note" and "no interval" in finding.message and finding.metrics["low"] is None


@pytest.mark.parametrize(
    ("workdir", "scratch", "said"),
    [
        ("good", "good", "expected --config.from_scratch=True in --scratch alone"),
        ("good", "model", "a run of pre-training; expected a finished run"),
        ("scratch", "scratch", "expected --config.from_scratch=True in --scratch alone"),
    ],
)
def test_runs_that_cannot_be_compared(runs, workdir, scratch, said):
    runs("good"), runs("scratch", from_scratch=True)
    first, other = (reading.read(runs(name)) for name in (workdir, scratch))
    with pytest.raises(UserError, match=said):
        scratch_lib.no_better_than_scratch(first, other)


def test_another_held_out_set_or_model_is_refused(runs):
    run, scratch = reading.read(runs("good")), reading.read(runs("scratch", from_scratch=True))
    other = dataclasses.replace(scratch, run=scratch.run | {"data": scratch.run["data"] | {"held out": [40, "0"]}})
    with pytest.raises(UserError, match="scored on other data"):
        scratch_lib.no_better_than_scratch(run, other)
    wider = dataclasses.replace(scratch, run=scratch.run | {"model": scratch.run["model"] | {"hidden_size": 64}})
    with pytest.raises(UserError, match="its model is another in hidden_size"):
        scratch_lib.no_better_than_scratch(run, wider)


def test_the_interval_is_welchs():
    from scipy import stats

    first, other = [0.70, 0.74, 0.73, 0.71], [0.69, 0.66, 0.70]
    expected = stats.ttest_ind(first, other, equal_var=False).confidence_interval(0.95)
    assert scratch_lib._welch(first, other) == pytest.approx((expected.low, expected.high))


@pytest.mark.full
def test_the_command(runs, tmp_path):
    command = [sys.executable, "-m", "bert_jax.doctor", runs("low", **{"optimizer.learning_rate": 1e-6})]
    command += [f"--scratch={runs('scratch', from_scratch=True)}", f"--output={tmp_path / 'out.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Fine-tuned worse than from scratch" in done.stdout
    names = [finding["name"] for finding in json.loads((tmp_path / "out.json").read_text())]
    assert "no_better_than_scratch" in names
