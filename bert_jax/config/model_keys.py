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

# What rotary_fast_turns is where it is 0, by rotary_scaling.
FAST_TURNS = {"yarn": 32.0, "llama3": 4.0}

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
    token_dropout=(
        False,
        "Reads the embeddings of mask tokens as zeros, and scales those of all words by 0.88 / (1 - the sequence's "
        "share of mask tokens) (Lin et al. 2023, ESM-2): 0.88 is what 15 % predictions, 80 % of them masked, leave.",
    ),
    mask_id=(
        0,
        "Id of the mask token, which token_dropout reads.",
        {"role": "vocabulary", "empty": "the corpus's vocabulary", "at_most": LARGEST_VOCABULARY},
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
    rotary_scaling=(
        "none",
        'How rotary positions are slowed for rows longer than those of training: "linear", all pairs of units alike '
        '(Chen et al. 2023, section 2.3); "ntk", by a larger base, fixed or mixed (GTE; Zhang et al. 2024); "dynamic", '
        'the same by the length of the rows at hand; "yarn" (Peng et al. 2024, section 3.4); "llama3" (transformers).',
        {"choices": ("none", "linear", "ntk", "dynamic", "yarn", "llama3")} | IN_PHASES,
    ),
    rotary_factor=(1.0, "How many times longer rows are than those of training.", {"at_least": 1} | IN_PHASES),
    rotary_trained=(
        0,
        'Tokens of the longest rows of training, which "dynamic", "yarn" and "llama3" need to know.',
        TOKENS | {"empty": "none said"} | IN_PHASES,
    ),
    rotary_mixed=(
        1.0,
        'Exponent b of "ntk", which slows the m-th of n pairs of units by rotary_factor^((m / n)^b): 1 is a larger '
        "base, others are mixed_b of GTE.",
        IN_PHASES,
    ),
    rotary_slow_turns=(
        1.0,
        'Pairs of units that turn fewer times in rotary_trained tokens are slowed by all of rotary_factor ("yarn", '
        '"llama3").',
        {"above": 0} | IN_PHASES,
    ),
    rotary_fast_turns=(
        0.0,
        "Pairs that turn more often than this are not slowed.",
        {"empty": f"{FAST_TURNS['yarn']:g} with yarn, {FAST_TURNS['llama3']:g} with llama3"} | IN_PHASES,
    ),
    rotary_attention_factor=(
        0.0,
        "Factor of queries and of keys with yarn (Peng et al. 2024, section 3.4: the root of 1 / t).",
        {"empty": "0.1 ln(rotary_factor) + 1"} | IN_PHASES,
    ),
    local_rotary_scaling=(False, "Slows positions in layers with a window too, which see no further.", IN_PHASES),
    rotary_half=(
        False,
        "Rounds the frequencies of rotary positions to float16, as those of the published ESM-2 are.",
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
    global_offset=(0, "With a window: the first layer that sees all tokens, instead of layer 0 (Gemma 3).", DEPTH),
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
    score_size=(
        0,
        "Number by whose root attention scores are divided (query_pre_attn_scalar of Gemma 2).",
        {"falls_back_to": "model.head_size"} | WIDTH,
    ),
    query_key_norm=(
        "none",
        'Norm of queries and keys, but not those of distances, before positions enter: "rms" (Gemma 3, Qwen3), '
        '"layer", without a bias (Dehghani et al. 2023, section 2.1; ESM C), or "none".',
        {"choices": ("none", "rms", "layer")},
    ),
    query_key_norm_over=(
        "head",
        'With query_key_norm: what is normed as one vector: the units of a "head", with a scale that heads share '
        '(Gemma 3), or of all "heads" (ESM C).',
        {"choices": ("head", "heads")},
    ),
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
    output_norm=(
        False,
        "Also norms what attention and MLP give, before the residual is added (sandwich norm: Ding et al. 2021, "
        "section 2.4; Gemma 2).",
    ),
    zero_centered_scale=(False, "Norms multiply by 1 + scale, so that scales start at 0 and decay to 1 (Gemma)."),
    embedding_norm=(True, "Puts a norm behind the embeddings."),
    embedding_scale=(
        False,
        "Multiplies word embeddings by the root of their width (Vaswani et al. 2017, section 3.4; Gemma).",
    ),
    first_norm=(
        True,
        'With norm_place="pre": puts a norm before the first layer\'s attention (ModernBERT, section 2.1: none).',
    ),
    norm_bias=(True, "Gives norms a bias."),
    final_norm_bias=(True, 'With norm_place="pre": gives the norm behind the last layer a bias too (ESM C: none).'),
    residual_scale=(
        1.0,
        "Number that what attention and MLP give is divided by, before the residual is added (ESM C: sqrt(num_layers / "
        "36)).",
        {"above": 0},
    ),
    attention_bias=(True, "Gives the linear maps of attention a bias."),
    key_bias=(True, "Gives the key map a bias, where attention_bias does."),
    mlp_bias=(True, "Gives the linear maps of the MLPs a bias."),
    mlp_up_bias=(True, "Gives the maps into the MLPs (up and gate) a bias, where mlp_bias does."),
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
