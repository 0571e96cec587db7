"""Pictures of a run: its learning curves, and predictions of test images."""

import io
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import printable
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Row
from jaxcnn.train.state import TrainState, evaluation_variables
from jaxcnn.train.task import higher_is_better

COLUMNS = 8
"""Number of test images side by side in the picture of `draw_predictions`."""


def epoch_means(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the mean training metrics of each epoch, and the metrics of the evaluation after each epoch.

    The evaluations use the validation set if the run has a validation set, else the test set.

    Args:
      rows: rows of `metrics.jsonl`, as returned by `record.read_rows`.
    """
    split = "validation" if any(row["split"] == "validation" for row in rows) else "test"
    train, evaluations, since = [], [], []
    for row in rows:
        if row["split"] == "train":
            since.append(row)
        elif row["split"] == split and "epoch" in row:
            evaluations.append(row)
            if since:
                train.append({"epoch": row["epoch"], **_means(since)})
            since = []
    return train, evaluations


def _means(rows: list[Row]) -> Row:
    """Return the mean of each metric over the rows that contain the metric. Rows of lost steps contain no metrics."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_METRICS)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


NOT_METRICS = ("split", "step", "epoch", "learning_rate", "examples")


def draw_curves(
    rows: list[Row], title: str, path: Path, *, monitor: str = "accuracy", label_smoothing: float = 0.0
) -> None:
    """Write a PNG file with the learning curves of a run: the loss and the monitored metric against the epoch.

    Each plot has one curve for training and one curve for the evaluations after each epoch.

    Args:
      rows: rows of `metrics.jsonl`, as returned by `record.read_rows`.
      title: title of the figure.
      path: path of the PNG file.
      monitor: metric in the right plot. With "loss", the figure has only the plot of the loss.
      label_smoothing: if positive, the legend says that the training loss was computed with smoothed labels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train, evaluations = epoch_means(rows)
    split = evaluations[0]["split"] if evaluations else "test"
    names = ["loss"] if monitor == "loss" else ["loss", monitor]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained", dpi=120)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        scale = 100 if name == "accuracy" else 1
        in_training = "training (smoothed labels)" if label_smoothing and name == "loss" else "training"
        series = ((train, in_training, "C0o-"), (evaluations, split, "C1s-"))
        for part, legend, style in series:
            shown = [row for row in part if name in row]
            if shown:
                axes.plot([r["epoch"] for r in shown], [scale * r[name] for r in shown], style, ms=4, label=legend)
        axes.set(xlabel="epoch", ylabel=LABELS.get(name, name.replace("_", " ")))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        values = [scale * row[name] for row in evaluations if name in row and math.isfinite(row[name])]
        if values:
            axes.set_title(_title(split, name, values))
    figure.suptitle(printable(title), parse_math=False)
    figure.savefig(path)


LABELS = {"loss": "loss (nats)", "accuracy": "accuracy (%)"}


def _title(split: str, name: str, values: list[float]) -> str:
    """Return the title of a plot with the last and the best value, such as "test accuracy 91.20 %, best 91.50 %"."""
    if name == "loss":
        return f"{split} loss {values[-1]:.3f}"
    best = max(values) if higher_is_better(name) else min(values)
    last_text, best_text = (f"{x:.2f} %" if name == "accuracy" else f"{x:.4f}" for x in (values[-1], best))
    return f"{split} {name.replace('_', ' ')} {last_text}, best {best_text}"


def draw_predictions(plan: Plan, state: TrainState, count: int) -> bytes:
    """Return a PNG of `count` test images, evenly spaced in the test set, with their predicted and true classes.

    The predicted class and its probability are above each image, in green if the prediction is right, and in red if the
    prediction is wrong. The true class is below the image.
    """
    from matplotlib.figure import Figure

    dataset, around = plan.dataset, plan.preprocessing
    count = min(count, dataset.examples["test"])
    places = np.linspace(0, dataset.examples["test"] - 1, count).astype(int)
    examples = dataset.load("test", places.tolist(), around.geometry)

    @jax.jit
    def probabilities(batch: Any) -> jax.Array:
        return around.probabilities(plan.task.scores(plan.model, evaluation_variables(state), batch))

    answers = jax.device_get(probabilities(jax.device_put(examples)))
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(1.3 * COLUMNS, 1.75 * rows), layout="constrained", dpi=100)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, answer, label in zip(figure.axes, examples["image"], answers, examples["label"], strict=False):
        predicted = int(answer.argmax())
        true = np.flatnonzero(label > 0.5) if np.ndim(label) else [label]  # multi-label, or a single class
        axes.set_axis_on()
        axes.set(xticks=(), yticks=())
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=around.pixel_range)
        color = "darkgreen" if predicted in true else "firebrick"
        name, names = around.class_names[predicted], ", ".join(around.class_names[place] for place in true)
        style = {"fontsize": 8, "parse_math": False}
        axes.set_title(f"{printable(name[:14])} {answer[predicted]:.0%}", color=color, **style)
        axes.set_xlabel(f"is {printable(names[:14])}", **style)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
