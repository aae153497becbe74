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

from bert_jax import sharding
from bert_jax.model import Model, unstack_layers
from bert_jax.training import objective as objective_lib
from bert_jax.training import step as step_lib


def make_norms(config, model: Model, mesh: Mesh) -> Callable:
    """A compiled function (params, batch, step, key) -> norms of the training step of these arguments.

    They are device scalars: grad_norm/embeddings, grad_norm/layers/0, ..., grad_norm/heads, the L2 norm of each part's
    gradient before clipping, whose squares add up to that of grad_norm; and activation_norm/embeddings,
    activation_norm/layers/0, ..., the root mean square of the numbers that each gives out for tokens that are no
    padding, dropout included.

    Args:
      config: the run's; reads objective, train.microbatches, train.logits_chunk.
      model: the model.
      mesh: of parameters and batch.
    """
    objective, train = config.objective, config.train

    def norms(params, batch, step, key):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return norms_on_mesh(params, batch, jax.random.fold_in(key, step))

    def norms_on_mesh(params, batch, key):
        counts = objective_lib.counts(batch, objective)

        def loss_of(params, rows, key):
            sums = objective_lib.sums(
                model, params, rows, objective, key, logits_chunk=train.logits_chunk, activations=True
            )
            return objective_lib.mean_loss(sums, counts), sums

        gradient, sums = step_lib.gradient_and_sums(loss_of, params, batch, key, train.microbatches)
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
        ),
        out_shardings=replicated,
    )


def _parts(tree):
    """The parts of a tree like the parameters, from the input to the output; each parameter in one."""
    encoder = tree["encoder"]
    layers = encoder["layers"]
    heads = {name: part for name, part in tree.items() if name != "encoder"}
    return (
        {"embeddings": encoder["embeddings"]}
        | {f"layers/{i}": layers[str(i)] for i in range(len(layers))}
        | {"heads": heads}
    )
