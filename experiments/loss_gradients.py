"""The gradients of a network's main loss and of its auxiliary losses, by part of the network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.training import Probe
from jaxcnn.train import TrainState, cross_entropy


def gradients_by_loss(model: nn.Module, parts: Sequence[str], aux_weight: float) -> Probe:
    """Return a probe for `train` that gives gradient norms `[parts]`: of the "main" loss, the "heads", and "both".

    Args:
      model: a module that sows auxiliary logits and has no batch normalization.
      parts: names of the model's submodules.
      aux_weight: factor on the losses of the auxiliary heads.
    """

    def probe(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        def losses(params: Any) -> tuple[jax.Array, jax.Array]:
            rngs = {"dropout": jax.random.key(0)}
            logits, sown = model.apply(
                {"params": params}, batch["image"], train=True, rngs=rngs, mutable=["aux_logits"]
            )
            main = cross_entropy(logits, batch["label"]).mean()
            heads = [cross_entropy(head, batch["label"]).mean() for head in jax.tree.leaves(sown["aux_logits"])]
            return main, aux_weight * sum(heads)

        _, pull_back = jax.vjp(losses, state.params)
        (main,) = pull_back((1.0, 0.0))
        (heads,) = pull_back((0.0, 1.0))
        gradients = {"main": main, "heads": heads, "both": jax.tree.map(jnp.add, main, heads)}
        return {
            name: jnp.stack([optax.tree.norm(gradient[part]) for part in parts]) for name, gradient in gradients.items()
        }

    return probe
