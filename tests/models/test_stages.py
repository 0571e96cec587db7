"""Recomputation: the same network and gradients, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers.recomputation import plan
from jaxcnn.models import create_model
from jaxcnn.models.mobile._inverted_residual import Row
from jaxcnn.train.losses import cross_entropy

SMALL = {
    "resnet20_cifar": {"stage_sizes": (1, 1), "width": 8},
    "preact_resnet110_cifar": {"stage_sizes": (1, 1), "width": 8},
    "vgg11_bn": {"column": ((3,), (3, 3)), "widths": (8, 16), "stem": "cifar"},
    "googlenet_bn": {"stem": "cifar", "modules": {"3a": (8, (8, 8), (8, 8), 8), "4a": (8, (8, 8), (8, 8), 8)}},
    "densenet_bc100_k12": {"block_sizes": (2, 2), "growth_rate": 4, "stem_width": 8, "dropout_rate": 0.2},
    "densenet40_k12": {"block_sizes": (2, 2), "growth_rate": 4, "stem_width": 8},
    "convnext_tiny": {"stage_sizes": (1, 1), "widths": (8, 16), "layer_scale": 1.0},
    "regnet_y_400mf": {"stage_sizes": (1, 1), "widths": (8, 16), "group_width": 8},
    "shufflenet_v2_x1_0": {"stage_sizes": (2, 2), "widths": (8, 16, 16), "stem_width": 8},
    "efficientnet_v2_s": {"table": (Row(2, 8, 1, 1, fused=True), Row(2, 8, 1, 2))},
}
WAYS = [
    pytest.param("resnet20_cifar", {"remat": "130KB"}, marks=pytest.mark.slow),
    pytest.param("densenet_bc100_k12", {"remat": "180KB"}, marks=pytest.mark.slow),
    # Whole networks take long to compile; parts of them show the same.
    *(pytest.param(name, {"remat": True}, marks=pytest.mark.slow) for name in SMALL),
    ("resnet20_cifar", {"remat": (2,)}),
    pytest.param("googlenet_bn", {"remat": (4,)}, marks=pytest.mark.slow),
    pytest.param("densenet_bc100_k12", {"memory_efficient": True}, marks=pytest.mark.slow),
    pytest.param("densenet40_k12", {"memory_efficient": True}, marks=pytest.mark.slow),
    pytest.param("densenet40_k12", {"memory_efficient": True, "remat": (1,)}, marks=pytest.mark.slow),
]
KEY = jax.random.key(0)


def value_and_gradients(model, variables, x):
    """The loss, what the model updates and sows, and the gradient of each parameter."""
    params = variables["params"]
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params, x):
        mutable, rngs = ["batch_stats", "aux_logits"], {"dropout": jax.random.key(2)}
        logits, updates = model.apply({"params": params, **state}, x, train=True, mutable=mutable, rngs=rngs)
        auxiliary = [cross_entropy(a, labels(x)).sum() for a in jax.tree.leaves(updates.get("aux_logits", {}))]
        return cross_entropy(logits, labels(x)).sum() + sum(auxiliary), updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params, x)


def labels(x):
    return jnp.arange(len(x)) % 10


@pytest.mark.parametrize(("name", "fields"), WAYS)
def test_names_outputs_statistics_and_gradients_stay(name, fields):
    plain, recomputed = (create_model(name, 10, **SMALL[name], **more) for more in ({}, fields))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(lambda: plain.init(keys, x, train=True))()
    same = jax.eval_shape(lambda: recomputed.init(keys, x, train=True))
    assert jax.tree.structure(same) == jax.tree.structure(variables)
    lowered = value_and_gradients(recomputed, variables, x)
    assert "optimization_barrier" in lowered.as_text()
    expected = value_and_gradients(plain, variables, x).compile()(variables["params"], x)
    for a, b in zip(jax.tree.leaves(lowered.compile()(variables["params"], x)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(jnp.abs(b).max())))
    logits = (model.apply(variables, x, train=False) for model in (recomputed, plain))
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-5)


DEEP = {
    "resnet20_cifar": {"stage_sizes": (6, 6), "width": 8},
    "preact_resnet110_cifar": {"stage_sizes": (6, 6), "width": 8},
    "vgg16_bn": {"stem": "cifar"},
    "googlenet_bn": {"stem": "cifar"},
    "densenet40_k12": {},
    "convnext_tiny": {"stage_sizes": (6, 6), "widths": (8, 16), "stem": "cifar"},
    "inception_v3": {"stem": "cifar"},
    "regnet_x_400mf": {"stage_sizes": (6, 6), "widths": (8, 16), "group_width": 8, "stem": "cifar"},
    "shufflenet_v2_x1_0": {"stem": "cifar"},
    "squeezenet1_1": {"stem": "cifar"},
    "efficientnet_b0": {"stem": "cifar", "table": (Row(6, 16, 3, 1), Row(6, 24, 3, 2))},
}


SLOW = ("inception_v3", "regnet_x_400mf", "squeezenet1_1")


def bytes_kept(name, **fields):
    """What is kept for the backward pass, besides the parameters."""
    model, x = create_model(name, 10, **DEEP[name], **fields), jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda x: model.init(keys, x, train=True), x)

    def backward(variables, x):
        def logits(variables):
            mutable, rngs = ["batch_stats", "aux_logits"], {"dropout": jax.random.key(2)}
            return model.apply(variables, x, train=True, mutable=mutable, rngs=rngs)[0]

        return jax.vjp(logits, variables)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, variables, x))
    # Maps are [N, H, W, C]; a loop stacks those of its blocks.
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept if leaf.ndim >= 4 and leaf.shape[-4] == 16)


@pytest.mark.parametrize(
    ("name", "fields", "share"),
    [
        *(pytest.param(name, {"remat": True}, 0.6, marks=pytest.mark.slow if name in SLOW else ()) for name in DEEP),
        ("resnet20_cifar", {"remat": (1,)}, 0.75),
        ("densenet40_k12", {"memory_efficient": True}, 0.2),
    ],
    ids=str,
)
def test_less_is_kept_for_the_backward_pass(name, fields, share):
    assert bytes_kept(name, **fields) < share * bytes_kept(name)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {}) for name in ("resnet20_cifar", "vgg16_bn")),
        *((name, {"scan_blocks": True}) for name in ("resnet20_cifar", "preact_resnet110_cifar")),
        pytest.param("googlenet_bn", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_size_recomputes_some_of_the_blocks(name, fields):
    model, x = create_model(name, 10, **DEEP[name]), jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    keys = {"params": KEY, "dropout": KEY}
    variables = jax.eval_shape(lambda x: model.init(keys, x, train=True), x)
    everything = plan(model, variables, x, 10**12)
    size = round(0.7 * everything.peak_bytes)
    some = plan(model, variables, x, size)
    assert everything.recomputed < some.recomputed
    assert some.peak_bytes <= size
    none, these, all_blocks = (bytes_kept(name, **fields, remat=remat) for remat in ("1GB", f"{size / 1e6}MB", True))
    assert none == bytes_kept(name) > these > all_blocks


def test_the_inputs_of_dense_blocks_are_kept_in_any_case():
    model, x = create_model("densenet40_k12", 10), jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(KEY, x, train=True), x)
    everything = plan(model, variables, x, 10**12)
    with pytest.raises(UsageError, match=r"recomputing all 36 blocks needs 144.66MB"):
        plan(model, variables, x, round(0.95 * everything.peak_bytes))


def test_a_size_applies_to_training_only():
    model, x = create_model("resnet18", remat="1KB"), jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=True))
    jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)
    with pytest.raises(
        UsageError, match=r"^remat 1KB is too small: recomputing all 8 blocks needs 65.*KB. Give at least"
    ):
        jax.eval_shape(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]), variables)


@pytest.mark.parametrize("size", ["8", "8 gigabytes", "auto", ""])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UsageError, match=r"^remat is not a size: .* Give a number with a unit, such as '8GB'"):
        jax.eval_shape(lambda: create_model("vgg11", remat=size).init(KEY, jnp.zeros((1, 224, 224, 3)), train=False))


@pytest.mark.parametrize(
    ("name", "remat"),
    [("resnet18", (0,)), ("vgg16", (6,)), ("googlenet", (2,)), ("mobilenet_v2", (8,)), ("resnet18", 1)],
)
def test_a_stage_that_is_not_there_is_refused(name, remat):
    model = create_model(name, remat=remat)
    if remat == 1:  # a number alone is one stage, and must be in a tuple
        model = create_model(name, remat=(5,))
    with pytest.raises(UsageError, match="remat must be True, False or a tuple of stages out of"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))
