"""Features of any module, without a change to the model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import Dropout
from jaxcnn.models import create_model, features

key = jax.random.key(0)


def shapes(name: str, size: tuple[int, int, int], at: Any, **fields: Any) -> Any:
    """Shapes of the features of two images."""
    model, x = create_model(name, **fields), jax.ShapeDtypeStruct((2, *size), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), x)
    return jax.tree.map(lambda y: y.shape, jax.eval_shape(lambda v, x: features(model, v, x, at), variables, x))


@pytest.mark.parametrize(
    ("name", "at", "shape"),
    [
        ("lenet5", None, (2, 84)),
        ("lenet5", "C3", (2, 10, 10, 16)),
        ("lenet5_1998", None, (2, 84)),
        ("lenet5_1998", "S4", (2, 5, 5, 16)),
        ("alexnet", None, (2, 4096)),
        ("alexnet", "conv5", (2, 13, 13, 256)),
        ("vgg16", None, (2, 4096)),
        ("vgg16", "conv5_3", (2, 14, 14, 512)),
        ("googlenet", None, (2, 1024)),
        ("googlenet", "inception3a", (2, 28, 28, 256)),
        ("googlenet_naive", "inception3a", (2, 28, 28, 416)),
        ("resnet50", None, (2, 2048)),
        ("resnet50", "stage3_block6", (2, 14, 14, 1024)),
        ("resnet50", "stage3_block6/conv2", (2, 14, 14, 256)),
        ("preact_resnet18", "last_norm", (2, 7, 7, 512)),
        ("wide_resnet28_10", None, (2, 640)),
        ("densenet121", None, (2, 1024)),
        ("densenet121", "transition1", (2, 28, 28, 128)),
    ],
)
def test_features_have_the_shapes_of_the_papers_tables(name, at, shape):
    assert shapes(name, create_model(name).image_shape, at) == shape


def test_several_taps_are_a_dict():
    taps = ["stage1_block1", "stage3_block3/norm2"]
    assert shapes("resnet20_cifar", (32, 32, 3), taps) == {taps[0]: (2, 32, 32, 16), taps[1]: (2, 8, 8, 64)}


def test_logits_are_what_the_head_makes_of_the_features():
    model, x = create_model("lenet5"), jax.random.normal(key, (2, 28, 28, 1))
    variables = model.init(key, x, train=False)
    head = variables["params"]["head"]
    logits = model.apply(variables, x, train=False)
    np.testing.assert_allclose(features(model, variables, x) @ head["kernel"] + head["bias"], logits, rtol=1e-5)
    np.testing.assert_array_equal(features(model, variables, x, at="head"), logits)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = Dropout(0.5, name="drop")(x, train=train)
        return nn.Dense(3, name="last")(x)


def test_training_takes_the_batchs_statistics_and_leaves_variables_alone():
    x = jax.random.normal(key, (8, 4)) + 3
    variables = Net().init(key, x, train=False)
    normed = features(Net(), variables, x, at="norm", train=True, rngs={"dropout": key})
    np.testing.assert_allclose(normed.mean(0), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(features(Net(), variables, x, at="norm"), x, rtol=1e-4)
    dropped = features(Net(), variables, x, at="drop", train=True, rngs={"dropout": key})
    assert 0 < (dropped == 0).mean() < 1


def test_under_jit_nothing_behind_the_tap_is_computed():
    model, x = create_model("vgg11"), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), x)
    lowered = jax.jit(lambda v, x: features(model, v, x, at="conv1_1")).lower(variables, x)
    assert lowered.compile().cost_analysis()["flops"] < 3 * 2 * 32 * 32 * 27 * 64


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("stage3_blok3", "did you mean 'stage3_block3'?"),
        ("stage3_block3/cnv2", "did you mean 'stage3_block3/conv2'?"),
        (["stem", "haed"], "did you mean 'head'?"),
        ("xyzzy", "known: GlobalAvgPool_0, head, stage1_block1"),
    ],
)
def test_an_unknown_tap_names_the_nearest(at, says):
    with pytest.raises(UsageError, match="unknown module path ") as error:
        shapes("resnet20_cifar", (32, 32, 3), at)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_a_head_is_told_to_say_where():
    x = jnp.ones((1, 4))
    with pytest.raises(UsageError, match=r"Net has no module 'head' .* Pass the path of another module as `at`"):
        features(Net(), Net().init(key, x, train=False), x)
