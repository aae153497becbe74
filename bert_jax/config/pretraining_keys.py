"""Lists the configuration keys of pre-training; `bert_jax.config.keys` says what is derived from them."""

import dataclasses

from bert_jax.config.key_groups import (
    COUNT,
    IN_PHASES,
    LARGEST_SEED,
    LARGEST_WORKERS,
    MAY_CHANGE,
    ROWS,
    SMALLEST_EPSILON,
    TOKENS,
    group,
    key_of,
)
from bert_jax.config.mesh import BATCH_AXES, OPTIMIZER_STATE
from bert_jax.config.model_keys import MODEL_KEYS
from bert_jax.config.objective import OBJECTIVES
from bert_jax.config.schema import Key

PAIR_FORMATS = ("segment_pair", "sentence_pair")
LOGGERS = ("tensorboard", "wandb", "mlflow")  # choices of config.train.loggers; runs/loggers.py opens them
FORMATS = (*PAIR_FORMATS, "full_sentences", "doc_sentences")

_START = {
    "seed": key_of(
        "start", 0, "Seeds parameters, dropout, masks and the order of the data.", {"at_most": LARGEST_SEED}
    ),
    "init_from": key_of(
        "start",
        "",
        "Starts from this model: a run's workdir (WORKDIR@STEP: a checkpoint of it), or a Hugging Face directory or "
        "hub name.",
        {"empty": "random parameters"},
    ),
    "init_state": key_of(
        "start",
        "parameters",
        "What is taken from init_from: parameters; of a run also the optimizer's moments; or both and the number of "
        "steps done, from which this run goes on.",
        {"choices": ("parameters", "moments", "run")},
    ),
    "init_positions": key_of(
        "start",
        "",
        "How a learned table of positions gets the rows that init_from lacks: repeated (Longformer, section 5) or "
        "stretched.",
        {"choices": ("", "tile", "interpolate"), "empty": "as many rows as init_from has"},
    ),
    "model_from_init": key_of("start", False, "Takes the architecture (config.model) from init_from too."),
    "init_layers": key_of(
        "start", (), "Starts the layers here from these layers of init_from, counted from 0.", {"empty": "all layers"}
    ),
    "init_long": key_of(
        "start",
        False,
        "Gives the model of init_from the windows and global tokens of config.model; maps of global tokens start as "
        "those of all tokens (Longformer, section 5).",
    ),
    "init_grow": key_of(
        "start", False, "Starts a larger model than init_from by tiling its parameters (ModernBERT, section 2.2)."
    ),
}

_OBJECTIVE = group(
    "objective",
    "objective",
    name=("mlm", "What is learned from tokens; the objectives are listed in the documentation.",
          {"choices": tuple(OBJECTIVES)}),
    next_sentence=(True, "Learns whether segment B follows segment A or is another document's (BERT, section 3.1)."),
    sentence_order=(False, "Learns whether two consecutive segments were swapped (ALBERT, section 3.1)."),
    discriminator_weight=(
        50.0,
        "rtd: weight of the discriminator's loss beside the generator's (ELECTRA, section 3.1).",
    ),
    embedding_sharing=(
        "tied",
        "rtd: how generator and discriminator share embeddings (ELECTRA, section 3.2; DeBERTa v3, section 3.3).",
        {"choices": ("tied", "gradient_disentangled", "none")},
    ),
)  # fmt: skip

_GENERATOR = {
    f"generator.{size}": key_of(
        "objective", 0, doc, {"falls_back_to": f"model.{size}", "at_most": MODEL_KEYS[f"model.{size}"].at_most}
    )
    for size, doc in {
        "hidden_size": "rtd: units of the generator's hidden states; what else it is made of, config.model says.",
        "num_layers": "rtd: layers of the generator.",
        "num_heads": "rtd: attention heads of the generator.",
        "intermediate_size": "rtd: units inside the MLPs of the generator.",
    }.items()
}
GENERATOR_SIZES = tuple(name.partition(".")[2] for name in _GENERATOR)

_DISTILLATION = group(
    "distillation",
    "objective",
    teacher=("", "Teacher model, with the corpus's vocabulary.", {"is_path": True} | MAY_CHANGE),
    temperature=(2.0, "Temperature of the distributions that are compared (DistilBERT, section 2).", {"above": 0}),
    soft_weight=(5.0, "Weight of the divergence from the teacher's distributions."),
    mlm_weight=(2.0, "Weight of the masked-token loss."),
    cosine_weight=(1.0, "Weight of the cosine distance between the last hidden states."),
    positions=(
        "masked",
        "Tokens whose distributions are compared.",
        {"choices": ("masked", "all")},
    ),
)

_DATA = group(
    "data",
    "data",
    corpus=(
        "",
        "Directory that `prepare` wrote, or several separated by commas.",
        {"is_path": True} | MAY_CHANGE,
    ),
    old_corpus=(
        "",
        "Corpus of the text that init_from learned; its held-out part is evaluated too (eval_old/...).",
        {"is_path": True, "empty": "none"} | MAY_CHANGE,
    ),
    weights=((), "Shares of several corpora.", IN_PHASES | {"empty": "shares by size and temperature"}),
    temperature=(
        1.0,
        "Flattens the shares of several corpora: share ~ size ** (1 / temperature).",
        IN_PHASES | {"at_least": 0.1},
    ),
    first_corpora=(
        0,
        "Reads the first so many of the corpora alone, for phases that add languages (mmBERT, section 3).",
        IN_PHASES | {"empty": "all"},
    ),
    format=(
        "segment_pair",
        "How sentences make an input (RoBERTa, section 4.2).",
        IN_PHASES | {"choices": FORMATS},
    ),
    sequence_length=(512, "Tokens of a row, special tokens included; no phase is longer.", IN_PHASES | COUNT | TOKENS),
    batch_size=(256, "Rows of the global batch.", IN_PHASES | COUNT | ROWS),
    phases=((), "Dicts of `share` (of the run's steps) and what differs: keys of config.data, and dotted keys of other "
            "groups, in order.", {"empty": "one phase"}),
    pair_repeats=(1, "Different pairings of the same text that epochs cycle through.",
                  IN_PHASES | COUNT | {"at_most": 10_000}),
    short_target_share=(
        0.1,
        "Share of pairs that are made shorter (BERT, appendix A.2).",
        IN_PHASES | {"at_most": 1, "noun": "a share"},
    ),
    masking=(
        "dynamic",
        "Fresh masks each epoch, or dupe_factor fixed ones for each instance (RoBERTa, section 4.1).",
        IN_PHASES | {"choices": ("dynamic", "static")},
    ),
    dupe_factor=(10, "Static masking: masks that each instance is seen with.", IN_PHASES | COUNT),
    mask_unit=(
        "token",
        "What is masked together: tokens, whole words, spans of words (SpanBERT, section 3.1) or n-grams (ALBERT, "
        "section 3.1); of a word that is too long for it, a random run of its tokens.",
        IN_PHASES | {"choices": ("token", "whole_word", "span", "ngram")},
    ),
    mask_rate=(
        0.15,
        "Share of the tokens that are predicted, of those that are neither special nor padding.",
        IN_PHASES | {"above": 0, "below": 1, "noun": "a share"},
    ),
    mask_token_share=(
        0.8,
        "Share of the predicted tokens that become the mask token.",
        IN_PHASES | {"at_most": 1, "noun": "a share"},
    ),
    random_token_share=(
        0.1,
        "Share of the predicted tokens that become a random ordinary token; the rest stay.",
        IN_PHASES | {"at_most": 1, "noun": "a share"},
    ),
    max_predictions=(0, "Prediction slots of a row.",
                     IN_PHASES | TOKENS | {"empty": "as many as mask_rate can ask for"}),
    span_p=(
        0.2,
        "Span lengths in words are geometric with this p, clipped (SpanBERT, section 3.1).",
        IN_PHASES | {"above": 0, "at_most": 1, "noun": "a probability"},
    ),
    span_max_words=(10, "Words of the longest span.", IN_PHASES | COUNT),
    ngram_max=(3, "Words of the longest n-gram; p(n) ~ 1/n (ALBERT, section 3.1).", IN_PHASES | COUNT),
    packing=(
        False,
        "Puts several short instances in one row, with attention and positions apart; batch_size counts rows.",
        IN_PHASES,
    ),
    workers=(0, "Processes that prepare batches.",
             {"empty": "a thread of the run's process", "at_most": LARGEST_WORKERS} | MAY_CHANGE),
    prefetch=(2, "Batches held ready.", {"at_most": 10_000} | MAY_CHANGE),
)  # fmt: skip

MESH = group(
    "mesh",
    "layout",
    **{
        axis: (default, doc, {"at_least": -1, "empty": "the devices that the other axes leave", "empty_value": -1})
        for axis, default, doc in (
            ("data", -1, "Devices among which rows are divided."),
            ("fsdp", 1, "Devices among which rows and each parameter are divided."),
            ("tensor", 1, "Devices among which heads and MLP units are divided."),
        )
    },
    across_slices=(
        "data",
        "Axis that spans TPU slices (DCN); the others stay within one (ICI).",
        {"choices": BATCH_AXES},
    ),
)
MESH = {name: dataclasses.replace(key, resumable=True) for name, key in MESH.items()}

_MOMENTS = group(
    "mesh",
    "layout",
    optimizer_state=(
        "auto",
        "Moments on devices with the same parameters: whole on each, or a part of them on each of `data` (ZeRO's first "
        "stage); auto: split on TPUs and GPUs.",
        {"choices": OPTIMIZER_STATE} | MAY_CHANGE,
    ),
)

_OPTIMIZER = group(
    "optimizer",
    "optimizer",
    name=(
        "adamw",
        "Update rule: AdamW, LAMB (You et al. 2020) or StableAdamW (Wortsman et al. 2023, algorithm 2).",
        {"choices": ("adamw", "lamb", "stable_adamw")},
    ),
    learning_rate=(1e-4, "Peak learning rate.", IN_PHASES),
    schedule=(
        "linear",
        "Course of the rate after warm-up; trapezoidal: constant, then a final decay.",
        {"choices": ("linear", "cosine", "trapezoidal", "constant")} | IN_PHASES,
    ),
    warmup_steps=(10_000, "Steps over which the rate rises to its peak.", IN_PHASES),
    decay_steps=(0, "trapezoidal: steps of the final decay.", {"empty": "a tenth of the run"} | IN_PHASES),
    decay_shape=(
        "linear",
        "trapezoidal: shape of the final decay.",
        {"choices": ("linear", "sqrt", "cosine")} | IN_PHASES,
    ),
    final_fraction=(
        0.0,
        "Share of the peak rate at the last step.",
        {"at_most": 1, "noun": "a share of the peak"} | IN_PHASES,
    ),
    b1=(0.9, "Decay of the first moment.", {"below": 1}),
    b2=(0.999, "Decay of the second moment.", {"below": 1}),
    epsilon=(
        1e-6,
        "Added to the root of the second moment; zero would divide by zero where gradients are zero.",
        {"at_least": SMALLEST_EPSILON},
    ),
    bias_correction=(
        True,
        "Divides Adam's moments by what they lack in the first steps (Kingma & Ba 2015, section 3); the code of BERT, "
        "ALBERT, ELECTRA and DeBERTa does not.",
    ),
    weight_decay=(0.01, "Decoupled weight decay, as a share of the rate.", IN_PHASES),
    decay_all=(False, "Decays biases and norms too, not matrices alone (RoBERTa in fairseq, EuroBERT)."),
    clip_norm=(1.0, "Largest global norm of a gradient.", {"empty": "no clipping"}),
    decoupled=(
        False,
        "rtd: trains generator and discriminator with an optimizer each, so that each gradient is clipped by its own "
        "norm (DeBERTa v3).",
    ),
)

# The keys that make a learning-rate schedule: a phase that sets one of them begins a new one.
SCHEDULE = tuple(
    f"optimizer.{key}"
    for key in ("learning_rate", "schedule", "warmup_steps", "decay_steps", "decay_shape", "final_fraction")
)

_TRAIN = group(
    "train",
    "logging",
    num_steps=(
        1_000_000,
        "Steps of the run.",
        {"role": "length", "empty": "what num_tokens makes"} | MAY_CHANGE,
    ),
    num_tokens=(
        0,
        "Length of the run in tokens (rows x sequence_length x steps), instead of num_steps.",
        {"role": "length", "empty": "what num_steps makes", "at_most": 2**63 - 1} | MAY_CHANGE,
    ),
    microbatches=(
        1,
        "Parts of the batch whose gradients are summed before a step.",
        {
            "role": "layout",
            "empty": "the fewest that fit the memory",
            "empty_word": "auto",
        }
        | COUNT
        | ROWS
        | MAY_CHANGE,
    ),
    memory_check=(
        "refuse",
        "What happens to a run whose steps need more memory than is free, as estimated before they are compiled: "
        '"warn" goes on, "off" does not estimate.',
        {"role": "layout", "choices": ("refuse", "warn", "off")} | MAY_CHANGE,
    ),
    logits_chunk=(
        0,
        "Predictions whose vocabulary logits a device holds at once.",
        {"role": "layout", "empty": "all of a microbatch"} | MAY_CHANGE,
    ),
    log_norms=(
        False,
        "Logs the norms of each layer's gradient and output; costs one more pass on each step that is logged.",
        MAY_CHANGE,
    ),
    compilation_cache=(
        "auto",
        'Directory of compiled programs; "auto": JAX\'s own if set, else WORKDIR/compiled.',
        {"role": "layout", "is_path": True, "empty": "no cache"} | MAY_CHANGE,
    ),
    log_every=(100, "Steps between logged rows.", COUNT | MAY_CHANGE),
    eval_every=(10_000, "Steps between evaluations.", {"empty": "no evaluation"} | MAY_CHANGE),
    eval_batches=(32, "Batches of an evaluation.", COUNT),
    eval_mask_rate=(
        0.0,
        "Share of the tokens that evaluations predict, the same in all phases (ModernBERT: 0.15 beside 0.3).",
        {"below": 1, "noun": "a share", "falls_back_to": "data.mask_rate"},
    ),
    eval_batch_size=(0, "Rows of an evaluation's batch.", {"falls_back_to": "data.batch_size"} | ROWS),
    checkpoint_every=(1_000, "Steps between checkpoints.", {"role": "checkpoints"} | COUNT | MAY_CHANGE),
    checkpoint_minutes=(
        0.0,
        "Minutes after the last checkpoint at which another is saved, beside those by steps.",
        {"role": "checkpoints", "empty": "by steps alone"} | MAY_CHANGE,
    ),
    emergency_dir=(
        "",
        "Directory on each host's own disk that a run stopped by a signal writes its state to before the checkpoint; "
        "goes on from it if the checkpoint was not completed.",
        {"role": "checkpoints", "empty": "none"} | MAY_CHANGE,
    ),
    keep_newest=(3, "Newest checkpoints to keep.", {"role": "checkpoints"} | COUNT | MAY_CHANGE),
    keep_best=(
        1,
        "Best checkpoints to keep, by the objective's held-out loss, of the steps that were evaluated.",
        {"role": "checkpoints", "empty": "none"} | MAY_CHANGE,
    ),
    keep_every=(
        0,
        "Keeps the checkpoint of every n-th step for ever; a multiple of checkpoint_every.",
        {"role": "checkpoints", "empty": "none"} | MAY_CHANGE,
    ),
    hang_seconds=(
        0.0,
        "Seconds without a finished step after which every process writes its stacks to WORKDIR/hang-PROCESS.txt and "
        "ends with code 75; compilation, evaluation and saving may take ten times as long, and an hour at least.",
        {"empty": "no watchdog", "at_most": 1_000_000} | MAY_CHANGE,
    ),
    loggers=(
        ("tensorboard",),
        f"Loggers that get the rows of metrics.jsonl too, of {', '.join(LOGGERS)} (wandb and mlflow are packages to "
        "install).",
        {"empty": "none"} | MAY_CHANGE,
    ),
    tensorboard=(True, 'False takes "tensorboard" out of loggers.', MAY_CHANGE),
    progress=(True, "Prints a progress line.", MAY_CHANGE),
    report=(True, "Writes WORKDIR/report.html after each evaluation and at the end.", MAY_CHANGE),
)

PROFILE = group(
    "profile",
    "logging",
    first_step=(10, "First traced step, counted from where this process starts.", MAY_CHANGE),
    num_steps=(
        0,
        "Steps that the JAX profiler traces into WORKDIR/profile; as many, or 5, at each SIGUSR1 or file "
        "WORKDIR/profile-now.",
        {"empty": "no trace", "at_most": 10_000} | MAY_CHANGE,
    ),
)

PRETRAINING: dict[str, Key] = (
    (_START | MODEL_KEYS | _OBJECTIVE | _GENERATOR | _DISTILLATION)
    | (_DATA | MESH | _MOMENTS | _OPTIMIZER | _TRAIN | PROFILE)
)  # fmt: skip
