"""Multiply-adds of the architectures that publish none, counted by hand from the papers' tables.

A convolution of k x k from a to b maps costs `k k a b` at each of its output's positions, a fully connected layer
`a b`. Nothing here knows the models' code.
"""

from table_of_models import TABLE


def conv(size: int, kernel: int, inputs: int, outputs: int) -> int:
    return size**2 * kernel**2 * inputs * outputs


def lenet5() -> int:
    return conv(28, 5, 1, 6) + conv(10, 5, 6, 16) + 400 * 120 + 120 * 84 + 84 * 10


def lenet5_1998() -> int:
    # C5 is a convolution of the same cost; the output measures distances, which are no dot products.
    return lenet5() - 84 * 10


def vgg16_c() -> int:
    cost, inputs, size = 25088 * 4096 + 4096 * 4096 + 4096 * 1000, 3, 224
    for width, kernels in [(64, "33"), (128, "33"), (256, "331"), (512, "331"), (512, "331")]:
        for kernel in map(int, kernels):
            cost += conv(size, kernel, inputs, width)
            inputs = width
        size //= 2
    return cost


def googlenet_naive() -> int:
    cost = conv(112, 7, 3, 64) + conv(56, 1, 64, 64) + conv(56, 3, 64, 192)
    inputs = 192
    rows = [(28, 64, 128, 32), (28, 128, 192, 96)]
    rows += [(14, 192, 208, 48), (14, 160, 224, 64), (14, 128, 256, 64), (14, 112, 288, 64), (14, 256, 320, 128)]
    rows += [(7, 256, 320, 128), (7, 384, 384, 128)]
    for size, ones, threes, fives in rows:
        cost += conv(size, 1, inputs, ones) + conv(size, 3, inputs, threes) + conv(size, 5, inputs, fives)
        inputs += ones + threes + fives  # and all maps of the pooling
    return cost + inputs * 1000


def cifar_resnet(depth: int, projections: bool = False) -> int:
    n = (depth - 2) // 6
    cost = conv(32, 3, 3, 16) + 2 * n * conv(32, 3, 16, 16) + 64 * 10
    for size, width in [(16, 32), (8, 64)]:
        cost += conv(size, 3, width // 2, width) + (2 * n - 1) * conv(size, 3, width, width)
        cost += projections * conv(size, 1, width // 2, width)
    return cost


def cifar_bottlenecks(depth: int) -> int:
    n, cost, inputs = (depth - 2) // 9, conv(32, 3, 3, 16) + 256 * 10, 16
    for size, width in [(32, 16), (16, 32), (8, 64)]:
        for _ in range(n):
            # The stride is on the first 1x1, so that all of a block is at its output's size.
            cost += conv(size, 1, inputs, width) + conv(size, 3, width, width) + conv(size, 1, width, 4 * width)
            cost += conv(size, 1, inputs, 4 * width) if inputs != 4 * width else 0
            inputs = 4 * width
    return cost


def imagenet_basic(*blocks: int) -> int:
    cost, inputs = conv(112, 7, 3, 64) + 512 * 1000, 64
    for size, width, n in zip((56, 28, 14, 7), (64, 128, 256, 512), blocks, strict=True):
        cost += conv(size, 3, inputs, width) + (2 * n - 1) * conv(size, 3, width, width)
        cost += conv(size, 1, inputs, width) if inputs != width else 0
        inputs = width
    return cost


def imagenet_bottlenecks(*blocks: int) -> int:
    cost, inputs, before = conv(112, 7, 3, 64) + 2048 * 1000, 64, 56
    for size, width, n in zip((56, 28, 14, 7), (64, 128, 256, 512), blocks, strict=True):
        for _ in range(n):
            # The first 1x1 of a stage is at the size of the stage before: the stride is on the 3x3.
            cost += conv(before, 1, inputs, width) + conv(size, 3, width, width) + conv(size, 1, width, 4 * width)
            cost += conv(size, 1, inputs, 4 * width) if inputs != 4 * width else 0
            inputs, before = 4 * width, size
    return cost


def wide_resnet28_10() -> int:
    cost, inputs = conv(32, 3, 3, 16) + 640 * 10, 16
    for size, width in [(32, 160), (16, 320), (8, 640)]:
        cost += conv(size, 3, inputs, width) + conv(size, 1, inputs, width) + 7 * conv(size, 3, width, width)
        inputs = width
    return cost


def densenet(depth: int, k: int, bc: bool) -> int:
    layers, inputs = (depth - 4) // (6 if bc else 3), 2 * k if bc else 16
    cost = conv(32, 3, 3, inputs)
    for block, size in enumerate((32, 16, 8)):
        for _ in range(layers):
            cost += conv(size, 1, inputs, 4 * k) + conv(size, 3, 4 * k, k) if bc else conv(size, 3, inputs, k)
            inputs += k
        if block < 2:
            outputs = inputs // 2 if bc else inputs
            cost += conv(size, 1, inputs, outputs)
            inputs = outputs
    return cost + inputs * 10


def speedrun(widths: tuple[int, ...], depth: int) -> int:
    cost, inputs = conv(31, 2, 3, 24) + widths[-1] * 10, 24
    for size, pooled, width in zip((31, 15, 7), (15, 7, 3), widths, strict=True):
        cost += conv(size, 3, inputs, width) + (depth - 1) * conv(pooled, 3, width, width)
        inputs = width
    return cost


BY_HAND = {
    "lenet5": lenet5(),
    "lenet5_1998": lenet5_1998(),
    "vgg16_c": vgg16_c(),
    "googlenet_naive": googlenet_naive(),
    **{f"{kind}{depth}_cifar": cifar_resnet(depth) for kind in ("resnet", "plain") for depth in (20, 32, 44, 56, 110)},
    "resnet1202_cifar": cifar_resnet(1202),
    "preact_resnet110_cifar": cifar_resnet(110, projections=True),
    "preact_resnet164_cifar": cifar_bottlenecks(164),
    "preact_resnet1001_cifar": cifar_bottlenecks(1001),
    "preact_resnet18": imagenet_basic(2, 2, 2, 2),
    "preact_resnet34": imagenet_basic(3, 4, 6, 3),
    "preact_resnet50": imagenet_bottlenecks(3, 4, 6, 3),
    "preact_resnet101": imagenet_bottlenecks(3, 4, 23, 3),
    "preact_resnet152": imagenet_bottlenecks(3, 8, 36, 3),
    "preact_resnet200": imagenet_bottlenecks(3, 24, 36, 3),
    "wide_resnet28_10": wide_resnet28_10(),
    "densenet40_k12": densenet(40, 12, bc=False),
    "densenet100_k12": densenet(100, 12, bc=False),
    "densenet100_k24": densenet(100, 24, bc=False),
    "densenet_bc100_k12": densenet(100, 12, bc=True),
    "densenet_bc250_k24": densenet(250, 24, bc=True),
    "densenet_bc190_k40": densenet(190, 40, bc=True),
    "speedrun": speedrun((64, 256, 256), 2),
    "speedrun96": speedrun((128, 512, 512), 3),
}


def test_the_tables_unpublished_numbers_are_those_counted_by_hand():
    unpublished = {name: row.macs for name, row in TABLE.items() if "." not in row.macs}
    assert unpublished == {name: str(macs) for name, macs in BY_HAND.items()}
