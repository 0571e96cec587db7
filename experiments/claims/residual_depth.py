"""Skip connections make much deeper networks trainable.

**Question.** Does a deeper network fit its training images better? In principle it can: with layers that compute the
identity it equals the shallower network. Do skip connections help gradient descent to find such a solution?

**Varied.** The depth of networks of 3x3 convolutions with batch normalization, plain or with a skip connection around
every two layers (option A, which adds no parameters), as in figure 6 of He et al. (*Deep Residual Learning*, 2015).

**Expected.** Among the plain networks the deeper one is worse. Its training error is higher as well, so this is not
overfitting. Among the residual networks the deeper one is not worse.
"""

from experiments.experiment import Conclusion, Experiment, format_mean, is_above, pick
from experiments.plots import bars, curve, figure
from experiments.training import load_images, momentum_sgd, train
from jaxcnn import create_model

MODELS = {"plain": "plain20_cifar", "residual": "resnet20_cifar"}


def configs(budget):
    depths = pick(budget, tiny=(8,), small=(20, 56), full=(20, 32, 56, 110))
    settings = {
        "width": pick(budget, tiny=2, small=8, full=16),
        "steps": pick(budget, tiny=3, small=300, full=32_000),
        "shrink": pick(budget, tiny=4, small=2, full=1),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    return [{"kind": kind, "depth": depth, **settings} for kind in MODELS for depth in depths]


def measure(config, seeds):
    images, steps = load_images(config["dataset"], shrink=config["shrink"]), config["steps"]
    blocks_per_stage = (config["depth"] - 2) // 6
    model = create_model(
        MODELS[config["kind"]],
        images.num_classes,
        stage_sizes=(blocks_per_stage,) * 3,
        width=config["width"],
    )
    optimizer = momentum_sgd(0.1, steps)
    done = train(model, images, optimizer, steps=steps, batch_size=64, seeds=seeds, tests=8)
    last_tenth = done.accuracy[:, -max(1, steps // 10) :].mean(axis=1)
    return done.values() | {"training_error": 1 - last_tenth, "test_error": 1 - done.test_accuracy}


def describe(measurement):
    return f"{measurement.config['kind']}, {measurement.config['depth']} layers"


def by_kind(measurements):
    """Return the plain and the residual networks, each ordered by depth."""
    return [[m for m in measurements if m.config["kind"] == kind] for kind in MODELS]


def figures(measurements):
    best = min(measurements, key=lambda m: m["training_error"].mean())
    worst = max(measurements, key=lambda m: m["training_error"].mean())
    title = f"Training error is lowest for {describe(best)}, and highest for {describe(worst)}"
    made, (*axes, last) = figure(title, 3, width=11.5)
    for axis, of_kind, kind in zip(axes, by_kind(measurements), MODELS, strict=True):
        for index, m in enumerate(of_kind):
            label, color = f"{m.config['depth']} layers", f"C{index}"
            training_error, test_error = 100 * (1 - m["batch_accuracy"]), 100 * (1 - m["test_accuracy"])
            curve(axis, m["steps"][::5], training_error[:, ::5], f"{label}, training", color=color)
            curve(axis, m["test_steps"], test_error, f"{label}, test", ls="--", color=color)
        axis.set(title=f"{kind} networks", xlabel="step", ylabel="error (%)", ylim=(0, 95))
        axis.legend(fontsize=8)
    labels = [describe(m).replace(", ", "\n") for m in measurements]
    colors = ["C3" if m.config["kind"] == "plain" else "C2" for m in measurements]
    bars(last, labels, [100 * m["training_error"] for m in measurements], color=colors)
    last.set(title="last tenth of training", ylabel="training error (%)")
    return {"residual_depth": made}


def conclusion(measurements):
    plain, residual = ([m["training_error"] for m in of_kind] for of_kind in by_kind(measurements))
    plain_degrades = is_above(plain[-1], plain[0])
    residual_is_better = is_above(plain[-1], residual[-1])
    residual_degrades = is_above(residual[-1], residual[0])
    if plain_degrades and residual_is_better and not residual_degrades:
        confirmed = "yes"
    else:
        confirmed = "partly" if residual_is_better else "no"
    errors = [
        f"{format_mean(m['training_error'])} and {format_mean(m['test_error'])} ({describe(m)})" for m in measurements
    ]
    return Conclusion(confirmed, f"Training and test error after training: {'; '.join(errors)}.")


EXPERIMENT = Experiment("C10", configs, measure, figures, conclusion)
