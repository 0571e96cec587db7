"""Measure how long a training step takes to trace and to compile, without a cache and with one.

python -m benchmarks.compile [--models resnet18,resnet50,...] [--image-size 64]
"""

import sys

from benchmarks.suite import measure, parser, words
from jaxcnn.measure import Row, grid


def main(args: list[str] | None = None) -> int:
    flags = parser("compile", __doc__)
    models = "lenet5,resnet20_cifar,vgg16,resnet50,googlenet,densenet121"
    flags.add_argument("--models", type=words, default=models, help="model names (default: %(default)s)")
    flags.add_argument("--batch-size", type=int, default=2, help="images per step (default: %(default)s)")
    flags.add_argument("--parallel", type=words, default="pmap", help="pmap, shard_map, jit (default: %(default)s)")
    flags.add_argument("--image-size", type=int, help="image height and width (default: those of the model's dataset)")
    arguments = flags.parse_args(args)
    cases = grid(
        arguments.models,
        (arguments.batch_size,),
        parallel=arguments.parallel,
        devices=(1,),
        image_size=arguments.image_size,
        steps=1,  # only compilation is of interest
    )
    print(table(measure(cases, "Compile time of a training step", arguments)))
    return 0


def table(rows: list[Row]) -> str:
    """Return the seconds to trace, to compile with XLA, and to trace and load from the cache, one line per row."""
    lines = ["model             trace s    XLA s  cached s"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['model']:<16}  {row['error']}")
        else:
            xla = row["compile_seconds"] - row["trace_seconds"]
            lines.append(
                f"{row['model']:<16}  {row['trace_seconds']:>7.2f}  {xla:>7.2f}  {row['compile_seconds_cached']:>8.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
