"""`python -m benchmarks.peers`: see the package's docstring."""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS, PEERS, NotInstalledError, Peer, python_for
from benchmarks.peers.task import MODELS, RESNETS
from benchmarks.peers.turns import PeerError, Turn, alternate
from benchmarks.results import RESULTS, write
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.columns import shown
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
    """The rows of one task: every peer's median, and its speed over jaxcnn's, round by round."""
    rows = {peer.name: {"peer": peer.name, **task, "error": None} for peer in chosen}
    turns: dict[str, Turn] = {}
    try:
        for peer in chosen:  # one after another, so that compile times stand beside each other too
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
        turns = {name: turn for name, turn in turns.items() if not rows[name]["error"] or turn.close()}
        samples: dict[str, list[float]] = {name: [] for name in turns}
        estimates = {name: rows[name].pop("estimate") for name in turns}
        for number, name, taken in alternate(turns, estimates, arguments.rounds, arguments.seconds, arguments.timeout):
            if isinstance(taken, PeerError):
                rows[name]["error"] = str(taken)
            else:
                samples[name].append(taken)
                print(f"  round {number + 1} {name}: {1e3 * taken:.2f} ms", file=sys.stderr, flush=True)
    finally:
        for turn in turns.values():
            turn.close()
    ours = samples.get("jaxcnn", [])
    for name, row in rows.items():
        row.pop("estimate", None)
        row.setdefault("device_kind", machine.host_name())
        if row["device_kind"] == "cpu":
            row["device_kind"] = machine.host_name()
        taken = samples.get(name, [])
        if taken and not row["error"]:
            row["step_ms"] = 1e3 * statistics.median(taken)
            row["images_per_second"] = task["batch_size"] / statistics.median(taken)
            row["samples_ms"] = [round(1e3 * s, 4) for s in taken]
            if len(ours) == len(taken):
                # Of one round both, so that a busy minute of the machine is in both.
                ratios = [theirs / mine for theirs, mine in zip(taken, ours, strict=True)]
                row["ratio"], row["ratio_low"], row["ratio_high"] = statistics.median(ratios), min(ratios), max(ratios)
    return list(rows.values())


def image_shape(model: str) -> tuple[int, int, int]:
    """(H, W, C) of the images that a model was made for."""
    return (32, 32, 3) if RESNETS.get(model, {}).get("small") else natural_image_shape(model)


def _check_same_network(rows: dict[str, dict[str, Any]]) -> None:
    """A peer with another number of parameters runs another network; its times would mean nothing."""
    counts = {name: row["params"] for name, row in rows.items() if "params" in row}
    right = counts.get("jaxcnn", max(counts.values(), default=0))
    for name, count in counts.items():
        if count != right:
            rows[name]["error"] = f"another network: {count:,} parameters in place of {right:,}"


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each task."""
    lines = []
    for key in dict.fromkeys((r["model"], r["batch_size"], r["dtype"]) for r in rows):
        group = [r for r in rows if (r["model"], r["batch_size"], r["dtype"]) == key]
        height, width, _ = group[0]["image_shape"]
        lines.append(
            f"\n**{key[0]}**, batch {key[1]} of {height}x{width}, {key[2]}, training step, {group[0]['device_kind']}\n"
        )
        lines.append("| library | step ms | images/s | time by jaxcnn's | range of it | compile s | versions |")
        lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for row in group:
            if row["error"]:
                lines.append(f"| {row['peer']} | | | | | | {row['error']} |")
                continue
            ratio = f"{row['ratio']:.2f} | {row['ratio_low']:.2f}-{row['ratio_high']:.2f}" if "ratio" in row else " | "
            lines.append(
                f"| {row['peer']} | {row['step_ms']:.1f} | {shown(row, 'images_per_second')} | {ratio} "
                f"| {row['compile_seconds']:.1f} | {row['versions']} |"
            )
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--models", default="lenet5,resnet20_cifar,resnet18,resnet50", help=", ".join(MODELS))
    parser.add_argument("--batch-size", type=int, help="in place of " + str(DEFAULT_BATCH))
    parser.add_argument("--image-size", type=int, help="height and width (default: the model's)")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--peers", default=",".join(p.name for p in PEERS), help="in which order they take turns")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn; one step at least")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a peer to compile, or for a turn")
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, help="folder of their environments")
    parser.add_argument("--here", action="store_true", help="run all of them in this environment")
    parser.add_argument("--no-install", dest="install", action="store_false", help="make no environment")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers")
    arguments = parser.parse_args(args)

    known = {peer.name: peer for peer in PEERS}
    names, models = arguments.peers.split(","), arguments.models.split(",")
    for given, choices in ((names, known), (models, MODELS)):
        for name in given:
            if name not in choices:
                parser.error(f"unknown {name!r}; known: {', '.join(choices)}")
    rows: list[dict[str, Any]] = []
    for model in models:
        height, width, channels = image_shape(model)
        size = arguments.image_size if model != "lenet5" else None
        shape = (size or height, size or width, channels)
        for dtype in arguments.dtypes.split(","):
            batch = arguments.batch_size or DEFAULT_BATCH[model]
            task = {"model": model, "batch_size": batch, "dtype": dtype, "image_shape": shape}
            print(f"{model} {dtype} batch {batch}", file=sys.stderr, flush=True)
            rows += compare_peers(task, [known[name] for name in names], arguments)
            write(arguments.out, "Peers: the same training step in other libraries", rows, to_markdown(rows))
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
