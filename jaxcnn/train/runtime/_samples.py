"""Some test images with what the network says of them, as a picture."""

import io

import jax
import numpy as np

from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import TrainState, evaluation_variables
from jaxcnn.train.step import evaluation_logits

COLUMNS = 8


def draw_predictions(plan: Plan, state: TrainState, count: int) -> bytes:
    """A PNG of `count` images from all over the test split: above each the answer and its probability, in green if it
    is right and in red if not, below it the true class.
    """
    from matplotlib.figure import Figure

    dataset, size = plan.dataset, plan.config.image_size
    around = Preprocessing.of(dataset, size)
    count = min(count, dataset.examples["test"])
    places = np.linspace(0, dataset.examples["test"] - 1, count).astype(int)
    examples = dataset.read_encoded("test", places.tolist())
    images = np.stack([dataset.decode(example, None if size is None else (size, size)) for example in examples])

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        logits = evaluation_logits(plan.model, evaluation_variables(state), around.normalize(images), flip=False)
        return jax.nn.softmax(logits, axis=-1)

    answers = np.asarray(probabilities(images))
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(1.3 * COLUMNS, 1.75 * rows), layout="constrained", dpi=100)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, answer, example in zip(figure.axes, images, answers, examples, strict=False):
        said, right = int(answer.argmax()), int(answer.argmax()) == example.label
        axes.set_axis_on()
        axes.set(xticks=(), yticks=())
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        color = "darkgreen" if right else "firebrick"
        axes.set_title(f"{around.class_names[said][:14]} {answer[said]:.0%}", fontsize=8, color=color)
        axes.set_xlabel(f"is {around.class_names[example.label][:14]}", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
