"""Our networks answer what torchvision's do with the same weights: see `golden/make.py`, which recorded the answers."""

import importlib.util
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.models import create_model
from jaxcnn.weights import torchvision_names
from jaxcnn.weights.layout import FIELDS, from_torch
from jaxcnn.weights.names import FLATTENED_CHANNELS

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-4  # of the largest logit; torch's own float32 is up to 2e-5 away from its double precision
OURS = {"googlenet": "googlenet_bn", "alexnet_adaptive": "alexnet"}


def load_formula() -> Any:
    spec = importlib.util.spec_from_file_location("golden_formula", FOLDER / "formula.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


formula = load_formula()


def without_dropout(name: str, **fields: Any) -> nn.Module:
    """The model as the recording script has it, every dropout at 0."""
    model = create_model(name, **fields)
    rates = [field for field in ("dropout_rate", "aux_dropout_rate", "drop_path_rate") if hasattr(model, field)]
    return model.clone(**dict.fromkeys(rates, 0.0))


def formula_variables(name: str, model: nn.Module, images: np.ndarray) -> tuple[Any, dict[str, str]]:
    """The model's variables by the formula, and torchvision's names of them by ours."""
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.asarray(images), train=True), jax.random.key(0))
    modules, flattened = torchvision_names(name, model), FLATTENED_CHANNELS.get(name, {})
    values, names = {}, {}
    for path, leaf in flatten_dict(shapes).items():
        module, field = "/".join(path[1:-1]), path[-1]
        names["/".join(path)] = theirs = f"{modules[module]}.{FIELDS[field]}"
        shape = tuple(leaf.shape[axis] for axis in {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim])
        values[path] = from_torch(formula.parameter(theirs, shape), leaf.shape, flattened.get(module))
    return unflatten_dict(values), names


pytestmark = pytest.mark.usefixtures("compile_quickly")


QUICK = ("alexnet", "googlenet", "resnet18", "squeezenet1_1")


def goldens() -> list[Any]:
    """One network of each kind of layer by default; the others repeat these layers and take longer."""
    names = sorted(path.stem for path in FOLDER.glob("*.npz"))
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("theirs", goldens())
def test_answers_are_torchvisions_in_evaluation_and_in_training(theirs):
    golden, name = np.load(FOLDER / f"{theirs}.npz"), OURS.get(theirs, theirs)
    model = without_dropout(name, **({"adaptive": True} if theirs.endswith("_adaptive") else {}))
    images = formula.images(*(int(golden[field]) for field in ("batch", "size", "width") if field in golden))
    variables, names = formula_variables(name, model, images)
    tested: Any = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    trained, updates = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats", "aux_logits"]))(
        variables, images
    )
    answers = {"eval": tested, "train": trained}
    answers |= {f"train_{head}": sown["logits"] for head, sown in updates.get("aux_logits", {}).items()}
    assert set(answers) == {key for key in golden.files if key.startswith(("eval", "train"))}
    for key, answer in answers.items():
        assert np.abs(answer - golden[key]).max() < TOLERANCE * np.abs(golden[key]).max(), key

    statistics = {}
    for path, leaf in flatten_dict(updates.get("batch_stats", {}), sep="/").items():
        statistics[names[f"batch_stats/{path}"]] = np.array([np.asarray(leaf).mean(dtype=np.float64), leaf[0]])
    expected = dict(zip(golden["stat_names"], golden["stats"], strict=True)) if "stats" in golden else {}
    assert set(statistics) == set(expected)
    for key, values in statistics.items():
        np.testing.assert_allclose(values, expected[key], rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)
