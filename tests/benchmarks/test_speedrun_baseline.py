"""The baseline in PyTorch is the recipe: the same steps from the same weights, on the same images."""

import dataclasses
import importlib.util
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import speedrun
from jaxcnn.data import from_arrays
from jaxcnn.train import Config, make_eval_step
from jaxcnn.train.runtime.plan import make_plan

torch = pytest.importorskip("torch")

WIDTHS = (8, 12, 16)
STEPS, BATCH = 12, 16


@pytest.fixture(scope="module")
def baseline():
    spec = importlib.util.spec_from_file_location("speedrun_torch", speedrun.TORCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_ours(state: dict) -> dict:
    """Return a state of PyTorch's network as variables of ours."""
    params, stats = {}, {}
    for name, x in state.items():
        *path, field = name.replace("blocks.", "block").split(".")
        array = np.array(x, np.float32)
        if path and path[0].startswith("block"):
            path[0] = f"block{int(path[0].removeprefix('block')) + 1}"
        if "norm" in name and field in ("weight", "num_batches_tracked"):
            continue
        target = stats if field.startswith("running") else params
        for part in path:
            target = target.setdefault(part, {})
        kind = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}.get(field, field)
        target[kind] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return {"params": params, "batch_stats": stats}


def largest_difference(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
def test_steps_and_logits_are_those_of_the_baseline(baseline, tmp_path):
    arrays = speedrun.synthetic(STEPS * BATCH)
    case = {**speedrun.CASE, "widths": WIDTHS, "batch_size": BATCH, "total_steps": STEPS, "compile": False}
    theirs = baseline.Run({**case, "folder": str(tmp_path)}, arrays)
    start = as_ours(theirs.model.state_dict())
    seen = []

    def record(images, generator, pixels):
        seen.append(np.array(images.permute(0, 2, 3, 1)))
        return images

    baseline.shifted, original = record, baseline.shifted
    order = torch.randperm(STEPS * BATCH, generator=torch.Generator().manual_seed(1))
    theirs.train_epoch()
    baseline.shifted = original
    assert theirs.step == STEPS

    recipe: Config = runpy.run_path(str(speedrun.RECIPE))["config"]
    config = dataclasses.replace(
        recipe, dataset=Config.dataset, epochs=Config.epochs, steps=STEPS, batch_size=BATCH, freeze_after=(), augment=()
    )
    widths = f"widths={WIDTHS}".replace(" ", "")
    config = dataclasses.replace(config, model_options=(widths,), mean=baseline.MEAN, std=baseline.STD)
    data = from_arrays(train=(arrays["x_train"], arrays["y_train"]), test=(arrays["x_test"], arrays["y_test"]))
    plan = make_plan(config, data=data, devices=jax.devices()[:1])
    plan = dataclasses.replace(plan, task=dataclasses.replace(plan.task, normalize=lambda images: images))
    state = plan.initial_state()
    # Their kernel has its eigenvectors in another order and sign, and the same span.
    kernels = [np.asarray(tree["params"]["whiten"]["kernel"]).reshape(12, 24) for tree in (start, vars(state))]
    np.testing.assert_allclose(kernels[0] @ kernels[0].T, kernels[1] @ kernels[1].T, rtol=2e-2, atol=1e-2)
    state = state.replace(params=start["params"], batch_stats=start["batch_stats"], ema=start)
    step = jax.jit(plan.train_step())
    for number, images in enumerate(seen):
        labels = arrays["y_train"][np.array(order)[number * BATCH : (number + 1) * BATCH]]
        state, _ = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels)})
    after = as_ours(theirs.model.state_dict())
    moved = largest_difference(start, after)
    assert moved > 0.1
    assert largest_difference(after, jax.device_get(state.ema)) < 2e-3 * moved

    # The test, with six views.
    images, labels = plan.preprocessing.normalize(jnp.asarray(arrays["x_test"])), arrays["y_test"]
    padded = ({"image": images, "label": labels}, np.ones(len(labels), bool))
    state = state.replace(ema=after)
    ours = jax.jit(make_eval_step(plan.model, plan.task))(state, padded)["accuracy"] / len(labels)
    assert theirs.test(arrays) == pytest.approx(float(ours), abs=1.5 / len(labels))
