"""Lists the configuration keys of the model, `config.model`; `bert_jax.config.keys` says what is derived from them."""

from bert_jax.config.kernels import LIMITS
from bert_jax.config.key_groups import (
    COUNT,
    DEPTH,
    HEADS,
    IN_PHASES,
    LARGEST_MLP,
    LARGEST_VOCABULARY,
    MAY_CHANGE,
    RATE,
    TOKENS,
    WIDTH,
    group,
)
from bert_jax.config.schema import Key

ACTIVATIONS = (
    "gelu", "gelu_tanh", "relu", "silu", "tanh", "gelu_10", "quick_gelu", "hardswish", "laplace", "leaky_relu",
    "linear", "mish", "relu2", "relu6", "sigmoid", "sqrtsoftplus",
)  # fmt: skip

MODEL_KEYS: dict[str, Key] = group(
    "model",
    "architecture",
    vocab_size=(
        0,
        "Rows of the word embedding.",
        {"role": "vocabulary", "empty": "the corpus's vocabulary", "at_most": LARGEST_VOCABULARY},
    ),
    hidden_size=(768, "Units of a hidden state.", COUNT | WIDTH),
    num_layers=(12, "Layers of the encoder.", COUNT | DEPTH),
    num_heads=(12, "Attention heads of a layer.", COUNT | HEADS),
    intermediate_size=(3072, "Units inside the MLP of a layer.", COUNT | {"at_most": LARGEST_MLP}),
    activation=("gelu", 'Activation of the MLPs; "gelu" is exact, by erf.', {"choices": ACTIVATIONS}),
    max_positions=(
        512,
        "Tokens that a row can hold; the position table has position_offset more rows.",
        COUNT | TOKENS,
    ),
    position_offset=(
        0,
        "Row of the first token in the position table; with 2 (RoBERTa) the id before it, 1, is the padding token's, "
        "which is not counted.",
        TOKENS,
    ),
    type_vocab_size=(
        2,
        "Rows of the token type (segment) table.",
        {"empty": "no token types (DistilBERT, section 3)"} | WIDTH,
    ),
    embedding_size=(
        0,
        "Units of the tables of words, positions and token types (ALBERT, section 3.1, factorized embeddings).",
        {"falls_back_to": "model.hidden_size"} | WIDTH,
    ),
    embedding_projection=(
        False,
        "Puts a linear map behind the embedding tables even where they already have hidden_size units.",
    ),
    positions=(
        "learned",
        'How positions enter: "learned" (a table), "rotary" (rotations of queries and keys; Su et al. 2021, section '
        '3.2), "relative" (scores of distances; DeBERTa, section 3.1), "bias" (a number for each head and distance; '
        'T5, section 2.1), two of these, or "none".',
        {
            "choices": ("learned", "rotary", "relative", "bias", "none")
            + ("learned+rotary", "learned+relative", "learned+bias")
        },
    ),
    bias_buckets=(
        32,
        "Rows of the table of biases, half for tokens behind; half of each half are logarithmic (T5, section 2.1).",
        COUNT | TOKENS,
    ),
    bias_distance=(128, "Distance from which on all have the last bucket's bias.", COUNT | TOKENS),
    rotary_base=(10_000.0, "Base of the wavelengths of rotary positions.", IN_PHASES),
    local_rotary_base=(
        0.0,
        "Base of the wavelengths in layers that see a window (ModernBERT, section 2.1).",
        {"falls_back_to": "model.rotary_base"} | IN_PHASES,
    ),
    relative_span=(
        0,
        "Largest distance that relative positions distinguish.",
        {"falls_back_to": "model.max_positions"} | TOKENS,
    ),
    relative_buckets=(
        0,
        "Rows of the distance table on each side, logarithmic beyond half of them (DeBERTa v2).",
        {"empty": "one row for each distance"} | TOKENS,
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
        {"empty": "all tokens in all layers"} | TOKENS,
    ),
    global_every=(3, "With a window: layers 0, n, 2n, ... see all tokens (ModernBERT, section 2.1).", DEPTH),
    layer_windows=(
        (),
        "Tokens that each layer sees, 0 for all, one layer after the other and then from the first again, in the place "
        "of local_window and global_every (Beltagy et al. 2020, section 3).",
        {"empty": "local_window and global_every"},
    ),
    global_tokens=(
        "none",
        "Tokens that see all others and that all others see, also in layers with windows (Beltagy et al. 2020, section "
        '3.1): "auto", those of the task (the first one of a text that is classified, embedded or ranked; a question; '
        'none of masked text); "first", the first one of each text; or none.',
        {"choices": ("none", "auto", "first")},
    ),
    global_projections=(
        False,
        "Gives global tokens maps of their own for what they look for and what they find (Beltagy et al. 2020, section "
        "3.1).",
    ),
    num_kv_heads=(
        0,
        "Heads of keys and values, each of which serves several query heads (Ainslie et al. 2023, section 2.2).",
        {"falls_back_to": "model.num_heads"} | HEADS,
    ),
    head_size=(0, "Units of an attention head.", {"empty": "hidden_size / num_heads"} | WIDTH),
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
        {"empty": "parameters of its own for each layer"} | DEPTH,
    ),
    group_layers=(1, "Layers in a group.", COUNT | DEPTH),
    conv_kernel_size=(
        0,
        "Tokens of a convolution beside the first layer (DeBERTa v2).",
        {"empty": "no convolution", "at_most": 4_095},
    ),
    conv_groups=(1, "Groups of the convolution's channels.", COUNT | WIDTH),
    conv_activation=("tanh", "Activation of the convolution.", {"choices": ACTIVATIONS}),
    norm_epsilon=(1e-12, "Added to the variance in norms."),
    hidden_dropout=(0.1, "Dropout of embeddings and of each layer's outputs.", {"role": "training"} | RATE | IN_PHASES),
    attention_dropout=(0.1, "Dropout of attention weights.", {"role": "training"} | RATE | IN_PHASES),
    attention_output_dropout=(
        0.0,
        "Dropout of the output of each layer's attention (ModernBERT: 0.1, all else 0).",
        {"role": "training", "falls_back_to": "model.hidden_dropout"} | RATE | IN_PHASES,
    ),
    initializer=(
        "truncated_normal",
        "Distribution of fresh parameters: a normal cut at two standard deviations (BERT), or a whole one (RoBERTa, "
        "DeBERTa, EuroBERT).",
        {"role": "training", "choices": ("truncated_normal", "normal")},
    ),
    initializer_range=(
        0.02,
        "Standard deviation of the normal that fresh parameters are drawn from.",
        {"role": "training"},
    ),
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
        'Dtype of the computation on float32 parameters; "auto": bfloat16 on accelerators, float32 on CPUs.',
        {"role": "computation", "choices": ("auto", "float32", "bfloat16")},
    ),
    scan_layers=(
        False,
        "Compiles one layer and runs it in a loop, which compiles faster, instead of writing each layer out.",
        {"role": "computation"} | MAY_CHANGE,
    ),
    attention_kernel=(
        "auto",
        'Attention kernel; "auto": the platform\'s fused one where it can do what is asked, else XLA.',
        {"role": "device", "choices": ("auto", "xla", *LIMITS)} | MAY_CHANGE,
    ),
    remat=(
        "none",
        "What a layer keeps for the backward pass, from everything to nothing; the rest is computed again.",
        {"role": "device", "choices": ("none", "attention", "dots", "dots_no_batch", "full")} | MAY_CHANGE,
    ),
)

# The model's keys alone, by the field of the spec that they set.
MODEL: dict[str, Key] = {name.partition(".")[2]: key for name, key in MODEL_KEYS.items()}
# Dtypes that a model computes in where one is named.
DTYPES = tuple(name for name in MODEL["dtype"].choices if name != "auto")
