"""Pre-trains DeBERTa XSmall, v3 (He et al. 2021, arXiv 2111.09543, section 4).

    python -m bert_jax.pretrain --config=deberta_v3_xsmall --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/deberta_v3_base.py) with layers of 384 and 6 heads, 64 rows, 1,000,000 steps, rate 3e-4,
beta 0.9/0.999 and discriminator weight 10 (checked in experiments/language_model/rtd_xsmall.json and rtd.sh,
optims/args.py and rtd_task.py of microsoft/DeBERTa; rtd.sh trains on WikiText-103, and whether the released model was
trained with its settings is not said). Published scores: MNLI 88.1/88.3, SQuAD 2.0 84.8/82.0 F1/EM (README of
microsoft/DeBERTa). 70,682,112 parameters, and no pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_v3_base")
    config.model.hidden_size = 384
    config.model.num_heads = 6
    config.model.intermediate_size = 1536
    config.objective.discriminator_weight = 10.0
    config.data.batch_size = 64
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b2 = 0.999
    config.train.num_steps = 1_000_000
    return config
