"""The estimate of a fine-tuning step's memory, from few layers, is what the compiler reports of all of them."""

import random

import jax
import pytest

from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.finetuning import description
from bert_jax.finetuning.lowering import FinetuningSteps
from bert_jax.finetuning.step import Learner
from bert_jax.runs.models import build_fine_tuned, open_model
from bert_jax.training import memory
from tests.training.conftest import WORDS


@pytest.fixture
def steps(finished, tmp_path):
    """Returns a function (changes by dotted key) -> the steps of a run from a model of five layers."""
    draw = random.Random(0)
    rows = [f"{' '.join(draw.choices(WORDS, k=12))},{i % 2}" for i in range(40)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    source = open_model(finished)

    def make(changes):
        config = finetune_config.base()
        data = {"init_from": str(finished), "task.train": str(tmp_path / "train.csv")}
        config.update_from_flattened_dict(data | {"data.batch_size": 16, "data.sequence_length": 32} | changes)
        task = tasks.load(config, source.tokenizer)
        run = description.describe_run(config, source, task)
        run["model"]["num_layers"] = 5
        return FinetuningSteps(config, sharding.make_mesh(config.mesh, jax.devices()[:1]), run, task)

    return make


@pytest.mark.full
@pytest.mark.parametrize(
    "changes", [{"seeds": 2}, {"tuning.lora_rank": 4}, {"tuning.freeze": "layers:2", "train.microbatches": 2}]
)
def test_an_estimate_from_few_layers_is_what_the_compiler_reports_of_all(steps, changes):
    made = steps(changes)
    need = memory.estimate(made)
    learner = made._learner(made.layers) if not made._frozen_layers else _whole(made)
    made.__dict__["_learner"] = lambda layers: learner
    lowered, unread = made.train(made.layers)
    assert need.step == pytest.approx(memory.program_bytes(lowered, made.mesh) + unread, rel=0.05)
    assert made.frozen_bytes() < need.step < made.rough()


def _whole(steps):
    """Returns the learner of the whole model, frozen layers included."""
    model = build_fine_tuned(steps.description)
    return Learner(steps.config, model, steps.task.problem, steps.config_seeds, steps.mesh, 10)
