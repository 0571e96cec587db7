"""Measure weak scaling: the same batch per device on 1, 2, 4 and 8 devices, and the bytes in collective operations.

    python -m benchmarks.devices [--models lenet5] [--devices 1,2,4,8] [--batch-per-device 32]

If a CPU has fewer devices than requested, it gets simulated devices, which share its cores. Their scaling efficiency
shows the overhead of distribution, not the speedup of real devices.
"""

import sys

from benchmarks.suite import measure, numbers, parser, words
from jaxcnn.measure import Case, Row


def main(args: list[str] | None = None) -> int:
    flags = parser("devices", __doc__)
    models = "lenet5,resnet20_cifar"
    flags.add_argument("--models", type=words, default=models, help="model names (default: %(default)s)")
    flags.add_argument("--devices", type=numbers, default="1,2,4,8", help="numbers of devices (default: %(default)s)")
    flags.add_argument("--batch-per-device", type=int, default=32, help="images per device (default: %(default)s)")
    flags.add_argument(
        "--parallel",
        type=words,
        default="pmap,shard_map,jit",
        help="ways to distribute the step (default: %(default)s)",
    )
    flags.add_argument("--image-size", type=int, help="image height and width (default: those of the model's dataset)")
    arguments = flags.parse_args(args)
    cases = [
        Case(
            model,
            arguments.batch_per_device * count,
            parallel=strategy,
            devices=count,
            image_size=arguments.image_size,
            steps=arguments.steps,
        )
        for model in arguments.models
        for strategy in arguments.parallel
        for count in arguments.devices
    ]
    for case in cases:
        case.validate()
    rows = measure(cases, "Scaling over devices", arguments)
    print(table(rows))
    return 0


def table(rows: list[Row]) -> str:
    """Return throughput, scaling efficiency, bytes in collective operations and bytes of parameters, a line per row."""
    lines = ["model            parallel   devices  images/s  efficiency  collectives/step  parameters"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['model']:<16} {row['parallel']:<9}  {row['devices']:>7}  {row['error']}")
            continue
        efficiency = row.get("scaling_efficiency")
        lines.append(
            f"{row['model']:<16} {row['parallel']:<9}  {row['devices']:>7}  {row['images_per_second']:>8,.0f}  "
            f"{'-' if efficiency is None else format(efficiency, '.1%'):>10}  {row['collective_bytes']:>14,} B  "
            f"{4 * row['params']:>8,} B"
        )
    if any(row.get("fake_devices") for row in rows):
        lines.append("Fake devices share the CPU cores: an efficiency of 100 % is the throughput of one device.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
