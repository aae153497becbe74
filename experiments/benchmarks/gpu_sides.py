"""Runs one side of one row of gpu.py, in a process of its own, which frees all memory when it ends.

    python -m experiments.benchmarks.gpu_sides '{"side": "ours", ...}'

Prints a line of JSON when its step is compiled, then answers each line of its input with one: a number of steps with
the seconds of each, "facts" with other measurements, after which it ends. A line may say what went wrong instead.
Imports only those parts of bert_jax that need jax, flax and optax alone.
"""

import json
import resource
import sys
import time

import numpy as np

from experiments.benchmarks import torch_side
from experiments.benchmarks.settings import VOCABULARY, model_settings, run_settings
from experiments.benchmarks.train_step import gathered_loss, make_batch

# What ModernBERT has beside its sizes (configs/modernbert_base.py), without its dropout of 0.1 of attention's output,
# which transformers has no place for.
MODERN = {
    "mlp": "gated", "type_vocab_size": 0, "positions": "rotary", "rotary_base": 160_000.0,
    "local_rotary_base": 10_000.0, "local_window": 128, "global_every": 3, "norm_place": "pre", "first_norm": False,
    "norm_bias": False, "attention_bias": False, "mlp_bias": False, "head_bias": False, "norm_epsilon": 1e-5,
    "hidden_dropout": 0.0, "pooler": False,
}  # fmt: skip


def our_training(job):
    """Returns (a function that starts a step and returns what to wait for, FLOPs of a step)."""
    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.model import flops
    from bert_jax.training import step as step_lib

    has_pairs = job["family"] == "bert"
    config = run_settings(_our_model(job), has_pairs)
    model = model_lib.build(config.model, VOCABULARY, next_sentence=has_pairs)
    mesh = sharding.make_mesh(config.mesh, _one_device())
    state = step_lib.init_state(config, model, mesh, 1000)
    train_step = step_lib.make_train_step(config, model, mesh, 1000)
    batch = _on_device(_batch(job), sharding.batch_sharding(mesh))
    key, done = step_lib.dropout_key(config), 0

    def step():
        nonlocal state, done
        state, metrics = train_step(state, batch, np.int32(done), key)
        done += 1
        return metrics["loss"]

    return step, flops.step_flops(model.spec, job["rows"], job["length"], job["slots"])


def our_inference(job):
    """Returns the same for inference: the last layer's hidden states, from weights in the compute dtype."""
    import jax

    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.model import flops

    config = _our_model(job | {"attention_dropout": 0.0}, pooler=False)
    model = model_lib.build(config, VOCABULARY, next_sentence=False, language_model=False)
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(job["dtype"]) if leaf.ndim > 1 else leaf, params)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, _one_device())
    batch = _batch(job)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = _on_device({name: batch[name] for name in names}, sharding.batch_sharding(mesh))
    forward = jax.jit(lambda params, batch: model.apply(params, batch)["hidden"])
    return lambda: forward(params, batch), flops.step_flops(model.spec, job["rows"], job["length"], 0, passes=1.0)


def torch_training(job):
    """Returns the same for transformers with torch.compile, autocast and SDPA without a mask."""
    import torch
    import transformers

    batch = _torch_batch(_batch(job))
    predicted = batch["masked_positions"], batch["masked_labels"]
    labels = torch.full_like(batch["input_ids"], -100).scatter_(1, *predicted)
    ids = batch["input_ids"]
    if job["family"] == "modernbert":
        model = transformers.ModernBertForMaskedLM(_their_config(job)).to(_torch_device()).train()
        losses = {
            "all": lambda: model(ids, labels=labels).loss,
            "predicted": lambda: _loss_of_predicted(model, ids, *predicted),
        }
    else:
        model = transformers.BertForPreTraining(_their_config(job)).to(_torch_device()).train()
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")}
        pairs = batch["next_sentence_label"]
        losses = {
            "all": lambda: model(**inputs, labels=labels, next_sentence_label=pairs).loss,
            "predicted": lambda: gathered_loss(model, model.bert(**inputs), *predicted, pairs),
        }
    loss_of = _compiled(losses[job["torch_head"]], job)

    def loss_in_dtype():
        with torch.autocast(_torch_device(), getattr(torch, job["dtype"]), enabled=job["dtype"] != "float32"):
            return loss_of()

    return torch_side.train_step(model, loss_in_dtype), None


def _loss_of_predicted(model, ids, positions, labels):
    """Returns the loss of a ModernBertForMaskedLM, its head applied to the predicted tokens alone."""
    import torch

    hidden = model.model(ids).last_hidden_state
    predicted = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
    words = model.decoder(model.head(predicted))
    return torch.nn.functional.cross_entropy(words.flatten(0, 1).float(), labels.flatten())


def torch_inference(job):
    """Returns the same for transformers' BertModel, under torch.compile and with SDPA without a mask."""
    import torch
    import transformers

    model = transformers.BertModel(_their_config(job), add_pooling_layer=False).to(_torch_device()).eval()
    model = model.to(getattr(torch, job["dtype"]))
    batch = _torch_batch(_batch(job))
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")}
    forward = _compiled(lambda: model(**inputs).last_hidden_state, job)

    def step():
        with torch.inference_mode():
            return forward()

    return step, None


def our_facts():
    """Returns the card's dense FLOP/s by its data sheet, and the peak memory in use; None if unknown."""
    from bert_jax.model.flops import peak_flops

    (device,) = _one_device()
    return {"peak_flops": peak_flops(device), "peak_memory": (device.memory_stats() or {}).get("peak_bytes_in_use")}


def torch_facts():
    """Returns the peak memory in use; None where there is no GPU."""
    import torch

    return {"peak_memory": torch.cuda.max_memory_allocated() if _torch_device() == "cuda" else None}


def matrix_rate(dtype, size):
    """Returns the FLOP/s that XLA reaches in products of two square matrices, the best of several rounds."""
    import jax

    left, right = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in (0, 1))
    multiply = jax.jit(jax.numpy.matmul)
    multiply(left, right).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        products = [multiply(left, right) for _ in range(8)]
        products[-1].block_until_ready()
        seconds.append((time.perf_counter() - began) / len(products))
    return 2 * size**3 / min(seconds)


SIDES = {
    ("ours", "train"): our_training,
    ("ours", "inference"): our_inference,
    ("torch", "train"): torch_training,
    ("torch", "inference"): torch_inference,
}


def serve(job, questions, answer):
    """Makes a job's step and answers questions about it.

    Args:
      job: what is computed; see gpu.Row.
      questions: lines, each a number of steps or "facts".
      answer: called with each answer, a dict: first what the first step took and a later one takes, in seconds, then
        the seconds of a step, at last FLOPs of a step, peak memory, and the rates of the card and of a matrix product.
    """
    ours = job["side"] == "ours"
    began = time.perf_counter()
    step, flops = SIDES[job["side"], job["work"]](job)
    wait = _wait_for_ours if ours else _wait_for_torch
    wait(step())
    compiled = time.perf_counter() - began
    wait(step())
    answer({"compiled": compiled, "step": _seconds(step, wait, 2)})
    for question in questions:
        if question.strip() == "facts":
            break
        answer({"seconds": _seconds(step, wait, int(question))})
    facts = our_facts() if ours else torch_facts()
    if facts["peak_memory"] is None:  # on a CPU, the whole process counts
        facts["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = matrix_rate(job["dtype"], job["matrix"]) if ours else None
    answer(facts | {"flops": flops, "matrix_rate": rate})


def _seconds(step, wait, steps):
    began = time.perf_counter()
    for _ in range(steps):
        result = step()
    wait(result)
    return (time.perf_counter() - began) / steps


def probe():
    """Returns the device and the package versions."""
    import jax

    device = jax.devices()[0]
    return {"gpu": device.platform == "gpu", "device": device.device_kind}


def main():
    job = json.loads(sys.argv[1])

    def answer(facts):
        print(json.dumps(facts), flush=True)

    try:
        if job:
            serve(job, sys.stdin, answer)
        else:
            answer(probe())
    except Exception as error:  # whatever it is, the other rows are still to be measured
        text = f"{type(error).__name__}: {error}"
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            answer({"failed": text.strip().splitlines()[0][:300]})
            raise
        answer({"full": True})


def _our_model(job, **changes):
    settings = {name: job[name] for name in ("dtype", "remat", "attention_dropout")}
    settings |= {"attention_kernel": job["kernel"]} | changes
    if job["family"] == "modernbert":
        settings |= MODERN | {"max_positions": job["length"]}
    return model_settings(*job["sizes"], **settings)


def _batch(job):
    """Returns a batch as the model takes it, with the predicted tokens that it has in training."""
    batch = make_batch(job["rows"], job["length"], job["slots"] or 1)
    left_out = ("token_type_ids", "next_sentence_label") if job["family"] == "modernbert" else ()
    return {name: array for name, array in batch.items() if name not in left_out}


def _one_device():
    import jax

    return jax.devices()[:1]


def _on_device(batch, sharding):
    import jax

    return {name: jax.device_put(array, sharding) for name, array in batch.items()}


def _wait_for_ours(result):
    result.block_until_ready()


def _their_config(job):
    import torch
    import transformers

    torch.set_float32_matmul_precision("high")
    config = torch_side.bert_config(*job["sizes"], attention_probs_dropout_prob=job["attention_dropout"])
    if job["family"] == "bert":
        return config
    layers, hidden, heads, intermediate = job["sizes"]
    return transformers.ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=intermediate, max_position_embeddings=job["length"], attn_implementation="sdpa",
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip


def _torch_device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _torch_batch(batch):
    import torch

    return {name: torch.from_numpy(array).long().to(_torch_device()) for name, array in batch.items()}


def _compiled(function, job):
    import torch

    return torch.compile(function, backend=job["torch_backend"])


def _wait_for_torch(result):
    import torch

    if result.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
