"""The contracts of models: values, any normalization, `train` by position, and no implicit broadcasting."""

import copy
import functools
import pickle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, LayerNorm, Partial
from jaxcnn.models import create_model, list_models
from jaxcnn.models.mobile._inverted_residual import Row
from jaxcnn.models.mobile.mobilenet_v3 import Bneck
from jaxcnn.models.resnet import BasicBlock

# A small model of each family, and the size of its images.
ROW = (4, (4, 4), (4, 4), 4)
BRANCHES = {"branch1x1": ((4, 1),), "branch3x3": ((4, 1), ((4, (1, 3)), (4, (3, 1)))), "branch_pool": ((4, 1),)}
REDUCED = {"branch3x3": ((4, 1), (4, 3))}
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "lenet5": ({}, 28),
    "lenet5_1998": ({}, 28),
    "alexnet_two_tower": ({"features": (4, 8, 4, 4, 4), "hidden": 8}, 67),
    "vgg11_bn": ({"column": ((3,), (3, 1)), "widths": (4, 4), "hidden": 8}, 8),
    "googlenet_bn": ({"modules": {"3a": ROW, "4a": ROW}, "stem": "cifar"}, 16),
    "resnet18": ({"stage_sizes": (1, 1), "width": 4, "stem": "cifar"}, 8),
    "resnext50_32x4d": ({"stage_sizes": (1, 1), "width": 16}, 16),
    "preact_resnet18": ({"stage_sizes": (1, 1), "width": 4, "stem": "cifar"}, 8),
    "convnext_tiny": ({"stage_sizes": (1, 1), "widths": (4, 8), "layer_scale": 1.0, "stem": "cifar"}, 8),
    "regnet_y_400mf": ({"stage_sizes": (1, 1), "widths": (8, 8), "group_width": 4, "stem": "cifar"}, 8),
    "shufflenet_v2_x1_0": ({"stage_sizes": (2,), "widths": (8, 8), "stem_width": 4, "stem": "cifar"}, 8),
    "squeezenet1_1": ({"stages": (((2, 4),),), "stem_width": 4, "stem": "cifar"}, 8),
    "inception_v3": ({"modules": {"6b": BRANCHES, "7a": REDUCED}, "stem": "cifar"}, 8),
    "mobilenet_v2": ({"table": (Row(1, 8, 1, 1), Row(2, 8, 2, 2)), "width": 0.5, "stem": "cifar"}, 8),
    "mobilenet_v3_small": ({"table": ((Bneck(3, 16, 8, True, "HS", 2),),), "hidden": 8}, 8),
    "efficientnet_v2_s": ({"table": (Row(2, 8, 1, 1, fused=True), Row(1, 8, 2, 2))}, 8),
    "speedrun96": ({"widths": (4, 4)}, 8),
    "densenet_bc100_k12": ({"block_sizes": (1, 1), "growth_rate": 4, "stem_width": 4, "dropout_rate": 0.2}, 8),
}
every_family = pytest.mark.parametrize("name", SMALL)
modes = pytest.mark.parametrize("train", [False, True])
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
STATE = ["batch_stats", "aux_logits"]


pytestmark = pytest.mark.usefixtures("compile_quickly")


def small(name: str, **fields: Any) -> nn.Module:
    return create_model(name, 10, **{**SMALL[name][0], **fields})


def images(name: str, *leading: int) -> np.ndarray:
    size = SMALL[name][1]
    shape = (*leading, 4, size, size, create_model(name).image_shape[2])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.cache
def variables_of(name: str) -> Any:
    return jax.jit(functools.partial(small(name).init, train=True))(KEYS, images(name))


def run(model: nn.Module, variables: Any, x: Any, train: bool) -> Any:
    """Return the logits, and all that the model updates or sows."""
    call = jax.jit(lambda variables, x: model.apply(variables, x, train, rngs=KEYS, mutable=STATE))
    return call(variables, x)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


# Values.


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_a_value(name):
    model = create_model(name, dtype=jnp.bfloat16)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), create_model(name, dtype=jnp.bfloat16)):
        assert other == model
        assert hash(other) == hash(model)
    assert create_model(name, 7) != create_model(name, 8)


def test_a_copy_of_a_model_is_a_static_argument_that_is_not_compiled_again():
    calls = []

    @functools.partial(jax.jit, static_argnums=0)
    def initialize(model, x):
        calls.append(model)
        return model.init(KEYS, x, train=True)

    model = small("googlenet_bn")
    for value in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model), small("googlenet_bn")):
        initialize(value, images("googlenet_bn"))
    assert len(calls) == 1


# Fields.


@pytest.mark.parametrize(
    ("name", "field", "closest"),
    [("resnet18", "stm", "stem"), ("vgg11", "nrom", "norm"), ("lenet5_1998", "num_clases", "num_classes")],
)
def test_an_unknown_field_is_refused_with_the_closest_valid_name(name, field, closest):
    with pytest.raises(UsageError, match=rf"^unknown field of {name} '{field}'; did you mean '{closest}'\?$"):
        create_model(name, **{field: 1})


def test_an_unknown_place_of_dropout_is_refused():
    with pytest.raises(UsageError, match="did you mean 'outputs'"):
        jax.eval_shape(
            lambda: create_model("alexnet", dropout_at="output").init(KEYS, images("alexnet_two_tower"), True)
        )


# Any normalization.


class GroupNorm(nn.GroupNorm):
    """Flax's group normalization, called as `(x, train)`."""

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # type: ignore[override]
        return super().__call__(x)


@modes
@pytest.mark.parametrize("norm", [LayerNorm, Partial(GroupNorm, num_groups=2), Partial(BatchNorm, axis_name=None)])
@pytest.mark.parametrize("name", [name for name in SMALL if hasattr(create_model(name), "norm")])
def test_any_module_that_is_called_with_train_can_be_the_normalization(name, norm, train):
    model, x = small(name, norm=norm, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16), images(name)
    variables = jax.eval_shape(lambda x: model.init(KEYS, x, train), x)
    params = flatten_dict(variables["params"])
    assert {leaf.dtype.name for leaf in params.values()} == {"bfloat16"}
    assert any(path[-1] == "scale" for path in params)
    logits, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train, rngs=KEYS, mutable=STATE), variables, x)
    assert (logits.shape, logits.dtype) == ((4, 10), jnp.float32)


# `train` by position, for Flax's lifted transformations.

RATES = ("dropout_rate", "aux_dropout_rate", "drop_path_rate")


def lifted(transform: Any, name: str, **arguments: Any) -> nn.Module:
    model = small(name)
    fields = {
        field: getattr(model, field) for field in type(model).__dataclass_fields__ if field not in ("parent", "name")
    }
    # nn.jit and nn.scan give a module other random numbers.
    rates = [field for field in fields if field in RATES] if transform is nn.jit else ()
    return transform(type(model), **arguments)(**{**fields, **dict.fromkeys(rates, 0.0)})


# Two families show it. The others take long to compile.
mostly_slow = pytest.mark.parametrize(
    "name", [name if name in ("resnet18", "vgg11_bn") else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)


@mostly_slow
@modes
@pytest.mark.parametrize("transform", [nn.remat, nn.jit])
def test_remat_and_jit_of_a_model(transform, name, train):
    model, variables, x = lifted(transform, name, static_argnums=(2,)), variables_of(name), images(name)
    rates = {field: getattr(model, field) for field in RATES if hasattr(model, field)}
    assert_same(run(model, variables, x, train), run(small(name, **rates), variables, x, train))


@mostly_slow
@modes
def test_vmap_of_a_model(name, train):
    axes = {"params": None, "batch_stats": None if not train else 0, "aux_logits": 0}
    model = lifted(nn.vmap, name, variable_axes=axes, split_rngs={"params": False, "dropout": False}, in_axes=(0, None))
    variables, x = variables_of(name), images(name, 2)
    given = dict(variables)
    if train and "batch_stats" in given:
        given["batch_stats"] = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), given["batch_stats"])
    logits, updates = run(model, given, x, train)
    for index in range(2):
        expected = run(small(name), variables, x[index], train)
        np.testing.assert_allclose(logits[index], expected[0], rtol=1e-4, atol=1e-4)
        if train:
            assert_same(jax.tree.map(lambda leaf, index=index: leaf[index], updates), expected[1])


class ScannedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BasicBlock(8, 1, "B", Conv, BatchNorm, name="block")(x, train), None


@modes
def test_scan_of_a_block(train):
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 8)).astype(np.float32)
    axes, split = {"params": 0, "batch_stats": 0}, {"params": True, "dropout": False}
    stack = nn.scan(ScannedBlock, variable_axes=axes, split_rngs=split, in_axes=nn.broadcast, length=3)()
    variables = stack.init(KEYS, x, train)
    (got, _), updates = run(stack, variables, x, train)
    y: Any = x
    for index in range(3):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], variables)
        (y, _), update = run(ScannedBlock(), own, y, train)
        assert_same(update, jax.tree.map(lambda leaf, index=index: leaf[index], updates))
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-4)


# Explicit broadcasting.


@every_family
@modes
def test_models_do_not_promote_ranks(name, train):
    model, x = small(name, dtype=jnp.bfloat16), images(name)

    def gradient(x: jax.Array) -> Any:
        variables = model.init(KEYS, x, train)

        def total(params: Any) -> Any:
            return model.apply({**variables, "params": params}, x, train, rngs=KEYS, mutable=STATE)[0].sum()

        return jax.grad(total)(variables["params"])

    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(gradient, x)
