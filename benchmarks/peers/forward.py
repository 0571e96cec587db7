"""Compare the time of a forward pass with that of other libraries and runtimes, in turns.

    python -m benchmarks.peers.forward [--models resnet50,googlenet_bn] [--batch-sizes 1,8] [--dtypes float32]

Frozen and unfrozen jaxcnn, torch, compiled torch, ONNX Runtime and OpenVINO each run in a process of their own. The
runtimes read the ONNX file that `jaxcnn.export` makes of the same network. Weights are random. ONNX Runtime has no
bfloat16 on a CPU, and computes in float32. Do not run anything else on the machine.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS, TORCH, NotInstalledError, Peer, python_for
from benchmarks.peers.turns import PeerError, Turn, alternate
from benchmarks.results import RESULTS, write
from benchmarks.suite import numbers, words
from jaxcnn.errors import unknown_name
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.probes import machine

BASELINE = "jaxcnn-frozen"


def _peer(name: str, library: str, requirements: tuple[str, ...] | None = None, **options: object) -> Peer:
    chosen = (("library", library), *options.items())
    return Peer(name, "inference", (library,), requirements, library, chosen)


PEERS = {
    peer.name: peer
    for peer in (
        _peer(BASELINE, "jaxcnn", frozen=True),
        _peer("jaxcnn", "jaxcnn", frozen=False),
        _peer("torch", "torch", TORCH, compile=False),
        _peer("torch-compiled", "torch", TORCH, compile=True),
        _peer("onnxruntime", "onnxruntime", ("onnxruntime", "numpy")),
        _peer("openvino", "openvino", ("openvino", "numpy")),
    )
}


def onnx_file(model: str, batch: int, image_shape: tuple[int, ...], folder: Path) -> Path:
    """Write a registered model with random weights as ONNX, and return the path."""
    import jax
    import jax.numpy as jnp

    from jaxcnn import kernels
    from jaxcnn.export import freeze
    from jaxcnn.export._onnx.translate import translate
    from jaxcnn.models import create_model

    network = create_model(model)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))()
    frozen = freeze(network, variables)
    with kernels.inlined():
        found = translate(lambda _, x: frozen(x), {}, images, input_name="images", output_name="logits")
    path = folder / f"{model}-{batch}.onnx"
    path.write_bytes(found.SerializeToString())
    return path


def compare(task: dict[str, Any], names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each library: the median time, and its ratio to that of frozen jaxcnn over the rounds."""
    rows: dict[str, dict[str, Any]] = {name: {"peer": name, **task, "error": None} for name in names}
    turns: dict[str, Turn] = {}
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = onnx_file(task["model"], task["batch_size"], task["image_shape"], Path(folder))
        try:
            for name in names:
                peer = PEERS[name]
                try:
                    python = python_for(peer, arguments.environments, here=arguments.here, install=arguments.install)
                    turns[name] = Turn(python, peer.module, {**task, "file": str(file), **dict(peer.options)})
                    rows[name] |= turns[name].read(arguments.timeout)
                except (NotInstalledError, PeerError) as error:
                    rows[name]["error"] = str(error)
                    if name in turns:
                        turns.pop(name).close()
            estimates = {name: rows[name]["estimate"] for name in turns}
            samples = {name: [] for name in turns}
            for _, name, result in alternate(turns, estimates, arguments.rounds, arguments.seconds, arguments.timeout):
                if isinstance(result, PeerError):
                    rows[name]["error"] = str(result)
                else:
                    samples[name].append(result)
        finally:
            for turn in turns.values():
                turn.close()
    for name, seconds in samples.items():
        row, ours = rows[name], samples.get(BASELINE, [])
        row["device_kind"] = machine.host_name()
        if seconds and not row["error"]:
            row["forward_ms"] = 1e3 * statistics.median(seconds)
            row["samples_ms"] = [round(1e3 * sample, 4) for sample in seconds]
            if len(ours) == len(seconds):
                # Load on the machine affects both samples of a round, so it mostly cancels in their ratio.
                ratios = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
                row["ratio"], row["ratio_low"], row["ratio_high"] = statistics.median(ratios), min(ratios), max(ratios)
    return list(rows.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = ["model", "batch", "dtype", "library", "ms", "time / frozen jaxcnn's", "minimum-maximum", "versions"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["model"], str(row["batch_size"]), row["dtype"], row["peer"]]
        if row["error"]:
            cells += ["", "", "", row["error"]]
        else:
            has_ratio = "ratio" in row
            cells.append(f"{row['forward_ms']:.1f}" if "forward_ms" in row else "")
            cells.append(f"{row['ratio']:.2f}" if has_ratio else "")
            cells.append(f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}" if has_ratio else "")
            cells.append(row["versions"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.forward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = "resnet50,googlenet_bn,densenet121,vgg16"
    flags.add_argument("--models", type=words, default=models, help="model names (default: %(default)s)")
    flags.add_argument("--batch-sizes", type=numbers, default="1,8", help="images per call (default: %(default)s)")
    flags.add_argument("--dtypes", type=words, default="float32", help="float32, bfloat16 (default: %(default)s)")
    flags.add_argument("--peers", type=words, default=",".join(PEERS), help="libraries (default: %(default)s)")
    flags.add_argument("--rounds", type=int, default=7, help="number of rounds (default: %(default)s)")
    flags.add_argument("--seconds", type=float, default=1.0, help="seconds of a turn (default: %(default)s)")
    flags.add_argument("--timeout", type=float, default=600.0, help="time limit in seconds (default: %(default)s)")
    flags.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, help="folder (default: %(default)s)")
    flags.add_argument("--here", action="store_true", help="run all libraries in this Python environment")
    flags.add_argument("--no-install", dest="install", action="store_false", help="skip what is not installed")
    flags.add_argument("--out", type=Path, default=RESULTS / "inference", help="folder (default: %(default)s)")
    arguments = flags.parse_args(args)
    for name in arguments.peers:
        if name not in PEERS:
            flags.error(str(unknown_name("library", name, PEERS)))
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        for batch in arguments.batch_sizes:
            for dtype in arguments.dtypes:
                shape = natural_image_shape(model)
                task = {"model": model, "batch_size": batch, "dtype": dtype, "image_shape": shape}
                rows += compare(task, list(arguments.peers), arguments)
                write(arguments.out, "Inference: a forward pass in other libraries and runtimes", rows, table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
