"""Vanilla gradient descent is stable but slow, stochastic descent fast but noisy; mini-batches combine both.

**Question.** Should a step use the gradient of the whole training set (vanilla, or full-batch), of one example
(stochastic), or of a mini-batch?

**Varied.** The batch size, for LeNet-5 on a small training set. The learning rate is chosen from three values, half an
order of magnitude apart: the one with the lowest training loss of one network after a quarter of the steps.

**Expected.** Per step, vanilla descent makes the most progress; per example, stochastic descent; per second,
mini-batches, because their examples are computed in parallel and their gradient is accurate enough. Paths of descent on
a slice of the loss show the noise.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.landscape import survey
from experiments.plots import curve, descent, figure, points
from experiments.training import images_per_second, load_images, train, tune
from jaxcnn import create_model

NAMES = ("stochastic", "mini-batch", "vanilla")
RATES = ((0.003, 0.01, 0.03), (0.03, 0.1, 0.3), (0.1, 0.3, 1.0))


def configs(budget):
    examples = pick(budget, tiny=128, small=2000, full=10_000)
    data = {
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
        "examples": examples,
        "shrink": 2,
    }
    batch_sizes = (1, 64, examples)
    steps = pick(budget, tiny=(4, 4, 4), small=(4000, 1000, 100), full=(9000, 3000, 300))
    tried = 1 if budget == "tiny" else 3
    descents = [
        {"batch_size": batch_sizes[i], "steps": steps[i], "rates": RATES[i][:tried], **data} for i in range(len(NAMES))
    ]
    landscape = {
        "batch_sizes": sorted({1, 8, 64, examples // 4, examples}),
        "steps": min(200, steps[1]),
        "grid": pick(budget, tiny=5, small=21, full=41),
        **data,
    }
    return [*descents, landscape]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"], tested=500)
    model = create_model("lenet5")
    if "rates" in config:
        return measure_descent(config, seeds, model, images)
    return measure_landscape(config, seeds, model, images)


def measure_descent(config, seeds, model, images):
    steps, batch_size = config["steps"], config["batch_size"]
    best = tune(config["rates"], model, images, steps=steps // 4, batch_size=batch_size, seed=0)
    test_steps = [0, *np.unique(np.geomspace(1, steps, 25).astype(int))]
    done = train(model, images, optax.sgd(best), steps=steps, batch_size=batch_size, seeds=seeds, tests=test_steps)
    return {"rate": best, "updates": done.test_steps, "loss": done.tests["train_loss"]}


def measure_landscape(config, seeds, model, images):
    batch_sizes = config["batch_sizes"]
    done = train(model, images, optax.sgd(0.1), steps=config["steps"], batch_size=64, seeds=seeds)
    around = survey(
        model,
        [state.params for state in done.states],
        images,
        sizes=batch_sizes[:-1],
        batch_sizes=(1, 64, batch_sizes[-1]),
        learning_rate=0.03,
        steps=40,
        radius=1.0,
        grid=config["grid"],
    )
    return {**around, "images_per_second": images_per_second(model, images, batch_sizes)}


def progress(measurements):
    """Return the cost of each descent at each of its tests in three units, `{unit: [3][T]}`."""
    *descents, landscape = measurements
    fastest = landscape["images_per_second"].max(axis=0)
    speed = dict(zip(landscape.config["batch_sizes"], fastest, strict=True))
    costs = {"seconds": [], "steps": [], "examples seen": []}
    for m in descents:
        steps, batch_size = m["updates"], m.config["batch_size"]
        costs["seconds"].append(steps * batch_size / speed[batch_size])
        costs["steps"].append(steps)
        costs["examples seen"].append(steps * batch_size)
    return costs


def losses_at_equal_cost(measurements):
    """Return for each unit the largest cost that all descents reach, and their losses there, `(cost, [3][S])`."""
    *descents, _ = measurements
    equal = {}
    for unit, costs in progress(measurements).items():
        end = min(cost[-1] for cost in costs)
        losses = [[np.interp(end, cost, loss) for loss in m["loss"]] for cost, m in zip(costs, descents, strict=True)]
        equal[unit] = end, losses
    return equal


def draw_descents(measurements):
    *descents, _ = measurements
    seconds, losses = losses_at_equal_cost(measurements)["seconds"]
    by_name = ", ".join(f"{name} {np.mean(loss):.2f}" for name, loss in zip(NAMES, losses, strict=True))
    made, axes = figure(f"Training loss after {seconds:.2g} seconds: {by_name}", 3, sharey=True)
    for axis, (unit, costs) in zip(axes, progress(measurements).items(), strict=True):
        for cost, m, name in zip(costs, descents, NAMES, strict=True):
            curve(axis, cost[1:], m["loss"][:, 1:], f"{name} ({m.config['batch_size']})")
        axis.set(xscale="log", xlabel=unit, ylabel="training loss (nats)")
    axes[0].legend(title="descent (batch size)")
    return made


def draw_landscape(landscape):
    error, speed = landscape["relative_error_of_gradient"], landscape["images_per_second"].max(axis=0)
    title = f"The gradient of one example has an error of {error[:, 0].mean():.1f} times the full gradient's norm"
    made, (left, middle, right) = figure(title, 3)
    descent(left, landscape["axis"], landscape["surface"], landscape["paths"], NAMES)
    batch_sizes = landscape.config["batch_sizes"]
    points(middle, batch_sizes[: error.shape[1]], error.T)
    middle.set(xscale="log", yscale="log", xlabel="batch size", ylabel="relative error of the gradient")
    points(right, batch_sizes, speed[:, None])
    right.set(xscale="log", yscale="log", xlabel="batch size", ylabel="images per second")
    return made


def figures(measurements):
    return {"gradient_descent": draw_descents(measurements), "gradient": draw_landscape(measurements[-1])}


def conclusion(measurements):
    expected_best = {"seconds": 1, "steps": 2, "examples seen": 0}
    parts, sentences = [], []
    for unit, (end, losses) in losses_at_equal_cost(measurements).items():
        best = expected_best[unit]
        parts.append(all(is_above(loss, losses[best]) for i, loss in enumerate(losses) if i != best))
        sentences.append(f"after {end:,.4g} {unit}: {' / '.join(format_mean(loss, '', 2) for loss in losses)}")
    speed = measurements[-1]["images_per_second"].max(axis=0)
    return conclude(
        parts,
        f"Training loss of {' / '.join(NAMES)} descent {'; '.join(sentences)}. Throughput: {speed[0]:,.0f} images per "
        f"second at batch size 1, {speed[-1]:,.0f} with the full batch.",
    )


EXPERIMENT = Experiment("C2", configs, measure, figures, conclusion)
