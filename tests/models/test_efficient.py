"""Properties of single models in `jaxcnn.models.efficient`, and of adaptive pooling in VGG and AlexNet."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from table_of_models import KEYS, STATE, TABLE, count, image_batch, small, variables_of

from jaxcnn.analysis import summarize
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.models.efficient.regnet import design

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.mark.parametrize(
    ("name", "stage_sizes", "widths"),
    [
        # The paper's figures of the best RegNetX and RegNetY.
        ("regnet_x_400mf", (1, 2, 7, 12), (32, 64, 160, 400)),
        ("regnet_x_3_2gf", (2, 6, 15, 2), (96, 192, 432, 1008)),
        ("regnet_x_32gf", (2, 7, 13, 1), (336, 672, 1344, 2520)),
        ("regnet_y_800mf", (1, 3, 8, 2), (64, 144, 320, 784)),
        ("regnet_y_1_6gf", (2, 6, 17, 2), (48, 120, 336, 888)),
        ("regnet_y_32gf", (2, 5, 12, 1), (232, 696, 1392, 3712)),
    ],
)
def test_regnets_rule_gives_the_papers_stages(name, stage_sizes, widths):
    model = create_model(name)
    assert (model.stage_sizes, model.widths) == (stage_sizes, widths)


def test_regnets_widths_are_multiples_of_the_group_width():
    assert design(4, 24, 0.0, 2.0, 16) == {"stage_sizes": (4,), "widths": (32,), "group_width": 16}
    # Narrower stages than a group have one group.
    assert design(4, 8, 0.0, 2.0, 16)["widths"] == (8,)


def test_the_auxiliary_head_of_inception_v3_exists_in_training_only():
    model = create_model("inception_v3")
    trained = variables_of(model, model.image_shape, train=True)
    assert count(trained) == 27_161_264
    x = jax.ShapeDtypeStruct((2, *model.image_shape), jnp.float32)

    def sown(variables: Any, train: bool) -> Any:
        apply = partial(model.apply, train=train, rngs=KEYS, mutable=STATE)
        return jax.tree.map(jnp.shape, jax.eval_shape(apply, variables, x)[1].get("aux_logits", {}))

    assert sown(trained, True) == {"aux1": {"logits": (2, 1000)}}
    assert sown(trained, False) == {}
    headless = {**trained, "params": {name: leaf for name, leaf in trained["params"].items() if name != "aux1"}}
    assert sown(headless, True) == {}


@pytest.mark.parametrize("patch_size", [1, 2])
def test_small_patches_leave_more_positions(patch_size):
    model = create_model("convnext_tiny", 10, patch_size=patch_size)
    rows = {row.name: row for row in summarize(model, (32, 32, 3)).rows}
    assert rows["stem_conv"].output_shape[1] == 32 // patch_size
    assert rows["stage4_block3/conv"].output_shape[1] == 4 // patch_size
    with pytest.raises(UsageError, match="patch_size must be at least 1, got 0"):
        variables_of(create_model("convnext_tiny", patch_size=0), (32, 32, 3))


def test_convnext_drops_no_path_in_its_first_block_and_most_in_its_last():
    model, x = small("convnext_tiny"), image_batch(small("convnext_tiny"), 16, batch=64)
    variables = jax.jit(partial(model.init, train=False))(KEYS, x)
    train = jax.jit(lambda variables, x: model.apply(variables, x, train=True, rngs=KEYS, capture_intermediates=True))
    _, state = train(variables, x)
    dropped = {}
    for block, outputs in state["intermediates"].items():
        if "block" in block:
            (y,) = outputs["StochasticDepth_0"]["__call__"] if "StochasticDepth_0" in outputs else (jnp.ones_like(x),)
            dropped[block] = float((jnp.abs(y).max((1, 2, 3)) == 0).mean())
    assert dropped["stage1_block1"] == 0
    assert 0.25 < dropped["stage2_block1"] < 0.75


@pytest.mark.parametrize(("name", "size"), [("vgg11", 8), ("vgg11_bn", 8), ("alexnet", 67)])
def test_adaptive_pooling_makes_weights_independent_of_the_image_size(name, size):
    plain, adaptive = small(name), small(name, adaptive=True)
    variables = variables_of(adaptive, (size, size, 3))
    positions = 36 if name == "alexnet" else 49
    assert variables["params"]["fc6"]["kernel"].shape[0] == 8 * positions
    for height, width in ((size, size + 30), (2 * size, size + 1)):
        x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        assert jax.eval_shape(partial(adaptive.apply, train=False), variables, x).shape == (1, 10)
    own = variables_of(plain, (size, size, 3))
    x = jax.ShapeDtypeStruct((1, 2 * size, 2 * size, 3), jnp.float32)
    with pytest.raises(
        UsageError, match=r"^fc6 has weights for \d+ positions, but images of this size give \d+x\d+ positions\. "
    ):
        jax.eval_shape(partial(plain.apply, train=False), own, x)


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_adaptive_pooling_changes_nothing_at_the_papers_size(name):
    sizes = {
        adaptive: variables_of(create_model(name, adaptive=adaptive, hidden=8), (224, 224, 3))
        for adaptive in (False, True)
    }
    assert jax.tree.map(jnp.shape, sizes[False]) == jax.tree.map(jnp.shape, sizes[True])
    program = {
        adaptive: str(
            jax.make_jaxpr(partial(create_model(name, adaptive=adaptive, hidden=8).apply, train=False))(
                sizes[adaptive], jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
            )
        )
        for adaptive in (False, True)
    }
    assert program[False] == program[True]


def test_the_logits_of_squeezenet_are_means_of_maps():
    model = small("squeezenet1_1")
    rows = summarize(model, (32, 32, 3)).rows
    (head,) = (row for row in rows if row.name == "head")
    assert head.output_shape[1:3] > (1, 1)
    assert head.output_shape[3] == rows[-1].output_shape[-1] == 10
    assert TABLE["squeezenet1_1"].modes == "D"
