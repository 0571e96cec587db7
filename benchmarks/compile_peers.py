"""How long a training step takes to trace and to compile, ours and plain Flax's of the same network.

    python -m benchmarks.compile_peers [--models densenet121,resnet152] [--batch-size 2] [--rounds 3]

Each compilation is a process of its own, without a cache; ours, ours with XLA's convolutions in place of oneDNN's, and
Flax's (`benchmarks/peers/flax_linen.py`) take turns. Given are the seconds of the clock and those of all processors,
which other work on the machine disturbs less. Each model has a folder of results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, write

PEERS = Path(__file__).parent / "peers"
STAGES = ("trace", "lower", "xla")
LIBRARIES = {"jaxcnn": {}, "jaxcnn without oneDNN": {"JAXCNN_NATIVE": "0"}, "flax": {}}
"""What is compared, and what it needs in the environment."""


def compile_once(library: str, model: str, batch: int) -> dict[str, Any]:
    """Seconds of each stage, by the clock and (`..._cpu`) of all processors, in this process."""
    import jax

    from jaxcnn.measure.probes import machine

    step, args = (_flax if library == "flax" else _ours)(model, batch)
    seconds: dict[str, float] = {}
    program: Any = step
    for stage, advance in zip(
        STAGES,
        (lambda p: p.trace(*args) if hasattr(p, "trace") else p.lower(*args), _lowered, lambda p: p.compile()),
        strict=True,
    ):
        started, used = time.perf_counter(), time.process_time()
        program = advance(program)
        seconds[stage], seconds[f"{stage}_cpu"] = time.perf_counter() - started, time.process_time() - used
    for unit in ("", "_cpu"):
        seconds["total" + unit] = sum(seconds[stage + unit] for stage in STAGES)
    return {**seconds, "jax": jax.__version__, "device": machine.device_name(jax.devices()[0])}


def _lowered(program: Any) -> Any:
    # `pmap` traces and lowers in one.
    return program.lower() if hasattr(program, "lower") else program


def _ours(model: str, batch: int) -> tuple[Any, tuple[Any, ...]]:
    import jax
    import optax

    from jaxcnn.measure import Case
    from jaxcnn.measure.probes.program import OPTIMIZER, build_model, choose_devices, compilable, random_batch
    from jaxcnn.train import create_state, make_optimizer, make_parallel

    case = Case(model, batch, devices=1)
    parallel, network = make_parallel(case.parallel, choose_devices(1)), build_model(case)
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    state = jax.eval_shape(lambda: create_state(network, optimizer, case.image_shape, seed=0))
    images = parallel.place_batch(random_batch(case, getattr(network, "num_classes", 10)))
    return compilable(case, network, optimizer, parallel), (state, images)


def _flax(model: str, batch: int) -> tuple[Any, tuple[Any, ...]]:
    import jax

    sys.path.insert(0, str(PEERS))
    import flax_linen  # pyright: ignore[reportMissingImports]
    import task  # pyright: ignore[reportMissingImports]

    from jaxcnn.measure.case import natural_image_shape

    asked = {"model": model, "batch_size": batch, "dtype": "float32", "image_shape": natural_image_shape(model)}
    initialize, step = flax_linen.training(asked)
    return step, (jax.eval_shape(initialize), *task.batch(asked))


def compare(model: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each library: medians over the rounds, and their share of Flax's."""
    taken: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    for turn in range(rounds):
        for library in [*LIBRARIES] if turn % 2 == 0 else [*LIBRARIES][::-1]:
            environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **LIBRARIES[library]}
            command = [sys.executable, "-m", "benchmarks.compile_peers", "--child", library, model, str(batch)]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            taken[library].append(json.loads(done.stdout.splitlines()[-1]))
    names = [stage + unit for unit in ("", "_cpu") for stage in (*STAGES, "total")]
    medians = {
        library: {name: statistics.median(row[name] for row in rows) for name in names}
        for library, rows in taken.items()
    }
    return [
        {
            "model": model,
            "batch_size": batch,
            "library": library,
            "rounds": rounds,
            **{name: round(seconds, 2) for name, seconds in row.items()},
            **{
                f"of_flax{unit}": round(row["total" + unit] / medians["flax"]["total" + unit], 3)
                for unit in ("", "_cpu")
            },
            "totals": [round(once["total"], 2) for once in taken[library]],
            "totals_cpu": [round(once["total_cpu"], 2) for once in taken[library]],
            **{name: taken[library][0][name] for name in ("jax", "device")},
        }
        for library, row in medians.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds by the clock / of all processors."""
    head = "| library | trace | lower | XLA | total | total by Flax's |\n| --- |" + " ---: |" * 5 + "\n"
    return head + "".join(
        f"| {row['library']} | "
        + " | ".join(f"{row[name]:.1f} / {row[name + '_cpu']:.1f}" for name in (*STAGES, "total"))
        + f" | {row['of_flax']:.2f} / {row['of_flax_cpu']:.2f} |\n"
        for row in rows
    )


def main(args: list[str] | None = None) -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--models", default="densenet121,resnet152")
    flags.add_argument("--batch-size", type=int, default=2)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--out", type=Path, default=RESULTS / "compile_peers", help="folder for a folder each model")
    flags.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = flags.parse_args(args)
    if arguments.child:
        library, model, batch = arguments.child
        print(json.dumps(compile_once(library, model, int(batch))))
        return 0
    for model in arguments.models.split(","):
        rows = compare(model, arguments.batch_size, arguments.rounds)
        title = f"Compiling a training step of {model}, batch {arguments.batch_size}"
        markdown = f"Seconds by the clock / of all processors, medians of {arguments.rounds}.\n\n{table(rows)}"
        print(f"{title}\n{markdown}", flush=True)
        write(arguments.out / model, title, rows, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
