"""Train several seeds of one configuration by `jaxcnn.train.fit_many`, and return all curves as arrays."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.data import Dataset, from_arrays, normalize, open_dataset
from jaxcnn.data.statistics import Statistics
from jaxcnn.errors import RunError
from jaxcnn.measure import time_step
from jaxcnn.train import (
    Callback,
    Classification,
    Config,
    RunView,
    TrainState,
    create_state,
    fit_many,
    make_train_step,
)
from jaxcnn.train.runtime.record import read_rows

POINTS = 200
"""Maximum number of points that are stored of a curve over steps."""
TRAINING_EXAMPLES_TESTED = 2000
"""Number of training images on which the training loss and accuracy are computed in evaluation mode."""

Probe = Callable[[TrainState, Any], Any]


@dataclass(frozen=True)
class Images:
    """A dataset in memory.

    Attributes:
      train, test: uint8 images `[N, H, W, C]` and labels `[N]`.
      statistics: mean and standard deviation that normalize the images.
      class_names: name of each class.
      data: the images as `fit` takes them. The first training images are its validation examples.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    statistics: Statistics
    class_names: tuple[str, ...]
    data: Dataset

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, `(H, W, C)`."""
        return self.train[0].shape[1:]

    def normalize(self, images: jax.Array) -> jax.Array:
        """Return the model's input `[N, H, W, C]` for uint8 images."""
        return normalize(images, self.statistics.mean, self.statistics.std)


@functools.lru_cache(maxsize=4)
def load_images(dataset: str, *, shrink: int = 1, examples: int | None = None, tested: int | None = None) -> Images:
    """Return the images of a dataset.

    Args:
      dataset: name of the dataset; "NAME[:100]" takes the first 100 images of each split.
      shrink: factor by which height and width are reduced, by averaging.
      examples: number of training images, the first ones; all by default.
      tested: number of test images, the first ones; all by default.

    Raises:
      UsageError: the dataset is not available.
    """
    name, _, slice_text = dataset.partition("[:")
    limit = int(slice_text.rstrip("]")) if slice_text else None
    opened = open_dataset(name)

    def read(split: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        images, labels = opened.read(split)
        images, labels = images[:limit][:count], labels[:limit][:count]
        return _shrunk(images, shrink), labels

    train, test = read("train", examples), read("test", tested)
    first = (train[0][:TRAINING_EXAMPLES_TESTED], train[1][:TRAINING_EXAMPLES_TESTED])
    data = from_arrays(train=train, validation=first, test=test, class_names=opened.class_names)
    return Images(train, test, Statistics.of(train[0]), opened.class_names, data)


def _shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of `factor` x `factor` pixels of uint8 images `[N, H, W, C]`; drop an incomplete last block."""
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    rows, columns = height // factor, width // factor
    blocks = images[:, : rows * factor, : columns * factor].reshape(n, rows, factor, columns, factor, channels)
    return blocks.mean((2, 4)).round().astype(np.uint8)


@dataclass(frozen=True)
class Training:
    """The curves `[S, ...]` and the final states of all seeds.

    Attributes:
      num_classes: number of classes.
      loss: loss of each step's batch, in training mode, `[S, steps]`.
      accuracy: accuracy on each step's batch, in training mode, `[S, steps]`.
      test_steps: the steps after which the networks were tested, `[T]`.
      tests: "test_loss" and "test_accuracy" on the test images, "train_loss" and "train_accuracy" on the first
        training images, all in evaluation mode, `[S, T]`.
      probes: what the probe returned at each of `test_steps`, arrays `[S, T, ...]`.
      states: the final state of each seed; of a network that diverged, that of its last test, or the initial
        one if there was none.
      params: number of parameters.
      seconds_per_step: wall-clock time per step, without compilation and tests.
    """

    num_classes: int
    loss: np.ndarray
    accuracy: np.ndarray
    test_steps: np.ndarray
    tests: dict[str, np.ndarray]
    probes: Any
    states: list[TrainState]
    params: int
    seconds_per_step: float

    @property
    def test_accuracy(self) -> np.ndarray:
        """Test accuracy of each seed after the last step, `[S]`. A network that has diverged classifies by chance."""
        return np.nan_to_num(self.tests["test_accuracy"][:, -1], nan=1 / self.num_classes)

    def values(self) -> dict[str, Any]:
        """Return the curves and final numbers by name, with curves over steps averaged to at most `POINTS` points."""
        steps = self.loss.shape[1]
        width = -(-steps // POINTS)
        starts = np.arange(0, steps, width)
        counts = np.diff([*starts, steps])

        def thin(curve: np.ndarray) -> np.ndarray:
            return np.add.reduceat(curve, starts, axis=1) / counts

        return {
            "steps": starts + counts,
            "batch_loss": thin(self.loss),
            "batch_accuracy": thin(self.accuracy),
            "test_steps": self.test_steps,
            **self.tests,
            "final_test_accuracy": self.test_accuracy,
            "params": self.params,
            "seconds_per_step": self.seconds_per_step,
        }


def momentum_sgd(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Return the optimizer of the residual networks' papers: SGD with momentum 0.9 and weight decay 1e-4.

    The learning rate is divided by 10 after three quarters of the steps.
    """
    rate = optax.piecewise_constant_schedule(learning_rate, {steps * 3 // 4: 0.1})
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))


class Tests(Callback):
    """Test each network after given steps, in evaluation mode, and call a probe.

    Args:
      steps: numbers of steps, sorted; 0 is before the first one.
      probe: `(state, batch) -> arrays`, or None.
      batch: normalized training images and their labels.

    Attributes:
      tests: by seed, the metrics of each test.
      probes: by seed, what the probe returned at each test.
      states: by seed, the state of the last test; before the first test, the initial state.
    """

    def __init__(self, steps: Sequence[int], probe: Probe | None, batch: Any):
        # XLA takes minutes to optimize a probe of a deep network, and it runs only a few times.
        quick = {"xla_backend_optimization_level": 0}
        self._steps, self._batch = set(steps), batch
        self._probe = None if probe is None else jax.jit(probe, compiler_options=quick)
        self.tests: dict[int, list[dict[str, float]]] = {}
        self.probes: dict[int, list[Any]] = {}
        self.states: dict[int, TrainState] = {}

    def stops_after(self, step: int) -> bool:
        return step in self._steps

    def on_start(self, run: RunView) -> None:
        self.tests[run.config.seed], self.probes[run.config.seed] = [], []
        self.states[run.config.seed] = run.state
        if 0 in self._steps:
            self._test(run)

    def on_step(self, run: RunView) -> None:
        self._test(run)

    def _test(self, run: RunView) -> None:
        seed, of_train, of_test = run.config.seed, run.evaluate("validation"), run.evaluate("test")
        names = ("loss", "accuracy")
        values = {f"train_{name}": of_train[name] for name in names} | {f"test_{n}": of_test[n] for n in names}
        self.tests[seed].append(values)
        self.states[seed] = run.state
        if self._probe is not None:
            self.probes[seed].append(jax.device_get(self._probe(run.state, self._batch)))


def train(
    model: nn.Module,
    images: Images,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    seeds: Sequence[int],
    tests: int | Sequence[int] = 5,
    probe: Probe | None = None,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    aux_weight: float = 0.3,
) -> Training:
    """Train one network per seed. The seed determines its parameters, the order of its data and its dropout.

    The curves of a network that diverges are NaN from there on.

    Args:
      model: `model(x, train=...) -> logits`.
      images: the training and test images.
      optimizer: an optax transformation.
      steps: number of steps.
      batch_size: images per step.
      seeds: one network each.
      tests: number of tests, evenly spaced, the last one after the last step; or the steps after which to test, where 0
        is before the first step.
      probe: `(state, batch) -> arrays`, called at each test on the same normalized batch of training images.
      augment: `(key, image [H, W, C]) -> image`.
      aux_weight: weight of auxiliary losses.
    """
    if isinstance(tests, int):
        tests = [round(steps * (i + 1) / tests) for i in range(tests)]
    test_steps = sorted({*tests, steps})
    batch_size = min(batch_size, len(images.train[0]))
    first_images, first_labels = (array[:batch_size] for array in images.train)
    probed = {"image": images.normalize(jnp.asarray(first_images)), "label": jnp.asarray(first_labels)}
    tester = Tests(test_steps, probe, probed)
    config = Config(
        steps=steps,
        batch_size=batch_size,
        evaluate_every=steps,
        augment=(),
        label_smoothing=0.0,
        aux_weight=aux_weight,
        mean=images.statistics.mean,
        std=images.statistics.std,
        progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        results = fit_many(
            config,
            seeds=seeds,
            workdir=Path(folder) / "runs",
            data=images.data,
            model=model,
            optimizer=optimizer,
            augment=augment,
            callbacks=[tester],
        )
        rows = [[row for row in read_rows(run.workdir) if row["split"] == "train"] for run in results.runs]
    rates = [run.values["images_per_second"] for run in results.runs if run.diverged is None]
    return Training(
        num_classes=images.num_classes,
        loss=_curves(rows, "loss", steps),
        accuracy=_curves(rows, "accuracy", steps),
        test_steps=np.asarray(test_steps),
        tests={
            name: _curves([tester.tests[seed] for seed in seeds], name, len(test_steps))
            for name in ("test_loss", "test_accuracy", "train_loss", "train_accuracy")
        },
        probes=_stacked([tester.probes[seed] for seed in seeds], len(test_steps)) if probe else {},
        states=[tester.states[seed] for seed in seeds],
        params=sum(x.size for x in jax.tree.leaves(tester.states[seeds[0]].params)),
        seconds_per_step=batch_size / float(np.median(rates)) if rates else float("nan"),
    )


def _curves(rows: Sequence[Sequence[dict[str, float]]], name: str, length: int) -> np.ndarray:
    """Return one value of the rows of each seed, `[S, length]`. Rows that a diverged network lacks are NaN."""
    curves = np.full((len(rows), length), np.nan)
    for curve, of_seed in zip(curves, rows, strict=True):
        curve[: len(of_seed)] = [row[name] for row in of_seed]
    return curves


def _stacked(probes: Sequence[Sequence[Any]], length: int) -> Any:
    """Return the trees of arrays of each seed and test as one tree of arrays `[S, length, ...]`, NaN where missing."""
    template = next((of_seed[0] for of_seed in probes if of_seed), None)
    if template is None:
        raise RunError("all networks diverged before the first test. Use a smaller learning rate.")
    missing = jax.tree.map(lambda x: np.full(np.shape(x), np.nan), template)
    full = [[*of_seed, *[missing] * (length - len(of_seed))] for of_seed in probes]
    return jax.tree.map(lambda *x: np.stack(x), *(jax.tree.map(lambda *x: np.stack(x), *of_seed) for of_seed in full))


def tune(rates: Sequence[float], model: nn.Module, images: Images, *, steps: int, batch_size: int, seed: int) -> float:
    """Return the learning rate of plain gradient descent at which one network reaches the lowest training loss."""
    if len(rates) == 1:
        return rates[0]

    def final_loss(rate: float) -> float:
        done = train(model, images, optax.sgd(rate), steps=steps, batch_size=batch_size, seeds=[seed], tests=1)
        return float(np.nan_to_num(done.tests["train_loss"][0, -1], nan=np.inf))

    return min(rates, key=final_loss)


def time_forward(models: Sequence[nn.Module], x: jax.Array, rounds: int = 7) -> np.ndarray:
    """Return the seconds per example of each model's forward pass on `x`, `[len(models), rounds]`.

    The models alternate, so that other load on the machine affects all of them.
    """

    def forward_pass(model: nn.Module) -> Callable[..., Any]:
        variables = model.init(jax.random.key(0), x, train=False)
        return jax.jit(functools.partial(model.apply, variables, train=False))

    passes = [forward_pass(model) for model in models]
    seconds = [[time_step(forward, x, steps=5).median / len(x) for forward in passes] for _ in range(rounds)]
    return np.asarray(seconds).T


def images_per_second(model: nn.Module, images: Images, sizes: Sequence[int], rounds: int = 5) -> np.ndarray:
    """Return the throughput of training steps for each batch size, `[rounds, len(sizes)]`.

    The sizes alternate, so that other load on the machine affects all of them.
    """
    state = create_state(model, optax.sgd(0.1), images.shape, 0)
    step = jax.jit(make_train_step(model, optax.sgd(0.1), Classification(normalize=images.normalize)))
    batches = [{"image": images.train[0][:size], "label": images.train[1][:size]} for size in sizes]
    seconds = [[time_step(step, state, batch, steps=5).median for batch in batches] for _ in range(rounds)]
    return np.asarray(sizes) / np.asarray(seconds)
