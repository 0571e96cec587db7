"""One training step on this machine's accelerator against the same step on its CPU; the part `correctness`.

The reference is float32 with exact sums (`jax.default_matmul_precision("highest")`) on the CPU. Each form of the step
starts from the same parameters with the same images, on all devices: every way to distribute it, in float32 with exact
sums, in bfloat16, and in float32 as training computes it, which on a GPU is TF32.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.one_step import FORMS
from benchmarks.gpu.run import TIME_LIMIT, Run, WrongError
from benchmarks.results import write

TITLE = "One training step, compared with the CPU"
MODELS = {"lenet5": 256, "resnet20_cifar": 128}
"""Models and their batch sizes, which 1, 2, 4 and 8 devices divide."""

QUANTITIES = ("loss", "gradient", "parameters", "statistics", "largest")

TOLERANCES = {
    ("float32", "highest"): {"gradient": 1e-3, "largest": 1e-2, "other": 1e-4},
    ("float32", "default"): {"gradient": 4e-2, "largest": 1.5e-1, "other": 1e-3},
    ("bfloat16", "default"): {"gradient": 2e-1, "largest": 6e-1, "other": 2e-3},
}
"""Largest relative differences that count as agreement, by dtype and matmul precision.

"gradient" is that of the whole gradient, "largest" that of any array, "other" that of loss, parameters and statistics.
Each is at least twice what rounding makes of these networks. In bfloat16, 8 bits, a step on a CPU with 64 images
differs from float32 by 2e-2 (LeNet-5) and 8e-2 (ResNet-20) in the whole gradient, by 7e-2 and 3e-1 in the worst array,
and by 2e-4 in the rest. TF32 has 11 bits, float32 has 24: TF32 where exact sums were asked for would differ. So would a
gradient that is off by a factor of 2, or by the number of devices.
"""


def verdict(row: dict[str, Any]) -> str:
    """Return "agrees", or "differs: " with the quantities whose differences exceed the tolerances.

    >>> differences = {"loss": 1e-6, "gradient": 0.5, "largest": 0.5}
    >>> verdict({"dtype": "float32", "precision": "highest", **differences})
    'differs: gradient, largest'
    """
    tolerances = TOLERANCES[row["dtype"], row["precision"]]
    # not `>`: a NaN differs
    found = [name for name in QUANTITIES if name in row and not row[name] <= tolerances.get(name, tolerances["other"])]
    return f"differs: {', '.join(found)}" if found else "agrees"


def correctness(run: Run) -> list[dict[str, Any]]:
    """Return the rows of all models and forms.

    Raises:
      WrongError: if a step differs.
    """
    rows: list[dict[str, Any]] = []
    for model, batch_size in MODELS.items():
        # The small version compiles ResNet-20 in one way to distribute it.
        stride = 3 if run.tiny and model != "lenet5" else 1
        rows += _compare(model, 8 if run.tiny else batch_size, stride, run)
        write(run.folder, TITLE, rows, to_markdown(rows))
    wrong = [row for row in rows if row["verdict"].startswith("differs")]
    if wrong:
        first = wrong[0]
        raise WrongError(
            f"{len(wrong)} of {len(rows)} steps differ from the CPU's: {first['model']}, {first['parallel']}, "
            f"{first['dtype']} ({first['verdict'].removeprefix('differs: ')})"
        )
    return rows


def _compare(model: str, batch_size: int, stride: int, run: Run) -> list[dict[str, Any]]:
    """Return a row for each form of the step. Forms that were not reached have an error."""
    with tempfile.TemporaryDirectory() as folder:
        stored, lines = Path(folder) / "reference.npz", Path(folder) / "rows.jsonl"
        # The CPU's own kernels are left out: XLA's are the reference.
        on_cpu = {"JAX_PLATFORMS": "cpu", "JAXCNN_KERNELS": "xla"}
        reason = _process(["reference", model, str(batch_size), str(stored)], on_cpu, Path(os.devnull), run)
        reason = reason or _process(["compare", model, str(stored), str(stride)], {}, lines, run)
        text = lines.read_text() if lines.exists() else ""
    rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    for row in rows:
        row["verdict"] = f"error: {row['error']}" if row["error"] else verdict(row)
        print(f"  {model} {row['parallel']} {row['dtype']} {row['precision']}: {row['verdict']}", flush=True)
    for parallel, dtype, precision in FORMS[::stride][len(rows) :]:
        form = {"model": model, "parallel": parallel, "dtype": dtype, "precision": precision or "default"}
        rows.append({**form, "error": reason, "verdict": f"error: {reason}"})
    return rows


def _process(arguments: list[str], environment: dict[str, str], output: Path, run: Run) -> str | None:
    """Run `benchmarks.gpu.one_step` with its standard output to a file; return why it failed, or None."""
    if not run.has_time:
        return TIME_LIMIT
    command = [sys.executable, "-m", "benchmarks.gpu.one_step", *arguments]
    with output.open("w") as file:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.PIPE,
                text=True,
                timeout=run.seconds_left,
            )
        except subprocess.TimeoutExpired:
            return TIME_LIMIT
    if not done.returncode:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"process ended with status {done.returncode}: {lines[-1][:200] if lines else 'no error output'}"


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, with the tolerances."""
    measured = [row for row in rows if not row["error"]]
    about = ""
    if measured:
        first = measured[0]
        about = f"{first['devices']} x {first['device_kind']}, against this machine's CPU\n\n"
    lines = [
        "Relative differences of a step to the step on the CPU in float32 with exact sums. The largest one is that of "
        "any array.\n",
        "| model | parallel | dtype | precision | loss | gradient | parameters | statistics | largest | of | verdict |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        numbers = [f"{row[name]:.1e}" if math.isfinite(row.get(name, math.nan)) else "" for name in QUANTITIES]
        cells = (row["model"], row["parallel"], row["dtype"], row["precision"], *numbers, row.get("largest_of", ""))
        lines.append(f"| {' | '.join(cells)} | {row['verdict']} |")
    lines.append("\nTolerances:\n")
    for (dtype, precision), limits in TOLERANCES.items():
        values = ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
        lines.append(f"- {dtype}, {precision}: {values}")
    return about + "\n".join(lines) + "\n"
