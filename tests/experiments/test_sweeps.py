"""Everything but the ablated switch is equal in the arms of each sweep: settings, seeds, text, order."""

import dataclasses
import pathlib

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.data import loader
from experiments import experiment as experiment_lib
from experiments import scales
from experiments.launching import preparing

FOLDER = pathlib.Path(experiment_lib.__file__).parent
PHASES = ({"share": 0.5, "sequence_length": 16}, {"share": 0.5, "sequence_length": 32})
# What differs between the arms of a sweep, beside nothing.
SWITCHES = {
    "masking": {"data.masking", "data.dupe_factor"},
    "input_formats": {"data.format", "objective.next_sentence", "data.batch_size"},
    "objectives": {"objective.next_sentence", "objective.name", "model.attention"},
    "mask_mix": {"data.mask_token_share", "data.random_token_share"},
    "mask_rate": {"data.mask_rate"},
    "mask_unit": {"data.mask_unit"},
}
PAPER_ARMS = {"masking": 2, "input_formats": 4, "objectives": 3, "mask_mix": 6, "mask_rate": 5, "mask_unit": 3}


def load(sweep, scale):
    return experiment_lib.load(FOLDER / f"{sweep}.py", scale)


def jobs_of(experiment, corpus="corpus"):
    """{(arm, seed): (job, config)}."""
    jobs = experiment_lib.jobs(experiment, str(corpus), {})
    return {(job.arm, job.seed): (job, experiment_lib.configured(job.recipe, job.overrides)) for job in jobs}


@pytest.mark.parametrize("scale", scales.SCALES)
@pytest.mark.parametrize("sweep", SWITCHES)
def test_arms_differ_in_the_switch_alone(sweep, scale):
    experiment = load(sweep, scale)
    assert len(experiment.arms) == PAPER_ARMS[sweep]
    jobs = jobs_of(experiment)
    assert len(jobs) == len(experiment.arms) * len(experiment.seeds)
    first = next(iter(experiment.arms))
    for (arm, seed), (job, config) in jobs.items():
        config_lib.validate(config)
        other_job, other = jobs[first, seed]
        values, expected = config_lib.flat(config), config_lib.flat(other)
        differing = {key for key in values if values[key] != expected[key]}
        assert differing <= SWITCHES[sweep] and bool(differing) == (arm != first)
        assert config.seed == seed and config.data.corpus == "corpus"
        assert (job.evaluation, job.fine_tuning) == (other_job.evaluation, other_job.fine_tuning)
    for seed in experiment.seeds[1:]:
        values = config_lib.flat(jobs[first, seed][1]) | {"seed": experiment.seeds[0]}
        assert values == config_lib.flat(jobs[first, experiment.seeds[0]][1])


def test_scales_grow():
    tokens = []
    for scale in scales.SCALES:
        config = next(iter(jobs_of(load("masking", scale)).values()))[1]
        tokens.append(config.train.num_steps * config.data.batch_size * config.data.sequence_length)
    assert tokens == sorted(tokens)
    assert load("masking", "paper").seeds == (0, 1, 2, 3, 4)


def unmasked(batch):
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_weights"])
    ids[rows, batch["masked_positions"][rows, slots]] = batch["masked_labels"][rows, slots]
    return ids


@pytest.mark.parametrize("sweep", ["masking", "objectives", "mask_mix", "mask_rate", "mask_unit"])
def test_arms_read_the_same_text_in_the_same_order(sweep, corpus):
    """The rows before masking are the same bytes in every arm, also where an epoch has ended."""
    experiment = load(sweep, "smoke")
    jobs = jobs_of(experiment, corpus)
    first = next(iter(experiment.arms))
    for (arm, seed), (_, config) in jobs.items():
        for step in (0, 1, 30):
            batch, other = (loader.batch_at(one, step) for one in (config, jobs[first, seed][1]))
            text = batch["input_ids"] if config.objective.name == "ltr" else unmasked(batch)
            np.testing.assert_array_equal(text, unmasked(other), err_msg=f"{arm}, step {step}")
            for name in ("attention_mask", "token_type_ids"):
                np.testing.assert_array_equal(batch[name], other[name])
            if arm != first and sweep in ("mask_mix", "mask_rate"):
                assert not np.array_equal(batch["input_ids"], other["input_ids"])
    if sweep == "objectives":
        pairs, single = (loader.batch_at(jobs[arm, 0][1], 3) for arm in list(experiment.arms)[:2])
        for name in set(pairs) & set(single):
            np.testing.assert_array_equal(pairs[name], single[name])


def test_static_masks_come_again_and_dynamic_ones_do_not(corpus):
    jobs = jobs_of(load("masking", "smoke"), corpus)
    rows = {}
    for arm in ("static", "dynamic"):
        config = jobs[arm, 0][1]
        seen = {}
        for step in range(120):
            batch = loader.batch_at(config, step)
            for text, masked in zip(unmasked(batch), batch["input_ids"], strict=True):
                seen.setdefault(text.tobytes(), set()).add(masked.tobytes())
        rows[arm] = seen
    assert rows["static"].keys() == rows["dynamic"].keys()
    assert max(map(len, rows["static"].values())) == 1  # dupe_factor of the smallest scale
    assert min(map(len, rows["dynamic"].values())) > 1


def test_formats_have_equally_many_tokens_a_step(corpus):
    experiment = preparing.with_equal_tokens(load("input_formats", "smoke"), str(corpus))
    tokens = {}
    for (arm, seed), (_, config) in jobs_of(experiment, corpus).items():
        if seed == 0:
            tokens[arm] = np.mean([loader.batch_at(config, step)["attention_mask"].sum() for step in range(40)])
    middle = np.mean(list(tokens.values()))
    assert all(abs(value - middle) < 0.06 * middle for value in tokens.values()), tokens  # whole rows, 16 or so
    with_phases = dataclasses.replace(
        load("input_formats", "smoke"),
        overrides={**load("input_formats", "smoke").overrides, "data.phases": PHASES, "data.batch_size": 32},
    )
    for (arm, seed), (_, config) in jobs_of(preparing.with_equal_tokens(with_phases, str(corpus)), corpus).items():
        for at, part in zip((0, 20), ("short", "long"), strict=True):
            masks = [loader.batch_at(config, step)["attention_mask"] for step in range(at, at + 20)]
            tokens[arm, part, seed] = np.mean([mask.sum() for mask in masks])
    for part in ("short", "long"):
        by_arm = [tokens[arm, part, 0] for arm in experiment.arms]
        assert max(by_arm) < 1.12 * min(by_arm), (part, by_arm)
    sizes = {arm: changes["data.batch_size"] for arm, changes in experiment.arms.items()}
    assert sizes["sentence-pair"] > sizes["segment-pair"] == 16


def test_electra_reads_its_published_input_and_stable_adamw_keeps_clipping():
    """85 % mask tokens and the rest as it is (google-research/electra); each change from BERT to ModernBERT is one."""
    electra = load("electra", "cpu")
    configs = {arm: config for (arm, seed), (_, config) in jobs_of(electra).items() if seed == 0}
    shares = {arm: (c.data.mask_token_share, c.data.random_token_share) for arm, c in configs.items()}
    assert shares == {"BERT": (0.8, 0.1), "ELECTRA": (0.85, 0.0)}
    modern = load("bert_to_modernbert", "cpu")
    configs = {arm: config for (arm, seed), (_, config) in jobs_of(modern).items() if seed == 0}
    before = config_lib.flat(configs[modern.against["StableAdamW"]])
    values = config_lib.flat(configs["StableAdamW"])
    assert {key for key in values if values[key] != before[key]} == {"optimizer.name"}
    assert values["optimizer.clip_norm"] == 1.0
