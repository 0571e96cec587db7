"""Training several seeds of one configuration side by side, with everything about them in arrays.

The step is `jaxcnn.train.make_train_step`, a pure function: `vmap` makes of it one that trains all seeds at once. On a
CPU, where XLA has no fast convolution with a kernel for each example, the seeds take turns with one compiled program.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.data import normalize
from jaxcnn.data.datasets import Statistics, open_dataset
from jaxcnn.measure import time_step
from jaxcnn.train import TrainState, create_state, make_eval_step, make_prepare, make_train_step

POINTS = 200
"""Most points that are kept of a curve over steps."""
TESTED_AT_ONCE = 500
TRAINING_EXAMPLES_TESTED = 2000

Probe = Callable[[TrainState, Any], Any]


@dataclass(frozen=True)
class Images:
    """A data set in memory: uint8 images `[N, H, W, C]`, labels `[N]`, and how pixels become the model's input."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    statistics: Statistics
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train[0].shape[1:]

    def normalize(self, images: jax.Array) -> jax.Array:
        """The model's input `[N, H, W, C]` from uint8 images."""
        return normalize(images, self.statistics.mean, self.statistics.std)


@functools.lru_cache(maxsize=4)
def load_images(dataset: str, *, shrink: int = 1, examples: int | None = None, tested: int | None = None) -> Images:
    """A data set's images.

    Args:
      dataset: its name; "NAME[:100]" is the first 100 of each split.
      shrink: factor by which images are made smaller, by averaging.
      examples, tested: how many training and test images to take, the first ones; all if not given.

    Raises:
      UsageError: a data set that is not there.
    """
    name, _, first = dataset.partition("[:")
    opened, limit = open_dataset(name), int(first.rstrip("]")) if first else None
    splits = []
    for split, most in (("train", examples), ("test", tested)):
        images, labels = opened.read(split)
        images, labels = images[:limit][:most], labels[:limit][:most]
        if shrink > 1:
            n, h, w, c = images.shape
            blocks = images[:, : h // shrink * shrink, : w // shrink * shrink]
            blocks = blocks.reshape(n, h // shrink, shrink, w // shrink, shrink, c)
            images = blocks.mean((2, 4)).round().astype(np.uint8)
        splits.append((images, labels))
    train, test = splits
    return Images(train, test, Statistics.of(train[0]), opened.num_classes)


@dataclass(frozen=True)
class Training:
    """Curves of all seeds `[S, ...]`, and what the networks have become.

    Attributes:
      loss, accuracy: of each step's batch, in training mode, `[S, steps]`.
      test_steps: the steps after which networks were tested, `[T]`.
      tests: "test_loss" and "test_accuracy" on the test images, "train_loss" and "train_accuracy" on (the first of)
        the training images, all in evaluation mode, `[S, T]`.
      probes: what the probe returned at each of `test_steps`, arrays `[S, T, ...]`.
      states: of each seed, after the last step.
      params: number of parameters.
      seconds_per_step: of one seed, without compilation and tests; under `vmap`, of all seeds' step divided by them.
    """

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
        """Of each seed after the last step, `[S]`."""
        return self.tests["test_accuracy"][:, -1]

    def values(self) -> dict[str, Any]:
        """The curves and final numbers as JSON holds them, curves over steps averaged to `POINTS` points."""
        steps = self.loss.shape[1]
        width = -(-steps // POINTS)
        edges = np.arange(0, steps, width)
        counts = np.diff([*edges, steps])
        thin = {k: np.add.reduceat(v, edges, axis=1) / counts for k, v in (("loss", self.loss), ("acc", self.accuracy))}
        return {
            "steps": edges + counts,
            "batch_loss": thin["loss"],
            "batch_accuracy": thin["acc"],
            "test_steps": self.test_steps,
            **self.tests,
            "final_test_accuracy": self.test_accuracy,
            "params": self.params,
            "seconds_per_step": self.seconds_per_step,
        }


def momentum_sgd(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Descent as residual networks are trained in their papers: momentum 0.9, weight decay 1e-4, a drop to a tenth.

    The learning rate drops after three quarters of the steps.
    """
    rate = optax.piecewise_constant_schedule(learning_rate, {steps * 3 // 4: 0.1})
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))


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
    side_by_side: Literal["auto", "vmap", "turns"] = "auto",
) -> Training:
    """Trains one network for each seed, which decides its parameters, the order of its data and its dropout.

    Args:
      model: `model(x, train=...) -> logits`.
      images: what to train and test on.
      optimizer: an optax transformation.
      steps: updates of the parameters.
      batch_size: images an update.
      seeds: one network each.
      tests: how many tests there are, equally far apart, the last after the last step; or after which steps (0 is
        before the first).
      probe: `(state, batch) -> arrays`, called at each test on the same batch of training images, normalised.
      augment: `(key, image [H, W, C]) -> image`.
      aux_weight: weight of auxiliary losses.
      side_by_side: "vmap", all seeds in one program, or "turns", one after the other; "auto" is "turns" on a CPU.

    A network that diverges goes on to the end; its curves hold what it came to, NaN where it is no number.
    """
    at = [round(steps * (i + 1) / tests) for i in range(tests)] if isinstance(tests, int) else sorted(tests)
    at = sorted({*at, steps})
    if side_by_side == "auto":
        side_by_side = "turns" if jax.default_backend() == "cpu" else "vmap"
    mapped = side_by_side == "vmap"
    run = _Run(model, images, optimizer, batch_size, probe, augment, aux_weight, mapped=mapped)
    groups = [list(seeds)] if mapped else [[seed] for seed in seeds]
    done = [run.group(group, steps, at) for group in groups]
    curves = {name: np.concatenate([d[0][name] for d in done]) for name in done[0][0]}
    states = [state for d in done for state in d[2]]
    return Training(
        loss=curves.pop("batch_loss"),
        accuracy=curves.pop("batch_accuracy"),
        test_steps=np.asarray(at),
        tests=curves,
        probes=jax.tree.map(lambda *x: np.concatenate(x), *(d[1] for d in done)),
        states=states,
        params=sum(x.size for x in jax.tree.leaves(states[0].params)),
        seconds_per_step=float(np.median([d[3] for d in done])),
    )


def tune(rates: Sequence[float], model: nn.Module, images: Images, *, steps: int, batch_size: int, seed: int) -> float:
    """The learning rate of plain gradient descent after which one network has the lowest training loss."""

    def loss(rate: float) -> float:
        optimizer = optax.sgd(rate)
        done = train(model, images, optimizer, steps=steps, batch_size=batch_size, seeds=[seed], tests=1)
        return float(np.nan_to_num(done.tests["train_loss"][0, -1], nan=np.inf))

    return min(rates, key=loss) if len(rates) > 1 else rates[0]


def time_forward(models: Sequence[nn.Module], x: jax.Array, rounds: int = 7) -> np.ndarray:
    """Seconds an example of each model's forward pass on `x`, `[len(models), rounds]`; the models take turns."""
    learned = [model.init(jax.random.key(0), x, train=False) for model in models]
    passes = [jax.jit(functools.partial(m.apply, v, train=False)) for m, v in zip(models, learned, strict=True)]
    return np.asarray([[time_step(f, x, steps=5).median / len(x) for f in passes] for _ in range(rounds)]).T


def images_per_second(model: nn.Module, images: Images, sizes: Sequence[int], rounds: int = 5) -> np.ndarray:
    """Of training steps by batch size, `[rounds, len(sizes)]`; the sizes take turns, as other load comes and goes."""
    state = create_state(model, optax.sgd(0.1), images.shape, 0)
    step = jax.jit(make_train_step(model, optax.sgd(0.1), normalize=images.normalize))
    batches = [{"images": images.train[0][:n], "labels": images.train[1][:n]} for n in sizes]
    seconds = [[time_step(step, state, batch, steps=5).median for batch in batches] for _ in range(rounds)]
    return np.asarray(sizes) / np.asarray(seconds)


class _Run:
    """The compiled parts of one configuration, which all its seeds share."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        optimizer: optax.GradientTransformation,
        batch_size: int,
        probe: Probe | None,
        augment: Any,
        aux_weight: float,
        *,
        mapped: bool,
    ):
        self.images, self.mapped = images, mapped
        self.batch_size = min(batch_size, len(images.train[0]))
        # Of deep networks such programs take XLA minutes to optimise, and run but a few times.
        quick = {"xla_backend_optimization_level": 0}
        self.create = jax.jit(functools.partial(create_state, model, optimizer, images.shape), compiler_options=quick)
        prepare = make_prepare(augment)
        step = make_train_step(model, optimizer, prepare=prepare, normalize=images.normalize, aux_weight=aux_weight)
        test = make_eval_step(model, normalize=images.normalize)
        self.data = jax.device_put(images.train)
        first = (images.train[0][: self.batch_size], images.train[1][: self.batch_size])
        self.probed = {"images": images.normalize(jnp.asarray(first[0])), "labels": jnp.asarray(first[1])}

        def advance(state: TrainState, data: Any, rows: jax.Array) -> Any:
            return step(state, {"images": data[0][rows], "labels": data[1][rows]})

        def over_seeds(function: Any, *others: int | None) -> Any:
            return jax.vmap(function, in_axes=(0, *others)) if mapped else function

        self.advance = jax.jit(over_seeds(advance, None, 0), donate_argnums=0)
        self.test = jax.jit(over_seeds(test, None))
        self.probe = probe and jax.jit(over_seeds(probe, None), compiler_options=quick)

    def group(self, seeds: list[int], steps: int, at: list[int]) -> Any:
        """Curves `[S, ...]`, probes, states and seconds a step, of seeds that are trained at once."""
        mapped, before = self.mapped, [self.create(seed) for seed in seeds]
        state = jax.tree.map(lambda *x: jnp.stack(x), *before) if mapped else before[0]
        orders = [_order(len(self.images.train[0]), self.batch_size, steps, seed) for seed in seeds]
        tests, probes, sums, seconds, timed = [], [], [], 0.0, 0
        if at[0] == 0:
            self._look(state, tests, probes)
        for step, rows in enumerate(zip(*orders, strict=True), start=1):
            if step <= 2 or step - 1 in at:
                jax.block_until_ready(state)
                started = time.perf_counter()
            state, new = self.advance(state, self.data, jnp.asarray(np.stack(rows) if mapped else rows[0]))
            sums.append(new)
            if step in at or step == 1:
                jax.block_until_ready(state)
                if step > 1:  # the first step is compiled
                    seconds, timed = seconds + time.perf_counter() - started, step - 1
            if step in at:
                self._look(state, tests, probes)
        per_step = jax.tree.map(lambda *x: np.stack(x, axis=-1).reshape(len(seeds), -1), *jax.device_get(sums))
        curves = {f"batch_{k}": v for k, v in metrics_of(per_step).items()}
        curves |= {k: np.stack([t[k] for t in tests], axis=-1).reshape(len(seeds), -1) for k in tests[0]}
        stacked = (
            jax.tree.map(lambda *x: np.stack(x, axis=1 if mapped else 0), *jax.device_get(probes)) if probes else {}
        )
        probed = stacked if mapped else jax.tree.map(lambda x: x[None], stacked)
        states = [jax.tree.map(lambda x, i=i: x[i], state) for i in range(len(seeds))] if mapped else [state]
        return curves, probed, jax.device_get(states), seconds / max(timed, 1) / len(seeds)

    def _look(self, state: TrainState, tests: list[Any], probes: list[Any]) -> None:
        (images, labels), (more, more_labels) = self.images.test, self.images.train
        some = slice(0, TRAINING_EXAMPLES_TESTED)
        tests.append(
            self._tested("test", state, images, labels) | self._tested("train", state, more[some], more_labels[some])
        )
        if self.probe:
            probes.append(self.probe(state, self.probed))

    def _tested(self, split: str, state: TrainState, images: Any, labels: Any) -> dict[str, Any]:
        """Mean loss and accuracy on all of these images, the last batch of which is filled up and masked."""
        total: Any = None
        size = min(TESTED_AT_ONCE, len(images))
        for first in range(0, len(images), size):
            rows = np.arange(first, first + size)
            mask = rows < len(images)
            rows = np.minimum(rows, len(images) - 1)
            sums = self.test(state, {"images": images[rows], "labels": labels[rows], "mask": mask})
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return {f"{split}_{name}": value for name, value in metrics_of(jax.device_get(total)).items()}


def metrics_of(sums: Any) -> dict[str, np.ndarray]:
    """Mean loss and accuracy from the sums that steps return, of any shape."""
    return {"loss": sums["loss"] / sums["examples"], "accuracy": sums["correct"] / sums["examples"]}


def _order(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Rows of the batches `[steps, batch_size]`: a new permutation each epoch, whose incomplete end is left out."""
    random = np.random.default_rng(seed)
    per_epoch = examples // batch_size
    epochs = [random.permutation(examples)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps].astype(np.int32)
