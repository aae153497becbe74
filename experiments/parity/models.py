"""Compares models with transformers: hidden states, logits, loss, gradients, a step of AdamW, exports."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import config as config_lib
from bert_jax.finetuning.losses import loss_denominator, loss_sum
from bert_jax.interop import huggingface, model_config, tensors, weights
from bert_jax.objectives.cross_entropy import token_cross_entropy
from bert_jax.objectives.language_modeling import LanguageModeling
from bert_jax.training import optimizer as optimizer_lib
from experiments.parity.random_models import norm_weights, torch_class
from experiments.parity.report import Row

BARS = {
    "hidden states": 1e-5, "logits": 1e-5, "loss": 1e-5, "gradients": 1e-4, "AdamW step": 1e-5, "other bytes": 0,
    "exported": 0.0,
}  # fmt: skip
# So much decay that a step without it is over the bar, three times for the least of the random models tried.
LEARNING_RATE, WEIGHT_DECAY, EPSILON = 1e-4, 1.0, 1e-6


def compare(directory: str | pathlib.Path, seed: int = 0, name: str = "") -> Row:
    """Returns the errors of a Hugging Face directory's model against transformers' class for its heads.

    The last two columns are about the model as bert_jax writes it again: the number of arrays with other bytes, and the
    error of transformers' hidden states, logits and loss against those of the original.
    """
    import torch

    torch.manual_seed(seed)
    ours = huggingface.read(directory)
    theirs = torch_model(ours, torch.float32)
    batch = batch_of(ours, np.random.default_rng(seed))
    expected = reference(theirs, ours, batch)
    actual = compute_ours(ours, batch)
    errors = {
        "hidden states": max(error(a, b) for a, b in zip(actual["hidden"], expected["hidden"], strict=True)),
        "logits": max((error(actual[key], expected[key]) for key in expected if "logits" in key), default=0.0),
        "loss": error(actual["loss"], expected["loss"]),
        "gradients": _gradient_error(actual["gradients"], expected["gradients"], lambda: _exact(ours, batch)),
        "AdamW step": _step_error(actual["after"], expected["after"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder) / "out"
        huggingface.write(ours, written)
        errors["other bytes"] = _other_bytes(ours, written)
        rewritten = reference(torch_model(ours, torch.float32, written), ours, batch)
    errors["exported"] = max(
        error(array, other)
        for key in rewritten
        if key in ("hidden", "loss") or "logits" in key
        for array, other in zip(_listed(rewritten[key]), _listed(expected[key]), strict=True)
    )
    failed = tuple(key for key, value in errors.items() if not value <= BARS[key])
    return Row(name or ours.name, errors, failed)


def torch_model(ours, dtype, directory=None):
    """Returns transformers' model of the directory that `ours` was read from, or of another with the same config."""
    kind = torch_class(model_config.architecture(ours.family, ours.model.spec))
    directory = directory or ours.origin.directory
    model = kind.from_pretrained(directory, dtype=dtype, attn_implementation="eager")
    return model.eval()


def _other_bytes(ours, directory):
    """Counts the arrays of a directory that differ, by name or in a byte, from those that the model was read from."""
    table = huggingface.weight_table(ours.origin.config, ours.model.spec)
    read, written = (
        {weights.canonical_name(name, table): array for name, array in tensors.read(folder)[0].items()}
        for folder in (ours.origin.directory, directory)
    )
    same = [name for name, array in written.items() if name in read and read[name].tobytes() == array.tobytes()]
    return len(written) - len(same)


def _listed(value):
    return value if isinstance(value, list) else [value]


def _exact(ours, batch):
    """Returns torch's gradients in float64."""
    import torch

    return reference(torch_model(ours, torch.float64), ours, batch)["gradients"]


def batch_of(ours, random):
    """Draws rows of several lengths with padding, and labels for every head; no text contains the padding token."""
    spec, pad_id = ours.model.spec, ours.tokenizer.pad_id
    length = min(spec.max_positions, 33)
    lengths = np.array([length, max(3, length // 2), max(3, length - 4)])
    present = np.arange(length) < lengths[:, None]
    ids = random.choice(np.delete(np.arange(spec.vocab_size), pad_id), (3, length))
    slots = max(1, length // 6)
    positions = np.stack([np.sort(random.choice(n, slots, replace=False)) for n in lengths])
    segments = random.integers(0, max(1, spec.type_vocab_size), (3, length))
    batch = {
        "input_ids": np.where(present, ids, pad_id),
        "attention_mask": present,
        "token_type_ids": np.where(present, segments, 0),
        "masked_positions": positions,
        "masked_labels": random.integers(0, spec.vocab_size, positions.shape),
        "next_sentence_label": random.integers(0, 2, 3),
        "sentence_order_label": random.integers(0, 2, 3),
        "replaced": random.integers(0, 2, (3, length)),
    }
    batch = {name: np.asarray(array, np.int32) for name, array in batch.items()}
    batch["masked_weights"] = np.ones(positions.shape, np.float32)
    batch |= _task_labels(ours, random, present)
    return batch | (_global_tokens(random, lengths) if spec.global_tokens != "none" else {})


def _global_tokens(random, lengths):
    """Draws global tokens of each row, up to four of them, or for one batch of four none."""
    if random.random() < 0.25:
        return {}
    positions = np.full((len(lengths), 4), -1, np.int32)
    for row, length in zip(positions, lengths, strict=True):
        count = int(random.integers(0, min(len(row), length) + 1))
        row[:count] = random.choice(length, count, replace=False)
    return {"global_positions": positions}


def _task_labels(ours, random, present):
    task, count = ours.model.spec.task, len(present)
    arrays = {"weights": np.ones(count, np.float32)}
    if task is None:
        return arrays
    if task.name == "token_classification":
        labelled = present & (random.random(present.shape) < 0.7)
        labelled[:, 0] = True
        labels = random.integers(0, task.num_labels, present.shape)
        return arrays | {"labels": np.where(labelled, labels, -100).astype(np.int32)}
    if task.name == "question_answering":
        places = random.integers(0, present.sum(1), (2, count)).astype(np.int32)
        return arrays | {"start_positions": places[0], "end_positions": places[1]}
    if ours.problem == "regression":
        return arrays | {"labels": random.normal(size=count).astype(np.float32)}
    if ours.problem == "multi_label":
        return arrays | {"labels": random.integers(0, 2, (count, task.num_labels)).astype(np.float32)}
    return arrays | {"labels": random.integers(0, task.num_labels, count).astype(np.int32)}


def _directions(ours, length):
    """Returns factors for the hidden states of a bare encoder, from which its loss is made."""
    random = np.random.default_rng(1)
    return random.normal(size=(3, length, ours.model.spec.hidden_size)).astype(np.float32)


def reference(model, ours, batch) -> dict:
    """Returns torch's hidden states, logits and loss of a batch, and by name gradients and parameters after a step."""
    import torch

    spec, inputs = ours.model.spec, {}
    for name in ("input_ids", "attention_mask", *["token_type_ids"] * (spec.type_vocab_size > 0)):
        inputs[name] = torch.from_numpy(batch[name]).long()
    if spec.global_tokens != "none":
        inputs |= _torch_global_tokens(torch, spec, batch)
    for name, array in _torch_labels(spec, batch).items():
        inputs[name] = torch.from_numpy(array).to(model.dtype if array.dtype == np.float32 else torch.long)
    output = model(**inputs, output_hidden_states=True)
    present = batch["attention_mask"] > 0
    loss = getattr(output, "loss", None)
    if spec.task and spec.task.name == "question_answering":
        loss = _loss_of_places(torch, output, inputs, present)
    if loss is None:
        loss = _bare_loss(ours, batch, output.last_hidden_state, output.pooler_output if spec.pooler else None, torch)
    loss.backward()
    named, norms = dict(model.named_parameters()), norm_weights(model)
    results = {
        "hidden": [hidden.detach().numpy()[present] for hidden in output.hidden_states],
        "loss": loss.detach().numpy(),
        "gradients": {name: _numpy(p.grad) for name, p in named.items() if p.grad is not None},
    }
    names = ("prediction_logits", "seq_relationship_logits", "sop_logits", "logits", "start_logits", "end_logits")
    for name in names:
        if getattr(output, name, None) is not None:
            results[f"logits {name}"] = _masked(_numpy(getattr(output, name)), present)
    decayed = [p for name, p in named.items() if name.endswith("weight") and name not in norms]
    kept = [p for p in named.values() if not any(p is other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=EPSILON, betas=(0.9, 0.999)).step()
    results["after"] = {name: _numpy(p) for name, p in named.items() if p.grad is not None}
    return _with_prefix(results, ours, model)


def _torch_global_tokens(torch, spec, batch):
    """Returns the mask of global tokens; {} where transformers' class chooses as the task does here."""
    if "global_positions" not in batch and not (spec.task and spec.task.name == "question_answering"):
        return {}
    mask = np.zeros((batch["input_ids"].shape[0], batch["input_ids"].shape[1] + 1), np.int64)
    if "global_positions" in batch:  # -1 is the last, which is cut
        np.put_along_axis(mask, batch["global_positions"], 1, axis=1)
    return {"global_attention_mask": torch.from_numpy(mask[:, :-1])}


def _loss_of_places(torch, output, inputs, present):
    """Returns the loss without padding among the answers; with it, the length of the padding would change the loss."""
    absent = torch.from_numpy(~present)
    pairs = ((output.start_logits, "start_positions"), (output.end_logits, "end_positions"))
    losses = [
        torch.nn.functional.cross_entropy(logits.masked_fill(absent, -1e30), inputs[name]) for logits, name in pairs
    ]
    return sum(losses) / 2


def _torch_labels(spec, batch):
    if spec.task:
        return {name: batch[name] for name in ("labels", "start_positions", "end_positions") if name in batch}
    arrays, next_sentence = {}, batch["next_sentence_label"]
    if spec.replaced_tokens:
        return {"labels": batch["replaced"]}
    if spec.sentence_order:
        arrays["sentence_order_label"] = batch["sentence_order_label"]
    if spec.language_model:
        labels = np.full(batch["input_ids"].shape, -100, np.int32)
        np.put_along_axis(labels, batch["masked_positions"], batch["masked_labels"], axis=1)
        arrays["labels"] = labels
        if spec.next_sentence:
            arrays["next_sentence_label"] = next_sentence
    elif spec.next_sentence:
        arrays["labels"] = next_sentence
    return arrays


def compute_ours(ours, batch, step: bool = True) -> dict:
    """Returns the same as `reference` computed by bert_jax; "after" only with `step`."""
    model, spec = ours.model, ours.model.spec
    every = {name: array for name, array in batch.items() if name != "masked_positions"}
    outputs = jax.jit(lambda params: model.apply(params, every, hidden_states=True))(ours.params)
    present = batch["attention_mask"] > 0
    loss, gradients = jax.jit(jax.value_and_grad(lambda params: _our_loss(ours, params, batch)))(ours.params)
    table, task = huggingface.weight_table(ours.origin.config, spec), spec.task and spec.task.name
    results = {
        "hidden": [hidden[present] for hidden in np.asarray(outputs["hidden_states"])],
        "loss": np.asarray(loss),
        "gradients": weights.to_state_dict(gradients, table),
    }
    if step:
        results["after"] = weights.to_state_dict(_stepped(ours.params, gradients), table)
    pairs = spec.next_sentence or spec.sentence_order
    if spec.language_model:
        results[f"logits {'prediction_logits' if pairs else 'logits'}"] = outputs["mlm_logits"]
    if spec.sentence_order:
        results["logits sop_logits"] = outputs["sentence_order_logits"]
    if spec.replaced_tokens:
        results["logits logits"] = outputs["replaced_logits"]
    if spec.next_sentence:
        results[f"logits {'seq_relationship_logits' if spec.language_model else 'logits'}"] = outputs[
            "next_sentence_logits"
        ]
    if task == "question_answering":
        results |= {"logits start_logits": outputs["logits"][..., 0], "logits end_logits": outputs["logits"][..., 1]}
    elif task:
        results["logits logits"] = outputs["logits"]
    return {k: _masked(np.asarray(v), present) if k.startswith("logits") else v for k, v in results.items()}


def _stepped(params, gradients):
    """Returns the parameters after a step of AdamW."""
    config = config_lib.base().optimizer
    config.update(learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0, clip_norm=0.0)
    config.update(weight_decay=WEIGHT_DECAY, epsilon=EPSILON)
    optimizer = optimizer_lib.make_optimizer(config, 1)
    step = jax.jit(lambda p, g: optax.apply_updates(p, optimizer.update(g, optimizer.init(p), p)[0]))
    return step(params, gradients)


def _our_loss(ours, params, batch):
    model, spec = ours.model, ours.model.spec
    if spec.task:
        total = loss_sum(model, params, batch, ours.problem)
        return total / loss_denominator(batch, model, ours.problem)
    if spec.language_model:
        pairs = {"next_sentence": spec.next_sentence, "sentence_order": spec.sentence_order}
        objective = LanguageModeling(model, {"name": "mlm"} | pairs)
        return objective.mean_loss(objective.sums(params, batch), objective.counts(batch))
    outputs = model.apply(params, batch)
    if spec.replaced_tokens:
        present = jnp.asarray(batch["attention_mask"], jnp.float32)
        losses = optax.sigmoid_binary_cross_entropy(outputs["replaced_logits"], jnp.float32(batch["replaced"]))
        return (losses * present).sum() / present.sum()
    if spec.next_sentence:
        losses = token_cross_entropy(outputs["next_sentence_logits"], batch["next_sentence_label"])[0]
        return losses.mean()
    return _bare_loss(ours, batch, outputs["hidden"], outputs.get("pooled"), jnp)


def _bare_loss(ours, batch, hidden, pooled, library):
    """Returns the mean square of hidden states at tokens, each times its own factor, and of the pooled ones."""
    directions = _directions(ours, hidden.shape[1]) * (batch["attention_mask"] > 0)[:, :, None]
    directions = library.asarray(directions, dtype=hidden.dtype)
    loss = ((hidden * directions) ** 2).mean()
    return loss if pooled is None else loss + ((pooled * directions[:, 0]) ** 2).mean()


def _masked(array, present):
    """Returns logits at tokens, without those at padding."""
    return array[present] if array.shape[:2] == present.shape else array


def _as_saved(model, arrays):
    """Returns arrays by the names in the files that transformers writes, which may differ from its modules'."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    saved = revert_weight_conversion(model, {name: torch.from_numpy(array) for name, array in arrays.items()})
    return {name: tensor.numpy() for name, tensor in saved.items()}


def _with_prefix(results, ours, model):
    """Renames gradients and parameters as in a file with heads; a bare encoder's names lack the prefix."""
    table = huggingface.weight_table(ours.origin.config, ours.model.spec)
    for key in ("gradients", "after"):
        saved = _as_saved(model, results[key])
        results[key] = {weights.canonical_name(name, table): array for name, array in saved.items()}
        for name in (table.tied.keys() | table.constants.keys()) & results[key].keys():
            results[key].pop(name)
    return results


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}")
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


def _gradient_error(ours, theirs, exact):
    """Returns the largest error of a gradient; `exact` computes float64 gradients for those over the bar."""
    errors = gradient_errors(ours, theirs)
    if max(errors.values()) > BARS["gradients"]:
        true = exact()
        if np.isnan(_whole(true)):  # transformers' windows in float64: padding that sees no token
            return max(0.0 if _is_rounding(name, ours, theirs) else error for name, error in errors.items())
        whole, others = _whole(true), gradient_errors(ours, true)
        for name in errors:
            # Longformer's softmax is one of float32 there too; ours of what it cancels is then 0 without rounding.
            bar = 1e-9 if "longformer" in name and not ours[name].any() else 1e-12
            zero = np.linalg.norm(true[name]) < bar * whole and np.linalg.norm(ours[name]) < 1e-7 * whole
            errors[name] = 0.0 if zero else min(errors[name], others[name])
    return max(errors.values())


def _is_rounding(name, *sides):
    """Tells whether a gradient is negligible on all sides, as for a bias that a softmax cancels."""
    return all(np.linalg.norm(side[name]) < 1e-7 * _whole(side) for side in sides)


def gradient_errors(ours, theirs):
    floor = 1e-6 * _whole(theirs)
    return {
        name: float(np.linalg.norm(ours[name] - array) / max(np.linalg.norm(array), floor))
        for name, array in theirs.items()
    }


def _whole(gradients):
    """Returns the norm of all gradients together."""
    return np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in gradients.values()))


def _step_error(ours, theirs):
    """Returns the error of all parameters together."""
    difference = sum(np.square(ours[name] - array, dtype=np.float64).sum() for name, array in theirs.items())
    return float(np.sqrt(difference / sum(np.square(array, dtype=np.float64).sum() for array in theirs.values())))


def _numpy(tensor):
    return tensor.detach().numpy().copy()
