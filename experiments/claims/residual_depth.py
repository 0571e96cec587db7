"""Skip connections let much deeper networks train.

**Question.** Does a deeper network fit its training images better? It could: layers that do nothing would make it the
shallower one. Do skip connections let gradient descent find that?

**Varied.** The depth of networks of 3x3 convolutions with batch normalisation, plain and with a skip connection around
each two layers (option A, which adds no parameters), as in figure 6 of He et al. (*Deep Residual Learning*, 2015).

**Expected.** Of the plain networks the deeper is worse, and in its training error already, so that this is no
overfitting. Of the residual ones the deeper is no worse.
"""

from experiments.experiment import Experiment, Finding, is_above, pick, spread
from experiments.plots import bars, curve, figure
from experiments.training import load_images, momentum_sgd, train
from jaxcnn import create_model


def configs(budget):
    depths = pick(budget, tiny=(8,), small=(20, 56), full=(20, 32, 56, 110))
    settings = {
        "width": pick(budget, tiny=2, small=8, full=16),
        "steps": pick(budget, tiny=3, small=300, full=32_000),
        "shrink": pick(budget, tiny=4, small=2, full=1),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    return [{"kind": kind, "depth": depth, **settings} for kind in ("plain", "residual") for depth in depths]


def measure(config, seeds):
    images, steps = load_images(config["dataset"], shrink=config["shrink"]), config["steps"]
    model = create_model(
        {"plain": "plain20_cifar", "residual": "resnet20_cifar"}[config["kind"]],
        images.num_classes,
        stage_sizes=((config["depth"] - 2) // 6,) * 3,
        width=config["width"],
    )
    optimizer = momentum_sgd(0.1, steps)
    training = train(model, images, optimizer, steps=steps, batch_size=64, seeds=seeds, tests=8)
    last = training.accuracy[:, -max(1, steps // 10) :].mean(axis=1)
    return training.values() | {"training_error": 1 - last, "test_error": 1 - training.test_accuracy}


def name(record):
    return f"{record.config['kind']}, {record.config['depth']} layers"


def figures(records):
    *_, worst = ranked = sorted(records, key=lambda r: r["training_error"].mean())
    made, axes = figure(f"Training error is lowest for {name(ranked[0])}, and highest for {name(worst)}", 3, width=11.5)
    for index, record in enumerate(records):
        label, side = f"{record.config['depth']} layers", axes[index * 2 // len(records)]
        color = f"C{index % (len(records) // 2)}"
        curve(
            side, record["steps"][::5], 100 * (1 - record["batch_accuracy"])[:, ::5], f"{label}, training", color=color
        )
        curve(side, record["test_steps"], 100 * (1 - record["test_accuracy"]), f"{label}, test", ls="--", color=color)
        side.set(title=f"{record.config['kind']} networks", xlabel="update", ylabel="error (%)", ylim=(0, 95))
        side.legend(fontsize=8)
    colors = [f"C{3 - index * 2 // len(records)}" for index in range(len(records))]
    labels = [name(record).replace(", ", "\n") for record in records]
    bars(axes[2], labels, [100 * record["training_error"] for record in records], color=colors)
    axes[2].set(title="last tenth of training", ylabel="training error (%)")
    return {"residual_depth": made}


def finding(records):
    error, middle = [r["training_error"] for r in records], len(records) // 2
    plain, residual = error[:middle], error[middle:]
    degrades, repaired = is_above(plain[-1], plain[0]), is_above(plain[-1], residual[-1])
    no_worse = not is_above(residual[-1], residual[0])
    texts = [f"{spread(r['training_error'])} and {spread(r['test_error'])} ({name(r)})" for r in records]
    return Finding(
        "yes" if degrades and repaired and no_worse else "partly" if repaired else "no",
        f"Error on training and on test images at the end: {'; '.join(texts)}.",
    )


EXPERIMENT = Experiment("C10", configs, measure, figures, finding)
