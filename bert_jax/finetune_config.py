"""Every setting of a fine-tuning run, its default, and what makes it valid; the counterpart of config.py.

A recipe in configs/finetune/ starts from `base()` and changes what it needs.
"""

import ml_collections

TASKS = ("sequence_classification", "token_classification", "question_answering")
POOLING = ("auto", "pooler", "dense", "cls", "mean", "max", "attention")  # see model.spec.Task
PROBLEMS = ("single_label", "multi_label", "regression")


def base() -> ml_collections.ConfigDict:
    """Sequence classification with BERT's published settings and no data: the schema of every fine-tuning recipe."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 1  # seeds seed, seed + 1, ... trained side by side in one compiled step
    config.seeds_at_once = 0  # how many of them share a step; 0: all
    config.init_from = ""  # MODEL whose encoder, vocabulary and fitting heads to start from
    config.from_scratch = False  # take init_from's architecture and vocabulary, but fresh parameters

    model = config.model = ml_collections.ConfigDict()  # the rest is init_from's
    model.dtype = "auto"
    model.scan_layers = False
    model.hidden_dropout = -1.0  # -1: init_from's
    model.attention_dropout = -1.0

    task = config.task = ml_collections.ConfigDict()
    task.name = "sequence_classification"
    task.problem = "single_label"  # of sequence classification
    task.train = ""  # tfds:NAME[/CONFIG]:SPLIT, or a .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD .json file
    task.held_out = ""  # the same; several as "matched=...,mismatched=..."; "": held_out_share of train
    task.held_out_share = 0.1
    task.test = ""  # predictions are written for it; its labels may be absent
    task.data_dir = ""  # where TFDS keeps datasets; "": its default
    task.columns = ()  # names of the columns of a file that has no header
    task.text = "text"  # column
    task.text_pair = ""  # column of the second text; "": single texts
    task.label = "label"  # column
    task.labels = ()  # names in the order of ids; (): as the data says, else sorted as found in train
    task.metrics = ()  # (): those of the problem
    task.metric = ""  # the one that chooses the best checkpoint; "": the first of metrics
    task.pooling = "auto"  # what the classifier reads; auto: "pooler", or "dense" for RoBERTa
    task.dropout = 0.1  # of the classifier's input
    task.token_column = 0  # CoNLL: of the word
    task.label_column = -1  # CoNLL: of the tag
    task.scheme = "auto"  # of the file's tags: "IOB1", "BIO", "BIOES", or found by looking
    task.crf = False
    task.doc_stride = 128  # question answering: tokens between the starts of a context's windows
    task.max_query_length = 64
    task.max_answer_length = 30
    task.n_best = 20
    task.unanswerable = "auto"  # SQuAD 2.0's null answers: "yes", "no", or as the training data has them
    task.bad_answers = "skip"  # an answer that is not at its offset: "skip" (counted and named) or "error"

    data = config.data = ml_collections.ConfigDict()
    data.sequence_length = 128  # the longest row, special tokens included
    data.batch_size = 32
    data.buckets = ()  # padded lengths; (): bert_jax.data.rows.BUCKETS
    data.workers = 0
    data.prefetch = 2

    mesh = config.mesh = ml_collections.ConfigDict()
    mesh.data = -1
    mesh.fsdp = 1
    mesh.tensor = 1

    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = 2e-5  # the peak
    optimizer.learning_rate_range = (1e-6, 1e-4)  # a rate outside is warned about
    optimizer.schedule = "linear"
    optimizer.warmup_share = 0.1  # of the run's steps
    optimizer.warmup_steps = -1  # instead of warmup_share, if 0 or more
    optimizer.decay_steps = 0
    optimizer.final_fraction = 0.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.epsilon = 1e-6
    optimizer.weight_decay = 0.01
    optimizer.clip_norm = 1.0
    optimizer.layer_decay = 1.0  # rate of a layer / rate of the layer above it; heads have the full rate

    tuning = config.tuning = ml_collections.ConfigDict()
    tuning.freeze = ""  # "encoder", "embeddings", "layers:N" (embeddings and the lowest N layers), or a path regex
    tuning.reinit_layers = 0  # top layers (and pooler) to start fresh (Zhang et al. 2021, section 5)
    tuning.lora_rank = 0  # 0: no adapters; else the encoder is frozen and only adapters and heads train
    tuning.lora_alpha = 16.0
    tuning.lora_targets = ("query", "value")  # linear maps of each layer: query, key, value, output, up, down

    train = config.train = ml_collections.ConfigDict()
    train.num_epochs = 3.0
    train.num_steps = 0  # instead of num_epochs, if not 0
    train.microbatches = 1
    train.log_every = 50
    train.eval_every = 0  # 0: after each epoch
    train.eval_batch_size = 0  # 0: data.batch_size
    train.checkpoint_every = 0  # 0: at each evaluation
    train.patience = 0  # evaluations without a better metric before a seed stops; 0: never
    train.failed_below = -1.0  # a seed whose metric ends below has failed; -1: not better than the commonest answer
    train.keep_newest = 1
    train.tensorboard = True
    train.progress = True

    config.search = ml_collections.ConfigDict()  # key -> values that the paper searched; read by people and launchers
    config.lock()
    return config


CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "task.name": TASKS,
    "task.problem": PROBLEMS,
    "task.pooling": POOLING,
    "task.scheme": ("auto", "IOB1", "BIO", "BIOES"),
    "task.unanswerable": ("auto", "yes", "no"),
    "task.bad_answers": ("skip", "error"),
    "optimizer.name": ("adamw", "lamb"),
    "optimizer.schedule": ("linear", "cosine", "trapezoidal", "constant"),
}
