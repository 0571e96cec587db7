"""Small files that PyTorch wrote, and what torchvision's and timm's state dicts look like, for tests without them.

    python tests/weights/golden/make.py

Needs torch, torchvision and timm. Last run with torch 2.13.0+cpu, torchvision 0.29.1 and timm 1.0.31.

`*.pth` hold the state dict of `network`, whose numbers count up from 0 through all tensors, as different versions
and habits save it. `state_dicts.json` has, for each model, how many tensors its state dict has and a hash of their
names, types and shapes, as `signature` makes it.
"""

import hashlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
TORCHVISION = """
alexnet vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn googlenet resnet18 resnet34 resnet50 resnet101
resnet152 resnext50_32x4d wide_resnet50_2 densenet121 densenet161 densenet169 densenet201 resnext101_32x8d
resnext101_64x4d wide_resnet101_2 convnext_tiny convnext_small convnext_base convnext_large inception_v3
regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf
regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf regnet_y_128gf
shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
"""
TIMM = """
vgg11 vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121
convnext_tiny convnext_small convnext_base convnext_large
regnetx_004_tv regnetx_008 regnetx_016 regnetx_032 regnetx_080 regnetx_160 regnetx_320
regnety_004 regnety_008_tv regnety_016 regnety_032 regnety_080_tv regnety_160 regnety_320 regnety_1280
mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_100 mnasnet_050 mnasnet_075 mnasnet_100
efficientnet_b0 efficientnet_b5 efficientnetv2_s efficientnetv2_m efficientnetv2_l
"""


def signature(state) -> dict:
    """Number of tensors, and SHA-256 of a line for each in the order of names: `name dtype [shape]`."""
    lines = sorted(f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in state.items())
    return {"tensors": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def network(torch):
    """A convolution, a normalisation and a classifier, with numbers that count up from 0."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    start = 0
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.arange(start, start + tensor.numel()).reshape(tensor.shape))
            start += tensor.numel()
    return model


def main() -> None:
    sys.path.insert(0, str(FOLDER.parents[1] / "models" / "golden"))
    from make import import_torchvision

    torch, torchvision = import_torchvision()
    import timm

    model = network(torch)
    state = model.state_dict()
    flat = torch.cat([tensor.double().flatten() for tensor in state.values()])
    views, start = {}, 0
    for name, tensor in state.items():  # all tensors in one storage, and each of them transposed
        part = flat[start : start + tensor.numel()]
        start += tensor.numel()
        views[name] = part.reshape(tensor.shape[::-1]).permute(tuple(range(tensor.ndim))[::-1])
    files = {
        "archive": state,
        "stream": state,
        "checkpoint": {
            "epoch": 3,
            "model": {f"module.{name}": tensor for name, tensor in state.items()},
            "optimizer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict(),
        },
        "parameters": dict(model.named_parameters()),
        "half": {name: tensor.half() for name, tensor in state.items()},
        "bfloat16": {name: tensor.bfloat16() for name, tensor in state.items()},
        "views": views,
        "module": model,
    }
    for name, content in files.items():
        torch.save(content, FOLDER / f"{name}.pth", _use_new_zipfile_serialization=name != "stream")

    signatures = {"torchvision": {}, "timm": {}}
    with torch.device("meta"):
        for name in TORCHVISION.split():
            has_auxiliary_heads = name in ("googlenet", "inception_v3")
            options = {"aux_logits": True, "init_weights": False} if has_auxiliary_heads else {}
            signatures["torchvision"][name] = signature(getattr(torchvision.models, name)(**options).state_dict())
        for name in TIMM.split():
            signatures["timm"][name] = signature(timm.create_model(name).state_dict())
    (FOLDER / "state_dicts.json").write_text(json.dumps(signatures, indent=1) + "\n")
    print(torch.__version__, torchvision.__version__, timm.__version__)


if __name__ == "__main__":
    main()
