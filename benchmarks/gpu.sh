#!/usr/bin/env bash
# Run all measurements for one machine with a GPU, without a network, in 8 minutes:
#
#     bash benchmarks/gpu.sh [OUT]                  write results to OUT (default: benchmarks/results/gpu)
#     TINY=1 bash benchmarks/gpu.sh OUT             run small versions of all parts, to test this script on a CPU
#     PARTS=resnet50,sweep bash benchmarks/gpu.sh   run only these parts, in this order
#     SECONDS_IN_ALL=520 bash benchmarks/gpu.sh     set the time limit in seconds (default: 480)
#     PYTHON=python3.12 bash benchmarks/gpu.sh      choose the Python interpreter (default: python3)
#
# Required packages: jax, flax, optax, orbax-checkpoint, rich and numpy. Optional: torch and torchvision as baselines,
# matplotlib for plots. The script installs nothing and changes no settings of the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

{
    date -u +%FT%TZ
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null ||
        echo "no NVIDIA GPU found"
    "$python" - <<'PY'
import importlib.metadata as metadata

for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rich", "matplotlib", "torch", "torchvision"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
PY
} | tee "$out/machine.txt"

"$python" -c 'import jaxcnn.measure' || { echo "jaxcnn cannot be imported: $python. Install the packages that the error above names." >&2; exit 1; }

flags=(--seconds "${SECONDS_IN_ALL:-480}" --out "$out")
[ -z "${TINY:-}" ] || flags+=(--tiny)
[ -z "${PARTS:-}" ] || flags+=(--parts "$PARTS")
"$python" -m benchmarks.gpu "${flags[@]}" 2>&1 | tee "$out/log.txt"
