"""The recipes of configs/: each can be trained, and is of the published architecture and size."""

import pathlib

import jax
import numpy as np
import pytest

import configs
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.interop import model_config
from bert_jax.planning import compilation
from bert_jax.training import step as step_lib
from bert_jax.training.optimizer import run_schedule

# Parameters of the bare encoder, as the parity test below finds them in transformers' bare class. With a pooler: ALBERT
# and BERT (mbert); the objectives of the others train none. Published are those of ALBERT Base, DistilBERT, ELECTRA
# Small (the discriminator), ModernBERT Base and EuroBERT 210m.
PARAMETERS = {
    "albert_base": 11_683_584,
    "albert_large": 17_683_968,
    "albert_xlarge": 58_724_864,
    "albert_xxlarge": 222_595_584,
    "deberta_base": 138_601_728,
    "deberta_large": 405_163_008,
    "deberta_v2_xlarge": 884_593_152,
    "deberta_v3_base": 183_831_552,
    "deberta_v3_large": 434_012_160,
    "deberta_v3_small": 141_304_320,
    "deberta_v3_xsmall": 70_682_112,
    "distilbert": 66_362_880,
    "electra_base": 108_891_648,
    "electra_large": 334_092_288,
    "electra_small": 13_483_008,
    "esm2_8m": 7_408_960,
    "esm2_35m": 33_269_280,
    "ettin_17m": 16_797_440,
    "ettin_32m": 31_883_136,
    "ettin_68m": 68_144_640,
    "ettin_150m": 149_014_272,
    "ettin_400m": 394_781_696,
    "eurobert_210m": 211_766_016,
    "eurobert_610m": 607_874_688,
    "eurobert_2b": 2_107_590_912,
    "gte_base": 136_776_192,
    "gte_large": 434_139_136,
    "gte_multilingual_base": 305_368_320,
    "longformer_base": 148_068_864,
    "mbert": 177_853_440,
    "mmbert_base": 306_939_648,
    "mmbert_small": 140_493_696,
    "modernbert_base": 149_014_272,
    "modernbert_large": 394_781_696,
    "xlm_r_base": 277_453_056,
    "xlm_r_large": 558_840_832,
}


def _sizes(hidden, layers, heads, inner):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (hidden, layers, heads, inner), strict=True))


_ALBERT = {"model_type": "albert"}  # the class's defaults are those of XXLarge v2
_ELECTRA = {"model_type": "electra"}
_RELATIVE = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": "c2p|p2c",
    "max_relative_positions": -1,
}
_DEBERTA = {"model_type": "deberta"} | _RELATIVE
_V2 = {"position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
_DEBERTA_V2 = {"model_type": "deberta-v2", "vocab_size": 128100} | _RELATIVE | _V2
_MODERNBERT = {"model_type": "modernbert", "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
_ETTIN = _MODERNBERT | {"local_rope_theta": 160_000.0}
_MMBERT = _MODERNBERT | {"vocab_size": 256_000, "local_rope_theta": 160_000.0}
_EUROBERT = {"model_type": "eurobert", "rope_theta": 250_000, "tie_word_embeddings": False}
_GTE = {"model_type": "new", "rope_theta": 160_000, "max_position_embeddings": 8192}
_ESM2 = {"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True}
_ESM2 |= {"position_embedding_type": "rotary", "layer_norm_eps": 1e-5, "emb_layer_norm_before": False}
_ESM2 |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_XLM_R = {"model_type": "xlm-roberta", "vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_XLM_R |= {"layer_norm_eps": 1e-5}

_LONGFORMER = {"model_type": "longformer", "attention_window": [512] * 12, "vocab_size": 50265, "type_vocab_size": 1}
_LONGFORMER |= {"layer_norm_eps": 1e-5, "max_position_embeddings": 4098}

# What the published config.json files say that is not their class's default.
PUBLISHED = {
    "albert_base": _ALBERT | _sizes(768, 12, 12, 3072),
    "albert_large": _ALBERT | _sizes(1024, 24, 16, 4096),
    "albert_xlarge": _ALBERT | _sizes(2048, 24, 16, 8192),
    "albert_xxlarge": _ALBERT | _sizes(4096, 12, 64, 16384),
    "deberta_base": _DEBERTA | _sizes(768, 12, 12, 3072),
    "deberta_large": _DEBERTA | _sizes(1024, 24, 16, 4096),
    "deberta_v2_xlarge": _DEBERTA_V2 | _sizes(1536, 24, 24, 6144) | {"conv_kernel_size": 3, "conv_act": "gelu"},
    "deberta_v3_xsmall": _DEBERTA_V2 | _sizes(384, 12, 6, 1536),
    "deberta_v3_small": _DEBERTA_V2 | _sizes(768, 6, 12, 3072),
    "deberta_v3_base": _DEBERTA_V2 | _sizes(768, 12, 12, 3072),
    "deberta_v3_large": _DEBERTA_V2 | _sizes(1024, 24, 16, 4096),
    "distilbert": {"model_type": "distilbert"},
    "electra_small": _ELECTRA | _sizes(256, 12, 4, 1024),
    "electra_base": _ELECTRA | _sizes(768, 12, 12, 3072) | {"embedding_size": 768},
    "electra_large": _ELECTRA | _sizes(1024, 24, 16, 4096) | {"embedding_size": 1024},
    "esm2_8m": _ESM2 | _sizes(320, 6, 20, 1280),
    "esm2_35m": _ESM2 | _sizes(480, 12, 20, 1920),
    "ettin_17m": _ETTIN | _sizes(256, 7, 4, 384),
    "ettin_32m": _ETTIN | _sizes(384, 10, 6, 576),
    "ettin_68m": _ETTIN | _sizes(512, 19, 8, 768),
    "ettin_150m": _ETTIN | _sizes(768, 22, 12, 1152),
    "ettin_400m": _ETTIN | _sizes(1024, 28, 16, 2624),
    "eurobert_210m": _EUROBERT | _sizes(768, 12, 12, 3072) | {"num_key_value_heads": 12},
    "eurobert_610m": _EUROBERT | _sizes(1152, 26, 18, 4096) | {"num_key_value_heads": 6},
    "eurobert_2b": _EUROBERT | _sizes(2304, 32, 18, 6144) | {"num_key_value_heads": 6},
    "gte_base": _GTE | _sizes(768, 12, 12, 3072) | {"rope_theta": 500_000, "type_vocab_size": 0},
    "gte_large": _GTE | _sizes(1024, 24, 16, 4096) | {"type_vocab_size": 2},
    "gte_multilingual_base": _GTE | _sizes(768, 12, 12, 3072) | {"vocab_size": 250048},
    "longformer_base": _LONGFORMER,
    "mbert": {"model_type": "bert", "vocab_size": 119547},
    "mmbert_base": _MMBERT | _sizes(768, 22, 12, 1152),
    "mmbert_small": _MMBERT | _sizes(384, 22, 6, 1152),
    "modernbert_base": _MODERNBERT | _sizes(768, 22, 12, 1152),
    "modernbert_large": _MODERNBERT | _sizes(1024, 28, 16, 2624),
    "xlm_r_base": _XLM_R | _sizes(768, 12, 12, 3072),
    "xlm_r_large": _XLM_R | _sizes(1024, 24, 16, 4096),
}
# Keys of config.model that no config.json says: how the model is trained and run.
_OWN = {"pooler", "scan_layers", "mask_decoder", "dtype", "attention_kernel", "remat", "attention", "initializer"}
_OWN |= {"attention_output_dropout"}  # which transformers' configs cannot say

RECIPES = sorted(path.stem for path in pathlib.Path(configs.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name):
    config = config_lib.load_recipe(name)
    config.data.corpus = "DIR"
    config_lib.validate(config)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_recipes_have_the_published_architecture_and_size(name):
    config = config_lib.load_recipe(name)
    published = model_config.to_model(PUBLISHED[name], pathlib.Path("config.json"))
    assert {key: value for key, value in config.model.items() if key not in _OWN} == {
        key: value for key, value in published.items() if key not in _OWN
    }
    assert model_lib.parameter_count(_bare(config)) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["mmbert_base", "ettin_32m"])
@pytest.mark.parametrize("version", [4, 5])
def test_config_files_of_the_hub_are_read_as_the_recipe(name, version):
    """Files as transformers 4 wrote them, with keys of the training code in them, and as version 5 does."""
    sizes = {key: value for key, value in PUBLISHED[name].items() if "theta" not in key}
    file = sizes | {
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "cls_token_id": 1, "bos_token_id": 2,
        "classifier_pooling": "mean", "decoder_bias": True, "deterministic_flash_attn": False, "embedding_dropout": 0.0,
        "gradient_checkpointing": False, "hidden_activation": "gelu", "initializer_cutoff_factor": 2.0,
        "layer_norm_eps": 1e-05, "local_attention": 128, "mask_token_id": 4, "max_position_embeddings": 8192,
        "mlp_dropout": 0.0, "norm_bias": False, "norm_eps": 1e-05, "position_embedding_type": "sans_pos",
        "repad_logits_with_grad": False, "sparse_pred_ignore_index": -100, "sparse_prediction": False,
    }  # fmt: skip
    base = {"rope_type": "default", "rope_theta": 160_000}
    if version == 4:
        file |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 160_000.0}
    else:
        layers = range(file["num_hidden_layers"])
        file["layer_types"] = ["sliding_attention" if i % 3 else "full_attention" for i in layers]
        file["rope_parameters"] = dict.fromkeys(("full_attention", "sliding_attention"), base)
    model = config_lib.load_recipe(name).model
    read = model_config.to_model(file, pathlib.Path("config.json"))
    assert {key: value for key, value in model.items() if key not in _OWN} == {
        key: value for key, value in read.items() if key not in _OWN
    }


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_recipes_have_as_many_parameters_as_transformers(name):
    import torch
    import transformers

    from experiments.parity import new

    transformers.AutoModel.register(new.NewConfig, new.NewModel, exist_ok=True)
    has_no_pooler = name.startswith(("xlm_r", "esm2", "longformer"))
    pooler = {"add_pooling_layer": False} if has_no_pooler else {}
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**PUBLISHED[name]), **pooler)
    read = {key: parameter for key, parameter in model.named_parameters() if not key.startswith("contact_head.")}
    assert sum(parameter.numel() for parameter in read.values()) == PARAMETERS[name]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {"mmbert_small"}))  # Base's program at another width
def test_a_step_of_every_recipe_traces(name):
    """On abstract values of the recipe's sizes, on 8 devices; phases that differ in batch size are the same program."""
    config = config_lib.load_recipe(name)
    config.model.num_layers = 4 if config.model.local_window else 2  # one of each kind
    config.generator.num_layers = min(1, config.generator.num_layers)
    num_steps, mesh = config_lib.num_steps(config), sharding.make_mesh(config.mesh)
    config_lib.check_devices(config, mesh.size)
    heads = objective_lib.heads(config.objective)
    model = model_lib.build(config.model, config.model.vocab_size, platform="cpu", **heads)
    teacher = _teacher(config) if config.objective.name == "distillation" else None
    state = step_lib.abstract_state(config, model, mesh, num_steps)
    train_step = step_lib.make_train_step(config, model, mesh, num_steps, teacher)
    key = jax.eval_shape(lambda: step_lib.dropout_key(config))
    for phase in config_lib.phases(config):
        if phase.index != phase.stream:
            continue
        shapes = compilation.batch_shapes(config, phase.data)
        batch = {array: jax.ShapeDtypeStruct(*shape) for array, shape in shapes.items()}
        taught = [jax.eval_shape(teacher.init, jax.random.key(0))] if teacher else []
        new, metrics = jax.eval_shape(train_step, state, batch, jax.ShapeDtypeStruct((), np.int32), key, *taught)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert metrics["loss"].shape == ()


def test_published_course_of_the_recipes():
    load = config_lib.load_recipe
    modern, euro, albert, electra = map(load, ("modernbert_base", "eurobert_210m", "albert_base", "electra_base"))
    phases = config_lib.phases(modern)
    assert [phase.data.batch_size for phase in phases] == [768, 2048, 3328, 4608, 576, 576]
    tokens = [(p.stop - p.start) * p.data.batch_size * p.data.sequence_length for p in phases]
    wanted = [50e9, 1_719e9, 250e9, 50e9]
    np.testing.assert_allclose([sum(tokens[:3]), sum(tokens[:4]), *tokens[4:]], wanted, rtol=1e-3)
    pretraining, annealing = config_lib.phases(euro)
    assert (pretraining.data.mask_rate, annealing.data.mask_rate) == (0.5, 0.1)
    assert euro.optimizer.decay_steps == annealing.stop - annealing.start
    assert euro.optimizer.decay_shape == "linear"
    assert [config_lib.in_phase(euro, phase).model.rotary_base for phase in (pretraining, annealing)] == [1e4, 2.5e5]
    assert (albert.optimizer.name, albert.optimizer.learning_rate, albert.data.batch_size) == ("lamb", 1.76e-3, 4096)
    assert (electra.generator.hidden_size, electra.objective.discriminator_weight) == (256, 50.0)


@pytest.mark.parametrize(
    ("name", "rows", "peaks", "decays", "final"),
    [
        ("modernbert_base", (4608, 576, 576), (8e-4, 3e-4, 3e-4), (1e-5, 1e-5, 1e-5), 3e-7),
        ("modernbert_large", (4928, 616, 624), (5e-5, 5e-5, 5e-5), (1e-6, 1e-6, 1e-6), 5e-8),
        ("mmbert_base", (4608, 4608, 4608), (8e-4, 8e-4, 8e-4), (8e-5, 8e-5, 8e-5), 1.6e-5),
        ("mmbert_small", (4608, 4608, 4608), (8e-4, 4e-4, 4e-4), (8e-5, 4e-5, 4e-5), 1.6e-5),
    ],
)
def test_published_rates_of_the_last_phases(name, rows, peaks, decays, final):
    """Pre-training, context extension and decay, as the yamls of AnswerDotAI/ModernBERT and JHU-CLSP/mmBERT say."""
    config = config_lib.load_recipe(name)
    phases = config_lib.phases(config)
    begun = [next(s for s in config_lib.schedules(config) if s.start <= p.start < s.stop) for p in phases[-3:]]
    assert tuple(phase.data.batch_size for phase in phases[-3:]) == rows
    assert tuple(schedule.settings["learning_rate"] for schedule in begun) == peaks
    settings = [config_lib.in_phase(config, phase) for phase in phases[-3:]]
    steps = [one.optimizer.weight_decay * peak for one, peak in zip(settings, peaks, strict=True)]
    np.testing.assert_allclose(steps, decays)
    assert [one.model.rotary_base for one in settings] == [10_000, 160_000, 160_000]
    assert [phase.data.sequence_length for phase in phases[-3:]] == [1024, 8192, 8192]
    schedule = run_schedule(config, phases[-1].stop)
    assert float(schedule(phases[-1].start - 1)) == pytest.approx(peaks[1])
    assert float(schedule(phases[-1].start)) == pytest.approx(peaks[2])
    assert float(schedule(phases[-1].stop)) == pytest.approx(final, rel=1e-3)
    if name.startswith("mmbert"):
        assert [(p.data.mask_rate, round(1 / p.data.temperature, 6), p.data.first_corpora) for p in phases[-3:]] == [
            (0.3, 0.7, 60), (0.15, 0.5, 110), (0.05, 0.3, 0)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "peak", "decay", "local"),
    [
        ("ettin_17m", 3e-3, 3e-4, (10_000, 10_000, 160_000)),
        ("ettin_32m", 3e-3, 3e-4, (10_000, 160_000, 160_000)),
        ("ettin_68m", 3e-3, 3e-4, (10_000, 160_000, 160_000)),
        ("ettin_150m", 8e-4, 1e-5, (10_000, 160_000, 160_000)),
        ("ettin_400m", 5e-4, 1e-5, (10_000, 160_000, 160_000)),
    ],
)
def test_published_course_of_ettin(name, peak, decay, local):
    """Pre-training, extension and decay, as the yamls of JHU-CLSP/ettin-encoder-vs-decoder say."""
    config = config_lib.load_recipe(name)
    phases = config_lib.phases(config)
    tokens = [(p.stop - p.start) * p.data.batch_size * p.data.sequence_length for p in phases]
    np.testing.assert_allclose(tokens, [1_700e9, 250e9, 50e9], rtol=1e-3)
    assert [(p.data.sequence_length, p.data.mask_rate) for p in phases] == [(1024, 0.3), (8192, 0.3), (8192, 0.15)]
    settings = [config_lib.in_phase(config, phase) for phase in phases]
    assert [one.model.rotary_base for one in settings] == [10_000, 160_000, 160_000]
    assert tuple(one.model.local_rotary_base or one.model.rotary_base for one in settings) == local
    steps = [one.optimizer.weight_decay * one.optimizer.learning_rate for one in settings]
    np.testing.assert_allclose(steps, [decay] * 3)
    schedule = run_schedule(config, phases[-1].stop)
    rates = [float(schedule(phase.stop - 1)) for phase in phases]
    np.testing.assert_allclose(rates, [peak, peak / 2, 0.04 * peak / 2], rtol=0.02)
    assert float(schedule(phases[-1].start)) == pytest.approx(peak / 2)


def _bare(config):
    heads = {"next_sentence": False, "language_model": False}
    model = model_lib.build(config.model, config.model.vocab_size, **heads, platform="cpu")
    return jax.eval_shape(model.init, jax.random.key(0))


def _teacher(config):
    settings = config_lib.base().model
    settings.num_layers = 2
    return model_lib.build(settings, config.model.vocab_size, next_sentence=False, platform="cpu")
