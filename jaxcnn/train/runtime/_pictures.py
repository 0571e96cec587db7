"""Pictures of a run: its learning curves, and predictions of test images."""

import io
import math
from pathlib import Path

import jax
import numpy as np

from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Row
from jaxcnn.train.state import TrainState, evaluation_variables
from jaxcnn.train.step import evaluation_logits

COLUMNS = 8
"""Number of test images in a row of `draw_predictions`."""


def epoch_means(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the training rows averaged between tests, and the test rows."""
    train, test, since = [], [], []
    for row in rows:
        if row["split"] == "train":
            since.append(row)
        else:
            test.append(row)
            if since:
                means = {name: sum(r[name] for r in since) / len(since) for name in ("loss", "accuracy")}
                train.append({"epoch": row["epoch"], **means})
            since = []
    return train, test


def draw_curves(rows: list[Row], title: str, path: Path, *, label_smoothing: float = 0.0) -> None:
    """Write a PNG of training and test loss and accuracy by epoch.

    Args:
      rows: as returned by `record.read_rows`.
      title: of the figure.
      path: of the PNG.
      label_smoothing: if positive, the legend says that the training loss is against smoothed labels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train, test = epoch_means(rows)
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for axes, name, label in ((left, "loss", "cross-entropy (nats)"), (right, "accuracy", "accuracy (%)")):
        scale = 100 if name == "accuracy" else 1
        in_training = "training (smoothed labels)" if label_smoothing and name == "loss" else "training"
        for part, legend, style in ((train, in_training, "o-"), (test, "test", "s-")):
            axes.plot([r["epoch"] for r in part], [scale * r[name] for r in part], style, ms=4, label=legend)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    if test:
        best = max(test, key=lambda r: r["accuracy"])
        right.set_title(f"test accuracy {100 * test[-1]['accuracy']:.2f} %, best {100 * best['accuracy']:.2f} %")
        left.set_title(f"test loss {test[-1]['loss']:.3f}" if math.isfinite(test[-1]["loss"]) else "loss")
    figure.suptitle(title)
    figure.savefig(path)


def draw_predictions(plan: Plan, state: TrainState, count: int) -> bytes:
    """Return a PNG of `count` test images, evenly spaced in the test set, with their predicted and true classes.

    The predicted class and its probability are above an image, in green if right and in red if wrong. The true class is
    below it.
    """
    from matplotlib.figure import Figure

    dataset, around = plan.dataset, plan.preprocessing
    count = min(count, dataset.examples["test"])
    places = np.linspace(0, dataset.examples["test"] - 1, count).astype(int)
    examples = dataset.read_encoded("test", places.tolist())
    images = np.stack([dataset.decode(example, around.geometry) for example in examples])

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        logits = evaluation_logits(plan.model, evaluation_variables(state), around.normalize(images), flip=False)
        return jax.nn.softmax(logits, axis=-1)

    answers = jax.device_get(probabilities(jax.device_put(images)))
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(1.3 * COLUMNS, 1.75 * rows), layout="constrained", dpi=100)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, answer, example in zip(figure.axes, images, answers, examples, strict=False):
        predicted = int(answer.argmax())
        axes.set_axis_on()
        axes.set(xticks=(), yticks=())
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        color = "darkgreen" if predicted == example.label else "firebrick"
        axes.set_title(f"{around.class_names[predicted][:14]} {answer[predicted]:.0%}", fontsize=8, color=color)
        axes.set_xlabel(f"is {around.class_names[example.label][:14]}", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
