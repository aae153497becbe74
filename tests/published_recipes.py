"""The one table of values that papers and official code published, with the place where each can be read.

A source is a file and its line in a public repository, at the commit that COMMITS names, or a section or table of a
paper, read in copies of its text. `test_published_recipes.py` compares the recipes of configs/ with the table; where a
recipe differs on purpose, its docstring says so and the key is not in the table. A key of a phase is named by its place
from the front or from the end, such as "data.phases[-1].batch_size".
"""

COMMITS = {
    "google-research/bert": "eedf571",
    "google-research/electra": "8a46635",
    "google-research/albert": "b772393",
    "microsoft/DeBERTa": "4d7fe0b",
    "Nicolas-BZRD/EuroBERT": "55a8722",
    "AnswerDotAI/ModernBERT": "0e9dbe6, branch pretraining_documentation",
    "JHU-CLSP/ettin-encoder-vs-decoder": "6cbf954",
    "JHU-CLSP/mmBERT": "108ffb3",
    "facebookresearch/fairseq": "84c873d and later ones of the same files",
    "allenai/longformer": "0384749",
    "princeton-nlp/SimCSE": "49fa580",
    "FlagOpen/FlagEmbedding": "48af6d3",
    "lightonai/pylate": "58ce823",
    "stanford-futuredata/ColBERT": "f8c6498",
    "UKPLab/sentence-transformers": "1e56484 and other ones of the same files",
    "huggingface/transformers": "the last ones of examples/research_projects/distillation",
}

_BERT = "arXiv 1810.04805, appendix A.2"
_BERT_ADAM = "google-research/bert optimization.py:"
_ALBERT = "google-research/albert "
_ELECTRA = "google-research/electra "
_DEBERTA = "microsoft/DeBERTa DeBERTa/"
_RTD = "microsoft/DeBERTa experiments/language_model/"
_FAIRSEQ = "facebookresearch/fairseq "
_ROBERTA = f"{_FAIRSEQ}examples/roberta/config/pretraining/base.yaml:"
_DISTILL = "huggingface/transformers examples/research_projects/distillation/"
_EURO_PAPER = "arXiv 2503.05500, table 4"
_EURO = "Nicolas-BZRD/EuroBERT optimus/trainer/"
_MODERN = "AnswerDotAI/ModernBERT yamls/modernbert/modernbert-"
_GTE = "model card of Alibaba-NLP/gte-"
_MM = "JHU-CLSP/mmBERT configs/mmBERT-"
_ETTIN = "JHU-CLSP/ettin-encoder-vs-decoder pretraining/configs/standard/"

_LONGFORMER = "allenai/longformer scripts/convert_model_to_long.ipynb"
_SIMCSE = "princeton-nlp/SimCSE "
_SENTENCE = "UKPLab/sentence-transformers "
_NQ = f"{_SENTENCE}examples/sentence_transformer/training/prompts/training_nq_prompts.py"
_PYLATE = "lightonai/pylate "
_PYLATE_PAIRS = f"{_PYLATE}examples/train/contrastive.py"
_COLBERT = "stanford-futuredata/ColBERT colbert/infra/config/settings.py"
_SPARSE = f"{_SENTENCE}docs/sparse_encoder/training_overview.md, SPLADE"
_TSDAE = f"{_SENTENCE}examples/sentence_transformer/unsupervised_learning/TSDAE/train_askubuntu_tsdae.py"
_MULTILINGUAL = f"{_SENTENCE}examples/training/multilingual/make_multilingual.py"
_BGE = "FlagOpen/FlagEmbedding examples/finetune/embedder/encoder_only/base.sh"
_RERANKER = f"{_SENTENCE}examples/cross_encoder/training/ms_marco/training_ms_marco_bce.py"

_BERT_BASE = {
    "data.batch_size": (256, _BERT),
    "train.num_steps": (1_000_000, _BERT),
    "optimizer.learning_rate": (1e-4, _BERT),
    "optimizer.warmup_steps": (10_000, _BERT),
    "optimizer.schedule": ("linear", _BERT),
    "model.hidden_dropout": (0.1, _BERT),
    "model.attention_dropout": (0.1, _BERT),
    "data.mask_rate": (0.15, _BERT),
    "data.pair_repeats": (10, "google-research/bert create_pretraining_data.py:57"),
    "data.short_target_share": (0.1, "google-research/bert create_pretraining_data.py:63"),
    "optimizer.b1": (0.9, f"{_BERT_ADAM}62"),
    "optimizer.b2": (0.999, f"{_BERT_ADAM}63"),
    "optimizer.epsilon": (1e-6, f"{_BERT_ADAM}64"),
    "optimizer.weight_decay": (0.01, f"{_BERT_ADAM}61"),
    "optimizer.decay_all": (False, f"{_BERT_ADAM}65"),
    "optimizer.clip_norm": (1.0, f"{_BERT_ADAM}74"),
    "optimizer.bias_correction": (False, f"{_BERT_ADAM}137"),
    "model.initializer": ("truncated_normal", "google-research/bert modeling.py:377"),
}

_ALBERT_BASE = {
    "data.batch_size": (4096, f"{_ALBERT}README.md:139"),
    "data.sequence_length": (512, f"{_ALBERT}README.md:141"),
    "data.max_predictions": (20, f"{_ALBERT}README.md:142"),
    "optimizer.name": ("lamb", f"{_ALBERT}README.md:143"),
    "optimizer.learning_rate": (1.76e-3, f"{_ALBERT}README.md:144"),
    "train.num_steps": (125_000, f"{_ALBERT}README.md:145"),
    "optimizer.warmup_steps": (3_125, f"{_ALBERT}README.md:146"),
    "data.mask_rate": (0.15, f"{_ALBERT}create_pretraining_data.py:87"),
    "data.mask_unit": ("ngram", f"{_ALBERT}create_pretraining_data.py:76"),
    "data.ngram_max": (3, f"{_ALBERT}create_pretraining_data.py:76"),
    "optimizer.b2": (0.999, f"{_ALBERT}optimization.py:88"),
    "optimizer.epsilon": (1e-6, f"{_ALBERT}optimization.py:89"),
    "optimizer.weight_decay": (0.01, f"{_ALBERT}optimization.py:86"),
    "optimizer.clip_norm": (1.0, f"{_ALBERT}optimization.py:106"),
    "optimizer.bias_correction": (False, f"{_ALBERT}lamb_optimizer.py:95"),
    "model.initializer": ("truncated_normal", f"{_ALBERT}modeling.py:444"),
}

_ELECTRA_SMALL = {
    "objective.discriminator_weight": (50.0, f"{_ELECTRA}configure_pretraining.py:39"),
    "data.mask_rate": (0.15, f"{_ELECTRA}configure_pretraining.py:40"),
    "data.mask_token_share": (0.85, f"{_ELECTRA}pretrain/pretrain_helpers.py:202"),
    "data.random_token_share": (0.0, f"{_ELECTRA}pretrain/pretrain_helpers.py:202"),
    "optimizer.learning_rate": (5e-4, f"{_ELECTRA}configure_pretraining.py:43"),
    "optimizer.weight_decay": (0.01, f"{_ELECTRA}configure_pretraining.py:45"),
    "optimizer.warmup_steps": (10_000, f"{_ELECTRA}configure_pretraining.py:46"),
    "train.num_steps": (1_000_000, f"{_ELECTRA}configure_pretraining.py:51"),
    "generator.hidden_size": (64, f"{_ELECTRA}configure_pretraining.py:75"),
    "data.sequence_length": (128, f"{_ELECTRA}configure_pretraining.py:82"),
    "data.batch_size": (128, f"{_ELECTRA}configure_pretraining.py:83"),
    "model.embedding_size": (128, f"{_ELECTRA}configure_pretraining.py:119"),
    "optimizer.b1": (0.9, f"{_ELECTRA}model/optimization.py:53"),
    "optimizer.b2": (0.999, f"{_ELECTRA}model/optimization.py:54"),
    "optimizer.epsilon": (1e-6, f"{_ELECTRA}model/optimization.py:55"),
    "optimizer.clip_norm": (1.0, f"{_ELECTRA}model/optimization.py:62"),
    "optimizer.bias_correction": (False, f"{_ELECTRA}model/optimization.py:119"),
    "optimizer.decoupled": (False, f"{_ELECTRA}run_pretraining.py, one optimizer for the sum of the losses"),
    "model.initializer": ("truncated_normal", f"{_ELECTRA}model/modeling.py:407"),
}

_ELECTRA_BASE = _ELECTRA_SMALL | {
    "data.sequence_length": (512, f"{_ELECTRA}configure_pretraining.py:123"),
    "optimizer.learning_rate": (2e-4, f"{_ELECTRA}configure_pretraining.py:124"),
    "model.embedding_size": (0, f"{_ELECTRA}configure_pretraining.py:126, which is the hidden size"),
    "generator.hidden_size": (256, f"{_ELECTRA}configure_pretraining.py:127"),
    "data.batch_size": (256, f"{_ELECTRA}configure_pretraining.py:128"),
    "train.num_steps": (766_000, f"{_ELECTRA}flops_computation.py:178"),
}

_DEBERTA_ADAM = {
    "optimizer.clip_norm": (1.0, f"{_DEBERTA}optims/args.py:69"),
    "optimizer.epsilon": (1e-6, f"{_DEBERTA}optims/args.py:79"),
    "optimizer.b1": (0.9, f"{_DEBERTA}optims/args.py:84"),
    "optimizer.weight_decay": (0.01, f"{_DEBERTA}optims/args.py:94"),
    "optimizer.bias_correction": (False, f"{_DEBERTA}optims/xadam.py:200"),
    "model.initializer": ("normal", f"{_DEBERTA}deberta/nnmodule.py:51"),
    "data.sequence_length": (512, f"{_RTD}mlm.sh:8"),
}

_DEBERTA_BASE = _DEBERTA_ADAM | {
    "optimizer.learning_rate": (2e-4, "arXiv 2006.03654, table 8"),
    "data.batch_size": (2048, "arXiv 2006.03654, table 8"),
    "optimizer.b2": (0.999, f"{_DEBERTA}optims/args.py:89"),
    "optimizer.warmup_steps": (10_000, f"{_RTD}mlm.sh:47"),
    "train.num_steps": (1_000_000, f"{_RTD}mlm.sh:85"),
    "data.ngram_max": (3, f"{_RTD}mlm.sh:50"),
}

_DEBERTA_V3_PAPER = "arXiv 2111.09543, section 4.1"
_DEBERTA_V3 = _DEBERTA_ADAM | {
    "data.batch_size": (8192, _DEBERTA_V3_PAPER),
    "train.num_steps": (500_000, _DEBERTA_V3_PAPER),
    "optimizer.learning_rate": (5e-4, _DEBERTA_V3_PAPER),
    "optimizer.b2": (0.98, _DEBERTA_V3_PAPER),
    "objective.discriminator_weight": (50.0, "arXiv 2111.09543, section 3.1"),
    "optimizer.decoupled": (True, f"{_DEBERTA}apps/tasks/rtd_task.py:393"),
    "objective.embedding_sharing": ("gradient_disentangled", f"{_RTD}rtd_base.json:2"),
    "optimizer.warmup_steps": (10_000, f"{_RTD}rtd.sh:75"),
    "data.mask_unit": ("token", f"{_DEBERTA}apps/tasks/rtd_task.py:145"),
    "data.mask_token_share": (1.0, f"{_DEBERTA}apps/tasks/rtd_task.py:145"),
}

_ROBERTA_BASE = {
    "data.sequence_length": (512, f"{_ROBERTA}14"),
    "optimizer.weight_decay": (0.01, f"{_ROBERTA}24"),
    "optimizer.b1": (0.9, f"{_ROBERTA}25"),
    "optimizer.b2": (0.98, f"{_ROBERTA}25"),
    "optimizer.epsilon": (1e-6, f"{_ROBERTA}26"),
    "optimizer.clip_norm": (0.0, f"{_ROBERTA}33"),
    "model.hidden_dropout": (0.1, f"{_ROBERTA}41"),
    "model.attention_dropout": (0.1, f"{_ROBERTA}42"),
    "optimizer.learning_rate": (6e-4, "model card of roberta-base"),
    "optimizer.warmup_steps": (24_000, "model card of roberta-base"),
    "optimizer.decay_all": (True, f"{_FAIRSEQ}fairseq/optim/adam.py, Adam.step, which has no exception"),
    "optimizer.bias_correction": (True, f"{_FAIRSEQ}fairseq/optim/adam.py, Adam.step"),
    "model.initializer": ("normal", f"{_FAIRSEQ}fairseq/modules/transformer_sentence_encoder.py, init_bert_params"),
}

# Defaults of transformers' TrainingArguments, which SimCSE's scripts leave as they are.
_TRAINER = {
    "optimizer.warmup_share": (0.0, "huggingface/transformers src/transformers/training_args.py, warmup_steps"),
    "optimizer.weight_decay": (0.0, "huggingface/transformers src/transformers/training_args.py, weight_decay"),
    "optimizer.epsilon": (1e-8, "huggingface/transformers src/transformers/training_args.py, adam_epsilon"),
    "optimizer.clip_norm": (1.0, "huggingface/transformers src/transformers/training_args.py, max_grad_norm"),
    "optimizer.schedule": ("linear", "huggingface/transformers src/transformers/training_args.py, lr_scheduler_type"),
}

# {recipe: {config key: (value, where it can be read)}}
PUBLISHED = {
    "bert_base": _BERT_BASE,
    "bert_large": _BERT_BASE,
    "mbert": {
        "data.temperature": (1 / 0.7, "google-research/bert multilingual.md:165"),
        "optimizer.bias_correction": (False, f"{_BERT_ADAM}137"),
    },
    "albert_base": _ALBERT_BASE,
    "albert_xxlarge": {"optimizer.bias_correction": (False, f"{_ALBERT}lamb_optimizer.py:95")},
    "electra_small": _ELECTRA_SMALL,
    "electra_base": _ELECTRA_BASE,
    "electra_large": _ELECTRA_BASE
    | {
        "data.mask_rate": (0.25, f"{_ELECTRA}configure_pretraining.py:131"),
        "data.batch_size": (2048, f"{_ELECTRA}configure_pretraining.py:132"),
        "train.num_steps": (400_000, f"{_ELECTRA}flops_computation.py:179"),
    },
    "roberta_base": _ROBERTA_BASE,
    "roberta_large": _ROBERTA_BASE
    | {
        "optimizer.learning_rate": (4e-4, "model card of roberta-large"),
        "optimizer.warmup_steps": (30_000, "model card of roberta-large"),
    },
    "xlm_r_base": {
        "optimizer.decay_all": (True, f"{_FAIRSEQ}fairseq/optim/adam.py, Adam.step, which has no exception"),
        "data.batch_size": (8192, "arXiv 1911.02116, section 3"),
        "train.num_steps": (1_500_000, "arXiv 1911.02116, section 3"),
    },
    "deberta_base": _DEBERTA_BASE,
    "deberta_large": _DEBERTA_BASE,
    "deberta_v2_xlarge": {
        "optimizer.bias_correction": (False, f"{_DEBERTA}optims/xadam.py:200"),
        "model.initializer": ("normal", f"{_DEBERTA}deberta/nnmodule.py:51"),
    },
    "deberta_v3_xsmall": _DEBERTA_V3
    | {
        "optimizer.learning_rate": (3e-4, f"{_RTD}rtd.sh:53"),
        "data.batch_size": (64, f"{_RTD}rtd.sh:54"),
        "train.num_steps": (1_000_000, f"{_RTD}rtd.sh:103"),
        "optimizer.b2": (0.999, f"{_DEBERTA}optims/args.py:89"),
        "objective.discriminator_weight": (10.0, f"{_DEBERTA}apps/tasks/rtd_task.py:392"),
    },
    "deberta_v3_small": _DEBERTA_V3 | {"generator.num_layers": (3, f"{_RTD}rtd_small.json, generator")},
    "deberta_v3_base": _DEBERTA_V3 | {"generator.num_layers": (6, f"{_RTD}rtd_base.json, generator")},
    "deberta_v3_large": _DEBERTA_V3
    | {
        "generator.num_layers": (12, f"{_RTD}rtd_large.json, generator"),
        "optimizer.learning_rate": (3e-4, _DEBERTA_V3_PAPER),
    },
    "distilbert": {
        "distillation.temperature": (2.0, f"{_DISTILL}train.py, --temperature"),
        "distillation.soft_weight": (5.0, f"{_DISTILL}README.md, --alpha_ce"),
        "distillation.mlm_weight": (2.0, f"{_DISTILL}README.md, --alpha_mlm"),
        "distillation.cosine_weight": (1.0, f"{_DISTILL}README.md, --alpha_cos"),
        "distillation.positions": ("all", f"{_DISTILL}train.py, --restrict_ce_to_mask, which is off"),
        "init_layers": ((0, 2, 4, 7, 9, 11), f"{_DISTILL}scripts/extract_distilbert.py"),
        "optimizer.learning_rate": (5e-4, f"{_DISTILL}train.py, --learning_rate"),
        "optimizer.epsilon": (1e-6, f"{_DISTILL}train.py, --adam_epsilon"),
        "optimizer.weight_decay": (0.0, f"{_DISTILL}train.py, --weight_decay"),
        "optimizer.clip_norm": (5.0, f"{_DISTILL}train.py, --max_grad_norm"),
        "optimizer.b1": (0.9, f"{_DISTILL}distiller.py, AdamW"),
        "optimizer.b2": (0.98, f"{_DISTILL}distiller.py, AdamW"),
        "optimizer.bias_correction": (True, f"{_DISTILL}distiller.py, torch's AdamW"),
        "data.mask_rate": (0.15, f"{_DISTILL}train.py, --mlm_mask_prop"),
        "model.hidden_dropout": (0.1, f"{_DISTILL}training_configs/distilbert-base-uncased.json"),
    },
    "eurobert_210m": {
        "optimizer.learning_rate": (1e-4, f"{_EURO}configuration/train.py:11"),
        "optimizer.warmup_steps": (2_000, _EURO_PAPER),
        "data.phases[-1].sequence_length": (8192, _EURO_PAPER),
        "data.phases[-2].mask_rate": (0.5, "arXiv 2503.05500, section 2.3"),
        "data.phases[-1].mask_rate": (0.1, "arXiv 2503.05500, section 2.3"),
        "optimizer.decay_shape": ("linear", f"{_EURO}script/warmup_stable_decay_lr.py:104"),
        "data.phases[-2].sequence_length": (2048, f"{_EURO}configuration/dataset.py:12"),
        "data.phases[-2].model.rotary_base": (10_000.0, f"{_EURO}model/encoder/eurobert.py:26"),
        "optimizer.b2": (0.95, f"{_EURO}configuration/train.py:19"),
        "optimizer.epsilon": (1e-5, f"{_EURO}configuration/train.py:20"),
        "optimizer.weight_decay": (0.1, f"{_EURO}configuration/train.py:17"),
        "optimizer.clip_norm": (1.0, f"{_EURO}configuration/train.py:13"),
        "optimizer.decay_all": (True, f"{_EURO}pretrain.py:61"),
        "optimizer.bias_correction": (True, f"{_EURO}pretrain.py:61, torch's AdamW"),
        "model.initializer": ("normal", f"{_EURO}model/model.py:65"),
    },
    "eurobert_610m": {
        "model.hidden_size": (1152, f"{_EURO}model/encoder/eurobert.py, 610m"),
        "model.num_layers": (26, f"{_EURO}model/encoder/eurobert.py, 610m"),
        "model.num_heads": (18, f"{_EURO}model/encoder/eurobert.py, 610m"),
        "model.num_kv_heads": (6, f"{_EURO}model/encoder/eurobert.py, 610m"),
        "model.intermediate_size": (4096, f"{_EURO}model/encoder/eurobert.py, 610m"),
        "model.tied_decoder": (False, f"{_EURO}model/encoder/eurobert.py, 610m"),
    },
    "eurobert_2b": {
        "model.hidden_size": (2304, f"{_EURO}model/encoder/eurobert.py, 2b"),
        "model.num_layers": (32, f"{_EURO}model/encoder/eurobert.py, 2b"),
        "model.num_heads": (18, f"{_EURO}model/encoder/eurobert.py, 2b"),
        "model.num_kv_heads": (6, f"{_EURO}model/encoder/eurobert.py, 2b"),
        "model.intermediate_size": (6144, f"{_EURO}model/encoder/eurobert.py, 2b"),
        "model.tied_decoder": (False, f"{_EURO}model/encoder/eurobert.py, 2b"),
    },
    "gte_base": {
        "data.mask_rate": (0.3, f"{_GTE}en-mlm-base"),
        "train.num_steps": (90_000, f"{_GTE}en-mlm-base"),
        "optimizer.learning_rate": (5e-4, f"{_GTE}en-mlm-base"),
        "data.phases[0].batch_size": (4096, f"{_GTE}en-mlm-base"),
        "data.phases[0].sequence_length": (2048, f"{_GTE}en-mlm-base"),
        "data.phases[0].model.rotary_base": (10_000.0, f"{_GTE}en-mlm-base"),
        "data.phases[1].batch_size": (1024, f"{_GTE}en-mlm-base"),
        "data.phases[1].sequence_length": (8192, f"{_GTE}en-mlm-base"),
        "data.phases[1].optimizer.learning_rate": (5e-5, f"{_GTE}en-mlm-base"),
        "model.rotary_base": (500_000.0, f"{_GTE}en-mlm-base"),
    },
    "gte_large": {
        "train.num_steps": (360_000, f"{_GTE}en-mlm-large"),
        "optimizer.learning_rate": (2e-4, f"{_GTE}en-mlm-large"),
        "data.phases[0].sequence_length": (512, f"{_GTE}en-mlm-large"),
        "data.phases[0].batch_size": (4096, f"{_GTE}en-mlm-large"),
        "data.phases[1].sequence_length": (2048, f"{_GTE}en-mlm-large"),
        "data.phases[1].batch_size": (4096, f"{_GTE}en-mlm-large"),
        "data.phases[1].optimizer.learning_rate": (5e-5, f"{_GTE}en-mlm-large"),
        "data.phases[1].model.rotary_base": (10_000.0, f"{_GTE}en-mlm-large"),
        "data.phases[2].batch_size": (1024, f"{_GTE}en-mlm-large"),
        "data.phases[2].optimizer.learning_rate": (5e-5, f"{_GTE}en-mlm-large"),
        "model.rotary_base": (160_000.0, f"{_GTE}en-mlm-large"),
    },
    "gte_multilingual_base": {
        "train.num_steps": (280_000, f"{_GTE}multilingual-mlm-base"),
        "optimizer.learning_rate": (2e-4, f"{_GTE}multilingual-mlm-base"),
        "data.phases[0].batch_size": (8192, f"{_GTE}multilingual-mlm-base"),
        "data.phases[1].batch_size": (2048, f"{_GTE}multilingual-mlm-base"),
        "data.phases[1].optimizer.learning_rate": (5e-5, f"{_GTE}multilingual-mlm-base"),
        "model.rotary_base": (160_000.0, f"{_GTE}multilingual-mlm-base"),
    },
    "modernbert_base": {
        "optimizer.name": ("stable_adamw", f"{_MODERN}base-pretrain.yaml:105"),
        "optimizer.learning_rate": (8e-4, f"{_MODERN}base-pretrain.yaml:106"),
        "optimizer.b2": (0.98, f"{_MODERN}base-pretrain.yaml:109"),
        "optimizer.epsilon": (1e-6, f"{_MODERN}base-pretrain.yaml:110"),
        "optimizer.weight_decay": (1e-5 / 8e-4, f"{_MODERN}base-pretrain.yaml:111"),
        "data.mask_rate": (0.3, f"{_MODERN}base-pretrain.yaml:6"),
        "model.attention_output_dropout": (0.1, f"{_MODERN}base-pretrain.yaml:28"),
        "train.eval_mask_rate": (0.15, f"{_MODERN}base-pretrain.yaml:90"),
        "data.phases[0].batch_size": (768, f"{_MODERN}base-pretrain.yaml, batch_size_warmup_min_size: 96 on 8 devices"),
        "data.phases[-3].sequence_length": (1024, f"{_MODERN}base-pretrain.yaml:4"),
        "data.phases[-3].batch_size": (4608, f"{_MODERN}base-pretrain.yaml:117"),
        "data.phases[-3].model.rotary_base": (10_000.0, f"{_MODERN}base-pretrain.yaml:52"),
        "data.phases[-2].sequence_length": (8192, f"{_MODERN}base-context-extension.yaml:7"),
        "data.phases[-2].batch_size": (576, f"{_MODERN}base-context-extension.yaml:120"),
        "data.phases[-2].optimizer.learning_rate": (3e-4, f"{_MODERN}base-context-extension.yaml:109"),
        "data.phases[-2].optimizer.weight_decay": (1e-5 / 3e-4, f"{_MODERN}base-context-extension.yaml:114"),
        "model.rotary_base": (160_000.0, f"{_MODERN}base-context-extension.yaml:56"),
        "model.local_rotary_base": (10_000.0, f"{_MODERN}base-context-extension.yaml:59"),
        "data.phases[-1].batch_size": (576, f"{_MODERN}base-learning-rate-decay.yaml:121"),
        "data.phases[-1].optimizer.learning_rate": (3e-4, f"{_MODERN}base-learning-rate-decay.yaml:110"),
        "data.phases[-1].optimizer.decay_shape": ("sqrt", f"{_MODERN}base-learning-rate-decay.yaml:103"),
        "data.phases[-1].optimizer.final_fraction": (0.001, f"{_MODERN}base-learning-rate-decay.yaml:104"),
    },
    "modernbert_large": {
        "optimizer.learning_rate": (5e-4, f"{_MODERN}large-pretrain.yaml:106"),
        "optimizer.weight_decay": (1e-5 / 5e-4, f"{_MODERN}large-pretrain.yaml:111"),
        "data.phases[0].batch_size": (
            448,
            f"{_MODERN}large-pretrain.yaml, batch_size_warmup_min_size: 56 on 8 devices",
        ),
        "data.phases[-3].batch_size": (4928, f"{_MODERN}large-pretrain.yaml:117"),
        "data.phases[-2].batch_size": (616, f"{_MODERN}large-context-extension.yaml:120"),
        "data.phases[-2].optimizer.learning_rate": (5e-5, f"{_MODERN}large-context-extension.yaml:109"),
        "data.phases[-1].batch_size": (624, f"{_MODERN}large-learning-rate-decay.yaml:121"),
        "data.phases[-1].optimizer.learning_rate": (5e-5, f"{_MODERN}large-learning-rate-decay.yaml:110"),
        "data.phases[-1].optimizer.final_fraction": (0.001, f"{_MODERN}large-learning-rate-decay.yaml:104"),
    },
    "mmbert_base": {
        "optimizer.learning_rate": (8e-4, f"{_MM}base.yaml:66"),
        "optimizer.epsilon": (1e-8, f"{_MM}base.yaml:67"),
        "optimizer.b2": (0.95, f"{_MM}base.yaml:68"),
        "optimizer.weight_decay": (8e-5 / 8e-4, f"{_MM}base.yaml:69"),
        "data.phases[-3].model.rotary_base": (10_000.0, f"{_MM}base.yaml:44"),
        "data.phases[-3].batch_size": (4608, f"{_MM}base.yaml:103"),
        "model.rotary_base": (160_000.0, f"{_MM}base-ext.yaml:46"),
        "data.phases[-2].mask_rate": (0.15, f"{_MM}base-ext.yaml:92"),
        "data.phases[-2].batch_size": (4608, f"{_MM}base-ext.yaml:105"),
        "data.phases[-1].mask_rate": (0.05, f"{_MM}base-decay.yaml:90"),
        "data.phases[-1].optimizer.final_fraction": (0.02, f"{_MM}base-decay.yaml:74"),
    },
    "mmbert_small": {
        "data.phases[-3].mask_rate": (0.3, f"{_MM}small.yaml:90"),
        "data.phases[-2].optimizer.learning_rate": (4e-4, f"{_MM}small-ext.yaml:67"),
        "data.phases[-1].optimizer.learning_rate": (4e-4, f"{_MM}small-decay.yaml:67"),
        "data.phases[-1].optimizer.final_fraction": (0.04, f"{_MM}small-decay.yaml:76"),
    },
    "ettin_17m": {
        "model.num_layers": (7, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:24"),
        "model.hidden_size": (256, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:25"),
        "model.intermediate_size": (384, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:26"),
        "model.num_heads": (4, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:27"),
        "data.phases[1].model.local_rotary_base": (10_000.0, f"{_ETTIN}very_tiny/de_decay/encoder_very_tiny.yaml:57"),
        "optimizer.learning_rate": (3e-3, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:110"),
        "optimizer.weight_decay": (3e-4 / 3e-3, f"{_ETTIN}very_tiny/encoder_very_tiny.yaml:115"),
        "data.phases[2].optimizer.learning_rate": (
            1.5e-3,
            f"{_ETTIN}very_tiny/prolong_decay/encoder_very_tiny.yaml:111",
        ),
    },
    "ettin_32m": {
        "model.num_layers": (10, f"{_ETTIN}tiny/encoder_tiny.yaml:24"),
        "model.hidden_size": (384, f"{_ETTIN}tiny/encoder_tiny.yaml:25"),
        "model.intermediate_size": (576, f"{_ETTIN}tiny/encoder_tiny.yaml:26"),
        "model.num_heads": (6, f"{_ETTIN}tiny/encoder_tiny.yaml:27"),
        "optimizer.learning_rate": (3e-3, f"{_ETTIN}tiny/encoder_tiny.yaml:110"),
        "optimizer.weight_decay": (3e-4 / 3e-3, f"{_ETTIN}tiny/encoder_tiny.yaml:115"),
        "data.phases[2].optimizer.learning_rate": (1.5e-3, f"{_ETTIN}tiny/prolong_decay/encoder_tiny.yaml:111"),
    },
    "ettin_68m": {
        "model.num_layers": (19, f"{_ETTIN}mini/encoder_mini.yaml:24"),
        "model.hidden_size": (512, f"{_ETTIN}mini/encoder_mini.yaml:25"),
        "model.intermediate_size": (768, f"{_ETTIN}mini/encoder_mini.yaml:26"),
        "model.num_heads": (8, f"{_ETTIN}mini/encoder_mini.yaml:27"),
        "optimizer.learning_rate": (3e-3, f"{_ETTIN}mini/encoder_mini.yaml:110"),
        "optimizer.weight_decay": (3e-4 / 3e-3, f"{_ETTIN}mini/encoder_mini.yaml:115"),
        "data.phases[2].optimizer.learning_rate": (1.5e-3, f"{_ETTIN}mini/prolong_decay/encoder_mini.yaml:111"),
    },
    "ettin_150m": {
        "data.mask_rate": (0.3, f"{_ETTIN}base/encoder_base.yaml:6"),
        "optimizer.b2": (0.98, f"{_ETTIN}base/encoder_base.yaml:113"),
        "optimizer.epsilon": (1e-6, f"{_ETTIN}base/encoder_base.yaml:114"),
        "train.eval_mask_rate": (0.15, f"{_ETTIN}base/encoder_base.yaml:94"),
        "data.phases[0].batch_size": (4608, f"{_ETTIN}base/encoder_base.yaml:121"),
        "data.phases[0].model.rotary_base": (10_000.0, f"{_ETTIN}base/encoder_base.yaml:55"),
        "model.rotary_base": (160_000.0, f"{_ETTIN}base/de_decay/encoder_base.yaml:55"),
        "data.phases[1].optimizer.final_fraction": (0.5, f"{_ETTIN}base/de_decay/encoder_base.yaml:104"),
        "data.phases[2].optimizer.final_fraction": (0.04, f"{_ETTIN}base/prolong_decay/encoder_base.yaml:105"),
        "data.phases[2].mask_rate": (0.15, f"{_ETTIN}base/prolong_decay/encoder_base.yaml:6"),
        "optimizer.learning_rate": (8e-4, f"{_ETTIN}base/encoder_base.yaml:110"),
        "optimizer.weight_decay": (1e-5 / 8e-4, f"{_ETTIN}base/encoder_base.yaml:115"),
        "data.phases[2].optimizer.learning_rate": (4e-4, f"{_ETTIN}base/prolong_decay/encoder_base.yaml:111"),
    },
    "ettin_400m": {
        "model.num_layers": (28, f"{_ETTIN}large/encoder_large.yaml:24"),
        "model.hidden_size": (1024, f"{_ETTIN}large/encoder_large.yaml:25"),
        "model.intermediate_size": (2624, f"{_ETTIN}large/encoder_large.yaml:26"),
        "model.num_heads": (16, f"{_ETTIN}large/encoder_large.yaml:27"),
        "optimizer.learning_rate": (5e-4, f"{_ETTIN}large/encoder_large.yaml:110"),
        "optimizer.weight_decay": (1e-5 / 5e-4, f"{_ETTIN}large/encoder_large.yaml:115"),
        "data.phases[2].optimizer.learning_rate": (2.5e-4, f"{_ETTIN}large/prolong_decay/encoder_large.yaml:111"),
    },
    "finetune/mnli": {
        "search.data.batch_size": ((16, 32), "arXiv 1810.04805, appendix A.3"),
        "search.optimizer.learning_rate": ((5e-5, 3e-5, 2e-5), "arXiv 1810.04805, appendix A.3"),
        "search.train.num_epochs": ((2.0, 3.0, 4.0), "arXiv 1810.04805, appendix A.3"),
        "data.batch_size": (32, "arXiv 1810.04805, section 4.1"),
        "train.num_epochs": (3.0, "arXiv 1810.04805, section 4.1"),
        "optimizer.layer_decay_offset": (2, f"{_ELECTRA}model/optimization.py:191"),
        "optimizer.warmup_share": (0.1, f"{_ELECTRA}configure_finetuning.py:60"),
    },
    "finetune/squad1": {
        "data.batch_size": (32, "arXiv 1810.04805, section 4.2"),
        "optimizer.learning_rate": (5e-5, "arXiv 1810.04805, section 4.2"),
        "train.num_epochs": (3.0, "arXiv 1810.04805, section 4.2"),
        "data.sequence_length": (384, "google-research/bert README.md:538"),
        "task.doc_stride": (128, "google-research/bert README.md:539"),
        "task.max_query_length": (64, "google-research/bert run_squad.py:78"),
        "task.max_answer_length": (30, "google-research/bert run_squad.py:113"),
        "task.n_best": (20, "google-research/bert run_squad.py:108"),
    },
    "longformer_base": {
        "optimizer.learning_rate": (3e-5, _LONGFORMER),
        "optimizer.warmup_steps": (500, _LONGFORMER),
        "optimizer.epsilon": (1e-6, _LONGFORMER),
        "optimizer.weight_decay": (0.01, _LONGFORMER),
        "optimizer.clip_norm": (5.0, _LONGFORMER),
        "optimizer.schedule": ("constant", f"{_LONGFORMER}, note on its 3,000 steps"),
        "train.num_steps": (3_000, _LONGFORMER),
        "data.batch_size": (64, f"{_LONGFORMER}, 2^18 tokens"),
        "data.sequence_length": (4096, _LONGFORMER),
        "data.mask_rate": (0.15, _LONGFORMER),
        "model.layer_windows": ((512,), _LONGFORMER),
        "init_positions": ("tile", _LONGFORMER),
    },
    "embedding/nli": {
        "train.num_epochs": (3.0, f"{_SIMCSE}run_sup_example.sh:22"),
        "data.batch_size": (512, f"{_SIMCSE}README.md, hyperparameters"),
        "optimizer.learning_rate": (5e-5, f"{_SIMCSE}run_sup_example.sh:24"),
        "data.sequence_length": (32, f"{_SIMCSE}run_sup_example.sh:25"),
        "loss.temperature": (0.05, f"{_SIMCSE}run_sup_example.sh:32"),
        "task.pooling": ("cls", f"{_SIMCSE}run_sup_example.sh:30"),
    }
    | _TRAINER,
    "embedding/simcse": {
        "train.num_epochs": (1.0, f"{_SIMCSE}run_unsup_example.sh:11"),
        "data.batch_size": (64, f"{_SIMCSE}run_unsup_example.sh:12"),
        "optimizer.learning_rate": (3e-5, f"{_SIMCSE}run_unsup_example.sh:13"),
        "data.sequence_length": (32, f"{_SIMCSE}run_unsup_example.sh:14"),
        "loss.temperature": (0.05, f"{_SIMCSE}run_unsup_example.sh:22"),
    }
    | _TRAINER,
    "embedding/pairs": {
        "loss.temperature": (1 / 20, f"{_SENTENCE}sentence_transformers/losses/MultipleNegativesRankingLoss.py, scale"),
        "train.num_epochs": (1.0, _NQ),
        "optimizer.warmup_share": (0.1, _NQ),
    },
    "embedding/tsdae": {
        "data.batch_size": (8, _TSDAE),
        "optimizer.learning_rate": (3e-5, _TSDAE),
        "train.num_epochs": (1.0, _TSDAE),
        "task.pooling": ("cls", _TSDAE),
    },
    "embedding/distil": {
        "data.batch_size": (64, _MULTILINGUAL),
        "data.sequence_length": (128, _MULTILINGUAL),
        "optimizer.learning_rate": (2e-5, _MULTILINGUAL),
        "optimizer.epsilon": (1e-6, _MULTILINGUAL),
        "optimizer.bias_correction": (False, _MULTILINGUAL),
    },
    "embedding/bge": {
        "optimizer.learning_rate": (1e-5, _BGE),
        "optimizer.warmup_share": (0.1, _BGE),
        "data.sequence_length": (512, _BGE),
        "loss.temperature": (0.02, _BGE),
        "task.pooling": ("cls", _BGE),
        "task.normalize": (True, _BGE),
    },
    "embedding/splade": {
        "loss.flops_growth": (1 / 3, f"{_SENTENCE}sentence_transformers/sparse_encoder/callbacks/splade_callbacks.py"),
        "loss.flops_anchor": (5e-5, _SPARSE),
        "loss.flops_other": (3e-5, _SPARSE),
        "data.batch_size": (16, _SPARSE),
        "train.num_epochs": (1.0, _SPARSE),
        "optimizer.warmup_share": (0.1, _SPARSE),
    },
    "embedding/colbert": {
        "task.embedding_size": (128, f"{_COLBERT}, dim"),
        "task.query_length": (32, f"{_COLBERT}, query_maxlen"),
        "task.skiplist": ("punctuation", f"{_COLBERT}, mask_punctuation"),
        "task.query_expansion": ("mask", f"{_COLBERT}, attend_to_mask_tokens"),
        "data.batch_size": (32, f"{_COLBERT}, bsize, and {_PYLATE_PAIRS}"),
        "optimizer.learning_rate": (3e-6, f"{_COLBERT}, lr, and {_PYLATE_PAIRS}"),
        "data.sequence_length": (180, f"{_PYLATE}pylate/models/colbert.py, document_length"),
        "task.markers": (("[Q] ", "[D] "), f"{_PYLATE}pylate/models/colbert.py, query_prefix and document_prefix"),
        "loss.temperature": (1.0, f"{_PYLATE}pylate/losses/contrastive.py, temperature"),
        "train.num_epochs": (1.0, _PYLATE_PAIRS),
    }
    | _TRAINER,
    "embedding/sts": {
        "data.batch_size": (16, f"{_SENTENCE}examples/sentence_transformer/training/sts/training_stsbenchmark.py"),
        "train.num_epochs": (4.0, f"{_SENTENCE}examples/sentence_transformer/training/sts/training_stsbenchmark.py"),
    },
    "reranker/pairs": {
        "data.batch_size": (32, _RERANKER),
        "train.num_epochs": (1.0, _RERANKER),
        "optimizer.warmup_share": (0.1, _RERANKER),
    },
    "finetune/squad2": {
        "data.batch_size": (48, "arXiv 1810.04805, section 4.3"),
        "optimizer.learning_rate": (5e-5, "arXiv 1810.04805, section 4.3"),
        "train.num_epochs": (2.0, "arXiv 1810.04805, section 4.3"),
        "data.sequence_length": (384, "google-research/bert README.md:621"),
    },
}
