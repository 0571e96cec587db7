"""Run the comparison: `python -m benchmarks.peers`. The docstring of the package describes it."""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import benchmarks.peers
from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS, PEERS, NotInstalledError, Peer, python_for
from benchmarks.peers.task import MODELS, RESNETS
from benchmarks.peers.turns import PeerError, Turn, alternate
from benchmarks.results import RESULTS, write
from jaxcnn.errors import unknown_name
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.columns import format_value
from jaxcnn.measure.probes import machine

DEFAULT_BATCH = {
    "lenet5": 256,
    "resnet20_cifar": 128,
    "resnet18": 16,
    "resnet18_small_stem": 64,
    "resnet50": 8,
    "resnet152": 4,
    "vgg16": 4,
    "densenet121": 8,
    "googlenet_bn": 8,
}


def compare_peers(task: dict[str, Any], chosen: list[Peer], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one training step in every library.

    Args:
      task: the training step: "model", "batch_size", "dtype" and "image_shape".
      chosen: the libraries, in the order of their turns.
      arguments: the command-line arguments.

    Returns:
      A row for each library: the median step time and, if jaxcnn is one of them, the step time relative to jaxcnn as
      median, minimum and maximum over the rounds. A library that fails has an "error" instead.
    """
    rows: dict[str, dict[str, Any]] = {peer.name: {"peer": peer.name, **task, "error": None} for peer in chosen}
    turns: dict[str, Turn] = {}
    try:
        for peer in chosen:  # libraries compile one at a time, so that compile times are comparable
            row = rows[peer.name]
            try:
                python = python_for(peer, arguments.environments, here=arguments.here, install=arguments.install)
                turn = turns[peer.name] = Turn(python, peer.module, {**task, "compile": False, **dict(peer.options)})
                row |= turn.read(arguments.timeout)
            except (NotInstalledError, PeerError) as error:
                row["error"] = str(error)
                if peer.name in turns:
                    turns.pop(peer.name).close()
            print(f"  {peer.name}: {row['error'] or 'ready'}", file=sys.stderr, flush=True)
        _check_same_network(rows)
        for name in list(turns):
            if rows[name]["error"]:
                turns.pop(name).close()
        samples: dict[str, list[float]] = {name: [] for name in turns}
        estimates = {name: rows[name]["estimate"] for name in turns}
        for number, name, result in alternate(turns, estimates, arguments.rounds, arguments.seconds, arguments.timeout):
            if isinstance(result, PeerError):
                rows[name]["error"] = str(result)
            else:
                samples[name].append(result)
                print(f"  round {number + 1} {name}: {1e3 * result:.2f} ms", file=sys.stderr, flush=True)
    finally:
        for turn in turns.values():
            turn.close()
    baseline = samples.get("jaxcnn", [])
    for name, row in rows.items():
        row.pop("estimate", None)
        if row.get("device_kind", "cpu") == "cpu":
            row["device_kind"] = machine.host_name()
        seconds = samples.get(name, [])
        if seconds and not row["error"]:
            median = statistics.median(seconds)
            row["step_ms"] = 1e3 * median
            row["images_per_second"] = task["batch_size"] / median
            row["samples_ms"] = [round(1e3 * sample, 4) for sample in seconds]
            if len(baseline) == len(seconds):
                # Load on the machine affects both samples of a round, so it mostly cancels in their ratio.
                ratios = [theirs / ours for theirs, ours in zip(seconds, baseline, strict=True)]
                row["ratio"], row["ratio_low"], row["ratio_high"] = statistics.median(ratios), min(ratios), max(ratios)
    return list(rows.values())


def image_shape(model: str) -> tuple[int, int, int]:
    """Return the image shape `(H, W, C)` of a model's dataset."""
    return (32, 32, 3) if RESNETS.get(model, {}).get("small") else natural_image_shape(model)


def _check_same_network(rows: dict[str, dict[str, Any]]) -> None:
    """Set an error for every library whose network has another number of parameters than jaxcnn's."""
    counts = {name: row["params"] for name, row in rows.items() if "params" in row}
    expected = counts.get("jaxcnn", max(counts.values(), default=0))
    for name, count in counts.items():
        if count != expected:
            rows[name]["error"] = f"different network: {count:,} parameters instead of {expected:,}"


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return one Markdown table for each training step."""
    lines = []
    for model, batch, dtype in dict.fromkeys((r["model"], r["batch_size"], r["dtype"]) for r in rows):
        group = [r for r in rows if (r["model"], r["batch_size"], r["dtype"]) == (model, batch, dtype)]
        height, width, _ = group[0]["image_shape"]
        lines.append(
            f"\n**{model}**, training step, batch {batch} of {height}x{width}, {dtype}, {group[0]['device_kind']}\n"
        )
        lines.append("| library | step ms | images/s | step time / jaxcnn's | minimum-maximum | compile s | versions |")
        lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for row in group:
            if row["error"]:
                lines.append(f"| {row['peer']} | | | | | | {row['error']} |")
                continue
            ratio = " | "
            if "ratio" in row:
                ratio = f"{row['ratio']:.2f} | {row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
            lines.append(
                f"| {row['peer']} | {row['step_ms']:.1f} | {format_value(row, 'images_per_second')} | {ratio} "
                f"| {row['compile_seconds']:.1f} | {row['versions']} |"
            )
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=benchmarks.peers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", default="lenet5,resnet20_cifar,resnet18,resnet50", help=f"any of: {', '.join(MODELS)}"
    )
    batches = ", ".join(f"{model} {batch}" for model, batch in DEFAULT_BATCH.items())
    parser.add_argument("--batch-size", type=int, help=f"images per step (default: {batches})")
    parser.add_argument(
        "--image-size", type=int, help="image height and width, except for lenet5 (default: the model's dataset)"
    )
    parser.add_argument("--dtypes", default="float32", help="float32, bfloat16, float16 (default: %(default)s)")
    parser.add_argument(
        "--peers",
        default=",".join(peer.name for peer in PEERS),
        help="libraries, in the order of their turns (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="approximate duration of a turn, which has at least one step (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="time limit in seconds for compiling and for a turn (default: %(default)s)",
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=DEFAULT_ENVIRONMENTS,
        help="folder for the libraries' virtual environments (default: %(default)s)",
    )
    parser.add_argument("--here", action="store_true", help="run all libraries in this Python environment")
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="skip libraries that are not installed"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "peers", help="folder for the results (default: %(default)s)"
    )
    arguments = parser.parse_args(args)

    libraries = {peer.name: peer for peer in PEERS}
    names, models = arguments.peers.split(","), arguments.models.split(",")
    for kind, given, known in (("library", names, libraries), ("model", models, MODELS)):
        for name in given:
            if name not in known:
                parser.error(str(unknown_name(kind, name, known)))
    rows: list[dict[str, Any]] = []
    for model in models:
        height, width, channels = image_shape(model)
        size = arguments.image_size if model != "lenet5" else None
        shape = (size or height, size or width, channels)
        for dtype in arguments.dtypes.split(","):
            batch = arguments.batch_size or DEFAULT_BATCH[model]
            task = {"model": model, "batch_size": batch, "dtype": dtype, "image_shape": shape}
            print(f"{model} {dtype} batch {batch}", file=sys.stderr, flush=True)
            rows += compare_peers(task, [libraries[name] for name in names], arguments)
            write(arguments.out, "Baselines: the same training step in other libraries", rows, to_markdown(rows))
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
