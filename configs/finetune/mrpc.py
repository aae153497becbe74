"""Fine-tunes on MRPC: do two sentences mean the same? (GLUE; Dolan and Brockett 2005).

    python -m bert_jax.finetune --config=finetune/mrpc --config.init_from=MODEL --workdir=DIR

Score: accuracy and F1. TFDS fetches the data; --config.task.test=tfds:glue/mrpc:test adds predictions for the test
set. The original files: --config.task.train=msr_paraphrase_train.txt --config.task.held_out=
--config.task.text="#1 String" --config.task.text_pair="#2 String" --config.task.label=Quality
--config.task.test=msr_paraphrase_test.txt, with a tenth of the training pairs held out; GLUE holds out 408 of them.

Published: BERT-Base 86.7 accuracy on the held-out set (table 5), BERT-Large 89.3 F1 on the test set (table 1). With
so few examples seeds differ by points (100 seeds of BERT-Large: 82.56 +- 6.01, README of NVIDIA's
DeepLearningExamples): --config.seeds=8 trains several. BERT trained 3 epochs in batches of 32 at the best of 5e-5,
4e-5, 3e-5 and 2e-5 (section 4.1); appendix A.3 recommends what config.search has, RoBERTa a warm-up of 6 %. BERT's
Adam has no bias correction, in fine-tuning either (--config.optimizer.bias_correction=False); here it has, which is
steadier on little data (Zhang et al. 2021, section 4). (BERT: arXiv 1810.04805, scores and settings read in copies of
the paper; its Adam in optimization.py of google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.train = "tfds:glue/mrpc:train"
    config.task.held_out = "tfds:glue/mrpc:validation"
    config.task.text = "sentence1"
    config.task.text_pair = "sentence2"
    config.task.metrics = ("accuracy", "f1")
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
