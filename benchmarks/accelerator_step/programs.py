"""The training step of jaxcnn and that of plain Flax over the same devices, and their arguments as shapes."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.layers import BATCH_AXIS, BatchNorm, Partial
from jaxcnn.measure.case import Case
from jaxcnn.measure.probes.program import OPTIMIZER, make_step
from jaxcnn.models import create_model
from jaxcnn.train import create_state, make_optimizer, make_parallel
from jaxcnn.train.devices.parallel import batch_norm_fields

IMAGE = (224, 224, 3)


def ours(model: str, batch: int, devices: list[Any], sync: str, reduce_dtype: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the step by `shard_map`, and shapes of the state and of a batch of `batch` images a device."""
    parallel = make_parallel("shard_map", devices)
    norm = Partial(BatchNorm, **batch_norm_fields(sync, parallel, reduce_dtype))
    fields: dict[str, Any] = {} if model.startswith("vgg") else {"norm": norm}
    network = create_model(model, dtype=jnp.bfloat16, **fields)
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    case = Case(model=model, dtype="bfloat16", batch_size=batch * len(devices), image_size=IMAGE[0])
    state = jax.eval_shape(lambda: create_state(network, optimizer, IMAGE, seed=jnp.uint32(0)))
    images, labels = _batch(parallel.mesh, batch)
    return make_step(case, network, optimizer, parallel), (
        _placed(state, NamedSharding(parallel.mesh, PartitionSpec())),
        {"image": images, "label": labels},
    )


def flax(model: str, batch: int, devices: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the step of `benchmarks/peers/flax_linen.py` with means over devices, and its arguments as in `ours`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
    import flax_linen  # pyright: ignore[reportMissingImports]

    mesh = Mesh(np.array(devices), (BATCH_AXIS,))
    task = {"model": model, "dtype": "bfloat16", "image_shape": IMAGE, "batch_size": batch * len(devices)}
    network, optimizer = flax_linen.network(task), optax.sgd(OPTIMIZER.learning_rate, OPTIMIZER.momentum)

    def initialize() -> Any:
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = network.init(keys, jnp.zeros((1, *IMAGE)), train=True)
        return variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"])

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, batch_stats, opt_state = state
        x = (images.astype(jnp.bfloat16) / 255 - 0.5) / 0.25

        def objective(params: Any) -> Any:
            variables, rngs = {"params": params, "batch_stats": batch_stats}, {"dropout": jax.random.key(2)}
            logits, updates = network.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
            logits, *heads = logits if isinstance(logits, tuple) else (logits,)
            losses = [optax.softmax_cross_entropy_with_integer_labels(y, labels).mean() for y in (logits, *heads)]
            return losses[0] + 0.3 * sum(losses[1:]), updates.get("batch_stats", {})

        (loss, statistics), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        loss, statistics, gradients = jax.lax.pmean((loss, statistics, gradients), BATCH_AXIS)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    split = PartitionSpec(BATCH_AXIS)
    specs = {"in_specs": (PartitionSpec(), split, split), "out_specs": PartitionSpec()}
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs), donate_argnums=0)
    return mapped, (_placed(jax.eval_shape(initialize), NamedSharding(mesh, PartitionSpec())), *_batch(mesh, batch))


def _placed(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _batch(mesh: Mesh, batch: int) -> Any:
    count = batch * mesh.size
    shapes = jax.ShapeDtypeStruct((count, *IMAGE), jnp.uint8), jax.ShapeDtypeStruct((count,), jnp.int32)
    return _placed(shapes, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))
