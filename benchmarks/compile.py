"""How long a training step takes to trace and to compile, from nothing and from the cache.

python -m benchmarks.compile [--models resnet18,resnet50,...] [--image-size 64]
"""

import sys

from benchmarks.suite import measure, parser, words
from jaxcnn.measure import Row, grid


def main(args: list[str] | None = None) -> int:
    flags = parser("compile", __doc__)
    flags.add_argument(
        "--models", type=words, default=["lenet5", "resnet20_cifar", "vgg16", "resnet50", "googlenet", "densenet121"]
    )
    flags.add_argument("--batch-size", type=int, default=2)
    flags.add_argument("--parallel", type=words, default=["pmap"])
    flags.add_argument("--image-size", type=int)
    arguments = flags.parse_args(args)
    cases = grid(
        arguments.models,
        (arguments.batch_size,),
        parallel=arguments.parallel,
        devices=(1,),
        image_size=arguments.image_size,
        steps=1,  # compiling is what is measured; the batch is small
    )
    print(table(measure(cases, "Seconds to compile a training step", arguments)))
    return 0


def table(rows: list[Row]) -> str:
    lines = ["model             trace s  compile s  cached s"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['model']:<16}  {row['error']}")
        else:
            xla = row["compile_seconds"] - row["trace_seconds"]
            lines.append(
                f"{row['model']:<16}  {row['trace_seconds']:>7.2f}  {xla:>9.2f}  {row['compile_seconds_cached']:>8.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
