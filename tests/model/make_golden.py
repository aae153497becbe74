"""Makes the golden arrays of tests/model: a tiny random model of transformers, its outputs, gradients and one step.

Run where torch and transformers are installed:  python tests/model/make_golden.py
"""

import pathlib

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
SIZES = dict(vocab_size=53, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
ROWS, LENGTH, SLOTS = 3, 17, 4
LEARNING_RATE, EPSILON, WEIGHT_DECAY = 1e-3, 1e-6, 0.01


def bert(implementation="eager"):
    config = transformers.BertConfig(
        **SIZES, max_position_embeddings=19, attn_implementation=implementation, tie_word_embeddings=True
    )
    return transformers.BertForPreTraining(config)


def roberta(implementation="eager"):
    config = transformers.RobertaConfig(
        **SIZES, max_position_embeddings=21, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        attn_implementation=implementation, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.RobertaForMaskedLM(config)


def randomised(model, seed):
    """Returns the model in evaluation mode with every parameter drawn anew, away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name.lower() and name.endswith("weight") else 0.2 * noise)
    return model.eval()


def random_batch(seed, segments=2, pad_id=0):
    """Draws a batch: rows of several lengths with padding at the end, two segments, an unused slot."""
    random = np.random.default_rng(seed)
    lengths = np.array([LENGTH, 9, 12])
    present = np.arange(LENGTH) < lengths[:, None]
    weights = np.ones((ROWS, SLOTS), np.float32)
    weights[1, -1] = 0
    positions = np.stack([np.sort(random.choice(n - 1, SLOTS, replace=False)) + 1 for n in lengths])
    used = weights > 0
    ids = random.integers(5, SIZES["vocab_size"], (ROWS, LENGTH))
    return {
        "input_ids": np.where(present, ids, pad_id).astype(np.int32),
        "attention_mask": present.astype(np.int32),
        "token_type_ids": ((np.arange(LENGTH) >= lengths[:, None] // 2) & present & (segments > 1)).astype(np.int32),
        "masked_positions": np.where(used, positions, 0).astype(np.int32),
        "masked_labels": np.where(used, random.integers(5, SIZES["vocab_size"], (ROWS, SLOTS)), 0).astype(np.int32),
        "masked_weights": weights,
        "next_sentence_label": np.array([0, 1, 1], np.int32),
    }


def reference(model, batch):
    """Returns transformers' hidden states, logits, losses and gradients, and the parameters after AdamW."""
    labels = np.full((ROWS, LENGTH), -100)
    for row, slot in zip(*np.nonzero(batch["masked_weights"]), strict=True):
        labels[row, batch["masked_positions"][row, slot]] = batch["masked_labels"][row, slot]
    tensors = {k: torch.from_numpy(batch[k]).long() for k in ("input_ids", "attention_mask", "token_type_ids")}
    tensors["labels"] = torch.from_numpy(labels)
    pair = isinstance(model, transformers.BertForPreTraining)
    if pair:
        tensors["next_sentence_label"] = torch.from_numpy(batch["next_sentence_label"]).long()
    named = dict(model.named_parameters())
    decayed = [p for name, p in named.items() if name.endswith("weight") and "norm" not in name.lower()]
    kept = [p for p in named.values() if not any(p is other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=EPSILON, betas=(0.9, 0.999))
    output = model(**tensors, output_hidden_states=True)
    output.loss.backward()
    arrays = {
        "hidden": output.hidden_states[-1],
        "logits": output.prediction_logits if pair else output.logits,
        "loss": output.loss,
    }
    if pair:
        arrays["next_sentence_logits"] = output.seq_relationship_logits
    arrays |= {f"grad/{name}": p.grad for name, p in named.items()}
    arrays |= {f"before/{name}": p.clone() for name, p in named.items()}
    optimizer.step()
    arrays |= {f"after/{name}": p for name, p in named.items()}
    return {name: tensor.detach().numpy().copy() for name, tensor in arrays.items()}


def main():
    families = {"bert": (bert, {}), "roberta": (roberta, {"segments": 1, "pad_id": 1})}
    for seed, (name, (make, options)) in enumerate(families.items()):
        batch = random_batch(seed, **options)
        arrays = reference(randomised(make(), seed), batch) | {f"batch/{k}": v for k, v in batch.items()}
        np.savez_compressed(FOLDER / f"golden_{name}.npz", **arrays)


if __name__ == "__main__":
    main()
