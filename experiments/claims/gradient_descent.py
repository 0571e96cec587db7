"""Vanilla gradient descent is steady but slow, stochastic cheap but noisy; mini-batches take the best of both.

**Question.** Is the gradient to be that of the whole training set (vanilla), of one example, or of a mini-batch?

**Varied.** The examples an update, for LeNet-5 on few images. The learning rate is that of three, half an order of
magnitude apart, with which one network has the lowest training loss after a quarter of the updates.

**Expected.** By update vanilla descent gets furthest, by example seen stochastic descent; by second mini-batches, whose
images are computed in parallel and whose gradient is near enough. Paths on a slice of the loss show the noise.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.landscape import survey
from experiments.plots import curve, descent, figure, points
from experiments.training import images_per_second, load_images, train, tune
from jaxcnn import create_model

NAMES, RATES = ("stochastic", "mini-batch", "vanilla"), ((0.003, 0.01, 0.03), (0.03, 0.1, 0.3), (0.1, 0.3, 1.0))


def configs(budget):
    tiny, small = ("fashion_mnist_mini", 128, 1, 5, 4, 4, 4), ("fashion_mnist_mini", 2000, 3, 21, 4000, 1000, 100)
    data, n, few, grid, *steps = pick(budget, tiny=tiny, small=small, full=("cifar10", 10_000, 3, 41, 9000, 3000, 300))
    varied = [{"batch_size": b, "steps": s, "rates": r[:few]} for b, s, r in zip((1, 64, n), steps, RATES, strict=True)]
    varied += [{"batch_sizes": sorted({1, 8, 64, n // 4, n}), "steps": min(200, steps[1]), "grid": grid}]
    return [{**v, "dataset": data, "examples": n, "shrink": 2} for v in varied]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"], tested=500)
    model, steps = create_model("lenet5"), config["steps"]
    if "rates" in config:
        size, at = config["batch_size"], [0, *np.unique(np.geomspace(1, steps, 25).astype(int))]
        best = tune(config["rates"], model, images, steps=steps // 4, batch_size=size, seed=0)
        done = train(model, images, optax.sgd(best), steps=steps, batch_size=size, seeds=seeds, tests=at)
        return {"rate": best, "updates": done.test_steps, "loss": done.tests["train_loss"]}
    sizes, paths = config["batch_sizes"], {"learning_rate": 0.03, "steps": 40, "radius": 1.0, "grid": config["grid"]}
    networks = [s.params for s in train(model, images, optax.sgd(0.1), steps=steps, batch_size=64, seeds=seeds).states]
    around = survey(model, networks, images, sizes=sizes[:-1], batch_sizes=(1, 64, sizes[-1]), **paths)
    return {**around, "images_per_second": images_per_second(model, images, sizes)}


def progress(records):
    """Seconds, updates and examples seen at each test of each descent, `[3][T]`; the loss there is `[S, T]`."""
    speeds = dict(zip(records[-1].config["batch_sizes"], records[-1]["images_per_second"].max(axis=0), strict=True))
    sized = [(record["updates"], record.config["batch_size"]) for record in records[:-1]]
    return [[u * n / speeds[n] for u, n in sized], [u for u, _ in sized], [u * n for u, n in sized]]


def figures(records):
    cost, (curves, axes) = records[-1], figure(finding(records).text.partition(";")[0], 3, sharey=True)
    for axis, xs, unit in zip(axes, progress(records), ("seconds", "updates", "examples seen"), strict=True):
        for x, record, name in zip(xs, records[:-1], NAMES, strict=True):
            curve(axis, x[1:], record["loss"][:, 1:], f"{name} ({record.config['batch_size']})")
        axis.set(xscale="log", xlabel=unit, ylabel="training loss (nats)")
    axes[0].legend(title="examples an update")
    title = f"One example's gradient errs by {cost['relative_error_of_gradient'][:, 0].mean():.1f} times its length"
    made, (left, *others) = figure(title, 3)
    descent(left, cost["axis"], cost["surface"], cost["paths"], NAMES)
    for axis, name in zip(others, ("relative_error_of_gradient", "images_per_second"), strict=True):
        values = cost[name].max(0, keepdims=True) if name == "images_per_second" else cost[name]
        points(axis, cost.config["batch_sizes"][: values.shape[1]], values.T)
        axis.set(xscale="log", yscale="log", xlabel="examples an update", ylabel=name.replace("_", " "))
    return {"gradient_descent": curves, "gradient": made}


def finding(records):
    text, shown, speed = f"Loss of {' / '.join(NAMES)} descent ", [], records[-1]["images_per_second"].max(axis=0)
    for xs, unit, best in zip(progress(records), ("seconds", "updates", "examples"), (1, 2, 0), strict=True):
        end = min(x[-1] for x in xs)
        losses = [[np.interp(end, x, loss) for loss in r["loss"]] for x, r in zip(xs, records[:-1], strict=True)]
        shown.append(all(is_above(loss, losses[best]) for loss in losses if loss is not losses[best]))
        text += f"after {end:,.4g} {unit}: {' / '.join(spread(loss, '', 2) for loss in losses)}; "
    return judge(shown, f"{text}{speed[0]:.0f} images a second one by one, {speed[-1]:.0f} all at once.")


EXPERIMENT = Experiment("C2", configs, measure, figures, finding)
