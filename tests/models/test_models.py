"""Published counts of every registered model, and the properties that every model must have.

Counts, shapes and gradients are those of the whole model, traced but not run. Tests that run a model use fewer and
narrower layers. Models that are then equal, such as resnet50 and resnet101, are traced and run once.
"""

import functools
from collections.abc import Iterable
from functools import partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.extend.core import Literal, jaxprs_in_params
from table_of_models import KEYS, STATE, TABLE, every_model, image_batch, small, variables_of

from jaxcnn.analysis import summarize
from jaxcnn.errors import UsageError
from jaxcnn.kernels import inlined
from jaxcnn.models import create_model, list_models
from jaxcnn.models.preact_resnet import PreActBottleneck
from jaxcnn.models.resnet import BasicBlock
from jaxcnn.train import create_state, make_parallel, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")


def test_every_model_has_a_row_and_every_row_a_model():
    assert sorted(TABLE) == list_models()


# Tracing these takes long, or they repeat the layers of a smaller model of their family in other widths.
DEEPEST = {
    "densenet100_k12",
    "densenet100_k24",
    "densenet161",
    "densenet201",
    "densenet_bc190_k40",
    "densenet_bc250_k24",
    "preact_resnet1001_cifar",
    "preact_resnet200",
    "resnet1202_cifar",
}
# These differ from another model of their family in width, depth and size of images alone, or take long.
SCALED = {
    *(f"efficientnet_b{number}" for number in range(1, 8)),
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "inception_v3",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v3_large",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet101_2",
    *list_models("convnext_*"),
    *list_models("regnet_*"),
    *list_models("shufflenet_v2_*"),
} - {"convnext_tiny", "regnet_y_400mf", "shufflenet_v2_x1_0"}


def slowly(names: Iterable[str], slow: set[str]) -> Any:
    """Parametrize a test by names of models, and mark some of them as slow."""
    marked = [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]
    return pytest.mark.parametrize("name", marked)


@slowly(TABLE, DEEPEST | SCALED)
def test_counts_and_shapes_are_the_papers(name):
    row, model = TABLE[name], create_model(name)
    summary = summarize(model, model.image_shape)
    assert summary.params == row.params
    digits = len(row.macs.partition(".")[2])
    assert (f"{summary.macs / 1e9:.{digits}f}" if digits else str(summary.macs)) == row.macs
    assert summary.rows[-1].output_shape == (1, model.num_classes)
    assert model.num_classes == (1000 if model.image_shape[0] > 200 else 10)


# Trace each kind of block once in networks of hundreds of equal blocks.
TRACED_ONCE = {
    "resnet1202_cifar": nn.jit(BasicBlock, static_argnums=(2,)),
    "preact_resnet1001_cifar": partial(nn.jit(PreActBottleneck, static_argnums=(2,)), stride_on_3x3=False),
}


def without_gradient(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Return the parameters on which no logit depends, according to the program of the gradient."""
    variables = variables_of(model, shape)

    def total(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return model.apply({"params": params, **state}, x, train=False).sum()

    params = variables.pop("params")
    program = jax.make_jaxpr(jax.grad(total))(params, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32)).jaxpr
    # The gradient of an unused parameter is a constant.
    constants = {
        eqn.outvars[0]
        for eqn in program.eqns
        if eqn.primitive.name == "broadcast_in_dim" and isinstance(eqn.invars[0], Literal)
    }
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [
        path for path, out in zip(paths, program.outvars, strict=True) if isinstance(out, Literal) or out in constants
    ]


@pytest.mark.slow
@every_model
def test_every_parameter_of_the_whole_model_has_a_gradient(name):
    model = create_model(name, **({"block": TRACED_ONCE[name]} if name in TRACED_ONCE else {}))
    assert without_gradient(model, model.image_shape) == []


def test_a_parameter_without_a_gradient_would_be_found():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            unused, stopped = (self.param(name, nn.initializers.ones, (1,)) for name in ("unused", "stopped"))
            return nn.Dense(2, name="used")(x) + jax.lax.stop_gradient(stopped) + 0 * jnp.ones_like(unused)

    assert without_gradient(Net(), (3,)) == ["stopped", "unused"]


@functools.cache
def after_one_step(model: nn.Module, size: int) -> tuple[Any, Any, Any]:
    """Return the states before and after a step on eight devices, and the metrics of the step."""
    optimizer, parallel = optax.sgd(1.0), make_parallel("shard_map", jax.devices()[:8])
    step = parallel.compile(make_train_step(model, optimizer), donate_state=False)
    images = image_batch(model, size, batch=16)
    state = parallel.place_state(create_state(model, optimizer, images.shape[1:], seed=0))
    batch = {"image": images, "label": np.arange(16, dtype=np.int32) % 10}
    after, sums = step(state, parallel.place_batch(batch))
    return jax.device_get((state, after, sums))


@pytest.mark.slow
@every_model
def test_a_step_on_eight_devices_moves_every_parameter(name):
    row = TABLE[name]
    before, after, sums = after_one_step(small(name), row.size)
    assert sums["examples"] == 16
    assert np.isfinite(sums["loss"])
    unmoved = jax.tree.map(lambda a, b: bool((a == b).all()), before.params, after.params)
    assert not [path for path, still in jax.tree_util.tree_leaves_with_path(unmoved) if still]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.batch_stats)))
    old, new = flatten_dict(before.batch_stats), flatten_dict(after.batch_stats)
    # A convolution of maps of mean 0, as behind a linear bottleneck, has a mean of 0 in some channels.
    equal = {path: old[path] == new[path] for path in old}
    still = [same.all() if path[-1] == "mean" else same.any() for path, same in equal.items()]
    assert bool(still) == ("N" in row.modes)
    assert not any(still)


@functools.cache
def outputs(model: nn.Module, size: int) -> dict[str, np.ndarray]:
    """Return the logits of one batch in evaluation, with and without `jit`, and in training, with two keys."""
    state, _, _ = after_one_step(model, size)
    variables, x = {"params": state.params, "batch_stats": state.batch_stats}, image_batch(model, size)

    @partial(jax.jit, static_argnames="train")
    def run(variables: Any, x: jax.Array, key: jax.Array, *, train: bool) -> jax.Array:
        return model.apply(variables, x, train=train, rngs={"dropout": key}, mutable=STATE)[0]

    keys = jax.random.split(jax.random.key(0))
    logits = {"eval": run(variables, x, keys[0], train=False)}
    logits |= {"train": run(variables, x, keys[0], train=True), "other key": run(variables, x, keys[1], train=True)}
    return logits | {"by hand": model.apply(variables, x, train=False)}


@pytest.mark.slow
@every_model
def test_training_differs_from_evaluation_only_with_batch_normalization_or_dropout(name):
    row, model = TABLE[name], small(name)
    got = {key: np.asarray(value) for key, value in outputs(model, row.size).items()}
    assert all((value.shape, value.dtype) == ((2, 10), np.float32) for value in got.values())
    np.testing.assert_allclose(got["eval"], got["by hand"], rtol=1e-4, atol=1e-4)
    assert np.allclose(got["eval"], got["train"], rtol=1e-3, atol=1e-4) == (not row.modes)
    assert np.allclose(got["train"], got["other key"], rtol=1e-3, atol=1e-4) == ("D" not in row.modes)


@functools.cache
def needs_dropout_key(model: nn.Module, size: int, train: bool) -> bool:
    """Return whether the model asks for a random key that it was not given."""
    x = image_batch(model, size)
    try:
        jax.eval_shape(partial(model.apply, train=train, mutable=STATE), variables_of(model, x.shape[1:]), x)
    except flax.errors.InvalidRngError as error:
        return "dropout" in str(error)
    return False


@every_model
def test_dropout_needs_its_key_in_training_and_only_there(name):
    row, model = TABLE[name], small(name)
    assert not needs_dropout_key(model, row.size, train=False)
    assert needs_dropout_key(model, row.size, train=True) == ("D" in row.modes)


def products(jaxpr: Any) -> list[tuple[str, Any]]:
    """Return the kind and the operands' dtypes of every convolution and dot product in a program."""
    found = [
        (eqn.primitive.name, {atom.aval.dtype.name for atom in eqn.invars})
        for eqn in jaxpr.eqns
        if eqn.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    return found + [
        product for eqn in jaxpr.eqns for body in jaxprs_in_params(eqn.params) for product in products(body)
    ]


@functools.cache
def in_training(model: nn.Module, size: int) -> tuple[Any, Any, list[tuple[str, Any]]]:
    """Return the logits, the updates (both as shapes) and the products of a training program."""
    x = image_batch(model, size)
    variables = variables_of(model, x.shape[1:], train=True)
    apply = partial(model.apply, train=True, rngs=KEYS, mutable=STATE)
    with inlined():
        program, (logits, updates) = jax.make_jaxpr(apply, return_shape=True)(variables, x)
    return logits, updates, products(program.jaxpr)


@every_model
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_statistics_and_logits_in_float32(name):
    row, model = TABLE[name], small(name, dtype=jnp.bfloat16)
    variables = variables_of(model, image_batch(model, row.size).shape[1:], train=True)
    logits, updates, found = in_training(model, row.size)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, logits, updates))} == {"float32"}
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]
    assert len(found) == len(kernels)
    wide = [kind for kind, dtypes in found if dtypes != {"bfloat16"}]
    # Only the classifiers, the last and the auxiliary ones, compute float32 logits.
    heads = 1 + len(jax.tree.leaves(updates.get("aux_logits", {})))
    kind = "conv_general_dilated" if name.startswith("squeezenet") else "dot_general"
    assert wide == [kind] * (heads if name != "lenet5_1998" else 0)


@every_model
def test_param_dtype_is_of_the_parameters_alone(name):
    model = small(name, param_dtype=jnp.bfloat16)
    variables = variables_of(model, (TABLE[name].size, TABLE[name].size, model.image_shape[2]))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables.get("batch_stats", {}))} <= {"float32"}


def shallow(name: str) -> nn.Module:
    """Return the model with all its strides and one block in each stage."""
    model = create_model(name)
    sizes = [field for field in ("stage_sizes", "block_sizes") if hasattr(model, field)]
    fields: dict[str, Any] = {field: (1,) * len(getattr(model, field)) for field in sizes}
    if hasattr(model, "rows"):
        fields["table"] = tuple(row._replace(blocks=1) for row in model.table)
    if hasattr(model, "depth"):
        fields["depth"] = type(model.depth)(1)
    return create_model(name, **fields)


@functools.cache
def refusal(model: nn.Module, height: int, width: int, channels: int, train: bool) -> str | None:
    """Return the error message for images of a size, or None if the model returns logits."""
    x = jax.ShapeDtypeStruct((2, height, width, channels), jnp.float32)
    try:
        logits, _ = jax.eval_shape(partial(model.init_with_output, train=train), KEYS, x)
    except UsageError as error:
        return str(error)
    assert logits.shape == (2, model.num_classes)
    return None


@slowly(TABLE, SCALED)
def test_any_size_that_the_strides_allow_works_and_a_smaller_one_is_refused_in_one_line(name):
    model = shallow(name)
    channels = model.image_shape[2]
    for train, least in zip((False, True), TABLE[name].least, strict=True):
        assert refusal(model, least, least, channels, train) is None
        assert refusal(model, least + 13, least + 6, channels, train) is None
        for size in ((least - 1, least + 9), (least + 9, least - 1)):
            message = refusal(model, *size, channels, train)
            assert message is not None
            assert message.startswith("image too small: ")
            assert "\n" not in message


STEMMED = sorted(name for name in TABLE if hasattr(create_model(name), "stem"))


@functools.cache
def rows_of(model: nn.Module, shape: tuple[int, ...]) -> Any:
    return summarize(model, shape).rows


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)], ids=str)
@slowly(STEMMED, SCALED)
def test_the_stem_for_small_images_keeps_them_at_full_size(name, shape):
    model = shallow(name).clone(stem="cifar", num_classes=10)
    assert refusal(model, *shape, train=False) is None
    rows = rows_of(model, shape)
    first = min((row for row in rows if row.macs), key=lambda row: row.receptive_field or (0,))
    assert first.output_shape[1:3] == shape[:2]
    # The last map of a 32x32 image is larger than a pixel, or global average pooling would average nothing.
    maps = [row for row in rows if len(row.output_shape) == 4]
    assert min(maps[-1].output_shape[1:3]) > 1 or shape[0] < 32


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "resnet18", "preact_resnet18", "densenet121"])
def test_an_unknown_stem_names_the_nearest(name):
    with pytest.raises(UsageError, match="did you mean 'cifar'"):
        variables_of(create_model(name, stem="cifr"), (32, 32, 3))
