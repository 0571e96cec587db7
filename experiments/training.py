"""Train several seeds of one configuration, and return all curves as arrays.

The step is `jaxcnn.train.make_train_step`, a pure function, so that `vmap` can train all seeds in one program. XLA has
no fast convolution on a CPU with a separate kernel per example, so there the seeds run one after another through one
compiled program.
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
from jaxcnn.data.datasets import open_dataset
from jaxcnn.data.statistics import Statistics
from jaxcnn.measure import time_step
from jaxcnn.train import TrainState, create_state, make_eval_step, make_prepare, make_train_step

POINTS = 200
"""Maximum number of points that are stored of a curve over steps."""
TEST_BATCH_SIZE = 500
TRAINING_EXAMPLES_TESTED = 2000
"""Number of training images on which the training loss and accuracy are computed in evaluation mode."""

Probe = Callable[[TrainState, Any], Any]


@dataclass(frozen=True)
class Images:
    """A dataset in memory: uint8 images `[N, H, W, C]`, labels `[N]`, and the statistics that normalize the images."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    statistics: Statistics
    num_classes: int

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
    return Images(train, test, Statistics.of(train[0]), opened.num_classes)


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
      loss: loss of each step's batch, in training mode, `[S, steps]`.
      accuracy: accuracy on each step's batch, in training mode, `[S, steps]`.
      test_steps: the steps after which the networks were tested, `[T]`.
      tests: "test_loss" and "test_accuracy" on the test images, "train_loss" and "train_accuracy" on the first
        training images, all in evaluation mode, `[S, T]`.
      probes: what the probe returned at each of `test_steps`, arrays `[S, T, ...]`.
      states: the final state of each seed.
      params: number of parameters.
      seconds_per_step: wall-clock time per step and seed, without compilation and tests. Under `vmap` it is the time of
        the step of all seeds divided by their number.
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
        """Test accuracy of each seed after the last step, `[S]`."""
        return self.tests["test_accuracy"][:, -1]

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
    """Train one network per seed. The seed determines its parameters, the order of its data and its dropout.

    A network that diverges is trained to the end; its curves contain NaN or infinity.

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
      side_by_side: "vmap" trains all seeds in one program, "turns" one after another; "auto" is "turns" on a CPU.
    """
    if isinstance(tests, int):
        tests = [round(steps * (i + 1) / tests) for i in range(tests)]
    test_steps = sorted({*tests, steps})
    if side_by_side == "auto":
        side_by_side = "turns" if jax.default_backend() == "cpu" else "vmap"
    mapped = side_by_side == "vmap"
    programs = _Programs(model, images, optimizer, batch_size, probe, augment, aux_weight, mapped=mapped)
    groups = [list(seeds)] if mapped else [[seed] for seed in seeds]
    done = [programs.train(group, steps, test_steps) for group in groups]
    curves = {name: np.concatenate([group.curves[name] for group in done]) for name in done[0].curves}
    states = [state for group in done for state in group.states]
    return Training(
        loss=curves.pop("batch_loss"),
        accuracy=curves.pop("batch_accuracy"),
        test_steps=np.asarray(test_steps),
        tests=curves,
        probes=jax.tree.map(lambda *arrays: np.concatenate(arrays), *(group.probes for group in done)),
        states=states,
        params=sum(x.size for x in jax.tree.leaves(states[0].params)),
        seconds_per_step=float(np.median([group.seconds_per_step for group in done])),
    )


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
    step = jax.jit(make_train_step(model, optax.sgd(0.1), normalize=images.normalize))
    batches = [{"image": images.train[0][:size], "label": images.train[1][:size]} for size in sizes]
    seconds = [[time_step(step, state, batch, steps=5).median for batch in batches] for _ in range(rounds)]
    return np.asarray(sizes) / np.asarray(seconds)


@dataclass(frozen=True)
class _Group:
    """The results of seeds that are trained in one program; attributes as in `Training`."""

    curves: dict[str, np.ndarray]
    probes: Any
    states: list[TrainState]
    seconds_per_step: float


class _Programs:
    """The compiled programs of one configuration, shared by all its seeds."""

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
        # XLA takes minutes to optimize these programs for a deep network, and they run only a few times.
        quick = {"xla_backend_optimization_level": 0}
        self.create = jax.jit(functools.partial(create_state, model, optimizer, images.shape), compiler_options=quick)
        prepare = make_prepare(augment)
        step = make_train_step(model, optimizer, prepare=prepare, normalize=images.normalize, aux_weight=aux_weight)
        test = make_eval_step(model, normalize=images.normalize)
        self.data = jax.device_put(images.train)
        first_images, first_labels = (array[: self.batch_size] for array in images.train)
        self.probed = {"image": images.normalize(jnp.asarray(first_images)), "label": jnp.asarray(first_labels)}

        def advance(state: TrainState, data: Any, rows: jax.Array) -> Any:
            return step(state, {"image": data[0][rows], "label": data[1][rows]})

        def over_seeds(function: Any, *other_axes: int | None) -> Any:
            return jax.vmap(function, in_axes=(0, *other_axes)) if mapped else function

        self.advance = jax.jit(over_seeds(advance, None, 0), donate_argnums=0)
        self.test = jax.jit(over_seeds(test, None))
        self.probe = jax.jit(over_seeds(probe, None), compiler_options=quick) if probe else None

    def train(self, seeds: list[int], steps: int, test_steps: list[int]) -> _Group:
        """Train seeds together; a single one unless the programs are mapped over seeds."""
        created = [self.create(seed) for seed in seeds]
        state = jax.tree.map(lambda *x: jnp.stack(x), *created) if self.mapped else created[0]
        examples = len(self.images.train[0])
        orders = [_batch_rows(examples, self.batch_size, steps, seed) for seed in seeds]
        rows_by_step = np.stack(orders, axis=1) if self.mapped else orders[0]
        tests, probes, step_sums = [], [], []
        seconds, timed_steps, started = 0.0, 0, 0.0

        def evaluate() -> None:
            tests.append(self._tests(state))
            if self.probe:
                probes.append(self.probe(state, self.probed))

        if test_steps[0] == 0:
            evaluate()
        for step, rows in enumerate(rows_by_step, start=1):
            # The clock runs from the second step, because the first one is compiled, and stops during tests.
            if step <= 2 or step - 1 in test_steps:
                jax.block_until_ready(state)
                started = time.perf_counter()
            state, sums = self.advance(state, self.data, jnp.asarray(rows))
            step_sums.append(sums)
            if step in test_steps or step == 1:
                jax.block_until_ready(state)
                if step > 1:
                    seconds += time.perf_counter() - started
                    timed_steps = step - 1
            if step in test_steps:
                evaluate()
        batch_curves = metrics_of(self._over_time(jax.device_get(step_sums)))
        curves = {f"batch_{name}": values for name, values in batch_curves.items()}
        return _Group(
            curves=curves | self._over_time(tests),
            probes=self._over_time(jax.device_get(probes)) if probes else {},
            states=jax.device_get(self._by_seed(state, len(seeds))),
            seconds_per_step=seconds / max(timed_steps, 1) / len(seeds),
        )

    def _over_time(self, trees: Sequence[Any]) -> Any:
        """Stack trees of arrays, one for each point in time, into one tree of arrays `[S, T, ...]`."""
        if self.mapped:
            return jax.tree.map(lambda *x: np.stack(x, axis=1), *trees)
        return jax.tree.map(lambda *x: np.stack(x)[None], *trees)

    def _by_seed(self, state: TrainState, count: int) -> list[TrainState]:
        if not self.mapped:
            return [state]
        return [jax.tree.map(lambda x, index=index: x[index], state) for index in range(count)]

    def _tests(self, state: TrainState) -> dict[str, Any]:
        images, labels = self.images.train
        of_test = self._test("test", state, *self.images.test)
        first = slice(0, TRAINING_EXAMPLES_TESTED)
        return of_test | self._test("train", state, images[first], labels[first])

    def _test(self, split: str, state: TrainState, images: Any, labels: Any) -> dict[str, Any]:
        """Return mean loss and accuracy on all of these images. The last batch is padded and masked."""
        total: Any = None
        size = min(TEST_BATCH_SIZE, len(images))
        for first in range(0, len(images), size):
            rows = np.arange(first, first + size)
            mask = rows < len(images)
            rows = np.minimum(rows, len(images) - 1)
            sums = self.test(state, ({"image": images[rows], "label": labels[rows]}, mask))
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return {f"{split}_{name}": value for name, value in metrics_of(jax.device_get(total)).items()}


def metrics_of(sums: Any) -> dict[str, np.ndarray]:
    """Return mean loss and accuracy, given the sums that steps return, of any shape."""
    return {"loss": sums["loss"] / sums["examples"], "accuracy": sums["correct"] / sums["examples"]}


def _batch_rows(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Return the rows of each batch, `[steps, batch_size]`: one permutation per epoch, without its incomplete batch."""
    random = np.random.default_rng(seed)
    per_epoch = examples // batch_size
    epochs = [random.permutation(examples)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps].astype(np.int32)
