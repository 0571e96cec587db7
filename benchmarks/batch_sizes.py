"""Measure throughput, memory and latency by batch size.

python -m benchmarks.batch_sizes [--models lenet5,resnet50] [--batch-sizes 8,16,32] [--modes train,infer]
"""

import sys

from benchmarks.suite import measure, numbers, parser, words
from jaxcnn.measure import grid


def main(args: list[str] | None = None) -> int:
    flags = parser("batch_sizes", __doc__)
    models = "lenet5,resnet20_cifar,resnet50"
    flags.add_argument("--models", type=words, default=models, help="model names (default: %(default)s)")
    flags.add_argument("--batch-sizes", type=numbers, default="4,16,64", help="images per step (default: %(default)s)")
    flags.add_argument("--modes", type=words, default="train,infer", help="train, infer or both (default: %(default)s)")
    flags.add_argument(
        "--dtypes", type=words, default="float32", help="float32, bfloat16, float16 (default: %(default)s)"
    )
    flags.add_argument("--image-size", type=int, help="image height and width (default: those of the model's dataset)")
    arguments = flags.parse_args(args)
    cases = grid(
        arguments.models,
        arguments.batch_sizes,
        arguments.modes,
        arguments.dtypes,
        devices=(1,),
        image_size=arguments.image_size,
        steps=arguments.steps,
    )
    measure(cases, "Throughput and memory by batch size", arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
