"""Replaced-token detection: against plain numpy, the same however it is run, and what stays tied stays tied."""

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
from bert_jax.inference.fill_mask import FillMask
from bert_jax.objectives import replaced_tokens
from bert_jax.runs import checkpoints, models
from bert_jax.training import evaluation, initial, pretraining
from bert_jax.training import step as step_lib
from tests.commands import logged_rows
from tests.objectives.conftest import log_softmax
from tests.training.conftest import make_config as run_config
from tests.training.test_step import VOCAB, assert_same
from tests.training.test_step import make_batch as bert_batch
from tests.training.test_step import make_config as step_config

SIZES = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 12}


def make_config(sharing="tied", microbatches=1, scan_layers=False, dropout=0.0):
    config = step_config(dropout, microbatches, scan_layers)
    config.model.update(embedding_size=12, pooler=False)
    config.objective.update(name="rtd", next_sentence=False, embedding_sharing=sharing, discriminator_weight=7.0)
    config.generator.update(SIZES)
    return config


def make_batch(seed=0):
    """Rows whose masked positions differ from each other, as the loader's do."""
    batch, random = bert_batch(seed), np.random.default_rng(seed)
    lengths = batch["attention_mask"].sum(1)
    places = [random.permutation(length)[:3] for length in lengths]
    return batch | {"masked_positions": np.stack(places).astype(np.int32)}


def make_objective(config):
    model = model_lib.build(config.model, VOCAB, **objective_lib.heads(config.objective))
    return objective_lib.make(config, model)


@functools.cache
def fresh(sharing):
    """Parameters whose output layers are not near zero."""
    objective = make_objective(make_config(sharing))
    params = jax.device_get(jax.jit(objective.init)(jax.random.key(3)))
    return jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else 8 * leaf, params)


@functools.cache
def reference(sharing):
    """Losses, counts and gradient of a batch on one device, with the key of step 5."""
    objective, batch = make_objective(make_config(sharing)), make_batch()
    counts = objective.counts(batch)

    def loss(params):
        sums = objective.sums(params, batch, step_key=jax.random.key(5))
        return objective.mean_loss(sums, counts), sums

    (mean, sums), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(fresh(sharing))
    return jax.device_get((mean, sums, counts, gradient))


def test_held_out_metrics_in_words():
    objective = make_objective(make_config("tied"))
    metrics = {"eval/mlm_loss": 2.5, "eval/unigram_loss": 3.0, "eval/rtd_loss": 0.25, "eval/rtd_accuracy": 0.9}
    assert objective.headline({"step": 1}) == ""
    assert objective.headline(metrics) == "held-out 2.5000 (unigram 3.0000), replaced tokens 90.0% right"
    assert objective.summary(metrics) == (
        "held-out loss of replaced tokens 0.2500, accuracy 90.0%; "
        "the generator's held-out loss 2.5000, 0.5000 nats under the unigram baseline of 3.0000"
    )


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sharing", ["tied", "gradient_disentangled", pytest.param("none", marks=pytest.mark.full)])
def test_losses_against_numpy(sharing):
    """With the two models' own outputs, of parameters put together by hand."""
    config, batch, params = make_config(sharing), make_batch(), fresh(sharing)
    objective = make_objective(config)
    mean, sums, counts, _ = reference(sharing)
    own = params["generator"]
    of_model = {name: part for name, part in params.items() if name != "generator"}
    embeddings = dict(own["encoder"]["embeddings"])
    if sharing == "tied":
        assert set(embeddings) == {"projection"}
        embeddings |= {
            name: of_model["encoder"]["embeddings"][name] for name in ("word", "position", "token_type", "norm")
        }
    elif sharing == "gradient_disentangled":
        assert not np.any(of_model["encoder"]["embeddings"]["word"]["embedding"])
        of_model = replaced_tokens._with_word(of_model, embeddings["word"]["embedding"])
    else:  # a model of its own, with embeddings of its own size
        assert embeddings["word"]["embedding"].shape == (VOCAB, 8) and "projection" not in embeddings
    of_generator = own | {"encoder": own["encoder"] | {"embeddings": embeddings}}
    logits = np.asarray(jax.jit(objective.generator.apply)(of_generator, batch)["mlm_logits"])
    used, labels = batch["masked_weights"] > 0, batch["masked_labels"]
    chosen = np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(sums["mlm_loss"], -chosen[used].sum(), rtol=1e-5)
    assert sums["mlm_correct"] == (logits.argmax(-1) == labels)[used].sum() and counts["mlm_count"] == used.sum()

    drawn = replaced_tokens.samples(logits, batch, replaced_tokens._seed(jax.random.key(5)))
    filled, original = batch["input_ids"].copy(), batch["input_ids"].copy()
    for row, slot in zip(*np.nonzero(used), strict=True):
        place = batch["masked_positions"][row, slot]
        filled[row, place], original[row, place] = drawn[row, slot], labels[row, slot]
    replaced, present = filled != original, batch["attention_mask"] > 0
    assert 0 < replaced.sum() <= used.sum()
    z = np.asarray(
        jax.jit(objective.model.apply)(of_model, batch | {"input_ids": filled})["replaced_logits"], np.float64
    )
    losses = np.log1p(np.exp(-np.where(replaced, z, -z)))
    np.testing.assert_allclose(sums["rtd_loss"], losses[present].sum(), rtol=1e-5)
    assert sums["rtd_correct"] == ((z > 0) == replaced)[present].sum() and counts["rtd_count"] == present.sum()
    np.testing.assert_allclose(mean, sums["mlm_loss"] / used.sum() + 7 * losses[present].mean(), rtol=1e-5)


def test_gradients_flow_where_they_should():
    """The generator learns nothing from the discriminator, whose loss does not change a table that is its own."""
    objective, batch = make_objective(make_config("gradient_disentangled")), make_batch()

    def rtd(params):
        return objective.sums(params, batch, step_key=jax.random.key(5))["rtd_loss"]

    gradient = jax.jit(jax.grad(rtd))(fresh("gradient_disentangled"))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["generator"]))
    assert np.any(gradient["encoder"]["embeddings"]["word"]["embedding"])
    for sharing in ("tied", "gradient_disentangled"):
        learned = reference(sharing)[3]["generator"]
        assert all(np.any(leaf) for leaf in jax.tree.leaves(learned["mlm"]))


def test_samples_follow_the_softmax():
    """Samples of 4096 rows that differ in a token, and of one row in 4096 steps, follow the softmax, slot by slot."""
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.1, 0.025], np.float32))
    rows = 4096
    batch = {
        "input_ids": np.stack([np.arange(rows), np.full(rows, 2)], 1).astype(np.int32),
        "attention_mask": np.ones((rows, 2), np.int32),
        "masked_positions": np.tile(np.array([[0, 1]], np.int32), (rows, 1)),
    }
    drawn = np.asarray(replaced_tokens.samples(np.tile(logits, (rows, 2, 1)), batch, np.array([1, 2], np.uint32)))
    one = {name: array[:1] for name, array in batch.items()}
    seeds = np.random.default_rng(0).integers(0, 2**32, (rows, 2), dtype=np.uint32)
    of_steps = jax.vmap(lambda seed: replaced_tokens.samples(np.tile(logits, (1, 2, 1)), one, seed))(seeds)[:, 0]
    for tokens in (drawn[:, 0], drawn[:, 1], np.asarray(of_steps)[:, 1]):
        shares = np.bincount(tokens, minlength=5) / rows
        np.testing.assert_allclose(shares, np.exp(logits), atol=4 * np.sqrt(0.25 / rows))
    independent = (np.exp(logits) ** 2).sum()
    assert abs((drawn[:, 0] == drawn[:, 1]).mean() - independent) < 4 * np.sqrt(0.25 / rows)


def test_samples_depend_on_the_row_alone():
    batch, random = make_batch(), np.random.default_rng(0)
    logits = random.normal(size=(16, 3, VOCAB)).astype(np.float32)
    seed, order = np.array([1, 2], np.uint32), random.permutation(16)
    drawn = np.asarray(replaced_tokens.samples(logits, batch, seed))
    shuffled = {name: array[order] for name, array in batch.items()}
    np.testing.assert_array_equal(replaced_tokens.samples(logits[order], shuffled, seed), drawn[order])
    padding = batch["attention_mask"] == 0
    dirty = batch | {"input_ids": np.where(padding, 9, batch["input_ids"]).astype(np.int32)}
    np.testing.assert_array_equal(replaced_tokens.samples(logits, dirty, seed), drawn)


@functools.cache
def run(sharing="tied", mesh_sizes=(1, 1, 1), microbatches=1, scan_layers=False, steps=2):
    """State and metrics after `steps` steps."""
    config = make_config(sharing, microbatches, scan_layers)
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh_sizes, strict=True)), jax.devices()[: np.prod(mesh_sizes)])
    model = make_objective(config).model
    alone = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    state = step_lib.saved(step_lib.init_state(config, model, alone, 10), alone) | {"params": fresh(sharing)}
    state = jax.device_put(jax.device_get(state), sharding.tree_shardings(state, mesh))
    state = step_lib.restored(state, model, mesh)
    train_step, key = step_lib.make_train_step(config, model, mesh, 10), step_lib.dropout_key(config)
    for step in range(steps):
        state, metrics = train_step(state, make_batch(step), np.int32(step), key)
    return jax.device_get(step_lib.saved(state, mesh)), jax.device_get(metrics)


@pytest.mark.full
@pytest.mark.parametrize(
    ("mesh_sizes", "microbatches", "scan_layers"),
    [((8, 1, 1), 2, False), ((2, 2, 2), 4, True)],
)
def test_shards_and_microbatches_change_nothing(mesh_sizes, microbatches, scan_layers):
    actual, expected = run("tied", mesh_sizes, microbatches, scan_layers), run()
    assert {"mlm_loss", "mlm_accuracy", "rtd_loss", "rtd_accuracy"} < set(actual[1])
    assert_same(actual, expected)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sharing", ["tied", "gradient_disentangled"])
def test_what_is_shared_is_there_once_after_100_steps(sharing):
    params = run(sharing, steps=100)[0]["params"]
    before = fresh(sharing)
    assert jax.tree.structure(params) == jax.tree.structure(before)
    model, generator = replaced_tokens.discriminator(params, sharing), replaced_tokens.generator(params, sharing)
    tables = model["encoder"]["embeddings"], generator["encoder"]["embeddings"]
    if sharing == "tied":
        for name in ("word", "position", "token_type", "norm"):
            assert tables[0][name] is tables[1][name]
        return
    # The model's word table is the generator's plus a difference, which began as zero and has moved.
    difference = params["encoder"]["embeddings"]["word"]["embedding"]
    assert np.any(difference) and not np.any(before["encoder"]["embeddings"]["word"]["embedding"])
    np.testing.assert_array_equal(tables[0]["word"]["embedding"], tables[1]["word"]["embedding"] + difference)


@pytest.mark.more
def test_a_run_starts_from_a_discriminator():
    """Its word table is the one that is given, whatever the generator's."""
    for sharing in ("tied", "gradient_disentangled"):
        objective = make_objective(make_config(sharing))
        given = replaced_tokens.discriminator(fresh("none"), "none")
        params = jax.device_get(objective.started(given, jax.random.key(1)))
        assert jax.tree.structure(params) == jax.tree.structure(fresh(sharing))
        own = replaced_tokens.discriminator(params, sharing)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator.hidden_size": 32}, "config.generator.hidden_size: 32 is over config.model.hidden_size=16"),
        ({"generator.num_layers": 3}, "config.generator.num_layers: 3 is over config.model.num_layers=2"),
        (
            {"generator.num_heads": 3},
            "config.generator.hidden_size: 8 is not divisible by config.generator.num_heads=3",
        ),
        ({"train.logits_chunk": 64}, "config.train.logits_chunk: 64 with config.objective.name=rtd"),
        ({"objective.sentence_order": True, "model.pooler": True}, "config.objective.sentence_order: True"),
        ({"model.attention": "causal"}, "config.objective.name: rtd does not go with config.model.attention=causal"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    config = make_config()
    config.data.sequence_length = 12
    config_lib.validate(config)
    for key, value in changes.items():
        group, name = key.split(".")
        config[group][name] = value
    with pytest.raises(UserError) as caught:
        config_lib.validate(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def tiny(corpus):
    config = run_config(corpus)
    config.model.update(embedding_size=24, pooler=False, hidden_dropout=0.1)
    config.objective.update(name="rtd", next_sentence=False, embedding_sharing="gradient_disentangled")
    config.generator.update(hidden_size=16, num_heads=2, intermediate_size=32)
    config.data.format = "full_sentences"
    config.train.update(num_steps=8, log_norms=True)
    return config


@pytest.fixture(scope="module")
def trained(corpus, compiled, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("rtd") / "run"
    pretraining.pretrain(tiny(corpus), workdir)
    return workdir


@pytest.mark.full
def test_a_killed_run_goes_on_bit_by_bit(trained, corpus, tmp_path):
    """The first checkpoint alone is left, as if the process had died before the second."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    pretraining.pretrain(tiny(corpus), workdir)
    assert logged_rows(workdir) == logged_rows(trained)
    jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load_params(path)[0] for path in (workdir, trained)))
    last = logged_rows(trained)[-1]
    assert {"eval/rtd_loss", "eval/rtd_accuracy", "eval/mlm_loss", "rtd_loss", "grad_norm/generator"} < set(last)
    squares = sum(value**2 for name, value in last.items() if name.startswith("grad_norm/"))
    assert squares == pytest.approx(last["grad_norm"] ** 2, rel=1e-4)


def test_the_model_and_the_generator_are_opened(trained, corpus):
    """The model's held-out figures are those of the run; without a generator there are none."""
    model, generator = models.open_model(trained), models.open_model(trained, part="generator")
    assert model.model.spec.replaced_tokens and not model.model.spec.language_model
    params = checkpoints.load_params(trained)[0]
    word = params["generator"]["encoder"]["embeddings"]["word"]["embedding"]
    difference = params["encoder"]["embeddings"]["word"]["embedding"]
    np.testing.assert_array_equal(generator.params["encoder"]["embeddings"]["word"]["embedding"], word)
    np.testing.assert_array_equal(model.params["encoder"]["embeddings"]["word"]["embedding"], word + difference)
    short = {"sequence_length": 32, "batch_size": 8}
    metrics = evaluation.evaluate(model, str(corpus), batches=2, generator=generator, **short)
    last = logged_rows(trained)[-1]
    for name in ("mlm_loss", "rtd_loss", "rtd_accuracy"):
        assert metrics[name] == pytest.approx(last[f"eval/{name}"], rel=1e-5), name
    few, many = (
        evaluation.evaluate(model, str(corpus), batches=64, generator=generator, sequence_length=32, batch_size=size)
        for size in (8, 128)
    )
    assert few["rows"] == many["rows"] and few["rows"] % 128  # so that the last batch is filled up
    for name in ("mlm_loss", "rtd_loss", "rtd_accuracy"):
        assert few[name] == pytest.approx(many[name], rel=1e-5), name
    filler = FillMask.from_pretrained(trained)
    assert filler.model.model.spec == generator.model.spec
    text = f"the {filler.tokenizer.token(filler.tokenizer.mask_id)}"
    assert len(filler(text, top_k=2)["masks"][0]) == 2
    with pytest.raises(UserError, match="fill-mask needs .* this one has a head for replaced tokens"):
        FillMask(model)
    with pytest.raises(UserError, match="tells replaced tokens"):
        evaluation.evaluate(model, str(corpus), **short)


@pytest.mark.full
def test_a_run_continues_another_ones_models(trained, corpus, tmp_path, capfd, monkeypatch):
    """Both of them from one checkpoint, also where the other run saves a newer one in between."""
    source = shutil.copytree(trained, tmp_path / "source")
    newest, opened = checkpoints.find_step(source, None), []

    def open_model(*args, **kwargs):
        opened.append(models.open_model(*args, **kwargs))
        (source / "checkpoints" / str(newest + 1)).mkdir(exist_ok=True)
        return opened[-1]

    monkeypatch.setattr(initial, "open_model", open_model)
    config = tiny(corpus)
    config.init_from, config.optimizer.learning_rate, config.seed = str(source), 0.0, 1
    config.train.update(num_steps=1, eval_every=0)
    pretraining.pretrain(config, tmp_path / "run")
    assert [model.step for model in opened] == [newest] * 2
    assert f"starts from {source}; its generator too\n" in capfd.readouterr().out
    for part in ("discriminator", "generator"):
        one, other = (models.open_model(path, part=part).params for path in (trained, tmp_path / "run"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)
