"""Holds settings of the models and steps that benchmarks run, without the packages that a run's config needs."""


class Settings(dict):
    """Makes a dict whose keys can be read as attributes."""

    __getattr__ = dict.__getitem__


VOCABULARY = 30522
LEARNING_RATE, EPSILON, CLIP_NORM, DROPOUT = 1e-4, 1e-6, 1.0, 0.1


def model_settings(layers: int, hidden: int, heads: int, intermediate: int, **changes) -> Settings:
    """Returns config.model of a BERT of these sizes, in float32 and with DROPOUT unless `changes` differ."""
    defaults = dict(
        vocab_size=VOCABULARY, hidden_size=hidden, num_layers=layers, num_heads=heads, intermediate_size=intermediate,
        activation="gelu", max_positions=512, position_offset=0, type_vocab_size=2, norm_epsilon=1e-12,
        hidden_dropout=DROPOUT, attention_dropout=DROPOUT, initializer_range=0.02, pooler=True,
        attention="bidirectional", dtype="float32", scan_layers=False, attention_kernel="auto", remat="none",
    )  # fmt: skip
    return Settings(defaults | changes)


def run_settings(model: Settings, next_sentence: bool = True, **train) -> Settings:
    """Returns the part of a run's config that a pre-training step reads; `train` are keys of config.train."""
    return Settings(
        seed=0,
        model=model,
        objective=Settings(name="mlm", next_sentence=next_sentence),
        optimizer=Settings(
            name="adamw", learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0, decay_steps=0,
            final_fraction=0.0, b1=0.9, b2=0.999, epsilon=EPSILON, weight_decay=0.01, clip_norm=CLIP_NORM,
        ),
        train=Settings({"microbatches": 1, "logits_chunk": 0} | train),
        mesh=Settings(data=-1, fsdp=1, tensor=1, across_slices="data"),
    )  # fmt: skip
