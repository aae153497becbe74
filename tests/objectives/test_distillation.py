"""Distillation: against plain numpy, a run with a teacher, and teachers that cannot teach. Pairs in order, too."""

import functools
import shutil

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints
from bert_jax.training import pretraining
from bert_jax.training import step as step_lib
from bert_jax.training import teacher as teacher_lib
from tests.commands import logged_rows
from tests.objectives.conftest import log_softmax
from tests.objectives.test_replaced_tokens import make_batch
from tests.training.conftest import WORDS, make_corpus
from tests.training.conftest import make_config as run_config
from tests.training.test_step import VOCAB, assert_same
from tests.training.test_step import make_config as step_config


def make_config(microbatches=1, **distillation):
    config = step_config(0.0, microbatches)
    config.model.update(num_layers=1, pooler=False)
    config.objective.update(name="distillation", next_sentence=False)
    config.distillation.update({"teacher": "teacher", "temperature": 3.0} | distillation)
    return config


@functools.cache
def models():
    """The student and the teacher, which has two rows more in its table, and parameters that say something."""
    config = make_config()
    student = model_lib.build(config.model, VOCAB, **objective_lib.heads(config.objective))
    settings = config.model.to_dict() | {"num_layers": 2, "intermediate_size": 24}
    teacher = model_lib.build(settings, VOCAB + 2, next_sentence=False)
    made = [jax.device_get(jax.jit(model.init)(jax.random.key(i))) for i, model in enumerate((student, teacher))]
    return (
        student,
        teacher,
        *(jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else 8 * leaf, params) for params in made),
    )


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_losses_against_numpy(positions):
    student, teacher, params, taught = models()
    objective = objective_lib.make(make_config(positions=positions), student, teacher)
    batch = make_batch()
    sums, counts = jax.device_get(
        jax.jit(lambda: (objective.sums(params, batch, teacher=taught), objective.counts(batch)))()
    )
    everywhere = {name: array for name, array in batch.items() if name != "masked_positions"}
    one, other = (
        jax.device_get(jax.jit(model.apply)(tree, everywhere)) for model, tree in ((student, params), (teacher, taught))
    )
    present, used = batch["attention_mask"] > 0, batch["masked_weights"] > 0
    wanted, student_log = (log_softmax(out["mlm_logits"][..., :VOCAB] / np.float64(3)) for out in (other, one))
    divergence = (np.exp(wanted) * (wanted - student_log)).sum(-1) * 9
    at_slots = np.take_along_axis(divergence, batch["masked_positions"], 1)
    soft = at_slots[used] if positions == "masked" else divergence[present]
    np.testing.assert_allclose(sums["soft_loss"], soft.sum(), rtol=1e-4)
    assert counts["soft_count"] == soft.size
    a, b = (out["hidden"].astype(np.float64)[present] for out in (one, other))
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(sums["cosine_loss"], (1 - cosines).sum(), rtol=1e-5)
    logits = np.take_along_axis(log_softmax(one["mlm_logits"]), batch["masked_positions"][..., None], 1)
    chosen = np.take_along_axis(logits, batch["masked_labels"][..., None], -1)[..., 0]
    np.testing.assert_allclose(sums["mlm_loss"], -chosen[used].sum(), rtol=1e-5)
    expected = 5 * soft.mean() - 2 * chosen[used].mean() + (1 - cosines).mean()
    np.testing.assert_allclose(objective.mean_loss(sums, counts), expected, rtol=1e-4)


def step(config, mesh_sizes):
    student, teacher, params, taught = models()
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh_sizes, strict=True)), jax.devices()[: np.prod(mesh_sizes)])
    state = jax.device_get(step_lib.init_state(config, student, mesh, 10)) | {"params": params}
    state = jax.device_put(state, sharding.tree_shardings(state, mesh))
    taught = jax.device_put(taught, sharding.tree_shardings(taught, mesh))
    train_step, key = step_lib.make_train_step(config, student, mesh, 10, teacher), step_lib.dropout_key(config)
    state, metrics = train_step(state, make_batch(), np.int32(0), key, taught)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(taught))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.full
@pytest.mark.parametrize("mesh_sizes", [(4, 1, 1), (2, 2, 2)])
def test_shards_and_microbatches_change_nothing(mesh_sizes):
    one, other = step(make_config(), (1, 1, 1)), step(make_config(2), mesh_sizes)
    assert {"soft_loss", "mlm_loss", "mlm_accuracy", "cosine_loss"} < set(one[1])
    assert "soft_accuracy" not in one[1]
    assert_same(other, one)


def test_the_order_of_segments():
    config = step_config()
    config.objective.update(next_sentence=False, sentence_order=True)
    model = model_lib.build(config.model, VOCAB, **objective_lib.heads(config.objective))
    objective, batch = objective_lib.make(config, model), make_batch()
    batch["sentence_order_label"] = batch.pop("next_sentence_label")
    params = jax.jit(model.init)(jax.random.key(0))
    sums, counts, outputs = jax.device_get(
        jax.jit(lambda: (objective.sums(params, batch), objective.counts(batch), model.apply(params, batch)))()
    )
    counted, label = batch["sentence_order_label"] >= 0, batch["sentence_order_label"]
    scores = log_softmax(outputs["sentence_order_logits"])[counted]
    expected = -scores[np.arange(counted.sum()), label[counted]].sum()
    np.testing.assert_allclose(sums["sop_loss"], expected, rtol=1e-5)
    assert sums["sop_correct"] == (scores.argmax(-1) == label[counted]).sum() and counts["sop_count"] == counted.sum()
    assert set(objective.metrics(sums, counts)) == {"mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy"}


def tiny(corpus, teacher):
    config = run_config(corpus)
    config.objective.name = "distillation"
    config.distillation.update(teacher=str(teacher), positions="all")
    config.train.update(num_steps=8)
    return config


@pytest.fixture(scope="module")
def distilled(corpus, finished, compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copytree(finished, folder / "teacher")
    pretraining.pretrain(tiny(corpus, folder / "teacher"), folder / "run")
    return folder


def test_a_run_learns_from_its_teacher(distilled):
    first, last = logged_rows(distilled / "run")[0], logged_rows(distilled / "run")[-1]
    assert last["soft_loss"] < first["soft_loss"] and last["cosine_loss"] < first["cosine_loss"]
    assert {"nsp_loss", "mlm_accuracy", "eval/mlm_loss", "eval/nsp_accuracy"} < set(last)
    weighted = 5 * last["soft_loss"] + 2 * last["mlm_loss"] + last["nsp_loss"] + last["cosine_loss"]
    assert last["loss"] == pytest.approx(weighted, rel=1e-5)
    student, teacher = checkpoints.load_params(distilled / "run")[0], checkpoints.load_params(distilled / "teacher")[0]
    assert jax.tree.structure(student) == jax.tree.structure(teacher)  # nothing of the teacher's is kept


def test_it_goes_on_with_the_same_teacher_alone(distilled, corpus, tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(distilled / "run", workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    shutil.copytree(distilled / "teacher", moved)
    pretraining.pretrain(tiny(corpus, moved), workdir)
    assert logged_rows(workdir) == logged_rows(distilled / "run")
    shutil.rmtree(moved / "checkpoints" / "12")  # the newest step is then another
    with pytest.raises(UserError, match=r"its run began with the teacher .* has other parameters") as caught:
        pretraining.pretrain(tiny(corpus, moved), workdir)
    assert "\n" not in str(caught.value)
    shutil.rmtree(moved)
    with pytest.raises(UserError, match="^config.distillation.teacher: ") as caught:
        pretraining.pretrain(tiny(corpus, moved), workdir)
    assert "\n" not in str(caught.value)


def test_teachers_that_cannot_teach(distilled, corpus, tmp_path):
    def refused(config):
        config.model.vocab_size = 0
        with pytest.raises(UserError) as caught:
            pretraining.pretrain(config, tmp_path / "run")
        assert "\n" not in str(caught.value) and not (tmp_path / "run" / "config.json").exists()
        return str(caught.value)

    teacher = distilled / "teacher"
    other = make_corpus(tmp_path / "other", documents=20, vocabulary=WORDS[::-1])
    message = refused(tiny(other, teacher))
    assert f"config.distillation.teacher={teacher}: its vocabulary" in message and str(other) in message
    config = tiny(corpus, teacher)
    config.model.hidden_size = 64
    message = refused(config)
    assert message.startswith("config.distillation.cosine_weight: 1.0") and "32" in message and "64" in message
    config.distillation.cosine_weight = 0.0
    assert teacher_lib.read(config, sharding.make_mesh(config.mesh)).model.spec.hidden_size == 32
    config = tiny(corpus, teacher)
    config.model.max_positions = config.data.sequence_length = 64
    assert "reads 32 tokens at most" in refused(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "config.distillation.temperature: found 0.0"),
        ({"teacher": ""}, "config.distillation.teacher: empty"),
        ({"soft_weight": 0.0, "cosine_weight": 0.0}, "both are 0"),
        ({"positions": "some"}, "config.distillation.positions: found 'some'"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    config = make_config()
    config.data.sequence_length = 12
    config_lib.validate(config)
    config.distillation.update(changes)
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)
