"""Compare convolutions and pooling on a CPU: jaxcnn's kernels and plain JAX operations, in turns within one process.

    python -m benchmarks.convolution [--models lenet5:256 resnet50:8] [--layers [3x3 pool]] [--rounds 20] [--out DIR]

For each model (`name:batch` or `name:batch:size`), a whole training step is compiled in several forms:

- `plain`: the operations that Flax's own layers use (`conv_general_dilated`, `reduce_window`);
- `xla`: the XLA operations that `jaxcnn.kernels` chooses on a CPU (`JAXCNN_KERNELS=xla`);
- `onednn`: the native library without Winograd's algorithm, where it is installed;
- `winograd`: the default, which computes 3x3 kernels by Winograd's algorithm where that is faster.

`--layers` compares single layers. The programs take turns. A ratio compares their fastest runs, which other work on the
machine disturbs least. The second ratio compares the CPU time of all threads.
"""

import argparse
import json
import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import optax

import jaxcnn
from benchmarks.results import write
from jaxcnn import kernels
from jaxcnn.layers import Conv, MaxPool
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.probes import machine
from jaxcnn.train.api import versions

MODELS = ("lenet5:256", "resnet20_cifar:128", "resnet50:8", "vgg16:4", "densenet121:8", "googlenet_bn:8")
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "max pool 2/2": (MaxPool(2), (64, 32, 32, 64)),
    "max pool 3/2, padding 1": (MaxPool(3, 2, 1), (8, 112, 112, 64)),
    "max pool 3/1, padding 1": (MaxPool(3, 1, 1), (8, 28, 28, 192)),
    "1x1, 64 to 256": (Conv(256, 1, use_bias=False), (8, 56, 56, 64)),
    "1x1/2, 256 to 512": (Conv(512, 1, 2, use_bias=False), (8, 56, 56, 256)),
    "3x3/2, 64 to 128": (Conv(128, 3, 2, 1, use_bias=False), (8, 32, 32, 64)),
    "3x3, 64 to 64": (Conv(64, 3, 1, 1, use_bias=False), (8, 32, 32, 64)),
    "3x3, 64 to 64, 56x56": (Conv(64, 3, 1, 1, use_bias=False), (8, 56, 56, 64)),
    "3x3, 128 to 128, 28x28": (Conv(128, 3, 1, 1, use_bias=False), (8, 28, 28, 128)),
    "3x3, 256 to 256, 14x14": (Conv(256, 3, 1, 1, use_bias=False), (8, 14, 14, 256)),
    "3x3, 512 to 512, 7x7": (Conv(512, 3, 1, 1, use_bias=False), (8, 7, 7, 512)),
    "3x3, 64 to 64, 224x224": (Conv(64, 3, 1, 1, use_bias=False), (4, 224, 224, 64)),
    "3x3, 512 to 512, 28x28": (Conv(512, 3, 1, 1, use_bias=False), (4, 28, 28, 512)),
    "3x3, 128 to 32, 28x28": (Conv(32, 3, 1, 1, use_bias=False), (8, 28, 28, 128)),
    "5x5, 6 to 16": (Conv(16, 5, use_bias=False), (256, 14, 14, 6)),
    "7x7/2, 3 to 64": (Conv(64, 7, 2, 3, use_bias=False), (4, 224, 224, 3)),
    "3x3 depthwise, 64": (Conv(64, 3, 1, 1, feature_group_count=64, use_bias=False), (8, 32, 32, 64)),
    "3x3 dilation 2, 64": (Conv(64, 3, 1, 2, kernel_dilation=2, use_bias=False), (8, 32, 32, 64)),
    "3x3 in 32 groups, 128": (Conv(128, 3, 1, 1, feature_group_count=32, use_bias=False), (8, 28, 28, 128)),
}


def kinds() -> tuple[str, ...]:
    """Return the kinds of program that this machine can run."""
    return ("plain", "xla") if kernels.describe() == "XLA" else ("plain", "xla", "onednn", "winograd")


@contextmanager
def forms(kind: str) -> Iterator[None]:
    """Trace and compile the layers within the context in the forms of this kind."""
    with ExitStack() as stack:
        match kind:
            case "plain":
                stack.enter_context(kernels.inlined())
            case "xla":
                stack.enter_context(kernels.use("xla"))
            case "onednn":
                stack.enter_context(jax.default_matmul_precision("highest"))
        yield


def train_step(name: str, batch: int, size: int | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One update of a registered model by SGD with momentum, and what it is called with."""
    model = jaxcnn.create_model(name)
    shape = natural_image_shape(name)
    x = jax.random.normal(jax.random.key(0), (batch, *((size, size) if size else shape[:2]), shape[2]))
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    variables = jax.jit(lambda rngs, x: model.init(rngs, x, train=False))(rngs, x[:1])
    params = variables.pop("params")
    optimizer = optax.sgd(0.01, 0.9)

    def step(params: Any, state: Any, moments: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            collections = [*state, "aux_logits"]
            logits, new = model.apply({"params": params, **state}, x, train=True, rngs=rngs, mutable=collections)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), {key: new[key] for key in state}

        (value, new_state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, new_moments = optimizer.update(gradients, moments)
        return optax.apply_updates(params, updates), new_state, new_moments, value

    return step, (params, variables, optimizer.init(params), x)


def layer_step(layer: Any, shape: tuple[int, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A layer's output and the gradients of all that goes into it."""
    x = jax.random.normal(jax.random.key(0), shape)
    variables = layer.init(jax.random.key(1), x)
    g = jax.random.normal(jax.random.key(2), jax.eval_shape(layer.apply, variables, x).shape)

    def step(variables: Any, x: jax.Array, g: jax.Array) -> Any:
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, pull(g)

    return step, (variables, x, g)


def compare(case: str, step: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    """Milliseconds of each kind, and how many times as fast as the plain one it is."""
    programs, compile_seconds = {}, {}
    for kind in kinds():
        with forms(kind):
            started = time.perf_counter()
            # A function of its own, or JAX would take the program traced before.
            programs[kind] = jax.jit(lambda *a: step(*a)).lower(*arguments).compile()
            compile_seconds[kind] = round(time.perf_counter() - started, 2)
    wall: dict[str, list[float]] = {kind: [] for kind in programs}
    processor: dict[str, list[float]] = {kind: [] for kind in programs}
    for turn in range(rounds + 1):
        for kind, program in programs.items():
            started, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*arguments))
            if turn:  # the first is to warm up
                wall[kind].append(1e3 * (time.perf_counter() - started))
                processor[kind].append(1e3 * (time.process_time() - used))
    best, least = ({kind: min(values) for kind, values in of.items()} for of in (wall, processor))
    return {
        "case": case,
        "ms": {kind: round(value, 2) for kind, value in best.items()},
        "times_as_fast": {kind: round(best["plain"] / value, 2) for kind, value in best.items()},
        "median_ms": {kind: round(statistics.median(values), 2) for kind, values in wall.items()},
        "less_processor_time": {kind: round(least["plain"] / value, 2) for kind, value in least.items()},
        "compile_seconds": compile_seconds,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="convolutions and pooling on a CPU against the plain forms")
    parser.add_argument("--models", nargs="*", default=MODELS, help="name:batch or name:batch:size")
    parser.add_argument(
        "--layers", nargs="*", help="compare single layers: those whose names contain one of these words, or all"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the results (default: they are only printed)")
    arguments = parser.parse_args()
    cases: list[tuple[str, Any]] = []
    if arguments.layers is not None:
        wanted = arguments.layers or [""]
        cases += [(name, layer_step(*layer)) for name, layer in LAYERS.items() if any(w in name for w in wanted)]
    else:
        for text in arguments.models:
            name, batch, *size = text.split(":")
            cases.append((text, train_step(name, int(batch), int(size[0]) if size else None)))
    header = f"jax {jax.__version__}, {os.cpu_count()} cores, convolutions by {kernels.describe()}"
    if not arguments.json:
        print(header)
    rows = []
    for case, (step, values) in cases:
        row = compare(case, step, values, arguments.rounds)
        flag = "--models" if arguments.layers is None else "--layers"
        row["command"] = f"python -m benchmarks.convolution {flag} {shlex.quote(case)} --rounds {arguments.rounds}"
        rows.append(row)
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            ratios = "; ".join(
                f"{kind} {ratio} times as fast, {row['less_processor_time'][kind]} in CPU time"
                for kind, ratio in row["times_as_fast"].items()
                if kind != "plain"
            )
            print(f"{case}: {ratios}; ms {row['ms']}; load {row['load']}", flush=True)
    if arguments.out is not None:
        write(arguments.out, "Convolutions and pooling on a CPU", rows, table(rows), environment=environment())


def environment() -> dict[str, Any]:
    """Return the device and the versions of a measurement."""
    return {"device": machine.device_name(jax.devices()[0]), "kernels": kernels.describe(), "versions": versions()}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: the shortest time of each form, and the ratio to the plain form."""
    kinds = [kind for kind in rows[0]["ms"] if kind != "plain"]
    here = environment()
    lines = [
        f"Measured on {here['device']}, with jax {here['versions']['jax']} and convolutions by {here['kernels']}. "
        "Each time is the shortest of all rounds, for the output and all gradients.",
        "",
        f"| layer or model | plain, ms | {' | '.join(f'{kind}, ms | plain / {kind}' for kind in kinds)} |",
        f"| --- | ---: |{' ---: | ---: |' * len(kinds)}",
    ]
    for row in rows:
        cells = [f"{row['ms'][kind]} | {row['times_as_fast'][kind]}" for kind in kinds]
        lines.append(f"| {row['case']} | {row['ms']['plain']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
