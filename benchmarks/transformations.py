"""Measure the cost of JAX's transformations: gradients in loops and under `vmap`, relative to single calls.

    python -m benchmarks.transformations [--models lenet5:64] [--kernels xla,native] [--rounds 10]

The forms:

- scan: 20 steps of gradient descent in one `lax.scan`
- map: gradients of 10 networks by `lax.map`
- vmap: gradients of 10 networks by `vmap`
- examples: a gradient for each example of the batch
- Jacobian: the Jacobian of the logits of 4 examples with respect to the parameters, by `jax.jacrev`
- Hessian: products of the Hessian with 10 vectors, by `vmap`

The plain loop computes the same results by a Python loop. Each iteration calls a compiled function, which returns one
result. The form and the loop take turns. "cost" is the median over the rounds of the form's time divided by the loop's.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.results import RESULTS, write
from benchmarks.suite import words
from jaxcnn import kernels, startup
from jaxcnn.errors import unknown_name
from jaxcnn.kernels import native
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.probes import machine
from jaxcnn.models import create_model
from jaxcnn.train.api import versions

STEPS = 20
NETWORKS = 10
JACOBIAN_EXAMPLES = 4

Call = Callable[[], Any]


class Problem:
    """A model with a loss, a batch and parameters.

    Args:
      model: name of the model.
      batch_size: number of examples.
    """

    def __init__(self, model: str, batch_size: int):
        self.model = create_model(model)
        keys = jax.random.split(jax.random.key(0), 3)
        self.images = jax.random.normal(keys[0], (batch_size, *natural_image_shape(model)))
        variables = self.model.init(keys[1], self.images, train=False)
        self.params = variables["params"]
        self.others = {name: value for name, value in variables.items() if name != "params"}
        self.labels = jax.random.randint(keys[2], (batch_size,), 0, self.logits(self.params, self.images).shape[-1])
        scales = 1 + 0.01 * jnp.arange(NETWORKS)
        self.networks = jax.tree.map(lambda x: scales.reshape(-1, *[1] * x.ndim) * x, self.params)

    def logits(self, params: Any, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Return `[N, classes]`. In training mode, layers use the statistics of the batch."""
        variables = {"params": params, **self.others}
        if not train:
            return jnp.asarray(self.model.apply(variables, images, train=False))
        rngs = {"dropout": jax.random.key(0)}
        logits, _ = self.model.apply(variables, images, train=True, rngs=rngs, mutable=list(self.others))
        return logits

    def gradient(self, params: Any, images: jax.Array, labels: jax.Array, *, train: bool = True) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = self.logits(params, images, train=train)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    def forms(self) -> dict[str, tuple[Call, Call]]:
        """Return for each form a call of it, and a call of the plain loop. They compile at the first call."""
        return {
            "scan": self._scan(),
            "map": self._networks(lambda gradient: functools.partial(jax.lax.map, gradient)),
            "vmap": self._networks(jax.vmap),
            "examples": self._examples(),
            "Jacobian": self._jacobian(),
            "Hessian": self._hessian(),
        }

    def _scan(self) -> tuple[Call, Call]:
        def step(params: Any) -> Any:
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, self.gradient(params, self.images, self.labels))

        def steps(params: Any) -> Any:
            return jax.lax.scan(lambda params, _: (step(params), None), params, None, length=STEPS)[0]

        one, whole = jax.jit(step), jax.jit(steps)

        def loop() -> Any:
            params = self.params
            for _ in range(STEPS):
                params = one(params)
            return params

        return lambda: whole(self.params), loop

    def _networks(self, transformed: Callable[[Any], Any]) -> tuple[Call, Call]:
        def gradient(params: Any) -> Any:
            return self.gradient(params, self.images, self.labels)

        one, whole = jax.jit(gradient), jax.jit(transformed(gradient))
        each = [jax.tree.map(lambda x, i=i: x[i], self.networks) for i in range(NETWORKS)]
        return lambda: whole(self.networks), lambda: [one(params) for params in each]

    def _examples(self) -> tuple[Call, Call]:
        def of_example(image: jax.Array, label: jax.Array) -> Any:
            return self.gradient(self.params, image[None], label[None], train=False)

        one, whole = jax.jit(of_example), jax.jit(jax.vmap(of_example))
        pairs = list(zip(self.images, self.labels, strict=True))
        return lambda: whole(self.images, self.labels), lambda: [one(*pair) for pair in pairs]

    def _jacobian(self) -> tuple[Call, Call]:
        images = self.images[:JACOBIAN_EXAMPLES]

        def row(params: Any, direction: jax.Array) -> Any:
            return jax.vjp(lambda params: self.logits(params, images), params)[1](direction)[0]

        one = jax.jit(row)
        whole = jax.jit(jax.jacrev(lambda params: self.logits(params, images)))
        shape = self.logits(self.params, images).shape
        directions = list(jnp.eye(shape[0] * shape[1]).reshape(-1, *shape))
        return lambda: whole(self.params), lambda: [one(self.params, direction) for direction in directions]

    def _hessian(self) -> tuple[Call, Call]:
        def product(direction: Any) -> Any:
            def gradient(params: Any) -> Any:
                return self.gradient(params, self.images, self.labels)

            return jax.jvp(gradient, (self.params,), (direction,))[1]

        one, whole = jax.jit(product), jax.jit(jax.vmap(product))
        each = [jax.tree.map(lambda x, i=i: x[i], self.networks) for i in range(NETWORKS)]
        return lambda: whole(self.networks), lambda: [one(direction) for direction in each]


def compare(form: Call, loop: Call, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of both, medians over rounds in which they take turns, and the form's relative cost."""
    milliseconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for call, times in zip((form, loop), milliseconds, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call())
            if turn:  # the first call compiles
                times.append(1e3 * (time.perf_counter() - started))
    costs = [a / b for a, b in zip(*milliseconds, strict=True)]
    return {
        "form_ms": round(statistics.median(milliseconds[0]), 2),
        "loop_ms": round(statistics.median(milliseconds[1]), 2),
        "costs": [round(cost, 3) for cost in costs],
        "cost": round(statistics.median(costs), 2),
    }


def measure(model: str, batch_size: int, choice: Any, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of all forms of a model with these kernels."""
    rows = []
    with kernels.use(choice):
        case = {"model": model, "batch_size": batch_size, "kernels": kernels.describe()}
        for name, (form, loop) in Problem(model, batch_size).forms().items():
            row = {**case, "form": name, **compare(form, loop, rounds)}
            rows.append(row)
            print(f"  {model} {case['kernels']} {name}: {row['cost']} of the loop", file=sys.stderr, flush=True)
    return rows


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | batch | kernels | form | form, ms | plain loop, ms | cost |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = min(row["costs"]), max(row["costs"])
        lines.append(
            f"| {row['model']} | {row['batch_size']} | {row['kernels']} | {row['form']} | {row['form_ms']:.1f} "
            f"| {row['loop_ms']:.1f} | {row['cost']:.2f} ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transformations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=words, default="lenet5:64,resnet20_cifar:16", help="NAME:BATCH, ...")
    parser.add_argument("--kernels", type=words, help="kernels to use (default: xla and, if installed, native)")
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "transformations", help="folder for the results")
    arguments = parser.parse_args(args)
    arguments.kernels = arguments.kernels or (["xla", "native"] if native.is_available() else ["xla"])
    for choice in arguments.kernels:
        if choice not in kernels.CHOICES:
            parser.error(str(unknown_name("choice of kernels", choice, kernels.CHOICES)))
    rows: list[dict[str, Any]] = []
    for text in arguments.models:
        name, _, batch = text.partition(":")
        for choice in arguments.kernels:
            rows += measure(name, int(batch or 64), choice, arguments.rounds)
    markdown = to_markdown(rows)
    device = machine.device_name(jax.devices()[0])
    print(markdown)
    about = f"On {device}, with {', '.join(f'{name} {version}' for name, version in versions().items())}.\n\n"
    write(arguments.out, "Cost of transformations", rows, about + markdown, device=device, versions=versions())
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
