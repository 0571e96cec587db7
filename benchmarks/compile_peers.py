"""Compare how long jaxcnn and plain Flax take to trace and to compile a training step of the same network.

    python -m benchmarks.compile_peers [--models densenet121,resnet152] [--batch-size 2] [--rounds 3]

Each compilation runs in a fresh process without a cache. jaxcnn, jaxcnn with XLA's convolutions instead of oneDNN's,
and plain Flax (`benchmarks/peers/flax_linen.py`) take turns. The results are wall-clock time and CPU time in seconds;
other work on the machine affects CPU time less. Each model has its own folder of results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, write

PEERS = Path(__file__).parent / "peers"
STAGES = ("trace", "lower", "xla")
LIBRARIES = {"jaxcnn": {}, "jaxcnn without oneDNN": {"JAXCNN_KERNELS": "xla"}, "flax": {}}
"""The compared libraries and their environment variables."""


def compile_step(library: str, model: str, batch: int) -> dict[str, Any]:
    """Trace, lower and compile a training step in this process.

    Returns:
      Seconds of each stage and of all stages together, as wall-clock time ("trace") and as CPU time ("trace_cpu"); the
      version of JAX; and the device.
    """
    import jax

    from jaxcnn.measure.probes import machine

    step, args = (_flax if library == "flax" else _ours)(model, batch)
    seconds: dict[str, float] = {}

    def time_stage(stage: str, action: Callable[[], Any]) -> Any:
        started, cpu_started = time.perf_counter(), time.process_time()
        result = action()
        seconds[stage], seconds[f"{stage}_cpu"] = time.perf_counter() - started, time.process_time() - cpu_started
        return result

    if hasattr(step, "trace"):
        traced = time_stage("trace", lambda: step.trace(*args))
        lowered = time_stage("lower", traced.lower)
    else:  # `pmap` traces and lowers in one call
        lowered = time_stage("trace", lambda: step.lower(*args))
        seconds["lower"] = seconds["lower_cpu"] = 0.0
    time_stage("xla", lowered.compile)
    for unit in ("", "_cpu"):
        seconds["total" + unit] = sum(seconds[stage + unit] for stage in STAGES)
    return {**seconds, "jax": jax.__version__, "device": machine.device_name(jax.devices()[0])}


def _ours(model: str, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """Return jaxcnn's training step and its arguments."""
    import jax
    import optax

    from jaxcnn.measure import Case
    from jaxcnn.measure.probes.program import OPTIMIZER, build_model, choose_devices, make_step, random_batch
    from jaxcnn.train import create_state, make_optimizer, make_parallel

    case = Case(model, batch, devices=1)
    parallel, network = make_parallel(case.parallel, choose_devices(1)), build_model(case)
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    state = jax.eval_shape(lambda: create_state(network, optimizer, case.image_shape, seed=0))
    images = parallel.place_batch(random_batch(case, getattr(network, "num_classes", 10)))
    return make_step(case, network, optimizer, parallel), (state, images)


def _flax(model: str, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """Return plain Flax's training step and its arguments."""
    import jax

    sys.path.insert(0, str(PEERS))
    import flax_linen  # pyright: ignore[reportMissingImports]
    import task  # pyright: ignore[reportMissingImports]

    from jaxcnn.measure.case import natural_image_shape

    request = {"model": model, "batch_size": batch, "dtype": "float32", "image_shape": natural_image_shape(model)}
    initialize, step = flax_linen.training(request)
    return step, (jax.eval_shape(initialize), *task.batch(request))


def compare(model: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each library: medians over the rounds, and the total divided by that of plain Flax."""
    samples: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    for number in range(rounds):
        order = list(LIBRARIES) if number % 2 == 0 else list(reversed(LIBRARIES))
        for library in order:
            environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **LIBRARIES[library]}
            command = [sys.executable, "-m", "benchmarks.compile_peers", "--child", library, model, str(batch)]
            process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            samples[library].append(json.loads(process.stdout.splitlines()[-1]))
    names = [stage + unit for unit in ("", "_cpu") for stage in (*STAGES, "total")]
    medians = {
        library: {name: statistics.median(sample[name] for sample in samples[library]) for name in names}
        for library in LIBRARIES
    }
    rows = []
    for library, seconds in medians.items():
        row: dict[str, Any] = {"model": model, "batch_size": batch, "library": library, "rounds": rounds}
        row |= {name: round(seconds[name], 2) for name in names}
        for unit in ("", "_cpu"):
            row[f"of_flax{unit}"] = round(seconds[f"total{unit}"] / medians["flax"][f"total{unit}"], 3)
        for unit in ("", "_cpu"):
            row[f"totals{unit}"] = [round(sample[f"total{unit}"], 2) for sample in samples[library]]
        row |= {name: samples[library][0][name] for name in ("jax", "device")}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table of wall-clock time / CPU time in seconds."""
    lines = ["| library | trace | lower | XLA | total | total / total of flax |", "| --- |" + " ---: |" * 5]
    for row in rows:
        stages = [f"{row[name]:.1f} / {row[name + '_cpu']:.1f}" for name in (*STAGES, "total")]
        ratio = f"{row['of_flax']:.2f} / {row['of_flax_cpu']:.2f}"
        lines.append("| " + " | ".join([row["library"], *stages, ratio]) + " |")
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--models", default="densenet121,resnet152", help="model names (default: %(default)s)")
    flags.add_argument("--batch-size", type=int, default=2, help="images per step (default: %(default)s)")
    flags.add_argument("--rounds", type=int, default=3, help="compilations per library (default: %(default)s)")
    flags.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "compile_peers",
        help="folder for the results, one subfolder per model (default: %(default)s)",
    )
    flags.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = flags.parse_args(args)
    if arguments.child:
        library, model, batch = arguments.child
        print(json.dumps(compile_step(library, model, int(batch))))
        return 0
    for model in arguments.models.split(","):
        rows = compare(model, arguments.batch_size, arguments.rounds)
        title = f"Compile time of a training step of {model}, batch {arguments.batch_size}"
        header = f"Wall-clock time / CPU time in seconds, medians of {arguments.rounds} compilations."
        markdown = f"{header}\n\n{table(rows)}"
        print(f"{title}\n{markdown}", flush=True)
        write(arguments.out / model, title, rows, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
