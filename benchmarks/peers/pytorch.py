"""PyTorch with channels-last memory format; eager or, if the task asks, compiled.

In 16-bit dtypes, the forward pass runs under autocast to the dtype, on a CPU as on a GPU. Weights, their gradients and
the optimizer stay in float32, as in PyTorch's guide to mixed precision.
"""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

import contextlib

import task as common
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, features, stride, bottleneck, pad_shortcut):
        super().__init__()
        outputs = 4 * features if bottleneck else features
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        widths = [inputs, *[features] * (len(sizes) - 1), outputs]
        parts = []
        for i, (size, step) in enumerate(sizes):
            parts.append(nn.Conv2d(widths[i], widths[i + 1], size, step, size // 2, bias=False))
            parts.append(nn.BatchNorm2d(widths[i + 1]))
            parts.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*parts[:-1])
        self.stride, self.more = stride, outputs - inputs
        self.shortcut = None
        if not pad_shortcut and (stride > 1 or self.more):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.body(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.more or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(x + y, inplace=True)


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def resnet(model):
    spec = common.RESNETS[model]
    width = spec["width"]
    if spec["small"]:
        parts = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    else:
        parts = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        parts.append(nn.MaxPool2d(3, 2, 1))
    for features, stride in common.blocks(model):
        parts.append(Block(width, features, stride, spec["bottleneck"], spec["pad"]))
        width = 4 * features if spec["bottleneck"] else features
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, spec["classes"]))


def network(name):
    published = common.TORCHVISION_MODELS | common.TORCH_MODELS
    if name in published:
        import torchvision

        options = {"aux_logits": True, "init_weights": False} if name == "googlenet_bn" else {}
        return getattr(torchvision.models, published[name])(**options)
    return lenet5() if name == "lenet5" else resnet(name)


def build(task):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in JAX by default
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    model = network(task["model"])
    params = sum(p.numel() for p in model.parameters())
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), common.LEARNING_RATE, common.MOMENTUM)
    images, labels = (torch.from_numpy(array).to(device) for array in common.batch(task))
    images, labels = images.permute(0, 3, 1, 2), labels.long()  # a permuted NHWC array has the channels-last format
    dtype = getattr(torch, task["dtype"])

    def objective(images, labels):
        x = (images.float() / 255 - 0.5) / 0.25
        lower = dtype != torch.float32
        with torch.autocast(device.type, dtype) if lower else contextlib.nullcontext():
            outputs = model(x)
            # torchvision's GoogLeNet returns the main logits, followed by those of the auxiliary classifiers.
            logits, *aux = outputs if isinstance(outputs, tuple) else (outputs,)
            return F.cross_entropy(logits, labels) + 0.3 * sum(F.cross_entropy(a, labels) for a in aux)

    compiled = torch.compile(objective) if task["compile"] else objective

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = compiled(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    def wait(loss):
        if device.type == "cuda":
            torch.cuda.synchronize()  # waits for the optimizer step too, which the loss does not depend on
        return loss.item()

    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return step, wait, {"params": params, "versions": f"torch {torch.__version__}", "device_kind": kind}
