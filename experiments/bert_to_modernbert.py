"""Goes from BERT to ModernBERT, one switch at a time (Warner et al. 2024, arXiv 2412.13663, section 2).

    python -m experiments.launch --experiment=experiments/bert_to_modernbert.py --workdir=DIR --scale=cpu

Each arm makes one change to the arm before it and is compared with that arm. All arms read the same number of tokens.
Where the changes so far alter the FLOPs of a step by more than 1 %, a second arm of the same name trains with as many
FLOPs as the first arm of the sweep. Gated MLPs have two thirds of the units, the published way to keep their cost.
ModernBERT's local window is 128 tokens of 8,192; here it is a quarter of a row.
"""

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model import flops
from experiments import scales
from experiments.experiment import configured

FIRST = "BERT"
_SCALE_OVERRIDES = {
    "smoke": {"optimizer.learning_rate": 1e-3},
    "cpu": {
        "data.batch_size": 8,  # enough steps for a change to show, in half of the time
        "optimizer.warmup_steps": 200,
        "optimizer.decay_steps": 400,
        "train.num_steps": 1_500,
        "train.eval_every": 500,
    },
}


def get_experiment(scale):
    overrides = {
        "model.pooler": True,
        "objective.next_sentence": True,
        "data.format": "segment_pair",
        "data.mask_rate": 0.15,
        "optimizer.schedule": "linear",
        "optimizer.clip_norm": 1.0,
        **_SCALE_OVERRIDES.get(scale, {}),
    }
    arms, against = _arms(scale, overrides)
    experiment = scales.experiment(
        scale,
        question="Which of the changes from BERT to ModernBERT make the pre-trained model better?",
        overrides=overrides,
        arms=arms,
        against=against,
        notes=(
            "Each arm is compared with the one before it, of which it is one change.",
            "Held-out losses of all arms are of the same rows and masks, 15 % of the tokens.",
        ),
    )
    # Models this small have learned nothing yet that a fine-tuned task would show: all arms stay at chance.
    return scales.with_tasks(experiment, (), scale) if scale == "cpu" else experiment


def _changes(config):
    """Returns (name, overrides) of each change, in order."""
    no_biases = dict.fromkeys((f"model.{kind}_bias" for kind in ("attention", "mlp", "norm", "head")), False)
    window = max(2, min(128, config.data.sequence_length // 4))
    masks = {"data.mask_rate": 0.3}
    if config.data.phases:  # their prediction slots are for 15 % masks
        slots = [{**phase, "max_predictions": 2 * phase.get("max_predictions", 0)} for phase in config.data.phases]
        masks["data.phases"] = tuple(slots)
    return (
        ("pre-norm", {"model.norm_place": "pre"}),
        ("GeGLU", {"model.mlp": "gated", "model.intermediate_size": config.model.intermediate_size * 2 // 3}),
        ("rotary", {"model.positions": "rotary"}),
        ("no biases", no_biases),
        ("local and global", {"model.local_window": window, "model.global_every": 3}),
        ("no NSP", {"objective.next_sentence": False, "model.pooler": False}),
        ("30 % masks", masks),
        # ModernBERT trains without clipping; that would be a second change.
        ("StableAdamW", {"optimizer.name": "stable_adamw"}),
        ("trapezoidal", {"optimizer.schedule": "trapezoidal", "optimizer.decay_shape": "sqrt"}),
    )


def _arms(scale, overrides):
    experiment = scales.get(scale)
    base = {**experiment.overrides, **overrides}
    vocabulary = int(experiment.text.tokenizer.split(":")[-1])
    config = configured(experiment.recipe, base)
    steps, cost = config.train.num_steps, _flops(config, vocabulary)
    arms, against, changed = {FIRST: {}}, {}, {}
    before = before_at_equal_flops = FIRST
    for name, changes in _changes(config):
        changed |= changes
        arms[name], against[name] = dict(changed), before
        own_steps = round(steps * cost / _flops(configured(experiment.recipe, {**base, **changed}), vocabulary))
        equal = name if abs(own_steps / steps - 1) <= 0.01 else f"{name}, equal FLOPs"
        if equal != name:
            arms[equal] = {**changed, "train.num_steps": own_steps}
            against[equal] = before_at_equal_flops
        before, before_at_equal_flops = name, equal
    return arms, against


def _flops(config, vocabulary):
    """Returns the mean FLOPs of a step, by the shapes of the phases."""
    pair = config.objective.next_sentence
    spec = model_lib.build({**config.model, "vocab_size": 0}, vocabulary, next_sentence=pair).spec
    total = 0.0
    for phase in config_lib.phases(config):
        data = phase.data
        slots = data.max_predictions or round(data.mask_rate * data.sequence_length)
        cost = flops.step_flops(spec, data.batch_size, data.sequence_length, slots)
        total += cost * (phase.stop - phase.start)
    return total / config_lib.num_steps(config)
