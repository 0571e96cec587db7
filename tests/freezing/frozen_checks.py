"""Variables with random statistics, and what a program of a frozen model consists of. Imported by the tests."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.freezing import freeze


def random_variables(model, x, seed=0, scale=0.9, **options):
    """Return variables under which neither activations nor batch normalizations are trivial."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(rngs, jnp.asarray(x), **options)))
    random = np.random.default_rng(seed)

    def values(path, shape):
        normal = random.normal(size=shape)
        if path[-1] == "kernel":
            return normal * np.sqrt(2 / np.prod(shape[:-1]))
        if path[-1] == "scale":
            return scale * np.exp(0.2 * normal) * np.sign(random.normal(size=shape) + 2)
        return np.exp(0.4 * normal) if path[-1] == "var" else 0.3 * normal

    return unflatten_dict({path: values(path, leaf.shape).astype(leaf.dtype) for path, leaf in shapes.items()})


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(ours, theirs):
    """Return the largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def apply(model, variables, x):
    return jax.jit(lambda x: model.apply(variables, x, train=False))(x)


def operations(function, x):
    """Return how often each kernel and each other primitive is in the program of a function."""
    counts = Counter()

    def count(jaxpr):
        for eqn in jaxpr.eqns:
            kernel = eqn.params.get("kernel")
            counts[eqn.primitive.name if kernel is None else type(kernel).__name__] += 1
            for name in ("jaxpr", "call_jaxpr"):
                if name in eqn.params:
                    count(getattr(eqn.params[name], "jaxpr", eqn.params[name]))

    count(jax.make_jaxpr(function)(x).jaxpr)
    return counts


def check(model, x, fused, tolerance=1e-5, **expected):
    """Check a frozen model against the model, and the number of its operations of each kind."""
    variables = random_variables(model, x, train=False)
    frozen = freeze(model, variables)
    assert error(frozen(x), apply(model, variables, x)) < tolerance
    counts = operations(frozen, x)
    assert counts["FusedConvolution"] == fused, counts
    for name, count in expected.items():
        assert counts[name] == count, counts
    return frozen
