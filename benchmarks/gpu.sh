#!/usr/bin/env bash
# Everything worth knowing on one machine with a GPU and without a network, in under 9 minutes:
#
#     bash benchmarks/gpu.sh [OUT]            results into OUT (default: benchmarks/results/gpu)
#     TINY=1 bash benchmarks/gpu.sh OUT       every part with small settings, to see on a CPU that it works
#     PARTS=headline,sweep bash benchmarks/gpu.sh      some parts only, in this order
#     SECONDS_IN_ALL=520 PYTHON=python3 bash benchmarks/gpu.sh
#
# Uses the packages that it finds: jax, flax, optax, orbax-checkpoint, rich and numpy are needed; torch and torchvision
# are measured beside us, matplotlib draws, if they are there. Nothing is installed and no setting of the GPU changed.
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

for name in ("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "matplotlib", "rich", "orbax-checkpoint"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
PY
} | tee "$out/machine.txt"

"$python" -c 'import jaxcnn.measure' || { echo "jaxcnn cannot be imported with $python; see above" >&2; exit 1; }

flags=(--seconds "${SECONDS_IN_ALL:-500}" --out "$out")
[ -z "${TINY:-}" ] || flags+=(--tiny)
[ -z "${PARTS:-}" ] || flags+=(--parts "$PARTS")
"$python" -m benchmarks.gpu "${flags[@]}" 2>&1 | tee "$out/log.txt"
