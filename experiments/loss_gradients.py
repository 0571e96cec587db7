"""How much of the gradient in each part of a network comes from its main loss, and how much from auxiliary heads."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.training import Probe
from jaxcnn.train import TrainState, cross_entropy


def gradients_by_loss(model: nn.Module, parts: Sequence[str], aux_weight: float) -> Probe:
    """A probe for `train`: norms `[parts]` of the gradients of the "main" loss, of the "heads", and of "both".

    Args:
      model: one that sows auxiliary logits, without batch normalisation.
      parts: names of its modules.
      aux_weight: what the losses of its auxiliary heads are multiplied by.
    """

    def probe(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        def losses(params: Any) -> tuple[jax.Array, jax.Array]:
            rngs = {"dropout": jax.random.key(0)}
            logits, sown = model.apply(
                {"params": params}, batch["images"], train=True, rngs=rngs, mutable=["aux_logits"]
            )
            heads = jax.tree.leaves(sown["aux_logits"])
            main, *aux = (cross_entropy(of, batch["labels"]).mean() for of in (logits, *heads))
            return main, aux_weight * sum(aux)

        _, pull = jax.vjp(losses, state.params)
        (main,), (heads,) = pull((1.0, 0.0)), pull((0.0, 1.0))
        found = {"main": main, "heads": heads, "both": jax.tree.map(jnp.add, main, heads)}
        return {name: jnp.stack([optax.tree.norm(of[part]) for part in parts]) for name, of in found.items()}

    return probe
