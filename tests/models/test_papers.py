"""Numbers of single models in their papers, beyond those of the table of all models."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_of_models import KEYS, STATE, TABLE, count, image_batch, small, variables_of

from jaxcnn.analysis import summarize
from jaxcnn.layers import MaxPool
from jaxcnn.models import create_model
from jaxcnn.models.googlenet import INCEPTION


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
def test_projection_shortcuts_have_more_parameters_than_zero_padding(name, params):
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
    # Section II-B counts a connection for each use of a coefficient, including the biases of C5 and F6.
    model = create_model("lenet5_1998")
    params = {name: sum(leaf.size for leaf in own.values()) for name, own in params_by_layer(model).items()}
    assert params == {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
    # Subsampling sums 2x2 values in a submodule.
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
