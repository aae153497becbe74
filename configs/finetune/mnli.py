"""Fine-tunes on MNLI: does a premise entail a hypothesis, contradict it, or neither? (GLUE; Williams et al. 2018).

    python -m bert_jax.finetune --config=finetune/mnli --config.init_from=MODEL --workdir=DIR

Score: accuracy. TFDS fetches the data; --config.task.test=tfds:glue/mnli:test_matched adds predictions for the test
set. GLUE's own files: --config.task.train=MNLI/train.tsv
--config.task.held_out=matched=MNLI/dev_matched.tsv,mismatched=MNLI/dev_mismatched.tsv --config.task.text=sentence1
--config.task.text_pair=sentence2 --config.task.label=gold_label.

Published: BERT-Base 84.4 on the matched held-out set (table 5), BERT-Large 86.7 and 85.9 on the matched and
mismatched test sets (table 1); RoBERTa-Base 87.6 (README of fairseq's RoBERTa). BERT trained 3 epochs in batches of
32 at the best of 5e-5, 4e-5, 3e-5 and 2e-5 (section 4.1); appendix A.3 recommends what config.search has, RoBERTa a
warm-up of 6 %. BERT's Adam has no bias correction, in fine-tuning either (--config.optimizer.bias_correction=False);
here it has, which is steadier on little data (Zhang et al. 2021, section 4). (BERT: arXiv 1810.04805, scores and
settings read in copies of the paper; its Adam in optimization.py of google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.train = "tfds:glue/mnli:train"
    matched, mismatched = (f"tfds:glue/mnli:validation_{kind}" for kind in ("matched", "mismatched"))
    config.task.held_out = f"matched={matched},mismatched={mismatched}"
    config.task.text = "premise"
    config.task.text_pair = "hypothesis"
    config.task.metrics = ("accuracy",)
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
