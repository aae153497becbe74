"""Runs one side of one row of gpu.py, in a process of its own, which frees all memory when it ends.

    python -m experiments.benchmarks.gpu_sides '{"side": "ours", ...}'

Prints one line of JSON: the seconds of a step in each round with other measurements, or what went wrong. Imports only
those parts of bert_jax that need jax, flax and optax alone.
"""

import json
import resource
import sys
import time

import numpy as np

from experiments.benchmarks import torch_side
from experiments.benchmarks.settings import VOCABULARY, model_settings, run_settings
from experiments.benchmarks.train_step import gathered_loss, make_batch

_ATTENTION_DROPOUT = 0.0  # so that both sides can use flash kernels


def our_training(job):
    """Returns (a function that starts a step and returns what to wait for, FLOPs of a step)."""
    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.model import flops
    from bert_jax.training import step as step_lib

    config = run_settings(_our_model(job), microbatches=job["microbatches"], logits_chunk=job["logits_chunk"])
    model = model_lib.build(config.model, VOCABULARY)
    mesh = sharding.make_mesh(config.mesh, _one_device())
    state = step_lib.init_state(config, model, mesh, 1000)
    train_step = step_lib.make_train_step(config, model, mesh, 1000)
    batch = _on_device(make_batch(job["rows"], job["length"], job["slots"]), sharding.batch_sharding(mesh))
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

    config = model_settings(
        *job["sizes"], dtype=job["dtype"], attention_kernel=job["kernel"], attention_dropout=0.0, pooler=False
    )
    model = model_lib.build(config, VOCABULARY, next_sentence=False, language_model=False)
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(job["dtype"]) if leaf.ndim > 1 else leaf, params)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, _one_device())
    batch = make_batch(job["rows"], job["length"], 1)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = _on_device({name: batch[name] for name in names}, sharding.batch_sharding(mesh))
    forward = jax.jit(lambda params, batch: model.apply(params, batch)["hidden"])
    return lambda: forward(params, batch), flops.step_flops(model.spec, job["rows"], job["length"], 0, passes=1.0)


def torch_training(job):
    """Returns the same for transformers' BertForPreTraining with torch.compile, autocast and SDPA without a mask."""
    import torch
    import transformers

    model = transformers.BertForPreTraining(_their_config(job)).to(_torch_device()).train()
    batch = _torch_batch(make_batch(job["rows"], job["length"], job["slots"]))
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_positions"], batch["masked_labels"])
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")}

    def loss_of_all():
        return model(**inputs, labels=labels, next_sentence_label=batch["next_sentence_label"]).loss

    def loss_of_predicted():
        """Applies the head to predicted tokens alone, which transformers does not offer."""
        predicted = (batch[name] for name in ("masked_positions", "masked_labels", "next_sentence_label"))
        return gathered_loss(model, model.bert(**inputs), *predicted)

    loss_of = _compiled(loss_of_all if job["torch_head"] == "all" else loss_of_predicted, job)

    def loss_in_dtype():
        with torch.autocast(_torch_device(), getattr(torch, job["dtype"]), enabled=job["dtype"] != "float32"):
            return loss_of()

    return torch_side.train_step(model, loss_in_dtype), None


def torch_inference(job):
    """Returns the same for transformers' BertModel, under torch.compile and with SDPA without a mask."""
    import torch
    import transformers

    model = transformers.BertModel(_their_config(job), add_pooling_layer=False).to(_torch_device()).eval()
    model = model.to(getattr(torch, job["dtype"]))
    batch = _torch_batch(make_batch(job["rows"], job["length"], 1))
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


def measure(job):
    """Returns the measurements of a job's side: seconds of a step in each round, FLOPs, peak memory and matrix rate."""
    ours = job["side"] == "ours"
    rate = matrix_rate(job["dtype"], job["matrix"]) if ours else None
    began = time.perf_counter()
    step, flops = SIDES[job["side"], job["what"]](job)
    wait = _wait_for_ours if ours else _wait_for_torch
    wait(step())
    compiled = time.perf_counter() - began
    for _ in range(2):
        wait(step())
    seconds = []
    for _ in range(job["rounds"]):
        began = time.perf_counter()
        for _ in range(job["steps"]):
            result = step()
        wait(result)
        seconds.append((time.perf_counter() - began) / job["steps"])
    facts = our_facts() if ours else torch_facts()
    if facts["peak_memory"] is None:  # on a CPU, the whole process counts
        facts["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if ours:
        rate = max(rate, matrix_rate(job["dtype"], job["matrix"]))
    return facts | {"seconds": seconds, "compiled": compiled, "flops": flops, "matrix_rate": rate}


def probe():
    """Returns the device and the package versions."""
    import jax

    device = jax.devices()[0]
    return {"gpu": device.platform == "gpu", "device": device.device_kind}


def main():
    job = json.loads(sys.argv[1])
    try:
        result = measure(job) if job else probe()
    except Exception as error:  # whatever it is, the other rows are still to be measured
        text = f"{type(error).__name__}: {error}"
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            print(json.dumps({"failed": text.strip().splitlines()[0][:300]}), flush=True)
            raise
        result = {"full": True}
    print(json.dumps(result), flush=True)


def _our_model(job):
    return model_settings(
        *job["sizes"], dtype=job["dtype"], attention_kernel=job["kernel"], remat=job["remat"], scan_layers=job["scan"],
        attention_dropout=_ATTENTION_DROPOUT,
    )  # fmt: skip


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

    torch.set_float32_matmul_precision("high")
    return torch_side.bert_config(*job["sizes"], attention_probs_dropout_prob=_ATTENTION_DROPOUT)


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
