"""Pre-activation trains deep residual networks better than the original order.

**Question.** In the original residual block a ReLU stands behind the addition, on the path of the skip connection. Is a
deep network easier to train when normalisation and ReLU move in front of the convolutions, so that this path is clean?

**Varied.** The order (BN-ReLU-conv against conv-BN-ReLU), with the same depth, width and projections (option B), at a
usual learning rate and at one that is large for a network without a warm-up.

**Expected.** Pre-activation learns faster and ends at a better accuracy, the more so where training is hard (He et al.,
*Identity Mappings in Deep Residual Networks*, 2016: 6.61 % against 6.37 % error at 110 layers of CIFAR-10).
"""

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.plots import bars, curve, figure
from experiments.training import load_images, momentum_sgd, train
from jaxcnn import create_model

ORDERS = {"original": "resnet110_cifar", "pre-activation": "preact_resnet110_cifar"}


def configs(budget):
    settings = {
        "depth": pick(budget, tiny=8, small=56, full=110),
        "width": pick(budget, tiny=2, small=4, full=16),
        "steps": pick(budget, tiny=3, small=250, full=32_000),
        "shrink": pick(budget, tiny=4, small=2, full=1),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    rates = pick(budget, tiny=(0.1,), small=(0.1, 0.5), full=(0.1, 0.5))
    return [{"order": order, "learning_rate": rate, **settings} for rate in rates for order in ORDERS]


def measure(config, seeds):
    images, steps = load_images(config["dataset"], shrink=config["shrink"]), config["steps"]
    blocks = ((config["depth"] - 2) // 6,) * 3
    projections = {"shortcut": "B"} if config["order"] == "original" else {}
    shape = {"stage_sizes": blocks, "width": config["width"], **projections}
    model = create_model(ORDERS[config["order"]], images.num_classes, **shape)
    optimizer = momentum_sgd(config["learning_rate"], steps)
    return train(model, images, optimizer, steps=steps, batch_size=64, seeds=seeds, tests=5).values()


def pairs(records):
    """(original, pre-activation) at each learning rate."""
    return list(zip(records[::2], records[1::2], strict=True))


def figures(records):
    found, depth = pairs(records), records[0].config["depth"]
    better = sum(is_above(after["final_test_accuracy"], before["final_test_accuracy"]) for before, after in found)
    title = f"{depth} layers: pre-activation ends better, beyond the spread, at {better} of {len(found)} learning rates"
    made, axes = figure(title, len(found) + 1, width=13)
    for axis, pair in zip(axes, found, strict=False):
        for record in pair:
            curve(axis, record["steps"], record["batch_loss"], record.config["order"])
        axis.set(title=f"learning rate {pair[0].config['learning_rate']:g}", xlabel="update", ylim=(0, 3))
        axis.legend()
    labels = [f"{r.config['order'].partition('-')[0]}\n{r.config['learning_rate']:g}" for r in records]
    bars(axes[-1], labels, [100 * r["final_test_accuracy"] for r in records], color=["C0", "C1"] * len(found))
    axes[-1].set(ylabel="test accuracy (%)", title="after training")
    axes[0].set_ylabel("training loss (nats)")
    return {"preactivation": made}


def finding(records):
    accuracy = [(before["final_test_accuracy"], after["final_test_accuracy"]) for before, after in pairs(records)]
    wins = [is_above(after, before) for before, after in accuracy]
    texts = [
        f"{spread(after)} with pre-activation against {spread(before)} at {record.config['learning_rate']:g}"
        for record, (before, after) in zip(records[::2], accuracy, strict=True)
    ]
    return judge(
        wins,
        f"{records[0].config['depth']} layers, test accuracy by learning rate: {'; '.join(texts)}.",
    )


EXPERIMENT = Experiment("C11", configs, measure, figures, finding)
