"""Fine-tunes on QNLI: does a sentence answer a question? (GLUE, made of SQuAD).

    python -m bert_jax.finetune --config=finetune/qnli --config.init_from=MODEL --workdir=DIR

Score: accuracy. TFDS fetches the data; --config.task.test=tfds:glue/qnli:test adds predictions for the test set.
GLUE's own files have these columns: --config.task.train=QNLI/train.tsv --config.task.held_out=QNLI/dev.tsv.

Published: BERT-Base 88.4 on the held-out set (table 5), BERT-Large 92.7 on the test set (table 1). BERT trained 3
epochs in batches of 32 at the best of 5e-5, 4e-5, 3e-5 and 2e-5 (section 4.1); appendix A.3 recommends what
config.search has, RoBERTa a warm-up of 6 %. BERT's Adam has no bias correction, in fine-tuning either
(--config.optimizer.bias_correction=False); here it has, which is steadier on little data (Zhang et al. 2021, section
4). (BERT: arXiv 1810.04805, scores and settings read in copies of the paper; its Adam in optimization.py of
google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.train = "tfds:glue/qnli:train"
    config.task.held_out = "tfds:glue/qnli:validation"
    config.task.text = "question"
    config.task.text_pair = "sentence"
    config.task.metrics = ("accuracy",)
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
