"""Lists the configuration keys of fine-tuning, many of which are pre-training's with another default.

`bert_jax.config.keys` says what is derived from them.
"""

import dataclasses
from typing import Any

from bert_jax.config.key_groups import COUNT, DEPTH, MAY_CHANGE, RATE, ROWS, TOKENS, WIDTH, group, key_of
from bert_jax.config.model_keys import MODEL
from bert_jax.config.pretraining_keys import MESH, PRETRAINING, PROFILE
from bert_jax.config.schema import LARGEST_INTEGER, Key


def _as_in_pretraining(*names: str, **changes: Any) -> dict[str, Key]:
    """Returns entries of pre-training's table, with other properties where given; fine-tuning has no phases."""
    return {name: dataclasses.replace(PRETRAINING[name], in_phases=False, **changes) for name in names}


TASKS = ("sequence_classification", "token_classification", "question_answering", "embedding", "reranking")
PROBLEMS = ("single_label", "multi_label", "regression")
# Keys of config.task that say how question answering reads contexts.
ANSWERING = ("doc_stride", "max_query_length", "max_answer_length", "n_best")
# Ways of pooling the states of a text's tokens; see model.pooling.pool.
_CLASSIFIER_POOLING = ("cls", "mean", "max", "attention")
TOKEN_POOLING = (*_CLASSIFIER_POOLING, "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# What a classifier reads; see model.spec.Task.
POOLING = ("auto", "pooler", "dense", *_CLASSIFIER_POOLING)
# How an embedder makes sparse vectors, and what is taken over a text's tokens; see model.pooling.pool_sparse.
SPARSE_POOLING = {"splade": "max", "splade_sum": "sum"}
# Keeps a vector for each token, for late interaction; see data.tasks.late_interaction.
LATE_POOLING = "tokens"
# What an embedder can pool: without learned weights, or to sparse vectors, or not at all.
EMBEDDER_POOLING = (*(name for name in TOKEN_POOLING if name != "attention"), *SPARSE_POOLING, LATE_POOLING)
# Losses on the scores of late interaction.
LATE_LOSSES = ("info_nce", "margin_mse", "kl")
# Keys of config.task that say how texts are read for late interaction.
LATE_KEYS = ("query_length", "query_expansion", "skiplist", "markers")
# Losses on vectors; see finetuning.vector_losses.
VECTOR_LOSSES = ("info_nce", "cosent", "angle", "cosine", "softmax", "triplet", "margin_mse", "kl", "mse", "denoising")
# Losses on vectors that learn a teacher's scores of an anchor's positive and negatives.
TEACHER_SCORE_LOSSES = ("margin_mse", "kl")
# Losses of rerankers, of each pair of a query and a document, and of a query's documents together; see
# objectives.reranking.
PAIR_LOSSES = ("bce", "mse")
LIST_LOSSES = ("listwise", "listnet", "ranknet", "lambdarank", "margin_mse", "kl")
# Kinds of task that read a key of config.task; keys that are not listed are for all, or have a check of their own.
_WITH_COLUMNS = tuple(name for name in TASKS if name != "question_answering")
_RANKING = ("embedding", "reranking")
_LONG = ("sequence_classification", "token_classification", "embedding")
TASKS_OF = {
    **dict.fromkeys(("chunk_length", "chunk_pooling", "chunk_layers"), _LONG),
    "long": _LONG,
    "head_tokens": ("sequence_classification", "embedding"),
    "text": ("sequence_classification", "token_classification"),
    "text_pair": ("sequence_classification",),
    "label": _WITH_COLUMNS,
    **dict.fromkeys(("token_column", "label_column", "scheme"), ("token_classification",)),
    **dict.fromkeys((*ANSWERING, "unanswerable", "bad_answers"), ("question_answering",)),
    **dict.fromkeys(("positive", "negatives", "score", "score_range"), _RANKING),
    **dict.fromkeys(
        ("anchor", "relevance_id", "anchor_prompt", "positive_prompt", "pool_prompts", "normalize", "embedding_size",
         "embedding_activation", *LATE_KEYS), ("embedding",),
    ),
    **dict.fromkeys(("query", "document", "group_size", "activation"), ("reranking",)),
}  # fmt: skip
# What names the texts of these tasks in the place of config.task.text and text_pair.
TEXTS_OF = {"embedding": ("anchor", "positive"), "reranking": ("query", "document")}
# Keys of config.task that name a column.
COLUMN_KEYS = (
    "text", "text_pair", "label", "anchor", "positive", "query", "document", "score", "relevance_id",
)  # fmt: skip
# Linear maps of a layer that LoRA can adapt.
ADAPTABLE = ("query", "key", "value", "output", "gate", "up", "down")

FINETUNING: dict[str, Key] = {
    **_as_in_pretraining("seed"),
    "seeds": key_of(
        "start", 1, "Seeds seed, seed + 1, ... that are trained side by side in one compiled step.",
        {"at_least": 1, "at_most": 1_000},
    ),
    "seeds_at_once": key_of(
        "layout", 0, "How many seeds share a step.", {"empty": "all"} | MAY_CHANGE
    ),
    "init_from": key_of(
        "start", "", "Starts from the encoder, the vocabulary and the fitting heads of this model."
    ),
    "from_scratch": key_of(
        "start", False, "Takes the architecture and the vocabulary of init_from, but fresh parameters."
    ),
    "phases": key_of(
        "length", (), "Dicts of dotted keys and their values, and of `sets`, names of those sets of task.train that "
        "are read: one for each of the runs that follow one another, each from the parameters of the one before it.",
        {"empty": "one run"},
    ),
    **_as_in_pretraining("model.dtype", "model.scan_layers", "model.attention_kernel", "model.remat"),
    **_as_in_pretraining(
        "model.hidden_dropout", "model.attention_dropout", default=-1.0, empty="init_from's", empty_value=-1.0
    ),
    **_as_in_pretraining(
        "model.rotary_scaling", default="", empty="init_from's, whose longest rows no row exceeds"
    ),
    **_as_in_pretraining(
        "model.rotary_factor", default=0.0, empty="data.sequence_length / model.rotary_trained, or 1 if that is more",
        empty_value=0.0,
    ),
    **_as_in_pretraining("model.rotary_trained", empty="the longest rows of init_from"),
    **_as_in_pretraining(
        "model.global_tokens", default="", choices=("", *MODEL["global_tokens"].choices), empty="init_from's"
    ),
    **group(
        "task",
        "task",
        name=("sequence_classification", "Kind of task.", {"choices": TASKS}),
        problem=("single_label", "Kind of sequence classification.", {"choices": PROBLEMS}),
        train=(
            "",
            "Training data: tfds: or hf:NAME[/CONFIG]:SPLIT, or a .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD file.",
        ),
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
            {"is_path": True, "empty": "TFDS's default"} | MAY_CHANGE,
        ),
        columns=(
            (),
            "Names of the columns of a file without a header; ... at the end: more are left out.",
            {"empty": "the file's header"},
        ),
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
            'What the classifier reads, or how an embedder pools tokens ("tokens": not at all, for late interaction); '
            '"auto": the head of init_from\'s family, or the pooling of a sentence-transformers model, else the mean.',
            {"choices": (*POOLING, *(kind for kind in EMBEDDER_POOLING if kind not in POOLING))},
        ),
        dropout=(
            -1.0,
            "Dropout of the head's input.",
            RATE | {"empty": "that of the head of init_from's family", "empty_value": -1.0, "earlier_default": 0.1},
        ),
        token_column=(0, "CoNLL files: column of the word.", {"at_least": -LARGEST_INTEGER}),
        label_column=(-1, "CoNLL files: column of the tag.", {"at_least": -LARGEST_INTEGER}),
        scheme=(
            "auto",
            'Tagging scheme of the file; "auto": recognised from the tags; "none": tags are labels as they are.',
            {"choices": ("auto", "IOB1", "BIO", "BIOES", "none")},
        ),
        crf=(False, "Puts a conditional random field over the tags (Lafferty et al. 2001)."),
        doc_stride=(128, "Question answering: tokens between the starts of a context's windows.", COUNT | TOKENS),
        max_query_length=(64, "Question answering: tokens of the longest question.", COUNT | TOKENS),
        max_answer_length=(30, "Question answering: tokens of the longest answer.", COUNT | TOKENS),
        n_best=(20, "Question answering: candidates that are kept of each question.", COUNT | {"at_most": 1_000}),
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
        anchor=("anchor", "Embedding: column of the text that is compared, such as a question."),
        positive=(
            "positive",
            "Embedding: column of the text that belongs to it, such as the passage that answers it; reranking: column "
            "of the relevant document, where there is no column of documents.",
            {"empty": "the anchor itself, under other dropout (SimCSE, Gao et al. 2021, section 3)"},
        ),
        negatives=((), "Embedding, reranking: columns of texts that do not belong to it, or one column of lists.",
                   {"empty": "none but those of the batch"}),
        score=(
            "score",
            "Embedding: column of the graded similarity of anchor and positive, or of a teacher's margin; reranking: "
            "of a document's graded score, or a teacher's.",
        ),
        score_range=((), "Embedding, reranking: lowest and highest possible score, which become 0 and 1.",
                     {"empty": "as they are"}),
        relevance_id=("", "Embedding: column that is equal for examples whose positives are one another's.",
                      {"empty": "none"}),
        anchor_prompt=("", 'Embedding: text before each anchor, such as "query: ".', {"empty": "none"}),
        positive_prompt=("", 'Embedding: text before each positive and negative, such as "passage: ".',
                         {"empty": "none"}),
        pool_prompts=(True, "Embedding: whether the tokens of prompts are pooled."),
        normalize=(True, "Embedding: whether vectors are scaled to length 1."),
        embedding_size=(0, "Embedding: size of the vectors, by a linear map behind the pooling.",
                        {"empty": "the width of the model"} | WIDTH),
        query_length=(32, "Late interaction: tokens of an anchor, special ones included; longer ones are cut.",
                      COUNT | TOKENS | {"at_least": 3}),
        query_expansion=(
            "mask",
            "Late interaction: what anchors are filled up to query_length with: [MASK] tokens that attend to the text "
            "and count too (Khattab & Zaharia 2020, section 3.2), such that the text attends to as well, or nothing.",
            {"choices": ("mask", "attend", "none")},
        ),
        skiplist=("punctuation", "Late interaction: tokens of positives and negatives that have no vector.",
                  {"choices": ("punctuation", "none")}),
        markers=(
            ("[Q] ", "[D] "),
            "Late interaction: tokens behind [CLS] of anchors, and of positives and negatives; the vocabulary gets "
            "those that it lacks.",
            {"empty": "none"},
        ),
        embedding_activation=("linear", "Embedding: activation of that map.", {"choices": ("linear", "tanh")}),
        query=("query", "Reranking: column of the query."),
        document=("document", "Reranking: column of the document, or of a list of documents of the query."),
        group_size=(16, "Reranking: most documents of a query in a row of a loss on lists.", COUNT),
        long=(
            "truncate",
            'What is read of a text that is longer than its row: the beginning; with "head_tail" the beginning and the '
            'end (Sun et al. 2019, section 5.3.1); with "chunks" all of it up to data.sequence_length, in chunks that '
            "the model reads one by one and then together (Pappagari et al. 2019).",
            {"choices": ("truncate", "head_tail", "chunks")},
        ),
        head_tokens=(128, "Tokens of the beginning, with task.long=head_tail.", COUNT | TOKENS),
        chunk_length=(
            512, "Tokens of a chunk, special ones included, with task.long=chunks.", COUNT | TOKENS | {"at_least": 3}
        ),
        chunk_pooling=(
            "transformer",
            "How the vectors of a text's chunks are combined: by Transformer layers over them (Pappagari et al. 2019, "
            "section 3.2), by learned weights (Yang et al. 2016, section 2.2), or by their mean.",
            {"choices": ("transformer", "attention", "mean")},
        ),
        chunk_layers=(2, "Number of these layers.", COUNT | DEPTH),
        activation=(
            "auto",
            'Reranking: what a score is of the logit; "auto": Sigmoid where the loss is bce, else Identity.',
            {"choices": ("auto", "Identity", "Sigmoid")},
        ),
    ),
    **group(
        "loss",
        "loss",
        name=(
            "auto",
            'Loss on vectors, or of a reranker; "auto": cosent where the data has scores (with negatives kl), '
            "softmax where it has labels, else info_nce; of rerankers bce for pairs with labels or scores from 0 to 1, "
            "mse for other scores, listwise for lists, margin_mse for lists with a teacher's scores too, and kl for "
            "lists with scores alone.",
            {"choices": ("auto", *dict.fromkeys((*VECTOR_LOSSES, *PAIR_LOSSES, *LIST_LOSSES)))},
        ),
        temperature=(
            0.05,
            "What similarities are divided by (0.05: scale 20, as in sentence-transformers).",
            {"above": 0},
        ),
        learn_temperature=(False, "Learns the temperature, from loss.temperature on (info_nce)."),
        similarity=("cosine", "Similarity of two vectors (info_nce).", {"choices": ("cosine", "dot")}),
        symmetric=(False, "Also finds the anchor of each positive (info_nce; Radford et al. 2021, figure 3)."),
        false_negative_margin=(
            -1.0,
            "Leaves out a negative whose similarity is above the positive's minus this (info_nce; Solatorio 2024, "
            "equation 3, the model being its own guide).",
            {"at_least": -1, "empty": "none is", "empty_value": -1.0},
        ),
        guide=(
            "",
            "Embedder that tells false negatives: a negative is left out where its similarity to the anchor is above "
            "the positive's minus false_negative_margin (or 0), both by this model (info_nce; Solatorio 2024).",
            {"empty": "none"},
        ),
        teacher=(
            "",
            "Embedder whose vector of the anchor all texts of an example learn (mse; Reimers & Gurevych 2020).",
            {"empty": "none"},
        ),
        deletion=(0.6, "Share of the tokens that are deleted (denoising; Wang et al. 2021, section 3).", RATE),
        positive_weight=(1.0, "Weight of relevant documents (bce).", {"above": 0}),
        margin=(5.0, "By how much farther a negative must be than the positive (triplet)."),
        matryoshka=((), "Widths at which cut vectors are trained too (Kusupati et al. 2022).", {"empty": "none"}),
        prior_layers=(
            0,
            "How many layers below the last, drawn at each step, have the loss too, on the vectors that a model cut "
            "there would give (Li et al. 2024, 2D Matryoshka).",
            DEPTH | {"empty": "none"},
        ),
        prior_layers_weight=(1.0, "Weight of the mean of their losses.", {"at_least": 0}),
        layer_divergence=(
            1.0,
            "Weight of the divergence of their vectors from the last layer's, by softmaxes at a temperature of 0.3.",
            {"at_least": 0},
        ),
        matryoshka_weights=((), "Weight of the loss at each width.", {"empty": "1 each"}),
        flops_anchor=(
            0.0,
            "Weight of the operations that sparse vectors of anchors cost a search (Paria et al. 2020, equation 3).",
            {"at_least": 0},
        ),
        flops_other=(0.0, "The same of positives and negatives.", {"at_least": 0}),
        flops_growth=(
            0.0,
            "Share of the steps over which both weights grow from 0, as the square of the step (Formal et al. 2021, "
            "section 4).",
            {"at_most": 1, "noun": "a share", "empty": "they are constant"},
        ),
        gradcache_rows=(
            0,
            "Examples in memory at a time; the loss is over the whole batch whatever it is (Gao et al. 2021).",
            ROWS | MAY_CHANGE | {"empty": "the whole batch"},
        ),
    ),
    **_as_in_pretraining("data.sequence_length", default=128, doc="Tokens of the longest row, special tokens included.",
                         at_least=3),
    **_as_in_pretraining("data.batch_size", default=32),
    **group("data", "data", buckets=((), "Lengths that rows are padded to.", {"empty": "bert_jax.data.rows.BUCKETS"})),
    **_as_in_pretraining("data.packing",
                         doc="Puts several short texts in one row, with attention and positions apart."),
    **_as_in_pretraining("data.weights", doc="Embedding: shares of several named sets of task.train."),
    **_as_in_pretraining("data.temperature",
                         doc="Embedding: flattens the shares of named sets: share ~ examples ** (1 / temperature)."),
    **group("data", "data",
            set_batches=("mixed", "Embedding: whether a batch mixes the named sets of task.train, or holds one alone.",
                         {"choices": ("mixed", "apart")})),
    **_as_in_pretraining("data.prefetch"),
    **MESH,
    **_as_in_pretraining("optimizer.name"),
    **_as_in_pretraining("optimizer.learning_rate", default=-1.0, empty_value=-1.0,
                         empty="2e-5; 4e-4 for adapters; 2.8e-4 for a model of width 256, 1.1e-3 for 128"),
    **group(
        "optimizer",
        "optimizer",
        learning_rate_range=((1e-6, 1e-4), "Published range of rates; a rate outside is warned about."),
    ),
    **_as_in_pretraining("optimizer.schedule"),
    **group(
        "optimizer",
        "optimizer",
        warmup_share=(0.1, "Share of the run's steps that warm-up takes.", {"at_most": 1, "noun": "a share"}),
    ),
    **_as_in_pretraining("optimizer.warmup_steps", default=-1, empty="warmup_share of the run", empty_value=-1),
    **_as_in_pretraining(*(f"optimizer.{name}" for name in (
        "decay_steps", "decay_shape", "final_fraction", "b1", "b2", "epsilon", "bias_correction", "weight_decay",
        "decay_all", "clip_norm"))),
    **group(
        "optimizer",
        "optimizer",
        layer_decay=(
            1.0,
            "Rate of a layer / rate of the layer above it; the heads have the full rate.",
            {"at_most": 1},
        ),
        layer_decay_offset=(
            2,
            "Power of layer_decay at the top layer: 2 in ELECTRA's code, decay ** (n + 2 - depth) of n layers.",
            {"before": 0, "empty": "the rate of the heads at the top layer (Howard & Ruder 2018, section 3.2)"},
        ),
    ),
    **group(
        "tuning",
        "tuning",
        freeze=(
            "",
            'What is not trained: "encoder", "embeddings", "layers:N" (embeddings and the lowest N layers), or a '
            "regular expression over parameter paths.",
            {"empty": "nothing"},
        ),
        reinit_layers=(0, "Top layers (and pooler) to start fresh (Zhang et al. 2021, section 5).", DEPTH),
        lora_rank=(
            0,
            "Rank of LoRA adapters (Hu et al. 2022, section 4.1); the encoder is frozen, adapters and heads train.",
            {"empty": "no adapters"} | WIDTH,
        ),
        lora_alpha=(16.0, "Scale of the adapters: their product is multiplied by lora_alpha / lora_rank."),
        lora_targets=(("query", "value"), f"Linear maps of each layer to adapt, of {', '.join(ADAPTABLE)}."),
    ),
    **group(
        "train",
        "length",
        num_epochs=(3.0, "Length of the run in epochs.", {"at_most": 1_000_000} | MAY_CHANGE),
    ),
    **_as_in_pretraining("train.num_steps", default=0, doc="Length of the run in steps, instead of num_epochs.",
                         empty="num_epochs"),
    **_as_in_pretraining("train.microbatches", "train.memory_check"),
    **_as_in_pretraining("train.log_every", default=50),
    **_as_in_pretraining("train.eval_every", default=0, empty="an evaluation after each epoch"),
    **_as_in_pretraining("train.eval_batch_size"),
    **_as_in_pretraining("train.checkpoint_every", default=0, at_least=0, empty="a checkpoint at each evaluation",
                         empty_value=0),
    **_as_in_pretraining("train.checkpoint_minutes", "train.emergency_dir", "train.hang_seconds"),
    **group(
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
    **_as_in_pretraining("train.compilation_cache", "train.loggers", "train.tensorboard", "train.progress",
                         "train.report"),
    **PROFILE,
}  # fmt: skip
