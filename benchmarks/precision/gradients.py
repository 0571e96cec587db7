"""Error of bfloat16 gradients, compared with torch's (autocast).

    python -m benchmarks.precision.gradients [--models lenet5,resnet20_cifar,vgg11_bn,resnet18] [--batches 6]
                                             [--dtypes bfloat16] [--environments DIR] [--here] [--no-install]

Both libraries compute the gradient of the mean cross-entropy with respect to all parameters, in training mode, with the
same random initial parameters and the same images of Fashion-MNIST. No network has dropout. jaxcnn writes parameters
and batches to files, which torch reads in a process of its own. "jaxcnn" has the kernels that training has, and
"jaxcnn-xla" those of XLA alone (`JAXCNN_KERNELS=xla`). Each library's own choices are kept: the last dense layer of
jaxcnn is in float32, that of torch in bfloat16.

The reference is the gradient in float64. Torch's errors are shown only if its loss and gradients in float64 agree with
those of jaxcnn, to 1e-10 and 1e-8. The columns are

- "whole": norm of the error of all parameters' gradients together, relative to the norm of the reference;
- "median", "largest": of the relative errors of the gradient of each parameter tensor. Tensors whose reference is below
  1e-9 of the whole norm are left out: the gradient of a bias before batch normalization is 0.

Each is the mean over the batches, and "whole" has its smallest and its largest value too. The verdict is

- "no worse" if the whole error of jaxcnn is at most 1.1 times that of torch (means over the batches), or if the 95 %
  confidence interval of their difference (Student's t over the differences of each batch) does not lie above 0;
- "worse" otherwise.

Rounding changes the sign of a few units, so that errors of small networks vary by a factor of 2 between batches.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS, PEERS, NotInstalledError, python_for
from benchmarks.peers.turns import PeerError
from benchmarks.precision.networks import NETWORKS, Arrays, Network, batches, gradient, initial, to_torch
from benchmarks.results import RESULTS, write
from benchmarks.suite import words
from jaxcnn import kernels
from jaxcnn.errors import unknown_name
from jaxcnn.measure.probes import machine
from jaxcnn.train.many import Statistic

TITLE = "Error of gradients by dtype"

WORKER = Path(__file__).with_name("torch_gradients.py")
PEER_MODULES = Path(__file__).parents[1] / "peers"
"""Folder of `pytorch.py`, whose networks the worker imports without the rest of the project."""

KERNELS: dict[str, Literal["auto", "xla"]] = {"jaxcnn": "auto", "jaxcnn-xla": "xla"}

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-10, 1e-8
"""Largest relative differences of float64 losses and gradients between the libraries."""

NEGLIGIBLE = 1e-9
"""Norm of a tensor's gradient, relative to the whole norm, below which its relative error means nothing."""

NO_WORSE = 1.1
"""Ratio of the whole errors, jaxcnn to torch, up to which the verdict is "no worse" without regard to the interval."""

Batch = tuple[np.ndarray, np.ndarray]


def norm(arrays: Arrays) -> float:
    """Return the Euclidean norm of all arrays together."""
    return float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays)))


def errors(found: Arrays, reference: Arrays) -> dict[str, float]:
    """Return the relative errors of gradients: "whole", and "median" and "largest" over the tensors."""
    whole = norm(reference)
    each = [norm([x - y]) / norm([y]) for x, y in zip(found, reference, strict=True) if norm([y]) > NEGLIGIBLE * whole]
    difference = [x.astype(np.float64) - y for x, y in zip(found, reference, strict=True)]
    return {"whole": norm(difference) / whole, "median": float(np.median(each)), "largest": max(each)}


def check_same(loss: float, gradients: Arrays, reference_loss: float, reference: Arrays) -> None:
    """Check that both libraries compute the same network in float64.

    Raises:
      PeerError: if losses or gradients differ.
    """
    difference = abs(loss - reference_loss) / abs(reference_loss)
    if not difference <= LOSS_TOLERANCE:
        raise PeerError(f"float64 losses differ by {difference:.1e}: {loss!r} and {reference_loss!r}")
    difference = errors(gradients, reference)["whole"]
    if not difference <= GRADIENT_TOLERANCE:
        raise PeerError(f"float64 gradients differ by {difference:.1e} of their norm")


def by_torch(
    network: Network, parameters: Arrays, given: list[Batch], references: list[Any], arguments: argparse.Namespace
) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Return the errors of torch's gradients for each batch, by dtype, and torch's version.

    Raises:
      NotInstalledError: if torch is not installed.
      PeerError: if torch fails, or computes another network.
    """
    peer = next(peer for peer in PEERS["train"] if peer.name == "torch")
    python = python_for(peer, arguments.environments, here=arguments.here, install=arguments.install)
    found: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in arguments.dtypes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_number: Any = {str(number): x for number, x in enumerate(parameters)}
        np.savez(folder / "parameters.npz", **by_number)
        for number, (images, labels) in enumerate(given):
            np.savez(folder / f"batch{number}.npz", images=images, labels=labels)
        command = [python, str(WORKER), network.model, str(folder), ",".join(arguments.dtypes)]
        try:
            environment = {**os.environ, "PYTHONPATH": str(PEER_MODULES)}
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, env=environment)
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"took more than {arguments.timeout:g} s") from error
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise PeerError(f"ended with status {done.returncode}: {lines[-1][:200] if lines else ''}")
        for number, (reference_loss, reference) in enumerate(references):
            with np.load(folder / f"torch{number}.npz") as arrays:

                def of(dtype: str, arrays: Any = arrays) -> Arrays:
                    return [arrays[f"{index} {dtype}"] for index in range(len(parameters))]

                check_same(float(arrays["loss float64"]), of("float64"), reference_loss, reference)
                for dtype in arguments.dtypes:
                    found[dtype].append(errors(of(dtype), reference))
    return found, json.loads(done.stdout.splitlines()[-1])["versions"]


def compare(network: Network, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each library and dtype."""
    params, given = initial(network), batches(network, arguments.batches, arguments.batch_size)
    compute = gradient(network, params, "float64", "xla")
    references = [compute(*batch) for batch in given]
    rows: list[dict[str, Any]] = []

    def add(library: str, dtype: str, found: list[dict[str, float]], about: str, error: str | None = None) -> None:
        case = {"model": network.model, "image_shape": network.image_shape, "batch_size": arguments.batch_size}
        rows.append({**case, "dtype": dtype, "library": library, "about": about, "batches": found, "error": error})
        print(f"  {network.model} {dtype} {library}: {error or found}", file=sys.stderr, flush=True)

    for dtype in arguments.dtypes:
        for library, choice in KERNELS.items():
            compute = gradient(network, params, dtype, choice)
            found = [errors(compute(*batch)[1], of) for batch, (_, of) in zip(given, references, strict=True)]
            with kernels.use(choice):
                add(library, dtype, found, kernels.describe(dtype))
    try:
        of_torch, about = by_torch(network, to_torch(network, params), given, references, arguments)
        for dtype, found in of_torch.items():
            add("torch", dtype, found, about)
    except (NotInstalledError, PeerError) as error:
        for dtype in arguments.dtypes:
            add("torch", dtype, [], "", str(error))
    return with_verdicts(sorted(rows, key=lambda row: arguments.dtypes.index(row["dtype"])))


def with_verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a network with means over the batches, and with the ratio to torch and the verdict."""
    complete = []
    for row in rows:
        if row["error"] is None:
            row = row | {name: float(np.mean([batch[name] for batch in row["batches"]])) for name in row["batches"][0]}
        complete.append(row)
    of_torch = {row["dtype"]: row for row in complete if row["library"] == "torch" and not row["error"]}
    for row in complete:
        torch = of_torch.get(row["dtype"])
        if torch is not None and row is not torch:
            pairs = zip(row["batches"], torch["batches"], strict=True)
            low, _ = Statistic(tuple(ours["whole"] - theirs["whole"] for ours, theirs in pairs)).interval
            row["ratio"] = row["whole"] / torch["whole"]
            row["verdict"] = "worse" if row["ratio"] > NO_WORSE and not low <= 0 else "no worse"
    return complete


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "Relative errors of gradients. `benchmarks/precision/gradients.py` defines the columns and the verdict.\n",
        "| model | batch | dtype | library | whole (smallest to largest) | median | largest | whole / torch's "
        "| verdict | computed by |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        height, width, _ = row["image_shape"]
        start = f"| {row['model']} | {row['batch_size']} x {height}x{width} | {row['dtype']} | {row['library']} |"
        if row["error"]:
            lines.append(f"{start} | | | | | {row['error']} |")
            continue
        whole = [batch["whole"] for batch in row["batches"]]
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append(
            f"{start} {row['whole']:.2g} ({min(whole):.2g} to {max(whole):.2g}) | {row['median']:.2g} "
            f"| {row['largest']:.2g} | {ratio} | {row.get('verdict', '')} | {row['about']} |"
        )
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision.gradients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=words, default=",".join(NETWORKS), help="default: %(default)s")
    parser.add_argument("--dtypes", type=words, default="bfloat16", help="float32, bfloat16 (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=6, help="number of batches (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for torch (default: %(default)s)")
    parser.add_argument(
        "--environments",
        type=Path,
        default=DEFAULT_ENVIRONMENTS,
        help="folder for the virtual environment of torch (default: %(default)s)",
    )
    parser.add_argument("--here", action="store_true", help="run torch in this Python environment")
    parser.add_argument("--no-install", dest="install", action="store_false", help="skip torch if it is not installed")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision" / "gradients", help="folder for the results")
    arguments = parser.parse_args(args)
    for model in arguments.models:
        if model not in NETWORKS:
            parser.error(str(unknown_name("model", model, NETWORKS)))
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        rows += compare(NETWORKS[model], arguments)
        write(arguments.out, TITLE, rows, to_markdown(rows), machine=machine.describe(arguments.dtypes[0]))
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
