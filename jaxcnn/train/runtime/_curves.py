"""The learning curves of a run as a picture."""

import math
from pathlib import Path

from jaxcnn.train.runtime.record import Row


def epoch_means(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training rows averaged from one test to the next, and the test rows."""
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


def draw(rows: list[Row], title: str, path: Path, *, label_smoothing: float = 0.0) -> None:
    """Writes a PNG of loss and accuracy by epoch, in training and on the test images.

    With `label_smoothing` the loss in training is against smoothed labels, which the picture says.
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
