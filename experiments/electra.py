"""Compares replaced-token detection with masked language modeling at equal FLOPs (Clark et al. 2020, section 3).

    python -m experiments.launch --experiment=experiments/electra.py --workdir=DIR --scale=cpu

The discriminator has BERT's size. To keep FLOPs equal, the ELECTRA arm makes fewer steps, as its generator and its loss
over every token cost more. The generator has a quarter of the width, as in ELECTRA-small. The arms are compared by
fine-tuning, since their losses measure different tasks.
"""

import dataclasses

from bert_jax import model as model_lib
from bert_jax.model import flops
from bert_jax.objectives import replaced_tokens
from experiments import scales
from experiments.experiment import configured

BERT, ELECTRA = "BERT", "ELECTRA"
_SCALE_OVERRIDES = {
    "smoke": {"generator.hidden_size": 8, "generator.num_heads": 1, "generator.intermediate_size": 16},
    "cpu": {"generator.hidden_size": 32, "generator.num_heads": 1, "generator.intermediate_size": 64},
    "gpu": {"generator.hidden_size": 192, "generator.num_heads": 3, "generator.intermediate_size": 768},
}
# 85 % of the chosen tokens become the mask token and the rest stay (pretrain_helpers.py of google-research/electra);
# BERT's arm has its own 80/10/10.
_INPUT = {"data.mask_token_share": 0.85, "data.random_token_share": 0.0}
# With learned positions, small discriminators learn only the share of replaced tokens, or collapse at higher rates.
_SHARED_OVERRIDES = {"cpu": {"train.num_steps": 4_000, "model.positions": "rotary", "optimizer.learning_rate": 1e-3}}


def get_experiment(scale):
    sizes = _SCALE_OVERRIDES.get(scale, _SCALE_OVERRIDES["gpu"])
    shared = {"objective.next_sentence": False, "model.pooler": False, "data.mask_rate": 0.15}
    shared |= {"data.format": "full_sentences", **_SHARED_OVERRIDES.get(scale, {})}
    experiment = scales.experiment(
        scale,
        question="Is a model that tells replaced tokens from others better than one that fills in masked ones?",
        overrides=shared,
        arms={BERT: {}, ELECTRA: {"objective.name": "rtd", **_INPUT, **sizes}},
        notes=("Both arms are trained with the same FLOPs; the ELECTRA arm makes fewer steps.",),
    )
    steps = _steps_of_equal_cost(scale, experiment)
    arms = {**experiment.arms, ELECTRA: {**experiment.arms[ELECTRA], "train.num_steps": steps}}
    measures = [measure for measure in experiment.measures if not measure.key.startswith("common/")]
    return scales.on_sst2(dataclasses.replace(experiment, arms=arms, measures=measures, evaluation=None), scale)


def _steps_of_equal_cost(scale, experiment):
    vocabulary = int(scales.get(scale).text.tokenizer.split(":")[-1])
    config = configured(experiment.recipe, {**experiment.overrides, **experiment.arms[ELECTRA]})
    config.model.vocab_size = vocabulary
    data, length = config.data, config.data.sequence_length
    slots = round(data.mask_rate * length)
    build = {"vocab_size": vocabulary, "next_sentence": False}
    bert = model_lib.build(config.model, **build).spec
    models = (
        model_lib.build(config.model, **build, language_model=False, replaced_tokens=True).spec,
        replaced_tokens.generator_model(config, vocabulary).spec,
    )
    cost = sum(flops.step_flops(spec, data.batch_size, length, slots) for spec in models)
    return round(config.train.num_steps * flops.step_flops(bert, data.batch_size, length, slots) / cost)
