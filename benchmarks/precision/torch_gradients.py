"""Compute gradients by torch for `benchmarks.precision.gradients`: `python torch_gradients.py MODEL FOLDER DTYPES`.

FOLDER has `parameters.npz`, the parameters in torch's layout by their number in the order of the layers, and
`batch0.npz`, `batch1.npz`, ... with `images` `[N, H, W, C]` and `labels` `[N]`. For each batch, `torch0.npz`, ... is
written, with the loss and the gradient of each parameter in float64 and in each of the comma-separated DTYPES: "loss
float64", "0 float64", "1 float64", ... Dtypes of 16 bits are computed by autocast, in the channels-last memory format.
Prints one line of JSON with the version of torch.
"""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytorch
import torch
import torch.nn.functional as F
from torch import nn

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512)


def vgg11_bn_small(classes=10):
    """Return VGG-11 with batch normalization for small images: global average pooling and one dense layer."""
    parts, width = [], 3
    for entry in VGG11:
        if entry == "pool":
            parts.append(nn.MaxPool2d(2))
        else:
            parts += [nn.Conv2d(width, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU(inplace=True)]
            width = entry
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def load(network, folder):
    """Set the parameters of the network.

    Raises:
      ValueError: if the network has other parameters.
    """
    stored = np.load(folder / "parameters.npz")
    parameters = list(network.parameters())
    shapes = [tuple(p.shape) for p in parameters]
    given = [stored[str(number)].shape for number in range(len(stored.files))]
    if shapes != given:
        raise ValueError(f"network of other parameters: {shapes} in torch, {given} in the file")
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(torch.from_numpy(stored[str(number)]))


def gradients(network, images, labels, dtype):
    """Return the loss and the gradients of all parameters, computed in a dtype."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    network = network.to(wide, memory_format=torch.channels_last).train()
    x = torch.from_numpy(images).to(wide).permute(0, 3, 1, 2)  # a permuted NHWC array has the channels-last format
    with torch.autocast("cpu", dtype) if dtype.itemsize == 2 else contextlib.nullcontext():
        loss = F.cross_entropy(network(x), torch.from_numpy(labels).long())
    found = torch.autograd.grad(loss, list(network.parameters()))
    return loss.item(), [gradient.contiguous().numpy() for gradient in found]


def main(model, folder, dtypes):
    torch.manual_seed(0)
    network = vgg11_bn_small() if model == "vgg11_bn" else pytorch.network(model)
    load(network, folder)
    for number in range(len(list(folder.glob("batch*.npz")))):
        batch, arrays = np.load(folder / f"batch{number}.npz"), {}
        for dtype in ("float64", *dtypes):
            loss, found = gradients(network, batch["images"], batch["labels"], getattr(torch, dtype))
            arrays[f"loss {dtype}"] = np.float64(loss)
            arrays |= {f"{index} {dtype}": gradient for index, gradient in enumerate(found)}
        np.savez(folder / f"torch{number}.npz", **arrays)
    print(json.dumps({"versions": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","))
