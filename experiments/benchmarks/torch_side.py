"""Makes the training step in torch that benchmarks compare with ours."""

import functools

from experiments.benchmarks import turns
from experiments.benchmarks.settings import CLIP_NORM, DROPOUT, EPSILON, LEARNING_RATE, VOCABULARY


def bert_config(layers, hidden, heads, intermediate, **changes):
    """Returns a transformers.BertConfig of these sizes, and gives torch its seed and its threads."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(turns.num_threads())
    defaults = dict(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=intermediate, hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT,
        attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.BertConfig(**defaults | changes)


def train_step(model, loss_of, learning_rate=LEARNING_RATE, epsilon=EPSILON, make_schedule=None):
    """Returns a function that runs one training step and returns its loss, a scalar tensor without a gradient.

    It clips by global norm and uses AdamW, the fused one, which is torch's fastest.

    Args:
      model: the model whose parameters are trained.
      loss_of: returns the loss of the batch, a scalar tensor.
      learning_rate, epsilon: numbers of AdamW.
      make_schedule: takes the optimizer and returns a schedule of its rate; None: the rate stays.
    """
    return train_steps(model, {"": loss_of}, learning_rate, epsilon, make_schedule)[""]


def train_steps(model, losses, learning_rate=LEARNING_RATE, epsilon=EPSILON, make_schedule=None):
    """Returns `train_step` of each of several losses by its name; all train the same model with the same optimizer."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, eps=epsilon, weight_decay=0.01, fused=True)
    schedule = make_schedule(optimizer) if make_schedule else None

    def step(loss_of):
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        if schedule:
            schedule.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return {name: functools.partial(step, loss_of) for name, loss_of in losses.items()}
