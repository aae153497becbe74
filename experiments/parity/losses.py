"""Computes the losses of transformers' classifiers, for classes that the parity check defines itself."""

import torch
from torch.nn import functional


def classification(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the mean loss of logits [batch, labels], by the problem that a config names or its number of labels."""
    if config.problem_type == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels)
    if config.num_labels == 1:
        return functional.mse_loss(logits[:, 0], labels)
    return functional.cross_entropy(logits, labels)
