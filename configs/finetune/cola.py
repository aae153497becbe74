"""Fine-tunes on CoLA: is a sentence acceptable English? (GLUE; Warstadt et al. 2018).

    python -m bert_jax.finetune --config=finetune/cola --config.init_from=MODEL --workdir=DIR

Score: Matthews' correlation. TFDS fetches the data; --config.task.test=tfds:glue/cola:test adds predictions for the
test set. GLUE's own files have no header: --config.task.train=CoLA/train.tsv --config.task.held_out=CoLA/dev.tsv
--config.task.columns=source,label,mark,sentence.

Published: BERT-Large 60.5 on the test set (table 1). BERT trained 3 epochs in batches of 32 at the best of 5e-5,
4e-5, 3e-5 and 2e-5 (section 4.1); appendix A.3 recommends what config.search has, RoBERTa a warm-up of 6 %. BERT's
Adam has no bias correction, in fine-tuning either (--config.optimizer.bias_correction=False); here it has, which is
steadier on little data (Zhang et al. 2021, section 4). (BERT: arXiv 1810.04805, scores and settings read in copies of
the paper; its Adam in optimization.py of google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.train = "tfds:glue/cola:train"
    config.task.held_out = "tfds:glue/cola:validation"
    config.task.text = "sentence"
    config.task.metrics = ("matthews", "accuracy")
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
