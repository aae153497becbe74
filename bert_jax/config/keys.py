"""The one table of configuration keys: pre-training's, and fine-tuning's, which shares many of them.

Everything else that is known of a key is derived from its entry: `base()` of both kinds of recipe, validation,
the defaults of `bert_jax.model.spec.Spec`, what may change when a run continues, what a phase may set, what a run takes
over from the model that it starts from, `--help-keys`, and the configuration reference of the documentation.

Nothing but the standard library is imported, so that `bert_jax.model` can read the table.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_jax.config.kernels import LIMITS
from bert_jax.config.mesh import BATCH_AXES
from bert_jax.config.objective import OBJECTIVES
from bert_jax.config.schema import LARGEST_INTEGER, Key

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
PAIR_FORMATS = ("segment_pair", "sentence_pair")
FORMATS = (*PAIR_FORMATS, "full_sentences", "doc_sentences")

SMALLEST_EPSILON = 1e-15  # its square is a number in float32
LARGEST_SEED = 2**32 - 1  # jax drops the higher bits of a seed


def _group(name: str, role: str, /, **keys: Key | tuple) -> dict[str, Key]:
    """Returns the keys of a group by dotted name; a tuple (default, doc, {...}) is a Key of the group's role."""
    return {f"{name}.{key}": value if isinstance(value, Key) else _key(role, *value) for key, value in keys.items()}


def _key(role: str, default: Any, doc: str, properties: Mapping[str, Any] | None = None) -> Key:
    given: dict[str, Any] = {"default": default, "doc": doc, "role": role} | dict(properties or {})
    return Key(**given)


_RATE = {"below": 1, "noun": "a rate"}
_COUNT = {"at_least": 1}
_MAY_CHANGE = {"resumable": True}

_START = {
    "seed": _key("start", 0, "Seeds parameters, dropout, masks and the order of the data.", {"at_most": LARGEST_SEED}),
    "init_from": _key(
        "start",
        "",
        "Starts from the parameters of this model: a run's workdir, or a Hugging Face directory or hub name.",
        {"empty": "random parameters"},
    ),
    "model_from_init": _key("start", False, "Takes the architecture (config.model) from init_from too."),
    "init_layers": _key(
        "start", (), "Starts the layers here from these layers of init_from, counted from 0.", {"empty": "all layers"}
    ),
    "init_grow": _key(
        "start", False, "Starts a larger model than init_from by tiling its parameters (ModernBERT, section 2.2)."
    ),
}

_MODEL = _group(
    "model",
    "architecture",
    vocab_size=(0, "Rows of the word embedding.", {"role": "vocabulary", "empty": "the corpus's vocabulary"}),
    hidden_size=(768, "Units of a hidden state.", _COUNT),
    num_layers=(12, "Layers of the encoder.", _COUNT),
    num_heads=(12, "Attention heads of a layer.", _COUNT),
    intermediate_size=(3072, "Units inside the MLP of a layer.", _COUNT),
    activation=("gelu", 'Activation of the MLPs; "gelu" is exact, by erf.', {"choices": ACTIVATIONS}),
    max_positions=(512, "Tokens that a row can hold; the position table has position_offset more rows.", _COUNT),
    position_offset=(
        0,
        "Row of the first token in the position table; with 2 (RoBERTa) the id before it, 1, is the padding token's, "
        "which is not counted.",
    ),
    type_vocab_size=(2, "Rows of the token type (segment) table; 0 for a model without (DistilBERT, section 3)."),
    embedding_size=(
        0,
        "Units of the tables of words, positions and token types (ALBERT, section 3.1, factorized embeddings).",
        {"falls_back_to": "model.hidden_size"},
    ),
    embedding_projection=(
        False,
        "Puts a linear map behind the embedding tables even where they already have hidden_size units.",
    ),
    positions=(
        "learned",
        'How positions enter: "learned" (a table), "rotary" (rotations of queries and keys; Su et al. 2021, section '
        '3.2), "relative" (scores of distances; DeBERTa, section 3.1), two of these, or "none".',
        {"choices": ("learned", "rotary", "relative", "none", "learned+rotary", "learned+relative")},
    ),
    rotary_base=(10_000.0, "Base of the wavelengths of rotary positions."),
    local_rotary_base=(
        0.0,
        "Base of the wavelengths in layers that see a window (ModernBERT, section 2.1).",
        {"falls_back_to": "model.rotary_base"},
    ),
    relative_span=(
        0,
        "Largest distance that relative positions distinguish.",
        {"falls_back_to": "model.max_positions"},
    ),
    relative_buckets=(
        0,
        "Rows of the distance table on each side, logarithmic beyond half of them (DeBERTa v2).",
        {"empty": "one row for each distance"},
    ),
    relative_terms=(
        "c2p+p2c",
        "Terms that relative positions add to attention scores: content to position, position to content (DeBERTa, "
        "section 3.1).",
        {"choices": ("c2p", "p2c", "c2p+p2c")},
    ),
    relative_shared=(False, "Projects distances with the content's query and key maps (DeBERTa v2)."),
    relative_norm=(False, "Normalizes the distance table (DeBERTa v2)."),
    local_window=(
        0,
        "Tokens that a local layer sees, half of them on each side (Beltagy et al. 2020, section 3).",
        {"empty": "all tokens in all layers"},
    ),
    global_every=(3, "With a window: layers 0, n, 2n, ... see all tokens (ModernBERT, section 2.1)."),
    num_kv_heads=(
        0,
        "Heads of keys and values, each of which serves several query heads (Ainslie et al. 2023, section 2.2).",
        {"falls_back_to": "model.num_heads"},
    ),
    head_size=(0, "Units of an attention head.", {"empty": "hidden_size / num_heads"}),
    mlp=(
        "dense",
        'MLP of a layer: "dense", or "gated", activation(gate(x)) * up(x) (GeGLU and SwiGLU; Shazeer 2020).',
        {"choices": ("dense", "gated")},
    ),
    norm=(
        "layer_norm",
        "Normalization: LayerNorm, or RMSNorm (Zhang & Sennrich 2019).",
        {"choices": ("layer_norm", "rms_norm")},
    ),
    norm_place=(
        "post",
        'Place of the norms: "post", after each residual, or "pre", before attention and MLP and once after the last '
        "layer (Xiong et al. 2020).",
        {"choices": ("post", "pre")},
    ),
    embedding_norm=(True, "Puts a norm behind the embeddings."),
    first_norm=(
        True,
        'With norm_place="pre": puts a norm before the first layer\'s attention (ModernBERT, section 2.1: none).',
    ),
    norm_bias=(True, "Gives norms a bias."),
    attention_bias=(True, "Gives the linear maps of attention a bias."),
    key_bias=(True, "Gives the key map a bias, where attention_bias does."),
    mlp_bias=(True, "Gives the linear maps of the MLPs a bias."),
    layer_groups=(
        0,
        "Groups of layers with parameters of their own, which the layers share (ALBERT, section 3.1).",
        {"empty": "parameters of its own for each layer"},
    ),
    group_layers=(1, "Layers in a group.", _COUNT),
    conv_kernel_size=(0, "Tokens of a convolution beside the first layer (DeBERTa v2).", {"empty": "no convolution"}),
    conv_groups=(1, "Groups of the convolution's channels.", _COUNT),
    conv_activation=("tanh", "Activation of the convolution.", {"choices": ACTIVATIONS}),
    norm_epsilon=(1e-12, "Added to the variance in norms."),
    hidden_dropout=(0.1, "Dropout of embeddings and of each layer's outputs.", {"role": "training"} | _RATE),
    attention_dropout=(0.1, "Dropout of attention weights.", {"role": "training"} | _RATE),
    initializer_range=(0.02, "Standard deviation of fresh parameters.", {"role": "training"}),
    scaled_initializer=(
        False,
        "Starts the projections that layers add to the residual smaller by sqrt(2 num_layers) (Radford et al. 2019).",
        {"role": "training"},
    ),
    pooler=(True, "Gives the model the tanh layer over [CLS] that pair objectives read.", {"role": "objective"}),
    mlm_transform=(True, "Puts a linear map, an activation and a norm between hidden states and decoder."),
    head_activation=(
        "",
        "Activation of that map.",
        {"falls_back_to": "model.activation", "choices": ("", *ACTIVATIONS)},
    ),
    head_bias=(True, "Gives that map a bias."),
    decoder_bias=(True, "Gives the decoder a bias."),
    tied_decoder=(True, "Uses the word embedding as the decoder."),
    mask_decoder=(
        "plain",
        '"enhanced": absolute positions enter only in two last layers for masked prediction (DeBERTa, section 3.2).',
        {"choices": ("plain", "enhanced")},
    ),
    attention=(
        "bidirectional",
        "Which tokens a token sees: all, or those before it.",
        {"role": "objective", "choices": ("bidirectional", "causal")},
    ),
    dtype=(
        "auto",
        'Dtype of the computation; parameters are float32. "auto": bfloat16 on accelerators, float32 on CPUs.',
        {"role": "computation", "choices": ("auto", "float32", "bfloat16")},
    ),
    scan_layers=(
        False,
        "Compiles one layer and runs it in a loop, which compiles faster, instead of writing each layer out.",
        {"role": "computation"} | _MAY_CHANGE,
    ),
    attention_kernel=(
        "auto",
        'Attention kernel; "auto": the platform\'s fused one where it can do what is asked, else XLA.',
        {"role": "device", "choices": ("auto", "xla", *LIMITS)} | _MAY_CHANGE,
    ),
    remat=(
        "none",
        "What a layer keeps for the backward pass, from everything to nothing; the rest is computed again.",
        {"role": "device", "choices": ("none", "attention", "dots", "dots_no_batch", "full")} | _MAY_CHANGE,
    ),
)

_OBJECTIVE = _group(
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
    f"generator.{size}": _key("objective", 0, doc, {"falls_back_to": f"model.{size}"})
    for size, doc in {
        "hidden_size": "rtd: units of the generator's hidden states; what else it is made of, config.model says.",
        "num_layers": "rtd: layers of the generator.",
        "num_heads": "rtd: attention heads of the generator.",
        "intermediate_size": "rtd: units inside the MLPs of the generator.",
    }.items()
}
GENERATOR_SIZES = tuple(name.partition(".")[2] for name in _GENERATOR)

_DISTILLATION = _group(
    "distillation",
    "objective",
    teacher=("", "Teacher model, with the corpus's vocabulary.", {"is_path": True} | _MAY_CHANGE),
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

_PHASE = {"in_phases": True}
_DATA = _group(
    "data",
    "data",
    corpus=(
        "",
        "Directory that `prepare` wrote, or several separated by commas.",
        {"is_path": True} | _MAY_CHANGE,
    ),
    old_corpus=(
        "",
        "Corpus of the text that init_from learned; its held-out part is evaluated too (eval_old/...).",
        {"is_path": True, "empty": "none"} | _MAY_CHANGE,
    ),
    weights=((), "Shares of several corpora.", _PHASE | {"empty": "shares by size and temperature"}),
    temperature=(
        1.0,
        "Flattens the shares of several corpora: share ~ size ** (1 / temperature).",
        _PHASE | {"at_least": 0.1},
    ),
    format=(
        "segment_pair",
        "How sentences make an input (RoBERTa, section 4.2).",
        _PHASE | {"choices": FORMATS},
    ),
    sequence_length=(512, "Tokens of a row, special tokens included; no phase is longer.", _PHASE | _COUNT),
    batch_size=(256, "Rows of the global batch.", _PHASE | _COUNT),
    phases=((), "Dicts of `share` (of the run's steps) and the keys of config.data that differ, in order.",
            {"empty": "one phase"}),
    pair_repeats=(1, "Different pairings of the same text that epochs cycle through.", _PHASE | _COUNT),
    short_target_share=(
        0.1,
        "Share of pairs that are made shorter (BERT, appendix A.2).",
        _PHASE | {"at_most": 1, "noun": "a share"},
    ),
    masking=(
        "dynamic",
        "Fresh masks each epoch, or dupe_factor fixed ones for each instance (RoBERTa, section 4.1).",
        _PHASE | {"choices": ("dynamic", "static")},
    ),
    dupe_factor=(10, "Static masking: masks that each instance is seen with.", _PHASE | _COUNT),
    mask_unit=(
        "token",
        "What is masked together: tokens, whole words, spans of words (SpanBERT, section 3.1) or n-grams (ALBERT, "
        "section 3.1).",
        _PHASE | {"choices": ("token", "whole_word", "span", "ngram")},
    ),
    mask_rate=(
        0.15,
        "Share of the tokens that are predicted, of those that are neither special nor padding.",
        _PHASE | {"above": 0, "below": 1, "noun": "a share"},
    ),
    mask_token_share=(
        0.8,
        "Share of the predicted tokens that become the mask token.",
        _PHASE | {"at_most": 1, "noun": "a share"},
    ),
    random_token_share=(
        0.1,
        "Share of the predicted tokens that become a random ordinary token; the rest stay.",
        _PHASE | {"at_most": 1, "noun": "a share"},
    ),
    max_predictions=(0, "Prediction slots of a row.", _PHASE | {"empty": "as many as mask_rate can ask for"}),
    span_p=(
        0.2,
        "Span lengths in words are geometric with this p, clipped (SpanBERT, section 3.1).",
        _PHASE | {"above": 0, "at_most": 1, "noun": "a probability"},
    ),
    span_max_words=(10, "Words of the longest span.", _PHASE | _COUNT),
    ngram_max=(3, "Words of the longest n-gram; p(n) ~ 1/n (ALBERT, section 3.1).", _PHASE | _COUNT),
    packing=(
        False,
        "Puts several short instances in one row, with attention and positions apart; for formats without pairs.",
        _PHASE,
    ),
    workers=(0, "Processes that prepare batches.", {"empty": "a thread of the run's process"} | _MAY_CHANGE),
    prefetch=(2, "Batches held ready.", _MAY_CHANGE),
)  # fmt: skip

_MESH = _group(
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
_MESH = {name: dataclasses.replace(key, resumable=True) for name, key in _MESH.items()}

_OPTIMIZER = _group(
    "optimizer",
    "optimizer",
    name=(
        "adamw",
        "Update rule: AdamW, LAMB (You et al. 2020) or StableAdamW (Wortsman et al. 2023, algorithm 2).",
        {"choices": ("adamw", "lamb", "stable_adamw")},
    ),
    learning_rate=(1e-4, "Peak learning rate."),
    schedule=(
        "linear",
        "Course of the rate after warm-up; trapezoidal: constant, then a final decay.",
        {"choices": ("linear", "cosine", "trapezoidal", "constant")},
    ),
    warmup_steps=(10_000, "Steps over which the rate rises to its peak."),
    decay_steps=(0, "trapezoidal: steps of the final decay.", {"empty": "a tenth of the run"}),
    decay_shape=("linear", "trapezoidal: shape of the final decay.", {"choices": ("linear", "sqrt", "cosine")}),
    final_fraction=(0.0, "Share of the peak rate at the last step.", {"at_most": 1, "noun": "a share of the peak"}),
    b1=(0.9, "Decay of the first moment.", {"below": 1}),
    b2=(0.999, "Decay of the second moment.", {"below": 1}),
    epsilon=(
        1e-6,
        "Added to the root of the second moment; zero would divide by zero where gradients are zero.",
        {"at_least": SMALLEST_EPSILON},
    ),
    weight_decay=(0.01, "Decoupled weight decay of matrices; biases and norms have none."),
    clip_norm=(1.0, "Largest global norm of a gradient.", {"empty": "no clipping"}),
)

_TRAIN = _group(
    "train",
    "logging",
    num_steps=(
        1_000_000,
        "Steps of the run.",
        {"role": "length", "empty": "what num_tokens makes"} | _MAY_CHANGE,
    ),
    num_tokens=(
        0,
        "Length of the run in tokens (rows x sequence_length x steps), instead of num_steps.",
        {"role": "length", "empty": "what num_steps makes", "at_most": 2**63 - 1} | _MAY_CHANGE,
    ),
    microbatches=(
        1,
        "Parts of the batch whose gradients are summed before a step.",
        {"role": "layout"} | _COUNT | _MAY_CHANGE,
    ),
    logits_chunk=(
        0,
        "Predictions whose vocabulary logits a device holds at once.",
        {"role": "layout", "empty": "all of a microbatch"} | _MAY_CHANGE,
    ),
    log_norms=(
        False,
        "Logs the norms of each layer's gradient and output; costs one more pass on each step that is logged.",
        _MAY_CHANGE,
    ),
    compilation_cache=(
        "auto",
        'Directory of compiled programs; "auto": JAX\'s own if set, else WORKDIR/compiled.',
        {"role": "layout", "is_path": True, "empty": "no cache"} | _MAY_CHANGE,
    ),
    log_every=(100, "Steps between logged rows.", _COUNT | _MAY_CHANGE),
    eval_every=(10_000, "Steps between evaluations.", {"empty": "no evaluation"} | _MAY_CHANGE),
    eval_batches=(32, "Batches of an evaluation.", _COUNT),
    eval_batch_size=(0, "Rows of an evaluation's batch.", {"falls_back_to": "data.batch_size"}),
    checkpoint_every=(1_000, "Steps between checkpoints.", {"role": "checkpoints"} | _COUNT | _MAY_CHANGE),
    keep_newest=(3, "Newest checkpoints to keep.", {"role": "checkpoints"} | _COUNT | _MAY_CHANGE),
    keep_best=(
        1,
        "Best checkpoints to keep, by the objective's held-out loss, of the steps that were evaluated.",
        {"role": "checkpoints"} | _MAY_CHANGE,
    ),
    keep_every=(
        0,
        "Keeps the checkpoint of every n-th step for ever; a multiple of checkpoint_every.",
        {"role": "checkpoints", "empty": "none"} | _MAY_CHANGE,
    ),
    tensorboard=(True, "Writes TensorBoard events.", _MAY_CHANGE),
    progress=(True, "Prints a progress line.", _MAY_CHANGE),
)

_PROFILE = _group(
    "profile",
    "logging",
    first_step=(10, "First traced step, counted from where this process starts.", _MAY_CHANGE),
    num_steps=(
        0,
        "Steps that the JAX profiler traces into WORKDIR/profile.",
        {"empty": "no trace"} | _MAY_CHANGE,
    ),
)

PRETRAINING: dict[str, Key] = {
    **_START, **_MODEL, **_OBJECTIVE, **_GENERATOR, **_DISTILLATION, **_DATA, **_MESH, **_OPTIMIZER, **_TRAIN,
    **_PROFILE,
}  # fmt: skip

# The model's keys alone, by the field of the spec that they set.
MODEL: dict[str, Key] = {name.partition(".")[2]: key for name, key in _MODEL.items()}


def _as_in_pretraining(*names: str, **changes: Any) -> dict[str, Key]:
    """Returns entries of pre-training's table, with other properties where given."""
    return {name: dataclasses.replace(PRETRAINING[name], **changes) for name in names}


TASKS = ("sequence_classification", "token_classification", "question_answering")
PROBLEMS = ("single_label", "multi_label", "regression")
# What a classifier reads; see model.spec.Task.
POOLING = ("auto", "pooler", "dense", "cls", "mean", "max", "attention")
# Linear maps of a layer that LoRA can adapt.
ADAPTABLE = ("query", "key", "value", "output", "gate", "up", "down")

FINETUNING: dict[str, Key] = {
    **_as_in_pretraining("seed"),
    "seeds": _key(
        "start", 1, "Seeds seed, seed + 1, ... that are trained side by side in one compiled step.", {"at_least": 1}
    ),
    "seeds_at_once": _key(
        "layout", 0, "How many seeds share a step.", {"empty": "all"} | _MAY_CHANGE
    ),
    "init_from": _key(
        "start", "", "Starts from the encoder, the vocabulary and the fitting heads of this model."
    ),
    "from_scratch": _key(
        "start", False, "Takes the architecture and the vocabulary of init_from, but fresh parameters."
    ),
    **_as_in_pretraining("model.dtype", "model.scan_layers", "model.attention_kernel", "model.remat"),
    **_as_in_pretraining(
        "model.hidden_dropout", "model.attention_dropout", default=-1.0, empty="init_from's", empty_value=-1.0
    ),
    **_group(
        "task",
        "task",
        name=("sequence_classification", "Kind of task.", {"choices": TASKS}),
        problem=("single_label", "Kind of sequence classification.", {"choices": PROBLEMS}),
        train=("", "Training data: tfds:NAME[/CONFIG]:SPLIT, or a .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD file."),
        held_out=(
            "",
            'Data that chooses the best checkpoint; several sets as "matched=...,mismatched=...".',
            {"empty": "held_out_share of train"},
        ),
        held_out_share=(0.1, "Share of train that is held out where held_out is empty."),
        test=("", "Data that predictions are written for; its labels may be absent.", {"empty": "none"}),
        data_dir=(
            "",
            "Where TFDS keeps its data sets.",
            {"is_path": True, "empty": "TFDS's default"} | _MAY_CHANGE,
        ),
        columns=((), "Names of the columns of a file without a header.", {"empty": "the file's header"}),
        text=("text", "Column of the text."),
        text_pair=("", "Column of the second text.", {"empty": "single texts"}),
        label=("label", "Column of the label."),
        labels=(
            (),
            "Names of the labels in the order of their ids.",
            {"empty": "as the data says, else sorted as they occur in train"},
        ),
        metrics=((), "Scores to compute.", {"empty": "the problem's"}),
        metric=("", "Score that chooses the best checkpoint.", {"empty": "the first of metrics"}),
        pooling=(
            "auto",
            'What the classifier reads; "auto": the head of init_from\'s family.',
            {"choices": POOLING},
        ),
        dropout=(0.1, "Dropout of the classifier's input; question answering has none, as published.", _RATE),
        token_column=(0, "CoNLL files: column of the word.", {"at_least": -LARGEST_INTEGER}),
        label_column=(-1, "CoNLL files: column of the tag.", {"at_least": -LARGEST_INTEGER}),
        scheme=(
            "auto",
            'Tagging scheme of the file; "auto": recognised from the tags.',
            {"choices": ("auto", "IOB1", "BIO", "BIOES")},
        ),
        crf=(False, "Puts a conditional random field over the tags (Lafferty et al. 2001)."),
        doc_stride=(128, "Question answering: tokens between the starts of a context's windows.", _COUNT),
        max_query_length=(64, "Question answering: tokens of the longest question.", _COUNT),
        max_answer_length=(30, "Question answering: tokens of the longest answer.", _COUNT),
        n_best=(20, "Question answering: candidates that are kept of each question.", _COUNT),
        unanswerable=(
            "auto",
            'Question answering: whether there may be no answer (SQuAD 2.0); "auto": as in the training data.',
            {"choices": ("auto", "yes", "no")},
        ),
        bad_answers=(
            "skip",
            "Question answering: an answer that is not at its offset is skipped, counted and named, or an error.",
            {"choices": ("skip", "error")},
        ),
    ),
    **_as_in_pretraining("data.sequence_length", default=128, doc="Tokens of the longest row, special tokens included.",
                         at_least=3, in_phases=False),
    **_as_in_pretraining("data.batch_size", default=32, in_phases=False),
    **_group("data", "data", buckets=((), "Lengths that rows are padded to.", {"empty": "bert_jax.data.rows.BUCKETS"})),
    **_as_in_pretraining("data.packing", in_phases=False,
                         doc="Puts several short texts in one row, with attention and positions apart."),
    **_as_in_pretraining("data.prefetch"),
    **_MESH,
    **_as_in_pretraining("optimizer.name"),
    **_as_in_pretraining("optimizer.learning_rate", default=2e-5),
    **_group(
        "optimizer",
        "optimizer",
        learning_rate_range=((1e-6, 1e-4), "Published range of rates; a rate outside is warned about."),
    ),
    **_as_in_pretraining("optimizer.schedule"),
    **_group(
        "optimizer",
        "optimizer",
        warmup_share=(0.1, "Share of the run's steps that warm-up takes.", {"at_most": 1, "noun": "a share"}),
    ),
    **_as_in_pretraining("optimizer.warmup_steps", default=-1, empty="warmup_share of the run", empty_value=-1),
    **_as_in_pretraining(*(f"optimizer.{name}" for name in (
        "decay_steps", "decay_shape", "final_fraction", "b1", "b2", "epsilon", "weight_decay", "clip_norm"))),
    **_group(
        "optimizer",
        "optimizer",
        layer_decay=(
            1.0,
            "Rate of a layer / rate of the layer above it; the top layer and the heads have the full rate.",
            {"at_most": 1},
        ),
    ),
    **_group(
        "tuning",
        "tuning",
        freeze=(
            "",
            'What is not trained: "encoder", "embeddings", "layers:N" (embeddings and the lowest N layers), or a '
            "regular expression over parameter paths.",
            {"empty": "nothing"},
        ),
        reinit_layers=(0, "Top layers (and pooler) to start fresh (Zhang et al. 2021, section 5)."),
        lora_rank=(
            0,
            "Rank of LoRA adapters (Hu et al. 2022, section 4.1); the encoder is frozen, adapters and heads train.",
            {"empty": "no adapters"},
        ),
        lora_alpha=(16.0, "Scale of the adapters: their product is multiplied by lora_alpha / lora_rank."),
        lora_targets=(("query", "value"), f"Linear maps of each layer to adapt, of {', '.join(ADAPTABLE)}."),
    ),
    **_group(
        "train",
        "length",
        num_epochs=(3.0, "Length of the run in epochs.", _MAY_CHANGE),
    ),
    **_as_in_pretraining("train.num_steps", default=0, doc="Length of the run in steps, instead of num_epochs.",
                         empty="num_epochs"),
    **_as_in_pretraining("train.microbatches"),
    **_as_in_pretraining("train.log_every", default=50),
    **_as_in_pretraining("train.eval_every", default=0, empty="an evaluation after each epoch"),
    **_as_in_pretraining("train.eval_batch_size"),
    **_as_in_pretraining("train.checkpoint_every", default=0, at_least=0, empty="a checkpoint at each evaluation",
                         empty_value=0),
    **_group(
        "train",
        "length",
        patience=(0, "Evaluations without a better score before a seed stops.", {"empty": "never"}),
        failed_below=(
            -1.0,
            "A seed whose score ends below has failed.",
            {"at_least": -1, "empty": "no better than the commonest answer", "empty_value": -1.0},
        ),
    ),
    **_as_in_pretraining("train.keep_newest", default=1),
    **_as_in_pretraining("train.compilation_cache", "train.tensorboard", "train.progress"),
    **_PROFILE,
}  # fmt: skip


def with_role(keys: Mapping[str, Key], *roles: str) -> tuple[str, ...]:
    """Returns the names of the keys that have one of the roles."""
    return tuple(name for name, key in keys.items() if key.role in roles)


# Keys of config.model that need not agree with the model that a run starts from.
NOT_ARCHITECTURE = frozenset(name for name, key in MODEL.items() if key.role != "architecture")
# Keys of config.model that a format on disk need not express: how a model runs, trains and begins.
NOT_IN_FORMATS = frozenset(with_role(MODEL, "training", "computation", "device"))
# Values that a model takes which is opened on other devices than it was trained on.
DEVICE_DEFAULTS = {name: MODEL[name].default for name in with_role(MODEL, "device")}
# Keys of both kinds of run that may change when a run continues. Corpora and teachers are compared by their content.
RESUMABLE = frozenset(name for keys in (PRETRAINING, FINETUNING) for name, key in keys.items() if key.resumable)
# Keys whose values may differ between the hosts of a run.
PATHS = frozenset(name for keys in (PRETRAINING, FINETUNING) for name, key in keys.items() if key.is_path)
# Keys of config.data that are the whole run's: no phase may set them.
NOT_IN_PHASES = tuple(
    name.partition(".")[2] for name, key in PRETRAINING.items() if name.startswith("data.") and not key.in_phases
)
