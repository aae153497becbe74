"""How large gradients and hidden states are, layer by layer, for the log.

A program of its own beside the training step, run before the steps that are logged: the step's program, and with it
every bit of the run, is the same whether norms are logged or not. It costs a forward and a backward pass each time,
and memory for every layer's output.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.model import Model, unstack_layers
from bert_jax.training import step as step_lib


def make_norms(config, model: Model, mesh: Mesh, teacher: Model | None = None) -> Callable:
    """A compiled function (params, batch, step, key) -> norms of the training step of these arguments.

    They are device scalars: grad_norm/embeddings, grad_norm/layers/0, ..., grad_norm/heads, the L2 norm of each part's
    gradient before clipping, whose squares add up to that of grad_norm; and activation_norm/embeddings,
    activation_norm/layers/0, ..., the root mean square of the numbers that each gives out for tokens that are no
    padding, dropout included. Layers that share parameters have one gradient; of replaced-token detection the model is
    the discriminator, and grad_norm/generator is of all that the generator has of its own.

    Args:
      config: the run's; reads what objective.make does and train.microbatches.
      model: the model.
      mesh: of parameters and batch.
      teacher: of distillation; its parameters are then the last argument, as of the training step.
    """
    objective, microbatches = objective_lib.make(config, model, teacher), config.train.microbatches

    def norms(params, batch, step, key, taught=None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return norms_on_mesh(params, batch, jax.random.fold_in(key, step), taught)

    def norms_on_mesh(params, batch, step_key, taught):
        counts = objective.counts(batch)

        def loss_of(params, rows, key):
            sums = objective.sums(params, rows, key, step_key=step_key, teacher=taught, activations=True)
            return objective.mean_loss(sums, counts), sums

        gradient, sums = step_lib.gradient_and_sums(loss_of, params, batch, step_key, microbatches)
        numbers = (batch["attention_mask"] != 0).sum().astype(jnp.float32) * model.spec.hidden_size
        found = {f"grad_norm/{name}": optax.tree.norm(part) for name, part in _parts(unstack_layers(gradient)).items()}
        names = ["embeddings", *(f"layers/{i}" for i in range(model.spec.num_layers))]
        sizes = jnp.sqrt(sums["activation_squares"] / jnp.maximum(numbers, 1.0))
        return found | {f"activation_norm/{name}": sizes[i] for i, name in enumerate(names)}

    replicated = sharding.replicated(mesh)
    return jax.jit(
        norms,
        in_shardings=(
            None,  # where they lie
            sharding.batch_sharding(mesh),
            replicated,
            replicated,
            *(() if teacher is None else (None,)),
        ),
        out_shardings=replicated,
    )


def _parts(tree):
    """The parts of a tree like the parameters, from the input to the output; each parameter in one."""
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
