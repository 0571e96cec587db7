"""Every registered model has a row here: what its paper counts, and what every model must do.

Counts, shapes and gradients are of the whole model, abstractly. What is run is the same code with fewer and narrower
layers; models that are then equal, such as resnet50 and resnet101, run once.
"""

import functools
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from jax.extend.core import Literal, jaxprs_in_params

from jaxcnn.analysis import summarize
from jaxcnn.errors import UsageError
from jaxcnn.kernels import inlined
from jaxcnn.layers import MaxPool
from jaxcnn.models import create_model, list_models
from jaxcnn.models.googlenet import INCEPTION
from jaxcnn.models.preact_resnet import PreActBottleneck
from jaxcnn.models.resnet import BasicBlock
from jaxcnn.train import create_state, make_parallel, make_train_step


@dataclass(frozen=True)
class Row:
    """What is expected of a model.

    Fields:
      params: trainable parameters.
      macs: multiply-adds for one image, all digits or, with a dot, in 10^9 with as many digits as are published.
      modes: what makes training differ from evaluation, N for batch normalisation and D for dropout.
      small: fields that make it small enough to run, and `size`, the image that it then runs on.
      least: sides of the smallest images for evaluation and for training.
    """

    params: int
    macs: str
    modes: str
    small: dict[str, Any]
    size: int
    least: tuple[int, int]


LENET = ({}, 28)
ALEXNET = ({"features": (8, 16, 8, 8, 8), "hidden": 32}, 67)
VGG = ({"column": ((3,), (3, 1)), "widths": (8, 8), "hidden": 16}, 8)
MODULES = FrozenDict(dict.fromkeys(("4a", "4d", "5a"), (8, (8, 8), (8, 8), 8)))
GOOGLENET = ({"modules": MODULES}, 79)
RESNET = ({"stage_sizes": (1, 1), "width": 16}, 16)
DENSENET = ({"block_sizes": (1, 1), "growth_rate": 4, "stem_width": 8}, 16)
ANY, POOLED = (1, 1), (4, 4)

# Multiply-adds without a dot are no published figures; `test_operations.py` counts them by hand.
TABLE = {
    "lenet5": Row(61_706, "416520", "", *LENET, (12, 12)),
    "lenet5_1998": Row(60_000, "415680", "", *LENET, (28, 28)),
    "alexnet": Row(61_100_840, "0.714", "D", *ALEXNET, (63, 63)),
    "alexnet_two_tower": Row(60_965_224, "0.724", "D", *ALEXNET, (67, 67)),
    "vgg11": Row(132_863_336, "7.609", "D", *VGG, (32, 32)),
    "vgg13": Row(133_047_848, "11.308", "D", *VGG, (32, 32)),
    "vgg16": Row(138_357_544, "15.470", "D", *VGG, (32, 32)),
    "vgg16_c": Row(133_638_952, "11770888192", "D", *VGG, (32, 32)),
    "vgg19": Row(143_667_240, "19.632", "D", *VGG, (32, 32)),
    "vgg11_bn": Row(132_868_840, "7.609", "ND", *VGG, (32, 32)),
    "vgg13_bn": Row(133_053_736, "11.308", "ND", *VGG, (32, 32)),
    "vgg16_bn": Row(138_365_992, "15.470", "ND", *VGG, (32, 32)),
    "vgg19_bn": Row(143_678_248, "19.632", "ND", *VGG, (32, 32)),
    "googlenet": Row(6_998_552, "1.583", "D", *GOOGLENET, (47, 79)),
    "googlenet_naive": Row(97_526_008, "12568061056", "D", *GOOGLENET, (47, 79)),
    "googlenet_bn": Row(6_624_904, "1.498", "ND", *GOOGLENET, (31, 31)),
    "resnet18": Row(11_689_512, "1.814", "N", *RESNET, ANY),
    "resnet34": Row(21_797_672, "3.664", "N", *RESNET, ANY),
    "resnet50": Row(25_557_032, "4.089", "N", *RESNET, ANY),
    "resnet101": Row(44_549_160, "7.801", "N", *RESNET, ANY),
    "resnet152": Row(60_192_808, "11.514", "N", *RESNET, ANY),
    "resnet50_v1": Row(25_557_032, "3.858", "N", *RESNET, ANY),
    "resnet101_v1": Row(44_549_160, "7.570", "N", *RESNET, ANY),
    "resnet152_v1": Row(60_192_808, "11.282", "N", *RESNET, ANY),
    "resnext50_32x4d": Row(25_028_904, "4.230", "N", *RESNET, ANY),
    "wide_resnet50_2": Row(68_883_240, "11.398", "N", *RESNET, ANY),
    "preact_resnet18": Row(11_687_848, "1814073344", "N", *RESNET, ANY),
    "preact_resnet34": Row(21_796_008, "3663761408", "N", *RESNET, ANY),
    "preact_resnet50": Row(25_549_480, "4089184256", "N", *RESNET, ANY),
    "preact_resnet101": Row(44_541_608, "7801405440", "N", *RESNET, ANY),
    "preact_resnet152": Row(60_185_256, "11513626624", "N", *RESNET, ANY),
    "preact_resnet200": Row(64_666_280, "15007481856", "N", *RESNET, ANY),
    "resnet20_cifar": Row(269_722, "40551040", "N", *RESNET, ANY),
    "resnet32_cifar": Row(464_154, "68862592", "N", *RESNET, ANY),
    "resnet44_cifar": Row(658_586, "97174144", "N", *RESNET, ANY),
    "resnet56_cifar": Row(853_018, "125485696", "N", *RESNET, ANY),
    "resnet110_cifar": Row(1_727_962, "252887680", "N", *RESNET, ANY),
    "resnet1202_cifar": Row(19_421_274, "2829238912", "N", *RESNET, ANY),
    "plain20_cifar": Row(269_722, "40551040", "N", *RESNET, ANY),
    "plain32_cifar": Row(464_154, "68862592", "N", *RESNET, ANY),
    "plain44_cifar": Row(658_586, "97174144", "N", *RESNET, ANY),
    "plain56_cifar": Row(853_018, "125485696", "N", *RESNET, ANY),
    "plain110_cifar": Row(1_727_962, "252887680", "N", *RESNET, ANY),
    "preact_resnet110_cifar": Row(1_730_522, "253149824", "N", *RESNET, ANY),
    "preact_resnet164_cifar": Row(1_703_258, "244500992", "N", *RESNET, ANY),
    "preact_resnet1001_cifar": Row(10_327_706, "1487849984", "N", *RESNET, ANY),
    "wide_resnet28_10": Row(36_479_194, "5243328768", "N", *RESNET, ANY),
    "densenet121": Row(7_978_856, "2.834", "N", *DENSENET, (29, 29)),
    "densenet161": Row(28_681_000, "7.728", "N", *DENSENET, (29, 29)),
    "densenet169": Row(14_149_480, "3.360", "N", *DENSENET, (29, 29)),
    "densenet201": Row(20_013_928, "4.291", "N", *DENSENET, (29, 29)),
    "densenet40_k12": Row(1_019_722, "264812928", "N", *DENSENET, POOLED),
    "densenet100_k12": Row(6_979_642, "1769516448", "N", *DENSENET, POOLED),
    "densenet100_k24": Row(27_249_082, "6889347744", "N", *DENSENET, POOLED),
    "densenet_bc100_k12": Row(769_162, "287929692", "N", *DENSENET, POOLED),
    "densenet_bc250_k24": Row(15_324_406, "5418785724", "N", *DENSENET, POOLED),
    "densenet_bc190_k40": Row(25_624_430, "9301945740", "N", *DENSENET, POOLED),
}
every_model = pytest.mark.parametrize("name", TABLE)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
STATE = ["batch_stats", "aux_logits"]


@pytest.fixture(autouse=True)
def compile_quickly():
    """What runs here is small: compiling it well would take longer than running it badly."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_every_model_has_a_row_and_every_row_a_model():
    assert sorted(TABLE) == list_models()


def small(name: str, **fields: Any) -> nn.Module:
    return create_model(name, 10, **{**TABLE[name].small, **fields})


def image_batch(model: nn.Module, size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, size, size, model.image_shape[2])).astype(np.float32)


def variables_of(model: nn.Module, shape: tuple[int, ...], train: bool = False) -> Any:
    """Shapes of a model's variables."""
    return jax.eval_shape(partial(model.init, train=train), KEYS, jax.ShapeDtypeStruct((2, *shape), jnp.float32))


def count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# Thousands of layers take half a minute to trace.
every_model_the_deepest_slowly = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(("1001_cifar", "1202_cifar")) else name
        for name in TABLE
    ],
)


@every_model_the_deepest_slowly
def test_counts_and_shapes_are_the_papers(name):
    row, model = TABLE[name], create_model(name)
    summary = summarize(model, model.image_shape)
    assert summary.params == row.params
    digits = len(row.macs.partition(".")[2])
    assert (f"{summary.macs / 1e9:.{digits}f}" if digits else str(summary.macs)) == row.macs
    assert summary.rows[-1].output_shape == (1, model.num_classes)
    assert model.num_classes == (1000 if model.image_shape[0] > 200 else 10)


# A network of hundreds of equal blocks is traced block by block, and each kind of block once.
TRACED_ONCE = {
    "resnet1202_cifar": nn.jit(BasicBlock, static_argnames=("train",)),
    "preact_resnet1001_cifar": partial(nn.jit(PreActBottleneck, static_argnames=("train",)), stride_on_3x3=False),
}


def without_gradient(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Parameters of which no logit is a function, as far as the program of the gradient shows."""
    variables = variables_of(model, shape)

    def total(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return model.apply({"params": params, **state}, x, train=False).sum()

    params = variables.pop("params")
    program = jax.make_jaxpr(jax.grad(total))(params, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32)).jaxpr
    # Where nothing arrives, JAX fills in a constant.
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
    """Parameters before and after a step on eight devices, and its metrics."""
    optimizer, parallel = optax.sgd(1.0), make_parallel("shard_map", jax.devices()[:8])
    step = parallel.compile(make_train_step(model, optimizer, axis_name=parallel.axis_name), donate_state=False)
    images = image_batch(model, size, batch=16)
    state = parallel.place_state(create_state(model, optimizer, images.shape[1:], seed=0))
    batch = {"images": images, "labels": np.arange(16, dtype=np.int32) % 10}
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
    still = jax.tree.map(lambda a, b: bool((a == b).any()), before.batch_stats, after.batch_stats)
    assert bool(jax.tree.leaves(still)) == ("N" in row.modes)
    assert not any(jax.tree.leaves(still))


@functools.cache
def outputs(model: nn.Module, size: int) -> dict[str, np.ndarray]:
    """Logits of one batch: in evaluation with and without `jit`, and in training with two keys and with none."""
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
def test_training_differs_from_evaluation_where_normalisation_or_dropout_says_so(name):
    row, model = TABLE[name], small(name)
    got = {key: np.asarray(value) for key, value in outputs(model, row.size).items()}
    assert all((value.shape, value.dtype) == ((2, 10), np.float32) for value in got.values())
    np.testing.assert_allclose(got["eval"], got["by hand"], rtol=1e-4, atol=1e-4)  # `jit` changes nothing
    assert np.allclose(got["eval"], got["train"], rtol=1e-3, atol=1e-4) == (not row.modes)
    assert np.allclose(got["train"], got["other key"], rtol=1e-3, atol=1e-4) == ("D" not in row.modes)


@every_model
def test_dropout_needs_its_key_in_training_and_only_there(name):
    row, model = TABLE[name], small(name)
    x = image_batch(model, row.size)
    variables = variables_of(model, x.shape[1:])

    def shape(train: bool) -> Any:
        return jax.eval_shape(lambda v, x: model.apply(v, x, train=train, mutable=STATE)[0], variables, x)

    shape(train=False)
    if "D" in row.modes:
        with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
            shape(train=True)
    else:
        shape(train=True)


def products(jaxpr: Any) -> list[tuple[str, Any]]:
    """Kind and operands' dtypes of every convolution and dot product in a program."""
    found = [
        (eqn.primitive.name, {atom.aval.dtype.name for atom in eqn.invars})
        for eqn in jaxpr.eqns
        if eqn.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    return found + [
        product for eqn in jaxpr.eqns for body in jaxprs_in_params(eqn.params) for product in products(body)
    ]


@every_model
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_statistics_and_logits_in_float32(name):
    row, model = TABLE[name], small(name, dtype=jnp.bfloat16)
    x = image_batch(model, row.size)
    variables = variables_of(model, x.shape[1:], train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    apply = partial(model.apply, train=True, rngs=KEYS, mutable=STATE)
    logits, updates = jax.eval_shape(apply, variables, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((logits, updates))} == {"float32"}
    with inlined():
        found = products(jax.make_jaxpr(apply)(variables, x).jaxpr)
    kinds = [kind for kind, _ in found]
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]
    assert len(kinds) == len(kernels)
    wide = [kind for kind, dtypes in found if dtypes != {"bfloat16"}]
    # All but the classifiers, whose logits are float32: the last, and the auxiliary ones.
    heads = 1 + len(jax.tree.leaves(updates.get("aux_logits", {})))
    assert wide == ["dot_general"] * (heads if name != "lenet5_1998" else 0)


@every_model
def test_param_dtype_is_of_the_parameters_alone(name):
    model = small(name, param_dtype=jnp.bfloat16)
    variables = variables_of(model, (TABLE[name].size, TABLE[name].size, model.image_shape[2]))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables.get("batch_stats", {}))} <= {"float32"}


def shallow(name: str) -> nn.Module:
    """The model with all its strides and one block where there are many."""
    model = create_model(name)
    sizes = [field for field in ("stage_sizes", "block_sizes") if hasattr(model, field)]
    return create_model(name, **{field: (1,) * len(getattr(model, field)) for field in sizes})


@functools.cache
def refusal(model: nn.Module, height: int, width: int, train: bool) -> str | None:
    """What the model says of images of a size, None where it gives logits."""
    x = jax.ShapeDtypeStruct((2, height, width, model.image_shape[2]), jnp.float32)
    try:
        logits, _ = jax.eval_shape(partial(model.init_with_output, train=train), KEYS, x)
    except UsageError as error:
        return str(error)
    assert logits.shape == (2, model.num_classes)
    return None


@every_model
def test_any_size_that_the_strides_allow_works_and_a_smaller_one_is_told_so_in_one_line(name):
    model = shallow(name)
    for train, least in zip((False, True), TABLE[name].least, strict=True):
        assert refusal(model, least, least, train) is None
        assert refusal(model, least + 13, least + 6, train) is None
        for size in ((least - 1, least + 9), (least + 9, least - 1)):
            message = refusal(model, *size, train)
            assert message is not None
            assert message.startswith("image too small: ")
            assert "\n" not in message


STEMMED = sorted(name for name in TABLE if hasattr(create_model(name), "stem"))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)], ids=str)
@pytest.mark.parametrize("name", STEMMED)
def test_the_stem_for_small_images_keeps_them_at_full_size(name, shape):
    model = shallow(name).clone(stem="cifar", num_classes=10)
    variables = variables_of(model, shape, train=True)
    apply = partial(model.apply, train=False)
    assert jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32)).shape == (2, 10)
    first = min((row for row in summarize(model, shape).rows if row.macs), key=lambda row: row.receptive_field or (0,))
    assert first.output_shape[1:3] == shape[:2]
    # Of 32x32 the last map is not down to a single pixel, of which there would be nothing to average.
    maps = [row for row in summarize(model, shape).rows if row.stride is not None]
    assert min(maps[-1].output_shape[1:3]) > 1 or shape[0] < 32


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "resnet18", "preact_resnet18", "densenet121"])
def test_an_unknown_stem_names_the_nearest(name):
    with pytest.raises(UsageError, match="did you mean 'cifar'"):
        variables_of(create_model(name, stem="cifr"), (32, 32, 3))


# What the papers count besides.


@pytest.mark.parametrize(("name", "params"), [("googlenet", 13_378_280), ("googlenet_bn", 13_004_888)])
def test_auxiliary_heads_have_parameters_in_training_only(name, params):
    model = create_model(name)
    assert count(variables_of(model, model.image_shape, train=True)) == params
    assert count(variables_of(model, model.image_shape, train=False)) == TABLE[name].params
    assert count(variables_of(create_model(name, aux_heads=False), model.image_shape, train=True)) == TABLE[name].params


@pytest.mark.parametrize("name", ["googlenet", "googlenet_naive", "googlenet_bn"])
def test_auxiliary_heads_sow_logits_in_training_only(name):
    model = small(name)
    x = image_batch(model, TABLE[name].size)
    variables = variables_of(model, x.shape[1:], train=True)

    def sown(variables: Any, train: bool) -> Any:
        apply = partial(model.apply, train=train, rngs=KEYS, mutable=STATE)
        return jax.tree.map(jnp.shape, jax.eval_shape(apply, variables, x)[1].get("aux_logits", {}))

    assert sown(variables, True) == {"aux1": {"logits": (2, 10)}, "aux2": {"logits": (2, 10)}}
    assert sown(variables, False) == {}
    headless = {**variables, "params": {k: v for k, v in variables["params"].items() if not k.startswith("aux")}}
    assert sown(headless, True) == {}


@pytest.mark.parametrize(("name", "params"), [("resnet20_cifar", 272_474), ("resnet110_cifar", 1_730_714)])
def test_projections_have_the_parameters_that_padding_with_zeros_has_not(name, params):
    assert count(variables_of(create_model(name, shortcut="B"), (32, 32, 3))) == params


def test_wide_resnet_on_a_hundred_classes():
    assert count(variables_of(create_model("wide_resnet28_10", 100), (32, 32, 3))) == 36_536_884


@pytest.mark.parametrize(("naive", "params", "channels"), [(False, 163_696, 256), (True, 387_296, 416)])
def test_inception_3a_with_and_without_reductions(naive, params, channels):
    unit = create_model("googlenet", modules={"3a": INCEPTION["3a"]}, naive=naive, aux_heads=False)
    summary = summarize(unit, (28 * 8, 28 * 8, 3))
    rows = [row for row in summary.rows if row.name.startswith("inception3a")]
    assert sum(row.params for row in rows) == params
    assert summary.rows[-1].params == 1000 * (channels + 1)
    assert {row.output_shape[1:3] for row in rows if row.kind != MaxPool.__name__} == {(28, 28)}


def test_lenet5_of_1998_has_the_papers_connections():
    # Section II-B counts a connection for every use of a coefficient, and a unit of C5 or F6 sees its bias, too.
    model = create_model("lenet5_1998")
    params = {name: sum(leaf.size for leaf in own.values()) for name, own in params_by_layer(model).items()}
    assert params == {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
    # Subsampling is a sum of 2x2 in a module of its own.
    maps = {row.name.partition("/")[0]: row.output_shape[1:] for row in summarize(model, (28, 28, 1)).rows}
    connections = {name: maps[name][0] * maps[name][1] * params[name] for name in ("C1", "C3", "C5")}
    connections |= {name: int(np.prod(maps[name])) * (2 * 2 + 1) for name in ("S2", "S4")}
    connections |= {"F6": params["F6"], "head": 84 * maps["head"][0]}
    assert (connections["C1"], connections["S2"], connections["C3"], connections["S4"]) == (
        122_304,
        5_880,
        151_600,
        2_000,
    )
    assert sum(connections.values()) == 340_908


def params_by_layer(model: nn.Module) -> Any:
    return variables_of(model, model.image_shape)["params"]
