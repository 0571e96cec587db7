"""Scaling: the same work on each of 1, 2, 4, 8 devices, and the bytes that travel between them in a step.

    python -m benchmarks.devices [--models lenet5] [--devices 1,2,4,8] [--batch-per-device 32]

On a machine with fewer devices than asked for, CPUs are faked: they share the machine's cores, so that the
efficiency tells what spreading itself costs, and not how fast more devices would be.
"""

import sys

from benchmarks.suite import measure, numbers, parser, words
from jaxcnn.measure import Case, Row


def main(args: list[str] | None = None) -> int:
    flags = parser("devices", __doc__)
    flags.add_argument("--models", type=words, default=["lenet5", "resnet20_cifar"])
    flags.add_argument("--devices", type=numbers, default=[1, 2, 4, 8])
    flags.add_argument("--batch-per-device", type=int, default=32)
    flags.add_argument("--parallel", type=words, default=["pmap", "shard_map", "jit"])
    flags.add_argument("--image-size", type=int)
    arguments = flags.parse_args(args)
    cases = [
        Case(
            model,
            arguments.batch_per_device * count,
            parallel=way,
            devices=count,
            image_size=arguments.image_size,
            steps=arguments.steps,
        )
        for model in arguments.models
        for way in arguments.parallel
        for count in arguments.devices
    ]
    for case in cases:
        case.validate()
    rows = measure(cases, "Scaling over devices", arguments)
    print(table(rows))
    return 0


def table(rows: list[Row]) -> str:
    """Efficiency and bytes that travel, a line each row."""
    lines = ["model            spread     devices  images/s  efficiency  sent in a step  parameters"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['model']:<16} {row['parallel']:<9}  {row['devices']:>7}  {row['error']}")
            continue
        share = row.get("scaling_efficiency")
        lines.append(
            f"{row['model']:<16} {row['parallel']:<9}  {row['devices']:>7}  {row['images_per_second']:>8,.0f}  "
            f"{'-' if share is None else format(share, '.1%'):>10}  {row['collective_bytes']:>12,} B  "
            f"{4 * row['params']:>8,} B"
        )
    if any(row.get("fake_devices") for row in rows):
        lines.append("Devices are fake and share the cores: an efficiency of 100 % is the speed of one of them.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
