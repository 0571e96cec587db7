"""The training step of every model, lowered for GPUs and TPUs: the operations that the model states, and no others.

Lowering needs no compiler of these platforms. The models have their own depth and width, and images as small as they
take.
"""

import re
from collections import Counter

import jax
import pytest
from table_of_models import TABLE

from benchmarks.compile_families.families import FAMILIES
from jaxcnn import models
from jaxcnn.aot import Images
from jaxcnn.aot.program import lower, plan_of
from jaxcnn.train import Config

LARGE = 200
"""Sides of images from which a model is one for ImageNet."""

FOR_CPUS = ("optimization_barrier", "custom_call", "jaxcnn")
"""Barriers between blocks and in front of sums shorten the compilation for CPUs; native kernels are custom calls."""

TOGETHER = re.compile(r"optimization_barrier %\w+(?:#\d+)?, %\w+(?:#\d+)? : ")
"""What GPUs compute together: the two gradients of a convolution, and what the image's gradient is computed from."""


def families():
    """Return the names of the models of each paper, those for ImageNet apart, from the fewest to the most parameters.

    Of models with equally many, that with the last name comes first: resnet20_cifar before plain20_cifar.
    """
    found = {}
    for name in sorted(TABLE, reverse=True):
        is_large = models.create_model(name).image_shape[0] > LARGE
        found.setdefault((models.paper(name), is_large), []).append(name)
    return [sorted(names, key=lambda name: TABLE[name].params) for names in found.values()]


QUICK = {"lenet5_1998", "vgg11", "alexnet_two_tower", "resnet18", "resnet20_cifar", "preact_resnet18"}
"""Smallest models of their families that lower in a few seconds."""


def cases():
    sample = {names[0] for names in families()}
    for name in models.list_models():
        if name in QUICK:
            yield name
        elif name in sample:
            yield pytest.param(name, marks=pytest.mark.slow)
        else:
            yield pytest.param(name, marks=(pytest.mark.slow, pytest.mark.exhaustive))


def operations(text):
    """Return how often each operation of a StableHLO program runs, with functions as often as they are called."""
    bodies = dict(re.findall(r"^  func\.func (?:public |private )?@(\w+)\((.*?)^  \}", text, re.DOTALL | re.MULTILINE))
    counts = {}

    def count(name):
        if name not in counts:
            counts[name] = Counter(re.findall(r"stablehlo\.(\w+)", bodies[name]))
            for called in re.findall(r"call @(\w+)\(", bodies[name]):
                counts[name] += count(called)
        return counts[name]

    return count("main")


def test_the_models_that_are_compiled_are_the_smallest_and_the_largest_of_their_families():
    ends = [tuple(dict.fromkeys((names[0], names[-1]))) for names in families()]
    assert set(FAMILIES.values()) <= set(ends)


@pytest.mark.parametrize("name", list(cases()))
def test_an_accelerator_runs_the_operations_that_the_model_states(name):
    config = Config(model=name, dtype="bfloat16", batch_size=4, image_size=max(8, TABLE[name].least[1]))
    plan = plan_of(config, Images.of_model(config), jax.devices()[:2])
    leaves = jax.tree_util.tree_leaves_with_path(plan.template.params)
    kernels = Counter(leaf.ndim for path, leaf in leaves if path[-1].key == "kernel")
    for platform in ("cuda", "tpu"):
        text = lower(plan, (platform,)).as_text()
        assert [form for form in FOR_CPUS if form in TOGETHER.sub("", text)] == []
        found = operations(text)
        # Each layer has an output and two gradients. Images have no gradient. LeNet-5's sparse kernel has three axes.
        convolutions = kernels[3] + kernels[4]
        assert (found["convolution"], found["dot_general"]) == (3 * convolutions - 1, 3 * kernels[2])
