"""The table of all models: published counts, and fields that make each model small. Imported by the tests beside it."""

import functools
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from jaxcnn.models import create_model
from jaxcnn.models.mobile._inverted_residual import Row as Blocks
from jaxcnn.models.mobile.mobilenet_v3 import Bneck


@dataclass(frozen=True)
class Row:
    """The expected numbers of a model.

    Fields:
      params: trainable parameters.
      macs: multiply-adds for one image: all digits, or the published digits in units of 10^9.
      modes: why training differs from evaluation: N for batch normalization, D for dropout.
      small: fields that make the model small enough to run.
      size: image size on which the small model runs.
      least: sides of the smallest image in evaluation and in training.
    """

    params: int
    macs: str
    modes: str
    small: dict[str, Any]
    size: int
    least: tuple[int, int]


LENET = ({}, 28)
ALEXNET = ({"features": (8, 16, 8, 8, 8), "hidden": 32}, 67)
VGG = ({"column": ((3,), (3, 1)), "widths": (8, 8), "hidden": 16}, 8)
MODULES = FrozenDict(dict.fromkeys(("4a", "4d", "5a"), (8, (8, 8), (8, 8), 8)))
GOOGLENET = ({"modules": MODULES}, 79)
RESNET = ({"stage_sizes": (1, 1), "width": 16}, 16)
DENSENET = ({"block_sizes": (1, 1), "growth_rate": 4, "stem_width": 8}, 16)
CONVNEXT = ({"stage_sizes": (1, 1), "widths": (8, 16), "layer_scale": 1.0, "drop_path_rate": 0.5}, 16)
BRANCHES = {"branch1x1": ((8, 1),), "branch3x3": ((8, 1), ((8, (1, 3)), (8, (3, 1)))), "branch_pool": ((8, 1),)}
REDUCED = {"branch3x3": ((8, 1), (8, 3))}
INCEPTION_V3 = ({"modules": {"5b": BRANCHES, "6a": REDUCED, "6b": BRANCHES, "7a": REDUCED}}, 75)
REGNET = ({"stage_sizes": (1, 1), "widths": (16, 32), "group_width": 8}, 16)
SHUFFLENET = ({"stage_sizes": (2, 1), "widths": (16, 32, 32)}, 16)
SQUEEZENET = ({"stages": (((4, 8),), ((4, 8),)), "stem_width": 8}, 32)
MOBILE = ({"table": (Blocks(1, 8, 1, 1), Blocks(3, 8, 2, 2, kernel_size=5))}, 16)
MOBILE_V3 = ({"table": ((Bneck(3, 16, 8, True, "RE", 1),), (Bneck(5, 24, 8, True, "HS", 2),)), "hidden": 16}, 16)
SPEEDRUN = ({"widths": (8, 8)}, 12)
MNASNET = ({**MOBILE[0], "width": 1.0}, 16)
AT_224 = {"image_size": 224, "dropout_rate": 0.2}
EFFICIENTNET = ({**MNASNET[0], "depth": 1.0, **AT_224}, 16)
FUSED = (Blocks(1, 8, 1, 1, fused=True), Blocks(4, 8, 2, 2, fused=True), Blocks(4, 16, 1, 2))
EFFICIENTNET_V2 = ({"table": FUSED, **AT_224}, 16)
ANY, POOLED = (1, 1), (4, 4)

# Multiply-adds without a dot are not published; `test_operations.py` counts them by hand.
TABLE = {
    "lenet5": Row(61_706, "416520", "", *LENET, (12, 12)),
    "lenet5_1998": Row(60_000, "415680", "", *LENET, (28, 28)),
    "alexnet": Row(61_100_840, "0.714", "D", *ALEXNET, (63, 63)),
    "alexnet_two_tower": Row(60_965_224, "0.724", "D", *ALEXNET, (67, 67)),
    "vgg11": Row(132_863_336, "7.609", "D", *VGG, (32, 32)),
    "vgg13": Row(133_047_848, "11.308", "D", *VGG, (32, 32)),
    "vgg16": Row(138_357_544, "15.470", "D", *VGG, (32, 32)),
    "vgg16_c": Row(133_638_952, "11770888192", "D", *VGG, (32, 32)),
    "vgg19": Row(143_667_240, "19.632", "D", *VGG, (32, 32)),
    "vgg11_bn": Row(132_868_840, "7.609", "ND", *VGG, (32, 32)),
    "vgg13_bn": Row(133_053_736, "11.308", "ND", *VGG, (32, 32)),
    "vgg16_bn": Row(138_365_992, "15.470", "ND", *VGG, (32, 32)),
    "vgg19_bn": Row(143_678_248, "19.632", "ND", *VGG, (32, 32)),
    "googlenet": Row(6_998_552, "1.583", "D", *GOOGLENET, (31, 79)),
    "googlenet_naive": Row(97_526_008, "12568061056", "D", *GOOGLENET, (31, 79)),
    "googlenet_bn": Row(6_624_904, "1.498", "ND", *GOOGLENET, (15, 15)),
    "resnet18": Row(11_689_512, "1.814", "N", *RESNET, ANY),
    "resnet34": Row(21_797_672, "3.664", "N", *RESNET, ANY),
    "resnet50": Row(25_557_032, "4.089", "N", *RESNET, ANY),
    "resnet101": Row(44_549_160, "7.801", "N", *RESNET, ANY),
    "resnet152": Row(60_192_808, "11.514", "N", *RESNET, ANY),
    "resnet50_v1": Row(25_557_032, "3.858", "N", *RESNET, ANY),
    "resnet101_v1": Row(44_549_160, "7.570", "N", *RESNET, ANY),
    "resnet152_v1": Row(60_192_808, "11.282", "N", *RESNET, ANY),
    "resnext50_32x4d": Row(25_028_904, "4.230", "N", *RESNET, ANY),
    "wide_resnet50_2": Row(68_883_240, "11.398", "N", *RESNET, ANY),
    "resnext101_32x8d": Row(88_791_336, "16.414", "N", *RESNET, ANY),
    "resnext101_64x4d": Row(83_455_272, "15.460", "N", *RESNET, ANY),
    "wide_resnet101_2": Row(126_886_696, "22.753", "N", *RESNET, ANY),
    "convnext_tiny": Row(28_589_128, "4.456", "D", *CONVNEXT, (32, 32)),
    "convnext_small": Row(50_223_688, "8.684", "D", *CONVNEXT, (32, 32)),
    "convnext_base": Row(88_591_464, "15.355", "D", *CONVNEXT, (32, 32)),
    "convnext_large": Row(197_767_336, "34.361", "D", *CONVNEXT, (32, 32)),
    "inception_v3": Row(23_834_568, "5.713", "ND", *INCEPTION_V3, (75, 75)),
    "regnet_x_400mf": Row(5_495_976, "0.414", "N", *REGNET, ANY),
    "regnet_x_800mf": Row(7_259_656, "0.800", "N", *REGNET, ANY),
    "regnet_x_1_6gf": Row(9_190_136, "1.603", "N", *REGNET, ANY),
    "regnet_x_3_2gf": Row(15_296_552, "3.177", "N", *REGNET, ANY),
    "regnet_x_8gf": Row(39_572_648, "7.995", "N", *REGNET, ANY),
    "regnet_x_16gf": Row(54_278_536, "15.941", "N", *REGNET, ANY),
    "regnet_x_32gf": Row(107_811_560, "31.736", "N", *REGNET, ANY),
    "regnet_y_400mf": Row(4_344_144, "0.402", "N", *REGNET, ANY),
    "regnet_y_800mf": Row(6_432_512, "0.834", "N", *REGNET, ANY),
    "regnet_y_1_6gf": Row(11_202_430, "1.612", "N", *REGNET, ANY),
    "regnet_y_3_2gf": Row(19_436_338, "3.176", "N", *REGNET, ANY),
    "regnet_y_8gf": Row(39_381_472, "8.473", "N", *REGNET, ANY),
    "regnet_y_16gf": Row(83_590_140, "15.912", "N", *REGNET, ANY),
    "regnet_y_32gf": Row(145_046_770, "32.280", "N", *REGNET, ANY),
    "regnet_y_128gf": Row(644_812_894, "127.518", "N", *REGNET, ANY),
    "shufflenet_v2_x0_5": Row(1_366_792, "0.040", "N", *SHUFFLENET, ANY),
    "shufflenet_v2_x1_0": Row(2_278_604, "0.145", "N", *SHUFFLENET, ANY),
    "shufflenet_v2_x1_5": Row(3_503_624, "0.296", "N", *SHUFFLENET, ANY),
    "shufflenet_v2_x2_0": Row(7_393_996, "0.583", "N", *SHUFFLENET, ANY),
    "squeezenet1_0": Row(1_248_424, "0.819", "D", *SQUEEZENET, (21, 21)),
    "squeezenet1_1": Row(1_235_496, "0.349", "D", *SQUEEZENET, (17, 17)),
    "preact_resnet18": Row(11_687_848, "1814073344", "N", *RESNET, ANY),
    "preact_resnet34": Row(21_796_008, "3663761408", "N", *RESNET, ANY),
    "preact_resnet50": Row(25_549_480, "4089184256", "N", *RESNET, ANY),
    "preact_resnet101": Row(44_541_608, "7801405440", "N", *RESNET, ANY),
    "preact_resnet152": Row(60_185_256, "11513626624", "N", *RESNET, ANY),
    "preact_resnet200": Row(64_666_280, "15007481856", "N", *RESNET, ANY),
    "resnet20_cifar": Row(269_722, "40551040", "N", *RESNET, ANY),
    "resnet32_cifar": Row(464_154, "68862592", "N", *RESNET, ANY),
    "resnet44_cifar": Row(658_586, "97174144", "N", *RESNET, ANY),
    "resnet56_cifar": Row(853_018, "125485696", "N", *RESNET, ANY),
    "resnet110_cifar": Row(1_727_962, "252887680", "N", *RESNET, ANY),
    "resnet1202_cifar": Row(19_421_274, "2829238912", "N", *RESNET, ANY),
    "plain20_cifar": Row(269_722, "40551040", "N", *RESNET, ANY),
    "plain32_cifar": Row(464_154, "68862592", "N", *RESNET, ANY),
    "plain44_cifar": Row(658_586, "97174144", "N", *RESNET, ANY),
    "plain56_cifar": Row(853_018, "125485696", "N", *RESNET, ANY),
    "plain110_cifar": Row(1_727_962, "252887680", "N", *RESNET, ANY),
    "preact_resnet110_cifar": Row(1_730_522, "253149824", "N", *RESNET, ANY),
    "preact_resnet164_cifar": Row(1_703_258, "244500992", "N", *RESNET, ANY),
    "preact_resnet1001_cifar": Row(10_327_706, "1487849984", "N", *RESNET, ANY),
    "wide_resnet28_10": Row(36_479_194, "5243328768", "N", *RESNET, ANY),
    "mobilenet_v2": Row(3_504_872, "0.301", "ND", *MOBILE, ANY),
    "mobilenet_v3_large": Row(5_483_032, "0.217", "ND", *MOBILE_V3, ANY),
    "mobilenet_v3_small": Row(2_542_856, "0.057", "ND", *MOBILE_V3, ANY),
    "mnasnet0_5": Row(2_218_512, "0.104", "ND", *MNASNET, ANY),
    "mnasnet0_75": Row(3_170_208, "0.215", "ND", *MNASNET, ANY),
    "mnasnet1_0": Row(4_383_312, "0.314", "ND", *MNASNET, ANY),
    "mnasnet1_3": Row(6_282_256, "0.526", "ND", *MNASNET, ANY),
    "efficientnet_b0": Row(5_288_548, "0.386", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b1": Row(7_794_184, "0.687", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b2": Row(9_109_994, "1.088", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b3": Row(12_233_232, "1.827", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b4": Row(19_341_616, "4.394", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b5": Row(30_389_784, "10.266", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b6": Row(43_040_704, "19.068", "ND", *EFFICIENTNET, ANY),
    "efficientnet_b7": Row(66_347_960, "37.746", "ND", *EFFICIENTNET, ANY),
    "efficientnet_v2_s": Row(21_458_488, "8.366", "ND", *EFFICIENTNET_V2, ANY),
    "efficientnet_v2_m": Row(54_139_356, "24.582", "ND", *EFFICIENTNET_V2, ANY),
    "efficientnet_v2_l": Row(118_515_272, "56.080", "ND", *EFFICIENTNET_V2, ANY),
    "densenet121": Row(7_978_856, "2.834", "N", *DENSENET, (29, 29)),
    "densenet161": Row(28_681_000, "7.728", "N", *DENSENET, (29, 29)),
    "densenet169": Row(14_149_480, "3.360", "N", *DENSENET, (29, 29)),
    "densenet201": Row(20_013_928, "4.291", "N", *DENSENET, (29, 29)),
    "densenet40_k12": Row(1_019_722, "264812928", "N", *DENSENET, POOLED),
    "densenet100_k12": Row(6_979_642, "1769516448", "N", *DENSENET, POOLED),
    "densenet100_k24": Row(27_249_082, "6889347744", "N", *DENSENET, POOLED),
    "densenet_bc100_k12": Row(769_162, "287929692", "N", *DENSENET, POOLED),
    "densenet_bc250_k24": Row(15_324_406, "5418785724", "N", *DENSENET, POOLED),
    "densenet_bc190_k40": Row(25_624_430, "9301945740", "N", *DENSENET, POOLED),
    "speedrun": Row(1_971_640, "118147360", "N", *SPEEDRUN, (9, 9)),
    "speedrun96": Row(12_717_752, "615201056", "N", *SPEEDRUN, (9, 9)),
}
every_model = pytest.mark.parametrize("name", TABLE)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
STATE = ["batch_stats", "aux_logits"]


def small(name: str, **fields: Any) -> nn.Module:
    return create_model(name, 10, **{**TABLE[name].small, **fields})


def image_batch(model: nn.Module, size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, size, size, model.image_shape[2])).astype(np.float32)


@functools.cache
def variables_of(model: nn.Module, shape: tuple[int, ...], train: bool = False) -> Any:
    """Return the shapes of a model's variables."""
    return jax.eval_shape(partial(model.init, train=train), KEYS, jax.ShapeDtypeStruct((2, *shape), jnp.float32))


def count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
