"""Computes norms of gradients and hidden states, layer by layer, for the log.

They are computed by a program of their own before the steps that are logged: the training step's program, and with it
every bit of the run, is the same whether norms are logged or not. They cost a forward and a backward pass each time,
and memory for every layer's output.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.model import Model, unstack_layers
from bert_jax.training import step as step_lib


def make_norms(config, model: Model, mesh: Mesh, teacher: Model | None = None) -> Callable:
    """Returns `norms_step` of a config; arguments as of step.Learner.from_config."""
    return norms_step(step_lib.Learner.from_config(config, model, mesh, 1, teacher))


def norms_step(learner: step_lib.Learner) -> jax.stages.Wrapped:
    """Returns a compiled function (params, batch, step, key) -> norms of the training step with these arguments.

    Norms are device scalars: grad_norm/embeddings, grad_norm/layers/0, ..., grad_norm/heads, the L2 norm of each part's
    gradient before clipping, whose squares add up to that of grad_norm; and activation_norm/embeddings,
    activation_norm/layers/0, ..., the root mean square of the hidden states [batch, sequence, hidden] that each gives
    out for tokens that are not padding, dropout included. Layers that share parameters have one gradient. With
    replaced-token detection the layers are the discriminator's, and grad_norm/generator covers the generator's own
    parameters. A teacher's parameters are the last argument, as of the training step.
    """
    mesh, spec = learner.mesh, learner.model.spec

    def norms(params, batch, step, key, teacher_params=None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return norms_on_mesh(params, batch, jax.random.fold_in(key, step), teacher_params)

    def norms_on_mesh(params, batch, step_key, teacher_params):
        counts = learner.objective.counts(batch)
        gradient, sums = learner.gradient_and_sums(params, batch, step_key, counts, teacher_params, activations=True)
        numbers = (batch["attention_mask"] != 0).sum().astype(jnp.float32) * spec.hidden_size
        gradients = {
            f"grad_norm/{name}": optax.tree.norm(part) for name, part in _parts(unstack_layers(gradient)).items()
        }
        names = ["embeddings", *(f"layers/{i}" for i in range(spec.num_layers))]
        sizes = jnp.sqrt(sums["activation_squares"] / jnp.maximum(numbers, 1.0))
        return gradients | {f"activation_norm/{name}": sizes[i] for i, name in enumerate(names)}

    replicated = sharding.replicated(mesh)
    return jax.jit(
        norms,
        in_shardings=(
            None,  # parameters stay where they lie
            sharding.batch_sharding(mesh),
            replicated,
            replicated,
            *learner.teacher_shardings,
        ),
        out_shardings=replicated,
    )


def _parts(tree):
    """Splits a tree like the parameters into named parts, from input to output; each parameter is in one of them."""
    encoder = tree["encoder"]
    layers = encoder["layers"]
    heads = {name: part for name, part in tree.items() if name not in ("encoder", "generator")}
    return (
        {"embeddings": encoder["embeddings"]}
        | {f"layers/{i}": layers[str(i)] for i in range(len(layers))}
        | {name: part for name, part in encoder.items() if name not in ("embeddings", "layers")}
        | {"heads": heads}
        | ({"generator": tree["generator"]} if "generator" in tree else {})
    )
