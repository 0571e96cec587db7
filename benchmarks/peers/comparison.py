"""Measure one task in every library, in turns."""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.libraries import NotInstalledError, Peer, python_for
from benchmarks.peers.turns import PeerError, Turn, alternate
from jaxcnn.measure.probes import machine

READ_ONNX = ("onnxruntime", "openvino")
"""Libraries that read the network from a file."""


def compare(
    task: dict[str, Any], chosen: Sequence[Peer], baseline: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure one task in every library.

    Args:
      task: what the libraries compute: "model", "mode", "batch_size", "dtype" and "image_shape".
      chosen: the libraries, in the order of their turns.
      baseline: name of the library to which the times of the others are relative.
      arguments: the command-line arguments.

    Returns:
      A row for each library: the median time of a step or forward pass and, if the baseline is one of the libraries,
      the time relative to it as median, minimum and maximum over the rounds. A library that fails has an "error"
      instead.
    """
    rows: dict[str, dict[str, Any]] = {peer.name: {"peer": peer.name, **task, "error": None} for peer in chosen}
    with _file(task, chosen, rows) as file, _turns(task, chosen, rows, file, arguments) as turns:
        samples: dict[str, list[float]] = {name: [] for name in turns}
        estimates = {name: rows[name]["estimate"] for name in turns}
        for number, name, result in alternate(turns, estimates, arguments.rounds, arguments.seconds, arguments.timeout):
            if isinstance(result, PeerError):
                rows[name]["error"] = str(result)
            else:
                samples[name].append(result)
                print(f"  round {number + 1} {name}: {1e3 * result:.2f} ms", file=sys.stderr, flush=True)
    for name, row in rows.items():
        row.pop("estimate", None)
        if row.get("device_kind", "cpu") == "cpu":
            row["device_kind"] = machine.host_name()
            if task["dtype"] == "bfloat16":
                row["bfloat16"] = bfloat16_support()
        if samples.get(name) and not row["error"]:
            row |= _times(samples[name], samples.get(baseline, []), task["batch_size"])
    return list(rows.values())


@contextlib.contextmanager
def _file(task: dict[str, Any], chosen: Sequence[Peer], rows: dict[str, dict[str, Any]]) -> Iterator[Path | None]:
    """Write the network for the libraries that read it from a file; return the path, or None if there are none."""
    readers = [peer.name for peer in chosen if task["mode"] == "inference" and peer.name in READ_ONNX]
    if not readers:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            path.write_bytes(onnx(task["model"], task["batch_size"], task["image_shape"]))
        except Exception as error:
            for name in readers:
                rows[name]["error"] = f"no ONNX file: {error}".splitlines()[0][:300]
        yield path


def onnx(model: str, batch: int, image_shape: tuple[int, ...]) -> bytes:
    """Return a registered model with random weights, frozen, as ONNX for batches of this size."""
    import jax
    import jax.numpy as jnp

    from benchmarks.peers.ours import VARIANTS
    from jaxcnn import kernels
    from jaxcnn.export import freeze
    from jaxcnn.export._onnx.translate import translate
    from jaxcnn.models import create_model

    name, options = VARIANTS.get(model, (model, {}))
    network = create_model(name, **options)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))()
    frozen = freeze(network, variables)
    with kernels.inlined():
        found = translate(lambda _, x: frozen(x), {}, images, input_name="images", output_name="logits")
    jax.clear_caches()  # which hold the weights
    return found.SerializeToString()


@contextlib.contextmanager
def _turns(
    task: dict[str, Any],
    chosen: Sequence[Peer],
    rows: dict[str, dict[str, Any]],
    file: Path | None,
    arguments: argparse.Namespace,
) -> Iterator[dict[str, Turn]]:
    """Start the process of each library, and add what it reports about itself, or why it fails, to its row."""
    turns: dict[str, Turn] = {}
    try:
        for peer in chosen:  # libraries compile one at a time, so that compile times are comparable
            row = rows[peer.name]
            options = {"compile": False, **dict(peer.options), "file": file and str(file)}
            try:
                if not row["error"]:
                    python = python_for(peer, arguments.environments, here=arguments.here, install=arguments.install)
                    turn = turns[peer.name] = Turn(python, peer.module, {**task, **options})
                    row |= turn.read(arguments.timeout)
            except (NotInstalledError, PeerError) as error:
                row["error"] = str(error)
            print(f"  {peer.name}: {row['error'] or 'ready'}", file=sys.stderr, flush=True)
        check_same_network(rows)
        for name in list(turns):
            if rows[name]["error"]:
                turns.pop(name).close()
        yield turns
    finally:
        for turn in turns.values():
            turn.close()


def _times(seconds: Sequence[float], baseline: Sequence[float], images: int) -> dict[str, Any]:
    median = statistics.median(seconds)
    row: dict[str, Any] = {"step_ms": 1e3 * median, "images_per_second": images / median}
    row["samples_ms"] = [round(1e3 * sample, 4) for sample in seconds]
    if len(baseline) == len(seconds):
        # Load on the machine affects both samples of a round, so it mostly cancels in their ratio.
        ratios = [theirs / ours for theirs, ours in zip(seconds, baseline, strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    return row


def check_same_network(rows: dict[str, dict[str, Any]]) -> None:
    """Set an error for every library whose network has another number of parameters than jaxcnn's."""
    counts = {name: row["params"] for name, row in rows.items() if "params" in row}
    expected = counts.get("jaxcnn", max(counts.values(), default=0))
    for name, count in counts.items():
        if count != expected:
            rows[name]["error"] = f"different network: {count:,} parameters instead of {expected:,}"


def bfloat16_support(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return in a few words which instructions for bfloat16 this machine's processor has."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "bfloat16 instructions unknown"
    # x86 and ARM name the line differently.
    flags = next((set(line.split()) for line in lines if line.lower().startswith(("flags", "features"))), set())
    if "amx_bf16" in flags:
        return "amx_bf16"
    if "avx512_bf16" in flags:
        return "avx512_bf16, no AMX"
    return "bf16" if "bf16" in flags else "no bfloat16 instructions: computed in float32"
